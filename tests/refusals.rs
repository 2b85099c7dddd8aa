//! Who is refused, with which words, and that each refusal is counted and recorded.

use crate::common;

use std::io::{Read, Write};
use std::net::TcpStream;

use adit::certs::Issued;
use adit::certs::make::Usage;
use common::{
    Gateway, Pki, World, ask, client_of, connect, echo, request, server, service, until, valid,
};

/// What the client sees of a refused certificate: the alert, in rustls's words.
fn alert(pki: &Pki, gateway: &Gateway, identity: Option<&Issued>) -> String {
    let mut session = connect(pki, gateway, identity);
    match ask(&mut session, &request("a.test:1")) {
        Ok(head) => panic!("not refused: {head}"),
        Err(error) => error.to_string(),
    }
}

/// The audit line of a refusal for this reason.
fn refusal_of(pki: &Pki, reason: &str) -> serde_json::Value {
    let find = || {
        let log = std::fs::read_to_string(pki.path("audit.log")).unwrap();
        let lines = log.lines().map(|line| serde_json::from_str(line).unwrap());
        let mut lines = lines.filter(|line: &serde_json::Value| line["event.reason"] == reason);
        lines.next()
    };
    until("the audit line", || find().is_some());
    find().unwrap()
}

#[test]
fn certificates_are_refused_by_alert() {
    let pki = Pki::new();
    let revoked = pki.client("revoked", |_| ());
    pki.write_crl(&[&revoked]);
    let expired = pki.client("expired", |r| r.validity = valid(-7200, -3600));
    let early = pki.client("early", |r| r.validity = valid(3600, 7200));
    let server_only = pki.client("usage", |r| r.usages = vec![Usage::Server]);
    let foreign = client_of(&common::authority("other"), "foreign", |_| ());
    let gateway = Gateway::builder(&pki).servers(&[server(echo)]).start();
    // The alert, the reason, the device that the certificate claims, and a part of the cause.
    for (identity, words, reason, device, cause) in [
        (
            None,
            "CertificateRequired",
            "certificate-required",
            None,
            None,
        ),
        (
            Some(&revoked),
            "CertificateRevoked",
            "certificate-revoked",
            Some("revoked"),
            Some("is in the revocation list of \"CN="),
        ),
        (
            Some(&expired),
            "CertificateExpired",
            "certificate-expired",
            Some("expired"),
            Some(" ended at 20"),
        ),
        (
            Some(&early),
            "CertificateExpired",
            "certificate-not-yet-valid",
            Some("early"),
            Some(" begins at 20"),
        ),
        (
            Some(&server_only),
            "UnsupportedCertificate",
            "certificate-usage",
            Some("usage"),
            Some("is not for this use"),
        ),
        (
            Some(&foreign),
            "UnknownCA",
            "unknown-ca",
            Some("foreign"),
            Some("is no group certificate and was not presented"),
        ),
    ] {
        let seen = alert(&pki, &gateway, identity);
        assert!(seen.contains(words), "{reason}: {seen}");
        until(reason, || gateway.ended(reason) == 1.0);
        let line = refusal_of(&pki, reason);
        assert_eq!(line["device.id"].as_str(), device, "{line}");
        assert_eq!(line["tls.client.server_name"], "localhost", "{line}");
        let claims = identity.map(|_| "claimed");
        assert_eq!(line["adit.identity"].as_str(), claims, "{line}");
        assert_eq!(
            line["tls.client.x509.serial_number"].is_string(),
            claims.is_some(),
            "{line}"
        );
        assert_eq!(
            line["tls.client.x509.issuer.distinguished_name"].is_string(),
            claims.is_some(),
            "{line}"
        );
        let told = line["adit.detail"].as_str().unwrap_or_default();
        assert!(told.contains(cause.unwrap_or_default()), "{line}");
    }
    let good = pki.client("good", |_| ());
    drop(common::tunnel(&pki, &gateway, &good, "a.test:1"));
}

