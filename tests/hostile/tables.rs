//! A device with many tunnels, and an operator who asks for all of them: answers are right, and nobody's bytes wait for them.

use std::process::Command;

use adit::observe::TunnelInfo;

use crate::common::pace::Pace;
use crate::common::{
    Gateway, Pki, ask, connect, echo, echoed, echoes, free_port, server, tunnel, until,
};

const MANY: usize = 300;

#[test]
fn what_is_asked_of_all_tunnels_is_answered_in_steps() {
    let (pki, _admin) = (Pki::new(), free_port());
    let engine = "max_tunnels_per_device = 400";
    let gateway = Gateway::builder(&pki)
        .token()
        .engine(engine)
        .servers(&[server(echo)])
        .start();
    let (hostile, other) = (pki.client("hostile", |_| {}), pki.client("other", |_| {}));
    let mut many: Vec<_> = (0..MANY)
        .map(|_| tunnel(&pki, &gateway, &hostile, "a.test:1"))
        .collect();
    let mut other = tunnel(&pki, &gateway, &other, "a.test:1");

    let list = |query: &str| -> Vec<TunnelInfo> {
        let (status, body) = gateway.get(&format!("/tunnels?{query}"));
        assert_eq!(status, 200);
        serde_json::from_str(&body).unwrap()
    };
    // A client has its answer before the tunnel is one.
    until("all are listed", || list("limit=1000").len() == MANY + 1);
    let all = list("limit=1000");
    let oldest = list("limit=3");
    // The cores' clocks are read one after the other.
    let is_old = |one: &TunnelInfo| all[..10].iter().any(|old| old.id == one.id);
    assert!(oldest.len() == 3 && oldest.iter().all(is_old), "{oldest:?}");
    let of_other = list("device=other&limit=1");
    assert!(of_other.len() == 1 && of_other[0].device == "other");
    assert!(list("limit=0").is_empty() && list("device=nobody").is_empty());

    for session in &mut many {
        assert_eq!(echoed(session, b"0123456789"), b"0123456789");
    }
    let moved = || gateway.metric("adit_bytes_total", "client-to-server");
    assert_eq!(moved(), 10.0 * MANY as f64);

    // Questions all the time, and another device's echo.
    let pace = std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            for _ in 0..20 {
                list("limit=1000");
                gateway.get("/metrics");
            }
        });
        let mut pace = Pace::new();
        while !asking.is_finished() || pace.turns() < 20 {
            pace.turn(|| echoes(&mut other, b"0123456789"));
        }
        pace
    });
    let turns = pace.turns();
    pace.check();

    // What is closed is out of the lists, and still in the totals.
    let mut close = Command::new(env!("CARGO_BIN_EXE_adit"));
    close.args(["tunnels", "--close", "--device", "hostile", "--config"]);
    assert!(close.arg(pki.path("adit.toml")).status().unwrap().success());
    until("the end of the many", || {
        gateway.metric("adit_tunnels_live", "") == 1.0
    });
    assert_eq!(gateway.ended("cut-by-admin"), MANY as f64);
    assert_eq!(moved(), 10.0 * (MANY + turns) as f64);
    assert_eq!(list("limit=1000").len(), 1);
    assert_eq!(echoed(&mut other, b"open"), b"open");
}

/// Sessions over HTTP/1.1 that ask for nothing were in nobody's count, and took the places of other devices.
#[test]
fn sessions_that_ask_for_nothing_are_counted() {
    let pki = Pki::new();
    let [hostile, other] = ["hostile", "other"].map(|name| pki.client(name, |_| ()));
    let engine = "max_tunnels_per_device = 4\nhandshake_timeout = '30s'";
    let gateway = Gateway::builder(&pki)
        .engine(engine)
        .servers(&[server(echo)])
        .start();
    // As many as tunnels, and sixteen.
    let silent: Vec<_> = (0..20)
        .map(|_| {
            let mut session = connect(&pki, &gateway, Some(&hostile));
            session.conn.complete_io(&mut session.sock).unwrap();
            session
        })
        .collect();
    until("all are known", || {
        gateway.metric("adit_handshakes_total", "") == 20.0
    });
    let answer = ask(&mut connect(&pki, &gateway, Some(&hostile)), b"").unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    until("counted", || gateway.ended("device-limit") == 1.0);
    tunnel(&pki, &gateway, &other, "a.test:1");
    drop(silent);
    until("they have gone", || {
        gateway.metric("adit_sessions_live", "") == 0.0
    });
    tunnel(&pki, &gateway, &hostile, "a.test:1");
}
