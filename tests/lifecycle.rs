//! Start, reload, drain, death and restart.

use crate::common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use common::{
    Gateway, Pki, World, ask, echo, free_port, is_cut, request, server, service, tunnel, until,
};

#[test]
fn a_drain_lets_tunnels_finish() {
    let mut world = World::new(|node| node.servers(&[server(echo)]));
    let mut session = world.tunnel("a.test:1");
    assert_eq!(world.gateway.get("/readyz").0, 200);
    world.gateway.signal("TERM");
    until("not ready", || world.gateway.get("/readyz").0 == 503);
    until("nothing is accepted", || {
        TcpStream::connect(world.gateway.address).is_err()
    });
    session.write_all(b"still here").unwrap();
    let mut back = [0; 10];
    session.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"still here");
    session.conn.send_close_notify();
    session.flush().unwrap();
    assert_eq!(world.gateway.child.wait().unwrap().code(), Some(0));
    assert!(
        std::fs::read_to_string(world.pki.path("audit.log"))
            .unwrap()
            .contains("\"event.reason\":\"closed\"")
    );
}

#[test]
fn a_drain_has_an_end_and_a_second_signal_ends_at_once() {
    let pki = Pki::new();
    let device = pki.client("device", |_| ());
    let mut gateway = Gateway::builder(&pki)
        .engine("drain_timeout = '200ms'")
        .servers(&[server(echo)])
        .start();
    let _session = tunnel(&pki, &gateway, &device, "a.test:1");
    gateway.signal("INT");
    assert_eq!(gateway.child.wait().unwrap().code(), Some(0));
    assert!(
        std::fs::read_to_string(pki.path("audit.log"))
            .unwrap()
            .contains("\"event.reason\":\"drain-timeout\"")
    );
    let mut gateway = Gateway::builder(&pki).servers(&[server(echo)]).start();
    let _session = tunnel(&pki, &gateway, &device, "a.test:1");
    gateway.signal("TERM");
    until("draining", || gateway.get("/readyz").0 == 503);
    gateway.signal("TERM");
    assert_eq!(gateway.child.wait().unwrap().code(), Some(1));
}

#[test]
fn a_reload_drops_no_tunnel_and_a_bad_one_changes_nothing() {
    let backend = service(&[server(echo)]);
    let world = World::new(|node| node.rest(&backend));
    let mut session = world.tunnel("a.test:1");
    let refused = |host: &str| {
        let head = world.answer(host);
        head.starts_with("HTTP/1.1 403 ")
    };
    assert!(refused("a.example:1"));
    let rule = "[[profile.rule]]\nhost = '*.example'\nport = '*'\nservice = 'echo'";
    let wider = format!("{backend}\n{rule}");
    let node = Gateway::builder(&world.pki).admin(world.gateway.admin);
    node.rest(&wider).write();
    world.gateway.reload();
    until("the new rule", || {
        !refused("a.example:1") && !refused("a.test:1")
    });
    std::fs::write(world.pki.path("adit.toml"), "[profile]\nnmae = 'typo'").unwrap();
    world.gateway.signal("HUP");
    until("refused", || {
        world
            .gateway
            .metric("adit_config_reload_failures_total", "")
            == 1.0
    });
    assert!(!refused("a.example:1"));
    session.write_all(b"alive").unwrap();
    let mut back = [0; 5];
    session.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"alive");
}

