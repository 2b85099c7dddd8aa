//! The whole life of a tunnel, from the accepted connection to its record:
//!
//! [`Accepted`] → [`PeerIdentity`] (the handshake) → `Grant` (authorize) → `Route` (route) → [`Relay`] → [`Outcome`].

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use rustls::pki_types::CertificateDer;
use rustls::{HandshakeKind as Kind, ProtocolVersion};

use super::core::{Core, Snapshot};
use super::http2;
use super::open::{Opened, Peer, open, relay};
use super::outcome::{Outcome, alert_of, record};
use super::pvd;
use super::relay::Behind;
use super::request::{ConnectRequest, RequestError, RequestParser};
use super::response::{configuration, established, refusal};
use crate::config::HostPort;
use crate::limits::LINGER;
use crate::observe::{CloseReason, HandshakeKind, Stage, Subject, TlsVersion};
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
    idle: Option<u32>,
    behind: Behind,
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
        session(&core, &snapshot, accepted, counted).await;
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

/// From the handshake to an open tunnel or a refusal. A refusal is recorded when it is decided: the client may take its
/// time to read of it. Nothing is recorded where the node ends before anything is decided.
async fn session(core: &Rc<Core>, snapshot: &Snapshot, accepted: Accepted, counted: Counted) {
    let Accepted {
        tls,
        subject,
        at,
        changes,
    } = accepted;
    let mut deadline = pin!(ring::sleep(snapshot.limits.handshake_timeout));
    let shaken = match ring::race(handshake(core, &tls, at), interrupted(core, &mut deadline)).await
    {
        Either::Left(shaken) => shaken,
        Either::Right(Interrupt::NodeEnds) => return,
        Either::Right(Interrupt::Timeout) => Err(CloseReason::HandshakeTimeout),
    };
    let shaken = match shaken {
        Ok(shaken) => shaken,
        Err(reason) => {
            record(core, &Outcome::of(subject.into()), reason);
            let _ = ring::timeout(LINGER, tls.linger()).await;
            return;
        }
    };
    let presented = tls.peer_certificates();
    let peer = identify(
        core,
        snapshot,
        &presented,
        shaken.resumed,
        &subject,
        changes,
    );
    let http2 = tls.is_http2();
    let Ok(tls) = tls.into_session() else {
        record(
            core,
            &Outcome::of(subject.into()),
            CloseReason::GatewayError,
        );
        return;
    };
    let peer = match peer {
        Ok(peer) => peer,
        Err(reason) => {
            record(core, &Outcome::of(subject.into()), reason);
            refuse(&tls, reason).await;
            return;
        }
    };
    if http2 {
        // A task of its own: what the handshake needed is not kept for the life of the session.
        ring::spawn(http2::serve(core.clone(), tls, shaken.carry, peer, counted));
        return;
    }
    http1(
        core,
        snapshot,
        tls,
        peer,
        shaken.carry,
        &mut deadline,
        counted,
    )
    .await;
}

/// HTTP/1.1: the session has one request, and becomes its tunnel.
async fn http1(
    core: &Rc<Core>,
    snapshot: &Snapshot,
    tls: ServerStream,
    peer: Peer,
    carry: Option<RingBuf>,
    deadline: &mut ring::Sleep,
    counted: Counted,
) {
    let mut outcome = Outcome::of(peer.subject.clone());
    let asked = match ring::race(request(&tls, carry), interrupted(core, deadline)).await {
        Either::Left(asked) => asked,
        Either::Right(Interrupt::NodeEnds) => return,
        Either::Right(Interrupt::Timeout) => Err(CloseReason::RequestTimeout),
    };
    match connect(core, snapshot, &tls, &peer, asked, &mut outcome).await {
        Ok((opened, behind)) => {
            let tunnel = opened.tunnel(core.clone(), &peer, tls, behind);
            // A task of its own: what the handshake needed is not kept for the life of the tunnel.
            ring::spawn(relay(tunnel, counted));
        }
        Err(CloseReason::ConfigurationRead) => {
            let state = core
                .devices
                .read(|devices| devices.state(peer.identity.device()));
            match pvd::document(snapshot, &peer.identity, state, SystemTime::now()) {
                Ok(document) => {
                    core.count(CloseReason::ConfigurationRead);
                    tell(&tls, &configuration(&document)).await;
                }
                Err(reason) => {
                    record(core, &outcome, reason);
                    refuse(&tls, reason).await;
                }
            }
        }
        Err(reason) => {
            record(core, &outcome, reason);
            refuse(&tls, reason).await;
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
    core: &Core,
    snapshot: &Snapshot,
    chain: &[CertificateDer<'_>],
    resumed: bool,
    before: &Subject,
    changes: u64,
) -> Result<Peer, CloseReason> {
    if resumed {
        snapshot
            .verifier
            .recheck(chain, SystemTime::now())
            .map_err(|error| reason_of(failure_of(&error)))?;
    }
    let identity = PeerIdentity::from_chain(chain, &snapshot.identity)
        .map_err(|_| CloseReason::IdentityMissing)?;
    Ok(Peer {
        subject: Arc::new(subject_of(core, before, &identity)),
        identity,
        chain: core.keep_chain(chain),
        good_until: earliest_expiry(chain),
        changes,
    })
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
                        RequestError::Configuration => CloseReason::ConfigurationRead,
                    })?;
                }
            }
        }
        carry = pieces.into_rest();
        if let Some(ConnectRequest {
            target,
            idle,
            early,
        }) = request
        {
            let behind = Behind { early, carry };
            return Ok(Asked {
                target,
                idle,
                behind,
            });
        }
    }
}

/// Opens the tunnel that is asked for, and says so. An error is a refusal that the client has not been told yet.
async fn connect(
    core: &Core,
    snapshot: &Snapshot,
    tls: &ServerStream,
    peer: &Peer,
    asked: Result<Asked, CloseReason>,
    outcome: &mut Outcome,
) -> Result<(Opened<TcpStream>, Behind), CloseReason> {
    let Asked {
        target,
        idle,
        behind,
    } = asked?;
    let mut opened = open(core, snapshot, peer, target, outcome).await?;
    let idle = opened.propose_idle(idle, &snapshot.limits);
    tls.send_message(&established(idle))
        .await
        .map_err(|_| CloseReason::RequestAborted)?;
    Ok((opened, behind))
}

/// Answers the client for the last time, and waits a moment for it to be read.
async fn tell(tls: &ServerStream, response: &[u8]) {
    let telling = async {
        if tls.send_message(response).await.is_ok() && tls.close().await.is_ok() {
            tls.linger().await;
        }
    };
    let _ = ring::timeout(LINGER, telling).await;
}

/// Tells the client, in the way that the reason's row says, and waits a moment for it to be read.
async fn refuse(tls: &ServerStream, reason: CloseReason) {
    if let Some(response) = refusal(reason) {
        tell(tls, &response).await;
        return;
    }
    let telling = async {
        if let Some(alert) = alert_of(reason) {
            tls.alert(alert).await;
        } else {
            tls.linger().await;
        }
    };
    let _ = ring::timeout(LINGER, telling).await;
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
