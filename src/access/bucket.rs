//! A token bucket that all cores share.
//!
//! It is a GCRA (ITU-T I.371, annex A): in place of a count of tokens and the time of the last
//! refill, one number says until when what was taken is paid for. So a core takes with one
//! compare-and-swap, there is no lock and no refill, and the limit holds exactly over all cores. It
//! reads no clock: whoever takes says what time it is.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::config::Rate;

const SECOND: u128 = 1_000_000_000;

/// The bucket. Times are nanoseconds since a moment that all who use it share. A cache line of its
/// own, and the next one: processors fetch lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Bucket {
    /// Until when what was taken is paid for.
    paid: AtomicU64,
    /// 0: no limit.
    per_second: AtomicU64,
    /// How far `paid` may lie ahead: the time in which the burst flows.
    ahead: AtomicU64,
}

impl Bucket {
    /// Sets the rate; a bucket whose rate changes is full again. `None`: no limit.
    pub fn configure(&self, rate: Option<Rate>) {
        let (per_second, burst) = rate.map_or((0, 0), |rate| (rate.per_second, rate.burst));
        let ahead = nanoseconds(burst, per_second);
        let before = self.per_second.swap(per_second, Ordering::Relaxed);
        if self.ahead.swap(ahead, Ordering::Relaxed) != ahead || before != per_second {
            self.paid.store(0, Ordering::Relaxed);
        }
    }

    /// Takes `units` if the bucket has them.
    pub fn try_take(&self, units: u64, now: u64) -> bool {
        let Some(cost) = self.cost(units) else {
            return true;
        };
        let limit = now.saturating_add(self.ahead.load(Ordering::Relaxed));
        let taken = self
            .paid
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |paid| {
                let paid = paid.max(now).saturating_add(cost);
                (paid <= limit).then_some(paid)
            });
        taken.is_ok()
    }

    /// Takes `units` that are gone already, whether the bucket has them or not. How long to wait
    /// until they are paid for; zero while the burst lasts. Who waits so long each time, one after
    /// the other, keeps to the rate.
    pub fn take(&self, units: u64, now: u64) -> Duration {
        let Some(cost) = self.cost(units) else {
            return Duration::ZERO;
        };
        let after = |paid: u64| paid.max(now).saturating_add(cost);
        let before = self
            .paid
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |paid| {
                Some(after(paid))
            })
            .unwrap_or_else(|paid| paid);
        let limit = now.saturating_add(self.ahead.load(Ordering::Relaxed));
        Duration::from_nanos(after(before).saturating_sub(limit))
    }

    /// The time in which `units` flow, rounded up, so that rounding never exceeds the rate. `None`:
    /// there is no limit.
    fn cost(&self, units: u64) -> Option<u64> {
        let per_second = self.per_second.load(Ordering::Relaxed);
        (per_second != 0).then(|| nanoseconds(units, per_second))
    }
}

