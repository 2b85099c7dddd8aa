//! Certificates that are named as `store:NAME`.

use super::*;
use crate::certs::{Reference, Role, Store};

/// A config in which every key that may name a certificate names one of the store.
const EVERY_KEY: &str = r#"state_dir = "state"
[profile]
external = "tunnel.example.com:443"
description = "store:no-certificate"
[profile.server_certificate]
primary = "store:front"
secondary = "store:next"
additional = ["store:rsa", { file = "store:other" }]
[profile.device_auth]
group_certificates = ["store:fleet", "group-ca.pem"]
[profile.device_auth.crl]
files = ["group-ca.crl"]
[[profile.service]]
name = "wiki"
servers = ["10.0.0.5:443"]
tls = true
tls_roots = "store:inner"
tls_certificate = "store:gateway"
sni = ["wiki.example.com"]
sni_certificate = "store:wiki"
[[profile.rule]]
host = "*"
port = "*"
service = "wiki"
"#;

fn reference(role: Role, name: &str) -> Reference {
    let name = name.parse().unwrap();
    Reference { role, name }
}

fn with_stored() -> (Scratch, Vec<Reference>) {
    let place = Scratch::new();
    let all = vec![
        reference(Role::Server, "front"),
        reference(Role::Server, "next"),
        reference(Role::Server, "other"),
        reference(Role::Server, "rsa"),
        reference(Role::Server, "wiki"),
        reference(Role::Group, "fleet"),
        reference(Role::Group, "inner"),
        reference(Role::Client, "gateway"),
    ];
    let store = Store::new(&place.path("state"));
    for Reference { role, name } in &all {
        let path = store.path(*role, name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "x").unwrap();
    }
    (place, all)
}

#[test]
fn every_key_that_names_a_certificate_takes_one_of_the_store() {
    let (place, all) = with_stored();
    let config = place.parse(EVERY_KEY).unwrap();
    let profile = &config.profile;
    let path =
        |kind: &str, name: &str| place.path(&format!("state/certificates/{kind}/{name}.pem"));
    let files = |name: &str| CertificateFiles {
        file: path("server", name),
        key: None,
        password_file: None,
    };
    let certificate = ServerCertificate {
        primary: files("front"),
        secondary: Some(files("next")),
        additional: vec![files("rsa"), files("other")],
    };
    assert_eq!(profile.server_certificate, Some(certificate));
    let group = [path("group", "fleet"), place.path("group-ca.pem")];
    assert_eq!(profile.device_auth.group_certificates, group);
    let service = &profile.services[0];
    assert_eq!(
        service.sni.as_ref().unwrap().certificate,
        Some(files("wiki"))
    );
    let tls = service.reach.tls.as_ref().unwrap();
    assert_eq!(tls.roots, Some(path("group", "inner")));
    let shown = tls.certificate.as_ref().unwrap();
    assert_eq!(shown.file, path("client", "gateway"));
    assert_eq!(profile.stored, all);
    assert_eq!(stored_certificates(EVERY_KEY), all);
    let stored = all.iter();
    let files = stored.map(|one| Store::new(&place.path("state")).path(one.role, &one.name));
    let files = files.chain([place.path("group-ca.pem")]);
    assert_eq!(config.files, files.collect());
    // A profile by itself, and one with a line that is no TOML.
    let alone = EVERY_KEY.replace("state_dir = \"state\"\n", "");
    assert_eq!(stored_certificates(&alone), all);
    let broken = format!("{EVERY_KEY}host = = 1\n");
    assert_eq!(stored_certificates(&broken), all);
}

#[test]
fn one_that_is_missing_or_misspelt_is_told_with_what_imports_it() {
    let (place, all) = with_stored();
    let store = Store::new(&place.path("state"));
    for Reference { role, name } in all {
        let path = store.path(role, &name);
        std::fs::rename(&path, path.with_extension("away")).unwrap();
        let error = place.parse(EVERY_KEY).unwrap_err();
        assert_eq!(error.problems.len(), 1, "{error}");
        let problem = &error.problems[0];
        let said = format!(
            "there is no {} certificate {name} in the store",
            role.word()
        );
        assert!(problem.message.contains(&said), "{problem:?}");
        let remedy = format!("adit certs import FILE --as {} --name {name}", role.word());
        assert!(problem.remedy.contains(&remedy), "{problem:?}");
        std::fs::rename(path.with_extension("away"), path).unwrap();
    }
    for wrong in ["store:", "store:.front", "store:../front", "store:a b"] {
        let error = place
            .parse(&EVERY_KEY.replace("store:front", wrong))
            .unwrap_err();
        assert_eq!(error.problems[0].key, "profile.server_certificate.primary");
        assert!(
            error
                .to_string()
                .contains("is not a valid name of a certificate"),
            "{error}"
        );
    }
}

#[test]
fn what_the_store_has_needs_no_key_and_no_password() {
    let (place, _) = with_stored();
    for (after, key) in [
        ("primary = \"store:front\"", "key = \"server.key\""),
        (
            "primary = \"store:front\"",
            "password_file = \"proxy.pass\"",
        ),
        (
            "sni_certificate = \"store:wiki\"",
            "sni_key = \"server.key\"",
        ),
        (
            "tls_certificate = \"store:gateway\"",
            "tls_key = \"server.key\"",
        ),
    ] {
        let text = EVERY_KEY.replace(after, &format!("{after}\n{key}"));
        let error = place.parse(&text).unwrap_err();
        assert_eq!(error.problems.len(), 1, "{error}");
        assert!(error.to_string().contains("has its key with it"), "{error}");
    }
}
