//! Imports that are accepted and refused, and the store after them.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::certs::make::Usage;
use crate::certs::pem::pem_block;
use crate::certs::{IssueRequest, Issued, KeyType, Validity, key_matches, read_identity};
use crate::lab::{CertificateAuthority, MakeCa, issue, make_ca};

/// A folder with `ca.pem`, `server.pem` (the end certificate alone), `server.key` and `chain.pem`, and a store.
struct Scratch {
    folder: tempfile::TempDir,
    ca: CertificateAuthority,
    server: Issued,
    store: Store,
}

impl Scratch {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ca = authority("root");
        let server = server(&ca);
        let root = ca.certificate().clone();
        let end = server.chain[0].clone();
        let scratch = Self {
            store: Store::new(&folder.path().join("state")),
            folder,
            ca,
            server,
        };
        scratch.write("ca.pem", &to_pem(std::slice::from_ref(&root)));
        scratch.write("server.pem", &to_pem(std::slice::from_ref(&end)));
        scratch.write("server.key", &key_to_pem(&scratch.server.key));
        scratch.write("chain.pem", &to_pem(&[end, root]));
        scratch
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn openssl(&self, arguments: &str) {
        let output = Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(self.folder.path())
            .output()
            .expect("openssl is installed");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "openssl {arguments}: {told}");
    }

    fn candidate(&self, role: Role, file: &str, key: Option<&str>) -> Candidate {
        let key = key.map(|key| self.path(key));
        Candidate::load(role, &self.path(file), key.as_deref(), None, None).unwrap()
    }

    /// Returns what is in the folder of the store, if there is one.
    fn files(&self, role: Role) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.store.folder(role)) else {
            return Vec::new();
        };
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }
}

fn authority(name: &str) -> CertificateAuthority {
    make_ca(&MakeCa {
        common_name: name.into(),
        days: 900,
        key_type: KeyType::P256,
    })
    .unwrap()
}

