//! Profiles through the admin listener, and what a running node refuses.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use common::{ask, echo, free_port, request, server, session, until};
use node::{Node, Running, profile};

use crate::common;
use crate::common::profiles as node;

const TOML: &str = "Content-Type: application/toml\r\n";
const JSON: &str = "Content-Type: application/json\r\n";

/// Lets the node run on a first version, which listens there.
fn start(running: &Running, address: SocketAddr) {
    let text = listening(address, "start");
    put(running, 200, "/profiles/corp", "", &text);
    post(running, 200, "/profiles/corp/assign", "");
}

/// A profile that listens there.
fn listening(address: SocketAddr, description: &str) -> String {
    profile("corp", description).replace("127.0.0.1:0", &address.to_string())
}

#[track_caller]
fn put(running: &Running, status: u16, path: &str, headers: &str, text: &str) -> Value {
    let answer = running.ask("PUT", path, &format!("{TOML}{headers}"), text);
    running.json(status, answer)
}

#[track_caller]
fn post(running: &Running, status: u16, path: &str, body: &str) -> Value {
    running.json(status, running.ask("POST", path, JSON, body))
}

#[test]
fn profiles_are_stored_and_put_into_force_in_one_step() {
    let node = Node::new();
    let running = node.run();
    let device = node.pki.client("device", |_| ());
    let address = free_port();
    assert_eq!(
        running.json(200, running.get("/profiles")),
        json!({"assigned": null, "profiles": []})
    );
    let text = listening(address, "one").replace("127.0.0.1:9", &server(echo).to_string());

    // Looked at only.
    let answer = put(&running, 200, "/profiles/corp?dry_run=true", "", &text);
    assert_eq!(answer["valid"], true);
    assert!(
        answer["findings"]
            .to_string()
            .contains("no chain to a certification authority"),
        "{answer}"
    );
    assert!(!node.path("state/profiles.redb").exists());

    let answer = put(
        &running,
        200,
        "/profiles/corp?note=the%20beginning",
        "adit-user: ann\r\n",
        &text,
    );
    assert_eq!(
        answer,
        json!({"name": "corp", "version": 1, "replaced": null, "stored": true, "assigned": false,
               "in_force": false, "generation": null})
    );
    let shown = running.json(200, running.get("/profiles/corp"));
    assert_eq!(shown["text"], text);
    assert_eq!(shown["who"], "ann (admin listener)");
    assert_eq!(shown["history"][0]["note"], "the beginning");
    assert!(!running.ready());

    let answer = post(&running, 200, "/profiles/corp/assign", "");
    assert_eq!(
        (&answer["in_force"], &answer["generation"]),
        (&json!(true), &json!(2))
    );
    // Active when it is answered.
    assert!(running.ready());
    let socket = TcpStream::connect(address).unwrap();
    let mut tunnel = session(&node.pki, socket, &device);
    let head = ask(&mut tunnel, &request("a.test:1")).unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");

    let second = text.replace("'one'", "'two'");
    let answer = put(
        &running,
        200,
        "/profiles/corp",
        "If-Match: \"1\"\r\n",
        &second,
    );
    assert_eq!(
        (&answer["version"], &answer["generation"]),
        (&json!(2), &json!(3))
    );
    assert_eq!(
        running.json(200, running.get("/readyz"))["profile"],
        json!({"name": "corp", "version": 2})
    );
    let answer = post(&running, 200, "/profiles/corp/rollback", "{\"version\": 1}");
    assert_eq!(
        (&answer["version"], &answer["in_force"]),
        (&json!(3), &json!(true))
    );
    let shown = running.json(200, running.get("/profiles/corp?version=3"));
    assert_eq!(
        (&shown["text"], &shown["note"]),
        (&json!(text), &json!("rollback to version 1"))
    );
    assert_eq!(shown["who"], "admin listener");
    // The command line sees the same.
    assert_eq!(node.json(&["list"])["profiles"][0]["version"], 3);
    assert_eq!(node.json(&["list"])["assigned"], "corp");

    assert!(
        running.json(409, running.ask("DELETE", "/profiles/corp", "", ""))["error"]
            .to_string()
            .contains("is assigned")
    );
    post(&running, 200, "/profiles/corp/unassign", "");
    assert!(!running.ready());
    running.json(200, running.ask("DELETE", "/profiles/corp", "", ""));
    running.json(404, running.get("/profiles/corp"));
    // Nothing of this was found by looking at files, which would have raised the generation again.
    assert_eq!(
        running.json(503, running.get("/readyz"))["config_generation"],
        5
    );
}

