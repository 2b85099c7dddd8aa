//! Health of a server. Events and `now` go in, the state and the next deadline come out; no I/O and
//! no clock.
//!
//! A server is alive until it is shown dead: by failures to connect in a row ([`Event::Failed`]),
//! or by bad checks in a row. What ends that is, without checks, one tunnel that tries it when its
//! dead time is over (a *trial*), and, with checks, as many good ones in a row as `rise` says, not
//! before the dead time is over. A tunnel that gets through says more than any of this: it makes a
//! server alive at once. Dead times double while no tunnel gets through between them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::config;
use crate::limits::SLOW_START_LEAST;
use crate::reason::CloseReason;

/// An event of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A tunnel reached it.
    Connected,
    /// A tunnel did not.
    Failed(CloseReason),
    /// A check was good.
    CheckPassed,
    /// A check was not.
    CheckFailed(CloseReason),
}

/// Health of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is. `back`: when it came back, if it had been dead.
    Alive {
        /// When it came back.
        back: Option<Instant>,
    },
    /// It is not.
    Dead {
        /// It is left alone until then.
        until: Instant,
        /// The last failure.
        why: CloseReason,
        /// True if a check found it.
        by_check: bool,
    },
}

/// Health record of a server.
#[derive(Debug)]
pub struct Health {
    state: State,
    /// Failures in a row, by their times; those beyond the window may be among them.
    failures: VecDeque<Instant>,
    /// Deaths since a tunnel last got through.
    deaths: u32,
    /// Good and bad checks in a row.
    good: usize,
    bad: usize,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            state: State::Alive { back: None },
            failures: VecDeque::new(),
            deaths: 0,
            good: 0,
            bad: 0,
        }
    }
}

impl Health {
    /// Returns whether the server is alive.
    pub fn state(&self) -> State {
        self.state
    }

    /// Returns whether a tunnel that gets through would change anything.
    pub fn is_clean(&self) -> bool {
        self.failures.is_empty() && self.deaths == 0 && matches!(self.state, State::Alive { .. })
    }

    /// When a tunnel may try the server although it is dead. `None`: it is alive, or a check has to
    /// say so.
    pub fn trial_at(&self, policy: &config::Health) -> Option<Instant> {
        match self.state {
            State::Dead { until, .. } if policy.check.is_none() => Some(until),
            _ => None,
        }
    }

    /// Takes note of an event.
    pub fn step(&mut self, event: Event, policy: &config::Health, now: Instant) {
        match event {
            Event::Connected => {
                self.failures.clear();
                self.deaths = 0;
                if matches!(self.state, State::Dead { .. }) {
                    self.revive(now);
                }
            }
            Event::Failed(why) => self.failed(why, policy, now),
            Event::CheckPassed => {
                self.bad = 0;
                self.good += 1;
                let rise = policy.check.as_ref().map_or(1, |check| check.rise);
                if let State::Dead { until, .. } = self.state
                    && self.good >= rise
                    && now >= until
                {
                    self.revive(now);
                }
            }
            Event::CheckFailed(why) => {
                self.good = 0;
                self.bad += 1;
                let fall = policy.check.as_ref().map_or(1, |check| check.fall);
                if matches!(self.state, State::Alive { .. }) && self.bad >= fall {
                    self.die(why, true, policy, now);
                }
            }
        }
    }

    /// Forgets all failures: the server is taken for alive.
    pub fn pardon(&mut self, now: Instant) {
        self.deaths = 0;
        if matches!(self.state, State::Dead { .. }) {
            self.revive(now);
        }
        self.failures.clear();
        (self.good, self.bad) = (0, 0);
    }

    fn failed(&mut self, why: CloseReason, policy: &config::Health, now: Instant) {
        if let State::Dead { until, .. } = self.state {
            // Before its time it was tried for want of any other, or the tunnel had been on its way already.
            if now >= until {
                self.die(why, false, policy, now);
            }
            return;
        }
        self.failures.push_back(now);
        while self
            .failures
            .front()
            .is_some_and(|at| now.saturating_duration_since(*at) > policy.window)
        {
            self.failures.pop_front();
        }
        if self.failures.len() >= policy.failures {
            self.die(why, false, policy, now);
        }
    }

