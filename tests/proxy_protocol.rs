//! PROXY protocol in front of sessions: whose address counts, from whom it is taken, and what is lost (nothing).

use crate::common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use adit::certs::Issued;
use adit::proxy_protocol::{CLIENT_TLS, Header, TlsDetails};
use common::{
    Gateway, Pki, Program, Session, World, ask, connect_from, echo, free_port, read_all, request,
    server, session, until,
};

const REQUIRED: &str =
    "https = '127.0.0.1:0'\nproxy_protocol = 'required'\ntrusted_proxies = ['127.0.0.1']";
const OPTIONAL: &str =
    "https = '127.0.0.1:0'\nproxy_protocol = 'optional'\ntrusted_proxies = ['127.0.0.1']";

/// A fatal alert without encryption: access_denied, decode_error.
const ACCESS_DENIED: [u8; 7] = [21, 3, 3, 0, 2, 2, 49];
const DECODE_ERROR: [u8; 7] = [21, 3, 3, 0, 2, 2, 50];

fn gateway(pki: &Pki, listener: &str) -> Gateway {
    Gateway::builder(pki)
        .listener(listener)
        .servers(&[server(echo)])
        .start()
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Opens a tunnel behind `header`, which is sent at once with the hello, or a byte at a time.
fn behind(pki: &Pki, gateway: &Gateway, device: &Issued, header: &[u8], split: bool) -> Session {
    let socket = TcpStream::connect(gateway.address).unwrap();
    socket.set_nodelay(true).unwrap();
    let mut session = session(pki, socket, device);
    let mut first = header.to_vec();
    session.conn.write_tls(&mut first).unwrap();
    for piece in first.chunks(if split { 1 } else { first.len() }) {
        session.sock.write_all(piece).unwrap();
    }
    opened(session)
}

fn opened(mut session: Session) -> Session {
    let head = ask(&mut session, &request("a.test:1")).unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    session.write_all(b"there").unwrap();
    let mut back = [0; 5];
    session.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"there");
    session
}

#[test]
fn the_header_names_the_client_and_nothing_behind_it_is_lost() {
    let world = World::around(Pki::new(), |pki| gateway(pki, REQUIRED));
    let to = address("203.0.113.1:443");
    let plain = Header::of(address("192.0.2.7:1001"), to);
    let v6 = Header::of(address("[2001:db8::7]:1002"), address("[2001:db8::1]:443"));
    let mut all = Header::of(address("192.0.2.8:1003"), to);
    all.details.alpn = Some(b"http/1.1".to_vec());
    all.details.authority = Some("localhost".to_owned());
    all.details.unique_id = Some(vec![7; 128]);
    all.details.tls = Some(TlsDetails {
        client: CLIENT_TLS,
        verify: 1,
        version: Some("TLSv1.3".to_owned()),
        common_name: Some("somebody else".to_owned()),
        ..TlsDetails::default()
    });
    // Longer than a small buffer of the gateway.
    let mut long = Header::of(address("[::ffff:192.0.2.9]:1004"), to);
    long.details.alpn = Some(vec![1; 50_000]);
    for (header, peer) in [
        (plain.write_v1(), "192.0.2.7:1001"),
        (plain.write_v2(false).unwrap(), "192.0.2.7:1001"),
        (v6.write_v1(), "[2001:db8::7]:1002"),
        (v6.write_v2(true).unwrap(), "[2001:db8::7]:1002"),
        (all.write_v2(true).unwrap(), "192.0.2.8:1003"),
        (long.write_v2(true).unwrap(), "192.0.2.9:1004"),
    ] {
        let split = [false, true].into_iter();
        for split in split.take(if header.len() > 1000 { 1 } else { 2 }) {
            let session = behind(&world.pki, &world.gateway, &world.device, &header, split);
            world.gateway.lists_peer(peer);
            drop(session);
            world.gateway.lists_none();
        }
    }
    until("recorded", || {
        let peer = "\"source.ip\":\"192.0.2.8\",\"source.port\":1003";
        world.pki.audit().contains(peer)
    });
    let audit = world.pki.audit();
    assert!(!audit.contains("\"source.ip\":\"127.0.0.1\""), "{audit}");
    assert!(!audit.contains("somebody else"), "{audit}");
}

