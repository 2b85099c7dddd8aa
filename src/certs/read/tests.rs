//! Tests of reading certificates and keys.

use super::*;
use crate::certs::make::Usage;
use crate::certs::pem::{key_to_pem, pem_block, to_pem};
use crate::certs::{IssueRequest, KeyType, Validity, read_crls};
use crate::files::FileError;
use crate::lab::{MakeCa, issue, make_ca};
use clap::ValueEnum;
use std::path::PathBuf;

struct Fixture {
    folder: tempfile::TempDir,
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Fixture {
    fn new(key_type: KeyType) -> Self {
        let ca = make_ca(&MakeCa {
            common_name: "read".into(),
            days: 10,
            key_type: KeyType::P256,
        })
        .unwrap();
        let mut request = IssueRequest::new(Usage::Client, "device", Validity::days(5).unwrap());
        request.key_type = key_type;
        let issued = issue(&ca, &request).unwrap();
        let certificates = vec![issued.chain[0].clone(), ca.certificate().clone()];
        Self {
            folder: tempfile::tempdir().unwrap(),
            certificates,
            key: issued.key,
        }
    }

    fn file(&self, content: impl AsRef<[u8]>) -> PathBuf {
        // The ending says the wrong thing on purpose.
        let path = self.folder.path().join("file.crl");
        std::fs::write(&path, content).unwrap();
        path
    }
}

#[test]
fn a_bundle_in_any_order_with_text_between_is_read() {
    let fixture = Fixture::new(KeyType::P256);
    let text = format!(
        "\u{feff}Bag Attributes\r\n{}some words\n{}-----BEGIN DH PARAMETERS-----\nAAAA\n-----END DH PARAMETERS-----\n{}",
        to_pem(&fixture.certificates[..1]).replace('\n', "\r\n"),
        key_to_pem(&fixture.key),
        to_pem(&fixture.certificates[1..]).trim_end(),
    );
    let path = fixture.file(text);
    assert_eq!(read_certificates(&path).unwrap(), fixture.certificates);
    assert_eq!(read_private_key(&path).unwrap(), fixture.key);
    let error = read_crls(&path).unwrap_err().to_string();
    assert!(
        error.contains("file.crl")
            && error.contains("only: CERTIFICATE, PRIVATE KEY, DH PARAMETERS"),
        "{error}"
    );
}

#[test]
fn a_block_whose_beginning_is_damaged_is_never_left_out_in_silence() {
    let fixture = Fixture::new(KeyType::P256);
    let good = to_pem(&fixture.certificates[..1]);
    let second = to_pem(&fixture.certificates[1..]);
    let at = good.lines().count() + 1;
    let begin = "-----BEGIN CERTIFICATE-----";
    let quoted: String = second.lines().map(|line| format!("> {line}\n")).collect();
    let indented: String = second.lines().map(|line| format!("  {line}\n")).collect();
    let is_refused = |text: String, damage: &str| {
        let read = read_certificates(&fixture.file(text));
        let error = read.expect_err(damage).to_string();
        assert!(
            error.contains("line ") && error.contains("file.crl"),
            "{damage}: {error}"
        );
        error
    };
    for (damaged, line) in [
        (second.replace(begin, "----BEGIN CERTIFICATE-----"), at),
        (second.replace(begin, "------BEGIN CERTIFICATE-----"), at),
        (second.replace(begin, "  -----BEGIN CERTIFICATE-----"), at),
        (second.replace(begin, "\t-----BEGIN CERTIFICATE-----"), at),
        (second.replace(begin, "-----begin certificate-----"), at),
        (second.replace(begin, "-----Begin CERTIFICATE-----"), at),
        (second.to_lowercase(), at),
        (second.replace("-----", "----"), at),
        (second.replace(begin, "> -----BEGIN CERTIFICATE-----"), at),
        (
            second.replace(begin, "\u{2014}BEGIN CERTIFICATE\u{2014}"),
            at + 1,
        ),
        (second.replace("-----", "\u{2014}"), at + 1),
        (second.replace(&format!("{begin}\n"), ""), at),
        (second.lines().last().unwrap().to_owned(), at),
        (quoted, at),
        (indented, at),
    ] {
        let error = is_refused(good.clone() + &damaged, &damaged);
        assert!(
            error.contains(&format!("line {line} ")),
            "{damaged}: {error}"
        );
        // In front of the good one as well, which must not stand for both.
        is_refused(format!("{damaged}\n{good}"), &damaged);
    }
    // Whatever octet of the two marks is lost or another: never one certificate of two.
    let lengths = [begin.len(), "-----END CERTIFICATE-----".len()];
    let places =
        (0..lengths[0]).chain(second.trim_end().len() - lengths[1]..second.trim_end().len());
    for place in places {
        for other in ["", "x", " ", "-"] {
            let mut damaged = second.clone();
            damaged.replace_range(place..=place, other);
            if damaged == second {
                continue;
            }
            let read = read_certificates(&fixture.file(good.clone() + &damaged));
            let is_whole = read.as_ref().is_ok_and(|read| read.len() == 2);
            assert!(read.is_err() || is_whole, "{damaged}");
        }
    }
}

#[test]
fn lines_may_end_in_carriage_returns_alone() {
    let fixture = Fixture::new(KeyType::P256);
    let text = to_pem(&fixture.certificates) + &key_to_pem(&fixture.key);
    for ends in ["\r", "\r\n"] {
        let path = fixture.file(text.replace('\n', ends));
        assert_eq!(read_certificates(&path).unwrap(), fixture.certificates);
        assert_eq!(read_private_key(&path).unwrap(), fixture.key);
        let lines = to_pem(&fixture.certificates).lines().count();
        let cut = to_pem(&fixture.certificates) + "-----BEGIN CERTIFICATE-----\n";
        let error = read_certificates(&fixture.file(cut.replace('\n', ends)));
        let error = error.unwrap_err().to_string();
        assert!(error.contains(&format!("line {} ", lines + 1)), "{error}");
    }
}

#[test]
fn der_is_told_by_content() {
    let fixture = Fixture::new(KeyType::P384);
    let path = fixture.file(&fixture.certificates[0]);
    assert_eq!(read_certificates(&path).unwrap(), fixture.certificates[..1]);
    assert!(read_private_key(&path).is_err());
    let path = fixture.file(fixture.key.secret_der());
    assert_eq!(read_private_key(&path).unwrap(), fixture.key);
    assert!(read_certificates(&path).is_err());
}

#[test]
fn a_certificate_cut_anywhere_is_refused() {
    let fixture = Fixture::new(KeyType::P256);
    let pem = to_pem(&fixture.certificates[..1]);
    for length in 0..pem.trim_end().len() {
        let path = fixture.file(&pem[..length]);
        assert!(
            read_certificates(&path).is_err(),
            "{length} characters of PEM"
        );
    }
    let der = &fixture.certificates[0];
    for length in 0..der.len() {
        let path = fixture.file(&der[..length]);
        let error = read_certificates(&path).unwrap_err().to_string();
        assert!(
            length < 4 || error.contains("truncated"),
            "{length} bytes of DER: {error}"
        );
    }
    let path = fixture.file([der.as_ref(), b"x"].concat());
    assert!(
        read_certificates(&path)
            .unwrap_err()
            .to_string()
            .contains("1 bytes follow")
    );
}

#[test]
fn a_broken_block_is_named_by_its_line() {
    let fixture = Fixture::new(KeyType::P256);
    let good = to_pem(&fixture.certificates[..1]);
    let lines = good.lines().count();
    for broken in [
        "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n".to_owned(),
        pem_block("CERTIFICATE", b"\x30\x03\x02\x01\x01"),
    ] {
        let error = read_certificates(&fixture.file(good.clone() + &broken))
            .unwrap_err()
            .to_string();
        assert!(error.contains(&format!("line {}", lines + 1)), "{error}");
    }
}

#[test]
fn every_key_kind_is_read_and_no_error_shows_a_key() {
    for &key_type in KeyType::value_variants() {
        let fixture = Fixture::new(key_type);
        let pem = key_to_pem(&fixture.key);
        assert_eq!(read_private_key(&fixture.file(&pem)).unwrap(), fixture.key);
        assert!(key_matches(&fixture.certificates[0], &fixture.key));
        assert!(!key_matches(&fixture.certificates[1], &fixture.key));

        let body = pem.lines().nth(1).unwrap().to_owned();
        let secret = &body[20..40];
        for bad in [
            pem.replacen(secret, &format!("{}*", &secret[1..]), 1),
            pem.replacen(&body, &format!("{body}{body}"), 1),
            pem[..pem.len() - 10].to_owned(),
            pem.clone() + &pem,
            pem.replacen("PRIVATE KEY-----\n", "PRIVATE KEY\n", 1),
            pem.replace("PRIVATE", "EC PRIVATE"),
            body.clone(),
        ] {
            match read_private_key(&fixture.file(&bad)) {
                Err(error) => {
                    let texts = format!("{error} {error:?}");
                    assert!(!texts.contains(&secret[1..]), "{texts}");
                    assert!(texts.contains("file.crl"), "{texts}");
                }
                // OpenSSL's code takes PKCS#8 under the label of SEC1, as other readers do.
                Ok(_) => assert!(bad.contains("EC PRIVATE"), "accepted: {key_type:?}"),
            }
        }
    }
}

#[test]
fn an_encrypted_key_is_called_that_in_each_of_its_forms() {
    let fixture = Fixture::new(KeyType::P256);
    // SEQUENCE { SEQUENCE { OID pbes2 }, OCTET STRING }: the frame of RFC 5958's EncryptedPrivateKeyInfo.
    let der = b"\x30\x12\x30\x0b\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x05\x0d\x04\x03abc";
    let legacy = "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n-----END EC PRIVATE KEY-----\n";
    for content in [
        der.to_vec(),
        pem_block("ENCRYPTED PRIVATE KEY", der).into_bytes(),
    ] {
        let error = read_private_key(&fixture.file(&content)).unwrap_err();
        assert!(matches!(error, CertError::EncryptedKey { .. }), "{error}");
    }
    // A password helps with this one in no way, and is not asked for.
    let error = read_private_key(&fixture.file(legacy))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("old way") && error.contains("openssl pkcs8 -topk8"),
        "{error}"
    );
    let bundle = legacy.to_owned() + &to_pem(&fixture.certificates);
    assert_eq!(
        read_certificates(&fixture.file(bundle)).unwrap(),
        fixture.certificates
    );
}

