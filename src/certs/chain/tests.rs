//! Chains among certificates of one name: each case is a file that an operator has had.

use rustls_pki_types::CertificateDer;

use super::*;
use crate::lab::made::{Party, end, party, past};

struct Pki {
    root: Party,
    older: Party,
    issuing: Party,
    before: Party,
    server: Party,
}

fn pki() -> Pki {
    Pki {
        root: party("root"),
        older: party("older root"),
        issuing: party("issuing"),
        // The authority before it changed its key.
        before: party("issuing"),
        server: party("gw.test"),
    }
}

type File = [CertificateDer<'static>];

fn chain(file: &File) -> Vec<usize> {
    linked(&parsed(file), 0)
}

/// Returns what is sent, as places in the file.
fn sent_of(file: &File) -> Vec<usize> {
    let place = |der: &CertificateDer<'_>| file.iter().position(|one| one == der).unwrap();
    sent(file).iter().map(place).collect()
}

#[test]
fn the_one_that_signed_is_taken_wherever_it_stands() {
    let pki = pki();
    let leaf = pki.server.by(&pki.issuing, end);
    let good = pki.issuing.by(&pki.root, |_| ());
    let root = pki.root.root();
    let others = [
        ("another key", pki.before.by(&pki.root, |_| ())),
        ("expired, same key", pki.issuing.by(&pki.root, past)),
        (
            "not valid yet",
            pki.issuing.by(&pki.root, |params| {
                params.not_before = params.not_after - time::Duration::days(1);
            }),
        ),
        (
            "no authority",
            pki.issuing.by(&pki.root, |params| {
                params.is_ca = rcgen::IsCa::NoCa;
            }),
        ),
        (
            "no keyCertSign",
            pki.issuing.by(&pki.root, |params| {
                params.key_usages = vec![rcgen::KeyUsagePurpose::CrlSign];
            }),
        ),
        ("not by the root", pki.issuing.by(&pki.older, |_| ())),
        ("expired cross certificate", pki.root.by(&pki.older, past)),
    ];
    for (what, other) in others {
        let orders: [(&File, &[usize]); 3] = [
            (
                &[leaf.clone(), other.clone(), good.clone(), root.clone()],
                &[0, 2, 3],
            ),
            (
                &[leaf.clone(), good.clone(), other.clone(), root.clone()],
                &[0, 1, 3],
            ),
            (
                &[leaf.clone(), root.clone(), other.clone(), good.clone()],
                &[0, 3, 1],
            ),
        ];
        for (file, wanted) in orders {
            assert_eq!(chain(file), wanted, "{what}");
            assert_eq!(sent_of(file), wanted[..2], "{what}: without the root");
        }
    }
}

#[test]
fn a_file_is_put_in_order_by_its_key() {
    let pki = pki();
    let (leaf, good) = (
        pki.server.by(&pki.issuing, end),
        pki.issuing.by(&pki.root, |_| ()),
    );
    let (root, before) = (pki.root.root(), pki.before.by(&pki.root, |_| ()));
    let file = vec![root.clone(), before.clone(), good.clone(), leaf.clone()];
    let ordered = in_order(file.clone(), &pki.server.private_key());
    assert_eq!(ordered, [leaf, good, root, before]);
    assert_eq!(in_order(file.clone(), &pki.older.private_key()), file);
}

#[test]
fn what_is_there_is_taken_where_nothing_is_right() {
    let pki = pki();
    let leaf = pki.server.by(&pki.issuing, end);
    let (good, expired) = (
        pki.issuing.by(&pki.root, |_| ()),
        pki.issuing.by(&pki.root, past),
    );
    let (root, before) = (pki.root.root(), pki.before.by(&pki.root, |_| ()));
    let files: [(&str, &File, &[usize]); 8] = [
        ("alone", std::slice::from_ref(&leaf), &[0]),
        ("no root", &[leaf.clone(), good.clone()], &[0, 1]),
        (
            "only an expired one",
            &[leaf.clone(), expired.clone(), root.clone()],
            &[0, 1, 2],
        ),
        (
            "only another key",
            &[leaf.clone(), before.clone(), root.clone()],
            &[0, 1, 2],
        ),
        (
            "an expired cross certificate and no root",
            &[leaf.clone(), good.clone(), pki.root.by(&pki.older, past)],
            &[0, 1],
        ),
        (
            "a namesake of the root",
            &[leaf.clone(), good.clone(), party("root").root()],
            &[0, 1, 2],
        ),
        (
            "twice",
            &[leaf.clone(), leaf.clone(), good.clone(), good.clone()],
            &[0, 2],
        ),
        ("self-signed", &[root.clone(), good.clone()], &[0]),
    ];
    for (what, file, wanted) in files {
        assert_eq!(chain(file), wanted, "{what}");
    }
    assert!(chain(&[]).is_empty());
    assert_eq!(
        sent_of(std::slice::from_ref(&root)),
        [0],
        "a root alone is sent"
    );
}

#[test]
fn a_cross_certificate_is_sent_in_place_of_the_root() {
    let pki = pki();
    let (leaf, good) = (
        pki.server.by(&pki.issuing, end),
        pki.issuing.by(&pki.root, |_| ()),
    );
    let (root, cross) = (pki.root.root(), pki.root.by(&pki.older, |_| ()));
    let older = pki.older.root();
    let file = [leaf, good, root, cross, older];
    assert_eq!(chain(&file), [0, 1, 2]);
    assert_eq!(sent_of(&file), [0, 1, 3]);
}

/// Certificates that name each other, without end: the work is bounded.
#[test]
fn what_is_made_to_cost_time_does_not() {
    let (one, other) = (party("one"), party("other"));
    let leaf = party("leaf").by(&one, end);
    let mut file = vec![leaf];
    for _ in 0..60 {
        file.push(one.by(&other, |_| ()));
        file.push(other.by(&one, |_| ()));
    }
    // Of the same name, and none has signed.
    file.extend((0..60).map(|_| party("one").root()));
    let parsed = parsed(&file);
    let mut search = Search::new(&parsed);
    let found = search.chain(0);
    assert!(found.len() <= 4, "{found:?}");
    assert_eq!((search.left, search.known.len()), (0, CHAIN_SIGNATURES_MAX));
}
