//! How large the tunnels' receive windows are.
//!
//! A window smaller than the bandwidth-delay product starves the tunnel; a large one lets a server
//! that does not read cost memory. So windows start small and grow with what is measured: a PING is
//! sent while bytes come, and what comes until it is answered is the product. A client can answer
//! late, and by that make a round trip longer, but never shorter: what came in a slow one counts as
//! what would have come in the fastest. What is not used is given up: windows shrink where much
//! less comes, and where nothing does. Until the client acknowledges the SETTINGS that say so, it
//! may fill what it had. The more tunnels are open, the smaller each one's share.
//!
//! What a client was allowed to send in the whole session is never taken back, only used up. As
//! long as that is more than its tunnels need, new ones could fill it at any moment: it is counted
//! as far as their windows allow it, and a session at rest has the least window, which needs no
//! count.
//!
//! It does no I/O: events and `now` go in.

use std::time::{Duration, Instant};

use super::share::WindowShare;
use crate::limits::{
    HTTP2_PROBE_PAUSE, HTTP2_PROBE_PAUSE_MAX, HTTP2_ROUND_TRIP_KEPT, HTTP2_ROUND_TRIP_MIN,
    HTTP2_SESSION_WINDOW, HTTP2_SESSION_WINDOW_MIN, HTTP2_TUNNELS_MAX, HTTP2_WINDOW_MAX,
    HTTP2_WINDOW_MIN, HTTP2_WINDOW_REST, HTTP2_WINDOW_START,
};

/// The windows of one session.
#[derive(Debug)]
pub struct Windows {
    /// Measured window of a tunnel.
    wanted: u32,
    /// Window that was announced to the client.
    told: u32,
    /// How many tunnels were open then.
    open: usize,
    /// Memory of larger windows is still counted, since it was filled, or might have been.
    keeps: bool,
    /// When SETTINGS were sent that the client has not acknowledged.
    unacknowledged: Option<Instant>,
    /// The larger of the windows before them and with them.
    larger: u32,
    /// Bytes that the client may send in the session until more is granted: its window, or what is
    /// left of a larger one.
    credit: u32,
    /// Bytes that have come since the probe was sent, or since the last one was answered.
    received: u64,
    /// When the last bytes came.
    used: Instant,
    /// When the probe was sent that is not answered.
    probing: Option<Instant>,
    /// The shortest round trip, and when it was measured.
    fastest: Option<(Duration, Instant)>,
    pause: Duration,
    next_probe: Instant,
}

impl Windows {
    /// A session whose client is to be told of its first [window](Self::window), with memory from
    /// `share`.
    #[must_use]
    pub fn new(share: &mut WindowShare, now: Instant) -> Self {
        let mut windows = Self::of(HTTP2_WINDOW_START, now);
        let window = share.take(HTTP2_WINDOW_START, false, |window| {
            windows.fillable(window, 1)
        });
        (windows.wanted, windows.told, windows.larger) = (window, window, window);
        windows
    }

    fn of(window: u32, now: Instant) -> Self {
        Self {
            wanted: window,
            told: window,
            open: 0,
            keeps: false,
            unacknowledged: Some(now),
            larger: window,
            credit: HTTP2_SESSION_WINDOW_MIN,
            received: 0,
            used: now,
            probing: None,
            fastest: None,
            pause: HTTP2_PROBE_PAUSE,
            next_probe: now,
        }
    }

    /// Takes note of payload.
    pub fn received(&mut self, bytes: usize, now: Instant) {
        self.received += bytes as u64;
        self.used = now;
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.credit = self.credit.saturating_sub(bytes).max(self.of_session());
    }

    /// Returns whether a PING is to be sent now; the caller sends it.
    pub fn probe(&mut self, now: Instant) -> bool {
        let due = self.probing.is_none() && now >= self.next_probe && self.received > 0;
        if due {
            self.probing = Some(now);
            self.received = 0;
        }
        due
    }

