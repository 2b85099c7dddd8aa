//! Clients that begin something and do not go on hold no buffer, whatever it is and however many they are.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use adit::certs::Issued;
use rustls::ServerConnection;
use rustls::StreamOwned;

use crate::common::pace::answers_at_once;
use crate::common::{
    Gateway, Pki, Session, World, connect_from, echo, request, server, service, tunnel, until,
    web_tls,
};

/// A gateway with one core.
pub fn one_core(pki: &Pki, engine: &str, rest: &str) -> Gateway {
    let engine = format!("cores = 1\n{engine}");
    Gateway::builder(pki).engine(&engine).rest(rest).start()
}

/// That as many buffers are in use as were, and nothing waits for its rest any more.
pub fn all_is_given_back(gateway: &Gateway) {
    until("memory of its own is back", || {
        gateway.metric("adit_runtime_own_blocks", "") == 0.0
    });
    until("buffers are back", || {
        gateway.metric("adit_runtime_buffers_in_use", "") == 0.0
    });
    assert_eq!(gateway.metric("adit_runtime_own_bytes", ""), 0.0);
}

/// `crowd` connections to `address` that have sent `part` of something hold blocks of their own and no buffer, while another
/// device's tunnel goes on and new ones come in.
fn parts_hold_no_buffer(
    pki: &Pki,
    gateway: &Gateway,
    device: &Issued,
    (address, part): (SocketAddr, &[u8]),
) {
    const CROWD: usize = 200;
    let mut other = tunnel(pki, gateway, device, "a.test:1");
    let crowd: Vec<TcpStream> = (0..CROWD)
        .map(|_| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(part).unwrap();
            stream
        })
        .collect();
    until("all wait for the rest", || {
        gateway.metric("adit_runtime_own_blocks", "") >= CROWD as f64
    });
    let in_use = gateway.metric("adit_runtime_buffers_in_use", "");
    assert!(in_use <= 4.0, "{in_use} buffers for {} bytes", part.len());
    let bytes = gateway.metric("adit_runtime_own_bytes", "") / CROWD as f64;
    let bound = 1024.0 + 2.0 * part.len() as f64;
    assert!(bytes <= bound, "{bytes} each for {} bytes", part.len());
    answers_at_once(&mut other);
    answers_at_once(&mut tunnel(pki, gateway, device, "a.test:1"));
    drop((crowd, other));
    all_is_given_back(gateway);
}

