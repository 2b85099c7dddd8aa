//! Observation of a node: counters and latency histograms for each core, the audit log, and the
//! forms in which they are read.
//!
//! A core writes only to what it owns ([`CoreMetrics`]) or to a bounded queue that never blocks
//! ([`AuditHandle`]); merging, formatting and writing happen elsewhere. This room opens no socket:
//! `control` serves what is made here.

mod admin_record;
mod admission;
mod audit;
mod buckets;
mod certificate;
mod crl;
mod families;
mod hgrm;
mod live;
mod metrics;
mod moment;
mod names;
mod processes;
mod prometheus;
mod servers;
mod sink;

pub use admin_record::{AdminEnd, AdminRecord};
pub use audit::{
    AuditEvent, AuditHandle, AuditLog, AuditRecord, AuditSink, ProfileName, Protocol, RefusedFacts,
    Subject, TlsSession, TunnelFacts, unique_id,
};
pub use buckets::{PercentilePoint, bucket_bounds, bucket_counts, percentile_points};
pub use certificate::{CertificateInfo, GROUP};
pub use crl::CrlInfo;
pub use hgrm::{HistogramSummary, percentile_text, plot, summarize};
pub use live::{TunnelFilter, TunnelInfo};
pub use metrics::{
    Abuse, CoreMetrics, HandshakeCounters, HandshakeKind, Stage, TlsVersion, latency_histogram,
    record_latency,
};
pub use names::NameCounts;
pub use processes::{PredecessorGauges, with_process};
pub use prometheus::{NodeGauges, OPENMETRICS, render, render_cores};
pub use servers::{LastCheck, ServerInfo};
pub use sink::AuditLogError;
