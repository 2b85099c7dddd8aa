//! Who the client of a plain listener is: what a front end that has ended TLS says of it, and who is believed.

use crate::common;
use crate::common::http2;
use crate::common::plain;

use std::io::{Read, Write};
use std::time::Duration;

use adit::certs::make::Usage;
use adit::proxy_protocol::{CLIENT_CERT_CONNECTION, CLIENT_TLS, Header, TlsDetails};
use common::{
    Gateway, PATIENCE, Pki, World, client_of, connect_from, echo, read_all, server, until, valid,
};
use plain::{
    answer, asked, asking, client_cert, gateway, header_of, presented, proxy, sequence, xfcc,
};

#[test]
fn a_tunnel_by_each_way_of_naming_the_client() {
    let pki = Pki::new();
    let device = pki.client("device", |_| ());
    let header = header_of(presented(&device));
    let required = "proxy_protocol = 'required'\nclient_identity = 'proxy-v2'";
    for (more, head, peer) in [
        ("", asking(&client_cert(&device)).into_bytes(), None),
        (
            "client_identity = 'xfcc'",
            asking(&xfcc(&device)).into_bytes(),
            None,
        ),
        (
            required,
            [&header, asking("").as_bytes()].concat(),
            Some("192.0.2.7:9"),
        ),
    ] {
        for split in [false, true] {
            let gateway = gateway(&pki, more);
            let mut stream = proxy(&gateway);
            // The tunnel's first bytes come right behind the request.
            let bytes = [&head[..], b"early"].concat();
            let (first, rest) = bytes.split_at(if split { 100 } else { bytes.len() });
            stream.write_all(first).unwrap();
            let told = answer(&mut stream, rest);
            assert!(told.starts_with("HTTP/1.1 200 "), "{more}: {told}");
            let mut back = [0; 5];
            stream.read_exact(&mut back).unwrap();
            assert_eq!(&back, b"early");
            let local = stream.local_addr().unwrap().to_string();
            gateway.lists_peer(peer.unwrap_or(&local));
            assert!(gateway.get("/tunnels").1.contains("\"device\":\"device\""));

            // Both ends are carried through.
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(read_all(&stream), b"");
            until("closed", || gateway.ended("closed") == 1.0);
        }
    }
}

