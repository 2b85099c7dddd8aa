//! Sessions are resumed on whichever core and node they land, known in full, and only in their own scope.

use crate::common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;

use adit::certs::Issued;
use adit::observe::TunnelInfo;
use common::gateway::Builder;
use common::{
    Gateway, Pki, Session, World, ask, echo, request, server, session_of, speaking, until,
};
use rustls::client::{Resumption, Tls12Resumption};
use rustls::pki_types::ServerName;
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, StreamOwned, SupportedProtocolVersion, version,
};

const TLS12: &SupportedProtocolVersion = &version::TLS12;
const TLS13: &SupportedProtocolVersion = &version::TLS13;

/// A gateway whose config file has a name of its own, so that several share the folder of `pki`.
fn node(pki: &Pki, name: &str, engine: &str, tls: &str) -> Gateway {
    config(pki, name, tls).engine(engine).start()
}

fn config<'p>(pki: &'p Pki, name: &'p str, tls: &str) -> Builder<'p> {
    let node = Gateway::builder(pki).file(name).servers(&[server(echo)]);
    node.rest(&format!("[profile.tls]\n{tls}"))
}

/// A client that keeps its sessions for the next connection; without tickets in TLS 1.2 if `by_id`.
fn client(
    pki: &Pki,
    device: &Issued,
    version: &'static SupportedProtocolVersion,
    by_id: bool,
) -> Arc<ClientConfig> {
    let mut config = speaking(pki, device, version);
    if by_id {
        config.resumption =
            Resumption::in_memory_sessions(8).tls12_resumption(Tls12Resumption::SessionIdOnly);
    }
    Arc::new(config)
}

/// An open tunnel, and whether its session was resumed.
fn open(client: &Arc<ClientConfig>, gateway: &Gateway) -> (Session, bool) {
    let socket = TcpStream::connect(gateway.address).unwrap();
    let mut session = session_of(client.clone(), socket);
    let head = ask(&mut session, &request("a.test:1")).unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let resumed = session.conn.handshake_kind() == Some(HandshakeKind::Resumed);
    (session, resumed)
}

fn is_resumed(client: &Arc<ClientConfig>, gateway: &Gateway) -> bool {
    open(client, gateway).1
}

/// The core of the tunnel from this port. It is listed a moment after its client has been told.
fn core_of(gateway: &Gateway, session: &Session) -> usize {
    let port = session.sock.local_addr().unwrap().port();
    let mut core = None;
    until("the tunnel is listed", || {
        let (_, body) = gateway.get("/tunnels");
        let listed: Vec<TunnelInfo> = serde_json::from_str(&body).unwrap();
        let tunnel = listed.iter().find(|tunnel| tunnel.peer.port() == port);
        core = tunnel.map(|tunnel| tunnel.core);
        core.is_some()
    });
    core.unwrap()
}

#[test]
fn a_session_is_resumed_on_another_core_with_its_full_record() {
    for (name, tls, version, by_id) in [
        ("tickets-1.3", "", TLS13, false),
        ("tickets-1.2", "", TLS12, false),
        ("ids-1.2", "", TLS12, true),
        ("cache-1.3", "resumption = 'cache'", TLS13, false),
        ("cache-1.2", "resumption = 'cache'", TLS12, true),
    ] {
        let world = World::around(Pki::new(), |pki| {
            node(pki, "adit.toml", "cores = [0, 1]", tls)
        });
        let client = client(&world.pki, &world.device, version, by_id);
        let (mut sessions, mut cores) = (Vec::new(), Vec::new());
        let (mut moved, mut tries) = (0, 0);
        while moved < 2 {
            assert!(tries < 60, "{name}: all on one core");
            let (session, resumed) = open(&client, &world.gateway);
            assert_eq!(resumed, tries > 0, "{name}: connection {tries}");
            let core = core_of(&world.gateway, &session);
            moved += usize::from(cores.last().is_some_and(|last| *last != core));
            cores.push(core);
            sessions.push(session);
            tries += 1;
        }
        let starts = || {
            let audit = std::fs::read_to_string(world.pki.path("audit.log")).unwrap();
            audit.matches("tunnel-start").count()
        };
        until("recorded", || starts() >= tries);
        let audit = std::fs::read_to_string(world.pki.path("audit.log")).unwrap();
        let known: Vec<_> = audit
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .filter(|line| line["event.action"] == "tunnel-start")
            .map(|line| {
                ["device.id", "adit.app", "tls.client.x509.serial_number"]
                    .map(|key| line[key].clone())
            })
            .collect();
        assert!(known.len() >= tries, "{name}: {audit}");
        assert!(
            known.iter().all(|line| *line == known[0]),
            "{name}: {audit}"
        );
        assert_eq!(known[0][0], "device", "{name}");
        assert!(known[0][2].as_str().is_some_and(|serial| serial.len() > 8));
    }
}

