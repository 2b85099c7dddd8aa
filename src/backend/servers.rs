//! The servers of all services, as all cores share them.
//!
//! Who chooses a server reads atomics only and waits for nobody. What a failure, a check or the
//! admin listener changes goes through the server's [`Health`] behind a lock, which is held for the
//! time of one step: none of these is the usual way of a tunnel. A tunnel that gets through takes
//! that lock only where it changes something.
//!
//! A server's state belongs to its service and address: it outlives a reload of the configuration
//! that keeps both. Only drains outlive a restart (`engine::drained`).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::balance::Balancer;
use super::health::{Event, Health, State, share};
use crate::config::{self, Balance, HostPort, Service, ServiceKind};
use crate::limits::TRIAL_TIME;
use crate::observe::{LastCheck, ServerInfo};
use crate::reason::CloseReason;

/// A server that is alive.
const ALIVE: u64 = 0;

/// A server that is dead until something else than time says otherwise.
const DEAD: u64 = u64::MAX;

/// The state of one server, shared by all cores. Two cache lines of its own.
#[derive(Debug)]
#[repr(align(128))]
pub struct ServerState {
    /// Tunnels that are open or being opened.
    tunnels: AtomicU64,
    /// [`ALIVE`], [`DEAD`], or from when on a tunnel may try it; in milliseconds since `epoch`.
    open_at: AtomicU64,
    /// When it came back, in the same way; 0 where it has not been dead.
    back_at: AtomicU64,
    /// The operator wants no new tunnels there.
    drained: AtomicBool,
    /// A tunnel that gets through changes something.
    unclean: AtomicBool,
    connects: AtomicU64,
    failures: AtomicU64,
    checks_passed: AtomicU64,
    checks_failed: AtomicU64,
    record: Mutex<Record>,
    epoch: Instant,
    service: Arc<str>,
    address: HostPort,
    text: Arc<str>,
}

/// State behind the lock.
#[derive(Debug, Default)]
struct Record {
    health: Health,
    last_check: Option<(Instant, Duration, Option<CloseReason>)>,
}

/// Standing of a server for the choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Alive, with this share of its weight in thousandths.
    Alive(u64),
    /// Dead, and a tunnel may try it: whoever takes this value away.
    Trial(u64),
    Dead,
}

