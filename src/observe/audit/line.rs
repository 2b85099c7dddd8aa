//! The line of a record.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;

use super::record::{AuditEvent, AuditRecord};
use crate::observe::moment::rfc3339;

/// The line, in the order of its keys. A key without a value is left out.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tunnel: Option<u64>,
    peer: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    app: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    serial: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    issuer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_up: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_down: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    requests: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
}

impl AuditRecord {
    /// A line of nothing but who and when.
    fn blank(&self) -> Line<'_> {
        let subject = &self.subject;
        Line {
            time: rfc3339(self.time),
            event: "refused",
            tunnel: None,
            peer: subject.peer,
            device: subject.device.as_deref(),
            user: subject.user.as_deref(),
            app: subject.app.as_deref(),
            serial: subject.serial.as_deref(),
            issuer: subject.issuer.as_deref(),
            server_name: subject.server_name.as_deref(),
            identity: subject.identity(),
            target: self.target.as_deref(),
            service: None,
            server: None,
            bytes_up: None,
            bytes_down: None,
            requests: None,
            count: None,
            duration_ms: None,
            reason: None,
            detail: None,
        }
    }

    fn line(&self) -> Line<'_> {
        let mut line = self.blank();
        match &self.event {
            AuditEvent::TunnelStart {
                tunnel,
                service,
                server,
            } => {
                line.event = "tunnel-start";
                line.tunnel = Some(*tunnel);
                line.service = Some(service);
                line.server = Some(server);
            }
            AuditEvent::TunnelEnd {
                tunnel,
                service,
                server,
                bytes_up,
                bytes_down,
                duration,
                reason,
            } => {
                line.event = "tunnel-end";
                line.tunnel = Some(*tunnel);
                line.service = Some(service);
                line.server = Some(server);
                line.bytes_up = Some(*bytes_up);
                line.bytes_down = Some(*bytes_down);
                line.duration_ms = Some(millis(*duration));
                line.reason = Some(reason.word());
            }
            AuditEvent::SessionEnd {
                requests,
                duration,
                reason,
            } => {
                line.event = "session-end";
                line.requests = Some(*requests);
                line.duration_ms = Some(millis(*duration));
                line.reason = Some(reason.word());
            }
            AuditEvent::Refused {
                service,
                reason,
                detail,
            } => {
                line.service = service.as_deref();
                line.detail = detail.as_deref();
                line.reason = Some(reason.word());
            }
            AuditEvent::Repeated {
                sessions,
                count,
                reason,
            } => {
                line.event = match sessions {
                    true => "session-end-more",
                    false => "refused-more",
                };
                line.count = Some(*count);
                line.reason = Some(reason.word());
            }
        }
        line
    }

    /// Appends the record as one line. JSON escapes control characters, so no name can break or
    /// forge a line.
    pub(super) fn append_to(&self, buffer: &mut Vec<u8>) {
        serde_json::to_writer(&mut *buffer, &self.line()).expect("strings and numbers into memory");
        buffer.push(b'\n');
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
