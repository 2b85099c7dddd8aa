//! Bounds of clients that are not authenticated yet, and sizes that are fitted to each other.

use std::time::Duration;

use super::ADMIN_CONNECTIONS;

/// Bytes that a peer may have sent that belong together, before its handshake or its first request
/// is complete: a PROXY protocol header of 65 551 bytes, or a handshake message of 64 KiB in
/// records that are not full. They are kept in memory of their own size.
pub const BEGINNING_MAX: usize = 128 * 1024;

/// Usual number of connections of a core whose clients are not authenticated yet. A fleet that
/// comes back all at once has a round trip or two each, and its handshakes take turns: 16 384 are
/// what a core shakes hands with in some seconds. Each is some 5 KB.
pub const UNAUTHENTICATED: usize = 16_384;

/// Usual part of them that one source may have. Half, so that nobody has all; and no less, because
/// a fleet may be behind one address (carrier-grade NAT, a load balancer that does not say for whom
/// it speaks).
pub const UNAUTHENTICATED_PER_SOURCE: usize = UNAUTHENTICATED / 2;

/// Usual number of handshakes a second that may fail for one source on a core. A client that tries
/// again at once without a pause makes some 300 a second on all cores; a fleet behind one address
/// with a wrong certificate in a hundred fewer.
pub const FAILED_HANDSHAKES: usize = 200;

/// How many of them may come at once: those of so much time.
pub const FAILED_HANDSHAKES_BURST: Duration = Duration::from_secs(10);

/// Largest `engine.max_unauthenticated`.
pub const UNAUTHENTICATED_MAX: usize = 1 << 20;

/// How long a client that is not authenticated yet has its place for certain: some round trips on
/// any network. Where all have come since, as in a storm of reconnections, the core accepts later
/// and gives none up. It does not protect a source that has more than its part while another one
/// waits, nor those for whom most bytes are kept when there are too many, nor the oldest when there
/// are no more files.
pub const GUEST_GRACE: Duration = Duration::from_secs(1);

/// Bytes that a core keeps for clients that are not authenticated yet, beside the connections
/// themselves. A hello and a client's flight are one to three KB: nearly all of them are complete
/// when they come, and are kept for no time.
pub const GUEST_MEMORY: u64 = 32 << 20;

/// Part, as one in so many, that is given back at once when bytes for such clients, or files, are
/// too few: of the bytes, or of those that wait. Enough that it is not needed again in the next
/// moment.
pub const RELIEVED_PART: usize = 8;

/// Sources that a core knows at most. Those with something open are as many as there are such
/// connections; beyond it the others are forgotten.
pub const SOURCES_MAX: usize = 16_384;

/// Open files that the process has for itself: the connections of the admin listener and of the
/// socket in the state folder, files that are read, the log.
pub const DESCRIPTORS_OF_PROCESS: usize = 3 * ADMIN_CONNECTIONS;

/// Open files that a core has for itself: its ring, its listeners, and what was accepted of a burst
/// before any is given up.
pub const DESCRIPTORS_OF_CORE: usize = 64;

/// How often a core says in the log that there are no more open files.
pub const FILES_TOLD: Duration = Duration::from_secs(60);

/// Part of the open files, as one in so many, for clients that are not authenticated yet, where not
/// all fit.
pub const GUEST_DESCRIPTORS_PART: usize = 8;

/// Least number of small receive buffers of a core. It is address space until it is used.
pub const BUFFERS_MIN: u16 = 16 * 1024;

/// Most of them: the kernel names them by 16 bits.
pub const BUFFERS_MAX: u16 = u16::MAX;

/// Least sessions, or tunnels, by which a peak is higher than what follows it: with fewer there is
/// nothing to be given back.
pub const PEAK_MIN: usize = 256;

/// Looks in a row that must find it over. Giving memory of the heap back takes milliseconds of a
/// core.
pub const PEAK_QUIET: u32 = 3;