impl ServerState {
    fn new(service: Arc<str>, address: HostPort, epoch: Instant) -> Self {
        Self {
            tunnels: AtomicU64::new(0),
            open_at: AtomicU64::new(ALIVE),
            back_at: AtomicU64::new(0),
            drained: AtomicBool::new(false),
            unclean: AtomicBool::new(false),
            connects: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            checks_passed: AtomicU64::new(0),
            checks_failed: AtomicU64::new(0),
            record: Mutex::default(),
            epoch,
            service,
            text: address.to_string().into(),
            address,
        }
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> &HostPort {
        &self.address
    }

    /// The same as `host:port`.
    #[must_use]
    pub fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// Takes new tunnels away from the server, or gives it back what it had. What is brought back
    /// is taken for alive.
    pub fn drain(&self, drained: bool) {
        self.drained.store(drained, Relaxed);
        if !drained {
            let now = Instant::now();
            let mut record = self.lock();
            record.health.pardon(now);
            self.publish(&record.health, None);
        }
    }

    /// Takes note of an event.
    pub fn step(&self, event: Event, policy: &config::Health, now: Instant) {
        let counter = match event {
            Event::Connected => &self.connects,
            Event::Failed(_) => &self.failures,
            Event::CheckPassed => &self.checks_passed,
            Event::CheckFailed(_) => &self.checks_failed,
        };
        counter.fetch_add(1, Relaxed);
        if event == Event::Connected && !self.unclean.load(Relaxed) {
            return;
        }
        let mut record = self.lock();
        let before = record.health.state();
        record.health.step(event, policy, now);
        let after = record.health.state();
        self.publish(&record.health, Some(policy));
        drop(record);
        self.tell(before, after);
    }

    /// Takes note of a check that began at `began` and has just ended.
    pub fn checked(
        &self,
        failure: Option<CloseReason>,
        policy: &config::Health,
        (began, now): (Instant, Instant),
    ) {
        self.lock().last_check = Some((now, now.saturating_duration_since(began), failure));
        let event = failure.map_or(Event::CheckPassed, Event::CheckFailed);
        self.step(event, policy, now);
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the cores see what has changed. Called with the lock held, so that the last change is
    /// what they see.
    fn publish(&self, health: &Health, policy: Option<&config::Health>) {
        let (open_at, back_at) = match health.state() {
            State::Alive { back } => (ALIVE, back.map_or(0, |back| self.millis(back).max(1))),
            State::Dead { .. } => {
                let trial = policy.and_then(|policy| health.trial_at(policy));
                (trial.map_or(DEAD, |trial| self.millis(trial).max(1)), 0)
            }
        };
        self.open_at.store(open_at, Relaxed);
        self.back_at.store(back_at, Relaxed);
        self.unclean.store(!health.is_clean(), Relaxed);
    }

    fn tell(&self, before: State, after: State) {
        let (service, server) = (&*self.service, &*self.text);
        match (before, after) {
            (State::Alive { .. }, State::Dead { why, by_check, .. }) => {
                let found_by = if by_check { "a check" } else { "tunnels" };
                tracing::warn!(
                    service,
                    server,
                    why = why.word(),
                    found_by,
                    "a server is dead"
                );
            }
            (State::Dead { .. }, State::Alive { .. }) => {
                tracing::info!(service, server, "a server is alive again");
            }
            _ => {}
        }
    }

    fn millis(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.epoch).as_millis() as u64
    }

    /// `now_ms`: milliseconds since `epoch`, which all servers of a node share.
    fn standing(&self, policy: &config::Health, now_ms: u64) -> Standing {
        match self.open_at.load(Relaxed) {
            ALIVE => match (policy.slow_start, self.back_at.load(Relaxed)) {
                (None, _) | (_, 0) => Standing::Alive(1000),
                (Some(whole), back) => {
                    let since = Duration::from_millis(now_ms.saturating_sub(back));
                    Standing::Alive(share(since, whole))
                }
            },
            at if at <= now_ms => Standing::Trial(at),
            _ => Standing::Dead,
        }
    }

    /// Makes this dial the one that tries a dead server.
    fn take_trial(&self, at: u64, now: Instant) -> bool {
        let next = self.millis(now + TRIAL_TIME);
        self.open_at
            .compare_exchange(at, next, Relaxed, Relaxed)
            .is_ok()
    }

    fn info(&self, weight: u32, policy: &config::Health, now: Instant) -> ServerInfo {
        let standing = self.standing(policy, self.millis(now));
        let record = self.lock();
        let state = match standing {
            _ if self.drained.load(Relaxed) => "drained",
            Standing::Alive(1000) => "up",
            Standing::Alive(_) => "slow-start",
            Standing::Trial(_) => "trial",
            Standing::Dead => "dead",
        };
        let why = match record.health.state() {
            State::Dead { why, by_check, .. } => {
                let found_by = if by_check { "check" } else { "tunnels" };
                Some(format!("{found_by}: {}", why.word()))
            }
            State::Alive { .. } => None,
        };
        let last_check = record.last_check.map(|(at, took, failure)| LastCheck {
            age_ms: now.saturating_duration_since(at).as_millis() as u64,
            passed: failure.is_none(),
            why: failure.map(|why| why.word().to_owned()),
            took_ms: took.as_millis() as u64,
        });
        let share = match standing {
            Standing::Alive(share) => share / 10,
            _ => 0,
        };
        ServerInfo {
            service: self.service.to_string(),
            server: self.text.to_string(),
            state: state.to_owned(),
            why,
            weight,
            share: share as u32,
            tunnels: self.tunnels.load(Relaxed),
            connects: self.connects.load(Relaxed),
            connect_failures: self.failures.load(Relaxed),
            checks_passed: self.checks_passed.load(Relaxed),
            checks_failed: self.checks_failed.load(Relaxed),
            last_check,
        }
    }
}

/// The servers of one service in one configuration.
#[derive(Debug)]
pub struct Group {
    balance: Balance,
    health: config::Health,
    members: Vec<(Arc<ServerState>, u32)>,
}

impl Group {
    /// Each server's state.
    pub fn servers(&self) -> impl Iterator<Item = &Arc<ServerState>> {
        self.members.iter().map(|(state, _)| state)
    }

    /// When its servers count as dead and as alive.
    #[must_use]
    pub fn health(&self) -> &config::Health {
        &self.health
    }

    /// Returns whether one of its servers is alive and not drained.
    #[must_use]
    pub fn some_is_alive(&self, now: Instant) -> bool {
        self.members.iter().any(|(state, _)| {
            let standing = state.standing(&self.health, state.millis(now));
            !state.drained.load(Relaxed) && matches!(standing, Standing::Alive(_))
        })
    }

