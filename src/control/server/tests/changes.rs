//! Changes through the admin listener, with a node that keeps them in memory.

use serde_json::json;

use super::*;
use crate::control::routes::{ROUTES, find};

const JSON: &str = "Content-Type: application/json\r\n";

fn over_socket() -> (tempfile::TempDir, std::path::PathBuf, Running) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let running = Running::start(&AdminListen::Unix(path.clone()));
    (folder, path, running)
}

/// Sends a request; its status and the JSON of its body.
fn send(
    path: &std::path::Path,
    method: &str,
    target: &str,
    headers: &str,
    body: &str,
) -> (u16, serde_json::Value) {
    let request = format!(
        "{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n{body}",
        body.len()
    );
    let (status, response) = exchange(unix::net::UnixStream::connect(path).unwrap(), &request);
    let body = response.split_once("\r\n\r\n").unwrap().1;
    (status, serde_json::from_str(body).unwrap())
}

#[test]
fn devices_are_set_read_listed_and_taken_out() {
    let (_folder, path, running) = over_socket();
    let blocked = r#"{"state":"blocked","user":"ann"}"#;
    let (status, device) = send(&path, "PUT", "/devices/urn%3Aa%2F1", JSON, blocked);
    let expected = json!({"device": "urn:a/1", "state": "blocked", "user": "ann"});
    assert_eq!((status, &device), (200, &expected));
    assert_eq!(
        send(&path, "GET", "/devices/urn%3Aa%2F1", "", ""),
        (200, expected)
    );
    assert_eq!(send(&path, "GET", "/devices/other", "", "").0, 404);

    let csv = "device,state\nb,managed\nc,blocked\n";
    let (status, answer) = send(&path, "POST", "/devices", "Content-Type: text/csv\r\n", csv);
    assert_eq!((status, answer), (200, json!({"devices": 2})));
    let (_, listed) = send(&path, "GET", "/devices?after=b&limit=1", "", "");
    assert_eq!(listed, json!([{"device": "c", "state": "blocked"}]));

    let objects =
        "{\"device\":\"b\",\"state\":\"unmanaged\"}\n{\"device\":\"d\",\"state\":\"managed\"}\n";
    let ndjson = "Content-Type: application/x-ndjson; charset=utf-8\r\n";
    assert_eq!(send(&path, "POST", "/devices", ndjson, objects).0, 200);
    assert_eq!(send(&path, "GET", "/devices/b", "", "").0, 404);

    assert_eq!(send(&path, "DELETE", "/devices/d", "", "").0, 200);
    assert_eq!(send(&path, "DELETE", "/devices/d", "", "").0, 404);
    running.end();
}

#[test]
fn an_import_with_a_wrong_line_changes_nothing_and_names_it() {
    let (_folder, path, running) = over_socket();
    let csv = "a,managed\nb,open\nc,managed,x,y\n";
    let (status, answer) = send(&path, "POST", "/devices", "Content-Type: text/csv\r\n", csv);
    assert_eq!(status, 400);
    let lines: Vec<u64> = answer["lines"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line["line"].as_u64().unwrap())
        .collect();
    assert_eq!(lines, [2, 3]);
    assert_eq!(send(&path, "GET", "/devices/a", "", "").0, 404);
    running.end();
}