fn server(ca: &CertificateAuthority) -> Issued {
    let mut request = IssueRequest::new(Usage::Server, "gw.test", Validity::days(300).unwrap());
    request.dns = vec!["gw.test".into()];
    issue(ca, &request).unwrap()
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn codes(candidate: &Candidate) -> Vec<String> {
    candidate
        .findings()
        .iter()
        .map(|finding| finding.code.to_string())
        .collect()
}

fn mode_of(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

#[test]
fn names_are_those_of_files_and_nothing_else() {
    let longest = "a".repeat(CERTIFICATE_NAME_MAX);
    for right in ["a", "gw.example.com", "2026_fleet-A", "a..b", &longest] {
        assert_eq!(right.parse::<Name>().unwrap().as_str(), right);
    }
    let too_long = "a".repeat(CERTIFICATE_NAME_MAX + 1);
    for wrong in [
        "", ".", "..", ".a", "a/b", "../a", "a b", "a\0", "\u{e4}", &too_long,
    ] {
        let error = wrong.parse::<Name>().unwrap_err().to_string();
        assert!(
            error.contains("is not a valid name of a certificate"),
            "{error}"
        );
        assert!(error.len() < 300 && !error.contains('\0'), "{error}");
    }
}

#[test]
fn whatever_it_came_as_it_is_kept_as_pem_with_its_key_and_without_a_password() {
    let scratch = Scratch::new();
    let export = "pkcs12 -export -in server.pem -inkey server.key -certfile ca.pem";
    scratch.openssl(&format!("{export} -passout pass:pw -out server.p12"));
    scratch.openssl(&format!("{export} -passout pass: -legacy -out legacy.p12"));
    scratch.openssl(
        "crl2pkcs7 -nocrl -certfile ca.pem -certfile server.pem -outform DER -out server.p7b",
    );
    scratch.openssl("pkcs8 -topk8 -in server.key -passout pass:pw -outform DER -out server.pk8");
    let chain = [
        scratch.server.chain[0].clone(),
        scratch.ca.certificate().clone(),
    ];
    for (file, key, password) in [
        ("server.p12", None, Some("pw")),
        ("legacy.p12", None, Some("")),
        ("server.p7b", Some("server.pk8"), Some("pw")),
        ("chain.pem", Some("server.key"), None),
    ] {
        let key = key.map(|key| scratch.path(key));
        let candidate = Candidate::load(
            Role::Server,
            &scratch.path(file),
            key.as_deref(),
            password,
            Some("gw.test"),
        );
        let candidate = candidate.unwrap();
        assert_eq!(candidate.errors(), 0, "{file}: {:?}", candidate.findings());
        let name = name(file);
        scratch.store.put(&name, &candidate, false).unwrap();
        let path = scratch.store.path(Role::Server, &name);
        let (stored, key) = read_identity(&path, None, None).unwrap();
        assert_eq!(stored, chain, "{file}");
        assert!(key_matches(&stored[0], &key), "{file}");
        assert_eq!(mode_of(&path), 0o600);
        let entry = scratch
            .store
            .get(Role::Server, &name, Some("gw.test"))
            .unwrap();
        assert_eq!(entry.findings, [], "{file}");
        let facts = entry.facts.unwrap();
        assert_eq!(
            (facts.subject.as_str(), facts.certificates),
            ("CN=gw.test", 2)
        );
        assert_eq!(facts.names, ["gw.test"]);
        assert_eq!(facts.days_left, 299);
    }
    assert_eq!(mode_of(&scratch.store.folder(Role::Server)), 0o700);
    assert_eq!(
        mode_of(&scratch.store.state_dir.join("certificates")),
        0o700
    );
}

#[test]
fn group_certificates_may_be_several_and_protected_and_their_key_is_not_kept() {
    let scratch = Scratch::new();
    let other = authority("other");
    scratch.write("ca.key", &key_to_pem(&server(&scratch.ca).key));
    let both = [
        scratch.ca.certificate().clone(),
        other.certificate().clone(),
    ];
    scratch.write("bundle.pem", &to_pem(&[&both[..], &both[..1]].concat()));
    scratch.openssl("pkcs12 -export -nokeys -in bundle.pem -passout pass:pw -out group.p12");
    scratch.openssl("crl2pkcs7 -nocrl -certfile bundle.pem -out group.p7b");
    for (file, password) in [
        ("bundle.pem", None),
        ("group.p12", Some("pw")),
        ("group.p7b", None),
    ] {
        let candidate =
            Candidate::load(Role::Group, &scratch.path(file), None, password, None).unwrap();
        let name = name(file);
        scratch.store.put(&name, &candidate, false).unwrap();
        let mut stored = scratch.store.certificates(Role::Group, &name).unwrap();
        // A PKCS#7 file has them in an order of its own.
        stored.sort_by_key(|der| *der != both[0]);
        assert_eq!(stored, both, "{file}");
        assert_eq!(mode_of(&scratch.store.path(Role::Group, &name)), 0o644);
    }
    let listed = scratch.store.list(None).unwrap();
    let listed: Vec<_> = listed
        .iter()
        .map(|entry| (entry.role, entry.name.as_str()))
        .collect();
    let group = Role::Group;
    assert_eq!(
        listed,
        [
            (group, "bundle.pem"),
            (group, "group.p12"),
            (group, "group.p7b")
        ]
    );
    // With a key beside the certificate: it stays where it is.
    scratch.openssl("pkcs12 -export -in server.pem -inkey server.key -certfile ca.pem -passout pass: -out with.p12");
    let wrong = Candidate::load(group, &scratch.path("with.p12"), None, Some(""), None).unwrap();
    assert_eq!(codes(&wrong), ["not-ca"]);
    let (file, key) = (scratch.path("ca.pem"), scratch.path("server.key"));
    assert!(Candidate::load(group, &file, Some(&key), None, None).is_err());
    scratch.write(
        "keyed.pem",
        &(to_pem(&both) + &key_to_pem(&scratch.server.key)),
    );
    let keyed = scratch.candidate(group, "keyed.pem", None);
    scratch.store.put(&name("keyed"), &keyed, false).unwrap();
    let text = fs::read_to_string(scratch.store.path(group, &name("keyed"))).unwrap();
    assert_eq!(text, to_pem(&both));
}

#[test]
fn errors_refuse_and_nothing_is_written() {
    let scratch = Scratch::new();
    let stranger = server(&authority("stranger"));
    scratch.write("stranger.key", &key_to_pem(&stranger.key));
    for (role, file, key, code) in [
        (Role::Server, "chain.pem", None, "no-key"),
        (
            Role::Server,
            "chain.pem",
            Some("stranger.key"),
            "key-mismatch",
        ),
        (Role::Server, "server.pem", Some("server.key"), "no-chain"),
        (Role::Group, "server.pem", None, "not-ca"),
    ] {
        let candidate = scratch.candidate(role, file, key);
        assert!(candidate.errors() > 0, "{file}");
        assert_eq!(codes(&candidate)[0], code);
        let error = scratch.store.put(&name("a"), &candidate, true).unwrap_err();
        assert!(matches!(error, CertError::Findings { .. }), "{error}");
        assert!(scratch.files(role).is_empty());
    }
    assert!(!scratch.path("state").exists());
}

#[test]
fn a_name_that_is_taken_is_replaced_only_where_that_is_asked_for() {
    let scratch = Scratch::new();
    let first = scratch.candidate(Role::Server, "chain.pem", Some("server.key"));
    scratch.store.put(&name("front"), &first, false).unwrap();
    let path = scratch.store.path(Role::Server, &name("front"));
    let before = fs::read(&path).unwrap();
    let renewed = server(&scratch.ca);
    let root = scratch.ca.certificate().clone();
    let text = to_pem(&[renewed.chain[0].clone(), root]) + &key_to_pem(&renewed.key);
    scratch.write("renewed.pem", &text);
    let second = scratch.candidate(Role::Server, "renewed.pem", None);
    let error = scratch
        .store
        .put(&name("front"), &second, false)
        .unwrap_err();
    assert!(matches!(error, CertError::InStore { .. }), "{error}");
    assert!(
        error.to_string().contains("server certificate front"),
        "{error}"
    );
    assert_eq!(fs::read(&path).unwrap(), before);
    scratch.store.put(&name("front"), &second, true).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    assert_eq!(scratch.files(Role::Server), ["front.pem"]);
    scratch.store.delete(Role::Server, &name("front")).unwrap();
    assert!(scratch.files(Role::Server).is_empty());
    for role in Role::ALL {
        let error = scratch.store.delete(role, &name("front")).unwrap_err();
        assert!(matches!(error, CertError::NotInStore { .. }), "{error}");
        assert!(scratch.store.get(role, &name("front"), None).is_err());
        assert!(scratch.store.certificates(role, &name("front")).is_err());
    }
}

#[test]
fn what_is_broken_in_the_store_is_listed_with_what_is_wrong() {
    let scratch = Scratch::new();
    let right = scratch.candidate(Role::Group, "ca.pem", None);
    scratch.store.put(&name("right"), &right, false).unwrap();
    let folder = scratch.store.folder(Role::Group);
    fs::write(
        folder.join("broken.pem"),
        "-----BEGIN CERTIFICATE-----\nAAAA",
    )
    .unwrap();
    // Not the store's: what a killed import left, a name that cannot be, another ending.
    for file in [".right.pem.1.0.tmp", ".hidden.pem", "a b.pem", "notes.txt"] {
        fs::write(folder.join(file), "x").unwrap();
    }
    let listed = scratch.store.list(None).unwrap();
    assert_eq!(listed.len(), 2);
    assert_eq!(listed[0].name.as_str(), "broken");
    assert_eq!(listed[0].facts, None);
    assert_eq!(listed[0].findings[0].code, "unreadable");
    let json = serde_json::to_value(&listed).unwrap();
    assert_eq!(json[0]["kind"], "group");
    assert_eq!(json[0]["findings"][0]["severity"], "error");
    assert_eq!(json[1]["subject"], "CN=root");
    assert_eq!(json[1]["days_left"], 899);
    assert_eq!(json[1]["names"], serde_json::json!([]));
    // A key that was opened to others is told too.
    let server = scratch.candidate(Role::Server, "chain.pem", Some("server.key"));
    scratch.store.put(&name("front"), &server, false).unwrap();
    let path = scratch.store.path(Role::Server, &name("front"));
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    let entry = scratch
        .store
        .get(Role::Server, &name("front"), None)
        .unwrap();
    assert_eq!(entry.findings[0].code, "key-exposed");
}

#[test]
fn imports_at_once_leave_a_whole_certificate_with_its_own_key() {
    let scratch = Scratch::new();
    let root = scratch.ca.certificate().clone();
    let candidates: Vec<Candidate> = (0..4)
        .map(|number| {
            let issued = server(&scratch.ca);
            let text = to_pem(&[issued.chain[0].clone(), root.clone()]) + &key_to_pem(&issued.key);
            let file = format!("{number}.pem");
            scratch.write(&file, &text);
            scratch.candidate(Role::Server, &file, None)
        })
        .collect();
    // Of those that import a new name at once, one succeeds.
    let new = name("new");
    let results = std::thread::scope(|scope| {
        let threads: Vec<_> = candidates
            .iter()
            .map(|candidate| scope.spawn(|| scratch.store.put(&new, candidate, false)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect::<Vec<_>>()
    });
    assert_eq!(
        results.iter().filter(|result| result.is_ok()).count(),
        1,
        "{results:?}"
    );
    // While a name is replaced again and again, each reader sees one that fits its key.
    let done = AtomicBool::new(false);
    let path = scratch.store.path(Role::Server, &new);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reads = 0;
            while !done.load(Ordering::Relaxed) || reads == 0 {
                let (chain, key) = read_identity(&path, None, None).unwrap();
                assert!(chain.len() == 2 && key_matches(&chain[0], &key));
                reads += 1;
            }
        });
        let writers: Vec<_> = candidates
            .iter()
            .map(|candidate| {
                scope.spawn(|| {
                    for _ in 0..20 {
                        scratch.store.put(&new, candidate, true).unwrap();
                    }
                })
            })
            .collect();
        let written: Vec<_> = writers
            .into_iter()
            .map(std::thread::ScopedJoinHandle::join)
            .collect();
        done.store(true, Ordering::Relaxed);
        assert!(written.iter().all(Result::is_ok));
        reader.join().unwrap();
    });
    assert_eq!(scratch.files(Role::Server), ["new.pem"]);
}

