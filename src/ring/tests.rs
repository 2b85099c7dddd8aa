//! The runtime against the kernel: sockets, cancellation, limits.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream as StdStream};
use std::time::Duration;

use super::*;

fn run<F: Future + 'static>(future: F) -> F::Output {
    run_with(
        RuntimeConfig {
            entries: 64,
            ..RuntimeConfig::default()
        },
        future,
    )
}

fn run_with<F: Future + 'static>(config: RuntimeConfig, future: F) -> F::Output {
    Runtime::new(config)
        .expect("a kernel with io_uring")
        .block_on(future)
}

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

async fn pair(listener: &TcpListener) -> (TcpStream, TcpStream) {
    let (client, server) = join(
        TcpStream::connect(listener.local_address()),
        listener.accept(),
    )
    .await;
    (client.unwrap(), server.unwrap())
}

/// Lets the loop turn until `done`, for two seconds at most.
async fn until(what: &str, done: impl Fn(Counters) -> bool) {
    for _ in 0..400 {
        if done(counters()) {
            return;
        }
        sleep(Duration::from_millis(5)).await;
    }
    panic!("{what}: {:?}", counters());
}

#[test]
fn bytes_go_both_ways_and_the_end_is_seen() {
    run(async {
        let listener = TcpListener::bind(any_port(), 16).unwrap();
        let (client, server) = pair(&listener).await;
        client.send(&b"over"[..]).await.0.unwrap();
        assert_eq!(&*server.recv().await.unwrap().unwrap(), b"over");
        client.shutdown().await.unwrap();
        assert!(server.recv().await.unwrap().is_none());
    });
}

#[test]
fn a_large_send_waits_for_a_slow_reader_and_arrives_whole() {
    run(async {
        let listener = TcpListener::bind(any_port(), 16).unwrap();
        let (client, server) = pair(&listener).await;
        let data: Vec<u8> = (0..8u32 << 20).map(|i| (i % 251) as u8).collect();
        let expected = data.clone();
        let read = async move {
            let mut got = Vec::new();
            while let Some(bytes) = server.recv().await.unwrap() {
                got.extend_from_slice(&bytes);
            }
            got
        };
        let write = async move {
            client.send(data).await.0.unwrap();
        };
        let ((), got) = join(write, read).await;
        assert!(got == expected);
        assert_eq!(counters().buffers_in_use, 0);
    });
}

#[test]
fn receiving_behind_what_is_there() {
    run(async {
        let listener = TcpListener::bind(any_port(), 16).unwrap();
        let (client, server) = pair(&listener).await;
        client.send(&b"first "[..]).await.0.unwrap();
        let buffer = server.recv().await.unwrap().unwrap();
        client.send(&b"second"[..]).await.0.unwrap();
        let (count, buffer) = server.recv_into(buffer, usize::MAX).await;
        assert_eq!((count.unwrap(), &*buffer), (6, &b"first second"[..]));
    });
}

#[test]
fn dropped_operations_leave_nothing_behind() {
    run(async {
        let listener = TcpListener::bind(any_port(), 16).unwrap();
        let before = counters();
        for round in 0..50u64 {
            let (client, server) = pair(&listener).await;
            // A receive into a buffer of the ring, one into a held buffer and a send that cannot end: all dropped.
            client.send(&b"x"[..]).await.0.unwrap();
            let held = server.recv().await.unwrap().unwrap();
            let waiting = join(server.recv_into(held, usize::MAX), client.recv());
            assert!(
                timeout(Duration::from_millis(round % 3), waiting)
                    .await
                    .is_err()
            );
            let stuck = client.send(vec![0u8; 16 << 20]);
            assert!(timeout(Duration::from_millis(2), stuck).await.is_err());
        }
        until("something is left", |now| {
            now.buffers_in_use == 0
                && now.fds_live == 0
                && now.operations_live <= before.operations_live + 1
                && now.timers_live <= 1
        })
        .await;
    });
}

