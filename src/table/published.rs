//! One value that a writer replaces while readers keep reading: the way in which every shared table
//! reaches the data cores.
//!
//! Guarantees: [`Published::read`] waits for nobody, allocates nothing (but once for each thread,
//! when the thread first pins an epoch) and frees no value of type `T`. A replaced value lives
//! until every reader that could have seen it has left, and is then freed on a *writer's* thread.
//! That last point is why this is more than an `epoch::Atomic`: a thread that pins now and then
//! runs the garbage that others deferred, and a data core must not be the one that gives a table of
//! millions of entries back to the allocator. So the garbage deferred here is a flag, and the value
//! itself stays in a list that only writers touch.
//!
//! It does not give a reader the same value twice: who needs two looks at one version takes both
//! inside one `read`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_epoch::{self as epoch, Atomic, Guard, Owned, Shared};

/// A value shared by many readers and replaced whole by a writer.
///
/// ```
/// use adit::table::Published;
///
/// let table = Published::new(1);
/// assert_eq!(table.read(|value| *value), 1);
/// table.publish(2);
/// assert_eq!(table.read(|value| *value), 2);
/// ```
pub struct Published<T> {
    /// Never null. Points to a value that came from `Owned::new` (a `Box`) and that no one else
    /// owns.
    current: Atomic<T>,
    /// Values that are no longer `current` and not freed yet. Only writers lock this, never a
    /// reader.
    retired: Mutex<Vec<Retired<T>>>,
}

/// A replaced value, and whether the last reader that could have seen it has left.
struct Retired<T> {
    #[expect(dead_code, reason = "held to be dropped")]
    value: Owned<T>,
    unreachable: Arc<AtomicBool>,
}

impl<T> Published<T> {
    /// Publishes the first value.
    pub fn new(value: T) -> Self {
        Published {
            current: Atomic::new(value),
            retired: Mutex::new(Vec::new()),
        }
    }

    /// Runs `f` on the current value.
    ///
    /// The value stays alive until `f` returns, however many times it is replaced meanwhile; a long
    /// `f` therefore holds back the freeing of replaced values everywhere, so keep it to a look-up.
    pub fn read<R>(&self, f: impl FnOnce(&T) -> R) -> R {
        let guard = epoch::pin();
        let current = self.current.load(Ordering::Acquire, &guard);
        // SAFETY: `current` is never null and points to an initialised `T` (invariant of the field). `publish` frees a
        // replaced value only once its `unreachable` flag is set, which the epoch collector does only after every
        // guard that was pinned when the value was unlinked is gone; `guard` outlives `f`. `drop` needs `&mut self`,
        // which cannot exist while this `&self` does. No `&mut T` is ever made from the pointer while it is linked.
        f(unsafe { current.deref() })
    }
}

impl<T: Default> Default for Published<T> {
    fn default() -> Self {
        Published::new(T::default())
    }
}

impl<T> Published<T> {
    /// Replaces the value: readers that come after this see `value`. Frees what earlier calls left
    /// behind, and the value replaced now if no reader is in the way; else the next
    /// [`publish`](Self::publish) or [`reclaim`](Self::reclaim) frees it. Call it off the data
    /// cores: freeing a large table takes its time.
    pub fn publish(&self, value: T) {
        let guard = epoch::pin();
        let mut retired = self.lock_retired();
        let replaced = self
            .current
            .swap(Owned::new(value), Ordering::AcqRel, &guard);
        retired.push(Self::retire(replaced, &guard));
        drop(retired);
        guard.flush();
        drop(guard);
        self.reclaim();
    }

    /// Frees the replaced values that no reader can see any more and says how many are still
    /// waiting for one.
    pub fn reclaim(&self) -> usize {
        // A value may go when the global epoch has advanced twice past its unlinking; each pin-and-flush tries to
        // advance it once and runs what has expired. The fourth is for the flag's own turn in the queue.
        for _ in 0..4 {
            epoch::pin().flush();
        }
        let (free, waiting) = {
            let mut retired = self.lock_retired();
            let free: Vec<_> = retired
                .extract_if(.., |old| old.unreachable.load(Ordering::Acquire))
                .collect();
            (free, retired.len())
        };
        // Outside the lock: `T`'s destructor may be long, and may itself publish.
        drop(free);
        waiting
    }

