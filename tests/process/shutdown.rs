//! A process that is told to stop ends, whatever hangs.

use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Gateway, PATIENCE, Pki, free_port, service, until};

fn ended(child: &mut Child) -> ExitStatus {
    let since = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(since.elapsed() < PATIENCE, "it does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// As [`ended`], of a process that strace holds: it has ended when all that is left is what strace has not let go of.
fn ended_under(held: Held, child: &mut Child) -> ExitStatus {
    let status = format!("/proc/{}/status", child.id());
    let since = Instant::now();
    while !std::fs::read_to_string(&status).is_ok_and(|text| text.contains("Z (zombie)")) {
        assert!(since.elapsed() < PATIENCE, "it does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(held);
    ended(child)
}

fn fifo(path: &Path) {
    let _ = std::fs::remove_file(path);
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

fn start(pki: &Pki) -> Gateway {
    let rest = service(&[free_port()]);
    std::fs::write(pki.path("devices.csv"), "one,managed\n").unwrap();
    Gateway::builder(pki)
        .engine("cores = 1")
        .auth("device_registry = 'devices.csv'")
        .rest(&rest)
        .start()
}

/// Nobody writes to it: who opens it waits for ever.
#[test]
fn a_pipe_in_the_place_of_a_file_holds_neither_a_check_nor_a_start_nor_a_stop() {
    for file in [
        "ca.crl",
        "ca.pem",
        "server.pem",
        "server.key",
        "devices.csv",
        "adit.toml",
    ] {
        let pki = Pki::new();
        let text = Gateway::builder(&pki)
            .engine("cores = 1")
            .auth("device_registry = 'devices.csv'")
            .servers(&[free_port()])
            .text();
        std::fs::write(pki.path("devices.csv"), "one,managed\n").unwrap();
        std::fs::write(pki.path("adit.toml"), text).unwrap();
        fifo(&pki.path(file));
        for command in ["check", "run"] {
            let output = Command::new("timeout")
                .args(["20", env!("CARGO_BIN_EXE_adit"), command, "--config"])
                .arg(pki.path("adit.toml"))
                .output()
                .unwrap();
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(
                matches!(output.status.code(), Some(1 | 2)),
                "{command} {file}: {error}"
            );
            assert!(error.contains(file), "{command} {file}: {error}");
            assert!(error.contains("regular file"), "{command} {file}: {error}");
        }
        // While it runs: what was read stays, and a stop is a stop.
        let pki = Pki::new();
        let mut gateway = start(&pki);
        fifo(&pki.path(file));
        if file == "ca.crl" {
            until("the list is told to be wrong", || {
                gateway.metric("adit_crl_list_refused", "") == 1.0
            });
        }
        gateway.signal("HUP");
        until("the refusal", || {
            gateway.metric("adit_config_refused", "") == 1.0
        });
        gateway.signal("TERM");
        assert_eq!(ended(&mut gateway.child).code(), Some(0), "{file}");
    }
}

/// strace, which holds every call of the gateway that asks for the file; ended with this.
struct Held(Child);

impl Held {
    fn new(pki: &Pki, gateway: &Gateway, file: &str) -> Self {
        let log = pki.path("strace.log");
        let child = Command::new("strace")
            .args(["-f", "-o"])
            .arg(&log)
            .arg("-P")
            .arg(pki.path(file))
            .args(["-e", "trace=statx,openat", "-e"])
            .arg("inject=statx,openat:delay_enter=600000000")
            .args(["-p", &gateway.child.id().to_string()])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let held = Self(child);
        // As the system does where a file system's server is gone.
        until("a job hangs", || {
            std::fs::read_to_string(&log).is_ok_and(|text| text.contains(file))
        });
        held
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn slow_a_job_that_hangs_holds_no_stop() {
    let pki = Pki::new();
    let mut gateway = start(&pki);
    let held = Held::new(&pki, &gateway, "ca.crl");
    assert_eq!(gateway.get("/readyz").0, 200);
    gateway.signal("TERM");
    assert_eq!(ended_under(held, &mut gateway.child).code(), Some(1));
}

#[test]
fn a_second_signal_ends_a_process_that_hangs_at_once() {
    let pki = Pki::new();
    let rest = service(&[free_port()]);
    let mut gateway = Gateway::builder(&pki)
        .engine("drain_delay = '100s'")
        .rest(&rest)
        .start();
    let held = Held::new(&pki, &gateway, "ca.crl");
    gateway.signal("TERM");
    until("it drains", || gateway.get("/readyz").0 == 503);
    let since = Instant::now();
    gateway.signal("INT");
    assert_eq!(ended_under(held, &mut gateway.child).code(), Some(1));
    assert!(since.elapsed() < Duration::from_secs(5));
}
