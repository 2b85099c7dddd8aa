//! Every format in which certificates arrive, made by openssl, whole and damaged.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::certs::make::Usage;
use crate::certs::pem::{key_to_pem, to_pem};
use crate::certs::{
    CertError, IssueRequest, KeyType, Validity, describe, describe_with, read_certificates,
    read_certificates_with, read_crls, read_identity, read_private_key,
};
use crate::files::FileError;
use crate::lab::{MakeCa, issue, make_ca};

/// `ca.pem`, `leaf.pem`, `leaf.key` in a folder, and what is in them.
struct Files {
    folder: tempfile::TempDir,
    ca: CertificateDer<'static>,
    leaf: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Files {
    fn new(key_type: KeyType) -> Self {
        let ca = make_ca(&MakeCa {
            common_name: "formats".into(),
            days: 10,
            key_type: KeyType::P256,
        })
        .unwrap();
        let mut request = IssueRequest::new(Usage::Server, "gw.test", Validity::days(5).unwrap());
        request.dns = vec!["gw.test".into()];
        request.key_type = key_type;
        let issued = issue(&ca, &request).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: String| {
            std::fs::write(folder.path().join(name), text).unwrap();
        };
        write("ca.pem", to_pem(&[ca.certificate().clone()]));
        write("leaf.pem", to_pem(&issued.chain));
        write("leaf.key", key_to_pem(&issued.key));
        Self {
            ca: ca.certificate().clone(),
            leaf: issued.chain[0].clone(),
            key: issued.key,
            folder,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs openssl in the folder; what it must be able to do.
    fn openssl(&self, arguments: &str) -> Vec<u8> {
        let output = Command::new("openssl")
            .args(arguments.split(' ').map(|word| word.trim_matches('\'')))
            .current_dir(self.folder.path())
            .output()
            .expect("openssl is installed");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "openssl {arguments}: {told}");
        output.stdout
    }

    /// A PKCS#12 file of the leaf, its key and the CA, with these options of `openssl pkcs12`.
    fn pkcs12(&self, options: &str) -> PathBuf {
        self.openssl(&format!(
            "pkcs12 -export -in leaf.pem -inkey leaf.key -certfile ca.pem -out file.bin {options}"
        ));
        self.path("file.bin")
    }

    #[track_caller]
    fn opens(&self, path: &Path, password: Option<&str>) {
        let (chain, key) = read_identity(path, None, password).unwrap();
        assert_eq!(chain, [self.leaf.clone(), self.ca.clone()]);
        // The same key: as PKCS#8, whatever it was written as.
        assert!(crate::certs::key_matches(&self.leaf, &key));
    }
}

#[test]
fn pkcs12_is_opened_modern_and_legacy() {
    let files = Files::new(KeyType::P256);
    for options in [
        "",
        "-keypbe AES-128-CBC -certpbe AES-192-CBC -macalg sha384",
        "-keypbe AES-256-CBC -certpbe NONE -macalg sha512 -iter 100000",
        "-legacy",
        "-legacy -descert -macalg sha1",
        "-legacy -keypbe PBE-SHA1-2DES -certpbe PBE-SHA1-RC2-128",
        "-keypbe NONE -certpbe NONE",
    ] {
        let path = files.pkcs12(format!("-passout pass:s\u{e4}cret {options}").trim());
        files.opens(&path, Some("s\u{e4}cret"));
        assert_eq!(
            read_certificates_with(&path, Some("s\u{e4}cret"))
                .unwrap()
                .len(),
            2
        );
        for (password, wrong) in [(Some("secret"), true), (Some(""), true), (None, false)] {
            let error = read_identity(&path, None, password).unwrap_err();
            let right = match error {
                CertError::PasswordWrong { .. } => wrong,
                CertError::PasswordMissing { .. } => !wrong,
                _ => false,
            };
            assert!(right, "{options} {password:?}: {error}");
        }
    }
}

#[test]
fn an_empty_password_is_not_a_missing_one() {
    let files = Files::new(KeyType::P384);
    for options in ["", "-legacy"] {
        let path = files.pkcs12(format!("-passout pass: {options}").trim());
        files.opens(&path, Some(""));
        let error = read_identity(&path, None, None).unwrap_err();
        assert!(
            matches!(error, CertError::PasswordMissing { .. }),
            "{error}"
        );
        assert!(read_identity(&path, None, Some("x")).is_err());
    }
    // Without any protection there is nothing that a password would open.
    let path = files.pkcs12("-keypbe NONE -certpbe NONE -nomac -passout pass:");
    files.opens(&path, None);
    files.opens(&path, Some("whatever"));
}

#[test]
fn pkcs7_is_read_in_both_encodings_and_put_in_order() {
    let files = Files::new(KeyType::P256);
    for form in ["PEM", "DER"] {
        files.openssl(&format!(
            "crl2pkcs7 -nocrl -certfile ca.pem -certfile leaf.pem -outform {form} -out file.p7b"
        ));
        let path = files.path("file.p7b");
        let mut found = read_certificates(&path).unwrap();
        assert_eq!(found, [files.ca.clone(), files.leaf.clone()]);
        let (chain, key) = read_identity(&path, Some(&files.path("leaf.key")), None).unwrap();
        found.reverse();
        assert_eq!(chain, found);
        assert_eq!(key, files.key);
        assert_eq!(describe(&path).unwrap().len(), 2);
        assert!(read_private_key(&path).is_err());
        assert!(read_crls(&path).is_err());
    }
    // A signed message carries its signer's chain.
    files.openssl("cms -sign -signer leaf.pem -inkey leaf.key -certfile ca.pem -in ca.pem -outform DER -stream -out file.p7b");
    assert_eq!(read_certificates(&files.path("file.p7b")).unwrap().len(), 2);
}

#[test]
fn keys_are_read_as_pkcs1_sec1_and_pkcs8_with_and_without_a_password() {
    for &key_type in KeyType::value_variants() {
        keys_of(&Files::new(key_type), key_type != KeyType::Ed25519);
    }
    let mut files = Files::new(KeyType::P256);
    files.openssl("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-521 -nodes -keyout leaf.key -out leaf.pem -subj /CN=gw.test");
    files.leaf = read_certificates(&files.path("leaf.pem"))
        .unwrap()
        .remove(0);
    keys_of(&files, true);
}

#[track_caller]
fn keys_of(files: &Files, has_traditional: bool) {
    let mut forms = vec![
        "pkey -in leaf.key -out file.key",
        "pkey -in leaf.key -outform DER -out file.key",
        "pkcs8 -topk8 -in leaf.key -passout pass:pw -out file.key",
        "pkcs8 -topk8 -in leaf.key -passout pass:pw -outform DER -v2 aes-128-cbc -out file.key",
        "pkcs8 -topk8 -in leaf.key -passout pass:pw -v2 des3 -v2prf hmacWithSHA1 -out file.key",
        "pkcs8 -topk8 -in leaf.key -passout pass:pw -v1 PBE-SHA1-3DES -out file.key",
    ];
    if has_traditional {
        forms.push("pkey -in leaf.key -traditional -out file.key");
        forms.push("pkey -in leaf.key -traditional -outform DER -out file.key");
    }
    for form in forms {
        files.openssl(form);
        let (path, key) = (files.path("leaf.pem"), files.path("file.key"));
        let read = |password| read_identity(&path, Some(&key), password);
        let (_, found) = read(Some("pw")).unwrap_or_else(|error| panic!("{form}: {error}"));
        assert!(crate::certs::key_matches(&files.leaf, &found), "{form}");
        if form.contains("pass:") {
            let missing = read(None).unwrap_err();
            assert!(
                matches!(missing, CertError::EncryptedKey { .. }),
                "{missing}"
            );
            let wrong = read(Some("no")).unwrap_err();
            assert!(matches!(wrong, CertError::PasswordWrong { .. }), "{wrong}");
        }
    }
}

#[test]
fn a_count_of_iterations_beyond_the_bound_is_refused_before_it_is_computed() {
    let files = Files::new(KeyType::P256);
    let many = "1000000000 iterations of key derivation";
    for (salt_and_count, said) in [
        ("0408000102030405060702043b9aca00", many),
        (
            "040800010203040506070209010000000000000000",
            "parameters are broken",
        ),
    ] {
        let inner = hex(salt_and_count);
        let key = sequence(&[
            sequence(&[
                hex("06092a864886f70d01050d"),
                sequence(&[
                    sequence(&[hex("06092a864886f70d01050c"), sequence(&[inner])]),
                    sequence(&[
                        hex("060960864801650304012a"),
                        hex("041000000000000000000000000000000000"),
                    ]),
                ]),
            ]),
            hex("041000000000000000000000000000000000"),
        ]);
        refused_at_once(&files, &key, said);
    }
    let legacy = sequence(&[
        sequence(&[
            hex("060a2a864886f70d010c0103"),
            sequence(&[hex("0408000102030405060702043b9aca00")]),
        ]),
        hex("041000000000000000000000000000000000"),
    ]);
    refused_at_once(&files, &legacy, many);
    let mac = sequence(&[
        sequence(&[
            sequence(&[hex("06052b0e03021a"), hex("0500")]),
            [hex("0414"), vec![0; 20]].concat(),
        ]),
        hex("04080001020304050607"),
        hex("02043b9aca00"),
    ]);
    let empty = data(&sequence(&[]));
    refused(&files, &sequence(&[hex("020103"), empty, mac]), many);
}

/// `key`, an encrypted private key, is refused alone and in a PKCS#12 file.
#[track_caller]
fn refused_at_once(files: &Files, key: &[u8], said: &str) {
    let kind = hex("060b2a864886f70d010c0a0102");
    let bag = sequence(&[sequence(&[kind, tagged(0xa0, key)])]);
    let safe = data(&sequence(&[data(&bag)]));
    refused(files, key, said);
    refused(files, &sequence(&[hex("020103"), safe]), said);
}

#[track_caller]
fn refused(files: &Files, bytes: &[u8], said: &str) {
    let (leaf, path) = (files.path("leaf.pem"), files.path("many"));
    std::fs::write(&path, bytes).unwrap();
    let begun = Instant::now();
    let error = read_identity(&leaf, Some(&path), Some("pw")).unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert!(error.to_string().contains(said), "{error}");
}

/// A `ContentInfo` of plain data.
fn data(content: &[u8]) -> Vec<u8> {
    let inside = tagged(0xa0, &tagged(4, content));
    sequence(&[hex("06092a864886f70d010701"), inside])
}

fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    [&[tag, 0x82], &length[..], content].concat()
}

fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    tagged(0x30, &parts.concat())
}

