//! How the servers of a service are reached: the valid values.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::address::HostPort;
use super::certificate_files::CertificateFiles;

/// One server of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Its address.
    pub address: HostPort,
    /// Its share of the tunnels, in proportion to the others'; 1 to
    /// [`SERVER_WEIGHT_MAX`](crate::limits::SERVER_WEIGHT_MAX).
    pub weight: u32,
}

/// Which server gets the next tunnel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Balance {
    /// The next in turn, by weight.
    #[default]
    RoundRobin,
    /// The one with the fewest open tunnels for its weight.
    LeastTunnels,
}

impl Balance {
    /// The word of the config.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::RoundRobin => "round-robin",
            Self::LeastTunnels => "least-tunnels",
        }
    }
}

/// A version of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyVersion {
    /// Text.
    V1,
    /// Binary.
    V2,
}

/// How the servers of a service are reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach {
    /// Which server is next.
    pub balance: Balance,
    /// TLS to the servers; `None`: the tunnel's bytes as they are.
    pub tls: Option<OutboundTls>,
    /// Header sent before a tunnel's bytes.
    pub proxy_protocol: Option<ProxyVersion>,
    /// The HTTP proxy that leads to the servers.
    pub upstream_proxy: Option<UpstreamProxy>,
    /// Source addresses, at most one of each family. Where there is one, addresses of the other
    /// family are not dialled.
    pub bind: Vec<IpAddr>,
    /// Options of the connections.
    pub tcp: Tcp,
    /// When a server counts as dead, and when as alive again.
    pub health: Health,
}

/// TLS to the servers of a service. Paths are of files that existed and could be opened when the
/// config was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OutboundTls {
    /// CA certificates of the servers; `None` for the system's roots.
    pub roots: Option<PathBuf>,
    /// The name or address that the certificates are checked for; `None` for the server's own.
    pub name: Option<String>,
    /// The gateway's certificate for the servers.
    pub certificate: Option<CertificateFiles>,
}

/// An HTTP proxy on the way to the servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamProxy {
    /// Its address.
    pub address: HostPort,
    /// The user of the Basic credentials (RFC 7617); `None`: none are sent.
    pub user: Option<String>,
    /// File with the user's password. It existed and could be opened when the config was read.
    pub password_file: Option<PathBuf>,
}

/// Options of TCP connections; `None` leaves the system's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tcp {
    /// Probes of an idle connection.
    pub keepalive: Option<Keepalive>,
    /// How long sent data may stay unacknowledged (`TCP_USER_TIMEOUT`).
    pub user_timeout: Option<Duration>,
}

/// Probes of an idle connection, in whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// Time without a byte until the first probe.
    pub idle: Duration,
    /// Time between two probes.
    pub interval: Duration,
    /// Probes without an answer that end the connection.
    pub count: u32,
}

/// When a server counts as dead, and when as alive again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Failures to connect in a row, within `window`, after which a server is dead.
    pub failures: usize,
    /// See `failures`.
    pub window: Duration,
    /// How long it is then left alone. Doubled with each death that no success lies between.
    pub dead_time: Duration,
    /// The longest such time; at least `dead_time`.
    pub dead_time_max: Duration,
    /// Active checks; `None`: only tunnels show how a server is.
    pub check: Option<Check>,
    /// How long the share of a server that has come back grows; `None`: it has its whole share at
    /// once.
    pub slow_start: Option<Duration>,
    /// True if dead servers are tried when no other is left.
    pub try_dead: bool,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            failures: 3,
            window: Duration::from_secs(10),
            dead_time: Duration::from_secs(5),
            dead_time_max: Duration::from_secs(60),
            check: None,
            slow_start: None,
            try_dead: true,
        }
    }
}

/// Active checks of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Kind of the check.
    pub kind: CheckKind,
    /// Time from the end of a check to the next one.
    pub interval: Duration,
    /// Time that a check may take.
    pub timeout: Duration,
    /// Good checks in a row after which a dead server is alive.
    pub rise: usize,
    /// Bad checks in a row after which a server is dead.
    pub fall: usize,
}

/// Kind of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckKind {
    /// To connect.
    Tcp,
    /// To connect, and a TLS handshake. Only where the service has TLS.
    Tls,
}

/// One side's choice in TLS. At least one version is true.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsChoice {
    /// True if TLS 1.2 is spoken.
    pub tls12: bool,
    /// True if TLS 1.3 is spoken.
    pub tls13: bool,
    /// Cipher suites by their IANA names, each one of [`CIPHER_SUITES`]; empty for all of them.
    pub suites: Vec<&'static str>,
    /// Key-exchange groups, each one of [`KEY_EXCHANGE`], the most wanted first; empty for the
    /// defaults.
    pub groups: Vec<&'static str>,
}

/// A key-exchange group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyExchange {
    /// Its name.
    pub name: &'static str,
    /// True if TLS 1.2 has it.
    pub tls12: bool,
    /// True if it is one of the defaults.
    pub default: bool,
}

impl KeyExchange {
    const fn new(name: &'static str, tls12: bool, default: bool) -> Self {
        Self {
            name,
            tls12,
            default,
        }
    }
}

/// The key-exchange groups that there are, the defaults first and in the order of their preference.
pub const KEY_EXCHANGE: [KeyExchange; 7] = [
    KeyExchange::new("X25519MLKEM768", false, true),
    KeyExchange::new("X25519", true, true),
    KeyExchange::new("secp256r1", true, true),
    KeyExchange::new("secp384r1", true, true),
    KeyExchange::new("secp256r1MLKEM768", false, false),
    KeyExchange::new("MLKEM768", false, false),
    KeyExchange::new("MLKEM1024", false, false),
];

/// The cipher suites that there are, by their IANA names, and whether they are of TLS 1.3.
pub const CIPHER_SUITES: [(&str, bool); 9] = [
    ("TLS_AES_128_GCM_SHA256", true),
    ("TLS_AES_256_GCM_SHA384", true),
    ("TLS_CHACHA20_POLY1305_SHA256", true),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", false),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", false),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", false),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", false),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", false),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", false),
];
