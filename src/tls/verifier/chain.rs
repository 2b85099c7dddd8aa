//! The proof that a client's certificates were found good.

use std::borrow::Cow;
use std::ops::Deref;
use std::time::SystemTime;

use rustls::{CommonState, Error, HandshakeKind};
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::DeviceVerifier;
use crate::tls::fields::expiry;
use crate::tls::rejected::Rejection;

/// A client's certificates, the end-entity certificate first, which a [`DeviceVerifier`] has
/// accepted.
///
/// Two things make one: a complete handshake in which they were presented, and
/// [`DeviceVerifier::recheck`]. A resumed handshake is no proof, since rustls asks no verifier
/// there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedChain<'c>(Cow<'c, [CertificateDer<'c>]>);

impl<'c> VerifiedChain<'c> {
    /// The certificates that a client has presented in this handshake, or in the one that is
    /// resumed: those are checked again, by `verifier`, at `now`.
    ///
    /// # Errors
    /// The handshake is not complete, or as [`DeviceVerifier::recheck`].
    pub(in crate::tls) fn of_handshake(
        connection: &CommonState,
        verifier: &DeviceVerifier,
        now: SystemTime,
    ) -> Result<Self, Box<Rejection>> {
        // Until its last message is there, a client has not proved that it holds the key.
        if connection.is_handshaking() {
            return Err(Error::HandshakeNotComplete.into());
        }
        let presented = connection.peer_certificates();
        let presented = presented.ok_or(Error::NoCertificatesPresented)?;
        if connection.handshake_kind() == Some(HandshakeKind::Resumed) {
            verifier.recheck(presented, now)?;
        }
        Ok(Self(Cow::Owned(presented.to_vec())))
    }

    /// For the verifier alone.
    pub(super) fn accepted(chain: &'c [CertificateDer<'_>]) -> Self {
        Self(Cow::Borrowed(chain))
    }

    /// The certificate of the client itself.
    #[must_use]
    pub fn end_entity(&self) -> &[u8] {
        self.first().map_or(&[], |certificate| certificate)
    }

    /// The last moment at which all certificates behind the first are valid, in unix seconds. They
    /// need not all be part of the path: where one ends before the first,
    /// [`DeviceVerifier::path_good_until`] says whether that counts.
    #[must_use]
    pub fn issuers_good_until(&self) -> u64 {
        let issuers = self.iter().skip(1);
        issuers
            .map(|issuer| good_until(issuer))
            .min()
            .unwrap_or(u64::MAX)
    }
}

impl<'c> Deref for VerifiedChain<'c> {
    type Target = [CertificateDer<'c>];

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// The last moment at which a certificate is valid, in unix seconds. One that cannot be read has
/// expired.
#[must_use]
pub fn good_until(certificate: &[u8]) -> u64 {
    X509Certificate::from_der(certificate).map_or(0, |(_, certificate)| expiry(&certificate))
}
