//! Clients that have not shown who they are take places from each other, the oldest first, and from nobody else.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use adit::limits::GUEST_GRACE;

use super::buffers::{all_is_given_back, one_core};
use crate::common::pace::answers_at_once;
use crate::common::{
    Gateway, PATIENCE, Pki, World, connect_from, echo, request, server, service, until,
};

/// Whether the other end closes this connection, which is waited for.
fn is_closed(stream: &TcpStream) -> bool {
    is_closed_within(stream, PATIENCE)
}

/// Whether it has not closed it, even a moment later.
fn is_open(stream: &TcpStream) -> bool {
    !is_closed_within(stream, Duration::from_millis(200))
}

fn is_closed_within(mut stream: &TcpStream, wait: Duration) -> bool {
    stream.set_read_timeout(Some(wait)).unwrap();
    match stream.read(&mut [0]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

#[test]
fn the_oldest_of_a_full_share_is_given_up_and_new_devices_get_in() {
    let world = World::around(Pki::new(), |pki| {
        one_core(
            pki,
            "max_unauthenticated = 50\nmax_unauthenticated_per_source = 0",
            &service(&[server(echo)]),
        )
    });
    let mut other = world.tunnel("a.test:1");
    let mut crowd = Vec::new();
    for number in 0..200 {
        let mut stream = TcpStream::connect(world.gateway.address).unwrap();
        // Some say something, some nothing.
        if number % 2 == 0 {
            let _ = stream.write_all(&[0x16, 3]);
        }
        crowd.push(stream);
    }
    until("the share is kept", || {
        world.gateway.ended("unauthenticated-limit") == 150.0
    });
    assert_eq!(world.gateway.metric("adit_unauthenticated", ""), 50.0);
    assert_eq!(world.gateway.metric("adit_unauthenticated_max", ""), 50.0);
    answers_at_once(&mut other);
    for _ in 0..10 {
        answers_at_once(&mut world.tunnel("a.test:1"));
    }
    assert!(crowd[..150].iter().all(is_closed));
    assert!(is_open(&crowd[199]), "the newest is the last to go");
    drop((crowd, other));
    until("all have ended", || {
        world.gateway.metric("adit_unauthenticated", "") == 0.0
    });
    all_is_given_back(&world.gateway);
}

#[test]
fn one_source_takes_places_from_itself_alone() {
    let world = World::around(Pki::new(), |pki| {
        one_core(
            pki,
            "max_unauthenticated = 100\nmax_unauthenticated_per_source = 10",
            &service(&[server(echo)]),
        )
    });
    let from = |source| connect_from(source, world.gateway.address);
    let quiet: Vec<TcpStream> = (0..5).map(|_| from("127.0.0.3")).collect();
    let mut crowd: Vec<TcpStream> = (0..60).map(|_| from("127.0.0.2")).collect();
    // On a busy machine some have had their time when the last ones come.
    until("all are there", || {
        world.gateway.metric("adit_unauthenticated", "") + world.gateway.ended("source-limit")
            == 65.0
    });
    std::thread::sleep(GUEST_GRACE);
    crowd.push(from("127.0.0.2"));
    until("its part is kept", || {
        world.gateway.ended("source-limit") == 51.0
    });
    assert_eq!(world.gateway.metric("adit_unauthenticated", ""), 15.0);
    assert_eq!(
        world.gateway.metric("adit_unauthenticated_sources", ""),
        2.0
    );
    assert!(quiet.iter().all(is_open));
    assert!(crowd[..51].iter().all(is_closed));
    // A device behind the same address gets in.
    let mut session = crate::common::session(&world.pki, from("127.0.0.2"), &world.device);
    session.write_all(&request("a.test:1")).unwrap();
    let mut answer = [0; 12];
    session.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    drop((crowd, quiet, session));
    until("the one that must pay is remembered, and no other", || {
        world.gateway.metric("adit_unauthenticated", "") == 0.0
            && world.gateway.metric("adit_unauthenticated_sources", "") == 1.0
    });
    let audit = std::fs::read_to_string(world.pki.path("audit.log")).unwrap();
    assert!(!audit.contains("source-limit"), "it may come in floods");
}

#[test]
fn those_that_hold_bytes_are_given_up_and_not_a_slow_hello() {
    let pki = Pki::new();
    let gateway = one_core(&pki, "handshake_timeout = '60s'", &service(&[server(echo)]));
    let mut slow = connect_from("127.0.0.3", gateway.address);
    slow.write_all(&[0x16, 3, 1]).unwrap();
    // Hellos of nearly 64 KiB, in records of 16 000 bytes, that lack their ends.
    let mut hello = vec![1, 0, 0xff, 0xf0];
    hello.resize(64_000, 0);
    let records = hello.chunks(16_000).flat_map(|part| {
        let length = part.len() as u16;
        let header = [&[0x16, 3, 1], &length.to_be_bytes()[..]].concat();
        [header, part.to_vec()].concat()
    });
    let records: Vec<u8> = records.collect();
    let crowd: Vec<TcpStream> = (0..700)
        .map(|_| {
            let mut stream = connect_from("127.0.0.2", gateway.address);
            let _ = stream.write_all(&records);
            stream
        })
        .collect();
    until("some are given up", || {
        gateway.ended("unauthenticated-limit") >= 1.0
    });
    until("the rest is within the bound", || {
        gateway.metric("adit_runtime_own_bytes", "") <= adit::limits::GUEST_MEMORY as f64
    });
    assert!(is_open(&slow));
    assert!(gateway.ended("unauthenticated-limit") < 350.0);
    drop((crowd, slow));
    all_is_given_back(&gateway);
}

#[test]
fn a_source_whose_handshakes_fail_is_let_in_again_later() {
    let world = World::around(Pki::new(), |pki| {
        one_core(
            pki,
            "failed_handshakes_per_second = 2",
            &service(&[server(echo)]),
        )
    });
    let fail = || {
        let mut stream = connect_from("127.0.0.2", world.gateway.address);
        let _ = stream.write_all(b"this is not TLS");
        let _ = stream.read(&mut [0; 100]);
    };
    // A burst of ten seconds, and what more has passed.
    let begun = Instant::now();
    (0..40).for_each(|_| fail());
    let passed = 22.0 + 2.0 * begun.elapsed().as_secs_f64();
    assert!(world.gateway.ended("not-tls") <= passed);
    assert!(world.gateway.ended("source-failures") >= 40.0 - passed);
    let audit = std::fs::read_to_string(world.pki.path("audit.log")).unwrap();
    assert!(
        !audit.contains("source-failures"),
        "no line for what may come in floods"
    );
    // Another address is not concerned.
    answers_at_once(&mut world.tunnel("a.test:1"));
    until("it is let in again", || {
        let socket = connect_from("127.0.0.2", world.gateway.address);
        let mut session = crate::common::session(&world.pki, socket, &world.device);
        session.write_all(&request("a.test:1")).is_ok() && session.read_exact(&mut [0; 12]).is_ok()
    });
}

#[test]
fn what_a_trusted_proxy_says_is_the_source() {
    let pki = Pki::new();
    let gateway = Gateway::builder(&pki)
        .engine("cores = 1\nmax_unauthenticated_per_source = 3")
        .listener(
            "https = '127.0.0.1:0'\nproxy_protocol = 'optional'\n\
                   trusted_proxies = ['127.0.0.1/32']",
        )
        .servers(&[server(echo)])
        .start();
    let says = |client: &str| {
        let mut stream = TcpStream::connect(gateway.address).unwrap();
        let header = format!("PROXY TCP4 {client} 192.0.2.9 1 2\r\n");
        stream.write_all(header.as_bytes()).unwrap();
        stream
    };
    // Without a header it is the proxy's own, and counts for nobody.
    let bare: Vec<TcpStream> = (0..10)
        .map(|_| {
            let mut stream = TcpStream::connect(gateway.address).unwrap();
            stream.write_all(&[0x16, 3, 1]).unwrap();
            stream
        })
        .collect();
    let clients = ["198.51.100.1", "198.51.100.2"];
    let each: Vec<TcpStream> = clients
        .iter()
        .flat_map(|c| (0..3).map(|_| says(c)))
        .collect();
    until("both are known", || {
        gateway.metric("adit_unauthenticated_sources", "") == 2.0
    });
    std::thread::sleep(GUEST_GRACE);
    let one_more = says(clients[0]);
    until("its oldest goes", || gateway.ended("source-limit") == 1.0);
    assert!(bare.iter().chain(&each[3..]).all(is_open));
    drop((bare, each, one_more));
}

#[test]
fn at_the_limit_of_open_files_tunnels_go_on_and_it_recovers() {
    // A full share makes the gateway begin to accept anew: an accept that has begun keeps the limit that it began with.
    let world = World::around(Pki::new(), |pki| {
        one_core(
            pki,
            "max_unauthenticated = 20\nmax_unauthenticated_per_source = 0",
            &service(&[server(echo)]),
        )
    });
    let mut open = world.tunnel("a.test:1");
    let pid = world.gateway.child.id().to_string();
    let limit = |files: usize| {
        let set = Command::new("prlimit")
            .args(["--pid", &pid, &format!("--nofile={files}:")])
            .status();
        assert!(set.unwrap().success());
    };
    let processor_time = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split(' ').collect();
        fields[12].parse::<u64>().unwrap() + fields[13].parse::<u64>().unwrap()
    };
    let files = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .count();
    limit(files + 10);
    let crowd: Vec<TcpStream> = (0..60)
        .map(|_| TcpStream::connect(world.gateway.address).unwrap())
        .collect();
    let before = processor_time();
    for _ in 0..15 {
        answers_at_once(&mut open);
        std::thread::sleep(Duration::from_millis(200));
    }
    let ticks = processor_time() - before;
    assert!(ticks < 150, "{ticks} ticks of 10 ms in three seconds");
    limit(10_000);
    answers_at_once(&mut world.tunnel("a.test:1"));
    assert!(world.gateway.metric("adit_accept_backoff_total", "") >= 1.0);
    drop(crowd);
    drop(world.connect());
}
