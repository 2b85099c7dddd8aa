//! Clients that have not shown who they are: how many a core holds, and which is given up when there are too many.
//!
//! They have a share of their own of each core: of its connections and of the bytes that it keeps for them. When the share is
//! full, the one that has kept the core waiting for longest is given up, and the newest comes in: a client that only
//! waits takes nobody's place. What waits for the core itself (a handshake's turn) is never given up. What has just come
//! is not given up for another one; when there is nothing else, the core accepts later: a storm of reconnections is served
//! in its turn. Only where the core keeps too many bytes, or has no more files, an eighth of those that wait is given up,
//! the oldest first, however new they are.
//! One source has no more than a part of the share, by the same rule, and is not let in while too many of its handshakes
//! have failed.
//!
//! A core counts for itself. Memory is bounded by the share, and by [`SOURCES_MAX`].

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use super::core::Core;
use crate::limits::{FAILED_HANDSHAKES_BURST, GUEST_GRACE, LINGER, SOURCES_MAX};
use crate::observe::{CloseReason, Who};
use crate::ring;

/// What clients that have not shown who they are may take of a core.
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
    /// Connections at once while so many tunnels are open: a half of what they leave of the open files, if that is more than
    /// what there is for certain.
    #[must_use]
    pub fn share(&self, tunnels: usize) -> usize {
        let free = self.descriptors.saturating_sub(tunnels.saturating_mul(2));
        (free / 2 / self.cores.max(1)).min(self.most).max(self.open)
    }
}

/// Where connections come from: an IPv4 address, or the 64 bits of an IPv6 address that one network has for itself (RFC
/// 4291, section 2.5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Source {
    V4(u32),
    V6(u64),
}

impl Source {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.into()),
            IpAddr::V6(address) => Self::V6((u128::from(address) >> 64) as u64),
        }
    }
}

/// What is known of one source.
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
struct Place {
    number: u64,
    since: Instant,
    source: Cell<Option<Source>>,
    /// Why it is given up.
    ending: Cell<Option<CloseReason>>,
    waker: RefCell<Option<Waker>>,
}

impl Place {
    fn has_had_time(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= GUEST_GRACE
    }
}

/// The connections of one core whose clients have not shown who they are.
pub(super) struct Guests {
    epoch: Instant,
    next: Cell<u64>,
    open: Cell<usize>,
    /// Those that wait for their clients, the oldest first.
    waiting: RefCell<BTreeMap<u64, Rc<Place>>>,
    origins: RefCell<HashMap<Source, Origin>>,
}

