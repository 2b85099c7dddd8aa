//! Clients that are not authenticated yet: how many a core holds, and which is given up when there
//! are too many.
//!
//! They have a share of their own of each core: of its connections and of the bytes that it keeps
//! for them. When the share is full, the one that has kept the core waiting for longest is given
//! up, and the newest comes in: a client that only waits takes nobody's place. What waits for the
//! core itself (a handshake's turn) is never given up. What has just come is not given up for
//! another one; when there is nothing else, the core accepts later: a storm of reconnections is
//! served in its turn. Only where the core keeps too many bytes those that hold most of them are
//! given up, and where it has no more files the oldest, however new they are. One source has no
//! more than a part of the share, by the same rule. Where it has more, because all of it has just
//! come, and the share is full, places are taken from that source first, however new they are, if
//! there is another one. It is not let in while too many of its handshakes have failed, or too many
//! of its connections were given up.
//!
//! A core counts for itself. Memory is bounded by the share, and by [`SOURCES_MAX`].

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use super::core::Core;
use crate::limits::{FAILED_HANDSHAKES_BURST, GUEST_GRACE, LINGER, RELIEVED_PART, SOURCES_MAX};
use crate::reason::{CloseReason, Who};
use crate::ring;

/// Limits of a core for clients that are not authenticated yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmissionLimits {
    /// Connections at once, for certain.
    pub open: usize,
    /// Connections at once, where tunnels leave open files for them.
    pub most: usize,
    /// Open files of the node for tunnels and for these connections.
    pub descriptors: usize,
    /// Cores of the node.
    pub cores: usize,
    /// Those of one source; 0: as many.
    pub open_per_source: usize,
    /// Handshakes a second that may fail for one source; 0: as many as there are.
    pub failed_per_second: u64,
}

impl AdmissionLimits {
    /// Connections at once while so many tunnels are open: a half of what they leave of the open
    /// files, if that is more than what there is for certain.
    #[must_use]
    pub fn share(&self, tunnels: usize) -> usize {
        let free = self.descriptors.saturating_sub(tunnels.saturating_mul(2));
        (free / 2 / self.cores.max(1)).min(self.most).max(self.open)
    }
}

/// Source of connections: an IPv4 address, or the 64 bits of an IPv6 address that one network has
/// for itself (RFC 4291, section 2.5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum SourceNetwork {
    V4(u32),
    V6(u64),
}

impl SourceNetwork {
    /// Returns where `address` is.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.into()),
            IpAddr::V6(address) => Self::V6((u128::from(address) >> 64) as u64),
        }
    }
}

/// Record of one source.
#[derive(Default)]
struct Origin {
    open: usize,
    /// Those of them that wait for their clients, the oldest first.
    waiting: BTreeSet<u64>,
    /// Until when its failed handshakes are paid for, by the time of [`Guests::time`].
    paid: Duration,
}

impl Origin {
    fn is_known_for_nothing(&self, now: Duration) -> bool {
        self.open == 0 && self.paid <= now
    }
}

/// One connection's place.
struct Guest {
    number: u64,
    since: Instant,
    source: Cell<Option<SourceNetwork>>,
    /// Bytes that are kept for it.
    held: Cell<u64>,
    /// Why it is given up.
    ending: Cell<Option<CloseReason>>,
    waker: RefCell<Option<Waker>>,
}

impl Guest {
    fn has_had_time(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= GUEST_GRACE
    }
}

/// The connections of one core whose clients are not authenticated yet.
pub(crate) struct Guests {
    epoch: Instant,
    next: Cell<u64>,
    open: Cell<usize>,
    /// Those that wait for their clients, the oldest first.
    waiting: RefCell<BTreeMap<u64, Rc<Guest>>>,
    origins: RefCell<HashMap<SourceNetwork, Origin>>,
    /// Those whose source is known.
    sourced: Cell<usize>,
    /// The last source that was left with more than its part.
    greedy: Cell<Option<SourceNetwork>>,
    /// Bytes that are kept for those that are given up and not gone yet.
    leaving: Cell<u64>,
}

impl Default for Guests {
    fn default() -> Self {
        Self {
            epoch: Instant::now(),
            next: 0.into(),
            open: 0.into(),
            waiting: RefCell::default(),
            origins: RefCell::default(),
            sourced: 0.into(),
            greedy: Cell::new(None),
            leaving: 0.into(),
        }
    }
}

impl Guests {
    /// How many there are.
    pub fn open(&self) -> usize {
        self.open.get()
    }