/// Every format in which a server certificate or group certificates arrive, as `(role, file, key, password)`.
fn every_format(
    scratch: &Scratch,
) -> Vec<(
    Role,
    &'static str,
    Option<&'static str>,
    Option<&'static str>,
)> {
    let export =
        "pkcs12 -export -in server.pem -inkey server.key -certfile ca.pem -passout pass:pw";
    for command in [
        format!("{export} -out modern.p12"),
        format!("{export} -legacy -out legacy.p12"),
        "pkcs12 -export -nokeys -in ca.pem -passout pass:pw -out group.p12".into(),
        "crl2pkcs7 -nocrl -certfile chain.pem -out chain.p7b".into(),
        "crl2pkcs7 -nocrl -certfile chain.pem -outform DER -out der.p7b".into(),
        "crl2pkcs7 -nocrl -certfile ca.pem -outform DER -out group.p7b".into(),
        "x509 -in ca.pem -outform DER -out ca.der".into(),
        "pkey -in server.key -outform DER -out pkcs8.der".into(),
        "pkey -in server.key -traditional -out sec1.key".into(),
        "pkcs8 -topk8 -in server.key -passout pass:pw -out encrypted.key".into(),
        "pkcs8 -topk8 -in server.key -passout pass:pw -outform DER -out encrypted.der".into(),
    ] {
        scratch.openssl(&command);
    }
    let chain = fs::read_to_string(scratch.path("chain.pem")).unwrap();
    scratch.write("all.pem", &(key_to_pem(&scratch.server.key) + &chain));
    vec![
        (Role::Server, "modern.p12", None, Some("pw")),
        (Role::Server, "legacy.p12", None, Some("pw")),
        (Role::Server, "all.pem", None, None),
        (Role::Server, "chain.pem", Some("sec1.key"), None),
        (Role::Server, "chain.p7b", Some("pkcs8.der"), None),
        (Role::Server, "der.p7b", Some("encrypted.key"), Some("pw")),
        (Role::Server, "der.p7b", Some("encrypted.der"), Some("pw")),
        (Role::Group, "group.p12", None, Some("pw")),
        (Role::Group, "group.p7b", None, None),
        (Role::Group, "ca.pem", None, None),
        (Role::Group, "ca.der", None, None),
    ]
}