#[test]
fn what_cannot_come_into_force_is_not_stored() {
    let node = Node::new();
    let running = node.run();
    let address = free_port();
    let text = listening(address, "one");
    put(&running, 200, "/profiles/corp", "", &text);
    post(&running, 200, "/profiles/corp/assign", "");

    let wrong = text
        .replace("service = 'wiki'", "service = 'wik'")
        .replace("'ca.crl'", "'none.crl'");
    for path in ["/profiles/corp", "/profiles/corp?dry_run=true"] {
        let refused = put(&running, 422, path, "", &wrong);
        let problems = refused["problems"].as_array().unwrap();
        assert_eq!(problems.len(), 2, "{refused}");
        assert_eq!(problems[0]["key"], "profile.device_auth.crl.files[0]");
        assert_eq!(problems[0]["line"], 14);
        assert!(
            problems[1]["remedy"].to_string().contains("wiki"),
            "{refused}"
        );
    }
    std::fs::write(node.path("bad.pem"), "no certificate").unwrap();
    let refused = put(
        &running,
        422,
        "/profiles/corp",
        "",
        &text.replace("'ca.pem'", "'bad.pem'"),
    );
    assert!(
        refused["problems"][0]["message"]
            .to_string()
            .contains("bad.pem"),
        "{refused}"
    );
    // An address that is taken is seen only when it is to be listened on.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let elsewhere = listening(taken.local_addr().unwrap(), "");
    put(&running, 200, "/profiles/corp?dry_run=true", "", &elsewhere);
    let refused = put(&running, 422, "/profiles/corp", "", &elsewhere);
    assert!(
        refused["problems"][0]["message"]
            .to_string()
            .contains("cannot listen on"),
        "{refused}"
    );
    std::fs::write(node.path("elsewhere.toml"), &elsewhere).unwrap();
    let said = node.refused(2, &["apply", "elsewhere.toml"]);
    assert!(
        said.contains("refuses it, so nothing was changed") && said.contains("cannot listen on"),
        "{said}"
    );

    let shown = running.json(200, running.get("/profiles/corp"));
    assert_eq!(
        (&shown["version"], &shown["text"]),
        (&json!(1), &json!(text))
    );
    assert_eq!(shown["history"].as_array().unwrap().len(), 1);
    assert!(running.ready());
    assert!(TcpStream::connect(address).is_ok());
    // A number is not given twice, though what had it is gone.
    drop(taken);
    let answer = put(
        &running,
        200,
        "/profiles/corp",
        "",
        &text.replace("'one'", "'two'"),
    );
    assert_eq!(
        (&answer["replaced"], &answer["in_force"]),
        (&json!(1), &json!(true))
    );
}

#[test]
fn requests_that_are_wrong_are_told_how_they_would_be_right() {
    let node = Node::new();
    let running = node.run();
    let text = profile("corp", "one");
    put(
        &running,
        200,
        "/profiles/corp",
        "If-None-Match: *\r\n",
        &text,
    );
    let second = profile("corp", "two");
    for headers in ["If-None-Match: *\r\n", "If-Match: \"7\"\r\n"] {
        let refused = put(&running, 412, "/profiles/corp", headers, &second);
        assert!(
            refused["error"]
                .to_string()
                .contains("the newest version of profile corp is 1"),
            "{refused}"
        );
    }
    put(&running, 412, "/profiles/corp?expect=0", "", &second);
    put(
        &running,
        400,
        "/profiles/corp?expect=1",
        "If-Match: \"2\"\r\n",
        &second,
    );
    put(
        &running,
        400,
        "/profiles/corp",
        "If-Match: \"x\"\r\n",
        &second,
    );
    put(&running, 400, "/profiles/corp?expect=x", "", &second);
    put(&running, 400, "/profiles/corp?dry_run=maybe", "", &second);
    running.json(415, running.ask("PUT", "/profiles/corp", JSON, &second));
    running.json(415, running.ask("PUT", "/profiles/corp", "", &second));
    let refused = put(&running, 422, "/profiles/lab", "", &text);
    assert_eq!(refused["problems"][0]["key"], "profile.name");
    assert_eq!(refused["problems"][0]["line"], 2);
    let odd = profile("a b", "");
    let refused = put(&running, 422, "/profiles/a%20b", "", &odd);
    assert!(
        refused["problems"][0]["message"]
            .to_string()
            .contains("cannot name a profile"),
        "{refused}"
    );
    for name in ["..", "%2e%2e%2fx", "a%2Fb", "%00", "%1b%5b2J"] {
        let refused = running.ask("PUT", &format!("/profiles/{name}"), TOML, &text);
        assert!(matches!(refused.0, 404 | 422), "{name}: {refused:?}");
        assert!(!refused.1.contains('\u{1b}'));
    }
    put(
        &running,
        400,
        "/profiles/corp",
        &format!("adit-user: {}\r\n", "n".repeat(65)),
        &second,
    );
    put(
        &running,
        400,
        "/profiles/corp?note=two%0Alines",
        "",
        &second,
    );
    // It is refused before it has come whole, and the connection may end before the answer is read.
    let large = running.try_ask("PUT", "/profiles/corp", TOML, &"#".repeat(10_000_000));
    assert!(
        large.as_ref().map_or(true, |(status, _)| *status == 413),
        "{large:?}"
    );
    post(&running, 404, "/profiles/none/assign", "");
    post(&running, 404, "/profiles/none/rollback", "");
    post(&running, 400, "/profiles/corp/rollback", "");
    post(&running, 404, "/profiles/corp/rollback", "{\"version\": 9}");
    post(&running, 400, "/profiles/corp/rollback", "{\"colour\": 9}");
    post(&running, 400, "/profiles/corp/unassign", "");
    post(&running, 404, "/profiles/corp/paint", "");
    running.json(405, running.ask("POST", "/profiles/corp", JSON, ""));
    running.json(405, running.get("/profiles/corp/assign"));
    running.json(404, running.get("/profiles/corp?version=2"));
    assert_eq!(
        running.json(200, running.get("/profiles/corp"))["version"],
        1
    );

    // Who has no token changes nothing, and reads.
    std::fs::write(node.path("token"), "f".repeat(32)).unwrap();
    running.json(401, running.ask("PUT", "/profiles/corp", TOML, &second));
    running.json(401, running.ask("POST", "/profiles/corp/assign", JSON, ""));
    running.json(401, running.ask("DELETE", "/profiles/corp", "", ""));
    running.json(200, running.get("/profiles/corp"));
}

