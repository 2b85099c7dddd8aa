//! Every bound and pool size as a named constant with its reason.

use std::time::Duration;

// ---- observe ----

/// The shortest latency that a histogram tells apart from zero.
pub const HISTOGRAM_MIN: Duration = Duration::from_micros(1);

/// The longest latency that a histogram keeps; longer ones count as this. Only a tunnel's lifetime gets near it.
pub const HISTOGRAM_MAX: Duration = Duration::from_secs(3600);

/// Significant decimal digits of a histogram: 1 % is finer than a latency's own noise, and keeps one at 25 KiB.
pub const HISTOGRAM_DIGITS: u8 = 2;

/// Audit records that wait for the writer. At 20 000 tunnels a second (two records each) this rides out a disk that
/// stalls for 400 ms; at about 500 bytes a record it is 8 MiB at most.
pub const AUDIT_QUEUE: usize = 16_384;

/// Audit records that go to the sink in one write: few system calls under load, and a short loss when one fails.
pub const AUDIT_BATCH: usize = 256;

/// How long a shutdown waits for the audit log: a sink that blocks (a pipe that nobody reads) must not hold it longer.
pub const AUDIT_STOP: Duration = Duration::from_secs(5);

const _: () = assert!(AUDIT_BATCH <= AUDIT_QUEUE);
