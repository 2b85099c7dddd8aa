//! TLS to servers: versions, records, and whose certificate is good.

use crate::common;
use crate::common::outbound;
use crate::common::store;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::mpsc;

use common::{Pki, World, authority, echo, is_cut, server, until, valid};
use outbound::{Tls, certificate, noise, round_trip, service, session};
use store::{done, refused};

#[test]
fn bytes_pass_whatever_versions_the_two_ends_speak() {
    for (app, of_server) in [
        ("1.3", "1.3"),
        ("1.2", "1.2"),
        ("1.2", "1.3"),
        ("1.3", "1.2"),
    ] {
        let pki = Pki::new();
        let mut tls = Tls::new(certificate(&pki, "127.0.0.1", |_| ()));
        tls.versions = match of_server {
            "1.2" => vec![&rustls::version::TLS12],
            _ => vec![&rustls::version::TLS13],
        };
        let rest = format!(
            "[profile.tls]\ninbound = {{ protocols = ['{app}'] }}\n{}",
            service(&tls.echo().to_string(), "tls = true\ntls_roots = 'ca.pem'")
        );
        let world = World::of(pki, |node| node.rest(&rest));
        round_trip(world.tunnel("a.test:1"), b"few");
        round_trip(world.tunnel("a.test:1"), &noise(3_000_000));
        until("the tunnels end in order", || {
            world.gateway.ended("closed") == 2.0
        });
    }
}

#[test]
fn small_records_and_large_ones_in_any_mixture_come_whole_and_in_order() {
    let pki = Pki::new();
    let config = Tls::new(certificate(&pki, "127.0.0.1", |_| ())).config();
    let sent = noise(2_000_000);
    let expected = sent.clone();
    let address = server(move |stream| {
        let mut session = session(&config, stream);
        let sizes = [
            1, 16_384, 16_384, 16_384, 700, 2048, 9000, 16_384, 5000, 16_383, 3,
        ];
        let (mut at, mut turn) = (0, 0);
        while at < sent.len() {
            let size = sizes[turn % sizes.len()].min(sent.len() - at);
            // One record for each write.
            session.write_all(&sent[at..at + size]).unwrap();
            at += size;
            turn += 1;
        }
        session.conn.send_close_notify();
        session.flush().unwrap();
    });
    let world = World::of(pki, |node| {
        node.rest(&service(
            &address.to_string(),
            "tls = true\ntls_roots = 'ca.pem'",
        ))
    });
    let mut got = Vec::new();
    world.tunnel("a.test:1").read_to_end(&mut got).unwrap();
    assert!(got == expected, "{} bytes of {}", got.len(), expected.len());
}

#[test]
fn a_server_is_refused_whose_certificate_does_not_fit() {
    let other = authority("other");
    let cases: [(&str, &str, &str); 5] = [
        (
            "of another CA",
            "tls_roots = 'other.pem'",
            "server-certificate",
        ),
        (
            "for another name",
            "tls_name = 'wiki.internal'\ntls_roots = 'ca.pem'",
            "server-certificate",
        ),
        ("expired", "tls_roots = 'ca.pem'", "server-certificate"),
        ("no TLS", "tls_roots = 'ca.pem'", "server-tls"),
        (
            "of a CA that the system does not know",
            "",
            "server-certificate",
        ),
    ];
    for (what, keys, reason) in cases {
        let pki = Pki::new();
        let elsewhere = tempfile::tempdir().unwrap();
        other.write(elsewhere.path()).unwrap();
        std::fs::copy(elsewhere.path().join("ca.pem"), pki.path("other.pem")).unwrap();
        let identity = certificate(&pki, "127.0.0.1", |request| {
            if what == "expired" {
                request.validity = valid(-7200, -3600);
            }
        });
        let address = match what {
            "no TLS" => server(|mut stream| stream.write_all(b"SSH-2.0-server\r\n").unwrap()),
            _ => Tls::new(identity).echo(),
        };
        let world = World::of(pki, |node| {
            node.rest(&service(
                &address.to_string(),
                &format!("tls = true\n{keys}"),
            ))
        });
        let answer = world.answer("a.test:1");
        assert!(answer.starts_with("HTTP/1.1 502 "), "{what}: {answer}");
        let error = match reason {
            "server-tls" => "error=tls_protocol_error",
            _ => "error=tls_certificate_error",
        };
        assert!(answer.contains(error), "{what}: {answer}");
        assert_eq!(world.gateway.ended(reason), 1.0, "{what}");
    }
}

#[test]
fn the_name_that_is_configured_is_asked_for_and_checked() {
    let pki = Pki::new();
    let config = Tls::new(certificate(&pki, "wiki.internal", |_| ())).config();
    let (told, asked) = mpsc::channel();
    let address = server(move |stream| {
        let mut session = session(&config, stream);
        let mut byte = [0];
        let _ = session.read(&mut byte);
        told.send(session.conn.server_name().map(str::to_owned))
            .unwrap();
        session.write_all(&byte).unwrap();
    });
    let keys = "tls = true\ntls_roots = 'ca.pem'\ntls_name = 'wiki.internal'";
    let world = World::of(pki, |node| node.rest(&service(&address.to_string(), keys)));
    let mut session = world.tunnel("a.test:1");
    session.write_all(b"x").unwrap();
    let mut back = [0];
    session.read_exact(&mut back).unwrap();
    assert_eq!(asked.recv().unwrap().as_deref(), Some("wiki.internal"));
    // The test's server ended without close_notify.
    assert!(
        is_cut(&mut session),
        "the app must not take it for the whole"
    );
    until("it is told apart", || {
        world.gateway.ended("server-truncated") == 1.0
    });
}

