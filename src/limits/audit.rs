//! Bounds of the audit log.

use std::time::Duration;

/// Audit records that wait for the writer. At 20 000 tunnels a second (two records each) this rides
/// out a disk that stalls for 400 ms; at about 500 bytes a record it is 8 MiB at most.
pub const AUDIT_QUEUE: usize = 16_384;

/// Audit records that go to the sink in one write: few system calls under load, and a short loss
/// when one fails.
pub const AUDIT_BATCH: usize = 256;

/// How long a shutdown waits for the audit log: a sink that blocks (a pipe that nobody reads) must
/// not hold it longer.
pub const AUDIT_STOP: Duration = Duration::from_secs(5);

/// Refusals of one device, or of one address where no device is known, that have a line each: so
/// many at once on a core, and one more each time this has passed. What a person or a broken app
/// causes is seen whole; a client that is refused as often as it can be leaves 40 MB a day for each
/// core.
pub const REFUSALS_AUDITED: (u32, Duration) = (1000, Duration::from_secs(1));

/// The same of all clients together of which no device is known: anybody can be refused, from many
/// addresses. 2 GB a day.
pub const STRANGERS_AUDITED: (u32, Duration) = (10_000, Duration::from_millis(20));

/// How often a line says how many refusals of a client had none.
pub const REFUSALS_TOLD: Duration = Duration::from_secs(10);

/// Clients whose refusals a core counts one by one, 300 bytes each. A client is forgotten when its
/// lines are paid for, after a second where it had one. Those beyond are counted as one.
pub const REFUSED_CLIENTS: usize = 4096;

const _: () = assert!(AUDIT_BATCH <= AUDIT_QUEUE);
