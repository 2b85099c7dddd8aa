//! Verification of a client's certificate: chain, validity, usage and revocation.
//!
//! webpki builds and checks the path to a group certificate; its own CRL check is not used, because
//! it verifies and searches the whole list again for each certificate. Instead each certificate of
//! the path is looked up in the published [`RevocationIndex`], with the key that signed it. rustls
//! does not ask a verifier about a *resumed* session (it takes the chain out of the ticket), so
//! that a [`VerifiedChain`] of one is made by [`DeviceVerifier::recheck`] alone.
//!
//! What webpki leaves out is [`certs::policy`](crate::certs::policy): key usages, and what a group
//! certificate bounds. A path that breaks it is passed over for another.
//!
//! A path that holds a revoked certificate is refused even if another path might exist: webpki
//! stops at the first.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerMisbehaved,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

use super::crl::{CertificateSubject, PointsSeen, moment};
use super::error::TlsError;
use super::failure::rustls_error;
use super::fields::{issuer_and_serial, public_key};
use super::notes;
use super::rejected::{Presented, Rejection};
use super::signatures::remembering;
use super::standing::Standing;
use super::text::{quoted, which};
use crate::certs::group::acceptable_names;
use crate::certs::policy::{Authority, PathFault, may_authenticate, may_issue};
use crate::limits::PRESENTED_MAX;
use crate::table::{Published, RevocationIndex, Status};

mod chain;

pub use chain::{VerifiedChain, good_until};

/// Policy for a missing or stale CRL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StalePolicy {
    /// Refuse: no status, no session.
    Hard,
    /// Accept a list for so long after its `nextUpdate`; refuse afterwards, and refuse if there is
    /// none.
    Grace(Duration),
    /// Accept. What a list revokes, stale or not, stays revoked.
    Soft,
}

/// How revocation is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RevocationPolicy {
    /// True if it is checked at all.
    pub enabled: bool,
    /// Policy for a missing or stale CRL.
    pub stale: StalePolicy,
}

/// Verifies client certificates against a profile's group certificates and the published revocation
/// index.
///
/// One for all cores: it is never written after it is made.
pub struct DeviceVerifier {
    anchors: Vec<TrustAnchor<'static>>,
    /// Limits of each anchor for its paths.
    authorities: Vec<Authority>,
    /// Status of each anchor, in their order.
    standing: Standing,
    /// The anchors' names, sent in the request for a certificate so that a client can choose. None
    /// where they are too many.
    hints: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
    policy: RevocationPolicy,
    index: Arc<Published<RevocationIndex>>,
    points: Option<Arc<PointsSeen>>,
}

