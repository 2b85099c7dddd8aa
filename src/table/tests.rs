//! The session cache against a model, and under many hands.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use proptest::prelude::*;

use super::SessionCache;

/// One page of a few short sessions.
type Small = SessionCache<4, 64>;

/// Bytes of a page of [`Small`].
const SMALL: usize = 64 * 8;
/// Words of its ring.
const RING: usize = 64 - 8 - 4;
const LIFETIME: u64 = 100;

fn words(key: &[u8], value: &[u8]) -> usize {
    2 + key.len().div_ceil(8) + value.len().div_ceil(8)
}

fn key(number: u8) -> Vec<u8> {
    // Lengths that are no whole number of words too.
    vec![number; 5 + usize::from(number % 5)]
}

#[derive(Debug, Clone)]
enum Operation {
    Put(u8, Vec<u8>),
    Take(u8),
    Get(u8),
    Pass(u64),
    Purge,
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        4 => (0..8u8, prop::collection::vec(any::<u8>(), 0..200)).prop_map(|(k, v)| Operation::Put(k, v)),
        2 => (0..8u8).prop_map(Operation::Take),
        3 => (0..8u8).prop_map(Operation::Get),
        1 => (1..40u64).prop_map(Operation::Pass),
        1 => Just(Operation::Purge),
    ]
}

/// Model of a page: its turns from the oldest on, those that are gone included, since their space
/// is.
#[derive(Default)]
struct Model {
    turns: VecDeque<Step>,
}

struct Step {
    key: u8,
    value: Vec<u8>,
    expiry: u64,
    there: bool,
}

impl Model {
    fn used(&self) -> usize {
        self.turns
            .iter()
            .map(|turn| words(&key(turn.key), &turn.value))
            .sum()
    }

    fn put(&mut self, number: u8, value: Vec<u8>, expiry: u64) -> bool {
        let need = words(&key(number), &value);
        if need > RING {
            return false;
        }
        self.take(number, 0);
        while self.turns.len() == 4 || self.used() + need > RING {
            self.turns.pop_front();
        }
        self.turns.push_back(Step {
            key: number,
            value,
            expiry,
            there: true,
        });
        true
    }

    fn find(&self, number: u8) -> Option<usize> {
        self.turns
            .iter()
            .position(|turn| turn.there && turn.key == number)
    }

    fn take(&mut self, number: u8, now: u64) -> Option<Vec<u8>> {
        let at = self.find(number)?;
        let turn = &mut self.turns[at];
        turn.there = false;
        (now < turn.expiry).then(|| turn.value.clone())
    }

    fn get(&mut self, number: u8, now: u64) -> Option<Vec<u8>> {
        let at = self.find(number)?;
        let (value, expiry) = (self.turns[at].value.clone(), self.turns[at].expiry);
        if now >= expiry {
            return None;
        }
        let age = self.turns.len() - at;
        let filling = self.used() * 4 > RING * 3 || self.turns.len() > 3;
        if age * 4 > self.turns.len() * 3 && filling {
            self.put(number, value.clone(), expiry);
        }
        Some(value)
    }

    fn purge(&mut self, now: u64) -> usize {
        let expired = self
            .turns
            .iter_mut()
            .filter(|turn| turn.there && now >= turn.expiry);
        expired.map(|turn| turn.there = false).count()
    }
}

/// Operations of one case of a property.
const OPERATIONS: usize = if cfg!(miri) { 30 } else { 300 };

proptest! {
    #![proptest_config(ProptestConfig::default())]

    #[test]
    fn does_what_the_model_does(operations in prop::collection::vec(operation(), 1..OPERATIONS / 2)) {
        let cache = Small::new(SMALL, LIFETIME);
        let (mut model, mut now) = (Model::default(), 1000);
        for operation in operations {
            match operation {
                Operation::Put(number, value) => {
                    let kept = cache.put(&key(number), &value, now);
                    prop_assert_eq!(kept, model.put(number, value, now + LIFETIME));
                }
                Operation::Take(number) => {
                    prop_assert_eq!(cache.take(&key(number), now), model.take(number, now));
                }
                Operation::Get(number) => {
                    prop_assert_eq!(cache.get(&key(number), now), model.get(number, now));
                }
                Operation::Pass(seconds) => now += seconds,
                Operation::Purge => prop_assert_eq!(cache.purge(now), model.purge(now)),
            }
        }
    }

    #[test]
    fn many_pages_never_answer_wrong(
        operations in prop::collection::vec((0..200u16, 0..3000usize, 0..3u8), 1..OPERATIONS)
    ) {
        let cache: SessionCache = SessionCache::new(4 * 16 * 1024, LIFETIME);
        let mut last: HashMap<u16, Vec<u8>> = HashMap::new();
        for (number, length, what) in operations {
            let name = number.to_le_bytes();
            match what {
                0 => {
                    let value = vec![number as u8; length];
                    prop_assert!(cache.put(&name, &value, 1));
                    prop_assert_eq!(cache.get(&name, 1), Some(value.clone()));
                    last.insert(number, value);
                }
                1 => {
                    if let Some(value) = cache.get(&name, 1) {
                        prop_assert_eq!(Some(&value), last.get(&number));
                    }
                }
                _ => {
                    if let Some(value) = cache.take(&name, 1) {
                        prop_assert_eq!(Some(value), last.remove(&number));
                    }
                    prop_assert_eq!(cache.get(&name, 1), None);
                    last.remove(&number);
                }
            }
        }
    }
}

