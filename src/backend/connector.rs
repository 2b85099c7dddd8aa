//! How one core reaches the servers of one service.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::balance::Balancer;
use super::servers::Group;
use super::upstream::{Upstream, UpstreamError};
use crate::config::{Host, HostPort, ProxyVersion, Service, TlsChoice};
use crate::observe::TlsVersion;
use crate::ring::TcpOptions;
use crate::tls::{ClientTls, RecordingVerifier, TlsError};

/// Content of the files that a service names for its servers, checked.
#[derive(Debug, Default)]
pub struct ConnectorSource {
    tls: Option<ClientTls>,
    upstream: Option<Upstream>,
}

/// Why what a service names for its servers cannot be used. The text names the file.
#[derive(Debug, thiserror::Error)]
pub enum ConnectorError {
    /// Certificates and keys.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The password of the upstream proxy.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
}

impl ConnectorSource {
    /// Reads the files.
    ///
    /// # Errors
    /// [`ConnectorError`].
    pub fn load(service: &Service, outbound: &TlsChoice) -> Result<Self, ConnectorError> {
        let reach = &service.reach;
        let tls = reach.tls.as_ref();
        let upstream = reach.upstream_proxy.as_ref();
        Ok(Self {
            tls: tls.map(|tls| ClientTls::load(tls, outbound)).transpose()?,
            upstream: upstream.map(Upstream::load).transpose()?,
        })
    }

    /// The upstream proxy.
    #[must_use]
    pub fn upstream(&self) -> Option<&Upstream> {
        self.upstream.as_ref()
    }

    /// TLS that is only to find out what a server is like; `None` where the service has none.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn probe(
        &self,
        only: Option<TlsVersion>,
    ) -> Result<Option<(ClientConfig, Arc<RecordingVerifier>)>, TlsError> {
        self.tls.as_ref().map(|tls| tls.probe(only)).transpose()
    }

    /// TLS to the servers as any library does it, without resumption.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn tls(&self) -> Result<Option<ClientConfig>, TlsError> {
        self.tls.as_ref().map(ClientTls::config).transpose()
    }
}

/// How one core reaches the servers of one service.
pub struct Connector {
    /// Its servers; `None`: the destination that the app asks for.
    pub(super) group: Option<Arc<Group>>,
    /// Which is next.
    pub(super) turn: Balancer,
    /// Guarded addresses that the app may ask for all the same.
    pub(super) allow: Vec<IpNet>,
    pub(super) tls: Option<(Arc<ClientConfig>, Option<ServerName<'static>>)>,
    pub(super) upstream: Option<Upstream>,
    pub(super) bind: Vec<IpAddr>,
    pub(super) options: TcpOptions,
    /// Header sent to a server before a tunnel's bytes.
    pub proxy_header: Option<ProxyVersion>,
}

impl Connector {
    /// The way of core `core`.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn new(
        service: &Service,
        group: Option<Arc<Group>>,
        means: &ConnectorSource,
        core: usize,
    ) -> Result<Self, TlsError> {
        let reach = &service.reach;
        let tls = match &means.tls {
            None => None,
            Some(tls) => {
                let name = reach.tls.as_ref().and_then(|tls| tls.name.as_deref());
                Some((Arc::new(tls.of_core()?), name.and_then(server_name)))
            }
        };
        Ok(Self {
            group,
            turn: Balancer::starting_at(core),
            allow: service.allow.clone(),
            tls,
            upstream: means.upstream.clone(),
            bind: reach.bind.clone(),
            options: options(&reach.tcp),
            proxy_header: reach.proxy_protocol,
        })
    }

    /// The address that `address` is reached from, where one is configured. `None`: there are some,
    /// and none of its family.
    pub(super) fn source(&self, address: IpAddr) -> Option<Option<IpAddr>> {
        let mut sources = self.bind.iter();
        let source = sources.find(|source| source.is_ipv4() == address.is_ipv4());
        (self.bind.is_empty() || source.is_some()).then(|| source.copied())
    }
}

/// The name that a certificate is checked for.
fn server_name(name: &str) -> Option<ServerName<'static>> {
    ServerName::try_from(name.to_owned()).ok()
}

/// The name that a server's certificate is checked for where none is configured.
#[must_use]
pub fn name_of(server: &HostPort) -> Option<ServerName<'static>> {
    match &server.host {
        Host::Ip(address) => Some(ServerName::IpAddress((*address).into())),
        Host::Name(name) => server_name(name),
    }
}

/// The options of a connection as the ring takes them.
#[must_use]
pub fn options(tcp: &crate::config::Tcp) -> TcpOptions {
    TcpOptions {
        keepalive: tcp
            .keepalive
            .map(|keepalive| (keepalive.idle, keepalive.interval, keepalive.count)),
        user_timeout: tcp.user_timeout,
    }
}