#[test]
fn wrong_changes_are_refused() {
    let (_folder, path, running) = over_socket();
    let state = r#"{"state":"managed"}"#;
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    let origin = format!("{JSON}Origin: http://localhost:9901\r\n");
    let long = "x".repeat(crate::limits::ADMIN_BODY_MAX + 1);
    for (method, target, headers, body, expected) in [
        ("PUT", "/devices/a", "", state, 415),
        ("PUT", "/devices/a", form, state, 415),
        ("PUT", "/devices/a", &origin, state, 403),
        (
            "DELETE",
            "/devices/a",
            "Sec-Fetch-Site: cross-site\r\n",
            "",
            403,
        ),
        ("PUT", "/devices/a", JSON, "{}", 400),
        ("PUT", "/devices/a", JSON, r#"{"state":"open"}"#, 400),
        ("PUT", "/devices/a", JSON, &long, 413),
        ("PUT", "/devices/%ff", JSON, state, 400),
        (
            "PUT",
            &format!("/devices/{}", "x".repeat(257)),
            JSON,
            state,
            400,
        ),
        ("PUT", "/devices/a%0ab", JSON, state, 400),
        (
            "DELETE",
            &format!("/devices/{}", "x".repeat(600)),
            "",
            "",
            404,
        ),
        ("POST", "/devices", JSON, "[]", 415),
        ("POST", "/tunnels", JSON, "", 405),
        ("DELETE", "/metrics", "", "", 405),
        ("DELETE", "/tunnels", "", "", 400),
        ("DELETE", "/tunnels?prefix=a", "", "", 400),
        ("DELETE", "/tunnels/x", "", "", 400),
    ] {
        let (status, answer) = send(&path, method, target, headers, body);
        assert_eq!(status, expected, "{method} {target} {headers} {answer}");
    }
    assert!(running.node.devices.lock().unwrap().is_empty());
    assert!(running.node.closed.lock().unwrap().is_empty());
    running.end();
}

#[test]
fn tunnels_are_closed_by_what_names_them() {
    let (_folder, path, running) = over_socket();
    let (status, answer) = send(&path, "DELETE", "/tunnels?device=a%2Fb&service=w", "", "");
    assert_eq!((status, answer), (200, json!({"closed": 3})));
    assert_eq!(send(&path, "DELETE", "/tunnels/77", "", "").0, 200);
    let device = TunnelFilter {
        device: Some("a/b".to_owned()),
        service: Some("w".to_owned()),
        ..TunnelFilter::default()
    };
    let id = TunnelFilter {
        id: Some(77),
        ..TunnelFilter::default()
    };
    let closed = running.node.closed.lock().unwrap().clone();
    assert_eq!(closed, [device.clone(), device, id.clone(), id]);
    running.end();
}

#[test]
fn nothing_is_changed_over_tcp_without_a_token() {
    let running = Running::tcp();
    let request = format!(
        "PUT /devices/a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{JSON}Content-Length: 19\r\n\r\n\
         {{\"state\":\"managed\"}}"
    );
    let (status, response) = running.send(&request);
    assert_eq!(status, 403);
    assert!(response.contains("admin.token_file"), "{response}");
    assert!(running.node.devices.lock().unwrap().is_empty());
    running.end();
}

#[test]
fn what_a_change_needs_is_told_and_can_be_tried() {
    let (_folder, path, running) = over_socket();
    let (status, told) = send(&path, "GET", "/permission", "", "");
    assert_eq!((status, told), (200, json!({"changes": "socket"})));
    assert_eq!(send(&path, "POST", "/permission", "", "").0, 200);
    let own = "Sec-Fetch-Site: same-origin\r\nOrigin: http://localhost\r\n";
    assert_eq!(send(&path, "POST", "/permission", own, "").0, 403);
    running.end();
    let running = Running::tcp();
    let (_, told) = running.json("/permission");
    assert_eq!(told, json!({"changes": "never"}));
    running.end();
}

/// Sends a request without a body; its status, `Allow` and all that came.
fn bare(stream: impl Read + Write, method: &str, path: &str) -> (u16, Option<String>, String) {
    let rest = "Host: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    let (status, answer) = exchange(stream, &format!("{method} {path} HTTP/1.1\r\n{rest}"));
    let mut lines = answer.lines();
    let allow = lines.find_map(|line| line.strip_prefix("allow: ").map(str::to_owned));
    (status, allow, answer)
}

#[test]
fn every_route_is_answered_and_nothing_else() {
    let (_folder, socket, open) = over_socket();
    let closed = Running::tcp();
    let allowing = || unix::net::UnixStream::connect(&socket).unwrap();
    let refusing = || net::TcpStream::connect(closed.address.unwrap()).unwrap();
    let methods = [
        "GET", "HEAD", "PUT", "POST", "DELETE", "PATCH", "OPTIONS", "get",
    ];
    let templates = ROUTES.iter().map(|route| route.path);
    for template in ["/", "/page/main.js"].into_iter().chain(templates) {
        let mut path = String::new();
        for (number, part) in template.split('{').enumerate() {
            let rest = part.split_once('}').map_or(part, |(_, rest)| rest);
            path += if number == 0 { "" } else { "7" };
            path += rest;
        }
        let allowed = find(&path).unwrap().0.allow();
        for method in methods {
            let (status, _, answer) = bare(allowing(), method, &path);
            let is_allowed = allowed.split(", ").any(|known| known == method);
            assert_eq!(status != 405, is_allowed, "{method} {path}: {answer}");
            assert!(
                !answer.contains("no such page"),
                "{method} {path}: {answer}"
            );
            let (status, allow, answer) = bare(refusing(), method, &path);
            match (is_allowed, method) {
                (false, _) => assert_eq!((status, allow), (405, Some(allowed.clone()))),
                (true, "GET" | "HEAD") => assert_ne!(status, 403, "{method} {path}: {answer}"),
                // What is no reading needs permission, whatever it is.
                (true, _) => assert_eq!(status, 403, "{method} {path}: {answer}"),
            }
        }
    }
    for path in [
        "/admin",
        "/tunnels/",
        "/profiles/a/paint",
        "/certificates/group",
        "/servers/a",
    ] {
        for method in methods {
            let (status, allow, answer) = bare(refusing(), method, path);
            assert_eq!((status, allow), (404, None), "{method} {path}: {answer}");
        }
    }
    let (_, answer) = closed.json("/admin");
    assert_eq!(answer["pages"].as_array().unwrap().len(), ROUTES.len() + 1);
    closed.end();
    open.end();
}
