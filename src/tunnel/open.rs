//! A tunnel from the request to its record, the same for all the ways in which a request comes: authorize, route and
//! dial, then the relay between two records.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::core::{Core, Limits, Live, ServiceState, Snapshot};
use super::ends::{AppEnd, ServerEnd};
use super::gates::Pass;
use super::outcome::{Outcome, audit};
use super::policy::{authorize, route};
use super::quota::Permit;
use super::relay::{Behind, Ends, Relay};
use super::sweep::reconsider;
use super::udp::UdpServer;
use crate::config::HostPort;
use crate::observe::{AuditEvent, CloseReason, Stage, Subject};
use crate::ring::{self, TcpStream};
use crate::tls::PeerIdentity;

/// Who asks for tunnels in a session, and what that rests on.
pub(super) struct Peer {
    pub identity: PeerIdentity,
    pub subject: Arc<Subject>,
    /// The certificates that were presented, for later checks.
    pub chain: Rc<[Rc<[u8]>]>,
    /// The first of them expires then, in seconds since 1970.
    pub good_until: u64,
    /// How many changes there were when they were checked.
    pub changes: u64,
}

/// A server that was reached for a request that is granted.
pub(super) struct Opened<S> {
    server: S,
    address: Arc<str>,
    service: Arc<str>,
    target: HostPort,
    udp: bool,
    permit: Permit,
    pass: Pass,
    terms: Terms,
}

/// How long a tunnel may be open.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// Without a byte in either direction.
    pub idle_timeout: Duration,
    /// From its opening.
    pub max_lifetime: Option<Duration>,
}

/// A tunnel whose app has been told that it is open.
pub(super) struct Tunnel<A, S> {
    relay: Rc<Relay<A, S>>,
    behind: Box<Behind>,
    /// How many changes there were when the app's certificates were checked.
    changes: u64,
    permit: Permit,
}

/// What a request is granted: the way to its service, and its places under the limits.
struct Granted<'s> {
    service: &'s ServiceState,
    permit: Permit,
    pass: Pass,
    terms: Terms,
}

/// Authorize and route.
fn grant<'s>(
    core: &Core,
    snapshot: &'s Snapshot,
    peer: &Peer,
    target: &HostPort,
    outcome: &mut Outcome,
) -> Result<Granted<'s>, CloseReason> {
    let identity = &peer.identity;
    let started = Instant::now();
    outcome.target = Some(target.clone());
    if core.draining.is_raised() {
        return Err(CloseReason::Draining);
    }
    let state = core
        .devices
        .read(|devices| devices.state(identity.device()));
    let grant = authorize(identity, state, snapshot.unmanaged_allowed)?;
    let service =
        &snapshot.services[route(&grant, &snapshot.rules, target, snapshot.no_rule)?.service];
    outcome.service = Some(service.name.clone());
    let app = identity.app().and_then(|app| snapshot.apps.get(app));
    let pass = Pass::enter(service.gate.as_ref(), app, ring::now())?;
    let limits = &snapshot.limits;
    let permit = core.quota.acquire(
        identity.device(),
        limits.max_tunnels,
        limits.max_tunnels_per_device,
    )?;
    core.metrics
        .borrow_mut()
        .record(Stage::Authorize, started.elapsed());
    Ok(Granted {
        service,
        permit,
        pass,
        terms: Terms {
            idle_timeout: limits.idle_timeout,
            max_lifetime: service.service.max_lifetime.or(limits.max_lifetime),
        },
    })
}

/// Authorize, route, dial. An error is a refusal that the app has not been told yet; `outcome` says how far it came.
pub(super) async fn open(
    core: &Core,
    snapshot: &Snapshot,
    peer: &Peer,
    target: HostPort,
    outcome: &mut Outcome,
) -> Result<Opened<TcpStream>, CloseReason> {
    let granted = grant(core, snapshot, peer, &target, outcome)?;
    let service = granted.service;
    let dialling = ring::now();
    let dialled = core
        .dialer
        .dial(
            &service.service,
            &service.turn,
            &target,
            snapshot.limits.connect_timeout,
        )
        .await;
    core.metrics.borrow_mut().dial_retries += u64::from(dialled.retries);
    let (server, address) = dialled.result?;
    core.metrics.borrow_mut().record(
        Stage::Connect,
        ring::now().saturating_duration_since(dialling),
    );

    Ok(granted.opened(server, address, target, false))
}

