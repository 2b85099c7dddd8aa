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

// ---- control ----

/// Connections that the admin listener serves at once: a scraper, a probe, an operator and room for their retries.
pub const ADMIN_CONNECTIONS: usize = 64;

/// How long an admin connection may take to send a request's header, idle time between requests included.
pub const ADMIN_HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an admin connection may last before it is closed after its current response; a client that still reads that
/// response is cut off after as long again. Longer than a scrape interval gains nothing.
pub const ADMIN_CONNECTION_LIFE: Duration = Duration::from_secs(60);

/// The largest request header on the admin listener, in bytes: no real one comes near, and hyper takes no less.
pub const ADMIN_REQUEST_BYTES: usize = 8192;

/// How long the admin listener stops accepting when it runs out of file descriptors.
pub const ADMIN_ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long admin connections may finish their responses at shutdown.
pub const ADMIN_STOP: Duration = Duration::from_secs(1);

/// How long a core may take to answer a question of the control core. A turn of its loop takes far less than a
/// millisecond, so a core that misses this is stuck.
pub const CORE_ANSWER: Duration = Duration::from_secs(1);

/// Tunnels that `/tunnels` lists without `?limit=`.
pub const TUNNELS_LISTED: usize = 1_000;

/// The most tunnels that `/tunnels` lists: about 30 MiB of JSON.
pub const TUNNELS_LISTED_MAX: usize = 100_000;

const _: () = assert!(TUNNELS_LISTED <= TUNNELS_LISTED_MAX);

// ---- tls ----

/// Bytes of a TLS record's header (RFC 8446, section 5.1).
pub const TLS_RECORD_HEADER: usize = 5;

/// Bytes of plaintext, or of sealed records, that one buffer of the ring can lead to; one such area a thread.
pub const TLS_SCRATCH: usize = 40 * 1024;