    /// The server for one more attempt of a dial that has tried those in `tried` (by place) in
    /// vain. A dead server whose time is over comes first, and so to one dial alone. With
    /// `dead_too`, those that are dead are taken for alive.
    #[must_use]
    pub fn choose(
        &self,
        turn: &Balancer,
        tried: &[usize],
        dead_too: bool,
        now: Instant,
    ) -> Option<Claim> {
        let is_open =
            |index: usize| !tried.contains(&index) && !self.members[index].0.drained.load(Relaxed);
        let now_ms = self.members.first()?.0.millis(now);
        let standing = |index: usize| self.members[index].0.standing(&self.health, now_ms);
        let tries = |index: &usize| match standing(*index) {
            Standing::Trial(at) if is_open(*index) => self.members[*index].0.take_trial(at, now),
            _ => false,
        };
        let count = self.members.len();
        let weight = |index: usize| match standing(index) {
            Standing::Alive(share) if is_open(index) => u64::from(self.members[index].1) * share,
            Standing::Dead | Standing::Trial(_) if dead_too && is_open(index) => {
                u64::from(self.members[index].1) * 1000
            }
            _ => 0,
        };
        let index = (0..count).find(tries).or_else(|| match self.balance {
            Balance::RoundRobin => turn.by_weight(count, weight),
            Balance::LeastTunnels => turn.by_load(count, |index| {
                let tunnels = self.members[index].0.tunnels.load(Relaxed);
                (tunnels + 1, weight(index))
            }),
        })?;
        let server = self.members[index].0.clone();
        server.tunnels.fetch_add(1, Relaxed);
        Some(Claim { server, index })
    }
}

/// A tunnel to a server, from the moment at which the server is chosen; counted until it is
/// dropped.
#[derive(Debug)]
pub struct Claim {
    /// The server.
    pub server: Arc<ServerState>,
    /// Its place in the service.
    pub index: usize,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.server.tunnels.fetch_sub(1, Relaxed);
    }
}

/// The servers of all services of a node.
#[derive(Debug)]
pub struct Backends {
    epoch: Instant,
    /// By service; none for a service that dials what the app asks for.
    groups: Mutex<Arc<[Option<Arc<Group>>]>>,
}

impl Default for Backends {
    fn default() -> Self {
        Self {
            epoch: Instant::now(),
            groups: Mutex::new(Arc::new([])),
        }
    }
}

impl Backends {
    /// The groups of `services`, in their order. Servers that are there already keep their state.
    #[must_use]
    pub fn prepare(&self, services: &[Service]) -> Arc<[Option<Arc<Group>>]> {
        let old = self.groups();
        let known = |service: &str, address: &HostPort| {
            let mut states = old.iter().flatten().flat_map(|group| group.servers());
            states
                .find(|state| *state.service == *service && state.address == *address)
                .cloned()
        };
        let group = |service: &Service| {
            let ServiceKind::Servers(servers) = &service.kind else {
                return None;
            };
            let name: Arc<str> = service.name.as_str().into();
            let members = servers.iter().map(|server| {
                let state = known(&name, &server.address).unwrap_or_else(|| {
                    let address = server.address.clone();
                    Arc::new(ServerState::new(name.clone(), address, self.epoch))
                });
                (state, server.weight)
            });
            Some(Arc::new(Group {
                balance: service.reach.balance,
                health: service.reach.health.clone(),
                members: members.collect(),
            }))
        };
        services.iter().map(group).collect()
    }

    /// Activates prepared groups.
    pub fn commit(&self, groups: Arc<[Option<Arc<Group>>]>) {
        *self.groups.lock().unwrap_or_else(PoisonError::into_inner) = groups;
    }

    /// The active groups, by service.
    #[must_use]
    pub fn groups(&self) -> Arc<[Option<Arc<Group>>]> {
        self.groups
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Every server.
    #[must_use]
    pub fn list(&self) -> Vec<ServerInfo> {
        let now = Instant::now();
        let groups = self.groups();
        let of_group = |group: &Arc<Group>| -> Vec<ServerInfo> {
            let members = group.members.iter();
            members
                .map(|(state, weight)| state.info(*weight, &group.health, now))
                .collect()
        };
        groups.iter().flatten().flat_map(of_group).collect()
    }

    /// Takes new tunnels away from a server, or gives them back. What is known of it then; `None`
    /// if there is no such one.
    pub fn drain(&self, service: &str, server: &str, drained: bool) -> Option<ServerInfo> {
        let groups = self.groups();
        let is_meant =
            |state: &&Arc<ServerState>| *state.service == *service && *state.text == *server;
        let state = groups
            .iter()
            .flatten()
            .find_map(|group| group.servers().find(is_meant))?;
        state.drain(drained);
        self.list()
            .into_iter()
            .find(|info| info.service == service && info.server == server)
    }
}

#[cfg(test)]
mod tests;
