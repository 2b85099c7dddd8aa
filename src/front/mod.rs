//! The front ends: how a connection becomes a session, what is asked in it, and how that is
//! answered.
//!
//! `session` reads from top to bottom as the life of a tunnel. `seam` is what lies between a
//! request and its answer, the same for HTTP/1.1, HTTP/2, names (SNI) and the plain listener.
//! `request` does no I/O.

mod entrance;
pub mod forwarded;
mod http1;
pub mod http2;
mod patience;
mod plain;
mod pvd;
pub mod request;
mod requester;
mod response;
mod seam;
mod session;
mod sni;

pub use entrance::AcceptedBy;
pub use session::serve;
