//! How an established session can break, and the alert that says so.

use rustls::AlertDescription;

/// Why a session cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A record that the peer did not seal with the session's keys, or that was changed on its way.
    #[error("a record does not authenticate")]
    BadRecordMac,
    /// A record longer than the version allows.
    #[error("a record is too long")]
    Overflow,
    /// A message that has no place here, or too many of those that carry nothing.
    #[error("a message out of place")]
    Unexpected,
    /// A message that does not parse.
    #[error("a malformed message")]
    Decode,
    /// A field with a value that it must not have.
    #[error("an illegal parameter")]
    IllegalParameter,
    /// The peer sent this alert.
    #[error("the peer sent the alert {}", crate::tls::alert_name(*.0))]
    PeerAlert(AlertDescription),
    /// The keys have protected as many records as they may (RFC 8446, section 5.5), and TLS 1.2 has
    /// no new ones.
    #[error("the keys of the session are used up")]
    Exhausted,
    /// A failure at this end.
    #[error("keys could not be made or used")]
    Internal,
}

impl Fault {
    /// The alert to send; none in answer to an alert.
    #[must_use]
    pub fn alert(self) -> Option<AlertDescription> {
        match self {
            Self::BadRecordMac => Some(AlertDescription::BadRecordMac),
            Self::Overflow => Some(AlertDescription::RecordOverflow),
            Self::Unexpected => Some(AlertDescription::UnexpectedMessage),
            Self::Decode => Some(AlertDescription::DecodeError),
            Self::IllegalParameter => Some(AlertDescription::IllegalParameter),
            Self::PeerAlert(_) => None,
            Self::Exhausted | Self::Internal => Some(AlertDescription::InternalError),
        }
    }
}
