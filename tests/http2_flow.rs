//! How the tunnels of an HTTP/2 session share it: windows that follow the path, turns that come to all, and ends that
//! concern one.

use crate::common;
use crate::common::http2;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use adit::limits::HTTP2_WINDOW_START;
use bytes::Bytes;
use common::{World, echo, free_port, server, service};
use http2::run;

/// A path that takes `delay` in each direction, whatever it carries; and the most bytes that were on their way to the other
/// end at once.
fn slow_path(to: SocketAddr, delay: Duration) -> (SocketAddr, Arc<AtomicUsize>) {
    let most = Arc::<AtomicUsize>::default();
    let up = most.clone();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let far = TcpStream::connect(to).unwrap();
            for stream in [&near, &far] {
                stream.set_nodelay(true).unwrap();
            }
            let (back, forth) = (near.try_clone().unwrap(), far.try_clone().unwrap());
            carry(back, forth, delay, up.clone());
            carry(far, near, delay, Arc::default());
        }
    });
    (address, most)
}

fn carry(mut from: TcpStream, mut to: TcpStream, delay: Duration, most: Arc<AtomicUsize>) {
    let (sender, receiver) = channel::<(Instant, Vec<u8>)>();
    let on_their_way = Arc::<AtomicUsize>::default();
    let arrived = on_their_way.clone();
    std::thread::spawn(move || {
        let mut piece = vec![0; 256 * 1024];
        while let Ok(count @ 1..) = from.read(&mut piece) {
            let there = on_their_way.fetch_add(count, Relaxed) + count;
            most.fetch_max(there, Relaxed);
            if sender
                .send((Instant::now() + delay, piece[..count].to_vec()))
                .is_err()
            {
                break;
            }
        }
    });
    std::thread::spawn(move || {
        for (due, piece) in receiver {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&piece).is_err() {
                break;
            }
            arrived.fetch_sub(piece.len(), Relaxed);
        }
        let _ = to.shutdown(Shutdown::Write);
    });
}

#[test]
fn windows_grow_until_they_fill_the_path() {
    const ROUND_TRIP: Duration = Duration::from_millis(100);
    const BYTES: usize = 30_000_000;
    let sink = server(|mut stream| {
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
        let _ = stream.write_all(b"all");
    });
    let mut world = World::new(|node| node.servers(&[sink]));
    let (address, most) = slow_path(world.gateway.address, ROUND_TRIP / 2);
    world.gateway.address = address;
    run(async {
        let client = world.http2().await;
        let mut tunnel = client.tunnel("sink.test:1").await;
        let piece = Bytes::from(vec![1; 1 << 20]);
        let mut left = BYTES;
        while left > 0 {
            let part = piece.slice(..left.min(piece.len()));
            left -= part.len();
            tunnel.send(part).await.unwrap();
        }
        tunnel.end();
        assert_eq!(tunnel.read(3).await, b"all");
    });
    // Not a matter of time, which a busy machine takes for other things: as much is on its way as the windows allow.
    let most = most.load(Relaxed);
    assert!(most > 4 * HTTP2_WINDOW_START as usize, "{most}");
}

#[test]
fn turns_come_to_all_tunnels() {
    let source = server(|mut stream| while stream.write_all(&[7; 8192]).is_ok() {});
    let world = World::new(|node| node.servers(&[source]));
    run(async {
        let client = world.http2().await;
        let mut tasks = Vec::new();
        for number in 0..10 {
            let mut tunnel = client.tunnel(&format!("t{number}.test:1")).await;
            tasks.push(tokio::spawn(async move {
                let (start, mut count) = (Instant::now(), 0);
                while start.elapsed() < Duration::from_secs(2) {
                    count += tunnel.next().await.unwrap().unwrap().len();
                }
                count
            }));
        }
        let mut counts = Vec::new();
        for task in tasks {
            counts.push(task.await.unwrap());
        }
        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        assert!(*least > 0 && most / least < 3, "{counts:?}");
    });
}

#[test]
fn a_tunnel_that_the_operator_closes_is_the_only_one() {
    let _admin = free_port();
    let rest = service(&[server(echo)]);
    let world = World::new(|node| node.token().rest(&rest));
    run(async {
        let client = world.http2().await;
        let mut tunnels = Vec::new();
        for number in 0..3 {
            let mut tunnel = client.tunnel(&format!("t{number}.test:1")).await;
            tunnel.send(&b"x"[..]).await.unwrap();
            assert_eq!(tunnel.read(1).await, b"x");
            tunnels.push(tunnel);
        }
        let (_, listed) = world.gateway.get("/tunnels");
        let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
        let listed = listed.as_array().unwrap();
        assert_eq!(listed.len(), 3);
        // Numbers rise in the order of the requests.
        let mut ids: Vec<u64> = listed
            .iter()
            .map(|tunnel| tunnel["id"].as_u64().unwrap())
            .collect();
        ids.sort_unstable();
        let output = world
            .pki
            .adit(["tunnels", "--id", &ids[1].to_string(), "--close"]);
        assert!(output.status.success(), "{output:?}");
        let error = tunnels[1].next().await.unwrap().unwrap_err();
        assert_eq!(error.reason(), Some(h2::Reason::CANCEL));
        for number in [0, 2] {
            tunnels[number].send(&b"y"[..]).await.unwrap();
            assert_eq!(tunnels[number].read(1).await, b"y");
        }
        http2::until("counted", || world.gateway.ended("cut-by-admin") == 1.0).await;
        assert_eq!(world.gateway.metric("adit_tunnels_live", ""), 2.0);
    });
}
