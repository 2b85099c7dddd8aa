//! Active checks of servers, on the control core, so that they cost the data cores nothing.
//!
//! A check does what a tunnel would do to reach the server as it is named: it resolves the name, tries its addresses one
//! after the other from the service's source address, goes through its upstream proxy, and with `check = "tls"` makes a
//! whole handshake under the service's roots. One address that answers is enough. Not a byte of a tunnel is sent.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use crate::backend::{
    Progress, ResolveError, ResolverHandle, ServerState, Upstream, UpstreamAnswer, Watch, in_order,
    of_tls, of_upstream, reason_of,
};
use crate::config::{Host, HostPort};
use crate::engine::Node;
use crate::limits::{CHECK_POLL, CHECKS_AT_ONCE, PROXY_ANSWER_MAX};
use crate::observe::CloseReason;

/// Checks the servers whose services ask for it, for ever. A reload counts from the next look on.
pub async fn check_servers(node: Arc<Node>, resolver: ResolverHandle) {
    let mut schedule = Schedule::default();
    let mut running = JoinSet::new();
    loop {
        let watches = node.watches();
        let now = Instant::now();
        schedule.keep(&watches);
        while running.len() < CHECKS_AT_ONCE
            && let Some((service, server)) = schedule.next_due(&watches, now)
        {
            let (watches, resolver) = (watches.clone(), resolver.clone());
            running.spawn(async move {
                let watch = &watches[service];
                let began = Instant::now();
                let outcome = timeout(watch.check.timeout, check(watch, &server, &resolver)).await;
                let failure = outcome.unwrap_or(Err(CloseReason::ConnectTimeout)).err();
                let ended = Instant::now();
                server.checked(failure, watch.group.health(), (began, ended));
                (server, ended + watch.check.interval)
            });
        }
        let next = schedule.next().map_or(CHECK_POLL, |due| {
            due.saturating_duration_since(now).min(CHECK_POLL)
        });
        tokio::select! {
            () = sleep(next), if running.len() < CHECKS_AT_ONCE => {}
            Some(done) = running.join_next(), if !running.is_empty() => {
                if let Ok((server, due)) = done {
                    schedule.done(&server, due);
                }
            }
        }
    }
}

/// When each server is checked next; `None` while a check runs. No I/O and no clock.
#[derive(Default)]
struct Schedule {
    due: HashMap<Key, Option<Instant>>,
}

/// A server's state is where it is for as long as the schedule knows of it: watches hold it.
type Key = usize;

fn key(server: &Arc<ServerState>) -> Key {
    Arc::as_ptr(server) as usize
}

impl Schedule {
    /// Forgets servers that are not watched any more. New ones are due at once.
    fn keep(&mut self, watches: &[Watch]) {
        let servers = watches.iter().flat_map(|watch| watch.group.servers());
        let old = std::mem::take(&mut self.due);
        let now = Instant::now();
        for server in servers {
            let due = old.get(&key(server)).copied();
            self.due.insert(key(server), due.unwrap_or(Some(now)));
        }
    }

    /// A server that is due, by the place of its service. Its check is taken to run from now on.
    fn next_due(&mut self, watches: &[Watch], now: Instant) -> Option<(usize, Arc<ServerState>)> {
        for (place, watch) in watches.iter().enumerate() {
            for server in watch.group.servers() {
                let due = self.due.get_mut(&key(server))?;
                if due.is_some_and(|at| at <= now) {
                    *due = None;
                    return Some((place, server.clone()));
                }
            }
        }
        None
    }

    /// When the next server is due.
    fn next(&self) -> Option<Instant> {
        self.due.values().flatten().min().copied()
    }

    /// A check has ended.
    fn done(&mut self, server: &Arc<ServerState>, due: Instant) {
        if let Some(entry) = self.due.get_mut(&key(server)) {
            *entry = Some(due);
        }
    }
}

/// Checks a server once.
async fn check(
    watch: &Watch,
    server: &ServerState,
    resolver: &ResolverHandle,
) -> Result<(), CloseReason> {
    let mut stream = match &watch.upstream {
        None => connect(server.address(), &watch.bind, resolver).await?,
        Some(upstream) => {
            let connected = connect(&upstream.address, &watch.bind, resolver).await;
            let mut stream = connected.map_err(of_upstream)?;
            through(upstream, &mut stream, server.address()).await?;
            stream
        }
    };
    let Some((config, name)) = watch.tls(server) else {
        return Ok(());
    };
    let gone = |error| reason_of(&error);
    stream.write_all(&watch.introduction).await.map_err(gone)?;
    let mut session = TlsConnector::from(config)
        .connect(name, stream)
        .await
        .map_err(|error| {
            let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
            inner.map_or(CloseReason::ServerTls, of_tls)
        })?;
    let _ = session.shutdown().await;
    Ok(())
}

/// Connects to the first address of `host` that answers.
async fn connect(
    host: &HostPort,
    bind: &[IpAddr],
    resolver: &ResolverHandle,
) -> Result<TcpStream, CloseReason> {
    let addresses = match &host.host {
        Host::Ip(address) => vec![*address],
        Host::Name(name) => {
            let (sender, receiver) = oneshot::channel();
            resolver.lookup(name, move |answer| drop(sender.send(answer)));
            match receiver.await.unwrap_or(Err(ResolveError::Timeout)) {
                Ok(answer) => in_order(&answer.addresses, 0),
                Err(ResolveError::NotFound) => return Err(CloseReason::NameNotFound),
                Err(ResolveError::Timeout) => return Err(CloseReason::NameTimeout),
            }
        }
    };
    let mut failure = CloseReason::ServerUnreachable;
    for address in addresses {
        let source = bind.iter().find(|b| b.is_ipv4() == address.is_ipv4());
        if source.is_none() && !bind.is_empty() {
            continue;
        }
        let attempt = async {
            let socket = match address {
                IpAddr::V4(_) => TcpSocket::new_v4()?,
                IpAddr::V6(_) => TcpSocket::new_v6()?,
            };
            if let Some(source) = source {
                socket.bind(SocketAddr::new(*source, 0))?;
            }
            socket.connect(SocketAddr::new(address, host.port)).await
        };
        match attempt.await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = reason_of(&error),
        }
    }
    Err(failure)
}

/// Asks an upstream proxy for a connection to `server`. Not a byte behind the proxy's header is taken from the stream.
async fn through(
    upstream: &Upstream,
    stream: &mut TcpStream,
    server: &HostPort,
) -> Result<(), CloseReason> {
    let gone = |_| CloseReason::UpstreamProtocol;
    let request = upstream.request(server);
    stream.write_all(&request).await.map_err(gone)?;
    let mut answer = UpstreamAnswer::default();
    let mut buffer = vec![0; PROXY_ANSWER_MAX];
    loop {
        let seen = stream.peek(&mut buffer).await.map_err(gone)?;
        if seen == 0 {
            return Err(CloseReason::UpstreamProtocol);
        }
        let progress = answer.push(&buffer[..seen])?;
        let taken = match progress {
            Progress::More => seen,
            Progress::Open(used) => used,
        };
        let read = stream.read_exact(&mut buffer[..taken]).await;
        read.map_err(gone)?;
        if matches!(progress, Progress::Open(_)) {
            return Ok(());
        }
    }
}
