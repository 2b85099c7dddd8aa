//! The races of the session cache, tried by loom in every order that two or three threads can have.
//!
//! The table's own source is compiled in here, with loom's atomics in the place of the standard library's.

#![allow(dead_code, reason = "the models use a part of the table")]

mod atomic {
    pub(super) use loom::sync::atomic::{AtomicU64, Ordering, fence};

    pub(super) fn zeroed(words: usize) -> Box<[AtomicU64]> {
        (0..words).map(|_| AtomicU64::new(0)).collect()
    }
}

#[path = "../../../src/table/sessions.rs"]
mod sessions;

#[cfg(test)]
mod tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::sessions::SessionCache;

    /// One page with room for one session of one word, or for two in the directory.
    type Cache = SessionCache<2, 18>;

    fn cache() -> Arc<Cache> {
        Arc::new(Cache::new(0, 100))
    }

    #[test]
    fn a_session_is_taken_once() {
        loom::model(|| {
            let cache = cache();
            assert!(cache.put(b"a", b"1", 0));
            let other = cache.clone();
            let thread = thread::spawn(move || other.take(b"a", 0));
            let (here, there) = (cache.take(b"a", 0), thread.join().unwrap());
            assert!(here.is_some() != there.is_some(), "{here:?} {there:?}");
            assert_eq!(here.or(there).as_deref(), Some(&b"1"[..]));
            assert_eq!(cache.take(b"a", 0), None);
        });
    }

    #[test]
    fn a_reader_sees_a_whole_session_or_none_while_it_is_evicted() {
        loom::model(|| {
            let cache = cache();
            assert!(cache.put(b"a", b"1", 0));
            let other = cache.clone();
            // Needs the words of the first: the ring has eight.
            let thread = thread::spawn(move || other.put(b"b", b"2222222233333333", 0));
            let read = cache.get(b"a", 0);
            assert!(read.is_none() || read.as_deref() == Some(b"1"), "{read:?}");
            assert!(thread.join().unwrap());
            assert_eq!(
                cache.get(b"b", 0).as_deref(),
                Some(&b"2222222233333333"[..])
            );
        });
    }

    #[test]
    fn a_taker_gets_a_whole_session_or_none_while_it_is_evicted() {
        loom::model(|| {
            let cache = cache();
            assert!(cache.put(b"a", b"1", 0));
            let other = cache.clone();
            let thread = thread::spawn(move || other.put(b"b", b"2222222233333333", 0));
            let taken = cache.take(b"a", 0);
            assert!(
                taken.is_none() || taken.as_deref() == Some(b"1"),
                "{taken:?}"
            );
            let put = thread.join().unwrap();
            assert!(
                put || taken.is_some(),
                "given up without a taker in the way"
            );
            let kept = cache.get(b"b", 0);
            assert_eq!(kept.as_deref(), put.then_some(&b"2222222233333333"[..]));
        });
    }

    #[test]
    fn a_session_is_found_whole_while_it_is_put() {
        loom::model(|| {
            let cache = cache();
            let other = cache.clone();
            let thread = thread::spawn(move || other.get(b"a", 0));
            assert!(cache.put(b"a", b"1", 0));
            let read = thread.join().unwrap();
            assert!(read.is_none() || read.as_deref() == Some(b"1"), "{read:?}");
        });
    }

    #[test]
    fn a_reader_sees_the_old_value_or_the_new_one() {
        loom::model(|| {
            let cache = cache();
            assert!(cache.put(b"a", b"1", 0));
            let other = cache.clone();
            let thread = thread::spawn(move || assert!(other.put(b"a", b"2", 0)));
            let read = cache.get(b"a", 0);
            assert!(
                matches!(read.as_deref(), None | Some(b"1" | b"2")),
                "{read:?}"
            );
            thread.join().unwrap();
            assert_eq!(cache.get(b"a", 0).as_deref(), Some(&b"2"[..]));
        });
    }

    #[test]
    fn what_is_read_is_not_kept_from_its_taker() {
        loom::model(|| {
            let cache = cache();
            assert!(cache.put(b"a", b"1", 0));
            assert!(cache.put(b"b", b"2", 0));
            let other = cache.clone();
            // The oldest of a page that is full: a reader moves the session to the young end.
            let thread = thread::spawn(move || other.get(b"a", 0));
            let taken = cache.take(b"a", 0);
            let read = thread.join().unwrap();
            assert!(read.is_none() || read.as_deref() == Some(b"1"), "{read:?}");
            let again = cache.take(b"a", 0);
            assert!(taken.is_none() || again.is_none(), "taken twice");
        });
    }

    #[test]
    fn of_two_writers_one_puts() {
        loom::model(|| {
            let cache = cache();
            let other = cache.clone();
            let thread = thread::spawn(move || other.put(b"a", b"1", 0));
            let (here, there) = (cache.put(b"a", b"2", 0), thread.join().unwrap());
            assert!(here || there);
            let taken = cache.take(b"a", 0);
            assert!(matches!(taken.as_deref(), Some(b"1" | b"2")), "{taken:?}");
            assert_eq!(cache.take(b"a", 0), None, "kept twice");
        });
    }

    #[test]
    fn a_sweep_and_a_taker_do_not_disturb_each_other() {
        loom::model(|| {
            let cache = cache();
            assert!(cache.put(b"a", b"1", 0));
            let other = cache.clone();
            let thread = thread::spawn(move || other.purge(100));
            let taken = cache.take(b"a", 0);
            let purged = thread.join().unwrap();
            assert_eq!(usize::from(taken.is_some()) + purged, 1);
            assert!(cache.put(b"a", b"2", 0));
        });
    }
}
