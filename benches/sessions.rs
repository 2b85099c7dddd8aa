//! The TLS session cache beside plain locks, rustls's own cache and concurrent maps of others.
//!
//! Each holds 16384 sessions of 1 KiB, which is what a certificate chain of two with P-256 takes. *read* looks sessions up
//! that stay (TLS 1.2), *churn* takes one and puts a new one (TLS 1.3 out of the cache). With two threads a time is that of
//! one operation of one thread. What is not bounded by itself is bounded here by taking what was put.
//!
//! ```text
//! cargo bench --bench sessions
//! cargo bench --bench sessions -- --quick
//! ```

mod common;

use std::collections::HashMap;
use std::hash::RandomState;
use std::hint::black_box;
use std::sync::{Barrier, Mutex, RwLock};
use std::time::{Duration, Instant};

use adit::config::{Resumption, ResumptionKind};
use adit::table::SessionCache;
use common::Random;
use common::tls::Ends;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use rustls::HandshakeKind;
use rustls::server::{ServerSessionMemoryCache, StoresServerSessions};

/// Sessions that are kept.
const SESSIONS: usize = 16 * 1024;
/// Bytes of a session.
const VALUE: usize = 1024;
/// Memory of ours: each session with its key and heads in pages that are not filled evenly.
const BYTES: usize = 2 * SESSIONS * VALUE;

type Key = [u8; 32];

/// What each of them can do.
trait Store: Sync {
    fn put(&self, key: Key, value: Vec<u8>);
    fn get(&self, key: &Key) -> Option<Vec<u8>>;
    fn take(&self, key: &Key) -> Option<Vec<u8>>;
}

struct Adit(SessionCache);

impl Store for Adit {
    fn put(&self, key: Key, value: Vec<u8>) {
        let _ = self.0.put(&key, &value, 0);
    }
    fn get(&self, key: &Key) -> Option<Vec<u8>> {
        self.0.get(key, 0)
    }
    fn take(&self, key: &Key) -> Option<Vec<u8>> {
        self.0.take(key, 0)
    }
}

#[derive(Default)]
struct Mutexed(Mutex<HashMap<Key, Vec<u8>>>);

impl Store for Mutexed {
    fn put(&self, key: Key, value: Vec<u8>) {
        self.0.lock().expect("no panic").insert(key, value);
    }
    fn get(&self, key: &Key) -> Option<Vec<u8>> {
        self.0.lock().expect("no panic").get(key).cloned()
    }
    fn take(&self, key: &Key) -> Option<Vec<u8>> {
        self.0.lock().expect("no panic").remove(key)
    }
}

#[derive(Default)]
struct Locked(RwLock<HashMap<Key, Vec<u8>>>);

impl Store for Locked {
    fn put(&self, key: Key, value: Vec<u8>) {
        self.0.write().expect("no panic").insert(key, value);
    }
    fn get(&self, key: &Key) -> Option<Vec<u8>> {
        self.0.read().expect("no panic").get(key).cloned()
    }
    fn take(&self, key: &Key) -> Option<Vec<u8>> {
        self.0.write().expect("no panic").remove(key)
    }
}

struct Rustls(std::sync::Arc<ServerSessionMemoryCache>);

impl Store for Rustls {
    fn put(&self, key: Key, value: Vec<u8>) {
        self.0.put(key.to_vec(), value);
    }
    fn get(&self, key: &Key) -> Option<Vec<u8>> {
        self.0.get(key)
    }
    fn take(&self, key: &Key) -> Option<Vec<u8>> {
        self.0.take(key)
    }
}

struct Papaya(papaya::HashMap<Key, Vec<u8>, RandomState>);

impl Store for Papaya {
    fn put(&self, key: Key, value: Vec<u8>) {
        self.0.pin().insert(key, value);
    }
    fn get(&self, key: &Key) -> Option<Vec<u8>> {
        self.0.pin().get(key).cloned()
    }
    fn take(&self, key: &Key) -> Option<Vec<u8>> {
        self.0.pin().remove(key).cloned()
    }
}

struct Dashmap(dashmap::DashMap<Key, Vec<u8>>);

impl Store for Dashmap {
    fn put(&self, key: Key, value: Vec<u8>) {
        self.0.insert(key, value);
    }
    fn get(&self, key: &Key) -> Option<Vec<u8>> {
        self.0.get(key).map(|value| value.clone())
    }
    fn take(&self, key: &Key) -> Option<Vec<u8>> {
        self.0.remove(key).map(|(_, value)| value)
    }
}

struct Moka(moka::sync::Cache<Key, Vec<u8>>);

impl Store for Moka {
    fn put(&self, key: Key, value: Vec<u8>) {
        self.0.insert(key, value);
    }
    fn get(&self, key: &Key) -> Option<Vec<u8>> {
        self.0.get(key)
    }
    fn take(&self, key: &Key) -> Option<Vec<u8>> {
        self.0.remove(key)
    }
}

struct Quick(quick_cache::sync::Cache<Key, Vec<u8>>);

impl Store for Quick {
    fn put(&self, key: Key, value: Vec<u8>) {
        self.0.insert(key, value);
    }
    fn get(&self, key: &Key) -> Option<Vec<u8>> {
        self.0.get(key)
    }
    fn take(&self, key: &Key) -> Option<Vec<u8>> {
        self.0.remove(key).map(|(_, value)| value)
    }
}

