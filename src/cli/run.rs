//! The life of a gateway process: start, reload, drain, end.

use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::lock::{LockError, StateLock};
use super::upgrade::{self, Inheritance, Succession};
use crate::backend::{ResolverHandle, ResolverTask, resolver};
use crate::certs::{self, CertError};
use crate::config::{AuditSink, Config, ConfigError, Log, LogFormat};
use crate::control::{
    ConfigFile, Control, ControlError, Deadline, EarlySignals, Health, ReloadTrigger, Reloader,
    RunningNode, Signal, Signals, check_servers, fetch_crls, watch_certificates, watch_crl_files,
    watch_files, watch_health,
};
use crate::engine::{CRLS_FOLDER, EngineError, Followed, Node, Predecessor, Sizes};
use crate::files::{self, FileError};
use crate::limits::{
    ADMIN_STOP, AUDIT_STOP, DRAIN_POLL, OWN_ADDRESSES_REFRESH, SESSIONS_END, STOP_HEARD, STOP_JOBS,
    SUCCESSION_QUESTIONS, TICKET_KEYS_POLL,
};
use crate::observe::{self, AuditLog, AuditLogError};
use crate::ring;

/// Why the gateway did not start or had to end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The config.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The cores.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The admin listener.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The audit log.
    #[error(transparent)]
    Audit(#[from] AuditLogError),
    /// The state directory.
    #[error("state_dir: {0}")]
    StateDir(#[from] FileError),
    /// Who has it.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The signals.
    #[error("cannot take signals: {0}")]
    Signals(std::io::Error),
    /// The inherited sockets of the process.
    #[error("cannot use the sockets that this process was started with (LISTEN_FDS): {0}")]
    Inherited(std::io::Error),
    /// The admin listener's socket cannot be kept for a successor.
    #[error("cannot keep the listening sockets for a later upgrade: {0}")]
    Keep(std::io::Error),
}

impl RunError {
    /// As [`CliError::exit_code`](super::CliError::exit_code).
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::StateDir(_) | Self::Audit(_) => 2,
            Self::Control(ControlError::Token(_)) => 2,
            Self::Engine(
                EngineError::Load(_) | EngineError::NotListened(_) | EngineError::Unfit { .. },
            ) => 2,
            Self::Engine(_)
            | Self::Control(_)
            | Self::Lock(_)
            | Self::Signals(_)
            | Self::Inherited(_)
            | Self::Keep(_) => 1,
        }
    }
}

/// `adit run`.
pub(super) fn run(file: &Path) -> Result<(), RunError> {
    let (config, file) = ConfigFile::read(file)?;
    start_logging(&config.log);
    let inheritance = Inheritance::take().map_err(RunError::Inherited)?;
    let gateway = Gateway::start(config, file, inheritance)?;
    let (address, plain) = (gateway.node.address(), gateway.node.plain_address());
    let plain = plain.map(tracing::field::display);
    let cores = gateway.node.core_count();
    match address {
        Some(address) => tracing::info!(%address, plain, cores, "taking tunnels"),
        None => tracing::warn!(cores, "no listener is open, so no tunnels are accepted"),
    }
    gateway.run()
}

/// A started gateway. Its cores already serve; [`Gateway::run`] gives it the control core.
pub struct Gateway {
    /// The cores.
    pub node: Arc<Node>,
    reloader: Arc<Reloader>,
    audit: AuditLog,
    control: Control,
    names: ResolverTask,
    resolver: ResolverHandle,
    early: EarlySignals,
    deadline: Deadline,
    succession: Succession,
    predecessor: Option<Arc<Predecessor>>,
}

