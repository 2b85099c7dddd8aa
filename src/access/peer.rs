//! Who is at the other end: the identity of a verified chain, and what a session keeps of it.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use super::core::{Core, Snapshot};
use crate::observe::{Subject, TlsSession};
use crate::reason::CloseReason;
use crate::tls::{
    ClaimedIdentity, HandshakeFailure, PeerIdentity, Rejection, VerifiedChain, distinguished_name,
    failure_of,
};

/// How a session came to the gateway.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Arrival {
    /// The address that the app connected to, where it is known.
    pub local: Option<SocketAddr>,
    /// The TLS that ended here.
    pub tls: Option<TlsSession>,
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
) -> Result<Peer, Box<Unidentified>> {
    let verifier = &snapshot.verifier;
    let identity = PeerIdentity::from_chain(chain, &snapshot.identity).map_err(|error| {
        let mut subject = claimed(core, snapshot, before, chain.end_entity());
        subject.verified = true;
        Box::new(Unidentified {
            reason: CloseReason::IdentityMissing,
            subject,
            detail: Some(error.to_string().into()),
        })
    })?;
    let above = chain.issuers_good_until();
    let above = above.min(verifier.authorities_good_until());
    let good_until = if above < identity.good_until() {
        // Seldom: an issuer, or something that is no part of the path, ends before the certificate.
        let path = verifier.path_good_until(chain, SystemTime::now());
        path.map_err(|error| {
            Box::new(Unidentified {
                reason: reason_of(&error),
                subject: claimed(core, snapshot, before, chain.end_entity()),
                detail: None,
            })
        })?
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
        device: Some(identity.device().into()),
        user: identity.user().map(Box::from).or_else(registered),
        app: identity.app().map(Box::from),
        serial: Some(identity.serial().into()),
        issuer: Some(core.words.share(&distinguished_name(identity.issuer_der()))),
        verified: true,
        ..before.clone()
    }
}

/// A client whose certificate is not accepted, or names nobody.
pub(crate) struct Unidentified {
    pub reason: CloseReason,
    /// With the names of the certificate, as far as they can be read.
    pub subject: Subject,
    pub detail: Option<Box<str>>,
}

impl Unidentified {
    /// Of a client that has presented no certificate that could be read.
    pub fn nobody(before: &Subject, reason: CloseReason) -> Box<Self> {
        Box::new(Self {
            reason,
            subject: before.clone(),
            detail: None,
        })
    }

    /// Of a certificate that was not accepted.
    pub fn rejected(
        core: &Core,
        snapshot: &Snapshot,
        before: &Subject,
        rejection: &Rejection,
    ) -> Box<Self> {
        Box::new(Self {
            reason: reason_of(&rejection.error),
            subject: claimed(core, snapshot, before, &rejection.certificate),
            detail: Some(rejection.detail.clone()),
        })
    }
}

/// The subject that a certificate claims, as far as it can be read.
fn claimed(core: &Core, snapshot: &Snapshot, before: &Subject, certificate: &[u8]) -> Subject {
    let claimed = ClaimedIdentity::read(certificate, &snapshot.identity);
    Subject {
        device: claimed.device.map(Into::into),
        user: claimed.user.map(Into::into),
        app: claimed.app.map(Into::into),
        serial: claimed.serial.map(Into::into),
        issuer: claimed.issuer.map(|issuer| core.words.share(&issuer)),
        ..before.clone()
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
