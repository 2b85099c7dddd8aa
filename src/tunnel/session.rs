//! The whole life of a tunnel, from the accepted connection to its record:
//!
//! [`Accepted`] → [`PeerIdentity`] (the handshake) → `Grant` (authorize) → `Route` (route) → [`Relay`] → [`Outcome`].

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use rustls::pki_types::CertificateDer;
use rustls::{AlertDescription, HandshakeKind as Kind, ProtocolVersion};

use super::core::{Core, Live, Snapshot};
use super::policy::{authorize, route};
use super::quota::Permit;
use super::relay::{Behind, Ends, Relay};
use super::request::{ConnectRequest, RequestError, RequestParser};
use super::response::{ESTABLISHED, refusal};
use super::sweep::reconsider;
use crate::config::HostPort;
use crate::limits::LINGER;
use crate::observe::{
    AuditEvent, AuditRecord, CloseReason, HandshakeKind, Stage, Subject, TlsVersion,
};
use crate::ring::{self, Either, RingBuf, TcpStream};
use crate::tls::{
    HandshakeFailure, PeerIdentity, Received, ServerHandshake, ServerStream, StreamError,
    earliest_expiry, failure_of,
};

/// A connection that was accepted and has not been read from.
struct Accepted {
    tls: ServerHandshake,
    subject: Subject,
    at: Instant,
    changes: u64,
}

/// A request and what came behind it on the session.
struct Asked {
    target: HostPort,
    behind: Behind,
}

/// A tunnel whose client has been told that it is open.
struct Tunnel {
    relay: Rc<Relay>,
    behind: Box<Behind>,
    /// How many changes there were when the session began.
    changes: u64,
    permit: Permit,
}

/// What a client has presented, for later checks.
struct Presented {
    chain: Box<[Rc<[u8]>]>,
    good_until: u64,
}

/// What is known of a session so far, for the record of its end.
struct Outcome {
    subject: Arc<Subject>,
    target: Option<HostPort>,
    service: Option<Arc<str>>,
}

/// Serves one accepted connection to its end. It counts as a session at once, and not when it first runs: what is
/// accepted next is spread by that count.
pub fn serve(core: Rc<Core>, stream: TcpStream) -> impl Future<Output = ()> {
    let counted = Counted::new(core.clone());
    serve_counted(core, stream, counted)
}

async fn serve_counted(core: Rc<Core>, stream: TcpStream, counted: Counted) {
    let snapshot = core.snapshot.borrow().clone();
    let changes = core.changes.get().count();
    // A client that is gone already has no address; there is nobody to record.
    if let Ok(peer) = stream.peer_address()
        && let Ok(tls) = ServerHandshake::accepted(stream, snapshot.tls.clone())
    {
        let subject = Subject {
            peer,
            device: None,
            user: None,
            app: None,
            serial: None,
        };
        let accepted = Accepted {
            tls,
            subject,
            at: ring::now(),
            changes,
        };
        if let Some(tunnel) = session(&core, &snapshot, accepted).await {
            // A task of its own: what the handshake needed is not kept for the life of the tunnel.
            ring::spawn(relay(tunnel, counted));
        }
    }
}

/// A session in the counters, for as long as it lives, whatever ends it.
struct Counted(Rc<Core>);

impl Counted {
    fn new(core: Rc<Core>) -> Self {
        core.metrics.borrow_mut().sessions_accepted += 1;
        core.load.enter();
        Self(core)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.metrics.borrow_mut().sessions_closed += 1;
        self.0.load.leave();
    }
}

