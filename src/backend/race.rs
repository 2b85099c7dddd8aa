//! Which address of a name is connected to when (RFC 8305, Happy Eyeballs). No I/O and no clock.

use std::net::IpAddr;
use std::time::Instant;

use crate::limits::CONNECT_ATTEMPT_DELAY;

/// Addresses in the order of their attempts: IPv6 first, then both families by turns (RFC 8305,
/// section 4). Within a family they begin `turn` places later, so that tunnels spread over the
/// addresses of a name.
pub fn in_order(addresses: &[IpAddr], turn: usize) -> Vec<IpAddr> {
    let of = |wanted: bool| -> Vec<IpAddr> {
        let mut family: Vec<IpAddr> = addresses
            .iter()
            .copied()
            .filter(|address| address.is_ipv6() == wanted)
            .collect();
        if !family.is_empty() {
            let by = turn % family.len();
            family.rotate_left(by);
        }
        family
    };
    let (six, four) = (of(true), of(false));
    let pairs = (0..six.len().max(four.len())).flat_map(|place| [six.get(place), four.get(place)]);
    pairs.flatten().copied().collect()
}

/// The next step.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// To begin the attempt at this place.
    Start(usize),
    /// To wait for an attempt that runs, until then at most.
    Wait(Option<Instant>),
    /// Nothing: all attempts have failed.
    Lost,
}

/// A race between attempts: each begins when the one before has failed or had
/// [`CONNECT_ATTEMPT_DELAY`].
#[derive(Debug)]
pub struct Race {
    count: usize,
    started: usize,
    running: usize,
    next_at: Option<Instant>,
}

impl Race {
    /// Between `count` addresses.
    pub fn new(count: usize) -> Self {
        Self {
            count,
            started: 0,
            running: 0,
            next_at: None,
        }
    }

    /// Returns what is to be done now. A start is taken for done.
    pub fn step(&mut self, now: Instant) -> Step {
        let is_due = self.running == 0 || self.next_at.is_none_or(|at| now >= at);
        if self.started < self.count && is_due {
            self.started += 1;
            self.running += 1;
            self.next_at = Some(now + CONNECT_ATTEMPT_DELAY);
            return Step::Start(self.started - 1);
        }
        match self.running {
            0 => Step::Lost,
            _ => Step::Wait(self.next_at.filter(|_| self.started < self.count)),
        }
    }

    /// An attempt has failed: the next one need not wait.
    pub fn failed(&mut self) {
        self.running -= 1;
        self.next_at = None;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ordered(addresses: &[&str], turn: usize) -> Vec<String> {
        let addresses: Vec<IpAddr> = addresses.iter().map(|a| a.parse().unwrap()).collect();
        let ordered = in_order(&addresses, turn);
        ordered.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn families_alternate_and_each_goes_in_turn() {
        let mixed = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1", "fd00::2"];
        assert_eq!(
            ordered(&mixed, 0),
            ["fd00::1", "10.0.0.1", "fd00::2", "10.0.0.2", "10.0.0.3"]
        );
        assert_eq!(
            ordered(&mixed, 1),
            ["fd00::2", "10.0.0.2", "fd00::1", "10.0.0.3", "10.0.0.1"]
        );
        assert_eq!(ordered(&["10.0.0.1"], 7), ["10.0.0.1"]);
        assert!(ordered(&[], 7).is_empty());
    }

    #[test]
    fn the_next_attempt_begins_after_a_failure_or_the_delay() {
        let start = Instant::now();
        let mut race = Race::new(3);
        assert_eq!(race.step(start), Step::Start(0));
        let second = start + CONNECT_ATTEMPT_DELAY;
        assert_eq!(race.step(start), Step::Wait(Some(second)));
        assert_eq!(race.step(second), Step::Start(1));
        race.failed();
        assert_eq!(race.step(second), Step::Start(2), "at once");
        assert_eq!(race.step(second), Step::Wait(None), "there is no other");
        race.failed();
        race.failed();
        assert_eq!(race.step(second), Step::Lost);
        assert_eq!(Race::new(0).step(start), Step::Lost);
    }

    proptest! {
        /// Whatever fails when: each address is begun once, in order, and the race is lost only
        /// when all have failed.
        #[test]
        fn each_address_is_tried_once(count in 0usize..8, fails in prop::collection::vec(any::<bool>(), 0..64)) {
            let mut now = Instant::now();
            let mut race = Race::new(count);
            let (mut begun, mut failed) = (0, 0);
            for fail in fails {
                match race.step(now) {
                    Step::Start(place) => {
                        prop_assert_eq!(place, begun);
                        begun += 1;
                    }
                    Step::Wait(until) => {
                        prop_assert!(failed < begun);
                        if fail {
                            race.failed();
                            failed += 1;
                        } else if let Some(until) = until {
                            prop_assert!(until > now);
                            now = until;
                        }
                    }
                    Step::Lost => prop_assert_eq!((begun, failed), (count, count)),
                }
            }
        }
    }
}
