//! The process's signals, as what they ask for.

use std::io;

use tokio::signal::unix::{self, SignalKind};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGHUP: read the configuration again, and open the audit log again.
    Reload,
    /// SIGTERM or SIGINT: drain and end. The second one asks to end at once; counting them is the receiver's.
    Stop,
}

/// The installed signal handlers.
#[derive(Debug)]
pub struct Signals {
    hangup: unix::Signal,
    terminate: unix::Signal,
    interrupt: unix::Signal,
}

impl Signals {
    /// Installs the handlers for the rest of the process's life: from here on none of these signals ends the process by
    /// itself.
    ///
    /// # Errors
    ///
    /// The system refuses a handler.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime: call it in the `extra` future of [`Control::run`](super::Control::run).
    pub fn install() -> io::Result<Self> {
        Ok(Self {
            hangup: unix::signal(SignalKind::hangup())?,
            terminate: unix::signal(SignalKind::terminate())?,
            interrupt: unix::signal(SignalKind::interrupt())?,
        })
    }

    /// The next signal. Signals of one kind that come faster than they are taken may count as one.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.hangup.recv() => Signal::Reload,
            _ = self.terminate.recv() => Signal::Stop,
            _ = self.interrupt.recv() => Signal::Stop,
        }
    }

    /// Gives each signal to the callback, for ever.
    pub async fn run(mut self, mut on_signal: impl FnMut(Signal)) {
        loop {
            on_signal(self.next().await);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn signals_ask_for_what_operators_expect() {
        let mut signals = Signals::install().unwrap();
        for (name, expected) in [
            ("HUP", Signal::Reload),
            ("TERM", Signal::Stop),
            ("INT", Signal::Stop),
        ] {
            let command = format!("kill -{name} {}", std::process::id());
            assert!(
                std::process::Command::new("sh")
                    .args(["-c", &command])
                    .status()
                    .unwrap()
                    .success()
            );
            assert_eq!(signals.next().await, expected);
        }
    }
}
