//! The admin listener's Unix socket, whoever made it: who is served there, and what is written down of it.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use super::sockets::activate_on;
use super::upgrade::{Successor, child_of};
use crate::common::{Gateway, Pki, TOKEN, echo, free_port, server, service, until};

/// Another user than root and the one that runs this.
pub const OTHER: u32 = 64_123;

/// A config whose admin listener is this socket, with these keys.
fn on_socket(pki: &Pki, socket: &Path, keys: &str) {
    let admin = free_port();
    let listen = format!("listen = 'unix:{}'\n{keys}", socket.display());
    Gateway::builder(pki)
        .admin(admin)
        .servers(&[server(echo)])
        .replace(&format!("listen = '{admin}'"), &listen)
        .write();
}

/// Asks over the socket as another user, for which root's rights are needed. Status and content.
pub fn ask_as(user: u32, socket: &Path, arguments: &[&str]) -> (String, String) {
    let mut command = match rustix::process::geteuid().is_root() {
        true => Command::new("curl"),
        false => {
            let mut command = Command::new("sudo");
            command.args(["--non-interactive", "setpriv", "--clear-groups"]);
            command.args(["--reuid", &user.to_string(), "curl"]);
            command
        }
    };
    if rustix::process::geteuid().is_root() {
        command.uid(user);
    }
    let output = command
        .args(["--silent", "--write-out", "\n%{http_code}", "--unix-socket"])
        .arg(socket)
        .args(arguments)
        .output()
        .expect("this test asks as another user, by root's rights or by sudo");
    let text = String::from_utf8(output.stdout).unwrap();
    let (content, status) = text.rsplit_once('\n').expect("curl has asked");
    (status.to_owned(), content.to_owned())
}

fn audit(pki: &Pki) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(pki.path("audit.log")).unwrap_or_default();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Whether a record is of a request by this user.
fn is_by(line: &serde_json::Value, user: u32) -> bool {
    line["user.id"].as_str() == Some(&user.to_string())
}

