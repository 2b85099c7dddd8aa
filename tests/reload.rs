//! What a reload changes, and what it leaves alone.

use crate::common;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use common::{
    Gateway, Pki, Session, TOKEN, World, ask, echo, echoes, free_port, is_cut, request, server,
    service, session, tunnel, until,
};

fn generation(gateway: &Gateway) -> f64 {
    gateway.metric("adit_config_generation", "")
}

fn failures(gateway: &Gateway) -> f64 {
    gateway.metric("adit_config_reload_failures_total", "")
}

/// Replaces a part of the config.
fn edit(pki: &Pki, from: &str, to: &str) {
    let text = std::fs::read_to_string(pki.path("adit.toml")).unwrap();
    assert!(text.contains(from), "{from} in {text}");
    std::fs::write(pki.path("adit.toml"), text.replace(from, to)).unwrap();
}

/// Replaces a part of the config, and waits until it is active.
fn reload(pki: &Pki, gateway: &Gateway, from: &str, to: &str) {
    let before = generation(gateway);
    edit(pki, from, to);
    gateway.signal("HUP");
    until("the new config", || generation(gateway) == before + 1.0);
}

fn is_refused(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_err()
}

/// Opens a tunnel through the listener of this address.
fn tunnel_at(pki: &Pki, address: SocketAddr, device: &adit::certs::Issued) -> Session {
    let socket = TcpStream::connect(address).unwrap();
    let mut session = session(pki, socket, device);
    let head = ask(&mut session, &request("a.test:1")).unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    session
}

