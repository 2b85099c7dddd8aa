//! Permits for long steps: a few for each loop turn, first come, first served.
//!
//! A step that takes the CPU for hundreds of microseconds (a handshake's signature) is a loop
//! turn's whole latency for every other task. A task asks for a permit before such a step and gets
//! it after the turn's other work is done, so that many such tasks wait for each other and nobody
//! else waits for them.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::executor::{Core, current};

/// The tasks that wait for a permit, the one that came first in front.
#[derive(Default)]
pub(super) struct Permits {
    waiting: RefCell<VecDeque<Rc<Ticket>>>,
}

/// One task's place among them. Its future holds it too: a place that only the queue holds has been
/// given up.
struct Ticket {
    waker: RefCell<Waker>,
    granted: Cell<bool>,
}

impl Permits {
    /// Returns whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.borrow().is_empty()
    }

    /// Grants `limit` permits at most. Returns how many tasks were woken.
    pub fn grant(&self, limit: usize) -> usize {
        let mut granted = 0;
        while granted < limit {
            let Some(place) = self.waiting.borrow_mut().pop_front() else {
                break;
            };
            if Rc::strong_count(&place) > 1 {
                place.granted.set(true);
                place.waker.borrow().wake_by_ref();
                granted += 1;
            }
        }
        granted
    }
}

/// Waits for a permit of this core's loop turns ([`super::RuntimeConfig::permits_per_turn`]). What
/// runs from there to the task's next wait is the step that is permitted.
///
/// # Panics
/// Outside a runtime.
pub fn permit() -> impl Future<Output = ()> {
    Permit {
        core: current(Rc::clone),
        place: None,
    }
}

struct Permit {
    core: Rc<Core>,
    place: Option<Rc<Ticket>>,
}

impl Future for Permit {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        match &self.place {
            Some(place) if place.granted.get() => return Poll::Ready(()),
            Some(place) => place.waker.borrow_mut().clone_from(context.waker()),
            None => {
                let place = Rc::new(Ticket {
                    waker: RefCell::new(context.waker().clone()),
                    granted: Cell::new(false),
                });
                let mut waiting = self.core.permits.waiting.borrow_mut();
                waiting.push_back(place.clone());
                drop(waiting);
                self.place = Some(place);
            }
        }
        Poll::Pending
    }
}