#[test]
fn a_session_ends_with_its_lifetime() {
    let cache = Small::new(SMALL, LIFETIME);
    assert!(cache.put(b"key", b"value", 1000));
    assert_eq!(cache.get(b"key", 1099).as_deref(), Some(&b"value"[..]));
    assert_eq!(cache.get(b"key", 1100), None);
    assert_eq!(cache.take(b"key", 1100), None);
    // It was erased with that.
    assert_eq!(cache.get(b"key", 1000), None);
}

#[test]
fn what_is_larger_than_a_page_is_not_kept() {
    let cache: SessionCache = SessionCache::new(0, LIFETIME);
    assert_eq!(cache.bytes(), 16 * 1024);
    let largest = (2048 - 8 - 32 - 2 - 1) * 8;
    assert!(cache.put(b"key", &vec![7; largest], 0));
    assert_eq!(cache.get(b"key", 0), Some(vec![7; largest]));
    assert!(!cache.put(b"yek", &vec![7; largest + 1], 0));
    assert_eq!(cache.get(b"key", 0), Some(vec![7; largest]));
    assert_eq!(cache.take(&vec![1; 1 << 17], 0), None);
}

#[test]
fn a_session_in_use_outlives_those_that_are_not() {
    let cache = Small::new(SMALL, LIFETIME);
    let value = [1; 40];
    assert!(cache.put(b"in use", &value, 0));
    for number in 0..50u32 {
        assert!(cache.put(&number.to_le_bytes(), &value, 0));
        assert!(cache.get(b"in use", 0).is_some(), "evicted at {number}");
    }
    for number in 50..60u32 {
        assert!(cache.put(&number.to_le_bytes(), &value, 0));
    }
    assert_eq!(cache.get(b"in use", 0), None, "nothing was evicted");
}

#[test]
fn the_directory_may_turn_more_often_than_its_version_counts() {
    let turns = if cfg!(miri) { 40 } else { 4 * 70_000 };
    let cache = Small::new(SMALL, LIFETIME);
    for number in 0..turns as u32 {
        let name = number.to_le_bytes();
        assert!(cache.put(&name, &name, 0));
        assert_eq!(cache.get(&name, 0).as_deref(), Some(&name[..]));
    }
}

const ROUNDS: u32 = if cfg!(miri) { 20 } else { 20_000 };

/// A value by which a torn or foreign one is known.
fn marked(number: u32, round: u32) -> Vec<u8> {
    let length = 8 + (number.wrapping_mul(31).wrapping_add(round) % 60) as usize * 4;
    let word = number.wrapping_mul(0x0100_0193) ^ round;
    let mut value = number.to_le_bytes().to_vec();
    value.extend_from_slice(&round.to_le_bytes());
    value.extend(word.to_le_bytes().iter().cycle().take(length));
    value
}

fn assert_whole(number: u32, value: &[u8]) -> u32 {
    let round = u32::from_le_bytes(value[4..8].try_into().unwrap());
    assert_eq!(value, marked(number, round), "torn, or of another key");
    round
}

#[test]
fn two_takers_never_both_get_it() {
    let cache = Small::new(SMALL, LIFETIME);
    let taken: Vec<AtomicUsize> = (0..ROUNDS).map(|_| AtomicUsize::new(0)).collect();
    let done = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while done.load(Ordering::Relaxed) == 0 {
                    if let Some(value) = cache.take(b"key", 0) {
                        let round = assert_whole(7, &value);
                        taken[round as usize].fetch_add(1, Ordering::Relaxed);
                    }
                    thread::yield_now();
                }
            });
        }
        for round in 0..ROUNDS {
            let _ = cache.put(b"key", &marked(7, round), 0);
            if round % 16 == 0 {
                thread::yield_now();
            }
        }
        done.store(1, Ordering::Relaxed);
    });
    let counts: Vec<usize> = taken.into_iter().map(AtomicUsize::into_inner).collect();
    assert!(counts.iter().all(|count| *count <= 1), "taken twice");
    assert!(counts.contains(&1), "nothing was taken");
}

#[test]
fn what_is_read_while_others_write_is_whole() {
    let cache = Small::new(SMALL, LIFETIME);
    let hits = AtomicUsize::new(0);
    // The reader may be done before a writer begins.
    for number in 0..6u32 {
        assert!(cache.put(&number.to_le_bytes(), &marked(number, 0), 0));
    }
    thread::scope(|scope| {
        for writer in 0..2u32 {
            let cache = &cache;
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let number = (round * 2 + writer) % 6;
                    let _ = cache.put(&number.to_le_bytes(), &marked(number, round), 0);
                    if round % 7 == 0
                        && let Some(value) = cache.take(&number.to_le_bytes(), 0)
                    {
                        assert_whole(number, &value);
                    }
                    if round % 64 == 0 {
                        thread::yield_now();
                    }
                }
            });
        }
        scope.spawn(|| {
            for round in 0..ROUNDS * 2 {
                let number = round % 6;
                if let Some(value) = cache.get(&number.to_le_bytes(), 0) {
                    assert_whole(number, &value);
                    hits.fetch_add(1, Ordering::Relaxed);
                }
                if round % 64 == 0 {
                    cache.purge(0);
                    thread::yield_now();
                }
            }
        });
    });
    assert!(hits.into_inner() > 0, "nothing was read");
}
