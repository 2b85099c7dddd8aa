//! A tunnel from the request to its record, the same for all the ways in which a request comes:
//! authorize, route and dial, then the relay between two records.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ends::{AppEnd, ServerEnd};
use super::proxy_header::proxy_header;
use super::relay::{Ends, ReadAhead, Relay};
use super::tls_server::TlsServer;
use super::udp::UdpServer;
use crate::access::{
    Activity, Core, Lifetimes, Limits, Live, Outcome, Pass, Peer, Permit, ServiceState, Snapshot,
    audit, authorize, reconsider, route,
};
use crate::backend::{Claim, Reached, ServerEnd as Dialled, Socket};
use crate::config::HostPort;
use crate::observe::{AuditEvent, Stage, TunnelFacts};
use crate::reason::CloseReason;
use crate::ring;

/// A server, by its kind of connection.
enum Server {
    Reached(Reached),
    Datagrams(Socket),
}

/// A server that was reached for a request that is granted.
pub(crate) struct Opened {
    id: u64,
    server: Server,
    service: Arc<str>,
    rule: u32,
    timings: Timings,
    target: HostPort,
    permit: Permit,
    pass: Pass,
    lifetimes: Lifetimes,
}

/// How long the stages of an opening took.
#[derive(Clone, Copy)]
struct Timings {
    authorize: Duration,
    connect: Duration,
}

/// A tunnel whose app has been told that it is open.
struct Tunnel<A, S> {
    relay: Rc<Relay<A, S>>,
    read_ahead: Box<ReadAhead>,
    /// How many changes there were when the app's certificates were checked.
    changes: u64,
    holds: Holds,
}

/// Guards that a tunnel holds until it has ended: its place under the limits, and among those of
/// its server.
type Holds = (Permit, Option<Claim>);

/// Grant of a request: the way to its service, and its places under the limits.
struct Granted<'s> {
    service: &'s ServiceState,
    /// Number of the rule, from 1.
    rule: u32,
    /// Time that it took.
    authorize: Duration,
    /// When it was given.
    at: Instant,
    permit: Permit,
    pass: Pass,
    lifetimes: Lifetimes,
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
    if core.refuses.get() {
        return Err(CloseReason::Draining);
    }
    let state = core
        .devices
        .read(|devices| devices.state(identity.device()));
    let grant = authorize(identity, state, snapshot.unmanaged_allowed)?;
    let routed = route(&grant, &snapshot.rules, target, snapshot.no_rule)?;
    if peer.service.is_some_and(|only| only != routed.service) {
        return Err(CloseReason::NoRule);
    }
    let service = &snapshot.services[routed.service];
    let rule = u32::try_from(routed.rule + 1).unwrap_or(u32::MAX);
    outcome.reached.rule = Some(rule);
    outcome.reached.service = Some(service.name.clone());
    let app = identity.app().and_then(|app| snapshot.apps.get(app));
    let pass = Pass::enter(service.gate.as_ref(), app, ring::now())?;
    let limits = &snapshot.limits;
    let permit = core.quota.acquire(
        identity.device(),
        limits.max_tunnels,
        limits.max_tunnels_per_device,
    )?;
    let took = started.elapsed();
    core.metrics.borrow_mut().record(Stage::Authorize, took);
    Ok(Granted {
        service,
        rule,
        authorize: took,
        at: ring::now(),
        permit,
        pass,
        lifetimes: Lifetimes {
            idle_timeout: limits.idle_timeout,
            max_lifetime: service.max_lifetime.or(limits.max_lifetime),
        },
    })
}

/// Authorize, route, dial. An error is a refusal that the app has not been told yet; `outcome` says
/// how far it came.
pub(crate) async fn open(
    core: &Core,
    snapshot: &Snapshot,
    peer: &Peer,
    target: HostPort,
    outcome: &mut Outcome,
) -> Result<Opened, CloseReason> {
    let granted = grant(core, snapshot, peer, &target, outcome)?;
    let service = granted.service;
    let limits = &snapshot.limits;
    let id = core.next_tunnel();
    let proxy_header = match service.connector.proxy_header {
        Some(version) => proxy_header(version, peer, &target, id)?,
        None => Vec::new(),
    };
    let dialling = ring::now();
    let dialled = core
        .dialer
        .dial(
            &service.connector,
            (&target, peer.identity.device()),
            &proxy_header,
            limits.connect_timeout,
        )
        .await;
    core.metrics.borrow_mut().dial_retries += u64::from(dialled.retries);
    outcome.reached.server = dialled.failed;
    let server = dialled.result?;
    core.metrics.borrow_mut().record(
        Stage::Connect,
        ring::now().saturating_duration_since(dialling),
    );

    Ok(granted.opened(id, Server::Reached(server), target))
}

