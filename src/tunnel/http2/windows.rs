//! How large the tunnels' receive windows are.
//!
//! A window smaller than the bandwidth-delay product starves the tunnel; a large one lets a server that does not read cost
//! memory. So windows start small and grow with what is measured, in the way of gRPC and hyper: a PING is sent while bytes
//! come, and what comes until it is answered is the product. The more tunnels are open, the smaller each one's share.
//!
//! It does no I/O: events and `now` go in.

use std::time::{Duration, Instant};

use crate::limits::{
    HTTP2_PROBE_PAUSE, HTTP2_PROBE_PAUSE_MAX, HTTP2_SESSION_WINDOW, HTTP2_WINDOW_MAX,
    HTTP2_WINDOW_MIN, HTTP2_WINDOW_START,
};

/// The windows of one session.
#[derive(Debug)]
pub struct Windows {
    /// What a tunnel may have, as far as it was measured.
    wanted: u32,
    /// What the client was told.
    told: u32,
    /// Bytes that have come since the probe was sent, or since the last one was answered.
    received: u64,
    probing: bool,
    pause: Duration,
    next_probe: Instant,
}

impl Windows {
    /// A session whose client was told [`HTTP2_WINDOW_START`].
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            wanted: HTTP2_WINDOW_START,
            told: HTTP2_WINDOW_START,
            received: 0,
            probing: false,
            pause: HTTP2_PROBE_PAUSE,
            next_probe: now,
        }
    }

    /// Takes note of payload.
    pub fn received(&mut self, bytes: usize) {
        self.received += bytes as u64;
    }

    /// Whether a PING is to be sent now; the caller sends it.
    pub fn probe(&mut self, now: Instant) -> bool {
        let due = !self.probing && now >= self.next_probe && self.received > 0;
        if due {
            self.probing = true;
            self.received = 0;
        }
        due
    }

    /// The PING was answered.
    pub fn answered(&mut self, now: Instant) {
        if !std::mem::take(&mut self.probing) {
            return;
        }
        // Two thirds: a window that is nearly used up holds the client back.
        let grows = self.received * 3 >= u64::from(self.told) * 2 && self.told < HTTP2_WINDOW_MAX;
        if grows {
            let product = u32::try_from(self.received).unwrap_or(u32::MAX);
            let double = product.max(self.told).saturating_mul(2);
            self.wanted = self.wanted.max(double.min(HTTP2_WINDOW_MAX));
            self.pause = HTTP2_PROBE_PAUSE;
        } else {
            self.pause = (self.pause * 2).min(HTTP2_PROBE_PAUSE_MAX);
        }
        self.received = 0;
        self.next_probe = now + self.pause;
    }

    /// The window to tell the client of, where it has changed enough, while so many tunnels are open. The caller says with
    /// [`Windows::told`] that it was.
    #[must_use]
    pub fn change(&self, open: usize) -> Option<u32> {
        let share = HTTP2_SESSION_WINDOW / u32::try_from(open.max(1)).unwrap_or(u32::MAX);
        // In powers of two, so that not each tunnel that comes or goes is a change.
        let share = 1 << share.max(HTTP2_WINDOW_MIN).ilog2();
        let target = self.wanted.min(share);
        let changed = target < self.told || target >= self.told.saturating_mul(2);
        changed.then_some(target)
    }

    /// The client was told.
    pub fn told(&mut self, window: u32) {
        self.told = window;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One probe in which `bytes` come.
    fn probe(windows: &mut Windows, bytes: usize, now: &mut Instant) {
        windows.received(1);
        while !windows.probe(*now) {
            *now += HTTP2_PROBE_PAUSE;
        }
        windows.received(bytes);
        windows.answered(*now);
    }

    #[test]
    fn windows_grow_with_what_comes_in_a_round_trip() {
        let mut now = Instant::now();
        let mut windows = Windows::new(now);
        assert_eq!(windows.change(1), None);
        probe(&mut windows, HTTP2_WINDOW_START as usize / 2, &mut now);
        assert_eq!(windows.change(1), None, "half of the window is used");
        let mut told = HTTP2_WINDOW_START;
        while told < HTTP2_WINDOW_MAX {
            probe(&mut windows, told as usize, &mut now);
            let next = windows.change(1).unwrap();
            assert_eq!(next, told * 2);
            windows.told(next);
            told = next;
        }
        probe(&mut windows, told as usize * 4, &mut now);
        assert_eq!(windows.change(1), None, "the largest");
    }

    #[test]
    fn the_sum_of_the_windows_is_at_most_the_sessions() {
        let mut now = Instant::now();
        let mut windows = Windows::new(now);
        let mut told = HTTP2_WINDOW_START;
        for open in (1..=256).chain((1..256).rev()) {
            probe(&mut windows, 64 << 20, &mut now);
            if let Some(window) = windows.change(open) {
                windows.told(window);
                told = window;
            }
            assert!(
                told as usize * open <= HTTP2_SESSION_WINDOW as usize,
                "{open}: {told}"
            );
            assert!((HTTP2_WINDOW_MIN..=HTTP2_WINDOW_MAX).contains(&told));
        }
        assert_eq!(told, HTTP2_WINDOW_MAX);
    }

    #[test]
    fn probes_are_rare_where_nothing_comes_of_them() {
        let mut now = Instant::now();
        let start = now;
        let mut windows = Windows::new(now);
        assert!(!windows.probe(now), "nothing has come");
        for _ in 0..20 {
            probe(&mut windows, 100, &mut now);
        }
        assert!(now - start > HTTP2_PROBE_PAUSE_MAX * 10);
        windows.answered(now);
        assert_eq!(windows.change(1), None, "an answer to nothing");
    }
}
