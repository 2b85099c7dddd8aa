//! Resolved names of one core, each for its time to live. No I/O and no clock.

use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Instant;

use super::resolver::{Answer, ResolveError};
use crate::limits::{NAME_CACHE_MAX, NAME_NEGATIVE_TTL};

/// The answer that is remembered: addresses, or that there are none.
pub(super) type Known = Result<Rc<[IpAddr]>, ResolveError>;

/// The cache.
#[derive(Default)]
pub(super) struct NameCache {
    entries: HashMap<Rc<str>, (Instant, Known)>,
}

impl NameCache {
    /// What is known about `name` at `now`.
    pub fn get(&self, name: &str, now: Instant) -> Option<Known> {
        self.entries
            .get(name)
            .filter(|(until, _)| now < *until)
            .map(|(_, known)| known.clone())
    }

    /// Remembers an answer. Only a name that does not exist is remembered among the failures.
    pub fn insert(
        &mut self,
        name: &str,
        answer: Result<Answer, ResolveError>,
        now: Instant,
    ) -> Known {
        let (known, ttl) = match answer {
            Ok(Answer {
                addresses,
                valid_for,
            }) => (Ok(Rc::from(addresses)), valid_for),
            Err(ResolveError::NotFound) => (Err(ResolveError::NotFound), NAME_NEGATIVE_TTL),
            Err(error) => return Err(error),
        };
        if self.entries.len() >= NAME_CACHE_MAX {
            self.entries.retain(|_, (until, _)| now < *until);
            if self.entries.len() >= NAME_CACHE_MAX {
                self.entries.clear();
            }
        }
        self.entries.insert(name.into(), (now + ttl, known.clone()));
        known
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn answer(seconds: u64) -> Result<Answer, ResolveError> {
        Ok(Answer {
            addresses: vec!["10.0.0.1".parse().unwrap()],
            valid_for: Duration::from_secs(seconds),
        })
    }

    #[test]
    fn an_answer_lives_for_its_time_and_a_failure_is_not_kept() {
        let mut cache = NameCache::default();
        let now = Instant::now();
        assert!(cache.insert("a", answer(10), now).is_ok());
        assert!(
            cache
                .get("a", now + Duration::from_secs(9))
                .is_some_and(|known| known.is_ok())
        );
        assert!(cache.get("a", now + Duration::from_secs(10)).is_none());
        assert!(cache.insert("b", Err(ResolveError::Timeout), now).is_err());
        assert!(cache.get("b", now).is_none());
        assert!(cache.insert("c", Err(ResolveError::NotFound), now).is_err());
        assert_eq!(cache.get("c", now), Some(Err(ResolveError::NotFound)));
        assert!(cache.get("c", now + NAME_NEGATIVE_TTL).is_none());
    }

    #[test]
    fn it_does_not_grow_without_bound() {
        let mut cache = NameCache::default();
        let now = Instant::now();
        for number in 0..NAME_CACHE_MAX * 2 {
            let _ = cache.insert(&number.to_string(), answer(10), now);
        }
        assert!(cache.entries.len() <= NAME_CACHE_MAX);
    }
}
