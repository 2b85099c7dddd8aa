//! Records of the audit log: who, and what happened.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::observe::metrics::TlsVersion;
use crate::reason::CloseReason;

/// How the requests of a session come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 under TLS.
    Http1,
    /// HTTP/2 under TLS.
    Http2,
    /// The name (SNI) of the session is the request.
    Sni,
    /// HTTP from a front end that has ended TLS.
    Plain,
}

impl Protocol {
    /// The word in the audit log.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Http1 => "h1",
            Self::Http2 => "h2",
            Self::Sni => "sni",
            Self::Plain => "plain",
        }
    }

    /// Returns whether its answers have an HTTP status.
    #[must_use]
    pub const fn has_status(self) -> bool {
        !matches!(self, Self::Sni)
    }
}

/// The TLS that a session has negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsSession {
    /// Its version.
    pub version: TlsVersion,
    /// Its cipher suite, by rustls's name.
    pub suite: &'static str,
    /// Group of the key exchange; `None` where a resumed session had none.
    pub group: Option<&'static str>,
    /// True if the session was resumed: its certificate was presented before.
    pub resumed: bool,
}

/// A profile as it is active on a core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileName {
    /// Its name.
    pub name: Arc<str>,
    /// Its version in the store; `None` for one of the config file.
    pub version: Option<u64>,
}

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
    /// Number of the session, unique in this run of the program.
    pub session: Option<u64>,
    /// How its requests come, once that is known.
    pub protocol: Option<Protocol>,
    /// Its TLS, if it ended here and the handshake was completed.
    pub tls: Option<TlsSession>,
    /// Time from its acceptance to the end of its handshake.
    pub handshake: Option<Duration>,
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
            session: None,
            protocol: None,
            tls: None,
            handshake: None,
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
    /// The profile that was active.
    pub profile: Arc<ProfileName>,
    /// Destination that the client asked for (`host:port`), if known.
    pub target: Option<String>,
    /// The event.
    pub event: AuditEvent,
}

/// A tunnel that was opened.
#[derive(Clone, Debug)]
pub struct TunnelFacts {
    /// Its number, the same as in `/tunnels`.
    pub tunnel: u64,
    /// The service that a rule chose.
    pub service: Arc<str>,
    /// Number of the rule in its profile, from 1.
    pub rule: u32,
    /// Address of the server that was dialled.
    pub server: Arc<str>,
    /// True if it carries datagrams.
    pub udp: bool,
}

/// How far a request came that was refused.
#[derive(Clone, Debug, Default)]
pub struct RefusedFacts {
    /// The service, where a rule chose one.
    pub service: Option<Arc<str>>,
    /// Number of that rule in its profile, from 1.
    pub rule: Option<u32>,
    /// Address of the last server that was tried.
    pub server: Option<Arc<str>>,
}

/// The event.
#[derive(Clone, Debug)]
pub enum AuditEvent {
    /// A tunnel was opened.
    TunnelStart {
        /// The tunnel.
        tunnel: TunnelFacts,
        /// Time from the request to its grant.
        authorize: Duration,
        /// Time from the grant to the connection with the server.
        connect: Duration,
    },
    /// An opened tunnel ended.
    TunnelEnd {
        /// The tunnel.
        tunnel: TunnelFacts,
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
        /// How far it came.
        refused: RefusedFacts,
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

impl AuditEvent {
    /// Its word, and whether the client got what it wanted.
    pub(super) const fn action(&self) -> (&'static str, bool) {
        match self {
            Self::TunnelStart { .. } => ("tunnel-start", true),
            Self::TunnelEnd { .. } => ("tunnel-end", true),
            Self::SessionEnd { .. } => ("session-end", true),
            Self::Refused { .. } => ("refused", false),
            Self::Repeated { sessions: true, .. } => ("session-end-more", true),
            Self::Repeated { .. } => ("refused-more", false),
        }
    }

    pub(super) const fn is_datagrams(&self) -> bool {
        match self {
            Self::TunnelStart { tunnel, .. } | Self::TunnelEnd { tunnel, .. } => tunnel.udp,
            _ => false,
        }
    }
}