#[test]
fn tickets_of_tls13_come_with_the_answer_to_a_request_that_is_there() {
    let world = World::around(Pki::new(), |pki| node(pki, "adit.toml", "", ""));
    let client = client(&world.pki, &world.device, TLS13, false);
    let connected = || {
        let socket = TcpStream::connect(world.gateway.address).unwrap();
        let mut session = session_of(client.clone(), socket);
        session.conn.write_tls(&mut session.sock).unwrap();
        while session.conn.is_handshaking() {
            session.conn.read_tls(&mut session.sock).unwrap();
            session.conn.process_new_packets().unwrap();
        }
        session
    };
    // With the client's last message: one send has both.
    let mut session = connected();
    let asked = session.conn.writer().write_all(&request("a.test:1"));
    asked.unwrap();
    let mut last = Vec::new();
    while session.conn.wants_write() {
        session.conn.write_tls(&mut last).unwrap();
    }
    session.sock.write_all(&last).unwrap();
    session.conn.read_tls(&mut session.sock).unwrap();
    session.conn.process_new_packets().unwrap();
    let mut head = [0; 12];
    session.conn.reader().read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");

    // Without one, they wait for nothing.
    let mut session = connected();
    session.conn.write_tls(&mut session.sock).unwrap();
    assert!(session.conn.handshake_kind() == Some(HandshakeKind::Resumed));
    assert!(session.conn.read_tls(&mut session.sock).unwrap() > 0);
    session.conn.process_new_packets().unwrap();
    assert!(is_resumed(&client, &world.gateway) && is_resumed(&client, &world.gateway));
}

#[test]
fn a_revoked_device_does_not_resume() {
    for tls in ["", "resumption = 'cache'"] {
        for (version, by_id) in [(TLS12, true), (TLS13, false)] {
            let world = World::around(Pki::new(), |pki| node(pki, "adit.toml", "", tls));
            let client = client(&world.pki, &world.device, version, by_id);
            assert!(!is_resumed(&client, &world.gateway) && is_resumed(&client, &world.gateway));
            world.pki.write_crl(&[&world.device]);
            world.gateway.reload();
            let socket = TcpStream::connect(world.gateway.address).unwrap();
            let name = ServerName::try_from("localhost").unwrap();
            let connection = ClientConnection::new(client, name).unwrap();
            let mut session = StreamOwned::new(connection, socket);
            let answer = ask(&mut session, &request("a.test:1"));
            assert!(
                !matches!(&answer, Ok(head) if head.contains(" 200 ")),
                "{answer:?}"
            );
            let kind = session.conn.handshake_kind();
            assert_eq!(kind, Some(HandshakeKind::Resumed), "revoked before that");
            until("recorded", || {
                world.gateway.ended("certificate-revoked") == 1.0
            });
        }
    }
}

#[test]
fn a_reload_ends_sessions_only_with_their_group_certificates() {
    for (tls, version, by_id) in [
        ("", TLS13, false),
        ("", TLS12, true),
        ("resumption = 'cache'", TLS13, false),
    ] {
        let world = World::around(Pki::new(), |pki| node(pki, "adit.toml", "", tls));
        let client = client(&world.pki, &world.device, version, by_id);
        assert!(!is_resumed(&client, &world.gateway) && is_resumed(&client, &world.gateway));
        world.gateway.reload();
        assert!(
            is_resumed(&client, &world.gateway),
            "{tls}: nothing has changed"
        );
        let other = common::authority("other");
        let both = format!(
            "{}{}",
            std::fs::read_to_string(world.pki.path("ca.pem")).unwrap(),
            pem_of(&other)
        );
        std::fs::write(world.pki.path("ca.pem"), both).unwrap();
        world.gateway.reload();
        assert!(!is_resumed(&client, &world.gateway), "{tls}: another group");
        assert!(
            is_resumed(&client, &world.gateway),
            "{tls}: its new session"
        );
    }
}

fn pem_of(ca: &adit::lab::CertificateAuthority) -> String {
    let folder = tempfile::tempdir().unwrap();
    ca.write(folder.path()).unwrap();
    std::fs::read_to_string(folder.path().join("ca.pem")).unwrap()
}

