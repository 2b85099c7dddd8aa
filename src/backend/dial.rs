//! Connections to the servers of a service.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use ipnet::IpNet;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::connector::{Connector, name_of};
use super::guard::{OwnAddresses, is_allowed};
use super::health::Event;
use super::names::{Known, NameCache};
use super::queue::QueryOwner;
use super::race::{Race, Step, in_order};
use super::resolved::ResolveError;
use super::resolver::ResolverHandle;
use super::servers::Claim;
use super::upstream::{Progress, ProxyResponse, Upstream};
use crate::config::{Host, HostPort};
use crate::limits::{DIAL_SERVERS_MAX, LINGER, NAME_STALE_PATIENCE, PROXY_ANSWER_PEEK};
use crate::reason::CloseReason;
use crate::ring::{self, RingBuf, TcpOptions, TcpStream, oneshot};
use crate::table::Published;
use crate::tls::{ClientHandshake, ClientStream, HandshakeError, ServerFailure};

/// Reaches servers from one core.
pub struct Dialer {
    resolver: ResolverHandle,
    /// Names of the configuration. No device can push them out.
    configured: RefCell<NameCache>,
    /// Names that apps have asked for.
    chosen: RefCell<NameCache>,
    own: Arc<Published<OwnAddresses>>,
    /// Counts dials of names, so that they begin with another address each.
    turn: Cell<usize>,
}

/// Result of dialling.
pub struct Dialled {
    /// The connection, or why there is none: the reason of the last attempt.
    pub result: Result<Reached, CloseReason>,
    /// Servers or addresses that were tried in vain before.
    pub retries: u32,
    /// The last server that was tried, `host:port`, where none was reached.
    pub failed: Option<Arc<str>>,
}

/// A server that was reached.
pub struct Reached {
    /// The connection.
    pub end: ServerEnd,
    /// Its destination as text: an address, or behind an upstream proxy the server as it is named.
    pub address: Arc<str>,
    /// The place among the service's servers, for as long as the tunnel lives.
    pub claim: Option<Claim>,
}

/// A connection to a server.
pub enum ServerEnd {
    /// As it is.
    Plain(TcpStream),
    /// Under TLS, with what came behind the handshake.
    Tls(Box<ClientStream>, Option<RingBuf>),
}

impl Dialer {
    /// A dialer that asks `resolver` and keeps apps away from `own` addresses.
    #[must_use]
    pub fn new(resolver: ResolverHandle, own: Arc<Published<OwnAddresses>>) -> Self {
        Self {
            resolver,
            configured: RefCell::default(),
            chosen: RefCell::default(),
            own,
            turn: Cell::new(0),
        }
    }

    /// Connects to the next server of a service, or to `target` where the app chooses. Each attempt
    /// at one server takes `connect_timeout` at most, from its name to the end of its TLS
    /// handshake. `proxy_header` is sent first. A name that the app chooses is looked up in the
    /// share of its `device`.
    pub async fn dial(
        &self,
        connector: &Connector,
        (target, device): (&HostPort, &str),
        proxy_header: &[u8],
        connect_timeout: Duration,
    ) -> Dialled {
        let Some(group) = &connector.group else {
            let target = (target, device);
            return self
                .dial_target(connector, target, proxy_header, connect_timeout)
                .await;
        };
        let mut retries = 0;
        let mut result = Err(CloseReason::NoServer);
        let mut tried = Vec::new();
        let mut failed = None;
        let mut dead_too = false;
        while tried.len() < DIAL_SERVERS_MAX {
            let now = ring::now();
            let Some(claim) = group.choose(&connector.turn, &tried, dead_too, now) else {
                if dead_too || !group.health().try_dead || group.some_is_alive(now) {
                    break;
                }
                dead_too = true;
                continue;
            };
            retries += u32::from(!tried.is_empty());
            tried.push(claim.index);
            let server = claim.server.address();
            let reached = self
                .reach(
                    connector,
                    (server, None),
                    proxy_header,
                    connect_timeout,
                    &mut retries,
                )
                .await;
            let event = match &reached {
                Ok(_) => Some(Event::Connected),
                Err(reason) => reason.blames_server().then_some(Event::Failed(*reason)),
            };
            if let Some(event) = event {
                claim.server.step(event, group.health(), ring::now());
            }
            failed = reached.is_err().then(|| server.to_string().into());
            result = reached.map(|(end, address)| Reached {
                end,
                address,
                claim: Some(claim),
            });
            if result.is_ok() {
                break;
            }
        }
        Dialled {
            result,
            retries,
            failed,
        }
    }

