//! A node's metrics as text for Prometheus (OpenMetrics 1.0).
//!
//! Every name, its meaning and its labels are in `docs/metrics.md`; a test holds the two together.
//! Counters get the suffix `_total` here. No label holds what a client chose, so the number of
//! series is bounded by this file.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;

use super::admission::encode_admission;
use super::certificate::{CertificateInfo, encode_certificates};
use super::crl::CrlInfo;
use super::families::{Families, count_labelled};
use super::metrics::{Abuse, CoreMetrics, Stage};
use super::names::{NameCounts, encode_names};
use super::processes::{PredecessorGauges, encode_predecessor};
use super::servers::{ServerInfo, encode_servers};
use crate::reason::CloseReason;

/// The media type of what [`render`] makes.
pub const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds of the histogram buckets, in microseconds: 1-2.5-5 from what a cached decision
/// takes to the longest connect timeout in sense, then coarse for the lifetimes.
const BUCKETS: [u64; 24] = [
    10,
    25,
    50,
    100,
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
    900_000_000,
    3_600_000_000,
];

/// Values of the node as a whole, beside its cores.
#[derive(Clone, Debug, Default)]
pub struct NodeGauges {
    /// The version of the build.
    pub version: &'static str,
    /// When the process started.
    pub started: Option<SystemTime>,
    /// True if the node takes new tunnels.
    pub ready: bool,
    /// True if the node is shutting down.
    pub draining: bool,
    /// The name and the version of the active profile, the version where it comes from the store;
    /// `None` for a node that is unconfigured.
    pub profile: Option<(String, Option<u64>)>,
    /// How many configurations have been active, the present one included.
    pub config_generation: u64,
    /// Reloads that were refused.
    pub config_reload_failures: u64,
    /// True if the last one was.
    pub config_refused: bool,
    /// Audit records lost to a full queue or a failing sink.
    pub audit_lost: u64,
    /// Code and severity of each finding.
    pub findings: Vec<(&'static str, &'static str)>,
    /// Requests to the admin listener that would have changed something, and were refused or given
    /// up.
    pub admin_refused: u64,
    /// The process before this one; absent where there was none.
    pub predecessor: Option<PredecessorGauges>,
    /// Revoked serials that the index holds; absent without CRLs.
    pub crl_entries: Option<u64>,
    /// When the first of the CRLs expires (its `nextUpdate`); absent without CRLs.
    pub crl_next_update: Option<SystemTime>,
    /// Each CRL.
    pub crls: Arc<[CrlInfo]>,
    /// Each server certificate.
    pub certificates: Vec<CertificateInfo>,
    /// Times that one took over from another that had expired.
    pub certificate_takeovers: u64,
    /// Each server.
    pub servers: Vec<ServerInfo>,
    /// Devices in the registry; absent without one.
    pub registry_devices: Option<u64>,
    /// True if the registry's file could not be read and its last good copy counts.
    pub registry_stale: bool,
    /// Counts of name resolution.
    pub names: NameCounts,
}

/// Renders the merged metrics of the cores that answered, and nothing of the node: for a process
/// that relays what is left after an upgrade.
#[must_use]
pub fn render_cores(metrics: CoreMetrics) -> String {
    render_with(Snapshot {
        metrics,
        core_up: [].into(),
        node: NodeGauges::default(),
        is_node: false,
    })
}

/// Renders the merged metrics of the cores that answered, with whether each core did (`core_up`),
/// and the node's own.
#[must_use]
pub fn render(metrics: CoreMetrics, core_up: &[bool], node: NodeGauges) -> String {
    render_with(Snapshot {
        metrics,
        core_up: core_up.into(),
        node,
        is_node: true,
    })
}

fn render_with(snapshot: Snapshot) -> String {
    let mut registry = Registry::with_prefix("adit");
    registry.register_collector(Box::new(snapshot));
    let mut text = String::new();
    text::encode(&mut text, &registry).expect("writing to a String cannot fail");
    text
}

/// One reading, in the shape that the encoder asks for.
struct Snapshot {
    metrics: CoreMetrics,
    core_up: Arc<[bool]>,
    node: NodeGauges,
    /// True if the node's own are wanted.
    is_node: bool,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut out = Families(encoder);
        if self.is_node {
            self.encode_node(&mut out)?;
            encode_predecessor(self.node.predecessor, &mut out)?;
            encode_certificates(&self.node.certificates, &mut out)?;
            out.counter(
                "certificate_takeovers",
                "Times that a server certificate took over from one that had expired",
                self.node.certificate_takeovers,
            )?;
            encode_servers(&self.node.servers, &mut out)?;
            encode_names(&self.node.names, &mut out)?;
        }
        self.encode_traffic(&mut out)?;
        self.encode_runtime(&mut out)?;
        self.encode_latencies(&mut out)
    }
}

