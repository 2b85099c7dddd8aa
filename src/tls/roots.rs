//! Which certificates of servers are accepted: those below a root, and those that the file of roots
//! names themselves.
//!
//! A certificate that is in the file and is not an authority's, or has signed itself, is a *pin*: a
//! server that shows the very same is accepted while it is valid, for the names that it has.
//! `openssl req -x509` makes such certificates, and webpki, which takes no authority's certificate
//! from a server, would refuse each of them. A pin that is no authority vouches for no other.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::error::TlsError;
use crate::certs::{self, policy};

/// Roots for servers' certificates.
#[derive(Debug)]
pub(super) struct Roots {
    store: Arc<RootCertStore>,
    pins: Arc<[CertificateDer<'static>]>,
}

impl Roots {
    /// Those of a file.
    ///
    /// # Errors
    /// [`TlsError`], which names the file.
    pub(super) fn of(file: &Path) -> Result<Self, TlsError> {
        let mut store = RootCertStore::empty();
        let mut pins = Vec::new();
        for (certificate, position) in certs::read_certificates(file)?.into_iter().zip(1..) {
            let kind = policy::root_kind(&certificate);
            if kind.is_pin {
                pins.push(certificate.clone());
            }
            if kind.is_authority {
                store.add(certificate).map_err(|why| TlsError::Root {
                    position,
                    file: file.to_owned(),
                    why,
                })?;
            }
        }
        Ok(Self {
            store: Arc::new(store),
            pins: pins.into(),
        })
    }

    /// Those of the system that can be read: a few that cannot are no reason to trust none.
    ///
    /// # Errors
    /// [`TlsError::NoSystemRoots`].
    pub(super) fn of_system() -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        let (used, _) = roots.add_parsable_certificates(found.certs);
        if used > 0 {
            return Ok(Self {
                store: Arc::new(roots),
                pins: Arc::default(),
            });
        }
        let why = found.errors.first();
        let why = why.map_or("none found".to_owned(), ToString::to_string);
        Err(TlsError::NoSystemRoots(why))
    }

    /// Returns what checks servers' certificates.
    ///
    /// # Errors
    /// rustls's.
    pub(super) fn verifier(&self, provider: &Arc<CryptoProvider>) -> Result<ServerVerifier, Error> {
        let below_roots = match self.store.is_empty() {
            true => None,
            false => Some(
                WebPkiServerVerifier::builder_with_provider(self.store.clone(), provider.clone())
                    .build()
                    .map_err(|error| Error::General(error.to_string()))?,
            ),
        };
        Ok(ServerVerifier {
            below_roots,
            pins: self.pins.clone(),
            algorithms: provider.signature_verification_algorithms,
        })
    }
}

/// Checks servers' certificates.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    /// `None` where there are pins only.
    below_roots: Option<Arc<WebPkiServerVerifier>>,
    pins: Arc<[CertificateDer<'static>]>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// A pin: its dates and its names.
fn check_pin(
    certificate: &CertificateDer<'_>,
    name: &ServerName<'_>,
    now: UnixTime,
) -> Result<(), CertificateError> {
    let read = webpki::EndEntityCert::try_from(certificate);
    let end = read.map_err(|_| CertificateError::BadEncoding)?;
    let term = certs::Term::of_all(std::slice::from_ref(certificate));
    if now.as_secs() < term.not_before {
        return Err(CertificateError::NotValidYet);
    }
    if now.as_secs() > term.not_after {
        return Err(CertificateError::Expired);
    }
    end.verify_is_valid_for_subject_name(name)
        .map_err(|_| CertificateError::NotValidForName)
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.pins.iter().any(|pin| pin == end_entity) {
            check_pin(end_entity, server_name, now)?;
            return Ok(ServerCertVerified::assertion());
        }
        let Some(below_roots) = &self.below_roots else {
            return Err(CertificateError::UnknownIssuer.into());
        };
        below_roots.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
