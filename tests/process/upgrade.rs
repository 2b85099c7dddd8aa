//! A process in another one's place: SIGUSR2, and what the old one still learns.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::common::http2;
use crate::common::{
    Gateway, Pki, Session, TOKEN, World, echo, echoes, free_port, is_cut, server, tunnel, until,
};

/// A gateway with a token for changes, whose listener has a port that the config names.
pub fn upgradable(pki: &Pki, engine: &str) -> Gateway {
    upgradable_with(pki, engine, "unmanaged = 'allow'")
}

pub fn upgradable_with(pki: &Pki, engine: &str, auth: &str) -> Gateway {
    // As in production: the old process could not open this port beside the new one.
    let fixed = format!("https = '{}'", free_port());
    Gateway::builder(pki)
        .token()
        .engine(engine)
        .auth(auth)
        .servers(&[server(echo)])
        .listener(&fixed)
        .start()
}

/// The process that a gateway has started in its place; killed when it is dropped.
pub struct Successor(pub u32);

impl Successor {
    /// Upgrades, and waits until the old process has gone from the admin listener.
    pub fn of(gateway: &Gateway) -> Self {
        gateway.signal("USR2");
        let mut found = None;
        until("a new process", || {
            found = child_of(gateway.child.id());
            found.is_some()
        });
        let successor = Self(found.unwrap());
        let pid = format!("\"pid\":{},", successor.0);
        until_within(60, "the new process answers", || {
            gateway.get("/readyz").1.contains(&pid)
        });
        successor
    }

    pub fn has_ended(&self) -> bool {
        parent_of(&self.0.to_string()).is_none()
    }

    pub fn signal(&self, name: &str) {
        signal(self.0, name);
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        self.signal("KILL");
    }
}

pub fn signal(pid: u32, name: &str) {
    let pid = pid.to_string();
    let _ = Command::new("kill").args(["-s", name, &pid]).status();
}

/// As `until`, with so many seconds.
pub fn until_within(seconds: u64, what: &str, mut done: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(seconds), "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The parent of a process that runs.
fn parent_of(pid: &str) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let runs = fields.next()? != "Z";
    let parent = fields.next()?.parse().ok()?;
    runs.then_some(parent)
}

pub fn child_of(pid: u32) -> Option<u32> {
    let mut all = std::fs::read_dir("/proc").unwrap().flatten();
    all.find_map(|entry| {
        let child = entry.file_name().into_string().ok()?;
        (parent_of(&child) == Some(pid)).then(|| child.parse().unwrap())
    })
}

