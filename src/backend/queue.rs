//! Which name is looked up next, so that whoever asks for many delays nobody else. No I/O and no
//! clock.
//!
//! Each requester has a queue of its own and a share of the lookups that run; queues are served by
//! turns. Equal names that are asked for at the same time are one lookup. A query that nobody waits
//! for any more is dropped, and its lookup with it if it was the last.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::limits::{
    NAME_QUERIES_MAX, NAME_QUERIES_PER_DEVICE, NAME_QUERIES_RUNNING,
    NAME_QUERIES_RUNNING_PER_DEVICE,
};

/// Whose share a query takes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum QueryOwner {
    /// The node's own: names that the configuration has. As many as there are servers, so that they
    /// have no share.
    Node,
    /// A device that chooses the name.
    Device(Arc<str>),
}

/// Key of a lookup: equal ones are one lookup.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct LookupKey {
    pub name: Box<str>,
    /// True if the name may be completed with the system's search domains.
    pub may_be_short: bool,
    /// The settings that count.
    pub generation: u64,
}

/// Why a query is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// The requester has as many as it may.
    Share,
    /// All askers have as many as they may.
    Full,
}

/// A query, and who gets its answer.
struct Query<R> {
    owner: QueryOwner,
    wanted: Arc<LookupKey>,
    reply: R,
}

/// A lookup that runs.
struct Lookup {
    /// Whose share it takes.
    owner: QueryOwner,
    queries: Vec<u64>,
}

/// Lookups of one requester.
#[derive(Default)]
struct OwnerShare {
    waiting: VecDeque<u64>,
    running: usize,
}

/// The queries that wait or run.
pub(super) struct Queue<R> {
    queries: HashMap<u64, Query<R>>,
    lookups: HashMap<Arc<LookupKey>, Lookup>,
    shares: HashMap<QueryOwner, OwnerShare>,
    /// Askers with queries that wait, each once.
    turns: VecDeque<QueryOwner>,
}

impl<R> Default for Queue<R> {
    fn default() -> Self {
        Self {
            queries: HashMap::new(),
            lookups: HashMap::new(),
            shares: HashMap::new(),
            turns: VecDeque::new(),
        }
    }
}

impl<R> Queue<R> {
    /// Takes a query with a number that no other has. It joins a lookup of the same that runs
    /// already.
    ///
    /// # Errors
    /// There is no place for it: the reply, and why.
    pub fn push(
        &mut self,
        id: u64,
        owner: QueryOwner,
        wanted: LookupKey,
        reply: R,
    ) -> Result<(), (R, Refused)> {
        if self.queries.len() >= NAME_QUERIES_MAX {
            return Err((reply, Refused::Full));
        }
        let wanted = Arc::new(wanted);
        if let Some(lookup) = self.lookups.get_mut(&wanted) {
            lookup.queries.push(id);
        } else {
            let share = self.shares.entry(owner.clone()).or_default();
            let may_wait = match owner {
                QueryOwner::Node => NAME_QUERIES_MAX,
                QueryOwner::Device(_) => NAME_QUERIES_PER_DEVICE,
            };
            if share.waiting.len() >= may_wait {
                return Err((reply, Refused::Share));
            }
            if share.waiting.is_empty() {
                self.turns.push_back(owner.clone());
            }
            share.waiting.push_back(id);
        }
        let query = Query {
            owner,
            wanted,
            reply,
        };
        self.queries.insert(id, query);
        Ok(())
    }