impl DeviceVerifier {
    /// Prepares the check against `group`, the group certificates. An intermediate CA may be one:
    /// webpki ends a path at it then.
    ///
    /// # Errors
    /// If there is no group certificate or one may not issue certificates of devices.
    pub fn new(
        group: &[CertificateDer<'static>],
        index: Arc<Published<RevocationIndex>>,
        policy: RevocationPolicy,
    ) -> Result<Self, TlsError> {
        if group.is_empty() {
            return Err(TlsError::NoGroupCertificate);
        }
        let mut anchors = Vec::with_capacity(group.len());
        let mut authorities = Vec::with_capacity(group.len());
        for (at, certificate) in group.iter().enumerate() {
            let refused = |why| TlsError::GroupCertificate {
                position: at + 1,
                why,
            };
            authorities.push(Authority::new(certificate).map_err(refused)?);
            let anchor = webpki::anchor_from_trusted_cert(certificate)
                .map_err(|_| refused(PathFault::Unreadable))?;
            anchors.push(anchor.to_owned());
        }
        Ok(DeviceVerifier {
            standing: Standing::of(group),
            hints: acceptable_names(group)
                .unwrap_or_default()
                .into_iter()
                .map(DistinguishedName::from)
                .collect(),
            anchors,
            authorities,
            algorithms: remembering(),
            policy,
            index,
            points: None,
        })
    }

    /// Refuses everybody: there is no profile whose devices could come.
    #[must_use]
    pub fn of_nobody(index: Arc<Published<RevocationIndex>>) -> Self {
        DeviceVerifier {
            anchors: Vec::new(),
            authorities: Vec::new(),
            standing: Standing::default(),
            hints: Vec::new(),
            algorithms: remembering(),
            policy: RevocationPolicy {
                enabled: false,
                stale: StalePolicy::Hard,
            },
            index,
            points: None,
        }
    }

    /// Returns whether it refuses everybody.
    #[must_use]
    pub fn is_of_nobody(&self) -> bool {
        self.anchors.is_empty()
    }

    /// Notes the distribution points of the certificates that are presented, so that their lists
    /// can be fetched.
    #[must_use]
    pub fn noting(mut self, points: Arc<PointsSeen>) -> Self {
        self.points = Some(points);
        self
    }

    /// Runs the complete check again on the chain of a resumed session or an open tunnel, the
    /// end-entity certificate first. Only the proof that the client holds the key is not repeated.
    ///
    /// # Errors
    /// As in a handshake; [`failure_of`](super::failure_of) gives the reason of its error.
    pub fn recheck<'c>(
        &self,
        chain: &'c [CertificateDer<'_>],
        now: SystemTime,
    ) -> Result<VerifiedChain<'c>, Box<Rejection>> {
        let (end_entity, intermediates) =
            chain.split_first().ok_or(Error::NoCertificatesPresented)?;
        self.check(end_entity, intermediates, unix_time(now))?;
        Ok(VerifiedChain::accepted(chain))
    }

    /// The last moment at which the path that this chain is accepted for is valid, in unix seconds:
    /// what is presented beside it does not count, the group certificate at its end does.
    ///
    /// # Errors
    /// There is no path at `now`.
    pub fn path_good_until(
        &self,
        chain: &[CertificateDer<'_>],
        now: SystemTime,
    ) -> Result<u64, Error> {
        let (end_entity, intermediates) =
            chain.split_first().ok_or(Error::NoCertificatesPresented)?;
        let certificate = EndEntityCert::try_from(end_entity).map_err(rustls_error)?;
        let path = self.path(&certificate, intermediates, unix_time(now));
        let path = path.map_err(Fault::into_error)?;
        let above = path.intermediate_certificates();
        Ok(above
            .map(|certificate| good_until(&certificate.der()))
            .chain(self.end_of(&path).map(Authority::not_after))
            .fold(good_until(end_entity), u64::min))
    }

    /// The last moment at which all group certificates are valid, in unix seconds.
    pub fn authorities_good_until(&self) -> u64 {
        let ends = self.authorities.iter().map(Authority::not_after);
        ends.min().unwrap_or(u64::MAX)
    }

    /// Returns whether a list holds a certificate of the chain or any group certificate. Cheaper
    /// than [`recheck`](Self::recheck), and no verdict: what a list holds need not be part of the
    /// path.
    pub fn is_any_revoked<'c>(&self, mut chain: impl Iterator<Item = &'c [u8]>) -> bool {
        if !self.policy.enabled {
            return false;
        }
        self.index.read(|index| {
            let revoked = |certificate: &[u8]| {
                issuer_and_serial(certificate)
                    .is_some_and(|(issuer, serial)| index.is_revoked(issuer, serial))
            };
            chain.any(revoked) || self.standing.is_any_listed(index)
        })
    }

    /// Returns whether a chain that `other` accepts is accepted here too, as far as group
    /// certificates and the policy decide.
    pub fn has_trust_of(&self, other: &DeviceVerifier) -> bool {
        self.policy == other.policy
            && self.anchors == other.anchors
            && self.authorities == other.authorities
            && self.standing == other.standing
    }

    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Box<Rejection>> {
        let examined = self.examine(end_entity, intermediates, now);
        examined.map_err(|fault| self.rejection(fault, end_entity, intermediates))
    }

    #[cold]
    fn rejection(
        &self,
        fault: Fault,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Box<Rejection> {
        let authorities: Vec<&[u8]> = self.standing.subjects().collect();
        let presented = Presented {
            end_entity,
            intermediates,
            authorities: &authorities,
        };
        let cause = match &fault {
            Fault::Path(error) => presented.cause(error),
            Fault::TooMany => Some(format!(
                "{} certificates were presented beside the client's own, and at most {PRESENTED_MAX} are looked at",
                intermediates.len()
            )),
            Fault::Purpose => presented.purpose(),
            Fault::Status(_, cause) => Some(cause.clone()),
        };
        Rejection::new(fault.into_error(), end_entity, cause)
    }

    fn examine(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Fault> {
        let certificate = EndEntityCert::try_from(end_entity).map_err(Fault::Path)?;
        let path = self.path(&certificate, intermediates, now)?;
        may_authenticate(end_entity).map_err(|_| Fault::Purpose)?;
        if let Some(points) = &self.points {
            points.note(end_entity);
            path.intermediate_certificates()
                .for_each(|certificate| points.note(&certificate.der()));
        }
        if self.policy.enabled {
            self.index
                .read(|index| self.check_revocation(index, end_entity, &path, now.as_secs()))?;
        }
        Ok(())
    }

    /// webpki's path from the certificate to a group certificate. Its search goes through all
    /// orders of what is presented, and checks up to a hundred signatures: so much of a core's time
    /// is for few certificates only.
    fn path<'p>(
        &'p self,
        certificate: &'p EndEntityCert<'p>,
        intermediates: &'p [CertificateDer<'p>],
        now: UnixTime,
    ) -> Result<VerifiedPath<'p>, Fault> {
        if intermediates.len() > PRESENTED_MAX {
            return Err(Fault::TooMany);
        }
        let path = certificate.verify_for_usage(
            self.algorithms.all,
            &self.anchors,
            intermediates,
            now,
            KeyUsage::client_auth(),
            None,
            Some(&|path| self.admits(path, now)),
        );
        path.map_err(Fault::Path)
    }

    /// The group certificate that a path ends at.
    fn end_of(&self, path: &VerifiedPath<'_>) -> Option<&Authority> {
        let mut known = self.anchors.iter().zip(&self.authorities);
        let end = known.find(|(anchor, _)| std::ptr::eq(*anchor, path.anchor()));
        end.map(|(_, authority)| authority)
    }

    /// Returns whether a path that webpki has found keeps to what it does not look at. In webpki's
    /// words, so that it goes on to look for another and gives the most telling fault of all.
    fn admits(&self, path: &VerifiedPath<'_>, now: UnixTime) -> Result<(), webpki::Error> {
        let mut below = 0;
        for issuer in path.intermediate_certificates() {
            may_issue(&issuer.der()).map_err(|fault| of_fault(fault, now))?;
            // One that has issued itself does not count (RFC 5280, section 4.2.1.9).
            below += usize::from(issuer.issuer() != issuer.subject());
        }
        let authority = self.end_of(path).ok_or(webpki::Error::UnknownIssuer)?;
        let admitted = authority.admits(below, now.as_secs());
        admitted.map_err(|fault| of_fault(fault, now))
    }

    fn check_revocation(
        &self,
        index: &RevocationIndex,
        end_entity: &CertificateDer<'_>,
        path: &VerifiedPath<'_>,
        now: u64,
    ) -> Result<(), Fault> {
        let mut certificate = CertificateDer::from(&**end_entity);
        for issuer in path.intermediate_certificates() {
            let issuer = issuer.der();
            let key = public_key(&issuer).ok_or(Fault::Path(webpki::Error::BadDer))?;
            self.check_status(index, &certificate, key, now)?;
            certificate = issuer;
        }
        let anchor = path.anchor();
        self.check_status(index, &certificate, &anchor.subject_public_key_info, now)?;
        let places = self.anchors.iter().enumerate().filter(|(_, other)| {
            other.subject == anchor.subject
                && other.subject_public_key_info == anchor.subject_public_key_info
        });
        if self.standing.are_revoked(index, places.map(|(at, _)| at)) {
            let name = self.standing.subject_of(anchor.subject.as_ref());
            let cause = format!("the group certificate {} is revoked", quoted(name));
            return Err(Fault::Status(CertificateError::Revoked, cause));
        }
        Ok(())
    }

    /// Looks up one certificate of the path, which `key` has signed, in the lists.
    fn check_status(
        &self,
        index: &RevocationIndex,
        certificate: &[u8],
        key: &[u8],
        now: u64,
    ) -> Result<(), Fault> {
        let (issuer, serial) =
            issuer_and_serial(certificate).ok_or(Fault::Path(webpki::Error::BadDer))?;
        let subject = CertificateSubject(certificate);
        let status = index.status_of(issuer, key, serial, now, &subject);
        let (error, cause) = match (status, self.policy.stale) {
            (Status::Good, _) => return Ok(()),
            (Status::Revoked, _) => (
                CertificateError::Revoked,
                format!(
                    "{} is in the revocation list of {}",
                    which(certificate),
                    quoted(issuer)
                ),
            ),
            (Status::Unknown | Status::Stale { .. }, StalePolicy::Soft) => return Ok(()),
            (Status::Stale { since }, StalePolicy::Grace(grace))
                if now < since.saturating_add(grace.as_secs()) =>
            {
                return Ok(());
            }
            (Status::Unknown, _) => (
                CertificateError::UnknownRevocationStatus,
                format!(
                    "there is no revocation list by the key of {} that speaks for {}",
                    quoted(issuer),
                    which(certificate)
                ),
            ),
            (Status::Stale { since }, _) => (
                CertificateError::ExpiredRevocationList,
                format!(
                    "the revocation list of {} ended at {}",
                    quoted(issuer),
                    moment(since)
                ),
            ),
        };
        Err(Fault::Status(error, cause))
    }
}