fn stores() -> Vec<(&'static str, Box<dyn Store>)> {
    let lifetime = Duration::from_secs(3600);
    let moka = moka::sync::Cache::builder()
        .weigher(|_: &Key, value: &Vec<u8>| value.len() as u32)
        .max_capacity(BYTES as u64)
        .time_to_live(lifetime);
    vec![
        ("adit", Box::new(Adit(SessionCache::new(BYTES, 3600)))),
        ("mutex", Box::new(Mutexed::default())),
        ("rwlock", Box::new(Locked::default())),
        (
            "rustls",
            Box::new(Rustls(ServerSessionMemoryCache::new(2 * SESSIONS))),
        ),
        (
            "papaya",
            Box::new(Papaya(papaya::HashMap::with_hasher(RandomState::new()))),
        ),
        ("dashmap", Box::new(Dashmap(dashmap::DashMap::new()))),
        ("moka", Box::new(Moka(moka.build()))),
        (
            "quick_cache",
            Box::new(Quick(quick_cache::sync::Cache::new(2 * SESSIONS))),
        ),
    ]
}

/// The key of a number: far from the next one's, as random keys are.
fn key(number: u64) -> Key {
    let mut random = Random(number);
    let mut key = [0; 32];
    for word in key.chunks_exact_mut(8) {
        word.copy_from_slice(&random.next().to_le_bytes());
    }
    key
}

/// The time of `count` turns on each of `threads` threads that begin together. A turn is given its number, and the number
/// of its thread.
fn timed(threads: u64, count: u64, turn: impl Fn(u64, u64) + Sync) -> Duration {
    let barrier = Barrier::new(threads as usize);
    std::thread::scope(|scope| {
        let run = |thread| {
            let (barrier, turn) = (&barrier, &turn);
            move || {
                barrier.wait();
                let start = Instant::now();
                (0..count).for_each(|number| turn(number, thread));
                start.elapsed()
            }
        };
        let others: Vec<_> = (1..threads)
            .map(|thread| scope.spawn(run(thread)))
            .collect();
        let mine = run(0)();
        let times = others
            .into_iter()
            .map(|other| other.join().expect("a time"));
        times.fold(mine, Duration::max)
    })
}

fn reads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("session-read");
    for (name, store) in stores() {
        let keys: Vec<Key> = (0..SESSIONS as u64).map(key).collect();
        for key in &keys {
            store.put(*key, vec![7; VALUE]);
        }
        let found = keys.iter().filter(|key| store.get(key).is_some()).count();
        assert!(found > SESSIONS * 9 / 10, "{name} keeps {found}");
        for threads in [1, 2] {
            group.bench_function(BenchmarkId::new(name, threads), |bencher| {
                bencher.iter_custom(|count| {
                    timed(threads, count, |number, thread| {
                        let at = (number * 7_919 + thread * 4_099) as usize % SESSIONS;
                        black_box(store.get(&keys[at]));
                    })
                });
            });
        }
    }
    group.finish();
}

/// Each thread takes the sessions that it put some turns ago, and puts new ones.
fn churn(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("session-churn");
    for (name, store) in stores() {
        for threads in [1, 2] {
            let behind = SESSIONS as u64 / 4;
            group.bench_function(BenchmarkId::new(name, threads), |bencher| {
                bencher.iter_custom(|count| {
                    let of = |thread: u64, number: u64| key(thread << 48 | number);
                    for thread in 0..threads {
                        (0..behind).for_each(|n| store.put(of(thread, n), vec![7; VALUE]));
                    }
                    let time = timed(threads, count, |number, thread| {
                        black_box(store.take(&of(thread, number)));
                        store.put(of(thread, number + behind), vec![7; VALUE]);
                    });
                    for thread in 0..threads {
                        (count..count + behind).for_each(|n| drop(store.take(&of(thread, n))));
                    }
                    time
                });
            });
        }
    }
    group.finish();
}

/// No time, but what a policy keeps: of sessions that are taken once, up to one and a half capacities after they were put,
/// the share that is still there.
fn kept(_: &mut Criterion) {
    for bounded in ["adit", "rustls", "moka", "quick_cache"] {
        let (_, store) = stores()
            .into_iter()
            .find(|(name, _)| *name == bounded)
            .expect("one of them");
        let capacity = 2 * SESSIONS as u64;
        let (mut random, mut asked, mut found) = (Random(1), 0, 0);
        for number in 0..8 * capacity {
            store.put(key(number), vec![7; VALUE]);
            let ago = random.next() % (capacity * 3 / 2);
            if number > 2 * capacity {
                asked += 1;
                found += u32::from(store.take(&key(number - ago)).is_some());
            }
        }
        let share = f64::from(found) / f64::from(asked);
        println!("session-kept/{bounded}: {share:.3} found");
    }
}

/// Whole handshakes, client and server, by what the session is resumed.
fn resumed(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("resumed-handshake");
    for (name, by) in [
        ("tickets", ResumptionKind::Tickets),
        ("cache", ResumptionKind::Cache),
    ] {
        let sessions = Resumption {
            by,
            ..Resumption::default()
        };
        let ends = Ends::resumed_by(true, &sessions);
        ends.shake();
        let (_, server) = ends.shake();
        assert_eq!(server.handshake_kind(), Some(HandshakeKind::Resumed));
        group.bench_function(name, |bencher| bencher.iter(|| ends.shake()));
    }
    group.finish();
}

criterion_group!(benches, reads, churn, kept, resumed);
criterion_main!(benches);
