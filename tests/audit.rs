//! What the audit log says of sessions and tunnels: one schema for every front end, and numbers that join the lines.

use std::collections::HashSet;

use serde_json::Value;

use crate::common::http2::run;
use crate::common::{Pki, World, echo, free_port, server, service, until};

type Line = serde_json::Map<String, Value>;

/// The lines of an event, once there are so many.
fn lines(pki: &Pki, action: &str, count: usize) -> Vec<Line> {
    let read = || -> Vec<Line> {
        let log = pki.audit();
        let lines = log
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        lines
            .filter(|line: &Line| line["event.action"] == action)
            .collect()
    };
    until(action, || read().len() >= count);
    read()
}

/// One service that is reached, and one whose server is not there.
fn world() -> (World, u16) {
    let dead = free_port().port();
    let rest = format!(
        "{}\n[[profile.service]]\nname = 'dead'\nservers = ['127.0.0.1:{dead}']\n\
         [[profile.rule]]\nhost = 'dead.test'\nport = '*'\nservice = 'dead'\n",
        service(&[server(echo)]).replace("host = '*.test'", "host = 'wiki.test'")
    );
    (World::new(|node| node.rest(&rest)), dead)
}

#[test]
fn a_tunnel_has_its_session_rule_server_tls_and_timings() {
    let (world, _) = world();
    drop(world.tunnel("wiki.test:443"));
    let start = lines(&world.pki, "tunnel-start", 1).remove(0);
    let end = lines(&world.pki, "tunnel-end", 1).remove(0);
    for (key, expected) in [
        ("adit.protocol", "h1"),
        ("device.id", "device"),
        ("adit.identity", "verified"),
        ("tls.client.server_name", "localhost"),
        ("tls.version", "1.3"),
        ("destination.address", "wiki.test"),
        ("server.address", "127.0.0.1"),
    ] {
        assert_eq!(start[key], expected, "{key}");
        assert_eq!(end[key], expected, "{key}");
    }
    for key in [
        "adit.tunnel.id",
        "adit.session.id",
        "adit.profile.name",
        "observer.name",
    ] {
        assert_eq!(start[key], end[key], "{key}");
    }
    let cipher = start["tls.cipher"].as_str().unwrap();
    assert!(cipher.starts_with("TLS_"), "{cipher}");
    assert!(start["tls.curve"].is_string());
    assert_eq!(start["tls.resumed"], false);
    assert_eq!(start["adit.rule"], 1);
    assert_eq!(start["http.response.status_code"], 200);
    for stage in ["handshake", "authorize", "connect"] {
        let took = start[&format!("adit.timings.{stage}")].as_u64().unwrap();
        assert!(took > 0, "{stage}");
    }
}

#[test]
fn a_refusal_names_the_rule_and_the_server_that_failed() {
    let (world, dead) = world();
    assert!(world.answer("dead.test:443").starts_with("HTTP/1.1 502 "));
    assert!(
        world
            .answer("nowhere.test:443")
            .starts_with("HTTP/1.1 403 ")
    );
    let refused = lines(&world.pki, "refused", 2);
    let [failed, forbidden] = &refused[..] else {
        panic!("{refused:?}")
    };
    assert_eq!(failed["adit.rule"], 2);
    assert_eq!(failed["adit.service"], "dead");
    assert_eq!(failed["server.port"], dead);
    assert_eq!(failed["http.response.status_code"], 502);
    assert_eq!(failed["adit.who"], "server");
    assert_eq!(forbidden["event.reason"], "no-rule");
    assert!(!forbidden.contains_key("adit.rule"));
    assert!(!forbidden.contains_key("server.address"));
    assert_ne!(failed["adit.session.id"], forbidden["adit.session.id"]);
}

#[test]
fn tunnels_of_one_http2_session_have_its_number_and_each_its_own() {
    const TUNNELS: usize = 3;
    let (world, _) = world();
    run(async {
        let client = world.http2().await;
        for _ in 0..TUNNELS {
            let mut tunnel = client.tunnel("wiki.test:443").await;
            tunnel.end();
            assert!(tunnel.next().await.is_none());
        }
    });
    let ended = lines(&world.pki, "session-end", 1).remove(0);
    let starts = lines(&world.pki, "tunnel-start", TUNNELS);
    let tunnels: HashSet<String> = starts
        .iter()
        .map(|line| line["adit.tunnel.id"].to_string())
        .collect();
    assert_eq!(tunnels.len(), TUNNELS);
    for start in &starts {
        assert_eq!(start["adit.protocol"], "h2");
        assert_eq!(start["adit.session.id"], ended["adit.session.id"]);
    }
}