/// The time in which `units` flow, in nanoseconds, rounded up.
fn nanoseconds(units: u64, per_second: u64) -> u64 {
    if per_second == 0 {
        return 0;
    }
    let time = (u128::from(units) * SECOND).div_ceil(u128::from(per_second));
    u64::try_from(time).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bucket(per_second: u64, burst: u64) -> Bucket {
        let bucket = Bucket::default();
        bucket.configure(Some(Rate { per_second, burst }));
        bucket
    }

    const MILLISECOND: u64 = 1_000_000;

    #[test]
    fn a_burst_then_the_rate() {
        let bucket = bucket(10, 3);
        let start = 5_000 * MILLISECOND;
        let at = |now: u64| bucket.try_take(1, start + now * MILLISECOND);
        assert_eq!([at(0), at(0), at(0), at(0)], [true, true, true, false]);
        assert_eq!([at(99), at(100), at(100)], [false, true, false]);
        // What a pause gives is the burst and no more.
        assert_eq!(
            (0..5).map(|_| at(60_000)).collect::<Vec<_>>(),
            [true, true, true, false, false]
        );
    }

    #[test]
    fn debts_are_paid_one_after_the_other() {
        let bucket = bucket(1000, 100);
        assert_eq!(bucket.take(100, 0), Duration::ZERO);
        assert_eq!(bucket.take(50, 0), Duration::from_millis(50));
        assert_eq!(bucket.take(50, 0), Duration::from_millis(100));
        assert_eq!(bucket.take(0, 0), Duration::from_millis(100));
        assert_eq!(bucket.take(1, 100 * MILLISECOND), Duration::from_millis(1));
        assert_eq!(bucket.take(100, 10_000 * MILLISECOND), Duration::ZERO);
    }

    #[test]
    fn without_a_rate_nothing_waits_and_a_new_rate_forgets_the_debt() {
        let bucket = Bucket::default();
        assert!(bucket.try_take(u64::MAX, 0));
        assert_eq!(bucket.take(u64::MAX, 0), Duration::ZERO);
        let rate = |per_second| {
            Some(Rate {
                per_second,
                burst: 1,
            })
        };
        bucket.configure(rate(1));
        assert!(bucket.take(3600, 0) > Duration::from_secs(3598));
        bucket.configure(rate(1));
        assert!(!bucket.try_take(1, 0), "the same rate again keeps the debt");
        bucket.configure(rate(2));
        assert!(bucket.try_take(1, 0));
        bucket.configure(None);
        assert!(bucket.try_take(u64::MAX, 0));
    }

    #[test]
    fn the_limit_holds_over_all_threads() {
        let bucket = bucket(1000, 50);
        let taken: u64 = std::thread::scope(|scope| {
            let thread = || {
                let take = |step: u64| u64::from(bucket.try_take(1, step * MILLISECOND / 100));
                scope.spawn(move || (0..100_000u64).map(take).sum::<u64>())
            };
            let threads: Vec<_> = (0..4).map(|_| thread()).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        // One second has passed on the last step: a thousand, and the burst. No thread sees a clock behind its own.
        assert!((1000..=1050).contains(&taken), "{taken}");
    }

    proptest! {
        /// In each stretch of time no more than the burst and what flows in it is let through,
        /// whatever was tried.
        #[test]
        fn never_above_rate_and_burst(
            per_second in 1u64..1_000_000,
            burst in 1u64..10_000,
            tries in proptest::collection::vec((0u64..50 * MILLISECOND, 1u64..500), 1..200),
        ) {
            let bucket = bucket(per_second, burst);
            let mut now = 0;
            let mut taken: Vec<(u64, u64)> = Vec::new();
            for (pause, units) in tries {
                now += pause;
                if bucket.try_take(units, now) {
                    taken.push((now, units));
                }
            }
            for first in 0..taken.len() {
                let mut sum = 0;
                for &(at, units) in &taken[first..] {
                    sum += u128::from(units);
                    let time = u128::from(at - taken[first].0);
                    // One unit for the rounding of the burst's time.
                    let most = u128::from(burst) + 1 + time * u128::from(per_second) / SECOND;
                    prop_assert!(sum <= most, "{sum} > {most}");
                }
            }
        }

        /// Tunnels that wait as they are told take no more than the rate, the burst and one piece
        /// each; and the rate is used: nobody waits longer than everything before him takes.
        #[test]
        fn who_waits_keeps_to_the_rate(
            per_second in 1_000u64..10_000_000,
            burst in 1u64..100_000,
            pieces in proptest::collection::vec((0usize..5, 1u64..66_816), 1..200),
        ) {
            let bucket = bucket(per_second, burst);
            let mut free = [0u64; 5];
            let mut moved: u128 = 0;
            for (tunnel, piece) in pieces {
                // The tunnel that may move first does: time does not run backwards.
                let next = (0..5).min_by_key(|at| (free[*at], (*at + 5 - tunnel) % 5)).unwrap();
                let now = free[next];
                moved += u128::from(piece);
                let wait = bucket.take(piece, now);
                free[next] = now + wait.as_nanos() as u64;
                let flown = u128::from(now) * u128::from(per_second) / SECOND;
                prop_assert!(moved <= u128::from(burst) + flown + 5 * 66_816 + 200);
                let owed = moved.saturating_sub(u128::from(burst)) * SECOND / u128::from(per_second);
                prop_assert!(u128::from(free[next]) <= owed + 1_000, "waits too long");
            }
        }
    }
}