/// `adit ticket-keys` with these arguments in the folder of `pki`.
fn ticket_keys(pki: &Pki, arguments: &[&str]) {
    let output = Command::new(env!("CARGO_BIN_EXE_adit"))
        .arg("ticket-keys")
        .args(arguments)
        .current_dir(pki.folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn nodes_with_one_key_file_resume_each_other_s_sessions() {
    let pki = Pki::new();
    let device = pki.client("device", |_| ());
    ticket_keys(&pki, &["make", "tickets.key"]);
    let keys = "ticket_keys = 'tickets.key'";
    let (one, two) = (
        node(&pki, "1.toml", "", keys),
        node(&pki, "2.toml", "", keys),
    );
    let alone = node(&pki, "3.toml", "", "");
    for version in [TLS12, TLS13] {
        let client = client(&pki, &device, version, false);
        assert!(!is_resumed(&client, &one) && is_resumed(&client, &two));
        assert!(is_resumed(&client, &one));
        assert!(!is_resumed(&client, &alone));
    }

    // The same file and another set of group certificates: not the same scope.
    let mut pem = std::fs::read_to_string(pki.path("ca.pem")).unwrap();
    pem.push_str(&pem_of(&common::authority("other")));
    std::fs::write(pki.path("both.pem"), pem).unwrap();
    let foreign = config(&pki, "4.toml", keys).replace("'ca.pem'", "'both.pem'");
    let foreign = foreign.start();
    let client = client(&pki, &device, TLS13, false);
    assert!(!is_resumed(&client, &one));
    assert!(!is_resumed(&client, &foreign));
    assert!(
        !is_resumed(&client, &one),
        "a ticket of another scope was taken"
    );
}

#[test]
fn a_node_takes_a_rotated_key_file_without_a_signal() {
    let pki = Pki::new();
    let device = pki.client("device", |_| ());
    ticket_keys(&pki, &["make", "tickets.key"]);
    let keys = "ticket_keys = 'tickets.key'";
    let one = node(&pki, "1.toml", "", keys);
    let client = client(&pki, &device, TLS13, false);
    assert!(!is_resumed(&client, &one));
    // The old key has no ticket left where the lifetime is nothing: it is retired, and its ticket with it.
    ticket_keys(
        &pki,
        &["rotate", "tickets.key", "--in", "0s", "--lifetime", "0s"],
    );
    let rotated = std::fs::read_to_string(pki.path("tickets.key")).unwrap();
    assert_eq!(
        rotated
            .lines()
            .filter(|line| !line.starts_with('#'))
            .count(),
        1
    );
    let two = node(&pki, "2.toml", "", keys);
    let fresh = || self::client(&pki, &device, TLS13, false);
    until("the first node has the new key", || {
        let client = fresh();
        open(&client, &two);
        is_resumed(&client, &one)
    });
    assert!(!is_resumed(&client, &one), "a retired key opens");
    // A key that stays: its tickets open, and the new key seals.
    ticket_keys(&pki, &["rotate", "tickets.key", "--in", "0s"]);
    let client = fresh();
    assert!(!is_resumed(&client, &one));
    let three = node(&pki, "3.toml", "", keys);
    assert!(is_resumed(&client, &three), "the old key does not open");
}

#[test]
fn bad_key_files_stop_the_start_and_are_named() {
    use std::os::unix::fs::PermissionsExt;
    let pki = Pki::new();
    ticket_keys(&pki, &["make", "tickets.key"]);
    config(&pki, "adit.toml", "ticket_keys = 'tickets.key'").write();
    let check = || {
        let output = Command::new(env!("CARGO_BIN_EXE_adit"))
            .arg("check")
            .current_dir(pki.folder.path())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), text)
    };
    assert_eq!(check().0, Some(0), "{:?}", check());
    let file = pki.path("tickets.key");
    let good = std::fs::read_to_string(&file).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let (code, text) = check();
    assert!(
        text.contains("tickets.key") && text.contains("chmod 0600"),
        "{text}"
    );
    assert_eq!(code, Some(2));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&file, good.trim_end().strip_suffix(|_: char| true).unwrap()).unwrap();
    let (code, text) = check();
    assert!(
        text.contains("tickets.key:3: the key has 63 digits"),
        "{text}"
    );
    assert_eq!(code, Some(2));
}

#[test]
fn openssl_resumes_by_session_id_in_tls_1_2() {
    let pki = Pki::new();
    pki.client("device", |_| ());
    let gateway = node(&pki, "adit.toml", "", "");
    for (option, kind) in [("-sess_out", "full"), ("-sess_in", "resumed")] {
        let more = ["-quiet", "-tls1_2", "-no_ticket", option, "session.pem"];
        let mut client = common::s_client(&pki, &gateway, "localhost", &more);
        let mut input = client.stdin.take().unwrap();
        input.write_all(&request("web.test:80")).unwrap();
        let mut output = client.stdout.take().unwrap();
        let mut answer = [0; 12];
        output.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        drop(input);
        let _ = client.kill();
        client.wait().unwrap();
        let labels = format!("version=\"1.2\",kind=\"{kind}\"");
        assert_eq!(
            gateway.metric("adit_handshakes_total", &labels),
            1.0,
            "{kind}"
        );
    }
}
