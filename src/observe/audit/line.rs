//! The line of a record: one JSON object with the flat, dotted keys of the Elastic Common Schema
//! (ECS 8.17), and below `adit.` where it has none. docs/audit.md describes each key.

use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::node::{NodeName, session_id, unique_id};
use super::record::{AuditEvent, AuditRecord, Protocol, Subject, TunnelFacts};
use crate::observe::moment::rfc3339;
use crate::reason::CloseReason;

/// Version of the schema. A key that goes or changes its meaning makes a new one; a new key does
/// not.
pub const AUDIT_SCHEMA: u32 = 1;

type Object<'b> = <&'b mut serde_json::Serializer<&'b mut Vec<u8>> as Serializer>::SerializeMap;

/// A line that is being written.
pub(in crate::observe) struct Line<'b>(Object<'b>);

impl<'b> Line<'b> {
    /// Appends a line to `buffer`, of which `write` writes all but the first keys. JSON escapes
    /// control characters, so that no name can break or forge a line.
    pub fn append(
        buffer: &'b mut Vec<u8>,
        node: &NodeName,
        time: SystemTime,
        (action, succeeded): (&str, bool),
        write: impl FnOnce(&mut Line<'_>),
    ) {
        let mut serializer = serde_json::Serializer::new(&mut *buffer);
        let object = serializer.serialize_map(None);
        let mut line = Line(object.expect(IN_MEMORY));
        line.put("@timestamp", &rfc3339(time));
        line.put("event.action", action);
        line.put(
            "event.outcome",
            if succeeded { "success" } else { "failure" },
        );
        line.put("adit.schema", &AUDIT_SCHEMA);
        line.put("observer.name", &*node.name);
        write(&mut line);
        line.0.end().expect(IN_MEMORY);
        buffer.push(b'\n');
    }

    /// Writes a key.
    pub fn put(&mut self, key: &'static str, value: &(impl Serialize + ?Sized)) {
        self.0.serialize_entry(key, value).expect(IN_MEMORY);
    }

    /// Writes a key, if it has a value.
    pub fn put_some(&mut self, key: &'static str, value: Option<impl Serialize>) {
        if let Some(value) = value {
            self.put(key, &value);
        }
    }

    fn put_time(&mut self, key: &'static str, time: Option<Duration>) {
        let nanoseconds = time.map(|time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        self.put_some(key, nanoseconds);
    }

    /// Writes `host:port` as two keys.
    fn put_address(&mut self, keys: (&'static str, &'static str), address: Option<&str>) {
        let Some((host, port)) = address.and_then(|address| address.rsplit_once(':')) else {
            return;
        };
        self.put(keys.0, host.trim_start_matches('[').trim_end_matches(']'));
        self.put_some(keys.1, port.parse::<u16>().ok());
    }

    fn put_subject(&mut self, subject: &Subject) {
        self.put_some("adit.session.id", subject.session.map(session_id));
        self.put("source.ip", &subject.peer.ip());
        self.put("source.port", &subject.peer.port());
        self.put_some("device.id", subject.device.as_deref());
        self.put_some("user.name", subject.user.as_deref());
        self.put_some("adit.app", subject.app.as_deref());
        self.put_some("adit.identity", subject.identity());
        self.put_some("tls.client.x509.serial_number", subject.serial.as_deref());
        let issuer = subject.issuer.as_deref();
        self.put_some("tls.client.x509.issuer.distinguished_name", issuer);
        self.put_some("tls.client.server_name", subject.server_name.as_deref());
        if let Some(tls) = subject.tls {
            self.put("tls.version", tls.version.word());
            // rustls calls TLS 1.3's suites TLS13_...
            self.put("tls.cipher", &tls.suite.replacen("TLS13_", "TLS_", 1));
            self.put_some("tls.curve", tls.group);
            self.put("tls.resumed", &tls.resumed);
        }
    }

    fn put_tunnel(&mut self, tunnel: &TunnelFacts) {
        self.put("adit.tunnel.id", &unique_id(tunnel.tunnel));
        self.put("adit.service", &*tunnel.service);
        self.put("adit.rule", &tunnel.rule);
        self.put_address(SERVER, Some(&tunnel.server));
    }

    fn put_reason(&mut self, reason: CloseReason) {
        self.put("event.reason", reason.word());
        self.put("adit.kind", reason.row().kind.word());
        self.put("adit.who", reason.who().word());
    }
}

const IN_MEMORY: &str = "strings and numbers into memory";
const SERVER: (&str, &str) = ("server.address", "server.port");
const TARGET: (&str, &str) = ("destination.address", "destination.port");

impl AuditRecord {
    /// Appends the record as one line.
    pub(in crate::observe) fn append_to(&self, node: &NodeName, buffer: &mut Vec<u8>) {
        let action = self.event.action();
        Line::append(buffer, node, self.time, action, |line| {
            line.put("adit.profile.name", &*self.profile.name);
            line.put_some("adit.profile.version", self.profile.version);
            let protocol = self.event.is_datagrams().then_some("udp");
            let session = self.subject.protocol;
            line.put_some("adit.protocol", protocol.or(session.map(Protocol::word)));
            line.put_subject(&self.subject);
            line.put_address(TARGET, self.target.as_deref());
            self.put_event(line);
        });
    }

    fn put_event(&self, line: &mut Line<'_>) {
        let by_status = self.subject.protocol.is_some_and(Protocol::has_status);
        let status = |status: Option<u16>| status.filter(|_| by_status);
        match &self.event {
            AuditEvent::TunnelStart {
                tunnel,
                authorize,
                connect,
            } => {
                line.put_tunnel(tunnel);
                line.put_some("http.response.status_code", status(Some(200)));
                line.put_time("adit.timings.handshake", self.subject.handshake);
                line.put_time("adit.timings.authorize", Some(*authorize));
                line.put_time("adit.timings.connect", Some(*connect));
            }
            AuditEvent::TunnelEnd {
                tunnel,
                bytes_up,
                bytes_down,
                duration,
                reason,
            } => {
                line.put_tunnel(tunnel);
                line.put("source.bytes", bytes_up);
                line.put("destination.bytes", bytes_down);
                line.put_time("event.duration", Some(*duration));
                line.put_reason(*reason);
            }
            AuditEvent::SessionEnd {
                requests,
                duration,
                reason,
            } => {
                line.put("adit.requests", requests);
                line.put_time("event.duration", Some(*duration));
                line.put_reason(*reason);
            }
            AuditEvent::Refused {
                refused,
                reason,
                detail,
            } => {
                line.put_some("adit.service", refused.service.as_deref());
                line.put_some("adit.rule", refused.rule);
                line.put_address(SERVER, refused.server.as_deref());
                line.put_some("http.response.status_code", status(reason.status()));
                line.put_time("adit.timings.handshake", self.subject.handshake);
                line.put_reason(*reason);
                line.put_some("adit.detail", detail.as_deref());
            }
            AuditEvent::Repeated { count, reason, .. } => {
                line.put("adit.count", count);
                line.put_reason(*reason);
            }
        }
    }
}
