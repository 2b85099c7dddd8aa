//! Connections to the servers of a service.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::balance::RoundRobin;
use super::guard::{OwnAddresses, is_allowed};
use super::names::{Known, NameCache};
use super::resolver::{ResolveError, ResolverHandle};
use crate::config::{Host, HostPort, Service, ServiceKind};
use crate::observe::CloseReason;
use crate::ring::{self, TcpStream, oneshot};
use crate::table::Published;

/// Reaches servers from one core.
pub struct Dialer {
    resolver: ResolverHandle,
    names: RefCell<NameCache>,
    own: Arc<Published<OwnAddresses>>,
}

/// What dialling led to.
pub struct Dialled {
    /// The connection and the server's address as text, or why there is none: the reason of the last attempt.
    pub result: Result<(TcpStream, Arc<str>), CloseReason>,
    /// Servers or addresses that were tried in vain before.
    pub retries: u32,
}

impl Dialer {
    /// A dialer that asks `resolver` and keeps apps away from `own` addresses.
    #[must_use]
    pub fn new(resolver: ResolverHandle, own: Arc<Published<OwnAddresses>>) -> Self {
        Self {
            resolver,
            names: RefCell::default(),
            own,
        }
    }

    /// Connects to the next server of `service`, or to `target` where the app chooses; each attempt at one server
    /// takes `connect_timeout` at most.
    pub async fn dial(
        &self,
        service: &Service,
        turn: &RoundRobin,
        target: &HostPort,
        connect_timeout: Duration,
    ) -> Dialled {
        let mut retries = 0;
        let result = match &service.kind {
            ServiceKind::Any => {
                self.reach(target, Some(service), connect_timeout, &mut retries)
                    .await
            }
            ServiceKind::Servers(servers) => {
                let mut result = Err(CloseReason::ServerUnreachable);
                for (attempt, index) in turn.order(servers.len()).enumerate() {
                    retries += u32::from(attempt > 0);
                    result = self
                        .reach(&servers[index], None, connect_timeout, &mut retries)
                        .await;
                    if result.is_ok() {
                        break;
                    }
                }
                result
            }
        };
        Dialled { result, retries }
    }

    /// Resolves and connects to one server, address after address. `guarded`: the destination is the app's choice.
    async fn reach(
        &self,
        server: &HostPort,
        guarded: Option<&Service>,
        connect_timeout: Duration,
        retries: &mut u32,
    ) -> Result<(TcpStream, Arc<str>), CloseReason> {
        let attempt = async {
            let known = match &server.host {
                Host::Ip(address) => Ok([*address].into()),
                Host::Name(name) => self.resolve(name).await,
            };
            let addresses = known.map_err(|error| match error {
                ResolveError::NotFound => CloseReason::NameNotFound,
                ResolveError::Timeout => CloseReason::NameTimeout,
            })?;
            self.connect(&addresses, server.port, guarded, retries)
                .await
        };
        ring::timeout(connect_timeout, attempt)
            .await
            .unwrap_or(Err(CloseReason::ConnectTimeout))
    }

    async fn connect(
        &self,
        addresses: &[IpAddr],
        port: u16,
        guarded: Option<&Service>,
        retries: &mut u32,
    ) -> Result<(TcpStream, Arc<str>), CloseReason> {
        let mut reason = None;
        for &address in addresses {
            if let Some(service) = guarded
                && !self.may_reach(address, service)
            {
                reason.get_or_insert(CloseReason::DestinationForbidden);
                continue;
            }
            *retries += u32::from(reason.is_some());
            let address = SocketAddr::new(address, port);
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok((stream, address.to_string().into())),
                Err(error) => reason = Some(reason_of(&error)),
            }
        }
        Err(reason.unwrap_or(CloseReason::NameNotFound))
    }

    /// Whether an app may choose this address as a destination of the service.
    pub(super) fn may_reach(&self, address: IpAddr, service: &Service) -> bool {
        self.own
            .read(|own| is_allowed(address, &service.allow, own))
    }

    pub(super) async fn resolve(&self, name: &str) -> Known {
        if let Some(known) = self.names.borrow().get(name, ring::now()) {
            return known;
        }
        let (sender, receiver) = oneshot();
        self.resolver
            .lookup(name, move |answer| sender.send(answer));
        let answer = receiver.await.unwrap_or(Err(ResolveError::Timeout));
        self.names.borrow_mut().insert(name, answer, ring::now())
    }
}

pub(super) fn reason_of(error: &io::Error) -> CloseReason {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED | libc::ECONNRESET) => CloseReason::ServerRefused,
        Some(libc::ETIMEDOUT) => CloseReason::ConnectTimeout,
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EADDRNOTAVAIL) => {
            CloseReason::NodeLimit
        }
        _ => CloseReason::ServerUnreachable,
    }
}