impl Snapshot {
    fn encode_node(&self, out: &mut Families<'_>) -> fmt::Result {
        let node = &self.node;
        out.0
            .encode_descriptor("build", "The running build", None, MetricType::Info)?
            .encode_info(&[("version", node.version)])?;
        if let Some(started) = node.started {
            out.gauge(
                "start_time_seconds",
                "When the process started, in Unix time",
                unix_seconds(started),
            )?;
        }
        out.gauge(
            "ready",
            "1 while the node takes new tunnels",
            u64::from(node.ready),
        )?;
        out.gauge(
            "draining",
            "1 while the node shuts down",
            u64::from(node.draining),
        )?;
        self.encode_profile(out)?;
        out.gauge(
            "config_generation",
            "Configurations that have been active",
            node.config_generation,
        )?;
        out.counter(
            "config_reload_failures",
            "Reloads that were refused",
            node.config_reload_failures,
        )?;
        out.gauge(
            "config_refused",
            "1 while the last change of the configuration is refused",
            u64::from(node.config_refused),
        )?;
        out.counter("audit_lost", "Audit records lost", node.audit_lost)?;
        encode_findings(&node.findings, out)?;
        out.counter(
            "admin_refused",
            "Changes through the admin listener refused or given up",
            node.admin_refused,
        )?;
        if let Some(entries) = node.crl_entries {
            out.gauge("crl_entries", "Revoked serials in the index", entries)?;
        }
        if let Some(expiry) = node.crl_next_update {
            out.gauge(
                "crl_next_update_seconds",
                "When the first CRL expires, in Unix time",
                unix_seconds(expiry),
            )?;
        }
        self.encode_crls(out)?;
        if let Some(devices) = node.registry_devices {
            out.gauge("registry_devices", "Devices in the registry", devices)?;
        }
        out.gauge(
            "registry_stale",
            "1 while the last good copy of the registry's file is used",
            u64::from(node.registry_stale),
        )?;
        self.encode_cores(out)
    }

    fn encode_cores(&self, out: &mut Families<'_>) -> fmt::Result {
        let mut up = out.family(
            "core_up",
            "1 if the core answered this reading",
            MetricType::Gauge,
        )?;
        for (core, answered) in self.core_up.iter().enumerate() {
            let labels = [("core", core.to_string())];
            up.encode_family(&labels)?
                .encode_gauge(&u64::from(*answered))?;
        }
        Ok(())
    }

    fn encode_profile(&self, out: &mut Families<'_>) -> fmt::Result {
        let profile = &self.node.profile;
        out.gauge(
            "unconfigured",
            "1 while the node has no profile",
            u64::from(profile.is_none()),
        )?;
        let Some((name, version)) = profile else {
            return Ok(());
        };
        let version = version.map_or(String::new(), |version| version.to_string());
        let labels = [("name", &**name), ("version", &*version)];
        out.0
            .encode_descriptor("profile", "The active profile", None, MetricType::Info)?
            .encode_info(&labels)
    }

