//! What `adit load` says of peers that refuse, hang, vanish or are asked for nothing.

use crate::common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use common::{Gateway, Pki, echo, server};
use serde_json::Value;

/// Far more than any run here takes: what is still running then hangs.
const HANGS: Duration = Duration::from_secs(60);

fn load(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_adit"));
    command.arg("load").args(arguments);
    finish(
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    )
}

/// Waits for the end of a child whose output fits into a pipe.
fn finish(mut child: Child) -> Output {
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > HANGS {
            child.kill().unwrap();
            let output = child.wait_with_output().unwrap();
            panic!("the generator hangs: {output:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().unwrap()
}

/// A short run over TCP; `more` comes last and wins nothing that is given here.
fn tcp(target: SocketAddr, more: &[&str]) -> Output {
    let target = target.to_string();
    let fixed = [
        "--mode", "tcp", "--target", &target, "--warmup", "0", "--json", "-",
    ];
    load(&[&fixed[..], more].concat())
}

fn figures(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn failures_of_the_set_up_are_in_the_report() {
    let count = AtomicUsize::new(0);
    let peer = server(move |stream: TcpStream| {
        // The second connection is closed unanswered, the others are served.
        if count.fetch_add(1, Ordering::Relaxed) != 1 {
            echo(stream);
        }
    });
    let output = tcp(peer, &["--tunnels", "4", "--duration", "0.3"]);
    assert!(output.status.success(), "{output:?}");
    let figures = figures(&output);
    assert_eq!(figures["errors"], 1, "{figures}");
    assert_eq!(figures["errors_by_kind"]["cut"], 1, "{figures}");
    assert_eq!(figures["errors_before_measuring"], 1, "{figures}");
    assert!(figures["operations"].as_u64().unwrap() > 0, "{figures}");
    assert!(figures["cpu_share"].as_f64().unwrap() > 0.0, "{figures}");
}

#[test]
fn a_peer_that_accepts_and_never_answers_is_a_timeout() {
    for scenario in ["echo", "handshake", "idle"] {
        let peer = server(|mut stream: TcpStream| {
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let scenario = ["--scenario", scenario, "--open-timeout", "0.2"];
        let output = tcp(peer, &[&scenario[..], &["--tunnels", "3"]].concat());
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(said(&output).contains("3 timeout"), "{output:?}");
    }
}

#[test]
fn a_run_without_one_operation_fails_and_still_reports() {
    let peer = server(|mut stream: TcpStream| {
        // Answers the first message, then nothing more.
        let mut message = [0; 64];
        if stream.read_exact(&mut message).is_ok() && stream.write_all(&message).is_ok() {
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    let output = tcp(peer, &["--tunnels", "2", "--duration", "0.3"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(figures(&output)["operations"], 0);
    assert!(said(&output).contains("no operation"), "{output:?}");
}

#[test]
fn an_echo_larger_than_every_buffer_comes_back() {
    const SIZE: u64 = 32 << 20;
    let size = SIZE.to_string();
    let output = tcp(
        server(echo),
        &["--tunnels", "1", "--size", &size, "--duration", "2"],
    );
    assert!(output.status.success(), "{output:?}");
    let figures = figures(&output);
    let operations = figures["operations"].as_u64().unwrap();
    assert_eq!(figures["bytes"].as_u64().unwrap(), operations * 2 * SIZE);
    assert_eq!(figures["errors"], 0, "{figures}");
}

#[test]
fn an_open_loop_begins_when_all_tunnels_stand() {
    let (tunnels, received) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let (early, seen) = channel();
    let peer = server(move |mut stream: TcpStream| {
        let last = tunnels.fetch_add(1, Ordering::Relaxed) == 3;
        let mut message = [0; 64];
        while stream.read_exact(&mut message).is_ok() {
            let before = received.fetch_add(1, Ordering::Relaxed);
            if last && before < 4 {
                // The others stand for many intervals of the schedule until this one answers.
                std::thread::sleep(Duration::from_millis(300));
                early.send(received.load(Ordering::Relaxed)).unwrap();
            }
            let _ = stream.write_all(&message);
        }
    });
    let open_loop = ["--tunnels", "4", "--rate", "400", "--duration", "0.3"];
    let output = tcp(peer, &open_loop);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(seen.recv().unwrap(), 4, "one message each, to open");
    let figures = figures(&output);
    assert_eq!(figures["offered"], 400.0);
    assert!(figures["operations"].as_u64().unwrap() > 0, "{figures}");
}

/// Coordinated omission: what was due while the server stood still waited, though it was not sent yet.
#[test]
fn a_stall_is_in_the_latency_of_all_that_was_due_meanwhile() {
    const STALL: Duration = Duration::from_millis(500);
    let peer = server(|mut stream: TcpStream| {
        let mut message = [0; 64];
        let mut number = 0;
        while stream.read_exact(&mut message).is_ok() {
            number += 1;
            if number == 20 {
                std::thread::sleep(STALL);
            }
            let _ = stream.write_all(&message);
        }
    });
    let open_loop = ["--tunnels", "1", "--rate", "200", "--duration", "1.2"];
    let output = tcp(peer, &open_loop);
    assert!(output.status.success(), "{output:?}");
    let figures = figures(&output);
    // 100 of the 240 operations were due in the stall. Only one was on its way: alone, it would be the maximum.
    let p90 = figures["latency_us"]["p90"].as_u64().unwrap();
    assert!(p90 > 200_000, "{figures}");
}

#[test]
fn numbers_that_ask_for_nothing_are_refused() {
    let peer = server(echo);
    for (option, value) in [
        ("--tunnels", "0"),
        ("--tunnels", "99999999999"),
        ("--size", "0"),
        ("--size", "99999999999999"),
        ("--rate", "0"),
        ("--rate", "-1"),
        ("--rate", "NaN"),
        ("--rate", "inf"),
        ("--rate", "1e-300"),
        ("--duration", "0"),
        ("--duration", "-1"),
        ("--duration", "1e18"),
        ("--warmup", "1e18"),
        ("--open-timeout", "0"),
    ] {
        let target = peer.to_string();
        let argument = format!("{option}={value}");
        let output = load(&["--mode", "tcp", "--target", &target, &argument]);
        assert_eq!(output.status.code(), Some(2), "{argument}: {output:?}");
        assert!(said(&output).contains(option), "{argument}: {output:?}");
    }
    let output = load(&["--mode", "tcp", "--target", "nowhere"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn a_refusal_is_counted_by_status_and_reason_and_a_tunnel_is_measured() {
    let pki = Pki::new();
    pki.client("device", |_| ());
    let gateway = Gateway::builder(&pki).servers(&[server(echo)]).start();
    let (ca, cert, key) = (
        pki.path("ca.pem"),
        pki.path("device.pem"),
        pki.path("device.key"),
    );
    let hgrm = pki.path("latency.hgrm");
    let target = gateway.address.to_string();
    let run = |connect: &str| {
        load(&[
            "--target",
            &target,
            "--server-name",
            "localhost",
            "--connect",
            connect,
            "--tunnels",
            "2",
            "--size",
            "100000",
            "--warmup",
            "0",
            "--duration",
            "0.3",
            "--json",
            "-",
            "--ca",
            ca.to_str().unwrap(),
            "--cert",
            cert.to_str().unwrap(),
            "--key",
            key.to_str().unwrap(),
            "--hgrm",
            hgrm.to_str().unwrap(),
        ])
    };
    let output = run("nobody.example:80");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        said(&output).contains("2 refused") && said(&output).contains("403 adit; error="),
        "{output:?}"
    );
    let output = run("a.test:80");
    assert!(output.status.success(), "{output:?}");
    let figures = figures(&output);
    assert_eq!(figures["errors"], 0, "{figures}");
    assert!(figures["operations"].as_u64().unwrap() > 0, "{figures}");
    let text = std::fs::read_to_string(&hgrm).unwrap();
    let percentiles: Vec<Vec<f64>> = text
        .lines()
        .filter(|line| !line.trim_start().starts_with(['#', 'V']))
        .map(|line| {
            line.split_whitespace()
                .filter_map(|word| word.parse().ok())
                .collect()
        })
        .filter(|row: &Vec<f64>| row.len() >= 3)
        .collect();
    assert!(
        percentiles.is_sorted_by(|a, b| a[0] <= b[0] && a[1] <= b[1] && a[2] <= b[2]),
        "{text}"
    );
    let last = percentiles.last().unwrap();
    assert_eq!(
        last[1..3],
        [1.0, figures["operations"].as_f64().unwrap()],
        "{text}"
    );
    // The file is in milliseconds, the report in microseconds; a bucket may round up.
    let max = figures["latency_us"]["max"].as_f64().unwrap();
    assert!(
        (last[0] * 1000.0 - max).abs() <= max * 0.002 + 1.0,
        "{text}"
    );
}

#[test]
fn tunnels_over_http2_share_a_session() {
    let pki = Pki::new();
    pki.client("device", |_| ());
    let gateway = Gateway::builder(&pki).servers(&[server(echo)]).start();
    let files = ["ca.pem", "device.pem", "device.key"].map(|name| pki.path(name));
    let [ca, cert, key] = files.each_ref().map(|path| path.to_str().unwrap());
    let target = gateway.address.to_string();
    let run = |more: &[&str]| {
        let fixed = [
            "--http2",
            "--target",
            &target,
            "--server-name",
            "localhost",
            "--ca",
            ca,
            "--cert",
            cert,
            "--key",
            key,
            "--warmup",
            "0",
            "--duration",
            "0.5",
            "--json",
            "-",
        ];
        load(&[&fixed[..], more].concat())
    };
    let wiki = ["--connect", "wiki.test:443", "--tunnels", "30"];
    let sessions = || gateway.metric("adit_http2_sessions_total", "");
    let opened = || gateway.metric("adit_tunnels_opened_total", "");

    let output = run(&[
        &wiki[..],
        &["--tunnels-per-session", "10", "--size", "100000"],
    ]
    .concat());
    assert!(output.status.success(), "{output:?}");
    let found = figures(&output);
    assert_eq!(found["errors"], 0, "{found}");
    assert!(found["operations"].as_u64().unwrap() > 0, "{found}");
    assert_eq!((sessions(), opened()), (3.0, 30.0));

    // Each handshake is a tunnel of its own in the sessions that stand.
    let output = run(&[&wiki[..], &["--scenario", "handshake"]].concat());
    assert!(output.status.success(), "{output:?}");
    assert_eq!(figures(&output)["errors"], 0, "{output:?}");
    assert_eq!(sessions(), 4.0);
    assert!(opened() > 60.0);

    let output = run(&["--connect", "wiki.elsewhere:443", "--tunnels", "2"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = said(&output);
    assert!(
        said.contains("2 refused") && said.contains("403 adit; error="),
        "{said}"
    );
}
