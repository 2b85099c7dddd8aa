//! How much each core has to do, as the other cores see it.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The open sessions of one core: written by that core alone, read by the others when they accept.
///
/// Two cache lines of its own (processors fetch lines in pairs), so that a core's writes cost the
/// others nothing but the read itself.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct CoreLoad(AtomicUsize);

impl CoreLoad {
    /// One session more. For the core's own thread: there is no other writer, so that no locked
    /// instruction is needed.
    pub fn enter(&self) {
        self.0.store(self.open().wrapping_add(1), Ordering::Relaxed);
    }

    /// One session less. For the core's own thread.
    pub fn leave(&self) {
        self.0.store(self.open().wrapping_sub(1), Ordering::Relaxed);
    }

    /// Sessions that are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}
