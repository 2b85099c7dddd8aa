//! The node: all cores, and what can be asked of them from outside.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::SystemTime;

use super::certificates::Inventory;
use super::drained::Drained;
use super::handover::Handover;
use super::inherited::{Inherited, NamedSocket};
use super::listeners::{ListenSource, Listeners};
use super::loaded::{LoadError, Loaded};
use super::peak::Peak;
use super::registry::{ChangeError, Registry, Tell};
use super::revocation::Revocation;
use super::sizes::Sizes;
use super::succession::Predecessor;
use super::sweeper::Sweeper;
use super::worker::{self, CoreSetup};
use crate::access::{Causes, Core, Gates, Quota, Snapshot};
use crate::backend::{Backends, Dialer, Group, OwnAddresses, ResolverHandle, Watch};
use crate::certs::CertError;
use crate::config::{Config, ListenerKind};
use crate::observe::{AuditHandle, CoreMetrics, ServerInfo, TunnelFilter, TunnelInfo};
use crate::ring::{self, Remote, RingError};
use crate::table::{CoreLoad, Published};
use crate::tls::Resumption;

/// Why the node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The files.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The kernel.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The address.
    #[error(
        "profile.listener.{by}: cannot listen on {address}: {source}; choose another address or port, or \
            stop the program that uses it"
    )]
    Listen {
        /// The listener.
        by: ListenerKind,
        /// As configured.
        address: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
    /// A socket that this process was started with.
    #[error(
        "this process was started with a socket on {0}, on which nothing listens in the config; \
         change the address in the config or in the socket unit"
    )]
    NotListened(String),
    /// A socket that this process was started with has the port of a listener, and not its address.
    #[error(
        "this process was started with a socket on {socket} (by systemd), which the listener on {address} cannot use; \
         write {socket} in the config, or {address} in the socket unit (ListenStream=)"
    )]
    Unfit {
        /// As configured.
        address: SocketAddr,
        /// Address of the socket.
        socket: SocketAddr,
    },
    /// The CPU.
    #[error("cannot run on CPU {cpu}: {source}; see engine.cores")]
    Pin {
        /// As configured.
        cpu: usize,
        /// The system's answer.
        source: io::Error,
    },
    /// A thread.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// The interfaces.
    #[error("cannot read the addresses of this machine: {0}")]
    Interfaces(io::Error),
}

/// Why a server is not drained or brought back.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    /// The file.
    #[error(transparent)]
    File(#[from] CertError),
    /// Another process takes this one's place.
    #[error(transparent)]
    Succeeded(ChangeError),
}

/// The running node.
pub struct Node {
    config: Mutex<Config>,
    /// Held by a reload from its beginning to its end.
    pub(super) reloading: Mutex<()>,
    pub(super) cores: Vec<Remote>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Listeners of the cores. Nothing once the node drains.
    listeners: Mutex<Listeners>,
    /// Sockets that this process was started with, for the profile that the node has not got yet.
    pub(super) spare: Mutex<Inherited>,
    pub(super) registry: Registry,
    pub(super) sweeper: Arc<Sweeper>,
    pub(super) revocation: Revocation,
    pub(super) resumption: Mutex<Arc<Resumption>>,
    /// The server certificates, and how often one took over from another.
    pub(super) inventory: Mutex<Inventory>,
    pub(super) takeovers: AtomicU64,
    own: Arc<Published<OwnAddresses>>,
    pub(super) backends: Backends,
    drained: Drained,
    /// The servers that are checked.
    watches: Mutex<Arc<[Watch]>>,
    quota: Arc<Quota>,
    names: ResolverHandle,
    pub(super) gates: Gates,
    pub(super) predecessor: Option<Arc<Predecessor>>,
    leaving: AtomicBool,
    draining: AtomicBool,
    /// Another process has the state folder.
    following: AtomicBool,
    /// A reload has left the device registry out meanwhile.
    missed: AtomicBool,
    /// The sessions that are left were ended.
    is_cut: AtomicBool,
    pub(super) generation: AtomicU64,
    pub(super) reload_failures: AtomicU64,
    started: SystemTime,
    peak: Mutex<Peak>,
}

