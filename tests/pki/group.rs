//! Group certificates: what is no authority lets nobody in, and what is said of one is said at import, check, start and while
//! running in the same words.

use std::path::Path;
use std::process::{Command, Output};

use adit::certs::Issued;
use adit::certs::pem::to_pem;
use rcgen::{GeneralSubtree, KeyUsagePurpose, NameConstraints};
use rustls::pki_types::CertificateDer;

use super::made::{Party, end, party, past};
use crate::common::gateway::Builder;
use crate::common::{Gateway, Pki, echo, is_let_in, server, until};

/// `adit` with these arguments in the PKI's folder.
fn told(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    format!("{out}{err}")
}

/// Writes the config with these group certificates, and no revocation.
fn write(pki: &Pki, group: &[CertificateDer<'static>]) {
    std::fs::write(pki.path("group.pem"), to_pem(group)).unwrap();
    config(pki).write();
}

fn config(pki: &Pki) -> Builder<'_> {
    let node = Gateway::builder(pki).servers(&[server(echo)]);
    node.replace("['ca.pem']", "['group.pem']").without_crls()
}

fn check(pki: &Pki) -> (Option<i32>, String) {
    let output = pki.adit(["check", "--config", "adit.toml"]);
    (output.status.code(), told(&output))
}

fn identity(of: &Party, chain: Vec<CertificateDer<'static>>) -> Issued {
    Issued {
        chain,
        key: of.private_key(),
    }
}

#[test]
fn what_is_no_authority_is_refused_everywhere_in_the_same_words() {
    let pki = Pki::new();
    let (root, device) = (party("root"), party("phone"));
    for (der, words) in [
        (device.by(&root, end), "not a certification authority"),
        (
            root.by(&root, |params| {
                params.key_usages = vec![KeyUsagePurpose::CrlSign];
            }),
            "its key usage does not let it sign certificates (no keyCertSign)",
        ),
    ] {
        write(&pki, &[der]);
        for arguments in [
            &["check", "--config", "adit.toml"][..],
            &["run", "--config", "adit.toml"],
            &["certs", "check", "group.pem", "--as", "group"],
            &[
                "certs",
                "import",
                "group.pem",
                "--as",
                "group",
                "--name",
                "g",
                "--state-dir",
                "s",
            ],
        ] {
            let output = pki.adit(arguments);
            let told = told(&output);
            assert!(!output.status.success(), "{arguments:?}: {told}");
            assert!(told.contains(words), "{arguments:?}: {told}");
        }
    }
}

#[test]
fn who_may_not_sign_does_not_let_devices_in() {
    let pki = Pki::new();
    let (root, sub, device) = (party("root"), party("sub"), party("phone"));
    write(&pki, &[root.root()]);
    let gateway = config(&pki).start();
    let good = sub.by(&root, |_| ());
    let mute = sub.by(&root, |params| {
        params.key_usages = vec![KeyUsagePurpose::CrlSign];
    });
    let leaf = device.by(&sub, end);
    let unsigning = device.by(&sub, |params| {
        end(params);
        params.key_usages = vec![KeyUsagePurpose::KeyAgreement];
    });
    assert!(is_let_in(
        &pki,
        &gateway,
        &identity(&device, vec![leaf.clone(), good.clone()])
    ));
    let both = vec![leaf.clone(), mute.clone(), good.clone()];
    assert!(is_let_in(&pki, &gateway, &identity(&device, both)));
    assert!(!is_let_in(
        &pki,
        &gateway,
        &identity(&device, vec![leaf, mute])
    ));
    assert!(!is_let_in(
        &pki,
        &gateway,
        &identity(&device, vec![unsigning, good])
    ));
    until("both refused", || gateway.ended("certificate-usage") == 2.0);
}

#[test]
fn an_expired_one_stops_nobody_but_its_devices() {
    let pki = Pki::new();
    let (new, old, device) = (party("new"), party("old"), party("phone"));
    write(&pki, &[old.by(&old, past)]);
    let (code, told) = check(&pki);
    assert!(code == Some(2) && told.contains("it has expired"), "{told}");
    write(&pki, &[old.by(&old, past), new.root()]);
    let (code, told) = check(&pki);
    assert!(
        code == Some(0) && told.contains("CN=old: it has expired"),
        "{told}"
    );
    let gateway = config(&pki).start();
    assert!(is_let_in(
        &pki,
        &gateway,
        &identity(&device, vec![device.by(&new, end)])
    ));
    assert!(!is_let_in(
        &pki,
        &gateway,
        &identity(&device, vec![device.by(&old, end)])
    ));
    until("one refused", || {
        gateway.ended("certificate-expired") == 1.0
    });
    let file = pki.path("group.pem");
    let labels = format!("role=\"group\",file=\"{}\"", file.display());
    assert!(gateway.metric("adit_certificate_days_left", &labels) < 0.0);
}

