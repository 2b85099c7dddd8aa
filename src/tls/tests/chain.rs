//! Chains of more than one CA: which certificates of a chain revocation is asked for.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::CertificateDer;

use crate::table::{Published, RevocationIndex};
use crate::tls::fields::{issuer_and_serial, public_key};
use crate::tls::{DeviceVerifier, HandshakeFailure, RevocationPolicy, StalePolicy, failure_of};

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

/// A list: by whom, whether it names a certificate that its name issued, and its `nextUpdate`.
type Listed<'a> = (&'a Ca, &'a CertificateDer<'static>, bool, u64);

struct Check<'a> {
    group: &'a [&'a Ca],
    chain: &'a [&'a CertificateDer<'static>],
    stale: StalePolicy,
}

impl Check<'_> {
    fn run(&self, lists: &[Listed<'_>]) -> Option<HandshakeFailure> {
        let mut builder = RevocationIndex::builder();
        for (by, issued, revoked, until) in lists {
            let (issuer, serial) = issuer_and_serial(issued).unwrap();
            let key = public_key(&by.certificate).unwrap();
            builder.add(issuer, key, revoked.then_some(serial), *until);
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
            .map(|rejection| failure_of(&rejection.error))
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
        hard.run(&[
            (&sub, &leaf, false, FRESH),
            (&root, &sub.certificate, false, FRESH)
        ]),
        None
    );
    assert_eq!(
        hard.run(&[
            (&sub, &leaf, false, FRESH),
            (&root, &sub.certificate, true, FRESH)
        ]),
        Some(HandshakeFailure::Revoked)
    );
    assert_eq!(
        hard.run(&[
            (&sub, &leaf, true, FRESH),
            (&root, &sub.certificate, false, FRESH)
        ]),
        Some(HandshakeFailure::Revoked)
    );
    assert_eq!(
        hard.run(&[(&sub, &leaf, false, FRESH)]),
        Some(HandshakeFailure::RevocationUnknown)
    );
    assert_eq!(
        hard.run(&[(&root, &sub.certificate, false, FRESH)]),
        Some(HandshakeFailure::RevocationUnknown)
    );
    let soft = Check {
        stale: StalePolicy::Soft,
        ..hard
    };
    assert_eq!(soft.run(&[]), None);
    assert_eq!(
        soft.run(&[(&root, &sub.certificate, true, 0)]),
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
        (&sub, &leaf, false, FRESH),
        (&low, &below, false, FRESH),
        (&root, &sub.certificate, true, FRESH),
    ];
    let good = [
        (&sub, &leaf, false, FRESH),
        (&low, &below, false, FRESH),
        (&root, &sub.certificate, false, FRESH),
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
    assert_eq!(check.run(&[(&sub, &leaf, false, FRESH)]), None);
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
    assert_eq!(check.run(&[(&root, &leaf, false, now - 60)]), None);
    assert_eq!(
        check.run(&[(&root, &leaf, false, now - 3700)]),
        Some(HandshakeFailure::RevocationUnknown)
    );
    assert_eq!(
        check.run(&[(&root, &leaf, true, now - 60)]),
        Some(HandshakeFailure::Revoked)
    );
    assert_eq!(check.run(&[]), Some(HandshakeFailure::RevocationUnknown));
    let hard = Check {
        stale: StalePolicy::Hard,
        ..check
    };
    assert_eq!(
        hard.run(&[(&root, &leaf, false, now - 60)]),
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
    assert_eq!(verifier.authorities_good_until(), year(3000));
    let beyond = device_until(&root, 3500);
    assert_eq!(until(&[&beyond]), Some(year(3000)), "the anchor ends first");
}

/// An authority with another key under the name of `ca`.
fn rekeyed(name: &str) -> (Ca, Ca) {
    (ca(name, None), ca(name, None))
}

#[test]
fn a_list_by_another_key_of_the_name_proves_nothing_and_revokes() {
    let (old, new) = rekeyed("fleet");
    let (first, second) = (device(&old), device(&new));
    for group in [[&old, &new], [&new, &old]] {
        let check = |leaf, lists: &[Listed<'_>]| {
            let check = Check {
                group: &group,
                chain: &[leaf],
                stale: StalePolicy::Hard,
            };
            check.run(lists)
        };
        let unknown = Some(HandshakeFailure::RevocationUnknown);
        let by_new = (&new, &second, false, FRESH);
        assert_eq!(check(&second, &[by_new]), None);
        assert_eq!(check(&first, &[by_new]), unknown);
        let by_old = (&old, &first, false, FRESH);
        assert_eq!(check(&first, &[by_old]), None);
        assert_eq!(check(&second, &[by_old]), unknown);
        assert_eq!(check(&first, &[by_old, by_new]), None);
        // The old list has run out; the new one is no help to the old key's devices, and needs none itself.
        let stale = (&old, &first, false, 1);
        assert_eq!(check(&first, &[stale, by_new]), unknown);
        assert_eq!(check(&second, &[stale, by_new]), None);
        // What any of them names is revoked.
        let revoked = Some(HandshakeFailure::Revoked);
        assert_eq!(
            check(&first, &[by_old, (&new, &first, true, FRESH)]),
            revoked
        );
        assert_eq!(check(&first, &[(&new, &first, true, 1)]), revoked);
    }
}

#[test]
fn an_intermediate_that_is_presented_is_looked_up_with_the_key_above_it() {
    let (old, new) = rekeyed("root");
    let sub = ca("sub", Some(&old));
    let leaf = device(&sub);
    let check = Check {
        group: &[&new, &old],
        chain: &[&leaf, &sub.certificate],
        stale: StalePolicy::Hard,
    };
    let by_sub = (&sub, &leaf, false, FRESH);
    let unknown = Some(HandshakeFailure::RevocationUnknown);
    assert_eq!(
        check.run(&[by_sub, (&old, &sub.certificate, false, FRESH)]),
        None
    );
    assert_eq!(
        check.run(&[by_sub, (&new, &sub.certificate, false, FRESH)]),
        unknown
    );
    assert_eq!(
        check.run(&[
            (&old, &leaf, false, FRESH),
            (&old, &sub.certificate, false, FRESH)
        ]),
        unknown
    );
}

#[test]
fn the_same_key_under_two_names_is_two_authorities() {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let named = |name: &str, key: &KeyPair| {
        let mut params = params.clone();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.self_signed(key).unwrap().into();
        let key = KeyPair::try_from(key.serialize_der()).unwrap();
        Ca {
            certificate,
            issuer: Issuer::new(params, key),
        }
    };
    let key = KeyPair::generate().unwrap();
    let (one, two) = (named("one", &key), named("two", &key));
    let leaf = device(&one);
    let check = Check {
        group: &[&one, &two],
        chain: &[&leaf],
        stale: StalePolicy::Hard,
    };
    let other = device(&two);
    assert_eq!(
        check.run(&[(&two, &other, false, FRESH)]),
        Some(HandshakeFailure::RevocationUnknown)
    );
    assert_eq!(check.run(&[(&two, &leaf, false, FRESH)]), None);
}

#[test]
fn a_revoked_issuer_is_found_by_its_key_among_those_of_its_name() {
    let root = ca("root", None);
    let (first, second) = (ca("sub", Some(&root)), ca("sub", Some(&root)));
    let low = ca("low", Some(&first));
    let leaf = device(&low);
    for group in [
        [&second, &first, &root, &low],
        [&first, &second, &root, &low],
    ] {
        let check = Check {
            group: &group,
            chain: &[&leaf],
            stale: StalePolicy::Hard,
        };
        let good = (&low, &leaf, false, FRESH);
        assert_eq!(check.run(&[good]), None);
        assert_eq!(
            check.run(&[good, (&root, &first.certificate, true, FRESH)]),
            Some(HandshakeFailure::Revoked)
        );
        assert_eq!(
            check.run(&[good, (&root, &second.certificate, true, FRESH)]),
            None
        );
    }
}

#[test]
fn a_cross_signed_authority_is_revoked_when_all_above_it_are() {
    let (one, two) = (ca("one", None), ca("two", None));
    let sub = ca("sub", Some(&one));
    let crossed = |above: &Ca| -> CertificateDer<'static> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "sub");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .signed_by(sub.issuer.key(), &above.issuer)
            .unwrap()
            .into()
    };
    let again = Ca {
        certificate: crossed(&two),
        issuer: Issuer::new(
            CertificateParams::new(Vec::new()).unwrap(),
            KeyPair::generate().unwrap(),
        ),
    };
    let leaf = device(&sub);
    let check = Check {
        group: &[&one, &two, &sub, &again],
        chain: &[&leaf],
        stale: StalePolicy::Hard,
    };
    let good = (&sub, &leaf, false, FRESH);
    let by_one = (&one, &sub.certificate, true, FRESH);
    let by_two = (&two, &again.certificate, true, FRESH);
    assert_eq!(check.run(&[good]), None);
    assert_eq!(check.run(&[good, by_one]), None);
    assert_eq!(check.run(&[good, by_two]), None);
    assert_eq!(
        check.run(&[good, by_one, by_two]),
        Some(HandshakeFailure::Revoked)
    );
}
