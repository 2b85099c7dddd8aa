//! The end of a process that is told to stop, whatever hangs: a file system without its server
//! holds the thread that asks it, and a runtime waits for its threads.
//!
//! A second signal to stop ends the process in the signal's handler. After the first, a thread of
//! its own counts the time: it waits for nothing that the rest of the process does.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

use crate::limits::{STOP_HEARD, STOP_LAST_WORD, STOP_POLL};

/// Exit code of a process that had to be ended.
const FAILED: i32 = 1;

/// When the process ends at the latest. There is none before somebody wants it to stop.
#[derive(Clone, Debug)]
pub struct Deadline {
    at: Arc<Mutex<Option<Instant>>>,
    /// Wakes the thread that counts.
    wake: Arc<UnixStream>,
}

impl Deadline {
    /// Counts from the first SIGTERM or SIGINT on, and has the second one end the process. For the
    /// rest of its life.
    ///
    /// # Errors
    /// The system refuses a handler or a thread.
    pub fn install() -> io::Result<Self> {
        let (wake, mut woken) = UnixStream::pair()?;
        let first = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            // In this order: the first one finds nothing to do.
            flag::register_conditional_shutdown(signal, FAILED, first.clone())?;
        }
        for signal in [SIGTERM, SIGINT] {
            flag::register(signal, first.clone())?;
            low_level::pipe::register(signal, wake.try_clone()?)?;
        }
        let deadline = Self {
            at: Arc::default(),
            wake: Arc::new(wake),
        };
        let at = deadline.at.clone();
        std::thread::Builder::new()
            .name("adit-deadline".to_owned())
            .spawn(move || {
                // An error would be the end of the other side, which this process is.
                if woken.read_exact(&mut [0]).is_ok() {
                    count(&at);
                }
            })?;
        Ok(deadline)
    }

    /// Gives the process so much time from now on, not more and not less.
    pub fn allow(&self, time: Duration) {
        *lock(&self.at) = Instant::now().checked_add(time);
        // It is full where the thread counts already.
        let _ = (&*self.wake).write(&[0]);
    }
}

fn lock(at: &Mutex<Option<Instant>>) -> std::sync::MutexGuard<'_, Option<Instant>> {
    at.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the process at the deadline, unless it has ended by itself.
fn count(at: &Mutex<Option<Instant>>) {
    lock(at).get_or_insert_with(|| Instant::now() + STOP_HEARD);
    while lock(at).is_none_or(|at| Instant::now() < at) {
        std::thread::sleep(STOP_POLL);
    }
    std::thread::spawn(|| {
        tracing::error!(
            "something blocks the end (a file system without its server?), and the process exits"
        );
    });
    std::thread::sleep(STOP_LAST_WORD);
    low_level::exit(FAILED);
}
