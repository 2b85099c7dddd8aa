//! Why TLS cannot be set up.

use std::path::PathBuf;

use rustls::Error;

use super::ticket_keys::TicketKeysError;
use super::words::words;
use crate::certs::{CertError, PathFault};
use crate::limits::CHAIN_BYTES_MAX;

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
    /// A file with certificates for servers.
    #[error(transparent)]
    Certificates(#[from] CertError),
    /// A certificate of `tls_roots` that is of no use there.
    #[error("certificate {position} of {file} cannot be a root: {}", words(.why))]
    Root {
        /// Its place in the file, from 1.
        position: usize,
        /// The file.
        file: PathBuf,
        /// Why not.
        why: Error,
    },
    /// Nothing that servers' certificates could chain to.
    #[error(
        "the system has no root certificates ({0}); name a file in tls_roots, or install ca-certificates"
    )]
    NoSystemRoots(String),
    /// The gateway's chain for servers.
    #[error(
        "the chain of {file} has {bytes} bytes in a handshake, and servers accept at most {CHAIN_BYTES_MAX}; \
            have it issued \
         below fewer authorities"
    )]
    ChainTooLong {
        /// The file.
        file: PathBuf,
        /// Its size.
        bytes: usize,
    },
    /// The tickets.
    #[error("{0}")]
    Tickets(#[from] TicketKeysError),
}
