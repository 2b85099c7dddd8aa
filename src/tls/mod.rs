//! TLS: rustls set-up, the check of client certificates, who is at the other end, and the record path of a session.
//!
//! Only this room makes a [`PeerIdentity`], and only from a chain that [`DeviceVerifier`] has accepted.

mod crl;
mod der;
mod failure;
mod handshake;
mod identity;
pub mod record;
mod secrets;
mod server;
mod signatures;
mod stream;
mod verifier;

pub use crl::{CrlError, CrlErrors, CrlReport, load_crls};
pub use failure::{HandshakeFailure, failure_of};
pub use handshake::{Connection, Handshake};
pub use identity::{IdentityError, PeerIdentity, earliest_expiry};
pub use secrets::{TrafficSecrets, hand_over};
pub use server::{ServerTls, TlsError, server_config, ticketer};
pub use stream::{
    ClientHandshake, ClientStream, Received, ServerHandshake, ServerStream, StreamError,
    TlsHandshake, TlsStream,
};
pub use verifier::{DeviceVerifier, RevocationPolicy, StalePolicy};

#[cfg(test)]
mod chain_tests;
#[cfg(test)]
mod tests;
