//! HTTP/2: many tunnels in one session (RFC 9113, section 8.5).
//!
//! The session's task moves frames; each request has a task of its own, from which its tunnel's two
//! directions come. The way of a request is that of HTTP/1.1: [`request::request`] reads it, `open`
//! authorizes, routes and dials, then the relay between two records. `h2` knows the protocol; what
//! it does not do is here: what a session may cost ([`guard`]), how large windows are (`windows`),
//! and how frames become few sends ([`crate::tls::Duplex`]).
//!
//! Flow control: capacity is given back to the client when the bytes are with the server, so one
//! tunnel holds back itself and no other. The sum of the tunnels' windows is at most the session's
//! window, which bounds the session's memory; what they take beyond the least comes out of a budget
//! of the device and of the core (`share`). To the client, a tunnel has a few buffers queued at
//! most (`queue`).

mod adapter;
mod app;
mod driver;
pub mod guard;
mod queue;
pub mod request;
mod session;
mod share;
mod windows;

pub(super) use session::serve;