impl Node {
    /// Reads what `config` names and starts its cores, on `inherited` sockets where they fit. The
    /// process before this one is told what it must not miss.
    ///
    /// # Errors
    /// [`EngineError`]; nothing keeps running then.
    pub fn start(
        config: Config,
        audit: &AuditHandle,
        resolver: &ResolverHandle,
        inherited: &mut Inherited,
        predecessor: Option<Arc<Predecessor>>,
    ) -> Result<Self, EngineError> {
        let cores = config.engine.cores.len();
        let (listeners, sources, spare) = open_listeners(&config, inherited)?;
        let mut loaded = Loaded::load(&config)?;
        loaded.log_findings();
        let sweeper = Arc::new(Sweeper::default());
        let told = sweeper.clone();
        let tell = predecessor.clone().map(|predecessor| -> Tell {
            Box::new(move |devices| predecessor.devices_changed(devices))
        });
        let revocation = Revocation::new(std::mem::take(&mut loaded.crls));
        let own = OwnAddresses::read().map_err(EngineError::Interfaces)?;
        let quota = Arc::new(Quota::default());
        let (backends, gates) = (Backends::default(), Gates::default());
        let groups = backends.prepare(&config.profile.services);
        let snapshots = loaded.snapshots(cores, &revocation, &groups, &gates)?;
        let watches = loaded.watches(&groups)?;
        let written = loaded.prepare()?;
        // Last of what reads, since it is the first that writes to the state folder.
        let registry = Registry::start(&config, move || told.changed(Causes::DEVICES), tell)?;
        let mut node = Self {
            cores: Vec::new(),
            threads: Mutex::default(),
            listeners: Mutex::new(listeners),
            spare: Mutex::new(spare),
            leaving: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            following: AtomicBool::new(false),
            missed: AtomicBool::new(false),
            is_cut: AtomicBool::new(false),
            generation: AtomicU64::new(1),
            reload_failures: AtomicU64::new(0),
            started: SystemTime::now(),
            config: Mutex::new(config.clone()),
            reloading: Mutex::default(),
            registry,
            sweeper,
            revocation,
            resumption: Mutex::new(loaded.resumption.clone()),
            inventory: Mutex::new(loaded.inventory()),
            takeovers: AtomicU64::new(0),
            own: Arc::new(Published::new(own)),
            backends,
            drained: Drained::new(&config.state_dir),
            watches: Mutex::new(Arc::new([])),
            quota,
            names: resolver.clone(),
            predecessor,
            gates,
            peak: Mutex::default(),
        };
        node.commit(watches, groups);
        node.start_cores(&config, snapshots, sources, audit, resolver)?;
        // Behind all that can fail: a start that does leaves what was there.
        if let Err(error) = written.commit() {
            node.drain();
            return Err(LoadError::from(error).into());
        }
        node.sweeper.start(node.cores.clone());
        Ok(node)
    }