    /// How many sources are known.
    pub fn sources(&self) -> usize {
        self.origins.borrow().len()
    }

    /// Returns whether the share is full, and nobody of it can be given up.
    pub fn is_full(&self, share: usize, limits: &AdmissionLimits, now: Instant) -> bool {
        self.open.get() >= share && self.next_to_go(limits, now).is_none()
    }

    /// Who is given up for another one, and why.
    fn next_to_go(
        &self,
        limits: &AdmissionLimits,
        now: Instant,
    ) -> Option<(Rc<Guest>, CloseReason)> {
        let greedy = self.oldest_of_greedy(limits.open_per_source);
        let greedy = greedy.map(|guest| (guest, CloseReason::SourceLimit));
        greedy.or_else(|| {
            let oldest = self.oldest(now)?;
            Some((oldest, CloseReason::UnauthenticatedLimit))
        })
    }

    /// The oldest that waits of a source that has more than its part, however new it is: it must
    /// not keep others out. One that is alone keeps nobody out for longer than [`GUEST_GRACE`].
    fn oldest_of_greedy(&self, most: usize) -> Option<Rc<Guest>> {
        let origins = self.origins.borrow();
        let origin = origins.get(&self.greedy.get()?)?;
        let is_greedy = most > 0 && origin.open > most && origin.open < self.sourced.get();
        let oldest = origin.waiting.first().filter(|_| is_greedy)?;
        self.waiting.borrow().get(oldest).cloned()
    }

    /// The oldest of those that wait for their clients, if its time is over.
    fn oldest(&self, now: Instant) -> Option<Rc<Guest>> {
        let waiting = self.waiting.borrow();
        let oldest = waiting.values().next();
        oldest.filter(|guest| guest.has_had_time(now)).cloned()
    }

    fn enter(&self, now: Instant) -> Rc<Guest> {
        let number = self.next.get();
        self.next.set(number + 1);
        self.open.set(self.open.get() + 1);
        let guest = Rc::new(Guest {
            number,
            since: now,
            source: Cell::new(None),
            held: 0.into(),
            ending: Cell::new(None),
            waker: RefCell::default(),
        });
        self.waiting.borrow_mut().insert(number, guest.clone());
        guest
    }

    /// Gives up those that wait for their clients until the share is kept.
    fn make_room(&self, share: usize, limits: &AdmissionLimits, now: Instant) {
        while self.open.get() > share
            && let Some((guest, reason)) = self.next_to_go(limits, now)
        {
            self.give_up(&guest, reason, limits, now);
        }
    }

    /// Bytes that are free as soon as those that are given up have gone.
    pub fn leaving(&self) -> u64 {
        self.leaving.get()
    }

    /// Gives up what is more than the share, or more than the part of its source: both may be less
    /// than they were, and what had just come has had its time.
    pub fn keep_to_shares(&self, share: usize, limits: &AdmissionLimits, now: Instant) {
        self.make_room(share, limits, now);
        let part = limits.open_per_source;
        if part == 0 || self.open.get() <= part {
            return;
        }
        let origins = self.origins.borrow();
        let over = origins.iter().filter(|(_, origin)| origin.open > part);
        let over: Vec<SourceNetwork> = over.map(|(source, _)| *source).collect();
        drop(origins);
        for source in over {
            self.keep_to(limits, source, now);
        }
    }

    /// Gives up a part of those that wait for their clients, the oldest first: there are no more
    /// files.
    pub fn give_files_back(&self, limits: &AdmissionLimits, now: Instant) {
        let waiting = self.waiting.borrow();
        let count = waiting.len() / RELIEVED_PART + 1;
        let oldest: Vec<Rc<Guest>> = waiting.values().take(count).cloned().collect();
        drop(waiting);
        for guest in oldest {
            self.give_up(&guest, CloseReason::UnauthenticatedLimit, limits, now);
        }
    }

    /// Gives up those for whom most bytes are kept, the oldest of equals first, until `excess`
    /// bytes are free. One with no more than an equal part of `bound` stays: a part of the excess
    /// may not be known as anybody's yet, and must not be looked for among those who hold next to
    /// nothing.
    pub fn give_memory_back(
        &self,
        excess: u64,
        bound: u64,
        limits: &AdmissionLimits,
        now: Instant,
    ) {
        let part = bound / (self.open.get() as u64).max(1);
        let waiting = self.waiting.borrow();
        let holders = waiting.values().filter(|guest| guest.held.get() > part);
        let mut holders: Vec<Rc<Guest>> = holders.cloned().collect();
        drop(waiting);
        holders.sort_by_key(|guest| Reverse(guest.held.get()));
        let mut freed = 0;
        for guest in holders {
            if freed >= excess {
                return;
            }
            freed += guest.held.get();
            self.give_up(&guest, CloseReason::UnauthenticatedLimit, limits, now);
        }
    }

