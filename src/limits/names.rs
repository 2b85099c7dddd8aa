//! Bounds of name resolution.

use std::time::Duration;

/// Names that a core remembers. At 100 bytes each below 1 MiB a core; beyond it the cache starts
/// anew.
pub const NAME_CACHE_MAX: usize = 8192;

/// Shortest time that a resolved name is used: a TTL of zero must not turn each tunnel into a
/// query.
pub const NAME_TTL_MIN: Duration = Duration::from_secs(1);

/// Longest time that a resolved name is used, whatever its TTL: servers move.
pub const NAME_TTL_MAX: Duration = Duration::from_secs(300);

/// How long a name that does not exist is taken not to exist.
pub const NAME_NEGATIVE_TTL: Duration = Duration::from_secs(2);

/// How long an answer is used beyond its time while no name server gives a new one (RFC 8767):
/// servers seldom move, and an outage of the name service need not be one of theirs.
pub const NAME_STALE_MAX: Duration = Duration::from_secs(3600);

/// How long such an answer is used before the name servers are asked again (RFC 8767, section 5).
pub const NAME_STALE_TTL: Duration = Duration::from_secs(30);

/// How long a tunnel waits for a name server where there is such an answer (RFC 8767, section 5).
pub const NAME_STALE_PATIENCE: Duration = Duration::from_millis(1800);

/// Name queries that wait or run at once, in the whole node: those of 256 devices that have their
/// whole share, at 300 bytes each below 5 MiB. Beyond it a tunnel is refused.
pub const NAME_QUERIES_MAX: usize = 16_384;

/// Lookups that run at once. Each takes two sockets, and two more for each name server that is
/// asked because another does not answer.
pub const NAME_QUERIES_RUNNING: usize = 256;

/// Names that a device may wait for besides those that are looked up; beyond it its tunnel is
/// refused.
pub const NAME_QUERIES_PER_DEVICE: usize = 64;

/// Lookups of one device that run at once: where each takes a second, which is slow, it has its 64
/// names after four.
pub const NAME_QUERIES_RUNNING_PER_DEVICE: usize = 16;

const _: () = assert!(NAME_QUERIES_RUNNING_PER_DEVICE * 4 <= NAME_QUERIES_RUNNING);

/// Name servers that are asked: as many as the C library takes from `resolv.conf(5)`.
pub const NAME_SERVERS_MAX: usize = 3;

/// Domains that a short name of the configuration is completed with, at most.
pub const NAME_SEARCH_MAX: usize = 6;

/// How long one lookup may take, whatever `resolv.conf` says: it holds a place of its requester's
/// share.
pub const NAME_LOOKUP_MAX: Duration = Duration::from_secs(10);

/// How long the other address family is waited for where one has answered. RFC 8305, section 3, has
/// 50 ms where the user waits for a page; an answer here is kept and serves others.
pub const NAME_FAMILY_PATIENCE: Duration = Duration::from_millis(250);

/// Largest `resolv.conf` or hosts file, in bytes: block lists of 400 000 names are in use.
pub const NAME_FILE_MAX: u64 = 32 << 20;

/// Addresses of one name that are tried.
pub const NAME_ADDRESSES_MAX: usize = 8;

/// How long a tunnel is opened before it is looked whether its client is still there: most are open
/// long before.
pub const CLIENT_GONE_AFTER: Duration = Duration::from_millis(100);
