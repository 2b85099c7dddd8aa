//! A tunnel from what is granted to its record: its opening, its two ends, and the relay between
//! them.

pub mod capsule;
mod ends;
mod open;
mod proxy_header;
mod relay;
mod tls_server;
mod udp;

pub(crate) use ends::{AppEnd, Broken, Data, PlainApp};
#[cfg(test)]
pub(crate) use open::memory;
pub(crate) use open::{open, open_udp};
pub(crate) use relay::ReadAhead;
