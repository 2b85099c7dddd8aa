//! Certificates as administrators have them: in every format, with and without passwords.

use crate::common;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use common::gateway::Builder;
use common::{Gateway, Pki, World, ask, connect, echo, free_port, request, server, until};

/// A PKCS#12 file of the server's certificate, with its authority, and a file with its password.
fn pkcs12(pki: &Pki, password: &str, more: &[&str]) {
    pki.pkcs12("server.bin", "server", password, more);
    pki.secret("server.pass", &format!("{password}\n"));
}

/// The config with the server certificate from these lines.
fn config<'p>(pki: &'p Pki, lines: &str, backend: SocketAddr) -> Builder<'p> {
    let node = Gateway::builder(pki).servers(&[backend]);
    node.certificate(Some(lines))
}

fn check_config(pki: &Pki) -> Output {
    pki.adit(["check", "--config", "adit.toml"])
}

/// A device gets through a gateway with this config.
fn goes_through(pki: &Pki, config: &Builder<'_>) {
    let device = pki.client("device", |_| ());
    let gateway = config.start();
    let mut session = connect(pki, &gateway, Some(&device));
    let answer = ask(&mut session, &request("web.test:80")).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn the_server_certificate_may_be_pkcs12_modern_or_legacy() {
    let backend = server(echo);
    for (password, options) in [
        ("hunter2", &[][..]),
        ("hunter2", &["-legacy"]),
        ("", &["-legacy"]),
    ] {
        let pki = Pki::new();
        pkcs12(&pki, password, options);
        let lines = "primary = 'server.bin'\npassword_file = 'server.pass'";
        goes_through(&pki, &config(&pki, lines, backend));
    }
}

#[test]
fn group_certificates_may_be_pkcs7_or_pkcs12() {
    let backend = server(echo);
    let pki = Pki::new();
    let lines = "primary = 'server.pem'\nkey = 'server.key'";
    pki.openssl(&[
        "crl2pkcs7",
        "-nocrl",
        "-certfile",
        "ca.pem",
        "-outform",
        "DER",
        "-out",
        "ca.p7b",
    ]);
    std::fs::copy(pki.path("ca.pem"), pki.path("kept.pem")).unwrap();
    std::fs::copy(pki.path("ca.p7b"), pki.path("ca.pem")).unwrap();
    config(&pki, lines, backend).write();
    let told = check_config(&pki);
    assert!(
        told.status.success(),
        "{}",
        String::from_utf8_lossy(&told.stderr)
    );

    pki.openssl(&[
        "pkcs12", "-export", "-nokeys", "-in", "kept.pem", "-out", "ca.pem", "-passout", "pass:pw",
    ]);
    let told = check_config(&pki);
    assert_eq!(told.status.code(), Some(2));
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(
        told.contains("ca.pem") && told.contains("group_password_file"),
        "{told}"
    );
    pki.secret("group.pass", "pw");
    let password = "unmanaged = 'allow'\ngroup_password_file = 'group.pass'";
    config(&pki, lines, backend).auth(password).write();
    let told = check_config(&pki);
    assert!(
        told.status.success(),
        "{}",
        String::from_utf8_lossy(&told.stderr)
    );
}

#[test]
fn a_wrong_password_a_missing_one_and_a_readable_one_are_told_apart() {
    let pki = Pki::new();
    let backend = free_port();
    pkcs12(&pki, "hunter2", &[]);
    let refused = |lines: &str, words: &[&str]| {
        config(&pki, lines, backend).write();
        let told = check_config(&pki);
        assert_eq!(told.status.code(), Some(2));
        let told = String::from_utf8_lossy(&told.stderr).into_owned();
        for word in words {
            assert!(told.contains(word), "{word}: {told}");
        }
        assert!(!told.contains("hunter"), "{told}");
    };
    refused(
        "primary = 'server.bin'",
        &["server.bin", "none is given", "password_file"],
    );
    let both = "primary = 'server.bin'\npassword_file = 'server.pass'";
    pki.secret("server.pass", "hunter3\n");
    refused(both, &["server.bin", "the password is wrong"]);
    pki.secret("server.pass", "hunter2");
    let mode = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(pki.path("server.pass"), mode).unwrap();
    refused(both, &["server.pass", "chmod 600"]);
    pki.secret("server.pass", "hunter2");
    let told = pki.adit("certs show server.bin --password-file server.pass".split(' '));
    let told = String::from_utf8(told.stdout).unwrap();
    assert!(
        told.contains("CN=localhost") && told.contains("Private key: ECDSA P-256"),
        "{told}"
    );
}

#[test]
fn findings_are_shown_to_people_and_programs_and_errors_are_the_exit_code() {
    let pki = Pki::new();
    pki.pkcs12("server.bin", "server", "pw", &[]);
    pki.secret("server.pass", "pw");
    let check = |more: &[&str]| {
        let mut arguments = vec!["certs", "check"];
        arguments.extend(more);
        let output = pki.adit(&arguments);
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
        )
    };
    let whole = ["server.bin", "--password-file", "server.pass", "--name"];
    let (code, told) = check(&[&whole[..], &["localhost"]].concat());
    assert_eq!(code, Some(0), "{told}");
    assert!(
        told.contains("warning  expires-urgent") && told.contains("0 errors"),
        "{told}"
    );
    let (code, told) = check(&[&whole[..], &["other.test", "--json"]].concat());
    assert_eq!(code, Some(0), "{told}");
    let report: serde_json::Value = serde_json::from_str(&told).unwrap();
    let findings = report["findings"].as_array().unwrap();
    assert!(
        findings
            .iter()
            .any(|finding| finding["code"] == "name" && finding["severity"] == "warning")
    );
    let (code, told) = check(&["server.pem", "--key", "ca.key", "--json"]);
    assert_eq!(code, Some(1), "{told}");
    let report: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!(report["errors"], 2, "{told}");
    assert_eq!(check(&["server.pem", "--as", "group"]).0, Some(1));
    assert_eq!(check(&["ca.pem", "--as", "group"]).0, Some(0));
}

