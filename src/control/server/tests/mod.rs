//! The control core with a node that only answers questions, read with a plain socket.

use std::io::{Read, Write};
use std::net::{self, SocketAddr};
use std::os::unix;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::super::{Device, Readiness, Refusal, Reloader, Reply};
use super::*;
use crate::config::AdminListen;
use crate::engine::{ChangeError, DrainError, Inherited, Predecessor};
use crate::observe::{
    AdminRecord, CoreMetrics, NodeGauges, ServerInfo, Stage, TunnelFilter, TunnelInfo,
};
use crate::reason::CloseReason;
use crate::table::{DeviceChanges, DeviceRegistry};

#[derive(Default)]
struct Fake {
    draining: AtomicBool,
    second_core_is_stuck: AtomicBool,
    devices: Mutex<DeviceRegistry>,
    closed: Mutex<Vec<TunnelFilter>>,
    drained: Mutex<bool>,
    audited: Mutex<Vec<AdminRecord>>,
}

impl Node for Fake {
    fn cores(&self) -> usize {
        2
    }

    fn snapshot(&self, core: usize, reply: Reply<CoreMetrics>) {
        if core == 1 && self.second_core_is_stuck.load(Ordering::Relaxed) {
            return;
        }
        let mut metrics = CoreMetrics::new();
        metrics.sessions_accepted = 10;
        metrics.count_end(CloseReason::NoRule);
        metrics.record(Stage::Handshake, Duration::from_micros(250));
        // From another thread, as the engine will.
        thread::spawn(move || reply(metrics));
    }

    fn tunnels(
        &self,
        core: usize,
        _: TunnelFilter,
        _: usize,
        reply: Reply<(usize, Vec<TunnelInfo>)>,
    ) {
        let tunnel = |id, age_ms| TunnelInfo {
            id,
            core,
            peer: "192.0.2.1:5".parse().unwrap(),
            device: "d".to_owned(),
            serial: None,
            app: None,
            user: None,
            service: "wiki".to_owned(),
            server: "10.0.0.5:443".to_owned(),
            age_ms,
            bytes_up: 1,
            bytes_down: 2,
        };
        let core_base = core as u64 * 10;
        let tunnels = vec![tunnel(core_base, 5 + core_base), tunnel(core_base + 1, 3)];
        reply((tunnels.len(), tunnels));
    }

    fn close_tunnels(&self, core: usize, filter: TunnelFilter, reply: Reply<usize>) {
        self.closed.lock().unwrap().push(filter);
        reply(core + 1);
    }

    fn device(&self, name: &str) -> Option<Device> {
        let devices = self.devices.lock().unwrap();
        devices.get(name).map(|entry| Device::new(name, entry))
    }

    fn devices(
        &self,
        prefix: String,
        after: String,
        limit: usize,
        reply: Reply<(usize, Vec<Device>)>,
    ) {
        let devices = self.devices.lock().unwrap();
        let listed = devices.list(&prefix, &after, limit);
        let listed = listed.iter().map(|(name, entry)| Device::new(name, *entry));
        reply((devices.len(), listed.collect()));
    }

    fn change_devices(
        &self,
        changes: DeviceChanges,
        must_exist: bool,
        reply: Reply<Result<(), ChangeError>>,
    ) {
        let mut devices = self.devices.lock().unwrap();
        let missing = changes.iter().any(|(name, _)| devices.get(name).is_none());
        if must_exist && missing {
            return reply(Err(ChangeError::Unknown));
        }
        *devices = devices.with(&changes).unwrap();
        reply(Ok(()));
    }

    fn servers(&self) -> Vec<ServerInfo> {
        let drained = *self.drained.lock().unwrap();
        vec![ServerInfo {
            service: "wiki/eu".into(),
            server: "10.0.0.5:443".into(),
            state: if drained { "drained" } else { "up" }.into(),
            ..ServerInfo::default()
        }]
    }

    fn drain_server(
        &self,
        service: &str,
        server: &str,
        drained: bool,
    ) -> Result<Option<ServerInfo>, DrainError> {
        if (service, server) != ("wiki/eu", "10.0.0.5:443") {
            return Ok(None);
        }
        *self.drained.lock().unwrap() = drained;
        Ok(self.servers().pop())
    }

    fn forget_crl(&self, source: &str) -> Result<bool, DrainError> {
        Ok(source == "http://pki.test/a b.crl")
    }

    fn reload(&self, reply: Reply<Result<u64, Refusal>>) {
        reply(Ok(7));
    }

    fn refused(&self) -> Option<Refusal> {
        None
    }

    fn reloader(&self) -> Option<Arc<Reloader>> {
        None
    }

    fn ready(&self) -> Readiness {
        Readiness {
            ready: true,
            findings: vec![],
        }
    }

    fn predecessor(&self) -> Option<Arc<Predecessor>> {
        None
    }

    fn audit(&self, record: AdminRecord) {
        self.audited.lock().unwrap().push(record);
    }

