//! Tests of the audit log, with sinks that fail on demand.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::{Duration, UNIX_EPOCH};

use super::*;
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

fn refusal(device: &str) -> AuditRecord {
    AuditRecord {
        time: UNIX_EPOCH + Duration::from_millis(1_700_000_000_042),
        subject: subject(device),
        target: Some("wiki.corp.example.com:443".to_owned()),
        event: AuditEvent::Refused {
            service: None,
            reason: CloseReason::NoRule,
            detail: None,
        },
    }
}

fn line(record: &AuditRecord) -> String {
    let mut buffer = Vec::new();
    record.append_to(&mut buffer);
    String::from_utf8(buffer).unwrap()
}

#[test]
fn a_refusal_is_one_line_without_empty_keys() {
    assert_eq!(
        line(&refusal("urn:device:7")),
        "{\"time\":\"2023-11-14T22:13:20.042Z\",\"event\":\"refused\",\"peer\":\"192.0.2.7:4711\",\
         \"device\":\"urn:device:7\",\"app\":\"mail\",\"serial\":\"0a1b\",\"issuer\":\"CN=Corp CA\",\"identity\":\"verified\",\
         \"target\":\"wiki.corp.example.com:443\",\"reason\":\"no-rule\"}\n"
    );
}

#[test]
fn start_and_end_carry_the_same_tunnel() {
    let (service, server): (Arc<str>, Arc<str>) = ("wiki".into(), "10.0.0.5:443".into());
    let start = AuditEvent::TunnelStart {
        tunnel: 9,
        service: service.clone(),
        server: server.clone(),
    };
    let end = AuditEvent::TunnelEnd {
        tunnel: 9,
        service,
        server,
        bytes_up: 1,
        bytes_down: 2,
        duration: Duration::from_micros(1_999),
        reason: CloseReason::Closed,
    };
    let [start, end] = [start, end].map(|event| {
        let text = line(&AuditRecord {
            event,
            ..refusal("d")
        });
        serde_json::from_str::<serde_json::Value>(&text).unwrap()
    });
    assert_eq!(
        (&start["event"], &end["event"]),
        (&"tunnel-start".into(), &"tunnel-end".into())
    );
    assert_eq!(start["tunnel"], end["tunnel"]);
    assert!(start.get("reason").is_none());
    assert_eq!(
        (&end["bytes_up"], &end["bytes_down"], &end["duration_ms"]),
        (&1.into(), &2.into(), &1.into())
    );
}

#[test]
fn a_name_cannot_forge_a_line() {
    let text = line(&refusal("x\"}\n{\"event\":\"tunnel-start\u{1b}[2J"));
    assert_eq!(text.matches('\n').count(), 1);
    assert!(!text.contains('\u{1b}'));
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["event"], "refused");
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
    assert_eq!(
        std::fs::read_to_string(rotated).unwrap(),
        line(&refusal("one"))
    );
    assert_eq!(
        std::fs::read_to_string(path).unwrap(),
        line(&refusal("two"))
    );
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
