//! Tests of the audit log, with sinks that fail on demand.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Mutex;
use std::time::{Duration, UNIX_EPOCH};

use super::line::AUDIT_SCHEMA;
use super::*;
use crate::observe::TlsVersion;
use crate::reason::CloseReason;

fn subject(device: &str) -> Arc<Subject> {
    Arc::new(Subject {
        device: Some(device.into()),
        app: Some("mail".into()),
        serial: Some("0a1b".into()),
        issuer: Some("CN=Corp CA".into()),
        verified: true,
        ..Subject::of("192.0.2.7:4711".parse().unwrap())
    })
}

fn record(subject: Arc<Subject>, event: AuditEvent) -> AuditRecord {
    AuditRecord {
        time: UNIX_EPOCH + Duration::from_millis(1_700_000_000_042),
        subject,
        profile: Arc::new(ProfileName {
            name: "corp".into(),
            version: None,
        }),
        target: Some("wiki.corp.example.com:443".to_owned()),
        event,
    }
}

fn refusal(device: &str) -> AuditRecord {
    let event = AuditEvent::Refused {
        refused: RefusedFacts::default(),
        reason: CloseReason::NoRule,
        detail: None,
    };
    record(subject(device), event)
}

fn node() -> NodeName {
    NodeName {
        name: "gate-1".into(),
    }
}

fn line(record: &AuditRecord) -> String {
    let mut buffer = Vec::new();
    record.append_to(&node(), &mut buffer);
    String::from_utf8(buffer).unwrap()
}

fn value(record: &AuditRecord) -> serde_json::Map<String, serde_json::Value> {
    serde_json::from_str(&line(record)).unwrap()
}

#[test]
fn a_refusal_is_one_line_without_empty_keys() {
    assert_eq!(
        line(&refusal("urn:device:7")),
        "{\"@timestamp\":\"2023-11-14T22:13:20.042Z\",\"event.action\":\"refused\",\
         \"event.outcome\":\"failure\",\"adit.schema\":1,\"observer.name\":\"gate-1\",\
         \"adit.profile.name\":\"corp\",\"source.ip\":\"192.0.2.7\",\"source.port\":4711,\
         \"device.id\":\"urn:device:7\",\"adit.app\":\"mail\",\"adit.identity\":\"verified\",\
         \"tls.client.x509.serial_number\":\"0a1b\",\
         \"tls.client.x509.issuer.distinguished_name\":\"CN=Corp CA\",\
         \"destination.address\":\"wiki.corp.example.com\",\"destination.port\":443,\
         \"event.reason\":\"no-rule\",\"adit.kind\":\"refusal\",\"adit.who\":\"policy\"}\n"
    );
}

fn tunnel() -> TunnelFacts {
    TunnelFacts {
        tunnel: 9,
        service: "wiki".into(),
        rule: 3,
        server: "[2001:db8::5]:443".into(),
        udp: false,
    }
}

/// A record of each kind, with all that it can have.
fn one_of_each() -> Vec<AuditRecord> {
    let full = Subject {
        user: Some("ann".into()),
        server_name: Some("tunnel.example.com".into()),
        session: Some(5),
        protocol: Some(Protocol::Http2),
        tls: Some(TlsSession {
            version: TlsVersion::Tls13,
            suite: "TLS13_AES_128_GCM_SHA256",
            group: Some("X25519"),
            resumed: false,
        }),
        handshake: Some(Duration::from_micros(400)),
        ..(*subject("d")).clone()
    };
    let (duration, reason) = (Duration::from_micros(1_999), CloseReason::Closed);
    let events = [
        AuditEvent::TunnelStart {
            tunnel: tunnel(),
            authorize: Duration::from_nanos(700),
            connect: Duration::from_micros(90),
        },
        AuditEvent::TunnelEnd {
            tunnel: tunnel(),
            bytes_up: 1,
            bytes_down: 2,
            duration,
            reason,
        },
        AuditEvent::SessionEnd {
            requests: 2,
            duration,
            reason,
        },
        AuditEvent::Refused {
            refused: RefusedFacts {
                service: Some("wiki".into()),
                rule: Some(3),
                server: Some("10.0.0.5:443".into()),
            },
            reason: CloseReason::ServerUnreachable,
            detail: Some("why".into()),
        },
        AuditEvent::Repeated {
            sessions: false,
            count: 7,
            reason: CloseReason::NoRule,
        },
    ];
    let with_version = |event| AuditRecord {
        profile: Arc::new(ProfileName {
            name: "corp".into(),
            version: Some(12),
        }),
        ..record(Arc::new(full.clone()), event)
    };
    events.into_iter().map(with_version).collect()
}