#[test]
fn a_kill_and_a_restart_keep_the_self_signed_certificate() {
    let pki = Pki::new();
    let node = Gateway::builder(&pki).servers(&[server(echo)]);
    let node = node.certificate(None);
    let start = || node.start();
    let read = |name: &str| std::fs::read(pki.path(&format!("state/{name}"))).unwrap();
    let mut gateway = start();
    let first = read("server-self-signed.pem");
    let mode = std::fs::metadata(pki.path("state/server-self-signed.key"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    gateway.signal("KILL");
    gateway.child.wait().unwrap();
    let again = start();
    assert_eq!(again.get("/healthz").0, 200);
    assert!(read("server-self-signed.pem") == first);
}

#[test]
fn a_kill_with_open_tunnels_leaves_the_port_free() {
    let mut world = World::new(|node| node.servers(&[server(echo)]));
    let mut tunnels: Vec<_> = (0..8).map(|_| world.tunnel("a.test:1")).collect();
    world.gateway.signal("KILL");
    world.gateway.child.wait().unwrap();
    for session in &mut tunnels {
        // A cut, not an end: nobody was there to say close_notify.
        assert!(is_cut(session));
    }
    // On the very same address, while its connections are still in the kernel's tables.
    let text = std::fs::read_to_string(world.pki.path("adit.toml")).unwrap();
    let text = text.replace("127.0.0.1:0", &world.gateway.address.to_string());
    std::fs::write(world.pki.path("adit.toml"), text).unwrap();
    let again = Gateway::run(&world.pki, world.gateway.admin);
    assert_eq!(again.address, world.gateway.address);
    drop(tunnel(&world.pki, &again, &world.device, "a.test:1"));
}

#[test]
fn a_taken_port_is_named() {
    let pki = Pki::new();
    let gateway = Gateway::builder(&pki).servers(&[server(echo)]).start();
    let text = Gateway::builder(&pki)
        .servers(&[server(echo)])
        .replace("127.0.0.1:0", &gateway.address.to_string())
        .replace("state_dir = 'state'", "state_dir = 'other'")
        .text();
    std::fs::write(pki.path("second.toml"), text).unwrap();
    let output = pki.adit(["run", "--config", "second.toml"]);
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{words}");
    assert!(
        words.contains(&gateway.address.to_string()) && words.contains("in use"),
        "{words}"
    );
}

#[test]
fn a_wrong_config_is_refused_with_place_and_remedy() {
    let pki = Pki::new();
    let good = Gateway::builder(&pki).servers(&[free_port()]).text();
    let check = |text: &str| {
        std::fs::write(pki.path("adit.toml"), text).unwrap();
        let output = pki.adit(["check"]);
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    assert_eq!(check(&good).0, Some(0));
    for (from, to, words) in [
        ("external", "externall", "externall"),
        ("'ca.pem'", "'none.pem'", "none.pem"),
        ("'*.test'", "'10.0.0.0/99'", "10.0.0.0/99"),
        (
            "[[profile.rule]]",
            "[[profile.service]]\nname = 'echo'\nservers = ['a:1']\n[[profile.rule]]",
            "echo",
        ),
        ("service = 'echo'", "service = 'ehco'", "ehco"),
    ] {
        let (code, error) = check(&good.replace(from, to));
        assert_eq!(code, Some(2), "{error}");
        assert!(
            error.contains(words) && error.contains("adit.toml:") && error.contains("remedy"),
            "{error}"
        );
    }
    let now = time::OffsetDateTime::now_utc();
    let hour = std::time::Duration::from_secs(3600);
    let crl = common::crl_of(&pki.ca, &[], now - hour, now + hour);
    let foreign = common::crl_of(&common::authority("other"), &[], now, now + hour);
    for (bytes, words) in [
        (&foreign[..], "not a group certificate"),
        (&crl[..crl.len() - 9], "ca.crl"),
    ] {
        std::fs::write(pki.path("ca.crl"), bytes).unwrap();
        let (code, error) = check(&good);
        assert_eq!(code, Some(2), "{error}");
        assert!(error.contains(words) && error.contains("ca.crl"), "{error}");
    }
}

#[test]
fn an_expired_crl_refuses_every_certificate() {
    let pki = Pki::new();
    let now = time::OffsetDateTime::now_utc();
    let hour = std::time::Duration::from_secs(3600);
    std::fs::write(
        pki.path("ca.crl"),
        common::crl_of(&pki.ca, &[], now - 2 * hour, now - hour),
    )
    .unwrap();
    let world = World::of(pki, |node| node.servers(&[server(echo)]));
    assert!(ask(&mut world.connect(), &request("a.test:1")).is_err());
    until("counted", || {
        world.gateway.ended("revocation-unknown") == 1.0
    });
}

#[test]
fn every_bad_crl_is_told_with_its_file() {
    let pki = Pki::new();
    let now = time::OffsetDateTime::now_utc();
    let hour = std::time::Duration::from_secs(3600);
    let crl = common::crl_of(&pki.ca, &[], now - hour, now + hour);
    let foreign = common::crl_of(&common::authority("other"), &[], now, now + hour);
    // The last byte is the signature's.
    let mut forged = crl.clone();
    *forged.last_mut().unwrap() ^= 1;
    for (name, bytes) in [
        ("foreign.crl", &foreign[..]),
        ("forged.crl", &forged),
        ("short.crl", &crl[..crl.len() - 9]),
        ("empty.crl", b""),
    ] {
        std::fs::write(pki.path(name), bytes).unwrap();
    }
    let files = "['foreign.crl', 'ca.crl', 'forged.crl', 'short.crl', 'empty.crl']";
    Gateway::builder(&pki)
        .servers(&[free_port()])
        .replace("['ca.crl']", files)
        .write();
    for command in ["check", "run"] {
        let output = pki.adit([command]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{error}");
        for (name, words) in [
            ("foreign.crl", "not a group certificate"),
            ("forged.crl", "not signed by"),
            ("short.crl", ""),
            ("empty.crl", ""),
        ] {
            let line = error.lines().find(|line| line.contains(name));
            assert!(
                line.is_some_and(|line| line.contains(words)),
                "{name}: {error}"
            );
        }
        assert!(!error.contains("/ca.crl"), "a good list is blamed: {error}");
    }
}

#[test]
fn the_admin_listener_on_a_unix_socket() {
    let pki = Pki::new();
    let unused = free_port();
    Gateway::builder(&pki)
        .admin(unused)
        .servers(&[server(echo)])
        .replace(&format!("'{unused}'"), "'unix:./admin.sock'")
        .write();
    let mut world = World::around(pki, |pki| Gateway::run(pki, unused));
    let session = world.tunnel("a.test:1");
    let curl = |path: &str| {
        let output = Command::new("curl")
            .args(["-sS", "--fail", "--max-time", "10", "--unix-socket"])
            .arg(world.pki.path("admin.sock"))
            .arg(format!("http://localhost{path}"))
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{path}: {error}");
        String::from_utf8(output.stdout).unwrap()
    };
    curl("/readyz");
    assert!(curl("/metrics").contains("adit_tunnels_opened_total 1"));
    assert!(curl("/tunnels").contains("\"device\""));
    let mode = std::fs::metadata(world.pki.path("admin.sock")).unwrap();
    assert_eq!(mode.permissions().mode() & 0o777, 0o600);
    let listed = world.pki.adit(["tunnels"]);
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("device"), "{listed}");
    drop(session);
    world.gateway.signal("TERM");
    assert_eq!(world.gateway.child.wait().unwrap().code(), Some(0));
    assert!(!world.pki.path("admin.sock").exists());
}
