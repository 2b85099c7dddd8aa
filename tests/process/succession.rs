//! What an old process still learns after an upgrade, and what becomes of it when it learns nothing more.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use super::upgrade::{
    Successor, child_of, end, put, signal, until_within, upgradable, upgradable_with,
};
use crate::common::{
    Gateway, Pki, TOKEN, World, echo, echoes, free_port, is_cut, server, tunnel, until,
};

/// `adit` with these arguments, in the folder of its config. What it prints.
fn adit(pki: &Pki, arguments: &str) -> String {
    let output = pki.adit(arguments.split(' '));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "adit {arguments}: {told}");
    String::from_utf8(output.stdout).unwrap()
}

fn change_config(pki: &Pki, from: &str, to: &str) {
    let text = std::fs::read_to_string(pki.path("adit.toml")).unwrap();
    assert!(text.contains(from), "{from}");
    std::fs::write(pki.path("adit.toml"), text.replace(from, to)).unwrap();
}

#[test]
fn the_old_process_takes_what_the_new_one_began_with() {
    let pki = Pki::new();
    let [listed, other] = ["listed", "other"].map(|name| pki.client(name, |_| ()));
    let gateway = upgradable(&pki, "watch_files = false");
    std::fs::write(pki.path("devices.csv"), "device,state\n").unwrap();
    change_config(
        &pki,
        "unmanaged = 'allow'",
        "unmanaged = 'allow'\ndevice_registry = 'devices.csv'",
    );
    gateway.reload();
    let mut of_listed = tunnel(&pki, &gateway, &listed, "a.test:1");
    let mut of_other = tunnel(&pki, &gateway, &other, "a.test:1");
    let mut elsewhere = tunnel(&pki, &gateway, &other, "b.test:1");
    // The new version comes with a new config and a new list, which this process has never read. It has other cores, too,
    // which only a new process can have.
    std::fs::write(pki.path("devices.csv"), "device,state\nlisted,blocked\n").unwrap();
    change_config(&pki, "'*.test'", "'a.test'");
    change_config(&pki, "[engine]\n", "[engine]\ncores = 1\n");
    let _successor = Successor::of(&gateway);
    assert!(is_cut(&mut of_listed), "blocked by the list");
    assert!(is_cut(&mut elsewhere), "cut by the new rules");
    echoes(&mut of_other, b"allowed by both");
    end(&mut of_other);
}

#[test]
fn tunnels_and_counters_of_both_processes_are_shown() {
    let pki = Pki::new();
    let [one, two] = ["one", "two"].map(|name| pki.client(name, |_| ()));
    let gateway = upgradable(&pki, "");
    let mut of_one = tunnel(&pki, &gateway, &one, "a.test:1");
    let mut of_two = tunnel(&pki, &gateway, &two, "a.test:1");
    let successor = Successor::of(&gateway);
    let mut new = tunnel(&pki, &gateway, &two, "a.test:1");
    let listed = adit(&pki, "tunnels");
    assert_eq!(listed.matches("\"device\":\"two\"").count(), 2, "{listed}");
    assert_eq!(listed.matches("\"device\":\"one\"").count(), 1, "{listed}");
    let old = format!("process=\"{}\"", gateway.child.id());
    assert_eq!(gateway.metric("adit_tunnels_live", ""), 3.0);
    // The third may have come before the old process had closed its listener.
    assert!(gateway.metric("adit_tunnels_live", &old) >= 2.0);
    assert_eq!(gateway.metric("adit_predecessor", ""), 1.0);
    assert_eq!(gateway.metric("adit_predecessor_lost", ""), 0.0);
    // One answer of the node, whatever the old process is about.
    assert_eq!(gateway.metric("adit_ready", ""), 1.0);
    assert_eq!(gateway.metric("adit_draining", ""), 0.0);
    let closed = adit(&pki, "tunnels --close --device two");
    assert_eq!(closed.trim(), "{\"closed\":2}");
    assert!(is_cut(&mut of_two) && is_cut(&mut new));
    echoes(&mut of_one, b"still here");
    // Nothing of this is asked of a process that has ended.
    end(&mut of_one);
    until("the old process has ended", || {
        gateway.metric("adit_predecessor", "") == 0.0
    });
    assert_eq!(adit(&pki, "tunnels").trim(), "[]");
    assert!(gateway.get("/readyz").1.contains("\"predecessor\":null"));
    drop(successor);
}

