//! A listening TCP socket, accepted from by one multishot operation.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use io_uring::{opcode, types};
use socket2::{Domain, Protocol, Socket, Type};

use super::counters::bump;
use super::driver::{Key, Kind};
use super::executor::{Core, current};
use super::stream::TcpStream;
use super::time::sleep;

/// How long accepting rests when there is no descriptor or memory for a new socket.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// A listener of one core. Several cores may listen on one address: the kernel spreads connections
/// (`SO_REUSEPORT`).
pub struct TcpListener {
    core: Rc<Core>,
    socket: OwnedFd,
    address: SocketAddr,
    accepting: Cell<Option<Key>>,
}

impl TcpListener {
    /// Binds and listens. Accepted sockets inherit `TCP_NODELAY`.
    ///
    /// # Errors
    /// The system's, from socket, bind or listen.
    pub fn bind(address: SocketAddr, backlog: i32) -> io::Result<Self> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.set_tcp_nodelay(true)?;
        socket.bind(&address.into())?;
        socket.listen(backlog)?;
        let address = socket.local_addr()?.as_socket().unwrap_or(address);
        Ok(Self {
            core: current(Rc::clone),
            socket: socket.into(),
            address,
            accepting: Cell::new(None),
        })
    }

    /// Accepts on a socket that listens already. It must not be non-blocking: the ring waits.
    ///
    /// # Errors
    /// The system's, where it has no address.
    ///
    /// # Panics
    /// Outside a runtime.
    pub fn from_socket(socket: std::net::TcpListener) -> io::Result<Self> {
        Ok(Self {
            core: current(Rc::clone),
            address: socket.local_addr()?,
            socket: socket.into(),
            accepting: Cell::new(None),
        })
    }

    /// The address bound, with the port that the system chose for port 0.
    #[must_use]
    pub fn local_address(&self) -> SocketAddr {
        self.address
    }

    /// The next connection. Waits while the file limit is reached, and goes on by itself.
    ///
    /// # Errors
    /// Only what makes further accepting impossible.
    pub async fn accept(&self) -> io::Result<TcpStream> {
        loop {
            let Some(result) = self.next().await else {
                continue;
            };
            if let Ok(fd) = u32::try_from(result) {
                return Ok(TcpStream::adopt(&self.core, fd as i32));
            }
            match -result {
                // The connection ended in the queue, or the operation was stopped.
                libc::ECONNABORTED
                | libc::ECONNRESET
                | libc::EINTR
                | libc::ECANCELED
                | libc::EPROTO
                | libc::EPERM => {}
                libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM => {
                    bump(&self.core.cells.emfile);
                    bump(&self.core.cells.accept_pauses);
                    sleep(EXHAUSTED_PAUSE).await;
                }
                code => return Err(io::Error::from_raw_os_error(code)),
            }
        }
    }

    /// Stops, and gives out the connections that were accepted and not taken. What the system still
    /// has in its queue is for whoever else listens on the socket.
    pub async fn stop(self) -> Vec<TcpStream> {
        let mut accepted = Vec::new();
        if let Some(key) = self.accepting.get() {
            self.core.driver.borrow_mut().cancel(key);
            while let Some(result) = self.next().await {
                if let Ok(fd) = u32::try_from(result) {
                    accepted.push(TcpStream::adopt(&self.core, fd as i32));
                }
            }
        }
        accepted
    }

    /// Stops taking connections from the system's queue. [`TcpListener::accept`] gives out those
    /// that were taken already, and then starts again.
    pub fn pause(&self) {
        if let Some(key) = self.accepting.get() {
            self.core.driver.borrow_mut().cancel(key);
        }
    }

    /// The next result of the accept operation, `None` when it has ended and must be started anew.
    async fn next(&self) -> Option<i32> {
        let key = self.accepting.get().unwrap_or_else(|| {
            let accept = opcode::AcceptMulti::new(types::Fd(self.socket.as_raw_fd()))
                .flags(libc::SOCK_CLOEXEC)
                .build();
            let key = self
                .core
                .driver
                .borrow_mut()
                .start_stream(accept, Kind::Descriptor);
            self.accepting.set(Some(key));
            key
        });
        poll_fn(|context| {
            match self
                .core
                .driver
                .borrow_mut()
                .poll_stream(key, context.waker())
            {
                Ok(Some(result)) => Poll::Ready(Some(result)),
                Ok(None) => Poll::Pending,
                Err(()) => {
                    self.accepting.set(None);
                    Poll::Ready(None)
                }
            }
        })
        .await
    }
}

impl Drop for TcpListener {
    fn drop(&mut self) {
        // The cancellation goes by the operation's key, so the descriptor may be closed at once.
        if let Some(key) = self.accepting.take() {
            self.core.abandon(key, None);
        }
    }
}