#[test]
fn what_is_no_certificate_file_is_refused_with_its_path() {
    let fixture = Fixture::new(KeyType::P256);
    for content in ["", "hello", "-----BEGIN", "0", "\u{feff}"] {
        let error = read_certificates(&fixture.file(content))
            .unwrap_err()
            .to_string();
        assert!(error.contains("file.crl"), "{content:?}: {error}");
    }
    assert!(
        read_certificates(fixture.folder.path())
            .unwrap_err()
            .to_string()
            .contains("cannot read")
    );
    let missing = fixture.folder.path().join("missing.pem");
    assert!(
        read_crls(&missing)
            .unwrap_err()
            .to_string()
            .contains("missing.pem")
    );
    let large = std::fs::File::create(fixture.folder.path().join("large")).unwrap();
    large.set_len(MAX_CERTIFICATE_FILE + 1).unwrap();
    let error = read_private_key(&fixture.folder.path().join("large")).unwrap_err();
    assert!(
        matches!(error, CertError::File(FileError::TooLarge { .. })),
        "{error}"
    );
}

#[test]
fn certificates_under_other_labels_are_read() {
    let fixture = Fixture::new(KeyType::P256);
    let plain = to_pem(&fixture.certificates);
    for label in [
        "X509 CERTIFICATE",
        "TRUSTED CERTIFICATE",
        "SOME CERTIFICATE",
    ] {
        let second = to_pem(&fixture.certificates[1..]).replace("CERTIFICATE", label);
        let text = to_pem(&fixture.certificates[..1]) + &second;
        let read = read_certificates(&fixture.file(text)).unwrap();
        assert_eq!(read, fixture.certificates, "{label}");
    }
    // What is something else is passed over, under its own label only.
    let request = plain.clone()
        + "-----BEGIN CERTIFICATE REQUEST-----\nMAA=\n-----END CERTIFICATE REQUEST-----\n";
    assert_eq!(
        read_certificates(&fixture.file(request)).unwrap(),
        fixture.certificates
    );
    let broken = plain + "-----BEGIN X509 CERTIFICATE-----\nMAA=\n-----END X509 CERTIFICATE-----\n";
    let error = read_certificates(&fixture.file(broken))
        .unwrap_err()
        .to_string();
    assert!(error.contains("certificate that begins on line"), "{error}");
}

