//! What `/servers` and the metrics tell of a server.

use serde::{Deserialize, Serialize};

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
    /// Whether it takes tunnels.
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
    /// Whether it was good.
    pub passed: bool,
    /// Why it was not: the word of the failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}
