//! The health of the running node: every finding, from one look at its parts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::sleep;

use super::{Node, Readiness, Refusal};
use crate::config::{Origin, Stale};
use crate::engine;
use crate::findings::{FindingCode, HealthBoard, HealthFinding, HealthLevel};
use crate::limits::{
    CRL_ENDING_PART, EXPIRY_CRITICAL_DAYS, EXPIRY_NOTICE_DAYS, EXPIRY_URGENT_DAYS, HEALTH_POLL,
};
use crate::observe::{CertificateInfo, CrlInfo, GROUP, ServerInfo};

use FindingCode as Code;
use HealthLevel::{Critical, Notice, Warning};

/// Findings of the last look, which were logged.
#[derive(Debug, Default)]
pub struct Health(Mutex<HealthBoard>);

impl Health {
    /// Looks at the node, and logs what has changed since the last look.
    pub(super) fn look(&self, engine: &engine::Node, process: ProcessFacts) -> Readiness {
        let now = SystemTime::now();
        let mut findings = of_state(engine);
        let ready = findings.is_empty();
        let since_1970 = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        findings.extend(of_certificates(&engine.certificates()));
        let stale = engine.stale_policy();
        findings.extend(of_crls(&engine.crls(), stale, since_1970));
        findings.extend(of_servers(&engine.backends().list()));
        findings.extend(of_process(engine, process));
        let ready = ready
            && !findings
                .iter()
                .any(|one| one.code == Code::ServerCertificateExpired);
        let mut board = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let changes = board.look(&mut findings, now);
        drop(board);
        for finding in &changes.appeared {
            log(finding);
        }
        for (code, subject) in &changes.gone {
            tracing::info!(code = code.word(), subject, "the finding is gone");
        }
        Readiness { ready, findings }
    }
}

fn log(finding: &HealthFinding) {
    let HealthFinding {
        code,
        level,
        subject,
        message,
        ..
    } = finding;
    let (code, severity) = (code.word(), level.word());
    let (consequence, remedy) = (finding.code.consequence(), finding.code.remedy());
    match level {
        Notice => tracing::info!(code, severity, subject, consequence, remedy, "{message}"),
        Warning => tracing::warn!(code, severity, subject, consequence, remedy, "{message}"),
        Critical => tracing::error!(code, severity, subject, consequence, remedy, "{message}"),
    }
}

/// Facts that the engine does not know.
pub(super) struct ProcessFacts {
    /// Audit records that were lost.
    pub audit_lost: u64,
    /// Why commands cannot use the socket in the state folder.
    pub state_socket: Option<String>,
    /// The last change, if it was refused.
    pub refused: Option<Refusal>,
}

/// Reasons why the node takes no new tunnels.
fn of_state(engine: &engine::Node) -> Vec<HealthFinding> {
    let mut found = Vec::new();
    let mut add = |code, level, message: &str| {
        found.push(HealthFinding::new(code, level, "", message));
    };
    if engine.is_draining() {
        add(Code::Draining, Notice, "draining: new tunnels are refused");
    } else if engine.is_leaving() {
        add(
            Code::Draining,
            Notice,
            "leaving: new tunnels are refused soon",
        );
    }
    if engine.profile().origin == Origin::Nowhere {
        let message = "unconfigured: no profile is assigned to this node";
        add(Code::Unconfigured, Critical, message);
    }
    if !engine.all_cores_run() {
        add(Code::CoreEnded, Critical, "a core has ended");
    }
    found
}

/// A group certificate that has ended refuses its devices, a server's certificate all of them if no
/// other has taken over.
fn of_certificates(certificates: &[CertificateInfo]) -> Vec<HealthFinding> {
    let of = |one: &CertificateInfo| {
        let is_group = one.role == GROUP;
        if one.has_ended() {
            let (code, level, message) = match (is_group, one.is_in_turn()) {
                (true, _) => (
                    Code::GroupCertificateExpired,
                    Critical,
                    format!("a group certificate has expired: {}", one.file),
                ),
                (false, true) => (
                    Code::ServerCertificateExpired,
                    Critical,
                    format!(
                        "the server certificate has expired and there is no other: {}",
                        one.file
                    ),
                ),
                (false, false) => (
                    Code::ServerCertificateEnding,
                    Warning,
                    format!("a {} certificate has expired: {}", one.role, one.file),
                ),
            };
            return Some(HealthFinding::new(code, level, &*one.file, message));
        }
        let level = match one.days_left {
            days if days < EXPIRY_CRITICAL_DAYS => Critical,
            days if days < EXPIRY_URGENT_DAYS => Warning,
            days if days < EXPIRY_NOTICE_DAYS => Notice,
            _ => return None,
        };
        // Its successor is made and served in time.
        if one.role.starts_with("self-signed") {
            return None;
        }
        let code = match is_group {
            true => Code::GroupCertificateEnding,
            false => Code::ServerCertificateEnding,
        };
        let message = format!(
            "a {} certificate ends in {} days: {}",
            one.role, one.days_left, one.file
        );
        Some(HealthFinding::new(code, level, &*one.file, message))
    };
    certificates.iter().filter_map(of).collect()
}

