//! adit: a per-app tunnel gateway. Managed apps open mutually authenticated TLS sessions to it; it decides from the
//! identity certificate, its revocation status and the device's managed state which internal service the app may
//! reach, and then moves bytes.
//!
//! The modules are the rooms of `docs/architecture.md`, which lists them from the lowest to the highest. A room uses only
//! lower ones.

pub mod access;
pub mod asn1;
pub mod backend;
pub mod certs;
pub mod cli;
pub mod config;
pub mod control;
pub mod engine;
pub mod files;
pub mod findings;
pub mod front;
#[cfg(any(test, feature = "lab"))]
pub mod lab;
pub mod limits;
#[cfg(feature = "load")]
pub mod load;
pub mod observe;
pub mod profiles;
pub mod proxy_protocol;
pub mod reason;
pub mod ring;
pub mod table;
pub mod tls;
pub mod tunnel;
