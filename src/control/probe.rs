//! Probe of the servers of a configuration: `adit check --probe`.
//!
//! Each server of each service is met as a tunnel would meet it: by its name, from the service's
//! source address, through its upstream proxy, with its PROXY header and its TLS. Where the service
//! has TLS, two more handshakes find out which versions and protocols the server has. Not a byte of
//! a tunnel is sent.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::{AlertDescription, ClientConfig, CommonState, ProtocolVersion};
use serde::Serialize;
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::reach::reach;
use crate::backend::{ConnectorError, ConnectorSource, ResolverHandle, name_of, own_proxy_header};
use crate::certs::describe::{CertificateDescription, described, escaped};
use crate::config::{Config, HostPort, Service, ServiceKind};
use crate::limits::{PROBE_AFTERMATH, PROBES_AT_ONCE};
use crate::observe::TlsVersion;
use crate::reason::CloseReason;
use crate::tls::{RecordingVerifier, Shown, TlsError, alert_name, words};

/// Result for one server.
#[derive(Clone, Debug, Serialize)]
pub struct ServerProbe {
    /// The service.
    pub service: String,
    /// The server, as `host:port`.
    pub server: String,
    /// True if a tunnel to it would stand.
    pub usable: bool,
    /// Why not.
    pub problem: Option<String>,
    /// How long it took to connect, in milliseconds, its name and the way through a proxy included.
    pub connect_ms: Option<u64>,
    /// Its TLS; absent where the service has none, or there was no connection.
    pub tls: Option<TlsProbe>,
}

/// A server's TLS.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TlsProbe {
    /// The version that the service's own settings lead to.
    pub version: Option<&'static str>,
    /// The cipher suite that they lead to, by its IANA name.
    pub cipher_suite: Option<String>,
    /// The key-exchange group that they lead to.
    pub key_exchange: Option<String>,
    /// Protocol that the server chooses of `h2` and `http/1.1` (ALPN). Tunnels offer it nothing.
    pub alpn: Option<String>,
    /// Versions that it accepts, whatever the settings are.
    pub accepts: Vec<&'static str>,
    /// Its certificate.
    pub certificate: Option<CertificateDescription>,
    /// Why its chain does not lead to the service's roots, or is not valid.
    pub chain_fault: Option<String>,
    /// True if the certificate covers the server's name.
    pub fits_name: Option<bool>,
}

/// Meets every server of every service, each attempt within the connect timeout. In the order of
/// the configuration.
///
/// # Errors
/// What is wrong with the files of a service, with its name.
pub async fn probe_servers(
    config: &Config,
    resolver: ResolverHandle,
) -> Result<Vec<ServerProbe>, (String, ConnectorError)> {
    let patience = config.engine.connect_timeout;
    let permits = Arc::new(Semaphore::new(PROBES_AT_ONCE));
    let mut running = JoinSet::new();
    for service in &config.profile.services {
        let ServiceKind::Servers(servers) = &service.kind else {
            continue;
        };
        let means = ConnectorSource::load(service, &config.profile.outbound);
        let means = means.map_err(|why| (service.name.clone(), why))?;
        let (service, means) = (Arc::new(service.clone()), Arc::new(means));
        for server in servers {
            let probe = Probe {
                service: service.clone(),
                means: means.clone(),
                server: server.address.clone(),
                patience,
                resolver: resolver.clone(),
            };
            let (permits, place) = (permits.clone(), running.len());
            running.spawn(async move {
                let _permit = permits.acquire_owned().await;
                (place, probe.run().await)
            });
        }
    }
    let mut found = running.join_all().await;
    found.sort_by_key(|(place, _)| *place);
    Ok(found.into_iter().map(|(_, probe)| probe).collect())
}

/// One server, and how it is met.
struct Probe {
    service: Arc<Service>,
    means: Arc<ConnectorSource>,
    server: HostPort,
    patience: Duration,
    resolver: ResolverHandle,
}

/// Result of a handshake that did not fail.
struct Agreed {
    version: Option<TlsVersion>,
    cipher_suite: Option<String>,
    key_exchange: Option<String>,
    alpn: Option<String>,
}

