//! The whole life of a tunnel, from the accepted connection to its record:
//!
//! [`Accepted`] → [`PeerIdentity`] (the handshake) → `Grant` (authorize) → `Route` (route) → `Relay` → [`Outcome`].
//!
//! Here is what a session of HTTP/1.1 goes through, from top to bottom. Sessions of other kinds leave on the way: those of the
//! plain listener to [`plain`], those whose name chooses a service to [`named`], those of HTTP/2 to [`http2`]. A request
//! is granted and its server reached in `open`; `relay` moves the bytes.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use rustls::{HandshakeKind as Kind, ProtocolVersion};

use super::admission::Guest;
use super::asker::Asker;
use super::core::{Core, Snapshot};
use super::entrance::{self, AcceptedBy, Entrance, enter, is_open};
use super::http2;
use super::introduction::Arrival;
use super::named::{self, Chosen};
use super::open::{Opened, Peer, open};
use super::outcome::{Outcome, record};
use super::patience::{Patience, bounded, in_time};
use super::relay::Behind;
use super::request::{ConnectRequest, RequestError, RequestParser};
use super::response::{configuration, established, refusal};
use super::{plain, pvd};
use crate::config::{HostPort, ListenerKind};
use crate::limits::{CLIENT_GONE_AFTER, LINGER};
use crate::observe::{HandshakeKind, Stage, Subject, TlsVersion};
use crate::reason::CloseReason;
use crate::ring::{self, Either, RingBuf, TcpStream};
use crate::tls::{
    HandshakeError, HandshakeFailure, PeerIdentity, Received, ServerHandshake, ServerStream,
    StreamError, VerifiedChain, failure_of,
};

/// A connection whose first bytes, if any were read, are known.
struct Accepted {
    tls: ServerHandshake,
    /// What was received already.
    begun: Option<RingBuf>,
    /// What the session's name leads to.
    chosen: Option<Chosen>,
    subject: Subject,
    arrived: Arrived,
}

/// Where and when a connection came.
struct Arrived {
    /// The address that the app connected to, if a server wants to know.
    local: Option<SocketAddr>,
    at: Instant,
    /// How many changes (of a device, a CRL, the config) there were then. Of later ones a tunnel learns when it opens.
    changes: u64,
}

/// A completed handshake.
struct Shaken {
    arrival: Arrival,
    /// What came behind it.
    carry: Option<RingBuf>,
}

/// A request and what came behind it on the session.
struct Asked {
    target: HostPort,
    idle: Option<u32>,
    behind: Behind,
}

/// Serves one connection, accepted by this listener, to its end. It counts as a session at once, and not when it first
/// runs: what is accepted next is spread by that count.
pub fn serve(core: Rc<Core>, stream: TcpStream, by: AcceptedBy) -> impl Future<Output = ()> {
    let counted = Counted::new(core.clone());
    let patience = Patience::new(&core);
    serve_counted(core, stream, by, patience, counted)
}

async fn serve_counted(
    core: Rc<Core>,
    stream: TcpStream,
    by: AcceptedBy,
    mut patience: Patience,
    counted: Counted,
) {
    let snapshot = core.snapshot.borrow().clone();
    let changes = core.changes.get().count();
    let at = ring::now();
    // A client that is gone already has no address.
    let Ok(peer) = stream.peer_address() else {
        core.count(CloseReason::Unused);
        return;
    };
    // What the kernel refuses (it was checked with the config) is no reason to refuse the app.
    let _ = stream.set_options(&snapshot.limits.tcp);
    let local = snapshot.introduces().then(|| stream.local_address());
    let local = local.and_then(Result::ok);
    let entrance = if is_open(&by.settings, by.kind) {
        Entrance::direct(peer)
    } else {
        // In a box of its own, like all that few sessions do: it takes no room in the others.
        let entering = Box::pin(entered(&core, &stream, (&by, peer), &mut patience));
        match entering.await {
            Some(entrance) => entrance,
            None => return,
        }
    };
    if !entrance.speaks_for_others(&by.settings)
        && let Err(reason) = patience.guest.come_from(entrance.client.ip())
    {
        record(
            &core,
            &Outcome::of(subject_before(entrance.client).into()),
            reason,
        );
        return;
    }
    if by.kind == ListenerKind::Http {
        let session = plain::session(
            &core,
            (&snapshot, &by.settings),
            stream,
            entrance,
            changes,
            &mut patience,
            counted,
        );
        Box::pin(session).await;
        return;
    }
    let arrived = Arrived {
        local: entrance.destination.or(local),
        at,
        changes,
    };
    let accepted = accepted(&core, &snapshot, stream, entrance, arrived, &mut patience);
    if let Some(accepted) = accepted.await {
        session(&core, &snapshot, accepted, &mut patience, counted).await;
    }
}

