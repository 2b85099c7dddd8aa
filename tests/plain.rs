//! The plain listener: what goes through it, health for load balancers, both listeners at once, and real front ends.

use crate::common;
use crate::common::plain;

use std::io::{Read, Write};
use std::net::TcpStream;

use adit::proxy_protocol::Header;
use common::{
    Gateway, Pki, Program, World, ask, connect, connect_from, echo, free_port, read_all, request,
    server, session, until,
};
use plain::{PLAIN, answer, asked, asking, client_cert, gateway, proxy, xfcc};

#[test]
fn much_goes_through_in_both_directions() {
    let world = World::around(Pki::new(), |pki| gateway(pki, ""));
    let mut stream = proxy(&world.gateway);
    let told = answer(&mut stream, asking(&client_cert(&world.device)).as_bytes());
    assert!(told.starts_with("HTTP/1.1 200 "), "{told}");
    let bytes: Vec<u8> = (0..4_000_000u32)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let mut writer = stream.try_clone().unwrap();
    let sent = bytes.clone();
    let writing = std::thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        writer.shutdown(std::net::Shutdown::Write).unwrap();
    });
    assert!(read_all(&stream) == bytes, "the bytes came back changed");
    writing.join().unwrap();
}

#[test]
fn health_is_told_to_those_who_may_ask() {
    let pki = Pki::new();
    let more = "health_path = '/health'\nhealth_from = ['127.0.0.3']";
    let gateway = gateway(&pki, more);
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: lb\r\n\r\n").into_bytes();
    for from in ["127.0.0.1", "127.0.0.3"] {
        let mut stream = connect_from(from, gateway.address);
        let told = answer(&mut stream, &get("/health"));
        assert!(told.starts_with("HTTP/1.1 200 OK\r\n"), "{told}");
        assert_eq!(read_all(&stream), b"ready\n");
    }
    gateway.has_ended("health-check", 2.0);
    let audit = std::fs::read_to_string(pki.path("audit.log")).unwrap();
    assert_eq!(audit, "", "no check is a record");

    let device = pki.client("device", |_| ());
    for (from, bytes, status) in [
        ("127.0.0.2", get("/health"), 403),
        ("127.0.0.1", get("/health?x"), 405),
        ("127.0.0.1", get("/healthy"), 405),
        ("127.0.0.3", get("/"), 403),
        // Who may ask for the page may not open a tunnel.
        ("127.0.0.3", asking(&client_cert(&device)).into_bytes(), 403),
    ] {
        let told = answer(&mut connect_from(from, gateway.address), &bytes);
        assert!(
            told.starts_with(&format!("HTTP/1.1 {status} ")),
            "{from}: {told}"
        );
    }
    // A bare check of the port.
    drop(proxy(&gateway));
    until("unused", || gateway.ended("unused") == 1.0);
}

#[test]
fn health_is_over_before_the_listener_is() {
    let pki = Pki::new();
    let listener = format!("{PLAIN}\nhealth_path = '/health'");
    let gateway = Gateway::builder(&pki)
        .engine("drain_delay = '5s'")
        .listener(&listener)
        .servers(&[server(echo)])
        .start();
    let get = b"GET /health HTTP/1.0\r\n\r\n";
    let told = answer(&mut proxy(&gateway), get);
    assert!(told.starts_with("HTTP/1.1 200 "), "{told}");
    gateway.signal("TERM");
    until("not ready", || {
        answer(&mut proxy(&gateway), get).starts_with("HTTP/1.1 503 ")
    });
    // Tunnels are opened still.
    let device = pki.client("device", |_| ());
    let told = asked(&gateway, &client_cert(&device));
    assert!(told.starts_with("HTTP/1.1 200 "), "{told}");
}

#[test]
fn both_listeners_at_once_with_a_proxy_header_on_each() {
    let listener = "protocol = 'both'\nhttps = '127.0.0.1:0'\nhttp = '127.0.0.1:0'\nproxy_protocol = 'optional'\n\
                    trusted_proxies = ['127.0.0.1']";
    let world = World::new(|node| node.listener(listener).servers(&[server(echo)]));
    let plain = world.gateway.plain.unwrap();
    let header = Header::of(
        "192.0.2.7:9".parse().unwrap(),
        "192.0.2.1:443".parse().unwrap(),
    );
    let mut stream = TcpStream::connect(plain).unwrap();
    let bytes = [
        header.write_v1(),
        asking(&client_cert(&world.device)).into_bytes(),
    ]
    .concat();
    let told = answer(&mut stream, &bytes);
    assert!(told.starts_with("HTTP/1.1 200 "), "{told}");
    world.gateway.lists_peer("192.0.2.7:9");
    let mut by_tls = world.connect();
    let told = ask(&mut by_tls, &request("a.test:1")).unwrap();
    assert!(told.starts_with("HTTP/1.1 200 "), "{told}");
    // TLS on the plain listener is no request.
    let mut wrong = world.session(TcpStream::connect(plain).unwrap());
    assert!(ask(&mut wrong, b"x").is_err());
}