    /// The PING was answered.
    pub fn answered(&mut self, now: Instant) {
        let Some(sent) = self.probing.take() else {
            return;
        };
        let took = now.saturating_duration_since(sent);
        let product = self.product(took.max(HTTP2_ROUND_TRIP_MIN), now);
        // Two thirds: a window that is nearly used up holds the client back.
        let told = u64::from(self.told);
        if product * 3 >= told * 2 && self.told < HTTP2_WINDOW_MAX {
            let product = u32::try_from(product).unwrap_or(u32::MAX);
            let double = product.max(self.told).saturating_mul(2);
            self.wanted = self.wanted.max(double.min(HTTP2_WINDOW_MAX));
            self.pause = HTTP2_PROBE_PAUSE;
        } else {
            if product * 8 < told {
                self.wanted = self.wanted.min(HTTP2_WINDOW_START.max(self.told / 2));
            }
            self.pause = (self.pause * 2).min(HTTP2_PROBE_PAUSE_MAX);
        }
        self.received = 0;
        self.next_probe = now + self.pause;
    }

    /// Returns what came in a round trip that took so long, as if it had been the fastest.
    fn product(&mut self, took: Duration, now: Instant) -> u64 {
        let known = self.fastest.filter(|(fastest, at)| {
            *fastest < took && now.saturating_duration_since(*at) < HTTP2_ROUND_TRIP_KEPT
        });
        let (fastest, _) = *self.fastest.insert(known.unwrap_or((took, now)));
        let product = u128::from(self.received) * fastest.as_nanos() / took.as_nanos().max(1);
        u64::try_from(product).unwrap_or(u64::MAX)
    }

    /// Gives up what is not used. `unread`: servers have not read all that has come, which is what
    /// it is then for. When to look again.
    pub fn rest(&mut self, unread: bool, now: Instant) -> Instant {
        let over = self.used + HTTP2_WINDOW_REST;
        if now < over {
            return over;
        }
        let least = if unread || self.credit > HTTP2_SESSION_WINDOW_MIN {
            HTTP2_WINDOW_MIN
        } else {
            HTTP2_WINDOW_START
        };
        self.wanted = self.wanted.min(least);
        now + HTTP2_WINDOW_REST
    }

    /// Changes the windows where something has changed, with memory from `share`, while so many
    /// tunnels are open. `tell` sends SETTINGS, if it can.
    pub fn adapt(
        &mut self,
        share: &mut WindowShare,
        (open, unread): (usize, bool),
        now: Instant,
        tell: impl FnOnce(u32) -> bool,
    ) {
        if self.unacknowledged.is_some() {
            return share.hold(of_new(self.larger, self.credit));
        }
        let Some(asked) = self.change(open, unread) else {
            return;
        };
        let window = share.take(asked, true, |window| self.fillable(window, open));
        if window == self.told {
            share.take(window, unread, |window| self.fillable(window, open));
            let keeps = unread || self.credit > of_session(window, open);
            self.told(window, open, asked, keeps);
        } else if tell(window) {
            (self.unacknowledged, self.larger) = (Some(now), window.max(self.told));
            self.told(window, open, asked, true);
        }
        self.credit = self.credit.max(self.of_session());
    }

    /// Bytes beyond the least that a client can fill with this window: those of `open` tunnels, and
    /// where its credit in the session is more than that, those of new ones that it may open at any
    /// moment.
    fn fillable(&self, window: u32, open: usize) -> usize {
        let beyond = window.saturating_sub(HTTP2_WINDOW_MIN) as usize;
        let credit = self.credit.max(of_session(window, open));
        of_new(window, credit).max(beyond * open.max(1))
    }

    /// The client has acknowledged SETTINGS.
    pub fn acknowledged(&mut self) {
        self.unacknowledged = None;
    }

    /// Since when it has not.
    #[must_use]
    pub fn unacknowledged(&self) -> Option<Instant> {
        self.unacknowledged
    }

