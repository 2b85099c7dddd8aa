//! Bounds of name resolution.

use std::time::Duration;

/// Names that a core remembers. At 100 bytes each below 1 MiB a core; beyond it the cache starts anew.
pub const NAME_CACHE_MAX: usize = 8192;

/// Shortest time that a resolved name is used: a TTL of zero must not turn each tunnel into a query.
pub const NAME_TTL_MIN: Duration = Duration::from_secs(1);

/// Longest time that a resolved name is used, whatever its TTL: servers move.
pub const NAME_TTL_MAX: Duration = Duration::from_secs(300);

/// How long a name that does not exist is taken not to exist.
pub const NAME_NEGATIVE_TTL: Duration = Duration::from_secs(2);

/// How long an answer is used beyond its time while no name server gives a new one (RFC 8767): servers seldom move, and an
/// outage of the name service need not be one of theirs.
pub const NAME_STALE_MAX: Duration = Duration::from_secs(3600);

/// How long such an answer is used before the name servers are asked again (RFC 8767, section 5).
pub const NAME_STALE_TTL: Duration = Duration::from_secs(30);

/// How long a tunnel waits for a name server where there is such an answer (RFC 8767, section 5).
pub const NAME_STALE_PATIENCE: Duration = Duration::from_millis(1800);

/// Name queries that wait or run at once, in the whole node; beyond it a tunnel is answered as if the query had timed out.
pub const NAME_QUERIES_MAX: usize = 1024;

/// Addresses of one name that are tried.
pub const NAME_ADDRESSES_MAX: usize = 8;
