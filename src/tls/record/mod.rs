//! The record layer of an established session (RFC 8446, section 5; RFC 5246, section 6).
//!
//! rustls makes the handshake; then its secrets are taken over and records are opened and sealed in
//! the memory that the ring has received them in and sends them from. It owes what rustls's own
//! layer does: limits of length and number, new keys when the peer asks for them or the old ones
//! are used up, alerts, close_notify, and a fault for every bit that is not the peer's. It does no
//! I/O and sees no certificate.

mod fault;
mod layer;
mod protection;
mod renewal;
#[cfg(test)]
mod tests;

pub use fault::Fault;
pub use layer::{Content, RecordLayer};
