//! TLS: rustls set-up, the check of client certificates, who is at the other end, and the record
//! path of a session.
//!
//! Only this room makes a [`PeerIdentity`], and only from a [`VerifiedChain`], which
//! [`DeviceVerifier`] has accepted.

mod client;
mod crl;
mod duplex;
mod error;
mod failure;
mod fields;
mod handshake;
mod hello;
mod identity;
mod notes;
pub mod record;
mod recorder;
mod rejected;
mod resumption;
mod roots;
mod scope;
mod secrets;
mod served;
mod server;
mod signatures;
mod standing;
mod stream;
mod text;
mod ticket_keys;
mod tickets;
mod verifier;
mod words;

pub use client::{ClientTls, ServerFailure};
pub use crl::{
    Admission, CheckedCrl, CrlError, CrlErrors, CrlReport, CrlSet, CrlSource, Indexed, PointsSeen,
    Standing, check_crls, crl_urls, load_crls, public_keys, read_crl_file,
};
pub use duplex::{ByteStream, CONTIGUOUS, Duplex};
pub use error::TlsError;
pub use failure::{HandshakeFailure, failure_of};
pub use handshake::{Connection, Handshake};
pub use hello::{Hello, HelloReader};
pub use identity::{ClaimedIdentity, IdentityError, PeerIdentity, common_name};
pub use notes::Notes;
pub use recorder::{RecordingVerifier, Shown};
pub use rejected::Rejection;
pub use resumption::Resumption;
pub use scope::Scope;
pub use secrets::{TrafficSecrets, hand_over};
pub use served::ServerCertificates;
pub use server::{ALPN_HTTP2, ServerTls, named_config, server_config};
pub use signatures::remembering;
pub use stream::{
    ClientHandshake, ClientStream, HandshakeError, Received, ServerHandshake, ServerStream,
    StreamError, TlsHandshake, TlsStream,
};
pub use text::distinguished_name;
pub use ticket_keys::{TicketKey, TicketKeys, TicketKeysError};
pub use tickets::Tickets;
pub use verifier::{DeviceVerifier, RevocationPolicy, StalePolicy, VerifiedChain, good_until};
pub use words::{alert_name, io_words, words};

#[cfg(test)]
mod tests;
