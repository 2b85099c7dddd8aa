//! The session: its front ends, what is asked, the opening of a tunnel, and the relay.
//!
//! `session` reads from top to bottom as the life of a tunnel. `request` does no I/O.

mod asker;
pub mod capsule;
mod ends;
mod entrance;
pub mod forwarded;
mod front;
mod http1;
pub mod http2;
mod introduction;
mod named;
mod open;
mod patience;
mod plain;
mod pvd;
mod relay;
pub mod request;
mod response;
mod session;
mod tls_server;
mod udp;

pub use entrance::AcceptedBy;
pub use session::serve;