    fn die(&mut self, why: CloseReason, by_check: bool, policy: &config::Health, now: Instant) {
        let doublings = self.deaths.min(31);
        self.deaths = self.deaths.saturating_add(1);
        self.failures.clear();
        self.good = 0;
        let time = policy.dead_time.saturating_mul(1 << doublings);
        self.state = State::Dead {
            until: now + time.min(policy.dead_time_max),
            why,
            by_check,
        };
    }

    fn revive(&mut self, now: Instant) {
        self.failures.clear();
        self.bad = 0;
        self.state = State::Alive { back: Some(now) };
    }
}

/// The share of its weight, in thousandths, that a server has which came back `since` ago: grows
/// evenly over `slow_start`.
pub fn share(since: Duration, slow_start: Duration) -> u64 {
    if since >= slow_start {
        return 1000;
    }
    let thousandths = since.as_millis() * 1000 / slow_start.as_millis().max(1);
    (thousandths as u64).max(SLOW_START_LEAST)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const WHY: CloseReason = CloseReason::ServerRefused;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn policy() -> config::Health {
        config::Health {
            failures: 3,
            window: seconds(10),
            dead_time: seconds(5),
            dead_time_max: seconds(15),
            check: None,
            slow_start: None,
            try_dead: true,
        }
    }

    fn checked() -> config::Health {
        config::Health {
            check: Some(config::Check {
                kind: config::CheckKind::Tcp,
                interval: seconds(1),
                timeout: seconds(1),
                rise: 2,
                fall: 3,
            }),
            ..policy()
        }
    }

    fn is_alive(health: &Health) -> bool {
        matches!(health.state(), State::Alive { .. })
    }

    /// Steps at these seconds.
    fn steps(
        health: &mut Health,
        policy: &config::Health,
        start: Instant,
        events: &[(u64, Event)],
    ) {
        for (at, event) in events {
            health.step(*event, policy, start + seconds(*at));
        }
    }

    #[test]
    fn failures_in_a_row_within_the_window_kill_and_a_success_between_them_does_not() {
        let (policy, start) = (policy(), Instant::now());
        let failed = Event::Failed(WHY);
        let mut health = Health::default();
        steps(
            &mut health,
            &policy,
            start,
            &[(0, failed), (1, failed), (2, Event::Connected)],
        );
        steps(&mut health, &policy, start, &[(3, failed), (4, failed)]);
        assert!(is_alive(&health) && !health.is_clean());
        // Two seconds beyond the window: the first of the three counts no more.
        steps(&mut health, &policy, start, &[(14, failed), (15, failed)]);
        assert!(is_alive(&health));
        health.step(failed, &policy, start + seconds(16));
        assert_eq!(health.trial_at(&policy), Some(start + seconds(21)));
        assert!(!is_alive(&health));
    }

    #[test]
    fn dead_times_double_to_their_bound_until_a_tunnel_gets_through() {
        let (policy, mut now) = (policy(), Instant::now());
        let mut health = Health::default();
        for _ in 0..3 {
            health.step(Event::Failed(WHY), &policy, now);
        }
        for expected in [5, 10, 15, 15] {
            let trial = health.trial_at(&policy).unwrap();
            assert_eq!(trial - now, seconds(expected));
            // Tried for want of another: it says nothing new.
            health.step(Event::Failed(WHY), &policy, trial - seconds(1));
            assert_eq!(health.trial_at(&policy), Some(trial));
            now = trial;
            health.step(Event::Failed(WHY), &policy, now);
        }
        health.step(Event::Connected, &policy, now);
        assert_eq!(health.state(), State::Alive { back: Some(now) });
        assert!(health.is_clean());
        for _ in 0..3 {
            health.step(Event::Failed(WHY), &policy, now);
        }
        assert_eq!(health.trial_at(&policy), Some(now + seconds(5)));
    }

    #[test]
    fn checks_kill_by_fall_and_revive_by_rise_and_not_before_the_dead_time_is_over() {
        let (policy, start) = (checked(), Instant::now());
        let (passed, bad) = (Event::CheckPassed, Event::CheckFailed(WHY));
        let mut health = Health::default();
        steps(
            &mut health,
            &policy,
            start,
            &[(0, bad), (1, bad), (2, passed), (3, bad), (4, bad)],
        );
        assert!(is_alive(&health));
        health.step(bad, &policy, start + seconds(5));
        let State::Dead {
            until, by_check, ..
        } = health.state()
        else {
            panic!("three bad checks in a row");
        };
        assert!(by_check && until == start + seconds(10));
        assert_eq!(health.trial_at(&policy), None, "a check has to say so");
        steps(
            &mut health,
            &policy,
            start,
            &[(6, passed), (7, passed), (8, passed)],
        );
        assert!(!is_alive(&health), "not before its time");
        steps(&mut health, &policy, start, &[(9, bad), (10, passed)]);
        assert!(!is_alive(&health), "one good check");
        health.step(passed, &policy, start + seconds(11));
        assert!(is_alive(&health));
    }

    #[test]
    fn tunnels_kill_where_checks_are_good_too_and_each_death_lasts_longer() {
        let (policy, start) = (checked(), Instant::now());
        let mut health = Health::default();
        let mut at = 0;
        for expected in [5, 10] {
            for _ in 0..3 {
                health.step(Event::Failed(WHY), &policy, start + seconds(at));
            }
            let State::Dead { until, .. } = health.state() else {
                panic!("three failures");
            };
            assert_eq!(until, start + seconds(at + expected));
            while !is_alive(&health) {
                at += 1;
                health.step(Event::CheckPassed, &policy, start + seconds(at));
            }
            assert!(start + seconds(at) >= until);
        }
    }

    #[test]
    fn a_pardon_forgets() {
        let (policy, now) = (policy(), Instant::now());
        let mut health = Health::default();
        for _ in 0..3 {
            health.step(Event::Failed(WHY), &policy, now);
        }
        health.pardon(now);
        assert!(is_alive(&health) && health.is_clean());
    }

    #[test]
    fn the_share_grows_evenly() {
        let whole = seconds(10);
        assert_eq!(share(Duration::ZERO, whole), SLOW_START_LEAST);
        assert_eq!(share(seconds(5), whole), 500);
        assert_eq!(share(Duration::from_millis(9990), whole), 999);
        assert_eq!(share(whole, whole), 1000);
        let shares: Vec<u64> = (0..12).map(|at| share(seconds(at), whole)).collect();
        assert!(shares.is_sorted());
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::Connected),
            Just(Event::Failed(WHY)),
            Just(Event::CheckPassed),
            Just(Event::CheckFailed(WHY)),
        ]
    }

    proptest! {
        /// Whatever happens: a tunnel that gets through makes a server alive, it dies only of a
        /// failure, a death lasts no longer than its bound, and what is remembered is bounded.
        #[test]
        fn any_history_is_bounded(
            history in vec((0u64..20_000, event()), 1..300), with_checks in any::<bool>(),
        ) {
            let policy = if with_checks { checked() } else { policy() };
            let mut now = Instant::now();
            let mut health = Health::default();
            for (milliseconds, event) in history {
                now += Duration::from_millis(milliseconds);
                let before = is_alive(&health);
                health.step(event, &policy, now);
                match event {
                    Event::Connected => prop_assert!(is_alive(&health) && health.is_clean()),
                    Event::CheckPassed => prop_assert!(!before || is_alive(&health)),
                    Event::Failed(_) | Event::CheckFailed(_) => {
                        prop_assert!(before || !is_alive(&health));
                    }
                }
                if let State::Dead { until, .. } = health.state() {
                    prop_assert!(until <= now + policy.dead_time_max);
                }
                prop_assert!(health.failures.len() < policy.failures);
            }
        }
    }
}
