//! Making certificates and revocation lists, checked with the verifier that the gateway uses (webpki) and read back.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use clap::ValueEnum;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use time::macros::datetime;
use time::{Duration, OffsetDateTime};
use webpki::{
    ALL_VERIFICATION_ALGS, CertRevocationList, EndEntityCert, Error, KeyUsage,
    OwnedCertRevocationList, RevocationOptionsBuilder, anchor_from_trusted_cert,
};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::revocation_list::CertificateRevocationList;

use super::*;
use crate::certs::describe::{AlternativeName, CertificateDescription, Status};
use crate::certs::make::Usage;
use crate::certs::pem::{key_to_pem, pem_block, to_pem};
use crate::certs::{
    CertError, Description, IssueRequest, Issued, KeyType, Serial, Validity, describe, key_matches,
    read_certificates, read_crls,
};
use crate::files::FileError;

fn ca(key_type: KeyType) -> CertificateAuthority {
    make_ca(&MakeCa {
        common_name: "Test CA".into(),
        days: 30,
        key_type,
    })
    .unwrap()
}

fn client(ca: &CertificateAuthority) -> Issued {
    issue(
        ca,
        &IssueRequest::new(Usage::Client, "device-1", Validity::days(10).unwrap()),
    )
    .unwrap()
}

fn verify(
    ca: &CertificateDer<'_>,
    certificate: &CertificateDer<'_>,
    usage: KeyUsage,
    crl: Option<&CertificateRevocationListDer<'_>>,
) -> Result<(), Error> {
    let anchors = [anchor_from_trusted_cert(ca)?];
    let list = crl
        .map(|der| OwnedCertRevocationList::from_der(der).map(CertRevocationList::from))
        .transpose()?;
    let lists: Vec<&CertRevocationList<'_>> = list.iter().collect();
    let revocation = RevocationOptionsBuilder::new(&lists)
        .ok()
        .map(webpki::RevocationOptionsBuilder::build);
    EndEntityCert::try_from(certificate)?
        .verify_for_usage(
            ALL_VERIFICATION_ALGS,
            &anchors,
            &[],
            UnixTime::now(),
            usage,
            revocation,
            None,
        )
        .map(|_| ())
}

fn crl_request(serials: Vec<Serial>, reason: Reason) -> CrlRequest {
    let now = OffsetDateTime::now_utc();
    CrlRequest {
        serials,
        reason,
        this_update: now,
        next_update: now + Duration::DAY,
    }
}

pub(super) fn described_certificate(path: &Path) -> CertificateDescription {
    match describe(path).unwrap().remove(0) {
        Description::Certificate(certificate) => certificate,
        other => panic!("{other:?}"),
    }
}

#[test]
fn issued_certificates_verify_for_their_usage_only() {
    for &key_type in KeyType::value_variants() {
        let ca = ca(key_type);
        let mut request = IssueRequest::new(Usage::Client, "device", Validity::days(10).unwrap());
        request.key_type = key_type;
        let client = issue(&ca, &request).unwrap();
        assert_eq!(client.chain.len(), 1, "the root is not sent");
        assert!(key_matches(&client.chain[0], &client.key));
        verify(
            ca.certificate(),
            &client.chain[0],
            KeyUsage::client_auth(),
            None,
        )
        .unwrap();
        assert!(matches!(
            verify(
                ca.certificate(),
                &client.chain[0],
                KeyUsage::server_auth(),
                None
            ),
            Err(Error::RequiredEkuNotFoundContext(_))
        ));
    }
}