fn of_crls(crls: &[CrlInfo], stale: Stale, now: Duration) -> Vec<HealthFinding> {
    let seconds = now.as_secs();
    let of = |crl: &CrlInfo| {
        let why = crl
            .problem
            .as_deref()
            .map_or(String::new(), |why| format!(": {why}"));
        let next = crl.next_update.unwrap_or(0);
        // Whether devices are refused now.
        let level = match stale {
            Stale::Hard => Critical,
            Stale::Grace(grace) if seconds >= next.saturating_add(grace.as_secs()) => Critical,
            Stale::Grace(_) | Stale::Soft => Warning,
        };
        let (code, level, message) = match crl.state(seconds) {
            "missing" => (
                Code::CrlMissing,
                level,
                format!("there is no CRL from {}{why}", crl.source),
            ),
            "expired" => (
                Code::CrlExpired,
                level,
                format!(
                    "the CRL of {} from {} has expired{why}",
                    crl.issuer, crl.source
                ),
            ),
            _ if crl.refused => (
                Code::CrlRefused,
                Warning,
                format!("a CRL from {} is not taken{why}", crl.source),
            ),
            "current" if is_ending(crl, seconds) => (
                Code::CrlEnding,
                Warning,
                format!("the CRL of {} from {} ends soon", crl.issuer, crl.source),
            ),
            _ => return None,
        };
        Some(HealthFinding::new(code, level, &*crl.source, message))
    };
    crls.iter().filter_map(of).collect()
}

/// Returns whether little of a list's life is left.
fn is_ending(crl: &CrlInfo, now: u64) -> bool {
    let (Some(from), Some(to)) = (crl.this_update, crl.next_update) else {
        return false;
    };
    to.saturating_sub(now) < to.saturating_sub(from) / CRL_ENDING_PART
}

/// One finding for a service that is down, and else one for each server that is. What an operator
/// has drained is no finding.
fn of_servers(servers: &[ServerInfo]) -> Vec<HealthFinding> {
    let mut services: BTreeMap<&str, Vec<&ServerInfo>> = BTreeMap::new();
    for server in servers {
        services.entry(&server.service).or_default().push(server);
    }
    let mut found = Vec::new();
    for (service, servers) in services {
        let is_down = |server: &&ServerInfo| !server.is_up() && server.state != "drained";
        let down: Vec<_> = servers
            .iter()
            .copied()
            .filter(|server| is_down(server))
            .collect();
        if down.is_empty() {
            continue;
        }
        if !servers.iter().any(|server| server.is_up()) {
            let message = format!("no server of the service {service} is up");
            found.push(HealthFinding::new(
                Code::ServiceDown,
                Critical,
                service,
                message,
            ));
            continue;
        }
        found.extend(down.into_iter().map(|server| {
            let why = server.why.as_deref().unwrap_or("no reason is known");
            let message = format!("the server {} of {service} is dead: {why}", server.server);
            let subject = format!("{service} {}", server.server);
            HealthFinding::new(Code::ServerDown, Warning, subject, message)
        }));
    }
    found
}

/// Findings of files, the audit log and the process before this one.
fn of_process(engine: &engine::Node, process: ProcessFacts) -> Vec<HealthFinding> {
    let mut found = Vec::new();
    let mut add = |code, message: String| {
        found.push(HealthFinding::new(code, Warning, "", message));
    };
    let lost = process.audit_lost;
    if lost > 0 {
        add(Code::AuditLost, format!("{lost} audit records were lost"));
    }
    if let Some(problem) = process.state_socket {
        add(Code::StateSocket, problem);
    }
    if let Some(why) = engine.registry().stale() {
        let message = format!("the last good copy of the device registry is used: {why}");
        add(Code::RegistryStale, message);
    }
    if let Some(Refusal { problems, .. }) = process.refused {
        let more = match problems.len() {
            0 | 1 => String::new(),
            all => format!(" (and {} more)", all - 1),
        };
        let first = problems
            .first()
            .map(ToString::to_string)
            .unwrap_or_default();
        let message = format!("the last change was refused{more}: {first}");
        add(Code::ChangeRefused, message);
    }
    let earlier = engine.predecessor().and_then(|earlier| earlier.info());
    if let Some(earlier) = earlier {
        let pid = earlier.pid;
        if let Some(why) = earlier.lost {
            let message = format!(
                "the process before this one ({pid}) does not follow any more, and is being ended: {why}"
            );
            add(Code::PredecessorLost, message);
        } else if earlier.refused {
            let message = format!(
                "the process before this one ({pid}) has refused the last change; its log says why"
            );
            add(Code::PredecessorRefused, message);
        }
    }
    found
}