    /// The next lookup to start, if one may.
    pub fn start(&mut self) -> Option<Arc<LookupKey>> {
        for _ in 0..self.turns.len() {
            if self.lookups.len() >= NAME_QUERIES_RUNNING {
                return None;
            }
            let owner = self.turns.pop_front()?;
            let Some(share) = self.shares.get_mut(&owner) else {
                continue;
            };
            let may_run = match owner {
                QueryOwner::Node => NAME_QUERIES_RUNNING,
                QueryOwner::Device(_) => NAME_QUERIES_RUNNING_PER_DEVICE,
            };
            if share.running >= may_run {
                self.turns.push_back(owner);
                continue;
            }
            let next = share.waiting.pop_front();
            if !share.waiting.is_empty() {
                self.turns.push_back(owner.clone());
            }
            let Some((id, query)) = next.and_then(|id| Some((id, self.queries.get(&id)?))) else {
                self.tidy(&owner);
                continue;
            };
            let wanted = query.wanted.clone();
            if let Some(lookup) = self.lookups.get_mut(&wanted) {
                // Another has asked for it since.
                lookup.queries.push(id);
                self.tidy(&owner);
                continue;
            }
            share.running += 1;
            let queries = vec![id];
            let lookup = Lookup { owner, queries };
            self.lookups.insert(wanted.clone(), lookup);
            return Some(wanted);
        }
        None
    }

    /// A lookup has ended: those who wait for its answer.
    pub fn finish(&mut self, wanted: &LookupKey) -> Vec<R> {
        let Some(lookup) = self.lookups.remove(wanted) else {
            return Vec::new();
        };
        self.has_ended(&lookup.owner);
        let queries = lookup.queries.iter();
        queries
            .filter_map(|id| Some(self.queries.remove(id)?.reply))
            .collect()
    }

    /// Nobody waits for this query any more. The lookup that is to be ended with it. A query that
    /// was answered is not known.
    pub fn drop_query(&mut self, id: u64) -> Option<Arc<LookupKey>> {
        let query = self.queries.remove(&id)?;
        if let Some(lookup) = self.lookups.get_mut(&query.wanted)
            && let Some(place) = lookup.queries.iter().position(|other| *other == id)
        {
            lookup.queries.swap_remove(place);
            if !lookup.queries.is_empty() {
                return None;
            }
            let lookup = self.lookups.remove(&query.wanted)?;
            self.has_ended(&lookup.owner);
            return Some(query.wanted);
        }
        if let Some(share) = self.shares.get_mut(&query.owner) {
            share.waiting.retain(|other| *other != id);
            if share.waiting.is_empty() {
                self.turns.retain(|other| *other != query.owner);
            }
            self.tidy(&query.owner);
        }
        None
    }

    /// How many queries are open.
    pub fn len(&self) -> usize {
        self.queries.len()
    }

    /// Queries that wait for a lookup to start, and lookups that run.
    pub fn load(&self) -> (usize, usize) {
        let waiting = self.shares.values().map(|share| share.waiting.len());
        (waiting.sum(), self.lookups.len())
    }

    fn has_ended(&mut self, owner: &QueryOwner) {
        if let Some(share) = self.shares.get_mut(owner) {
            share.running -= 1;
        }
        self.tidy(owner);
    }

