//! A node whose clock is wrong, and is set while it runs.

use std::time::Duration;

use adit::certs::KeyType;
use adit::lab::{self, MakeCa};

use crate::common::clock::Clock;
use crate::common::{Gateway, Pki, World, echo, server, until};

/// A node by this clock, with a certificate of its own or the one of `pki`.
fn start(pki: &Pki, clock: &Clock, own: bool) -> Gateway {
    let node = Gateway::builder(pki)
        .engine("cores = 1")
        .servers(&[server(echo)]);
    let node = node.without_crls().clock(clock);
    match own {
        true => node.certificate(None).start(),
        false => node.start(),
    }
}

fn open(gateway: &Gateway) -> usize {
    gateway.get("/tunnels").1.matches("\"peer\"").count()
}

fn self_signed(pki: &Pki) -> (Vec<u8>, Vec<u8>) {
    let read = |file: &str| std::fs::read(pki.path("state").join(file)).unwrap();
    (
        read("server-self-signed.pem"),
        read("server-self-signed.key"),
    )
}

#[test]
fn the_certificate_that_devices_have_outlives_every_clock() {
    let pki = Pki::new();
    // An authority that lives longer than what is told here.
    let request = MakeCa {
        common_name: "group".into(),
        days: 3000,
        key_type: KeyType::P256,
    };
    let long = lab::make_ca(&request).unwrap();
    let (certificate, _) = long.write(&pki.path("long")).unwrap();
    std::fs::copy(certificate, pki.path("ca.pem")).unwrap();
    let clock = Clock::new(&pki, "+0d");
    drop(start(&pki, &clock, true));
    let made = self_signed(&pki);
    // Starts: in 1970, and in some years.
    clock.set("-20000d");
    drop(start(&pki, &clock, true));
    assert_eq!(self_signed(&pki), made);
    clock.set("+900d");
    drop(start(&pki, &clock, true));
    let later = self_signed(&pki);
    assert_ne!(later.0, made.0, "the first has expired by that clock");
    assert_eq!(later.1, made.1, "the key");
    clock.set("+0d");
    let gateway = start(&pki, &clock, true);
    assert_eq!(self_signed(&pki), made);
    // Jumps under a running node.
    clock.set("+900d");
    until("the one for that clock", || self_signed(&pki) == later);
    clock.set("-20000d");
    std::thread::sleep(Duration::from_secs(2));
    clock.set("+0d");
    until("the one that devices have", || self_signed(&pki) == made);
    assert_eq!(gateway.get("/readyz").0, 200);
    assert_eq!(gateway.metric("adit_runtime_panics_total", ""), 0.0);
}

#[test]
fn a_node_that_starts_in_1970_serves_when_its_clock_is_set() {
    let pki = Pki::new();
    let clock = Clock::new(&pki, "-20000d");
    let world = World::around(pki, |pki| start(pki, &clock, false));
    clock.set("+0d");
    until("the clock is seen", || {
        world.gateway.get("/readyz").0 == 200
    });
    let session = world.tunnel("a.test:1");
    drop(session);
    assert_eq!(world.gateway.metric("adit_runtime_panics_total", ""), 0.0);
}

/// A tunnel ends when the clock says that its certificate has, and another one opens when the clock is right again. Timeouts
/// know nothing of it.
#[test]
fn a_clock_that_jumps_ends_what_it_says_and_nothing_else() {
    let pki = Pki::new();
    let clock = Clock::new(&pki, "+0d");
    let world = World::around(pki, |pki| start(pki, &clock, false));
    let first = world.tunnel("a.test:1");
    // Hours back and forth, within the certificates' time.
    for offset in ["+6h", "-20m", "+0d"] {
        clock.set(offset);
        std::thread::sleep(Duration::from_millis(1500));
        assert_eq!(open(&world.gateway), 1, "{offset}");
        drop(world.tunnel("a.test:1"));
        until("one is left", || open(&world.gateway) == 1);
    }
    clock.set("+900d");
    until("the tunnel ends", || open(&world.gateway) == 0);
    drop(first);
    clock.set("+0d");
    until("the clock is seen", || {
        world.gateway.get("/readyz").0 == 200
    });
    let again = world.tunnel("a.test:1");
    clock.set("-20000d");
    std::thread::sleep(Duration::from_millis(1500));
    clock.set("+0d");
    assert_eq!(open(&world.gateway), 1, "the past ends nothing");
    drop(again);
    assert_eq!(world.gateway.metric("adit_runtime_panics_total", ""), 0.0);
    // Each record says when by the clock of its moment, and the order of lines is that of the events.
    until("the audit log", || {
        let text = std::fs::read_to_string(world.pki.path("audit.log")).unwrap_or_default();
        text.lines()
            .filter(|line| line.contains("\"@timestamp\""))
            .count()
            >= 5
    });
}
