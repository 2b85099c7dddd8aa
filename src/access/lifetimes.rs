//! How long a session or a tunnel may be open, and what is due when nothing moves in it. No I/O and
//! no clock.

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::limits::SESSION_REST;
use crate::reason::CloseReason;

/// How long something may be open.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lifetimes {
    /// Without a byte in either direction.
    pub idle_timeout: Duration,
    /// From its opening.
    pub max_lifetime: Option<Duration>,
}

/// The last movement, and whether memory that is not needed without one was given back since.
#[derive(Debug)]
pub(crate) struct Activity {
    last: Cell<Instant>,
    rests: Cell<bool>,
}

/// The next step that time brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// Nothing before this moment, if nothing moves.
    At(Instant),
    /// A rest: memory that is not needed meanwhile is given back. Then ask again.
    Rest,
    /// The end.
    Over(CloseReason),
}

impl Activity {
    /// Something that has moved now.
    pub fn new(now: Instant) -> Self {
        Self {
            last: now.into(),
            rests: false.into(),
        }
    }

    /// The last movement.
    pub fn last(&self) -> Instant {
        self.last.get()
    }

    /// Returns whether it rests.
    pub fn rests(&self) -> bool {
        self.rests.get()
    }

    /// Records a movement. Returns whether a rest has ended with it: then more is due before the
    /// moment that was last given.
    #[inline]
    pub fn moved(&self, now: Instant) -> bool {
        self.last.set(now);
        self.rests.replace(false)
    }

    /// The next step for what was opened at `opened`. `is_busy`: it is not idle though nothing
    /// moves, since it waits for a rate limit, or has something open in it with a lifetime of its
    /// own.
    pub fn due(&self, now: Instant, opened: Instant, of: &Lifetimes, is_busy: bool) -> Due {
        let left = of
            .max_lifetime
            .map(|lifetime| lifetime.saturating_sub(now.saturating_duration_since(opened)));
        if left == Some(Duration::ZERO) {
            return Due::Over(CloseReason::LifetimeOver);
        }
        let quiet = now.saturating_duration_since(self.last.get());
        let idle = if is_busy { Duration::ZERO } else { quiet };
        let mut next = of.idle_timeout.saturating_sub(idle);
        if next == Duration::ZERO {
            return Due::Over(CloseReason::IdleTimeout);
        }
        if !self.rests.get() {
            let rest = SESSION_REST.saturating_sub(quiet);
            if rest == Duration::ZERO {
                self.rests.set(true);
                return Due::Rest;
            }
            next = next.min(rest);
        }
        Due::At(now + left.map_or(next, |left| left.min(next)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const IDLE: Duration = Duration::from_secs(60);

    fn only_idle() -> Lifetimes {
        Lifetimes {
            idle_timeout: IDLE,
            max_lifetime: None,
        }
    }

    #[test]
    fn one_that_never_moves_rests_once_and_ends() {
        let opened = Instant::now();
        let activity = Activity::new(opened);
        let due = |after| activity.due(opened + after, opened, &only_idle(), false);
        assert_eq!(due(Duration::ZERO), Due::At(opened + SESSION_REST));
        assert_eq!(due(SESSION_REST), Due::Rest);
        assert_eq!(due(SESSION_REST), Due::At(opened + IDLE));
        assert!(activity.rests());
        assert_eq!(due(IDLE), Due::Over(CloseReason::IdleTimeout));
    }

    #[test]
    fn a_movement_ends_a_rest_and_brings_the_next_one_nearer() {
        let opened = Instant::now();
        let activity = Activity::new(opened);
        assert!(!activity.moved(opened));
        let later = opened + SESSION_REST;
        assert_eq!(activity.due(later, opened, &only_idle(), false), Due::Rest);
        assert!(activity.moved(later));
        let next = activity.due(later, opened, &only_idle(), false);
        assert_eq!(next, Due::At(later + SESSION_REST));
    }

    #[test]
    fn a_busy_one_is_not_idle_and_has_its_lifetime_all_the_same() {
        let opened = Instant::now();
        let activity = Activity::new(opened);
        let lifetimes = Lifetimes {
            idle_timeout: IDLE,
            max_lifetime: Some(IDLE * 3),
        };
        let due = |after| activity.due(opened + after, opened, &lifetimes, true);
        assert_eq!(due(IDLE * 2), Due::Rest);
        assert_eq!(due(IDLE * 2), Due::At(opened + IDLE * 3));
        assert_eq!(due(IDLE * 3), Due::Over(CloseReason::LifetimeOver));
    }

    #[test]
    fn a_timeout_shorter_than_a_rest_ends_without_one() {
        let opened = Instant::now();
        let activity = Activity::new(opened);
        let lifetimes = Lifetimes {
            idle_timeout: SESSION_REST / 2,
            max_lifetime: None,
        };
        let due = |after| activity.due(opened + after, opened, &lifetimes, false);
        assert_eq!(due(Duration::ZERO), Due::At(opened + SESSION_REST / 2));
        assert_eq!(due(SESSION_REST), Due::Over(CloseReason::IdleTimeout));
    }

    /// Steps in milliseconds from one to the next, and whether something moves then or the other
    /// thing begins or ends.
    fn steps() -> impl Strategy<Value = Vec<(u64, bool)>> {
        prop::collection::vec((0..90_000_u64, any::<bool>()), 0..40)
    }

    proptest! {
        /// Looked at only when something is due, as its owner does: it ends at the moment that the
        /// numbers say, rests once between two movements, and is never asked to be looked at in the
        /// past.
        #[test]
        fn the_end_comes_at_its_moment(
            steps in steps(),
            idle in 1..120_000_u64,
            lifetime in prop::option::of(1..600_000_u64),
        ) {
            let lifetimes = Lifetimes {
                idle_timeout: Duration::from_millis(idle),
                max_lifetime: lifetime.map(Duration::from_millis),
            };
            let opened = Instant::now();
            let activity = Activity::new(opened);
            let mut timer = opened;
            let mut rests = 0;
            let mut now = opened;
            let mut steps = steps.into_iter();
            let mut next = steps.next().map(|(wait, moves)| (now + Duration::from_millis(wait), moves));
            let ended = loop {
                if let Some((at, moves)) = next && at < timer {
                    now = at;
                    if moves && activity.moved(now) {
                        timer = now;
                        rests = 0;
                    }
                    next = steps.next().map(|(wait, moves)| (now + Duration::from_millis(wait), moves));
                    continue;
                }
                now = timer;
                match activity.due(now, opened, &lifetimes, false) {
                    Due::At(at) => {
                        prop_assert!(at > now);
                        timer = at;
                    }
                    Due::Rest => {
                        rests += 1;
                        prop_assert_eq!(rests, 1);
                        prop_assert!(now >= activity.last() + SESSION_REST);
                    }
                    Due::Over(reason) => break reason,
                }
            };
            let by_idle = activity.last() + lifetimes.idle_timeout;
            let by_age = lifetimes.max_lifetime.map(|lifetime| opened + lifetime);
            let (end, reason) = match by_age {
                Some(age) if age <= by_idle => (age, CloseReason::LifetimeOver),
                _ => (by_idle, CloseReason::IdleTimeout),
            };
            prop_assert_eq!((now, ended), (end, reason));
        }
    }
}
