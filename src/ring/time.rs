//! Timers over the core's wheel.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use pin_project_lite::pin_project;

use super::combine::{Either, Race, race};
use super::executor::{Core, current};

/// The time at the start of this loop turn; costs no clock call.
///
/// # Panics
/// Outside a runtime.
#[must_use]
pub fn now() -> Instant {
    current(|core| core.now.get())
}

/// A deadline on the core's timer wheel, exact to some ten microseconds, never early. It can be
/// moved.
pub struct Sleep {
    core: Rc<Core>,
    deadline: Instant,
    key: Option<usize>,
}

/// Waits for `duration` from the start of this loop turn.
#[must_use]
pub fn sleep(duration: Duration) -> Sleep {
    let core = current(Rc::clone);
    let deadline = core.now.get() + duration;
    Sleep {
        core,
        deadline,
        key: None,
    }
}

impl Sleep {
    /// Moves the deadline.
    pub fn reset(&mut self, deadline: Instant) {
        self.deadline = deadline;
        if let Some(key) = self.key.take() {
            self.core.timers.borrow_mut().remove(key);
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.core.now.get() >= self.deadline {
            return Poll::Ready(());
        }
        let tick = self.core.tick_at(self.deadline);
        let mut timers = self.core.timers.borrow_mut();
        if let Some(key) = self.key {
            if timers.refresh(key, context.waker()) {
                return Poll::Pending;
            }
            timers.remove(key);
        }
        let key = timers.insert(tick, context.waker().clone());
        drop(timers);
        self.key = Some(key);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.core.timers.borrow_mut().remove(key);
        }
    }
}

/// The time allowed has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("timed out")]
pub struct Elapsed;

pin_project! {
    /// See [`timeout`].
    pub struct Timeout<F> {
        #[pin]
        race: Race<F, Sleep>,
    }
}

/// Runs `future` for at most `duration`; then drops it, which cancels its operations. [`Elapsed`]
/// when the time is over first.
pub fn timeout<F: Future>(duration: Duration, future: F) -> Timeout<F> {
    Timeout {
        race: race(future, sleep(duration)),
    }
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().race.poll(context).map(|first| match first {
            Either::Left(value) => Ok(value),
            Either::Right(()) => Err(Elapsed),
        })
    }
}
