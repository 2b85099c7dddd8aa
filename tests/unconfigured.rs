//! A node without a profile: what it does, and how it gets one and loses it.

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;

use command_fds::{CommandFdExt, FdMapping};

use adit::certs::Issued;
use common::{Session, ask, echo, echoes, free_port, request, server, session, until};
use node::{Node, Running};

use crate::common;
use crate::common::profiles as node;

fn connect(node: &Node, address: SocketAddr, device: &Issued) -> Session {
    session(&node.pki, TcpStream::connect(address).unwrap(), device)
}

fn tunnel(node: &Node, address: SocketAddr, device: &Issued) -> Session {
    let mut session = connect(node, address, device);
    let head = ask(&mut session, &request("a.test:1")).unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    session
}

#[track_caller]
fn is_unconfigured(running: &Running) {
    until("unconfigured", || running.metric("adit_unconfigured 1"));
    let readiness = running.json(503, running.get("/readyz"));
    assert_eq!(readiness["profile"], serde_json::Value::Null);
    let reasons = readiness["reasons"].to_string();
    assert!(
        reasons.contains("unconfigured: no profile is assigned"),
        "{reasons}"
    );
    assert_eq!(running.get("/healthz").0, 200);
    assert!(running.metric("adit_ready 0"));
    assert!(!running.get("/metrics").1.contains("adit_profile_info"));
}

#[test]
fn a_node_takes_tunnels_as_soon_as_a_profile_is_assigned_and_until_it_is_not() {
    let node = Node::new();
    let device = node.pki.client("device", |_| ());
    let running = node.run();
    is_unconfigured(&running);
    assert!(!node.path("state/server.pem").exists());

    let address = free_port();
    node.write_listening("corp.toml", address, server(echo));
    node.done(&["apply", "corp.toml"]);
    is_unconfigured(&running);
    assert!(TcpStream::connect(address).is_err());
    assert_eq!(
        node.done(&["assign", "corp"]),
        "corp version 1 is assigned\n"
    );
    // The command has asked the node to take it, and is back when it has.
    assert!(running.ready());
    assert!(running.metric("adit_unconfigured 0"));
    assert!(running.metric("adit_profile_info{name=\"corp\",version=\"1\"} 1"));
    let mut first = tunnel(&node, address, &device);
    echoes(&mut first, b"through");

    // A new version: the tunnel that it still allows goes on.
    let text = std::fs::read_to_string(node.path("corp.toml")).unwrap();
    let more = "[[profile.rule]]\nhost = '*.example'\nport = '*'\nservice = 'wiki'\n";
    std::fs::write(node.path("more.toml"), text + more).unwrap();
    assert_eq!(node.done(&["apply", "more.toml"]), "corp version 2\n");
    assert!(running.metric("adit_profile_info{name=\"corp\",version=\"2\"} 1"));
    echoes(&mut first, b"still");
    assert_eq!(
        running.json(200, running.get("/readyz"))["profile"]["version"],
        2
    );

    node.done(&["unassign"]);
    is_unconfigured(&running);
    until("the tunnel is closed", || {
        let metrics = running.get("/metrics").1;
        let ended =
            |line: &str| line.contains("reason=\"cut-unconfigured\"") && line.ends_with(" 1");
        metrics.lines().any(ended)
    });
    assert!(matches!(first.read(&mut [0; 8]), Ok(0) | Err(_)));
    until("nothing is accepted", || {
        TcpStream::connect(address).is_err()
    });
    assert_eq!(running.get("/tunnels").1.trim(), "[]");

    node.done(&["assign", "corp"]);
    assert!(running.ready());
    echoes(&mut tunnel(&node, address, &device), b"again");
}

#[test]
fn a_restart_takes_the_assigned_profile() {
    let node = Node::new();
    let device = node.pki.client("device", |_| ());
    let address = free_port();
    node.assign_listening(address, server(echo));
    for version in 1..3 {
        let mut running = node.run();
        until("ready", || running.ready());
        echoes(&mut tunnel(&node, address, &device), b"through");
        let info = format!("adit_profile_info{{name=\"corp\",version=\"{version}\"}} 1");
        assert!(running.metric(&info));
        // The command line changes what a running node has read.
        let text = std::fs::read_to_string(node.path("corp.toml")).unwrap();
        std::fs::write(node.path("corp.toml"), format!("# {version}\n{text}")).unwrap();
        node.done(&["apply", "corp.toml"]);
        running.signal("TERM");
        assert_eq!(running.child.wait().unwrap().code(), Some(0));
    }
}

/// Starts the node as systemd does, with a socket that it holds.
fn activate(node: &Node, socket: &TcpListener) -> Running {
    let mut command = Command::new(env!("CARGO_BIN_EXE_adit"));
    command
        .args(["run", "--config"])
        .arg(node.path("adit.toml"));
    let mapping = FdMapping {
        parent_fd: socket.try_clone().unwrap().into(),
        child_fd: 3,
    };
    command.fd_mappings(vec![mapping]).unwrap();
    command.env("LISTEN_FDS", "1");
    node.spawn(command)
}

