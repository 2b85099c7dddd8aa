//! Bounds of the admin listener's clients, and of what is written about them.

use std::time::Duration;

use super::ADMIN_CONNECTION_LIFE;

/// How long a client of the admin listener waits for a connection, which is on the same machine.
pub const ADMIN_CONNECT: Duration = Duration::from_secs(3);

/// How long a client of the admin listener waits for an answer in all: a change of millions of
/// devices or a reload of them takes its time, and no connection lives longer.
pub const ADMIN_ANSWER_TOTAL: Duration = ADMIN_CONNECTION_LIFE.saturating_mul(2);

/// The largest answer that a client of the admin listener takes, in bytes: four times that of
/// `/tunnels` at its limit.
pub const ADMIN_ANSWER_MAX: usize = 128 << 20;

/// Bytes of a file that a client of the admin listener sends at a time.
pub const ADMIN_BODY_PIECE: usize = 256 * 1024;

/// Refused requests to the admin listener that are written to the audit log: so many at once, and
/// one more each time this has passed. A person who mistypes a token is seen whole; a program that
/// tries tokens leaves 1 MB an hour.
pub const ADMIN_REFUSALS_AUDITED: (u32, Duration) = (60, Duration::from_secs(1));

/// Characters of a request to the admin listener that the audit log has: the longest name of a
/// device in percent-encoding, and the words around it.
pub const AUDIT_ADMIN_REQUEST: usize = 1024;

/// Bytes of an answer of the admin listener that the audit log has, where it is not longer: what
/// one change says fits.
pub const AUDIT_ADMIN_ANSWER: usize = 1024;