#[test]
fn a_connection_of_the_proxys_own_has_its_real_address() {
    let world = World::around(Pki::new(), |pki| gateway(pki, REQUIRED));
    for header in [
        Header::local().write_v2(false).unwrap(),
        Header::local().write_v1(),
    ] {
        let session = behind(&world.pki, &world.gateway, &world.device, &header, false);
        world
            .gateway
            .lists_peer(&session.sock.local_addr().unwrap().to_string());
    }
}

#[test]
fn by_ipv6_and_by_ipv4_of_a_listener_of_both() {
    let listener =
        "https = '[::]:0'\nproxy_protocol = 'required'\ntrusted_proxies = ['127.0.0.1', '::1']";
    let mut world = World::around(Pki::new(), |pki| gateway(pki, listener));
    let header = Header::of(address("[2001:db8::7]:5"), address("[::1]:443")).write_v1();
    for from in ["[::1]", "127.0.0.1"] {
        world.gateway.address = address(&format!("{from}:{}", world.gateway.address.port()));
        let session = behind(&world.pki, &world.gateway, &world.device, &header, false);
        world.gateway.lists_peer("[2001:db8::7]:5");
        drop(session);
        world.gateway.lists_none();
    }
}

#[test]
fn what_is_not_a_trusted_proxys_header_is_refused() {
    let pki = Pki::new();
    let header = Header::of(address("192.0.2.7:1"), address("192.0.2.1:443"));
    let (v1, v2) = (header.write_v1(), header.write_v2(true).unwrap());
    let mut wrong = v2.clone();
    *wrong.last_mut().unwrap() ^= 1;
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc".as_slice();
    for (listener, from, sent, reason, answer) in [
        (
            REQUIRED,
            "127.0.0.2",
            &v1[..],
            "proxy-untrusted",
            ACCESS_DENIED,
        ),
        (
            REQUIRED,
            "127.0.0.2",
            hello,
            "proxy-untrusted",
            ACCESS_DENIED,
        ),
        (REQUIRED, "127.0.0.1", hello, "proxy-missing", DECODE_ERROR),
        (
            REQUIRED,
            "127.0.0.1",
            b"GET / HTTP/1.1\r\n\r\n",
            "proxy-missing",
            DECODE_ERROR,
        ),
        (
            REQUIRED,
            "127.0.0.1",
            &wrong,
            "proxy-malformed",
            DECODE_ERROR,
        ),
        (
            REQUIRED,
            "127.0.0.1",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1 02\r\n",
            "proxy-malformed",
            DECODE_ERROR,
        ),
        (
            OPTIONAL,
            "127.0.0.1",
            &wrong,
            "proxy-malformed",
            DECODE_ERROR,
        ),
        (OPTIONAL, "127.0.0.2", &v1, "proxy-untrusted", ACCESS_DENIED),
        (OPTIONAL, "127.0.0.2", &v2, "proxy-untrusted", ACCESS_DENIED),
        (
            OPTIONAL,
            "127.0.0.2",
            &wrong,
            "proxy-untrusted",
            ACCESS_DENIED,
        ),
        (
            "https = '127.0.0.1:0'",
            "127.0.0.1",
            &v1,
            "not-tls",
            DECODE_ERROR,
        ),
    ] {
        let gateway = gateway(&pki, listener);
        let mut socket = connect_from(from, gateway.address);
        socket.write_all(sent).unwrap();
        let told = read_all(&socket);
        // rustls writes the version of the record as it was in TLS 1.0, or 1.2.
        assert_eq!(
            (told.len(), &told[5..]),
            (7, &answer[5..]),
            "{reason}: {told:?}"
        );
        gateway.has_ended(reason, 1.0);
        let log = || std::fs::read_to_string(pki.path("audit.log")).unwrap();
        until("a record of it", || {
            let log = log();
            let line = log.lines().last().unwrap_or_default();
            line.contains(reason) && line.contains(from)
        });
    }
}

