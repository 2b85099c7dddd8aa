//! Name resolution on the control core, with the system's settings (`/etc/resolv.conf`,
//! `/etc/hosts`), which are followed as they change.
//!
//! Names that an app chooses are asked for as they are. Names of the configuration (servers,
//! upstream proxies) may be short, and are completed as the settings say (`search`, `ndots`).

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use super::lookup::Client;
use super::queue::{LookupKey, QueryOwner, Queue, Refused};
use super::resolved::{ResolveError, Resolved};
use super::system::System;
use crate::files;
use crate::limits::{FILES_POLL, NAME_QUERIES_MAX};
use crate::observe::NameCounts;

type Reply = Box<dyn FnOnce(Result<Resolved, ResolveError>) + Send>;

/// A question.
struct Ask {
    id: u64,
    owner: QueryOwner,
    name: Box<str>,
    may_be_short: bool,
    /// Nobody waits for the answer any more.
    gone: Arc<AtomicBool>,
    reply: Reply,
}

/// Handle by which data cores ask the resolver. Cheap to clone.
#[derive(Clone)]
pub struct ResolverHandle {
    asks: mpsc::Sender<Ask>,
    gone: mpsc::UnboundedSender<u64>,
    shared: Arc<Shared>,
}

/// State shared by the resolver and its handles.
struct Shared {
    system: System,
    next: AtomicU64,
    found: AtomicU64,
    not_found: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
    cancelled: AtomicU64,
    waiting: AtomicU64,
    running: AtomicU64,
}

/// The resolver itself, to be run on the control core.
pub struct ResolverTask {
    asks: mpsc::Receiver<Ask>,
    gone: mpsc::UnboundedReceiver<u64>,
    shared: Arc<Shared>,
}

/// A question that was asked. Nobody waits for its answer once it is dropped.
#[must_use]
pub struct Ticket {
    id: u64,
    gone: mpsc::UnboundedSender<u64>,
    is_gone: Arc<AtomicBool>,
    is_left: bool,
}

impl Ticket {
    /// Lets the question be answered all the same: what comes of it is known to the next who asks.
    pub fn leave(mut self) {
        self.is_left = true;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.is_left {
            return;
        }
        self.is_gone.store(true, Ordering::Relaxed);
        // The resolver has ended otherwise.
        let _ = self.gone.send(self.id);
    }
}

/// A resolver with the system's settings, and the handle to it.
#[must_use]
pub fn resolver() -> (ResolverHandle, ResolverTask) {
    resolver_of(Path::new("/etc/resolv.conf"), Path::new("/etc/hosts"))
}

/// A resolver with the settings in these files, and the handle to it.
#[must_use]
pub fn resolver_of(servers: &Path, hosts: &Path) -> (ResolverHandle, ResolverTask) {
    let (asks, receiver) = mpsc::channel(NAME_QUERIES_MAX);
    let (gone, gone_receiver) = mpsc::unbounded_channel();
    let count = AtomicU64::default;
    let shared = Arc::new(Shared {
        system: System::read(servers, hosts),
        next: count(),
        found: count(),
        not_found: count(),
        failed: count(),
        refused: count(),
        cancelled: count(),
        waiting: count(),
        running: count(),
    });
    let task = ResolverTask {
        asks: receiver,
        gone: gone_receiver,
        shared: shared.clone(),
    };
    (ResolverHandle { asks, gone, shared }, task)
}

impl ResolverHandle {
    /// Asks for a name as it is. `reply` is called on the control core, or here when the resolver
    /// is overloaded or gone; it is dropped with the ticket.
    pub fn lookup(
        &self,
        owner: QueryOwner,
        name: &str,
        reply: impl FnOnce(Result<Resolved, ResolveError>) + Send + 'static,
    ) -> Ticket {
        self.ask(owner, name, false, Box::new(reply))
    }

    /// The same for a name of the configuration, which may be short.
    pub fn lookup_configured(
        &self,
        name: &str,
        reply: impl FnOnce(Result<Resolved, ResolveError>) + Send + 'static,
    ) -> Ticket {
        self.ask(QueryOwner::Node, name, true, Box::new(reply))
    }

    fn ask(&self, owner: QueryOwner, name: &str, may_be_short: bool, reply: Reply) -> Ticket {
        use mpsc::error::TrySendError::{Closed, Full};
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let is_gone = Arc::new(AtomicBool::new(false));
        let ask = Ask {
            id,
            owner,
            name: name.into(),
            may_be_short,
            gone: is_gone.clone(),
            reply,
        };
        match self.asks.try_send(ask) {
            Ok(()) => {}
            Err(Full(ask)) => {
                self.shared.refused.fetch_add(1, Ordering::Relaxed);
                (ask.reply)(Err(ResolveError::Full));
            }
            Err(Closed(ask)) => (ask.reply)(Err(ResolveError::Timeout)),
        }
        Ticket {
            id,
            gone: self.gone.clone(),
            is_gone,
            is_left: false,
        }
    }

