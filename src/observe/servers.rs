//! State of a server in `/servers` and the metrics.

use std::fmt;

use prometheus_client::metrics::MetricType;
use serde::{Deserialize, Serialize};

use super::families::{Families, count_labelled};
use crate::limits::SERVERS_SHOWN;

/// One server of a service at the moment of the question.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerInfo {
    /// The service.
    pub service: String,
    /// The server, as `host:port`.
    pub server: String,
    /// `up`, `slow-start`, `dead`, `trial` (dead, and the next tunnel tries it) or `drained`.
    pub state: String,
    /// Why it is dead: the word of the last failure, and whether tunnels or checks met it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Its weight.
    pub weight: u32,
    /// The part of its weight that counts now, in percent.
    pub share: u32,
    /// Tunnels open, or being opened.
    pub tunnels: u64,
    /// Tunnels that reached it.
    pub connects: u64,
    /// Tunnels that did not.
    pub connect_failures: u64,
    /// Good checks.
    pub checks_passed: u64,
    /// Bad checks.
    pub checks_failed: u64,
    /// The last check, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_check: Option<LastCheck>,
}

impl ServerInfo {
    /// Returns whether it takes tunnels.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(self.state.as_str(), "up" | "slow-start")
    }
}

/// The outcome of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastCheck {
    /// Milliseconds ago.
    pub age_ms: u64,
    /// True if it was good.
    pub passed: bool,
    /// Why it was not: the word of the failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

/// The servers as metrics: as many time series as there are servers in the configuration, up to a
/// bound.
pub(super) fn encode_servers(servers: &[ServerInfo], out: &mut Families<'_>) -> fmt::Result {
    let servers = &servers[..servers.len().min(SERVERS_SHOWN)];
    if servers.is_empty() {
        return Ok(());
    }
    let labels = |info: &ServerInfo| {
        [
            ("service", info.service.clone()),
            ("server", info.server.clone()),
        ]
    };
    let mut gauge = |name, help, value: &dyn Fn(&ServerInfo) -> u64| {
        let mut family = out.family(name, help, MetricType::Gauge)?;
        servers.iter().try_for_each(|info| {
            let labels = labels(info);
            let mut sample = family.encode_family(&labels)?;
            sample.encode_gauge(&value(info))
        })
    };
    gauge("server_up", "1 while the server gets tunnels", &|info| {
        u64::from(info.is_up())
    })?;
    gauge("server_drained", "1 while the server is drained", &|info| {
        u64::from(info.state == "drained")
    })?;
    let help = "Weight of the server";
    gauge("server_weight", help, &|info| u64::from(info.weight))?;
    let help = "Active part of the server's weight, in percent";
    gauge("server_share", help, &|info| u64::from(info.share))?;
    let help = "Tunnels to the server, open or being opened";
    gauge("server_tunnels", help, &|info| info.tunnels)?;
    let mut counter = |name, help, value: &dyn Fn(&ServerInfo) -> u64| {
        let mut family = out.family(name, help, MetricType::Counter)?;
        servers
            .iter()
            .try_for_each(|info| count_labelled(&mut family, &labels(info), value(info)))
    };
    let help = "Tunnels that reached the server";
    counter("server_connects", help, &|info| info.connects)?;
    let help = "Tunnels that did not reach the server";
    counter("server_connect_failures", help, &|info| {
        info.connect_failures
    })?;
    let help = "Checks of the server";
    let mut family = out.family("server_checks", help, MetricType::Counter)?;
    for info in servers {
        let [service, server] = labels(info);
        let results = [
            ("passed", info.checks_passed),
            ("failed", info.checks_failed),
        ];
        for (result, count) in results {
            let labels = [
                service.clone(),
                server.clone(),
                ("result", result.to_owned()),
            ];
            count_labelled(&mut family, &labels, count)?;
        }
    }
    Ok(())
}
