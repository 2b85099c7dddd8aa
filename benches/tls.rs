//! Handshakes in memory, and records: adit's record layer beside rustls's own.
//!
//! A handshake's time is that of both sides, client and server. Both record layers are measured at a session of the same
//! suite. rustls's sealing includes its copy into the buffer that it is written from, as a server would have to.
//!
//! ```text
//! cargo bench --bench tls
//! cargo bench --bench tls -- --quick
//! ```

mod common;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use common::tls::{Ends, written};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rustls::HandshakeKind;

const SIZES: [usize; 3] = [64, 1024, 16 * 1024];
/// Records made ahead and then opened in one go, so that making them is not measured.
const BATCH: u64 = 64;

fn handshakes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("handshake");
    for (name, resume) in [("full", false), ("resumed", true)] {
        let ends = Ends::new(resume);
        // The first handshake earns the ticket for the second.
        ends.shake();
        let (_, server) = ends.shake();
        let resumed = server.handshake_kind() == Some(HandshakeKind::Resumed);
        assert_eq!(resumed, resume, "not the handshake that is to be measured");
        group.bench_function(name, |bencher| bencher.iter(|| ends.shake()));
    }
    group.finish();
}

fn sealing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("seal");
    for size in SIZES {
        group.throughput(Throughput::Bytes(size as u64));
        let (_, mut layer) = Ends::new(false).session();
        let (front, back) = layer.around();
        let mut record = vec![7; front + size + back];
        group.bench_function(BenchmarkId::new("adit", size), |bencher| {
            bencher.iter(|| {
                // A long measurement must not run into the limit of one key.
                layer.before_sealing().expect("new keys");
                layer.seal(&mut record).expect("keys are not used up");
            });
        });
        group.bench_function(BenchmarkId::new("adit after a rest", size), |bencher| {
            bencher.iter(|| {
                layer.rest();
                layer.before_sealing().expect("new keys");
                layer.seal(&mut record).expect("keys are not used up");
            });
        });
        let (_, mut server) = Ends::new(false).shake();
        let (data, mut out) = (vec![7; size], Vec::new());
        group.bench_function(BenchmarkId::new("rustls", size), |bencher| {
            bencher.iter(|| {
                out.clear();
                server.writer().write_all(&data).expect("memory");
                while server.wants_write() {
                    server.write_tls(&mut out).expect("memory");
                }
            });
        });
    }
    group.finish();
}

/// The time of `count` turns of `open`, each on a record that `make` has made outside of that time.
fn timed(
    count: u64,
    mut make: impl FnMut() -> Vec<u8>,
    mut open: impl FnMut(&mut [u8]),
) -> Duration {
    let (mut left, mut took) = (count, Duration::ZERO);
    while left > 0 {
        let batch = left.min(BATCH);
        let mut records: Vec<Vec<u8>> = (0..batch).map(|_| make()).collect();
        let start = Instant::now();
        for record in &mut records {
            open(record);
        }
        took += start.elapsed();
        left -= batch;
    }
    took
}

fn opening(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("open");
    for size in SIZES {
        group.throughput(Throughput::Bytes(size as u64));
        let data = vec![7; size];
        let (mut client, mut layer) = Ends::new(false).session();
        group.bench_function(BenchmarkId::new("adit", size), |bencher| {
            bencher.iter_custom(|count| {
                let make = || {
                    client.writer().write_all(&data).expect("memory");
                    written(&mut client)
                };
                timed(count, make, |mut record| {
                    while let Some((length, _)) = layer.open(record).expect("a good record") {
                        record = &mut record[length..];
                    }
                })
            });
        });
        let (mut client, mut server) = Ends::new(false).shake();
        let mut plain = vec![0; size];
        group.bench_function(BenchmarkId::new("rustls", size), |bencher| {
            bencher.iter_custom(|count| {
                let make = || {
                    client.writer().write_all(&data).expect("memory");
                    written(&mut client)
                };
                timed(count, make, |record| {
                    let mut rest = &record[..];
                    while !rest.is_empty() {
                        server.read_tls(&mut rest).expect("memory");
                        server.process_new_packets().expect("a good record");
                    }
                    server.reader().read_exact(&mut plain).expect("all of it");
                })
            });
        });
    }
    group.finish();
}

criterion_group!(benches, handshakes, sealing, opening);
criterion_main!(benches);
