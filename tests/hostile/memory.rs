//! What a peak has taken is given back when it is over.

use std::io::{Read, Write};
use std::time::Duration;

use super::buffers::one_core;
use crate::common::pace::answers_at_once;
use crate::common::{Gateway, Pki, Session, World, echo, server, service, until};

/// Resident memory of the gateway, in MB.
fn resident(gateway: &Gateway) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.child.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kilobytes = line.unwrap().split_whitespace().nth(1).unwrap();
    kilobytes.parse::<f64>().unwrap() / 1024.0
}

/// Opens so many tunnels, and has bytes of all of them on their way at once. The resident memory meanwhile.
fn peak(gateway: &Gateway, open: impl Fn() -> Session, tunnels: usize) -> f64 {
    let mut all: Vec<Session> = (0..tunnels).map(|_| open()).collect();
    let message = vec![b'm'; 40_000];
    for session in &mut all {
        session.write_all(&message).unwrap();
    }
    for session in &mut all {
        session.read_exact(&mut vec![0; message.len()]).unwrap();
    }
    let most = resident(gateway);
    drop(all);
    until("all have ended", || {
        gateway.metric("adit_sessions_live", "") == 0.0
    });
    most
}

/// 4000 of them take a minute: `ADIT_PEAK=4000`.
fn tunnels() -> usize {
    std::env::var("ADIT_PEAK").map_or(1000, |count| count.parse().unwrap())
}

#[test]
fn slow_memory_returns_after_a_peak() {
    const ROOM: f64 = 6.0;
    let tunnels = tunnels();
    let world = World::around(Pki::new(), |pki| {
        one_core(
            pki,
            "max_tunnels_per_device = 10000",
            &service(&[server(echo)]),
        )
    });
    let open = || world.tunnel("a.test:1");
    // Every table has been used once.
    peak(&world.gateway, open, 20);
    let fresh = resident(&world.gateway);
    let most = peak(&world.gateway, open, tunnels);
    let mut low = resident(&world.gateway);
    for _ in 0..150 {
        if low < fresh + ROOM {
            break;
        }
        std::thread::sleep(Duration::from_millis(200));
        low = resident(&world.gateway);
    }
    let words =
        format!("{fresh:.1} MB, with {tunnels} tunnels {most:.1} MB, after them {low:.1} MB");
    eprintln!("{words}");
    assert!(low < fresh + ROOM, "{words}");
    answers_at_once(&mut open());
}

/// Each reload filled a session cache that it threw away: 64 MB were resident until the one after.
#[test]
fn a_reload_costs_no_memory() {
    let pki = Pki::new();
    let gateway = Gateway::builder(&pki)
        .engine("cores = 1")
        .servers(&[server(echo)])
        .start();
    let config = pki.path("adit.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let start = resident(&gateway);
    for turn in 0..8 {
        let before = gateway.metric("adit_config_generation", "");
        std::fs::write(&config, format!("# {turn}\n{text}")).unwrap();
        gateway.signal("HUP");
        until("the new config", || {
            gateway.metric("adit_config_generation", "") > before
        });
        let now = resident(&gateway);
        assert!(now < start + 32.0, "{turn}: {start:.0} MB, {now:.0} MB");
    }
}