/// The first bytes of a client's hello.
fn hello(pki: &Pki, length: usize) -> Vec<u8> {
    let config = crate::common::client_config(&pki.path("ca.pem"), None);
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let mut client = rustls::ClientConnection::new(config, name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello.truncate(length);
    hello
}

#[test]
fn an_unfinished_hello_holds_no_buffer() {
    let world = World::around(Pki::new(), |pki| {
        one_core(pki, "", &service(&[server(echo)]))
    });
    for length in [1, 4, 5, 6, 150] {
        let part = hello(&world.pki, length);
        parts_hold_no_buffer(
            &world.pki,
            &world.gateway,
            &world.device,
            (world.gateway.address, &part),
        );
    }
}

#[test]
fn an_unfinished_header_of_a_load_balancer_or_a_front_end_holds_no_buffer() {
    let world = World::new(|node| {
        node.engine("cores = 1").listener("protocol = 'both'\nhttps = '127.0.0.1:0'\nhttp = '127.0.0.1:0'\nproxy_protocol = 'optional'\n\
                   trusted_proxies = ['127.0.0.1/32']").servers(&[server(echo)])
    });
    let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x40\0not all of it";
    for part in [&b"PROXY TCP4 192.0.2."[..], &v2[..]] {
        parts_hold_no_buffer(
            &world.pki,
            &world.gateway,
            &world.device,
            (world.gateway.address, part),
        );
    }
    let plain = world.gateway.plain.unwrap();
    let request = b"CONNECT a.test:1 HTTP/1.1\r\nHost: a.te";
    parts_hold_no_buffer(&world.pki, &world.gateway, &world.device, (plain, request));
}

/// The bytes of one record of this session that carries `content`.
fn record(session: &mut Session, content: &[u8]) -> Vec<u8> {
    session.conn.writer().write_all(content).unwrap();
    let mut record = Vec::new();
    while session.conn.wants_write() {
        session.conn.write_tls(&mut record).unwrap();
    }
    record
}

#[test]
fn a_record_that_has_begun_in_each_tunnel_of_a_device_holds_no_buffer() {
    const TUNNELS: usize = 200;
    let pki = Pki::new();
    let [device, harmful] = ["device", "harmful"].map(|name| pki.client(name, |_| ()));
    let gateway = one_core(&pki, "", &service(&[server(echo)]));
    let mut other = tunnel(&pki, &gateway, &device, "a.test:1");
    let mut tunnels: Vec<(Session, Vec<u8>)> = (0..TUNNELS)
        .map(|_| {
            let mut session = tunnel(&pki, &gateway, &harmful, "a.test:1");
            let record = record(&mut session, &[b'x'; 3000]);
            (session, record)
        })
        .collect();
    let mut sent = 0;
    for length in [1, 4, 5, 6, 1500] {
        for (session, record) in &mut tunnels {
            session.sock.write_all(&record[sent..length]).unwrap();
        }
        sent = length;
        // As many as wait with fewer bytes.
        until("all wait for the rest, and in no buffer", || {
            gateway.metric("adit_runtime_own_blocks", "") == TUNNELS as f64
                && gateway.metric("adit_runtime_buffers_in_use", "") <= 4.0
        });
        answers_at_once(&mut other);
    }
    // Nothing of it is lost.
    for (session, record) in &mut tunnels {
        session.sock.write_all(&record[sent..]).unwrap();
        let mut back = [0; 3000];
        session.read_exact(&mut back).unwrap();
        assert!(back.iter().all(|byte| *byte == b'x'));
        answers_at_once(session);
    }
    all_is_given_back(&gateway);
}

/// A TLS server that sends the beginning of a record and no more.
fn begins_a_record(stream: TcpStream, tls: std::sync::Arc<rustls::ServerConfig>) {
    let connection = ServerConnection::new(tls).unwrap();
    let mut session = StreamOwned::new(connection, stream);
    let mut byte = [0];
    if session.read_exact(&mut byte).is_err() {
        return;
    }
    session.conn.writer().write_all(&[b'y'; 3000]).unwrap();
    let mut record = Vec::new();
    session.conn.write_tls(&mut record).unwrap();
    session.sock.write_all(&record[..100]).unwrap();
    let _ = session.sock.read(&mut byte);
    session.sock.write_all(&record[100..]).unwrap();
    let _ = session.sock.read(&mut byte);
}

#[test]
fn a_record_that_a_server_has_begun_holds_no_buffer() {
    const TUNNELS: usize = 50;
    let pki = Pki::new();
    let tls = web_tls(&pki, &["server.test"]);
    let address = server(move |stream| begins_a_record(stream, tls.clone()));
    let rest = service(&[address]).replace(
        "name = 'echo'",
        "name = 'echo'\ntls = true\ntls_roots = 'ca.pem'\ntls_name = 'server.test'",
    );
    let world = World::around(pki, |pki| one_core(pki, "", &rest));
    let mut tunnels: Vec<Session> = (0..TUNNELS).map(|_| world.tunnel("a.test:1")).collect();
    for session in &mut tunnels {
        session.write_all(b"1").unwrap();
    }
    until("all wait for the rest", || {
        world.gateway.metric("adit_runtime_own_blocks", "") == TUNNELS as f64
    });
    let in_use = world.gateway.metric("adit_runtime_buffers_in_use", "");
    assert!(in_use <= 4.0, "{in_use} buffers");
    for session in &mut tunnels {
        session.write_all(b"2").unwrap();
        let mut back = [0; 3000];
        session.read_exact(&mut back).unwrap();
        assert!(back.iter().all(|byte| *byte == b'y'));
    }
    drop(tunnels);
    all_is_given_back(&world.gateway);
}

/// As many connections as there were buffers on a core, and more, each with one byte.
#[test]
fn slow_more_connections_of_one_byte_than_a_core_has_buffers_stop_nothing() {
    const CROWD: usize = 16_500;
    let world = World::around(Pki::new(), |pki| {
        one_core(
            pki,
            "max_unauthenticated_per_source = 0\nhandshake_timeout = '120s'",
            &service(&[server(echo)]),
        )
    });
    let mut other = world.tunnel("a.test:1");
    let mut crowd = Vec::with_capacity(CROWD);
    for number in 0..CROWD {
        // One address has not enough ports that are not waiting for their last time.
        let source = format!("127.0.0.{}", 2 + number % 8);
        let mut stream = connect_from(&source, world.gateway.address);
        // The oldest are given up meanwhile.
        let _ = stream.write_all(&[0x16]);
        crowd.push(stream);
        if number % 4000 == 0 {
            answers_at_once(&mut other);
            let _ = world.connect().write_all(&request("a.test:1"));
        }
    }
    let open = || world.gateway.metric("adit_unauthenticated", "");
    // Those that are given up count until their tasks have ended.
    until("no more than the share is open", || {
        open() <= world.gateway.metric("adit_unauthenticated_max", "")
    });
    assert!(open() >= 1000.0, "{}", open());
    // The last ones hold some until their bytes are seen.
    until("few buffers are in use", || {
        world.gateway.metric("adit_runtime_buffers_in_use", "") <= 100.0
    });
    answers_at_once(&mut other);
    answers_at_once(&mut world.tunnel("a.test:1"));
    assert!(world.gateway.ended("unauthenticated-limit") >= 1000.0);
    drop((crowd, other));
    all_is_given_back(&world.gateway);
    until("all have ended", || {
        world.gateway.metric("adit_unauthenticated", "") == 0.0
            && world.gateway.metric("adit_runtime_fds", "") == 0.0
    });
}