#[test]
fn a_socket_of_systemd_with_any_mode_serves_root_and_the_node_alone() {
    let pki = Pki::new();
    let everybody = PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(pki.folder.path(), everybody).unwrap();
    let path = pki.path("admin.sock");
    let change = ["-X", "DELETE", "http://localhost/devices/a"];
    let refused = || audit(&pki).iter().filter(|line| is_by(line, OTHER)).count();
    for (keys, statuses, written) in [
        ("", ["403", "403"], 2),
        ("socket_users = [64123]", ["200", "404"], 3),
    ] {
        let _ = std::fs::remove_file(&path);
        let socket = UnixListener::bind(&path).unwrap();
        // `SocketMode=0666`
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
        on_socket(&pki, &path, keys);
        let command = activate_on(&pki, vec![socket.into()]);
        let _gateway = Gateway::spawn(command, free_port());
        let (status, content) = ask_as(OTHER, &path, &["http://localhost/tunnels"]);
        assert_eq!(status, statuses[0], "{content}");
        assert_eq!(
            content.contains("admin.socket_users"),
            status == "403",
            "{content}"
        );
        assert_eq!(ask_as(OTHER, &path, &change).0, statuses[1], "{keys}");
        // The node's own user.
        let mut own = UnixStream::connect(&path).unwrap();
        own.write_all(b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        own.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.0 200 "), "{answer}");
        // Before the node is killed: both refusals, and the change that found nothing.
        until("they are written down", || refused() == written);
    }
    let all = audit(&pki);
    let first = all.iter().find(|line| is_by(line, OTHER)).unwrap();
    assert_eq!(first["event.action"], "admin-refused");
    assert_eq!(first["http.request.method"], "GET");
    assert_eq!(first["url.original"], "/tunnels");
    assert_eq!(first["http.response.status_code"], 403);
    assert!(first["process.pid"].as_u64().is_some());
}

#[test]
fn a_socket_that_the_node_makes_serves_nobody_else_either() {
    let pki = Pki::new();
    std::fs::set_permissions(pki.folder.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let path = pki.path("admin.sock");
    on_socket(&pki, &path, "");
    let _gateway = Gateway::run(&pki, free_port());
    // Somebody widens it.
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
    assert_eq!(ask_as(OTHER, &path, &["http://localhost/devices"]).0, "403");
}

/// Asks over TCP. Status of the answer.
fn ask(gateway: &Gateway, request: &str, token: &str, more: &str) -> u16 {
    let mut stream = std::net::TcpStream::connect(gateway.admin).unwrap();
    write!(
        stream,
        "{request} HTTP/1.0\r\nHost: {}\r\nAuthorization: Bearer {token}\r\n{more}\r\n",
        gateway.admin
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn changes_and_refused_ones_are_written_down_and_a_flood_of_them_is_not() {
    const WRONG: &str = "a-wrong-token-of-some-length";
    let pki = Pki::new();
    let gateway = Gateway::builder(&pki)
        .token()
        .servers(&[server(echo)])
        .start();
    let admin = gateway.admin;
    let body = "{\"state\":\"blocked\"}";
    let put = format!(
        "adit-user: ann\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    assert_eq!(ask(&gateway, "PUT /devices/phone%201", TOKEN, &put), 200);
    assert_eq!(ask(&gateway, "DELETE /devices/nobody", TOKEN, ""), 404);
    assert_eq!(ask(&gateway, "POST /reload", WRONG, ""), 401);
    assert_eq!(ask(&gateway, "GET /devices", WRONG, ""), 200);
    // Given up before its body has come.
    let mut half = std::net::TcpStream::connect(admin).unwrap();
    let head = put.replace(body, "");
    write!(
        half,
        "PUT /devices/x HTTP/1.1\r\nHost: {admin}\r\nAuthorization: Bearer {TOKEN}\r\n{head}"
    )
    .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(200));
    drop(half);
    until("four records", || audit(&pki).len() == 4);
    let lines = audit(&pki);
    let events: Vec<_> = lines
        .iter()
        .map(|line| line["event.action"].as_str().unwrap())
        .collect();
    assert_eq!(
        events,
        [
            "admin-change",
            "admin-refused",
            "admin-refused",
            "admin-refused"
        ]
    );
    assert_eq!(
        lines[3]["http.response.status_code"], 413,
        "its body did not come"
    );
    let change = &lines[0];
    assert_eq!(change["http.request.method"], "PUT");
    assert_eq!(change["url.original"], "/devices/phone%201");
    assert_eq!(
        (&change["adit.operator"], &change["adit.answer"]["state"]),
        (&"ann".into(), &"blocked".into())
    );
    assert_eq!(change["source.ip"], "127.0.0.1");
    assert_eq!(lines[2]["http.response.status_code"], 401);

    // A client that has gone before the answer: no change is made that is not written down.
    for number in 0..20 {
        let mut gone = std::net::TcpStream::connect(admin).unwrap();
        write!(
            gone,
            "PUT /devices/gone-{number}. HTTP/1.1\r\nHost: {admin}\r\nAuthorization: Bearer {TOKEN}\r\n{put}"
        )
        .unwrap();
    }
    std::thread::sleep(std::time::Duration::from_millis(500));
    let devices = gateway.get("/devices?prefix=gone-").1;
    let is_made = |number: &usize| devices.contains(&format!("gone-{number}."));
    let made: Vec<usize> = (0..20).filter(is_made).collect();
    until("a record of each", || {
        let text = std::fs::read_to_string(pki.path("audit.log")).unwrap();
        let is_written = |number: &usize| text.contains(&format!("\"/devices/gone-{number}.\""));
        made.iter().all(is_written)
    });
    for line in &audit(&pki)[4..] {
        let event = line["event.action"].as_str().unwrap();
        assert!(
            ["admin-change", "admin-abandoned"].contains(&event),
            "{line}"
        );
    }
    let abandoned = audit(&pki)
        .iter()
        .filter(|line| line["event.action"] == "admin-abandoned")
        .count();

    for _ in 0..300 {
        assert_eq!(ask(&gateway, "POST /reload?note=x", WRONG, ""), 401);
    }
    assert_eq!(
        gateway.metric("adit_admin_refused_total", ""),
        (303 + abandoned) as f64
    );
    let written = audit(&pki).len();
    assert!((50..200).contains(&written), "{written} of 300 refusals");
    // What was left out is said by the next one that is written.
    until("a record that tells", || {
        ask(&gateway, "POST /reload", WRONG, "");
        audit(&pki).iter().any(|line| {
            line["adit.suppressed"]
                .as_u64()
                .is_some_and(|count| count > 100)
        })
    });
    assert_eq!(
        ask(&gateway, "POST /reload", TOKEN, ""),
        200,
        "who may is never left out"
    );
    let text = std::fs::read_to_string(pki.path("audit.log")).unwrap();
    assert!(!text.contains(WRONG) && !text.contains(TOKEN), "no token");
    until("the reload", || {
        audit(&pki)
            .iter()
            .any(|line| line["adit.answer"]["generation"] == 2)
    });
}

/// A change was made whatever stood behind it, and kept out of the audit log where that was `dry_run=true`.
#[test]
fn what_cannot_be_tried_is_not_made_under_that_word() {
    let pki = Pki::new();
    let rest = service(&[server(echo)]);
    let gateway = Gateway::builder(&pki).token().rest(&rest).start();
    let generation = gateway.metric("adit_config_generation", "");
    for request in [
        "PUT /devices/phone?dry_run=true",
        "POST /reload?dry_run=true",
        "DELETE /tunnels?service=echo&dry_run=true",
    ] {
        assert_eq!(ask(&gateway, request, TOKEN, ""), 400, "{request}");
    }
    assert_eq!(gateway.metric("adit_config_generation", ""), generation);
    until("each is written down", || audit(&pki).len() == 3);
}

#[test]
fn a_socket_of_systemd_outlives_each_node_and_its_successor() {
    let pki = Pki::new();
    let path = pki.path("admin.sock");
    let socket = UnixListener::bind(&path).unwrap();
    on_socket(&pki, &path, "");
    // As with a restart, and with an upgrade before it.
    for is_upgraded in [false, true, false] {
        let sockets = vec![socket.try_clone().unwrap().into()];
        let mut gateway = Gateway::spawn(activate_on(&pki, sockets), free_port());
        let first = gateway.child.id();
        if is_upgraded {
            gateway.signal("USR2");
            until("there is a successor", || child_of(first).is_some());
            let successor = Successor(child_of(first).unwrap());
            // The old process ends when the new one serves.
            assert_eq!(gateway.child.wait().unwrap().code(), Some(0));
            successor.signal("TERM");
            until("the successor has ended", || successor.has_ended());
        } else {
            gateway.signal("TERM");
            assert_eq!(gateway.child.wait().unwrap().code(), Some(0));
        }
        assert!(path.exists(), "upgraded: {is_upgraded}");
    }
}