    /// The window to ask for, where something has changed, while so many tunnels are open.
    /// [`Windows::told`] takes note of what came of it.
    #[must_use]
    fn change(&self, open: usize, unread: bool) -> Option<u32> {
        let share = HTTP2_SESSION_WINDOW / u32::try_from(open.max(1)).unwrap_or(u32::MAX);
        // In powers of two, so that not each tunnel that comes or goes is a change.
        let share = 1 << share.max(HTTP2_WINDOW_MIN).ilog2();
        let target = self.wanted.min(share);
        if target < self.told || target >= self.told.saturating_mul(2) {
            return Some(target);
        }
        let shrinks = self.keeps && !unread;
        (shrinks || open != self.open).then_some(self.told)
    }

    /// The client was told, or knows already, of this window, which may be less than was asked for;
    /// `keeps`: more is still counted.
    fn told(&mut self, window: u32, open: usize, asked: u32, keeps: bool) {
        if window < asked {
            self.wanted = self.wanted.min(window);
        }
        (self.told, self.open, self.keeps) = (window, open, keeps);
    }

    /// Returns what the client was told last.
    #[must_use]
    pub fn window(&self) -> u32 {
        self.told
    }

    /// The session's window: room for all tunnels'.
    #[must_use]
    pub fn of_session(&self) -> u32 {
        of_session(self.told, self.open)
    }
}

/// Bytes beyond the least that new tunnels with this window can be filled with, with so much credit
/// in the session.
fn of_new(window: u32, credit: u32) -> usize {
    let beyond = window.saturating_sub(HTTP2_WINDOW_MIN) as usize;
    let of_session = credit.saturating_sub(HTTP2_SESSION_WINDOW_MIN) as usize;
    of_session.min(beyond * HTTP2_TUNNELS_MAX)
}

