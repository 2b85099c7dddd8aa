//! Results of a run.

use std::collections::BTreeMap;
use std::fmt::{self, Display};

use hdrhistogram::Histogram;
use serde::Serialize;
use serde::ser::SerializeStruct;

use crate::observe::summarize;

/// The figures of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// Operations completed in the measured time: handshakes or round trips; tunnels held for an
    /// idle run.
    pub operations: u64,
    /// Of the sessions opened in the measured time, those that were resumed.
    pub resumed: u64,
    /// Measured time in seconds.
    pub seconds: f64,
    /// Payload bytes moved in the measured time, both directions.
    pub bytes: u64,
    /// Latency of an operation in microseconds.
    pub latency: Histogram<u64>,
    /// Failed operations from the start of the run, by kind.
    pub errors: BTreeMap<&'static str, u64>,
    /// Of these, those before the measured time: while tunnels were opened, or in the warm-up.
    pub errors_before: u64,
    /// Reasons of these failures, where there is more to say than the kind: the status and
    /// Proxy-Status of a refusal.
    pub reasons: BTreeMap<String, u64>,
    /// Operations a second that were asked for; `None` in a closed loop.
    pub offered: Option<f64>,
    /// The generator's CPU time as a share of the measured time.
    pub cpu_share: f64,
}

impl Report {
    /// Operations a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.operations as f64 / self.seconds.max(1e-9)
    }

    /// Failed operations.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.errors.values().sum()
    }
}

#[derive(Serialize)]
struct Latency {
    p50: u64,
    p90: u64,
    p99: u64,
    p99_9: u64,
    max: u64,
}

impl Serialize for Report {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let summary = summarize(&self.latency);
        let mut out = serializer.serialize_struct("report", 12)?;
        out.serialize_field("operations", &self.operations)?;
        out.serialize_field("resumed", &self.resumed)?;
        out.serialize_field("seconds", &self.seconds)?;
        out.serialize_field("rate", &self.rate())?;
        out.serialize_field("bytes", &self.bytes)?;
        let latency = Latency {
            p50: summary.p50,
            p90: summary.p90,
            p99: summary.p99,
            p99_9: summary.p99_9,
            max: summary.max,
        };
        out.serialize_field("latency_us", &latency)?;
        out.serialize_field("errors", &self.failed())?;
        out.serialize_field("errors_by_kind", &self.errors)?;
        out.serialize_field("errors_before_measuring", &self.errors_before)?;
        out.serialize_field("reasons", &self.reasons)?;
        out.serialize_field("offered", &self.offered)?;
        out.serialize_field("cpu_share", &self.cpu_share)?;
        out.end()
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let summary = summarize(&self.latency);
        writeln!(
            f,
            "operations   {} in {:.1} s, {:.0} a second",
            self.operations,
            self.seconds,
            self.rate()
        )?;
        if let Some(offered) = self.offered {
            writeln!(f, "offered      {offered} a second")?;
        }
        if self.bytes > 0 {
            writeln!(
                f,
                "payload      {:.1} MB/s",
                self.bytes as f64 / self.seconds.max(1e-9) / 1e6
            )?;
        }
        if self.resumed > 0 {
            writeln!(f, "resumed      {} sessions", self.resumed)?;
        }
        if !self.latency.is_empty() {
            let s = &summary;
            writeln!(
                f,
                "latency      p50 {} µs, p90 {} µs, p99 {} µs, p99.9 {} µs, max {} µs",
                s.p50, s.p90, s.p99, s.p99_9, s.max
            )?;
        }
        for (kind, count) in &self.errors {
            writeln!(f, "failed       {count} ({kind})")?;
        }
        for (reason, count) in &self.reasons {
            writeln!(f, "             {count} {reason}")?;
        }
        if self.errors_before > 0 {
            let count = self.errors_before;
            writeln!(f, "             {count} of these before the measured time")?;
        }
        write!(f, "generator    {:.0} % of a CPU", self.cpu_share * 100.0)?;
        if self.cpu_share > 0.9 {
            write!(f, ": saturated, so these are the generator's limits")?;
        }
        Ok(())
    }
}
