//! Bounds of the load generator.

use std::time::Duration;

/// Most tunnels of a load run. One address has 65 536 ports, and a tunnel without work costs the
/// generator 3 KiB or so.
pub const LOAD_TUNNELS_MAX: usize = 1_000_000;

/// Longest message of a load run, in bytes: all tunnels share one in memory, and the answer is only
/// counted.
pub const LOAD_MESSAGE_MAX: usize = 1 << 30;

/// Lowest and highest `--rate`, in operations a second: one in a quarter of an hour, and what no
/// machine does. Between them a tunnel's interval is a duration that can be counted.
pub const LOAD_RATE: (f64, f64) = (0.001, 1e9);

/// Receive window of a tunnel of an HTTP/2 load run, in bytes: what browsers have.
pub const LOAD_HTTP2_WINDOW: u32 = 6 << 20;

/// Receive window of a session of an HTTP/2 load run, in bytes: what browsers have.
pub const LOAD_HTTP2_SESSION_WINDOW: u32 = 15 << 20;

/// Bytes that a tunnel of an HTTP/2 load run has queued at most.
pub const LOAD_HTTP2_QUEUE: usize = 256 << 10;

/// Longest time of a load run, warm-up or opening: a week.
pub const LOAD_TIME_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How long a tunnel may take to open, unless `--open-timeout` says otherwise. Ten thousand tunnels
/// asked for at once need some ten seconds from the slowest peer measured.
pub const LOAD_OPEN_TIMEOUT: Duration = Duration::from_secs(60);

/// Longest text, in characters, by which failures are told apart: a part of it comes from the peer.
pub const LOAD_REASON_TEXT_MAX: usize = 160;

/// Different reasons of failures that are told apart; what comes beyond is counted as one.
pub const LOAD_REASONS_MAX: usize = 64;
