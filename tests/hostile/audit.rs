//! A device that is refused as often as it can be: the audit log does not grow as fast as it likes, and says how much it has
//! left out.

use adit::certs::Issued;
use adit::limits::REFUSALS_AUDITED;

use super::buffers::one_core;
use crate::common::frames::{END_HEADERS, HEADERS, Raw, connect_block, frame};
use crate::common::{Gateway, Pki, World, echo, server, service, until};

/// Refusals with a line each, and those that a line counts.
fn refused(pki: &Pki) -> (usize, u64) {
    let log = std::fs::read_to_string(pki.path("audit.log")).unwrap();
    let lines = log.lines().map(|line| serde_json::from_str(line).unwrap());
    let lines: Vec<serde_json::Value> = lines.collect();
    let of = |event| {
        lines
            .iter()
            .filter(move |line| line["event.action"] == event)
    };
    for line in of("refused-more") {
        assert_eq!(
            (&line["device.id"], &line["event.reason"]),
            (&"device".into(), &"no-rule".into())
        );
    }
    let more = of("refused-more").map(|line| line["adit.count"].as_u64().unwrap());
    (of("refused").count(), more.sum())
}

/// So many requests of a session that are refused, each when the one before was answered.
fn ask(pki: &Pki, gateway: &Gateway, device: &Issued, requests: u32) {
    let mut raw = Raw::open(pki, gateway, device, &[]);
    let block = connect_block("nowhere:443");
    for first in (0..requests).step_by(50) {
        let streams = (first..first + 50).map(|number| 2 * number + 1);
        let all: Vec<u8> = streams
            .flat_map(|stream| frame(HEADERS, END_HEADERS, stream, &block))
            .collect();
        raw.write(&all);
        for _ in 0..50 {
            while raw.next().expect("the session has ended").0 != HEADERS {}
        }
    }
}

#[test]
fn refusals_without_number_are_few_lines() {
    const EACH: u32 = 800;
    const SESSIONS: u32 = 4;
    let mut world = World::around(Pki::new(), |pki| {
        one_core(pki, "", &service(&[server(echo)]))
    });
    for _ in 0..SESSIONS {
        ask(&world.pki, &world.gateway, &world.device, EACH);
    }
    let all = f64::from(SESSIONS * EACH);
    assert_eq!(world.gateway.ended("no-rule"), all);
    // What was not told yet is told at the end.
    world.gateway.signal("TERM");
    until("the process has ended", || {
        world.gateway.child.try_wait().unwrap().is_some()
    });
    let (lines, more) = refused(&world.pki);
    assert_eq!(lines as f64 + more as f64, all, "{lines} lines");
    // The ends of the sessions are counted with them.
    let least = (REFUSALS_AUDITED.0 - SESSIONS) as usize;
    assert!(more > 0 && lines >= least, "{lines} lines");
}
