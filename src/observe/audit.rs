//! The audit log: one JSON line when a tunnel starts, one when it ends, one for each refusal (of a
//! client that is refused again and again, one for many), one for each change through the admin
//! listener.
//!
//! A core hands a record to a bounded queue and goes on; a thread of its own turns records into
//! lines and writes them. What does not fit into the queue, or cannot be written, is lost and
//! counted: the log never makes a core wait, and never loses a record in silence. A line is written
//! whole or, where the disk was full in its middle, ended before the next one. A failing sink is
//! tried again with the next records.
//!
//! It does not rotate files: a rotation tool renames the file, and [`AuditLog::reopen`] starts a
//! new one.

use std::io;
use std::iter;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, Sender, bounded, select};
use serde::Serialize;

use super::admin_record::AdminRecord;
use super::moment::rfc3339;
use super::sink::{AuditLogError, LogFile, Output, Stdout};
use crate::limits::{AUDIT_BATCH, AUDIT_QUEUE, AUDIT_STOP};
use crate::reason::CloseReason;

/// Destination of the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditSink {
    /// The process's standard output.
    Stdout,
    /// Nowhere.
    Off,
    /// Appended to this file, which is made with mode 0640 where it does not exist.
    File(PathBuf),
}

/// Who was at the other end; shared by the records of one session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The client's address.
    pub peer: SocketAddr,
    /// The device, as far as it is known.
    pub device: Option<Box<str>>,
    /// The user, as far as it is known.
    pub user: Option<Box<str>>,
    /// The app, as far as it is known.
    pub app: Option<Box<str>>,
    /// Serial number of the client certificate in hexadecimal, as far as it is known.
    pub serial: Option<Box<str>>,
}

/// One thing worth an audit line.
#[derive(Clone, Debug)]
pub struct AuditRecord {
    /// When it happened.
    pub time: SystemTime,
    /// Who.
    pub subject: Arc<Subject>,
    /// Destination that the client asked for (`host:port`), if known.
    pub target: Option<String>,
    /// The event.
    pub event: AuditEvent,
}

/// The event.
#[derive(Clone, Debug)]
pub enum AuditEvent {
    /// A tunnel was opened.
    TunnelStart {
        /// The tunnel's number, the same as in `/tunnels`.
        tunnel: u64,
        /// The service that a rule chose.
        service: Arc<str>,
        /// The server that was dialled.
        server: Arc<str>,
    },
    /// An opened tunnel ended.
    TunnelEnd {
        /// The tunnel's number, the same as at its start.
        tunnel: u64,
        /// The service that a rule chose.
        service: Arc<str>,
        /// The server that was dialled.
        server: Arc<str>,
        /// Payload bytes from the client to the server.
        bytes_up: u64,
        /// Payload bytes from the server to the client.
        bytes_down: u64,
        /// How long it was open.
        duration: Duration,
        /// Why it ended.
        reason: CloseReason,
    },
    /// A session that may have had many tunnels (HTTP/2) ended.
    SessionEnd {
        /// Requests that it made, those that were refused included.
        requests: u64,
        /// How long it was open, its handshake not included.
        duration: Duration,
        /// Why it ended.
        reason: CloseReason,
    },
    /// A session or tunnel was refused.
    Refused {
        /// The service, where it came to one.
        service: Option<Arc<str>>,
        /// Why.
        reason: CloseReason,
    },
    /// Refusals of a client that have no line each.
    Repeated {
        /// Ends of sessions in which every request was refused, and no refusals.
        sessions: bool,
        /// How many.
        count: u64,
        /// Why.
        reason: CloseReason,
    },
}

/// The line, in the order of its keys. A key without a value is left out.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tunnel: Option<u64>,
    peer: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    app: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    serial: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_up: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_down: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    requests: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

