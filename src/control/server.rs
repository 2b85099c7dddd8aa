//! The control core's thread: its runtime, the accept loops of the admin listener and of the socket
//! in the state folder, and their connections.
//!
//! Connections are bounded in number and in life, requests in size and in time.

use std::convert::Infallible;
use std::future::{Future, pending};
use std::io;
use std::os::unix::net;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::listen::{Control, Listener};
use super::pages::Pages;
use super::permission::{Caller, Process};
use super::socket::SocketFile;
use super::state_socket::StateSocket;
use super::{ControlError, Node};
use crate::limits::{
    ADMIN_ACCEPT_PAUSE, ADMIN_CONNECTION_LIFE, ADMIN_CONNECTIONS, ADMIN_HEADER_TIMEOUT,
    ADMIN_REQUEST_BYTES, ADMIN_STOP,
};

impl Control {
    /// Runs the control core on this thread until `shutdown` holds `true` or its sender is gone:
    /// the admin listener and the socket in the state folder, which are left to another process
    /// once `retired` gives something; from then on the connections that it gives are served, and
    /// beside it `extra` (other jobs of the control core, such as signals and name resolution),
    /// which is dropped at the end. It is not the end when `extra` returns.
    ///
    /// # Errors
    ///
    /// The runtime cannot be started. Once it runs, failing to accept is logged and tried again.
    pub fn run(
        self,
        node: Arc<dyn Node>,
        mut shutdown: watch::Receiver<bool>,
        retired: mpsc::Receiver<Option<net::UnixStream>>,
        extra: impl Future<Output = ()>,
    ) -> Result<(), ControlError> {
        let runtime =
            tokio_uring::Runtime::new(&tokio_uring::builder()).map_err(ControlError::Runtime)?;
        runtime.block_on(async move {
            let pages = Rc::new(Pages::new(node, self.policy));
            let admin = Acceptor::new(self.listener).map_err(ControlError::Runtime)?;
            let state = self.state_socket.map(Acceptor::of_state_socket);
            let jobs = async {
                extra.await;
                pending::<()>().await;
            };
            let (leave, left) = watch::channel(false);
            let end = End {
                shutdown: shutdown.clone(),
                left,
            };
            let serve = async {
                tokio::join!(
                    serve(Some(admin), &pages, end.clone()),
                    serve(state, &pages, end.clone()),
                    serve_successor(retired, leave, &pages, end.clone()),
                )
            };
            let in_time = async {
                stopped(&mut shutdown).await;
                sleep(ADMIN_STOP).await;
            };
            tokio::select! {
                _ = serve => {}
                // What is not done by then is cut off with the runtime.
                () = in_time => {}
                () = jobs => {}
            }
            Ok(())
        })
    }
}

/// When a listener ends.
#[derive(Clone)]
struct End {
    /// The node stops.
    shutdown: watch::Receiver<bool>,
    /// Another process listens on.
    left: watch::Receiver<bool>,
}

impl End {
    async fn of_listener(&mut self) {
        tokio::select! {
            () = stopped(&mut self.shutdown) => {}
            () = stopped(&mut self.left) => {}
        }
    }

    /// The end of a connection: who was accepted before another process took over has an answer,
    /// once `asked`.
    async fn of_connection(&mut self, asked: &Notify) {
        let left = async {
            stopped(&mut self.left).await;
            asked.notified().await;
        };
        tokio::select! {
            () = stopped(&mut self.shutdown) => {}
            () = left => {}
        }
    }
}

/// A listener on the runtime.
enum Acceptor {
    Tcp(TcpListener),
    /// The socket's file is removed with it.
    Unix(UnixListener, SocketFile),
    State(StateAcceptor),
}