#[test]
fn an_empty_buffer_ring_is_waited_for() {
    let config = RuntimeConfig {
        entries: 64,
        buffers_posted: 2,
        buffers_max: 2,
        ..RuntimeConfig::default()
    };
    run_with(config, async {
        let listener = TcpListener::bind(any_port(), 16).unwrap();
        let (client, server) = pair(&listener).await;
        let (second_client, second_server) = pair(&listener).await;
        let (third_client, third_server) = pair(&listener).await;
        for client in [&client, &second_client, &third_client] {
            client.send(&b"x"[..]).await.0.unwrap();
        }
        let first = server.recv().await.unwrap().unwrap();
        let second = second_server.recv().await.unwrap().unwrap();
        let release = async move {
            sleep(Duration::from_millis(20)).await;
            drop((first, second));
        };
        let (third, ()) = join(third_server.recv(), release).await;
        assert_eq!(&*third.unwrap().unwrap(), b"x");
        assert!(counters().enobufs > 0);
    });
}

#[test]
fn a_burst_larger_than_both_queues_is_served() {
    let config = RuntimeConfig {
        entries: 8,
        completions_per_turn: 4,
        polls_per_turn: 3,
        ..RuntimeConfig::default()
    };
    run_with(config, async {
        let listener = TcpListener::bind(any_port(), 256).unwrap();
        let address = listener.local_address();
        let clients = std::thread::spawn(move || {
            let mut sockets: Vec<StdStream> = (0..200)
                .map(|_| StdStream::connect(address).unwrap())
                .collect();
            sockets
                .iter_mut()
                .for_each(|socket| socket.write_all(b"ping").unwrap());
            let mut answer = [0; 4];
            sockets
                .iter_mut()
                .for_each(|socket| socket.read_exact(&mut answer).unwrap());
        });
        for _ in 0..200 {
            let stream = listener.accept().await.unwrap();
            spawn(async move {
                while let Ok(Some(buffer)) = stream.recv().await {
                    let _ = stream.send(buffer).await;
                }
            });
        }
        until("connections are left", |now| {
            now.fds_live == 0 && now.buffers_in_use == 0
        })
        .await;
        clients.join().unwrap();
    });
}

#[test]
fn a_reset_is_an_error_and_counted() {
    run(async {
        let listener = TcpListener::bind(any_port(), 16).unwrap();
        let (client, server) = pair(&listener).await;
        client.reset_on_close();
        drop(client);
        let error = server
            .recv()
            .await
            .err()
            .expect("a reset is not an end of stream");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        assert_eq!(counters().resets, 1);
    });
}

#[test]
fn cancelling_by_descriptor_ends_what_waits() {
    run(async {
        let listener = TcpListener::bind(any_port(), 16).unwrap();
        let (_client, server) = pair(&listener).await;
        let cancel = async {
            sleep(Duration::from_millis(5)).await;
            server.cancel();
        };
        let (received, ()) = join(server.recv(), cancel).await;
        assert_eq!(
            received.err().and_then(|error| error.raw_os_error()),
            Some(libc::ECANCELED)
        );
    });
}

#[test]
fn timers_fire_in_order_and_not_early() {
    run(async {
        let start = now();
        let (first, second) = (
            sleep(Duration::from_secs(3600)),
            sleep(Duration::from_millis(10)),
        );
        assert_eq!(race(first, second).await, Either::Right(()));
        assert!(now() - start >= Duration::from_millis(10));
        assert!(
            timeout(Duration::from_millis(5), std::future::pending::<()>())
                .await
                .is_err()
        );
        let mut moved = sleep(Duration::from_secs(3600));
        moved.reset(now() + Duration::from_millis(5));
        moved.await;
    });
}

#[test]
fn other_threads_run_jobs_and_deliver_values() {
    run(async {
        let here = remote();
        let (sender, receiver) = oneshot();
        std::thread::spawn(move || {
            let (inner_sender, inner) = std::sync::mpsc::channel();
            assert!(here.run(move || inner_sender.send(counters().tasks_live).unwrap()));
            sender.send(inner.recv().unwrap());
        });
        assert_eq!(receiver.await, Some(1));
        let (sender, receiver) = oneshot::<u8>();
        drop(sender);
        assert_eq!(receiver.await, None);
    });
    let runtime = Runtime::new(RuntimeConfig::default()).unwrap();
    let gone = runtime.remote();
    drop(runtime);
    assert!(!gone.run(|| ()));
}

