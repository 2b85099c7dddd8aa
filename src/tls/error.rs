//! Why TLS cannot be set up.

use rustls::Error;

use super::ticket_keys::TicketKeysError;
use super::words::words;
use crate::certs::PathFault;

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// There is nothing that a device's certificate could chain to.
    #[error("there is no group certificate; see profile.device_auth.group_certificates")]
    NoGroupCertificate,
    /// A group certificate that may not issue.
    #[error(
        "group certificate {position} (counted from 1): {why}; \
         see profile.device_auth.group_certificates"
    )]
    GroupCertificate {
        /// Its place among the group certificates, from 1.
        position: usize,
        /// Why not.
        why: PathFault,
    },
    /// The server certificate and its key.
    #[error("the server certificate cannot be used: {}; check that chain and key belong together", words(.0))]
    ServerCertificate(Error),
    /// The gateway's certificate for servers, and its key.
    #[error(
        "the client certificate for servers cannot be used: {}; check that chain and key belong together",
        words(.0)
    )]
    ClientCertificate(Error),
    /// The versions, of `inbound` or `outbound`.
    #[error("these protocol versions cannot be used: {}; see profile.tls.{}", words(.1), .0)]
    Versions(&'static str, Error),
    /// The tickets.
    #[error("{0}")]
    Tickets(#[from] TicketKeysError),
}