#[test]
fn what_is_not_honoured_is_reported_by_the_check() {
    let pki = Pki::new();
    let root = party("root");
    for (tree, is_refused) in [
        (GeneralSubtree::Rfc822Name("corp.test".into()), false),
        (
            GeneralSubtree::DirectoryName(rcgen::DistinguishedName::new()),
            true,
        ),
    ] {
        write(
            &pki,
            &[root.by(&root, |params| {
                params.name_constraints = Some(NameConstraints {
                    permitted_subtrees: vec![tree],
                    excluded_subtrees: Vec::new(),
                });
            })],
        );
        let (code, told) = check(&pki);
        assert_eq!(code != Some(0), is_refused, "{told}");
        assert!(
            told.contains("name constraints on names of the kind"),
            "{told}"
        );
    }
}

#[test]
fn a_version_1_root_is_taken_and_reported() {
    let pki = Pki::new();
    pki.openssl(&[
        "req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", "v1.key", "-subj", "/CN=v1",
        "-out", "v1.csr",
    ]);
    pki.openssl(&[
        "x509",
        "-req",
        "-in",
        "v1.csr",
        "-signkey",
        "v1.key",
        "-days",
        "300",
        "-out",
        "group.pem",
    ]);
    // The same, issued by another: it could be a device's.
    pki.openssl(&[
        "x509",
        "-req",
        "-in",
        "v1.csr",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-days",
        "300",
        "-out",
        "below.pem",
    ]);
    if is_version_1(&pki.path("group.pem")) {
        config(&pki).write();
        let (code, told) = check(&pki);
        assert!(code == Some(0) && told.contains("of version 1"), "{told}");
        std::fs::copy(pki.path("below.pem"), pki.path("group.pem")).unwrap();
    }
    let (code, told) = check(&pki);
    assert!(
        code == Some(2) && told.contains("certification authority"),
        "{told}"
    );
}

/// OpenSSL 3.2 and later make version 3 here.
fn is_version_1(file: &Path) -> bool {
    let output = Command::new("openssl")
        .args(["x509", "-noout", "-text", "-in"])
        .arg(file)
        .output();
    told(&output.unwrap()).contains("Version: 1 ")
}

#[test]
fn a_thousand_names_are_left_out_and_devices_come_in() {
    let pki = Pki::new();
    let (last, device) = (party("last"), party("phone"));
    let sample = last.by(&last, |params| {
        let name = "x".repeat(50);
        params
            .distinguished_name
            .push(rcgen::DnType::OrganizationName, name);
    });
    // The same certificate under other names: that an authority has signed itself is not asked.
    let group: Vec<CertificateDer<'static>> = (0..1000)
        .map(|number: u32| {
            let mut der = sample.to_vec();
            for at in 0..der.len() - 50 {
                if der[at..].starts_with(&[b'x'; 50]) {
                    der[at..at + 8].copy_from_slice(format!("{number:08}").as_bytes());
                }
            }
            der.into()
        })
        .chain([last.root()])
        .collect();
    write(&pki, &group);
    let (code, told) = check(&pki);
    assert!(
        code == Some(0) && told.contains("their list is not sent"),
        "{told}"
    );
    let gateway = config(&pki).start();
    assert!(is_let_in(
        &pki,
        &gateway,
        &identity(&device, vec![device.by(&last, end)])
    ));
}

#[test]
fn certificates_under_another_label_count() {
    let pki = Pki::new();
    let (one, two, device) = (party("one"), party("two"), party("phone"));
    for label in ["TRUSTED CERTIFICATE", "X509 CERTIFICATE"] {
        let second = to_pem(&[two.root()]).replace("CERTIFICATE", label);
        std::fs::write(pki.path("group.pem"), to_pem(&[one.root()]) + &second).unwrap();
        let gateway = config(&pki).start();
        let below = identity(&device, vec![device.by(&two, end)]);
        assert!(is_let_in(&pki, &gateway, &below), "{label}");
    }
}
