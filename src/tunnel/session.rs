//! The whole life of a tunnel, from the accepted connection to its record:
//!
//! [`Accepted`] → [`PeerIdentity`] (the handshake) → `Grant` (authorize) → `Route` (route) → [`Relay`] → [`Outcome`].

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use rustls::{HandshakeKind as Kind, ProtocolVersion};

use super::core::{Core, Live, Snapshot};
use super::policy::{authorize, route};
use super::relay::Relay;
use super::request::{ConnectRequest, RequestError, RequestParser};
use super::response::{ESTABLISHED, refusal};
use crate::limits::LINGER;
use crate::observe::{
    AuditEvent, AuditRecord, CloseReason, HandshakeKind, Stage, Subject, TlsVersion,
};
use crate::ring::{self, Either, Front, RingBuf, TcpStream};
use crate::tls::{HandshakeFailure, PeerIdentity, Received, ServerStream, StreamError, failure_of};

/// A connection that was accepted and has not been read from.
struct Accepted {
    tls: ServerStream,
    subject: Subject,
    at: Instant,
}

/// A request and what came behind it on the session: records that are not complete yet.
struct Asked {
    request: ConnectRequest,
    carry: Option<RingBuf>,
}

/// How a session ended: the one thing that is counted and recorded about its end.
struct Outcome {
    subject: Arc<Subject>,
    target: Option<String>,
    service: Option<Arc<str>>,
    reason: CloseReason,
}

/// Serves one accepted connection to its end.
pub async fn serve(core: Rc<Core>, stream: TcpStream) {
    let _counted = Counted::new(&core);
    let snapshot = core.snapshot.borrow().clone();
    // A client that is gone already has no address; there is nobody to record.
    if let Ok(peer) = stream.peer_address()
        && let Ok(tls) = ServerStream::accepted(stream, snapshot.tls.clone())
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
        };
        if let Some(outcome) = session(&core, &snapshot, accepted).await {
            record(&core, outcome);
        }
    }
}

/// A session in the counters, for as long as it lives, whatever ends it.
struct Counted<'a>(&'a Core);

impl<'a> Counted<'a> {
    fn new(core: &'a Core) -> Self {
        core.metrics.borrow_mut().sessions_accepted += 1;
        Self(core)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.metrics.borrow_mut().sessions_closed += 1;
    }
}

/// From handshake to refusal or to the end of the tunnel. `None`: the node ended while nothing was decided.
async fn session(core: &Core, snapshot: &Snapshot, accepted: Accepted) -> Option<Outcome> {
    let Accepted {
        tls,
        mut subject,
        at,
    } = accepted;
    let mut identity = None;
    let opening = async {
        let (peer, first) = handshake(core, snapshot, &tls, at).await?;
        identity = Some(peer);
        request(&tls, first).await
    };
    let opened = match ring::race(
        ring::timeout(snapshot.limits.handshake_timeout, opening),
        core.cut.wait(),
    )
    .await
    {
        Either::Left(Ok(result)) => result,
        Either::Left(Err(_)) if identity.is_some() => Err(CloseReason::RequestTimeout),
        Either::Left(Err(_)) => Err(CloseReason::HandshakeTimeout),
        Either::Right(()) => return None,
    };
    if let Some(peer) = &identity {
        subject.device = Some(peer.device().to_owned());
        subject.user = peer.user().map(str::to_owned);
        subject.app = peer.app().map(str::to_owned);
        subject.serial = Some(peer.serial().to_owned());
    }
    let mut outcome = Outcome {
        subject: Arc::new(subject),
        target: None,
        service: None,
        reason: CloseReason::Closed,
    };
    let refused = match (opened, &identity) {
        (Ok(asked), Some(identity)) => {
            outcome.target = Some(asked.request.target.to_string());
            tunnel(core, snapshot, &tls, identity, asked, &mut outcome).await
        }
        (Ok(_), None) => Err(CloseReason::GatewayError),
        (Err(reason), _) => Err(reason),
    };
    if let Err(reason) = refused {
        outcome.reason = reason;
        refuse(&tls, reason).await;
        return Some(outcome);
    }
    // The tunnel has been open and has recorded its own end.
    None
}

/// The TLS handshake and who is at the other end. Resumed sessions are checked again: the certificate may have expired
/// or been revoked since.
async fn handshake(
    core: &Core,
    snapshot: &Snapshot,
    tls: &ServerStream,
    at: Instant,
) -> Result<(PeerIdentity, Front), CloseReason> {
    let first = tls
        .handshake()
        .await
        .map_err(|error| handshake_end(&error))?;
    let Some((version, kind)) = tls.negotiated() else {
        return Err(CloseReason::GatewayError);
    };
    let chain = tls.peer_certificates();
    let resumed = kind == Kind::Resumed;
    if resumed {
        snapshot
            .verifier
            .recheck(&chain, SystemTime::now())
            .map_err(|error| reason_of(failure_of(&error)))?;
    }
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
    let identity = PeerIdentity::from_chain(&chain, &snapshot.identity)
        .map_err(|_| CloseReason::IdentityMissing)?;
    Ok((identity, first))
}