/// What came in front of the session. `None`: there will be none, and that is recorded and told.
async fn entered(
    core: &Core,
    stream: &TcpStream,
    (by, peer): (&AcceptedBy, SocketAddr),
    patience: &mut Patience,
) -> Option<Entrance> {
    let entering = enter(stream, by, peer);
    let entered = in_time(core, patience, CloseReason::HandshakeTimeout, entering);
    let reason = match entered.await? {
        Ok(entrance) => return Some(entrance),
        Err(reason) => reason,
    };
    record(core, &Outcome::of(subject_before(peer).into()), reason);
    if !by.settings.trusts(peer.ip()) && patience.guest.come_from(peer.ip()).is_ok() {
        patience.guest.failed(reason);
    }
    let refusing = entrance::refuse(stream, by.kind, reason);
    patience.guest.linger(refusing).await;
    None
}

/// A connection to the TLS listener, before its handshake. Where names lead to services, its hello is read first. `None`:
/// it has ended, and that is recorded.
async fn accepted(
    core: &Core,
    snapshot: &Snapshot,
    stream: TcpStream,
    entrance: Entrance,
    arrived: Arrived,
    patience: &mut Patience,
) -> Option<Accepted> {
    let subject = subject_before(entrance.client);
    let (chosen, begun) = if snapshot.names.is_empty() {
        (None, entrance.begun)
    } else {
        let choosing = Box::pin(snapshot.names.choose(&stream, entrance.begun));
        let choosing = ring::map(choosing, Ok);
        match in_time(core, patience, CloseReason::HandshakeTimeout, choosing).await? {
            Ok(chosen) => chosen,
            Err(reason) => {
                record(core, &Outcome::of(subject.into()), reason);
                patience.guest.failed(reason);
                return None;
            }
        }
    };
    let config = match &chosen {
        Some(chosen) => &chosen.named.tls,
        None => &snapshot.tls,
    };
    Some(Accepted {
        tls: ServerHandshake::accepted(stream, config.clone()).ok()?,
        begun,
        chosen,
        subject,
        arrived,
    })
}

