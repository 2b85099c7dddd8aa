//! Memory of the heaps that nobody uses, given back to the system.
//!
//! Both calls walk through what is free and take milliseconds after a peak: never on the way of a
//! byte.

/// Gives what is free in this thread's heap back, and what threads that have ended have left.
pub fn collect_heap() {
    // SAFETY: takes no pointer; it may be called on any thread at any time.
    unsafe { libmimalloc_sys::mi_collect(true) };
}

/// The same for the heap of the C library, of all threads: TLS's own memory is from there. Takes
/// its locks one after the other.
pub fn trim_c_heap() {
    const KEEP: usize = 0;
    // SAFETY: takes no pointer; it may be called on any thread at any time (MT-Safe, malloc_trim(3)).
    unsafe { libc::malloc_trim(KEEP) };
}