    fn start_cores(
        &mut self,
        config: &Config,
        snapshots: Vec<Snapshot>,
        sources: Vec<Vec<ListenSource>>,
        audit: &AuditHandle,
        resolver: &ResolverHandle,
    ) -> Result<(), EngineError> {
        let cpus = &config.engine.cores;
        let sizes = Sizes::of(&config.engine);
        let handover = Arc::new(Handover::new(cpus.len()));
        let each = cpus.iter().zip(snapshots).zip(sources);
        for (index, ((&cpu, snapshot), sources)) in each.enumerate() {
            let load = handover.load(index);
            let make = self.core(index, snapshot, load, audit, resolver);
            let place = CoreSetup {
                cpu,
                sources,
                sizes,
                handover: handover.clone(),
            };
            match worker::start(place, make) {
                Ok((remote, thread)) => {
                    self.cores.push(remote);
                    self.threads_mut().push(thread);
                }
                Err(error) => {
                    self.drain();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Makes a core, on the core's own thread.
    fn core(
        &self,
        index: usize,
        snapshot: Snapshot,
        load: Arc<CoreLoad>,
        audit: &AuditHandle,
        resolver: &ResolverHandle,
    ) -> impl FnOnce() -> Core + Send + 'static {
        let (devices, quota) = (self.registry.table.clone(), self.quota.clone());
        let (resolver, own, audit) = (resolver.clone(), self.own.clone(), audit.clone());
        let generation = self.generation_of_process();
        move || {
            let dialer = Dialer::new(resolver, own);
            let core = Core::new(index, snapshot, devices, audit, quota, dialer, load);
            core.number_from(generation);
            core
        }
    }

    /// The address that tunnels are opened to, with the port that the system chose for port 0: that
    /// of the TLS listener, if there is one. `None` where nothing is listened on.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        let listeners = self.listeners();
        let tls = listeners.address(|by| by == ListenerKind::Https);
        tls.or_else(|| listeners.address(|_| true))
    }

    /// The address of the plain listener, if there is one.
    #[must_use]
    pub fn plain_address(&self) -> Option<SocketAddr> {
        self.listeners().address(|by| by == ListenerKind::Http)
    }

    /// Number of cores.
    #[must_use]
    pub fn core_count(&self) -> usize {
        self.cores.len()
    }

    /// Returns where names are asked for.
    #[must_use]
    pub fn names(&self) -> &ResolverHandle {
        &self.names
    }

    /// Tunnels open now.
    #[must_use]
    pub fn open_tunnels(&self) -> usize {
        self.quota.open()
    }

    /// Asks a core for its metrics. `reply` is dropped if the core has ended.
    pub fn ask_metrics(&self, core: usize, reply: impl FnOnce(CoreMetrics) + Send + 'static) {
        self.cores[core].run(move || worker::with_core(|core| reply(core.metrics())));
    }

    /// Asks a core how many of its open tunnels `filter` means, and for the `limit` oldest of them.
    /// `reply` is dropped if the core has ended.
    pub fn ask_tunnels(
        &self,
        core: usize,
        filter: TunnelFilter,
        limit: usize,
        reply: impl FnOnce((usize, Vec<TunnelInfo>)) + Send + 'static,
    ) {
        self.cores[core].run(move || worker::list_tunnels(filter, limit, reply));
    }

    /// Closes a core's open tunnels that `filter` means; `reply` gets their number, and is dropped
    /// if the core has ended.
    pub fn close_tunnels(
        &self,
        core: usize,
        filter: TunnelFilter,
        reply: impl FnOnce(usize) + Send + 'static,
    ) {
        self.cores[core].run(move || worker::close_tunnels(filter, reply));
    }

    /// How many processes there were before this one, each in the other's place.
    #[must_use]
    pub fn generation_of_process(&self) -> u64 {
        self.predecessor
            .as_ref()
            .map_or(0, |predecessor| predecessor.generation())
    }

    pub(super) fn commit(&self, watches: Arc<[Watch]>, groups: Arc<[Option<Arc<Group>>]>) {
        self.backends.commit(groups);
        *self.watches.lock().unwrap_or_else(PoisonError::into_inner) = watches;
        self.drained.restore(&self.backends);
    }

    /// Takes new tunnels away from a server, or gives them back; written down first. What is known
    /// of it then; `None` if there is no such one. Writes a file: not for a data core.
    ///
    /// # Errors
    /// It cannot be written down, or another process has what is on disk; nothing has changed then.
    pub fn drain_server(
        &self,
        service: &str,
        server: &str,
        drained: bool,
    ) -> Result<Option<ServerInfo>, DrainError> {
        if self.follows() {
            return Err(DrainError::Succeeded(ChangeError::Succeeded));
        }
        Ok(self
            .drained
            .set(&self.backends, (service, server), drained)?)
    }

    /// The servers of all services.
    #[must_use]
    pub fn backends(&self) -> &Backends {
        &self.backends
    }

    /// The servers that are to be checked, as the active configuration says.
    #[must_use]
    pub fn watches(&self) -> Arc<[Watch]> {
        let watches = self.watches.lock();
        watches.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes new ticket keys when it is time, and erases sessions that have expired. Reads a file:
    /// not for a data core.
    pub fn refresh_sessions(&self) {
        match self.resumption().refresh() {
            Ok(true) => tracing::info!("the ticket keys have changed"),
            Ok(false) => {}
            Err(error) => {
                tracing::error!("the new ticket keys are refused and the old ones stay: {error}");
            }
        }
    }

    pub(super) fn resumption(&self) -> Arc<Resumption> {
        self.lock_resumption().clone()
    }

    pub(super) fn lock_resumption(&self) -> MutexGuard<'_, Arc<Resumption>> {
        self.resumption
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The active configuration.
    #[must_use]
    pub fn config(&self) -> Config {
        self.lock_config().clone()
    }

    pub(super) fn lock_config(&self) -> MutexGuard<'_, Config> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the machine's addresses again; interfaces come and go.
    pub fn refresh_own_addresses(&self) {
        match OwnAddresses::read() {
            Ok(own) => self.own.publish(own),
            Err(error) => {
                tracing::warn!(%error, "cannot read the addresses of this machine; the last ones stay");
            }
        }
    }

    /// Stops accepting and refuses new tunnels; cores end with their last session.
    pub fn drain(&self) {
        self.stop(true);
    }

    /// Says that it is not ready any more, so that load balancers send sessions elsewhere; takes
    /// those that come still.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
        for core in &self.cores {
            core.run(|| worker::with_core(|core| core.leaving.set(true)));
        }
    }

    /// Returns whether [`Node::leave`] or [`Node::drain`] was called.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed) || self.is_draining()
    }

    /// Lets another process have what is on disk. With `false`, it is this one's again; whether a
    /// reload has left something out meanwhile, and there must be another. Waits for a reload that
    /// is on the way: not for a data core.
    pub fn follow(&self, follow: bool) -> bool {
        let turn = self.reloading.lock();
        let _turn = turn.unwrap_or_else(PoisonError::into_inner);
        self.following.store(follow, Ordering::Relaxed);
        self.registry.follow(follow);
        self.missed.swap(false, Ordering::Relaxed)
    }

    /// A reload leaves the device registry out, which another process reads.
    pub(super) fn misses_devices(&self) {
        self.missed.store(true, Ordering::Relaxed);
    }

    /// The process before this one, where there was one.
    #[must_use]
    pub fn predecessor(&self) -> Option<&Arc<Predecessor>> {
        self.predecessor.as_ref()
    }

    /// Returns whether another process has what is on disk.
    pub(super) fn follows(&self) -> bool {
        self.following.load(Ordering::Relaxed)
    }

    /// Stops accepting because another process does, which says what changes; cores end with their
    /// last session. What was accepted before is served as ever.
    pub fn retire(&self) {
        self.stop(false);
    }

    fn stop(&self, refuse: bool) {
        self.draining.store(true, Ordering::Relaxed);
        self.listeners().clear();
        for core in &self.cores {
            core.run(move || worker::stop(refuse));
        }
    }

    /// The sockets that tunnels are accepted from, for another process.
    ///
    /// # Errors
    /// The system's, at its limit of open files.
    pub fn sockets(&self) -> io::Result<Vec<NamedSocket>> {
        let mut sockets = self.listeners().sockets()?;
        sockets.extend(self.lock_spare().try_clone()?.tcp);
        Ok(sockets)
    }

    pub(super) fn listeners(&self) -> MutexGuard<'_, Listeners> {
        let listeners = self.listeners.lock();
        listeners.unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the sessions that are left.
    pub fn cut(&self) {
        self.is_cut.store(true, Ordering::Relaxed);
        for core in &self.cores {
            core.run(|| worker::with_core(|core| core.cut.raise()));
        }
    }

    /// Returns whether [`Node::cut`] was called.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Relaxed)
    }