/// From the handshake to an open tunnel or a refusal. A refusal is recorded when it is decided: the client may take its
/// time to read of it. Nothing is recorded where the node ends before anything is decided.
async fn session(
    core: &Rc<Core>,
    snapshot: &Snapshot,
    accepted: Accepted,
    patience: &mut Patience,
    counted: Counted,
) {
    let Accepted {
        tls,
        begun,
        chosen,
        subject,
        arrived,
    } = accepted;
    let shaken = shaken(core, &tls, begun, &arrived, patience);
    let Shaken { arrival, carry } = match shaken.await {
        None => return,
        Some(Ok(shaken)) => shaken,
        Some(Err(reason)) => {
            record(core, &Outcome::of(subject.into()), reason);
            patience.guest.failed(reason);
            patience.guest.linger(tls.linger()).await;
            return;
        }
    };
    let chain = tls.verified_chain(&snapshot.verifier, SystemTime::now());
    let http2 = tls.is_http2();
    let Ok(tls) = tls.into_session() else {
        record(
            core,
            &Outcome::of(subject.into()),
            CloseReason::GatewayError,
        );
        return;
    };
    let peer = chain.map_err(|error| reason_of(failure_of(&error)));
    let peer =
        peer.and_then(|chain| identify(core, snapshot, &chain, arrival, &subject, arrived.changes));
    let peer = match peer {
        Ok(peer) => peer,
        Err(reason) => {
            record(core, &Outcome::of(subject.into()), reason);
            patience.guest.failed(reason);
            patience.guest.linger(refuse(&tls, reason)).await;
            return;
        }
    };
    patience.guest.leave();
    match chosen {
        // A task of its own: what the handshake needed is not kept for the life of the session.
        None if http2 => {
            let asker = Asker::of(peer);
            ring::spawn(http2::serve(core.clone(), tls, carry, asker, counted));
        }
        None => http1(core, snapshot, tls, peer, carry, patience, counted).await,
        Some(chosen) => {
            let session = named::session(core, snapshot, tls, peer, carry, chosen, counted);
            Box::pin(session).await;
        }
    }
}

/// The handshake, in the time that it has.
async fn shaken(
    core: &Core,
    tls: &ServerHandshake,
    begun: Option<RingBuf>,
    arrived: &Arrived,
    patience: &mut Patience,
) -> Option<Result<Shaken, CloseReason>> {
    let (deadline, guest) = patience.parts();
    let shaking = handshake(core, tls, begun, arrived, guest);
    bounded(
        core,
        (deadline, guest),
        CloseReason::HandshakeTimeout,
        shaking,
    )
    .await
}

/// The TLS handshake, with the check of the client's certificate.
async fn handshake(
    core: &Core,
    tls: &ServerHandshake,
    begun: Option<RingBuf>,
    arrived: &Arrived,
    guest: &Guest,
) -> Result<Shaken, CloseReason> {
    let carry = tls
        .complete(begun, || guest.permit())
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
    let took = ring::now().saturating_duration_since(arrived.at);
    metrics.record(Stage::Handshake, took);
    let arrival = Arrival {
        local: arrived.local,
        tls: Some(version),
        resumed,
    };
    Ok(Shaken { arrival, carry })
}

/// Who is at the other end.
pub(super) fn identify(
    core: &Core,
    snapshot: &Snapshot,
    chain: &VerifiedChain<'_>,
    arrival: Arrival,
    before: &Subject,
    changes: u64,
) -> Result<Peer, CloseReason> {
    let verifier = &snapshot.verifier;
    let identity = PeerIdentity::from_chain(chain, &snapshot.identity)
        .map_err(|_| CloseReason::IdentityMissing)?;
    let above = chain.issuers_good_until();
    let above = above.min(verifier.authorities_good_until());
    let good_until = if above < identity.good_until() {
        // Seldom: an issuer, or something that is no part of the path, ends before the certificate.
        let path = verifier.path_good_until(chain, SystemTime::now());
        path.map_err(|error| reason_of(failure_of(&error)))?
    } else {
        identity.good_until()
    };
    Ok(Peer {
        subject: Arc::new(subject_of(core, before, &identity)),
        good_until,
        identity,
        chain: core.keep_chain(chain),
        changes,
        arrival,
        service: None,
    })
}

/// The user is the one that the certificate names, or else the registry.
fn subject_of(core: &Core, before: &Subject, identity: &PeerIdentity) -> Subject {
    let registered = || {
        core.devices
            .read(|devices| devices.user(identity.device()).map(Box::from))
    };
    Subject {
        peer: before.peer,
        device: Some(identity.device().into()),
        user: identity.user().map(Box::from).or_else(registered),
        app: identity.app().map(Box::from),
        serial: Some(identity.serial().into()),
    }
}

