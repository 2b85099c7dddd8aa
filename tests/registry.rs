//! The device registry across changes, reloads, crashes and restarts: nothing acknowledged is lost, and a source that is
//! gone or broken takes nothing away.

use crate::common;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::Output;
use std::time::{Duration, Instant};

use adit::table::{
    DeviceChanges, DeviceEntry, DeviceFormat, DeviceReader, DeviceRegistry, DeviceState,
};
use common::{Gateway, PATIENCE, Pki, TOKEN, free_port, service, until};

const REGISTRY: &str = "device_registry = 'devices.csv'";

struct Node {
    pki: Pki,
    admin: SocketAddr,
}

impl Node {
    /// A node that is not running, with a token and the registry's file in its config, or without.
    fn new(registry: &str) -> Self {
        let (pki, admin) = (Pki::new(), free_port());
        let rest = service(&[free_port()]);
        Gateway::builder(&pki)
            .admin(admin)
            .token()
            .engine("cores = 1")
            .auth(registry)
            .rest(&rest)
            .write();
        Node { pki, admin }
    }

    fn csv(&self, text: &str) {
        std::fs::write(self.pki.path("devices.csv"), text).unwrap();
    }

    fn start(&self) -> Gateway {
        Gateway::run(&self.pki, self.admin)
    }

    fn adit(&self, arguments: &[&str]) -> Output {
        self.pki.adit(arguments)
    }

    fn put(&self, device: &str, state: &str) {
        let output = self.adit(&["devices", "put", device, "--state", state]);
        assert!(output.status.success(), "{output:?}");
    }

    /// The state of each device.
    fn states<const N: usize>(&self, gateway: &Gateway, devices: [&str; N]) -> [String; N] {
        devices.map(|device| {
            let (status, body) = gateway.get(&format!("/devices/{device}"));
            if status == 404 {
                return "-".to_owned();
            }
            let device: serde_json::Value = serde_json::from_str(&body).unwrap();
            device["state"].as_str().unwrap().to_owned()
        })
    }
}

fn reload(gateway: &Gateway) {
    let count = || {
        gateway.metric("adit_config_generation", "")
            + gateway.metric("adit_config_reload_failures_total", "")
    };
    let before = count();
    gateway.signal("HUP");
    until("reloaded or refused", || count() > before);
}

