//! Two cores: sessions are spread evenly whatever the kernel's hash does, and none is lost on its way.

use crate::common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use adit::certs::Issued;
use adit::limits::HANDOVER_MIN;
use adit::observe::TunnelInfo;
use common::{
    Gateway, PATIENCE, Pki, Session, World, ask, client_config, echo, request, server, until,
};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

fn two_cores(pki: &Pki) -> Gateway {
    Gateway::builder(pki)
        .engine("cores = [0, 1]")
        .servers(&[server(echo)])
        .start()
}

/// The core of each open tunnel, by the client's port.
fn cores(gateway: &Gateway) -> Vec<(u16, usize)> {
    let (status, body) = gateway.get("/tunnels");
    assert_eq!(status, 200, "{body}");
    let listed: Vec<TunnelInfo> = serde_json::from_str(&body).unwrap();
    listed
        .iter()
        .map(|tunnel| (tunnel.peer.port(), tunnel.core))
        .collect()
}

fn on_core(gateway: &Gateway, core: usize) -> usize {
    cores(gateway).iter().filter(|(_, at)| *at == core).count()
}

fn descriptors(gateway: &Gateway) -> usize {
    let folder = format!("/proc/{}/fd", gateway.child.id());
    std::fs::read_dir(folder).unwrap().count()
}

/// A session over a connection that is made.
fn over(pki: &Pki, device: &Issued, socket: TcpStream) -> Session {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let config = client_config(&pki.path("ca.pem"), Some(device));
    let name = ServerName::try_from("localhost").unwrap();
    StreamOwned::new(ClientConnection::new(config, name).unwrap(), socket)
}

#[test]
fn skewed_sessions_become_balanced_and_no_descriptor_leaks() {
    let world = World::around(Pki::new(), two_cores);
    let open =
        |count: usize| -> Vec<Session> { (0..count).map(|_| world.tunnel("a.test:1")).collect() };
    drop(open(1));
    until("idle", || {
        world.gateway.metric("adit_sessions_live", "") == 0.0
    });
    let before = descriptors(&world.gateway);

    let sessions = open(40);
    until("both cores have their part", || {
        on_core(&world.gateway, 0).abs_diff(on_core(&world.gateway, 1)) <= HANDOVER_MIN + 1
    });
    // Every session of one core ends: whatever the hash says, the next ones belong there.
    let placed = cores(&world.gateway);
    let (gone, mut kept): (Vec<Session>, Vec<Session>) =
        sessions.into_iter().partition(|session| {
            let port = session.sock.local_addr().unwrap().port();
            placed.contains(&(port, 0))
        });
    drop(gone);
    until("core 0 is empty", || on_core(&world.gateway, 0) == 0);
    let handed_before = world.gateway.metric("adit_sessions_handed_over_total", "");
    kept.extend(open(kept.len()));
    // One that is handed over is on neither for a moment.
    until("both cores have their part of all", || {
        let (first, second) = (on_core(&world.gateway, 0), on_core(&world.gateway, 1));
        first + second == kept.len() && first.abs_diff(second) <= HANDOVER_MIN + 1
    });
    assert!(world.gateway.metric("adit_sessions_handed_over_total", "") > handed_before);

    for session in &mut kept {
        session.write_all(b"over").unwrap();
        let mut back = [0; 4];
        session.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"over");
    }
    drop(kept);
    until("all ended", || {
        world.gateway.metric("adit_sessions_live", "") == 0.0
    });
    let (accepted, closed) = (
        world.gateway.metric("adit_sessions_accepted_total", ""),
        world.gateway.metric("adit_sessions_closed_total", ""),
    );
    assert_eq!(accepted, closed);
    until("no descriptor is left", || {
        descriptors(&world.gateway) <= before
    });
}

#[test]
fn a_drain_while_sessions_are_handed_over_loses_none() {
    let mut world = World::around(Pki::new(), two_cores);
    // One core is full, so that the other one's share of what comes is handed over.
    let sessions: Vec<Session> = (0..40).map(|_| world.tunnel("a.test:1")).collect();
    let placed = cores(&world.gateway);
    let kept: Vec<Session> = sessions
        .into_iter()
        .filter(|session| placed.contains(&(session.sock.local_addr().unwrap().port(), 1)))
        .collect();
    until("core 0 is empty", || on_core(&world.gateway, 0) == 0);

    let (stop, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let address = world.gateway.address;
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let Ok(socket) = TcpStream::connect(address) else {
                        break;
                    };
                    // One that the kernel still queued is cut; what is answered is a verdict.
                    if let Ok(head) = ask(
                        &mut over(&world.pki, &world.device, socket),
                        &request("a.test:1"),
                    ) && !head.is_empty()
                    {
                        let verdict = head.starts_with("HTTP/1.1 200 ") || head.contains(" 503 ");
                        assert!(verdict, "{head}");
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        until("handed over", || {
            world.gateway.metric("adit_sessions_handed_over_total", "") > 0.0
                && answered.load(Ordering::Relaxed) > 3
        });
        world.gateway.signal("TERM");
        until("nothing is accepted", || {
            TcpStream::connect(address).is_err()
        });
        stop.store(true, Ordering::Relaxed);
    });
    drop(kept);
    // It ends by itself with its last session: one that was forgotten on its way would hold it until the drain timeout.
    until("ended", || {
        world.gateway.child.try_wait().unwrap().is_some()
    });
    assert_eq!(world.gateway.child.wait().unwrap().code(), Some(0));
    let log = std::fs::read_to_string(world.pki.path("audit.log")).unwrap();
    assert!(!log.contains("drain-timeout"));
}
