//! The process has no more open files: accepting rests and says so, tunnels go on, and new ones come when there are some again.

use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use super::buffers::one_core;
use crate::common::pace::answers_at_once;
use crate::common::{Gateway, Pki, World, echo, server, service, until};

const SHARE: usize = 20;
const WORDS: &str = "the limit of open files is reached";

fn limit(gateway: &Gateway, files: usize) {
    let set = Command::new("prlimit")
        .args(["--pid", &gateway.child.id().to_string()])
        .arg(format!("--nofile={files}:"))
        .status();
    assert!(set.unwrap().success());
}

/// One more than the highest number of an open file.
fn beyond_all(gateway: &Gateway) -> usize {
    let numbers = std::fs::read_dir(format!("/proc/{}/fd", gateway.child.id()));
    let number = |name: std::ffi::OsString| name.to_str().unwrap().parse::<usize>().unwrap();
    let open = numbers
        .unwrap()
        .map(|file| number(file.unwrap().file_name()));
    1 + open.max().unwrap()
}

/// How many numbers below `limit` no open file has. There may be such below the highest: what was open when a later one
/// came, and is closed now.
fn free_below(limit: usize, gateway: &Gateway) -> usize {
    let folder = format!("/proc/{}/fd", gateway.child.id());
    let is_free = |number: &usize| std::fs::symlink_metadata(format!("{folder}/{number}")).is_err();
    (0..limit).filter(is_free).count()
}

#[test]
fn at_the_limit_of_open_files_accepting_rests_and_says_so() {
    // The system looks at the limit when accepting begins. It begins anew when a share that was full has room again.
    let engine = format!(
        "handshake_timeout = '60s'\nmax_unauthenticated = {SHARE}\nmax_unauthenticated_per_source = 0\n\
         failed_handshakes_per_second = 0"
    );
    let world = World::around(Pki::new(), |pki| {
        one_core(pki, &engine, &service(&[server(echo)]))
    });
    let mut open = world.tunnel("a.test:1");
    let metric = |name: &str| world.gateway.metric(name, "");
    assert_eq!(metric("adit_runtime_emfile_total"), 0.0);
    let connect = || TcpStream::connect(world.gateway.address).unwrap();
    let crowd: Vec<TcpStream> = (0..SHARE).map(|_| connect()).collect();
    until("a full share", || {
        metric("adit_unauthenticated") == SHARE as f64
    });

    let files = beyond_all(&world.gateway);
    limit(&world.gateway, files);
    drop(crowd);
    until("all have ended", || metric("adit_unauthenticated") == 0.0);
    // Tunnels take all files but half of what a full share needs.
    let mut tunnels = Vec::new();
    while free_below(files, &world.gateway) > SHARE / 2 {
        tunnels.push(world.tunnel("a.test:1"));
    }

    let begun = Instant::now();
    let mut crowd = Vec::new();
    // The admin listener needs a file too: nothing else can be asked for.
    until("it is said in the log", || {
        crowd.extend((0..SHARE).map(|_| connect()));
        answers_at_once(&mut open);
        std::thread::sleep(Duration::from_millis(200));
        world.gateway.said(WORDS) > 0
    });
    drop(crowd);
    // The limit is the same.
    answers_at_once(&mut world.tunnel("a.test:1"));
    let rests = begun.elapsed().as_millis() as f64 / 50.0;
    until("all have ended", || metric("adit_unauthenticated") == 0.0);
    let met = metric("adit_runtime_emfile_total");
    assert!(met >= 1.0, "the limit was not met");
    assert!(metric("adit_accept_backoff_total") >= met);
    // A rest after each, and not another attempt at once.
    assert!(met <= 2.0 * rests + 10.0, "{met} in {rests} rests");
    assert_eq!(world.gateway.said(WORDS), 1, "once a minute");
    answers_at_once(&mut open);
}