    /// Connects to the app's own choice.
    async fn dial_target(
        &self,
        connector: &Connector,
        (target, device): (&HostPort, &str),
        proxy_header: &[u8],
        connect_timeout: Duration,
    ) -> Dialled {
        let mut retries = 0;
        let choice = (target, Some(device));
        let reached = self
            .reach(
                connector,
                choice,
                proxy_header,
                connect_timeout,
                &mut retries,
            )
            .await;
        Dialled {
            failed: reached.is_err().then(|| target.to_string().into()),
            result: reached.map(|(end, address)| Reached {
                end,
                address,
                claim: None,
            }),
            retries,
        }
    }

    /// The addresses of a host, in the order in which they are to be tried. With `guard`, the
    /// destination is the choice of an app of this device, and only those that it may choose are
    /// given.
    ///
    /// # Errors
    /// Why there are none.
    pub async fn addresses(
        &self,
        host: &Host,
        guard: Option<(&[IpNet], &str)>,
    ) -> Result<Vec<IpAddr>, CloseReason> {
        let mut addresses = match host {
            Host::Ip(address) => vec![*address],
            Host::Name(name) => {
                let device = guard.map(|(_, device)| device);
                let known = self.resolve(name, device).await.map_err(of_name)?;
                self.turn.set(self.turn.get().wrapping_add(1));
                in_order(&known, self.turn.get())
            }
        };
        if let Some((allow, _)) = guard {
            self.own
                .read(|own| addresses.retain(|address| is_allowed(*address, allow, own)));
            if addresses.is_empty() {
                return Err(CloseReason::DestinationForbidden);
            }
        }
        Ok(addresses)
    }

    /// Everything from a server's name to a connection on which the tunnel's bytes may follow.
    async fn reach(
        &self,
        connector: &Connector,
        (server, device): (&HostPort, Option<&str>),
        proxy_header: &[u8],
        connect_timeout: Duration,
        retries: &mut u32,
    ) -> Result<(ServerEnd, Arc<str>), CloseReason> {
        let attempt = async {
            let (stream, address) = match &connector.upstream {
                None => {
                    let guard = device.map(|device| (&*connector.allow, device));
                    let (stream, address) = self.connect(connector, server, guard, retries).await?;
                    (stream, address.to_string().into())
                }
                Some(upstream) => {
                    let (stream, _) = self
                        .connect(connector, &upstream.address, None, retries)
                        .await
                        .map_err(of_upstream)?;
                    through(upstream, &stream, server).await?;
                    (stream, server.to_string().into())
                }
            };
            if !proxy_header.is_empty() {
                let sent = stream.send(proxy_header.to_vec()).await.0;
                sent.map_err(|error| reason_of(&error))?;
            }
            let end = match &connector.tls {
                None => ServerEnd::Plain(stream),
                Some((config, name)) => {
                    let name = name.clone().or_else(|| name_of(server));
                    let name = name.ok_or(CloseReason::ServerCertificate)?;
                    // In a box of its own: other tunnels need no room for a handshake.
                    Box::pin(handshake(stream, config.clone(), name)).await?
                }
            };
            Ok((end, address))
        };
        ring::timeout(connect_timeout, attempt)
            .await
            .unwrap_or(Err(CloseReason::ConnectTimeout))
    }

