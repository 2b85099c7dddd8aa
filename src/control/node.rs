//! The running node as the admin listener sees it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::health::ProcessFacts;
use super::{
    Device, Health, Node, Readiness, Refusal, ReloadTrigger, Reloader, Reply, StateSocket,
};
use crate::config::Origin;
use crate::engine::{self, ChangeError, DrainError, InForce, Predecessor};
use crate::observe::{
    AdminRecord, AuditHandle, CoreMetrics, NodeGauges, PredecessorGauges, ServerInfo, TunnelFilter,
    TunnelInfo,
};
use crate::ring;
use crate::table::{DeviceChanges, DeviceRegistry};

/// The engine and the audit log, as one node.
pub struct RunningNode {
    /// The cores.
    pub engine: Arc<engine::Node>,
    /// The audit log.
    pub audit: AuditHandle,
    /// Takes changes for it.
    pub reloader: Arc<Reloader>,
    /// The socket in the state folder, where it has one of its own.
    pub state_socket: Option<Arc<StateSocket>>,
    /// The findings of the last look.
    pub health: Health,
}

impl Node for RunningNode {
    fn cores(&self) -> usize {
        self.engine.core_count()
    }

    fn snapshot(&self, core: usize, reply: Reply<CoreMetrics>) {
        self.engine.ask_metrics(core, reply);
    }

    fn tunnels(
        &self,
        core: usize,
        filter: TunnelFilter,
        limit: usize,
        reply: Reply<(usize, Vec<TunnelInfo>)>,
    ) {
        self.engine.ask_tunnels(core, filter, limit, reply);
    }

    fn close_tunnels(&self, core: usize, filter: TunnelFilter, reply: Reply<usize>) {
        self.engine.close_tunnels(core, filter, reply);
    }

    fn device(&self, name: &str) -> Option<Device> {
        let table = &self.engine.registry().table;
        table.read(|devices| devices.get(name).map(|entry| Device::new(name, entry)))
    }

    fn devices(
        &self,
        prefix: String,
        after: String,
        limit: usize,
        reply: Reply<(usize, Vec<Device>)>,
    ) {
        let devices = self.engine.registry().table.read(DeviceRegistry::clone);
        // Looks at every device: not on this thread, which answers probes, and behind the data cores.
        std::thread::spawn(move || {
            ring::yield_to_others();
            let listed = devices.list(&prefix, &after, limit);
            let listed = listed.iter().map(|(name, entry)| Device::new(name, *entry));
            reply((devices.len(), listed.collect()));
        });
    }

    fn change_devices(
        &self,
        changes: DeviceChanges,
        must_exist: bool,
        reply: Reply<Result<(), ChangeError>>,
    ) {
        self.engine.registry().change(changes, must_exist, reply);
    }

    fn servers(&self) -> Vec<ServerInfo> {
        self.engine.backends().list()
    }

    fn drain_server(
        &self,
        service: &str,
        server: &str,
        drained: bool,
    ) -> Result<Option<ServerInfo>, DrainError> {
        self.engine.drain_server(service, server, drained)
    }

    fn forget_crl(&self, source: &str) -> Result<bool, DrainError> {
        self.engine.forget_crl(source)
    }

    fn reload(&self, reply: Reply<Result<u64, Refusal>>) {
        self.reloader.in_background(ReloadTrigger::Admin, reply);
    }

    fn refused(&self) -> Option<Refusal> {
        self.reloader.refused()
    }

    fn reloader(&self) -> Option<Arc<Reloader>> {
        Some(self.reloader.clone())
    }

    fn ready(&self) -> Readiness {
        let problem = |socket: &Arc<StateSocket>| Some(socket.problem()?.to_string());
        let process = ProcessFacts {
            audit_lost: self.audit.lost(),
            state_socket: self.state_socket.as_ref().and_then(problem),
            refused: self.refused(),
        };
        self.health.look(&self.engine, process)
    }

    fn predecessor(&self) -> Option<Arc<Predecessor>> {
        self.engine.predecessor().cloned()
    }

    fn audit(&self, record: AdminRecord) {
        self.audit.write_admin(record);
    }

    fn gauges(&self) -> NodeGauges {
        let engine = &self.engine;
        let (entries, next_update) = engine.revocation();
        let readiness = self.ready();
        NodeGauges {
            version: env!("CARGO_PKG_VERSION"),
            started: Some(engine.started()),
            ready: readiness.ready,
            findings: {
                let findings = readiness.findings.iter();
                let words = findings.map(|one| (one.code.word(), one.level.word()));
                words.collect()
            },
            draining: engine.is_draining(),
            profile: match engine.profile() {
                InForce {
                    origin: Origin::Nowhere,
                    ..
                } => None,
                InForce {
                    name,
                    origin: Origin::Store { version },
                } => Some((name, Some(version))),
                InForce {
                    name,
                    origin: Origin::File,
                } => Some((name, None)),
            },
            config_generation: engine.generation(),
            config_reload_failures: engine.reload_failures(),
            config_refused: self.refused().is_some(),
            audit_lost: self.audit.lost(),
            predecessor: engine.predecessor().map(|earlier| PredecessorGauges {
                is_there: earlier.info().is_some(),
                is_lost: earlier.info().is_some_and(|info| info.lost.is_some()),
                losses: earlier.losses(),
            }),
            // The admin listener knows.
            admin_refused: 0,
            crl_entries: Some(entries),
            crl_next_update: next_update
                .map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)),
            registry_stale: engine.registry().stale().is_some(),
            crls: engine.crls(),
            certificates: engine.certificates(),
            certificate_takeovers: engine.certificate_takeovers(),
            servers: self.servers(),
            registry_devices: Some(engine.registered_devices()),
            names: engine.names().counts(),
        }
    }
}
