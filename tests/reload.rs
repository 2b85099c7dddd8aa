//! What a reload changes, and what it leaves alone.

#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use common::{
    Gateway, Pki, Session, ask, echo, free_port, request, server, service, session, tunnel, until,
};

/// Sends and gets back.
fn echoes(session: &mut Session, text: &[u8]) {
    session.write_all(text).unwrap();
    let mut back = vec![0; text.len()];
    session.read_exact(&mut back).unwrap();
    assert_eq!(back, text);
}

fn generation(gateway: &Gateway) -> f64 {
    gateway.metric("adit_config_generation", "")
}

fn failures(gateway: &Gateway) -> f64 {
    gateway.metric("adit_config_reload_failures_total", "")
}

/// Replaces a part of the config.
fn edit(pki: &Pki, from: &str, to: &str) {
    let text = std::fs::read_to_string(pki.path("adit.toml")).unwrap();
    assert!(text.contains(from), "{from} in {text}");
    std::fs::write(pki.path("adit.toml"), text.replace(from, to)).unwrap();
}

/// Replaces a part of the config, and waits until it is in force.
fn reload(pki: &Pki, gateway: &Gateway, from: &str, to: &str) {
    let before = generation(gateway);
    edit(pki, from, to);
    gateway.signal("HUP");
    until("the new config", || generation(gateway) == before + 1.0);
}

fn is_refused(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_err()
}

/// Opens a tunnel through the listener of this address.
fn tunnel_at(pki: &Pki, address: SocketAddr, device: &adit::certs::Issued) -> Session {
    let socket = TcpStream::connect(address).unwrap();
    let mut session = session(pki, socket, device);
    let head = ask(&mut session, &request("a.test:1")).unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    session
}

#[test]
fn listeners_come_go_and_move() {
    let pki = Pki::new();
    let device = pki.client("device", |_| ());
    let gateway = Gateway::start(&pki, "", "unmanaged = 'allow'", &service(&[server(echo)]));
    let mut old = tunnel(&pki, &gateway, &device, "a.test:1");
    let first = gateway.address;

    // The same port on every address: the sockets of both are there at once.
    let wide = format!("https = '0.0.0.0:{}'", first.port());
    reload(&pki, &gateway, "https = '127.0.0.1:0'", &wide);
    drop(tunnel_at(&pki, first, &device));
    let other = SocketAddr::from(([127, 0, 0, 2], first.port()));
    drop(tunnel_at(&pki, other, &device));

    let (second, plain) = (free_port(), free_port());
    let both = format!(
        "https = '{second}'\nprotocol = 'both'\nhttp = '{plain}'\ntrusted_proxies = ['127.0.0.1/32']\n\
         health_path = '/health'"
    );
    reload(&pki, &gateway, &wide, &both);
    drop(tunnel_at(&pki, second, &device));
    let mut health = TcpStream::connect(plain).unwrap();
    health
        .write_all(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    let mut answer = [0; 12];
    health.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    until("the first is closed", || {
        is_refused(first) && is_refused(other)
    });

    // Both change places, each with the sockets that it has.
    let text = std::fs::read_to_string(pki.path("adit.toml")).unwrap();
    let swapped = text
        .replace(&second.to_string(), "SECOND")
        .replace(&plain.to_string(), &second.to_string())
        .replace("SECOND", &plain.to_string());
    reload(&pki, &gateway, &text, &swapped);
    until("TLS at the other address", || {
        let socket = TcpStream::connect(plain).unwrap();
        ask(&mut session(&pki, socket, &device), &request("a.test:1")).is_ok()
    });

    // What was opened through a listener that is gone lives on.
    echoes(&mut old, b"still here");
    assert_eq!(failures(&gateway), 0.0);
}

#[test]
fn an_address_that_is_taken_refuses_the_whole_reload() {
    let pki = Pki::new();
    let device = pki.client("device", |_| ());
    let gateway = Gateway::start(&pki, "", "unmanaged = 'allow'", &service(&[server(echo)]));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let free = free_port();
    let listener = format!(
        "https = '{free}'\nprotocol = 'both'\nhttp = '{}'\ntrusted_proxies = ['127.0.0.1/32']",
        taken.local_addr().unwrap()
    );
    edit(&pki, "https = '127.0.0.1:0'", &listener);
    edit(&pki, "'*.test'", "'*.other'");
    gateway.signal("HUP");
    until("refused", || failures(&gateway) == 1.0);
    assert_eq!(generation(&gateway), 1.0);
    assert!(is_refused(free), "the first address is open all the same");
    drop(tunnel(&pki, &gateway, &device, "a.test:1"));
    drop(taken);
    gateway.signal("HUP");
    until("taken over", || generation(&gateway) == 2.0);
    until("the old one is closed", || is_refused(gateway.address));
}

#[test]
fn a_connection_that_the_system_has_completed_is_served_though_its_listener_goes() {
    let pki = Arc::new(Pki::new());
    let device = Arc::new(pki.client("device", |_| ()));
    let gateway = Gateway::start(&pki, "", "unmanaged = 'allow'", &service(&[server(echo)]));
    let mut here = "https = '127.0.0.1:0'".to_owned();
    for _ in 0..5 {
        let address = free_port();
        let next = format!("https = '{address}'");
        reload(&pki, &gateway, &here, &next);
        here = next;
        let opened = Arc::new(AtomicUsize::new(0));
        let done = Arc::new(AtomicBool::new(false));
        let clients: Vec<_> = (0..6)
            .map(|_| {
                let (pki, device) = (pki.clone(), device.clone());
                let (opened, done) = (opened.clone(), done.clone());
                std::thread::spawn(move || {
                    loop {
                        match TcpStream::connect(address) {
                            Ok(socket) => {
                                let mut session = session(&pki, socket, &device);
                                let head = ask(&mut session, &request("a.test:1")).unwrap();
                                assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
                                echoes(&mut session, b"hello");
                                opened.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                                assert!(done.load(Ordering::Relaxed), "refused while it is there");
                                return;
                            }
                            Err(error) => panic!("{error}"),
                        }
                    }
                })
            })
            .collect();
        until("tunnels", || opened.load(Ordering::Relaxed) >= 20);
        done.store(true, Ordering::Relaxed);
        let gone = "https = '127.0.0.1:0'".to_owned();
        reload(&pki, &gateway, &here, &gone);
        here = gone;
        for client in clients {
            client.join().expect("each one that connected is served");
        }
    }
}
