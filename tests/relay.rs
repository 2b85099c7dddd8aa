//! What an open tunnel does with bytes, ends and faults.

use crate::common;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use adit::limits::SESSION_REST;
use common::{
    Gateway, PATIENCE, Pki, World, ask, connect, echo, is_cut, request, server, tunnel, until,
};

#[test]
fn early_bytes_half_close_and_orderly_end() {
    let world = World::new(|node| node.servers(&[server(echo)]));
    let mut session = world.connect();
    let head = ask(&mut session, &[&request("a.test:1")[..], b"early"].concat()).unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    session.write_all(b" and late").unwrap();
    session.conn.send_close_notify();
    session.flush().unwrap();
    let mut all = Vec::new();
    // The end is close_notify: rustls makes a bare FIN an error.
    session.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"early and late");
    until("closed", || world.gateway.ended("closed") == 1.0);
}

#[test]
fn a_cut_is_told_from_an_end() {
    let world = World::new(|node| node.servers(&[server(echo)]));
    let session = world.tunnel("a.test:1");
    session.sock.shutdown(Shutdown::Write).unwrap();
    until("truncated", || {
        world.gateway.ended("client-truncated") == 1.0
    });
}

#[test]
fn servers_that_refuse_or_reset() {
    let pki = Pki::new();
    let device = pki.client("device", |_| ());
    let closed = common::free_port();
    let gateway = Gateway::builder(&pki)
        .servers(&[closed, server(echo)])
        .start();
    for _ in 0..4 {
        drop(tunnel(&pki, &gateway, &device, "a.test:1"));
    }
    assert!(
        gateway.metric("adit_dial_retries_total", "") >= 1.0,
        "the next server is tried"
    );
    drop(gateway);
    let gateway = Gateway::builder(&pki).servers(&[closed]).start();
    let head = ask(
        &mut connect(&pki, &gateway, Some(&device)),
        &request("a.test:1"),
    )
    .unwrap();
    assert!(
        head.starts_with("HTTP/1.1 502 ") && head.contains("error=connection_refused"),
        "{head}"
    );
    drop(gateway);
    let resetting = server(|mut stream: TcpStream| {
        stream.read_exact(&mut [0; 1]).unwrap();
        socket2::SockRef::from(&stream)
            .set_linger(Some(std::time::Duration::ZERO))
            .unwrap();
    });
    let gateway = Gateway::builder(&pki).servers(&[resetting]).start();
    let mut session = tunnel(&pki, &gateway, &device, "a.test:1");
    session.write_all(b"xyz").unwrap();
    assert!(is_cut(&mut session), "cut, not ended");
    until("server reset", || gateway.ended("server-reset") == 1.0);
}

#[test]
fn a_server_that_never_answers_and_an_idle_tunnel_time_out() {
    let pki = Pki::new();
    let device = pki.client("device", |_| ());
    // A listener whose queue is full answers no further SYN.
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    full.bind(
        &"127.0.0.1:0"
            .parse::<std::net::SocketAddr>()
            .unwrap()
            .into(),
    )
    .unwrap();
    full.listen(0).unwrap();
    let address = full.local_addr().unwrap().as_socket().unwrap();
    let _first = TcpStream::connect(address).unwrap();
    let engine = "connect_timeout = '300ms'\nidle_timeout = '300ms'";
    let gateway = Gateway::builder(&pki)
        .engine(engine)
        .servers(&[address])
        .start();
    let head = ask(
        &mut connect(&pki, &gateway, Some(&device)),
        &request("a.test:1"),
    )
    .unwrap();
    assert!(
        head.starts_with("HTTP/1.1 504 ") && head.contains("error=connection_timeout"),
        "{head}"
    );
    drop(gateway);
    let gateway = Gateway::builder(&pki)
        .engine(engine)
        .servers(&[server(echo)])
        .start();
    let _session = tunnel(&pki, &gateway, &device, "a.test:1");
    until("idle timeout", || gateway.ended("idle-timeout") == 1.0);
}

#[test]
fn a_tunnel_that_speaks_between_rests_is_not_idle() {
    let world = World::new(|node| node.engine("idle_timeout = '3s'").servers(&[server(echo)]));
    let mut session = world.tunnel("a.test:1");
    // Longer than the session needs to rest, and together longer than the idle timeout.
    for _ in 0..5 {
        std::thread::sleep(SESSION_REST * 3 / 2);
        session.write_all(b"awake").unwrap();
        let mut answer = [0; 5];
        session.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"awake");
    }
    until("idle timeout", || {
        world.gateway.ended("idle-timeout") == 1.0
    });
}

