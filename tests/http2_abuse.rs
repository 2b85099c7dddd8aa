//! An HTTP/2 session that costs the gateway more than it carries is ended: GOAWAY with ENHANCE_YOUR_CALM, and a counter.
//! The frames are written by hand: no client's library sends them.

use crate::common;
use crate::common::frames;

use common::{World, echo, server, until};
use frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, ENHANCE_YOUR_CALM, GOAWAY, HEADERS, PING, PRIORITY,
    PROTOCOL_ERROR, RST_STREAM, SETTINGS, SETTINGS_TIMEOUT, connect_block, frame,
};

fn world(engine: &str) -> World {
    World::new(|node| node.engine(engine).servers(&[server(echo)]))
}

/// A session with an open tunnel sends `flood`: both end, and each is counted once.
fn ends_for(kind: &str, flood: &[u8]) {
    let world = world("");
    let mut raw = world.raw(&[]);
    raw.tunnel(1);
    raw.flood(flood);
    assert_eq!(raw.goaway(), Some(ENHANCE_YOUR_CALM), "{kind}");
    until("counted", || world.gateway.ended("client-flood") == 1.0);
    let kinds = format!("kind=\"{kind}\"");
    until("counted by kind", || {
        world.gateway.metric("adit_http2_abuse_total", &kinds) == 1.0
    });
    assert_eq!(world.gateway.metric("adit_http2_abuse_total", ""), 1.0);
    until("gone", || {
        world.gateway.metric("adit_sessions_live", "") == 0.0
            && world.gateway.metric("adit_tunnels_live", "") == 0.0
    });
    until("recorded", || world.pki.audit().contains("session-end"));
    let log = world.pki.audit();
    let ends: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("\"event.action\":\"session-end\""))
        .collect();
    assert_eq!(ends.len(), 1, "{log}");
    assert!(
        ends[0].contains("\"event.reason\":\"client-flood\""),
        "{log}"
    );
}

#[test]
fn rapid_reset() {
    // A destination that no rule allows: the cheapest request.
    let block = connect_block("nowhere:443");
    // More than are allowed anew in the minute that a busy machine may take.
    let flood: Vec<u8> = (1..=3000)
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
        &frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 7]).repeat(2500),
    );
}

#[test]
fn header_bombs() {
    // One entry of 4000 bytes for HPACK's table, and then that entry again and again, in one byte each.
    let entry = [b"\x40\x01x\x7f\xa1\x1e", &vec![b'a'; 4000][..]].concat();
    let block = [connect_block("wiki.test:443"), entry, vec![0xbe; 4000]].concat();
    ends_for("header-bomb", &frame(HEADERS, END_HEADERS, 3, &block));
    // And those that are large without any art, one after the other: each alone is refused with 431.
    let long = [b"\x00\x01x\x7f\xa1\x1e", &vec![b'a'; 4000][..]].concat();
    let many = b"\x00\x01x\x01a".repeat(100);
    for fields in [long.repeat(6), many] {
        let block = [connect_block("wiki.test:443"), fields].concat();
        let flood: Vec<u8> = (1..60)
            .flat_map(|number| frame(HEADERS, END_HEADERS, 2 * number + 1, &block))
            .collect();
        ends_for("header-bomb", &flood);
    }
}

/// Each was an audit line, thousands a second.
#[test]
fn refused_requests_flood() {
    let world = world("");
    let mut raw = world.raw(&[]);
    let block = connect_block("nowhere:443");
    // Each batch is answered before the next: no more at once than a session may have.
    let code = (0..100).find_map(|batch| {
        let requests: Vec<u8> = (0..50)
            .flat_map(|number| frame(HEADERS, END_HEADERS, 100 * batch + 2 * number + 1, &block))
            .collect();
        raw.flood(&requests);
        let mut answers = 0;
        while answers < 50 {
            let (kind, _, _, payload) = raw.next()?;
            if kind == GOAWAY {
                return Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
            }
            answers += usize::from(kind == HEADERS);
        }
        None
    });
    assert_eq!(code, Some(ENHANCE_YOUR_CALM));
    until("counted by kind", || {
        world
            .gateway
            .metric("adit_http2_abuse_total", "kind=\"refused-requests-flood\"")
            == 1.0
    });
}

#[test]
fn zero_window_stall() {
    let world = world("idle_timeout = '2s'");
    // SETTINGS_INITIAL_WINDOW_SIZE = 0.
    let mut raw = world.raw(&[0, 4, 0, 0, 0, 0]);
    raw.tunnel(1);
    raw.write(&frame(DATA, 0, 1, b"come back"));
    assert_eq!(raw.goaway(), Some(ENHANCE_YOUR_CALM));
    until("counted", || world.gateway.ended("client-stalled") == 1.0);
    let kind = "kind=\"zero-window-stall\"";
    until("counted by kind", || {
        world.gateway.metric("adit_http2_abuse_total", kind) == 1.0
    });
}

/// Memory that a client was told of is counted until it acknowledges that it has less: one that does not is not kept.
#[test]
fn settings_that_are_not_acknowledged() {
    let world = world("idle_timeout = '5s'\nhandshake_timeout = '5s'");
    let [mut silent, mut usual] = [false, true].map(|acknowledges| {
        let mut raw = world.raw(&[]);
        raw.acknowledges = acknowledges;
        raw.tunnel(1);
        raw
    });
    // Bytes move in both all the while.
    let code = loop {
        usual.write(&frame(DATA, 0, 1, b"tick"));
        assert_eq!(usual.wait_for(DATA, 1), b"tick");
        silent.flood(&frame(DATA, 0, 1, b"tick"));
        let (kind, _, _, payload) = silent.next().expect("GOAWAY");
        if kind == GOAWAY {
            break u32::from_be_bytes(payload[4..8].try_into().unwrap());
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    };
    assert_eq!(code, SETTINGS_TIMEOUT);
    until("counted", || world.gateway.ended("client-stalled") == 1.0);
    for _ in 0..50 {
        usual.write(&frame(DATA, 0, 1, b"tick"));
        assert_eq!(usual.wait_for(DATA, 1), b"tick");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn what_is_usual_is_no_flood() {
    let world = world("");
    let mut raw = world.raw(&[]);
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
    let block = connect_block("wiki.test:443");
    raw.write(&frame(HEADERS, 0, 3, &block[..10]));
    raw.write(&frame(CONTINUATION, END_HEADERS, 3, &block[10..]));
    assert_eq!(raw.wait_for(HEADERS, 3)[0], 0x88);
    raw.write(&frame(DATA, 0, 3, b"still here"));
    assert_eq!(raw.wait_for(DATA, 3), b"still here");
    assert_eq!(world.gateway.metric("adit_http2_abuse_total", ""), 0.0);
}

#[test]
fn broken_framing_is_a_protocol_error() {
    let world = world("");
    let mut raw = world.raw(&[]);
    raw.tunnel(1);
    raw.write(&frame(DATA, 0, 0, b"on no stream"));
    assert_eq!(raw.goaway(), Some(PROTOCOL_ERROR));
    until("counted", || world.gateway.ended("http-framing") == 1.0);
    assert_eq!(world.gateway.metric("adit_http2_abuse_total", ""), 0.0);
}
