//! One round trip through a relay on one ring: client, relay and echo server share a core, over loopback sockets.
//!
//! The bytes are passed on as they come, without TLS: this is what the ring and the kernel's TCP cost. Whole tunnels are
//! measured by `perf/compare`.
//!
//! ```text
//! cargo bench --bench relay
//! cargo bench --bench relay -- --quick
//! ```

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Instant;

use adit::ring::{Runtime, RuntimeConfig, TcpListener, TcpStream, spawn};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const ANY_PORT: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);
const BACKLOG: i32 = 16;

/// Passes on what comes from `from` until it ends.
async fn pass_on(from: Rc<TcpStream>, to: Rc<TcpStream>) {
    while let Ok(Some(buffer)) = from.recv().await {
        if to.send(buffer).await.0.is_err() {
            break;
        }
    }
    // An end that is gone already has nothing to shut down.
    let _ = to.shutdown().await;
}

/// An echo server, and a relay in front of it; the address of the relay.
fn start() -> io::Result<SocketAddr> {
    let echo = TcpListener::bind(ANY_PORT.into(), BACKLOG)?;
    let relay = TcpListener::bind(ANY_PORT.into(), BACKLOG)?;
    let (echo_address, address) = (echo.local_address(), relay.local_address());
    spawn(async move {
        if let Ok(stream) = echo.accept().await {
            let stream = Rc::new(stream);
            pass_on(stream.clone(), stream).await;
        }
    });
    spawn(async move {
        if let (Ok(client), Ok(server)) =
            (relay.accept().await, TcpStream::connect(echo_address).await)
        {
            let (client, server) = (Rc::new(client), Rc::new(server));
            spawn(pass_on(client.clone(), server.clone()));
            pass_on(server, client).await;
        }
    });
    Ok(address)
}

async fn round_trips(client: &TcpStream, size: usize, count: u64) -> io::Result<()> {
    let mut message = vec![7; size];
    for _ in 0..count {
        let (sent, back) = client.send(message).await;
        sent?;
        message = back;
        let mut missing = size;
        while missing > 0 {
            let Some(buffer) = client.recv().await? else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            missing -= buffer.len();
        }
    }
    Ok(())
}

fn relay(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("relay");
    for size in [64, 16 * 1024] {
        group.throughput(Throughput::Bytes(2 * size as u64));
        let runtime = Runtime::new(RuntimeConfig::default()).expect("a ring");
        let client = runtime
            .block_on(async { TcpStream::connect(start()?).await })
            .map(Rc::new)
            .expect("a connection through the relay");
        group.bench_function(BenchmarkId::new("round-trip", size), |bencher| {
            bencher.iter_custom(|count| {
                let client = client.clone();
                runtime.block_on(async move {
                    let start = Instant::now();
                    round_trips(&client, size, count).await.expect("an echo");
                    start.elapsed()
                })
            });
        });
    }
    group.finish();
}

criterion_group!(benches, relay);
criterion_main!(benches);
