//! Certificate files that others have made to test other programs with: what they hold comes out, and what is not read is
//! told by its name. Where they come from stands beside them.

use std::path::{Path, PathBuf};

use adit::certs::{self, CertError, Description};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/vectors/pyca")
        .join(name)
}

/// What a file holds: certificates and keys.
fn counted(name: &str, password: Option<&str>) -> (usize, usize) {
    let found = certs::describe_with(&file(name), password);
    let found = found.unwrap_or_else(|error| panic!("{error}"));
    let certificates = found
        .iter()
        .filter(|one| matches!(one, Description::Certificate(_)));
    let keys = found
        .iter()
        .filter(|one| matches!(one, Description::PrivateKey(_)));
    (certificates.count(), keys.count())
}

#[test]
fn pkcs12_of_openssl_java_and_python() {
    for (name, password, held) in [
        ("cert-aes256cbc-no-key.p12", "cryptography", (1, 0)),
        ("cert-key-aes256cbc.p12", "cryptography", (1, 1)),
        ("cert-none-key-none.p12", "cryptography", (1, 1)),
        ("cert-rc2-key-3des.p12", "cryptography", (1, 1)),
        ("no-cert-key-aes256cbc.p12", "cryptography", (0, 1)),
        ("name-unicode-pwd.p12", "password", (3, 1)),
        ("no-password.p12", "", (1, 1)),
        ("java-truststore.p12", "", (2, 0)),
    ] {
        assert_eq!(counted(name, Some(password)), held, "{name}");
        let wrong = certs::describe_with(&file(name), Some("wrong")).unwrap_err();
        assert!(matches!(wrong, CertError::PasswordWrong { .. }), "{wrong}");
        let missing = certs::describe_with(&file(name), None).unwrap_err();
        assert!(
            matches!(missing, CertError::PasswordMissing { .. }),
            "{missing}"
        );
    }
    // The same certificate and key, whatever protects them.
    let plain = certs::read_certificates(&file("ca.pem")).unwrap();
    let key = certs::read_private_key(&file("ca_key.pem")).unwrap();
    for name in [
        "cert-key-aes256cbc.p12",
        "cert-none-key-none.p12",
        "cert-rc2-key-3des.p12",
    ] {
        let (chain, found) = certs::read_identity(&file(name), None, Some("cryptography")).unwrap();
        assert_eq!(chain, plain, "{name}");
        assert_eq!(found.secret_der(), key.secret_der(), "{name}");
    }
}

#[test]
fn pkcs7_in_both_encodings_and_of_kinds_without_certificates() {
    let amazon = certs::read_certificates(&file("amazon-roots.p7b")).unwrap();
    assert_eq!(amazon.len(), 2);
    assert_eq!(
        certs::read_certificates(&file("amazon-roots.der")).unwrap(),
        amazon
    );
    assert_eq!(
        certs::read_certificates(&file("isrg.pem")).unwrap().len(),
        1
    );
    let error = certs::read_certificates(&file("enveloped.pem")).unwrap_err();
    assert!(error.to_string().contains("PKCS#7"), "{error}");
}

#[test]
fn keys_with_passwords_and_encryptions_that_are_not_read() {
    let certificate = file("ca.pem");
    let key = |name: &str, password| {
        certs::read_identity(&certificate, Some(&file(name)), Some(password))
    };
    for (name, password) in [
        ("ec_private_key_encrypted.pem", "123456"),
        ("rsa-aes-192-cbc.pem", "PolarSSLTest"),
        (
            "rsa_pkcs8_pbes2_pbkdf2_2048_3des_sha384.pem",
            "PolarSSLTest",
        ),
    ] {
        assert!(key(name, password).is_ok(), "{name}");
        let wrong = key(name, "wrong").unwrap_err();
        assert!(
            matches!(wrong, CertError::PasswordWrong { .. }),
            "{name}: {wrong}"
        );
    }
    for (name, why) in [
        (
            "ed25519-scrypt.pem",
            "a key derivation other than PBKDF2, which is not read",
        ),
        (
            "enc-ec-sha1-128-rc4.pem",
            "encryption with RC4, which is not read",
        ),
    ] {
        let error = key(name, "password").unwrap_err().to_string();
        assert!(error.contains(why), "{name}: {error}");
    }
}
