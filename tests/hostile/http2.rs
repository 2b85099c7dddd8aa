//! One device's HTTP/2 sessions: what it does not read, does not send or does not use costs nobody else.

use std::io::Write;
use std::net::TcpStream;
use std::process::Child;
use std::time::{Duration, Instant};

use adit::certs::Issued;

use crate::common::frames::{
    ACK, DATA, END_HEADERS, ENHANCE_YOUR_CALM, HEADERS, PING, Raw, WIDE, connect_block, frame,
};
use crate::common::pace::answers_at_once;
use crate::common::{
    Gateway, Pki, Session, World, ask, echo, echoes, request, server, tunnel, until,
};

/// Resident memory of a process, in bytes.
fn resident(process: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kilobytes = line.unwrap().split_whitespace().nth(1).unwrap();
    kilobytes.parse::<u64>().unwrap() * 1024
}

/// Others are served while the attack goes on.
fn others_are_served(pki: &Pki, gateway: &Gateway, other: &mut Session, new: &Issued) {
    answers_at_once(other);
    answers_at_once(&mut tunnel(pki, gateway, new, "echo.test:1"));
}

fn three_services(bulk: impl Fn(TcpStream) + Send + Sync + 'static) -> String {
    let (bulk, drip, echo) = (server(bulk), server(drip), server(echo));
    let service = |name, address| {
        format!(
            "[[profile.rule]]\nhost = '{name}.test'\nport = '*'\nservice = '{name}'\n\
             [[profile.service]]\nname = '{name}'\nservers = ['{address}']\n"
        )
    };
    service("bulk", bulk) + &service("drip", drip) + &service("echo", echo)
}

