//! Result of resolving a name.

use std::net::IpAddr;
use std::time::Duration;

/// The addresses of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// Addresses, at least one, in the order to try them.
    pub addresses: Vec<IpAddr>,
    /// For how long they may be used.
    pub valid_for: Duration,
}

/// Why a name has no addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// It does not exist, or has no address.
    #[error("the name does not exist or has no address")]
    NotFound,
    /// No name server answered, or none that could.
    #[error("no answer in time")]
    Timeout,
    /// The device waits for as many names as it may.
    #[error("the device waits for too many names")]
    Share,
    /// The node waits for as many names as it may.
    #[error("too many names wait")]
    Full,
}
