//! One core's thread: from pinning to the end of its last session.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::TcpListener as Socket;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use super::handover::{Accepted, Handover};
use super::node::EngineError;
use crate::config::ListenerKind;
use crate::limits::{
    ACCEPT_PAUSE, BUFFER_TRIM_INTERVAL, BUFFERS_TRIMMED, DRAIN_POLL, HANDSHAKES_PER_TURN,
    SESSIONS_BEYOND_TUNNELS,
};
use crate::observe::TunnelFilter;
use crate::ring::{self, Either, Remote, Runtime, RuntimeConfig, Signal, TcpListener, TcpStream};
use crate::tunnel::{self, Causes, Core, Snapshot, serve};

/// Where a core runs and what it shares with the others.
pub(super) struct Place {
    pub cpu: usize,
    pub sockets: Vec<(ListenerKind, Socket)>,
    pub max_tunnels: usize,
    pub handover: Arc<Handover>,
}

/// This thread's core, for jobs that come from other threads.
struct Here {
    core: Rc<Core>,
    stop: Signal,
    handover: Arc<Handover>,
    /// Listeners that are accepted from.
    listeners: Cell<usize>,
    max_tunnels: usize,
}

impl Here {
    /// Serves an accepted connection, here or on a core that has less to do.
    fn accepted(&self, stream: TcpStream, by: ListenerKind) {
        let core = &self.core;
        let Some(to) = self.handover.better_than(core.index) else {
            ring::spawn(serve(core.clone(), stream, by));
            return;
        };
        let socket = stream.into_descriptor();
        let accepted = Accepted { socket, by };
        match self.handover.give(to, accepted, serve_given) {
            Ok(()) => core.metrics.borrow_mut().sessions_handed_over += 1,
            Err(back) => self.serve(back),
        }
    }

    fn serve(&self, accepted: Vec<Accepted>) {
        for Accepted { socket, by } in accepted {
            let stream = TcpStream::from_descriptor(socket);
            ring::spawn(serve(self.core.clone(), stream, by));
        }
    }
}

/// Serves what other cores have accepted for this thread's.
fn serve_given() {
    let here = HERE.with_borrow(Clone::clone);
    if let Some(here) = here {
        here.serve(here.handover.take(here.core.index));
    }
}

thread_local! {
    static HERE: RefCell<Option<Rc<Here>>> = const { RefCell::new(None) };
}

/// Runs `f` with the core of this thread; nothing where its last session has ended.
pub(super) fn with_core(f: impl FnOnce(&Core)) {
    let here = HERE.with_borrow(Clone::clone);
    if let Some(here) = here {
        f(&here.core);
    }
}

/// Looks at the open tunnels of this thread's core again.
pub(super) fn sweep(causes: Causes) {
    let here = HERE.with_borrow(Clone::clone);
    if let Some(here) = here {
        tunnel::sweep(&here.core, causes);
    }
}

/// Puts a new configuration into force on this thread's core.
pub(super) fn replace_snapshot(snapshot: Snapshot) {
    let here = HERE.with_borrow(Clone::clone);
    if let Some(here) = here {
        tunnel::replace_snapshot(&here.core, snapshot);
    }
}

/// Closes the tunnels of this thread's core that the filter means.
pub(super) fn close_tunnels(filter: TunnelFilter, reply: impl FnOnce(usize) + 'static) {
    let here = HERE.with_borrow(Clone::clone);
    if let Some(here) = here {
        tunnel::close_matching(&here.core, filter, reply);
    }
}

/// Stops accepting on this thread's core; its thread ends with the last session. `refuse`: new tunnels are refused.
pub(super) fn stop(refuse: bool) {
    let here = HERE.with_borrow(Clone::clone);
    if let Some(here) = here {
        here.core.refuses.set(refuse);
        here.core.draining.raise();
        // What was accepted for this core is its own, as if it had accepted it.
        here.serve(here.handover.leave(here.core.index));
        here.stop.raise();
    }
}

/// Starts a core.
pub(super) fn start(
    place: Place,
    make_core: impl FnOnce() -> Core + Send + 'static,
) -> Result<(Remote, thread::JoinHandle<()>), EngineError> {
    let (sender, receiver) = mpsc::channel();
    let thread = thread::Builder::new()
        .name(format!("core-{}", place.cpu))
        .spawn(move || run(place, make_core, &sender))
        .map_err(EngineError::Thread)?;
    let started = receiver
        .recv()
        .map_err(|_| EngineError::Thread(io::ErrorKind::BrokenPipe.into()))??;
    Ok((started, thread))
}

fn run(
    place: Place,
    make_core: impl FnOnce() -> Core,
    started: &mpsc::Sender<Result<Remote, EngineError>>,
) {
    let Place {
        cpu,
        sockets,
        max_tunnels,
        handover,
    } = place;
    let set_up = || {
        ring::pin_to_cpu(cpu).map_err(|source| EngineError::Pin { cpu, source })?;
        Ok(Runtime::new(RuntimeConfig {
            permits_per_turn: HANDSHAKES_PER_TURN,
            ..RuntimeConfig::default()
        })?)
    };
    let runtime = match set_up() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    let here = Rc::new(Here {
        core: Rc::new(make_core()),
        stop: Signal::default(),
        handover,
        listeners: Cell::new(0),
        max_tunnels,
    });
    HERE.set(Some(here.clone()));
    let started = started.clone();
    runtime.block_on(async move {
        let adopt = |(by, socket)| TcpListener::from_socket(socket).map(|socket| (by, socket));
        let listeners: io::Result<Vec<_>> = sockets.into_iter().map(adopt).collect();
        let listeners = match listeners {
            Ok(listeners) => listeners,
            Err(error) => {
                let _ = started.send(Err(EngineError::Thread(error)));
                return;
            }
        };
        here.handover.join(here.core.index, ring::remote());
        let _ = started.send(Ok(ring::remote()));
        let _trimming = ring::spawn_owned(trim_buffers());
        let _expiring = ring::spawn_owned(tunnel::watch_expiry(here.core.clone()));
        for listener in listeners {
            here.listeners.set(here.listeners.get() + 1);
            ring::spawn(accept(here.clone(), listener));
        }
        here.stop.wait().await;
        while here.listeners.get() + here.core.sessions() > 0 {
            ring::sleep(DRAIN_POLL).await;
        }
    });
    HERE.set(None);
}

/// Gives the memory of buffers that a burst has left behind back to the system, a few at a time.
async fn trim_buffers() {
    loop {
        ring::sleep(BUFFER_TRIM_INTERVAL).await;
        ring::trim_buffers(BUFFERS_TRIMMED);
    }
}

/// Accepts until the core stops.
async fn accept(here: Rc<Here>, (by, listener): (ListenerKind, TcpListener)) {
    let core = &here.core;
    let limit = here.max_tunnels.saturating_add(SESSIONS_BEYOND_TUNNELS);
    loop {
        let accepting = async {
            while core.sessions() >= limit {
                listener.pause();
                core.metrics.borrow_mut().accept_backoff += 1;
                ring::sleep(ACCEPT_PAUSE).await;
            }
            listener.accept().await
        };
        match ring::race(here.stop.wait(), accepting).await {
            Either::Left(()) => break,
            Either::Right(Ok(stream)) => here.accepted(stream, by),
            Either::Right(Err(error)) => {
                tracing::error!(%error, "accept failed; trying again");
                ring::sleep(Duration::from_secs(1)).await;
            }
        }
    }
    for stream in listener.stop().await {
        here.accepted(stream, by);
    }
    here.listeners.set(here.listeners.get() - 1);
}