    fn gauges(&self) -> NodeGauges {
        let draining = self.draining.load(Ordering::Relaxed);
        NodeGauges {
            version: "0.0.1",
            draining,
            audit_lost: 3,
            ..NodeGauges::default()
        }
    }
}

struct Running {
    node: Arc<Fake>,
    address: Option<SocketAddr>,
    stop: watch::Sender<bool>,
    thread: JoinHandle<Result<(), ControlError>>,
}

impl Running {
    fn start(listen: &AdminListen) -> Self {
        let control = Control::bind(listen, &mut Inherited::default()).unwrap();
        let address = control.local_addr();
        let node = Arc::new(Fake::default());
        let (stop, stopped) = watch::channel(false);
        let served: Arc<Fake> = Arc::clone(&node);
        let (_, retired) = mpsc::channel(1);
        let thread = thread::spawn(move || control.run(served, stopped, retired, async {}));
        Self {
            node,
            address,
            stop,
            thread,
        }
    }

    fn tcp() -> Self {
        Self::start(&AdminListen::Tcp("127.0.0.1:0".parse().unwrap()))
    }

    /// Sends the text and returns status and the whole response.
    fn send(&self, request: &str) -> (u16, String) {
        exchange(
            net::TcpStream::connect(self.address.unwrap()).unwrap(),
            request,
        )
    }

    fn get(&self, target: &str) -> (u16, String) {
        self.send(&format!(
            "GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        ))
    }

    fn json(&self, target: &str) -> (u16, serde_json::Value) {
        let (status, response) = self.get(target);
        (
            status,
            serde_json::from_str(response.split_once("\r\n\r\n").unwrap().1).unwrap(),
        )
    }

    fn end(self) {
        self.stop.send(true).unwrap();
        self.thread.join().unwrap().unwrap();
    }
}

fn exchange(mut stream: impl Read + Write, request: &str) -> (u16, String) {
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let status = response
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("{response}")), response)
}

#[test]
fn every_page_answers() {
    let running = Running::tcp();
    let (status, health) = running.json("/healthz");
    assert_eq!(
        (status, &health["healthy"], &health["cores"]),
        (200, &true.into(), &2.into())
    );

    let (status, ready) = running.json("/readyz");
    assert_eq!(
        (status, &ready["ready"], &ready["audit_lost"]),
        (200, &true.into(), &3.into())
    );

    let (status, metrics) = running.get("/metrics");
    assert_eq!(status, 200);
    assert!(
        metrics.contains("content-type: application/openmetrics-text"),
        "{metrics}"
    );
    assert!(
        metrics.contains("\nadit_sessions_accepted_total 20\n"),
        "{metrics}"
    );
    assert!(metrics.contains("\nadit_ready 1\n"), "{metrics}");
    assert!(metrics.ends_with("# EOF\n"));

    let (status, histograms) = running.json("/histograms");
    assert_eq!(
        (status, &histograms["stages"]["handshake"]["count"]),
        (200, &2.into())
    );
    assert_eq!(
        histograms["stages"].as_object().unwrap().len(),
        Stage::ALL.len()
    );
    let (status, hgrm) = running.get("/histograms?format=hgrm&stage=handshake");
    assert_eq!(status, 200);
    assert_eq!(hgrm.matches("#[Mean").count(), 1);
    let (_, buckets) = running.json("/histograms?format=buckets");
    let counts = buckets["stages"]["handshake"].as_array().unwrap();
    assert_eq!(counts.len(), buckets["bounds"].as_array().unwrap().len());
    let counts = counts.iter().map(|count| count.as_u64().unwrap());
    assert_eq!(counts.sum::<u64>(), 2);
    let (_, points) = running.json("/histograms?format=percentiles&stage=handshake");
    let points = points["stages"]["handshake"].as_array().unwrap();
    assert_eq!(points.last().unwrap()["total"], 2);
    let (_, every) = running.get("/histograms?format=hgrm");
    assert_eq!(every.matches("#[Stage").count(), Stage::ALL.len());

    let (status, tunnels) = running.json("/tunnels");
    let ids: Vec<u64> = tunnels
        .as_array()
        .unwrap()
        .iter()
        .map(|tunnel| tunnel["id"].as_u64().unwrap())
        .collect();
    assert_eq!((status, ids), (200, vec![10, 0, 1, 11]));
    let (_, limited) = running.get("/tunnels?limit=1");
    assert!(limited.contains("adit-tunnels-total: 4\r\n"), "{limited}");
    assert_eq!(limited.matches("\"id\"").count(), 1);
    running.end();
}