/// Why a chain is not accepted.
enum Fault {
    /// webpki finds no path.
    Path(webpki::Error),
    /// More certificates than are looked at.
    TooMany,
    /// The certificate is not for clients.
    Purpose,
    /// Status by the lists, or the lack of one, with the cause.
    Status(CertificateError, String),
}

impl Fault {
    fn into_error(self) -> Error {
        match self {
            Self::Path(error) => rustls_error(error),
            Self::TooMany => CertificateError::BadEncoding.into(),
            Self::Purpose => CertificateError::InvalidPurpose.into(),
            Self::Status(error, _) => error.into(),
        }
    }
}

/// Notes a certificate whose key the client has not proved to hold.
fn unproved(error: Error, certificate: &CertificateDer<'_>) -> Error {
    let cause = "the client has not proved that it holds the certificate's key";
    notes::rejected(Rejection::new(
        error.clone(),
        certificate,
        Some(cause.to_owned()),
    ));
    error
}

/// A clock before 1970 finds every certificate not valid yet.
fn unix_time(now: SystemTime) -> UnixTime {
    let since = now.duration_since(SystemTime::UNIX_EPOCH);
    UnixTime::since_unix_epoch(since.unwrap_or_default())
}

/// A fault of a path in webpki's words.
fn of_fault(fault: PathFault, time: UnixTime) -> webpki::Error {
    let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    match fault {
        PathFault::Expired(end) => webpki::Error::CertExpired {
            time,
            not_after: at(end),
        },
        PathFault::NotYetValid(begin) => webpki::Error::CertNotValidYet {
            time,
            not_before: at(begin),
        },
        PathFault::PathLength => webpki::Error::PathLenConstraintViolated,
        PathFault::Unreadable => webpki::Error::BadDer,
        PathFault::NotCa
        | PathFault::Version1
        | PathFault::NoCertSign
        | PathFault::NotForClients
        | PathFault::NoSignature => webpki::Error::EndEntityUsedAsCa,
    }
}

/// In TLS 1.3 a scheme names the curve too (RFC 8446, section 4.2.3). A key of another one is no
/// bad signature, for which rustls takes it, but a parameter that does not go with the certificate
/// (section 6.2: illegal_parameter).
fn wrong_scheme(error: Error) -> Error {
    match error {
        Error::InvalidCertificate(
            CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. },
        ) => PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into(),
        error => error,
    }
}

impl ClientCertVerifier for DeviceVerifier {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        true
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match self.check(end_entity, intermediates, now) {
            Ok(()) => Ok(ClientCertVerified::assertion()),
            Err(rejection) => {
                let error = rejection.error.clone();
                notes::rejected(rejection);
                Err(error)
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
            .map_err(|error| unproved(error, certificate))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
            .map_err(|error| unproved(wrong_scheme(error), certificate))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl fmt::Debug for DeviceVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceVerifier")
            .field("anchors", &self.anchors.len())
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}