#[test]
fn requests_are_refused_by_status_and_proxy_status() {
    let rest = service(&[server(echo)])
        + "\n[[profile.rule]]\nhost = '127.0.0.0/8'\nport = '*'\nservice = '<ANY>'\n\
           [[profile.rule]]\nhost = '::1'\nport = '*'\nservice = '<ANY>'";
    let world = World::new(|node| node.rest(&rest));
    let filler = format!(
        "CONNECT a.test:1 HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
        "x".repeat(100_000)
    );
    for (bytes, status, error, reason) in [
        (
            "CONNECT a.test HTTP/1.1\r\nHost: a\r\n\r\n",
            400,
            "http_request_error",
            "malformed-request",
        ),
        (
            "CONNECT u@a.test:1 HTTP/1.1\r\nHost: a\r\n\r\n",
            400,
            "http_request_error",
            "malformed-request",
        ),
        (
            "CONNECT a.test:1 HTTP/1.1\nHost: a\n\n",
            400,
            "http_request_error",
            "malformed-request",
        ),
        (
            // RFC 9110, section 15.5.6.
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            405,
            "http_request_error",
            "not-connect",
        ),
        (
            "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
            405,
            "http_request_error",
            "not-connect",
        ),
        (
            "POST / HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello",
            405,
            "http_request_error",
            "not-connect",
        ),
        (
            "CONNECT a.test:1 HTTP/1.2\r\nHost: a\r\n\r\n",
            400,
            "http_request_error",
            "malformed-request",
        ),
        (
            "\r\n\r\n\r\n\r\n\r\nCONNECT a.test:1 HTTP/1.1\r\nHost: a\r\n\r\n",
            400,
            "http_request_error",
            "malformed-request",
        ),
        (
            "CONNECT 2130706433:80 HTTP/1.1\r\nHost: a\r\n\r\n",
            400,
            "http_request_error",
            "malformed-request",
        ),
        (&filler, 431, "http_request_error", "header-too-large"),
        (
            "CONNECT b.example:1 HTTP/1.1\r\nHost: b\r\n\r\n",
            403,
            "http_request_denied",
            "no-rule",
        ),
        (
            "CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: b\r\n\r\n",
            403,
            "destination_ip_prohibited",
            "destination-forbidden",
        ),
        (
            "CONNECT [::1]:22 HTTP/1.1\r\nHost: b\r\n\r\n",
            403,
            "destination_ip_prohibited",
            "destination-forbidden",
        ),
        (
            "CONNECT [::ffff:127.0.0.1]:22 HTTP/1.1\r\nHost: b\r\n\r\n",
            403,
            "destination_ip_prohibited",
            "destination-forbidden",
        ),
    ] {
        let before = world.gateway.ended(reason);
        let mut session = world.connect();
        let head = ask(&mut session, bytes.as_bytes()).unwrap();
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status} ")),
            "{reason}: {head}"
        );
        assert!(
            head.contains(&format!("Proxy-Status: adit; error={error}")),
            "{reason}: {head}"
        );
        until(reason, || world.gateway.ended(reason) == before + 1.0);
    }
}

#[test]
fn devices_are_refused_by_their_state() {
    let pki = Pki::new();
    std::fs::write(
        pki.path("devices.csv"),
        "device,state\nmanaged,managed\nblocked,blocked\n",
    )
    .unwrap();
    let gateway = Gateway::builder(&pki)
        .auth("device_registry = 'devices.csv'")
        .servers(&[server(echo)])
        .start();
    for (name, status, reason) in [
        ("managed", 200, ""),
        ("blocked", 403, "device-blocked"),
        ("stranger", 403, "device-unmanaged"),
    ] {
        let mut session = connect(&pki, &gateway, Some(&pki.client(name, |_| ())));
        let head = ask(&mut session, &request("a.test:1")).unwrap();
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status} ")),
            "{name}: {head}"
        );
        if status != 200 {
            until(reason, || gateway.ended(reason) == 1.0);
        }
    }
}

#[test]
fn what_is_not_tls_and_what_never_ends_is_closed() {
    let pki = Pki::new();
    let gateway = Gateway::builder(&pki)
        .engine("handshake_timeout = '300ms'")
        .servers(&[server(echo)])
        .start();
    for bytes in [&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], &[0xff; 300]] {
        let mut socket = TcpStream::connect(gateway.address).unwrap();
        socket.write_all(bytes).unwrap();
        let _ = socket.read_to_end(&mut Vec::new());
    }
    until("not TLS", || {
        gateway.ended("not-tls") + gateway.ended("tls-protocol") == 2.0
    });
    let mut silent = TcpStream::connect(gateway.address).unwrap();
    silent.write_all(&[0x16, 3, 1, 2, 0]).unwrap();
    let _ = silent.read_to_end(&mut Vec::new());
    until("handshake timeout", || {
        gateway.ended("handshake-timeout") == 1.0
    });
    let device = pki.client("device", |_| ());
    let mut session = connect(&pki, &gateway, Some(&device));
    let head = ask(&mut session, b"CONNECT a.test:1 HTTP/1.1\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 408 "), "{head}");
}

