//! Chains of more than one CA: which certificates of a chain revocation is asked for.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::CertificateDer;

use super::der::issuer_and_serial;
use super::{DeviceVerifier, HandshakeFailure, RevocationPolicy, StalePolicy, failure_of};
use crate::table::{Published, RevocationIndex};

struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

fn ca(name: &str, above: Option<&Ca>) -> Ca {
    ca_until(name, above, 4000)
}

/// It ends with the year.
fn ca_until(name: &str, above: Option<&Ca>, year: i32) -> Ca {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_after = rcgen::date_time_ymd(year, 12, 31);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().unwrap();
    let certificate = match above {
        Some(above) => params.signed_by(&key, &above.issuer),
        None => params.self_signed(&key),
    };
    Ca {
        certificate: certificate.unwrap().into(),
        issuer: Issuer::new(params, key),
    }
}

fn device(above: &Ca) -> CertificateDer<'static> {
    device_until(above, 4000)
}

fn device_until(above: &Ca, year: i32) -> CertificateDer<'static> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "device");
    params.not_after = rcgen::date_time_ymd(year, 12, 31);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
        .signed_by(&KeyPair::generate().unwrap(), &above.issuer)
        .unwrap()
        .into()
}

/// The name under which the index keeps the list of a CA, read from a certificate that it issued.
fn list(
    builder: &mut crate::table::RevocationIndexBuilder,
    issued: &CertificateDer<'_>,
    revoked: bool,
    until: u64,
) {
    let (issuer, serial) = issuer_and_serial(issued).unwrap();
    builder.add(issuer, revoked.then_some(serial), until);
}

struct Check<'a> {
    group: &'a [&'a Ca],
    chain: &'a [&'a CertificateDer<'static>],
    stale: StalePolicy,
}