/// The window of a session with so many tunnels that have this one each.
fn of_session(window: u32, open: usize) -> u32 {
    let all = u64::from(window) * open.max(1) as u64;
    let all = u32::try_from(all).unwrap_or(u32::MAX);
    let all = all.clamp(HTTP2_SESSION_WINDOW_MIN, HTTP2_SESSION_WINDOW);
    all.next_power_of_two()
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;

    const ROUND_TRIP: Duration = Duration::from_millis(50);

    fn windows(now: Instant) -> Windows {
        Windows::of(HTTP2_WINDOW_START, now)
    }

    /// One probe, answered after `round_trip`, in which `bytes` come.
    fn probe(windows: &mut Windows, bytes: usize, round_trip: Duration, now: &mut Instant) {
        windows.received(1, *now);
        while !windows.probe(*now) {
            *now += HTTP2_PROBE_PAUSE;
        }
        *now += round_trip;
        windows.received(bytes, *now);
        windows.answered(*now);
    }

    /// The change to be told of, which is told.
    fn tell(windows: &mut Windows, open: usize) -> Option<u32> {
        let before = windows.window();
        let window = windows.change(open, false)?;
        windows.told(window, open, window, false);
        (window != before).then_some(window)
    }

    #[test]
    fn windows_grow_with_what_comes_in_a_round_trip() {
        let mut now = Instant::now();
        let mut windows = windows(now);
        assert_eq!(tell(&mut windows, 1), None);
        probe(
            &mut windows,
            HTTP2_WINDOW_START as usize / 2,
            ROUND_TRIP,
            &mut now,
        );
        assert_eq!(tell(&mut windows, 1), None, "half of the window is used");
        let mut told = HTTP2_WINDOW_START;
        while told < HTTP2_WINDOW_MAX {
            probe(&mut windows, told as usize, ROUND_TRIP, &mut now);
            assert_eq!(tell(&mut windows, 1), Some(told * 2));
            told *= 2;
        }
        probe(&mut windows, told as usize * 4, ROUND_TRIP, &mut now);
        assert_eq!(tell(&mut windows, 1), None, "the largest");
    }

    #[test]
    fn a_late_answer_makes_no_window_larger() {
        let mut now = Instant::now();
        let mut windows = windows(now);
        probe(&mut windows, 100_000, ROUND_TRIP, &mut now);
        for _ in 0..5 {
            // Twenty times as late, and twenty times as many bytes.
            probe(&mut windows, 2_000_000, 20 * ROUND_TRIP, &mut now);
            assert_eq!(tell(&mut windows, 1), None);
        }
        // As fast as ever, and as many bytes: that is the way.
        probe(&mut windows, 2_000_000, ROUND_TRIP, &mut now);
        assert_eq!(tell(&mut windows, 1), Some(4_000_000));
        // The client has another network now.
        let mut slower = Windows::of(HTTP2_WINDOW_START, now);
        probe(&mut slower, 100_000, ROUND_TRIP, &mut now);
        now += HTTP2_ROUND_TRIP_KEPT;
        probe(&mut slower, 400_000, 4 * ROUND_TRIP, &mut now);
        assert_eq!(tell(&mut slower, 1), Some(800_000));
    }

    #[test]
    fn what_is_not_used_is_given_up() {
        let mut now = Instant::now();
        let grown = |now: &mut Instant| {
            let mut windows = windows(*now);
            probe(&mut windows, 8 << 20, ROUND_TRIP, now);
            assert_eq!(tell(&mut windows, 1), Some(HTTP2_WINDOW_MAX));
            windows
        };
        let mut little = grown(&mut now);
        for _ in 0..20 {
            probe(&mut little, 1000, ROUND_TRIP, &mut now);
            tell(&mut little, 1);
        }
        assert_eq!(little.window(), HTTP2_WINDOW_START);
        for (unread, least) in [(false, HTTP2_WINDOW_START), (true, HTTP2_WINDOW_MIN)] {
            let mut nothing = grown(&mut now);
            let again = nothing.rest(unread, now);
            assert_eq!(nothing.change(1, unread), None);
            assert!(nothing.rest(unread, again) > again);
            assert_eq!(nothing.change(1, unread), Some(least));
            nothing.told(least, 1, least, unread);
            assert_eq!(nothing.change(1, unread), None);
            let counted_again = unread.then_some(least);
            assert_eq!(nothing.change(1, false), counted_again, "it was read");
        }
    }

    #[test]
    fn the_sum_of_the_windows_is_at_most_the_sessions() {
        let mut now = Instant::now();
        let mut windows = windows(now);
        for open in (1..=256).chain((1..256).rev()) {
            probe(&mut windows, 64 << 20, ROUND_TRIP, &mut now);
            tell(&mut windows, open);
            let told = windows.window();
            let of_session = windows.of_session();
            assert!(of_session <= HTTP2_SESSION_WINDOW);
            assert!(
                told as usize * open <= of_session as usize,
                "{open}: {told}"
            );
            assert!((HTTP2_WINDOW_MIN..=HTTP2_WINDOW_MAX).contains(&told));
        }
        assert_eq!(windows.window(), HTTP2_WINDOW_MAX);
    }

    #[test]
    fn memory_is_counted_until_the_client_has_acknowledged_that_it_is_less() {
        let mut now = Instant::now();
        let device = Arc::<AtomicUsize>::default();
        let counted = || device.load(Relaxed);
        let mut share = WindowShare::new(device.clone(), Rc::default());
        let mut windows = Windows::new(&mut share, now);
        let start = counted();
        assert_eq!(start, (HTTP2_WINDOW_START - HTTP2_WINDOW_MIN) as usize);
        probe(&mut windows, 8 << 20, ROUND_TRIP, &mut now);
        windows.adapt(&mut share, (1, false), now, |_| {
            panic!("the first SETTINGS")
        });
        assert_eq!((windows.window(), counted()), (HTTP2_WINDOW_START, start));
        windows.acknowledged();
        windows.adapt(&mut share, (1, false), now, |_| true);
        assert_eq!(windows.window(), HTTP2_WINDOW_MAX);
        let grown = counted();
        assert_eq!(grown, (HTTP2_WINDOW_MAX - HTTP2_WINDOW_MIN) as usize);
        windows.acknowledged();

        // Nothing more comes.
        let again = windows.rest(false, now);
        now = again.max(now + HTTP2_WINDOW_REST);
        windows.rest(false, now);
        windows.adapt(&mut share, (1, false), now, |_| false);
        assert_eq!(
            (windows.window(), counted()),
            (HTTP2_WINDOW_MAX, grown),
            "not sent"
        );
        windows.adapt(&mut share, (1, false), now, |_| true);
        assert_eq!((windows.window(), counted()), (HTTP2_WINDOW_MIN, grown));
        assert_eq!(windows.unacknowledged(), Some(now));
        for open in [0, 1, 2, 256] {
            windows.adapt(&mut share, (open, false), now, |_| panic!("sent twice"));
            assert_eq!(counted(), grown);
        }
        windows.acknowledged();
        windows.adapt(&mut share, (1, true), now, |_| panic!("it knows"));
        assert_eq!(counted(), grown, "servers have not read it");
        windows.adapt(&mut share, (1, false), now, |_| panic!("it knows"));
        assert_eq!((windows.window(), counted()), (HTTP2_WINDOW_MIN, 0));
    }

    /// Credit of the session that was granted once was forgotten when windows shrank: a device
    /// could gather it in one session after the other, and fill all of it at once with new tunnels.
    #[test]
    fn credit_that_is_not_used_up_is_counted_where_windows_let_it_be_filled() {
        let mut now = Instant::now();
        let device = Arc::<AtomicUsize>::default();
        let mut share = WindowShare::new(device.clone(), Rc::default());
        let mut windows = windows(now);
        let mut adapt = |windows: &mut Windows, now| {
            windows.acknowledged();
            for _ in 0..2 {
                windows.adapt(&mut share, (1, false), now, |_| true);
                windows.acknowledged();
            }
            device.load(Relaxed)
        };
        probe(&mut windows, 8 << 20, ROUND_TRIP, &mut now);
        let all = adapt(&mut windows, now);
        assert_eq!(all, (HTTP2_WINDOW_MAX - HTTP2_WINDOW_MIN) as usize);
        let credit = HTTP2_WINDOW_MAX - HTTP2_SESSION_WINDOW_MIN;

        // Some still comes: the windows shrink, and the credit stays.
        for _ in 0..20 {
            probe(&mut windows, 1000, ROUND_TRIP, &mut now);
            adapt(&mut windows, now);
        }
        assert_eq!(windows.window(), HTTP2_WINDOW_START);
        // Those that came while the window was the largest were granted anew.
        let used = 19 * 1001;
        assert_eq!(adapt(&mut windows, now), (credit - used) as usize);

        // Nothing comes: with the least window each tunnel has what it may have in any session.
        let over = windows.rest(false, now);
        windows.rest(false, over);
        assert_eq!(adapt(&mut windows, over), 0);
        assert_eq!(windows.window(), HTTP2_WINDOW_MIN);

        // It goes on: the credit counts again with the first byte that a window allows beyond the least.
        now = over;
        probe(&mut windows, 64 << 10, ROUND_TRIP, &mut now);
        let counted = adapt(&mut windows, now);
        assert_eq!(windows.window(), 2 * HTTP2_WINDOW_MIN);
        assert!(counted > 6 << 20, "{counted}");
        windows.received(16 << 20, now);
        let used_up = adapt(&mut windows, now);
        assert_eq!(used_up, HTTP2_WINDOW_MIN as usize, "it is used up");
    }

    #[test]
    fn probes_are_rare_where_nothing_comes_of_them() {
        let mut now = Instant::now();
        let start = now;
        let mut windows = windows(now);
        assert!(!windows.probe(now), "nothing has come");
        for _ in 0..20 {
            probe(&mut windows, 100, ROUND_TRIP, &mut now);
        }
        assert!(now - start > HTTP2_PROBE_PAUSE_MAX * 10);
        windows.answered(now);
        assert_eq!(tell(&mut windows, 1), None, "an answer to nothing");
    }
}
