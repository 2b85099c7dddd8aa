//! HTTP/1.1 in a session of the TLS listener: it has one request, and becomes its tunnel.

use std::rc::Rc;

use super::patience::{Patience, in_time};
use super::request::{Parsed, Request, RequestError, RequestParser};
use super::response::{configuration, established, refusal};
use super::seam::{self, Front, TunnelTerms};
use crate::access::{Core, Outcome, Peer, Snapshot, record};
use crate::limits::{CLIENT_GONE_AFTER, LINGER};
use crate::reason::CloseReason;
use crate::ring::{self, RingBuf};
use crate::tls::{Received, ServerStream, StreamError};
use crate::tunnel::ReadAhead;

/// From the request to an open tunnel, an answer or a refusal.
pub(super) async fn session(
    core: &Rc<Core>,
    snapshot: &Snapshot,
    tls: ServerStream,
    peer: Peer,
    carry: Option<RingBuf>,
    patience: &mut Patience,
    counted: impl Sized + 'static,
) {
    let outcome = Outcome::of(peer.subject.clone());
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
    let (request, read_ahead) = match asked {
        Ok((request, read_ahead)) => (Ok(request), read_ahead),
        Err(reason) => (Err(reason), ReadAhead::default()),
    };
    let front = Session {
        tls,
        read_ahead,
        counted,
    };
    match request {
        Ok(request) => seam::serve(core, snapshot, &peer, request, front).await,
        Err(reason) => seam::refuse(core, &outcome, front, reason).await,
    }
}

/// The tunnel request, which may have come right behind the handshake, and what came behind it.
async fn request(
    tls: &ServerStream,
    mut carry: Option<RingBuf>,
) -> Result<(Request, ReadAhead), CloseReason> {
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
        let mut parsed: Option<Parsed> = None;
        for piece in pieces.iter() {
            match &mut parsed {
                Some(parsed) => parsed.early.extend_from_slice(piece),
                None => parsed = parser.push(piece).map_err(RequestError::reason)?,
            }
        }
        carry = pieces.into_rest();
        if let Some(Parsed { request, early }) = parsed {
            return Ok((request, ReadAhead { early, carry }));
        }
    }
}

/// A session that has asked.
struct Session<C> {
    tls: ServerStream,
    read_ahead: ReadAhead,
    counted: C,
}

impl<C: 'static> Front for Session<C> {
    type App = ServerStream;
    type Guards = C;

    /// Looks only where the opening takes long, so that nothing is looked up and dialled for
    /// nobody. What came behind the request may hold the session's end in order, which is none.
    async fn gone(&mut self) {
        ring::sleep(CLIENT_GONE_AFTER).await;
        if self.read_ahead.carry.is_some() || !self.tls.is_cut().await {
            std::future::pending::<()>().await;
        }
    }

    async fn accept(self, agreed: TunnelTerms) -> Option<(ServerStream, ReadAhead, C)> {
        let sent = self.tls.send_message(&established(agreed.idle)).await;
        sent.ok()?;
        Some((self.tls, self.read_ahead, self.counted))
    }

    async fn configure(self, document: String) {
        tell(&self.tls, &configuration(&document)).await;
    }

    async fn refuse(self, reason: CloseReason) {
        refuse(&self.tls, reason).await;
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
pub(super) async fn refuse(tls: &ServerStream, reason: CloseReason) {
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