#[test]
fn the_gateways_own_certificate_opens_a_server_that_wants_one() {
    for (version, with) in [("1.2", true), ("1.3", true), ("1.2", false), ("1.3", false)] {
        let pki = Pki::new();
        let tls = Tls::new(certificate(&pki, "127.0.0.1", |_| ())).for_clients_of(&pki);
        pki.client("gateway", |_| ());
        let own = match with {
            true => "tls_certificate = 'gateway.pem'\ntls_key = 'gateway.key'",
            false => "",
        };
        let rest = format!(
            "[profile.tls]\noutbound = {{ protocols = ['{version}'] }}\n{}",
            service(
                &tls.echo().to_string(),
                &format!("tls = true\ntls_roots = 'ca.pem'\n{own}")
            )
        );
        let world = World::of(pki, |node| node.rest(&rest));
        match (with, version) {
            (true, _) => round_trip(world.tunnel("a.test:1"), &noise(50_000)),
            (false, "1.2") => {
                let answer = world.answer("a.test:1");
                assert!(answer.contains("error=tls_alert_received"), "{answer}");
                assert_eq!(world.gateway.ended("server-tls-alert"), 1.0);
            }
            // In TLS 1.3 the server's refusal comes behind the handshake (RFC 8446, section 4.4.2.4).
            (false, _) => {
                let mut session = world.tunnel("a.test:1");
                assert!(is_cut(&mut session));
                until("it is told", || {
                    world.gateway.ended("server-tls-broken") == 1.0
                });
            }
        }
    }
}

#[test]
fn the_gateways_own_certificate_comes_from_the_store_and_a_new_one_takes_its_place() {
    let pki = Pki::new();
    let (first, second) = (pki.client("first", |_| ()), pki.client("second", |_| ()));
    let import = |file: &str, kind: &str| {
        let from = format!("{file}.pem --key {file}.key --name gateway --state-dir state");
        format!("import {from} --replace --as {kind}")
    };
    // It is for clients, and comes without its chain.
    refused(&pki, &import("first", "server"), 1, "not-server");
    refused(&pki, &import("server", "client"), 1, "not-client");
    assert!(done(&pki, &import("first", "client")).contains("no-chain"));

    let tls = Tls::new(certificate(&pki, "127.0.0.1", |_| ())).for_clients_of(&pki);
    let config = tls.config();
    let (told, shown) = mpsc::channel();
    let address = server(move |stream| {
        let mut session = session(&config, stream);
        let mut byte = [0];
        let _ = session.read(&mut byte);
        let certificates = session.conn.peer_certificates();
        let certificate = certificates.and_then(<[_]>::first);
        told.send(certificate.map(|der| der.to_vec())).unwrap();
    });
    let keys = "tls = true\ntls_roots = 'ca.pem'\ntls_certificate = 'store:gateway'";
    let world = World::of(pki, |node| node.rest(&service(&address.to_string(), keys)));
    let shows = || {
        world.tunnel("a.test:1").write_all(b"x").unwrap();
        shown.recv().unwrap().unwrap()
    };
    assert_eq!(shows(), first.chain[0].to_vec());
    let delete = "delete gateway --as client";
    refused(&world.pki, delete, 1, "the profile default names it");
    done(&world.pki, &import("second", "client"));
    until("the new one is shown", || {
        shows() == second.chain[0].to_vec()
    });
}

#[test]
fn a_tls_check_makes_the_whole_handshake() {
    let pki = Pki::new();
    let address = Tls::new(certificate(&pki, "127.0.0.1", |_| ())).echo();
    let plain = server(echo);
    let health = "[profile.service.health]\ncheck = 'tls'\ninterval = '50ms'\ntimeout = '5s'\nrise = 1\nfall = 1";
    let rest = service(
        &format!("{address}', '{plain}"),
        &format!("tls = true\ntls_roots = 'ca.pem'\n{health}"),
    );
    let world = World::of(pki, |node| node.rest(&rest));
    let up = |server: SocketAddr| {
        world
            .gateway
            .metric("adit_server_up", &format!("\"{server}\""))
    };
    let checks = |server: SocketAddr, result: &str| {
        let labels = format!("server=\"{server}\",result=\"{result}\"");
        world.gateway.metric("adit_server_checks_total", &labels)
    };
    until("both are checked", || {
        checks(address, "passed") > 1.0 && checks(plain, "failed") > 0.0
    });
    assert_eq!((up(address), up(plain)), (1.0, 0.0));
    assert_eq!(checks(address, "failed"), 0.0);
}