/// The same for datagrams.
pub(crate) async fn open_udp(
    core: &Core,
    snapshot: &Snapshot,
    peer: &Peer,
    target: HostPort,
    outcome: &mut Outcome,
) -> Result<Opened, CloseReason> {
    let granted = grant(core, snapshot, peer, &target, outcome)?;
    let service = granted.service;
    if !service.udp {
        return Err(CloseReason::UdpNotAllowed);
    }
    let dialling = core.dialer.reach_by_udp(
        &service.connector,
        (&target, peer.identity.device()),
        snapshot.limits.connect_timeout,
    );
    let socket = dialling.await?;
    core.metrics.borrow_mut().udp_tunnels += 1;
    Ok(granted.opened(core.next_tunnel(), Server::Datagrams(socket), target))
}

impl Granted<'_> {
    fn opened(self, id: u64, server: Server, target: HostPort) -> Opened {
        Opened {
            id,
            server,
            service: self.service.name.clone(),
            rule: self.rule,
            timings: Timings {
                authorize: self.authorize,
                connect: ring::now().saturating_duration_since(self.at),
            },
            target,
            permit: self.permit,
            pass: self.pass,
            lifetimes: self.lifetimes,
        }
    }
}

impl Opened {
    /// Takes the idle timeout that the app proposes, in seconds, as far as the bounds allow. The
    /// active one, for the answer; `None` where nothing was proposed.
    pub fn propose_idle(&mut self, seconds: Option<u32>, limits: &Limits) -> Option<Duration> {
        let proposed = Duration::from_secs(seconds?.into());
        let (min, max) = limits.idle_bounds;
        self.lifetimes.idle_timeout = proposed.clamp(min, max);
        Some(self.lifetimes.idle_timeout)
    }

    /// Runs the tunnel to `app`, whose bytes begin with those `read_ahead` the request, in a task
    /// of its own: what it took to open it is not kept for its life. `session`: kept until it has
    /// ended.
    pub fn run<A: AppEnd>(
        mut self,
        core: Rc<Core>,
        peer: &Peer,
        (app, read_ahead): (A, ReadAhead),
        session: impl Sized + 'static,
    ) {
        let udp = matches!(self.server, Server::Datagrams(_));
        let (address, claim) = match &mut self.server {
            Server::Reached(reached) => (reached.address.clone(), reached.claim.take()),
            Server::Datagrams(socket) => (socket.address.clone(), socket.claim.take()),
        };
        let live = Live {
            id: self.id,
            subject: peer.subject.clone(),
            service: self.service,
            rule: self.rule,
            server: address,
            target: self.target,
            udp,
            chain: peer.chain.clone(),
            good_until: peer.good_until.into(),
            place: 0.into(),
            opened: ring::now(),
            up: 0.into(),
            down: 0.into(),
            closing: None.into(),
            waiting: None.into(),
        };
        begun(&core, &live, self.timings);
        let parts = Parts {
            core,
            app,
            live: Rc::new(live),
            lifetimes: self.lifetimes,
            pass: self.pass,
            read_ahead: Box::new(read_ahead),
            changes: peer.changes,
            holds: (self.permit, claim),
        };
        match self.server {
            Server::Reached(reached) => match reached.end {
                Dialled::Plain(stream) => ring::spawn(relay(parts.tunnel(stream), session)),
                Dialled::Tls(stream, carry) => {
                    let server = TlsServer::new(*stream, carry);
                    ring::spawn(relay(parts.tunnel(server), session));
                }
            },
            Server::Datagrams(socket) => {
                let server = UdpServer::new(parts.core.clone(), socket.socket);
                ring::spawn(relay(parts.tunnel(server), session));
            }
        }
    }
}

