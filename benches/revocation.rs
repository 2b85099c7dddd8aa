//! The revocation index at the size of a fleet: look-ups in 1 and 10 million serials of 16 and of 20 octets, and what
//! building it takes.
//!
//! *good-cold* and *revoked-cold* ask for another random serial each time, which is not or is revoked, one look-up after
//! the other is done: no two misses of the cache overlap. *warm* asks for the same few again. Baselines, which stay: a
//! `HashSet` behind a lock, a binary search in sorted serials, and one
//! load from as much memory.
//!
//! ```text
//! cargo bench --bench revocation
//! cargo bench --bench revocation -- --quick      1 million only
//! ```

mod common;

use std::collections::HashSet;
use std::hint::black_box;
use std::sync::RwLock;
use std::time::Instant;

use adit::table::{Published, RevocationIndex, Status};
use common::{ISSUER, KEY, NOW, Random};
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, measurement::WallTime};

/// Questions asked in one round: their answers lie in more memory than any cache holds.
const ASKED: usize = 1 << 20;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let brief = std::env::args().any(|argument| argument == "--quick" || argument == "--test");
    let counts: &[usize] = if brief {
        &[1_000_000]
    } else {
        &[1_000_000, 10_000_000]
    };
    for count in counts {
        look_ups::<16>(&mut criterion, *count);
        look_ups::<20>(&mut criterion, *count);
    }
    criterion.final_summary();
}

fn serial<const WIDTH: usize>(random: &mut Random) -> [u8; WIDTH] {
    let mut serial = [0; WIDTH];
    for part in serial.chunks_mut(8) {
        part.copy_from_slice(&random.next().to_be_bytes()[..part.len()]);
    }
    serial[0] = serial[0] & 0x3f | 0x40;
    serial
}

fn look_ups<const WIDTH: usize>(criterion: &mut Criterion, count: usize) {
    let mut random = Random(1);
    let revoked: Vec<[u8; WIDTH]> = (0..count).map(|_| serial(&mut random)).collect();
    let good = (0..ASKED).map(|_| serial(&mut random)).collect();
    let listed = (0..ASKED).map(|_| revoked[random.next() as usize % count]);
    let asked = [good, listed.collect()];
    let mut group = criterion.benchmark_group(format!("revocation-{WIDTH}"));

    let started = Instant::now();
    let mut builder = RevocationIndex::builder();
    builder.add(
        ISSUER,
        KEY,
        revoked.iter().map(|serial| &serial[..]),
        NOW + 1,
    );
    let index = builder.build();
    println!(
        "revocation-{WIDTH}/{count}: built in {:.2} s, {:.2} bytes an entry",
        started.elapsed().as_secs_f64(),
        index.bytes() as f64 / count as f64
    );
    let index = Published::new(index);
    measure(&mut group, "index", count, &asked, |serial| {
        index.read(|index| index.status(ISSUER, KEY, serial, NOW)) == Status::Revoked
    });
    drop(index);

    let set: HashSet<&[u8]> = revoked.iter().map(|serial| &serial[..]).collect();
    let locked = RwLock::new(set);
    measure(&mut group, "locked-set", count, &asked, |serial| {
        locked
            .read()
            .expect("nobody panics with it")
            .contains(&serial[..])
    });
    drop(locked);

    // The least that any table of this size can do: one load from anywhere in it.
    let memory = vec![1u8; 24 * count];
    measure(&mut group, "one-load", count, &asked, |serial| {
        let at = u64::from_be_bytes(std::array::from_fn(|octet| serial[4 + octet]));
        memory[(at % memory.len() as u64) as usize] == 0
    });
    drop(memory);

    let mut sorted = revoked;
    sorted.sort_unstable();
    measure(&mut group, "sorted", count, &asked, |serial| {
        sorted.binary_search(serial).is_ok()
    });
    group.finish();
}

fn measure<const WIDTH: usize>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    count: usize,
    asked: &[Vec<[u8; WIDTH]>; 2],
    is_revoked: impl Fn(&[u8; WIDTH]) -> bool,
) {
    for (which, asked) in ["good", "revoked"].iter().zip(asked) {
        let id = BenchmarkId::new(format!("{name}-{which}-cold"), count);
        let mut turn = 0;
        group.bench_function(id, |bencher| {
            bencher.iter(|| {
                turn = (turn + 1) % ASKED;
                wait_for_loads();
                is_revoked(black_box(&asked[turn]))
            });
        });
    }
    let mut turn = 0;
    group.bench_function(BenchmarkId::new(format!("{name}-warm"), count), |bencher| {
        bencher.iter(|| {
            turn = (turn + 1) % 16;
            is_revoked(black_box(&asked[turn % 2][turn]))
        });
    });
}

/// Keeps the processor from starting on the next look-up before the last is done.
fn wait_for_loads() {
    #[cfg(target_arch = "x86_64")]
    #[allow(
        unused_unsafe,
        reason = "safe in later versions of the standard library"
    )]
    // SAFETY: SSE2, which has the instruction, is part of the architecture.
    unsafe {
        std::arch::x86_64::_mm_lfence();
    }
}