    /// Forgets a requester that has nothing.
    fn tidy(&mut self, owner: &QueryOwner) {
        let is_idle = |share: &OwnerShare| share.running == 0 && share.waiting.is_empty();
        if self.shares.get(owner).is_some_and(is_idle) {
            self.shares.remove(owner);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn device(name: &str) -> QueryOwner {
        QueryOwner::Device(name.into())
    }

    fn wanted(name: &str) -> LookupKey {
        LookupKey {
            name: name.into(),
            may_be_short: false,
            generation: 1,
        }
    }

    #[test]
    fn who_asks_for_many_names_delays_nobody_else() {
        let mut queue = Queue::default();
        let mut refused = 0;
        for id in 0..10_000 {
            let pushed = queue.push(id, device("hostile"), wanted(&format!("{id}.test")), id);
            refused += usize::from(pushed.is_err_and(|(_, why)| why == Refused::Share));
        }
        assert_eq!(refused, 10_000 - NAME_QUERIES_PER_DEVICE);
        let started = std::iter::from_fn(|| queue.start()).count();
        assert_eq!(started, NAME_QUERIES_RUNNING_PER_DEVICE);
        queue
            .push(20_000, device("other"), wanted("other.test"), 0)
            .unwrap();
        let next = queue.start().unwrap();
        assert_eq!(&*next.name, "other.test", "before all that wait");
        queue
            .push(20_001, QueryOwner::Node, wanted("server.test"), 1)
            .unwrap();
        assert_eq!(&*queue.start().unwrap().name, "server.test");
        assert_eq!(queue.finish(&wanted("other.test")), [0]);
    }

    #[test]
    fn many_askers_are_served_by_turns() {
        let mut queue = Queue::default();
        for round in 0..4 {
            for owner in 0..100 {
                let name = format!("{round}-{owner}.test");
                queue
                    .push(
                        round * 100 + owner,
                        device(&owner.to_string()),
                        wanted(&name),
                        (),
                    )
                    .unwrap();
            }
        }
        for round in 0..2 {
            let served: HashSet<String> = (0..100)
                .map(|_| queue.start().unwrap().name.to_string())
                .collect();
            assert!(
                served
                    .iter()
                    .all(|name| name.starts_with(&format!("{round}-")))
            );
        }
    }

    #[test]
    fn equal_names_are_one_lookup_that_ends_with_the_last_who_waits() {
        let mut queue = Queue::default();
        for id in 0..3 {
            queue
                .push(id, device(&id.to_string()), wanted("a.test"), id)
                .unwrap();
        }
        let lookup = queue.start().unwrap();
        assert_eq!(queue.start(), None, "the others have joined it");
        assert_eq!((queue.drop_query(0), queue.drop_query(2)), (None, None));
        assert_eq!(queue.drop_query(1), Some(lookup));
        assert_eq!(queue.load(), (0, 0));
        assert!(queue.shares.is_empty() && queue.turns.is_empty() && queue.queries.is_empty());
    }

    proptest! {
        /// Whatever comes and goes in whatever order: each query is answered or dropped once,
        /// bounds hold, and nothing stays.
        #[test]
        fn nothing_is_lost_and_nothing_stays(steps in prop::collection::vec((0u8..4, 0u64..64, 0u8..8), 0..400)) {
            let mut queue = Queue::default();
            let (mut open, mut running) = (HashSet::new(), Vec::<Arc<LookupKey>>::new());
            for (number, (step, id, owner)) in steps.into_iter().enumerate() {
                match step {
                    0 => {
                        let number = number as u64;
                        let who = if owner == 0 { QueryOwner::Node } else { device(&owner.to_string()) };
                        if queue.push(number, who, wanted(&format!("{}.test", id % 16)), number).is_ok() {
                            open.insert(number);
                        }
                    }
                    1 => running.extend(queue.start()),
                    2 if !running.is_empty() => {
                        let done = running.swap_remove(id as usize % running.len());
                        for answered in queue.finish(&done) {
                            prop_assert!(open.remove(&answered));
                        }
                    }
                    _ => {
                        let some = open.iter().nth(id as usize % open.len().max(1)).copied();
                        if let Some(one) = some {
                            open.remove(&one);
                            let ended = queue.drop_query(one);
                            running.retain(|other| Some(other) != ended.as_ref());
                        }
                    }
                }
                prop_assert_eq!(queue.load().1, running.len());
                prop_assert!(running.len() <= NAME_QUERIES_RUNNING);
            }
            loop {
                running.extend(std::iter::from_fn(|| queue.start()));
                let Some(done) = running.pop() else { break };
                for answered in queue.finish(&done) {
                    prop_assert!(open.remove(&answered));
                }
            }
            prop_assert!(open.is_empty(), "{:?}", open);
            prop_assert!(queue.shares.is_empty() && queue.turns.is_empty() && queue.queries.is_empty());
        }
    }
}