#[test]
fn a_runtime_ends_with_tasks_in_the_middle_of_everything() {
    let runtime = Runtime::new(RuntimeConfig {
        entries: 64,
        ..RuntimeConfig::default()
    })
    .unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind(any_port(), 16).unwrap();
        let (client, server) = pair(&listener).await;
        spawn(async move {
            let _ = listener.accept().await;
        });
        spawn(async move {
            let _ = client.send(vec![1u8; 32 << 20]).await;
        });
        spawn(async move {
            let _held = server.recv().await;
            std::future::pending::<()>().await;
        });
        sleep(Duration::from_millis(10)).await;
    });
    drop(runtime);
}

#[test]
fn a_panic_ends_its_task_alone() {
    run(async {
        spawn(async { panic!("on purpose") });
        sleep(Duration::from_millis(5)).await;
        assert_eq!((counters().panics, counters().tasks_live), (1, 1));
    });
}

#[test]
fn timers_fire_while_tasks_are_busy() {
    run(async {
        let busy = std::rc::Rc::new(std::cell::Cell::new(true));
        let flag = busy.clone();
        spawn(async move {
            while flag.get() {
                yield_now().await;
            }
        });
        for _ in 0..20 {
            sleep(Duration::from_millis(2)).await;
        }
        busy.set(false);
    });
}

#[test]
fn permits_are_given_a_few_a_turn_in_order_and_behind_other_work() {
    use std::cell::RefCell;
    use std::rc::Rc;
    let config = RuntimeConfig {
        entries: 64,
        permits_per_turn: 2,
        ..RuntimeConfig::default()
    };
    run_with(config, async {
        let seen: Rc<RefCell<Vec<(usize, u64)>>> = Rc::default();
        for step in 0..7 {
            let seen = seen.clone();
            spawn(async move {
                permit().await;
                seen.borrow_mut().push((step, counters().turns));
            });
        }
        // One that gives up takes no permit from the others.
        let given_up = spawn_owned(permit());
        yield_now().await;
        drop(given_up);
        let other = Rc::new(RefCell::new(0));
        let counted = other.clone();
        let _short = spawn_owned(async move {
            loop {
                *counted.borrow_mut() += 1;
                yield_now().await;
            }
        });
        while seen.borrow().len() < 7 {
            sleep(Duration::from_micros(50)).await;
        }
        let seen = seen.borrow();
        assert!(seen.iter().map(|(step, _)| *step).eq(0..7), "{seen:?}");
        for (step, turn) in seen.iter() {
            let same = seen.iter().filter(|(_, other)| other == turn).count();
            assert!(same <= 2, "step {step}: {same} in turn {turn}");
        }
        assert!(*other.borrow() > 0);
    });
}

#[test]
fn a_permit_comes_while_nothing_else_happens() {
    run(async {
        for _ in 0..100 {
            permit().await;
        }
    });
}

#[test]
fn a_connection_moves_to_another_runtime() {
    use std::sync::mpsc;
    let (address, listening) = mpsc::channel();
    let (to_other, from_here) = mpsc::channel();
    let here = std::thread::spawn(move || {
        run(async move {
            let listener = TcpListener::bind(any_port(), 16).unwrap();
            address.send(listener.local_address()).unwrap();
            let stream = listener.accept().await.unwrap();
            to_other.send(stream.into_descriptor()).unwrap();
            until("given away", |counters| counters.fds_live == 0).await;
        });
    });
    let mut client = StdStream::connect(listening.recv().unwrap()).unwrap();
    let socket = from_here.recv().unwrap();
    here.join().unwrap();
    client.write_all(b"over").unwrap();
    run(async move {
        let stream = TcpStream::from_descriptor(socket);
        assert_eq!(counters().fds_live, 1);
        assert_eq!(&*stream.recv().await.unwrap().unwrap(), b"over");
        drop(stream);
        until("closed", |counters| counters.fds_live == 0).await;
    });
    assert_eq!(client.read(&mut [0; 4]).unwrap(), 0);
}
