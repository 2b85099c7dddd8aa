//! Who asks for a tunnel: the one client of a session, or whom a front end names in each request.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderMap;
use rustls::pki_types::CertificateDer;

use super::entrance::Entrance;
use super::forwarded::{ForwardedError, certificates_in};
use crate::access::{Arrival, Core, Peer, Snapshot, Unidentified, identify, still_trusted};
use crate::observe::Subject;
use crate::reason::CloseReason;
use crate::ring::TcpStream;

/// Who asks in a session with many requests.
pub(super) enum Requester {
    /// The client whose certificate was presented in the handshake.
    One(Rc<Peer>),
    /// Each request says for whom it is.
    Each(Box<FrontEnd>, Arc<Subject>),
}

impl Requester {
    /// Always `peer`.
    pub fn of(peer: Peer) -> Self {
        Self::One(Rc::new(peer))
    }

    /// Whom `front_end` names.
    pub fn each(front_end: FrontEnd) -> Self {
        let subject = Arc::new(front_end.subject.clone());
        Self::Each(front_end.into(), subject)
    }

    /// The device whose session it is, where it is one's.
    pub fn device(&self) -> Option<&str> {
        match self {
            Self::One(peer) => Some(peer.identity.device()),
            Self::Each(..) => None,
        }
    }

    /// Whose session it is.
    pub fn subject(&self) -> &Arc<Subject> {
        match self {
            Self::One(peer) => &peer.subject,
            Self::Each(_, subject) => subject,
        }
    }

    /// Who asks in a request with these header fields, looked at by what is known now.
    ///
    /// # Errors
    /// Why nobody does. [`Refused::Session`]: nothing more can come of the session.
    pub fn of_request(&self, core: &Core, headers: &HeaderMap) -> Result<Rc<Peer>, Refused> {
        match self {
            Self::One(peer) => match still_trusted(core, peer) {
                Ok(()) => Ok(peer.clone()),
                Err(reason) => Err(Refused::Session(reason)),
            },
            Self::Each(front_end, _) => {
                let (changes, snapshot) =
                    (core.changes.get().count(), core.snapshot.borrow().clone());
                if !snapshot.listener.trusts(front_end.address) {
                    let subject = &front_end.subject;
                    let nobody = Unidentified::nobody(subject, CloseReason::ProxyUntrusted);
                    return Err(Refused::Request(nobody));
                }
                let values = |name: &str| -> Vec<&[u8]> {
                    let values = headers.get_all(name).iter();
                    values.map(http::HeaderValue::as_bytes).collect()
                };
                let place = snapshot.listener.client_identity;
                let presented = certificates_in(values, front_end.certificate(), place);
                let peer = front_end.peer(core, &snapshot, presented, changes);
                peer.map(Rc::new).map_err(Refused::Request)
            }
        }
    }
}

/// Why nobody asks in a request.
pub(super) enum Refused {
    /// The request is refused.
    Request(Box<Unidentified>),
    /// The session ends.
    Session(CloseReason),
}

/// The front end of a connection on the plain listener.
pub(super) struct FrontEnd {
    address: IpAddr,
    /// The session, before it is known who asks.
    subject: Subject,
    certificate: Option<Vec<u8>>,
    arrival: Arrival,
}

impl FrontEnd {
    /// At the other end of `stream`, with what came in front.
    pub fn new(stream: &TcpStream, entrance: Entrance, subject: Subject) -> Self {
        let local = || stream.local_address().ok();
        Self {
            address: entrance.peer,
            subject,
            certificate: entrance.certificate,
            arrival: Arrival {
                local: entrance.destination.or_else(local),
                ..Arrival::default()
            },
        }
    }

    /// The certificate in the connection's PROXY protocol header.
    pub fn certificate(&self) -> Option<&[u8]> {
        self.certificate.as_deref()
    }

    /// The client with the certificate that was `presented` in the place that counts. The front
    /// end's word is not enough: chain, validity, usage and revocation are checked here. `changes`:
    /// how many there were before.
    pub fn peer(
        &self,
        core: &Core,
        snapshot: &Snapshot,
        presented: Result<Vec<CertificateDer<'static>>, ForwardedError>,
        changes: u64,
    ) -> Result<Peer, Box<Unidentified>> {
        let before = &self.subject;
        let presented = presented.map_err(|error| {
            let reason = match error {
                ForwardedError::Missing => CloseReason::CertificateRequired,
                ForwardedError::Conflict => CloseReason::IdentityConflict,
                ForwardedError::Malformed(_) => CloseReason::CertificateInvalid,
            };
            Unidentified::nobody(before, reason)
        })?;
        let checked = snapshot.verifier.recheck(&presented, SystemTime::now());
        let chain = checked
            .map_err(|rejection| Unidentified::rejected(core, snapshot, before, &rejection))?;
        identify(core, snapshot, &chain, self.arrival, before, changes)
    }
}
