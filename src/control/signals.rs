//! The process's signals, as what they ask for.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR2};
use signal_hook::{SigId, flag, low_level};
use tokio::signal::unix::{self, SignalKind};

/// Request of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGHUP: read the configuration again, and open the audit log again.
    Reload,
    /// SIGTERM or SIGINT: drain and end. The second one asks to end at once; counting them is the
    /// receiver's.
    Stop,
    /// SIGUSR2: start a new process on the same listeners, drain and end.
    Upgrade,
}

/// Signals that come before the control core runs: noted, where they would end the process by
/// themselves.
#[derive(Debug)]
pub struct EarlySignals {
    actions: Vec<SigId>,
    hangup: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    upgrade: Arc<AtomicBool>,
}

impl EarlySignals {
    /// Notes signals from here on. To be called before anybody can know that the process is there.
    ///
    /// # Errors
    ///
    /// The system refuses a handler.
    pub fn note() -> io::Result<Self> {
        let (hangup, stop, upgrade) = (Arc::default(), Arc::default(), Arc::default());
        let note = |signal, flag: &Arc<AtomicBool>| flag::register(signal, flag.clone());
        Ok(Self {
            actions: vec![
                note(SIGHUP, &hangup)?,
                note(SIGTERM, &stop)?,
                note(SIGINT, &stop)?,
                note(SIGUSR2, &upgrade)?,
            ],
            hangup,
            stop,
            upgrade,
        })
    }

    /// Notes no more. What was noted, the stop last.
    fn end(self) -> VecDeque<Signal> {
        self.actions.into_iter().for_each(|action| {
            low_level::unregister(action);
        });
        let noted = [
            (self.hangup, Signal::Reload),
            (self.upgrade, Signal::Upgrade),
            (self.stop, Signal::Stop),
        ];
        let noted = noted.into_iter();
        noted
            .filter(|(flag, _)| flag.load(Ordering::Relaxed))
            .map(|(_, signal)| signal)
            .collect()
    }
}

/// The installed signal handlers.
#[derive(Debug)]
pub struct Signals {
    early: VecDeque<Signal>,
    hangup: unix::Signal,
    terminate: unix::Signal,
    interrupt: unix::Signal,
    upgrade: unix::Signal,
}

impl Signals {
    /// Installs the handlers for the rest of the process's life, in place of those of `early`: none
    /// of these signals ends the process by itself.
    ///
    /// # Errors
    ///
    /// The system refuses a handler.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime: call it in the `extra` future of
    /// [`Control::run`](super::Control::run).
    pub fn install(early: EarlySignals) -> io::Result<Self> {
        Ok(Self {
            hangup: unix::signal(SignalKind::hangup())?,
            terminate: unix::signal(SignalKind::terminate())?,
            interrupt: unix::signal(SignalKind::interrupt())?,
            upgrade: unix::signal(SignalKind::user_defined2())?,
            // After the handlers: a signal in between is seen by both rather than by none.
            early: early.end(),
        })
    }

    /// The next signal. Signals of one kind that come faster than they are taken may count as one.
    pub async fn next(&mut self) -> Signal {
        if let Some(signal) = self.early.pop_front() {
            return signal;
        }
        tokio::select! {
            _ = self.hangup.recv() => Signal::Reload,
            _ = self.terminate.recv() => Signal::Stop,
            _ = self.interrupt.recv() => Signal::Stop,
            _ = self.upgrade.recv() => Signal::Upgrade,
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
        let early = EarlySignals::note().unwrap();
        kill("HUP");
        kill("INT");
        kill("USR2");
        // Each is taken by some thread of this process, when that runs.
        let flags = [&early.hangup, &early.stop, &early.upgrade];
        while !flags.iter().all(|flag| flag.load(Ordering::Relaxed)) {
            std::thread::yield_now();
        }
        let mut signals = Signals::install(early).unwrap();
        assert_eq!(signals.next().await, Signal::Reload);
        assert_eq!(signals.next().await, Signal::Upgrade);
        assert_eq!(signals.next().await, Signal::Stop);
        for (name, expected) in [
            ("HUP", Signal::Reload),
            ("TERM", Signal::Stop),
            ("INT", Signal::Stop),
            ("USR2", Signal::Upgrade),
        ] {
            kill(name);
            assert_eq!(signals.next().await, expected);
        }
    }

    fn kill(name: &str) {
        let command = format!("kill -{name} {}", std::process::id());
        assert!(
            std::process::Command::new("sh")
                .args(["-c", &command])
                .status()
                .unwrap()
                .success()
        );
    }
}
