//! The record of how a session or a tunnel ended.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::AlertDescription;

use super::core::Core;
use crate::config::HostPort;
use crate::observe::{AuditEvent, AuditRecord, CloseReason, Subject};

/// What is known of a tunnel that is asked for, for the record of its end.
pub(super) struct Outcome {
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

/// Counts and records what came to no tunnel. The checks of load balancers are counted alone: they come every few seconds;
/// and so is what is given up or not let in, which comes as fast as a client without a certificate likes.
pub(super) fn record(core: &Core, outcome: &Outcome, reason: CloseReason) {
    core.count(reason);
    if matches!(
        reason,
        CloseReason::Unused
            | CloseReason::HealthCheck
            | CloseReason::UnauthenticatedLimit
            | CloseReason::SourceLimit
            | CloseReason::SourceFailures
    ) {
        return;
    }
    let event = AuditEvent::Refused {
        service: outcome.service.clone(),
        reason,
    };
    audit(core, &outcome.subject, outcome.target.as_ref(), event);
}

/// Writes an event to the audit log.
pub(super) fn audit(
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

/// The alert that a client gets behind the handshake.
pub(super) fn alert_of(reason: CloseReason) -> Option<AlertDescription> {
    Some(match reason.alert()? {
        "access_denied" => AlertDescription::AccessDenied,
        "decode_error" => AlertDescription::DecodeError,
        "bad_certificate" => AlertDescription::BadCertificate,
        "certificate_expired" => AlertDescription::CertificateExpired,
        "certificate_revoked" => AlertDescription::CertificateRevoked,
        "unknown_ca" => AlertDescription::UnknownCA,
        "unsupported_certificate" => AlertDescription::UnsupportedCertificate,
        _ => AlertDescription::HandshakeFailure,
    })
}
