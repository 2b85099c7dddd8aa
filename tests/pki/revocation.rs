//! Revocation goes by the key that issued a certificate, and a list counts in whatever clothes it comes.

use std::time::{Duration, SystemTime};

use adit::certs::pem::pem_block;
use adit::certs::{self, Issued};
use adit::lab::{self, CertificateAuthority, CrlRequest, Reason, serial_of_issued};
use adit::table::Status;
use adit::tls::{load_crls, public_keys};
use time::OffsetDateTime;

use super::lists::{List, openssl_authority};
use crate::common::{Gateway, Pki, authority, client_of, crl_of, echo, is_let_in, server, until};

/// A list in PEM that is valid for an hour.
fn list(ca: &CertificateAuthority, revoked: &[&Issued]) -> String {
    let made = OffsetDateTime::now_utc() - Duration::from_secs(60);
    let der = crl_of(ca, revoked, made, made + Duration::from_secs(3600));
    pem_block("X509 CRL", &der)
}

/// Adds the certificate of another authority to the group.
fn trust(pki: &Pki, ca: &CertificateAuthority) {
    let mut group = std::fs::read_to_string(pki.path("ca.pem")).unwrap();
    group.push_str(&pem_block("CERTIFICATE", ca.certificate()));
    std::fs::write(pki.path("ca.pem"), group).unwrap();
}

fn start(pki: &Pki) -> Gateway {
    Gateway::builder(pki).servers(&[server(echo)]).start()
}

#[test]
fn a_list_of_the_new_key_lets_no_device_of_the_old_key_in() {
    let pki = Pki::new();
    // The same name, another key.
    let renewed = authority("group");
    trust(&pki, &renewed);
    let (old, lost) = (pki.client("old", |_| ()), pki.client("lost", |_| ()));
    let new = client_of(&renewed, "new", |_| ());
    let write = |lists: &[String]| std::fs::write(pki.path("ca.crl"), lists.concat()).unwrap();
    write(&[list(&renewed, &[])]);
    let gateway = start(&pki);
    assert!(is_let_in(&pki, &gateway, &new));
    assert!(!is_let_in(&pki, &gateway, &old));
    assert!(!is_let_in(&pki, &gateway, &lost));
    assert_eq!(gateway.ended("revocation-unknown"), 2.0);

    write(&[list(&renewed, &[]), list(&pki.ca, &[&lost])]);
    until("the old key's list counts", || {
        is_let_in(&pki, &gateway, &old)
    });
    assert!(is_let_in(&pki, &gateway, &new));
    assert!(!is_let_in(&pki, &gateway, &lost));
    assert_eq!(gateway.ended("certificate-revoked"), 1.0);
}

#[test]
fn a_list_whose_signer_is_revoked_is_named_and_proves_nothing() {
    let pki = Pki::new();
    openssl_authority(
        &pki,
        "sub",
        "ec -pkeyopt ec_paramgen_curve:P-256",
        &["-CA", "ca.pem", "-CAkey", "ca.key"],
    );
    let sub = certs::read_certificates(&pki.path("sub.pem"))
        .unwrap()
        .remove(0);
    let below = List::by("sub").number(1).write(&pki, "sub.crl");
    let group = [pki.ca.certificate().clone(), sub.clone()];
    let made = OffsetDateTime::now_utc() - Duration::from_secs(60);
    let above = |revoked: bool| {
        let request = CrlRequest {
            serials: revoked
                .then(|| serial_of_issued(&pki.ca, &sub).unwrap())
                .into_iter()
                .collect(),
            reason: Reason::default(),
            this_update: made,
            next_update: made + Duration::from_secs(3600),
        };
        let list = lab::revoke(&pki.ca, None, &request).unwrap();
        std::fs::write(pki.path("ca.crl"), list.der).unwrap();
    };
    let names = "group_certificates = ['ca.pem', 'sub.pem']";
    let files = "files = ['ca.crl', 'sub.crl']";
    above(false);
    let gateway = Gateway::builder(&pki)
        .servers(&[server(echo)])
        .replace("group_certificates = ['ca.pem']", names)
        .replace("files = ['ca.crl']", files)
        .start();
    let issuer = x509_name(&sub);
    let status = |now: u64| {
        let files = [pki.path("ca.crl"), below.clone()];
        let (index, _) = load_crls(&files, &group, SystemTime::now()).unwrap();
        index.status(&issuer, public_keys(&group[1..])[0].as_ref(), &[7], now)
    };
    assert_eq!(status(unix_now()), Status::Good);
    assert_eq!(gateway.metric("adit_crl_list_refused", ""), 0.0);
    above(true);
    assert_eq!(status(unix_now()), Status::Unknown);
    until("named", || {
        let page = gateway.get("/readyz").1;
        page.contains("the certificate of its signer is revoked") && page.contains("sub.crl")
    });
    assert_eq!(gateway.metric("adit_crl_list_refused", "sub.crl"), 1.0);
}

