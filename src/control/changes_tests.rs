//! Changes through the admin listener, with a node that keeps them in memory.

use serde_json::json;

use super::*;

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
