//! Limits of tunnels and files: what is beyond them is refused or waits, what is within them goes on.

use crate::common;

use std::net::TcpStream;
use std::process::Command;

use adit::certs::Issued;
use common::{Gateway, Pki, ask, connect, echo, echoes, request, server, tunnel, until};

/// That one more tunnel of `device` is refused with these words, counted and recorded.
fn refused(pki: &Pki, gateway: &Gateway, device: &Issued, reason: &str, words: &str) {
    let before = gateway.ended(reason);
    let mut session = connect(pki, gateway, Some(device));
    let head = ask(&mut session, &request("a.test:1")).unwrap();
    let status =
        format!("Proxy-Status: adit; error=connection_limit_reached; details=\"{words}\"\r\n");
    assert!(
        head.starts_with("HTTP/1.1 503 ") && head.contains(&status),
        "{head}"
    );
    until(reason, || gateway.ended(reason) == before + 1.0);
    let line = format!("\"event.reason\":\"{reason}\"");
    until("the audit line", || {
        std::fs::read_to_string(pki.path("audit.log"))
            .unwrap()
            .contains(&line)
    });
}

#[test]
fn the_node_and_each_device_have_a_tunnel_limit() {
    let pki = Pki::new();
    let [ada, bob, eve] = ["ada", "bob", "eve"].map(|name| pki.client(name, |_| ()));
    let gateway = Gateway::builder(&pki)
        .engine("max_tunnels = 3\nmax_tunnels_per_device = 2")
        .servers(&[server(echo)])
        .start();
    let open = |device: &Issued| tunnel(&pki, &gateway, device, "a.test:1");
    let mut first = open(&ada);
    let mut second = open(&ada);
    let device_words = "device is at its tunnel limit";
    refused(&pki, &gateway, &ada, "device-limit", device_words);
    let mut third = open(&bob);
    let node_words = "node is at its tunnel limit";
    refused(&pki, &gateway, &eve, "node-limit", node_words);
    for session in [&mut first, &mut second, &mut third] {
        echoes(session, b"within");
    }
    drop(first);
    until("a tunnel ends", || {
        gateway.metric("adit_tunnels_closed_total", "") == 1.0
    });
    echoes(&mut open(&eve), b"within");
}

#[test]
fn the_file_limit_is_survived() {
    let pki = Pki::new();
    let device = pki.client("device", |_| ());
    let admin = Gateway::builder(&pki)
        .engine("cores = 1")
        .servers(&[server(echo)])
        .write();
    let mut command = Command::new("prlimit");
    command
        .args(["--nofile=60:60", env!("CARGO_BIN_EXE_adit")])
        .args(["run", "--config"])
        .arg(pki.path("adit.toml"));
    let gateway = Gateway::spawn(command, admin);
    let mut open = tunnel(&pki, &gateway, &device, "a.test:1");
    let crowd: Vec<TcpStream> = (0..80)
        .map(|_| TcpStream::connect(gateway.address).unwrap())
        .collect();
    // The admin listener needs a file too, so nothing can be asked before there is room again.
    std::thread::sleep(std::time::Duration::from_millis(300));
    echoes(&mut open, b"within");
    drop(crowd);
    drop(open);
    until("sessions end", || {
        gateway.metric("adit_runtime_fds", "") == 0.0
    });
    let pauses = gateway.metric("adit_accept_backoff_total", "");
    assert!(pauses >= 1.0, "accepting was never paused");
    echoes(&mut tunnel(&pki, &gateway, &device, "a.test:1"), b"within");
}