#[test]
fn both_processes_open_the_audit_log_again() {
    let world = World::around(Pki::new(), |pki| upgradable(pki, ""));
    let mut old = world.tunnel("a.test:1");
    let successor = Successor::of(&world.gateway);
    let mut new = world.tunnel("a.test:1");
    std::fs::rename(world.pki.path("audit.log"), world.pki.path("audit.log.1")).unwrap();
    // A rotation asks for it also where the config is wrong at the time.
    let good = std::fs::read_to_string(world.pki.path("adit.toml")).unwrap();
    std::fs::write(world.pki.path("adit.toml"), "nonsense").unwrap();
    successor.signal("HUP");
    let text = |name: &str| std::fs::read_to_string(world.pki.path(name)).unwrap_or_default();
    until("the refused reload", || {
        world.gateway.metric("adit_config_refused", "") == 1.0
    });
    until("the old process has the new file", || {
        let open = std::fs::read_dir(format!("/proc/{}/fd", world.gateway.child.id())).unwrap();
        open.flatten().any(|one| {
            std::fs::read_link(one.path()).is_ok_and(|to| to == world.pki.path("audit.log"))
        })
    });
    end(&mut old);
    end(&mut new);
    until("both ends in the new file", || {
        text("audit.log").matches("tunnel-end").count() == 2
    });
    assert!(!text("audit.log.1").contains("tunnel-end"));
    std::fs::write(world.pki.path("adit.toml"), good).unwrap();
}

/// The files below a folder, with when they were written.
fn files(folder: &Path, found: &mut BTreeMap<std::path::PathBuf, SystemTime>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => files(&entry.path(), found),
            Ok(metadata) => drop(found.insert(entry.path(), metadata.modified().unwrap())),
            Err(_) => {}
        }
    }
}

#[test]
fn a_process_that_follows_writes_nothing_into_the_state_folder() {
    let world = World::around(Pki::new(), |pki| upgradable(pki, "watch_files = false"));
    std::fs::write(world.pki.path("devices.csv"), "device,state\n").unwrap();
    change_config(
        &world.pki,
        "unmanaged = 'allow'",
        "unmanaged = 'allow'\ndevice_registry = 'devices.csv'",
    );
    world.gateway.reload();
    let mut elsewhere = world.tunnel("b.test:1");
    let mut stays = world.tunnel("a.test:1");
    let _successor = Successor::of(&world.gateway);
    let mut before = BTreeMap::new();
    files(&world.pki.path("state"), &mut before);
    // The old process alone is asked to read everything.
    std::fs::write(world.pki.path("devices.csv"), "device,state\nx,managed\n").unwrap();
    change_config(&world.pki, "'*.test'", "'a.test'");
    world.gateway.signal("HUP");
    assert!(is_cut(&mut elsewhere), "it has");
    let mut after = BTreeMap::new();
    files(&world.pki.path("state"), &mut after);
    assert_eq!(before, after);
    end(&mut stays);
}

#[test]
fn slow_a_new_process_that_is_killed_takes_the_old_tunnels_with_it_soon() {
    let mut world = World::around(Pki::new(), |pki| upgradable(pki, "drain_timeout = '10m'"));
    let mut session = world.tunnel("a.test:1");
    let successor = Successor::of(&world.gateway);
    successor.signal("KILL");
    let killed = Instant::now();
    echoes(&mut session, b"a little time is left");
    let ended = || world.gateway.child.try_wait().unwrap().is_some();
    until_within(30, "the old process ends, though its tunnel goes on", ended);
    assert!(killed.elapsed() > Duration::from_secs(5), "not at once");
    assert_eq!(world.gateway.child.wait().unwrap().code(), Some(0));
    assert!(is_cut(&mut session));
    // The folder and the address are free for the next one.
    let _next = Gateway::run(&world.pki, world.gateway.admin);
    drop(successor);
}