    /// Connects to the first address of a host that answers.
    async fn connect(
        &self,
        connector: &Connector,
        server: &HostPort,
        guard: Option<(&[IpNet], &str)>,
        retries: &mut u32,
    ) -> Result<(TcpStream, SocketAddr), CloseReason> {
        let addresses = self.addresses(&server.host, guard).await?;
        let addresses = addresses.into_iter();
        let addresses: Vec<_> = addresses
            .filter_map(|address| {
                Some((
                    SocketAddr::new(address, server.port),
                    connector.source(address)?,
                ))
            })
            .collect();
        let connected = match addresses[..] {
            [] => return Err(CloseReason::ServerUnreachable),
            [(address, source)] => TcpStream::connect_with(address, source, &connector.options)
                .await
                .map(|stream| (stream, address)),
            _ => Box::pin(race(&addresses, &connector.options, retries)).await,
        };
        connected.map_err(|error| reason_of(&error))
    }

    /// The addresses of a name of the configuration, or of one that an app of `device` chooses.
    async fn resolve(&self, name: &str, device: Option<&str>) -> Known {
        let names = match device {
            Some(_) => &self.chosen,
            None => &self.configured,
        };
        let generation = self.resolver.generation();
        names.borrow_mut().follow(generation, ring::now());
        if let Some(known) = names.borrow().get(name, ring::now()) {
            return known;
        }
        let (sender, receiver) = oneshot();
        let reply = move |answer| sender.send(answer);
        // Dropped with the tunnel that wants it.
        let ticket = match device {
            Some(device) => {
                let owner = QueryOwner::Device(device.into());
                self.resolver.lookup(owner, name, reply)
            }
            None => self.resolver.lookup_configured(name, reply),
        };
        let has_stale = names.borrow().has_stale(name, ring::now());
        let answer = match has_stale {
            true => {
                let answer = ring::timeout(NAME_STALE_PATIENCE, receiver).await;
                ticket.leave();
                answer.ok()
            }
            false => {
                let answer = receiver.await;
                drop(ticket);
                Some(answer)
            }
        };
        let answer = answer.flatten().unwrap_or(Err(ResolveError::Timeout));
        let mut names = names.borrow_mut();
        if answer == Err(ResolveError::Timeout)
            && let Some(known) = names.reuse(name, ring::now())
        {
            return known;
        }
        names.insert(name, answer, generation, ring::now())
    }
}

/// An attempt to connect to one address.
type Attempt<'a> = Pin<Box<dyn Future<Output = io::Result<(TcpStream, SocketAddr)>> + 'a>>;

/// Connects to whichever address answers first, each attempt a little after the one before
/// ([`Race`]). The attempts that lose are cancelled.
async fn race(
    addresses: &[(SocketAddr, Option<IpAddr>)],
    options: &TcpOptions,
    retries: &mut u32,
) -> io::Result<(TcpStream, SocketAddr)> {
    let mut race = Race::new(addresses.len());
    let mut running: Vec<Attempt<'_>> = Vec::new();
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    let mut timer: Option<ring::Sleep> = None;
    poll_fn(|context| {
        loop {
            let mut place = 0;
            while place < running.len() {
                match running[place].as_mut().poll(context) {
                    Poll::Pending => place += 1,
                    Poll::Ready(Ok(won)) => return Poll::Ready(Ok(won)),
                    Poll::Ready(Err(error)) => {
                        last = error;
                        race.failed();
                        drop(running.swap_remove(place));
                    }
                }
            }
            match race.step(ring::now()) {
                Step::Start(place) => {
                    *retries += u32::from(place > 0);
                    let (address, source) = addresses[place];
                    running.push(Box::pin(async move {
                        let stream = TcpStream::connect_with(address, source, options).await?;
                        Ok((stream, address))
                    }));
                }
                Step::Wait(until) => {
                    let Some(until) = until else {
                        return Poll::Pending;
                    };
                    let left = until.saturating_duration_since(ring::now());
                    let timer = timer.insert(ring::sleep(left));
                    if Pin::new(timer).poll(context).is_pending() {
                        return Poll::Pending;
                    }
                }
                Step::Lost => {
                    let error = std::mem::replace(&mut last, io::ErrorKind::Other.into());
                    return Poll::Ready(Err(error));
                }
            }
        }
    })
    .await
}