/// From the handshake to an open tunnel or a refusal. `None`: refused and recorded, or the node ended while nothing was
/// decided. A refusal is recorded when it is decided: the client may take its time to read of it.
async fn session(core: &Rc<Core>, snapshot: &Snapshot, accepted: Accepted) -> Option<Tunnel> {
    let Accepted {
        tls,
        subject,
        at,
        changes,
    } = accepted;
    let mut outcome = Outcome {
        subject: Arc::new(subject),
        target: None,
        service: None,
    };
    let mut deadline = pin!(ring::sleep(snapshot.limits.handshake_timeout));
    let shaken = match ring::race(handshake(core, &tls, at), interrupted(core, &mut deadline)).await
    {
        Either::Left(shaken) => shaken,
        Either::Right(Interrupt::NodeEnds) => return None,
        Either::Right(Interrupt::Timeout) => Err(CloseReason::HandshakeTimeout),
    };
    let shaken = match shaken {
        Ok(shaken) => shaken,
        Err(reason) => {
            record(core, &outcome, reason);
            let _ = ring::timeout(LINGER, tls.linger()).await;
            return None;
        }
    };
    let presented = tls.peer_certificates();
    let identity = identify(snapshot, &presented, shaken.resumed);
    let presented = Presented {
        good_until: earliest_expiry(&presented),
        chain: core.keep_chain(&presented),
    };
    let Ok(tls) = tls.into_session() else {
        record(core, &outcome, CloseReason::GatewayError);
        return None;
    };
    let opened = match identity {
        Ok(identity) => {
            outcome.subject = Arc::new(subject_of(core, &outcome.subject, &identity));
            let asking = request(&tls, shaken.carry);
            match ring::race(asking, interrupted(core, &mut deadline)).await {
                Either::Left(Ok(asked)) => {
                    dial(core, snapshot, &tls, &identity, asked, &mut outcome).await
                }
                Either::Left(Err(reason)) => Err(reason),
                Either::Right(Interrupt::NodeEnds) => return None,
                Either::Right(Interrupt::Timeout) => Err(CloseReason::RequestTimeout),
            }
        }
        Err(reason) => Err(reason),
    };
    match opened {
        Ok(dialled) => {
            Some(dialled.tunnel(core.clone(), snapshot, tls, outcome, (presented, changes)))
        }
        Err(reason) => {
            record(core, &outcome, reason);
            refuse(&tls, reason).await;
            None
        }
    }
}

/// Why a session is stopped from outside.
enum Interrupt {
    Timeout,
    NodeEnds,
}

async fn interrupted(core: &Core, deadline: &mut ring::Sleep) -> Interrupt {
    match ring::race(deadline, core.cut.wait()).await {
        Either::Left(()) => Interrupt::Timeout,
        Either::Right(()) => Interrupt::NodeEnds,
    }
}

/// A completed handshake.
struct Shaken {
    resumed: bool,
    /// What came behind it.
    carry: Option<RingBuf>,
}

/// The TLS handshake, with the check of the client's certificate.
async fn handshake(core: &Core, tls: &ServerHandshake, at: Instant) -> Result<Shaken, CloseReason> {
    let carry = tls
        .complete(ring::permit)
        .await
        .map_err(|error| handshake_end(&error))?;
    let Some((version, kind)) = tls.negotiated() else {
        return Err(CloseReason::GatewayError);
    };
    let resumed = kind == Kind::Resumed;
    let version = if version == ProtocolVersion::TLSv1_3 {
        TlsVersion::Tls13
    } else {
        TlsVersion::Tls12
    };
    let kind = if resumed {
        HandshakeKind::Resumed
    } else {
        HandshakeKind::Full
    };
    let mut metrics = core.metrics.borrow_mut();
    metrics.count_handshake(version, kind);
    metrics.record(Stage::Handshake, ring::now().saturating_duration_since(at));
    Ok(Shaken { resumed, carry })
}

