//! The server certificate ends, or another one fits a client better, and nobody is refused for it.

use crate::common;

use std::net::TcpStream;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use adit::certs::make::Usage;
use adit::certs::self_signed::self_signed_for;
use adit::certs::{self, IssueRequest, Issued, KeyType, Validity};
use adit::lab;
use common::gateway::Builder;
use common::{
    Gateway, Pki, Session, World, ask, echo, echoes, request, s_client_says, server, session_of,
    until,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use time::OffsetDateTime;

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap().as_secs()
}

fn validity(to: u64) -> Validity {
    let moment = |at: u64| OffsetDateTime::from_unix_timestamp(i64::try_from(at).unwrap()).unwrap();
    Validity::between(moment(now().min(to) - 3600), moment(to)).unwrap()
}

/// A certificate that ends at `to`, as NAME.pem and NAME.key.
fn issue(pki: &Pki, name: &str, to: u64, change: impl FnOnce(&mut IssueRequest)) -> Issued {
    let mut request = IssueRequest::new(Usage::Server, name, validity(to));
    request.dns = vec!["localhost".into()];
    change(&mut request);
    let issued = lab::issue(&pki.ca, &request).unwrap();
    let file = |ending: &str| pki.path(&format!("{name}.{ending}"));
    issued.write(&file("pem"), &file("key")).unwrap();
    issued
}

/// The config with these lines for the server certificate, or without the table.
fn config<'p>(pki: &'p Pki, lines: Option<&str>) -> Builder<'p> {
    let node = Gateway::builder(pki).servers(&[server(echo)]);
    node.certificate(lines)
}

fn start(pki: &Pki, lines: Option<&str>) -> Gateway {
    config(pki, lines).start()
}

fn check(pki: &Pki, lines: &str) -> Output {
    config(pki, Some(lines)).write();
    let mut command = Command::new(env!("CARGO_BIN_EXE_adit"));
    let command = command
        .args(["check", "--config"])
        .arg(pki.path("adit.toml"));
    command.output().unwrap()
}

/// A client that trusts `roots`, as the device, and keeps its sessions.
fn client(roots: &[&CertificateDer<'static>], device: &Issued) -> Arc<ClientConfig> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add((*root).clone()).unwrap();
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(store)
        .with_client_auth_cert(device.chain.clone(), device.key.clone_key());
    Arc::new(config.unwrap())
}

/// An open tunnel.
fn open(client: &Arc<ClientConfig>, gateway: &Gateway) -> Session {
    let socket = TcpStream::connect(gateway.address).unwrap();
    let mut session = session_of(client.clone(), socket);
    let head = ask(&mut session, &request("a.test:1")).unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    session
}

fn shown(session: &Session) -> CertificateDer<'static> {
    session.conn.peer_certificates().unwrap()[0].clone()
}

fn is_resumed(session: &Session) -> bool {
    session.conn.handshake_kind() == Some(HandshakeKind::Resumed)
}

fn served(gateway: &Gateway, role: &str) -> f64 {
    gateway.metric("adit_certificate_served", &format!("role=\"{role}\""))
}

