//! How long a client is waited for that is not authenticated yet, or has not asked for anything.

use std::rc::Rc;

use crate::access::{Core, GuestGuard};
use crate::reason::CloseReason;
use crate::ring::{self, Either};

/// The time for the handshake and the request together, and the client's place among those that are
/// not authenticated.
pub(super) struct Patience {
    deadline: ring::Sleep,
    pub guest: GuestGuard,
}

impl Patience {
    /// Of a connection that has just come.
    pub fn new(core: &Rc<Core>) -> Self {
        Self {
            deadline: ring::sleep(core.snapshot.borrow().limits.handshake_timeout),
            guest: GuestGuard::enter(core),
        }
    }

    /// Deadline and place, for [`bounded`].
    pub fn parts(&mut self) -> (&mut ring::Sleep, &GuestGuard) {
        (&mut self.deadline, &self.guest)
    }
}

/// Runs `step`: gives its result, `late` if the deadline is first, and another reason if the client
/// is given up. `None`: the node ends, and nothing is decided.
pub(super) fn in_time<T>(
    core: &Core,
    patience: &mut Patience,
    late: CloseReason,
    step: impl Future<Output = Result<T, CloseReason>>,
) -> impl Future<Output = Option<Result<T, CloseReason>>> {
    bounded(core, patience.parts(), late, step)
}

/// The same for a step that needs the client's place itself.
pub(super) fn bounded<T>(
    core: &Core,
    (deadline, guest): (&mut ring::Sleep, &GuestGuard),
    late: CloseReason,
    step: impl Future<Output = Result<T, CloseReason>>,
) -> impl Future<Output = Option<Result<T, CloseReason>>> {
    let over = ring::map(
        ring::race(guest.given_up(), deadline),
        move |first| match first {
            Either::Left(reason) => reason,
            Either::Right(()) => late,
        },
    );
    let stopped = ring::race(over, core.cut.wait());
    ring::map(
        ring::race(guest.keeping(step), stopped),
        |first| match first {
            Either::Left(done) => Some(done),
            Either::Right(Either::Left(reason)) => Some(Err(reason)),
            Either::Right(Either::Right(())) => None,
        },
    )
}
