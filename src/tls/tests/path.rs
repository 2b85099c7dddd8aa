//! Paths that webpki builds and RFC 5280 forbids.

use std::sync::Arc;
use std::time::SystemTime;

use rcgen::{BasicConstraints, IsCa, KeyUsagePurpose};
use rustls::pki_types::CertificateDer;
use rustls::server::danger::ClientCertVerifier;

use crate::lab::made::{end, party, past};
use crate::limits::{AUTHORITY_NAMES_BYTES_MAX, PRESENTED_MAX};
use crate::table::{Published, RevocationIndex};
use crate::tls::{DeviceVerifier, HandshakeFailure, RevocationPolicy, StalePolicy, failure_of};

fn verifier(group: &[CertificateDer<'static>]) -> Result<DeviceVerifier, crate::tls::TlsError> {
    let policy = RevocationPolicy {
        enabled: false,
        stale: StalePolicy::Hard,
    };
    let index = Arc::new(Published::new(RevocationIndex::default()));
    DeviceVerifier::new(group, index, policy)
}

/// How a handshake with this chain fails.
fn failure(
    group: &[CertificateDer<'static>],
    chain: &[CertificateDer<'static>],
) -> Option<HandshakeFailure> {
    let verdict = verifier(group).unwrap().recheck(chain, SystemTime::now());
    verdict.err().map(|rejection| failure_of(&rejection.error))
}

#[test]
fn key_usages_count_where_they_are_there() {
    let (root, sub, device) = (party("root"), party("sub"), party("device"));
    let group = [root.root()];
    let usages = |usages: Vec<KeyUsagePurpose>| {
        move |params: &mut rcgen::CertificateParams| params.key_usages = usages
    };
    let leaf = device.by(&sub, end);
    let good = sub.by(&root, |_| ());
    let none = sub.by(&root, usages(Vec::new()));
    let crl_only = sub.by(&root, usages(vec![KeyUsagePurpose::CrlSign]));
    let wrong = Some(HandshakeFailure::WrongUsage);
    assert_eq!(failure(&group, &[leaf.clone(), good.clone()]), None);
    assert_eq!(failure(&group, &[leaf.clone(), none]), None);
    assert_eq!(failure(&group, &[leaf.clone(), crl_only.clone()]), wrong);
    // Another path is looked for, in either order.
    assert_eq!(
        failure(&group, &[leaf.clone(), crl_only.clone(), good.clone()]),
        None
    );
    assert_eq!(
        failure(&group, &[leaf.clone(), good.clone(), crl_only]),
        None
    );
    let with = |usages: Vec<KeyUsagePurpose>| {
        device.by(&sub, |params| {
            end(params);
            params.key_usages = usages;
        })
    };
    assert_eq!(failure(&group, &[with(Vec::new()), good.clone()]), None);
    let agreement = with(vec![KeyUsagePurpose::KeyAgreement]);
    assert_eq!(failure(&group, &[agreement, good]), wrong);
}

#[test]
fn a_group_certificate_bounds_the_paths_below_it() {
    let (root, sub, low, device) = (party("root"), party("sub"), party("low"), party("device"));
    let of_length = |length| {
        root.by(&root, |params| {
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(length));
        })
    };
    let chain = [
        device.by(&low, end),
        low.by(&sub, |_| ()),
        sub.by(&root, |_| ()),
    ];
    assert_eq!(failure(&[of_length(2)], &chain), None);
    let wrong = Some(HandshakeFailure::WrongUsage);
    assert_eq!(failure(&[of_length(1)], &chain), wrong);
    assert_eq!(failure(&[of_length(0)], &[device.by(&root, end)]), None);
    // The same authority, renewed: one of the two admits it.
    assert_eq!(failure(&[of_length(0), of_length(2)], &chain), None);
    // One that has issued itself, with a new key, does not count.
    let new = party("root");
    let rolled = [device.by(&new, end), new.by(&root, |_| ())];
    assert_eq!(failure(&[of_length(0)], &rolled), None);
}

#[test]
fn a_group_certificate_lets_in_while_it_is_valid() {
    let (root, device) = (party("root"), party("device"));
    let leaf = [device.by(&root, end)];
    let (old, new) = (root.by(&root, past), root.root());
    let expired = Some(HandshakeFailure::Expired);
    assert_eq!(failure(std::slice::from_ref(&old), &leaf), expired);
    assert_eq!(failure(&[old.clone(), new.clone()], &leaf), None);
    assert_eq!(failure(&[new, old], &leaf), None);
    let later = root.by(&root, |params| {
        params.not_before = params.not_after - time::Duration::days(1);
    });
    let early = Some(HandshakeFailure::NotYetValid);
    assert_eq!(failure(&[later], &leaf), early);
}

#[test]
fn what_is_no_authority_is_no_group_certificate() {
    let (root, device) = (party("root"), party("device"));
    let refused = |der: CertificateDer<'static>| verifier(&[der]).unwrap_err().to_string();
    let leaf = refused(device.by(&root, end));
    assert!(leaf.contains("not a certification authority"), "{leaf}");
    let mute = refused(root.by(&root, |params| {
        params.key_usages = vec![KeyUsagePurpose::CrlSign];
    }));
    assert!(mute.contains("keyCertSign"), "{mute}");
}

#[test]
fn too_many_names_are_left_out_of_the_request() {
    let root = party("root").root();
    let few = verifier(&[root.clone(), root.clone()]).unwrap();
    assert_eq!(few.root_hint_subjects().len(), 1);
    let bytes: usize = few
        .root_hint_subjects()
        .iter()
        .map(|name| name.as_ref().len() + 2)
        .sum();
    let many: Vec<_> = (0..=AUTHORITY_NAMES_BYTES_MAX / bytes)
        .map(|number| {
            let mut der = root.to_vec();
            let at = der.windows(4).rposition(|name| name == b"root").unwrap();
            der[at..at + 4].copy_from_slice(format!("{number:04}").as_bytes());
            CertificateDer::from(der)
        })
        .collect();
    assert!(
        !verifier(&many[1..])
            .unwrap()
            .root_hint_subjects()
            .is_empty()
    );
    assert!(verifier(&many).unwrap().root_hint_subjects().is_empty());
}

/// Layers of authorities that have all issued each other: the search for a path goes through their orders.
#[test]
fn more_certificates_than_real_chains_have_are_not_searched() {
    let (root, sub, device) = (party("root"), party("sub"), party("device"));
    let group = [root.root()];
    let mut chain = vec![device.by(&sub, end), sub.by(&root, |_| ())];
    let other = party("other");
    while chain.len() <= PRESENTED_MAX {
        chain.push(other.by(&root, |_| ()));
    }
    assert_eq!(failure(&group, &chain), None, "{PRESENTED_MAX} of them");
    chain.push(other.by(&root, |_| ()));
    assert_eq!(
        failure(&group, &chain),
        Some(HandshakeFailure::BadCertificate)
    );
}

/// Why a handshake with this chain fails, for the operator.
fn cause(group: &[CertificateDer<'static>], chain: &[CertificateDer<'static>]) -> String {
    let verdict = verifier(group).unwrap().recheck(chain, SystemTime::now());
    verdict.unwrap_err().detail.into()
}

#[test]
fn the_cause_names_the_certificate_the_authority_and_the_extension() {
    let (root, sub, other, device) = (party("root"), party("sub"), party("other"), party("device"));
    let group = [root.root()];
    let leaf = device.by(&sub, end);
    let missing = cause(&group, std::slice::from_ref(&leaf));
    assert!(
        missing.contains("the issuer \"CN=sub\" of \"CN=device\" (serial "),
        "{missing}"
    );
    assert!(
        missing.ends_with("is no group certificate and was not presented"),
        "{missing}"
    );
    let foreign = cause(&group, &[leaf.clone(), sub.by(&other, |_| ())]);
    assert!(
        foreign.contains("the issuer \"CN=other\" of \"CN=sub\""),
        "{foreign}"
    );
    // Another key under the trusted name.
    let impostor = party("root");
    let wrong = cause(&group, &[leaf.clone(), sub.by(&impostor, |_| ())]);
    assert!(
        wrong.contains("\"CN=root\" has not signed \"CN=sub\""),
        "{wrong}"
    );
    let strange = device.by(&root, |params| {
        end(params);
        let mut extension =
            rcgen::CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
        extension.set_criticality(true);
        params.custom_extensions = vec![extension];
    });
    let strange = cause(&group, &[strange]);
    assert!(
        strange.contains("the critical extension 1.3.6.1.4.1.99999.1"),
        "{strange}"
    );
    let crl_only = sub.by(&root, |params| {
        params.key_usages = vec![KeyUsagePurpose::CrlSign];
    });
    let usage = cause(&group, &[leaf.clone(), crl_only]);
    assert!(usage.starts_with("\"CN=sub\" (serial "), "{usage}");
    assert!(usage.ends_with("(no keyCertSign)"), "{usage}");
    let ended = cause(&group, &[leaf, sub.by(&root, past)]);
    assert!(ended.starts_with("\"CN=sub\" (serial "), "{ended}");
    assert!(ended.contains(" ended at "), "{ended}");
}