#[test]
fn a_request_in_single_bytes_is_as_good() {
    let pki = Pki::new();
    let gateway = Gateway::builder(&pki).servers(&[server(echo)]).start();
    let mut session = connect(&pki, &gateway, Some(&pki.client("device", |_| ())));
    for byte in request("a.test:1") {
        session.write_all(&[byte]).unwrap();
        session.flush().unwrap();
    }
    assert!(ask(&mut session, b"").unwrap().starts_with("HTTP/1.1 200 "));
}

#[test]
fn a_certificate_that_names_no_device_is_refused() {
    let pki = Pki::new();
    let auth = "unmanaged = 'allow'\nidentity.device = ['uid', 'san-uri']";
    let gateway = Gateway::builder(&pki)
        .auth(auth)
        .servers(&[server(echo)])
        .start();
    let nobody = pki.client("nobody", |_| ());
    let seen = alert(&pki, &gateway, Some(&nobody));
    assert!(seen.contains("AccessDenied"), "{seen}");
    until("counted", || gateway.ended("identity-missing") == 1.0);
    until("recorded", || {
        let log = std::fs::read_to_string(pki.path("audit.log")).unwrap();
        log.contains("\"event.reason\":\"identity-missing\"") && log.lines().count() == 1
    });
    let named = pki.client("named", |request| request.uid = Some("d-1".into()));
    drop(common::tunnel(&pki, &gateway, &named, "a.test:1"));
}

#[test]
fn a_client_that_stops_anywhere_in_the_handshake_is_let_go() {
    let pki = Pki::new();
    let gateway = Gateway::builder(&pki)
        .engine("handshake_timeout = '300ms'")
        .servers(&[server(echo)])
        .start();
    let device = pki.client("device", |_| ());
    let mut held = Vec::new();
    // In its hello; behind its hello; behind all but the last byte of its certificate, signature and Finished.
    for flights in 0..3 {
        let mut session = connect(&pki, &gateway, Some(&device));
        let mut hello = Vec::new();
        session.conn.write_tls(&mut hello).unwrap();
        let cut = if flights == 0 { hello.len() / 2 } else { 0 };
        session.sock.write_all(&hello[..hello.len() - cut]).unwrap();
        if flights == 2 {
            while !session.conn.wants_write() || session.conn.is_handshaking() {
                session.conn.read_tls(&mut session.sock).unwrap();
                session.conn.process_new_packets().unwrap();
            }
            let mut last = Vec::new();
            while session.conn.wants_write() {
                session.conn.write_tls(&mut last).unwrap();
            }
            session.sock.write_all(&last[..last.len() - 1]).unwrap();
        }
        held.push(session);
    }
    until("all timed out", || {
        gateway.ended("handshake-timeout") == 3.0
    });
    until("all let go, though their clients hold on", || {
        gateway.metric("adit_sessions_closed_total", "") == 3.0
    });
    drop(held);
}

#[test]
fn a_refused_client_that_never_reads_is_let_go() {
    let pki = Pki::new();
    let gateway = Gateway::builder(&pki)
        .auth("")
        .servers(&[server(echo)])
        .start();
    let mut session = connect(&pki, &gateway, Some(&pki.client("stranger", |_| ())));
    session.write_all(&request("a.test:1")).unwrap();
    session.flush().unwrap();
    until("counted", || gateway.ended("device-unmanaged") == 1.0);
    until("let go", || {
        gateway.metric("adit_sessions_closed_total", "") == 1.0
    });
    assert_eq!(gateway.metric("adit_runtime_fds", ""), 0.0);
    drop(session);
}

#[test]
fn an_ipv6_literal_is_reached_where_it_is_allowed() {
    let pki = Pki::new();
    let listener = std::net::TcpListener::bind("[::1]:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || echo(listener.accept().unwrap().0));
    let rest = "[[profile.service]]\nname = '<TCP_ANY>'\nallow = ['::1/128']\n\
                [[profile.rule]]\nhost = '::1'\nport = '*'\nservice = '<TCP_ANY>'";
    let gateway = Gateway::builder(&pki).rest(rest).start();
    let device = pki.client("device", |_| ());
    let mut session = common::tunnel(&pki, &gateway, &device, &format!("[::1]:{port}"));
    session.write_all(b"six").unwrap();
    let mut back = [0; 3];
    session.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"six");
}
