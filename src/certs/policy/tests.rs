//! Who may stand where: each rule with the least that breaks it.

use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};

use super::*;
use crate::lab::made::{end, party};

#[test]
fn key_usages_are_read_wherever_they_stand() {
    let ca = party("ca");
    let with = |usages: Vec<KeyUsagePurpose>| ca.by(&ca, |params| params.key_usages = usages);
    let all = with(vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyCertSign,
    ]);
    assert_eq!((may_issue(&all), may_authenticate(&all)), (Ok(()), Ok(())));
    let none = with(Vec::new());
    assert_eq!(
        (may_issue(&none), may_authenticate(&none)),
        (Ok(()), Ok(()))
    );
    let crl = with(vec![KeyUsagePurpose::CrlSign]);
    assert_eq!(may_issue(&crl), Err(PathFault::NoCertSign));
    assert_eq!(may_authenticate(&crl), Err(PathFault::NoSignature));
    let sign = with(vec![KeyUsagePurpose::KeyCertSign]);
    assert_eq!(may_issue(&sign), Ok(()));
    assert_eq!(may_authenticate(&sign), Err(PathFault::NoSignature));
    // decipherOnly is in the second octet; an unused bit is none.
    let second = with(vec![
        KeyUsagePurpose::KeyAgreement,
        KeyUsagePurpose::DecipherOnly,
    ]);
    assert_eq!(may_issue(&second), Err(PathFault::NoCertSign));
}

#[test]
fn what_is_cut_off_may_nothing() {
    let ca = party("ca").root();
    for length in 0..ca.len() {
        assert!(may_issue(&ca[..length]).is_err(), "{length}");
        assert!(may_authenticate(&ca[..length]).is_err(), "{length}");
    }
}

#[test]
fn a_group_certificate_is_an_authority_for_clients() {
    let ca = party("ca");
    let fault =
        |change: fn(&mut rcgen::CertificateParams)| Authority::new(&ca.by(&ca, change)).err();
    assert_eq!(fault(|_| ()), None);
    assert_eq!(fault(end), Some(PathFault::NotCa));
    assert_eq!(
        fault(|params| params.is_ca = IsCa::NoCa),
        Some(PathFault::NotCa)
    );
    assert_eq!(
        fault(|params| params.key_usages = vec![KeyUsagePurpose::CrlSign]),
        Some(PathFault::NoCertSign)
    );
    let usages = |usages: &[ExtendedKeyUsagePurpose]| {
        let der = ca.by(&ca, |params| params.extended_key_usages = usages.to_vec());
        Authority::new(&der).err()
    };
    use ExtendedKeyUsagePurpose::{Any, ClientAuth, ServerAuth};
    assert_eq!(usages(&[ServerAuth]), Some(PathFault::NotForClients));
    assert_eq!(usages(&[ServerAuth, ClientAuth]), None);
    assert_eq!(usages(&[Any]), None);
}

#[test]
fn dates_and_path_lengths_bound_paths() {
    let ca = party("ca");
    let now = time::OffsetDateTime::now_utc().unix_timestamp() as u64;
    let zero = ca.by(&ca, |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    });
    let authority = Authority::new(&zero).unwrap();
    assert_eq!(authority.admits(0, now), Ok(()));
    assert_eq!(authority.admits(1, now), Err(PathFault::PathLength));
    let free = Authority::new(&ca.root()).unwrap();
    assert_eq!(free.admits(9, now), Ok(()));
    let (begin, last) = (free.not_before, free.not_after);
    assert_eq!(
        (free.admits(0, begin), free.admits(0, last)),
        (Ok(()), Ok(()))
    );
    assert_eq!(
        free.admits(0, begin - 1),
        Err(PathFault::NotYetValid(begin))
    );
    assert_eq!(free.admits(0, last + 1), Err(PathFault::Expired(last)));
}

#[test]
fn a_root_that_is_no_authority_is_a_pin() {
    let (ca, server) = (party("ca"), party("server"));
    let kind = |der: &CertificateDer<'_>| {
        let kind = root_kind(der);
        (kind.is_authority, kind.is_pin)
    };
    assert_eq!(kind(&ca.root()), (true, true));
    assert_eq!(kind(&server.by(&ca, |_| ())), (true, false));
    assert_eq!(kind(&server.by(&server, end)), (false, true));
    assert_eq!(kind(&server.by(&ca, end)), (false, true));
}
