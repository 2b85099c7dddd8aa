//! The servers of a service that are checked, and with what. The checks themselves run on the
//! control core.

use std::net::IpAddr;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::connector::{ConnectorSource, name_of};
use super::servers::{Group, ServerState};
use super::upstream::Upstream;
use crate::config::{Check, CheckKind, ProxyVersion, Reach, Service};
use crate::proxy_protocol::{Endpoints, Header};
use crate::tls::TlsError;

/// The servers of one service, to be checked.
pub struct Watch {
    /// The servers, and when they count as dead.
    pub group: Arc<Group>,
    /// How often and how.
    pub check: Check,
    /// The proxy that leads to them.
    pub upstream: Option<Upstream>,
    /// Addresses to connect from.
    pub bind: Vec<IpAddr>,
    /// Header sent first if a handshake follows: that the connection is the gateway's own.
    pub proxy_header: Vec<u8>,
    tls: Option<Arc<ClientConfig>>,
    name: Option<ServerName<'static>>,
}

impl Watch {
    /// `None` where the service has no checks.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn new(
        service: &Service,
        group: Arc<Group>,
        means: &ConnectorSource,
    ) -> Result<Option<Self>, TlsError> {
        let reach = &service.reach;
        let Some(check) = reach.health.check.clone() else {
            return Ok(None);
        };
        let tls = match check.kind {
            CheckKind::Tcp => None,
            CheckKind::Tls => means.tls()?.map(Arc::new),
        };
        let name = reach.tls.as_ref().and_then(|tls| tls.name.clone());
        Ok(Some(Self {
            group,
            check,
            upstream: means.upstream().cloned(),
            bind: reach.bind.clone(),
            proxy_header: own_proxy_header(reach),
            tls,
            name: name.and_then(|name| ServerName::try_from(name).ok()),
        }))
    }

    /// With what a handshake is made with `server`, and the name that its certificate is checked
    /// for; `None`: a connection is enough.
    #[must_use]
    pub fn tls(&self, server: &ServerState) -> Option<(Arc<ClientConfig>, ServerName<'static>)> {
        let config = self.tls.clone()?;
        let name = self.name.clone().or_else(|| name_of(server.address()))?;
        Some((config, name))
    }
}

/// Returns what is said in front of the gateway's own bytes: that the connection is for no app
/// (PROXY protocol, `LOCAL`).
#[must_use]
pub fn own_proxy_header(reach: &Reach) -> Vec<u8> {
    let own = Header {
        endpoints: Endpoints::Unknown,
        ..Header::local()
    };
    match reach.proxy_protocol {
        Some(ProxyVersion::V1) => own.write_v1(),
        // Without values, of which one could be too long.
        Some(ProxyVersion::V2) => Header::local().write_v2(false).unwrap_or_default(),
        None => Vec::new(),
    }
}