#[test]
fn usages_and_validity_can_be_wrong_on_purpose() {
    let ca = ca(KeyType::P256);
    let mut request = IssueRequest::new(Usage::Client, "device", Validity::days(10).unwrap());
    request.usages = vec![Usage::Server];
    let wrong = issue(&ca, &request).unwrap();
    assert!(
        verify(
            ca.certificate(),
            &wrong.chain[0],
            KeyUsage::client_auth(),
            None
        )
        .is_err()
    );

    let past = Validity::between(
        datetime!(2020-01-01 0:00 UTC),
        datetime!(2020-02-01 0:00 UTC),
    )
    .unwrap();
    let expired = issue(&ca, &IssueRequest::new(Usage::Client, "device", past)).unwrap();
    assert!(matches!(
        verify(
            ca.certificate(),
            &expired.chain[0],
            KeyUsage::client_auth(),
            None
        ),
        Err(Error::CertExpired { .. })
    ));
}

#[test]
fn impossible_requests_are_refused() {
    let ca = ca(KeyType::P256);
    let validity = Validity::days(10).unwrap();
    for name in ["", "a\0b", "line\nbreak", &"x".repeat(65)] {
        assert!(
            issue(&ca, &IssueRequest::new(Usage::Client, name, validity)).is_err(),
            "{name:?}"
        );
    }
    for dns in [
        "",
        "a b",
        "*",
        "10.0.0.1",
        "*.*.example.com",
        "ü.example.com",
    ] {
        let mut request = IssueRequest::new(Usage::Server, "server", validity);
        request.dns.push(dns.to_owned());
        assert!(issue(&ca, &request).is_err(), "{dns:?}");
    }
    let outliving = IssueRequest::new(Usage::Client, "device", Validity::days(31).unwrap());
    assert!(
        issue(&ca, &outliving)
            .unwrap_err()
            .to_string()
            .contains("outlive")
    );
    assert!(Validity::days(0).is_err());
    assert!(Validity::days(u32::MAX).is_err());
    assert!(
        Validity::between(
            datetime!(2020-01-02 0:00 UTC),
            datetime!(2020-01-01 0:00 UTC)
        )
        .is_err()
    );
    // In UTC this end is in the year 10000, which no certificate can hold.
    assert!(
        Validity::between(
            datetime!(2020-01-02 0:00 UTC),
            datetime!(9999-12-31 23:00 -2)
        )
        .is_err()
    );
    assert!(
        Validity::between(
            datetime!(1950-01-01 0:00 +2),
            datetime!(2020-01-01 0:00 UTC)
        )
        .is_err()
    );
}

#[test]
fn every_name_comes_back_from_the_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let ca = ca(KeyType::P256);
    let mut request = IssueRequest::new(Usage::Client, "device-1", Validity::days(10).unwrap());
    request.app = Some("mail".into());
    request.uid = Some("u17".into());
    request.dns = vec!["*.example.com".into()];
    request.ip = vec!["192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap()];
    request.uri = vec!["urn:device:1".into()];
    request.email = vec!["a@example.com".into()];
    request.upn = vec!["jörg@corp".into()];
    request.serial = Some("0a:ff".parse().unwrap());
    let (certificate, key) = (folder.path().join("d.pem"), folder.path().join("d.key"));
    issue(&ca, &request)
        .unwrap()
        .write(&certificate, &key)
        .unwrap();

    let described = described_certificate(&certificate);
    assert_eq!(described.subject, "OU=mail, CN=device-1, uid=u17");
    assert_eq!(described.issuer, "CN=Test CA");
    assert_eq!(described.serial, "0a:ff");
    assert_eq!(described.days_left, 9);
    assert_eq!(described.status, Status::Valid);
    assert_eq!(described.key, "ECDSA P-256");
    assert_eq!(described.extended_key_usage, ["clientAuth"]);
    assert!(!described.ca);
    assert_eq!(described.sha256.len(), 32 * 3 - 1);
    let names = [
        AlternativeName::Dns("*.example.com".into()),
        AlternativeName::Ip("192.0.2.7".parse().unwrap()),
        AlternativeName::Ip("2001:db8::7".parse().unwrap()),
        AlternativeName::Uri("urn:device:1".into()),
        AlternativeName::Email("a@example.com".into()),
        AlternativeName::Upn("jörg@corp".into()),
    ];
    assert_eq!(described.subject_alternative_names, names);
    let text = Description::Certificate(described).to_string();
    assert!(
        text.contains("DNS:*.example.com, IP:192.0.2.7") && text.contains("UPN:jörg@corp"),
        "{text}"
    );

    let Description::PrivateKey(key) = describe(&key).unwrap().remove(0) else {
        panic!("not a key")
    };
    assert_eq!(key.key, "ECDSA P-256");
}

