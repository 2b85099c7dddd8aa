//! The whole life of a tunnel, from the accepted connection to its record:
//!
//! [`Accepted`] → `VerifiedChain` (the handshake) → `Peer` (identify) → `Grant` (authorize) →
//! `Route` (route) → `Relay` → [`Outcome`].
//!
//! Here is what comes before a session has asked for anything. From there each kind of session has
//! a front end: [`http1`], [`http2`], [`sni`] for those whose name chooses a service, and [`plain`]
//! for the plain listener, which is left to earlier. They read requests; `seam` serves each. It is
//! granted and its server reached in `tunnel::open`; the relay moves the bytes.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Instant, SystemTime};

use rustls::{HandshakeKind as Kind, ProtocolVersion};

use super::entrance::{self, AcceptedBy, Entrance, enter, is_open};
use super::patience::{Patience, bounded, in_time};
use super::requester::Requester;
use super::sni::{self, SniTarget};
use super::{http1, http2, plain};
use crate::access::{
    Arrival, Core, GuestGuard, Outcome, Snapshot, Unidentified, identify, reason_of, record,
};
use crate::config::ListenerKind;
use crate::observe::{HandshakeKind, Protocol, Stage, Subject, TlsSession, TlsVersion};
use crate::reason::CloseReason;
use crate::ring::{self, RingBuf, TcpStream};
use crate::tls::{HandshakeError, ServerHandshake};

/// A connection whose first bytes, if any were read, are known.
struct Accepted {
    tls: ServerHandshake,
    /// Data that has been received already.
    begun: Option<RingBuf>,
    /// Service of the session's name.
    chosen: Option<SniTarget>,
    subject: Subject,
    arrived: Arrived,
}

/// Local address, time and count of changes when a connection arrived.
struct Arrived {
    /// The address that the app connected to, if a server wants to know.
    local: Option<SocketAddr>,
    at: Instant,
    /// How many changes (of a device, a CRL, the config) there were then. Of later ones a tunnel
    /// learns when it opens.
    changes: u64,
}

/// A completed handshake.
struct Established {
    arrival: Arrival,
    /// Data that was received after it.
    carry: Option<RingBuf>,
}

/// Serves one connection, accepted by this listener, to its end. It counts as a session at once,
/// and not when it first runs: what is accepted next is spread by that count.
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
            &Outcome::of(Subject::of(entrance.client).into()),
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

/// Handles the bytes before the session. `None`: there will be none, and that is recorded and told.
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
    record(core, &Outcome::of(Subject::of(peer).into()), reason);
    if !by.settings.trusts(peer.ip()) && patience.guest.come_from(peer.ip()).is_ok() {
        patience.guest.failed(reason);
    }
    let refusing = entrance::refuse(stream, by.kind, reason);
    patience.guest.linger(refusing).await;
    None
}

/// A connection to the TLS listener, before its handshake. Where names lead to services, its hello
/// is read first. `None`: it has ended, and that is recorded.
async fn accepted(
    core: &Core,
    snapshot: &Snapshot,
    stream: TcpStream,
    entrance: Entrance,
    arrived: Arrived,
    patience: &mut Patience,
) -> Option<Accepted> {
    let subject = Subject::of(entrance.client);
    let (chosen, begun) = if snapshot.names.is_empty() {
        (None, entrance.begun)
    } else {
        let choosing = Box::pin(sni::choose(&snapshot.names, &stream, entrance.begun));
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

/// From the handshake to an open tunnel or a refusal. A refusal is recorded when it is decided: the
/// client may take its time to read of it. Nothing is recorded where the node ends before anything
/// is decided.
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
        mut subject,
        arrived,
    } = accepted;
    let established = established(core, &tls, begun, &arrived, patience).await;
    let notes = tls.take_notes();
    let name = notes.server_name.as_deref();
    subject.server_name = name.map(|name| core.words.share(name));
    subject.session = Some(core.next_session());
    let Established { arrival, carry } = match established {
        None => return,
        Some(Ok(established)) => established,
        Some(Err(reason)) => {
            let refused = match notes.rejected {
                Some(rejection) => Unidentified::rejected(core, snapshot, &subject, &rejection),
                None => Unidentified::nobody(&subject, reason),
            };
            return refuse(core, refused, patience, tls.linger()).await;
        }
    };
    let chain = tls.verified_chain(&snapshot.verifier, SystemTime::now());
    let http2 = tls.is_http2();
    subject.tls = arrival.tls;
    subject.handshake = Some(ring::now().saturating_duration_since(arrived.at));
    subject.protocol = Some(match (&chosen, http2) {
        (Some(_), _) => Protocol::Sni,
        (None, true) => Protocol::Http2,
        (None, false) => Protocol::Http1,
    });
    let Ok(tls) = tls.into_session() else {
        let outcome = Outcome::of(subject.into());
        return record(core, &outcome, CloseReason::GatewayError);
    };
    let peer = match chain {
        Ok(chain) => identify(core, snapshot, &chain, arrival, &subject, arrived.changes),
        Err(rejection) => Err(Unidentified::rejected(core, snapshot, &subject, &rejection)),
    };
    let peer = match peer {
        Ok(peer) => peer,
        Err(refused) => {
            let telling = http1::refuse(&tls, refused.reason);
            return refuse(core, refused, patience, telling).await;
        }
    };
    patience.guest.leave();
    match chosen {
        // A task of its own: what the handshake needed is not kept for the life of the session.
        None if http2 => {
            let requester = Requester::of(peer);
            ring::spawn(http2::serve(core.clone(), tls, carry, requester, counted));
        }
        None => http1::session(core, snapshot, tls, peer, carry, patience, counted).await,
        Some(chosen) => {
            let session = sni::session(core, snapshot, tls, peer, carry, chosen, counted);
            Box::pin(session).await;
        }
    }
}

/// Records a client whose certificate is not accepted, and tells it.
async fn refuse(
    core: &Core,
    refused: Box<Unidentified>,
    patience: &Patience,
    telling: impl Future<Output = ()>,
) {
    let reason = refused.reason;
    record(core, &Outcome::refused(*refused), reason);
    patience.guest.failed(reason);
    patience.guest.linger(telling).await;
}

/// The handshake, in the time that it has.
async fn established(
    core: &Core,
    tls: &ServerHandshake,
    begun: Option<RingBuf>,
    arrived: &Arrived,
    patience: &mut Patience,
) -> Option<Result<Established, CloseReason>> {
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
    guest: &GuestGuard,
) -> Result<Established, CloseReason> {
    let carry = tls
        .complete(begun, || guest.permit())
        .await
        .map_err(|error| handshake_end(&error))?;
    let Some((version, kind)) = tls.negotiated() else {
        return Err(CloseReason::GatewayError);
    };
    let (suite, group) = tls.suite_and_group();
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
        tls: Some(TlsSession {
            version,
            suite,
            group,
            resumed,
        }),
    };
    Ok(Established { arrival, carry })
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

fn handshake_end(error: &HandshakeError) -> CloseReason {
    match error {
        HandshakeError::Tls(error) => reason_of(error),
        HandshakeError::Unused => CloseReason::Unused,
        HandshakeError::Io(_) | HandshakeError::Ended => CloseReason::HandshakeAborted,
    }
}
