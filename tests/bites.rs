//! A change bites now: open tunnels that no longer qualify are closed, and no other loses a byte.

use crate::common;

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use adit::certs::{Issued, Validity};
use adit::lab::CertificateAuthority;
use common::gateway::Builder;
use common::{
    Gateway, PATIENCE, Pki, Session, World, ask, authority, client_of, connect, crl_of, echo,
    request, server, service, tunnel, until,
};

const ALLOW: &str = "unmanaged = 'allow'";

/// A gateway whose admin listener takes changes with a token.
fn gateway(pki: &Pki, auth: &str, rest: &str) -> Gateway {
    config(pki, auth, rest).start()
}

fn config<'p>(pki: &'p Pki, auth: &str, rest: &str) -> Builder<'p> {
    let engine = "max_tunnels_per_device = 100000\nidle_timeout = '10m'";
    let node = Gateway::builder(pki).token().engine(engine);
    node.auth(auth).rest(rest)
}

fn adit(pki: &Pki, arguments: &[&str]) -> (bool, String) {
    let output = pki.adit(arguments);
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

/// Whether a byte comes back.
fn echoes(session: &mut Session) -> bool {
    let mut back = [0; 5];
    session.write_all(b"alive").is_ok()
        && session.read_exact(&mut back).is_ok()
        && &back == b"alive"
}

/// Reads until the session ends, which must be by an alert and not by close_notify.
fn cut(session: &mut Session) -> String {
    let mut rest = Vec::new();
    match session.read_to_end(&mut rest) {
        Ok(_) => panic!("ended in order"),
        Err(error) => error.to_string(),
    }
}

/// Two tunnels, of which one no longer qualifies after `change`.
fn bites(
    reason: &str,
    alert: &str,
    auth: &str,
    change: impl FnOnce(&Pki, &Gateway, &Issued),
) -> String {
    let pki = Pki::new();
    std::fs::write(pki.path("devices.csv"), "lost,managed,ann\nkept,managed\n").unwrap();
    let lost = pki.client("lost", |_| ());
    let kept = pki.client("kept", |_| ());
    let gateway = gateway(&pki, auth, &service(&[server(echo)]));
    let mut one = tunnel(&pki, &gateway, &lost, "a.test:1");
    let mut other = tunnel(&pki, &gateway, &kept, "b.test:1");
    assert!(echoes(&mut one) && echoes(&mut other));
    change(&pki, &gateway, &lost);
    let said = cut(&mut one);
    assert!(said.contains(alert), "{said}");
    assert!(echoes(&mut other), "a tunnel that qualifies was closed");
    until("counted", || gateway.ended(reason) == 1.0);
    assert_eq!(gateway.metric("adit_tunnels_live", ""), 1.0);
    let log = || std::fs::read_to_string(pki.path("audit.log")).unwrap();
    until("recorded", || log().contains(reason));
    let audit = log();
    let line = audit.lines().find(|line| line.contains(reason)).unwrap();
    assert!(
        line.contains("\"tunnel-end\"") && line.contains("\"lost\""),
        "{line}"
    );
    audit
}

const REGISTRY: &str = "device_registry = 'devices.csv'";

#[test]
fn a_blocked_device() {
    bites(
        "cut-device-blocked",
        "AccessDenied",
        REGISTRY,
        |pki, _, _| {
            let (done, said) = adit(pki, &["devices", "put", "lost", "--state", "blocked"]);
            assert!(done, "{said}");
        },
    );
}

#[test]
fn a_device_that_is_taken_out() {
    bites(
        "cut-device-unmanaged",
        "AccessDenied",
        REGISTRY,
        |pki, _, _| {
            let (done, said) = adit(pki, &["devices", "delete", "lost"]);
            assert!(done, "{said}");
        },
    );
}

#[test]
fn a_registry_file_that_changes() {
    bites(
        "cut-device-unmanaged",
        "AccessDenied",
        REGISTRY,
        |pki, gateway, _| {
            std::fs::write(pki.path("devices.csv"), "kept,managed\n").unwrap();
            gateway.reload();
        },
    );
}

#[test]
fn a_revoked_certificate() {
    bites(
        "cut-certificate-revoked",
        "CertificateRevoked",
        "unmanaged = 'allow'",
        |pki, gateway, lost| {
            pki.write_crl(&[lost]);
            gateway.reload();
        },
    );
}

#[test]
fn an_unmanaged_device_that_may_no_more() {
    bites(
        "cut-device-unmanaged",
        "AccessDenied",
        "unmanaged = 'allow'",
        |pki, gateway, _| {
            std::fs::write(pki.path("devices.csv"), "kept,managed\n").unwrap();
            let text = std::fs::read_to_string(pki.path("adit.toml")).unwrap();
            let text = text.replace(ALLOW, REGISTRY);
            std::fs::write(pki.path("adit.toml"), text).unwrap();
            gateway.reload();
        },
    );
}

#[test]
fn a_tunnel_that_the_operator_closes() {
    bites("cut-by-admin", "AccessDenied", REGISTRY, |pki, _, _| {
        let (done, said) = adit(pki, &["tunnels", "--device", "lost"]);
        assert!(
            done && said.contains("\"lost\"") && !said.contains("\"kept\""),
            "{said}"
        );
        let (done, said) = adit(pki, &["tunnels", "--close"]);
        assert!(!done && said.contains("--device"), "{said}");
        // The user is the registry's.
        let (done, said) = adit(pki, &["tunnels", "--user", "ann", "--close"]);
        assert!(done && said.contains("\"closed\":1"), "{said}");
    });
}

#[test]
fn tunnels_are_closed_by_each_of_their_names() {
    let pki = Pki::new();
    let device = pki.client("device", |request| {
        request.upn = vec!["ann@corp.test".into()];
    });
    let gateway = gateway(&pki, ALLOW, &service(&[server(echo)]));
    let mut other = {
        let other = pki.client("other", |request| request.app = Some("chat".into()));
        tunnel(&pki, &gateway, &other, "a.test:1")
    };
    let names = ["id", "user", "app", "serial"];
    for name in names {
        let mut session = tunnel(&pki, &gateway, &device, "a.test:1");
        // A tunnel is listed when its bytes begin to move, not yet when its client reads the 200.
        assert!(echoes(&mut session));
        let (_, listed) = gateway.get("/tunnels?device=device");
        let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
        let value = &listed[0][name];
        let value = value.as_str().map_or(value.to_string(), str::to_owned);
        let (done, said) = adit(&pki, &["tunnels", &format!("--{name}"), &value, "--close"]);
        assert!(
            done && said.contains("\"closed\":1"),
            "{name} {value}: {said}"
        );
        cut(&mut session);
        until("gone", || gateway.metric("adit_tunnels_live", "") == 1.0);
    }
    assert!(echoes(&mut other));
    assert_eq!(gateway.ended("cut-by-admin"), names.len() as f64);
}

#[test]
fn a_rule_that_is_taken_away_and_one_that_leads_elsewhere() {
    let backend = server(echo);
    let other = service(&[backend])
        .replace("'echo'", "'other'")
        .replace("*.test", "b.test");
    let rest = format!(
        "{}\n{other}\n{}",
        service(&[backend]).replace("*.test", "a.test"),
        "[[profile.rule]]\nhost = 'c.test'\nport = '*'\nservice = 'echo'"
    );
    let world = World::around(Pki::new(), |pki| gateway(pki, ALLOW, &rest));
    let open = |host: &str| world.tunnel(host);
    let (mut a, mut b, mut c) = (open("a.test:1"), open("b.test:1"), open("c.test:1"));
    let changed = rest.replace("'a.test'", "'z.test'").replace(
        "'c.test'\nport = '*'\nservice = 'echo'",
        "'c.test'\nport = '*'\nservice = 'other'",
    );
    config(&world.pki, ALLOW, &changed)
        .admin(world.gateway.admin)
        .write();
    world.gateway.reload();
    assert!(cut(&mut a).contains("AccessDenied"));
    assert!(cut(&mut c).contains("AccessDenied"));
    assert!(echoes(&mut b));
    until("counted", || {
        world.gateway.ended("cut-no-rule") == 1.0 && world.gateway.ended("cut-rerouted") == 1.0
    });
}

/// A second group of devices, whose CA is in a file of its own.
fn second_group(pki: &Pki) -> (CertificateAuthority, Issued) {
    let ca = authority("second");
    std::fs::create_dir(pki.path("second")).unwrap();
    ca.write(&pki.path("second")).unwrap();
    let now = time::OffsetDateTime::now_utc();
    let crl = crl_of(&ca, &[], now, now + Duration::from_secs(3600));
    std::fs::write(pki.path("second.crl"), crl).unwrap();
    let device = client_of(&ca, "lost", |_| ());
    (ca, device)
}

#[test]
fn a_group_certificate_that_is_taken_away() {
    let pki = Pki::new();
    let (_ca, lost) = second_group(&pki);
    let kept = pki.client("kept", |_| ());
    let rest = service(&[server(echo)]);
    let gateway = config(&pki, ALLOW, &rest)
        .replace("['ca.pem']", "['ca.pem', 'second/ca.pem']")
        .replace("['ca.crl']", "['ca.crl', 'second.crl']")
        .start();
    let mut one = tunnel(&pki, &gateway, &lost, "a.test:1");
    let mut other = tunnel(&pki, &gateway, &kept, "a.test:1");
    config(&pki, ALLOW, &rest).admin(gateway.admin).write();
    gateway.reload();
    let said = cut(&mut one);
    assert!(said.contains("UnknownCA"), "{said}");
    assert!(echoes(&mut other));
    until("counted", || {
        gateway.ended("cut-certificate-untrusted") == 1.0
    });
}

#[test]
fn a_certificate_that_expires() {
    let pki = Pki::new();
    let lasting = pki.client("lasting", |_| ());
    let now = time::OffsetDateTime::now_utc();
    let short = pki.client("short", |request| {
        request.validity =
            Validity::between(now - Duration::from_secs(60), now + Duration::from_secs(4)).unwrap();
    });
    let gateway = gateway(&pki, ALLOW, &service(&[server(echo)]));
    let mut other = tunnel(&pki, &gateway, &lasting, "a.test:1");
    let mut one = tunnel(&pki, &gateway, &short, "a.test:1");
    assert!(echoes(&mut one));
    let said = cut(&mut one);
    assert!(said.contains("CertificateExpired"), "{said}");
    assert!(
        time::OffsetDateTime::now_utc() >= now + Duration::from_secs(3),
        "too early"
    );
    assert!(echoes(&mut other));
    until("counted", || {
        gateway.ended("cut-certificate-expired") == 1.0
    });
}

/// A session that is up when something changes, and asks for its tunnel after it.
fn half_asked(pki: &Pki, gateway: &Gateway, device: &Issued) -> Session {
    let mut session = connect(pki, gateway, Some(device));
    session.write_all(&request("a.test:1")[..10]).unwrap();
    session.flush().unwrap();
    until("handshake", || {
        gateway.metric("adit_handshakes_total", "") == 1.0
    });
    session
}

#[test]
fn a_device_that_is_blocked_while_it_asks() {
    let pki = Pki::new();
    std::fs::write(pki.path("devices.csv"), "lost,managed\n").unwrap();
    let lost = pki.client("lost", |_| ());
    let gateway = gateway(&pki, REGISTRY, &service(&[server(echo)]));
    let mut session = half_asked(&pki, &gateway, &lost);
    let (done, said) = adit(&pki, &["devices", "put", "lost", "--state", "blocked"]);
    assert!(done, "{said}");
    let head = ask(&mut session, &request("a.test:1")[10..]).unwrap();
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    assert!(head.contains("device is blocked"), "{head}");
}

/// Its certificate was checked before the change, and its tunnel is not open when the change is swept for.
#[test]
fn a_certificate_that_is_revoked_while_its_device_asks() {
    let pki = Pki::new();
    let lost = pki.client("lost", |_| ());
    let gateway = gateway(&pki, ALLOW, &service(&[server(echo)]));
    let mut session = half_asked(&pki, &gateway, &lost);
    pki.write_crl(&[&lost]);
    gateway.reload();
    until("swept", || gateway.metric("adit_sweeps_total", "") > 0.0);
    // The answer and the alert may come together; rustls then tells of the alert only.
    let said = match ask(&mut session, &request("a.test:1")[10..]) {
        Ok(head) => {
            assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
            cut(&mut session)
        }
        Err(error) => error.to_string(),
    };
    assert!(said.contains("CertificateRevoked"), "{said}");
    until("counted", || {
        gateway.ended("cut-certificate-revoked") == 1.0
    });
}

/// Many tunnels, of which one in a hundred is lost: those end, and the others lose no byte.
fn many(
    count: usize,
    change: impl FnOnce(&Pki, &Gateway, &[&Issued]),
) -> (Duration, [Duration; 2]) {
    let pki = Pki::new();
    let devices: Vec<Issued> = (0..50)
        .map(|number| pki.client(&format!("device-{number}"), |_| ()))
        .collect();
    let lost: Vec<Issued> = (0..count.div_ceil(100))
        .map(|number| pki.client(&format!("lost-{number}"), |_| ()))
        .collect();
    let gateway = gateway(&pki, ALLOW, &service(&[server(echo)]));
    let mut cut_ones: Vec<Session> = lost
        .iter()
        .map(|device| tunnel(&pki, &gateway, device, "a.test:1"))
        .collect();
    let mut others: Vec<Session> = (0..count - lost.len())
        .map(|number| tunnel(&pki, &gateway, &devices[number % devices.len()], "a.test:1"))
        .collect();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Bytes move in every tunnel that stays, before, during and after.
        let moving = scope.spawn(|| {
            let (mut waits, mut round) = (Vec::new(), 0_u64);
            let start = Instant::now();
            while !stop.load(Ordering::Relaxed) || round < 2 {
                for session in &mut others {
                    let sent = Instant::now();
                    let message = round.to_be_bytes();
                    session.write_all(&message).unwrap();
                    let mut back = [0; 8];
                    session.read_exact(&mut back).unwrap();
                    assert_eq!(back, message, "bytes were lost");
                    waits.push((sent.duration_since(start), sent.elapsed()));
                }
                round += 1;
            }
            (start, waits)
        });
        std::thread::sleep(Duration::from_secs(2));
        let changed = Instant::now();
        change(&pki, &gateway, &lost.iter().collect::<Vec<_>>());
        for session in &mut cut_ones {
            cut(session);
        }
        let took = changed.elapsed();
        std::thread::sleep(Duration::from_secs(1).saturating_sub(took));
        stop.store(true, Ordering::Relaxed);
        let (start, waits) = moving.join().unwrap();
        let at = changed.duration_since(start);
        // The second before the change, and the one that begins with it.
        let p99 = |from: Duration| {
            let within = from..from + Duration::from_secs(1);
            let mut chosen: Vec<Duration> = waits
                .iter()
                .filter(|(sent, _)| within.contains(sent))
                .map(|(_, wait)| *wait)
                .collect();
            chosen.sort_unstable();
            let at = chosen.len() * 99 / 100;
            chosen.get(at).copied().unwrap_or_default()
        };
        let p99 = [p99(at.saturating_sub(Duration::from_secs(1))), p99(at)];
        // A client that has read its alert may linger for a moment.
        until("gone", || {
            gateway.metric("adit_tunnels_live", "") as usize == count - lost.len()
        });
        (took, p99)
    })
}

