//! The process and its surroundings: clocks, files, a second process, restarts, signals.

#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/http2.rs"]
mod http2;

mod admin_socket;
mod clock;
mod command_line;
mod registry_copy;
mod scratch;
mod self_signed;
mod shutdown;
mod sockets;
mod succession;
mod upgrade;