/// Who is at the other end. Resumed sessions are checked again: the certificate may have expired or been revoked since.
fn identify(
    snapshot: &Snapshot,
    chain: &[CertificateDer<'_>],
    resumed: bool,
) -> Result<PeerIdentity, CloseReason> {
    if resumed {
        snapshot
            .verifier
            .recheck(chain, SystemTime::now())
            .map_err(|error| reason_of(failure_of(&error)))?;
    }
    PeerIdentity::from_chain(chain, &snapshot.identity).map_err(|_| CloseReason::IdentityMissing)
}

/// The user is the one that the certificate names, or else the registry.
fn subject_of(core: &Core, before: &Subject, identity: &PeerIdentity) -> Subject {
    let registered = || {
        core.devices
            .read(|devices| devices.user(identity.device()).map(str::to_owned))
    };
    Subject {
        peer: before.peer,
        device: Some(identity.device().to_owned()),
        user: identity.user().map(str::to_owned).or_else(registered),
        app: identity.app().map(str::to_owned),
        serial: Some(identity.serial().to_owned()),
    }
}

/// The tunnel request, which may have come right behind the handshake.
async fn request(tls: &ServerStream, mut carry: Option<RingBuf>) -> Result<Asked, CloseReason> {
    let mut parser = RequestParser::new();
    loop {
        let pieces = match tls.recv(carry).await {
            Ok(Received::Data(pieces)) => pieces,
            Err(StreamError::Record(fault)) => {
                if let Some(alert) = fault.alert() {
                    let _ = ring::timeout(LINGER, tls.alert(alert)).await;
                }
                return Err(CloseReason::RequestAborted);
            }
            Ok(Received::Closed) | Err(_) => return Err(CloseReason::RequestAborted),
        };
        let mut request: Option<ConnectRequest> = None;
        for piece in pieces.iter() {
            match &mut request {
                Some(request) => request.early.extend_from_slice(piece),
                None => {
                    request = parser.push(piece).map_err(|error| match error {
                        RequestError::Malformed(_) => CloseReason::Malformed,
                        RequestError::TooLarge => CloseReason::HeaderTooLarge,
                    })?;
                }
            }
        }
        carry = pieces.into_rest();
        if let Some(ConnectRequest { target, early }) = request {
            let behind = Behind { early, carry };
            return Ok(Asked { target, behind });
        }
    }
}

/// A server that was reached for a request that is granted.
struct Dialled {
    server: TcpStream,
    address: Arc<str>,
    service: Arc<str>,
    asked: Asked,
    permit: Permit,
}

/// Authorize, route, dial, answer. An error is a refusal that the client has not been told yet.
async fn dial(
    core: &Core,
    snapshot: &Snapshot,
    tls: &ServerStream,
    identity: &PeerIdentity,
    asked: Asked,
    outcome: &mut Outcome,
) -> Result<Dialled, CloseReason> {
    let started = Instant::now();
    let target = &asked.target;
    outcome.target = Some(target.clone());
    if core.draining.get() {
        return Err(CloseReason::Draining);
    }
    let state = core
        .devices
        .read(|devices| devices.state(identity.device()));
    let grant = authorize(identity, state, snapshot.unmanaged_allowed)?;
    let service = &snapshot.services[route(&grant, &snapshot.rules, target)?.service];
    outcome.service = Some(service.name.clone());
    let limits = &snapshot.limits;
    let permit = core.quota.acquire(
        identity.device(),
        limits.max_tunnels,
        limits.max_tunnels_per_device,
    )?;
    core.metrics
        .borrow_mut()
        .record(Stage::Authorize, started.elapsed());

    let dialling = ring::now();
    let dialled = core
        .dialer
        .dial(
            &service.service,
            &service.turn,
            target,
            limits.connect_timeout,
        )
        .await;
    core.metrics.borrow_mut().dial_retries += u64::from(dialled.retries);
    let (server, address) = dialled.result?;
    core.metrics.borrow_mut().record(
        Stage::Connect,
        ring::now().saturating_duration_since(dialling),
    );

    tls.send_message(ESTABLISHED)
        .await
        .map_err(|_| CloseReason::RequestAborted)?;
    Ok(Dialled {
        server,
        address,
        service: service.name.clone(),
        asked,
        permit,
    })
}

impl Dialled {
    fn tunnel(
        self,
        core: Rc<Core>,
        snapshot: &Snapshot,
        client: ServerStream,
        outcome: Outcome,
        (presented, changes): (Presented, u64),
    ) -> Tunnel {
        let live = Live {
            id: core.next_tunnel(),
            subject: outcome.subject,
            service: self.service,
            server: self.address,
            target: self.asked.target,
            chain: presented.chain,
            good_until: presented.good_until.into(),
            opened: ring::now(),
            up: 0.into(),
            down: 0.into(),
            closing: None.into(),
            waiting: None.into(),
        };
        Tunnel {
            relay: Rc::new(Relay {
                core,
                client,
                server: self.server,
                live: Rc::new(live),
                idle_timeout: snapshot.limits.idle_timeout,
                last: ring::now().into(),
                ends: Ends::default(),
            }),
            behind: Box::new(self.asked.behind),
            changes,
            permit: self.permit,
        }
    }
}

/// The open tunnel, between its two records. Not an `async fn`, which would keep the tunnel twice.
fn relay(tunnel: Tunnel, counted: Counted) -> impl Future<Output = ()> {
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
        drop((permit, counted));
    }
}