    /// One time series a list: their number is that of the configured places and of the bounded set
    /// found in certificates.
    fn encode_crls(&self, out: &mut Families<'_>) -> fmt::Result {
        let crls = &self.node.crls;
        if crls.is_empty() {
            return Ok(());
        }
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        // A file may hold several lists of one issuer.
        let position = |at: usize| {
            let before = crls[..at].iter();
            before.filter(|crl| crl.source == crls[at].source).count()
        };
        let labels = |at: usize| {
            [
                ("source", crls[at].source.clone()),
                ("list", position(at).to_string()),
                ("issuer", crls[at].issuer.clone()),
                ("delta", crls[at].delta.to_string()),
            ]
        };
        let each = |mut family: MetricEncoder<'_>, value: &dyn Fn(&CrlInfo) -> Option<u64>| {
            for (at, crl) in crls.iter().enumerate() {
                if let Some(value) = value(crl) {
                    family.encode_family(&labels(at))?.encode_gauge(&value)?;
                }
            }
            Ok(())
        };
        let gauge = MetricType::Gauge;
        let family = out.family("crl_list_entries", "Entries of the CRL", gauge)?;
        each(family, &|crl| crl.this_update.map(|_| crl.entries))?;
        let family = out.family("crl_list_number", "Number of the CRL", gauge)?;
        each(family, &|crl| crl.number.as_ref()?.parse().ok())?;
        let family = out.family("crl_list_age_seconds", "Time since the CRL was made", gauge)?;
        each(family, &|crl| {
            crl.this_update.map(|made| now.saturating_sub(made))
        })?;
        let help = "When the CRL expires, in Unix time";
        let family = out.family("crl_list_next_update_seconds", help, gauge)?;
        each(family, &|crl| crl.next_update)?;
        let family = out.family("crl_list_current", "1 while the CRL is valid", gauge)?;
        each(family, &|crl| Some(u64::from(crl.state(now) == "current")))?;
        let help = "1 while there is no CRL of this source";
        let family = out.family("crl_list_missing", help, gauge)?;
        each(family, &|crl| Some(u64::from(crl.this_update.is_none())))?;
        let help = "1 while the last CRL of this source is not used, or in part only";
        let family = out.family("crl_list_refused", help, gauge)?;
        each(family, &|crl| Some(u64::from(crl.refused)))
    }

    fn encode_traffic(&self, out: &mut Families<'_>) -> fmt::Result {
        let m = &self.metrics;
        out.counter(
            "sessions_accepted",
            "Connections accepted",
            m.sessions_accepted,
        )?;
        out.counter(
            "sessions_handed_over",
            "Accepted connections given to another core",
            m.sessions_handed_over,
        )?;
        out.counter("sessions_closed", "Sessions ended", m.sessions_closed)?;
        out.gauge(
            "sessions_live",
            "Sessions that have not ended",
            m.sessions_live(),
        )?;
        out.counter("tunnels_opened", "Tunnels opened", m.tunnels_opened)?;
        out.counter("tunnels_closed", "Tunnels ended", m.tunnels_closed)?;
        out.gauge(
            "tunnels_live",
            "Tunnels that have not ended",
            m.tunnels_live(),
        )?;
        let mut bytes = out.family("bytes", "Payload bytes relayed", MetricType::Counter)?;
        for (direction, count) in [
            ("client-to-server", m.bytes_client_to_server),
            ("server-to-client", m.bytes_server_to_client),
        ] {
            count_labelled(&mut bytes, &[("direction", direction)], count)?;
        }
        let mut handshakes = out.family(
            "handshakes",
            "TLS handshakes completed",
            MetricType::Counter,
        )?;
        for (version, kind, count) in m.handshakes.iter() {
            count_labelled(
                &mut handshakes,
                &[("version", version), ("kind", kind)],
                count,
            )?;
        }
        let mut ends = out.family(
            "ends",
            "Outcomes of tunnels and of sessions without one",
            MetricType::Counter,
        )?;
        for reason in CloseReason::ALL {
            let row = reason.row();
            let labels = [
                ("reason", row.word),
                ("kind", row.kind.word()),
                ("who", row.who.word()),
            ];
            count_labelled(&mut ends, &labels, m.ends(*reason))?;
        }
        self.encode_http2(out)?;
        out.counter(
            "dial_retries",
            "Connects tried again with the next server",
            m.dial_retries,
        )?;
        self.encode_udp(out)?;
        self.encode_waits(out)
    }

    fn encode_udp(&self, out: &mut Families<'_>) -> fmt::Result {
        let m = &self.metrics;
        out.counter("udp_tunnels", "UDP tunnels opened", m.udp_tunnels)?;
        out.counter(
            "udp_dropped",
            "Datagrams that were not forwarded",
            m.udp_dropped,
        )?;
        out.counter(
            "udp_queue_full",
            "Datagrams of servers that found the queue full",
            m.udp_queue_full,
        )
    }

    fn encode_http2(&self, out: &mut Families<'_>) -> fmt::Result {
        let m = &self.metrics;
        out.counter("http2_sessions", "HTTP/2 sessions begun", m.http2_sessions)?;
        let mut abuse = out.family(
            "http2_abuse",
            "HTTP/2 sessions ended for what the client did",
            MetricType::Counter,
        )?;
        for kind in Abuse::ALL {
            let count = m.http2_abuse[kind.index()];
            count_labelled(&mut abuse, &[("kind", kind.word())], count)?;
        }
        Ok(())
    }

    fn encode_waits(&self, out: &mut Families<'_>) -> fmt::Result {
        let m = &self.metrics;
        out.counter(
            "rate_waits",
            "Receives delayed by a limit of bytes a second",
            m.rate_waits,
        )?;
        out.family(
            "rate_wait_seconds",
            "Duration of these delays, summed over all tunnels",
            MetricType::Counter,
        )?
        .encode_counter(
            &(m.rate_wait_nanos as f64 / 1e9),
            None::<&Exemplar<[(&str, &str); 0], f64>>,
        )?;
        out.counter(
            "accept_backoff",
            "Times that accepting was paused",
            m.accept_backoff + m.runtime.accept_pauses,
        )?;
        encode_admission(m, out)
    }

    fn encode_runtime(&self, out: &mut Families<'_>) -> fmt::Result {
        let r = &self.metrics.runtime;
        out.counter(
            "sweeps",
            "Sweeps over the open tunnels after a change",
            self.metrics.sweeps,
        )?;
        out.counter(
            "expiry_checks",
            "Open tunnels looked at because their certificates had expired",
            self.metrics.expiry_checks,
        )?;
        out.counter("runtime_turns", "Turns of the cores' loops", r.turns)?;
        out.counter(
            "runtime_completions",
            "Completions taken from the rings",
            r.completions,
        )?;
        out.counter(
            "runtime_enobufs",
            "Receives that found no free buffer",
            r.enobufs,
        )?;
        out.counter("runtime_emfile", "Calls that met the file limit", r.emfile)?;
        out.counter(
            "runtime_cq_overflow",
            "Completion queue overflows",
            r.cq_overflow,
        )?;
        out.counter(
            "runtime_cross_wakes",
            "Wake-ups from another core",
            r.cross_wakes,
        )?;
        out.counter("runtime_panics", "Tasks that ended by a panic", r.panics)?;
        out.gauge(
            "runtime_buffers",
            "Buffers that the cores own",
            r.buffers_total,
        )?;
        out.gauge(
            "runtime_buffers_in_use",
            "Buffers that are not free",
            r.buffers_in_use,
        )?;
        out.gauge(
            "runtime_buffers_max",
            "Small buffers that the cores may have",
            r.buffers_max,
        )?;
        out.gauge(
            "runtime_own_blocks",
            "Blocks of memory with incomplete data",
            r.own_blocks,
        )?;
        out.gauge("runtime_own_bytes", "Bytes of these blocks", r.own_bytes)?;
        out.gauge("runtime_tasks", "Tasks that have not ended", r.tasks_live)?;
        out.gauge(
            "runtime_operations",
            "Operations in flight",
            r.operations_live,
        )?;
        out.gauge(
            "runtime_fds",
            "File descriptors that the cores own",
            r.fds_live,
        )?;
        out.gauge("runtime_timers", "Timers that are set", r.timers_live)
    }

    fn encode_latencies(&self, out: &mut Families<'_>) -> fmt::Result {
        let mut family = out.family(
            "stage_seconds",
            "Duration of each stage",
            MetricType::Histogram,
        )?;
        for stage in Stage::ALL {
            let histogram = self.metrics.histogram(stage);
            let sum = histogram.mean() * histogram.len() as f64 / 1e6;
            let labels = [("stage", stage.word())];
            family
                .encode_family(&labels)?
                .encode_histogram::<[(&str, &str); 0]>(
                    sum,
                    histogram.len(),
                    &bucket_counts(histogram),
                    None,
                )?;
        }
        Ok(())
    }
}