/// Asks an upstream proxy for a connection to `server`. Not a byte behind the proxy's header is
/// taken from the stream.
async fn through(
    upstream: &Upstream,
    stream: &TcpStream,
    server: &HostPort,
) -> Result<(), CloseReason> {
    let gone = |_| CloseReason::UpstreamProtocol;
    stream
        .send(upstream.request(server))
        .await
        .0
        .map_err(gone)?;
    let mut response = ProxyResponse::default();
    loop {
        // Of its own: a proxy that does not answer holds none of the pool.
        let buffer = RingBuf::of_size(PROXY_ANSWER_PEEK);
        let (seen, buffer) = stream.peek_into(buffer, PROXY_ANSWER_PEEK).await;
        if seen.map_err(gone)? == 0 {
            return Err(CloseReason::UpstreamProtocol);
        }
        let progress = response.push(&buffer)?;
        let mut left = match progress {
            Progress::More => buffer.len(),
            Progress::Open(used) => used,
        };
        drop(buffer);
        while left > 0 {
            let taken = stream.recv_at_most(left as u32).await.map_err(gone)?;
            left -= taken.ok_or(CloseReason::UpstreamProtocol)?.len();
        }
        if matches!(progress, Progress::Open(_)) {
            return Ok(());
        }
    }
}

async fn handshake(
    stream: TcpStream,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
) -> Result<ServerEnd, CloseReason> {
    let handshake = ClientHandshake::connected(stream, config, name)
        .await
        .map_err(|error| of_handshake(&error))?;
    let carry = match handshake.complete(None, ring::permit).await {
        Ok(carry) => carry,
        Err(error) => {
            let reason = of_handshake(&error);
            // The server is told why; the app need not wait for that.
            ring::spawn(async move {
                let _ = ring::timeout(LINGER, handshake.linger()).await;
            });
            return Err(reason);
        }
    };
    let session = handshake.into_session();
    let session = session.map_err(|_| CloseReason::GatewayError)?;
    Ok(ServerEnd::Tls(Box::new(session), carry))
}

fn of_handshake(error: &HandshakeError) -> CloseReason {
    match error {
        HandshakeError::Tls(error) => of_tls(error),
        HandshakeError::Io(_) | HandshakeError::Unused | HandshakeError::Ended => {
            CloseReason::ServerTls
        }
    }
}

/// Returns what a failed handshake with a server means for the app.
#[must_use]
pub fn of_tls(error: &rustls::Error) -> CloseReason {
    match ServerFailure::of(error) {
        ServerFailure::Certificate => CloseReason::ServerCertificate,
        ServerFailure::Alert => CloseReason::ServerTlsAlert,
        ServerFailure::Protocol => CloseReason::ServerTls,
    }
}

/// Returns what a name without addresses means for the app.
#[must_use]
pub fn of_name(error: ResolveError) -> CloseReason {
    match error {
        ResolveError::NotFound => CloseReason::NameNotFound,
        ResolveError::Timeout => CloseReason::NameTimeout,
        ResolveError::Share => CloseReason::NameLimit,
        ResolveError::Full => CloseReason::NodeLimit,
    }
}

/// Returns what a failure to connect to the upstream proxy means for the app.
#[must_use]
pub fn of_upstream(reason: CloseReason) -> CloseReason {
    match reason {
        CloseReason::NodeLimit | CloseReason::ConnectTimeout => reason,
        _ => CloseReason::UpstreamUnreachable,
    }
}

/// Returns what a failure to connect means for the app.
#[must_use]
pub fn reason_of(error: &io::Error) -> CloseReason {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED | libc::ECONNRESET) => CloseReason::ServerRefused,
        Some(libc::ETIMEDOUT) => CloseReason::ConnectTimeout,
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EADDRNOTAVAIL) => {
            CloseReason::NodeLimit
        }
        _ => CloseReason::ServerUnreachable,
    }
}
