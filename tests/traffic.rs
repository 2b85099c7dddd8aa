//! Limits of services and apps: tunnels, new tunnels a second, bytes a second; lifetimes; idle timeouts that a client
//! proposes.

use crate::common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use adit::certs::Issued;
use common::{
    Gateway, Pki, Session, World, ask, connect, echo, request, server, service, tunnel, until,
};

fn start(engine: &str, server: std::net::SocketAddr, limits: &str) -> World {
    let text = service(&[server]).replace(
        "[[profile.rule]]",
        &format!("[profile.service.limits]\n{limits}\n[[profile.rule]]"),
    );
    World::new(|node| node.engine(engine).rest(&text))
}

/// The answer to one more request, whose session is closed.
fn answer(pki: &Pki, gateway: &Gateway, device: &Issued) -> String {
    ask(
        &mut connect(pki, gateway, Some(device)),
        &request("a.test:1"),
    )
    .unwrap()
}

fn is_refused(head: &str, words: &str) {
    let status = format!("error=connection_limit_reached; details=\"{words}\"\r\n");
    assert!(
        head.starts_with("HTTP/1.1 503 ") && head.contains(&status),
        "{head}"
    );
}

#[test]
fn a_service_has_a_tunnel_limit_that_a_reload_changes() {
    let world = start("", server(echo), "tunnels = 2");
    let open = || world.tunnel("a.test:1");
    let (first, _second) = (open(), open());
    is_refused(&world.answer("a.test:1"), "service is at its tunnel limit");
    until("counted", || world.gateway.ended("service-limit") == 1.0);
    // What was open before the reload still counts.
    let text = std::fs::read_to_string(world.pki.path("adit.toml")).unwrap();
    std::fs::write(
        world.pki.path("adit.toml"),
        text.replace("tunnels = 2", "tunnels = 3"),
    )
    .unwrap();
    world.gateway.reload();
    let _third = open();
    is_refused(&world.answer("a.test:1"), "service is at its tunnel limit");
    drop(first);
    until("a tunnel ends", || {
        world.gateway.ended("client-truncated") + world.gateway.ended("client-reset") == 1.0
    });
    let _fourth = open();
}

#[test]
fn an_app_has_limits_of_its_own() {
    let pki = Pki::new();
    let mail = pki.client("mail-device", |_| ());
    let other = pki.client("other", |request| request.app = Some("chat".into()));
    let rest = format!(
        "[[profile.app_limits]]\napp = 'mail'\ntunnels = 1\n{}",
        service(&[server(echo)])
    );
    let gateway = Gateway::builder(&pki).rest(&rest).start();
    let _open = tunnel(&pki, &gateway, &mail, "a.test:1");
    is_refused(&answer(&pki, &gateway, &mail), "app is at its tunnel limit");
    let _others: Vec<_> = (0..3)
        .map(|_| tunnel(&pki, &gateway, &other, "a.test:1"))
        .collect();
    until("counted", || gateway.ended("app-limit") == 1.0);
}

#[test]
fn new_tunnels_a_second_are_a_burst_and_a_rate() {
    // One in a second, three at once: however slow this test is, no more than these get in.
    let limits = "new_tunnels_per_second = 1\nnew_tunnels_burst = 3";
    let world = start("", server(echo), limits);
    let begin = Instant::now();
    let answers: Vec<String> = (0..20).map(|_| world.answer("a.test:1")).collect();
    let most = 3 + begin.elapsed().as_secs() as usize + 1;
    let open = answers
        .iter()
        .filter(|head| head.starts_with("HTTP/1.1 200 "))
        .count();
    assert!((3..=most).contains(&open), "{open} of {most}");
    for head in answers
        .iter()
        .filter(|head| !head.starts_with("HTTP/1.1 200 "))
    {
        is_refused(head, "too many new tunnels to the service");
    }
    until("counted", || {
        world.gateway.ended("service-rate") == (20 - open) as f64
    });
    until("a token comes back", || {
        world.answer("a.test:1").starts_with("HTTP/1.1 200 ")
    });
}

/// Sends until the tunnel ends.
fn flood(stream: TcpStream) {
    let bytes = vec![0; 1 << 16];
    while (&stream).write_all(&bytes).is_ok() {}
}