#[test]
fn a_damaged_or_busy_store_ends_no_node() {
    let node = Node::new();
    let running = node.run();
    let text = listening(free_port(), "one");
    put(&running, 200, "/profiles/corp", "", &text);
    post(&running, 200, "/profiles/corp/assign", "");
    let store = node.path("state/profiles.redb");
    let whole = std::fs::read(&store).unwrap();
    std::fs::write(&store, "this was a store once").unwrap();
    for path in ["/profiles", "/profiles/corp"] {
        let error = running.json(500, running.get(path));
        assert!(error["error"].to_string().contains("is damaged"), "{error}");
    }
    put(
        &running,
        500,
        "/profiles/corp",
        "",
        &text.replace("'one'", "'two'"),
    );
    post(&running, 422, "/reload", "");
    assert!(running.ready(), "it goes on with what it has");
    std::fs::write(&store, whole).unwrap();
    post(&running, 200, "/reload", "");
    assert_eq!(
        running.json(200, running.get("/profiles"))["assigned"],
        "corp"
    );
}

#[test]
fn a_profile_in_the_config_file_counts_and_the_store_is_kept_for_later() {
    let node = Node::new();
    let own = std::fs::read_to_string(node.path("adit.toml")).unwrap();
    std::fs::write(node.path("adit.toml"), own.clone() + &profile("own", "")).unwrap();
    let running = node.run();
    assert!(running.ready());
    assert!(running.metric("adit_profile_info{name=\"own\",version=\"\"} 1"));
    put(&running, 200, "/profiles/corp", "", &profile("corp", "one"));
    let answer = post(&running, 200, "/profiles/corp/assign", "");
    assert_eq!(
        (&answer["assigned"], &answer["in_force"]),
        (&json!(true), &json!(false))
    );
    assert!(running.metric("adit_profile_info{name=\"own\",version=\"\"} 1"));
    // Without it, the assigned one is taken.
    std::fs::write(node.path("adit.toml"), own).unwrap();
    post(&running, 200, "/reload", "");
    assert!(running.metric("adit_profile_info{name=\"corp\",version=\"1\"} 1"));
}

/// Stores the group certificate `fleet`.
fn import(node: &Node, running: &Running) {
    let file = std::fs::read(node.path("ca.pem")).unwrap();
    let body = json!({"file": STANDARD.encode(file)}).to_string();
    let target = "/certificates/group/fleet?replace=true";
    running.json(200, running.ask("PUT", target, JSON, &body));
}