/// A tunnel but for its server's end.
struct Parts<A> {
    core: Rc<Core>,
    app: A,
    live: Rc<Live>,
    lifetimes: Lifetimes,
    pass: Pass,
    read_ahead: Box<ReadAhead>,
    changes: u64,
    holds: Holds,
}

impl<A: AppEnd> Parts<A> {
    fn tunnel<S: ServerEnd>(self, server: S) -> Tunnel<A, S> {
        Tunnel {
            relay: Rc::new(Relay {
                core: self.core,
                app: self.app,
                server,
                live: self.live,
                lifetimes: self.lifetimes,
                pass: self.pass,
                paced: 0.into(),
                activity: Activity::new(ring::now()),
                ends: Ends::default(),
            }),
            read_ahead: self.read_ahead,
            changes: self.changes,
            holds: self.holds,
        }
    }
}

/// The open tunnel, between its two records. Not an `async fn`, which would keep the tunnel twice.
///
/// `session`: kept until it has ended.
fn relay<A: AppEnd, S: ServerEnd>(
    tunnel: Tunnel<A, S>,
    session: impl Sized + 'static,
) -> impl Future<Output = ()> {
    let Tunnel {
        relay,
        read_ahead,
        changes,
        holds,
    } = tunnel;
    async move {
        let listed = relay.core.list(relay.live.clone());
        reconsider(&relay.core, &relay.live, changes);

        let directions = relay.start(read_ahead);
        let ended = relay.ended().await;
        drop(directions);
        let reason = relay.close(ended).await;

        drop(listed);
        over(&relay, reason);
        drop((holds, session));
    }
}

fn begun(core: &Core, live: &Live, Timings { authorize, connect }: Timings) {
    let start = AuditEvent::TunnelStart {
        tunnel: facts(live),
        authorize,
        connect,
    };
    audit(core, &live.subject, Some(&live.target), start);
}

fn facts(live: &Live) -> TunnelFacts {
    TunnelFacts {
        tunnel: live.id,
        service: live.service.clone(),
        rule: live.rule,
        server: live.server.clone(),
        udp: live.udp,
    }
}

fn over<A, S>(relay: &Relay<A, S>, reason: CloseReason) {
    let (core, live) = (&relay.core, &relay.live);
    let duration = ring::now().saturating_duration_since(live.opened);
    core.metrics.borrow_mut().record(Stage::Lifetime, duration);
    core.count(reason);
    let end = AuditEvent::TunnelEnd {
        tunnel: facts(live),
        bytes_up: live.up.get(),
        bytes_down: live.down.get(),
        duration,
        reason,
    };
    audit(core, &live.subject, Some(&live.target), end);
}

/// Memory of an open tunnel between two kinds of ends, in bytes: its relay, the futures of its
/// three tasks, and what is listed of it. Without the connections' buffers and the heads of the
/// tasks.
#[cfg(test)]
pub(crate) fn memory<A: AppEnd, S: ServerEnd>() -> usize {
    fn task<T, F>(_: impl FnOnce(T, ()) -> F) -> usize {
        size_of::<F>()
    }
    size_of::<Live>() + Relay::<A, S>::memory() + task(relay::<A, S>)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::TcpStream;
    use crate::tls::ServerStream;
    use crate::tunnel::PlainApp;

    /// The memory of a tunnel is a promise to whoever counts devices: each pair of ends has its
    /// bound, in bytes.
    #[test]
    fn a_tunnel_between_any_two_ends_keeps_to_its_memory() {
        let pairs = [
            ("TLS to TCP", memory::<ServerStream, TcpStream>(), 1344),
            ("TLS to TLS", memory::<ServerStream, TlsServer>(), 2016),
            ("TLS to UDP", memory::<ServerStream, UdpServer>(), 1664),
            ("plain to TCP", memory::<PlainApp, TcpStream>(), 928),
            ("plain to TLS", memory::<PlainApp, TlsServer>(), 1664),
            ("plain to UDP", memory::<PlainApp, UdpServer>(), 1344),
        ];
        let over = pairs.iter().filter(|(_, bytes, bound)| bytes > bound);
        let over: Vec<_> = over.collect();
        assert!(over.is_empty(), "(ends, bytes, bound): {over:?}");
    }
}