#[test]
fn listeners_come_go_and_move() {
    let world = World::new(|node| node.servers(&[server(echo)]));
    let mut old = world.tunnel("a.test:1");
    let first = world.gateway.address;

    // The same port on every address: the sockets of both are there at once.
    let wide = format!("https = '0.0.0.0:{}'", first.port());
    reload(&world.pki, &world.gateway, "https = '127.0.0.1:0'", &wide);
    drop(tunnel_at(&world.pki, first, &world.device));
    let other = SocketAddr::from(([127, 0, 0, 2], first.port()));
    drop(tunnel_at(&world.pki, other, &world.device));

    let (second, plain) = (free_port(), free_port());
    let both = format!(
        "https = '{second}'\nprotocol = 'both'\nhttp = '{plain}'\ntrusted_proxies = ['127.0.0.1/32']\n\
         health_path = '/health'"
    );
    reload(&world.pki, &world.gateway, &wide, &both);
    drop(tunnel_at(&world.pki, second, &world.device));
    let mut health = TcpStream::connect(plain).unwrap();
    health
        .write_all(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    let mut answer = [0; 12];
    health.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    until("the first is closed", || {
        is_refused(first) && is_refused(other)
    });

    // Both change places, each with the sockets that it has.
    let text = std::fs::read_to_string(world.pki.path("adit.toml")).unwrap();
    let swapped = text
        .replace(&second.to_string(), "SECOND")
        .replace(&plain.to_string(), &second.to_string())
        .replace("SECOND", &plain.to_string());
    reload(&world.pki, &world.gateway, &text, &swapped);
    until("TLS at the other address", || {
        let socket = TcpStream::connect(plain).unwrap();
        ask(&mut world.session(socket), &request("a.test:1")).is_ok()
    });

    // What was opened through a listener that is gone lives on.
    echoes(&mut old, b"still here");
    assert_eq!(failures(&world.gateway), 0.0);
}

#[test]
fn an_address_that_is_taken_refuses_the_whole_reload() {
    let world = World::new(|node| node.servers(&[server(echo)]));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let free = free_port();
    let listener = format!(
        "https = '{free}'\nprotocol = 'both'\nhttp = '{}'\ntrusted_proxies = ['127.0.0.1/32']",
        taken.local_addr().unwrap()
    );
    edit(&world.pki, "https = '127.0.0.1:0'", &listener);
    edit(&world.pki, "'*.test'", "'*.other'");
    world.gateway.signal("HUP");
    until("refused", || failures(&world.gateway) == 1.0);
    assert_eq!(generation(&world.gateway), 1.0);
    assert!(is_refused(free), "the first address is open all the same");
    drop(world.tunnel("a.test:1"));
    drop(taken);
    world.gateway.signal("HUP");
    until("taken over", || generation(&world.gateway) == 2.0);
    until("the old one is closed", || {
        is_refused(world.gateway.address)
    });
}

#[test]
fn a_connection_that_the_system_has_completed_is_served_though_its_listener_goes() {
    let pki = Arc::new(Pki::new());
    let device = Arc::new(pki.client("device", |_| ()));
    let gateway = Gateway::builder(&pki).servers(&[server(echo)]).start();
    let mut here = "https = '127.0.0.1:0'".to_owned();
    for _ in 0..5 {
        let address = free_port();
        let next = format!("https = '{address}'");
        reload(&pki, &gateway, &here, &next);
        here = next;
        let opened = Arc::new(AtomicUsize::new(0));
        let done = Arc::new(AtomicBool::new(false));
        let clients: Vec<_> = (0..6)
            .map(|_| {
                let (pki, device) = (pki.clone(), device.clone());
                let (opened, done) = (opened.clone(), done.clone());
                std::thread::spawn(move || {
                    loop {
                        match TcpStream::connect(address) {
                            Ok(socket) => {
                                let mut session = session(&pki, socket, &device);
                                let head = ask(&mut session, &request("a.test:1")).unwrap();
                                assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
                                echoes(&mut session, b"hello");
                                opened.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                                assert!(done.load(Ordering::Relaxed), "refused while it is there");
                                return;
                            }
                            Err(error) => panic!("{error}"),
                        }
                    }
                })
            })
            .collect();
        until("tunnels", || opened.load(Ordering::Relaxed) >= 20);
        done.store(true, Ordering::Relaxed);
        let gone = "https = '127.0.0.1:0'".to_owned();
        reload(&pki, &gateway, &here, &gone);
        here = gone;
        for client in clients {
            client.join().expect("each one that connected is served");
        }
    }
}

/// A health check that waited in the queue of a listener that goes was refused: the new config has no such page.
#[test]
fn who_waits_in_the_queue_of_a_listener_that_goes_is_served_as_it_was() {
    const CROWD: usize = 20;
    let pki = Pki::new();
    let plain = free_port();
    let https = "https = '127.0.0.1:0'\ntrusted_proxies = ['127.0.0.1/32']";
    let both = format!("protocol = 'both'\n{https}\nhttp = '{plain}'\nhealth_path = '/health'");
    let engine = format!("cores = 1\nmax_unauthenticated = {CROWD}");
    let gateway = Gateway::builder(&pki)
        .engine(&engine)
        .listener(&both)
        .servers(&[server(echo)])
        .start();
    // Nothing is accepted from either listener while these have just come.
    let silent = |address| TcpStream::connect(address).unwrap();
    let mut crowd: Vec<_> = [gateway.address; CROWD].map(silent).into();
    until("a full share", || {
        gateway.metric("adit_unauthenticated", "") == CROWD as f64
    });
    // The one that the plain listener was waiting for.
    crowd.push(silent(plain));
    let mut waits = TcpStream::connect(plain).unwrap();
    let head = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n";
    waits.write_all(head).unwrap();
    edit(&pki, &both, https);
    gateway.signal("HUP");
    until("the listener goes", || is_refused(plain));
    let answer = String::from_utf8(common::read_all(&waits)).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    drop(crowd);
    assert_eq!(gateway.ended("not-connect"), 0.0);
}

/// The connections to `address` for which a client had to send something twice, as `ss` lists them.
fn repeated(address: SocketAddr) -> Vec<String> {
    let output = Command::new("ss")
        .args(["-HtinO", "state", "established", "dst"])
        .arg(address.to_string())
        .output()
        .expect("tests/run installs iproute2");
    let listed = String::from_utf8(output.stdout).unwrap();
    assert!(listed.contains("cwnd:"), "{listed}");
    let lines = listed.lines().map(str::to_owned);
    lines.filter(|line| line.contains("retrans:")).collect()
}

#[test]
fn a_listener_that_is_opened_again_while_it_closes_keeps_nobody_waiting() {
    let world = World::new(|node| node.servers(&[server(echo)]));
    let address = free_port();
    let (gone, here) = (
        "https = '127.0.0.1:0'".to_owned(),
        format!("https = '{address}'"),
    );
    reload(&world.pki, &world.gateway, &gone, &here);
    for _ in 0..10 {
        let early = TcpStream::connect(address).unwrap();
        reload(&world.pki, &world.gateway, &here, &gone);
        reload(&world.pki, &world.gateway, &gone, &here);
        let late: Vec<_> = (0..16)
            .map(|_| TcpStream::connect(address).unwrap())
            .collect();
        assert_eq!(repeated(address), [""; 0], "a first segment was dropped");
        for socket in late.into_iter().chain([early]) {
            let mut session = world.session(socket);
            let head = ask(&mut session, &request("a.test:1")).unwrap();
            assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        }
    }
    assert_eq!(failures(&world.gateway), 0.0);
}

/// A gateway with a token for changes, and these keys of the engine.
fn with_token(pki: &Pki, engine: &str) -> Gateway {
    let rest = service(&[server(echo)]);
    Gateway::builder(pki)
        .token()
        .engine(engine)
        .rest(&rest)
        .start()
}

/// `adit reload`: exit code, standard output and standard error.
fn adit_reload(pki: &Pki) -> (Option<i32>, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(env!("CARGO_BIN_EXE_adit"))
        .arg("reload")
        .current_dir(pki.folder.path())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

fn post(gateway: &Gateway, token: &str) -> (u16, serde_json::Value) {
    let mut stream = TcpStream::connect(gateway.admin).unwrap();
    write!(
        stream,
        "POST /reload HTTP/1.0\r\nHost: {}\r\nAuthorization: Bearer {token}\r\n\r\n",
        gateway.admin
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap())
}

fn ready(gateway: &Gateway) -> serde_json::Value {
    let (status, body) = gateway.get("/readyz");
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

#[test]
fn everything_that_is_wrong_is_told_at_once_and_stays_told() {
    let world = World::around(Pki::new(), |pki| with_token(pki, "watch_files = false"));
    let mut session = world.tunnel("a.test:1");
    assert_eq!(post(&world.gateway, "wrong").0, 401);
    assert_eq!(world.gateway.get("/reload").0, 405);
    let (status, answer) = post(&world.gateway, TOKEN);
    assert_eq!((status, &answer["generation"]), (200, &2.into()));
    assert_eq!(ready(&world.gateway)["refused"], serde_json::Value::Null);

    // Three files and two keys that only a restart can change.
    let key = std::fs::read(world.pki.path("server.key")).unwrap();
    let ca = std::fs::read(world.pki.path("ca.pem")).unwrap();
    std::fs::write(world.pki.path("server.key"), "no key").unwrap();
    std::fs::write(world.pki.path("ca.pem"), "no certificate").unwrap();
    std::fs::write(world.pki.path("devices.csv"), "one\nd,managed\nd2,lost\n").unwrap();
    edit(
        &world.pki,
        "unmanaged = 'allow'",
        "unmanaged = 'allow'\ndevice_registry = 'devices.csv'",
    );
    edit(&world.pki, "format = 'text'", "format = 'json'");
    edit(
        &world.pki,
        "watch_files = false",
        "watch_files = false\ncores = [0]",
    );
    let (status, answer) = post(&world.gateway, TOKEN);
    assert_eq!(status, 422, "{answer}");
    let text = answer["problems"].to_string();
    for words in [
        "server.key",
        "ca.pem",
        "devices.csv\",\"line\":1,",
        "devices.csv\",\"line\":3,",
        "\"log\"",
        "engine.cores",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let refused = ready(&world.gateway)["refused"].clone();
    assert_eq!(refused["problems"], answer["problems"]);
    assert!(refused["at"].as_str().unwrap().ends_with('Z'), "{refused}");
    assert_eq!(world.gateway.metric("adit_config_refused", ""), 1.0);
    assert_eq!(failures(&world.gateway), 1.0);
    let (code, _, error) = adit_reload(&world.pki);
    assert_eq!(code, Some(2), "{error}");
    for words in [
        "server.key",
        "ca.pem",
        "devices.csv:3",
        "engine.cores",
        "remedy",
    ] {
        assert!(error.contains(words), "{words}: {error}");
    }
    assert_eq!(
        (generation(&world.gateway), failures(&world.gateway)),
        (2.0, 2.0)
    );
    echoes(&mut session, b"still here");

    // A config that is wrong itself is told with its lines.
    let good = std::fs::read_to_string(world.pki.path("adit.toml")).unwrap();
    edit(&world.pki, "external", "externall");
    let (status, answer) = post(&world.gateway, TOKEN);
    assert_eq!(status, 422, "{answer}");
    assert!(answer["problems"][0]["line"].is_u64(), "{answer}");
    assert!(answer["problems"][0]["remedy"].is_string(), "{answer}");

    let good = good.replace("format = 'json'", "format = 'text'");
    std::fs::write(
        world.pki.path("adit.toml"),
        good.replace("\ncores = [0]", ""),
    )
    .unwrap();
    std::fs::write(world.pki.path("server.key"), key).unwrap();
    std::fs::write(world.pki.path("ca.pem"), ca).unwrap();
    std::fs::write(world.pki.path("devices.csv"), "d,managed\n").unwrap();
    let (code, said, error) = adit_reload(&world.pki);
    assert_eq!(code, Some(0), "{error}");
    assert!(said.contains("generation 3"), "{said}");
    assert_eq!(ready(&world.gateway)["refused"], serde_json::Value::Null);
    assert_eq!(world.gateway.metric("adit_config_refused", ""), 0.0);
}

#[test]
fn slow_files_that_change_take_effect_by_themselves() {
    let world = World::around(Pki::new(), |pki| with_token(pki, ""));
    let mut old = world.tunnel("a.test:1");
    let asks = |host: &str| {
        let socket = TcpStream::connect(world.gateway.address).unwrap();
        let mut session = world.session(socket);
        ask(&mut session, &request(host)).unwrap_or_default()
    };
    edit(&world.pki, "'*.test'", "['*.test', '*.other']");
    // The config has one host a rule: it is refused, and said once.
    until("refused", || failures(&world.gateway) == 1.0);
    assert!(!ready(&world.gateway)["refused"].is_null());
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(
        (failures(&world.gateway), generation(&world.gateway)),
        (1.0, 1.0)
    );
    edit(&world.pki, "['*.test', '*.other']", "'*'");
    until("put right", || generation(&world.gateway) == 2.0);
    until("active", || asks("a.other:1").starts_with("HTTP/1.1 200 "));
    assert!(ready(&world.gateway)["refused"].is_null());

    // A file that the config names, and that is not there when it is first read.
    edit(&world.pki, "'ca.pem'", "'new/ca.pem'");
    until("refused", || failures(&world.gateway) == 2.0);
    std::fs::create_dir(world.pki.path("one")).unwrap();
    std::fs::copy(world.pki.path("ca.pem"), world.pki.path("one/ca.pem")).unwrap();
    symlink("one", world.pki.path("new")).unwrap();
    until("it is there", || generation(&world.gateway) == 3.0);
    drop(world.tunnel("a.test:1"));

    // The folder is another one: devices of the old authority are not let in any more, and their tunnels end.
    std::fs::create_dir(world.pki.path("two")).unwrap();
    let other = common::authority("other");
    other.write(&world.pki.path("two")).unwrap();
    let now = time::OffsetDateTime::now_utc();
    let hour = std::time::Duration::from_secs(3600);
    let crl = common::crl_of(&other, &[], now - hour, now + hour);
    std::fs::write(world.pki.path("two/ca.crl"), crl).unwrap();
    edit(
        &world.pki,
        "files = ['ca.crl']",
        "files = ['ca.crl', 'two/ca.crl']",
    );
    edit(&world.pki, "['new/ca.pem']", "['new/ca.pem', 'two/ca.pem']");
    until("both authorities", || generation(&world.gateway) == 4.0);
    echoes(&mut old, b"still here");
    let stranger = common::client_of(&other, "stranger", |_| ());
    drop(tunnel(&world.pki, &world.gateway, &stranger, "a.test:1"));
    symlink("two", world.pki.path("next")).unwrap();
    edit(
        &world.pki,
        "files = ['ca.crl', 'two/ca.crl']",
        "files = ['two/ca.crl']",
    );
    std::fs::rename(world.pki.path("next"), world.pki.path("new")).unwrap();
    until("the other one alone", || generation(&world.gateway) == 5.0);
    assert!(is_cut(&mut old), "cut");
    drop(tunnel(&world.pki, &world.gateway, &stranger, "a.test:1"));

    // Switched off, it is read on demand alone.
    edit(&world.pki, "[admin]", "watch_files = false\n[admin]");
    until("switched off", || generation(&world.gateway) == 6.0);
    edit(&world.pki, "watch_files = false", "");
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(generation(&world.gateway), 6.0);
    world.gateway.signal("HUP");
    until("on demand", || generation(&world.gateway) == 7.0);
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(
        (generation(&world.gateway), failures(&world.gateway)),
        (7.0, 2.0)
    );
}
