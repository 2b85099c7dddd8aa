//! Why a handshake failed, in the classes that are counted apart.

use std::sync::Arc;

use rustls::{CertificateError, Error, InvalidMessage, OtherError};

/// A class of handshake failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeFailure {
    /// No client certificate was presented.
    NoCertificate,
    /// It does not chain to a group certificate.
    UnknownCa,
    /// It, or one of its issuers, has expired.
    Expired,
    /// It is not valid yet.
    NotYetValid,
    /// It is revoked.
    Revoked,
    /// Its revocation status cannot be determined.
    RevocationUnknown,
    /// It is not meant for client authentication.
    WrongUsage,
    /// It is broken.
    BadCertificate,
    /// The received bytes were not TLS.
    NotTls,
    /// Another breach of the protocol, or nothing in common.
    Protocol,
    /// The client sent an alert.
    PeerAlert,
}

/// The class of a rustls error.
#[must_use]
pub fn failure_of(error: &Error) -> HandshakeFailure {
    match error {
        Error::NoCertificatesPresented => HandshakeFailure::NoCertificate,
        Error::InvalidCertificate(error) => match error {
            CertificateError::UnknownIssuer => HandshakeFailure::UnknownCa,
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                HandshakeFailure::Expired
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                HandshakeFailure::NotYetValid
            }
            CertificateError::Revoked => HandshakeFailure::Revoked,
            CertificateError::UnknownRevocationStatus
            | CertificateError::ExpiredRevocationList
            | CertificateError::ExpiredRevocationListContext { .. } => {
                HandshakeFailure::RevocationUnknown
            }
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                HandshakeFailure::WrongUsage
            }
            _ => HandshakeFailure::BadCertificate,
        },
        // The header of a record does not parse: `GET / HTTP` is no content type. What is wrong inside one that does
        // is a bad TLS client, not another protocol.
        Error::InvalidMessage(
            InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
        ) => HandshakeFailure::NotTls,
        Error::AlertReceived(_) => HandshakeFailure::PeerAlert,
        _ => HandshakeFailure::Protocol,
    }
}

/// webpki's verdict in rustls's words, which decide the alert that the client gets.
pub(super) fn rustls_error(error: webpki::Error) -> Error {
    use webpki::Error as E;
    let error = match error {
        E::BadDer | E::BadDerTime | E::TrailingData(_) => CertificateError::BadEncoding,
        E::CertNotValidYet { time, not_before } => {
            CertificateError::NotValidYetContext { time, not_before }
        }
        E::CertExpired { time, not_after } => CertificateError::ExpiredContext { time, not_after },
        E::InvalidCertValidity => CertificateError::Expired,
        E::UnknownIssuer => CertificateError::UnknownIssuer,
        E::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        E::UnsupportedCriticalExtension => CertificateError::UnhandledCriticalExtension,
        E::RequiredEkuNotFoundContext(_)
        | E::EmptyEkuExtension
        | E::EndEntityUsedAsCa
        | E::PathLenConstraintViolated => CertificateError::InvalidPurpose,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    };
    Error::InvalidCertificate(error)
}
