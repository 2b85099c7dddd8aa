//! The valid configuration: values that the rest of the gateway can use without a further check.
//!
//! Values of these types come from [`parse`](super::parse) and [`load`](super::load). The fields
//! are public so that tests and the quickstart can also build them directly; whoever does that
//! keeps the rules that the fields name.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::address::{Host, HostPattern};
use super::certificate_files::CertificateFiles;
use super::listener::Listener;
use super::reach::{Reach, Server, Tcp, TlsChoice};
use super::sni::Sni;
use crate::certs::Reference;

/// Everything that one node is configured with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Folder of the node's own files. Not necessarily there yet.
    pub state_dir: PathBuf,
    /// Cores, limits and timeouts.
    pub engine: Engine,
    /// Address of the admin listener.
    pub admin: AdminListen,
    /// File with the token that changes through the admin listener must carry.
    pub admin_token: Option<PathBuf>,
    /// Numbers of the users that are served on a Unix socket beside root and the node's own.
    pub admin_users: Vec<u32>,
    /// Settings of the log.
    pub log: Log,
    /// The profile.
    pub profile: Profile,
    /// The files whose contents take effect by a reload. Not those that are looked at by themselves
    /// whenever they change: CRLs, ticket keys, and the token of changes.
    pub files: BTreeSet<PathBuf>,
}

/// Cores, limits and timeouts of the data plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Engine {
    /// Ids of the CPUs that get a worker each: at least one, none twice, all in the affinity mask
    /// that the process started with.
    pub cores: Vec<usize>,
    /// Most tunnels open at once on the node; at least 1.
    pub max_tunnels: usize,
    /// Most tunnels open at once for one device; at least 1, at most `max_tunnels`.
    pub max_tunnels_per_device: usize,
    /// Most connections of one core whose clients are not authenticated yet; at least 1.
    pub max_unauthenticated: usize,
    /// Those of one source address; 0 for as many.
    pub max_unauthenticated_per_source: usize,
    /// Handshakes a second of one source address that may fail on one core; 0 for as many as there
    /// are.
    pub failed_handshakes_per_second: usize,
    /// Time for the TLS handshake and the tunnel request together.
    pub handshake_timeout: Duration,
    /// Time for a connection to one server of a service.
    pub connect_timeout: Duration,
    /// Time without a byte in either direction after which a tunnel is closed.
    pub idle_timeout: Duration,
    /// Shortest idle timeout that a client may propose; at most `idle_timeout`.
    pub idle_timeout_min: Duration,
    /// Longest idle timeout that a client may propose; at least `idle_timeout`.
    pub idle_timeout_max: Duration,
    /// Time that a tunnel may be open, for services that name none of their own.
    pub max_lifetime: Option<Duration>,
    /// Time between the first sign that the node stops (it is not ready any more) and its taking no
    /// more tunnels.
    pub drain_delay: Duration,
    /// Time that open tunnels get to finish when the node stops.
    pub drain_timeout: Duration,
    /// True if the config and the files that it names are read again when they change.
    pub watch_files: bool,
    /// Options of the connections with apps, and of those with servers where a service has none of
    /// its own.
    pub tcp: Tcp,
}

/// Address of the admin listener. Never reachable from another machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminListen {
    /// A loopback address. Port 0 lets the kernel choose.
    Tcp(SocketAddr),
    /// The path of a Unix socket, short enough for `unix(7)`. Its folder is not necessarily there
    /// yet.
    Unix(PathBuf),
}

/// Logging.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Form of the process's own log lines.
    pub format: LogFormat,
    /// Destination of audit records.
    pub audit: AuditSink,
}

/// Form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// Text for people.
    Text,
}

/// Destination of audit records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditSink {
    /// Standard output.
    Stdout,
    /// Nowhere.
    Off,
    /// Appended to this file, whose folder exists.
    File(PathBuf),
}

/// Origin of a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The config file.
    File,
    /// The store of profiles.
    Store {
        /// Which version it is.
        version: u64,
    },
    /// Nowhere: the node is unconfigured, which [`Profile::none`] stands for.
    Nowhere,
}