    /// Takes note of where a connection comes from.
    ///
    /// # Errors
    /// Too many handshakes of that source have failed.
    fn come_from(
        &self,
        guest: &Guest,
        address: IpAddr,
        limits: &AdmissionLimits,
        now: Instant,
    ) -> Result<(), CloseReason> {
        if guest.ending.get().is_some() || guest.source.get().is_some() {
            return Ok(());
        }
        let source = SourceNetwork::of(address);
        let (moment, now) = (now, self.time(now));
        self.forget(now);
        let mut origins = self.origins.borrow_mut();
        let origin = origins.entry(source).or_default();
        if limits.failed_per_second > 0 && origin.paid > now + FAILED_HANDSHAKES_BURST {
            return Err(CloseReason::SourceFailures);
        }
        guest.source.set(Some(source));
        self.sourced.set(self.sourced.get() + 1);
        origin.open += 1;
        if self.waiting.borrow().contains_key(&guest.number) {
            origin.waiting.insert(guest.number);
        }
        drop(origins);
        if limits.open_per_source > 0 {
            self.keep_to(limits, source, moment);
        }
        Ok(())
    }

    /// Gives up the oldest connections of a source until it has its part, or all that are left have
    /// just come.
    fn keep_to(&self, limits: &AdmissionLimits, source: SourceNetwork, now: Instant) {
        let next = || {
            let origins = self.origins.borrow();
            let origin = origins.get(&source)?;
            if origin.open <= limits.open_per_source {
                return None;
            }
            self.greedy.set(Some(source));
            let oldest = self.waiting.borrow().get(origin.waiting.first()?).cloned();
            oldest.filter(|oldest| oldest.has_had_time(now))
        };
        while let Some(oldest) = next() {
            self.give_up(&oldest, CloseReason::SourceLimit, limits, now);
        }
    }

    /// Takes note that a handshake has failed, or was not complete when its place was needed.
    fn failed(&self, guest: &Guest, limits: &AdmissionLimits, now: Instant) {
        let now = self.time(now);
        let cost = Duration::from_secs(1).checked_div(limits.failed_per_second as u32);
        if let (Some(source), Some(cost)) = (guest.source.get(), cost)
            && let Some(origin) = self.origins.borrow_mut().get_mut(&source)
        {
            origin.paid = origin.paid.max(now) + cost;
        }
    }

    /// Returns whether it is the client that is waited for.
    fn set_waiting(&self, guest: &Rc<Guest>, waits: bool) {
        if guest.ending.get().is_some() {
            return;
        }
        let mut waiting = self.waiting.borrow_mut();
        match waits {
            true => waiting.insert(guest.number, guest.clone()),
            false => waiting.remove(&guest.number),
        };
        if let Some(source) = guest.source.get()
            && let Some(origin) = self.origins.borrow_mut().get_mut(&source)
        {
            match waits {
                true => origin.waiting.insert(guest.number),
                false => origin.waiting.remove(&guest.number),
            };
        }
    }

    /// Ends a connection for others. Its source pays for it: it is let in again no faster than its
    /// handshakes may fail.
    fn give_up(&self, guest: &Guest, reason: CloseReason, limits: &AdmissionLimits, now: Instant) {
        self.failed(guest, limits, now);
        self.leave(guest);
        guest.ending.set(Some(reason));
        self.leaving.set(self.leaving.get() + guest.held.get());
        if let Some(waker) = guest.waker.take() {
            waker.wake();
        }
    }

    fn leave(&self, guest: &Guest) {
        if guest.ending.get().is_some() {
            self.leaving.set(self.leaving.get() - guest.held.take());
            return;
        }
        self.open.set(self.open.get() - 1);
        let mut waiting = self.waiting.borrow_mut();
        waiting.remove(&guest.number);
        let mut origins = self.origins.borrow_mut();
        if let Some(source) = guest.source.take()
            && let Some(origin) = origins.get_mut(&source)
        {
            origin.open -= 1;
            self.sourced.set(self.sourced.get() - 1);
            origin.waiting.remove(&guest.number);
            if origin.is_known_for_nothing(Duration::ZERO) {
                origins.remove(&source);
            }
        }
        if self.open.get() == 0 {
            // A crowd's tables go with its last.
            origins.shrink_to_fit();
        }
    }

