//! Cores in balance: an accepted connection goes to the least loaded core before its first byte is
//! read.
//!
//! The kernel spreads connections over the cores' listeners by a hash, which leaves a fifth of the
//! cores' load unequal, and tunnels that live long keep what they were dealt. A core that accepts
//! therefore compares the open sessions and gives the connection away where the difference is worth
//! it. From then on it stays where it is.
//!
//! A descriptor is always in one place: with the core that accepted it, in an inbox, or with the
//! core that serves it. An inbox that is closed takes nothing more and gives out what it holds, so
//! none is forgotten there.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::front::AcceptedBy;
use crate::limits::{HANDOVER_MIN, HANDOVER_QUEUE, HANDOVER_SHARE};
use crate::ring::Remote;
use crate::table::CoreLoad;

/// All cores of a node, as they see each other.
pub(super) struct Handover {
    cores: Vec<Member>,
}

struct Member {
    load: Arc<CoreLoad>,
    remote: OnceLock<Remote>,
    inbox: Inbox,
}

/// A connection that was accepted and not read from, and where.
#[derive(Debug)]
pub(super) struct Accepted {
    pub socket: OwnedFd,
    pub by: AcceptedBy,
}

/// Connections on their way to a core.
struct Inbox {
    /// How many they are, to be read without the lock; [`CLOSED`] where none is taken.
    length: AtomicUsize,
    queue: Mutex<Vec<Accepted>>,
}

/// Length of an inbox whose core has not started to accept, or has stopped.
const CLOSED: usize = usize::MAX;

impl Handover {
    /// For `cores` cores; none takes anything until it has joined.
    pub fn new(cores: usize) -> Self {
        let member = |_| Member {
            load: Arc::default(),
            remote: OnceLock::new(),
            inbox: Inbox {
                length: AtomicUsize::new(CLOSED),
                queue: Mutex::default(),
            },
        };
        Self {
            cores: (0..cores).map(member).collect(),
        }
    }

    /// The count of open sessions that core `core` keeps.
    pub fn load(&self, core: usize) -> Arc<CoreLoad> {
        self.cores[core].load.clone()
    }

    /// Core `core` takes connections from now on.
    pub fn join(&self, core: usize, remote: Remote) {
        let member = &self.cores[core];
        if member.remote.set(remote).is_ok() {
            member.inbox.length.store(0, Ordering::Relaxed);
        }
    }

    /// Core `core` takes no more connections. Those that wait for it.
    pub fn leave(&self, core: usize) -> Vec<Accepted> {
        self.cores[core].inbox.empty(CLOSED)
    }

    /// The connections that wait for core `core`.
    pub fn take(&self, core: usize) -> Vec<Accepted> {
        self.cores[core].inbox.empty(0)
    }

    /// The core that should serve what `here` has accepted, if it is another one.
    pub fn better_than(&self, here: usize) -> Option<usize> {
        better_than(here, self.cores.iter().map(Member::load))
    }

    /// Gives `accepted` to core `to`, which runs `serve` on its thread when something waits in its
    /// inbox.
    ///
    /// # Errors
    /// What the caller has to serve after all: this one, where the core takes none, and what was
    /// found with it in the inbox of a core that has ended.
    pub fn give(
        &self,
        to: usize,
        accepted: Accepted,
        serve: impl FnOnce() + Send + 'static,
    ) -> Result<(), Vec<Accepted>> {
        let member = &self.cores[to];
        let Some(remote) = member.remote.get() else {
            return Err(vec![accepted]);
        };
        let wake = member.inbox.push(accepted).map_err(|back| vec![back])?;
        if wake && !remote.run(serve) {
            return Err(self.leave(to));
        }
        Ok(())
    }
}

impl Member {
    /// Sessions open and on their way; `None` where no more are taken.
    fn load(&self) -> Option<usize> {
        match self.inbox.length.load(Ordering::Relaxed) {
            CLOSED => None,
            waiting => Some(self.load.open() + waiting),
        }
    }
}

impl Inbox {
    /// Adds `accepted`, unless the inbox is full or closed. Returns whether the core has to be
    /// told.
    fn push(&self, accepted: Accepted) -> Result<bool, Accepted> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        // Written under the lock alone, so it cannot change meanwhile.
        if self.length.load(Ordering::Relaxed) >= HANDOVER_QUEUE {
            return Err(accepted);
        }
        queue.push(accepted);
        self.length.store(queue.len(), Ordering::Relaxed);
        Ok(queue.len() == 1)
    }

    /// Takes everything. `length` is the new length, 0 or [`CLOSED`]; a closed inbox stays closed.
    fn empty(&self, length: usize) -> Vec<Accepted> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if self.length.load(Ordering::Relaxed) != CLOSED {
            self.length.store(length, Ordering::Relaxed);
        }
        std::mem::take(&mut *queue)
    }
}

