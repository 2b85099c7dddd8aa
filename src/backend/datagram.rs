//! Sockets for datagrams to the servers of a service.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::connector::Connector;
use super::dial::{Dialer, reason_of};
use super::servers::Claim;
use crate::config::HostPort;
use crate::limits::UDP_QUEUE;
use crate::reason::CloseReason;
use crate::ring::{self, UdpSocket};

/// A socket for one tunnel's datagrams.
pub struct Socket {
    /// The socket, with its peer.
    pub socket: UdpSocket,
    /// The peer's address as text.
    pub address: Arc<str>,
    /// The place among the service's servers, for as long as the tunnel lives.
    pub claim: Option<Claim>,
}

impl Dialer {
    /// A socket to the next server of a service, or to `target` where the app chooses. Resolving a
    /// name takes `timeout` at most. The peer may not be there: UDP does not tell, so that nothing
    /// is learnt of the server's health.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn reach_by_udp(
        &self,
        connector: &Connector,
        (target, device): (&HostPort, &str),
        timeout: Duration,
    ) -> Result<Socket, CloseReason> {
        // What a trial of a dead server comes to is not known here; another tunnel tries it again.
        let chosen = match &connector.group {
            None => None,
            Some(group) => {
                let now = ring::now();
                let choose = |dead_too| group.choose(&connector.turn, &[], dead_too, now);
                let dead_too = || group.health().try_dead && !group.some_is_alive(now);
                let claim = choose(false).or_else(|| dead_too().then(|| choose(true))?);
                Some(claim.ok_or(CloseReason::NoServer)?)
            }
        };
        let server = chosen
            .as_ref()
            .map_or(target, |claim| claim.server.address());
        let guard = chosen.is_none().then_some((&*connector.allow, device));
        let addresses = ring::timeout(timeout, self.addresses(&server.host, guard))
            .await
            .unwrap_or(Err(CloseReason::NameTimeout))?;
        let mut reason = CloseReason::NameNotFound;
        for address in addresses {
            let Some(source) = connector.source(address) else {
                reason = CloseReason::ServerUnreachable;
                continue;
            };
            let address = SocketAddr::new(address, server.port);
            match UdpSocket::connect(address, source, UDP_QUEUE) {
                Ok(socket) => {
                    let address = address.to_string().into();
                    return Ok(Socket {
                        socket,
                        address,
                        claim: chosen,
                    });
                }
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
