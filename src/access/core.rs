//! State shared by the sessions of one core.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;

use super::admission::{AdmissionLimits, Guests};
use super::gates::Gate;
use super::names::Names;
use super::outcome::audit;
use super::quota::Quota;
use super::refusals::Refusals;
use super::sweep::{Causes, Changes};
use super::tunnels::Tunnels;
use super::words::SharedWords;
use crate::backend::{Connector, Dialer};
use crate::config::{HostPort, IdentityMapping, Listener, Rule};
use crate::limits::{GUEST_MEMORY, ISSUERS_KEPT, RELIEVED_PART, SESSIONS_SPARE, TUNNEL_NUMBERS};
use crate::observe::{AuditHandle, CoreMetrics, ProfileName, Subject, TunnelFilter};
use crate::reason::CloseReason;
use crate::ring::{self, Signal, TcpOptions};
use crate::table::{CoreLoad, DeviceRegistry, Published};
use crate::tls::{DeviceVerifier, VerifiedChain};

/// Limits and timeouts of the config that sessions use.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Tunnels of the node at most.
    pub max_tunnels: usize,
    /// Tunnels of one device at most.
    pub max_tunnels_per_device: usize,
    /// Limits of a core for clients that are not authenticated yet.
    pub admission: AdmissionLimits,
    /// For the TLS handshake and the tunnel request together.
    pub handshake_timeout: Duration,
    /// For one attempt to reach one server, name resolution included.
    pub connect_timeout: Duration,
    /// Without a byte in either direction.
    pub idle_timeout: Duration,
    /// Options of the connections with apps.
    pub tcp: TcpOptions,
    /// Limits of the timeout that a client may propose, at least and at most.
    pub idle_bounds: (Duration, Duration),
    /// From a tunnel's opening; a service may have one of its own.
    pub max_lifetime: Option<Duration>,
}

impl Limits {
    /// Sessions of one device at most, with tunnels or without.
    #[must_use]
    pub fn sessions_per_device(&self) -> usize {
        self.max_tunnels_per_device.saturating_add(SESSIONS_SPARE)
    }
}

/// A service on this core.
pub struct ServiceState {
    /// The name, shared by records.
    pub name: Arc<str>,
    /// How its servers are reached.
    pub connector: Connector,
    /// Limits of its tunnels; `None` for as much as there is.
    pub gate: Option<Arc<Gate>>,
    /// Time that a tunnel may be open, if it has one of its own.
    pub max_lifetime: Option<Duration>,
    /// True if apps may send datagrams to it.
    pub udp: bool,
}

/// The configuration of a core's sessions. A session keeps the one that it started with.
pub struct Snapshot {
    /// TLS of this core.
    pub tls: Arc<ServerConfig>,
    /// Names that make a session a tunnel.
    pub names: Names,
    /// Listener that accepts the sessions.
    pub listener: Arc<Listener>,
    /// The port that devices use.
    pub external_port: u16,
    /// The check of client certificates, for resumed sessions.
    pub verifier: Arc<DeviceVerifier>,
    /// Fields of a certificate from which names are read.
    pub identity: IdentityMapping,
    /// True if devices that are not in the registry may open tunnels.
    pub unmanaged_allowed: bool,
    /// Services, by index.
    pub services: Vec<ServiceState>,
    /// Rules, in order.
    pub rules: Vec<Rule>,
    /// Limits of an app's tunnels, by the app's name.
    pub apps: Arc<HashMap<String, Arc<Gate>>>,
    /// Why what no rule is about is refused.
    pub no_rule: CloseReason,
    /// Host and port that clients use.
    pub external: (String, u16),
    /// Limits.
    pub limits: Limits,
    /// Name and version of the profile, for records.
    pub profile: Arc<ProfileName>,
}

impl Snapshot {
    /// Returns whether a server is told where an app's connection came in.
    pub(crate) fn introduces(&self) -> bool {
        let mut services = self.services.iter();
        services.any(|service| service.connector.proxy_header.is_some())
    }
}