/// Listener, server certificate, device authentication, services and rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Its origin.
    pub origin: Origin,
    /// Name of the profile; not empty.
    pub name: String,
    /// Free text.
    pub description: String,
    /// Host name or literal address that devices use, without brackets. The listener's address
    /// where none is configured.
    pub external_host: String,
    /// Port that devices use. The listener's port where none is configured.
    pub external_port: u16,
    /// Listeners for sessions.
    pub listener: Listener,
    /// The server certificate; `None` stands for the self-signed one in the state folder.
    pub server_certificate: Option<ServerCertificate>,
    /// TLS settings towards devices.
    pub inbound: TlsChoice,
    /// TLS settings towards servers.
    pub outbound: TlsChoice,
    /// How sessions are resumed.
    pub resumption: Resumption,
    /// How a device proves who it is.
    pub device_auth: DeviceAuth,
    /// The services. Names are unique.
    pub services: Vec<Service>,
    /// True if a device may connect directly to a destination that no rule matches.
    pub no_rule_direct: bool,
    /// Limits of apps. No app is named twice.
    pub app_limits: Vec<AppLimits>,
    /// The rules, in the order in which they are tried. What no rule matches is refused.
    pub rules: Vec<Rule>,
    /// The certificates of the store that it names. Their paths stand where those of other files
    /// do.
    pub stored: Vec<Reference>,
}

impl Profile {
    /// The profile of a node that has none: it listens nowhere, trusts nobody and leads nowhere. Of
    /// the guarantees of the fields, it is without those of an address to listen on, a name, a
    /// group certificate and a service.
    #[must_use]
    pub fn none() -> Self {
        let both = || TlsChoice {
            tls12: true,
            tls13: true,
            ..TlsChoice::default()
        };
        Self {
            origin: Origin::Nowhere,
            name: String::new(),
            description: String::new(),
            external_host: String::new(),
            external_port: 0,
            listener: Listener {
                https: None,
                ..Listener::default()
            },
            server_certificate: None,
            inbound: both(),
            outbound: both(),
            resumption: Resumption {
                by: ResumptionKind::Off,
                cache_bytes: 0,
                ..Resumption::default()
            },
            device_auth: DeviceAuth {
                group_certificates: Vec::new(),
                group_password_file: None,
                unmanaged_allowed: false,
                device_registry: None,
                crl_enabled: false,
                crl_files: Vec::new(),
                crl_fetch: CrlFetch::default(),
                stale: Stale::Hard,
                identity: IdentityMapping {
                    device: vec![Field::SanUri, Field::Cn],
                    user: Vec::new(),
                    app: Vec::new(),
                },
            },
            services: Vec::new(),
            no_rule_direct: false,
            app_limits: Vec::new(),
            rules: Vec::new(),
            stored: Vec::new(),
        }
    }

    /// Returns whether the node has no profile.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.origin == Origin::Nowhere
    }
}

/// The server certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerCertificate {
    /// The one that is served until it expires.
    pub primary: CertificateFiles,
    /// The one that is served then.
    pub secondary: Option<CertificateFiles>,
    /// Those for clients that want another key type or name. No file is named twice, here or above.
    pub additional: Vec<CertificateFiles>,
}

/// How sessions are resumed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resumption {
    /// By what.
    pub by: ResumptionKind,
    /// Bytes of the table of sessions; 0 for none. With tickets it serves TLS 1.2 clients without
    /// them.
    pub cache_bytes: usize,
    /// How long a session may be resumed; at least a second, at most a week.
    pub lifetime: Duration,
    /// File of the keys that all nodes share. It existed and could be opened when the config was
    /// read. `None` for keys that are made in memory, and end with the process.
    pub ticket_keys: Option<PathBuf>,
}

impl Default for Resumption {
    fn default() -> Self {
        Self {
            by: ResumptionKind::Tickets,
            cache_bytes: 64 << 20,
            lifetime: Duration::from_secs(12 * 60 * 60),
            ticket_keys: None,
        }
    }
}

/// Mechanism of session resumption.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResumptionKind {
    /// Tickets, encrypted and kept by the client.
    Tickets,
    /// Sessions in the node's memory.
    Cache,
    /// Not at all.
    Off,
}

/// How a device proves who it is. Paths are of files that existed and could be opened when the
/// config was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceAuth {
    /// Files of the group certificates; at least one.
    pub group_certificates: Vec<PathBuf>,
    /// File with the password of those that have one.
    pub group_password_file: Option<PathBuf>,
    /// True if a device that is not in the registry may open tunnels.
    pub unmanaged_allowed: bool,
    /// CSV file of known devices. Not necessarily there: the last good copy counts then.
    pub device_registry: Option<PathBuf>,
    /// True if revocation is checked. True only together with at least one CRL file or a place to
    /// fetch one.
    pub crl_enabled: bool,
    /// Files of certificate revocation lists.
    pub crl_files: Vec<PathBuf>,
    /// Sources of revocation lists that are fetched.
    pub crl_fetch: CrlFetch,
    /// Policy for an expired or missing CRL.
    pub stale: Stale,
    /// Fields of the identity certificate from which names are read.
    pub identity: IdentityMapping,
}