fn block(pki: &Pki, lost: &[&Issued]) {
    let lines: String = (0..lost.len())
        .map(|number| format!("lost-{number},blocked\n"))
        .collect();
    std::fs::write(pki.path("blocked.csv"), lines).unwrap();
    let (done, said) = adit(pki, &["devices", "import", "blocked.csv"]);
    assert!(done, "{said}");
}

#[test]
fn one_in_a_hundred_ends_and_the_others_lose_no_byte() {
    let (took, _) = many(400, |pki, _, lost| block(pki, lost));
    assert!(took < PATIENCE, "{took:?}");
    let (took, _) = many(400, |pki, gateway, lost| {
        pki.write_crl(lost);
        gateway.reload();
    });
    assert!(took < PATIENCE, "{took:?}");
}

/// The figures of docs/decisions/0017-sweep.md:
/// `cargo test --release --test bites -- --ignored --nocapture slow_`.
#[test]
#[ignore = "takes a minute; prints figures"]
fn slow_fifty_of_five_thousand() {
    for _ in 0..3 {
        // What the change itself costs, on a machine that the client shares with the gateway.
        let ([before, during], took) = unrelated(5000);
        println!("other devices blocked: {took:?}; p99 {before:?} before, {during:?} during");
    }
    for _ in 0..3 {
        fifty_of_five_thousand();
    }
}

fn unrelated(count: usize) -> ([Duration; 2], Duration) {
    let mut took = Duration::ZERO;
    let (_, p99) = many(count, |pki, _, lost| {
        let start = Instant::now();
        let lines: String = (0..lost.len())
            .map(|number| format!("absent-{number},blocked\n"))
            .collect();
        std::fs::write(pki.path("absent.csv"), lines).unwrap();
        let (done, said) = adit(pki, &["devices", "import", "absent.csv"]);
        assert!(done, "{said}");
        took = start.elapsed();
        std::thread::sleep(Duration::from_millis(1100));
        block(pki, lost);
    });
    (p99, took)
}

fn fifty_of_five_thousand() {
    let (took, [before, during]) = many(5000, |pki, _, lost| block(pki, lost));
    println!("blocked: 50 of 5000 ended within {took:?}; p99 {before:?} before, {during:?} during");
    assert!(took < PATIENCE, "{took:?}");
    let (took, [before, during]) = many(5000, |pki, gateway, lost| {
        pki.write_crl(lost);
        gateway.reload();
    });
    println!("revoked: 50 of 5000 ended within {took:?}; p99 {before:?} before, {during:?} during");
    assert!(took < PATIENCE, "{took:?}");
}