/// The state of one data core.
pub struct Core {
    /// Number of the core, from 0.
    pub index: usize,
    /// Configuration of new sessions.
    pub snapshot: RefCell<Rc<Snapshot>>,
    /// Devices.
    pub devices: Arc<Published<DeviceRegistry>>,
    /// Open sessions, for the other cores.
    pub load: Arc<CoreLoad>,
    /// Counters and histograms.
    pub metrics: RefCell<CoreMetrics>,
    /// The audit log.
    pub audit: AuditHandle,
    /// Tunnels of the node and its devices.
    pub quota: Arc<Quota>,
    /// Bytes of receive windows of HTTP/2 beyond the least.
    pub windows: Rc<Cell<usize>>,
    /// Reaches servers.
    pub dialer: Dialer,
    /// Raised when no more connections are accepted: sessions of many tunnels are told.
    pub draining: Signal,
    /// Load balancers are told to send sessions elsewhere.
    pub leaving: Cell<bool>,
    /// New tunnels are refused.
    pub refuses: Cell<bool>,
    /// Raised when the drain timeout is over.
    pub cut: Signal,
    pub(crate) tunnels: RefCell<Tunnels>,
    /// Payload bytes of all tunnels from apps to servers.
    pub(crate) bytes_up: Cell<u64>,
    /// Payload bytes of all tunnels from servers to apps.
    pub(crate) bytes_down: Cell<u64>,
    pub(crate) sequence: Cell<u64>,
    /// Sessions that were numbered.
    sessions_numbered: Cell<u64>,
    /// The changes that open tunnels depend on.
    pub(crate) changes: Cell<Changes>,
    /// Causes of the next sweep.
    pub(crate) sweep_for: Cell<Causes>,
    pub(crate) sweeping: Cell<bool>,
    /// Connections whose clients are not authenticated yet.
    pub(crate) guests: Guests,
    /// Refusals, for the audit log.
    pub(crate) refusals: Refusals,
    /// Issuers' certificates that clients have sent.
    pub(crate) issuers: RefCell<Vec<Rc<[u8]>>>,
    pub(crate) words: SharedWords,
}

/// An open tunnel, as it is listed.
pub(crate) struct Live {
    pub id: u64,
    pub subject: Arc<Subject>,
    pub service: Arc<str>,
    /// Number of the rule that chose it in its profile, from 1.
    pub rule: u32,
    pub server: Arc<str>,
    pub target: HostPort,
    /// It carries datagrams.
    pub udp: bool,
    /// Chain that the client has presented, for a later check. Issuers' certificates are shared.
    pub chain: Rc<[Rc<[u8]>]>,
    /// The certificates are good until then, in seconds since 1970. Changed by the list alone, once
    /// the tunnel is in it.
    pub good_until: Cell<u64>,
    /// Index of the tunnel in the list.
    pub place: Cell<usize>,
    pub opened: Instant,
    pub up: Cell<u64>,
    pub down: Cell<u64>,
    /// Why the tunnel is to be closed.
    pub closing: Cell<Option<CloseReason>>,
    /// Of the relay, which waits for an end.
    pub waiting: RefCell<Option<Waker>>,
}

impl Live {
    /// Closes the tunnel, if it is not being closed already.
    pub fn close(&self, reason: CloseReason) -> bool {
        if self.closing.get().is_some() {
            return false;
        }
        self.closing.set(Some(reason));
        self.wake();
        true
    }

    /// Lets the relay look whether it has ended.
    pub fn wake(&self) {
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
    }

    /// Returns whether the filter means this tunnel.
    pub fn is_chosen(&self, filter: &TunnelFilter) -> bool {
        fn fits<'a>(wanted: Option<&'a str>, value: Option<&'a str>) -> bool {
            wanted.is_none_or(|wanted| value == Some(wanted))
        }
        let subject = &self.subject;
        filter.id.is_none_or(|id| id == self.id)
            && fits(filter.device.as_deref(), subject.device.as_deref())
            && fits(filter.user.as_deref(), subject.user.as_deref())
            && fits(filter.app.as_deref(), subject.app.as_deref())
            && fits(filter.serial.as_deref(), subject.serial.as_deref())
            && fits(filter.service.as_deref(), Some(&self.service))
    }
}

impl Core {
    /// The state of core `index` before its first session.
    #[must_use]
    pub fn new(
        index: usize,
        snapshot: Snapshot,
        devices: Arc<Published<DeviceRegistry>>,
        audit: AuditHandle,
        quota: Arc<Quota>,
        dialer: Dialer,
        load: Arc<CoreLoad>,
    ) -> Self {
        Self {
            index,
            snapshot: RefCell::new(Rc::new(snapshot)),
            devices,
            load,
            metrics: RefCell::new(CoreMetrics::new()),
            audit,
            quota,
            windows: Rc::default(),
            dialer,
            draining: Signal::default(),
            refuses: Cell::new(false),
            leaving: Cell::new(false),
            cut: Signal::default(),
            tunnels: RefCell::default(),
            bytes_up: Cell::new(0),
            bytes_down: Cell::new(0),
            sequence: Cell::new(0),
            sessions_numbered: Cell::new(0),
            changes: Cell::default(),
            sweep_for: Cell::default(),
            sweeping: Cell::new(false),
            guests: Guests::default(),
            refusals: Refusals::new(Instant::now()),
            issuers: RefCell::default(),
            words: SharedWords::default(),
        }
    }

