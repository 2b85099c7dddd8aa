//! The running node as the admin listener sees it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{Node, Readiness, Reply};
use crate::engine;
use crate::observe::{AuditHandle, CoreMetrics, NodeGauges, TunnelInfo};

/// The engine and the audit log, as one node.
pub struct RunningNode {
    /// The cores.
    pub engine: Arc<engine::Node>,
    /// The audit log.
    pub audit: AuditHandle,
}

impl Node for RunningNode {
    fn cores(&self) -> usize {
        self.engine.core_count()
    }

    fn snapshot(&self, core: usize, reply: Reply<CoreMetrics>) {
        self.engine.ask_metrics(core, reply);
    }

    fn tunnels(&self, core: usize, reply: Reply<Vec<TunnelInfo>>) {
        self.engine.ask_tunnels(core, reply);
    }

    fn ready(&self) -> Readiness {
        let mut reasons = Vec::new();
        if self.engine.is_draining() {
            reasons.push("draining: new tunnels are refused".to_owned());
        }
        if !self.engine.all_cores_run() {
            reasons.push("a core has ended".to_owned());
        }
        let ready = reasons.is_empty();
        if self.audit.lost() > 0 {
            reasons.push(format!("{} audit records were lost", self.audit.lost()));
        }
        Readiness { ready, reasons }
    }

    fn gauges(&self) -> NodeGauges {
        let engine = &self.engine;
        let (entries, next_update) = engine.revocation();
        NodeGauges {
            version: env!("CARGO_PKG_VERSION"),
            started: Some(engine.started()),
            ready: self.ready().ready,
            draining: engine.is_draining(),
            config_generation: engine.generation(),
            config_reload_failures: engine.reload_failures(),
            audit_lost: self.audit.lost(),
            crl_entries: Some(entries),
            crl_next_update: next_update
                .map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)),
            crls: engine.crls(),
            registry_devices: Some(engine.registered_devices()),
        }
    }
}
