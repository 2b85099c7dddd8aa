//! Chains of servers: what the gateway shows of a file, and what it accepts of a server.

use std::net::SocketAddr;

use adit::certs::pem::{pem_block, to_pem};
use adit::certs::{Issued, read_certificates, read_private_key};
use rustls::pki_types::CertificateDer;

use super::made::{end, party, past};
use crate::common::outbound::{Tls, round_trip, service};
use crate::common::{Gateway, Pki, World, free_port, s_client_says};

fn adit(pki: &Pki, arguments: &[&str]) -> (bool, String) {
    let output = pki.adit(arguments);
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    (output.status.success(), format!("{out}{err}"))
}

/// Starts a gateway that shows this file, and says what it sends.
fn shown(pki: &Pki, file: &[CertificateDer<'static>], key: &str) -> Vec<CertificateDer<'static>> {
    let text = to_pem(file) + key;
    pki.secret("own.pem", &text);
    let gateway = Gateway::builder(pki)
        .servers(&[free_port()])
        .certificate(Some("primary = 'own.pem'"))
        .start();
    let said = s_client_says(pki, &gateway, "localhost", &["-showcerts"]);
    std::fs::write(pki.path("shown.pem"), said).unwrap();
    read_certificates(&pki.path("shown.pem")).unwrap()
}

#[test]
fn the_right_chain_is_sent_whatever_else_has_its_names() {
    let pki = Pki::new();
    let (root, older, issuing, before) = (
        party("root"),
        party("older"),
        party("issuing"),
        party("issuing"),
    );
    let own = party("localhost");
    let leaf = own.by(&issuing, |params| {
        end(params);
        params.subject_alt_names = vec![rcgen::SanType::DnsName("localhost".try_into().unwrap())];
    });
    let good = issuing.by(&root, |_| ());
    let key = pem_block("PRIVATE KEY", own.key.serialized_der());
    pki.client("device", |_| ());
    for other in [
        before.by(&root, |_| ()),
        issuing.by(&root, past),
        root.by(&older, past),
    ] {
        let file = [leaf.clone(), other, root.root(), good.clone()];
        let sent = shown(&pki, &file, &key);
        // s_client prints the end certificate once more.
        assert_eq!(sent[..2], [leaf.clone(), good.clone()]);
        assert!(sent[2..].iter().all(|der| *der == leaf), "{}", sent.len());
    }
}

const PINNED: &str = "tls = true\ntls_name = 'localhost'\ntls_roots = 'self.pem'";

/// A TLS server with a certificate as `openssl req -x509` makes it; written to self.pem, too.
fn self_signed(pki: &Pki) -> SocketAddr {
    pki.openssl(&[
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        "self.key",
        "-out",
        "self.pem",
        "-subj",
        "/CN=localhost",
        "-days",
        "30",
        "-addext",
        "subjectAltName=DNS:localhost",
    ]);
    let identity = Issued {
        chain: read_certificates(&pki.path("self.pem")).unwrap(),
        key: read_private_key(&pki.path("self.key")).unwrap(),
    };
    Tls::new(identity).echo()
}

#[test]
fn a_self_signed_certificate_among_the_roots_is_a_pin() {
    let pki = Pki::new();
    let server = self_signed(&pki).to_string();
    let world = World::of(pki, |node| node.rest(&service(&server, PINNED)));
    round_trip(world.tunnel("a.test:1"), b"pinned");
    let (fine, told) = adit(&world.pki, &["check", "--config", "adit.toml", "--probe"]);
    assert!(fine, "{told}");
}

#[test]
fn another_certificate_than_the_pinned_is_refused_in_plain_words() {
    let pki = Pki::new();
    let server = self_signed(&pki).to_string();
    std::fs::rename(pki.path("self.pem"), pki.path("other.pem")).unwrap();
    let _ = self_signed(&pki);
    let world = World::of(pki, |node| node.rest(&service(&server, PINNED)));
    assert!(
        world.answer("a.test:1").starts_with("HTTP/1.1 502 "),
        "{}",
        world.answer("a.test:1")
    );
    let (fine, told) = adit(&world.pki, &["check", "--config", "adit.toml", "--probe"]);
    assert!(!fine && told.contains("certificate: "), "{told}");
    for debug in ["(", "Error", "::", "{"] {
        let line = told
            .lines()
            .find(|line| line.contains("certificate: "))
            .unwrap();
        assert!(!line.contains(debug), "{line}");
    }
}

/// An end certificate among the roots vouches for itself alone.
#[test]
fn what_a_pin_has_signed_is_not_accepted() {
    let pki = Pki::new();
    let (pinned, other) = (party("pinned"), party("localhost"));
    std::fs::write(pki.path("self.pem"), to_pem(&[pinned.by(&pinned, end)])).unwrap();
    let below = other.by(&pinned, |params| {
        end(params);
        params.subject_alt_names = vec![rcgen::SanType::DnsName("localhost".try_into().unwrap())];
    });
    let identity = Issued {
        chain: vec![below],
        key: other.private_key(),
    };
    let server = Tls::new(identity).echo().to_string();
    let world = World::of(pki, |node| node.rest(&service(&server, PINNED)));
    assert!(
        world.answer("a.test:1").starts_with("HTTP/1.1 502 "),
        "{}",
        world.answer("a.test:1")
    );
}
