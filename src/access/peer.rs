//! Who is at the other end: the identity of a verified chain, and what a session keeps of it.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use super::core::{Core, Snapshot};
use crate::observe::{Subject, TlsVersion};
use crate::reason::CloseReason;
use crate::tls::{HandshakeFailure, PeerIdentity, VerifiedChain, failure_of};

/// How a session came to the gateway.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Arrival {
    /// The address that the app connected to, where it is known.
    pub local: Option<SocketAddr>,
    /// The version of the TLS that ended here.
    pub tls: Option<TlsVersion>,
    /// True if the session was resumed: its certificate was presented before.
    pub resumed: bool,
}

/// Who asks for tunnels in a session, and what that rests on.
pub(crate) struct Peer {
    pub identity: PeerIdentity,
    pub subject: Arc<Subject>,
    /// The certificates that were presented, for later checks.
    pub chain: Rc<[Rc<[u8]>]>,
    /// The path that was verified is good until then, in seconds since 1970.
    pub good_until: u64,
    /// How many changes there were when they were checked.
    pub changes: u64,
    pub arrival: Arrival,
    /// The one service that the session may reach, by its index, where its name chooses one.
    pub service: Option<usize>,
}

/// Who is at the other end.
pub(crate) fn identify(
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
        path.map_err(|error| reason_of(&error))?
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

/// Returns what is known of a client before it has shown who it is.
pub(crate) fn subject_before(peer: SocketAddr) -> Subject {
    Subject {
        peer,
        device: None,
        user: None,
        app: None,
        serial: None,
    }
}

/// The reason of a refusal that rustls or the check of a certificate decides.
pub(crate) fn reason_of(error: &rustls::Error) -> CloseReason {
    match failure_of(error) {
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
