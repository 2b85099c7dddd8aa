//! One core's thread: from pinning to the end of its last session.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use super::handover::{Accepted, Handover};
use super::listeners::{ListenSource, Open};
use super::node::EngineError;
use super::peak::Peak;
use super::sizes::Sizes;
use crate::access::{self, Causes, Core, Snapshot};
use crate::config;
use crate::front::{AcceptedBy, serve};
use crate::limits::{
    ACCEPT_PAUSE, BUFFER_TRIM_INTERVAL, BUFFERS_TRIMMED, DRAIN_POLL, FILES_TOLD,
    HANDSHAKES_PER_TURN, LISTENER_LINGER, SESSIONS_BEYOND_TUNNELS,
};
use crate::observe::{TunnelFilter, TunnelInfo};
use crate::ring::{self, Either, Remote, Runtime, RuntimeConfig, Signal, TcpListener, TcpStream};

/// Place of a core, and the state that it shares with the others.
pub(super) struct CoreSetup {
    pub cpu: usize,
    pub sources: Vec<ListenSource>,
    pub sizes: Sizes,
    pub handover: Arc<Handover>,
}

/// This thread's core, for jobs that come from other threads.
struct Here {
    core: Rc<Core>,
    stop: Signal,
    handover: Arc<Handover>,
    /// Those that are accepted from.
    listeners: RefCell<Vec<Rc<Listener>>>,
    /// Tunnels of the node that the open files suffice for.
    tunnels_possible: usize,
}

/// One socket that this core accepts from.
struct Listener {
    by: RefCell<AcceptedBy>,
    at: Arc<Open>,
    /// Nothing new comes in; what has come is taken.
    closed: Signal,
    /// Closed, but its address has been opened again since: what has come is for who accepts from
    /// it now.
    taken_back: Signal,
}

impl Listener {
    /// Nothing new comes in. Those that wait in its queue have come to the listener as it was, and
    /// are served so; only who is not trusted `now` is not trusted by it either.
    fn close(&self, now: &config::Listener) {
        let mut by = self.by.borrow_mut();
        by.settings = Arc::new(by.settings.trusting_as(now));
        self.closed.raise();
    }
}

impl Here {
    /// Accepts from all of `sources`, and from nothing else any more.
    fn listen(self: &Rc<Self>, sources: Vec<ListenSource>) -> io::Result<()> {
        let now = self.core.snapshot.borrow().listener.clone();
        let accepted_by = |kind| AcceptedBy {
            kind,
            settings: now.clone(),
        };
        for listener in &*self.listeners.borrow() {
            let same = |source: &&ListenSource| Arc::ptr_eq(&source.at, &listener.at);
            match sources.iter().find(same) {
                Some(source) => {
                    listener.by.replace(accepted_by(source.by));
                    if listener.closed.is_raised() {
                        listener.taken_back.raise();
                    }
                }
                None => listener.close(&now),
            }
        }
        for ListenSource { by, at, sockets } in sources {
            for socket in sockets {
                let socket = TcpListener::from_socket(socket)?;
                let listener = Rc::new(Listener {
                    by: accepted_by(by).into(),
                    at: at.clone(),
                    closed: Signal::default(),
                    taken_back: Signal::default(),
                });
                self.listeners.borrow_mut().push(listener.clone());
                ring::spawn(accept(self.clone(), listener, socket));
            }
        }
        Ok(())
    }

    /// Waits until the core may take one more session.
    async fn has_room(&self, socket: &TcpListener) {
        // A reload may have changed the config's, and the open files are those of the start.
        let limit = || {
            let tunnels = self.core.snapshot.borrow().limits.max_tunnels;
            let possible = tunnels.min(self.tunnels_possible);
            possible.saturating_add(SESSIONS_BEYOND_TUNNELS)
        };
        if self.core.is_full(limit()) {
            socket.pause();
            self.core.metrics.borrow_mut().accept_backoff += 1;
        }
        while self.core.is_full(limit()) {
            ring::sleep(ACCEPT_PAUSE).await;
        }
    }

    /// Serves an accepted connection, here or on a core that has less to do.
    fn accepted(&self, stream: TcpStream, listener: &Listener) {
        let by = listener.by.borrow().clone();
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
        access::sweep(&here.core, causes);
    }
}

/// Activates a new configuration on this thread's core.
pub(super) fn replace_snapshot(snapshot: Snapshot) {
    let here = HERE.with_borrow(Clone::clone);
    if let Some(here) = here {
        access::replace_snapshot(&here.core, snapshot);
    }
}

/// Accepts from all of `sources` on this thread's core, and from nothing else any more.
pub(super) fn listen(sources: Vec<ListenSource>) {
    let here = HERE.with_borrow(Clone::clone);
    if let Some(here) = here
        && !here.stop.is_raised()
        && let Err(error) = here.listen(sources)
    {
        tracing::error!(%error, "a core does not accept from a new listener");
    }
}