/// What OpenSSL can make a list with: arguments for the key, digest, more, and whether that is checked.
const SIGNED: &[(&str, &str, &str, bool)] = &[
    ("ec -pkeyopt ec_paramgen_curve:P-256", "sha256", "", true),
    ("ec -pkeyopt ec_paramgen_curve:P-256", "sha384", "", true),
    ("ec -pkeyopt ec_paramgen_curve:P-256", "sha512", "", true),
    ("ec -pkeyopt ec_paramgen_curve:P-384", "sha256", "", true),
    ("ec -pkeyopt ec_paramgen_curve:P-384", "sha384", "", true),
    ("ec -pkeyopt ec_paramgen_curve:P-384", "sha512", "", true),
    ("ec -pkeyopt ec_paramgen_curve:P-521", "sha256", "", true),
    ("ec -pkeyopt ec_paramgen_curve:P-521", "sha384", "", true),
    ("ec -pkeyopt ec_paramgen_curve:P-521", "sha512", "", true),
    ("rsa:2048", "sha256", "", true),
    ("rsa:2048", "sha384", "", true),
    ("rsa:2048", "sha512", "", true),
    (
        "rsa:2048",
        "sha256",
        "-sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:32",
        true,
    ),
    (
        "rsa:2048",
        "sha384",
        "-sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:48",
        true,
    ),
    (
        "rsa:2048",
        "sha512",
        "-sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:64",
        true,
    ),
    ("ed25519", "default", "", true),
    (
        "rsa:2048",
        "sha256",
        "-sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:20",
        false,
    ),
    ("rsa:2048", "sha1", "", false),
    ("rsa:1024", "sha256", "", false),
    ("ec -pkeyopt ec_paramgen_curve:P-256", "sha1", "", false),
    ("ec -pkeyopt ec_paramgen_curve:P-256", "sha224", "", false),
    (
        "ec -pkeyopt ec_paramgen_curve:secp256k1",
        "sha256",
        "",
        false,
    ),
    (
        "ec -pkeyopt ec_paramgen_curve:P-256 -pkeyopt ec_param_enc:explicit",
        "sha256",
        "",
        false,
    ),
    ("ed448", "default", "", false),
];

#[test]
fn every_signature_that_chains_may_have_is_checked_on_lists_too() {
    let pki = Pki::new();
    let mut made = "";
    for (key, digest, more, is_checked) in SIGNED {
        if *key != made {
            openssl_authority(&pki, "signing", key, &[]);
            made = key;
        }
        let file = List::by("signing")
            .with(digest, more)
            .write(&pki, "signing.crl");
        let group = certs::read_certificates(&pki.path("signing.pem")).unwrap();
        let loaded = load_crls(std::slice::from_ref(&file), &group, SystemTime::now());
        let said = loaded.map(|_| ()).map_err(|error| error.to_string());
        let what = format!("{key} {digest} {more}: {said:?}");
        assert_eq!(said.is_ok(), *is_checked, "{what}");
        if let Err(text) = said {
            // What cannot be checked is another thing than what is wrong.
            assert!(
                text.contains("cannot be checked") && text.contains("remedy"),
                "{what}"
            );
            assert!(
                text.contains("signing.crl") && !text.contains("not signed by"),
                "{what}"
            );
        }
        // By another key of the same kind it is wrong, and is called so.
        if *is_checked {
            openssl_authority(&pki, "other", key, &[]);
            let group = certs::read_certificates(&pki.path("other.pem")).unwrap();
            let text = load_crls(&[file], &group, SystemTime::now())
                .unwrap_err()
                .to_string();
            assert!(text.contains("is not signed by"), "{what}: {text}");
        }
    }
}

fn unix_now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap().as_secs()
}

/// The subject of a certificate, in DER.
fn x509_name(certificate: &[u8]) -> Vec<u8> {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let (_, certificate) = X509Certificate::from_der(certificate).unwrap();
    certificate.subject().as_raw().to_vec()
}
