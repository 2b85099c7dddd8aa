//! Counts of name resolution.

use std::fmt;

use prometheus_client::metrics::MetricType;

use super::families::{Families, count_labelled};

/// Lookups so far, by what they came to, and those that are open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NameCounts {
    /// Gave addresses.
    pub found: u64,
    /// There is no such name, or it has no address.
    pub not_found: u64,
    /// No answer came, or none that says anything.
    pub failed: u64,
    /// Refused: a device's share or the node's queue was full.
    pub refused: u64,
    /// The tunnel that wanted the name has gone.
    pub cancelled: u64,
    /// Wait for their turn now.
    pub waiting: u64,
    /// Run now.
    pub running: u64,
    /// Times that the system's settings were taken.
    pub generation: u64,
    /// True if what stands in their files now cannot be taken.
    pub settings_refused: bool,
}

pub(super) fn encode_names(names: &NameCounts, out: &mut Families<'_>) -> fmt::Result {
    let help = "Names looked up with the system's settings";
    let mut family = out.family("name_lookups", help, MetricType::Counter)?;
    for (result, count) in [
        ("found", names.found),
        ("not-found", names.not_found),
        ("failed", names.failed),
        ("refused", names.refused),
        ("cancelled", names.cancelled),
    ] {
        count_labelled(&mut family, &[("result", result)], count)?;
    }
    out.gauge(
        "name_lookups_waiting",
        "Names that wait for their turn",
        names.waiting,
    )?;
    out.gauge("name_lookups_running", "Lookups that run", names.running)?;
    out.gauge(
        "name_settings_refused",
        "1 while what stands in the files of these settings cannot be taken",
        u64::from(names.settings_refused),
    )?;
    out.counter(
        "name_settings_changes",
        "Times that the system's settings of name resolution were taken",
        names.generation,
    )
}