impl Check<'_> {
    /// `lists`: a certificate that the list's CA issued, whether the list names it, and the list's `nextUpdate`.
    fn run(&self, lists: &[(&CertificateDer<'_>, bool, u64)]) -> Option<HandshakeFailure> {
        let mut builder = RevocationIndex::builder();
        for (issued, revoked, until) in lists {
            list(&mut builder, issued, *revoked, *until);
        }
        let group: Vec<_> = self.group.iter().map(|ca| ca.certificate.clone()).collect();
        let policy = RevocationPolicy {
            enabled: true,
            stale: self.stale,
        };
        let verifier =
            DeviceVerifier::new(&group, Arc::new(Published::new(builder.build())), policy).unwrap();
        let chain: Vec<_> = self
            .chain
            .iter()
            .map(|certificate| (*certificate).clone())
            .collect();
        verifier
            .recheck(&chain, SystemTime::now())
            .err()
            .map(|error| failure_of(&error))
    }
}

const FRESH: u64 = u64::MAX;

#[test]
fn each_certificate_below_the_anchor_is_looked_up() {
    let root = ca("root", None);
    let sub = ca("sub", Some(&root));
    let leaf = device(&sub);
    let chain = [&leaf, &sub.certificate];
    let hard = Check {
        group: &[&root],
        chain: &chain,
        stale: StalePolicy::Hard,
    };
    assert_eq!(
        hard.run(&[(&leaf, false, FRESH), (&sub.certificate, false, FRESH)]),
        None
    );
    assert_eq!(
        hard.run(&[(&leaf, false, FRESH), (&sub.certificate, true, FRESH)]),
        Some(HandshakeFailure::Revoked)
    );
    assert_eq!(
        hard.run(&[(&leaf, true, FRESH), (&sub.certificate, false, FRESH)]),
        Some(HandshakeFailure::Revoked)
    );
    assert_eq!(
        hard.run(&[(&leaf, false, FRESH)]),
        Some(HandshakeFailure::RevocationUnknown)
    );
    assert_eq!(
        hard.run(&[(&sub.certificate, false, FRESH)]),
        Some(HandshakeFailure::RevocationUnknown)
    );
    let soft = Check {
        stale: StalePolicy::Soft,
        ..hard
    };
    assert_eq!(soft.run(&[]), None);
    assert_eq!(
        soft.run(&[(&sub.certificate, true, 0)]),
        Some(HandshakeFailure::Revoked),
        "stale lists revoke"
    );
}

#[test]
fn a_revoked_ca_is_not_saved_by_being_a_group_certificate() {
    let root = ca("root", None);
    let sub = ca("sub", Some(&root));
    let low = ca("low", Some(&sub));
    let (leaf, below) = (device(&sub), device(&low));
    let lists = [
        (&leaf, false, FRESH),
        (&below, false, FRESH),
        (&sub.certificate, true, FRESH),
    ];
    let good = [
        (&leaf, false, FRESH),
        (&below, false, FRESH),
        (&sub.certificate, false, FRESH),
    ];
    let group = [&root, &sub, &low];
    for chain in [
        &[&leaf][..],
        &[&leaf, &sub.certificate],
        &[&below],
        &[&below, &low.certificate],
    ] {
        let check = Check {
            group: &group,
            chain,
            stale: StalePolicy::Hard,
        };
        assert_eq!(check.run(&lists), Some(HandshakeFailure::Revoked));
        assert_eq!(check.run(&good), None);
    }
}

#[test]
fn no_list_is_demanded_for_a_group_certificate_or_one_outside_the_path() {
    let root = ca("root", None);
    let sub = ca("sub", Some(&root));
    let stranger = ca("stranger", Some(&root));
    let leaf = device(&sub);
    let chain = [&leaf, &sub.certificate, &stranger.certificate];
    let check = Check {
        group: &[&sub],
        chain: &chain,
        stale: StalePolicy::Hard,
    };
    assert_eq!(check.run(&[(&leaf, false, FRESH)]), None);
}

#[test]
fn grace_counts_from_next_update_and_never_for_a_missing_list() {
    let root = ca("root", None);
    let leaf = device(&root);
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let grace = StalePolicy::Grace(Duration::from_secs(3600));
    let check = Check {
        group: &[&root],
        chain: &[&leaf],
        stale: grace,
    };
    assert_eq!(check.run(&[(&leaf, false, now - 60)]), None);
    assert_eq!(
        check.run(&[(&leaf, false, now - 3700)]),
        Some(HandshakeFailure::RevocationUnknown)
    );
    assert_eq!(
        check.run(&[(&leaf, true, now - 60)]),
        Some(HandshakeFailure::Revoked)
    );
    assert_eq!(check.run(&[]), Some(HandshakeFailure::RevocationUnknown));
    let hard = Check {
        stale: StalePolicy::Hard,
        ..check
    };
    assert_eq!(
        hard.run(&[(&leaf, false, now - 60)]),
        Some(HandshakeFailure::RevocationUnknown)
    );
}

#[test]
fn group_certificates_that_cannot_be_anchors_are_named() {
    let policy = RevocationPolicy {
        enabled: false,
        stale: StalePolicy::Hard,
    };
    let new = |group: &[CertificateDer<'static>]| {
        let index = Arc::new(Published::new(RevocationIndex::default()));
        DeviceVerifier::new(group, index, policy)
            .unwrap_err()
            .to_string()
    };
    assert!(new(&[]).contains("no group certificate"));
    let second = [
        ca("root", None).certificate,
        CertificateDer::from(vec![0x30, 0]),
    ];
    assert!(new(&second).contains("group certificate 2 "));
}

#[test]
fn a_path_is_good_for_as_long_as_its_own_certificates_are() {
    let root = ca_until("root", None, 3000);
    let (sub, other) = (ca_until("sub", Some(&root), 2500), ca("other", None));
    let leaf = device_until(&sub, 2700);
    let index = Arc::new(Published::new(RevocationIndex::builder().build()));
    let policy = RevocationPolicy {
        enabled: false,
        stale: StalePolicy::Hard,
    };
    let group = [root.certificate.clone()];
    let verifier = DeviceVerifier::new(&group, index, policy).unwrap();
    let year = |year: i32| rcgen::date_time_ymd(year, 12, 31).unix_timestamp() as u64;
    let until = |chain: &[&CertificateDer<'static>]| {
        let chain: Vec<_> = chain.iter().map(|one| (*one).clone()).collect();
        verifier.path_good_until(&chain, SystemTime::now()).ok()
    };
    assert_eq!(
        until(&[&leaf, &sub.certificate]),
        Some(year(2500)),
        "its issuer ends first"
    );
    // Whatever stands beside it: expired, of another authority, or no certificate.
    let expired = device_until(&root, 2000);
    let garbage = CertificateDer::from(vec![0x30, 0]);
    for beside in [&expired, &other.certificate, &garbage] {
        for chain in [
            [&leaf, beside, &sub.certificate],
            [&leaf, &sub.certificate, beside],
        ] {
            assert_eq!(until(&chain), Some(year(2500)));
        }
    }
    let direct = device_until(&root, 2700);
    assert_eq!(
        until(&[&direct, &expired]),
        Some(year(2700)),
        "the anchor is configured"
    );
    assert_eq!(until(&[&expired]), None);
    assert_eq!(until(&[&leaf]), None);
}