/// The tunnel request, which may have come right behind the handshake.
async fn request(tls: &ServerStream, first: Front) -> Result<Asked, CloseReason> {
    let mut parser = RequestParser::new();
    let mut next = Some(first);
    loop {
        let carry = match next.take() {
            Some(front) => {
                let parsed = parser.push(&front).map_err(|error| match error {
                    RequestError::Malformed(_) => CloseReason::Malformed,
                    RequestError::TooLarge => CloseReason::HeaderTooLarge,
                })?;
                let carry = front.into_rest();
                if let Some(request) = parsed {
                    return Ok(Asked { request, carry });
                }
                carry
            }
            None => None,
        };
        next = match tls.recv(carry).await {
            Ok(Received::Data(front)) => Some(front),
            Ok(Received::Closed) | Err(_) => return Err(CloseReason::RequestAborted),
        };
    }
}

/// Authorize, route, dial, answer, relay. An error is a refusal that the client has not been told yet.
async fn tunnel(
    core: &Core,
    snapshot: &Snapshot,
    tls: &ServerStream,
    identity: &PeerIdentity,
    asked: Asked,
    outcome: &mut Outcome,
) -> Result<(), CloseReason> {
    let started = Instant::now();
    if core.draining.get() {
        return Err(CloseReason::Draining);
    }
    let state = core
        .devices
        .read(|devices| devices.state(identity.device()));
    let grant = authorize(identity, state, snapshot.unmanaged_allowed)?;
    let target = &asked.request.target;
    let service = &snapshot.services[route(&grant, &snapshot.rules, target)?.service];
    outcome.service = Some(service.name.clone());
    let limits = &snapshot.limits;
    let _permit = core.quota.acquire(
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
    let live = Rc::new(Live {
        id: core.next_tunnel(),
        peer: outcome.subject.peer,
        device: identity.device().to_owned(),
        app: identity.app().map(str::to_owned),
        user: identity.user().map(str::to_owned),
        service: service.name.clone(),
        server: address,
        opened: ring::now(),
        up: 0.into(),
        down: 0.into(),
    });
    relay(core, snapshot, tls, &server, &live, asked, outcome).await;
    Ok(())
}

/// The open tunnel, between its two records.
async fn relay(
    core: &Core,
    snapshot: &Snapshot,
    tls: &ServerStream,
    server: &TcpStream,
    live: &Rc<Live>,
    asked: Asked,
    outcome: &Outcome,
) {
    let (service, dialled) = (live.service.clone(), live.server.clone());
    audit(
        core,
        outcome,
        AuditEvent::TunnelStart {
            tunnel: live.id,
            service,
            server: dialled,
        },
    );
    let listed = core.list(live.clone());

    let idle_timeout = snapshot.limits.idle_timeout;
    let relay = Relay {
        core,
        client: tls,
        server,
        live,
        idle_timeout,
        last: ring::now().into(),
    };
    let reason = relay.run(asked.request.early, asked.carry).await;

    drop(listed);
    let duration = ring::now().saturating_duration_since(live.opened);
    core.metrics.borrow_mut().record(Stage::Lifetime, duration);
    core.count(reason);
    let event = AuditEvent::TunnelEnd {
        tunnel: live.id,
        service: live.service.clone(),
        server: live.server.clone(),
        bytes_up: live.up.get(),
        bytes_down: live.down.get(),
        duration,
        reason,
    };
    audit(core, outcome, event);
}

/// Tells the client, in the way that the reason's row says, and waits a moment for it to be read.
async fn refuse(tls: &ServerStream, reason: CloseReason) {
    let telling = async {
        if let Some(response) = refusal(reason) {
            if tls.send_message(&response).await.is_ok() && tls.close().await.is_ok() {
                tls.linger().await;
            }
        } else {
            tls.linger().await;
        }
    };
    let _ = ring::timeout(LINGER, telling).await;
}

/// Counts and records a session that came to no tunnel.
fn record(core: &Core, outcome: Outcome) {
    core.count(outcome.reason);
    let event = AuditEvent::Refused {
        service: outcome.service.clone(),
        reason: outcome.reason,
    };
    audit(core, &outcome, event);
}

fn audit(core: &Core, outcome: &Outcome, event: AuditEvent) {
    if core.audit.is_on() {
        let (subject, target) = (outcome.subject.clone(), outcome.target.clone());
        core.audit.write(AuditRecord {
            time: SystemTime::now(),
            subject,
            target,
            event,
        });
    }
}

fn handshake_end(error: &StreamError) -> CloseReason {
    match error {
        StreamError::Tls(error) => reason_of(failure_of(error)),
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
