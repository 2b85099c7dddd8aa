//! An HTTP/2 session that costs the gateway more than it carries is ended: GOAWAY with ENHANCE_YOUR_CALM, and a counter.
//! The frames are written by hand: no client's library sends them.

#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use adit::certs::Issued;
use common::{Gateway, Pki, Session, client_config, echo, server, service, until};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// Error codes of RFC 9113, section 7.
const PROTOCOL_ERROR: u32 = 1;
const ENHANCE_YOUR_CALM: u32 = 11;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let stream = stream.to_be_bytes();
    [&length[1..], &[kind, flags], &stream, payload].concat()
}

/// CONNECT, without Huffman's code and the dynamic table (RFC 7541, section 6.2.2; 2 is :method, 1 is :authority).
fn connect_block(authority: &str) -> Vec<u8> {
    let length = authority.len() as u8;
    [b"\x02\x07CONNECT\x01", &[length][..], authority.as_bytes()].concat()
}

struct Raw {
    session: Session,
    seen: Vec<u8>,
}

impl Raw {
    /// A session with these settings, behind its preface.
    fn open(pki: &Pki, gateway: &Gateway, device: &Issued, settings: &[u8]) -> Self {
        let socket = TcpStream::connect(gateway.address).unwrap();
        let limit = Some(Duration::from_secs(10));
        socket.set_read_timeout(limit).unwrap();
        socket.set_write_timeout(limit).unwrap();
        let mut config = ClientConfig::clone(&client_config(&pki.path("ca.pem"), Some(device)));
        config.alpn_protocols = vec![b"h2".to_vec()];
        let name = ServerName::try_from("localhost").unwrap();
        let connection = ClientConnection::new(config.into(), name).unwrap();
        let mut raw = Self {
            session: StreamOwned::new(connection, socket),
            seen: Vec::new(),
        };
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        raw.write(&[&preface[..], &frame(SETTINGS, 0, 0, settings)].concat());
        raw
    }

    fn write(&mut self, bytes: &[u8]) {
        self.session.write_all(bytes).unwrap();
    }

    /// Writes until all is written or the gateway has hung up.
    fn flood(&mut self, bytes: &[u8]) {
        let _ = self.session.write_all(bytes);
    }

    /// The next frame: type, flags, stream and payload. `None` at the end.
    fn next(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut piece = [0; 4096];
        loop {
            if let Some(&[a, b, c, kind, flags, d, e, f, g]) = self.seen.first_chunk::<9>() {
                let end = 9 + u32::from_be_bytes([0, a, b, c]) as usize;
                if self.seen.len() >= end {
                    let rest = self.seen.split_off(end);
                    let payload = std::mem::replace(&mut self.seen, rest).split_off(9);
                    return Some((kind, flags, u32::from_be_bytes([d, e, f, g]), payload));
                }
            }
            match self.session.read(&mut piece) {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.seen.extend_from_slice(&piece[..count]),
            }
        }
    }

    /// Waits for a frame of this kind on this stream; its payload.
    fn wait_for(&mut self, wanted: u8, on: u32) -> Vec<u8> {
        loop {
            let (kind, _, stream, payload) = self.next().expect("the session ended");
            if (kind, stream) == (wanted, on) {
                return payload;
            }
        }
    }

    /// The code of GOAWAY, which comes before the end.
    fn goaway(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some((kind, _, _, payload)) = self.next() {
            if kind == GOAWAY {
                code = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
            }
        }
        code
    }

    /// An open tunnel on this stream.
    fn tunnel(&mut self, stream: u32) {
        let block = connect_block("wiki.test:443");
        self.write(&frame(HEADERS, END_HEADERS, stream, &block));
        // 0x88: ":status: 200", an indexed field.
        assert_eq!(self.wait_for(HEADERS, stream)[0], 0x88);
    }
}

fn gateway(engine: &str) -> (Pki, Issued, Gateway) {
    let pki = Pki::new();
    let device = pki.client("phone", |_| ());
    let rest = service(&[server(echo)]);
    let gateway = Gateway::start(&pki, engine, "unmanaged = 'allow'", &rest);
    (pki, device, gateway)
}

/// A session with an open tunnel sends `flood`: both end, and each is counted once.
fn ends_for(kind: &str, flood: &[u8]) {
    let (pki, device, gateway) = gateway("");
    let mut raw = Raw::open(&pki, &gateway, &device, &[]);
    raw.tunnel(1);
    raw.flood(flood);
    assert_eq!(raw.goaway(), Some(ENHANCE_YOUR_CALM), "{kind}");
    until("counted", || gateway.ended("client-flood") == 1.0);
    let kinds = format!("kind=\"{kind}\"");
    until("counted by kind", || {
        gateway.metric("adit_http2_abuse_total", &kinds) == 1.0
    });
    assert_eq!(gateway.metric("adit_http2_abuse_total", ""), 1.0);
    until("gone", || {
        gateway.metric("adit_sessions_live", "") == 0.0
            && gateway.metric("adit_tunnels_live", "") == 0.0
    });
    let log = std::fs::read_to_string(pki.path("audit.log")).unwrap();
    let ends: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("\"event\":\"session-end\""))
        .collect();
    assert_eq!(ends.len(), 1, "{log}");
    assert!(ends[0].contains("\"reason\":\"client-flood\""), "{log}");
}