#[test]
fn the_page_is_whole_and_comes_with_its_policy() {
    let running = Running::tcp();
    let (status, page) = running.get("/");
    assert_eq!(status, 200);
    for header in [
        "content-type: text/html; charset=utf-8\r\n",
        "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self';",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "x-content-type-options: nosniff\r\n",
        "referrer-policy: same-origin\r\n",
        "cache-control: no-store\r\n",
        "cross-origin-opener-policy: same-origin\r\n",
        "cross-origin-embedder-policy: require-corp\r\n",
        "cross-origin-resource-policy: same-origin\r\n",
    ] {
        assert!(page.contains(header), "{header}{page}");
    }
    // Every file that a file of the page names is there, and the page names no others.
    let mut waiting = vec!["/".to_owned()];
    let mut seen = Vec::new();
    while let Some(path) = waiting.pop() {
        let (status, text) = running.get(&path);
        assert_eq!(status, 200, "{path}");
        assert!(!text.contains("https://"), "{path}");
        for quoted in text.split('"').skip(1).step_by(2) {
            let named = match quoted.strip_prefix("./") {
                Some(module) => format!("/page/{module}"),
                None => quoted.to_owned(),
            };
            if named.starts_with("/page/") && !seen.contains(&named) {
                seen.push(named.clone());
                waiting.push(named);
            }
        }
    }
    let files = std::fs::read_dir("src/control/page").unwrap();
    let files = files.flatten().map(|file| file.file_name());
    for file in files.filter(|name| name != "index.html" && name != "mod.rs") {
        let path = format!("/page/{}", file.to_str().unwrap());
        assert!(seen.contains(&path), "nothing names {path}: {seen:?}");
    }
    assert_eq!(running.get("/page/").0, 404);
    assert_eq!(running.get("/page/mod.rs").0, 404);
    running.end();
}

#[test]
fn wrong_requests_are_refused() {
    let running = Running::tcp();
    assert_eq!(running.json("/admin").0, 404);
    assert_eq!(running.json("/histograms?stage=none").0, 400);
    let (status, response) =
        running.send("POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc");
    assert_eq!(status, 405);
    assert!(response.contains("allow: GET, HEAD\r\n"), "{response}");

    let close = "Connection: close\r\n\r\n";
    for (request, expected) in [
        (
            format!("GET /metrics HTTP/1.1\r\nHost: attacker.example\r\n{close}"),
            421,
        ),
        (format!("GET /metrics HTTP/1.1\r\n{close}"), 421),
        (
            format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n{close}"),
            421,
        ),
        (
            format!("GET http://attacker.example/metrics HTTP/1.1\r\nHost: localhost\r\n{close}"),
            421,
        ),
        (
            format!("GET http://127.0.0.1/readyz HTTP/1.1\r\nHost: 127.0.0.1\r\n{close}"),
            200,
        ),
        (format!("GET /readyz HTTP/1.0\r\n{close}"), 200),
        (
            format!(
                "GET /readyz HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n{close}",
                "x".repeat(20_000)
            ),
            431,
        ),
    ] {
        let (status, response) = running.send(&request);
        assert_eq!(status, expected, "{request}{response}");
    }
    running.end();
}

#[test]
fn a_stuck_core_and_a_drain_show() {
    let running = Running::tcp();
    running
        .node
        .second_core_is_stuck
        .store(true, Ordering::Relaxed);
    running.node.draining.store(true, Ordering::Relaxed);
    let (status, health) = running.json("/healthz");
    assert_eq!(
        (status, &health["silent_cores"]),
        (503, &serde_json::json!([1]))
    );
    let (status, metrics) = running.get("/metrics");
    assert_eq!(status, 200);
    assert!(
        metrics.contains("\nadit_core_up{core=\"1\"} 0\n"),
        "{metrics}"
    );
    assert!(
        metrics.contains("\nadit_sessions_accepted_total 10\n"),
        "{metrics}"
    );
    assert!(metrics.contains("\nadit_ready 0\n"), "{metrics}");
    let (status, ready) = running.json("/readyz");
    assert_eq!(
        (status, &ready["reasons"]),
        (503, &serde_json::json!(["draining"]))
    );
    running.end();
}

#[test]
fn a_unix_socket_takes_a_host_that_is_no_site_and_is_removed_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let running = Running::start(&AdminListen::Unix(path.clone()));
    let stream = unix::net::UnixStream::connect(&path).unwrap();
    let (status, _) = exchange(
        stream,
        "GET /healthz HTTP/1.1\r\nHost: adit\r\nConnection: close\r\n\r\n",
    );
    assert_eq!(status, 200);
    // A page that was led here by DNS, through a port that ssh forwards to the socket.
    let stream = unix::net::UnixStream::connect(&path).unwrap();
    let (status, _) = exchange(
        stream,
        "GET /tunnels HTTP/1.1\r\nHost: attacker.example:9901\r\nConnection: close\r\n\r\n",
    );
    assert_eq!(status, 421);
    running.end();
    assert!(!path.exists());
}

#[test]
fn an_idle_connection_does_not_hold_up_the_end() {
    let running = Running::tcp();
    let mut idle = net::TcpStream::connect(running.address.unwrap()).unwrap();
    idle.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let mut first = [0; 12];
    idle.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    running.end();
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).unwrap();
}

mod changes;
