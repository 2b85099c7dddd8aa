//! One process after another on the same listeners. The new one takes them over; the old one finishes its tunnels, and is
//! told over a socket what it must not miss until then: that the config was read again, and which devices have changed.
//!
//! Messages are lines of JSON. Both ends are processes of one node, each of which may be of another version.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::limits::{SUCCESSION_DEVICES, SUCCESSION_MESSAGE_MAX, SUCCESSION_WRITE};
use crate::table::{DeviceChanges, DeviceCollector, DeviceEntry, DeviceState};

/// What the process before this one is told.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Message {
    Ready,
    Reload,
    Devices(Vec<Said>),
}

#[derive(Debug, Serialize, Deserialize)]
struct Said {
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

/// The process before this one, which finishes its tunnels.
#[derive(Debug)]
pub struct Predecessor(Mutex<Option<UnixStream>>);

impl Predecessor {
    /// At the other end of `link`.
    ///
    /// # Errors
    /// The system's.
    pub fn new(link: UnixStream) -> io::Result<Self> {
        link.set_write_timeout(Some(SUCCESSION_WRITE))?;
        Ok(Self(Mutex::new(Some(link))))
    }

    /// This process serves: the other one shall stop to accept.
    pub fn is_succeeded(&self) {
        self.tell(&Message::Ready);
    }

    /// The config was read again.
    pub fn reload(&self) {
        self.tell(&Message::Reload);
    }

    /// Devices have changed.
    pub fn devices_changed(&self, changes: &DeviceChanges) {
        let said: Vec<Said> = changes
            .iter()
            .map(|(name, entry)| said(name, entry))
            .collect();
        let mut said = said.into_iter().peekable();
        while said.peek().is_some() {
            let part = said.by_ref().take(SUCCESSION_DEVICES).collect();
            self.tell(&Message::Devices(part));
        }
    }

    /// May wait, up to a bound: not for a data core. A process that does not listen is told nothing more.
    fn tell(&self, message: &Message) {
        let mut link = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(stream) = link.as_mut() else { return };
        let mut line = serde_json::to_vec(message).unwrap_or_default();
        line.push(b'\n');
        if let Err(error) = stream.write_all(&line) {
            if error.kind() != io::ErrorKind::BrokenPipe {
                tracing::warn!(%error, "the process before this one does not listen any more");
            }
            *link = None;
        }
    }
}

/// What the process after this one says.
pub enum Event {
    /// It serves.
    Ready,
    /// It has read the config again.
    Reload,
    /// Devices have changed.
    Devices(DeviceChanges),
}

/// The process after this one.
#[derive(Debug)]
pub struct Successor(BufReader<UnixStream>);

impl Successor {
    /// At the other end of `link`; it must say that it serves within `patience`.
    ///
    /// # Errors
    /// The system's.
    pub fn new(link: UnixStream, patience: Duration) -> io::Result<Self> {
        link.set_read_timeout(Some(patience))?;
        Ok(Self(BufReader::new(link)))
    }

    /// From here on it may say nothing for as long as it likes.
    ///
    /// # Errors
    /// The system's.
    pub fn be_patient(&self) -> io::Result<()> {
        self.0.get_ref().set_read_timeout(None)
    }

    /// Waits for what it says next; `None` when it has ended.
    ///
    /// # Errors
    /// It says nothing for too long, or what is not understood.
    pub fn listen(&mut self) -> io::Result<Option<Event>> {
        let mut line = Vec::new();
        let limit = SUCCESSION_MESSAGE_MAX as u64;
        io::Read::take(&mut self.0, limit).read_until(b'\n', &mut line)?;
        if line.pop() != Some(b'\n') {
            return Ok(None);
        }
        Ok(Some(match serde_json::from_slice(&line)? {
            Message::Ready => Event::Ready,
            Message::Reload => Event::Reload,
            Message::Devices(said) => Event::Devices(changes(&said)?),
        }))
    }
}

fn said(name: &str, entry: DeviceEntry<'_>) -> Said {
    Said {
        device: name.to_owned(),
        state: match entry.state {
            DeviceState::Managed => State::Managed,
            DeviceState::Unmanaged => State::Unmanaged,
            DeviceState::Blocked => State::Blocked,
        },
        user: entry.user.map(str::to_owned),
    }
}

fn changes(said: &[Said]) -> io::Result<DeviceChanges> {
    let mut changes = DeviceCollector::default();
    for Said {
        device,
        state,
        user,
    } in said
    {
        let state = match state {
            State::Managed => DeviceState::Managed,
            State::Unmanaged => DeviceState::Unmanaged,
            State::Blocked => DeviceState::Blocked,
        };
        let user = user.as_deref();
        changes.add(device, DeviceEntry { state, user });
    }
    changes.finish().map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_arrives() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let predecessor = Predecessor::new(ours).unwrap();
        let mut successor = Successor::new(theirs, Duration::from_millis(50)).unwrap();
        assert!(successor.listen().is_err(), "silence");
        predecessor.is_succeeded();
        predecessor.reload();
        let mut all = DeviceCollector::default();
        for number in 0..=SUCCESSION_DEVICES {
            let name = format!("device-{number}");
            let state = [
                DeviceState::Managed,
                DeviceState::Unmanaged,
                DeviceState::Blocked,
            ][number % 3];
            let user = (number % 2 == 0).then_some("ann");
            all.add(&name, DeviceEntry { state, user });
        }
        let all = all.finish().unwrap();
        predecessor.devices_changed(&all);
        drop(predecessor);
        assert!(matches!(successor.listen().unwrap(), Some(Event::Ready)));
        assert!(matches!(successor.listen().unwrap(), Some(Event::Reload)));
        let mut seen = Vec::new();
        while let Some(Event::Devices(part)) = successor.listen().unwrap() {
            seen.extend(part.iter().map(|(name, entry)| format!("{name} {entry:?}")));
        }
        let mut expected: Vec<_> = all
            .iter()
            .map(|(name, entry)| format!("{name} {entry:?}"))
            .collect();
        seen.sort();
        expected.sort();
        assert_eq!(seen, expected);
        assert!(successor.listen().unwrap().is_none());
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let mut successor = Successor::new(theirs, Duration::from_secs(5)).unwrap();
        ours.write_all(b"{\"teapot\":1}\n").unwrap();
        assert!(successor.listen().is_err());
        ours.write_all(b"\"ready\"").unwrap();
        drop(ours);
        assert!(successor.listen().unwrap().is_none(), "cut short");
    }
}