/// Tells the client, in the way that the reason's row says, and waits a moment for it to be read.
async fn refuse(tls: &ServerStream, reason: CloseReason) {
    let telling = async {
        if let Some(response) = refusal(reason) {
            if tls.send_message(&response).await.is_ok() && tls.close().await.is_ok() {
                tls.linger().await;
            }
        } else if let Some(alert) = alert_of(reason) {
            tls.alert(alert).await;
        } else {
            tls.linger().await;
        }
    };
    let _ = ring::timeout(LINGER, telling).await;
}

/// The alert that a client gets behind the handshake.
pub(super) fn alert_of(reason: CloseReason) -> Option<AlertDescription> {
    Some(match reason.alert()? {
        "access_denied" => AlertDescription::AccessDenied,
        "bad_certificate" => AlertDescription::BadCertificate,
        "certificate_expired" => AlertDescription::CertificateExpired,
        "certificate_revoked" => AlertDescription::CertificateRevoked,
        "unknown_ca" => AlertDescription::UnknownCA,
        "unsupported_certificate" => AlertDescription::UnsupportedCertificate,
        _ => AlertDescription::HandshakeFailure,
    })
}

/// Counts and records a session that came to no tunnel.
fn record(core: &Core, outcome: &Outcome, reason: CloseReason) {
    core.count(reason);
    let event = AuditEvent::Refused {
        service: outcome.service.clone(),
        reason,
    };
    audit(core, &outcome.subject, outcome.target.as_ref(), event);
}

fn audit(core: &Core, subject: &Arc<Subject>, target: Option<&HostPort>, event: AuditEvent) {
    if core.audit.is_on() {
        core.audit.write(AuditRecord {
            time: SystemTime::now(),
            subject: subject.clone(),
            target: target.map(ToString::to_string),
            event,
        });
    }
}

fn handshake_end(error: &StreamError) -> CloseReason {
    match error {
        StreamError::Tls(error) => reason_of(failure_of(error)),
        StreamError::Record(_) => CloseReason::TlsProtocol,
        StreamError::Io(_) | StreamError::Truncated => CloseReason::HandshakeAborted,
    }
}

fn reason_of(failure: HandshakeFailure) -> CloseReason {
    match failure {
        HandshakeFailure::NoCertificate => CloseReason::CertificateRequired,
        HandshakeFailure::UnknownCa => CloseReason::UnknownCa,
        HandshakeFailure::Expired => CloseReason::CertificateExpired,
        HandshakeFailure::NotYetValid => CloseReason::CertificateNotYetValid,
        HandshakeFailure::Revoked => CloseReason::CertificateRevoked,
        HandshakeFailure::RevocationUnknown => CloseReason::RevocationUnknown,
        HandshakeFailure::WrongUsage => CloseReason::CertificateUsage,
        HandshakeFailure::BadCertificate => CloseReason::CertificateInvalid,
        HandshakeFailure::NotTls => CloseReason::NotTls,
        HandshakeFailure::Protocol => CloseReason::TlsProtocol,
        HandshakeFailure::PeerAlert => CloseReason::HandshakeAborted,
    }
}
