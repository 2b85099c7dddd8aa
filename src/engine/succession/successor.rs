//! The process after this one, as the old process hears it.
//!
//! Two threads: one hears and answers that this process is there, the other activates what it
//! heard, which may take long. What is heard next comes when that is done, so nothing piles up.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use super::{Link, Message, Response, is_timeout, write};
use crate::limits::SUCCESSION_SILENCE;
use crate::ring;
use crate::table::{DeviceChanges, DeviceCollector};

/// A received change that is not active yet.
enum Heard {
    Reload,
    Reopen,
    /// To put millions of devices in order takes seconds.
    Devices {
        parts: DeviceCollector,
        whole: bool,
    },
}

/// A change that this process must activate.
pub enum Followed {
    /// The config, read again.
    Reload,
    /// The audit log's file, opened again.
    Reopen,
    /// These changes of devices.
    Devices(DeviceChanges),
    /// These devices, and no others.
    AllDevices(DeviceChanges),
}

/// The process after this one.
#[derive(Debug)]
pub struct Successor(Link);

impl Successor {
    /// At the other end of `link`, once it has said that it serves; it must do so within
    /// `patience`.
    ///
    /// # Errors
    /// It has ended ([`io::ErrorKind::BrokenPipe`]), says nothing for too long, or says what is not
    /// understood.
    pub fn await_service(link: UnixStream, patience: Duration) -> io::Result<Self> {
        let mut link = Link::new(link);
        link.set_timeouts(Some(patience), Some(SUCCESSION_SILENCE))?;
        match link.read() {
            Ok(Some(Message::Serving)) => {}
            Ok(Some(_)) => return Err(io::Error::other("it speaks before it serves")),
            Ok(None) => return Err(io::ErrorKind::BrokenPipe.into()),
            // It has ended before it has taken what was passed to it.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            Err(error) => return Err(error),
        }
        link.set_timeouts(Some(SUCCESSION_SILENCE), Some(SUCCESSION_SILENCE))?;
        Ok(Self(link))
    }

    /// Gives what it says to `work`, until it says no more. Why that is so.
    fn hear(mut self, work: &mpsc::Sender<Heard>, answers: &Mutex<UnixStream>) -> String {
        let mut parts = DeviceCollector::default();
        loop {
            let message = match self.0.read() {
                Ok(Some(message)) => message,
                Ok(None) => return "it has ended".to_owned(),
                Err(error) if is_timeout(&error) => {
                    return format!("it has said nothing for {} s", SUCCESSION_SILENCE.as_secs());
                }
                Err(error) => return format!("it is not understood: {error}"),
            };
            let heard = match message {
                Message::Ready | Message::Serving => continue,
                Message::Beat => match answer(answers, &Response::Here) {
                    Ok(()) => continue,
                    Err(error) => return format!("it takes no answer: {error}"),
                },
                Message::Reload => Heard::Reload,
                Message::Reopen => Heard::Reopen,
                Message::Devices(said) => {
                    said.iter().for_each(|said| said.add_to(&mut parts));
                    continue;
                }
                Message::Apply { whole } => Heard::Devices {
                    parts: std::mem::take(&mut parts),
                    whole,
                },
            };
            if work.send(heard).is_err() {
                return "no change is taken any more".to_owned();
            }
        }
    }
}

fn answer(answers: &Mutex<UnixStream>, answer: &Response) -> io::Result<()> {
    let mut stream = answers.lock().unwrap_or_else(PoisonError::into_inner);
    write(&mut stream, answer)
}

/// Follows `successor` until it says no more, which ends with the reason why. `take` activates what
/// it says, and gives back whether that was possible.
///
/// # Errors
/// The system's, at its limits.
pub fn follow(
    successor: Successor,
    take: impl Fn(Followed) -> bool + Send + 'static,
) -> io::Result<String> {
    let answers = Arc::new(Mutex::new(successor.0.writer()?));
    let (work, queue) = mpsc::channel::<Heard>();
    let theirs = answers.clone();
    let thread = thread::Builder::new().name("adit-follow".to_owned());
    thread.spawn(move || {
        ring::yield_to_others();
        for heard in queue {
            let is_answered = !matches!(heard, Heard::Reopen);
            let taken = match heard {
                Heard::Reload => take(Followed::Reload),
                Heard::Reopen => take(Followed::Reopen),
                Heard::Devices { parts, whole } => match parts.finish() {
                    Ok(changes) if whole => take(Followed::AllDevices(changes)),
                    Ok(changes) => take(Followed::Devices(changes)),
                    Err(error) => {
                        tracing::error!(%error, "a change of devices is lost");
                        false
                    }
                },
            };
            if is_answered && answer(&theirs, &Response::Done { taken }).is_err() {
                return;
            }
        }
    })?;
    Ok(successor.hear(&work, &answers))
}