/// OpenSSL's settings behind a certificate are cut off, unless they say that it is not for TLS.
#[test]
fn openssls_settings_of_trust_count() {
    let fixture = Fixture::new(KeyType::P256);
    let folder = fixture.folder.path();
    std::fs::write(folder.join("ca.pem"), to_pem(&fixture.certificates[1..])).unwrap();
    let with = |settings: &str| {
        let output = std::process::Command::new("openssl")
            .args("x509 -in ca.pem -trustout -out trusted.pem".split(' '))
            .args(settings.split_whitespace())
            .current_dir(folder)
            .output()
            .expect("openssl is installed");
        assert!(output.status.success(), "{output:?}");
        let text = std::fs::read_to_string(folder.join("trusted.pem")).unwrap();
        assert!(text.contains("TRUSTED CERTIFICATE"), "{text}");
        read_certificates(&folder.join("trusted.pem")).map_err(|error| error.to_string())
    };
    let read = |settings| {
        assert_eq!(
            with(settings).unwrap(),
            fixture.certificates[1..],
            "{settings}"
        );
    };
    read("");
    read("-setalias group");
    read("-addtrust clientAuth -setalias group");
    read("-addtrust anyExtendedKeyUsage");
    read("-addreject emailProtection");
    for settings in [
        "-addtrust emailProtection",
        "-addreject clientAuth",
        "-addreject anyExtendedKeyUsage",
    ] {
        let error = with(settings).unwrap_err();
        assert!(
            error.contains("line 1 is marked as not trusted for TLS"),
            "{settings}: {error}"
        );
    }
}

