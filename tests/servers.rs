//! Servers behind the gateway: who gets the next tunnel, who is dead, and what the operator says about it.

use crate::common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Deref;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use adit::observe::ServerInfo;
use common::{Gateway, Pki, Session, TOKEN, World, echo, echoes, until};

/// A server that echoes, and can be stopped and started again on its port.
struct Server {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start() -> Self {
        Self::at("127.0.0.1:0".parse().unwrap())
    }

    fn at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (accepted, stop) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (count, stopped) = (accepted.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        count.fetch_add(1, Relaxed);
                        stream.set_nonblocking(false).unwrap();
                        std::thread::spawn(move || echo(stream));
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(2)),
                }
            }
        });
        Self {
            address,
            accepted,
            stop,
            thread: Some(thread),
        }
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Relaxed)
    }

    /// Waits until so many connections have been accepted; more than that would fail.
    fn has_accepted(&self, count: usize) {
        until("the server accepts", || self.accepted() >= count);
        assert_eq!(self.accepted(), count);
    }

    /// Refuses connections from now on.
    fn end(mut self) -> SocketAddr {
        self.stop.store(true, Relaxed);
        self.thread.take().unwrap().join().unwrap();
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

/// A service with this list of servers, and these lines more.
fn service(servers: &str, more: &str) -> String {
    format!(
        "[[profile.rule]]\nhost = '*.test'\nport = '*'\nservice = 'echo'\n[[profile.service]]\nname = 'echo'\n\
         servers = [{servers}]\n{more}"
    )
}

/// A running gateway, a device, and a token for changes.
struct Node(World);

impl Deref for Node {
    type Target = World;

    fn deref(&self) -> &World {
        &self.0
    }
}

impl Node {
    fn start(engine: &str, service: &str) -> Self {
        Self(World::new(|node| node.token().engine(engine).rest(service)))
    }

    /// Kills the gateway and starts it again.
    fn restart(&mut self) {
        self.gateway.signal("KILL");
        let world = &mut self.0;
        world.gateway.child.wait().unwrap();
        world.gateway = Gateway::run(&world.pki, world.gateway.admin);
    }

    fn servers(&self) -> Vec<ServerInfo> {
        let (status, body) = self.gateway.get("/servers");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    fn server(&self, address: SocketAddr) -> ServerInfo {
        let (_, body) = self.gateway.get(&format!("/servers/echo/{address}"));
        serde_json::from_str(&body).unwrap()
    }

    fn state(&self, address: SocketAddr) -> String {
        self.server(address).state
    }

    /// What `adit servers` prints, and whether it did what it should.
    fn command(&self, words: &[&str]) -> (bool, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_adit"));
        let config = self.pki.path("adit.toml");
        let command = command.arg("servers").arg("--config").arg(config);
        let output = command.args(words).stdin(Stdio::null()).output().unwrap();
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        (output.status.success(), text)
    }
}

#[test]
fn tunnels_are_spread_by_weight() {
    let servers = [Server::start(), Server::start()];
    let list = format!(
        "{{ address = '{}', weight = 3 }}, '{}'",
        servers[0].address, servers[1].address
    );
    let node = Node::start("cores = [0]", &service(&list, ""));
    let mut open: Vec<Session> = (0..100).map(|_| node.tunnel("a.test:1")).collect();
    echoes(&mut open[99], b"here");
    servers[0].has_accepted(75);
    servers[1].has_accepted(25);
    let tunnels: Vec<u64> = node.servers().iter().map(|info| info.tunnels).collect();
    assert_eq!(tunnels, [75, 25]);
    let of = |server: &Server| format!("server=\"{}\"", server.address);
    assert_eq!(
        node.gateway.metric("adit_server_tunnels", &of(&servers[0])),
        75.0
    );
    assert_eq!(
        node.gateway
            .metric("adit_server_connects_total", &of(&servers[1])),
        25.0
    );
    drop(open);
    until("all tunnels are counted out", || {
        node.servers().iter().all(|info| info.tunnels == 0)
    });
}

#[test]
fn the_server_with_the_fewest_tunnels_is_next_whichever_core_asks() {
    let servers = [Server::start(), Server::start()];
    let list = format!("'{}', '{}'", servers[0].address, servers[1].address);
    let node = Node::start(
        "cores = [0, 1]",
        &service(&list, "balance = 'least-tunnels'"),
    );
    let open: Vec<Session> = (0..20).map(|_| node.tunnel("a.test:1")).collect();
    servers[0].has_accepted(10);
    servers[1].has_accepted(10);
    let (_, listed) = node.gateway.get("/tunnels");
    let listed: Vec<adit::observe::TunnelInfo> = serde_json::from_str(&listed).unwrap();
    assert!(
        listed.iter().any(|tunnel| tunnel.core != listed[0].core),
        "both cores have some"
    );
    // All tunnels to the second server end: it is the next one for as long as it has fewer.
    let second = servers[1].address.to_string();
    let (gone, kept): (Vec<Session>, Vec<Session>) = open.into_iter().partition(|session| {
        let port = session.sock.local_addr().unwrap().port();
        listed
            .iter()
            .any(|t| t.peer.port() == port && t.server == second)
    });
    drop(gone);
    until("they have ended", || {
        node.server(servers[1].address).tunnels == 0
    });
    let more: Vec<Session> = (0..10).map(|_| node.tunnel("a.test:1")).collect();
    servers[0].has_accepted(10);
    servers[1].has_accepted(20);
    drop((kept, more));
}

#[test]
fn a_dead_server_is_found_by_its_failures_and_comes_back_by_one_tunnel() {
    let (good, bad) = (Server::start(), Server::start());
    let list = format!("'{}', '{}'", bad.address, good.address);
    let health =
        "[profile.service.health]\nfailures = 2\ndead_time = '300ms'\ndead_time_max = '600ms'";
    let node = Node::start("cores = [0]", &service(&list, health));
    let address = bad.end();
    // No app notices: each tunnel gets the other server.
    for _ in 0..6 {
        echoes(&mut node.tunnel("a.test:1"), b"here");
    }
    let info = node.server(address);
    assert_ne!(info.state, "up");
    assert_eq!(info.why.as_deref(), Some("tunnels: server-refused"));
    assert!(info.connect_failures >= 2);
    assert_eq!(
        node.gateway
            .metric("adit_server_up", &format!("server=\"{address}\"")),
        0.0
    );
    let back = Server::at(address);
    until("a tunnel finds it alive again", || {
        echoes(&mut node.tunnel("a.test:1"), b"here");
        node.state(address) == "up"
    });
    assert!(back.accepted() >= 1);
    let before = node.server(address).connects;
    let open: Vec<Session> = (0..10).map(|_| node.tunnel("a.test:1")).collect();
    // It has its share again; what it was owed when it died makes a difference of one.
    let share = node.server(address).connects - before;
    assert!((4..=6).contains(&share), "{share}");
    drop(open);
}

#[test]
fn checks_find_a_dead_server_and_its_return_without_a_tunnel() {
    let (good, bad) = (Server::start(), Server::start());
    let list = format!("'{}', '{}'", bad.address, good.address);
    let health = "[profile.service.health]\ncheck = 'tcp'\ninterval = '50ms'\ntimeout = '5s'\nrise = 2\nfall = 2\n\
                  dead_time = '100ms'";
    let node = Node::start("cores = [0]", &service(&list, health));
    until("both are checked", || {
        node.servers().iter().all(|info| info.checks_passed > 1)
    });
    let address = bad.end();
    until("a check finds it dead", || node.state(address) == "dead");
    let info = node.server(address);
    assert_eq!(info.why.as_deref(), Some("check: server-refused"));
    assert!(info.last_check.is_some_and(|check| !check.passed));
    assert_eq!(info.connect_failures, 0, "no tunnel was needed");
    let back = Server::at(address);
    until("checks find it alive", || node.state(address) == "up");
    let open: Vec<Session> = (0..4).map(|_| node.tunnel("a.test:1")).collect();
    assert_eq!(node.server(address).tunnels, 2);
    assert!(
        node.gateway
            .metric("adit_server_checks_total", "result=\"failed\"")
            >= 2.0
    );
    drop((open, back));
}

#[test]
fn where_no_server_is_alive_all_are_tried_or_none() {
    let gone = Server::start().end();
    let health =
        |more: &str| format!("[profile.service.health]\nfailures = 1\ndead_time = '60s'\n{more}");
    let node = Node::start("", &service(&format!("'{gone}'"), &health("")));
    for _ in 0..3 {
        let answer = node.answer("a.test:1");
        assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    }
    assert_eq!(node.gateway.ended("server-refused"), 3.0);
    // The moment it is there it is used, whatever was thought of it.
    let back = Server::at(gone);
    echoes(&mut node.tunnel("a.test:1"), b"here");
    assert_eq!(node.state(gone), "up");
    back.end();

    let refuse = health("when_none_alive = 'refuse'");
    let node = Node::start("", &service(&format!("'{gone}'"), &refuse));
    assert!(node.answer("a.test:1").starts_with("HTTP/1.1 502 "));
    let answer = node.answer("a.test:1");
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    assert!(answer.contains("error=destination_unavailable"), "{answer}");
    assert_eq!(node.gateway.ended("no-server"), 1.0);
}

#[test]
fn an_operator_drains_a_server_and_brings_it_back() {
    let servers = [Server::start(), Server::start()];
    let list = format!("'{}', '{}'", servers[0].address, servers[1].address);
    let node = Node::start("cores = [0]", &service(&list, ""));
    let address = servers[0].address.to_string();
    let mut open: Vec<Session> = (0..4).map(|_| node.tunnel("a.test:1")).collect();
    let (done, text) = node.command(&["drain", "echo", &address]);
    assert!(done && text.contains("\"drained\""), "{text}");
    open.extend((0..6).map(|_| node.tunnel("a.test:1")));
    assert_eq!(node.server(servers[0].address).connects, 2, "no new tunnel");
    open.iter_mut().for_each(|session| echoes(session, b"here"));
    assert_eq!(
        node.server(servers[0].address).tunnels,
        2,
        "those that are open go on"
    );
    let drained = || node.gateway.metric("adit_server_drained", &address);
    assert_eq!(drained(), 1.0);

    // A reload that keeps the server keeps its state; the new weight counts.
    let file = node.pki.path("adit.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let heavier = format!("{{ address = '{address}', weight = 2 }}");
    let text = text.replace(&format!("['{address}'"), &format!("[{heavier}"));
    std::fs::write(&file, text).unwrap();
    node.gateway.signal("HUP");
    until("the reload", || node.server(servers[0].address).weight == 2);
    assert_eq!(node.state(servers[0].address), "drained");

    let (done, text) = node.command(&["restore", "echo", &address]);
    assert!(done && text.contains("\"up\""), "{text}");
    open.extend((0..6).map(|_| node.tunnel("a.test:1")));
    assert_eq!(node.server(servers[0].address).connects - 2, 4);
    let (done, text) = node.command(&["list", "--service", "echo"]);
    assert!(done && text.matches("\"service\"").count() == 2, "{text}");
    let (done, text) = node.command(&["drain", "echo", "10.9.9.9:1"]);
    assert!(!done && text.contains("404"), "{text}");
}

#[test]
fn a_drain_outlives_a_restart_and_is_written_down_first() {
    let servers = [Server::start(), Server::start()];
    let list = format!("'{}', '{}'", servers[0].address, servers[1].address);
    let mut node = Node::start("cores = [0]", &service(&list, ""));
    let address = servers[0].address.to_string();
    assert!(node.command(&["drain", "echo", &address]).0);
    node.restart();
    assert_eq!(node.state(servers[0].address), "drained");
    let open: Vec<Session> = (0..4).map(|_| node.tunnel("a.test:1")).collect();
    servers[1].has_accepted(4);
    assert_eq!(servers[0].accepted(), 0);
    drop(open);

    // Where it cannot be written down, it is not done.
    let kept = node.pki.path("state/drained-servers.json");
    let text = std::fs::read_to_string(&kept).unwrap();
    std::fs::remove_file(&kept).unwrap();
    std::fs::create_dir(&kept).unwrap();
    let (done, why) = node.command(&["restore", "echo", &address]);
    assert!(!done && why.contains("drained-servers.json"), "{why}");
    assert_eq!(node.state(servers[0].address), "drained");
    std::fs::remove_dir(&kept).unwrap();

    // What is no list keeps no node from starting.
    std::fs::write(&kept, &text[1..]).unwrap();
    node.restart();
    assert_eq!(node.state(servers[0].address), "up");
    assert!(node.command(&["drain", "echo", &address]).0);
    assert!(node.command(&["restore", "echo", &address]).0);
    node.restart();
    assert_eq!(node.state(servers[0].address), "up");
}

#[test]
fn a_drain_needs_the_token() {
    let server = Server::start();
    let node = Node::start("", &service(&format!("'{}'", server.address), ""));
    let put = |headers: &str, body: &str| {
        let mut stream = TcpStream::connect(node.gateway.admin).unwrap();
        write!(
            stream,
            "PUT /servers/echo/{} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n{headers}\
             Content-Length: {}\r\n\r\n{body}",
            server.address,
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split(' ').nth(1).unwrap().to_owned()
    };
    let drained = "{\"state\": \"drained\"}";
    assert_eq!(put("", drained), "401");
    assert_eq!(put("Authorization: Bearer wrong\r\n", drained), "401");
    assert_eq!(node.state(server.address), "up");
    let token = format!("Authorization: Bearer {TOKEN}\r\n");
    for bad in [
        "{}",
        "{\"state\": \"dead\"}",
        "{\"state\": \"up\", \"x\": 1}",
        "",
    ] {
        assert_eq!(put(&token, bad), "400", "{bad}");
    }
    assert_eq!(put(&token, drained), "200");
    // The only server takes no tunnels.
    let answer = node.answer("a.test:1");
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    assert_eq!(node.gateway.ended("no-server"), 1.0);
    assert_eq!(put(&token, "{\"state\": \"up\"}"), "200");
    echoes(&mut node.tunnel("a.test:1"), b"here");
}

#[test]
fn a_name_leads_to_whichever_of_its_families_answers() {
    // Both families are asked for; a server that listens on one of them is found.
    let six = Server::at("[::1]:0".parse().unwrap());
    let port = six.address.port();
    let hosts = "127.0.0.1 both.internal\n::1 both.internal\n";
    let node = node_with_hosts(hosts, &service(&format!("'both.internal:{port}'"), ""));
    echoes(&mut node.tunnel("a.test:1"), b"here");
    assert_eq!(six.accepted(), 1);
    six.end();
    let four = Server::at(SocketAddr::from(([127, 0, 0, 1], port)));
    echoes(&mut node.tunnel("a.test:1"), b"here");
    assert_eq!(four.accepted(), 1);
    assert!(node.gateway.metric("adit_dial_retries_total", "") >= 1.0);
}

/// A gateway in a mount namespace of its own whose /etc/hosts has these lines.
fn node_with_hosts(hosts: &str, service: &str) -> Node {
    Node(World::around(Pki::new(), |pki| {
        let node = Gateway::builder(pki).engine("cores = [0]").rest(service);
        let admin = node.write();
        std::fs::write(pki.path("hosts"), hosts).unwrap();
        let script = "mount --bind \"$1\" /etc/hosts && exec \"$2\" run --config \"$3\"";
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c", script, "sh"])
            .arg(pki.path("hosts"))
            .arg(env!("CARGO_BIN_EXE_adit"))
            .arg(pki.path("adit.toml"));
        Gateway::spawn(command, admin)
    }))
}

/// A namespace of its own, in which the name's IPv6 address swallows packets: the IPv4 address is tried a quarter of a
/// second later, and nobody waits for a timeout (RFC 8305).
#[test]
fn an_address_that_swallows_packets_costs_a_quarter_of_a_second() {
    const SCRIPT: &str = "set -e\n\
        ip link set lo up; ip link add v0 type veth peer name v1; ip link set v0 up; ip link set v1 up\n\
        ip -6 addr add 2001:db8::1/64 dev v0 nodad\n\
        ip -6 neigh add 2001:db8::2 lladdr 02:00:00:00:00:01 dev v0\n\
        mount --bind hosts /etc/hosts\n\
        \"$1\" load serve --listen 127.0.0.1:8080 --kind http >serve.log 2>&1 &\n\
        \"$1\" run --config adit.toml >run.log 2>&1 &\n\
        for i in $(seq 200); do grep -q address= run.log && break; sleep 0.05; done\n\
        exec curl -sS --max-time 8 --proxytunnel --proxy-cacert ca.pem --proxy-cert device.pem --proxy-key device.key \
        --proxy https://localhost:8443 --write-out '\\n%{time_total}' http://a.test/hello";
    let pki = Pki::new();
    pki.client("device", |_| ());
    Gateway::builder(&pki)
        .admin("127.0.0.1:9901".parse().unwrap())
        .engine("cores = [0]\nconnect_timeout = '5s'")
        .rest(&service("'both.internal:8080'", ""))
        .replace("127.0.0.1:0", "127.0.0.1:8443")
        .write();
    let hosts = "127.0.0.1 localhost\n2001:db8::2 both.internal\n127.0.0.1 both.internal\n";
    std::fs::write(pki.path("hosts"), hosts).unwrap();
    let namespaces = ["--net", "--mount", "--pid", "--fork", "--kill-child"];
    let output = Command::new("unshare")
        .args(namespaces)
        .args(["bash", "-c", SCRIPT, "bash", env!("CARGO_BIN_EXE_adit")])
        .current_dir(pki.folder.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let log = std::fs::read_to_string(pki.path("run.log")).unwrap_or_default();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("GET /hello"), "{said}{error}{log}");
    let seconds: f64 = said.lines().last().unwrap().parse().unwrap();
    assert!((0.25..4.0).contains(&seconds), "{seconds} s");
}
