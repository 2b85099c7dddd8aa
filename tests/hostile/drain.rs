//! Clients that do not go when the node drains: the drain ends at its bound, whatever they send.

use std::time::{Duration, Instant};

use super::buffers::one_core;
use crate::common::frames::{DATA, END_HEADERS, HEADERS, PING, Raw, connect_block, frame};
use crate::common::{Gateway, Pki, World, echo, server, service, until};

/// Whether the process has ended, while the client goes on: it asks for tunnels and pings, and answers nothing.
fn goes_on(gateway: &mut Gateway, raw: &mut Raw, stream: &mut u32, authority: &str) -> bool {
    *stream += 2;
    let block = connect_block(authority);
    raw.flood(&frame(HEADERS, END_HEADERS, *stream, &block));
    raw.flood(&frame(PING, 0, 0, b"12345678"));
    gateway.child.try_wait().unwrap().is_some()
}

/// The ping behind GOAWAY is not answered, and requests go on: the session had no tunnel, and ends after a moment.
#[test]
fn a_session_that_ignores_goaway_and_has_no_tunnel_ends() {
    let engine = "drain_timeout = '10m'\nidle_timeout = '10m'";
    let mut world = World::around(Pki::new(), |pki| {
        one_core(pki, engine, &service(&[server(echo)]))
    });
    let mut raw = world.raw(&[]);
    raw.write(&frame(PING, 0, 0, b"12345678"));
    raw.wait_for(PING, 0);
    world.gateway.signal("TERM");
    let mut stream = 1;
    until("the process has ended", || {
        // No rule allows it: it never becomes a tunnel.
        goes_on(&mut world.gateway, &mut raw, &mut stream, "nowhere:443")
    });
    assert!(world.gateway.child.wait().unwrap().success());
}

/// A tunnel that is used all the time holds the drain for as long as any may: the drain timeout.
#[test]
fn a_session_that_ignores_goaway_is_cut_when_the_drain_is_over() {
    const DRAIN: Duration = Duration::from_secs(3);
    let engine = "drain_timeout = '3s'\nidle_timeout = '10m'";
    let mut world = World::around(Pki::new(), |pki| {
        one_core(pki, engine, &service(&[server(echo)]))
    });
    let mut raw = world.raw(&[]);
    raw.tunnel_to(1, "a.test:1");
    let start = Instant::now();
    world.gateway.signal("TERM");
    let mut stream = 1;
    until("the process has ended", || {
        raw.flood(&frame(DATA, 0, 1, b"still here"));
        goes_on(&mut world.gateway, &mut raw, &mut stream, "b.test:1")
    });
    assert!(start.elapsed() >= DRAIN, "cut before its time");
    world.gateway.child.wait().unwrap();
    let log = std::fs::read_to_string(world.pki.path("audit.log")).unwrap();
    let cut = "\"event.reason\":\"drain-timeout\"";
    assert!(log.lines().any(|line| line.contains(cut)), "{log}");
    // It has opened others at first, and none for as long as it likes.
    let opened = log.matches("tunnel-start").count();
    assert!(opened * 2 < stream as usize, "{opened} of {stream}");
}