/// Looks for ever, so that what appears and goes is in the log.
pub async fn watch_health(node: Arc<impl Node>) {
    loop {
        let _ = node.ready();
        sleep(HEALTH_POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 60 * 60;

    fn codes(found: &[HealthFinding]) -> Vec<(&'static str, &'static str)> {
        found
            .iter()
            .map(|one| (one.code.word(), one.level.word()))
            .collect()
    }

    #[test]
    fn a_certificate_is_the_more_urgent_the_nearer_its_end() {
        let of = |role: &'static str, days: i64, served: bool| {
            let one = CertificateInfo {
                role,
                served,
                not_after: (1000 + days) as u64 * DAY,
                ..CertificateInfo::default()
            };
            codes(&of_certificates(&[one.at(1000 * DAY)]))
        };
        assert_eq!(of("primary", 61, true), []);
        assert_eq!(
            of("primary", 59, true),
            [("server-certificate-ending", "notice")]
        );
        assert_eq!(
            of("primary", 29, true),
            [("server-certificate-ending", "warning")]
        );
        assert_eq!(
            of(GROUP, 6, true),
            [("group-certificate-ending", "critical")]
        );
        assert_eq!(
            of("primary", 0, true),
            [("server-certificate-expired", "critical")]
        );
        assert_eq!(
            of("secondary", 0, false),
            [("server-certificate-ending", "warning")]
        );
        assert_eq!(
            of(GROUP, -3, false),
            [("group-certificate-expired", "critical")]
        );
        assert_eq!(of("self-signed", 6, true), []);
    }

    #[test]
    fn a_list_that_has_ended_is_as_bad_as_the_policy_makes_it() {
        let list = |from: u64, to: u64| CrlInfo {
            this_update: Some(from),
            next_update: Some(to),
            ..CrlInfo::default()
        };
        let at =
            |crl: CrlInfo, stale, now| codes(&of_crls(&[crl], stale, Duration::from_secs(now)));
        let grace = Stale::Grace(Duration::from_secs(50));
        assert_eq!(at(list(0, 1000), Stale::Hard, 800), []);
        assert_eq!(
            at(list(0, 1000), Stale::Hard, 950),
            [("crl-ending", "warning")]
        );
        assert_eq!(
            at(list(0, 1000), Stale::Hard, 1000),
            [("crl-expired", "critical")]
        );
        assert_eq!(at(list(0, 1000), grace, 1000), [("crl-expired", "warning")]);
        assert_eq!(
            at(list(0, 1000), grace, 1050),
            [("crl-expired", "critical")]
        );
        assert_eq!(
            at(list(0, 1000), Stale::Soft, 5000),
            [("crl-expired", "warning")]
        );
        assert_eq!(
            at(CrlInfo::default(), Stale::Hard, 5),
            [("crl-missing", "critical")]
        );
        let refused = CrlInfo {
            refused: true,
            ..list(0, 1000)
        };
        assert_eq!(at(refused, Stale::Hard, 5), [("crl-refused", "warning")]);
    }

    #[test]
    fn a_service_is_down_when_none_of_its_servers_is_up() {
        let server = |service: &str, state: &str| ServerInfo {
            service: service.to_owned(),
            server: format!("{state}:1"),
            state: state.to_owned(),
            ..ServerInfo::default()
        };
        let found = of_servers(&[
            server("good", "up"),
            server("good", "drained"),
            server("half", "slow-start"),
            server("half", "dead"),
            server("none", "dead"),
            server("none", "trial"),
        ]);
        assert_eq!(
            codes(&found),
            [("server-down", "warning"), ("service-down", "critical")]
        );
        assert_eq!(found[0].subject, "half dead:1");
        assert_eq!(found[1].subject, "none");
    }
}
