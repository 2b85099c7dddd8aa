//! Records of the audit log: who, and what happened.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::reason::CloseReason;

/// Who was at the other end; shared by the records of one session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The client's address.
    pub peer: SocketAddr,
    /// The device, as far as it is known.
    pub device: Option<Box<str>>,
    /// The user, as far as it is known.
    pub user: Option<Box<str>>,
    /// The app, as far as it is known.
    pub app: Option<Box<str>>,
    /// Serial number of the client certificate in hexadecimal, as far as it is known.
    pub serial: Option<Box<str>>,
    /// Issuer of the client certificate as text, as far as it is known.
    pub issuer: Option<Arc<str>>,
    /// Name (SNI) that the client asked for.
    pub server_name: Option<Arc<str>>,
    /// True if the names are those of a verified certificate. Otherwise a certificate that was
    /// rejected claims them.
    pub verified: bool,
}

impl Subject {
    /// A client before it has shown who it is.
    #[must_use]
    pub fn of(peer: SocketAddr) -> Self {
        Self {
            peer,
            device: None,
            user: None,
            app: None,
            serial: None,
            issuer: None,
            server_name: None,
            verified: false,
        }
    }

    /// The device whose certificate was verified.
    #[must_use]
    pub fn verified_device(&self) -> Option<&str> {
        self.device.as_deref().filter(|_| self.verified)
    }

    /// Basis of the names, where there are any.
    pub(super) fn identity(&self) -> Option<&'static str> {
        self.serial.as_ref()?;
        Some(if self.verified { "verified" } else { "claimed" })
    }
}

/// One thing worth an audit line.
#[derive(Clone, Debug)]
pub struct AuditRecord {
    /// When it happened.
    pub time: SystemTime,
    /// Who.
    pub subject: Arc<Subject>,
    /// Destination that the client asked for (`host:port`), if known.
    pub target: Option<String>,
    /// The event.
    pub event: AuditEvent,
}

/// The event.
#[derive(Clone, Debug)]
pub enum AuditEvent {
    /// A tunnel was opened.
    TunnelStart {
        /// The tunnel's number, the same as in `/tunnels`.
        tunnel: u64,
        /// The service that a rule chose.
        service: Arc<str>,
        /// The server that was dialled.
        server: Arc<str>,
    },
    /// An opened tunnel ended.
    TunnelEnd {
        /// The tunnel's number, the same as at its start.
        tunnel: u64,
        /// The service that a rule chose.
        service: Arc<str>,
        /// The server that was dialled.
        server: Arc<str>,
        /// Payload bytes from the client to the server.
        bytes_up: u64,
        /// Payload bytes from the server to the client.
        bytes_down: u64,
        /// How long it was open.
        duration: Duration,
        /// Why it ended.
        reason: CloseReason,
    },
    /// A session that may have had many tunnels (HTTP/2) ended.
    SessionEnd {
        /// Requests that it made, those that were refused included.
        requests: u64,
        /// How long it was open, its handshake not included.
        duration: Duration,
        /// Why it ended.
        reason: CloseReason,
    },
    /// A session or tunnel was refused.
    Refused {
        /// The service, where it came to one.
        service: Option<Arc<str>>,
        /// Why.
        reason: CloseReason,
        /// The exact cause, where there is more to say than the reason's word.
        detail: Option<Box<str>>,
    },
    /// Refusals of a client that have no line each.
    Repeated {
        /// Ends of sessions in which every request was refused, and no refusals.
        sessions: bool,
        /// How many.
        count: u64,
        /// Why.
        reason: CloseReason,
    },
}
