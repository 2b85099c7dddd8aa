//! A handshake that goes on whatever the server's certificate is, and notes what was wrong with it.
//!
//! Only for finding out what a server is like: not a byte may be sent on such a session.

use std::sync::{Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};

use super::roots::ServerVerifier;
use super::words::words;

/// Properties that a server has shown.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Its certificate, and those that came with it.
    pub chain: Vec<CertificateDer<'static>>,
    /// Why its chain does not lead to a root, or is not valid.
    pub chain_fault: Option<String>,
    /// True if the certificate is for the name that is asked for.
    pub fits_name: bool,
}

/// Notes what a server shows, and accepts it.
#[derive(Debug)]
pub struct RecordingVerifier {
    judge: ServerVerifier,
    shown: Mutex<Option<Shown>>,
}

impl RecordingVerifier {
    /// `judge` says what would be accepted.
    pub(super) fn new(judge: ServerVerifier) -> Self {
        Self {
            judge,
            shown: Mutex::default(),
        }
    }

    /// Returns what the server has shown, if it came to that.
    pub fn shown(&self) -> Option<Shown> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Shown>> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ServerCertVerifier for RecordingVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let judged = self.judge.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        let chain_fault = match judged {
            Ok(_) => None,
            // The name is looked at last.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => None,
            Err(error) => Some(words(&error)),
        };
        let end = webpki::EndEntityCert::try_from(end_entity);
        let fits_name =
            end.is_ok_and(|end| end.verify_is_valid_for_subject_name(server_name).is_ok());
        let chain = std::iter::once(end_entity).chain(intermediates);
        *self.lock() = Some(Shown {
            chain: chain.map(|der| der.clone().into_owned()).collect(),
            chain_fault,
            fits_name,
        });
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.judge
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.judge
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.judge.supported_verify_schemes()
    }
}