/// The core with the least load, if the difference to `here` is beyond [`HANDOVER_MIN`] and beyond
/// that load's share of [`HANDOVER_SHARE`].
fn better_than(here: usize, loads: impl Iterator<Item = Option<usize>>) -> Option<usize> {
    let mut own = None;
    let mut least: Option<(usize, usize)> = None;
    for (core, load) in loads.enumerate() {
        let Some(load) = load else { continue };
        if core == here {
            own = Some(load);
        } else if least.is_none_or(|(_, other)| load < other) {
            least = Some((core, load));
        }
    }
    let (core, load) = least?;
    let slack = HANDOVER_MIN.max(load / HANDOVER_SHARE);
    (own? > load.saturating_add(slack)).then_some(core)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;
    use crate::config::ListenerKind;
    use crate::ring::{Runtime, RuntimeConfig};

    fn choice(here: usize, loads: &[Option<usize>]) -> Option<usize> {
        better_than(here, loads.iter().copied())
    }

    #[test]
    fn the_least_loaded_core_is_chosen_beyond_the_threshold_only() {
        let some = |loads: &[usize]| loads.iter().copied().map(Some).collect::<Vec<_>>();
        assert_eq!(choice(0, &some(&[HANDOVER_MIN, 0])), None);
        assert_eq!(choice(0, &some(&[HANDOVER_MIN + 1, 0])), Some(1));
        assert_eq!(choice(1, &some(&[0, HANDOVER_MIN + 1])), Some(0));
        assert_eq!(choice(0, &some(&[1000, 900, 800])), Some(2));
        assert_eq!(choice(1, &some(&[1000, 800, 800])), None);
        // The share counts where there are many.
        let many = HANDOVER_SHARE * 100;
        assert_eq!(choice(0, &some(&[many + 100, many])), None);
        assert_eq!(choice(0, &some(&[many + 101, many])), Some(1));
        assert_eq!(choice(0, &some(&[1000])), None);
    }

    #[test]
    fn a_core_that_takes_nothing_is_not_chosen() {
        assert_eq!(choice(0, &[Some(1000), None]), None);
        assert_eq!(choice(0, &[Some(1000), None, Some(3)]), Some(2));
        // Nor does one that has stopped give anything away.
        assert_eq!(choice(0, &[None, Some(0)]), None);
    }

    fn socket() -> Accepted {
        Accepted {
            socket: UdpSocket::bind("127.0.0.1:0").unwrap().into(),
            by: AcceptedBy {
                kind: ListenerKind::Https,
                settings: Arc::default(),
            },
        }
    }

    #[test]
    fn an_inbox_is_bounded_and_tells_its_core_once() {
        let handover = Handover::new(1);
        let inbox = &handover.cores[0].inbox;
        assert!(inbox.push(socket()).is_err(), "closed before it has joined");
        let runtime = Runtime::new(RuntimeConfig::default()).unwrap();
        handover.join(0, runtime.remote());
        assert!(inbox.push(socket()).unwrap());
        for _ in 1..HANDOVER_QUEUE {
            assert!(!inbox.push(socket()).unwrap());
        }
        assert!(inbox.push(socket()).is_err());
        assert_eq!(handover.take(0).len(), HANDOVER_QUEUE);
        assert!(inbox.push(socket()).unwrap());
        assert_eq!(handover.leave(0).len(), 1);
        assert!(inbox.push(socket()).is_err());
        assert!(handover.take(0).is_empty());
        assert_eq!(handover.cores[0].load(), None, "closed for good");
    }

    #[test]
    fn what_was_given_to_a_core_that_has_ended_comes_back() {
        let handover = Handover::new(2);
        let runtime = Runtime::new(RuntimeConfig::default()).unwrap();
        handover.join(1, runtime.remote());
        drop(runtime);
        let back = handover.give(1, socket(), || ()).unwrap_err();
        assert_eq!(back.len(), 1);
        assert_eq!(handover.cores[1].load(), None);
        let back = handover.give(1, socket(), || ()).unwrap_err();
        assert_eq!(back.len(), 1);
    }
}