#[test]
fn bytes_a_second_hold_over_all_tunnels_and_directions_are_apart() {
    const RATE: u64 = 2 << 20;
    // The server sends as fast as it can; what a client sends it throws away.
    let up = Arc::new(AtomicU64::new(0));
    let taken = up.clone();
    let both = server(move |stream| {
        let (reader, taken) = (stream.try_clone().unwrap(), taken.clone());
        std::thread::spawn(move || {
            let mut reader = reader;
            let mut bytes = vec![0; 1 << 16];
            while let Ok(count @ 1..) = reader.read(&mut bytes) {
                taken.fetch_add(count as u64, Ordering::Relaxed);
            }
        });
        flood(stream);
    });
    let world = start(
        "",
        both,
        "bytes_per_second = '2 MiB'\nbytes_burst = '64 KiB'",
    );
    let begin = Instant::now();
    let down = Arc::new(AtomicU64::new(0));
    let stop = begin + Duration::from_secs(4);
    let tunnels: Vec<Session> = (0..4).map(|_| world.tunnel("a.test:1")).collect();
    std::thread::scope(|scope| {
        for mut session in tunnels {
            let down = down.clone();
            scope.spawn(move || {
                let bytes = vec![0; 1 << 14];
                let mut back = vec![0; 1 << 14];
                while Instant::now() < stop {
                    session.write_all(&bytes).unwrap();
                    down.fetch_add(session.read(&mut back).unwrap() as u64, Ordering::Relaxed);
                }
            });
        }
    });
    let seconds = begin.elapsed().as_secs_f64();
    // Beyond the rate: the burst, and one receive of each tunnel. Sockets hold what has passed and is not read yet, so that
    // less may be seen, never more.
    let most = (RATE as f64 * seconds) as u64 + (64 << 10) + 4 * (4 * 16_704);
    let (down, up) = (down.load(Ordering::Relaxed), up.load(Ordering::Relaxed));
    assert!(
        down <= most && up <= most,
        "{down} down, {up} up, {most} at most"
    );
    // Far below what flows without a limit, and still a stream: a quarter of the rate on the slowest machine.
    assert!(down >= RATE, "{down} down in {seconds} s");
    assert!(up >= RATE / 4, "{up} up in {seconds} s");
    assert!(world.gateway.metric("adit_rate_waits_total", "") > 0.0);
    assert!(world.gateway.metric("adit_rate_wait_seconds_total", "") > 1.0);
}

#[test]
fn a_tunnel_that_waits_for_its_rate_is_not_idle() {
    // The client sends four seconds' worth at once and is silent then; the idle timeout is a tenth of that.
    let world = start(
        "idle_timeout = '400ms'",
        server(echo),
        "bytes_per_second = '16 KiB'\nbytes_burst = '16 KiB'",
    );
    let mut session = world.tunnel("a.test:1");
    let sent = vec![7; 48 << 10];
    session.write_all(&sent).unwrap();
    let mut back = vec![0; sent.len()];
    session.read_exact(&mut back).unwrap();
    assert_eq!(world.gateway.ended("idle-timeout"), 0.0);
    until("idle at last", || {
        world.gateway.ended("idle-timeout") == 1.0
    });
}

#[test]
fn a_tunnel_ends_when_its_time_is_over_though_bytes_move() {
    let world = start(
        "max_lifetime = '1h'",
        server(echo),
        "max_lifetime = '700ms'",
    );
    let mut session = world.tunnel("a.test:1");
    let mut byte = [0];
    let begin = Instant::now();
    while session.write_all(b"x").is_ok() && session.read_exact(&mut byte).is_ok() {}
    assert!(
        begin.elapsed() >= Duration::from_millis(600),
        "{:?}",
        begin.elapsed()
    );
    until("counted", || world.gateway.ended("lifetime-over") == 1.0);
}

#[test]
fn a_client_proposes_an_idle_timeout_within_bounds() {
    let engine = "idle_timeout = '60s'\nidle_timeout_min = '500ms'\nidle_timeout_max = '90s'";
    let world = start(engine, server(echo), "tunnels = 100");
    let propose = |lines: &str| {
        let mut session = world.connect();
        let request = format!("CONNECT a.test:1 HTTP/1.1\r\nHost: a.test:1\r\n{lines}\r\n");
        let head = ask(&mut session, request.as_bytes()).unwrap();
        (session, head)
    };
    for (seconds, in_force) in [("75", "75"), ("500", "90"), ("0", "0.5")] {
        let (_session, head) = propose(&format!("Adit-Idle-Timeout: {seconds}\r\n"));
        let line = format!("\r\nAdit-Idle-Timeout: {in_force}\r\n");
        assert!(
            head.starts_with("HTTP/1.1 200 ") && head.contains(&line),
            "{head}"
        );
    }
    let (_silent, head) = propose("");
    assert!(!head.contains("Idle"), "{head}");
    let (_wrong, head) = propose("Adit-Idle-Timeout: soon\r\n");
    assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
    let (mut short, _head) = propose("Adit-Idle-Timeout: 0\r\n");
    let mut end = [0];
    assert!(!matches!(short.read(&mut end), Ok(1..)), "cut when idle");
    until("counted", || world.gateway.ended("idle-timeout") >= 1.0);
}