impl Gateway {
    /// Starts everything but the control core, with what was read from `file`.
    ///
    /// # Errors
    /// [`RunError`]; nothing keeps running then.
    pub fn start(
        config: Config,
        file: ConfigFile,
        inheritance: Inheritance,
    ) -> Result<Self, RunError> {
        let Inheritance {
            mut sockets,
            predecessor,
            lock,
        } = inheritance;
        if let Err(error) = ring::raise_descriptor_limit() {
            tracing::warn!(%error, "cannot raise the limit of open files");
        }
        Sizes::of(&config.engine).log(&config.engine);
        let early = EarlySignals::note().map_err(RunError::Signals)?;
        let deadline = Deadline::install().map_err(RunError::Signals)?;
        files::own_folder(&config.state_dir)?;
        let lock = StateLock::wait(&config.state_dir, lock)?;
        sweep(&config.state_dir);
        let control = Control::bind(&config.admin, &mut sockets)?;
        let control = control.with_users(&config.admin_users);
        let mut control = control.with_state_socket(&config.state_dir, &mut sockets);
        let succession = control
            .socket()
            .and_then(|socket| Succession::new(socket, control.state_socket(), lock))
            .map_err(RunError::Keep)?;
        if let Some(file) = &config.admin_token {
            control = control.with_token(file)?;
        }
        let audit = AuditLog::start(match &config.log.audit {
            AuditSink::Stdout => observe::AuditSink::Stdout,
            AuditSink::Off => observe::AuditSink::Off,
            AuditSink::File(path) => observe::AuditSink::File(path.clone()),
        })?;
        let (handle, names) = resolver();
        let resolver = handle.clone();
        let node = Node::start(
            config,
            &audit.handle(),
            &handle,
            &mut sockets,
            predecessor.clone(),
        )?;
        let node = Arc::new(node);
        Ok(Self {
            reloader: Arc::new(Reloader::new(node.clone(), file)),
            node,
            audit,
            control,
            names,
            resolver,
            early,
            deadline,
            succession,
            predecessor,
        })
    }

    /// The admin listener's address, if it is not a Unix socket.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.control.local_addr()
    }

    /// Runs the control core on this thread until the node has ended.
    ///
    /// # Errors
    /// [`RunError::Control`] if the control core cannot run.
    pub fn run(self) -> Result<(), RunError> {
        let Self {
            node,
            reloader,
            audit,
            control,
            names,
            resolver,
            early,
            deadline,
            succession,
            predecessor,
        } = self;
        let (ended, shutdown) = watch::channel(false);
        let (retire, retired) = mpsc::channel(SUCCESSION_QUESTIONS);
        let audit = Arc::new(audit);
        // Its lock is for as long as anything here may write to the state folder.
        let succession = Arc::new(succession);
        let jobs = {
            let (node, audit, reloader) = (node.clone(), audit.clone(), reloader.clone());
            let (succession, deadline) = (succession.clone(), deadline.clone());
            async move {
                let stops = Stops {
                    node: node.clone(),
                    reloader: reloader.clone(),
                    audit,
                    deadline: deadline.clone(),
                    succession: succession.clone(),
                    retire,
                };
                upgrade::notify_ready();
                if let Some(predecessor) = predecessor {
                    if let Err(error) = predecessor.is_succeeded(node.registry().devices()) {
                        tracing::error!(%error, "the old process gets no changes, and ends");
                    }
                    succession.sign();
                }
                tokio::join!(
                    names.run(),
                    refresh_addresses(&node),
                    refresh_sessions(node.clone()),
                    watch_crl_files(node.clone()),
                    watch_certificates(node.clone()),
                    watch_files(reloader),
                    fetch_crls(node.clone(), resolver.clone()),
                    check_servers(node.clone(), resolver),
                    signals(stops, early),
                    end(&node, ended, &deadline),
                );
            }
        };
        let running = Arc::new(RunningNode {
            engine: node,
            audit: audit.handle(),
            reloader,
            state_socket: control.state_socket(),
            health: Health::default(),
        });
        let watched = running.clone();
        let jobs = async move {
            tokio::join!(jobs, watch_health(watched));
        };
        let result = control.run(running, shutdown, retired, jobs);
        deadline.allow(AUDIT_STOP + STOP_JOBS);
        if let Ok(audit) = Arc::try_unwrap(audit) {
            audit.stop();
        }
        drop(succession);
        Ok(result?)
    }
}

/// Removes what killed processes have left in the state folder.
fn sweep(state_dir: &Path) {
    let mut swept = vec![certs::Store::new(state_dir).sweep()];
    let folders = [state_dir.to_owned(), state_dir.join(CRLS_FOLDER)];
    swept.extend(folders.map(|folder| files::sweep(&folder, |_| true).map_err(Into::into)));
    let swept = swept.into_iter().sum::<Result<usize, CertError>>();
    match swept {
        Ok(0) => {}
        Ok(files) => tracing::info!(files, "removed files that killed processes have left"),
        Err(error) => {
            tracing::warn!("cannot remove files that killed processes may have left: {error}");
        }
    }
}

async fn refresh_addresses(node: &Node) {
    loop {
        tokio::time::sleep(OWN_ADDRESSES_REFRESH).await;
        node.refresh_own_addresses();
    }
}

async fn refresh_sessions(node: Arc<Node>) {
    // Reads a file and walks through tables and heaps.
    files::watch(TICKET_KEYS_POLL, move || {
        node.refresh_sessions();
        node.give_back();
    })
    .await;
}