/// Sends a change on a connection of its own: whether it was acknowledged. The node may be killed meanwhile.
fn send(admin: SocketAddr, method: &str, path: &str, media_type: &str, body: &str) -> bool {
    let exchange = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(admin)?;
        stream.set_read_timeout(Some(Duration::from_secs(100)))?;
        let request = format!(
            "{method} {path} HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\
             Content-Type: {media_type}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    exchange()
        .is_ok_and(|answer| answer.split(' ').nth(1) == Some("200") && answer.ends_with("}\n"))
}

/// Kills the node again and again while three writers change devices: what was acknowledged is there after the restart,
/// and an import is there whole or not at all.
#[test]
fn nothing_acknowledged_is_lost_by_a_kill() {
    const KILLS: u64 = 12;
    let node = Node::new("");
    let (mut set, mut imported) = (Vec::new(), Vec::new());
    for kill in 0..KILLS {
        let mut gateway = node.start();
        for (name, state) in &set {
            let (status, body) = gateway.get(&format!("/devices/{name}"));
            assert_eq!(status, 200, "{name} was acknowledged and is gone");
            assert!(
                body.contains(state),
                "{name}: {body} is not the last state {state}"
            );
        }
        for (batch, acknowledged) in &imported {
            let (_, body) = gateway.get(&format!("/devices?prefix=batch-{batch}-"));
            let count = body.matches("\"device\"").count();
            assert!(
                count == 500 || count == 0 && !acknowledged,
                "batch {batch}: {count} of 500, acknowledged: {acknowledged}"
            );
        }
        let admin = node.admin;
        std::thread::scope(|scope| {
            let singles = [0, 1].map(|writer| {
                scope.spawn(move || {
                    let mut done = Vec::new();
                    for number in 0.. {
                        let name = format!("device-{kill}-{writer}-{number}");
                        let path = format!("/devices/{name}");
                        let set = |state: &str| {
                            let body = format!("{{\"state\":\"{state}\"}}");
                            send(admin, "PUT", &path, "application/json", &body)
                        };
                        // What the second one leaves is not known if it is not acknowledged.
                        if !set("managed") || !set("blocked") {
                            return done;
                        }
                        done.push((name, "blocked"));
                    }
                    done
                })
            });
            let bulk = scope.spawn(move || {
                let mut done = Vec::new();
                for number in 0.. {
                    let batch = format!("{kill}-{number}");
                    let mut lines = String::new();
                    for line in 0..500 {
                        writeln!(lines, "batch-{batch}-{line},managed").unwrap();
                    }
                    let acknowledged = send(admin, "POST", "/devices", "text/csv", &lines);
                    done.push((batch, acknowledged));
                    if !acknowledged {
                        return done;
                    }
                }
                done
            });
            // At different points of a write each time.
            std::thread::sleep(Duration::from_millis(60 + 37 * kill));
            gateway.signal("KILL");
            gateway.child.wait().unwrap();
            for single in singles {
                set.extend(single.join().unwrap());
            }
            imported.extend(bulk.join().unwrap());
        });
    }
    assert!(
        set.len() as u64 > KILLS && imported.len() as u64 > KILLS,
        "nothing was written"
    );
}

#[test]
fn a_restart_without_its_file_keeps_the_last_state() {
    let node = Node::new(REGISTRY);
    node.csv("a,managed\nb,blocked\n");
    let mut gateway = node.start();
    node.put("c", "managed");
    assert_eq!(gateway.metric("adit_registry_stale", ""), 0.0);
    gateway.signal("KILL");
    gateway.child.wait().unwrap();
    for broken in [None, Some("a,managed\nb,open\n")] {
        match broken {
            None => std::fs::remove_file(node.pki.path("devices.csv")).unwrap(),
            Some(text) => node.csv(text),
        }
        let gateway = node.start();
        assert_eq!(
            node.states(&gateway, ["a", "b", "c", "d"]),
            ["managed", "blocked", "managed", "-"]
        );
        assert_eq!(gateway.metric("adit_registry_stale", ""), 1.0);
        let (status, ready) = gateway.get("/readyz");
        assert!(status == 200 && ready.contains("last good copy"), "{ready}");
        // A reload that finds it right again ends that.
        node.csv("a,managed\nb,blocked\nd,managed\n");
        reload(&gateway);
        assert_eq!(node.states(&gateway, ["a", "c", "d"]), ["managed"; 3]);
        assert_eq!(gateway.metric("adit_registry_stale", ""), 0.0);
        node.csv("a,managed\nb,blocked\n");
        reload(&gateway);
        assert_eq!(node.states(&gateway, ["d"]), ["-"]);
    }
}

#[test]
fn a_broken_file_changes_nothing_at_a_reload() {
    let node = Node::new(REGISTRY);
    node.csv("a,managed\n");
    let gateway = node.start();
    node.csv("a,blocked\nb,managed\nc\n");
    reload(&gateway);
    assert_eq!(gateway.metric("adit_config_reload_failures_total", ""), 1.0);
    assert_eq!(node.states(&gateway, ["a", "b"]), ["managed", "-"]);
    std::fs::remove_file(node.pki.path("devices.csv")).unwrap();
    reload(&gateway);
    assert_eq!(node.states(&gateway, ["a", "b"]), ["managed", "-"]);
}

#[test]
fn without_a_copy_a_broken_file_is_refused_with_every_line() {
    let node = Node::new(REGISTRY);
    node.csv("a,managed\nb\nc,open\nd,managed\na,blocked\n");
    for command in ["check", "run"] {
        let output = node.adit(&[command]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{error}");
        for line in [2, 3, 5] {
            assert!(error.contains(&format!("devices.csv:{line}: ")), "{error}");
        }
        assert_eq!(error.matches("devices.csv:").count(), 3, "{error}");
    }
    std::fs::remove_file(node.pki.path("devices.csv")).unwrap();
    let output = node.adit(&["run"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("devices.csv")
    );
}

#[test]
fn a_file_of_two_gigabytes_is_refused_unread() {
    let node = Node::new(REGISTRY);
    let file = std::fs::File::create(node.pki.path("devices.csv")).unwrap();
    file.set_len(2 << 30).unwrap();
    let start = Instant::now();
    let output = node.adit(&["check"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(
        error.contains("devices.csv") && error.contains("2147483648 bytes"),
        "{error}"
    );
    assert!(start.elapsed() < PATIENCE);
}

/// The last one who says something about a device counts; a block by the admin listener is lifted by it only.
#[test]
fn file_and_admin_listener_agree_on_who_spoke_last() {
    let node = Node::new(REGISTRY);
    node.csv("a,managed\nb,managed\nc,managed\nd,managed\n");
    let mut gateway = node.start();
    node.put("a", "blocked");
    node.put("e", "managed");
    assert!(node.adit(&["devices", "delete", "b"]).status.success());
    assert!(node.adit(&["devices", "delete", "c"]).status.success());
    let names = ["a", "b", "c", "d", "e"];
    let said = ["blocked", "-", "-", "managed", "managed"];
    assert_eq!(node.states(&gateway, names), said);
    // The same file again says nothing new, at a reload and at a restart.
    reload(&gateway);
    assert_eq!(node.states(&gateway, names), said);
    gateway.signal("KILL");
    gateway.child.wait().unwrap();
    // While the node is down: what is said of a, c and e changes; of b it does not.
    node.csv("a,managed,ann\nb,managed\nc,managed,cem\nd,managed\ne,blocked\n");
    let gateway = node.start();
    let now = ["blocked", "-", "managed", "managed", "blocked"];
    assert_eq!(node.states(&gateway, names), now);
    node.put("a", "managed");
    assert_eq!(node.states(&gateway, ["a"]), ["managed"]);
}

#[test]
fn changes_need_the_token() {
    let node = Node::new("");
    let gateway = node.start();
    let put = |arguments: &[&str]| {
        node.adit(&[&["devices", "put", "a", "--state", "managed"], arguments].concat())
    };
    let admin = node.admin.to_string();
    let output = put(&["--admin", &admin]);
    assert!(!output.status.success());
    assert!(String::from_utf8(output.stderr).unwrap().contains("401"));
    std::fs::write(node.pki.path("other"), TOKEN.replace('0', "1")).unwrap();
    let mode = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(node.pki.path("other"), mode).unwrap();
    assert!(
        !put(&["--admin", &admin, "--token-file", "other"])
            .status
            .success()
    );
    assert_eq!(node.states(&gateway, ["a"]), ["-"]);
    assert!(
        put(&["--admin", &admin, "--token-file", "token"])
            .status
            .success()
    );
    assert_eq!(node.states(&gateway, ["a"]), ["managed"]);
    // A token that others may read is none, at once and at the next start.
    let mode = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(node.pki.path("token"), mode).unwrap();
    assert!(!send(node.admin, "DELETE", "/devices/a", "text/plain", ""));
    drop(gateway);
    let output = node.adit(&["run"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("chmod 600")
    );
    assert!(!node.adit(&["check"]).status.success());
}

fn resident_mib(gateway: &Gateway) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.child.id())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    let digits: String = line.chars().filter(char::is_ascii_digit).collect();
    digits.parse::<u64>().unwrap() / 1024
}

fn puts(node: &Node, what: &str) {
    let mut took: Vec<Duration> = (0..300)
        .map(|number| {
            let start = Instant::now();
            let path = format!("/devices/urn:device:{number:08}");
            assert!(send(
                node.admin,
                "PUT",
                &path,
                "application/json",
                "{\"state\":\"blocked\"}"
            ));
            start.elapsed()
        })
        .collect();
    took.sort_unstable();
    println!("PUT with {what}: p50 {:?}, p99 {:?}", took[150], took[297]);
}

/// The figures of docs/decisions/0016-devices.md:
/// `cargo test --release --test registry -- --ignored --nocapture slow_`.
#[test]
#[ignore = "takes minutes; prints figures"]
fn slow_five_million_devices() {
    const COUNT: u32 = 5_000_000;
    let mut text = String::new();
    for number in 0..COUNT {
        writeln!(text, "urn:device:{number:08},managed").unwrap();
    }
    let node = Node::new("");
    let gateway = node.start();
    println!("empty: {} MiB resident", resident_mib(&gateway));
    puts(&node, "an empty registry");
    node.csv(&text);
    let start = Instant::now();
    let output = node.adit(&["devices", "import", "devices.csv"]);
    assert!(output.status.success(), "{output:?}");
    println!(
        "import of {COUNT}: {:?}, {} MiB resident",
        start.elapsed(),
        resident_mib(&gateway)
    );
    let size = std::fs::metadata(node.pki.path("state/devices.redb"))
        .unwrap()
        .len();
    println!("store: {} MiB", size >> 20);
    puts(&node, "5 million from an import");
    drop(gateway);
    let start = Instant::now();
    let gateway = node.start();
    println!(
        "restart from the store: {:?}, {} MiB resident",
        start.elapsed(),
        resident_mib(&gateway)
    );
    assert_eq!(gateway.metric("adit_registry_devices", "") as u32, COUNT);
    drop(gateway);
    drop(node);

    let node = Node::new(REGISTRY);
    node.csv(&text);
    let start = Instant::now();
    let gateway = node.start();
    println!(
        "first start from the file: {:?}, {} MiB resident",
        start.elapsed(),
        resident_mib(&gateway)
    );
    puts(&node, "5 million from the file");
    let start = Instant::now();
    reload(&gateway);
    println!(
        "reload: {:?}, {} MiB resident",
        start.elapsed(),
        resident_mib(&gateway)
    );
    let start = Instant::now();
    let (_, page) = gateway.get("/devices?limit=10&after=urn:device:03");
    println!("a page of the list: {:?}", start.elapsed());
    assert_eq!(page.matches("\"device\"").count(), 10);
    drop(gateway);
    let start = Instant::now();
    let gateway = node.start();
    println!(
        "restart from the file: {:?}, {} MiB resident",
        start.elapsed(),
        resident_mib(&gateway)
    );
}

/// Bytes and nanoseconds of the table itself, beside a plain map.
#[test]
#[ignore = "prints figures"]
fn slow_look_ups() {
    use std::hint::black_box;
    const COUNT: usize = 5_000_000;
    let name = |number: usize| format!("urn:device:{number:08}");
    let mut reader = DeviceReader::new(DeviceFormat::Csv);
    for number in 0..COUNT {
        // Every second name that is asked for is there.
        reader.push(format!("{},managed\n", name(2 * number)).as_bytes());
    }
    let start = Instant::now();
    let changes = reader.finish().unwrap();
    let registry = DeviceRegistry::default().with(&changes).unwrap();
    drop(changes);
    println!("made in {:?}", start.elapsed());
    println!(
        "{:.1} bytes a device",
        registry.bytes() as f64 / COUNT as f64
    );
    let map: HashMap<Box<str>, (bool, Option<Box<str>>)> = (0..COUNT)
        .map(|number| (name(2 * number).into_boxed_str(), (false, None)))
        .collect();
    // Far apart from each other, and those of the warm run in every cache.
    for (what, span) in [("cold", 2 * COUNT), ("warm", 512)] {
        let asked: Vec<String> = (0..1_000_000_usize)
            .map(|turn| name(turn.wrapping_mul(7_919_317) % span))
            .collect();
        let time = |look: &dyn Fn(&str) -> bool| {
            let start = Instant::now();
            let found = asked.iter().filter(|name| look(black_box(name))).count();
            assert!(found > 400_000 && found < 600_000, "{found}");
            start.elapsed().as_nanos() as f64 / asked.len() as f64
        };
        let here = time(&|name| registry.state(name) == DeviceState::Managed);
        let there = time(&|name| map.contains_key(name));
        println!("{what}: registry {here:.0} ns, HashMap {there:.0} ns");
    }
    let blocked = DeviceEntry {
        state: DeviceState::Blocked,
        user: None,
    };
    let start = Instant::now();
    for number in 0..200 {
        let change = DeviceChanges::one(&name(number), blocked);
        drop(black_box(registry.with(&change)));
    }
    println!("one change: {:?}", start.elapsed() / 200);
}
