//! What a node finds amiss is the same on every surface: /readyz, the log, the metrics, `adit status`.

use serde_json::Value;
use time::{Duration, OffsetDateTime};

use crate::common::{
    Gateway, Pki, World, ask, crl_of, echo, free_port, request, server, service, until,
};

fn ready(gateway: &Gateway) -> (u16, Value) {
    let (status, body) = gateway.get("/readyz");
    (status, serde_json::from_str(&body).unwrap())
}

/// The finding of this code.
fn finding(gateway: &Gateway, code: &str) -> Option<Value> {
    let (_, answer) = ready(gateway);
    let all = answer["findings"].as_array().unwrap();
    all.iter().find(|one| one["code"] == code).cloned()
}

/// Exit code and output of `adit status`.
fn status(pki: &Pki) -> (Option<i32>, String) {
    let output = pki.adit(["status"]);
    (
        output.status.code(),
        String::from_utf8(output.stdout).unwrap(),
    )
}

/// It is on all surfaces, and with this severity.
fn is_everywhere(world: &World, code: &str, severity: &str) -> Value {
    until(code, || finding(&world.gateway, code).is_some());
    let found = finding(&world.gateway, code).unwrap();
    assert_eq!(found["severity"], severity, "{found}");
    for key in ["message", "consequence", "remedy"] {
        assert!(!found[key].as_str().unwrap().is_empty(), "{found}");
    }
    assert!(found["since"].as_u64().unwrap() > 1_700_000_000, "{found}");
    let labels = format!("code=\"{code}\",severity=\"{severity}\"");
    assert_eq!(world.gateway.metric("adit_finding", &labels), 1.0);
    let (exit, said) = status(&world.pki);
    assert!(
        said.contains(&format!("{severity} {code} since ")),
        "{said}"
    );
    assert!(said.contains(found["message"].as_str().unwrap()), "{said}");
    assert!(matches!(exit, Some(3 | 4)), "{exit:?}");
    let logged = format!("code=\"{code}\" severity=\"{severity}\"");
    until("the log", || world.gateway.said(&logged) == 1);
    found
}

fn is_gone(world: &World, code: &str) {
    until("it is gone", || finding(&world.gateway, code).is_none());
    let labels = format!("code=\"{code}\"");
    assert_eq!(world.gateway.metric("adit_finding", &labels), 0.0);
    let logged = format!("the finding is gone code=\"{code}\"");
    until("the log", || world.gateway.said(&logged) == 1);
}

#[test]
fn a_list_that_has_run_out_is_told_while_the_node_stays_in_its_pool() {
    let pki = Pki::new();
    let now = OffsetDateTime::now_utc();
    let old = crl_of(
        &pki.ca,
        &[],
        now - Duration::hours(2),
        now - Duration::hours(1),
    );
    std::fs::write(pki.path("ca.crl"), old).unwrap();
    let world = World::of(pki, |node| node.servers(&[server(echo)]));
    let found = is_everywhere(&world, "crl-expired", "critical");
    assert!(
        found["subject"].as_str().unwrap().ends_with("ca.crl"),
        "{found}"
    );
    let (code, answer) = ready(&world.gateway);
    assert_eq!((code, &answer["status"]), (200, &"degraded".into()));
    assert_eq!(status(&world.pki).0, Some(4));
    // The refused device is told apart by the same words.
    assert!(ask(&mut world.connect(), &request("a.test:1")).is_err());
    until("the audit line", || {
        let log = world.pki.audit();
        log.contains("\"device.id\":\"device\"") && log.contains("the revocation list of")
    });
    world.pki.write_crl(&[]);
    is_gone(&world, "crl-expired");
    assert!(world.lets_in());
}

#[test]
fn a_service_whose_servers_are_dead_is_told_until_one_is_back() {
    let address = free_port();
    let rest = service(&[address]).replace(
        "\n[[profile.rule]]",
        "\n[profile.service.health]\ncheck = 'tcp'\ninterval = '1s'\nrise = 1\nfall = 1\n[[profile.rule]]",
    );
    let world = World::new(|node| node.rest(&rest));
    let found = is_everywhere(&world, "service-down", "critical");
    assert_eq!(found["subject"], "echo");
    let listener = std::net::TcpListener::bind(address).unwrap();
    std::thread::spawn(move || while listener.accept().is_ok() {});
    is_gone(&world, "service-down");
}

#[test]
fn a_refused_change_is_told_until_one_is_taken() {
    let world = World::new(|node| node.servers(&[server(echo)]));
    let file = world.pki.path("adit.toml");
    let good = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, good.replace("name = 'echo'", "nome = 'echo'")).unwrap();
    world.gateway.signal("HUP");
    let found = is_everywhere(&world, "change-refused", "warning");
    assert!(
        found["message"].as_str().unwrap().contains("adit.toml:"),
        "{found}"
    );
    std::fs::write(&file, good).unwrap();
    world.gateway.signal("HUP");
    is_gone(&world, "change-refused");
}

#[test]
fn a_node_that_takes_no_tunnels_is_unavailable() {
    let world = World::new(|node| {
        node.servers(&[server(echo)])
            .engine("drain_timeout = '30s'")
    });
    let _open = world.tunnel("a.test:1");
    world.gateway.signal("TERM");
    until("it drains", || ready(&world.gateway).0 == 503);
    let (_, answer) = ready(&world.gateway);
    assert_eq!(answer["status"], "unavailable");
    assert_eq!(answer["ready"], false);
    let (exit, said) = status(&world.pki);
    assert_eq!(exit, Some(4), "{said}");
    assert!(said.contains("draining"), "{said}");
    // Nobody answers: that is no state of the node.
    let nobody = Pki::new();
    assert_eq!(
        nobody
            .adit(["status", "--admin", &free_port().to_string()])
            .status
            .code(),
        Some(1)
    );
}

#[test]
fn the_answer_for_programs_is_the_one_of_the_listener() {
    let world = World::new(|node| node.servers(&[server(echo)]));
    let output = world.pki.adit(["status", "--json"]);
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let (_, answer) = ready(&world.gateway);
    assert_eq!(said["findings"], answer["findings"]);
}
