//! Bounds of what is done to all open tunnels of a core.

use std::time::Duration;

/// How long a core may take to list its tunnels: it walks through them in [`SWEEP_CHUNKS`] steps,
/// and describes up to [`TUNNELS_LISTED_MAX`](super::TUNNELS_LISTED_MAX) in as many again.
pub const LIST_ANSWER: Duration = Duration::from_secs(5);

/// Work of a sweep between two rests at least, in looks at one tunnel: 100 ns each where the tunnel
/// is in no cache, so about 25 µs of latency for the others.
pub const SWEEP_CHUNK: usize = 256;

/// The most rests of a sweep, or of another walk through the tunnels of a core: with
/// [`SWEEP_PAUSE`] and the 1 ms of the timers it is through in half a second. At 200 000 tunnels on
/// a core a chunk is 782 looks, about 80 µs.
pub const SWEEP_CHUNKS: usize = 256;

/// Places for tunnels that a core keeps when few are open: 8 KiB.
pub const LIST_KEPT_MIN: usize = 1024;

/// The complete check of a certificate (path, validity, usage, revocation) in the same unit: 10 to
/// 40 µs.
pub const SWEEP_COMPLETE_CHECK: usize = 32;

/// How long a sweep rests between two chunks.
pub const SWEEP_PAUSE: Duration = Duration::from_millis(1);

/// How often a core looks whether the certificate of an open tunnel has expired: one comparison
/// where none has.
pub const EXPIRY_CHECK: Duration = Duration::from_millis(250);

/// Seconds until a tunnel is looked at again whose certificates have expired and whose chain is
/// still good, by a path that is found only then.
pub const EXPIRY_LOOK_AGAIN_SECONDS: u64 = 30;
