//! One node a state folder, a state folder that cannot be written, and what killed processes leave in one.

use crate::common;

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};

use common::{Gateway, Pki, World, echo, free_port, server, service, until};

/// What a process says that is started on the same state folder, with addresses of its own, and ends at once.
fn second(pki: &Pki) -> String {
    let text = Gateway::builder(pki).servers(&[free_port()]).text();
    std::fs::write(pki.path("second.toml"), text).unwrap();
    let output = pki.adit(["run", "--config", "second.toml"]);
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
    let start = || Gateway::builder(&pki).servers(&[server(echo)]).start();
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
    let mut world = World::new(|node| node.servers(&[server(echo)]));
    let mut session = world.tunnel("a.test:1");
    let first = world.gateway.child.id();
    world.gateway.signal("USR2");
    let mut successor = None;
    until("a new process", || {
        successor = child_of(first).map(Process);
        successor.is_some()
    });
    let successor = successor.unwrap();
    // At each moment somebody has it, at last the new one.
    until("the new process has it", || {
        let error = second(&world.pki);
        assert!(
            names(&error, first) || names(&error, successor.0),
            "{error}"
        );
        names(&error, successor.0)
    });
    session.conn.send_close_notify();
    session.flush().unwrap();
    drop(session);
    world.gateway.child.wait().unwrap();
    let error = second(&world.pki);
    assert!(names(&error, successor.0), "{error}");
}

/// Starts a node in a mount namespace of its own, after these commands have made its state folder.
fn start_on(pki: &Pki, mount: &str) -> (Option<i32>, String) {
    Gateway::builder(pki).servers(&[free_port()]).write();
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
    let (code, error) = start_on(&pki, "mount -t tmpfs -o ro,mode=700 none state");
    assert_eq!(code, Some(1), "{error}");
    assert!(
        error.contains("state_dir") && error.contains("adit.lock") && error.contains("Read-only"),
        "{error}"
    );
    let fill = "mount -t tmpfs -o size=64k,mode=700 none state; \
                dd if=/dev/zero of=state/rest bs=4k count=100 2>/dev/null || true";
    let (code, error) = start_on(&pki, fill);
    assert_eq!(code, Some(1), "{error}");
    assert!(
        error.contains("state_dir") && error.contains("No space left"),
        "{error}"
    );
}

/// `adit certs import` into the state folder, by a shell that runs `first` before it.
fn import(pki: &Pki, first: &str, arguments: &str) -> Output {
    let adit = env!("CARGO_BIN_EXE_adit");
    let script = format!("{first} exec {adit} certs import {arguments} --state-dir state");
    let mut command = Command::new("bash");
    command.args(["-c", &script]).current_dir(pki.folder.path());
    command.output().unwrap()
}

/// An import that the system kills when it has written 1024 bytes. What it leaves.
fn killed(pki: &Pki) -> std::path::PathBuf {
    let whole = ["server.pem", "ca.pem", "server.key"].map(|file| std::fs::read(pki.path(file)));
    let whole: Vec<u8> = whole.into_iter().flat_map(Result::unwrap).collect();
    assert!(whole.len() > 1024);
    std::fs::write(pki.path("front.pem"), whole).unwrap();
    let output = import(pki, "ulimit -c 0; ulimit -f 1;", "front.pem --as server");
    const SIGXFSZ: i32 = 25;
    assert_eq!(output.status.signal(), Some(SIGXFSZ), "{output:?}");
    let folder = std::fs::read_dir(pki.path("state/certificates/server")).unwrap();
    let left: Vec<_> = folder.map(|entry| entry.unwrap().path()).collect();
    assert_eq!(left.len(), 1, "{left:?}");
    let name = left[0].file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with(".front.pem.") && name.ends_with(".tmp"));
    left[0].clone()
}

/// It may hold a key: it goes with the next import of whatever kind, and with a start.
#[test]
fn what_a_killed_import_leaves_is_removed_and_what_another_process_writes_is_not() {
    let pki = Pki::new();
    let left = killed(&pki);
    // As another process has it that writes.
    let under_way = left.with_file_name(".next.pem.abcdef012345.tmp");
    let written = std::fs::File::create(&under_way).unwrap();
    written.lock().unwrap();
    let mine = left.with_file_name(".notes.tmp");
    std::fs::write(&mine, "mine").unwrap();
    let output = import(&pki, "", "ca.pem --as group --name fleet");
    assert!(output.status.success(), "{output:?}");
    assert!(!left.exists() && under_way.exists() && mine.exists());

    drop(written);
    std::fs::remove_file(&mine).unwrap();
    std::fs::remove_file(&under_way).unwrap();
    let left = killed(&pki);
    let rest = service(&[server(echo)]);
    let gateway = Gateway::builder(&pki).rest(&rest).start();
    assert!(!left.exists());
    drop(gateway);
}