#[test]
fn a_server_that_accepts_and_never_answers_is_left_at_the_idle_timeout() {
    let (ended, end) = std::sync::mpsc::channel();
    let mute = server(move |mut stream: TcpStream| {
        // All that it is sent, up to the end that the gateway makes.
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        ended.send(all).unwrap();
    });
    let world = World::new(|node| node.engine("idle_timeout = '300ms'").servers(&[mute]));
    let mut session = world.tunnel("a.test:1");
    session.write_all(b"anybody there?").unwrap();
    assert!(matches!(session.read(&mut [0; 1]), Ok(0) | Err(_)));
    until("idle timeout", || {
        world.gateway.ended("idle-timeout") == 1.0
    });
    let all = end.recv_timeout(PATIENCE).unwrap();
    assert_eq!(all, b"anybody there?");
}

#[test]
fn a_client_that_never_reads_stops_the_server() {
    let flood = server(|mut stream: TcpStream| while stream.write_all(&[7; 16384]).is_ok() {});
    let world = World::new(|node| node.engine("cores = 1").servers(&[flood]));
    let _session = world.tunnel("a.test:1");
    let sent = || world.gateway.metric("adit_bytes_total", "server-to-client");
    let mut last = -1.0;
    until("the flow stands still", || {
        let now = sent();
        std::thread::sleep(std::time::Duration::from_millis(200));
        now > 0.0 && now == std::mem::replace(&mut last, now)
    });
    assert!(
        world.gateway.metric("adit_runtime_buffers_in_use", "") <= 2.0,
        "one buffer a direction"
    );
}

/// 200 tunnels at once, each with its own bytes both ways: about 3 GiB in all.
#[test]
fn slow_several_gib_through_200_tunnels() {
    const TUNNELS: usize = 200;
    const BYTES: usize = 8 << 20;
    let world = World::new(|node| node.servers(&[server(echo)]));
    std::thread::scope(|scope| {
        for number in 0..TUNNELS {
            let world = &world;
            scope.spawn(move || {
                let mut session = world.tunnel("a.test:1");
                let byte = |at: usize| (at.wrapping_mul(31).wrapping_add(number * 7) % 251) as u8;
                let mut piece = vec![0; 32 << 10];
                let mut back = vec![0; piece.len()];
                for start in (0..BYTES).step_by(piece.len()) {
                    piece
                        .iter_mut()
                        .enumerate()
                        .for_each(|(at, slot)| *slot = byte(start + at));
                    session.write_all(&piece).unwrap();
                    session.read_exact(&mut back).unwrap();
                    assert!(back == piece, "tunnel {number} at {start}");
                }
                session.conn.send_close_notify();
                session.flush().unwrap();
                assert_eq!(session.read(&mut back).unwrap(), 0);
            });
        }
    });
    until("all closed", || {
        world.gateway.ended("closed") == TUNNELS as f64
    });
    assert_eq!(
        world.gateway.metric("adit_bytes_total", "client-to-server"),
        (TUNNELS * BYTES) as f64
    );
}

/// Tunnels that end at every point of their life leave nothing behind.
#[test]
fn slow_20000_tunnels_dropped_at_random_points() {
    let world = World::new(|node| node.engine("cores = 1").servers(&[server(echo)]));
    let idle = |name: &str| world.gateway.metric(&format!("adit_runtime_{name}"), "");
    let before = ["tasks", "operations", "fds", "buffers_in_use"].map(idle);
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let world = &world;
            scope.spawn(move || {
                let mut seed = 0x9e37_79b9 + thread;
                for _ in 0..5_000 {
                    seed = seed
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    drop_somewhere(world, (seed >> 33) % 8);
                }
            });
        }
    });
    until("sessions end", || {
        world.gateway.metric("adit_sessions_accepted_total", "")
            == world.gateway.metric("adit_sessions_closed_total", "")
    });
    until("something is left behind", || {
        ["tasks", "operations", "fds", "buffers_in_use"].map(idle) == before
    });
    assert_eq!(world.gateway.metric("adit_runtime_panics_total", ""), 0.0);
}

fn drop_somewhere(world: &World, point: u64) {
    if point < 2 {
        let mut socket = TcpStream::connect(world.gateway.address).unwrap();
        let _ = socket.write_all(&[0x16, 3, 1, 0, 200, 1][..point as usize * 6]);
        return;
    }
    let mut session = world.connect();
    let bytes = request("a.test:1");
    match point {
        2 => drop(session.conn.complete_io(&mut session.sock)),
        3 => drop(session.write_all(&bytes[..20])),
        4 => drop(session.write_all(&bytes)),
        5 => drop(ask(&mut session, &bytes)),
        6 => {
            let _ = ask(&mut session, &bytes);
            let _ = session.write_all(&vec![1; 100_000]);
        }
        _ => {
            let _ = ask(&mut session, &bytes);
            session.conn.send_close_notify();
            let _ = session.flush();
        }
    }
    if point.is_multiple_of(2) {
        let _ = socket2::SockRef::from(&session.sock).set_linger(Some(std::time::Duration::ZERO));
    }
}