#[test]
fn start_and_end_carry_the_same_tunnel() {
    let [start, end] = [0, 1].map(|at| value(&one_of_each()[at]));
    for key in [
        "adit.tunnel.id",
        "adit.session.id",
        "adit.rule",
        "adit.service",
    ] {
        assert!(start.contains_key(key), "{key}");
        assert_eq!(start[key], end[key], "{key}");
    }
    let id = start["adit.tunnel.id"].as_str().unwrap();
    assert!(id.ends_with("-9"), "{id}");
    let session = start["adit.session.id"].as_str().unwrap();
    assert!(session.ends_with("-s5"), "{session}");
    assert_eq!(start["server.address"], "2001:db8::5");
    assert_eq!(start["server.port"], 443);
    assert_eq!(start["tls.cipher"], "TLS_AES_128_GCM_SHA256");
    assert_eq!(start["http.response.status_code"], 200);
    assert!(!start.contains_key("event.reason"));
    assert_eq!(
        (
            &end["source.bytes"],
            &end["destination.bytes"],
            &end["event.duration"]
        ),
        (&1.into(), &2.into(), &1_999_000.into())
    );
}

#[test]
fn a_session_by_name_has_no_status_and_datagrams_are_a_protocol_of_their_own() {
    let mut start = one_of_each().remove(0);
    let mut subject = (*start.subject).clone();
    subject.protocol = Some(Protocol::Sni);
    start.subject = Arc::new(subject);
    let by_name = value(&start);
    assert_eq!(by_name["adit.protocol"], "sni");
    assert!(!by_name.contains_key("http.response.status_code"));
    if let AuditEvent::TunnelStart { tunnel, .. } = &mut start.event {
        tunnel.udp = true;
    }
    assert_eq!(value(&start)["adit.protocol"], "udp");
}

#[test]
fn the_document_has_each_key_and_no_other() {
    let mut written: BTreeSet<String> = BTreeSet::new();
    for record in &one_of_each() {
        written.extend(value(record).keys().cloned());
    }
    for record in &crate::observe::admin_record::one_of_each() {
        let mut buffer = Vec::new();
        record.append_to(&node(), &mut buffer);
        let line: serde_json::Map<_, _> = serde_json::from_slice(&buffer).unwrap();
        written.extend(line.keys().cloned());
    }
    let document = include_str!("../../../docs/audit.md");
    let rows = document.lines().filter(|line| line.starts_with("| `"));
    let described: BTreeSet<String> = rows
        .filter_map(|row| row.split('`').nth(1))
        .filter(|key| key.contains('.') || key.starts_with('@'))
        .map(str::to_owned)
        .collect();
    assert_eq!(described, written);
    assert!(document.contains(&format!("`adit.schema` is {AUDIT_SCHEMA}")));
}

#[test]
fn a_name_cannot_forge_a_line() {
    let text = line(&refusal("x\"}\n{\"event.action\":\"tunnel-start\u{1b}[2J"));
    assert_eq!(text.matches('\n').count(), 1);
    assert!(!text.contains('\u{1b}'));
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["event.action"], "refused");
}

/// A sink that takes as many bytes a write as the script says; `None` is a full disk. After the
/// script it takes all.
struct Scripted {
    script: VecDeque<Option<usize>>,
    written: Arc<Mutex<Vec<u8>>>,
}

impl Output for Scripted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = match self.script.pop_front() {
            Some(None) => return Err(io::ErrorKind::StorageFull.into()),
            Some(Some(count)) => count.min(bytes.len()),
            None => bytes.len(),
        };
        self.written
            .lock()
            .unwrap()
            .extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A writer without its thread, and what it has written.
fn writer(script: &[Option<usize>]) -> (Writer, Sender<Queued>, Arc<Mutex<Vec<u8>>>) {
    let written = Arc::<Mutex<Vec<u8>>>::default();
    let output = Box::new(Scripted {
        script: script.iter().copied().collect(),
        written: Arc::clone(&written),
    });
    let (queue, records) = bounded(8);
    let writer = Writer {
        node: node(),
        output,
        records,
        orders: crossbeam_channel::never(),
        lost: Arc::default(),
        torn: false,
        failing: false,
    };
    (writer, queue, written)
}