#[test]
fn the_configured_certificate_is_looked_at_too() {
    let pki = Pki::new();
    let told = |lines: &str| {
        config(&pki, lines, free_port()).write();
        let output = check_config(&pki);
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    let (code, text) = told("primary = 'server.pem'\nkey = 'server.key'");
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("server.pem: CN=localhost: it expires in"),
        "{text}"
    );
    let mode = std::fs::Permissions::from_mode(0o644);
    assert!(!text.contains("others may read"), "{text}");
    std::fs::set_permissions(pki.path("server.key"), mode).unwrap();
    let (code, text) = told("primary = 'server.pem'\nkey = 'server.key'");
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("others may read the private key in"),
        "{text}"
    );
    let (code, text) = told("primary = 'server.pem'\nkey = 'ca.key'");
    assert_eq!(code, Some(2), "{text}");
    assert!(
        text.contains("server.pem: CN=localhost: the private key does not belong to it"),
        "{text}"
    );
    pki.client("device", |_| ());
    let (code, text) = told("primary = 'device.pem'\nkey = 'device.key'");
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("not a server certificate"), "{text}");
}

#[test]
fn a_reload_to_a_certificate_with_errors_is_refused_and_the_old_one_serves_on() {
    let world = World::new(|node| node.servers(&[server(echo)]));
    let served = || {
        let mut session = world.connect();
        let answer = ask(&mut session, &request("web.test:80")).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    };
    served();
    for ending in ["pem", "key"] {
        let (from, to) = (format!("device.{ending}"), format!("server.{ending}"));
        std::fs::copy(world.pki.path(&from), world.pki.path(&to)).unwrap();
    }
    world.gateway.signal("HUP");
    until("the reload is refused", || {
        world
            .gateway
            .metric("adit_config_reload_failures_total", "")
            == 1.0
    });
    served();
}