#[test]
fn an_optional_header_may_be_missing() {
    let world = World::around(Pki::new(), |pki| gateway(pki, OPTIONAL));
    for from in ["127.0.0.1", "127.0.0.2"] {
        let socket = connect_from(from, world.gateway.address);
        let peer = socket.local_addr().unwrap().to_string();
        let session = opened(world.session(socket));
        world.gateway.lists_peer(&peer);
        drop(session);
    }
    let header = Header::of(address("192.0.2.7:1"), address("192.0.2.1:443")).write_v1();
    let _session = behind(&world.pki, &world.gateway, &world.device, &header, false);
    world.gateway.lists_peer("192.0.2.7:1");
}

#[test]
fn a_header_that_never_ends_is_over_in_time() {
    let pki = Pki::new();
    let gateway = Gateway::builder(&pki)
        .engine("handshake_timeout = '300ms'")
        .listener(REQUIRED)
        .servers(&[server(echo)])
        .start();
    let mut socket = TcpStream::connect(gateway.address).unwrap();
    socket.write_all(b"PROXY TCP4 192.0.2.1").unwrap();
    read_all(&socket);
    gateway.has_ended("handshake-timeout", 1.0);
}

#[test]
fn a_check_that_says_nothing_is_counted_alone() {
    let pki = Pki::new();
    let local = Header::local().write_v2(false).unwrap();
    let half_hello = [&local, &b"\x16\x03"[..]].concat();
    for (listener, first, half) in [
        ("https = '127.0.0.1:0'", &b""[..], &b"\x16\x03"[..]),
        (REQUIRED, b"", &local[..14]),
        (REQUIRED, &local, &half_hello),
    ] {
        let gateway = gateway(&pki, listener);
        for reset in [false, true] {
            let mut socket = TcpStream::connect(gateway.address).unwrap();
            socket.write_all(first).unwrap();
            if reset {
                let socket = socket2::SockRef::from(&socket);
                socket.set_linger(Some(std::time::Duration::ZERO)).unwrap();
            }
        }
        // Who has gone with a reset before it is looked at is counted so too.
        until("unused", || gateway.metric("adit_ends_total", "") == 2.0);
        let others = gateway.ended("handshake-aborted");
        assert!(
            others <= if first.is_empty() { 0.0 } else { 1.0 },
            "{others}"
        );
        // What breaks off is a handshake that was given up: half a hello, or half a header.
        let mut socket = TcpStream::connect(gateway.address).unwrap();
        socket.write_all(half).unwrap();
        drop(socket);
        until("aborted", || {
            gateway.ended("handshake-aborted") == others + 1.0
        });
        let audit = std::fs::read_to_string(pki.path("audit.log")).unwrap();
        assert!(!audit.contains("unused"), "{audit}");
        std::fs::remove_file(pki.path("audit.log")).unwrap();
    }
}

#[test]
fn haproxy_in_front() {
    let world = World::around(Pki::new(), |pki| gateway(pki, REQUIRED));
    let to = world.gateway.address;
    let ways = [
        "send-proxy",
        "send-proxy-v2",
        "send-proxy-v2-ssl-cn",
        "send-proxy-v2 proxy-v2-options ssl,cert-cn,ssl-cipher,authority,crc32c,unique-id",
        // HAProxy's own check sends LOCAL, and then a hello.
        "send-proxy-v2 check inter 200ms",
        "send-proxy check check-send-proxy check-ssl verify none inter 200ms",
    ];
    let fronts: Vec<SocketAddr> = ways.iter().map(|_| free_port()).collect();
    let mut config = String::new();
    for (at, (way, front)) in ways.iter().zip(&fronts).enumerate() {
        config.push_str(&format!(
            "listen l{at}\n  mode tcp\n  unique-id-format %{{+X}}o\\ %ci:%cp_%Ts\n  bind {front}\n  server s {to} {way}\n"
        ));
    }
    let _haproxy = Program::haproxy(&world.pki, &config, &fronts);
    for (way, front) in ways.iter().zip(&fronts) {
        let socket = TcpStream::connect(front).unwrap();
        let client = socket.local_addr().unwrap().to_string();
        let _session = opened(world.session(socket));
        world.gateway.lists_peer(&client);
        eprintln!("{way}: {client}");
    }
    for reason in [
        "proxy-missing",
        "proxy-malformed",
        "proxy-untrusted",
        "not-tls",
    ] {
        assert_eq!(world.gateway.ended(reason), 0.0, "{reason}");
    }
}