#[test]
fn short_writes_are_continued() {
    let (mut writer, _queue, written) = writer(&[Some(1), Some(7), Some(3)]);
    writer.write_batch(&mut Vec::new(), Queued::Tunnels(refusal("one")));
    assert_eq!(
        String::from_utf8(written.lock().unwrap().clone()).unwrap(),
        line(&refusal("one"))
    );
    assert_eq!(writer.lost.load(Ordering::Relaxed), 0);
}

#[test]
fn a_full_disk_loses_what_was_not_written_and_tears_no_later_line() {
    let whole = line(&refusal("one")).len();
    let (mut writer, queue, written) = writer(&[Some(whole + 5), None, None]);
    queue.send(Queued::Tunnels(refusal("two"))).unwrap();
    queue.send(Queued::Tunnels(refusal("three"))).unwrap();
    let mut buffer = Vec::new();
    writer.write_batch(&mut buffer, Queued::Tunnels(refusal("one")));
    assert_eq!(writer.lost.load(Ordering::Relaxed), 2);
    // Still full: the end of the torn line cannot be written either.
    writer.write_batch(&mut buffer, Queued::Tunnels(refusal("four")));
    assert_eq!(writer.lost.load(Ordering::Relaxed), 3);
    writer.write_batch(&mut buffer, Queued::Tunnels(refusal("five")));
    assert_eq!(writer.lost.load(Ordering::Relaxed), 3);

    let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert_eq!(format!("{}\n", lines[0]), line(&refusal("one")));
    assert_eq!(lines[1].len(), 5);
    assert_eq!(format!("{}\n", lines[2]), line(&refusal("five")));
}

/// A sink that says when it is asked to write, and waits until it is let go.
struct Blocked {
    entered: Sender<()>,
    release: Receiver<()>,
}

impl Output for Blocked {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.entered.try_send(());
        let _ = self.release.recv();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_queue_counts_and_does_not_wait() {
    let (entered, blocked) = bounded(1);
    let (let_go, release) = bounded(0);
    let log = AuditLog::start_with(Box::new(Blocked { entered, release }), 2).unwrap();
    let handle = log.handle();
    handle.write(refusal("held by the sink"));
    blocked.recv().unwrap();
    for _ in 0..10 {
        handle.write(refusal("two of these fit"));
    }
    assert_eq!(handle.lost(), 8);
    drop(let_go);
    assert_eq!(log.stop(), 8);
    // After the stop nobody writes: what comes now is lost, and counted.
    handle.write(refusal("late"));
    assert_eq!(handle.lost(), 9);
}

#[test]
fn a_file_is_flushed_at_the_stop_and_follows_a_rotation() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let log = AuditLog::start(AuditSink::File(path.clone())).unwrap();
    let handle = log.handle();
    assert!(handle.is_on());
    handle.write(refusal("one"));
    let rotated = folder.path().join("audit.jsonl.1");
    std::fs::rename(&path, &rotated).unwrap();
    log.reopen();
    // The writer takes orders and records as they come, so wait for the order's effect before the next record.
    while !path.exists() {
        thread::yield_now();
    }
    handle.write(refusal("two"));
    assert_eq!(log.stop(), 0);
    for (path, device) in [(rotated, "one"), (path, "two")] {
        let mut expected = Vec::new();
        refusal(device).append_to(&NodeName::here(), &mut expected);
        assert_eq!(std::fs::read(path).unwrap(), expected);
    }
}

#[test]
fn a_file_that_cannot_be_opened_is_named() {
    let error = AuditLog::start(AuditSink::File("/nonexistent/audit.jsonl".into())).unwrap_err();
    assert!(
        error.to_string().contains("/nonexistent/audit.jsonl"),
        "{error}"
    );
}

#[test]
fn off_takes_everything_and_loses_nothing() {
    let log = AuditLog::start(AuditSink::Off).unwrap();
    let handle = log.handle();
    assert!(!handle.is_on());
    handle.write(refusal("d"));
    log.reopen();
    assert_eq!(log.stop(), 0);
}
