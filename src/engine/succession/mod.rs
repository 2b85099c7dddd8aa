//! One process after another on the same listeners. The new one takes them over; the old one
//! finishes its tunnels, and is told over a socket what it must not miss until then: that the
//! config was read again, and which devices have changed.
//!
//! Messages are lines of JSON. Both ends are processes of one node, each of which may be of another
//! version: a process says to one of an older version only what that one understands.
//!
//! Neither waits for the other for longer than a bound. A link that is lost is never lost in
//! silence: the new process says so, and the old one ends
//! ([`SUCCESSION_ORPHANED`](crate::limits::SUCCESSION_ORPHANED)), by itself or by a signal.

mod passing;
mod predecessor;
mod successor;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::limits::SUCCESSION_MESSAGE_MAX;
use crate::table::{DeviceCollector, DeviceEntry, DeviceState};

pub use passing::{pass, receive};
pub use predecessor::{Predecessor, PredecessorInfo};
pub use successor::{Followed, Successor, follow};

/// A message to the process before this one.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Message {
    /// It serves: what a process of the first version understands, to which each part of a change
    /// is one change.
    Ready,
    /// It serves.
    Serving,
    /// The config was read again.
    Reload,
    /// The audit log's file is to be opened again.
    Reopen,
    /// Devices, or a part of them.
    Devices(Vec<DeviceMessage>),
    /// The parts that came since the last such are one change; or all devices, where `whole` is
    /// set.
    Apply { whole: bool },
    /// Is the other process there?
    Beat,
}

/// Its response.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Response {
    /// To [`Message::Beat`].
    Here,
    /// To [`Message::Reload`] and [`Message::Apply`]: it is active, or refused.
    Done { taken: bool },
}

#[derive(Debug, Serialize, Deserialize)]
struct DeviceMessage {
    device: String,
    state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    Managed,
    Unmanaged,
    Blocked,
}

impl DeviceMessage {
    fn new(name: &str, entry: DeviceEntry<'_>) -> Self {
        Self {
            device: name.to_owned(),
            state: match entry.state {
                DeviceState::Managed => State::Managed,
                DeviceState::Unmanaged => State::Unmanaged,
                DeviceState::Blocked => State::Blocked,
            },
            user: entry.user.map(str::to_owned),
        }
    }

    fn add_to(&self, changes: &mut DeviceCollector) {
        let state = match self.state {
            State::Managed => DeviceState::Managed,
            State::Unmanaged => DeviceState::Unmanaged,
            State::Blocked => DeviceState::Blocked,
        };
        let user = self.user.as_deref();
        changes.add(&self.device, DeviceEntry { state, user });
    }
}

/// One end of the link.
#[derive(Debug)]
struct Link {
    stream: BufReader<UnixStream>,
    /// The beginning of a line whose end has not come.
    begun: Vec<u8>,
}

impl Link {
    fn new(stream: UnixStream) -> Self {
        Self {
            stream: BufReader::new(stream),
            begun: Vec::new(),
        }
    }

    fn set_timeouts(&self, read: Option<Duration>, write: Option<Duration>) -> io::Result<()> {
        let stream = self.stream.get_ref();
        stream.set_read_timeout(read)?;
        stream.set_write_timeout(write)
    }

    /// Another handle, to write from another thread.
    fn writer(&self) -> io::Result<UnixStream> {
        self.stream.get_ref().try_clone()
    }

    /// Waits for the next line; `None` when the other end is closed. What has come of a line stays
    /// where the time is over.
    fn read<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let room = (SUCCESSION_MESSAGE_MAX - self.begun.len()) as u64;
        let mut bounded = Read::take(&mut self.stream, room);
        bounded.read_until(b'\n', &mut self.begun)?;
        if self.begun.last() != Some(&b'\n') {
            return match self.begun.len() < SUCCESSION_MESSAGE_MAX {
                true => Ok(None),
                false => Err(io::Error::other("a message is too long")),
            };
        }
        let line = std::mem::take(&mut self.begun);
        Ok(Some(serde_json::from_slice(&line)?))
    }

    fn write(&mut self, message: &impl Serialize) -> io::Result<()> {
        write(self.stream.get_mut(), message)
    }
}

fn write(stream: &mut UnixStream, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line)
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

#[cfg(test)]
mod tests;