/// Sources of revocation lists, and addresses that are not allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CrlFetch {
    /// URLs, http or https, each with a host.
    pub urls: Vec<String>,
    /// True if the distribution points of certificates are fetched too (`"cdp"`).
    pub from_certificates: bool,
    /// The hosts that may be asked, in lower case: those of `urls`, and those that are allowed
    /// beside them for redirections and for distribution points.
    pub hosts: Vec<String>,
    /// Guarded addresses (loopback, link-local, cloud metadata ...) that may be connected to all
    /// the same.
    pub allow: Vec<IpNet>,
}

/// Policy for an expired or missing CRL, for the certificates that it should speak about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stale {
    /// They are refused.
    Hard,
    /// The old CRL counts for this much longer, then they are refused.
    Grace(Duration),
    /// The old CRL counts on; where there is none, they are accepted.
    Soft,
}

/// Fields of the identity certificate from which each name is read; the first field that exists
/// wins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityMapping {
    /// Fields of the device's name; at least one field.
    pub device: Vec<Field>,
    /// Fields of the user's name.
    pub user: Vec<Field>,
    /// Fields of the app's name.
    pub app: Vec<Field>,
}

/// A field of an identity certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// A URI in the subject alternative name.
    SanUri,
    /// A DNS name in the subject alternative name.
    SanDns,
    /// A mail address in the subject alternative name.
    SanEmail,
    /// A Microsoft user principal name in the subject alternative name.
    SanUpn,
    /// The subject's common name.
    Cn,
    /// The subject's organizational unit.
    Ou,
    /// The subject's user id.
    Uid,
    /// The certificate's serial number.
    Serial,
}

/// A named destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Unique name.
    pub name: String,
    /// Destination of its tunnels.
    pub kind: ServiceKind,
    /// Guarded addresses (loopback, link-local, cloud metadata ...) that a service of kind
    /// [`ServiceKind::Any`] may dial all the same. Empty for a server list.
    pub allow: Vec<IpNet>,
    /// True if apps may send datagrams to it.
    pub udp: bool,
    /// How its servers are reached.
    pub reach: Reach,
    /// The names by which TLS sessions reach it without a request. Only with a server list.
    pub sni: Option<Sni>,
    /// Limits of its tunnels.
    pub limits: TrafficLimits,
    /// Time that a tunnel may be open; `None` for that of [`Engine::max_lifetime`].
    pub max_lifetime: Option<Duration>,
}

/// Limits on the tunnels of one service, or of one app, together on the whole node. `None`: as much
/// as there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TrafficLimits {
    /// Tunnels open at once; at least 1.
    pub tunnels: Option<usize>,
    /// New tunnels.
    pub new_tunnels: Option<Rate>,
    /// Payload bytes, in each direction.
    pub bytes: Option<Rate>,
}

/// A rate with a burst: a token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Units a second over a long time; at least 1.
    pub per_second: u64,
    /// Units that may come at once after a pause; at least 1.
    pub burst: u64,
}

/// Limits of one app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppLimits {
    /// The app's name, exactly.
    pub app: String,
    /// Limits of its tunnels.
    pub limits: TrafficLimits,
}

/// Destination of a service's tunnels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceKind {
    /// To one of these servers; at least one, none twice.
    Servers(Vec<Server>),
    /// To the destination that the app asks for.
    Any,
}

/// (app, host, port) -> service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The app's name, exactly; `None` for any app, also one without a name.
    pub app: Option<String>,
    /// Which hosts.
    pub host: HostPattern,
    /// Which ports, ascending and not empty; `None` for any port.
    pub ports: Option<Vec<u16>>,
    /// Index into [`Profile::services`].
    pub service: usize,
}

impl Rule {
    /// Returns whether a request by `app` for `host` and `port` falls under this rule. Allocates
    /// nothing.
    pub fn matches(&self, app: Option<&str>, host: &Host, port: u16) -> bool {
        let app_matches = self.app.as_deref().is_none_or(|wanted| app == Some(wanted));
        let port_matches = self
            .ports
            .as_deref()
            .is_none_or(|ports| ports.contains(&port));
        app_matches && port_matches && self.host.matches(host)
    }
}

impl AdminListen {
    /// Returns whether an address is one that only this machine can reach.
    pub(super) fn is_loopback(address: IpAddr) -> bool {
        address.to_canonical().is_loopback()
    }
}
