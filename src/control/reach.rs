//! A connection to a server as a tunnel would have it, from the control core: by its name, from the
//! service's source address, through its upstream proxy.

use std::net::{IpAddr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;

use crate::backend::{
    Progress, ProxyResponse, ResolveError, ResolverHandle, Upstream, in_order, of_name,
    of_upstream, reason_of,
};
use crate::config::{Host, HostPort};
use crate::limits::PROXY_ANSWER_MAX;
use crate::reason::CloseReason;

/// Connects to a server, through `upstream` where there is one.
pub(super) async fn reach(
    server: &HostPort,
    upstream: Option<&Upstream>,
    bind: &[IpAddr],
    resolver: &ResolverHandle,
) -> Result<TcpStream, CloseReason> {
    let Some(upstream) = upstream else {
        return connect(server, bind, resolver).await;
    };
    let connected = connect(&upstream.address, bind, resolver).await;
    let mut stream = connected.map_err(of_upstream)?;
    through(upstream, &mut stream, server).await?;
    Ok(stream)
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
            let reply = move |answer| drop(sender.send(answer));
            let _ticket = resolver.lookup_configured(name, reply);
            let answer = receiver.await.unwrap_or(Err(ResolveError::Timeout));
            in_order(&answer.map_err(of_name)?.addresses, 0)
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

/// Asks an upstream proxy for a connection to `server`. Not a byte behind the proxy's header is
/// taken from the stream.
async fn through(
    upstream: &Upstream,
    stream: &mut TcpStream,
    server: &HostPort,
) -> Result<(), CloseReason> {
    let gone = |_| CloseReason::UpstreamProtocol;
    let request = upstream.request(server);
    stream.write_all(&request).await.map_err(gone)?;
    let mut answer = ProxyResponse::default();
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