#[test]
fn haproxy_ends_tls_and_names_the_client() {
    let pki = Pki::new();
    let (device, other) = (pki.client("device", |_| ()), pki.client("other", |_| ()));
    let pem =
        ["server.pem", "server.key"].map(|name| std::fs::read_to_string(pki.path(name)).unwrap());
    std::fs::write(pki.path("haproxy.pem"), pem.concat()).unwrap();
    for (listener, way) in [("", ""), ("proxy_protocol = 'required'", "send-proxy-v2")] {
        let mut gateway = gateway(&pki, listener);
        let (to, front) = (gateway.address, free_port());
        let config = format!(
            "frontend f\n  mode http\n  bind {front} ssl crt haproxy.pem ca-file ca.pem verify required alpn http/1.1\n  \
             http-request del-header X-Forwarded-Client-Cert\n  http-request del-header Client-Cert-Chain\n  \
             http-request set-header Client-Cert :%[ssl_c_der,base64]:\n  default_backend b\n\
             backend b\n  mode http\n  server s {to} {way}\n"
        );
        let _haproxy = Program::haproxy(&pki, &config, &[front]);
        let socket = TcpStream::connect(front).unwrap();
        let client = socket.local_addr().unwrap().to_string();
        let mut tunnel = session(&pki, socket, &device);
        // What the client itself says of a certificate does not count.
        let told = ask(
            &mut tunnel,
            asking(&(client_cert(&other) + &xfcc(&other))).as_bytes(),
        )
        .unwrap();
        assert!(told.starts_with("HTTP/1.1 200 "), "{told}");
        tunnel.write_all(b"through haproxy").unwrap();
        let mut back = [0; 15];
        tunnel.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"through haproxy");
        assert!(gateway.get("/tunnels").1.contains("\"device\":\"device\""));
        if !way.is_empty() {
            gateway.lists_peer(&client);
        }
        drop(tunnel);
        gateway.lists_none();
        // A refusal goes all the way back.
        gateway.address = front;
        let mut refused = connect(&pki, &gateway, Some(&device));
        let told = ask(&mut refused, &request("elsewhere:1")).unwrap();
        assert!(
            told.starts_with("HTTP/1.1 403 ")
                && told
                    .to_lowercase()
                    .contains("proxy-status: adit; error=http_request_denied"),
            "{told}"
        );
    }
}

#[test]
fn envoy_ends_tls_and_names_the_client() {
    let pki = Pki::new();
    let (device, other) = (pki.client("device", |_| ()), pki.client("other", |_| ()));
    for (details, version) in [
        ("SANITIZE_SET", "http_protocol_options"),
        ("APPEND_FORWARD", "http_protocol_options"),
        ("SANITIZE_SET", "http2_protocol_options"),
    ] {
        let gateway = gateway(&pki, "client_identity = 'xfcc'");
        let (to, front) = (gateway.address, free_port());
        let config = include_str!("plain/envoy.yaml")
            .replace("FRONT_PORT", &front.port().to_string())
            .replace("GATEWAY_PORT", &to.port().to_string())
            .replace("DETAILS", details)
            .replace("VERSION_OPTIONS", version)
            .replace("FOLDER", pki.folder.path().to_str().unwrap());
        let _envoy = Program::envoy(&pki, &config);
        until("Envoy listens", || TcpStream::connect(front).is_ok());
        let mut tunnel = session(&pki, TcpStream::connect(front).unwrap(), &device);
        let told = ask(&mut tunnel, asking(&xfcc(&other)).as_bytes()).unwrap();
        assert!(
            told.starts_with("HTTP/1.1 200 "),
            "{details} {version}: {told}"
        );
        tunnel.write_all(b"through envoy").unwrap();
        let mut back = [0; 13];
        tunnel.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"through envoy");
        assert!(gateway.get("/tunnels").1.contains("\"device\":\"device\""));
        drop(tunnel);
        gateway.lists_none();
        // Another's own header beside Envoy's is a second opinion, and refused.
        let mut refused = session(&pki, TcpStream::connect(front).unwrap(), &device);
        let told = ask(&mut refused, asking(&client_cert(&other)).as_bytes()).unwrap();
        assert!(told.starts_with("HTTP/1.1 403 "), "{told}");
        until("a conflict", || gateway.ended("identity-conflict") == 1.0);
    }
}
