//! No client waits for a delayed acknowledgement.

use crate::common;
use crate::common::network;

use std::net::TcpStream;
use std::sync::Arc;

use common::{Gateway, World, ask, echo, request, server, service, session_of, speaking};
use network::{ip, outside};
use rustls::ClientConfig;
use rustls::HandshakeKind::{self, Full, Resumed};
use rustls::client::Resumption;
use rustls::version::{TLS12, TLS13};

const TUNNELS: u32 = 20;

/// How often it may be that a busy machine, and not the algorithm, lets half of the tunnels wait. With the algorithm all wait
/// in each round.
const ROUNDS: usize = 8;

/// Acknowledgements that the system has sent in this network because it had waited long enough for something to go with.
fn delayed() -> u32 {
    let counters = std::fs::read_to_string("/proc/net/netstat").unwrap();
    let mut lines = counters.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut all = names.split(' ').zip(values.split(' '));
    let (_, value) = all.find(|(name, _)| *name == "DelayedACKs").unwrap();
    value.parse().unwrap()
}

/// Opens a tunnel with Nagle's algorithm on, as a socket has it from the start.
fn open(client: &Arc<ClientConfig>, gateway: &Gateway) -> HandshakeKind {
    let socket = TcpStream::connect(gateway.address).unwrap();
    assert!(!socket.nodelay().unwrap());
    let mut session = session_of(client.clone(), socket);
    // The handshake's last message and the request are two writes.
    session.conn.complete_io(&mut session.sock).unwrap();
    let head = ask(&mut session, &request("a.test:1")).unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    session.conn.handshake_kind().unwrap()
}

#[test]
fn a_request_is_not_held_back_by_nagle_s_algorithm() {
    if outside(concat!(
        module_path!(),
        "::a_request_is_not_held_back_by_nagle_s_algorithm"
    )) {
        return;
    }
    ip("link set lo up");
    for (resumption, version, kind) in [
        ("tickets", &TLS13, Full),
        ("tickets", &TLS13, Resumed),
        ("tickets", &TLS12, Resumed),
        ("cache", &TLS13, Resumed),
        ("off", &TLS13, Full),
    ] {
        let tls = format!("[profile.tls]\nresumption = '{resumption}'\n");
        let services = tls + &service(&[server(echo)]);
        let world = World::new(|node| node.rest(&services));
        let mut client = speaking(&world.pki, &world.device, version);
        if kind == Full {
            client.resumption = Resumption::disabled();
        }
        let client = Arc::new(client);
        assert_eq!(open(&client, &world.gateway), Full);
        let round = || {
            let before = delayed();
            for _ in 0..TUNNELS {
                assert_eq!(open(&client, &world.gateway), kind);
            }
            delayed() - before
        };
        let is_quick = (0..ROUNDS).any(|_| round() < TUNNELS / 2);
        assert!(is_quick, "{resumption}, {version:?}, {kind:?}");
    }
}
