//! Resolved names of one core, each for its time to live or until the settings of name resolution
//! change. No I/O and no clock.

use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Instant;

use super::resolved::{ResolveError, Resolved};
use crate::limits::{NAME_CACHE_MAX, NAME_NEGATIVE_TTL, NAME_STALE_MAX, NAME_STALE_TTL};

/// The answer that is remembered: addresses, or that there are none.
pub(super) type Known = Result<Rc<[IpAddr]>, ResolveError>;

/// The cache.
#[derive(Default)]
pub(super) struct NameCache {
    entries: HashMap<Rc<str>, CachedName>,
    /// How many changes of the settings there were.
    generation: u64,
}

struct CachedName {
    /// It is used until then.
    until: Instant,
    /// It was right until then, as its server said.
    fresh_until: Instant,
    known: Known,
}

impl NameCache {
    /// Takes note of how many changes of the settings there were: what was known before the last
    /// counts only while nobody gives a new answer.
    pub fn follow(&mut self, generation: u64, now: Instant) {
        if self.generation != generation {
            self.generation = generation;
            self.entries.retain(|_, entry| entry.known.is_ok());
            for entry in self.entries.values_mut() {
                entry.until = now;
            }
        }
    }

    /// Returns what is known about `name` at `now`.
    pub fn get(&self, name: &str, now: Instant) -> Option<Known> {
        self.entries
            .get(name)
            .filter(|entry| now < entry.until)
            .map(|entry| entry.known.clone())
    }

    /// Returns whether there is an answer that has run out and may be used while nobody gives a new
    /// one (RFC 8767).
    pub fn has_stale(&self, name: &str, now: Instant) -> bool {
        self.entries
            .get(name)
            .is_some_and(|entry| is_usable(entry, now))
    }

    /// Uses an answer that has run out for a while.
    pub fn reuse(&mut self, name: &str, now: Instant) -> Option<Known> {
        let entry = self
            .entries
            .get_mut(name)
            .filter(|entry| is_usable(entry, now))?;
        entry.until = now + NAME_STALE_TTL;
        Some(entry.known.clone())
    }

    /// Remembers an answer to what was asked when there were `generation` changes; one from before
    /// a later change does not count for others. Only a name that does not exist is remembered
    /// among the failures.
    pub fn insert(
        &mut self,
        name: &str,
        answer: Result<Resolved, ResolveError>,
        generation: u64,
        now: Instant,
    ) -> Known {
        let (known, ttl) = match answer {
            Ok(Resolved {
                addresses,
                valid_for,
            }) => (Ok(Rc::from(addresses)), valid_for),
            Err(ResolveError::NotFound) => (Err(ResolveError::NotFound), NAME_NEGATIVE_TTL),
            Err(error) => return Err(error),
        };
        if self.entries.len() >= NAME_CACHE_MAX {
            self.entries
                .retain(|_, entry| now < entry.until && entry.known.is_ok());
            if self.entries.len() >= NAME_CACHE_MAX {
                self.entries.clear();
            }
        }
        if generation != self.generation {
            return known;
        }
        let entry = CachedName {
            until: now + ttl,
            fresh_until: now + ttl,
            known: known.clone(),
        };
        self.entries.insert(name.into(), entry);
        known
    }
}

fn is_usable(entry: &CachedName, now: Instant) -> bool {
    entry.known.is_ok() && now < entry.fresh_until + NAME_STALE_MAX
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn answer(seconds: u64) -> Result<Resolved, ResolveError> {
        Ok(Resolved {
            addresses: vec!["10.0.0.1".parse().unwrap()],
            valid_for: Duration::from_secs(seconds),
        })
    }

    #[test]
    fn an_answer_lives_for_its_time_and_a_failure_is_not_kept() {
        let mut cache = NameCache::default();
        let now = Instant::now();
        assert!(cache.insert("a", answer(10), 0, now).is_ok());
        assert!(
            cache
                .get("a", now + Duration::from_secs(9))
                .is_some_and(|known| known.is_ok())
        );
        assert!(cache.get("a", now + Duration::from_secs(10)).is_none());
        assert!(
            cache
                .insert("b", Err(ResolveError::Timeout), 0, now)
                .is_err()
        );
        assert!(cache.get("b", now).is_none());
        assert!(
            cache
                .insert("c", Err(ResolveError::NotFound), 0, now)
                .is_err()
        );
        assert_eq!(cache.get("c", now), Some(Err(ResolveError::NotFound)));
        assert!(cache.get("c", now + NAME_NEGATIVE_TTL).is_none());
    }

    #[test]
    fn an_old_answer_stands_in_for_a_while_and_not_for_ever() {
        let mut cache = NameCache::default();
        let now = Instant::now();
        assert!(!cache.has_stale("a", now));
        let _ = cache.insert("a", answer(10), 0, now);
        let mut later = now + Duration::from_secs(10);
        assert!(cache.get("a", later).is_none());
        assert!(cache.reuse("a", later).is_some_and(|known| known.is_ok()));
        assert!(cache.get("a", later).is_some(), "for a while");
        later += NAME_STALE_TTL;
        assert!(cache.get("a", later).is_none() && cache.has_stale("a", later));
        let end = now + Duration::from_secs(10) + NAME_STALE_MAX;
        assert!(!cache.has_stale("a", end) && cache.reuse("a", end).is_none());
        // That a name does not exist is nothing to go on with.
        let _ = cache.insert("b", Err(ResolveError::NotFound), 0, now);
        assert!(!cache.has_stale("b", now + NAME_NEGATIVE_TTL));
    }

    #[test]
    fn a_change_of_the_settings_ends_what_was_known() {
        let mut cache = NameCache::default();
        let now = Instant::now();
        let _ = cache.insert("a", answer(100), 0, now);
        let _ = cache.insert("b", Err(ResolveError::NotFound), 0, now);
        cache.follow(1, now);
        assert_eq!((cache.get("a", now), cache.get("b", now)), (None, None));
        assert!(cache.has_stale("a", now), "for want of a new one");
        assert!(cache.insert("c", answer(100), 0, now).is_ok());
        assert_eq!(cache.get("c", now), None, "asked before the change");
        assert!(cache.insert("c", answer(100), 1, now).is_ok());
        cache.follow(1, now);
        assert!(cache.get("c", now).is_some());
    }

    #[test]
    fn it_does_not_grow_without_bound() {
        let mut cache = NameCache::default();
        let now = Instant::now();
        for number in 0..NAME_CACHE_MAX * 2 {
            let _ = cache.insert(&number.to_string(), answer(10), 0, now);
        }
        assert!(cache.entries.len() <= NAME_CACHE_MAX);
    }
}