#[test]
fn an_authority_is_written_once_with_a_secret_key_and_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("pki");
    let made = ca(KeyType::Ed25519);
    let (certificate, key) = made.write(&dir).unwrap();
    assert_eq!(
        fs::metadata(&key).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(
        fs::metadata(&dir).unwrap().permissions().mode() & 0o777,
        0o700
    );
    let error = ca(KeyType::P256).write(&dir).unwrap_err();
    assert!(
        matches!(error, CertError::File(FileError::Exists { .. })),
        "{error}"
    );
    assert_eq!(
        read_certificates(&certificate).unwrap(),
        [made.certificate().clone()]
    );

    let loaded = CertificateAuthority::load(&dir).unwrap();
    let issued = client(&loaded);
    verify(
        made.certificate(),
        &issued.chain[0],
        KeyUsage::client_auth(),
        None,
    )
    .unwrap();

    // The key of another authority, and a certificate that is none of an authority's.
    let other = client(&made);
    fs::write(&key, key_to_pem(&other.key)).unwrap();
    assert!(
        CertificateAuthority::load(&dir)
            .unwrap_err()
            .to_string()
            .contains("ca.key")
    );
    fs::write(&certificate, to_pem(&other.chain)).unwrap();
    assert!(
        CertificateAuthority::load(&dir)
            .unwrap_err()
            .to_string()
            .contains("not that of a certification authority")
    );
    let error = CertificateAuthority::load(folder.path())
        .unwrap_err()
        .to_string();
    assert!(error.contains("make-ca"), "{error}");
}

#[test]
fn an_authority_whose_name_can_not_be_copied_is_refused() {
    // Two organizational units: rcgen would keep the last one only.
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let mut name = rcgen::DistinguishedName::new();
    name.push(rcgen::DnType::OrganizationalUnitName, "one");
    name.push(rcgen::DnType::CustomDnType(vec![2, 5, 4, 77]), "two");
    params.distinguished_name = name;
    let certificate = params.self_signed(&key).unwrap();
    // 2.5.4.77 becomes 2.5.4.11, the organizational unit: same length, so the DER stays whole (its signature does not).
    let mut der = certificate.der().to_vec();
    for at in 0..der.len() - 3 {
        if der[at..at + 3] == [0x55, 4, 77] {
            der[at + 2] = 11;
        }
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("ca.pem"), to_pem(&[der.into()])).unwrap();
    fs::write(
        folder.path().join("ca.key"),
        pem_block("PRIVATE KEY", key.serialized_der()),
    )
    .unwrap();
    let loaded = CertificateAuthority::load(folder.path()).unwrap();
    let request = IssueRequest::new(Usage::Client, "device", Validity::days(1).unwrap());
    assert!(
        issue(&loaded, &request)
            .unwrap_err()
            .to_string()
            .contains("copied exactly")
    );
}

#[test]
fn a_revoked_certificate_is_revoked_and_others_are_not() {
    for &key_type in KeyType::value_variants() {
        let ca = ca(key_type);
        let (lost, kept) = (client(&ca), client(&ca));
        let serial = serial_of_issued(&ca, &lost.chain[0]).unwrap();
        let crl = revoke(&ca, None, &crl_request(vec![serial], Reason::KeyCompromise)).unwrap();

        let (_, authority) = X509Certificate::from_der(ca.certificate()).unwrap();
        let (_, parsed) = CertificateRevocationList::from_der(&crl.der).unwrap();
        parsed.verify_signature(authority.public_key()).unwrap();

        let verdict = |issued: &Issued| {
            verify(
                ca.certificate(),
                &issued.chain[0],
                KeyUsage::client_auth(),
                Some(&crl.der),
            )
        };
        assert_eq!(verdict(&lost), Err(Error::CertRevoked));
        assert_eq!(verdict(&kept), Ok(()));
    }
}