#[test]
fn slow_an_old_process_that_is_stuck_is_said_and_ends() {
    let mut world = World::around(Pki::new(), |pki| upgradable(pki, "drain_timeout = '10m'"));
    let mut session = world.tunnel("a.test:1");
    let successor = Successor::of(&world.gateway);
    world.gateway.signal("STOP");
    // What it cannot say is missing, and the answer says so.
    let listed = world.pki.adit(["tunnels"]);
    let told = String::from_utf8_lossy(&listed.stderr);
    assert_eq!(listed.status.code(), Some(1), "{told}");
    assert!(
        told.contains(&format!("process {}", world.gateway.child.id())),
        "{told}"
    );
    assert_eq!(world.gateway.metric("adit_tunnels_live", ""), 0.0);
    // A change is not held up by it.
    let begun = Instant::now();
    assert_eq!(put(world.gateway.admin, "device", "blocked"), 200);
    assert!(begun.elapsed() < Duration::from_secs(5));
    until_within(30, "it is given up", || {
        world.gateway.metric("adit_predecessor_lost", "") == 1.0
    });
    let ready = world.gateway.get("/readyz");
    assert_eq!(ready.0, 200, "the new one serves all the same");
    assert!(ready.1.contains("does not follow any more"), "{}", ready.1);
    // It runs again, finds that nobody speaks with it, and ends.
    world.gateway.signal("CONT");
    let ended = || world.gateway.child.try_wait().unwrap().is_some();
    until_within(30, "the old process ends", ended);
    assert!(is_cut(&mut session));
    until("that is seen", || {
        world.gateway.metric("adit_predecessor", "") == 0.0
    });
    assert_eq!(
        world.gateway.metric("adit_predecessor_losses_total", ""),
        1.0
    );
    drop(successor);
}

#[test]
fn an_old_process_that_is_killed_is_no_fault_of_the_new_one() {
    let mut world = World::around(Pki::new(), |pki| upgradable(pki, ""));
    let _session = world.tunnel("a.test:1");
    let successor = Successor::of(&world.gateway);
    world.gateway.signal("KILL");
    world.gateway.child.wait().unwrap();
    until("that is seen", || {
        world.gateway.metric("adit_predecessor", "") == 0.0
    });
    assert_eq!(put(world.gateway.admin, "device", "managed"), 200);
    let mut session = world.tunnel("a.test:1");
    echoes(&mut session, b"new");
    end(&mut session);
    // And it can be followed in its turn.
    signal(successor.0, "USR2");
    let mut next = None;
    until("one more process", || {
        next = child_of(successor.0);
        next.is_some()
    });
    let pid = format!("\"pid\":{},", next.unwrap());
    until("it answers", || {
        world.gateway.get("/readyz").1.contains(&pid)
    });
    signal(next.unwrap(), "KILL");
}

/// A gateway whose program can be replaced by another one.
fn replaceable(pki: &Pki) -> Gateway {
    let fixed = format!("https = '{}'", free_port());
    let admin = Gateway::builder(pki)
        .token()
        .engine("watch_files = false")
        .servers(&[server(echo)])
        .listener(&fixed)
        .write();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_adit"), pki.path("adit")).unwrap();
    let mut command = Command::new(pki.path("adit"));
    command.args(["run", "--config"]).arg(pki.path("adit.toml"));
    Gateway::spawn(command, admin)
}

fn replace_program(pki: &Pki, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::remove_file(pki.path("adit")).unwrap();
    std::fs::write(pki.path("adit"), text).unwrap();
    std::fs::set_permissions(pki.path("adit"), PermissionsExt::from_mode(0o755)).unwrap();
}

#[test]
fn a_new_process_that_never_serves_keeps_nothing_and_goes_with_the_old_one() {
    let mut world = World::around(Pki::new(), replaceable);
    std::fs::write(world.pki.path("devices.csv"), "device,state\n").unwrap();
    let mut session = world.tunnel("a.test:1");
    // A program that hangs.
    replace_program(&world.pki, "#!/bin/sh\nexec sleep 1000\n");
    let hanging = || {
        world.gateway.signal("USR2");
        let mut found = None;
        until("the process", || {
            found = child_of(world.gateway.child.id());
            found.is_some()
        });
        found.unwrap()
    };
    let child = hanging();
    until("changes are the other's", || {
        put(world.gateway.admin, "two", "managed") == 503
    });
    // A reload meanwhile takes the config, and the list that it names as soon as the list is this process's again.
    std::fs::write(
        world.pki.path("devices.csv"),
        "device,state\ndevice,blocked\n",
    )
    .unwrap();
    change_config(
        &world.pki,
        "unmanaged = 'allow'",
        "unmanaged = 'allow'\ndevice_registry = 'devices.csv'",
    );
    world.gateway.reload();
    echoes(&mut session, b"still here");
    signal(child, "KILL");
    until("changes", || {
        put(world.gateway.admin, "two", "managed") == 200
    });
    assert!(is_cut(&mut session), "blocked by the list");
    assert_eq!(world.gateway.get("/readyz").0, 200);
    // To stop the node is to stop the one that was to serve.
    let child = hanging();
    world.gateway.signal("TERM");
    assert_eq!(world.gateway.child.wait().unwrap().code(), Some(0));
    until("no process is left", || {
        !Path::new(&format!("/proc/{child}/cwd")).exists()
    });
}

