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
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded, select};

use super::admin_record::AdminRecord;
use super::sink::{AuditLogError, LogFile, Output, Stdout};
use crate::limits::{AUDIT_BATCH, AUDIT_QUEUE, AUDIT_STOP};

mod line;
mod node;
mod record;

pub(super) use line::Line;
pub(super) use node::NodeName;
pub use node::unique_id;
pub use record::{
    AuditEvent, AuditRecord, ProfileName, Protocol, RefusedFacts, Subject, TlsSession, TunnelFacts,
};

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
            node: NodeName::here(),
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
    node: NodeName,
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
                Queued::Tunnels(record) => record.append_to(&self.node, buffer),
                Queued::Admin(record) => record.append_to(&self.node, buffer),
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
