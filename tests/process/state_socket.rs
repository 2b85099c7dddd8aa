//! The socket in the state folder: commands find the node by it, whatever becomes of it.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::admin_socket::{OTHER, ask_as};
use super::upgrade::{Successor, child_of, upgradable};
use crate::common::profiles::{Node, errors};
use crate::common::{Gateway, Pki, echo, free_port, server, until};

fn adit(folder: &Path, arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_adit"))
        .args(arguments.split(' '))
        .current_dir(folder)
        .output()
        .unwrap()
}

/// What a command says that fails.
#[track_caller]
fn refused(folder: &Path, arguments: &str) -> String {
    let output = adit(folder, arguments);
    assert!(!output.status.success(), "{arguments}");
    errors(&output)
}

#[track_caller]
fn done(folder: &Path, arguments: &str) -> String {
    let output = adit(folder, arguments);
    assert!(output.status.success(), "{arguments}: {}", errors(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// The answer to a GET.
fn get(socket: &Path, target: &str) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    write!(stream, "GET {target} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// A node that takes no changes over TCP.
fn without_token() -> Node {
    let node = Node::new();
    let text = fs::read_to_string(node.path("adit.toml")).unwrap();
    fs::write(
        node.path("adit.toml"),
        text.replace("token_file = 'token'\n", ""),
    )
    .unwrap();
    node.write("corp.toml", "corp", "");
    node
}

fn socket_of(node: &Node) -> PathBuf {
    node.path("state/admin.sock")
}

#[test]
fn a_command_needs_neither_an_address_nor_a_token() {
    let node = without_token();
    let folder = node.pki.folder.path();
    let running = node.run();
    // Over TCP nobody changes anything.
    let denied = running.ask("POST", "/reload", "", "");
    assert_eq!(denied.0, 403, "{}", denied.1);
    assert!(running.get("/permission").1.contains("never"));
    assert!(
        get(&socket_of(&node), "/permission")
            .unwrap()
            .contains("socket")
    );

    assert_eq!(node.done(&["apply", "corp.toml"]), "corp version 1\n");
    node.done(&["assign", "corp"]);
    assert!(running.ready());
    // The store of certificates is found by the folder alone.
    done(
        folder,
        "certs import ca.pem --as group --name fleet --state-dir state",
    );
    assert!(running.get("/certificates").1.contains("fleet"));
    done(folder, "certs delete fleet --as group --state-dir state");
    done(folder, "devices put phone --state blocked");
    done(folder, "reload");
    until("the changes are written down", || {
        let audit = fs::read_to_string(node.path("audit.log")).unwrap_or_default();
        let lines = audit.lines().filter(|line| {
            line.contains("\"event.action\":\"admin-change\"")
                && line.contains("\"user.id\":")
                && line.contains("\"adit.operator\":")
        });
        lines.count() == 6
    });

    // A listener that is named is the only one that is asked.
    let said = refused(folder, &format!("reload --admin {}", node.admin));
    assert!(said.contains("admin.token_file"), "{said}");
}

#[test]
fn what_a_killed_node_leaves_stops_nobody() {
    let node = without_token();
    let folder = node.pki.folder.path();
    let running = node.run();
    let mode = fs::metadata(socket_of(&node)).unwrap().permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
    drop(running);
    assert!(socket_of(&node).exists());
    // No node runs: the command makes the change itself.
    assert_eq!(node.done(&["apply", "corp.toml"]), "corp version 1\n");
    let said = refused(folder, "reload");
    assert!(said.contains("is the node running?"), "{said}");

    let mut running = node.run();
    node.done(&["assign", "corp"]);
    assert!(running.ready());
    running.signal("TERM");
    assert!(running.child.wait().unwrap().success());
    assert!(!socket_of(&node).exists(), "it goes with its node");
}

#[test]
fn one_that_is_removed_comes_back_and_what_is_in_its_place_is_told() {
    let node = without_token();
    let folder = node.pki.folder.path();
    let running = node.run();
    fs::remove_file(socket_of(&node)).unwrap();
    until("it is back", || get(&socket_of(&node), "/healthz").is_ok());
    until("the log says so", || node.log().contains("is made anew"));
    done(folder, "devices put phone --state blocked");

    // Somebody leads it to a socket of his own, which nothing is sent to.
    let planted = UnixListener::bind(node.path("planted")).unwrap();
    planted.set_nonblocking(true).unwrap();
    fs::remove_file(socket_of(&node)).unwrap();
    std::os::unix::fs::symlink(node.path("planted"), socket_of(&node)).unwrap();
    until("the operator is told", || {
        running.get("/readyz").1.contains("is not a socket")
    });
    assert!(node.log().contains("is not a socket"));
    let said = refused(folder, "devices put phone --state managed");
    assert!(said.contains("admin.token_file"), "by TCP: {said}");
    assert!(planted.accept().is_err(), "nobody has connected");
    assert!(done(folder, "devices list").contains("blocked"));
    fs::remove_file(socket_of(&node)).unwrap();
    until("it is back", || get(&socket_of(&node), "/healthz").is_ok());
    assert!(!running.get("/readyz").1.contains("is not a socket"));
}

#[test]
fn a_path_that_is_too_long_is_told_and_the_node_runs_on() {
    let node = Node::new();
    node.write("corp.toml", "corp", "");
    let long = "x".repeat(110);
    let text = fs::read_to_string(node.path("adit.toml")).unwrap();
    let text = text.replace("'state'", &format!("'{long}'"));
    fs::write(node.path("adit.toml"), text).unwrap();
    let checked = done(node.pki.folder.path(), "check");
    assert!(checked.contains("at most 107"), "{checked}");
    let running = node.run();
    assert!(running.get("/readyz").1.contains("at most 107"));
    assert!(node.log().contains("at most 107"));
    // By the admin listener and its token.
    node.done(&["apply", "corp.toml"]);
    node.done(&["assign", "corp"]);
    assert!(running.ready());
}

#[test]
fn another_user_is_told_what_to_do_and_changes_nothing() {
    let node = without_token();
    let _running = node.run();
    let socket = socket_of(&node);
    let set = |path: &Path, mode| {
        fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    };
    // Somebody widens all of it: the system says whose a connection is.
    set(node.pki.folder.path(), 0o755);
    set(&node.path("state"), 0o711);
    set(&socket, 0o666);
    for path in ["/permission", "/devices"] {
        let url = format!("http://localhost{path}");
        let (status, said) = ask_as(OTHER, &socket, &[&url]);
        assert_eq!(status, "403", "{said}");
        assert!(said.contains("run the command as one of them"), "{said}");
    }
    if !rustix::process::geteuid().is_root() {
        return;
    }
    set(&node.path("state"), 0o700);
    set(&socket, 0o600);
    // Where the program stands that user may not go.
    fs::copy(env!("CARGO_BIN_EXE_adit"), node.path("adit")).unwrap();
    let as_other = |arguments: &str| {
        let output = Command::new(node.path("adit"))
            .args(arguments.split(' '))
            .current_dir(node.pki.folder.path())
            .uid(OTHER)
            .output()
            .unwrap();
        assert!(!output.status.success(), "{arguments}");
        errors(&output)
    };
    let said = as_other("devices put phone --state blocked");
    assert!(said.contains("run the command as root or as"), "{said}");
    for change in [
        "profile delete corp",
        "certs import ca.pem --as group --state-dir state",
    ] {
        let said = as_other(change);
        assert!(
            said.contains("run the command as root or as"),
            "{change}: {said}"
        );
    }
}

#[test]
fn each_of_two_nodes_is_found_by_its_own_folder() {
    let nodes = [without_token(), without_token()];
    let running = [nodes[0].run(), nodes[1].run()];
    nodes[1].done(&["apply", "corp.toml"]);
    assert_eq!(running[0].get("/profiles/corp").0, 404);
    assert_eq!(running[1].get("/profiles/corp").0, 200);
}

#[test]
fn where_the_admin_listener_has_the_path_its_token_counts() {
    let pki = Pki::new();
    let (admin, folder) = (free_port(), pki.folder.path());
    let path = pki.path("state/admin.sock");
    let on_socket = format!("listen = 'unix:{}'", path.display());
    let _gateway = Gateway::builder(&pki)
        .admin(admin)
        .token()
        .servers(&[server(echo)])
        .replace(&format!("listen = '{admin}'"), &on_socket)
        .start();
    assert!(get(&path, "/permission").unwrap().contains("token"));
    done(folder, "devices put phone --state blocked");
    pki.secret("other", &"x".repeat(32));
    let change = "devices put phone --state managed --token-file other";
    let said = refused(folder, change);
    assert!(said.contains("401"), "{said}");
}

#[test]
fn an_upgrade_leaves_no_question_unanswered() {
    let pki = Arc::new(Pki::new());
    let gateway = upgradable(&pki, "");
    let socket = pki.path("state/admin.sock");
    let (done, asked) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let asker = {
        let (socket, done, asked) = (socket.clone(), done.clone(), asked.clone());
        std::thread::spawn(move || {
            while !done.load(Ordering::Relaxed) {
                let answer = get(&socket, "/permission").unwrap();
                assert!(answer.contains("socket"), "{answer}");
                asked.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    let successor = Successor::of(&gateway);
    let since = asked.load(Ordering::Relaxed);
    until("questions after it", || {
        asked.load(Ordering::Relaxed) > since + 20
    });
    done.store(true, Ordering::Relaxed);
    asker.join().unwrap();
    let pid = format!("\"pid\":{},", successor.0);
    assert!(get(&socket, "/readyz").unwrap().contains(&pid));
    successor.signal("TERM");
    until("the end", || successor.has_ended());
    assert!(!socket.exists());
}

/// One that has bound its sockets and then fails: the old process is asked on all of its own.
#[test]
fn an_upgrade_that_fails_takes_no_socket_away() {
    let pki = Pki::new();
    let admin = free_port();
    let path = pki.path("other.sock");
    let on_socket = format!("listen = 'unix:{}'", path.display());
    let gateway = Gateway::builder(&pki)
        .admin(admin)
        .servers(&[server(echo)])
        .replace(&format!("listen = '{admin}'"), &on_socket)
        .start();
    let text = fs::read_to_string(pki.path("adit.toml")).unwrap();
    let sockets = [path, pki.path("state/admin.sock")];
    let answers = |socket: &PathBuf| get(socket, "/healthz").is_ok_and(|said| said.contains("200"));
    until("it answers", || sockets.iter().all(answers));
    // Its listener's address is another process's.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    fs::write(pki.path("adit.toml"), text.replace("127.0.0.1:0", &address)).unwrap();
    gateway.signal("USR2");
    until("it is given up", || gateway.said("this one continues") == 1);
    assert!(child_of(gateway.child.id()).is_none());
    assert!(sockets.iter().all(answers));
    fs::write(pki.path("adit.toml"), text).unwrap();
    let successor = {
        gateway.signal("USR2");
        let mut found = None;
        until("a new process", || {
            found = child_of(gateway.child.id());
            found.is_some()
        });
        Successor(found.unwrap())
    };
    let pid = format!("\"pid\":{},", successor.0);
    for socket in &sockets {
        until("the new process answers", || {
            get(socket, "/readyz").is_ok_and(|said| said.contains(&pid))
        });
    }
}
