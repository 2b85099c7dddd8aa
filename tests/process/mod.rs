//! The process and its surroundings: clocks, files, a second process, restarts, signals.

mod admin_socket;
mod clock;
mod command_line;
mod registry_copy;
mod scratch;
mod self_signed;
mod shutdown;
mod sockets;
mod state_socket;
mod succession;
mod upgrade;