#[test]
fn a_list_keeps_its_entries_and_raises_its_number() {
    let ca = ca(KeyType::P256);
    let serial = |text: &str| text.parse::<Serial>().unwrap();
    let first = revoke(
        &ca,
        None,
        &crl_request(vec![serial("01"), serial("ff")], Reason::Superseded),
    )
    .unwrap();
    assert_eq!((first.entries, first.added.len()), (2, 2));
    let second = revoke(
        &ca,
        Some(&first.der),
        &crl_request(vec![serial("ff"), serial("02")], Reason::default()),
    )
    .unwrap();
    assert_eq!(
        (second.entries, second.added.as_slice()),
        (3, &[serial("02")][..])
    );
    let third = revoke(
        &ca,
        Some(&second.der),
        &crl_request(vec![], Reason::default()),
    )
    .unwrap();
    let (_, parsed) = CertificateRevocationList::from_der(&third.der).unwrap();
    assert_eq!(parsed.crl_number().unwrap().to_string(), "3");
    let entries: BTreeSet<(String, u8)> = parsed
        .iter_revoked_certificates()
        .map(|entry| {
            (
                entry.serial().to_string(),
                entry.reason_code().map_or(0, |(_, reason)| reason.0),
            )
        })
        .collect();
    assert_eq!(
        entries,
        BTreeSet::from([("1".into(), 4), ("255".into(), 4), ("2".into(), 0)])
    );
}

#[test]
fn a_list_of_another_authority_or_a_broken_one_is_not_continued() {
    let (ours, theirs) = (ca(KeyType::P256), ca(KeyType::P256));
    let foreign = revoke(&theirs, None, &crl_request(vec![], Reason::default())).unwrap();
    let error = revoke(
        &ours,
        Some(&foreign.der),
        &crl_request(vec![], Reason::default()),
    )
    .unwrap_err();
    assert!(
        error.to_string().contains("not signed by this authority"),
        "{error}"
    );
    let stranger = client(&theirs);
    assert!(serial_of_issued(&ours, &stranger.chain[0]).is_err());
    let mut backwards = crl_request(vec![], Reason::default());
    backwards.next_update = backwards.this_update;
    assert!(revoke(&ours, None, &backwards).is_err());
}

#[test]
fn a_crl_file_cut_anywhere_or_with_a_broken_entry_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("list");
    let ca = ca(KeyType::P256);
    let serials = vec![
        "11:22:33:44".parse().unwrap(),
        "55:66:77:01".parse().unwrap(),
    ];
    let crl = revoke(&ca, None, &crl_request(serials, Reason::KeyCompromise)).unwrap();
    for length in 0..crl.der.len() {
        fs::write(&path, &crl.der[..length]).unwrap();
        assert!(read_crls(&path).is_err(), "{length} bytes");
    }
    let at = crl
        .der
        .windows(4)
        .position(|window| window == [0x55, 0x66, 0x77, 0x01])
        .unwrap();
    let mut broken = crl.der.to_vec();
    broken[at - 2] = 0x05; // INTEGER becomes NULL: the second entry must not simply be lost.
    fs::write(&path, &broken).unwrap();
    assert!(describe(&path).is_err());
    let read = read_crls(&path).unwrap().remove(0);
    assert!(
        revoke(
            &ca,
            Some(&read),
            &crl_request(Vec::new(), Reason::default())
        )
        .is_err()
    );

    let pem = pem_block("X509 CRL", &crl.der);
    fs::write(&path, pem.clone() + &pem).unwrap();
    assert_eq!(
        read_crls(&path).unwrap(),
        [crl.der.clone(), crl.der.clone()]
    );
    for length in 0..pem.trim_end().len() {
        fs::write(&path, &pem[..length]).unwrap();
        assert!(read_crls(&path).is_err(), "{length} characters");
    }
}
