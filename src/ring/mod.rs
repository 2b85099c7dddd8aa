//! The per-core io_uring runtime: driver, buffers, tasks, timers and sockets.
//!
//! One [`Runtime`] belongs to one thread. It runs `async fn`s on a single-threaded executor, makes
//! one `io_uring_enter` per loop turn, keeps every timer in one wheel, and receives into a ring of
//! buffers that the kernel picks from when bytes have arrived, so that a connection that waits
//! holds none.
//!
//! Guarantees:
//! - Memory that the kernel may read or write is owned by the driver until the operation's completion has been seen,
//!   whatever becomes of the future that started it. Dropping a future asks the kernel to cancel the operation.
//! - A descriptor is closed through the ring, after every earlier operation on it has been submitted; none leaks, even
//!   when the future that would have received it is gone.
//! - Work per loop turn is bounded ([`RuntimeConfig`]).
//!
//! Not done here: protocols, policy, anything that blocks. Nothing outside this module names an
//! io_uring type.

mod buffers;
mod combine;
mod counters;
mod driver;
mod enter;
mod error;
mod executor;
mod gather;
mod heap;
mod listener;
mod op;
mod options;
mod own;
mod permit;
mod pieces;
mod pool;
mod process;
mod remote;
mod signal;
mod stream;
#[cfg(test)]
mod tests;
mod time;
mod udp;
mod wheel;

pub use buffers::{BUFFER_BACK, BUFFER_FRONT, RingBuf, SendBuf};
pub use combine::{Either, around, join, map, race, try_join, unless_blocked};
pub use counters::Counters;
pub use error::RingError;
pub use executor::{
    LARGE_PAYLOAD, Runtime, RuntimeConfig, SMALL_PAYLOAD, TaskHandle, counters, guest_bytes,
    remote, shrink, spawn, spawn_owned, trim_buffers, yield_now,
};
pub use gather::Gather;
pub use heap::{collect_heap, trim_c_heap};
pub use listener::TcpListener;
pub use options::TcpOptions;
pub use permit::permit;
pub use pieces::{Pieces, Rest, Spaced, Spacing};
pub use process::{descriptor_limit, pin_to_cpu, raise_descriptor_limit, yield_to_others};
pub use remote::{OneshotReceiver, OneshotSender, Remote, oneshot};
pub use signal::Signal;
pub use stream::TcpStream;
pub use time::{Elapsed, Sleep, now, sleep, timeout};
pub use udp::UdpSocket;