    fn retire(replaced: Shared<'_, T>, guard: &Guard) -> Retired<T> {
        let unreachable = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&unreachable);
        guard.defer(move || flag.store(true, Ordering::Release));
        // SAFETY: `replaced` was just swapped out of `current`, so it is not null, and the swap handed it to this call
        // alone. Holding it as an `Owned` frees nothing and makes no reference to the value: it is dropped only when
        // `unreachable` is set (`reclaim`) or when no reader can exist (`drop`).
        let value = unsafe { replaced.into_owned() };
        Retired { value, unreachable }
    }

    fn lock_retired(&self) -> MutexGuard<'_, Vec<Retired<T>>> {
        // A panic while the lock was held cannot have left the list half changed: each change is one `Vec` call.
        self.retired.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Drop for Published<T> {
    fn drop(&mut self) {
        let current = std::mem::replace(&mut self.current, Atomic::null());
        // SAFETY: `&mut self` proves that no `read` is running, so nobody else can reach the pointer; it is not null
        // (invariant of the field) and is taken out of it here once. The values in `retired` are owned by the list
        // and go with it, for the same reason without waiting for their flags; the flags are shared and stay valid.
        drop(unsafe { current.into_owned() });
    }
}

impl<T: std::fmt::Debug> std::fmt::Debug for Published<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.read(|value| f.debug_tuple("Published").field(value).finish())
    }
}

/// Clean under `cargo +nightly miri test` with
/// `MIRIFLAGS="-Zmiri-tree-borrows -Zmiri-ignore-leaks"`: crossbeam-epoch's own lists break the
/// stricter stacked borrows, and its global collector is never freed.
#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    /// Counts its living instances, and is recognisably itself for as long as it lives.
    struct Canary {
        value: usize,
        check: usize,
        alive: Arc<AtomicUsize>,
    }

    impl Canary {
        fn new(value: usize, alive: &Arc<AtomicUsize>) -> Self {
            alive.fetch_add(1, Ordering::SeqCst);
            Canary {
                value,
                check: !value,
                alive: Arc::clone(alive),
            }
        }
    }

    impl Drop for Canary {
        fn drop(&mut self) {
            self.check = self.value;
            self.alive.fetch_sub(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_reader_keeps_the_value_it_entered_with() {
        let alive = Arc::new(AtomicUsize::new(0));
        let table = Published::new(Canary::new(1, &alive));
        table.read(|before| {
            table.publish(Canary::new(2, &alive));
            assert_eq!((before.value, before.check), (1, !1));
            assert_eq!(table.read(|after| after.value), 2);
            assert_eq!(table.reclaim(), 1, "freed under a reader");
            assert_eq!(alive.load(Ordering::SeqCst), 2);
        });
    }

    #[test]
    fn dropping_the_table_frees_every_value_once() {
        let alive = Arc::new(AtomicUsize::new(0));
        let table = Published::new(Canary::new(0, &alive));
        for value in 1..20 {
            table.publish(Canary::new(value, &alive));
        }
        // A reader elsewhere keeps the epoch, and so the replaced values, but not the table.
        let _elsewhere = epoch::pin();
        table.publish(Canary::new(20, &alive));
        drop(table);
        assert_eq!(alive.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn replaced_values_are_freed_while_the_table_lives() {
        let alive = Arc::new(AtomicUsize::new(0));
        let table = Published::new(Canary::new(0, &alive));
        table.publish(Canary::new(1, &alive));
        // Other tests of this process pin epochs too, so the first attempt need not be the one that succeeds.
        while table.reclaim() > 0 {
            thread::yield_now();
        }
        assert_eq!(alive.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_panicking_reader_leaves_the_table_usable() {
        let table = Published::new(1);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            table.read(|_| panic!("in a reader"))
        }));
        assert!(panicked.is_err());
        table.publish(2);
        assert_eq!(table.read(|value| *value), 2);
    }

    #[test]
    fn readers_hammering_a_changing_table_see_whole_values_in_order() {
        const VERSIONS: usize = if cfg!(miri) { 30 } else { 3000 };
        let alive = Arc::new(AtomicUsize::new(0));
        let table = Published::new(Canary::new(0, &alive));
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let mut last = 0;
                    while last < VERSIONS {
                        table.read(|seen| {
                            assert_eq!(seen.check, !seen.value, "a freed or half-written value");
                            assert!(seen.value >= last, "an old value after a new one");
                            last = seen.value;
                        });
                        if cfg!(miri) {
                            thread::yield_now();
                        }
                    }
                });
            }
            for value in 1..=VERSIONS {
                table.publish(Canary::new(value, &alive));
            }
        });
        drop(table);
        assert_eq!(alive.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn two_writers_lose_no_value() {
        const EACH: usize = if cfg!(miri) { 10 } else { 500 };
        let alive = Arc::new(AtomicUsize::new(0));
        let table = Published::new(Canary::new(0, &alive));
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    (0..EACH).for_each(|value| table.publish(Canary::new(value, &alive)));
                });
            }
        });
        drop(table);
        assert_eq!(alive.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn is_shared_between_threads_only_with_values_that_may_be() {
        fn shareable<T: Send + Sync>() {}
        shareable::<Published<Vec<u8>>>();
        // The other half, that `Published<Rc<_>>` and `Published<Cell<_>>` are neither, holds because `Atomic<T>` is
        // `Send` and `Sync` only for `T: Send + Sync`; a test that must not compile would need a crate of its own.
    }
}