/// A server whose every byte is a message of its own.
fn drip(mut stream: TcpStream) {
    stream.set_nodelay(true).unwrap();
    while stream.write_all(b"x").is_ok() {
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn flood(mut stream: TcpStream) {
    while stream.write_all(&vec![0; 1 << 16]).is_ok() {}
}

/// Each byte of a server was queued in a buffer of 16.7 KB: a client with wide windows that does not read had all buffers of
/// its core within a second, and was never taken for one that stalls, since nothing was held back by its windows.
#[test]
fn small_messages_for_a_client_that_does_not_read() {
    let pki = Pki::new();
    let [attacker, other, new] = ["attacker", "other", "new"].map(|name| pki.client(name, |_| ()));
    let engine = "idle_timeout = '6s'\ncores = 1";
    let gateway = Gateway::builder(&pki)
        .engine(engine)
        .rest(&three_services(flood))
        .start();
    let mut other = tunnel(&pki, &gateway, &other, "echo.test:1");
    echoes(&mut other, b"still here");
    let in_use = || gateway.metric("adit_runtime_buffers_in_use", "");
    let (before, buffers) = (resident(&gateway.child), in_use());

    let mut raw = Raw::open(&pki, &gateway, &attacker, WIDE);
    raw.widen();
    for number in 0..40 {
        raw.tunnel_to(2 * number + 1, "drip.test:1");
    }
    // This one fills the connection.
    raw.tunnel_to(81, "bulk.test:1");
    let start = Instant::now();
    let mut most = 0.0_f64;
    while start.elapsed() < Duration::from_secs(3) {
        others_are_served(&pki, &gateway, &mut other, &new);
        most = most.max(in_use());
        // It sends all the while.
        raw.flood(&frame(DATA, 0, 1, b"y"));
    }
    // Two for each tunnel, some for the session, and some of the others.
    assert!(most < buffers + 2.0 * 41.0 + 20.0, "{buffers} {most}");
    // It still sends, and the end comes all the same.
    until("the stall is seen", || {
        raw.flood(&frame(DATA, 0, 1, b"y"));
        echoes(&mut other, b"still here");
        gateway.ended("client-stalled") >= 1.0
    });
    drop(raw);
    until("all is given back", || {
        echoes(&mut other, b"still here");
        in_use() <= buffers + 2.0
            && gateway.metric("adit_tunnels_live", "") == 1.0
            && resident(&gateway.child) < before + (32 << 20)
    });
}

/// A session without a tunnel was nobody's, and each refused request kept it for another idle timeout.
#[test]
fn sessions_without_a_tunnel_are_counted_and_end() {
    let pki = Pki::new();
    let [attacker, other] = ["attacker", "other"].map(|name| pki.client(name, |_| ()));
    let engine = "idle_timeout = '3s'\nmax_tunnels_per_device = 4";
    let gateway = Gateway::builder(&pki)
        .engine(engine)
        .servers(&[server(echo)])
        .start();
    // As many as tunnels, and sixteen.
    let mut sessions: Vec<Raw> = (0..20)
        .map(|_| {
            let mut raw = Raw::open(&pki, &gateway, &attacker, &[]);
            raw.write(&frame(PING, 0, 0, b"12345678"));
            raw.wait_for(PING, 0);
            raw
        })
        .collect();
    for _ in 0..3 {
        let mut one_more = Raw::open(&pki, &gateway, &attacker, &[]);
        assert_eq!(one_more.goaway(), Some(ENHANCE_YOUR_CALM));
    }
    until("counted", || gateway.ended("device-limit") == 3.0);
    let mut theirs = Raw::open(&pki, &gateway, &other, &[]);
    theirs.tunnel(1);

    // What opens no tunnel keeps no session.
    let nowhere = connect_block("nowhere:443");
    let start = Instant::now();
    let mut stream = 1;
    while start.elapsed() < Duration::from_secs(5) {
        for raw in &mut sessions {
            raw.flood(&frame(HEADERS, END_HEADERS, stream, &nowhere));
            raw.flood(&frame(PING, 0, 0, b"12345678"));
        }
        theirs.write(&frame(DATA, 0, 1, b"tick"));
        assert_eq!(theirs.wait_for(DATA, 1), b"tick");
        stream += 2;
        std::thread::sleep(Duration::from_millis(500));
    }
    until("they have ended", || {
        theirs.write(&frame(DATA, 0, 1, b"tick"));
        assert_eq!(theirs.wait_for(DATA, 1), b"tick");
        gateway.metric("adit_sessions_live", "") == 1.0
    });
    let mut again = Raw::open(&pki, &gateway, &attacker, &[]);
    again.tunnel(1);
}

/// A client that measures its way with one PING at a time, as gRPC's do, was cut for it after some ten milliseconds.
#[test]
fn a_download_with_a_ping_for_each_frame_is_no_flood() {
    let world = World::new(|node| node.rest(&three_services(flood)));
    for authority in ["drip.test:1", "bulk.test:1"] {
        let mut raw = world.raw(WIDE);
        raw.widen();
        raw.tunnel_to(1, authority);
        let (mut outstanding, mut answered, mut read) = (false, 0, 0);
        while answered < 1500 {
            let (kind, flags, _, payload) = raw.next().unwrap_or_else(|| {
                panic!(
                    "{authority}: the session has ended after {answered} answers and {read} bytes"
                )
            });
            match (kind, flags) {
                (PING, ACK) => (outstanding, answered) = (false, answered + 1),
                (DATA, _) => {
                    if !outstanding {
                        raw.write(&frame(PING, 0, 0, b"12345678"));
                        outstanding = true;
                    }
                    // Megabytes may be on the way before each answer: not even the widest windows last.
                    read += payload.len() as u32;
                    if read >= 1 << 20 {
                        raw.credit(1, std::mem::take(&mut read));
                    }
                }
                _ => {}
            }
        }
    }
    assert_eq!(world.gateway.metric("adit_http2_abuse_total", ""), 0.0);
    let mut other = world.connect();
    let told = ask(&mut other, &request("echo.test:1")).unwrap();
    assert!(told.starts_with("HTTP/1.1 200 "), "{told}");
}