impl AuditRecord {
    /// A line of nothing but who and when.
    fn blank(&self) -> Line<'_> {
        let subject = &self.subject;
        Line {
            time: rfc3339(self.time),
            event: "refused",
            tunnel: None,
            peer: subject.peer,
            device: subject.device.as_deref(),
            user: subject.user.as_deref(),
            app: subject.app.as_deref(),
            serial: subject.serial.as_deref(),
            target: self.target.as_deref(),
            service: None,
            server: None,
            bytes_up: None,
            bytes_down: None,
            requests: None,
            count: None,
            duration_ms: None,
            reason: None,
        }
    }

    fn line(&self) -> Line<'_> {
        let mut line = self.blank();
        match &self.event {
            AuditEvent::TunnelStart {
                tunnel,
                service,
                server,
            } => {
                line.event = "tunnel-start";
                line.tunnel = Some(*tunnel);
                line.service = Some(service);
                line.server = Some(server);
            }
            AuditEvent::TunnelEnd {
                tunnel,
                service,
                server,
                bytes_up,
                bytes_down,
                duration,
                reason,
            } => {
                line.event = "tunnel-end";
                line.tunnel = Some(*tunnel);
                line.service = Some(service);
                line.server = Some(server);
                line.bytes_up = Some(*bytes_up);
                line.bytes_down = Some(*bytes_down);
                line.duration_ms = Some(millis(*duration));
                line.reason = Some(reason.word());
            }
            AuditEvent::SessionEnd {
                requests,
                duration,
                reason,
            } => {
                line.event = "session-end";
                line.requests = Some(*requests);
                line.duration_ms = Some(millis(*duration));
                line.reason = Some(reason.word());
            }
            AuditEvent::Refused { service, reason } => {
                line.service = service.as_deref();
                line.reason = Some(reason.word());
            }
            AuditEvent::Repeated {
                sessions,
                count,
                reason,
            } => {
                line.event = match sessions {
                    true => "session-end-more",
                    false => "refused-more",
                };
                line.count = Some(*count);
                line.reason = Some(reason.word());
            }
        }
        line
    }

    /// Appends the record as one line. JSON escapes control characters, so no name can break or
    /// forge a line.
    fn append_to(&self, buffer: &mut Vec<u8>) {
        serde_json::to_writer(&mut *buffer, &self.line()).expect("strings and numbers into memory");
        buffer.push(b'\n');
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The running audit log. Dropping it leaves the writer to end by itself when the last handle is
/// gone.
#[derive(Debug)]
pub struct AuditLog {
    handle: AuditHandle,
    thread: Option<WriterThread>,
}

#[derive(Debug)]
struct WriterThread {
    commands: Sender<Command>,
    stopped: Receiver<()>,
    join: thread::JoinHandle<()>,
}

#[derive(Debug)]
enum Command {
    Reopen,
    Stop,
}

/// An entry that waits for the writer.
#[derive(Debug)]
enum Queued {
    Tunnels(AuditRecord),
    Admin(Box<AdminRecord>),
}

/// A core's handle of the audit log.
#[derive(Clone, Debug)]
pub struct AuditHandle {
    queue: Option<Sender<Queued>>,
    lost: Arc<AtomicU64>,
}

impl AuditHandle {
    /// Hands a record over. Never waits; a record that finds no room is counted as lost.
    pub fn write(&self, record: AuditRecord) {
        self.put(Queued::Tunnels(record));
    }

    /// As [`AuditHandle::write`], a record of the admin listener.
    pub fn write_admin(&self, record: AdminRecord) {
        self.put(Queued::Admin(record.into()));
    }

    fn put(&self, entry: Queued) {
        if let Some(queue) = &self.queue
            && queue.try_send(entry).is_err()
        {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns whether records go anywhere: where they do not, a caller need not make them.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.queue.is_some()
    }

    /// Records lost since the start, to a full queue or a failing sink.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl AuditLog {
    /// Opens the sink and starts the writer's thread.
    ///
    /// # Errors
    ///
    /// The file cannot be opened for appending, or the thread cannot be started.
    pub fn start(sink: AuditSink) -> Result<Self, AuditLogError> {
        let output: Box<dyn Output> = match sink {
            AuditSink::Off => {
                let handle = AuditHandle {
                    queue: None,
                    lost: Arc::default(),
                };
                return Ok(Self {
                    handle,
                    thread: None,
                });
            }
            AuditSink::Stdout => Box::new(Stdout),
            AuditSink::File(path) => Box::new(LogFile::open(path)?),
        };
        Self::start_with(output, AUDIT_QUEUE).map_err(AuditLogError::Thread)
    }

    /// Returns whether a file can be appended to, as far as that can be told without making or
    /// opening it.
    ///
    /// # Errors
    /// [`AuditLogError::Open`].
    pub fn check(path: &Path) -> Result<(), AuditLogError> {
        super::sink::look_at(path).map_err(|source| AuditLogError::Open {
            path: path.to_owned(),
            source,
        })
    }

    fn start_with(output: Box<dyn Output>, queue: usize) -> io::Result<Self> {
        let (queue, records) = bounded(queue);
        let (commands, orders) = bounded(8);
        let (done, stopped) = bounded(0);
        let lost = Arc::<AtomicU64>::default();
        let writer = Writer {
            output,
            records,
            orders,
            lost: Arc::clone(&lost),
            torn: false,
            failing: false,
        };
        let join = thread::Builder::new()
            .name("adit-audit".to_owned())
            .spawn(move || {
                writer.run();
                drop(done);
            })?;
        let handle = AuditHandle {
            queue: Some(queue),
            lost,
        };
        Ok(Self {
            handle,
            thread: Some(WriterThread {
                commands,
                stopped,
                join,
            }),
        })
    }

    /// A handle for a core.
    #[must_use]
    pub fn handle(&self) -> AuditHandle {
        self.handle.clone()
    }

    /// Opens the file again by its name, after what is queued has been written: for SIGHUP after a
    /// rotation. Where that fails, the old file stays in use and a warning says so.
    pub fn reopen(&self) {
        if let Some(thread) = &self.thread {
            // A full command queue holds a reopen already, which is as good as this one.
            let _ = thread.commands.try_send(Command::Reopen);
        }
    }

    /// Writes what is queued and ends the writer. Returns how many records were lost in all. Waits
    /// at most [`AUDIT_STOP`] for a sink that blocks; what was still queued then counts as lost.
    pub fn stop(self) -> u64 {
        if let Some(thread) = self.thread {
            let deadline = Instant::now() + AUDIT_STOP;
            let _ = thread.commands.send_deadline(Command::Stop, deadline);
            // The writer never sends: its end closes the channel.
            match thread.stopped.recv_deadline(deadline) {
                Err(crossbeam_channel::RecvTimeoutError::Disconnected) => {
                    let _ = thread.join.join();
                }
                _ => {
                    let queued = self.handle.queue.as_ref().map_or(0, Sender::len);
                    tracing::warn!(queued, "the audit log's sink blocks; records are lost");
                    self.handle.lost.fetch_add(queued as u64, Ordering::Relaxed);
                }
            }
        }
        self.handle.lost()
    }
}

/// The state of the writer's thread.
struct Writer {
    output: Box<dyn Output>,
    records: Receiver<Queued>,
    orders: Receiver<Command>,
    lost: Arc<AtomicU64>,
    /// The last byte written was not the end of a line.
    torn: bool,
    /// The last write failed: the next failure is not worth another warning.
    failing: bool,
}

impl Writer {
    fn run(mut self) {
        let mut buffer = Vec::new();
        loop {
            select! {
                recv(self.records) -> record => match record {
                    Ok(record) => self.write_batch(&mut buffer, record),
                    Err(_) => return,
                },
                recv(self.orders) -> order => {
                    // What was handed over before the order is written first.
                    // Bounded, because the cores may go on while it is written.
                    for _ in 0..=AUDIT_QUEUE / AUDIT_BATCH {
                        match self.records.try_recv() {
                            Ok(record) => self.write_batch(&mut buffer, record),
                            Err(_) => break,
                        }
                    }
                    match order {
                        Ok(Command::Reopen) => self.reopen(),
                        Ok(Command::Stop) => return,
                        // The log was dropped without a stop: go on until the handles are gone as well.
                        Err(_) => self.orders = crossbeam_channel::never(),
                    }
                }
            }
        }
    }

    /// Writes the record and those that wait behind it, as far as a batch goes.
    fn write_batch(&mut self, buffer: &mut Vec<u8>, first: Queued) {
        buffer.clear();
        let mut lines = 0;
        for record in iter::once(first)
            .chain(self.records.try_iter())
            .take(AUDIT_BATCH)
        {
            match record {
                Queued::Tunnels(record) => record.append_to(buffer),
                Queued::Admin(record) => record.append_to(buffer),
            }
            lines += 1;
        }
        match self.write_lines(buffer) {
            Ok(()) if self.failing => {
                self.failing = false;
                tracing::info!(
                    lost = self.lost.load(Ordering::Relaxed),
                    "the audit log is written again"
                );
            }
            Ok(()) => {}
            Err(Failed { whole, error }) => {
                self.lost.fetch_add(lines - whole, Ordering::Relaxed);
                if !self.failing {
                    self.failing = true;
                    tracing::warn!(%error, "cannot write the audit log; records are lost until it can be");
                }
            }
        }
    }

    fn write_lines(&mut self, lines: &[u8]) -> Result<(), Failed> {
        let newline = if self.torn { b"\n".as_slice() } else { b"" };
        if let Err((_, error)) = self.write_all(newline) {
            return Err(Failed { whole: 0, error });
        }
        self.torn = false;
        if let Err((written, error)) = self.write_all(lines) {
            let done = &lines[..written];
            self.torn = done.last().is_some_and(|byte| *byte != b'\n');
            return Err(Failed {
                whole: done.iter().filter(|byte| **byte == b'\n').count() as u64,
                error,
            });
        }
        self.output
            .flush()
            .map_err(|error| Failed { whole: 0, error })
    }

    /// Writes all, or says how many bytes were written before the failure.
    fn write_all(&mut self, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
        let mut written = 0;
        while written < bytes.len() {
            match self.output.write(&bytes[written..]) {
                Ok(0) => return Err((written, io::ErrorKind::WriteZero.into())),
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err((written, error)),
            }
        }
        Ok(())
    }

    fn reopen(&mut self) {
        match self.output.reopen() {
            Ok(()) => self.torn = false,
            Err(error) => tracing::warn!(%error, "the audit log keeps the file it had"),
        }
    }
}

/// A batch was not written, apart from its first lines.
struct Failed {
    whole: u64,
    error: io::Error,
}

#[cfg(test)]
mod tests;
