//! Start, reload, drain, death and restart.

use crate::common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use common::{
    Gateway, Pki, ask, config, connect, echo, free_port, request, server, service, tunnel, until,
};

fn adit(pki: &Pki, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_adit"))
        .args(arguments)
        .current_dir(pki.folder.path())
        .output()
        .unwrap()
}

#[test]
fn a_drain_lets_tunnels_finish() {
    let pki = Pki::new();
    let device = pki.client("device", |_| ());
    let mut gateway = Gateway::start(&pki, "", "unmanaged = 'allow'", &service(&[server(echo)]));
    let mut session = tunnel(&pki, &gateway, &device, "a.test:1");
    assert_eq!(gateway.get("/readyz").0, 200);
    gateway.signal("TERM");
    until("not ready", || gateway.get("/readyz").0 == 503);
    until("nothing is accepted", || {
        TcpStream::connect(gateway.address).is_err()
    });
    session.write_all(b"still here").unwrap();
    let mut back = [0; 10];
    session.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"still here");
    session.conn.send_close_notify();
    session.flush().unwrap();
    assert_eq!(gateway.child.wait().unwrap().code(), Some(0));
    assert!(
        std::fs::read_to_string(pki.path("audit.log"))
            .unwrap()
            .contains("\"reason\":\"closed\"")
    );
}

#[test]
fn a_drain_has_an_end_and_a_second_signal_ends_at_once() {
    let pki = Pki::new();
    let device = pki.client("device", |_| ());
    let mut gateway = Gateway::start(
        &pki,
        "drain_timeout = '200ms'",
        "unmanaged = 'allow'",
        &service(&[server(echo)]),
    );
    let _session = tunnel(&pki, &gateway, &device, "a.test:1");
    gateway.signal("INT");
    assert_eq!(gateway.child.wait().unwrap().code(), Some(0));
    assert!(
        std::fs::read_to_string(pki.path("audit.log"))
            .unwrap()
            .contains("\"reason\":\"drain-timeout\"")
    );
    let mut gateway = Gateway::start(&pki, "", "unmanaged = 'allow'", &service(&[server(echo)]));
    let _session = tunnel(&pki, &gateway, &device, "a.test:1");
    gateway.signal("TERM");
    until("draining", || gateway.get("/readyz").0 == 503);
    gateway.signal("TERM");
    assert_eq!(gateway.child.wait().unwrap().code(), Some(1));
}