/// Why there is no session.
enum ProbeFailure {
    /// There is no connection.
    Connect(CloseReason),
    /// The server took the version, and none of the protocols.
    NoProtocol,
    /// Anything else, for people.
    Tls(String),
}

impl ProbeFailure {
    fn text(&self) -> String {
        match self {
            Self::Connect(reason) => format!("{}: {}", reason.row().word, connect_text(*reason)),
            Self::NoProtocol => "TLS: it accepts neither h2 nor http/1.1".to_owned(),
            Self::Tls(why) => format!("TLS: {why}"),
        }
    }
}

impl Probe {
    async fn run(self) -> ServerProbe {
        let mut probe = ServerProbe {
            service: self.service.name.clone(),
            server: self.server.to_string(),
            usable: false,
            problem: None,
            connect_ms: None,
            tls: None,
        };
        let began = Instant::now();
        let reached = timeout(self.patience, self.connect()).await;
        let reached = reached.unwrap_or(Err(CloseReason::ConnectTimeout));
        let stream = match reached {
            Ok(stream) => stream,
            Err(reason) => {
                probe.problem = Some(ProbeFailure::Connect(reason).text());
                return probe;
            }
        };
        let took = began.elapsed().as_millis();
        probe.connect_ms = Some(u64::try_from(took).unwrap_or(u64::MAX));
        match self.tls(stream).await {
            Ok(Some((tls, problem))) => {
                probe.problem = problem;
                probe.tls = Some(tls);
            }
            Ok(None) => {}
            Err(error) => probe.problem = Some(error.to_string()),
        }
        probe.usable = probe.problem.is_none();
        probe
    }

    async fn connect(&self) -> Result<TcpStream, CloseReason> {
        let bind = &self.service.reach.bind;
        reach(&self.server, self.means.upstream(), bind, &self.resolver).await
    }

    /// Its TLS, and why it is of no use; `None` where the service has none. `stream` is a
    /// connection to it.
    async fn tls(&self, stream: TcpStream) -> Result<Option<(TlsProbe, Option<String>)>, TlsError> {
        let Some((config, recorder)) = self.means.probe(None)? else {
            return Ok(None);
        };
        let agreed = self.handshake(Some(stream), config, PROBE_AFTERMATH).await;
        let mut tls = TlsProbe::default();
        let mut problem = agreed.as_ref().err().map(ProbeFailure::text);
        tls.note(&recorder);
        if let Ok(agreed) = &agreed {
            tls.version = agreed.version.map(TlsVersion::word);
            tls.cipher_suite.clone_from(&agreed.cipher_suite);
            tls.key_exchange.clone_from(&agreed.key_exchange);
        }
        let is_silent = matches!(agreed, Err(ProbeFailure::Connect(_)));
        let versions = [TlsVersion::Tls12, TlsVersion::Tls13];
        // One that does not answer would only be waited for again.
        for version in versions.into_iter().filter(|_| !is_silent) {
            let Some((config, recorder)) = self.means.probe(Some(version))? else {
                continue;
            };
            let agreed = self.handshake(None, config, Duration::ZERO).await;
            if matches!(agreed, Ok(_) | Err(ProbeFailure::NoProtocol)) {
                tls.accepts.push(version.word());
            }
            tls.alpn = agreed.ok().and_then(|agreed| agreed.alpn).or(tls.alpn);
            if tls.certificate.is_none() {
                tls.note(&recorder);
            }
        }
        if problem.is_none() {
            problem = tls.certificate_problem();
        }
        Ok(Some((tls, problem)))
    }