#[test]
fn a_missing_line_break_is_named_with_its_line() {
    let fixture = Fixture::new(KeyType::P256);
    let one = to_pem(&fixture.certificates[..1]);
    let lines = one.lines().count();
    let joined = one.trim_end().to_owned() + &one;
    let error = read_certificates(&fixture.file(joined))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&format!("a line break is missing on line {lines},")),
        "{error}"
    );
    let before_end = one.replace("\n-----END", "-----END");
    let error = read_certificates(&fixture.file(before_end))
        .unwrap_err()
        .to_string();
    assert!(error.contains("a line break is missing on line"), "{error}");
    // Outside of a block it is a comment.
    let comment = format!("# was: -----BEGIN CERTIFICATE-----\n{one}");
    assert_eq!(read_certificates(&fixture.file(comment)).unwrap().len(), 1);
}

#[test]
fn text_in_utf16_is_said_to_be_that() {
    let fixture = Fixture::new(KeyType::P256);
    let text = to_pem(&fixture.certificates) + &key_to_pem(&fixture.key);
    let wide = |mark: [u8; 2], octets: fn(u16) -> [u8; 2]| {
        let letters = text.encode_utf16().flat_map(octets);
        mark.into_iter().chain(letters).collect::<Vec<u8>>()
    };
    for bytes in [
        wide([0xff, 0xfe], u16::to_le_bytes),
        wide([0xfe, 0xff], u16::to_be_bytes),
    ] {
        let path = fixture.file(bytes);
        for error in [
            read_certificates(&path).unwrap_err().to_string(),
            read_private_key(&path).unwrap_err().to_string(),
        ] {
            assert!(error.contains("UTF-16; save it as plain text"), "{error}");
        }
    }
}

#[test]
fn explicit_curve_parameters_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let openssl = |arguments: &str| {
        let output = std::process::Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(folder.path())
            .output()
            .expect("openssl is installed");
        assert!(output.status.success(), "{output:?}");
    };
    openssl("ecparam -name prime256v1 -genkey -noout -param_enc explicit -out sec1.key");
    openssl("pkcs8 -topk8 -nocrypt -in sec1.key -out pkcs8.key");
    for file in ["sec1.key", "pkcs8.key"] {
        let error = read_private_key(&folder.path().join(file))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("explicit elliptic curve parameters"),
            "{error}"
        );
        assert!(error.contains("-ec_param_enc named_curve"), "{error}");
    }
}
