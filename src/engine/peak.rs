//! When a peak is over, and its memory may go.

use crate::limits::{PEAK_MIN, PEAK_QUIET};

/// Watches a number that is looked at from time to time. Giving memory back takes milliseconds, so
/// it is done once for each peak, and not before the number has stayed low for a while.
#[derive(Debug, Default)]
pub(super) struct Peak {
    most: usize,
    quiet: u32,
}

impl Peak {
    /// Returns whether the number, which is `now`, has fallen to less than half of its peak and
    /// stayed there.
    pub fn is_over(&mut self, now: usize) -> bool {
        self.most = self.most.max(now);
        if now > self.most / 2 || self.most - now < PEAK_MIN {
            self.quiet = 0;
            return false;
        }
        self.quiet += 1;
        if self.quiet < PEAK_QUIET {
            return false;
        }
        *self = Self {
            most: now,
            quiet: 0,
        };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_is_over_once_and_when_it_is_quiet() {
        let mut peak = Peak::default();
        let mut over = |numbers: &[usize]| {
            let over = numbers.iter().filter(|number| peak.is_over(**number));
            over.count()
        };
        assert_eq!(over(&[0, 10, 0, 0, 0, 0, 0, 0, 0, 0]), 0, "no peak at all");
        let quiet = PEAK_QUIET as usize;
        assert_eq!(over(&[&[4000, 1000][..], &vec![0; quiet - 2]].concat()), 0);
        assert_eq!(over(&[3000]), 0, "it goes on");
        assert_eq!(over(&vec![100; 5 * quiet]), 1, "once");
        assert_eq!(over(&[&[200, 100][..], &vec![100; 5 * quiet]].concat()), 0);
    }
}
