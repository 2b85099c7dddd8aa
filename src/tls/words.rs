//! Errors of TLS, in words for people: the libraries' own are names of their types.

use rustls::{AlertDescription, CertificateError, Error};

/// A TLS error, without a final stop.
#[must_use]
pub fn words(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(error) => certificate_words(error).to_owned(),
        Error::NoCertificatesPresented => "it sends no certificate".to_owned(),
        Error::AlertReceived(alert) => format!("it sent the alert {}", alert_name(*alert)),
        Error::PeerIncompatible(_) => {
            "it has no version, cipher suite or key exchange in common with the configured ones"
                .to_owned()
        }
        Error::PeerMisbehaved(_) | Error::InappropriateHandshakeMessage { .. } => {
            "it breaks the TLS protocol".to_owned()
        }
        Error::InvalidMessage(_) | Error::InappropriateMessage { .. } => {
            "it does not speak TLS, or breaks its protocol".to_owned()
        }
        Error::DecryptError => "a record does not authenticate".to_owned(),
        Error::PeerSentOversizedRecord => "a record is too long".to_owned(),
        Error::NoApplicationProtocol => {
            "it accepts none of the offered protocols (ALPN)".to_owned()
        }
        Error::InconsistentKeys(_) => {
            "the private key does not belong to the certificate".to_owned()
        }
        Error::General(why) => why.clone(),
        _ => "TLS failed".to_owned(),
    }
}

/// An error of a connection with TLS on it.
#[must_use]
pub fn io_words(error: &std::io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    inner.map_or_else(|| error.to_string(), words)
}

/// Returns what is wrong with a peer's certificate.
fn certificate_words(error: &CertificateError) -> &'static str {
    match error {
        CertificateError::BadEncoding => "the certificate, or one of its chain, cannot be read",
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the certificate, or one of its chain, has expired"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the certificate, or one of its chain, is not valid yet"
        }
        CertificateError::Revoked => "the certificate is revoked",
        CertificateError::UnhandledCriticalExtension => {
            "the certificate, or one of its chain, has a critical extension that is not known"
        }
        CertificateError::UnknownIssuer => {
            "no trusted authority has issued it, or an intermediate certificate is missing"
        }
        CertificateError::UnknownRevocationStatus
        | CertificateError::ExpiredRevocationList
        | CertificateError::ExpiredRevocationListContext { .. } => {
            "the revocation status of the certificate is not known"
        }
        CertificateError::BadSignature => "a signature of the chain is wrong",
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the certificate is not for this name"
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "the certificate, or one of its chain, is not for this use"
        }
        CertificateError::UnsupportedSignatureAlgorithmContext { .. } => KIND,
        CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => OTHER_KEY,
        CertificateError::Other(other) => match other.0.downcast_ref::<webpki::Error>() {
            Some(error) => path_words(error),
            None => "the certificate is not accepted",
        },
        _ => "the certificate is not accepted",
    }
}

/// Of a signature that nothing here checks.
const KIND: &str =
    "a signature of the chain has an algorithm that is not accepted, or a key that is too short";

/// Of a signature and a key that do not go together, as where two authorities have one name.
const OTHER_KEY: &str = "a signature of the chain cannot be by the key of the authority that is trusted under its issuer's name: \
                         that is another one of the same name, or has changed its key; or the key is of a kind that is not accepted";

/// Returns what webpki found that rustls has no word for.
fn path_words(error: &webpki::Error) -> &'static str {
    use webpki::Error as E;
    match error {
        E::CaUsedAsEndEntity => {
            "the certificate is that of a certification authority; a self-signed certificate must itself be \
                in the file of roots"
        }
        E::EndEntityUsedAsCa => "an issuer in the chain is not a certification authority",
        E::PathLenConstraintViolated => {
            "the chain has more authorities than the path length of one of them allows"
        }
        E::NameConstraintViolation => {
            "a name constraint of an authority does not allow the certificate's names, or is of an unsupported kind"
        }
        E::UnsupportedCertVersion => "a certificate of the chain is not of version 3",
        E::UnsupportedSignatureAlgorithmContext(_) => KIND,
        E::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => OTHER_KEY,
        E::MaximumSignatureChecksExceeded
        | E::MaximumPathBuildCallsExceeded
        | E::MaximumPathDepthExceeded
        | E::MaximumNameConstraintComparisonsExceeded => "its chain is too complex to verify",
        _ => "the certificate, or one of its chain, is malformed",
    }
}

/// The name of an alert as RFC 8446, section 6, has it.
#[must_use]
pub fn alert_name(alert: AlertDescription) -> String {
    if let AlertDescription::Unknown(number) = alert {
        return format!("number {number}");
    }
    // rustls has the names of the RFC, in another spelling.
    let name = format!("{alert:?}");
    let mut spelled = String::with_capacity(name.len() + 4);
    let mut before_is_upper = true;
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !before_is_upper {
            spelled.push('_');
        }
        before_is_upper = letter.is_ascii_uppercase();
        spelled.push(letter.to_ascii_lowercase());
    }
    spelled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alerts_have_the_names_of_the_rfc() {
        for (alert, name) in [
            (AlertDescription::HandshakeFailure, "handshake_failure"),
            (AlertDescription::UnknownCA, "unknown_ca"),
            (AlertDescription::CloseNotify, "close_notify"),
            (AlertDescription::BadRecordMac, "bad_record_mac"),
            (AlertDescription::Unknown(7), "number 7"),
        ] {
            assert_eq!(alert_name(alert), name);
        }
    }

    /// A name of a type has capitals inside a word, or braces.
    #[test]
    fn no_words_are_names_of_types() {
        let other = |error: webpki::Error| {
            let error = rustls::OtherError(std::sync::Arc::new(error));
            Error::InvalidCertificate(CertificateError::Other(error))
        };
        let errors = [
            Error::InvalidCertificate(CertificateError::UnknownIssuer),
            Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure),
            Error::AlertReceived(AlertDescription::BadCertificateStatusResponse),
            Error::InvalidMessage(rustls::InvalidMessage::InvalidCcs),
            Error::PeerIncompatible(rustls::PeerIncompatible::NoCipherSuitesInCommon),
            Error::PeerMisbehaved(rustls::PeerMisbehaved::InvalidMaxEarlyDataSize),
            Error::HandshakeNotComplete,
            other(webpki::Error::CaUsedAsEndEntity),
            other(webpki::Error::NameConstraintViolation),
            other(webpki::Error::BadDer),
        ];
        for error in errors {
            let words = words(&error);
            let is_plain = |word: &str| {
                let rest = word.trim_start_matches('(').get(1..).unwrap_or_default();
                let inside = rest.chars().any(|letter| letter.is_ascii_uppercase());
                !inside || word.chars().all(|letter| !letter.is_ascii_lowercase())
            };
            assert!(!words.contains(['{', ':']), "{words}");
            assert!(words.split(' ').all(is_plain), "{words}");
        }
    }
}