/// A profile that comes and the deletion of what it names: one of them is refused.
#[test]
fn a_certificate_is_not_deleted_under_a_profile_that_comes() {
    let node = Node::new();
    let running = node.run();
    let text = profile("lab", "").replace("'ca.pem'", "'store:fleet'");
    for round in 0..60 {
        import(&node, &running);
        let (put, deleted) = thread::scope(|scope| {
            let put = scope.spawn(|| running.ask("PUT", "/profiles/lab", TOML, &text));
            let deleted =
                scope.spawn(|| running.ask("DELETE", "/certificates/group/fleet", "", ""));
            (put.join().unwrap(), deleted.join().unwrap())
        });
        match put.0 {
            200 => assert_eq!(deleted.0, 409, "{round}: {deleted:?}"),
            _ => assert_eq!(
                (put.0, deleted.0),
                (422, 200),
                "{round}: {put:?} {deleted:?}"
            ),
        }
        running.ask("DELETE", "/profiles/lab", "", "");
    }
}

/// The command line, the admin listener, signals and the watch of files at once: every change that is acknowledged is
/// there, in an order, and the node ends up with the last one.
#[test]
fn changes_from_all_sides_come_one_after_the_other() {
    let node = Node::new();
    let running = node.run();
    let address = free_port();
    let listening =
        |description: &str| listening(address, description).replace("'ca.pem'", "'store:fleet'");
    import(&node, &running);
    put(&running, 200, "/profiles/corp", "", &listening("start"));
    post(&running, 200, "/profiles/corp/assign", "");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let (node, running, done, listening) = (&node, &running, &done, &listening);
        let by_api = |number: usize| {
            for round in 0..6 {
                let text = listening(&format!("api {number} {round}"));
                put(running, 200, "/profiles/corp", "", &text);
            }
        };
        let mut changers = vec![
            scope.spawn(move || by_api(0)),
            scope.spawn(move || by_api(1)),
        ];
        changers.push(scope.spawn(move || {
            for round in 0..6 {
                let file = format!("{round}.toml");
                let text = listening(&format!("command {round}"));
                std::fs::write(node.path(&file), text).unwrap();
                node.done(&["apply", &file]);
            }
        }));
        changers.push(scope.spawn(move || (0..6).for_each(|_| import(node, running))));
        scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                running.signal("HUP");
                thread::sleep(std::time::Duration::from_millis(50));
            }
        });
        changers
            .into_iter()
            .for_each(|changer| changer.join().unwrap());
        done.store(true, Ordering::Relaxed);
    });
    let shown = running.json(200, running.get("/profiles/corp"));
    assert_eq!(shown["version"], 19);
    let notes = shown["history"].as_array().unwrap();
    assert_eq!(notes.len(), 19);
    until("the last one is active", || {
        running.json(200, running.get("/readyz"))["profile"]["version"] == 19
    });
    assert!(running.metric("adit_config_reload_failures_total 0"));
}

/// Nothing that the admin listener has acknowledged is lost when the node is killed.
#[test]
fn slow_a_killed_node_keeps_what_was_acknowledged() {
    let node = Node::new();
    let mut acknowledged = 0;
    let address = free_port();
    for round in 0..12_u64 {
        let mut running = node.run();
        if round == 0 {
            start(&running, address);
            acknowledged = 1;
        }
        let shown = running.json(200, running.get("/profiles/corp"));
        let newest = shown["version"].as_u64().unwrap();
        // What was under way when it was killed may be there or not.
        assert!(
            (acknowledged..=acknowledged + 1).contains(&newest),
            "{newest} after {acknowledged}"
        );
        assert_eq!(
            running.json(200, running.get("/readyz"))["profile"]["version"],
            newest
        );
        // One for certain, however slow the machine is; then as many as come before the kill.
        let text = listening(address, &format!("round {round}"));
        let first = running.json(200, running.ask("PUT", "/profiles/corp", TOML, &text));
        acknowledged = first["version"].as_u64().unwrap();
        assert_eq!(acknowledged, newest + 1);
        let killer = {
            let pid = running.child.id().to_string();
            thread::spawn(move || {
                thread::sleep(std::time::Duration::from_millis(40 + round * 23));
                let kill = std::process::Command::new("kill")
                    .args(["-KILL", &pid])
                    .status();
                assert!(kill.unwrap().success());
            })
        };
        for count in 0.. {
            let text = listening(address, &format!("round {round} {count}"));
            match running.try_ask("PUT", "/profiles/corp", TOML, &text) {
                Ok((200, body)) => {
                    let said: Value = serde_json::from_str(&body).unwrap();
                    acknowledged = said["version"].as_u64().unwrap();
                }
                _ => break,
            }
        }
        killer.join().unwrap();
        let _ = running.child.wait();
        // The kernel takes a killed process's ring apart when it comes to it.
        until("the address is free", || {
            TcpStream::connect(address).is_err()
        });
    }
    assert!(acknowledged > 12, "{acknowledged} in all");
}
