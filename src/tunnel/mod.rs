//! The session: the CONNECT request, authorization, routing, the relay, and the record of how it ended.
//!
//! `session` reads from top to bottom as the life of a tunnel. `request` and `policy` do no I/O.

mod admission;
mod asker;
mod bucket;
pub mod capsule;
mod core;
mod ends;
mod entrance;
pub mod forwarded;
mod front;
mod gates;
mod http1;
pub mod http2;
mod introduction;
mod listing;
mod named;
mod open;
mod outcome;
mod patience;
mod peer;
mod plain;
mod policy;
mod pvd;
mod quota;
mod refusals;
mod relay;
pub mod request;
mod response;
mod session;
mod sweep;
mod tls_server;
mod tunnels;
mod udp;

pub use self::core::{Core, Limits, ServiceState, Snapshot};
pub use admission::AdmissionLimits;
pub use entrance::AcceptedBy;
pub use gates::{AppGates, Gate, Gates, ServiceGates};
pub use listing::{close_matching, list_matching};
pub use named::Names;
pub use quota::Quota;
pub use session::serve;
pub use sweep::{Causes, replace_snapshot, sweep, watch_expiry};