/// Requests of signals.
struct Stops {
    node: Arc<Node>,
    reloader: Arc<Reloader>,
    deadline: Deadline,
    audit: Arc<AuditLog>,
    succession: Arc<Succession>,
    /// Takes connections of the process after this one, from when it serves.
    retire: mpsc::Sender<Option<UnixStream>>,
}

/// Reload, upgrade and stop, as signals ask for them.
async fn signals(stops: Stops, early: EarlySignals) {
    let signals = match Signals::install(early) {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!(%error, "cannot take signals");
            return;
        }
    };
    signals
        .run(|signal| match signal {
            Signal::Reload => {
                stops.reopen();
                // What comes of it is logged.
                stops.reloader.in_background(ReloadTrigger::Signal, |_| ());
            }
            Signal::Upgrade => stops.upgrade(),
            Signal::Stop => stops.stop(),
        })
        .await;
}

impl Stops {
    fn upgrade(&self) {
        if self.node.is_leaving() || self.succession.begin() {
            tracing::warn!("an upgrade or a drain is under way already");
            return;
        }
        tracing::info!("starting a new process in this one's place");
        let (node, succession, retire) = (
            self.node.clone(),
            self.succession.clone(),
            self.retire.clone(),
        );
        let take = self.following();
        // At the usual priority: the new process inherits it.
        std::thread::spawn(move || {
            let retired = |questions| {
                tracing::info!(
                    tunnels = node.open_tunnels(),
                    "the new process is ready; this one finishes its tunnels"
                );
                upgrade::take_questions(questions, retire);
            };
            if let Err(error) = succession.hand_over(&node, retired, take) {
                tracing::error!("the new process is not ready, and this one continues: {error}");
            }
        });
    }

    /// Activates what the process after this one says.
    fn following(&self) -> impl Fn(Followed) -> bool + Send + 'static {
        let (node, reloader, audit) =
            (self.node.clone(), self.reloader.clone(), self.audit.clone());
        move |followed| match followed {
            Followed::Reload => reloader.reload(ReloadTrigger::Successor).is_ok(),
            Followed::Devices(changes) => node.registry().followed(changes, false),
            Followed::AllDevices(changes) => node.registry().followed(changes, true),
            Followed::Reopen => {
                audit.reopen();
                true
            }
        }
    }

    /// Opens the audit log's file again, in the process before this one too: both write to it.
    fn reopen(&self) {
        self.audit.reopen();
        if let Some(predecessor) = self.node.predecessor() {
            predecessor.reopen();
        }
    }

    fn stop(&self) {
        let engine = self.node.config().engine;
        let sessions = engine.drain_delay + engine.drain_timeout + SESSIONS_END;
        self.deadline.allow(sessions + STOP_HEARD);
        if !self.node.is_draining() {
            upgrade::notify_stopping();
        }
        tracing::info!("draining; a second signal ends the process at once");
        self.succession.abandon();
        self.node.leave();
        let (node, delay) = (self.node.clone(), engine.drain_delay);
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            node.drain();
        });
    }
}

/// After the first stop: waits for the sessions, and for the process before this one; cuts what is
/// left after the drain timeout, and ends the control core.
async fn end(node: &Node, ended: watch::Sender<bool>, deadline: &Deadline) {
    poll(|| node.is_draining()).await;
    let drain_timeout = node.config().engine.drain_timeout;
    // The process before this one learns from this one whom to block.
    let is_alone = || {
        node.predecessor()
            .is_none_or(|predecessor| predecessor.info().is_none())
    };
    let is_over = || node.has_ended() && (is_alone() || node.is_cut());
    let in_time = tokio::time::timeout(drain_timeout, poll(is_over)).await;
    if in_time.is_err() && !node.has_ended() {
        tracing::warn!(
            tunnels = node.open_tunnels(),
            "drain timeout: ending the tunnels that are left"
        );
        node.cut();
        let _ = tokio::time::timeout(SESSIONS_END, poll(|| node.has_ended())).await;
    }
    deadline.allow(ADMIN_STOP + STOP_JOBS);
    let _ = ended.send(true);
}

async fn poll(done: impl Fn() -> bool) {
    while !done() {
        tokio::time::sleep(DRAIN_POLL).await;
    }
}

/// Logs to standard error; `RUST_LOG` chooses what, `info` by default.
fn start_logging(log: &Log) {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // A second subscriber in one process (tests) is not an error.
    let _ = match log.format {
        LogFormat::Json => builder.json().try_init(),
        LogFormat::Text => builder.with_ansi(false).try_init(),
    };
}