    /// A copy of the core's metrics, the runtime's included.
    #[must_use]
    pub fn metrics(&self) -> CoreMetrics {
        let mut metrics = self.metrics.borrow().clone();
        metrics.runtime = ring::counters();
        metrics.bytes_client_to_server = self.bytes_up.get();
        metrics.bytes_server_to_client = self.bytes_down.get();
        metrics.unauthenticated = self.guests.open() as u64;
        metrics.unauthenticated_max = self.unauthenticated_share() as u64;
        metrics.sources = self.guests.sources() as u64;
        metrics
    }

    /// The certificates that a client has presented, those of issuers shared with other tunnels.
    pub(crate) fn keep_chain(&self, chain: &VerifiedChain<'_>) -> Rc<[Rc<[u8]>]> {
        let mut issuers = self.issuers.borrow_mut();
        let mut keep = |(at, certificate): (usize, &CertificateDer<'_>)| {
            let known = issuers.iter().find(|known| ***known == **certificate);
            match known {
                Some(known) if at > 0 => known.clone(),
                _ => {
                    let new: Rc<[u8]> = Rc::from(&**certificate);
                    if at > 0 {
                        if issuers.len() >= ISSUERS_KEPT {
                            issuers.retain(|kept| Rc::strong_count(kept) > 1);
                        }
                        if issuers.len() < ISSUERS_KEPT {
                            issuers.push(new.clone());
                        }
                    }
                    new
                }
            }
        };
        chain.iter().enumerate().map(&mut keep).collect()
    }

    /// Returns whether nothing more should be accepted for now: `limit` sessions are authenticated,
    /// or so many others have just come, or wait for this core, that none of them can be given up.
    #[must_use]
    pub fn is_full(&self, limit: usize) -> bool {
        let (guests, share) = (&self.guests, self.unauthenticated_share());
        let limits = self.snapshot.borrow().limits.admission;
        self.sessions().saturating_sub(guests.open()) >= limit
            || guests.is_full(share, &limits, ring::now())
    }

    /// Connections whose clients are not authenticated yet, at most for now.
    pub(crate) fn unauthenticated_share(&self) -> usize {
        let limits = self.snapshot.borrow().limits.admission;
        limits.share(self.quota.open())
    }

    /// Keeps such connections within their bounds, and gives some up where there are no more files.
    pub fn relieve(&self, short_of_files: bool) {
        let (limits, now) = (self.snapshot.borrow().limits.admission, ring::now());
        if short_of_files {
            self.guests.give_files_back(&limits, now);
        }
        self.guests
            .keep_to_shares(self.unauthenticated_share(), &limits, now);
        self.relieve_memory();
    }

    /// Keeps the bytes of such connections within their bound.
    pub(crate) fn relieve_memory(&self) {
        let kept = ring::guest_bytes().saturating_sub(self.guests.leaving());
        if kept > GUEST_MEMORY {
            let excess = kept - (GUEST_MEMORY - GUEST_MEMORY / RELIEVED_PART as u64);
            let limits = self.snapshot.borrow().limits.admission;
            self.guests
                .give_memory_back(excess, GUEST_MEMORY, &limits, ring::now());
        }
    }

    /// Tells the audit log of refusals that had no line of their own. `all`: the core ends.
    pub fn tell_refusals(&self, all: bool) {
        for (subject, event) in self.refusals.due(all, ring::now()) {
            audit(self, &subject, None, event);
        }
    }

    /// Sessions that have not ended.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.load.open()
    }

    /// Lists an open tunnel for as long as the result lives.
    pub(crate) fn list(&self, live: Rc<Live>) -> Listed<'_> {
        self.metrics.borrow_mut().tunnels_opened += 1;
        self.tunnels.borrow_mut().insert(live.clone());
        Listed { core: self, live }
    }

    /// Counts an end.
    pub(crate) fn count(&self, reason: CloseReason) {
        self.metrics.borrow_mut().count_end(reason);
    }

    /// Numbers tunnels as the process of this generation does, so that none has the number of one
    /// that a process before or after it relays at the same time.
    pub fn number_from(&self, generation: u64) {
        let (generations, bits) = TUNNEL_NUMBERS;
        self.sequence.set((generation % generations) << bits);
    }

    /// A number that no other session of this process has.
    pub(crate) fn next_session(&self) -> u64 {
        let number = self.sessions_numbered.get() + 1;
        self.sessions_numbered.set(number);
        number << 8 | self.index as u64
    }

    /// A number that no other tunnel of this process has.
    pub(crate) fn next_tunnel(&self) -> u64 {
        let number = self.sequence.get() + 1;
        self.sequence.set(number);
        number << 8 | self.index as u64
    }
}

/// A tunnel in the list of the open ones; taken out when it is dropped.
pub(crate) struct Listed<'a> {
    core: &'a Core,
    live: Rc<Live>,
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.core.tunnels.borrow_mut().remove(&self.live);
        self.core.metrics.borrow_mut().tunnels_closed += 1;
    }
}
