//! Envoy as a client: it sends TCP connections through tunnels of one HTTP/2 session, as a sidecar of an app does.

use crate::common;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use common::{Gateway, PATIENCE, Pki, Program, echo, free_port, server, until};

const TUNNELS: usize = 30;

/// More than any window at its start, in both directions at once.
const EACH: usize = 1 << 20;

struct Sidecar {
    pki: Pki,
    gateway: Gateway,
    _envoy: Program,
    /// Where Envoy takes connections for a destination that a rule allows, and for one that none does.
    open: SocketAddr,
    refused: SocketAddr,
}

impl Sidecar {
    fn start(to: SocketAddr) -> Self {
        let pki = Pki::new();
        pki.client("envoy", |_| ());
        let gateway = Gateway::builder(&pki).servers(&[to]).start();
        let (open, refused) = (free_port(), free_port());
        let config = include_str!("interop/envoy.yaml")
            .replace("OPEN_PORT", &open.port().to_string())
            .replace("REFUSED_PORT", &refused.port().to_string())
            .replace("GATEWAY_PORT", &gateway.address.port().to_string())
            .replace("FOLDER", pki.folder.path().to_str().unwrap());
        let envoy = Program::envoy(&pki, &config);
        let sidecar = Self {
            pki,
            gateway,
            _envoy: envoy,
            open,
            refused,
        };
        // It listens before it can be seen that it does: a connection here is already a tunnel.
        until("Envoy listens", || TcpStream::connect(refused).is_ok());
        until("the gateway has said no", || {
            sidecar.gateway.ended("no-rule") == 1.0
        });
        sidecar
    }

    fn connect(&self, to: SocketAddr) -> TcpStream {
        let stream = TcpStream::connect(to).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Envoy's lines about ended connections.
    fn log(&self) -> String {
        std::fs::read_to_string(self.pki.path("access.log")).unwrap_or_default()
    }
}

fn bytes(seed: usize) -> Vec<u8> {
    (0..EACH)
        .map(|at| ((at * 7 + seed * 13) % 251) as u8)
        .collect()
}

#[test]
fn thirty_tunnels_in_one_session() {
    let sidecar = Sidecar::start(server(echo));
    let mut streams: Vec<_> = (0..TUNNELS)
        .map(|_| sidecar.connect(sidecar.open))
        .collect();
    let live = || sidecar.gateway.metric("adit_tunnels_live", "");
    until("all stand at once", || live() == TUNNELS as f64);
    std::thread::scope(|scope| {
        for (at, stream) in streams.iter_mut().enumerate() {
            scope.spawn(move || {
                let sent = bytes(at);
                let mut writer = stream.try_clone().unwrap();
                let sending = std::thread::spawn({
                    let sent = sent.clone();
                    move || writer.write_all(&sent).unwrap()
                });
                let mut back = vec![0; EACH];
                stream.read_exact(&mut back).unwrap();
                assert!(back == sent, "tunnel {at}");
                sending.join().unwrap();
            });
        }
    });
    assert_eq!(sidecar.gateway.metric("adit_http2_sessions_total", ""), 1.0);
    assert!(
        sidecar
            .gateway
            .get("/tunnels")
            .1
            .contains("\"device\":\"envoy\"")
    );
    drop(streams);
    sidecar.gateway.lists_none();
}

/// What the server says it says only when it has seen the end of what the client said.
#[test]
fn the_client_ends_first() {
    let sidecar = Sidecar::start(server(|mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        all.reverse();
        stream.write_all(&all).unwrap();
    }));
    let mut stream = sidecar.connect(sidecar.open);
    let mut sent = bytes(1);
    stream.write_all(&sent).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut back = Vec::new();
    stream.read_to_end(&mut back).unwrap();
    sent.reverse();
    assert!(back == sent, "{}", back.len());
    until("closed", || sidecar.gateway.ended("closed") == 1.0);
}

/// And the other way round: the server's end does not end what the client still says.
#[test]
fn the_server_ends_first() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let sidecar = Sidecar::start(server(move |mut stream| {
        stream.write_all(b"only this").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        let _ = sender.send(all);
    }));
    let mut stream = sidecar.connect(sidecar.open);
    let mut told = String::new();
    stream.read_to_string(&mut told).unwrap();
    assert_eq!(told, "only this");
    stream.write_all(&bytes(2)).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let all = receiver.recv_timeout(PATIENCE).unwrap();
    assert!(all == bytes(2), "{}", all.len());
    until("closed", || sidecar.gateway.ended("closed") == 1.0);
}

#[test]
fn a_refusal_ends_the_connection_and_is_told() {
    let sidecar = Sidecar::start(server(echo));
    let mut stream = sidecar.connect(sidecar.refused);
    let _ = stream.write_all(b"hello");
    let mut back = Vec::new();
    let _ = stream.read_to_end(&mut back);
    assert!(back.is_empty(), "{back:?}");
    until("refused", || sidecar.gateway.ended("no-rule") == 2.0);
    until("Envoy has seen why", || {
        let log = sidecar.log();
        log.contains("http_request_denied")
    });
    // The session that it came in goes on.
    let mut stream = sidecar.connect(sidecar.open);
    stream.write_all(b"still here").unwrap();
    let mut back = [0; 10];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"still here");
    assert_eq!(sidecar.gateway.metric("adit_http2_sessions_total", ""), 1.0);
}
