//! What each tunnel asks of memory alone: tables, the request, the rules, the timers, the histograms.
//!
//! A plain `HashMap` behind a lock stays as the baseline of the tables.
//!
//! ```text
//! cargo bench --bench tables
//! cargo bench --bench tables -- --quick
//! ```

mod common;

use std::collections::{HashMap, HashSet};
use std::hint::black_box;
use std::sync::RwLock;
use std::time::Duration;

use adit::front::request::RequestParser;
use adit::observe::{latency_histogram, record_latency};
use adit::table::{DeviceChanges, DeviceEntry, DeviceState, Published};
use common::{ISSUER, KEY, NOW};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

/// Every second look-up finds something.
fn revocation(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("revocation");
    for count in [10_000, 1_000_000] {
        let serials = common::serials(2 * count);
        let (revoked, _) = serials.split_at(count);
        // Far apart from each other, so that the next one is not in the cache because of the last.
        let mut asked = (0..).map(|turn: usize| &serials[turn.wrapping_mul(7_919) % serials.len()]);
        let index = Published::new(common::revocation(revoked));
        group.bench_function(BenchmarkId::new("index", count), |bencher| {
            bencher.iter(|| {
                let serial = asked.next().expect("endless");
                index.read(|index| index.status(ISSUER, KEY, black_box(serial), NOW))
            });
        });
        let set: HashSet<&[u8]> = revoked.iter().map(|serial| &serial[..]).collect();
        let locked = RwLock::new(HashMap::from([(ISSUER, set)]));
        group.bench_function(BenchmarkId::new("locked-map", count), |bencher| {
            bencher.iter(|| {
                let serial = asked.next().expect("endless");
                let map = locked.read().expect("nobody panics with it");
                map.get(ISSUER)
                    .is_some_and(|set| set.contains(&black_box(serial)[..]))
            });
        });
    }
    group.finish();
}

/// Every second device is registered.
fn registry(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("registry");
    // ADIT_BENCH_DEVICES=5000000 for another count.
    let more = std::env::var("ADIT_BENCH_DEVICES");
    let more = more.ok().and_then(|count| count.parse().ok());
    for count in [10_000, 100_000].into_iter().chain(more) {
        let names: Vec<String> = (0..2 * count).map(common::device).collect();
        let mut asked = (0..).map(|turn: usize| &names[turn.wrapping_mul(7_919) % names.len()]);
        let registry = common::registry(count);
        println!(
            "{count} devices take {:.1} bytes each",
            registry.bytes() as f64 / count as f64
        );
        let change = DeviceChanges::one(
            &common::device(0),
            DeviceEntry {
                state: DeviceState::Blocked,
                user: None,
            },
        );
        group.bench_function(BenchmarkId::new("one-change", count), |bencher| {
            bencher.iter(|| registry.with(black_box(&change)));
        });
        let registry = Published::new(registry);
        group.bench_function(BenchmarkId::new("registry", count), |bencher| {
            bencher.iter(|| {
                let name = asked.next().expect("endless");
                registry.read(|registry| registry.state(black_box(name)))
            });
        });
        let map: HashMap<&str, bool> = names
            .iter()
            .step_by(2)
            .map(|name| (&name[..], true))
            .collect();
        let locked = RwLock::new(map);
        group.bench_function(BenchmarkId::new("locked-map", count), |bencher| {
            bencher.iter(|| {
                let name = asked.next().expect("endless");
                let map = locked.read().expect("nobody panics with it");
                map.get(&black_box(name)[..]).copied()
            });
        });
    }
    group.finish();
}

fn request_and_rules(criterion: &mut Criterion) {
    criterion.bench_function("connect-parse", |bencher| {
        bencher.iter(|| RequestParser::new().push(black_box(common::REQUEST)));
    });
    let (rules, target) = (common::rules(50), common::target());
    criterion.bench_function("route/last-of-50", |bencher| {
        bencher.iter(|| {
            let target = black_box(&target);
            rules
                .iter()
                .position(|rule| rule.matches(Some("mail"), &target.host, target.port))
        });
    });
}

fn timers_and_histograms(criterion: &mut Criterion) {
    let mut timers = common::Timers::new(1000);
    criterion.bench_function("timer-turn/1000-set", |bencher| {
        bencher.iter(|| timers.turn());
    });
    let (mut histogram, mut micros) = (latency_histogram(), 0);
    criterion.bench_function("histogram-record", |bencher| {
        bencher.iter(|| {
            micros = (micros + 37) % 1_000_000;
            record_latency(&mut histogram, black_box(Duration::from_micros(micros)));
        });
    });
}

criterion_group!(
    benches,
    revocation,
    registry,
    request_and_rules,
    timers_and_histograms
);
criterion_main!(benches);