/// Opens sessions until one is shown `next`, and checks that each is shown what its moment wants.
fn cross(
    gateway: &Gateway,
    client: &Arc<ClientConfig>,
    (first, next): (&CertificateDer<'static>, &CertificateDer<'static>),
    end: u64,
) {
    loop {
        let before = now();
        let session = open(client, gateway);
        let certificate = shown(&session);
        if certificate == *next {
            assert!(now() >= end, "too early");
            assert!(!is_resumed(&session), "begun under the first");
            break;
        }
        assert_eq!(&certificate, first);
        assert!(before < end, "too late");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn the_secondary_takes_over_from_an_expired_primary_under_an_open_tunnel() {
    let pki = Pki::new();
    let end = now() + 7;
    let primary = issue(&pki, "first", end, |_| ());
    let secondary = issue(&pki, "second", end + 100_000, |_| ());
    let lines = "primary = 'first.pem'\nkey = 'first.key'\nsecondary = 'second.pem'\n\
                 secondary_key = 'second.key'";
    let world = World::around(pki, |pki| start(pki, Some(lines)));
    let client = client(&[world.pki.ca.certificate()], &world.device);
    let mut tunnel = open(&client, &world.gateway);
    assert_eq!(shown(&tunnel), primary.chain[0]);
    assert!(is_resumed(&open(&client, &world.gateway)));
    assert_eq!(
        (
            served(&world.gateway, "primary"),
            served(&world.gateway, "secondary")
        ),
        (1.0, 0.0)
    );
    let expiry = |role: &str| {
        let labels = format!("role=\"{role}\"");
        world
            .gateway
            .metric("adit_certificate_expiry_timestamp_seconds", &labels)
    };
    assert_eq!(expiry("primary"), end as f64);
    assert_eq!(expiry("secondary"), (end + 100_000) as f64);
    assert!(now() < end, "the machine is too slow for this test");

    let chains = (&primary.chain[0], &secondary.chain[0]);
    cross(&world.gateway, &client, chains, end);
    echoes(&mut tunnel, b"alive");
    let session = open(&client, &world.gateway);
    assert!(is_resumed(&session), "begun under the second");
    assert_eq!(
        (
            served(&world.gateway, "primary"),
            served(&world.gateway, "secondary")
        ),
        (0.0, 1.0)
    );
    until("the takeover is counted", || {
        world.gateway.metric("adit_certificate_takeovers_total", "") == 1.0
    });
    let left = world
        .gateway
        .metric("adit_certificate_days_left", "role=\"primary\"");
    assert!(left <= 0.0, "{left}");
    let (status, body) = world.gateway.get("/readyz");
    assert_eq!(status, 200, "{body}");
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    let states: Vec<_> = body["certificates"].as_array().unwrap().iter().collect();
    assert_eq!(states[0]["state"], "expired");
    assert_eq!(states[1]["served"], true);
    assert_eq!(world.gateway.metric("adit_config_generation", ""), 1.0);
}

#[test]
fn a_node_whose_last_certificate_has_expired_is_not_ready() {
    let pki = Pki::new();
    let end = now() + 4;
    issue(&pki, "first", end, |_| ());
    let world = World::around(pki, |pki| {
        start(pki, Some("primary = 'first.pem'\nkey = 'first.key'"))
    });
    let client = client(&[world.pki.ca.certificate()], &world.device);
    let mut tunnel = open(&client, &world.gateway);
    until("it is not ready", || world.gateway.get("/readyz").0 == 503);
    assert!(now() >= end);
    let (_, body) = world.gateway.get("/readyz");
    assert!(body.contains("the server certificate has expired and there is no other"));
    assert!(body.contains("first.pem"), "{body}");
    echoes(&mut tunnel, b"alive");
}

#[test]
fn a_start_needs_one_certificate_of_the_two_that_has_not_expired() {
    let pki = Pki::new();
    let device = pki.client("device", |_| ());
    issue(&pki, "old", now() - 60, |_| ());
    issue(&pki, "older", now() - 600, |_| ());
    let good = issue(&pki, "good", now() + 100_000, |_| ());
    let both = |primary: &str, secondary: &str| {
        format!(
            "primary = '{primary}.pem'\nkey = '{primary}.key'\nsecondary = '{secondary}.pem'\n\
             secondary_key = '{secondary}.key'"
        )
    };
    let client = client(&[pki.ca.certificate()], &device);
    for lines in [both("old", "good"), both("good", "old")] {
        let told = check(&pki, &lines);
        let text = String::from_utf8_lossy(&told.stdout).into_owned();
        assert!(told.status.success(), "{told:?}");
        assert!(
            text.contains("old.pem") && text.contains("expired"),
            "{text}"
        );
        let gateway = start(&pki, Some(&lines));
        assert_eq!(shown(&open(&client, &gateway)), good.chain[0]);
    }
    let told = check(&pki, &both("old", "older"));
    let text = String::from_utf8_lossy(&told.stderr).into_owned();
    assert_eq!(told.status.code(), Some(2));
    for part in ["old.pem", "older.pem", "expired"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // Any other error of the secondary's refuses too, although the primary is good.
    let told = check(
        &pki,
        "primary = 'good.pem'\nkey = 'good.key'\nsecondary = 'old.pem'\nsecondary_key = 'good.key'",
    );
    let text = String::from_utf8_lossy(&told.stderr).into_owned();
    assert_eq!(told.status.code(), Some(2));
    assert!(text.contains("old.pem"), "{text}");
    // An additional one that has expired needs another of its kind.
    let additional = "primary = 'good.pem'\nkey = 'good.key'\n\
                      additional = [{ file = 'old.pem', key = 'old.key' }]";
    assert!(check(&pki, additional).status.success());
    issue(&pki, "rsa", now() - 60, |request| {
        request.key_type = KeyType::Rsa2048;
    });
    let told = check(&pki, &additional.replace("old.", "rsa."));
    assert_eq!(told.status.code(), Some(2), "{told:?}");
}

#[test]
fn a_reload_takes_other_certificates_and_refuses_bad_ones_whole() {
    let pki = Pki::new();
    let [first, second] =
        ["first", "second"].map(|name| issue(&pki, name, now() + 100_000, |_| ()));
    issue(&pki, "old", now() - 60, |_| ());
    let lines = "primary = 'first.pem'\nkey = 'first.key'";
    let world = World::around(pki, |pki| start(pki, Some(lines)));
    let client = client(&[world.pki.ca.certificate()], &world.device);
    let mut tunnel = open(&client, &world.gateway);
    assert_eq!(shown(&tunnel), first.chain[0]);
    // The key of another.
    let bad = format!("{lines}\nsecondary = 'second.pem'\nsecondary_key = 'first.key'");
    config(&world.pki, Some(&bad))
        .admin(world.gateway.admin)
        .write();
    world.gateway.signal("HUP");
    until("refused", || {
        world
            .gateway
            .metric("adit_config_reload_failures_total", "")
            == 1.0
    });
    assert_eq!(shown(&open(&client, &world.gateway)), first.chain[0]);
    let good = "primary = 'old.pem'\nkey = 'old.key'\nsecondary = 'second.pem'\nsecondary_key = 'second.key'";
    config(&world.pki, Some(good))
        .admin(world.gateway.admin)
        .write();
    world.gateway.reload();
    // The first is still valid, so sessions that began under it go on; who has none is shown the secondary.
    assert!(is_resumed(&open(&client, &world.gateway)));
    let other = self::client(&[world.pki.ca.certificate()], &world.device);
    until("the secondary is shown", || {
        shown(&open(&other, &world.gateway)) == second.chain[0]
    });
    echoes(&mut tunnel, b"alive");
    assert_eq!(
        world.gateway.metric("adit_certificate_takeovers_total", ""),
        0.0
    );
}

#[test]
fn the_key_type_and_the_name_choose_among_several() {
    let pki = Pki::new();
    pki.client("device", |request| request.key_type = KeyType::Rsa2048);
    let end = now() + 100_000;
    issue(&pki, "ecdsa", end, |_| ());
    let rsa = |request: &mut IssueRequest| request.key_type = KeyType::Rsa2048;
    issue(&pki, "rsa", end, rsa);
    issue(&pki, "apps", end, |request| {
        request.dns = vec!["*.apps.test".into()];
    });
    let lines = "primary = 'ecdsa.pem'\nkey = 'ecdsa.key'\n\
                 [[profile.server_certificate.additional]]\nfile = 'rsa.pem'\nkey = 'rsa.key'\n\
                 [[profile.server_certificate.additional]]\nfile = 'apps.pem'\nkey = 'apps.key'";
    let gateway = start(&pki, Some(lines));
    let rsa_only = ["-sigalgs", "rsa_pss_rsae_sha256:rsa_pkcs1_sha256"];
    for (name, subject, more) in [
        ("localhost", "CN = ecdsa", &[][..]),
        ("localhost", "CN = rsa", &rsa_only),
        (
            "localhost",
            "CN = rsa",
            &["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"],
        ),
        ("localhost", "CN = ecdsa", &["-tls1_2"]),
        ("a.apps.test", "CN = apps", &[]),
        ("a.b.apps.test", "CN = ecdsa", &[]),
        ("other.test", "CN = ecdsa", &[]),
    ] {
        let told = s_client_says(&pki, &gateway, name, more);
        let told = told.replace("CN=", "CN = ");
        let line = told.lines().find(|line| line.starts_with("subject="));
        let line = line.unwrap_or_else(|| panic!("{name} {more:?}: {told}"));
        assert!(line.contains(subject), "{name} {more:?}: {line}");
    }
    assert_eq!(served(&gateway, "additional"), 2.0);
}

#[test]
fn a_self_signed_certificate_has_its_successor_in_time() {
    let pki = Pki::new();
    let device = pki.client("device", |_| ());
    let end = now() + 7;
    let first = self_signed_for(&["localhost".into()], validity(end)).unwrap();
    let state = pki.path("state");
    std::fs::create_dir(&state).unwrap();
    let file = |name: &str| state.join(name);
    first
        .write(
            &file("server-self-signed.pem"),
            &file("server-self-signed.key"),
        )
        .unwrap();
    let gateway = start(&pki, None);
    let read = |name: &str| {
        certs::read_certificates(&state.join(name))
            .unwrap()
            .remove(0)
    };
    let next = read("server-self-signed-next.pem");
    assert_eq!(read("server-self-signed.pem"), first.chain[0]);
    let client = client(&[&first.chain[0], &next], &device);
    let mut tunnel = open(&client, &gateway);
    assert_eq!(shown(&tunnel), first.chain[0]);
    assert_eq!(served(&gateway, "self-signed"), 1.0);
    assert!(now() < end, "the machine is too slow for this test");
    cross(&gateway, &client, (&first.chain[0], &next), end);
    echoes(&mut tunnel, b"alive");
    until("its files have the names of the first", || {
        read("server-self-signed.pem") == next && served(&gateway, "self-signed") == 1.0
    });
    assert!(!state.join("server-self-signed-next.pem").exists());
    echoes(&mut tunnel, b"alive");
    let takeovers = gateway.metric("adit_certificate_takeovers_total", "");
    assert_eq!(takeovers, 1.0, "its new place is no takeover");
    drop(gateway);
    let gateway = start(&pki, None);
    assert_eq!(
        shown(&open(&client, &gateway)),
        next,
        "what was distributed"
    );
    assert_eq!(read("server-self-signed.pem"), next);
    assert!(!state.join("server-self-signed-next.pem").exists());
}
