//! The load generator behind `adit load`, on the gateway's own runtime: for adit and for any TLS or
//! TCP peer.
//!
//! Closed loop: each tunnel does one operation after the other. Open loop (`rate`): each operation
//! has an intended time, and its latency counts from there, so that a stall of the server is not
//! hidden by the requests that it kept from being sent (coordinated omission). The generator
//! reports its own share of a CPU: at 100 % it measures itself.

mod backend;
mod client;
mod command;
mod http2;
mod report;
mod run;
mod session;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;

use crate::certs::CertError;
use crate::ring::RingError;

pub use backend::{BackendError, BackendKind, http_answer_length, serve};
pub use command::{LoadCommand, run};
pub use report::Report;
pub use run::{Progress, execute};

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// An option.
    #[error("{0}")]
    Usage(String),
    /// A certificate or key.
    #[error("{0}")]
    Certificates(#[from] CertError),
    /// TLS.
    #[error("TLS cannot be set up: {}", crate::tls::words(.0))]
    Tls(#[from] rustls::Error),
    /// The runtime.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The server.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// Not one tunnel.
    #[error(
        "not one tunnel could be opened ({0}); check the peer, the certificates and the destination"
    )]
    NothingOpens(String),
    /// No operation.
    #[error("no operation was completed in the measured time ({0} failed)")]
    NothingDone(u64),
    /// A file.
    #[error("cannot write {0}: {1}")]
    Write(String, std::io::Error),
}

/// How a tunnel is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// TLS with a client certificate, then HTTP/1.1 CONNECT.
    H1Connect,
    /// TLS with a client certificate, then CONNECT over HTTP/2: several tunnels in a session.
    H2Connect,
    /// TLS; the session is the tunnel.
    Tls,
    /// TCP alone.
    Tcp,
}

/// Work in each tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Work {
    /// Open a tunnel, send one byte, wait for it to come back, close.
    Handshake,
    /// Send a message and wait for it to come back.
    Echo,
    /// Bytes in one direction.
    Stream,
    /// Send one byte, wait for it to come back, and hold the tunnel open.
    Idle,
}

/// Direction of the bytes of [`Work::Stream`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Direction {
    /// To the server.
    Up,
    /// From the server.
    Down,
}

/// One run.
#[derive(Clone)]
pub struct Scenario {
    /// The peer.
    pub target: SocketAddr,
    /// How a tunnel is opened.
    pub mode: Mode,
    /// The destination in CONNECT, `host:port`.
    pub connect: String,
    /// The work.
    pub work: Work,
    /// True if sessions are resumed.
    pub resumed: bool,
    /// Tunnels at once.
    pub tunnels: usize,
    /// Tunnels in one session of [`Mode::H2Connect`].
    pub tunnels_per_session: usize,
    /// Bytes of a message.
    pub size: usize,
    /// Bytes that a round trip sends, and the number of bytes that come back; `None`: `size` bytes
    /// each way.
    pub exchange: Option<(Vec<u8>, usize)>,
    /// Operations a second over all tunnels; `None` for a closed loop.
    pub rate: Option<f64>,
    /// How long a tunnel may take to open, its first answer included.
    pub open_timeout: Duration,
    /// Direction of a stream.
    pub direction: Direction,
    /// Not measured, at the start.
    pub warmup: Duration,
    /// Measured.
    pub duration: Duration,
    /// TLS of the client, and the name that the peer's certificate must have.
    pub tls: Option<(Arc<rustls::ClientConfig>, ServerName<'static>)>,
}
