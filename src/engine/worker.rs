//! One core's thread: from pinning to the end of its last session.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::node::EngineError;
use crate::limits::{ACCEPT_BACKLOG, ACCEPT_PAUSE, DRAIN_POLL, SESSIONS_BEYOND_TUNNELS};
use crate::ring::{self, Either, Remote, Runtime, RuntimeConfig, Signal, TcpListener};
use crate::tunnel::{Core, serve};

/// What another thread needs to know about a started core.
pub(super) struct Started {
    pub remote: Remote,
    pub address: SocketAddr,
}

/// This thread's core, for jobs that come from other threads.
struct Here {
    core: Rc<Core>,
    stop: Signal,
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

/// Stops accepting and refuses new tunnels on this thread's core; its thread ends with the last session.
pub(super) fn drain() {
    let here = HERE.with_borrow(Clone::clone);
    if let Some(here) = here {
        here.core.draining.set(true);
        here.stop.raise();
    }
}

/// Starts a core on `cpu`, listening on `address`.
pub(super) fn start(
    cpu: usize,
    address: SocketAddr,
    max_tunnels: usize,
    make_core: impl FnOnce() -> Core + Send + 'static,
) -> Result<(Started, thread::JoinHandle<()>), EngineError> {
    let (sender, receiver) = mpsc::channel();
    let thread = thread::Builder::new()
        .name(format!("core-{cpu}"))
        .spawn(move || run(cpu, address, max_tunnels, make_core, &sender))
        .map_err(EngineError::Thread)?;
    let started = receiver
        .recv()
        .map_err(|_| EngineError::Thread(io::ErrorKind::BrokenPipe.into()))??;
    Ok((started, thread))
}

fn run(
    cpu: usize,
    address: SocketAddr,
    max_tunnels: usize,
    make_core: impl FnOnce() -> Core,
    started: &mpsc::Sender<Result<Started, EngineError>>,
) {
    let set_up = || {
        ring::pin_to_cpu(cpu).map_err(|source| EngineError::Pin { cpu, source })?;
        Ok(Runtime::new(RuntimeConfig::default())?)
    };
    let runtime = match set_up() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    let core = Rc::new(make_core());
    let here = Rc::new(Here {
        core,
        stop: Signal::default(),
    });
    HERE.set(Some(here.clone()));
    let started = started.clone();
    runtime.block_on(async move {
        let listener = match TcpListener::bind(address, ACCEPT_BACKLOG) {
            Ok(listener) => listener,
            Err(source) => {
                let _ = started.send(Err(EngineError::Listen { address, source }));
                return;
            }
        };
        let _ = started.send(Ok(Started {
            remote: ring::remote(),
            address: listener.local_address(),
        }));
        accept(&here, listener, max_tunnels).await;
        while here.core.sessions() > 0 {
            ring::sleep(DRAIN_POLL).await;
        }
    });
    HERE.set(None);
}

/// Accepts until the core drains.
async fn accept(here: &Here, listener: TcpListener, max_tunnels: usize) {
    let core = &here.core;
    let limit = max_tunnels.saturating_add(SESSIONS_BEYOND_TUNNELS) as u64;
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
            Either::Left(()) => return,
            Either::Right(Ok(stream)) => ring::spawn(serve(core.clone(), stream)),
            Either::Right(Err(error)) => {
                tracing::error!(%error, "accept failed; trying again");
                ring::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}
