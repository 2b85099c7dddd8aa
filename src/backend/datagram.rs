//! Sockets for datagrams to the servers of a service.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::balance::RoundRobin;
use super::dial::{Dialer, reason_of};
use super::resolver::ResolveError;
use crate::config::{Host, HostPort, Service, ServiceKind};
use crate::limits::UDP_QUEUE;
use crate::observe::CloseReason;
use crate::ring::{self, UdpSocket};

impl Dialer {
    /// A socket to the next server of `service`, or to `target` where the app chooses, and the peer's address as text.
    /// Resolving a name takes `timeout` at most. The peer may not be there: UDP does not tell.
    pub async fn reach_by_udp(
        &self,
        service: &Service,
        turn: &RoundRobin,
        target: &HostPort,
        timeout: Duration,
    ) -> Result<(UdpSocket, Arc<str>), CloseReason> {
        let (server, chosen_by_app) = match &service.kind {
            ServiceKind::Any => (target, true),
            ServiceKind::Servers(servers) => {
                let next = turn.order(servers.len()).next();
                let server = next.and_then(|index| servers.get(index));
                (server.ok_or(CloseReason::ServerUnreachable)?, false)
            }
        };
        let known = match &server.host {
            Host::Ip(address) => Ok([*address].into()),
            Host::Name(name) => ring::timeout(timeout, self.resolve(name))
                .await
                .unwrap_or(Err(ResolveError::Timeout)),
        };
        let addresses = known.map_err(|error| match error {
            ResolveError::NotFound => CloseReason::NameNotFound,
            ResolveError::Timeout => CloseReason::NameTimeout,
        })?;
        let mut reason = CloseReason::NameNotFound;
        for &address in addresses.iter() {
            if chosen_by_app && !self.may_reach(address, service) {
                reason = CloseReason::DestinationForbidden;
                continue;
            }
            let address = SocketAddr::new(address, server.port);
            match UdpSocket::connect(address, UDP_QUEUE) {
                Ok(socket) => return Ok((socket, address.to_string().into())),
                Err(error) => reason = no_socket(&error),
            }
        }
        Err(reason)
    }
}

/// Why there is no socket: connecting one asks nobody but the machine's own routes.
fn no_socket(error: &io::Error) -> CloseReason {
    match error.raw_os_error() {
        // A broadcast address.
        Some(libc::EACCES) => CloseReason::DestinationForbidden,
        _ => reason_of(error),
    }
}