/// HTTP/1.1: the session has one request, and becomes its tunnel.
async fn http1(
    core: &Rc<Core>,
    snapshot: &Snapshot,
    tls: ServerStream,
    peer: Peer,
    carry: Option<RingBuf>,
    patience: &mut Patience,
    counted: Counted,
) {
    let mut outcome = Outcome::of(peer.subject.clone());
    // Sessions of a device are counted before they ask for anything, as those of HTTP/2 are.
    let limit = snapshot.limits.sessions_per_device();
    let presence = core.quota.enter(peer.identity.device(), limit);
    if let Err(reason) = presence {
        record(core, &outcome, reason);
        return refuse(&tls, reason).await;
    }
    let asking = request(&tls, carry);
    let asked = in_time(core, patience, CloseReason::RequestTimeout, asking).await;
    let Some(asked) = asked else { return };
    let reason = match connect(core, snapshot, &tls, &peer, asked, &mut outcome).await {
        Ok((opened, behind)) => {
            opened.run(core.clone(), &peer, (tls, behind), counted);
            return;
        }
        Err(CloseReason::ConfigurationRead) => {
            let device = peer.identity.device();
            let state = core.devices.read(|devices| devices.state(device));
            match pvd::document(snapshot, &peer.identity, state, SystemTime::now()) {
                Ok(document) => {
                    core.count(CloseReason::ConfigurationRead);
                    tell(&tls, &configuration(&document)).await;
                    return;
                }
                Err(reason) => reason,
            }
        }
        Err(reason) => reason,
    };
    record(core, &outcome, reason);
    refuse(&tls, reason).await;
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
                    request = parser.push(piece).map_err(refused_request)?;
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
) -> Result<(Opened, Behind), CloseReason> {
    let Asked {
        target,
        idle,
        behind,
    } = asked?;
    let nothing_behind = behind.carry.is_none();
    let opening = open(core, snapshot, peer, target, outcome);
    let mut opened = match ring::race(opening, gone(tls, nothing_behind)).await {
        Either::Left(opened) => opened?,
        Either::Right(()) => return Err(CloseReason::RequestAborted),
    };
    let idle = opened.propose_idle(idle, &snapshot.limits);
    tls.send_message(&established(idle))
        .await
        .map_err(|_| CloseReason::RequestAborted)?;
    Ok((opened, behind))
}

/// Returns when the client has left while its tunnel is opened, so that nothing is looked up and dialled for nobody. Looks
/// only where that takes long. What came behind the request may hold the session's end in order, which is none.
async fn gone(tls: &ServerStream, nothing_behind: bool) {
    ring::sleep(CLIENT_GONE_AFTER).await;
    if !(nothing_behind && tls.is_cut().await) {
        std::future::pending::<()>().await;
    }
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
        if let Some(alert) = reason.alert() {
            tls.alert(alert).await;
        } else {
            tls.linger().await;
        }
    };
    let _ = ring::timeout(LINGER, telling).await;
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

/// What is known of a client before it has shown who it is.
pub(super) fn subject_before(peer: SocketAddr) -> Subject {
    Subject {
        peer,
        device: None,
        user: None,
        app: None,
        serial: None,
    }
}

/// What is wrong with a request.
pub(super) fn refused_request(error: RequestError) -> CloseReason {
    match error {
        RequestError::Malformed(_) => CloseReason::Malformed,
        RequestError::NotConnect => CloseReason::NotConnect,
        RequestError::TooLarge => CloseReason::HeaderTooLarge,
        RequestError::Configuration => CloseReason::ConfigurationRead,
    }
}

fn handshake_end(error: &HandshakeError) -> CloseReason {
    match error {
        HandshakeError::Tls(error) => reason_of(failure_of(error)),
        HandshakeError::Unused => CloseReason::Unused,
        HandshakeError::Io(_) | HandshakeError::Ended => CloseReason::HandshakeAborted,
    }
}

pub(super) fn reason_of(failure: HandshakeFailure) -> CloseReason {
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