#[test]
fn a_socket_of_systemd_waits_for_a_profile() {
    let node = Node::new();
    let device = node.pki.client("device", |_| ());
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    node.write_listening("corp.toml", address, server(echo));
    node.done(&["apply", "corp.toml"]);
    let running = activate(&node, &socket);
    is_unconfigured(&running);
    // Who comes while there is no profile waits for it.
    let mut early = connect(&node, address, &device);
    node.done(&["assign", "corp"]);
    running.signal("HUP");
    let head = ask(&mut early, &request("a.test:1")).unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    echoes(&mut early, b"through");

    // The address comes back, though the node could not open it: systemd has it.
    for _ in 0..2 {
        node.done(&["unassign"]);
        running.signal("HUP");
        is_unconfigured(&running);
        node.done(&["assign", "corp"]);
        running.signal("HUP");
        until("ready", || running.ready());
        echoes(&mut tunnel(&node, address, &device), b"again");
    }

    // A profile that does not listen there is refused, as at a start.
    node.done(&["unassign"]);
    running.signal("HUP");
    is_unconfigured(&running);
    node.write_listening("corp.toml", free_port(), server(echo));
    node.done(&["apply", "corp.toml"]);
    let said = node.refused(2, &["assign", "corp"]);
    assert!(
        said.contains("the running node refuses it, so nothing was changed"),
        "{said}"
    );
    assert!(said.contains("socket unit"), "{said}");
    assert_eq!(node.json(&["list"])["assigned"], serde_json::Value::Null);
    is_unconfigured(&running);
}

#[test]
fn an_upgrade_of_a_node_without_a_profile_keeps_its_sockets() {
    let node = Node::new();
    let device = node.pki.client("device", |_| ());
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    node.write_listening("corp.toml", address, server(echo));
    node.done(&["apply", "corp.toml"]);
    let mut running = activate(&node, &socket);
    is_unconfigured(&running);
    running.signal("USR2");
    // It has no tunnel to finish, so it ends when the new process serves.
    until("the old process ends", || {
        running.child.try_wait().unwrap().is_some()
    });
    is_unconfigured(&running);
    let started = running.get("/metrics").1;
    let pid = successor(&running);
    node.done(&["assign", "corp"]);
    signal(pid, "HUP");
    until("ready", || running.ready());
    echoes(&mut tunnel(&node, address, &device), b"through");
    assert!(started.contains("adit_unconfigured 1"));
    signal(pid, "KILL");
}

/// What becomes of a profile after an upgrade also concerns the tunnels that the old process finishes.
#[test]
fn a_process_that_finishes_its_tunnels_follows_the_profile() {
    let node = Node::new();
    let device = node.pki.client("device", |_| ());
    let address = free_port();
    node.assign_listening(address, server(echo));
    let mut running = node.run();
    let mut old = tunnel(&node, address, &device);
    running.signal("USR2");
    let before = running.child.id();
    until("the new process answers", || {
        !running
            .get("/readyz")
            .1
            .contains(&format!("\"pid\":{before},"))
            && successor(&running) != before
    });
    let pid = successor(&running);
    let mut new = tunnel(&node, address, &device);
    // The admin listener of the new process, and so in one step with the store.
    let answer = running.ask("POST", "/profiles/corp/unassign", "", "");
    assert_eq!(answer.0, 200, "{}", answer.1);
    for tunnel in [&mut old, &mut new] {
        assert!(matches!(tunnel.read(&mut [0; 8]), Ok(0) | Err(_)));
    }
    until("the old process ends", || {
        running.child.try_wait().unwrap().is_some()
    });
    signal(pid, "KILL");
}

/// The process that listens on the admin address now, as `ss` would find it.
fn successor(running: &Running) -> u32 {
    let port = format!(":{}", running.admin.port());
    let output = Command::new("ss").args(["-Hltnp"]).output().unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    let line = lines.lines().find(|line| line.contains(&port)).unwrap();
    let pid = line.split("pid=").nth(1).unwrap();
    pid.split(',').next().unwrap().parse().unwrap()
}

fn signal(pid: u32, name: &str) {
    let kill = Command::new("kill")
        .args(["-s", name, &pid.to_string()])
        .status();
    assert!(kill.unwrap().success());
}

#[test]
fn a_node_that_has_a_wrong_profile_does_not_start_and_says_why() {
    let node = Node::new();
    node.write("corp.toml", "corp", "");
    node.done(&["apply", "corp.toml"]);
    node.done(&["assign", "corp"]);
    std::fs::remove_file(node.path("ca.crl")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_adit"))
        .args(["run", "--config"])
        .arg(node.path("adit.toml"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = node::errors(&output);
    assert!(
        said.contains("profile corp version 1:14: profile.device_auth.crl.files[0]"),
        "{said}"
    );
}
