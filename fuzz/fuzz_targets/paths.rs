//! Which chains lead to a group certificate: what the verifier lets in, a search through every path lets in too, and the
//! other way round. What is sent of a file is a chain.
//!
//! An input chooses a device's certificate, group certificates and presented ones from a pool: three names with two keys each,
//! each certified by each, right and wrong.

#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use adit::certs::chain::sent;
use adit::table::{Published, RevocationIndex};
use adit::tls::{DeviceVerifier, RevocationPolicy, StalePolicy};
use libfuzzer_sys::fuzz_target;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::CertificateDer;
use time::{Duration, OffsetDateTime};

/// A name and a key: of the names 0, 1, 2 the keys 0 and 1.
type Party = (usize, usize);

/// How an authority's certificate is.
#[derive(Clone, Copy, PartialEq)]
enum Shape {
    Good,
    NoCa,
    NoCertSign,
    Past,
    /// No authority below it.
    Lowest,
}

const SHAPES: [Shape; 5] = [
    Shape::Good,
    Shape::NoCa,
    Shape::NoCertSign,
    Shape::Past,
    Shape::Lowest,
];

struct Made {
    subject: Party,
    issuer: Party,
    shape: Shape,
    der: CertificateDer<'static>,
}

struct Leaf {
    issuer: Party,
    /// Valid, and with a key usage that lets it authenticate.
    good: bool,
    der: CertificateDer<'static>,
}

struct Pool {
    authorities: Vec<Made>,
    leaves: Vec<Leaf>,
}

fn params(name: usize) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).expect("no names are right names");
    params.distinguished_name = DistinguishedName::new();
    let name = ["one", "two", "three", "device"][name];
    params.distinguished_name.push(DnType::CommonName, name);
    let now = OffsetDateTime::now_utc();
    (params.not_before, params.not_after) = (now - Duration::days(9), now + Duration::days(900));
    params
}

fn past(params: &mut CertificateParams) {
    params.not_after = params.not_before + Duration::days(1);
}

fn authority(shape: Shape, name: usize) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    match shape {
        Shape::Good => {}
        Shape::NoCa => params.is_ca = IsCa::ExplicitNoCa,
        Shape::NoCertSign => params.key_usages = vec![KeyUsagePurpose::CrlSign],
        Shape::Past => past(&mut params),
        Shape::Lowest => params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)),
    }
    params
}

static POOL: LazyLock<Pool> = LazyLock::new(|| {
    let key = || KeyPair::generate().expect("a key can be made");
    let parties: Vec<(Party, KeyPair)> = (0..6).map(|at| ((at / 2, at % 2), key())).collect();
    let device = key();
    let (mut authorities, mut leaves) = (Vec::new(), Vec::new());
    for (issuer, signer) in &parties {
        let above = params(issuer.0);
        let above = Issuer::from_params(&above, signer);
        let sign = |params: CertificateParams, key: &KeyPair| -> CertificateDer<'static> {
            let signed = params.signed_by(key, &above);
            signed.expect("a certificate can be signed").into()
        };
        for (subject, own) in &parties {
            authorities.extend(SHAPES.map(|shape| Made {
                subject: *subject,
                issuer: *issuer,
                shape,
                der: sign(authority(shape, subject.0), own),
            }));
        }
        for (good, usage, is_past) in [
            (true, KeyUsagePurpose::DigitalSignature, false),
            (false, KeyUsagePurpose::KeyAgreement, false),
            (false, KeyUsagePurpose::DigitalSignature, true),
        ] {
            let mut params = params(3);
            params.key_usages = vec![usage];
            if is_past {
                past(&mut params);
            }
            let (issuer, der) = (*issuer, sign(params, &device));
            leaves.push(Leaf { issuer, good, der });
        }
    }
    Pool {
        authorities,
        leaves,
    }
});

/// Whether a path from `issuer`, which stands above the certificates of `below`, leads to a group certificate.
fn leads(issuer: Party, below: &[&Made], presented: &[&Made], group: &[&Made]) -> bool {
    let issued_by_others = below.iter().filter(|one| one.subject.0 != one.issuer.0);
    let count = issued_by_others.count();
    let ends = |anchor: &&Made| {
        anchor.subject == issuer
            && anchor.shape != Shape::Past
            && (anchor.shape != Shape::Lowest || count == 0)
    };
    if group.iter().any(ends) {
        return true;
    }
    presented.iter().any(|next| {
        let fits = match next.shape {
            Shape::Good => true,
            Shape::Lowest => below.is_empty(),
            Shape::NoCa | Shape::NoCertSign | Shape::Past => false,
        };
        let is_new = below.iter().all(|one| one.subject != next.subject);
        next.subject == issuer && fits && is_new && {
            let path = [below, &[*next]].concat();
            leads(next.issuer, &path, presented, group)
        }
    })
}

/// Certificates up to which every path is tried within webpki's bounds.
const ALL_PATHS: usize = 3;

fuzz_target!(|input: &[u8]| {
    let [leaf, groups, choice @ ..] = input else {
        return;
    };
    let leaf = &POOL.leaves[usize::from(*leaf) % POOL.leaves.len()];
    let chosen: Vec<&Made> = choice
        .iter()
        .take(8)
        .map(|at| &POOL.authorities[usize::from(*at) % POOL.authorities.len()])
        .collect();
    let groups = 1 + usize::from(*groups) % 3;
    let Some((group, presented)) = chosen.split_at_checked(groups) else {
        return;
    };
    let ders = |list: &[&Made]| list.iter().map(|one| one.der.clone()).collect::<Vec<_>>();
    let policy = RevocationPolicy {
        enabled: false,
        stale: StalePolicy::Hard,
    };
    let index = Arc::new(Published::new(RevocationIndex::default()));
    let may_be = |one: &&Made| !matches!(one.shape, Shape::NoCa | Shape::NoCertSign);
    let verifier = DeviceVerifier::new(&ders(group), index, policy);
    assert_eq!(verifier.is_ok(), group.iter().all(may_be));

    let file = [vec![leaf.der.clone()], ders(presented)].concat();
    if let Ok(verifier) = verifier {
        let is_let_in = verifier.recheck(&file, SystemTime::now()).is_ok();
        let is_right = leaf.good && leads(leaf.issuer, &[], presented, group);
        assert!(is_right || !is_let_in, "let in without a path");
        assert!(
            is_let_in || !is_right || presented.len() > ALL_PATHS,
            "refused with a path"
        );
    }

    let sent = sent(&file);
    assert_eq!(sent.first(), file.first());
    let mut issuer = leaf.issuer;
    for der in &sent[1..] {
        let one = presented
            .iter()
            .find(|one| one.der == *der)
            .expect("it is of the file");
        assert_eq!(
            one.subject.0, issuer.0,
            "each has the name of the issuer before"
        );
        assert!(one.subject != one.issuer, "no root is sent");
        issuer = one.issuer;
    }
});