fn hex(text: &str) -> Vec<u8> {
    let octets = text.as_bytes().chunks(2);
    let octets = octets.map(|pair| std::str::from_utf8(pair).unwrap());
    octets
        .map(|pair| u8::from_str_radix(pair, 16).unwrap())
        .collect()
}

#[test]
fn every_format_cut_at_every_64th_byte_is_an_error() {
    let files = Files::new(KeyType::P256);
    let mut whole = vec![
        std::fs::read(files.pkcs12("-passout pass:pw -iter 2")).unwrap(),
        std::fs::read(files.pkcs12("-passout pass:pw -legacy -iter 2")).unwrap(),
        std::fs::read(files.pkcs12("-nomac -keypbe NONE -certpbe NONE -passout pass:")).unwrap(),
    ];
    for arguments in [
        "crl2pkcs7 -nocrl -certfile leaf.pem -certfile ca.pem",
        "crl2pkcs7 -nocrl -certfile leaf.pem -certfile ca.pem -outform DER",
        "x509 -in leaf.pem",
        "x509 -in leaf.pem -outform DER",
        "pkcs8 -topk8 -in leaf.key -passout pass:pw -iter 2",
        "pkcs8 -topk8 -in leaf.key -passout pass:pw -iter 2 -outform DER",
        "pkey -in leaf.key -traditional",
        "pkey -in leaf.key -outform DER",
    ] {
        whole.push(files.openssl(arguments));
    }
    for bytes in whole {
        let path = files.path("cut");
        let leaf = files.path("leaf.pem");
        let all = |path: &Path| {
            [
                read_certificates_with(path, Some("pw")).map(|_| ()),
                read_identity(&leaf, Some(path), Some("pw")).map(|_| ()),
                describe_with(path, Some("pw")).map(|_| ()),
            ]
        };
        std::fs::write(&path, &bytes).unwrap();
        assert!(all(&path).iter().any(Result::is_ok));
        // A PEM file without its last line end is whole.
        for cut in (0..bytes.len() - 1).step_by(64).chain([bytes.len() - 2]) {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            for result in all(&path) {
                assert!(result.is_err(), "{cut} of {}", bytes.len());
            }
        }
    }
}

#[test]
fn a_changed_octet_never_opens_as_something_else() {
    let files = Files::new(KeyType::P256);
    for options in [
        "-passout pass:pw -iter 2",
        "-passout pass:pw -legacy -iter 2",
    ] {
        let whole = std::fs::read(files.pkcs12(options)).unwrap();
        let path = files.path("changed");
        for place in (0..whole.len()).step_by(7) {
            let mut bytes = whole.clone();
            bytes[place] ^= 0x41;
            std::fs::write(&path, &bytes).unwrap();
            if let Ok((chain, _)) = read_identity(&path, None, Some("pw")) {
                // What is outside the MAC's reach, such as the optional parameters of its digest, may differ.
                assert_eq!(chain, [files.leaf.clone(), files.ca.clone()], "{place}");
            }
        }
    }
}

#[test]
fn a_file_beyond_the_bound_is_refused_unread() {
    let files = Files::new(KeyType::P256);
    let path = files.path("large.p12");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(100 * 1024 * 1024).unwrap();
    let error = read_identity(&path, None, Some("pw")).unwrap_err();
    assert!(
        matches!(error, CertError::File(FileError::TooLarge { .. })),
        "{error}"
    );
}