/// The same for datagrams.
pub(super) async fn open_udp(
    core: &Rc<Core>,
    snapshot: &Snapshot,
    peer: &Peer,
    target: HostPort,
    outcome: &mut Outcome,
) -> Result<Opened<UdpServer>, CloseReason> {
    let granted = grant(core, snapshot, peer, &target, outcome)?;
    let service = granted.service;
    if !service.service.udp {
        return Err(CloseReason::UdpNotAllowed);
    }
    let (socket, address) = core
        .dialer
        .reach_by_udp(
            &service.service,
            &service.turn,
            &target,
            snapshot.limits.connect_timeout,
        )
        .await?;
    core.metrics.borrow_mut().udp_tunnels += 1;
    let server = UdpServer::new(core.clone(), socket);
    Ok(granted.opened(server, address, target, true))
}

impl Granted<'_> {
    fn opened<S>(self, server: S, address: Arc<str>, target: HostPort, udp: bool) -> Opened<S> {
        Opened {
            server,
            address,
            service: self.service.name.clone(),
            target,
            udp,
            permit: self.permit,
            pass: self.pass,
            terms: self.terms,
        }
    }
}

impl<S: ServerEnd> Opened<S> {
    /// Whether it carries datagrams.
    pub fn is_udp(&self) -> bool {
        self.udp
    }

    /// Takes the idle timeout that the app proposes, in seconds, as far as the bounds allow. The one in force, for the
    /// answer; `None` where nothing was proposed.
    pub fn propose_idle(&mut self, seconds: Option<u32>, limits: &Limits) -> Option<Duration> {
        let proposed = Duration::from_secs(seconds?.into());
        let (min, max) = limits.idle_bounds;
        self.terms.idle_timeout = proposed.clamp(min, max);
        Some(self.terms.idle_timeout)
    }

    /// The tunnel to `app`, whose bytes begin with those `behind` the request.
    pub fn tunnel<A: AppEnd>(
        self,
        core: Rc<Core>,
        peer: &Peer,
        app: A,
        behind: Behind,
    ) -> Tunnel<A, S> {
        let live = Live {
            id: core.next_tunnel(),
            subject: peer.subject.clone(),
            service: self.service,
            server: self.address,
            target: self.target,
            udp: self.udp,
            chain: peer.chain.clone(),
            good_until: peer.good_until.into(),
            opened: ring::now(),
            up: 0.into(),
            down: 0.into(),
            closing: None.into(),
            waiting: None.into(),
        };
        Tunnel {
            relay: Rc::new(Relay {
                core,
                app,
                server: self.server,
                live: Rc::new(live),
                terms: self.terms,
                pass: self.pass,
                paced: 0.into(),
                last: ring::now().into(),
                ends: Ends::default(),
            }),
            behind: Box::new(behind),
            changes: peer.changes,
            permit: self.permit,
        }
    }
}

/// The open tunnel, between its two records. Not an `async fn`, which would keep the tunnel twice.
///
/// `session`: kept until it has ended.
pub(super) fn relay<A: AppEnd, S: ServerEnd>(
    tunnel: Tunnel<A, S>,
    session: impl Sized + 'static,
) -> impl Future<Output = ()> {
    let Tunnel {
        relay,
        behind,
        changes,
        permit,
    } = tunnel;
    async move {
        let (core, live) = (&relay.core, &relay.live);
        let (service, server) = (live.service.clone(), live.server.clone());
        let start = AuditEvent::TunnelStart {
            tunnel: live.id,
            service,
            server,
        };
        audit(core, &live.subject, Some(&live.target), start);
        let listed = core.list(live.clone());
        reconsider(core, live, changes);

        let directions = relay.start(behind);
        let reason = relay.end(directions).await;

        drop(listed);
        let duration = ring::now().saturating_duration_since(live.opened);
        core.metrics.borrow_mut().record(Stage::Lifetime, duration);
        core.count(reason);
        let end = AuditEvent::TunnelEnd {
            tunnel: live.id,
            service: live.service.clone(),
            server: live.server.clone(),
            bytes_up: live.up.get(),
            bytes_down: live.down.get(),
            duration,
            reason,
        };
        audit(core, &live.subject, Some(&live.target), end);
        drop((permit, session));
    }
}