#[test]
fn rapid_reset() {
    // A destination that no rule allows: the cheapest request.
    let block = connect_block("nowhere:443");
    let flood: Vec<u8> = (1..=1100)
        .flat_map(|number| {
            let stream = 2 * number + 1;
            [
                frame(HEADERS, END_HEADERS, stream, &block),
                frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()),
            ]
            .concat()
        })
        .collect();
    ends_for("rapid-reset", &flood);
}

#[test]
fn continuation_flood() {
    let open = frame(HEADERS, 0, 3, &connect_block("wiki.test:443"));
    let flood = [open, frame(CONTINUATION, 0, 3, &[]).repeat(100)].concat();
    ends_for("continuation-flood", &flood);
}

#[test]
fn settings_flood() {
    ends_for("settings-flood", &frame(SETTINGS, 0, 0, &[]).repeat(100));
}

#[test]
fn ping_flood() {
    ends_for("ping-flood", &frame(PING, 0, 0, b"12345678").repeat(300));
}

#[test]
fn empty_data_flood() {
    ends_for("empty-data-flood", &frame(DATA, 0, 1, &[]).repeat(300));
}

#[test]
fn floods_of_frames_that_are_read_over() {
    ends_for(
        "ignored-frames-flood",
        &frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 7]).repeat(1000),
    );
}

#[test]
fn header_bombs() {
    // One entry of 4000 bytes for HPACK's table, and then that entry again and again, in one byte each.
    let entry = [b"\x40\x01x\x7f\xa1\x1e", &vec![b'a'; 4000][..]].concat();
    let block = [connect_block("wiki.test:443"), entry, vec![0xbe; 4000]].concat();
    ends_for("header-bomb", &frame(HEADERS, END_HEADERS, 3, &block));
    // And one that is long without any art.
    let long = [b"\x00\x01x\x7f\xa1\x1e", &vec![b'a'; 4000][..]].concat();
    let block = [connect_block("wiki.test:443"), long.repeat(6)].concat();
    ends_for("header-bomb", &frame(HEADERS, END_HEADERS, 3, &block));
}

#[test]
fn zero_window_stall() {
    let (pki, device, gateway) = gateway("idle_timeout = '2s'");
    // SETTINGS_INITIAL_WINDOW_SIZE = 0.
    let mut raw = Raw::open(&pki, &gateway, &device, &[0, 4, 0, 0, 0, 0]);
    raw.tunnel(1);
    raw.write(&frame(DATA, 0, 1, b"come back"));
    assert_eq!(raw.goaway(), Some(ENHANCE_YOUR_CALM));
    until("counted", || gateway.ended("client-stalled") == 1.0);
    let kind = "kind=\"zero-window-stall\"";
    until("counted by kind", || {
        gateway.metric("adit_http2_abuse_total", kind) == 1.0
    });
}

#[test]
fn what_is_usual_is_no_flood() {
    let (pki, device, gateway) = gateway("");
    let mut raw = Raw::open(&pki, &gateway, &device, &[]);
    raw.tunnel(1);
    // As many pings and settings as a busy client may send, and a header block in two frames.
    for number in 0..20 {
        raw.write(&frame(PING, 0, 0, &[number; 8]));
        loop {
            let (kind, flags, _, payload) = raw.next().unwrap();
            if kind == PING && flags == ACK {
                assert_eq!(payload, [number; 8]);
                break;
            }
        }
    }
    raw.write(&frame(SETTINGS, 0, 0, &[]).repeat(5));
    let block = connect_block("wiki.test");
    raw.write(&frame(HEADERS, 0, 3, &block[..10]));
    raw.write(&frame(CONTINUATION, END_HEADERS, 3, &block[10..]));
    assert_eq!(raw.wait_for(HEADERS, 3)[0], 0x88);
    raw.write(&frame(DATA, 0, 3, b"still here"));
    assert_eq!(raw.wait_for(DATA, 3), b"still here");
    assert_eq!(gateway.metric("adit_http2_abuse_total", ""), 0.0);
}

#[test]
fn broken_framing_is_a_protocol_error() {
    let (pki, device, gateway) = gateway("");
    let mut raw = Raw::open(&pki, &gateway, &device, &[]);
    raw.tunnel(1);
    raw.write(&frame(DATA, 0, 0, b"on no stream"));
    assert_eq!(raw.goaway(), Some(PROTOCOL_ERROR));
    until("counted", || gateway.ended("http-framing") == 1.0);
    assert_eq!(gateway.metric("adit_http2_abuse_total", ""), 0.0);
}