    /// Forgets sources that are known for nothing any more, and where that is not enough all that
    /// have nothing open.
    fn forget(&self, now: Duration) {
        let mut origins = self.origins.borrow_mut();
        if origins.len() < SOURCES_MAX {
            return;
        }
        origins.retain(|_, origin| !origin.is_known_for_nothing(now));
        if origins.len() > SOURCES_MAX / 2 {
            origins.retain(|_, origin| origin.open > 0);
        }
    }

    fn time(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.epoch)
    }
}

/// A connection whose client is not authenticated yet, in its core's count, until it has or is
/// gone.
pub(crate) struct GuestGuard {
    core: Rc<Core>,
    guest: Option<Rc<Guest>>,
}

impl GuestGuard {
    /// One more; the oldest is given up if there are too many.
    pub fn enter(core: &Rc<Core>) -> Self {
        let now = ring::now();
        let guest = core.guests.enter(now);
        let limits = core.snapshot.borrow().limits.admission;
        core.guests
            .make_room(core.unauthenticated_share(), &limits, now);
        Self {
            core: core.clone(),
            guest: Some(guest),
        }
    }

    /// Counts it for where it comes from, if `address` is known and is not one that speaks for
    /// many.
    ///
    /// # Errors
    /// Too many handshakes of that source have failed.
    pub fn come_from(&self, address: IpAddr) -> Result<(), CloseReason> {
        let limits = self.core.snapshot.borrow().limits.admission;
        match &self.guest {
            Some(guest) => self
                .core
                .guests
                .come_from(guest, address, &limits, ring::now()),
            None => Ok(()),
        }
    }

    /// Takes note of how it ended: a client's or its certificate's fault counts for its source.
    pub fn failed(&self, reason: CloseReason) {
        let fault = matches!(reason.who(), Who::Client | Who::Policy);
        if let Some(guest) = &self.guest
            && fault
            && reason != CloseReason::Unused
        {
            let limits = self.core.snapshot.borrow().limits.admission;
            self.core.guests.failed(guest, &limits, ring::now());
        }
    }

    /// Waits for this core's turn for a long step; it is not the client that is waited for
    /// meanwhile.
    pub async fn permit(&self) {
        let Some(guest) = &self.guest else {
            return ring::permit().await;
        };
        self.core.guests.set_waiting(guest, false);
        let permit = Waiting {
            guests: &self.core.guests,
            guest,
        };
        ring::permit().await;
        drop(permit);
    }

    /// Runs `step`, and takes note of the bytes that it keeps meanwhile.
    pub fn keeping<F: Future>(&self, step: F) -> impl Future<Output = F::Output> + use<'_, F> {
        ring::around(step, ring::guest_bytes, |before| {
            if let Some(guest) = &self.guest
                && guest.ending.get().is_none()
            {
                let more = ring::guest_bytes() as i64 - before as i64;
                guest.held.set(guest.held.get().saturating_add_signed(more));
                // At once, and not with the next look at the core: a second brings a gigabyte.
                if more > 0 {
                    self.core.relieve_memory();
                }
            }
        })
    }

    /// Returns when it is given up, with the reason.
    pub fn given_up(&self) -> impl Future<Output = CloseReason> + use<'_> {
        poll_fn(|context| {
            let Some(guest) = &self.guest else {
                return Poll::Pending;
            };
            match guest.ending.get() {
                Some(reason) => Poll::Ready(reason),
                None => {
                    *guest.waker.borrow_mut() = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
    }

    /// Gives the client a moment to read why it is refused; not one that is given up.
    pub async fn linger(&self, telling: impl Future<Output = ()>) {
        let telling = ring::timeout(LINGER, telling);
        ring::race(self.given_up(), telling).await;
    }

    /// It has shown who it is.
    pub fn leave(&mut self) {
        if let Some(guest) = self.guest.take() {
            self.core.guests.leave(&guest);
        }
    }
}

impl Drop for GuestGuard {
    fn drop(&mut self) {
        self.leave();
    }
}

/// A step that is waited for is over; also when it is given up.
struct Waiting<'a> {
    guests: &'a Guests,
    guest: &'a Rc<Guest>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.guests.set_waiting(self.guest, true);
    }
}

#[cfg(test)]
mod tests;
