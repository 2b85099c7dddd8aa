//! A flag of one core that many tasks wait for.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use slab::Slab;

/// Raised once, seen by every waiter, those that come later included.
#[derive(Default)]
pub struct Signal {
    raised: Cell<bool>,
    waiters: RefCell<Slab<Waker>>,
}

impl Signal {
    /// Raises the flag and wakes every waiter.
    pub fn raise(&self) {
        self.raised.set(true);
        self.waiters
            .borrow()
            .iter()
            .for_each(|(_, waker)| waker.wake_by_ref());
    }

    /// Returns whether the flag is up.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        self.raised.get()
    }

    /// Waits for the flag.
    pub fn wait(&self) -> impl Future<Output = ()> + '_ {
        Wait {
            signal: self,
            key: None,
        }
    }
}

struct Wait<'a> {
    signal: &'a Signal,
    key: Option<usize>,
}

impl Future for Wait<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.signal.raised.get() {
            return Poll::Ready(());
        }
        let mut waiters = self.signal.waiters.borrow_mut();
        match self.key {
            Some(key) => waiters[key].clone_from(context.waker()),
            None => {
                let key = waiters.insert(context.waker().clone());
                drop(waiters);
                self.key = Some(key);
            }
        }
        Poll::Pending
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.signal.waiters.borrow_mut().remove(key);
        }
    }
}
