//! Clients of HTTP/2 tunnels that others have made: Python's h2, and curl's library.

use crate::common;

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Output};

use common::{World, echo, server, until};

const PAGE: usize = 3_000_000;

fn world(to: std::net::SocketAddr) -> World {
    World::new(|node| node.servers(&[to]))
}

/// Runs the script of clients; `tests/run` puts what it needs into target/venv.
fn client(kind: &str, world: &World, last: &[&str]) -> Output {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join("target/venv/bin/python");
    assert!(python.exists(), "no target/venv; tests/run makes it");
    // The name that its certificate has.
    let address = format!("localhost:{}", world.gateway.address.port());
    Command::new(python)
        .arg(root.join("tests/interop/http2.py"))
        .args([kind, &address])
        .args(["ca.pem", "device.pem", "device.key"].map(|name| world.pki.path(name)))
        .args(last)
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn pythons_h2_with_forty_tunnels_in_one_session() {
    let world = world(server(echo));
    let output = client("h2", &world, &["40", "150000"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("40 tunnels"), "{}", said(&output));
    until("all have ended", || world.gateway.ended("closed") == 40.0);
    assert_eq!(world.gateway.metric("adit_http2_sessions_total", ""), 1.0);
}

#[test]
fn curl_gets_a_page_through_an_http2_proxy() {
    let page = server(|mut stream| {
        let mut question = [0; 4096];
        let _ = stream.read(&mut question).unwrap();
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Length: {PAGE}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let bytes: Vec<u8> = (0..PAGE).map(|at| (at % 251) as u8).collect();
        stream.write_all(&bytes).unwrap();
    });
    let world = world(page);
    let output = client("curl", &world, &["http://web.test:80/"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(output.stdout.len(), PAGE);
    assert!(
        output
            .stdout
            .iter()
            .enumerate()
            .all(|(at, byte)| *byte == (at % 251) as u8)
    );
    assert_eq!(world.gateway.metric("adit_http2_sessions_total", ""), 1.0);
    // What no rule allows, curl does not get. It does not tell the status of a proxy over HTTP/2; the gateway does.
    let refused = client("curl", &world, &["http://web.elsewhere:80/"]);
    assert!(!refused.status.success());
    assert!(said(&refused).contains("curl: "), "{}", said(&refused));
    assert_eq!(world.gateway.ended("no-rule"), 1.0);
}
