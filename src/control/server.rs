//! The control core's thread: its runtime, the admin listener's accept loop and its connections.
//!
//! Connections are bounded in number and in life, requests in size and in time.

use std::convert::Infallible;
use std::future::{Future, pending};
use std::io;
use std::net::SocketAddr;
use std::os::unix::net;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::listen::{Control, Listener, SocketFile};
use super::pages::Pages;
use super::permission::Caller;
use super::{ControlError, Node};
use crate::limits::{
    ADMIN_ACCEPT_PAUSE, ADMIN_CONNECTION_LIFE, ADMIN_CONNECTIONS, ADMIN_HEADER_TIMEOUT,
    ADMIN_REQUEST_BYTES, ADMIN_STOP,
};

impl Control {
    /// Runs the control core on this thread until `shutdown` holds `true` or its sender is gone: the admin listener, which
    /// is left to another process once `retired` gives something; from then on the connections that it gives are served, and
    /// beside it `extra` (other jobs of the control core, such as signals and name resolution), which is dropped at the
    /// end. It is not the end when `extra` returns.
    ///
    /// # Errors
    ///
    /// The runtime cannot be started. Once it runs, failing to accept is logged and tried again.
    pub fn run(
        self,
        node: Arc<dyn Node>,
        shutdown: watch::Receiver<bool>,
        retired: mpsc::Receiver<Option<net::UnixStream>>,
        extra: impl Future<Output = ()>,
    ) -> Result<(), ControlError> {
        let runtime =
            tokio_uring::Runtime::new(&tokio_uring::builder()).map_err(ControlError::Runtime)?;
        runtime.block_on(async move {
            let host = self.host();
            let pages = Rc::new(Pages::new(node, host, (self.permission, self.users)));
            let acceptor = Acceptor::new(self.listener).map_err(ControlError::Runtime)?;
            let jobs = async {
                extra.await;
                pending::<()>().await;
            };
            tokio::select! {
                () = serve(acceptor, pages, shutdown, retired) => {}
                () = jobs => {}
            }
            Ok(())
        })
    }
}

/// The listener on the runtime.
enum Acceptor {
    Tcp(TcpListener),
    /// The socket's file is removed with it.
    Unix(UnixListener, SocketFile),
}

enum Stream {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream, Caller),
}

impl Acceptor {
    fn new(listener: Listener) -> io::Result<Self> {
        Ok(match listener {
            Listener::Tcp(listener, _) => Self::Tcp(TcpListener::from_std(listener)?),
            Listener::Unix(listener, file) => Self::Unix(UnixListener::from_std(listener)?, file),
        })
    }

    /// Another process listens on.
    fn leave(self) {
        if let Self::Unix(_, file) = self {
            file.leave();
        }
    }

    async fn accept(&self) -> io::Result<Stream> {
        Ok(match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                Stream::Tcp(stream, address)
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                let peer = stream.peer_cred()?;
                let (uid, pid) = (peer.uid(), peer.pid());
                Stream::Unix(stream, Caller::Unix { uid, pid })
            }
        })
    }
}

async fn serve(
    acceptor: Acceptor,
    pages: Rc<Pages>,
    mut shutdown: watch::Receiver<bool>,
    mut retired: mpsc::Receiver<Option<net::UnixStream>>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            // At the bound, clients wait in the kernel's backlog.
            accepted = acceptor.accept(), if connections.len() < ADMIN_CONNECTIONS => match accepted {
                Ok(Stream::Tcp(stream, address)) => {
                    let from = (Rc::clone(&pages), Caller::Tcp(address));
                    connections.spawn_local(converse(stream, from, shutdown.clone()));
                }
                Ok(Stream::Unix(stream, caller)) => {
                    let from = (Rc::clone(&pages), caller);
                    connections.spawn_local(converse(stream, from, shutdown.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "the admin listener cannot accept");
                    sleep(ADMIN_ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
            () = stopped(&mut shutdown) => break,
            Some(connection) = retired.recv() => {
                acceptor.leave();
                return serve_successor(connection, retired, pages, shutdown).await;
            }
        }
    }
    drop(acceptor);
    let finish = async { while connections.join_next().await.is_some() {} };
    // What is not done by then is cut off with the runtime.
    let _ = timeout(ADMIN_STOP, finish).await;
}

/// Serves the process that has taken this one's place, and nobody else.
async fn serve_successor(
    mut connection: Option<net::UnixStream>,
    mut next: mpsc::Receiver<Option<net::UnixStream>>,
    pages: Rc<Pages>,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    loop {
        if let Some(connection) = connection.take()
            && connection.set_nonblocking(true).is_ok()
            && let Ok(stream) = UnixStream::from_std(connection)
        {
            let from = (Rc::clone(&pages), Caller::Successor);
            connections.spawn_local(converse(stream, from, shutdown.clone()));
        }
        tokio::select! {
            next = next.recv(), if connections.len() < ADMIN_CONNECTIONS => match next {
                Some(next) => connection = next,
                None => return stopped(&mut shutdown).await,
            },
            Some(_) = connections.join_next() => {}
            () = stopped(&mut shutdown) => return,
        }
    }
}

/// Serves one connection until it ends, has lived long enough, or the node stops.
async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    (pages, caller): (Rc<Pages>, Caller),
    mut shutdown: watch::Receiver<bool>,
) {
    let service = service_fn(|request| {
        let pages = Rc::clone(&pages);
        async move { Ok::<_, Infallible>(pages.answer(request, caller).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(ADMIN_HEADER_TIMEOUT)
        .max_buf_size(ADMIN_REQUEST_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    // A connection's error is its client's affair.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = sleep(ADMIN_CONNECTION_LIFE) => {}
        () = stopped(&mut shutdown) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(ADMIN_CONNECTION_LIFE, connection).await;
}

/// Returns when the node stops, or nobody is left to say so.
async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    let _ = shutdown.wait_for(|stop| *stop).await;
}

#[cfg(test)]
mod tests;