#[test]
fn a_file_that_was_cut_off_is_refused_whole_wherever_it_was_cut() {
    let scratch = Scratch::new();
    for (role, file, key, password) in every_format(&scratch) {
        let read = |file: &CertFile, key: Option<&CertFile>| {
            let candidate = Candidate::read(role, file, key, password, None)?;
            scratch.store.put(&name("cut"), &candidate, true)
        };
        let whole = CertFile::load(&scratch.path(file)).unwrap();
        let key = key.map(|key| CertFile::load(&scratch.path(key)).unwrap());
        read(&whole, key.as_ref()).unwrap_or_else(|error| panic!("{file}: {error}"));
        let path = scratch.store.path(role, &name("cut"));
        let stored = fs::read(&path).unwrap();
        let mut refused = 0;
        let cut = |source: &CertFile, length: usize| CertFile {
            path: source.path.clone(),
            bytes: Zeroizing::new(source.bytes[..length].to_vec()),
        };
        for length in (0..whole.bytes.len()).step_by(64) {
            refused += usize::from(read(&cut(&whole, length), key.as_ref()).is_err());
            assert_eq!(fs::read(&path).unwrap(), stored, "{file} at {length}");
        }
        assert_eq!(refused, whole.bytes.len().div_ceil(64), "{file}");
        let Some(key) = &key else { continue };
        for length in (0..key.bytes.len()).step_by(64) {
            let error = read(&whole, Some(&cut(key, length)));
            assert!(error.is_err(), "{file}, key at {length}");
            assert_eq!(fs::read(&path).unwrap(), stored);
        }
    }
}