/// Sets a device's state through the admin listener. Status of the answer.
pub fn put(admin: SocketAddr, device: &str, state: &str) -> u16 {
    let body = format!("{{\"state\":\"{state}\"}}");
    let mut stream = TcpStream::connect(admin).unwrap();
    write!(
        stream,
        "PUT /devices/{device} HTTP/1.0\r\nHost: {admin}\r\nAuthorization: Bearer {TOKEN}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

pub fn end(session: &mut Session) {
    session.conn.send_close_notify();
    session.flush().unwrap();
    assert_eq!(session.read(&mut [0]).unwrap(), 0);
}

#[test]
fn slow_an_upgrade_refuses_nobody_and_cuts_nothing() {
    const TUNNELS: usize = 1000;
    let pki = Arc::new(Pki::new());
    let device = Arc::new(pki.client("device", |_| ()));
    let gateway = Arc::new(upgradable(&pki, "max_tunnels_per_device = 2000"));
    let mut tunnels: Vec<Session> = (0..TUNNELS)
        .map(|_| tunnel(&pki, &gateway, &device, "a.test:1"))
        .collect();

    let (done, opened) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let opener = || {
        let (pki, device, gateway) = (pki.clone(), device.clone(), gateway.clone());
        let (done, opened) = (done.clone(), opened.clone());
        std::thread::spawn(move || {
            while !done.load(Ordering::Relaxed) {
                let mut session = tunnel(&pki, &gateway, &device, "a.test:1");
                echoes(&mut session, b"new");
                end(&mut session);
                opened.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    let openers: Vec<_> = (0..4).map(|_| opener()).collect();
    until("new tunnels", || opened.load(Ordering::Relaxed) > 50);
    // One upgrade after the other: the second is of the process that the first has started.
    let first = Successor::of(&gateway);
    let since = opened.load(Ordering::Relaxed);
    until("new tunnels after it", || {
        opened.load(Ordering::Relaxed) > since + 50
    });
    first.signal("USR2");
    let mut second = None;
    until("a second new process", || {
        second = child_of(first.0).map(Successor);
        second.is_some()
    });
    let second = second.unwrap();
    let pid = format!("\"pid\":{},", second.0);
    until("the second answers", || {
        gateway.get("/readyz").1.contains(&pid)
    });
    let since = opened.load(Ordering::Relaxed);
    until("new tunnels at last", || {
        opened.load(Ordering::Relaxed) > since + 50
    });
    done.store(true, Ordering::Relaxed);
    for opener in openers {
        opener.join().expect("no tunnel was refused or cut");
    }

    for session in &mut tunnels {
        echoes(session, b"still here");
    }
    // All three processes are asked, and no two tunnels have one number.
    let listed: Vec<adit::observe::TunnelInfo> =
        serde_json::from_str(&gateway.get("/tunnels?limit=2000").1).unwrap();
    let numbers: std::collections::HashSet<u64> = listed.iter().map(|tunnel| tunnel.id).collect();
    assert_eq!((listed.len(), numbers.len()), (TUNNELS, TUNNELS));
    assert_eq!(gateway.metric("adit_tunnels_live", ""), TUNNELS as f64);
    assert!(
        !first.has_ended(),
        "the old one learns from it whom to block"
    );
    for session in &mut tunnels {
        end(session);
    }
    drop(tunnels);
    until("the old process ends", || {
        parent_of(&gateway.child.id().to_string()).is_none()
    });
    until("so does the first", || first.has_ended());
    let log = std::fs::read_to_string(pki.path("audit.log")).unwrap();
    for event in ["refused", "server-reset", "drain-timeout", "client-reset"] {
        assert!(!log.contains(event), "{event}");
    }
    assert_eq!(
        log.matches("\"event.reason\":\"closed\"").count(),
        TUNNELS + opened.load(Ordering::Relaxed)
    );
}

#[test]
fn an_upgrade_tells_listeners_apart_whose_ports_the_system_chose() {
    let pki = Pki::new();
    let device = pki.client("device", |_| ());
    let both = "https = '127.0.0.1:0'\nhttp = '127.0.0.1:0'\nprotocol = 'both'\n\
                trusted_proxies = ['127.0.0.1/32']\nhealth_path = '/health'";
    let node = Gateway::builder(&pki).token().servers(&[server(echo)]);
    let mut gateway = node.listener(both).start();
    let mut old = tunnel(&pki, &gateway, &device, "a.test:1");
    let _successor = Successor::of(&gateway);
    end(&mut old);
    gateway.child.wait().unwrap();
    let mut session = tunnel(&pki, &gateway, &device, "a.test:1");
    echoes(&mut session, b"by TLS");
    let mut health = TcpStream::connect(gateway.plain.unwrap()).unwrap();
    let request = b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    health.write_all(request).unwrap();
    let mut answer = String::new();
    health.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[test]
fn a_session_of_many_tunnels_is_told_to_go_to_the_new_process() {
    let mut world = World::around(Pki::new(), |pki| upgradable(pki, ""));
    http2::run(async {
        let client = world.http2().await;
        let mut tunnel = client.tunnel("a.test:1").await;
        let successor = Successor::of(&world.gateway);
        // GOAWAY: what is open runs on, and the client asks for no more here. What it asks before it knows is served.
        while let Ok((response, _)) = client.ask(http2::connect_request("a.test:1")).await {
            assert_eq!(response.status(), 200);
        }
        tunnel.send("still here").await.unwrap();
        assert_eq!(tunnel.read(10).await, b"still here");
        let again = world.http2().await;
        let mut new = again.tunnel("a.test:1").await;
        new.send("new").await.unwrap();
        assert_eq!(new.read(3).await, b"new");
        tunnel.end();
        http2::until("the old process ends", || {
            world.gateway.child.try_wait().unwrap().is_some()
        })
        .await;
        drop(successor);
    });
    let log = std::fs::read_to_string(world.pki.path("audit.log")).unwrap();
    assert!(!log.contains("refused"), "{log}");
}

#[test]
fn a_device_that_is_blocked_after_an_upgrade_loses_its_old_tunnels() {
    let pki = Pki::new();
    let [bad, good] = ["bad", "good"].map(|name| pki.client(name, |_| ()));
    let mut gateway = upgradable(&pki, "");
    assert_eq!(put(gateway.admin, "good", "managed"), 200);
    let mut of_bad = tunnel(&pki, &gateway, &bad, "a.test:1");
    let mut of_good = tunnel(&pki, &gateway, &good, "a.test:1");
    let successor = Successor::of(&gateway);
    until("the block", || put(gateway.admin, "bad", "blocked") == 200);
    assert!(is_cut(&mut of_bad), "cut");
    echoes(&mut of_good, b"good");
    let (_, devices) = gateway.get("/devices");
    assert!(
        devices.contains("good") && devices.contains("bad"),
        "{devices}"
    );
    // A reload of the new process, of a config under which the tunnel is not allowed, reaches the old one too.
    let text = std::fs::read_to_string(pki.path("adit.toml")).unwrap();
    std::fs::write(pki.path("adit.toml"), text.replace("'*.test'", "'*.other'")).unwrap();
    successor.signal("HUP");
    assert!(is_cut(&mut of_good), "cut by the new rules");
    assert_eq!(gateway.child.wait().unwrap().code(), Some(0));
    assert_eq!(gateway.get("/readyz").0, 200);
    // The last one ends as ever, with its state kept.
    successor.signal("TERM");
    until("the end", || successor.has_ended());
}

#[test]
fn a_new_process_that_cannot_serve_changes_nothing() {
    let world = World::around(Pki::new(), |pki| upgradable(pki, ""));
    assert_eq!(put(world.gateway.admin, "one", "managed"), 200);
    let good = std::fs::read_to_string(world.pki.path("adit.toml")).unwrap();
    std::fs::write(world.pki.path("adit.toml"), "nonsense").unwrap();
    let mut session = world.tunnel("a.test:1");
    for _ in 0..2 {
        world.gateway.signal("USR2");
        // While the other process tries, changes are refused; then they are taken again.
        std::thread::sleep(Duration::from_millis(300));
        until("changes", || {
            put(world.gateway.admin, "two", "managed") == 200
        });
        echoes(&mut session, b"still here");
        drop(world.tunnel("a.test:1"));
        assert_eq!(world.gateway.get("/readyz").0, 200);
    }
    std::fs::write(world.pki.path("adit.toml"), good).unwrap();
    let _successor = Successor::of(&world.gateway);
    let (_, devices) = world.gateway.get("/devices");
    assert!(
        devices.contains("one") && devices.contains("two"),
        "{devices}"
    );
}

#[test]
fn a_node_that_leaves_says_so_before_it_refuses() {
    let mut world = World::around(Pki::new(), |pki| upgradable(pki, "drain_delay = '3s'"));
    world.gateway.signal("TERM");
    until("not ready", || world.gateway.get("/readyz").0 == 503);
    let mut session = world.tunnel("a.test:1");
    until("nothing is accepted", || {
        TcpStream::connect(world.gateway.address).is_err()
    });
    echoes(&mut session, b"still here");
    end(&mut session);
    assert_eq!(world.gateway.child.wait().unwrap().code(), Some(0));
}