    /// Returns whether [`Node::drain`] or [`Node::retire`] was called.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Returns whether every core has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.threads_mut().iter().all(JoinHandle::is_finished)
    }

    /// Returns whether every core runs.
    #[must_use]
    pub fn all_cores_run(&self) -> bool {
        self.threads_mut()
            .iter()
            .all(|thread| !thread.is_finished())
    }

    /// Generation of the configuration, from 1; grows with each reload.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Configurations that were refused since the start.
    #[must_use]
    pub fn reload_failures(&self) -> u64 {
        self.reload_failures.load(Ordering::Relaxed)
    }

    /// Revoked certificates known, and when the first CRL runs out, in seconds since 1970.
    #[must_use]
    pub fn revocation(&self) -> (u64, Option<u64>) {
        (
            self.revocation.index.read(|index| index.len() as u64),
            self.crls().iter().filter_map(|crl| crl.next_update).min(),
        )
    }

    /// Devices in the registry.
    #[must_use]
    pub fn registered_devices(&self) -> u64 {
        self.registry.table.read(|devices| devices.len() as u64)
    }

    /// The device registry.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Gives what is free in the C library's heap back to the system when a peak is over. Takes
    /// milliseconds, and locks that handshakes take: not for a data core.
    pub fn give_back(&self) {
        let peak = self.peak.lock();
        let over = peak
            .unwrap_or_else(PoisonError::into_inner)
            .is_over(self.open_tunnels());
        if over {
            ring::trim_c_heap();
        }
    }

    /// When the node started.
    #[must_use]
    pub fn started(&self) -> SystemTime {
        self.started
    }

    fn threads_mut(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens the listeners of a start from what was inherited. Them, each core's sockets, and what is
/// left over, which the config must have a use for.
fn open_listeners(
    config: &Config,
    inherited: &mut Inherited,
) -> Result<(Listeners, Vec<Vec<ListenSource>>, Inherited), EngineError> {
    let mut listeners = Listeners::default();
    let addresses = config.profile.listener.addresses();
    let opened = listeners.open(addresses, config.engine.cores.len(), inherited)?;
    let spare = std::mem::take(inherited);
    spare.fit(&config.profile)?;
    let sources = listeners.replace(opened);
    Ok((listeners, sources, spare))
}
