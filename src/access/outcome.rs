//! The record of how a session or a tunnel ended.

use std::sync::Arc;
use std::time::SystemTime;

use super::core::Core;
use super::refusals::Repeated;
use crate::config::HostPort;
use crate::observe::{AuditEvent, AuditRecord, Subject};
use crate::reason::CloseReason;
use crate::ring;

/// Facts about a requested tunnel, for the record of its end.
pub(crate) struct Outcome {
    pub subject: Arc<Subject>,
    pub target: Option<HostPort>,
    pub service: Option<Arc<str>>,
}

impl Outcome {
    /// Of a subject that has asked for nothing yet.
    pub fn of(subject: Arc<Subject>) -> Self {
        Self {
            subject,
            target: None,
            service: None,
        }
    }
}

/// Counts what came to no tunnel, and writes it to the audit log where its row says so. Of one
/// client that is refused again and again not each time is a line.
pub(crate) fn record(core: &Core, outcome: &Outcome, reason: CloseReason) {
    core.count(reason);
    if !reason.is_audited() {
        return;
    }
    let event = Repeated {
        session: false,
        reason,
    };
    if !core.refusals.has_line(&outcome.subject, event, ring::now()) {
        return;
    }
    let event = AuditEvent::Refused {
        service: outcome.service.clone(),
        reason,
    };
    audit(core, &outcome.subject, outcome.target.as_ref(), event);
}

/// Writes an event to the audit log.
pub(crate) fn audit(
    core: &Core,
    subject: &Arc<Subject>,
    target: Option<&HostPort>,
    event: AuditEvent,
) {
    if core.audit.is_on() {
        core.audit.write(AuditRecord {
            time: SystemTime::now(),
            subject: subject.clone(),
            target: target.map(ToString::to_string),
            event,
        });
    }
}
