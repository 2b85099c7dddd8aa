//! The check of client certificates.
//!
//! Chain, validity and usage are webpki's work. Revocation is looked up in the shared index instead of in webpki, which
//! would verify and hash the whole CRL on each handshake.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::server::TlsError;
use crate::table::{Published, RevocationIndex, Status};

/// What a missing or outdated CRL means for a certificate that no list names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StalePolicy {
    /// Refused.
    Hard,
    /// Accepted for this long after the list has run out; refused where there is no list.
    Grace(Duration),
    /// Accepted.
    Soft,
}

/// How revocation is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RevocationPolicy {
    /// Whether it is checked at all.
    pub enabled: bool,
    /// What a missing or outdated list means.
    pub stale: StalePolicy,
}

/// Accepts the identity certificates of one profile.
#[derive(Debug)]
pub struct DeviceVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    revocation: Arc<Published<RevocationIndex>>,
    policy: RevocationPolicy,
}

impl DeviceVerifier {
    /// A verifier for certificates that chain to one of `group`.
    ///
    /// # Errors
    /// If a group certificate cannot be a trust anchor, or there is none.
    pub fn new(
        group: &[CertificateDer<'static>],
        revocation: Arc<Published<RevocationIndex>>,
        policy: RevocationPolicy,
    ) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in group {
            roots
                .add(certificate.clone())
                .map_err(TlsError::GroupCertificate)?;
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let chain = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| TlsError::GroupCertificates(error.to_string()))?;
        Ok(Self {
            chain,
            revocation,
            policy,
        })
    }

    /// The whole check again, for a session that is resumed: what was valid then may have expired or been revoked.
    ///
    /// # Errors
    /// As in a full handshake.
    pub fn recheck(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<(), Error> {
        let (leaf, intermediates) = chain.split_first().ok_or(Error::NoCertificatesPresented)?;
        let since = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        self.verify_client_cert(leaf, intermediates, UnixTime::since_unix_epoch(since))
            .map(|_| ())
    }

    fn check_revocation(
        &self,
        certificate: &CertificateDer<'_>,
        leaf: bool,
        now: u64,
    ) -> Result<(), Error> {
        let refuse = |error| Err(Error::InvalidCertificate(error));
        let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
            return refuse(CertificateError::BadEncoding);
        };
        let status = self
            .revocation
            .read(|index| index.status(parsed.issuer().as_raw(), parsed.raw_serial(), now));
        match (status, self.policy.stale) {
            (Status::Revoked, _) => refuse(CertificateError::Revoked),
            (Status::Good, _) | (_, StalePolicy::Soft) => Ok(()),
            // Of the chain above the leaf only what a list covers can be known; the leaf must be known.
            (Status::Unknown, _) if !leaf => Ok(()),
            (Status::Unknown, _) => refuse(CertificateError::UnknownRevocationStatus),
            (Status::Stale { since }, StalePolicy::Grace(grace))
                if now < since.saturating_add(grace.as_secs()) =>
            {
                Ok(())
            }
            (Status::Stale { .. }, _) => refuse(CertificateError::ExpiredRevocationList),
        }
    }
}

impl ClientCertVerifier for DeviceVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(leaf, intermediates, now)?;
        if self.policy.enabled {
            self.check_revocation(leaf, true, now.as_secs())?;
            for certificate in intermediates {
                self.check_revocation(certificate, false, now.as_secs())?;
            }
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
