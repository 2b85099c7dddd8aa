//! The record of how a session or a tunnel ended.

use std::sync::Arc;
use std::time::SystemTime;

use super::core::Core;
use super::peer::Unidentified;
use super::refusals::Repeated;
use crate::config::HostPort;
use crate::observe::{AuditEvent, AuditRecord, RefusedFacts, Subject};
use crate::reason::CloseReason;
use crate::ring;

/// Facts about a requested tunnel, for the record of its end.
pub(crate) struct Outcome {
    pub subject: Arc<Subject>,
    pub target: Option<HostPort>,
    /// How far it came.
    pub reached: RefusedFacts,
    /// The exact cause of a refusal, where there is more to say than its reason.
    pub detail: Option<Box<str>>,
}

impl Outcome {
    /// Of a subject that has asked for nothing yet.
    pub fn of(subject: Arc<Subject>) -> Self {
        Self {
            subject,
            target: None,
            reached: RefusedFacts::default(),
            detail: None,
        }
    }

    /// Of a client whose certificate is not accepted.
    pub fn refused(refused: Unidentified) -> Self {
        let mut outcome = Self::of(refused.subject.into());
        outcome.detail = refused.detail;
        outcome
    }

    /// Takes note of a client whose certificate is not accepted. Returns the reason.
    pub fn of_nobody(&mut self, refused: Unidentified) -> CloseReason {
        self.subject = refused.subject.into();
        self.detail = refused.detail;
        refused.reason
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
        refused: outcome.reached.clone(),
        reason,
        detail: outcome.detail.clone(),
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
            profile: core.snapshot.borrow().profile.clone(),
            target: target.map(ToString::to_string),
            event,
        });
    }
}