#[test]
fn the_certificate_is_checked_as_in_a_handshake() {
    let pki = Pki::new();
    let revoked = pki.client("revoked", |_| ());
    pki.write_crl(&[&revoked]);
    let expired = pki.client("expired", |r| r.validity = valid(-7200, -3600));
    let early = pki.client("early", |r| r.validity = valid(3600, 7200));
    let usage = pki.client("usage", |r| r.usages = vec![Usage::Server]);
    let foreign = client_of(&common::authority("other"), "foreign", |_| ());
    let good = pki.client("good", |_| ());
    let mut flipped = good.chain[0].to_vec();
    *flipped.last_mut().unwrap() ^= 1;
    let flipped = format!("Client-Cert: {}\r\n", sequence(&flipped));
    let gateway = gateway(&pki, "");
    let two = client_cert(&good) + &client_cert(&good);
    let both = client_cert(&good) + &xfcc(&good);
    for (fields, status, reason) in [
        (String::new(), 403, "certificate-required"),
        (client_cert(&revoked), 403, "certificate-revoked"),
        (client_cert(&expired), 403, "certificate-expired"),
        (client_cert(&early), 403, "certificate-not-yet-valid"),
        (client_cert(&usage), 403, "certificate-usage"),
        (client_cert(&foreign), 403, "unknown-ca"),
        (flipped, 403, "certificate-invalid"),
        (
            "Client-Cert: device\r\n".to_owned(),
            403,
            "certificate-invalid",
        ),
        (two, 403, "certificate-invalid"),
        (both, 403, "identity-conflict"),
        (xfcc(&good), 403, "identity-conflict"),
        (
            client_cert(&good) + "Content-Length: 0\r\n",
            400,
            "malformed-request",
        ),
    ] {
        let before = gateway.ended(reason);
        let told = asked(&gateway, &fields);
        assert!(
            told.starts_with(&format!("HTTP/1.1 {status} ")),
            "{reason}: {told}"
        );
        assert!(
            told.contains("\r\nProxy-Status: adit; error=http_request_"),
            "{told}"
        );
        until(reason, || gateway.ended(reason) == before + 1.0);
        let log = || std::fs::read_to_string(pki.path("audit.log")).unwrap();
        until("a record of it", || log().contains(reason));
    }
    // The way of a browser's page is not that of a tunnel.
    let told = answer(&mut proxy(&gateway), b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(told.starts_with("HTTP/1.1 405 "), "{told}");
    assert!(told.contains("\r\nAllow: CONNECT\r\n"), "{told}");
    // What the gateway is for is said here too, to a client that is known.
    for (fields, status) in [(client_cert(&good), 200), (String::new(), 403)] {
        let request = format!("GET /.well-known/pvd HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let told = answer(&mut proxy(&gateway), request.as_bytes());
        assert!(told.starts_with(&format!("HTTP/1.1 {status} ")), "{told}");
        assert_eq!(
            told.contains("application/pvd+json"),
            status == 200,
            "{told}"
        );
    }
    // RFC 9112, section 2.2: an empty line before a request is read over.
    let request = format!(
        "\r\nCONNECT a.test:1 HTTP/1.1\r\nHost: a\r\n{}\r\n",
        client_cert(&good)
    );
    let told = answer(&mut proxy(&gateway), request.as_bytes());
    assert!(told.starts_with("HTTP/1.1 200 "), "{told}");
}

#[test]
fn a_chain_comes_by_client_cert_chain() {
    let intermediate = common::authority("unrelated");
    let world = World::around(Pki::new(), |pki| gateway(pki, ""));
    // Certificates that the path does not need do no harm, as in TLS.
    let chain = sequence(intermediate.certificate());
    let fields = format!(
        "{}Client-Cert-Chain: {chain}, {chain}\r\n",
        client_cert(&world.device)
    );
    let told = asked(&world.gateway, &fields);
    assert!(told.starts_with("HTTP/1.1 200 "), "{told}");
    let alone = format!("Client-Cert-Chain: {chain}\r\n");
    let told = asked(&world.gateway, &alone);
    assert!(told.contains("certificate-invalid"), "{told}");
}

#[test]
fn a_tunnel_ends_when_its_certificate_is_revoked() {
    let world = World::around(Pki::new(), |pki| gateway(pki, ""));
    let mut stream = proxy(&world.gateway);
    let told = answer(&mut stream, asking(&client_cert(&world.device)).as_bytes());
    assert!(told.starts_with("HTTP/1.1 200 "), "{told}");
    world.pki.write_crl(&[&world.device]);
    until("cut", || {
        world.gateway.ended("cut-certificate-revoked") == 1.0
    });
    let error = stream.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let told = asked(&world.gateway, &client_cert(&world.device));
    assert!(told.contains("certificate-revoked"), "{told}");
}

#[test]
fn only_trusted_proxies_are_listened_to() {
    let pki = Pki::new();
    let device = pki.client("device", |_| ());
    let gateway = gateway(&pki, "");
    let mut stream = connect_from("127.0.0.2", gateway.address);
    let told = answer(&mut stream, asking(&client_cert(&device)).as_bytes());
    assert!(
        told.starts_with("HTTP/1.1 403 ") && told.contains("proxy-untrusted"),
        "{told}"
    );
    gateway.has_ended("proxy-untrusted", 1.0);
    drop(gateway);
    // By IPv6, and a network.
    let listener = "protocol = 'http'\nhttp = '[::1]:0'\ntrusted_proxies = ['::/64']";
    let gateway = Gateway::builder(&pki)
        .listener(listener)
        .servers(&[server(echo)])
        .start();
    let told = asked(&gateway, &client_cert(&device));
    assert!(told.starts_with("HTTP/1.1 200 "), "{told}");
}

/// Has the gateway reload a config in which the test's address is no proxy's.
fn trust_another(pki: &Pki, gateway: &Gateway) {
    let text = std::fs::read_to_string(pki.path("adit.toml")).unwrap();
    let text = text.replace("['127.0.0.1']", "['10.0.0.1']");
    std::fs::write(pki.path("adit.toml"), text).unwrap();
    gateway.signal("HUP");
}

#[test]
fn whom_is_trusted_changes_with_a_reload() {
    let world = World::around(Pki::new(), |pki| gateway(pki, ""));
    let told = asked(&world.gateway, &client_cert(&world.device));
    assert!(told.starts_with("HTTP/1.1 200 "), "{told}");
    trust_another(&world.pki, &world.gateway);
    until("not trusted any more", || {
        let told = asked(&world.gateway, &client_cert(&world.device));
        told.contains("proxy-untrusted")
    });
}

#[test]
fn a_certificate_in_a_proxy_header_that_the_proxy_has_not_checked_is_none() {
    let world = World::around(Pki::new(), |pki| {
        gateway(
            pki,
            "proxy_protocol = 'required'\nclient_identity = 'proxy-v2'",
        )
    });
    let certificate = Some(world.device.chain[0].to_vec());
    let client = CLIENT_TLS | CLIENT_CERT_CONNECTION;
    let name = Some("device".to_owned());
    let unchecked = TlsDetails {
        client,
        verify: 1,
        certificate: certificate.clone(),
        ..TlsDetails::default()
    };
    let not_presented = TlsDetails {
        client: CLIENT_TLS,
        certificate: certificate.clone(),
        ..TlsDetails::default()
    };
    let name_alone = TlsDetails {
        client,
        common_name: name,
        ..TlsDetails::default()
    };
    let good = TlsDetails {
        client,
        certificate,
        ..TlsDetails::default()
    };
    for (header, fields, reason) in [
        (header_of(None), String::new(), "certificate-required"),
        (
            header_of(Some(unchecked)),
            String::new(),
            "certificate-required",
        ),
        (
            header_of(Some(not_presented)),
            String::new(),
            "certificate-required",
        ),
        (
            header_of(Some(name_alone)),
            String::new(),
            "certificate-required",
        ),
        (
            header_of(None),
            client_cert(&world.device),
            "identity-conflict",
        ),
        (
            header_of(Some(good.clone())),
            client_cert(&world.device),
            "identity-conflict",
        ),
        (
            Header::local().write_v2(false).unwrap(),
            String::new(),
            "certificate-required",
        ),
        (Vec::new(), String::new(), "proxy-missing"),
        (
            b"PROXY TCP4 x\r\n".to_vec(),
            String::new(),
            "proxy-malformed",
        ),
    ] {
        let bytes = [header, asking(&fields).into_bytes()].concat();
        let told = answer(&mut proxy(&world.gateway), &bytes);
        assert!(told.starts_with("HTTP/1.1 4"), "{reason}: {told}");
        assert!(
            told.contains(reason) || reason == "identity-conflict",
            "{reason}: {told}"
        );
        until(reason, || world.gateway.ended(reason) >= 1.0);
    }
    let bytes = [header_of(Some(good)), asking("").into_bytes()].concat();
    let told = answer(&mut proxy(&world.gateway), &bytes);
    assert!(told.starts_with("HTTP/1.1 200 "), "{told}");
}

/// A CONNECT over HTTP/2 with these lines of header fields.
fn asking_http2(target: &str, fields: &str) -> http::Request<()> {
    let mut request = http2::connect_request(target);
    for line in fields.lines() {
        let (name, value) = line.split_once(": ").unwrap();
        let name: http::HeaderName = name.parse().unwrap();
        request.headers_mut().append(name, value.parse().unwrap());
    }
    request
}

async fn client_http2(gateway: &Gateway, first: &[u8]) -> http2::Client {
    let mut stream = tokio::net::TcpStream::connect(gateway.address)
        .await
        .unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, first)
        .await
        .unwrap();
    let (requests, connection) = h2::client::handshake(stream).await.unwrap();
    http2::Client {
        requests,
        driver: tokio::spawn(connection),
    }
}

#[test]
fn over_http2_each_request_says_for_whom_it_is() {
    let pki = Pki::new();
    let (first, second) = (pki.client("first", |_| ()), pki.client("second", |_| ()));
    let revoked = pki.client("revoked", |_| ());
    pki.write_crl(&[&revoked]);
    let gateway = gateway(&pki, "");
    http2::run(async {
        let client = client_http2(&gateway, b"").await;
        let mut tunnels = Vec::new();
        for device in [&first, &second] {
            let request = asking_http2("a.test:1", &client_cert(device));
            let (response, up) = client.ask(request).await.unwrap();
            assert_eq!(response.status(), 200);
            let down = response.into_body();
            let mut tunnel = http2::Tunnel { up, down };
            tunnel.send(&b"there"[..]).await.unwrap();
            assert_eq!(tunnel.read(5).await, b"there");
            tunnels.push(tunnel);
        }
        let listed = gateway.get("/tunnels").1;
        for device in ["first", "second"] {
            assert!(
                listed.contains(&format!("\"device\":\"{device}\"")),
                "{listed}"
            );
        }
        let both = client_cert(&first) + &xfcc(&first);
        for (fields, status, reason) in [
            (String::new(), 403, "certificate-required"),
            (client_cert(&revoked), 403, "certificate-revoked"),
            (both, 403, "identity-conflict"),
            (
                client_cert(&first) + &client_cert(&second),
                403,
                "certificate-invalid",
            ),
            (
                client_cert(&first) + "content-length: 0\r\n",
                400,
                "malformed-request",
            ),
        ] {
            let request = asking_http2("a.test:1", &fields);
            let (response, _up) = client.ask(request).await.unwrap();
            assert_eq!(response.status(), status, "{reason}");
            let told = response.headers()["proxy-status"].to_str().unwrap();
            assert!(told.starts_with("adit; error=http_request_"), "{told}");
            http2::until(reason, || gateway.ended(reason) == 1.0).await;
        }
        // Others in the session go on, and end by themselves.
        tunnels[0].send(&b"still"[..]).await.unwrap();
        assert_eq!(tunnels[0].read(5).await, b"still");
        pki.write_crl(&[&revoked, &second]);
        http2::until("cut", || gateway.ended("cut-certificate-revoked") == 1.0).await;
        tunnels[0].send(&b"still"[..]).await.unwrap();
        assert_eq!(tunnels[0].read(5).await, b"still");
        // Whom nobody trusts any more opens nothing more on an old connection either.
        trust_another(&pki, &gateway);
        let start = std::time::Instant::now();
        loop {
            let request = asking_http2("a.test:1", &client_cert(&first));
            let (response, _up) = client.ask(request).await.unwrap();
            if response.status() == 403 {
                let told = response.headers()["proxy-status"].to_str().unwrap();
                assert!(told.contains("proxy-untrusted"), "{told}");
                break;
            }
            assert!(start.elapsed() < PATIENCE, "it is still trusted");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
}

#[test]
fn over_http2_by_a_proxy_header_and_not_for_those_who_may_only_check() {
    let pki = Pki::new();
    let device = pki.client("device", |_| ());
    let header = header_of(presented(&device));
    let by_proxy = gateway(
        &pki,
        "proxy_protocol = 'required'\nclient_identity = 'proxy-v2'",
    );
    http2::run(async {
        let client = client_http2(&by_proxy, &header).await;
        let mut tunnel = client.tunnel("a.test:1").await;
        tunnel.send(&b"there"[..]).await.unwrap();
        assert_eq!(tunnel.read(5).await, b"there");
        by_proxy.lists_peer("192.0.2.7:9");
    });
    drop(by_proxy);
    let gateway = gateway(&pki, "health_path = '/h'\nhealth_from = ['127.0.0.3']");
    let mut stream = connect_from("127.0.0.3", gateway.address);
    let told = answer(&mut stream, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    assert!(told.contains("proxy-untrusted"), "{told}");
}