impl Default for Guests {
    fn default() -> Self {
        Self {
            epoch: Instant::now(),
            next: 0.into(),
            open: 0.into(),
            waiting: RefCell::default(),
            origins: RefCell::default(),
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

    /// Whether the share is full, and nobody of it can be given up.
    pub fn is_full(&self, share: usize, now: Instant) -> bool {
        self.open.get() >= share && self.oldest(now).is_none()
    }

    /// The oldest of those that wait for their clients, if its time is over.
    fn oldest(&self, now: Instant) -> Option<Rc<Place>> {
        let waiting = self.waiting.borrow();
        let oldest = waiting.values().next();
        oldest.filter(|place| place.has_had_time(now)).cloned()
    }

    fn enter(&self, now: Instant) -> Rc<Place> {
        let number = self.next.get();
        self.next.set(number + 1);
        self.open.set(self.open.get() + 1);
        let place = Rc::new(Place {
            number,
            since: now,
            source: Cell::new(None),
            ending: Cell::new(None),
            waker: RefCell::default(),
        });
        self.waiting.borrow_mut().insert(number, place.clone());
        place
    }

    /// Gives up the oldest of those that wait for their clients until the share is kept.
    fn make_room(&self, share: usize, now: Instant) {
        while self.open.get() > share
            && let Some(oldest) = self.oldest(now)
        {
            self.give_up(&oldest, CloseReason::UnauthenticatedLimit);
        }
    }

    /// Gives up an eighth of those that wait for their clients, the oldest first: too many bytes are kept for them, or there
    /// are no more files.
    pub fn relieve(&self) {
        let waiting = self.waiting.borrow();
        let count = waiting.len() / 8 + 1;
        let oldest: Vec<Rc<Place>> = waiting.values().take(count).cloned().collect();
        drop(waiting);
        for place in oldest {
            self.give_up(&place, CloseReason::UnauthenticatedLimit);
        }
    }

    /// Takes note of where a connection comes from.
    ///
    /// # Errors
    /// Too many handshakes of that source have failed.
    fn come_from(
        &self,
        place: &Place,
        address: IpAddr,
        limits: &AdmissionLimits,
        now: Instant,
    ) -> Result<(), CloseReason> {
        if place.ending.get().is_some() || place.source.get().is_some() {
            return Ok(());
        }
        let source = Source::of(address);
        let (moment, now) = (now, self.time(now));
        self.forget(now);
        let mut origins = self.origins.borrow_mut();
        let origin = origins.entry(source).or_default();
        if limits.failed_per_second > 0 && origin.paid > now + FAILED_HANDSHAKES_BURST {
            return Err(CloseReason::SourceFailures);
        }
        place.source.set(Some(source));
        origin.open += 1;
        if self.waiting.borrow().contains_key(&place.number) {
            origin.waiting.insert(place.number);
        }
        drop(origins);
        if limits.open_per_source > 0 {
            self.keep_to(limits.open_per_source, source, moment);
        }
        Ok(())
    }

    /// Gives up the oldest connections of a source until it has its part.
    fn keep_to(&self, most: usize, source: Source, now: Instant) {
        let next = || {
            let origins = self.origins.borrow();
            let origin = origins.get(&source).filter(|origin| origin.open > most)?;
            let oldest = origin.waiting.first()?;
            let oldest = self.waiting.borrow().get(oldest).cloned();
            oldest.filter(|oldest| oldest.has_had_time(now))
        };
        while let Some(oldest) = next() {
            self.give_up(&oldest, CloseReason::SourceLimit);
        }
    }

    /// Takes note that a handshake has failed.
    fn failed(&self, place: &Place, limits: &AdmissionLimits, now: Instant) {
        let now = self.time(now);
        let cost = Duration::from_secs(1).checked_div(limits.failed_per_second as u32);
        if let (Some(source), Some(cost)) = (place.source.get(), cost)
            && let Some(origin) = self.origins.borrow_mut().get_mut(&source)
        {
            origin.paid = origin.paid.max(now) + cost;
        }
    }

    /// Whether it is the client that is waited for.
    fn set_waiting(&self, place: &Rc<Place>, waits: bool) {
        if place.ending.get().is_some() {
            return;
        }
        let mut waiting = self.waiting.borrow_mut();
        match waits {
            true => waiting.insert(place.number, place.clone()),
            false => waiting.remove(&place.number),
        };
        if let Some(source) = place.source.get()
            && let Some(origin) = self.origins.borrow_mut().get_mut(&source)
        {
            match waits {
                true => origin.waiting.insert(place.number),
                false => origin.waiting.remove(&place.number),
            };
        }
    }

    fn give_up(&self, place: &Place, reason: CloseReason) {
        self.leave(place);
        place.ending.set(Some(reason));
        if let Some(waker) = place.waker.take() {
            waker.wake();
        }
    }

    fn leave(&self, place: &Place) {
        if place.ending.get().is_some() {
            return;
        }
        self.open.set(self.open.get() - 1);
        let mut waiting = self.waiting.borrow_mut();
        waiting.remove(&place.number);
        let mut origins = self.origins.borrow_mut();
        if let Some(source) = place.source.take()
            && let Some(origin) = origins.get_mut(&source)
        {
            origin.open -= 1;
            origin.waiting.remove(&place.number);
            if origin.is_known_for_nothing(Duration::ZERO) {
                origins.remove(&source);
            }
        }
        if self.open.get() == 0 {
            // A crowd's tables go with its last.
            origins.shrink_to_fit();
        }
    }

    /// Forgets sources that are known for nothing any more, and where that is not enough all that have nothing open.
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

/// A connection whose client has not shown who it is, in its core's count, until it has or is gone.
pub(super) struct Guest {
    core: Rc<Core>,
    place: Option<Rc<Place>>,
}

impl Guest {
    /// One more; the oldest is given up if there are too many.
    pub fn enter(core: &Rc<Core>) -> Self {
        let now = ring::now();
        let place = core.guests.enter(now);
        core.guests.make_room(core.unauthenticated_share(), now);
        Self {
            core: core.clone(),
            place: Some(place),
        }
    }

    /// Counts it for where it comes from, if `address` is known and is not one that speaks for many.
    ///
    /// # Errors
    /// Too many handshakes of that source have failed.
    pub fn come_from(&self, address: IpAddr) -> Result<(), CloseReason> {
        let limits = self.core.snapshot.borrow().limits.admission;
        match &self.place {
            Some(place) => self
                .core
                .guests
                .come_from(place, address, &limits, ring::now()),
            None => Ok(()),
        }
    }

    /// Takes note of how it ended: a client's or its certificate's fault counts for its source.
    pub fn failed(&self, reason: CloseReason) {
        let fault = matches!(reason.who(), Who::Client | Who::Policy);
        if let Some(place) = &self.place
            && fault
            && reason != CloseReason::Unused
        {
            let limits = self.core.snapshot.borrow().limits.admission;
            self.core.guests.failed(place, &limits, ring::now());
        }
    }

    /// Waits for this core's turn for a long step; it is not the client that is waited for meanwhile.
    pub async fn permit(&self) {
        let Some(place) = &self.place else {
            return ring::permit().await;
        };
        self.core.guests.set_waiting(place, false);
        let permit = Waiting {
            guests: &self.core.guests,
            place,
        };
        ring::permit().await;
        drop(permit);
    }

    /// Returns when it is given up, with the reason.
    pub fn given_up(&self) -> impl Future<Output = CloseReason> + use<'_> {
        poll_fn(|context| {
            let Some(place) = &self.place else {
                return Poll::Pending;
            };
            match place.ending.get() {
                Some(reason) => Poll::Ready(reason),
                None => {
                    *place.waker.borrow_mut() = Some(context.waker().clone());
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
        if let Some(place) = self.place.take() {
            self.core.guests.leave(&place);
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.leave();
    }
}

/// A step that is waited for is over; also when it is given up.
struct Waiting<'a> {
    guests: &'a Guests,
    place: &'a Rc<Place>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.guests.set_waiting(self.place, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: AdmissionLimits = AdmissionLimits {
        open: 4,
        most: 4,
        descriptors: 0,
        cores: 1,
        open_per_source: 2,
        failed_per_second: 10,
    };

    fn ended(places: &[Rc<Place>]) -> Vec<Option<CloseReason>> {
        places.iter().map(|place| place.ending.get()).collect()
    }

    #[test]
    fn the_oldest_that_waits_for_its_client_and_has_had_time_is_given_up() {
        let guests = Guests::default();
        let start = Instant::now();
        let places: Vec<Rc<Place>> = (0..4).map(|_| guests.enter(start)).collect();
        assert!(guests.is_full(4, start), "all have just come");
        guests.make_room(1, start);
        assert_eq!(ended(&places), [None; 4]);

        let later = start + GUEST_GRACE;
        assert!(!guests.is_full(4, later));
        guests.set_waiting(&places[0], false);
        for _ in 0..2 {
            guests.enter(later);
            guests.make_room(4, later);
        }
        let given_up = Some(CloseReason::UnauthenticatedLimit);
        assert_eq!(ended(&places), [None, given_up, given_up, None]);
        assert_eq!(guests.open(), 4);
        guests.set_waiting(&places[3], false);
        assert!(guests.is_full(4, later), "nobody's time is over");
        guests.set_waiting(&places[3], true);
        guests.relieve();
        assert_eq!(ended(&places), [None, given_up, given_up, given_up]);
    }

    #[test]
    fn the_share_grows_into_what_tunnels_leave() {
        let limits = AdmissionLimits {
            open: 100,
            most: 5000,
            descriptors: 20_000,
            cores: 2,
            ..LIMITS
        };
        let shares = [0, 1000, 9000, 10_000, usize::MAX].map(|open| limits.share(open));
        assert_eq!(shares, [5000, 4500, 500, 100, 100]);
    }

    #[test]
    fn a_source_has_its_part_and_takes_it_from_itself() {
        let guests = Guests::default();
        let mut now = Instant::now();
        let mut come = |address: &str| {
            now += GUEST_GRACE;
            let place = guests.enter(now);
            let come = guests.come_from(&place, address.parse().unwrap(), &LIMITS, now);
            come.unwrap();
            place
        };
        let other = come("2001:db8:0:2::1");
        let same = ["2001:db8:0:1::1", "2001:db8:0:1:2::", "2001:db8:0:1::3"].map(&mut come);
        let given_up = Some(CloseReason::SourceLimit);
        assert_eq!(ended(&same), [given_up, None, None]);
        let mapped = ["192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1"].map(&mut come);
        assert_eq!(ended(&mapped), [given_up, None, None]);
        assert_eq!(other.ending.get(), None);
        assert_eq!((guests.open(), guests.sources()), (5, 3));
        for place in same.iter().chain(&mapped).chain([&other]) {
            guests.leave(place);
        }
        assert_eq!((guests.open(), guests.sources()), (0, 0));
        assert!(guests.waiting.borrow().is_empty());
    }

    #[test]
    fn a_source_whose_handshakes_fail_waits_and_comes_again() {
        let guests = Guests::default();
        let start = Instant::now();
        let attempt = |address: &str, now| {
            let place = guests.enter(now);
            let come = guests.come_from(&place, address.parse().unwrap(), &LIMITS, now);
            guests.failed(&place, &LIMITS, now);
            guests.leave(&place);
            come
        };
        let burst = 10 * FAILED_HANDSHAKES_BURST.as_secs();
        for number in 0..=burst {
            assert_eq!(attempt("192.0.2.1", start), Ok(()), "{number}");
        }
        let refused = Err(CloseReason::SourceFailures);
        assert_eq!(attempt("192.0.2.1", start), refused);
        assert_eq!(attempt("192.0.2.2", start), Ok(()), "another one");
        let later = start + Duration::from_secs(1);
        for _ in 0..10 {
            assert_eq!(attempt("192.0.2.1", later), Ok(()));
        }
        assert_eq!(attempt("192.0.2.1", later), refused);
    }

    #[test]
    fn sources_are_forgotten_before_they_are_too_many() {
        let guests = Guests::default();
        let now = Instant::now();
        let mut kept = Vec::new();
        for network in 0..3 * SOURCES_MAX as u128 {
            let place = guests.enter(now);
            let address = IpAddr::V6((network << 64).into());
            guests.come_from(&place, address, &LIMITS, now).unwrap();
            guests.failed(&place, &LIMITS, now);
            if network < 10 {
                kept.push(place);
            } else {
                guests.leave(&place);
            }
            assert!(guests.sources() <= SOURCES_MAX);
        }
        kept.iter().for_each(|place| guests.leave(place));
        assert_eq!(guests.open(), 0);
    }
}