/// Accepts on the socket in the state folder, on another one when it has been made anew.
struct StateAcceptor {
    socket: Arc<StateSocket>,
    listener: Option<UnixListener>,
    listeners: mpsc::Receiver<net::UnixListener>,
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Acceptor {
    fn new(listener: Listener) -> io::Result<Self> {
        Ok(match listener {
            Listener::Tcp(listener, _) => Self::Tcp(TcpListener::from_std(listener)?),
            Listener::Unix(listener, mut file) => {
                let listener = UnixListener::from_std(listener)?;
                file.take_over();
                Self::Unix(listener, file)
            }
        })
    }

    /// To be called on the runtime.
    fn of_state_socket(socket: Arc<StateSocket>) -> Self {
        socket.take_over();
        let (to, listeners) = mpsc::channel(1);
        let looking = socket.clone();
        tokio::task::spawn_local(async move { looking.listeners(to).await });
        Self::State(StateAcceptor {
            socket,
            listener: None,
            listeners,
        })
    }

    /// The end, or, with `is_left`, another process listens on.
    fn end(self, is_left: bool) {
        match (self, is_left) {
            (Self::Tcp(_), _) | (Self::Unix(..), false) => {}
            (Self::Unix(_, mut file), true) => file.leave(),
            (Self::State(state), true) => state.socket.leave(),
            (Self::State(state), false) => state.socket.close(),
        }
    }

    async fn accept(&mut self) -> io::Result<(Stream, Caller)> {
        Ok(match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                (Stream::Tcp(stream), Caller::Tcp(address))
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                let caller = Caller::Unix(process_of(&stream)?);
                (Stream::Unix(stream), caller)
            }
            Self::State(state) => {
                let stream = state.accept().await?;
                let caller = Caller::State(process_of(&stream)?);
                (Stream::Unix(stream), caller)
            }
        })
    }
}

impl StateAcceptor {
    async fn accept(&mut self) -> io::Result<UnixStream> {
        loop {
            let accepted = async {
                match &self.listener {
                    Some(listener) => listener.accept().await,
                    None => pending().await,
                }
            };
            tokio::select! {
                accepted = accepted => return Ok(accepted?.0),
                Some(listener) = self.listeners.recv() => {
                    self.listener = Some(UnixListener::from_std(listener)?);
                }
            }
        }
    }
}

fn process_of(stream: &UnixStream) -> io::Result<Process> {
    let peer = stream.peer_cred()?;
    let (uid, pid) = (peer.uid(), peer.pid());
    Ok(Process { uid, pid })
}

/// Serves who connects to a listener until the end, and lets those who are served then have their
/// answers.
async fn serve(acceptor: Option<Acceptor>, pages: &Rc<Pages>, mut end: End) {
    let Some(mut acceptor) = acceptor else {
        return;
    };
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            // At the bound, clients wait in the kernel's backlog.
            accepted = acceptor.accept(), if connections.len() < ADMIN_CONNECTIONS => match accepted {
                Ok((stream, caller)) => {
                    let from = (Rc::clone(pages), caller);
                    match stream {
                        Stream::Tcp(stream) => connections.spawn_local(converse(stream, from, end.clone())),
                        Stream::Unix(stream) => connections.spawn_local(converse(stream, from, end.clone())),
                    };
                }
                Err(error) => {
                    tracing::warn!(%error, "the admin listener cannot accept connections connections");
                    sleep(ADMIN_ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
            () = end.of_listener() => break,
        }
    }
    acceptor.end(*end.left.borrow());
    while connections.join_next().await.is_some() {}
}

/// Leaves the listeners to the process that takes this one's place, once there is one, and serves
/// that alone.
async fn serve_successor(
    mut retired: mpsc::Receiver<Option<net::UnixStream>>,
    leave: watch::Sender<bool>,
    pages: &Rc<Pages>,
    mut end: End,
) {
    // What has been left does not end who is served here.
    let (_never, left) = watch::channel(false);
    end.left = left;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            next = retired.recv(), if connections.len() < ADMIN_CONNECTIONS => match next {
                Some(connection) => {
                    leave.send_replace(true);
                    if let Some(connection) = connection
                        && connection.set_nonblocking(true).is_ok()
                        && let Ok(stream) = UnixStream::from_std(connection)
                    {
                        let from = (Rc::clone(pages), Caller::Successor);
                        connections.spawn_local(converse(stream, from, end.clone()));
                    }
                }
                None => return stopped(&mut end.shutdown).await,
            },
            Some(_) = connections.join_next() => {}
            () = stopped(&mut end.shutdown) => return,
        }
    }
}

/// Serves one connection until it ends, has lived long enough, or its listener ends.
async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    (pages, caller): (Rc<Pages>, Caller),
    mut end: End,
) {
    let asked = Notify::new();
    let service = service_fn(|request| {
        let pages = Rc::clone(&pages);
        asked.notify_one();
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
        () = end.of_connection(&asked) => {}
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