/// The count of each bucket (the encoder adds them up) with its bound in seconds; a value on a
/// bound is in the bucket below it.
fn bucket_counts(histogram: &Histogram<u64>) -> Vec<(f64, u64)> {
    let mut counts = [0; BUCKETS.len() + 1];
    for step in histogram.iter_recorded() {
        // The least value of a histogram's step decides, so that what was recorded as a bound stays within it.
        let value = histogram.lowest_equivalent(step.value_iterated_to());
        counts[BUCKETS.partition_point(|bound| *bound < value)] += step.count_at_value();
    }
    let bounds = BUCKETS
        .iter()
        .map(|micros| *micros as f64 / 1e6)
        .chain([f64::INFINITY]);
    bounds.zip(counts).collect()
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs()
}

/// Findings by code and severity; a family without samples where there are none.
fn encode_findings(
    findings: &[(&'static str, &'static str)],
    out: &mut Families<'_>,
) -> fmt::Result {
    let mut counts = BTreeMap::<_, u64>::new();
    for finding in findings {
        *counts.entry(*finding).or_default() += 1;
    }
    let help = "Things that are amiss on the node, by code and severity; docs/health.md has each";
    let mut family = out.family("finding", help, MetricType::Gauge)?;
    counts.iter().try_for_each(|((code, severity), count)| {
        let labels = [("code", *code), ("severity", *severity)];
        family.encode_family(&labels)?.encode_gauge(count)
    })
}

#[cfg(test)]
mod tests;