    /// Reads the system's settings again, now. Reads files: not for a thread that answers others.
    pub fn reread(&self) {
        self.shared.system.look(true);
    }

    /// How many changes of the settings there were: an answer from before counts no more.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.shared.system.generation()
    }

    /// Returns what has been asked so far.
    #[must_use]
    pub fn counts(&self) -> NameCounts {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let shared = &self.shared;
        NameCounts {
            found: of(&shared.found),
            not_found: of(&shared.not_found),
            failed: of(&shared.failed),
            refused: of(&shared.refused),
            cancelled: of(&shared.cancelled),
            waiting: of(&shared.waiting),
            running: of(&shared.running),
            generation: shared.system.generation(),
            settings_refused: shared.system.is_refused(),
        }
    }
}

/// The questions that are open, and the lookups that run for them.
struct Running {
    shared: Arc<Shared>,
    client: Arc<Client>,
    queue: Queue<Reply>,
    tasks: JoinSet<(Arc<LookupKey>, Result<Resolved, ResolveError>)>,
    handles: HashMap<Arc<LookupKey>, AbortHandle>,
}

impl ResolverTask {
    /// Answers queries for ever, and follows the system's settings.
    pub async fn run(mut self) {
        let mut running = Running {
            client: Arc::new(Client::new(self.shared.system.settings())),
            shared: self.shared.clone(),
            queue: Queue::default(),
            tasks: JoinSet::new(),
            handles: HashMap::new(),
        };
        // Aborted when it is dropped.
        let mut watch = JoinSet::new();
        let shared = self.shared.clone();
        watch.spawn(files::watch(FILES_POLL, move || shared.system.look(false)));
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                loop {
                    tokio::select! {
                        biased;
                        Some(id) = self.gone.recv() => running.drop_query(id),
                        Some(done) = running.tasks.join_next(), if !running.tasks.is_empty() => {
                            if let Ok((wanted, answer)) = done {
                                running.finish(&wanted, &answer);
                            }
                        }
                        ask = self.asks.recv() => match ask {
                            Some(ask) => running.take(ask),
                            None => return,
                        },
                    }
                    running.start();
                }
            })
            .await;
    }
}

impl Running {
    fn take(&mut self, ask: Ask) {
        if ask.gone.load(Ordering::Relaxed) {
            self.shared.cancelled.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let wanted = LookupKey {
            name: ask.name,
            may_be_short: ask.may_be_short,
            generation: self.shared.system.generation(),
        };
        let pushed = self.queue.push(ask.id, ask.owner, wanted, ask.reply);
        if let Err((reply, why)) = pushed {
            self.shared.refused.fetch_add(1, Ordering::Relaxed);
            reply(Err(match why {
                Refused::Share => ResolveError::Share,
                Refused::Full => ResolveError::Full,
            }));
        }
    }

    /// Starts what may start.
    fn start(&mut self) {
        if self.client.generation() != self.shared.system.generation() {
            self.client = Arc::new(Client::new(self.shared.system.settings()));
        }
        while let Some(wanted) = self.queue.start() {
            let (client, name) = (self.client.clone(), wanted.clone());
            let task = self.tasks.spawn_local(async move {
                let answer = client.resolve(&name.name, name.may_be_short).await;
                (name, answer)
            });
            self.handles.insert(wanted, task);
        }
        self.note_load();
    }

    fn finish(&mut self, wanted: &LookupKey, answer: &Result<Resolved, ResolveError>) {
        self.handles.remove(wanted);
        let count = match answer {
            Ok(_) => &self.shared.found,
            Err(ResolveError::NotFound) => &self.shared.not_found,
            Err(_) => &self.shared.failed,
        };
        count.fetch_add(1, Ordering::Relaxed);
        for reply in self.queue.finish(wanted) {
            reply(answer.clone());
        }
    }

    fn drop_query(&mut self, id: u64) {
        let before = self.queue.len();
        if let Some(task) = self
            .queue
            .drop_query(id)
            .and_then(|wanted| self.handles.remove(&wanted))
        {
            task.abort();
        }
        let dropped = before - self.queue.len();
        self.shared
            .cancelled
            .fetch_add(dropped as u64, Ordering::Relaxed);
    }

    fn note_load(&self) {
        let (waiting, running) = self.queue.load();
        self.shared.waiting.store(waiting as u64, Ordering::Relaxed);
        self.shared.running.store(running as u64, Ordering::Relaxed);
    }
}