#[test]
fn a_reload_drops_no_tunnel_and_a_bad_one_changes_nothing() {
    let pki = Pki::new();
    let device = pki.client("device", |_| ());
    let backend = service(&[server(echo)]);
    let gateway = Gateway::start(&pki, "", "unmanaged = 'allow'", &backend);
    let mut session = tunnel(&pki, &gateway, &device, "a.test:1");
    let refused = |host: &str| {
        let head = ask(&mut connect(&pki, &gateway, Some(&device)), &request(host)).unwrap();
        head.starts_with("HTTP/1.1 403 ")
    };
    assert!(refused("a.example:1"));
    let rule = "[[profile.rule]]\nhost = '*.example'\nport = '*'\nservice = 'echo'";
    let wider = format!("{backend}\n{rule}");
    std::fs::write(
        pki.path("adit.toml"),
        config(gateway.admin, "", "unmanaged = 'allow'", &wider),
    )
    .unwrap();
    gateway.reload();
    until("the new rule", || {
        !refused("a.example:1") && !refused("a.test:1")
    });
    std::fs::write(pki.path("adit.toml"), "[profile]\nnmae = 'typo'").unwrap();
    gateway.signal("HUP");
    until("refused", || {
        gateway.metric("adit_config_reload_failures_total", "") == 1.0
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
    let admin = free_port();
    let text = config(admin, "", "unmanaged = 'allow'", &service(&[server(echo)])).replace(
        "[profile.server_certificate]\nprimary = 'server.pem'\nkey = 'server.key'\n",
        "",
    );
    std::fs::write(pki.path("adit.toml"), text).unwrap();
    let start = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_adit"));
        command.args(["run", "--config"]).arg(pki.path("adit.toml"));
        Gateway::spawn(command, admin)
    };
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
    let pki = Pki::new();
    let device = pki.client("device", |_| ());
    let backend = service(&[server(echo)]);
    let mut gateway = Gateway::start(&pki, "", "unmanaged = 'allow'", &backend);
    let mut tunnels: Vec<_> = (0..8)
        .map(|_| tunnel(&pki, &gateway, &device, "a.test:1"))
        .collect();
    gateway.signal("KILL");
    gateway.child.wait().unwrap();
    for session in &mut tunnels {
        // A cut, not an end: nobody was there to say close_notify.
        assert!(session.read(&mut [0; 1]).is_err());
    }
    // On the very same address, while its connections are still in the kernel's tables.
    let text = std::fs::read_to_string(pki.path("adit.toml")).unwrap();
    let text = text.replace("127.0.0.1:0", &gateway.address.to_string());
    std::fs::write(pki.path("adit.toml"), text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_adit"));
    command.args(["run", "--config"]).arg(pki.path("adit.toml"));
    let again = Gateway::spawn(command, gateway.admin);
    assert_eq!(again.address, gateway.address);
    drop(tunnel(&pki, &again, &device, "a.test:1"));
}

#[test]
fn a_taken_port_is_named() {
    let pki = Pki::new();
    let gateway = Gateway::start(&pki, "", "unmanaged = 'allow'", &service(&[server(echo)]));
    let text = config(
        free_port(),
        "",
        "unmanaged = 'allow'",
        &service(&[server(echo)]),
    )
    .replace("127.0.0.1:0", &gateway.address.to_string())
    .replace("state_dir = 'state'", "state_dir = 'other'");
    std::fs::write(pki.path("second.toml"), text).unwrap();
    let output = adit(&pki, &["run", "--config", "second.toml"]);
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
    let good = config(
        free_port(),
        "",
        "unmanaged = 'allow'",
        &service(&[free_port()]),
    );
    let check = |text: &str| {
        std::fs::write(pki.path("adit.toml"), text).unwrap();
        let output = adit(&pki, &["check"]);
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
    let device = pki.client("device", |_| ());
    let now = time::OffsetDateTime::now_utc();
    let hour = std::time::Duration::from_secs(3600);
    std::fs::write(
        pki.path("ca.crl"),
        common::crl_of(&pki.ca, &[], now - 2 * hour, now - hour),
    )
    .unwrap();
    let gateway = Gateway::start(&pki, "", "unmanaged = 'allow'", &service(&[server(echo)]));
    assert!(
        ask(
            &mut connect(&pki, &gateway, Some(&device)),
            &request("a.test:1")
        )
        .is_err()
    );
    until("counted", || gateway.ended("revocation-unknown") == 1.0);
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
    let text = config(
        free_port(),
        "",
        "unmanaged = 'allow'",
        &service(&[free_port()]),
    )
    .replace("['ca.crl']", files);
    std::fs::write(pki.path("adit.toml"), text).unwrap();
    for command in ["check", "run"] {
        let output = adit(&pki, &[command]);
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
    let device = pki.client("device", |_| ());
    let unused = free_port();
    let text = config(unused, "", "unmanaged = 'allow'", &service(&[server(echo)]))
        .replace(&format!("'{unused}'"), "'unix:./admin.sock'");
    std::fs::write(pki.path("adit.toml"), text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_adit"));
    command.args(["run", "--config"]).arg(pki.path("adit.toml"));
    let mut gateway = Gateway::spawn(command, unused);
    let session = tunnel(&pki, &gateway, &device, "a.test:1");
    let curl = |path: &str| {
        let output = Command::new("curl")
            .args(["-sS", "--fail", "--max-time", "10", "--unix-socket"])
            .arg(pki.path("admin.sock"))
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
    let mode = std::fs::metadata(pki.path("admin.sock")).unwrap();
    assert_eq!(mode.permissions().mode() & 0o777, 0o600);
    let listed = adit(&pki, &["tunnels"]);
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("device"), "{listed}");
    drop(session);
    gateway.signal("TERM");
    assert_eq!(gateway.child.wait().unwrap().code(), Some(0));
    assert!(!pki.path("admin.sock").exists());
}
