//! One node a state folder, and a state folder that cannot be written.

#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

mod common;

use std::io::Write;
use std::process::{Command, Output};

use common::{Gateway, Pki, config, echo, free_port, server, service, tunnel, until};

/// What a process says that is started on the same state folder, with addresses of its own, and ends at once.
fn second(pki: &Pki) -> String {
    let text = config(
        free_port(),
        "",
        "unmanaged = 'allow'",
        &service(&[free_port()]),
    );
    std::fs::write(pki.path("second.toml"), text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_adit"))
        .args(["run", "--config", "second.toml"])
        .current_dir(pki.folder.path())
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    error
}

fn names(error: &str, pid: u32) -> bool {
    error.contains("state_dir") && error.contains(&format!("process {pid};"))
}

/// The process that another one has started.
fn child_of(pid: u32) -> Option<u32> {
    let path = format!("/proc/{pid}/task");
    let mut tasks = std::fs::read_dir(path).ok()?.flatten();
    tasks.find_map(|task| {
        let children = std::fs::read_to_string(task.path().join("children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    })
}

/// Killed when it is dropped.
struct Process(u32);

impl Drop for Process {
    fn drop(&mut self) {
        let pid = self.0.to_string();
        let _ = Command::new("kill").args(["-s", "KILL", &pid]).status();
    }
}

#[test]
fn a_second_process_is_refused_and_a_killed_one_leaves_nothing() {
    let pki = Pki::new();
    let start = || Gateway::start(&pki, "", "unmanaged = 'allow'", &service(&[server(echo)]));
    let mut gateway = start();
    let error = second(&pki);
    assert!(names(&error, gateway.child.id()), "{error}");
    assert_eq!(gateway.get("/readyz").0, 200);
    gateway.signal("KILL");
    gateway.child.wait().unwrap();
    let again = start();
    let error = second(&pki);
    assert!(names(&error, again.child.id()), "{error}");
}

#[test]
fn an_upgrade_hands_the_lock_over_without_a_gap() {
    let pki = Pki::new();
    let device = pki.client("device", |_| ());
    let mut gateway = Gateway::start(&pki, "", "unmanaged = 'allow'", &service(&[server(echo)]));
    let mut session = tunnel(&pki, &gateway, &device, "a.test:1");
    let first = gateway.child.id();
    gateway.signal("USR2");
    let mut successor = None;
    until("a new process", || {
        successor = child_of(first).map(Process);
        successor.is_some()
    });
    let successor = successor.unwrap();
    // At each moment somebody has it, at last the new one.
    until("the new process has it", || {
        let error = second(&pki);
        assert!(
            names(&error, first) || names(&error, successor.0),
            "{error}"
        );
        names(&error, successor.0)
    });
    session.conn.send_close_notify();
    session.flush().unwrap();
    drop(session);
    gateway.child.wait().unwrap();
    let error = second(&pki);
    assert!(names(&error, successor.0), "{error}");
}

/// Starts a node in a mount namespace of its own, after these commands have made its state folder.
fn start_on(pki: &Pki, mount: &str) -> (Option<i32>, String) {
    let text = config(
        free_port(),
        "",
        "unmanaged = 'allow'",
        &service(&[free_port()]),
    );
    std::fs::write(pki.path("adit.toml"), text).unwrap();
    let _ = std::fs::create_dir(pki.path("state"));
    let script = format!("set -e; {mount}; exec \"$0\" run");
    let Output { status, stderr, .. } = Command::new("timeout")
        .args(["20", "unshare", "-rm", "sh", "-c", &script])
        .arg(env!("CARGO_BIN_EXE_adit"))
        .current_dir(pki.folder.path())
        .output()
        .unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

#[test]
fn a_state_folder_that_is_full_or_read_only_is_named() {
    let pki = Pki::new();
    let (code, error) = start_on(&pki, "mount -t tmpfs -o ro none state");
    assert_eq!(code, Some(1), "{error}");
    assert!(
        error.contains("state_dir") && error.contains("adit.lock") && error.contains("Read-only"),
        "{error}"
    );
    let fill = "mount -t tmpfs -o size=64k none state; \
                dd if=/dev/zero of=state/rest bs=4k count=100 2>/dev/null || true";
    let (code, error) = start_on(&pki, fill);
    assert_eq!(code, Some(1), "{error}");
    assert!(
        error.contains("state_dir") && error.contains("No space left"),
        "{error}"
    );
}