/// Lists the oldest tunnels of this thread's core that the filter means.
pub(super) fn list_tunnels(
    filter: TunnelFilter,
    limit: usize,
    reply: impl FnOnce((usize, Vec<TunnelInfo>)) + 'static,
) {
    let here = HERE.with_borrow(Clone::clone);
    if let Some(here) = here {
        access::list_matching(&here.core, filter, limit, reply);
    }
}

/// Closes the tunnels of this thread's core that the filter means.
pub(super) fn close_tunnels(filter: TunnelFilter, reply: impl FnOnce(usize) + 'static) {
    let here = HERE.with_borrow(Clone::clone);
    if let Some(here) = here {
        access::close_matching(&here.core, filter, reply);
    }
}

/// Stops accepting on this thread's core; its thread ends with the last session. `refuse`: new
/// tunnels are refused.
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
    place: CoreSetup,
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
    place: CoreSetup,
    make_core: impl FnOnce() -> Core,
    started: &mpsc::Sender<Result<Remote, EngineError>>,
) {
    let CoreSetup {
        cpu,
        sources,
        sizes,
        handover,
    } = place;
    let set_up = || {
        ring::pin_to_cpu(cpu).map_err(|source| EngineError::Pin { cpu, source })?;
        Ok(Runtime::new(RuntimeConfig {
            permits_per_turn: HANDSHAKES_PER_TURN,
            buffers_max: sizes.buffers,
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
        listeners: RefCell::default(),
        tunnels_possible: sizes.possible,
    });
    HERE.set(Some(here.clone()));
    let started = started.clone();
    runtime.block_on(async move {
        if let Err(error) = here.listen(sources) {
            let _ = started.send(Err(EngineError::Thread(error)));
            return;
        }
        here.handover.join(here.core.index, ring::remote());
        let _ = started.send(Ok(ring::remote()));
        let _relieving = ring::spawn_owned(give_back(here.core.clone()));
        let _expiring = ring::spawn_owned(access::watch_expiry(here.core.clone()));
        here.stop.wait().await;
        while here.listeners.borrow().len() + here.core.sessions() > 0 {
            ring::sleep(DRAIN_POLL).await;
        }
        here.core.tell_refusals(true);
    });
    HERE.set(None);
}

/// Gives what a burst has left behind back to the system: the memory of buffers, a few at a time,
/// and when a peak is over that of the heap. Sees to clients that are not authenticated yet, too.
async fn give_back(core: Rc<Core>) {
    let mut peak = Peak::default();
    let (mut met, mut said) = (0, None);
    loop {
        ring::sleep(BUFFER_TRIM_INTERVAL).await;
        ring::trim_buffers(BUFFERS_TRIMMED);
        let without_files = ring::counters().emfile;
        let short_of_files = std::mem::replace(&mut met, without_files) < without_files;
        if short_of_files && said.is_none_or(|said| ring::now() >= said + FILES_TOLD) {
            said = Some(ring::now());
            tracing::warn!(
                "the limit of open files is reached: new connections wait, and open tunnels go on; raise LimitNOFILE"
            );
        }
        core.relieve(short_of_files);
        core.tell_refusals(false);
        if peak.is_over(core.sessions()) {
            ring::shrink();
            ring::collect_heap();
        }
    }
}

/// Accepts until the core stops or the listener is closed.
async fn accept(here: Rc<Here>, listener: Rc<Listener>, socket: TcpListener) {
    loop {
        let accepting = async {
            here.has_room(&socket).await;
            socket.accept().await
        };
        let ended = ring::race(here.stop.wait(), listener.closed.wait());
        match ring::race(ended, accepting).await {
            Either::Left(_) => break,
            Either::Right(Ok(stream)) => here.accepted(stream, &listener),
            Either::Right(Err(error)) => {
                tracing::error!(%error, "accept failed; trying again");
                ring::sleep(Duration::from_secs(1)).await;
            }
        }
    }
    if listener.closed.is_raised() {
        let ended = ring::race(here.stop.wait(), listener.taken_back.wait());
        ring::race(ended, empty(&here, &listener, &socket)).await;
    }
    for stream in socket.stop().await {
        here.accepted(stream, &listener);
    }
    let mut listeners = here.listeners.borrow_mut();
    listeners.retain(|other| !Rc::ptr_eq(other, &listener));
}

/// Takes what is in the queue of a closed listener, and what still comes of handshakes that had
/// begun.
async fn empty(here: &Here, listener: &Listener, socket: &TcpListener) {
    loop {
        here.has_room(socket).await;
        match ring::race(ring::sleep(LISTENER_LINGER), socket.accept()).await {
            Either::Left(()) => return,
            Either::Right(Ok(stream)) => here.accepted(stream, listener),
            Either::Right(Err(error)) => {
                tracing::error!(%error, "accept failed on a listener that is closed");
                return;
            }
        }
    }
}
