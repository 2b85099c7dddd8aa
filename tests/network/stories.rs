//! Whole sessions over a network that cuts, delays and breaks at random places, on both sides of the gateway.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, SupportedProtocolVersion, version};

use crate::common::chaos::{Chaos, Plan, Random};
use crate::common::outbound::{self, Tls, certificate, noise};
use crate::common::{Pki, World, echo, request, server, session_of, speaking};

/// Sessions of each kind, and bytes that go through each both ways.
const SESSIONS: usize = 12;
const BYTES: usize = 120_000;

/// How the two sides speak.
struct Versions {
    app: &'static SupportedProtocolVersion,
    /// `None`: the server has no TLS.
    server: Option<&'static SupportedProtocolVersion>,
}

const ALL: [Versions; 4] = [
    Versions {
        app: &version::TLS13,
        server: None,
    },
    Versions {
        app: &version::TLS12,
        server: None,
    },
    Versions {
        app: &version::TLS13,
        server: Some(&version::TLS13),
    },
    Versions {
        app: &version::TLS12,
        server: Some(&version::TLS12),
    },
];

/// A gateway between two relays, with plans that are made anew for each connection, and the address of the one in front.
fn world(
    versions: &Versions,
    random: &mut Random,
    plan: fn(&mut Random) -> Plan,
) -> (World, SocketAddr) {
    let pki = Pki::new();
    let (address, keys) = match versions.server {
        None => (server(echo), ""),
        Some(version) => {
            let mut tls = Tls::new(certificate(&pki, "127.0.0.1", |_| ()));
            tls.versions = vec![version];
            (tls.echo(), "tls = true\ntls_roots = 'ca.pem'")
        }
    };
    let plans = |mut random: Random| move |_| plan(&mut random);
    let back = Chaos::always(address, plans(random.split()));
    let service = outbound::service(&back.address.to_string(), keys);
    let world = World::of(pki, |node| node.engine("cores = [0]").rest(&service));
    let mut world = world.with(back);
    let front = world.link(plans(random.split()));
    (world, front)
}

/// A tunnel whose bytes come back while more are sent; how many did before anything broke.
fn exchange(client: &Arc<ClientConfig>, front: SocketAddr, bytes: &[u8]) -> std::io::Result<usize> {
    let socket = TcpStream::connect(front)?;
    let mut session = session_of(client.clone(), socket);
    let head = crate::common::ask(&mut session, &request("a.test:1"))?;
    if !head.starts_with("HTTP/1.1 200 ") {
        return Err(std::io::Error::other(head));
    }
    let (mut back, mut done) = (vec![0; bytes.len()], 0);
    for (out, back) in bytes.chunks(10_007).zip(back.chunks_mut(10_007)) {
        session.write_all(out)?;
        session.read_exact(back)?;
        assert!(out == back, "the bytes have changed");
        done += out.len();
    }
    session.conn.send_close_notify();
    session.flush()?;
    let mut rest = Vec::new();
    session.read_to_end(&mut rest)?;
    assert!(rest.is_empty());
    Ok(done)
}

fn client(world: &World, versions: &Versions) -> Arc<ClientConfig> {
    speaking(&world.pki, &world.device, versions.app).into()
}

/// The results of many exchanges at once.
fn exchanges(client: &Arc<ClientConfig>, front: SocketAddr) -> Vec<std::io::Result<usize>> {
    let bytes = noise(BYTES);
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..SESSIONS)
            .map(|_| scope.spawn(|| exchange(client, front, &bytes)))
            .collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    })
}

#[test]
fn no_byte_is_lost_wherever_the_streams_are_cut() {
    let mut random = Random::seeded();
    for versions in &ALL {
        let (world, front) = world(versions, &mut random, Plan::random);
        for result in exchanges(&client(&world, versions), front) {
            assert_eq!(result.unwrap(), BYTES, "{:?}", versions.app);
        }
        world.is_left_clean();
        world.gateway.has_ended("closed", SESSIONS as f64);
    }
}

/// Every other connection is reset somewhere in its first thousands of bytes, so in any phase.
fn broken(random: &mut Random) -> Plan {
    let mut plan = Plan::random(random);
    let at = Some(1 + random.below(9_000));
    match random.below(4) {
        0 => plan.up.reset_at = at,
        1 => plan.down.reset_at = at,
        _ => {}
    }
    plan
}

#[test]
fn nothing_is_left_of_sessions_that_are_reset_in_any_phase() {
    let mut random = Random::seeded();
    let mut lost = 0;
    for versions in &ALL {
        let (world, front) = world(versions, &mut random, broken);
        for _ in 0..3 {
            let results = exchanges(&client(&world, versions), front);
            lost += results.iter().filter(|result| result.is_err()).count();
        }
        world.is_left_clean();
        assert_eq!(world.gateway.metric("adit_runtime_panics_total", ""), 0.0);
    }
    assert!(lost > 0, "no session was reset");
}

/// Latency and a rate, as on a mobile link: each turn takes its time, and nothing runs out of it.
#[test]
fn a_link_of_latency_and_a_low_rate_is_only_slow() {
    let slow = |_: &mut Random| {
        let mut plan = Plan::default();
        for direction in [&mut plan.up, &mut plan.down] {
            direction.delay = Duration::from_millis(30);
            direction.rate = 60_000;
        }
        plan
    };
    let versions = &ALL[2];
    let (world, front) = world(versions, &mut Random::seeded(), slow);
    let client = client(&world, versions);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let client = &client;
            scope.spawn(move || assert_eq!(exchange(client, front, &noise(9_000)).unwrap(), 9_000));
        }
    });
    world.is_left_clean();
}