#[test]
fn wrong_and_missing_passwords_are_told_apart_in_every_format() {
    let scratch = Scratch::new();
    for (role, file, key, password) in every_format(&scratch) {
        let load = |password| {
            let key = key.map(|key| scratch.path(key));
            Candidate::load(role, &scratch.path(file), key.as_deref(), password, None)
        };
        if password.is_none() {
            assert!(load(Some("unneeded")).is_ok(), "{file}");
            continue;
        }
        for wrong in ["", "PW", "pw ", "\u{1f600}"] {
            let error = load(Some(wrong)).err().unwrap();
            assert!(
                matches!(error, CertError::PasswordWrong { .. }),
                "{file}: {error}"
            );
        }
        let error = load(None).err().unwrap();
        let missing = matches!(
            error,
            CertError::PasswordMissing { .. } | CertError::EncryptedKey { .. }
        );
        assert!(missing, "{file}: {error}");
    }
}

#[test]
fn a_zero_byte_in_a_name_is_refused_and_does_not_reach_a_terminal() {
    let scratch = Scratch::new();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    let san = rcgen::string::Ia5String::try_from("gw.test\0.evil.test").unwrap();
    params.subject_alt_names = vec![rcgen::SanType::DnsName(san)];
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let text = pem_block("CERTIFICATE", params.self_signed(&key).unwrap().der())
        + &pem_block("PRIVATE KEY", key.serialized_der());
    scratch.write("zero.pem", &text);
    let path = scratch.path("zero.pem");
    let candidate = Candidate::load(Role::Server, &path, None, None, Some("gw.test")).unwrap();
    let found = codes(&candidate);
    assert!(
        found.iter().any(|code| code == "bad-name") && found.iter().any(|code| code == "name"),
        "{found:?}"
    );
    for finding in candidate.findings() {
        assert!(!finding.to_string().contains('\0'), "{finding:?}");
    }
    assert!(scratch.store.put(&name("zero"), &candidate, false).is_err());
    // The same in the subject of an authority.
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "root\0");
    let root = params.self_signed(&key).unwrap();
    scratch.write("zero-ca.pem", &pem_block("CERTIFICATE", root.der()));
    let group = scratch.candidate(Role::Group, "zero-ca.pem", None);
    assert_eq!(codes(&group), ["bad-name"]);
}
