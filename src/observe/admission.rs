//! Clients that are not authenticated yet, as a node tells of them.

use std::fmt;

use super::families::Families;
use super::metrics::CoreMetrics;

/// How many there are, and may be.
pub(super) fn encode_admission(m: &CoreMetrics, out: &mut Families<'_>) -> fmt::Result {
    out.gauge(
        "unauthenticated",
        "Connections whose clients are not authenticated yet",
        m.unauthenticated,
    )?;
    out.gauge(
        "unauthenticated_max",
        "How many there may be",
        m.unauthenticated_max,
    )?;
    out.gauge(
        "unauthenticated_sources",
        "Source addresses that are known for them, or for failed handshakes",
        m.sources,
    )
}
