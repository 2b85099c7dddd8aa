//! The atomics of the tables that are checked by a model: the models of `tests/models` put loom's
//! in their stead.

pub(super) use std::sync::atomic::{AtomicU64, Ordering, fence};

/// So many words of zero, which take no memory until they are written to.
pub(super) fn zeroed(words: usize) -> Box<[AtomicU64]> {
    // SAFETY: an `AtomicU64` has the representation of a `u64`, of which all bits zero is a value.
    unsafe { Box::<[AtomicU64]>::new_zeroed_slice(words).assume_init() }
}