    /// A handshake, on a connection of its own where there is none. An alert that comes within
    /// `aftermath` belongs to it: with TLS 1.3 a server says only then that it wants another
    /// certificate of the client.
    async fn handshake(
        &self,
        stream: Option<TcpStream>,
        config: ClientConfig,
        aftermath: Duration,
    ) -> Result<Agreed, ProbeFailure> {
        let attempt = async {
            let mut stream = match stream {
                Some(stream) => stream,
                None => self.connect().await.map_err(ProbeFailure::Connect)?,
            };
            let reach = &self.service.reach;
            let name = reach.tls.as_ref().and_then(|tls| tls.name.clone());
            let name = name.and_then(|name| name.try_into().ok());
            let name = name.or_else(|| name_of(&self.server));
            let name = name.ok_or_else(|| {
                ProbeFailure::Tls("the server's name cannot be in a certificate".to_owned())
            })?;
            let proxy_header = own_proxy_header(reach);
            let sent = stream.write_all(&proxy_header).await;
            sent.map_err(|error| ProbeFailure::Tls(error.to_string()))?;
            let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
            let mut session = connecting.await.map_err(|error| of_io(&error))?;
            let agreed = Agreed::of(session.get_ref().1);
            if !aftermath.is_zero()
                && let Ok(Err(error)) = timeout(aftermath, session.read(&mut [0])).await
                && let Some(rustls::Error::AlertReceived(alert)) = tls_error(&error)
            {
                return Err(ProbeFailure::Tls(format!(
                    "it refused the session: {}; see tls_certificate, if it requires a client certificate",
                    alert_name(*alert)
                )));
            }
            let _ = session.shutdown().await;
            Ok(agreed)
        };
        let timed = timeout(self.patience, attempt).await;
        timed.unwrap_or(Err(ProbeFailure::Connect(CloseReason::ConnectTimeout)))
    }
}

impl TlsProbe {
    fn note(&mut self, recorder: &RecordingVerifier) {
        let Some(Shown {
            chain,
            chain_fault,
            fits_name,
        }) = recorder.shown()
        else {
            return;
        };
        let now = OffsetDateTime::now_utc();
        self.certificate = chain.first().and_then(|end| described(end, now));
        self.chain_fault = chain_fault;
        self.fits_name = Some(fits_name);
    }

    fn certificate_problem(&self) -> Option<String> {
        if let Some(fault) = &self.chain_fault {
            return Some(format!("certificate: {}; see tls_roots", escaped(fault)));
        }
        (self.fits_name == Some(false))
            .then(|| "certificate: it is not for the server's name; see tls_name".to_owned())
    }
}

impl Agreed {
    fn of(session: &CommonState) -> Self {
        let suite = session.negotiated_cipher_suite();
        let group = session.negotiated_key_exchange_group();
        let alpn = session.alpn_protocol();
        Self {
            version: match session.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => Some(TlsVersion::Tls12),
                Some(ProtocolVersion::TLSv1_3) => Some(TlsVersion::Tls13),
                _ => None,
            },
            cipher_suite: suite
                .map(|suite| format!("{:?}", suite.suite()).replacen("TLS13_", "TLS_", 1)),
            key_exchange: group.map(|group| format!("{:?}", group.name())),
            alpn: alpn.map(|name| escaped(&String::from_utf8_lossy(name))),
        }
    }
}

fn tls_error(error: &std::io::Error) -> Option<&rustls::Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

fn of_io(error: &std::io::Error) -> ProbeFailure {
    match tls_error(error) {
        Some(rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)) => {
            ProbeFailure::NoProtocol
        }
        Some(error) => ProbeFailure::Tls(words(error)),
        None => ProbeFailure::Tls(format!("it ended the connection: {error}")),
    }
}

fn connect_text(reason: CloseReason) -> &'static str {
    match reason {
        CloseReason::NameNotFound => "its name does not exist or has no address",
        CloseReason::NameTimeout => "no name server answers",
        CloseReason::ServerRefused => "it refuses the connection: is it running, on this port?",
        CloseReason::ServerUnreachable => {
            "there is no route to it: see the routes, and bind for the address family"
        }
        CloseReason::ConnectTimeout => "no answer within engine.connect_timeout",
        CloseReason::UpstreamUnreachable => "upstream_proxy cannot be reached",
        CloseReason::UpstreamAuthentication => {
            "upstream_proxy requires other credentials; see upstream_proxy_password_file"
        }
        CloseReason::UpstreamRefused => "upstream_proxy refuses this destination",
        CloseReason::UpstreamFailed => "upstream_proxy did not reach it",
        CloseReason::UpstreamProtocol => "upstream_proxy does not answer as an HTTP proxy does",
        CloseReason::NodeLimit => "this machine has no file descriptor or port left",
        _ => "it cannot be reached",
    }
}
