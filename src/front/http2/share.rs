//! A session's share of the memory that receive windows may take beyond the least: of its device's,
//! and of its core's.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::limits::{HTTP2_CORE_WINDOWS, HTTP2_DEVICE_WINDOWS, HTTP2_WINDOW_MIN};

/// The share; given back when it is dropped.
pub struct WindowShare {
    /// Window bytes of all sessions of the device, on all cores.
    device: Arc<AtomicUsize>,
    /// Window bytes of all sessions of the core.
    core: Rc<Cell<usize>>,
    taken: usize,
}

impl WindowShare {
    /// Nothing yet.
    #[must_use]
    pub fn new(device: Arc<AtomicUsize>, core: Rc<Cell<usize>>) -> Self {
        Self {
            device,
            core,
            taken: 0,
        }
    }

    /// Takes what windows of `wanted` bytes need, or of as much less as there is room for: the
    /// window that tunnels may have, [`HTTP2_WINDOW_MIN`] at least, for which nothing is needed.
    /// With `keeps`, what was taken is kept where it is more: it is filled.
    pub fn take(&mut self, wanted: u32, keeps: bool, needs: impl Fn(u32) -> usize) -> u32 {
        let mut window = wanted;
        loop {
            let needed = needs(window);
            let needed = if keeps {
                needed.max(self.taken)
            } else {
                needed
            };
            if needed <= self.taken || self.has_room_for(needed - self.taken) {
                self.set(needed);
                return window.max(HTTP2_WINDOW_MIN);
            }
            window /= 2;
        }
    }

    /// Counts so many bytes, whether there is room for them or not: the client was told of them.
    pub fn hold(&mut self, bytes: usize) {
        self.set(self.taken.max(bytes));
    }

    /// A device may have as much as it leaves free for others, so that some is free for the next
    /// one.
    fn has_room_for(&self, more: usize) -> bool {
        let free = HTTP2_CORE_WINDOWS.saturating_sub(self.core.get());
        let of_device = self.device.load(Relaxed) + more;
        of_device <= HTTP2_DEVICE_WINDOWS && of_device <= free.saturating_sub(more)
    }

    fn set(&mut self, taken: usize) {
        if taken == self.taken {
            return;
        }
        self.core.set(self.core.get() + taken - self.taken);
        // Two cores may both have seen the last of a device's room: what is too much is a session's at most.
        if taken > self.taken {
            self.device.fetch_add(taken - self.taken, Relaxed);
        } else {
            self.device.fetch_sub(self.taken - taken, Relaxed);
        }
        self.taken = taken;
    }
}

impl Drop for WindowShare {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{HTTP2_SESSION_WINDOW, HTTP2_WINDOW_MAX, HTTP2_WINDOW_START};

    fn of(open: usize) -> impl Fn(u32) -> usize {
        move |window: u32| window.saturating_sub(HTTP2_WINDOW_MIN) as usize * open
    }

    #[test]
    fn sessions_without_number_take_no_more_than_their_devices_share() {
        let core = Rc::<Cell<usize>>::default();
        let mut devices = Vec::new();
        for number in 0..40 {
            let device = Arc::<AtomicUsize>::default();
            let mut sessions = Vec::new();
            for _ in 0..256 {
                let mut share = WindowShare::new(device.clone(), core.clone());
                let window = share.take(HTTP2_WINDOW_MAX, false, of(1));
                assert!((HTTP2_WINDOW_MIN..=HTTP2_WINDOW_MAX).contains(&window));
                sessions.push(share);
            }
            assert!(device.load(Relaxed) <= HTTP2_DEVICE_WINDOWS);
            assert!(core.get() < HTTP2_CORE_WINDOWS);
            if number < 4 {
                assert!(device.load(Relaxed) >= HTTP2_WINDOW_MAX as usize);
            }
            devices.push(sessions);
        }
        drop(devices);
        assert_eq!(core.get(), 0);
    }

    #[test]
    fn what_is_filled_is_kept_until_it_is_not() {
        let device = Arc::<AtomicUsize>::default();
        let mut share = WindowShare::new(device.clone(), Rc::default());
        assert_eq!(share.take(HTTP2_WINDOW_MAX, false, of(2)), HTTP2_WINDOW_MAX);
        let full = device.load(Relaxed);
        assert!(full < HTTP2_SESSION_WINDOW as usize);
        assert_eq!(share.take(HTTP2_WINDOW_MIN, true, of(2)), HTTP2_WINDOW_MIN);
        assert_eq!(device.load(Relaxed), full, "the server has not read it");
        let start = share.take(HTTP2_WINDOW_START, false, of(1));
        assert_eq!(start, HTTP2_WINDOW_START);
        assert!(device.load(Relaxed) < full);
        drop(share);
        assert_eq!(device.load(Relaxed), 0);
    }
}