/// As many as a large deployment has take minutes in a debug build: `ADIT_DEVICES=5000000`.
fn devices() -> usize {
    std::env::var("ADIT_DEVICES").map_or(300_000, |count| count.parse().unwrap())
}

#[test]
fn slow_many_devices_reach_the_old_process() {
    let devices = devices();
    let pki = Pki::new();
    let [bad, good] = ["bad", "good"].map(|name| pki.client(name, |_| ()));
    let list = |last: &str| {
        let lines =
            (0..devices).map(|number| format!("device-{number:07},managed,user-{number}\n"));
        let text: String = lines.collect();
        std::fs::write(
            pki.path("devices.new"),
            format!("device,state,user\n{text}{last}"),
        )
        .unwrap();
        std::fs::rename(pki.path("devices.new"), pki.path("devices.csv")).unwrap();
    };
    list("bad,managed,\ngood,managed,\n");
    let registry = "unmanaged = 'block'\ndevice_registry = 'devices.csv'";
    // Reading the list takes a busy machine longer than the tunnels may be idle by default.
    let engine = "watch_files = false\nidle_timeout = '900s'";
    let gateway = upgradable_with(&pki, engine, registry);
    let mut of_bad = tunnel(&pki, &gateway, &bad, "a.test:1");
    let mut of_good = tunnel(&pki, &gateway, &good, "a.test:1");
    let successor = Successor::of(&gateway);
    // The whole list is new in the new process; one line of it matters.
    list("bad,blocked,\ngood,managed,\n");
    successor.signal("HUP");
    let mut byte = [0];
    let cut = std::thread::spawn(move || {
        loop {
            match of_bad.read(&mut byte) {
                // The patience of the test, and no end of the tunnel.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                read => return read.is_err(),
            }
        }
    });
    let limit = 60 + devices as u64 / 10_000;
    until_within(limit, "the block reaches the old process", || {
        cut.is_finished()
    });
    assert!(cut.join().unwrap());
    echoes(&mut of_good, b"good");
    assert!(gateway.get("/readyz").1.contains("\"follows\":true"));
    end(&mut of_good);
}

#[test]
fn the_old_process_is_not_asked_for_what_the_new_one_says() {
    let world = World::around(Pki::new(), |pki| upgradable(pki, ""));
    let mut session = world.tunnel("a.test:1");
    let _successor = Successor::of(&world.gateway);
    // Who may close tunnels of the old process is decided by the new one.
    let mut stream = TcpStream::connect(world.gateway.admin).unwrap();
    let admin = world.gateway.admin;
    use std::io::Write;
    write!(
        stream,
        "DELETE /tunnels?device=device HTTP/1.0\r\nHost: {admin}\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(
        answer.contains(" 401 ") && !answer.contains(TOKEN),
        "{answer}"
    );
    echoes(&mut session, b"still here");
    end(&mut session);
}

/// A script that sets devices to what they are already: nothing changes, and the link is asked each time.
#[test]
fn changes_that_change_nothing_do_not_fill_the_link() {
    let world = World::around(Pki::new(), |pki| upgradable(pki, ""));
    let mut old = world.tunnel("a.test:1");
    let _successor = Successor::of(&world.gateway);
    for _ in 0..40 {
        assert_eq!(put(world.gateway.admin, "other", "managed"), 200);
        std::thread::sleep(Duration::from_millis(60));
    }
    assert!(world.gateway.get("/readyz").1.contains("\"follows\":true"));
    echoes(&mut old, b"still here");
    end(&mut old);
}
