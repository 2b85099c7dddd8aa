//! A device that begins datagrams and does not end them, sends more than a server takes, or is sent more than it reads: it
//! holds what is its own, and others go on.

use std::net::UdpSocket;
use std::time::Instant;

use super::buffers::{all_is_given_back, one_core};
use crate::common::frames::{DATA, END_HEADERS, HEADERS, RST_STREAM, Raw, WIDE, frame};
use crate::common::pace::answers_at_once;
use crate::common::{PATIENCE, Pki, echo, server, tunnel, until};

const TUNNELS: u32 = 60;

/// CONNECT-UDP to port 53 of a host in .test, without Huffman's code (7 is ":scheme", 4 is ":path"; RFC 7541, appendix A).
fn request() -> Vec<u8> {
    let field = |name: &[u8], value: &str| {
        let length = value.len() as u8;
        [name, &[length], value.as_bytes()].concat()
    };
    [
        field(b"\x02", "CONNECT"),
        field(b"\x00\x09:protocol", "connect-udp"),
        b"\x87".to_vec(),
        field(b"\x01", "localhost:8443"),
        field(b"\x04", "/.well-known/masque/udp/dns.test/53/"),
        field(b"\x00\x10capsule-protocol", "?1"),
    ]
    .concat()
}

fn udp_tunnel(raw: &mut Raw, stream: u32) {
    raw.write(&frame(HEADERS, END_HEADERS, stream, &request()));
    assert_eq!(raw.wait_for(HEADERS, stream)[0], 0x88);
}

/// A server that never reads, one that answers each datagram with many, and what is used beside them.
fn rules(udp: &UdpSocket) -> String {
    let (udp, echo) = (udp.local_addr().unwrap(), server(echo));
    format!(
        "[[profile.service]]\nname = 'udp'\nservers = ['{udp}']\nudp = true\n\
         [[profile.rule]]\nhost = 'dns.test'\nport = '*'\nservice = 'udp'\n\
         [[profile.service]]\nname = 'echo'\nservers = ['{echo}']\n\
         [[profile.rule]]\nhost = '*.test'\nport = '*'\nservice = 'echo'\n"
    )
}

#[test]
fn datagrams_that_are_begun_and_not_ended_hold_no_buffer() {
    let pki = Pki::new();
    let [hostile, other] = ["hostile", "other"].map(|name| pki.client(name, |_| ()));
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let gateway = one_core(&pki, "", &rules(&udp));
    let mut other = tunnel(&pki, &gateway, &other, "a.test:1");
    let mut raw = Raw::open(&pki, &gateway, &hostile, &[]);
    let streams = || (0..TUNNELS).map(|number| 2 * number + 1);
    for stream in streams() {
        udp_tunnel(&mut raw, stream);
    }
    // The beginnings of: a kind, a length, a datagram of 16 000 bytes, one that is too long to be passed on, and a capsule
    // that nobody knows of 2^61 bytes.
    let long = [&[0, 0x7e, 0x81, 0][..], &[b'd'; 9000]].concat();
    let too_long = [&[0, 0x80, 0, 0xf0, 0][..], &[b'd'; 9000]].concat();
    let unknown = [&[0x17, 0xe0, 0, 0, 0, 0, 0, 0, 0][..], &[b'u'; 9000]].concat();
    let parts = [vec![0x40], vec![0, 0x80, 0], long, too_long, unknown];
    for (stream, part) in streams().zip(parts.iter().cycle()) {
        raw.write(&frame(DATA, 0, stream, part));
    }
    until("all is read", || {
        gateway.metric("adit_bytes_total", "client-to-server") >= f64::from(TUNNELS / 5 * 27_000)
    });
    until("no buffer is held", || {
        gateway.metric("adit_runtime_buffers_in_use", "") <= 4.0
    });
    answers_at_once(&mut other);
    drop((raw, other));
    until("all have ended", || {
        gateway.metric("adit_tunnels_live", "") == 0.0
    });
    all_is_given_back(&gateway);
}

#[test]
fn a_datagram_longer_than_any_ends_its_tunnel_alone() {
    let pki = Pki::new();
    let [hostile, other] = ["hostile", "other"].map(|name| pki.client(name, |_| ()));
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.set_read_timeout(Some(PATIENCE)).unwrap();
    let gateway = one_core(&pki, "", &rules(&udp));
    let mut other = tunnel(&pki, &gateway, &other, "a.test:1");
    let mut raw = Raw::open(&pki, &gateway, &hostile, &[]);
    udp_tunnel(&mut raw, 1);
    for number in 1..=20 {
        let stream = 2 * number + 1;
        udp_tunnel(&mut raw, stream);
        // 65 536 bytes, and 2^62 - 1.
        let length: &[u8] = match number % 2 {
            0 => &[0, 0x80, 1, 0, 0],
            _ => &[0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        };
        raw.write(&frame(DATA, 0, stream, length));
        assert_eq!(raw.wait_for(RST_STREAM, stream), [0, 0, 0, 1]);
    }
    until("counted", || gateway.ended("capsule-protocol") == 20.0);
    raw.write(&frame(DATA, 0, 1, b"\x00\x04\x00one"));
    let mut datagram = [0; 8];
    assert_eq!(udp.recv(&mut datagram).unwrap(), 3);
    answers_at_once(&mut other);
}

/// In both directions: the server reads nothing of what the client sends, and sends what the client does not read.
#[test]
fn floods_of_datagrams_are_dropped_and_hold_nothing() {
    let pki = Pki::new();
    let [hostile, other] = ["hostile", "other"].map(|name| pki.client(name, |_| ()));
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let gateway = one_core(&pki, "", &rules(&udp));
    let mut other = tunnel(&pki, &gateway, &other, "a.test:1");
    let mut raw = Raw::open(&pki, &gateway, &hostile, WIDE);
    let streams = || (0..TUNNELS).map(|number| 2 * number + 1);
    let mut places = Vec::new();
    udp.set_read_timeout(Some(PATIENCE)).unwrap();
    for stream in streams() {
        udp_tunnel(&mut raw, stream);
        raw.write(&frame(DATA, 0, stream, b"\x00\x04\x00one"));
        places.push(udp.recv_from(&mut [0; 8]).unwrap().1);
    }
    // To the server, of empty datagrams: one byte of each is what they cost the client.
    let empty = b"\x00\x01\x00".repeat(2000);
    for stream in streams() {
        raw.write(&frame(DATA, 0, stream, &empty));
    }
    // To the client, in whose session nothing fits any more: 64 KiB for all tunnels.
    let begun = Instant::now();
    while gateway.metric("adit_runtime_buffers_in_use", "") < f64::from(TUNNELS) {
        assert!(begun.elapsed() < PATIENCE, "nothing waits for the client");
        for place in &places {
            for _ in 0..20 {
                let _ = udp.send_to(&[b'x'; 1200], place);
            }
        }
    }
    for _ in 0..5 {
        for place in places.iter().cycle().take(2000) {
            let _ = udp.send_to(&[b'x'; 1200], place);
        }
        let in_use = gateway.metric("adit_runtime_buffers_in_use", "");
        // Two for each tunnel, and one on its way in each.
        assert!(in_use <= f64::from(3 * TUNNELS + 10), "{in_use}");
        answers_at_once(&mut other);
    }
    drop(raw);
    until("dropped, and counted", || {
        gateway.metric("adit_tunnels_live", "") == 1.0
            && gateway.metric("adit_udp_queue_full_total", "") > 0.0
    });
    drop(other);
    all_is_given_back(&gateway);
}
