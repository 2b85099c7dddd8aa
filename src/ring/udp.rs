//! A connected UDP socket.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::rc::Rc;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::buffers::RingBuf;
use super::counters::count_exhaustion;
use super::executor::current;
use super::options::bind_without_port;
use super::stream::TcpStream;

/// Values of `SO_MEMINFO`, of which the last is the number of datagrams that found no room
/// (`linux/sock_diag.h`).
const MEMORY_VALUES: usize = 9;

/// A UDP socket of this core that has one peer. Closed, through the ring, when it is dropped.
pub struct UdpSocket {
    // What the ring does with a connected socket is the same for both kinds.
    socket: TcpStream,
}

impl UdpSocket {
    /// A socket for datagrams to and from `peer`, from the address `source`. `queue`: bytes that
    /// the system may keep until they are received.
    ///
    /// # Errors
    /// The system's: no route to the peer, a source that is not this machine's, no more files.
    /// Nothing is sent, so that nothing is known of the peer.
    pub fn connect(peer: SocketAddr, source: Option<IpAddr>, queue: usize) -> io::Result<Self> {
        let core = current(Rc::clone);
        let kind = Type::DGRAM;
        let socket = Socket::new(Domain::for_address(peer), kind, Some(Protocol::UDP))
            .inspect_err(|error| count_exhaustion(&core.cells, error))?;
        socket.set_recv_buffer_size(queue)?;
        if let Some(source) = source {
            bind_without_port(&socket, source)?;
        }
        socket.connect(&peer.into())?;
        Ok(Self {
            socket: TcpStream::adopt(&core, socket.into_raw_fd()),
        })
    }

    /// Receives one datagram; `None` for one without content. What a small buffer cannot hold is
    /// cut off: a datagram that fills it may have been longer.
    ///
    /// # Errors
    /// The system's; also what the network has answered to an earlier datagram.
    pub async fn recv(&self) -> io::Result<Option<RingBuf>> {
        self.socket.recv().await
    }

    /// Sends one datagram.
    ///
    /// # Errors
    /// As for receiving; `EMSGSIZE` for one that the way to the peer cannot take.
    pub async fn send(&self, datagram: RingBuf) -> io::Result<()> {
        if datagram.is_empty() {
            return self.send_empty();
        }
        self.socket.send(datagram).await.0
    }

    /// Sends a datagram without content, at once.
    ///
    /// # Errors
    /// As for [`send`](Self::send).
    pub fn send_empty(&self) -> io::Result<()> {
        let descriptor = self.socket.descriptor();
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        let sent = SockRef::from(&descriptor).send_with_flags(&[], flags);
        sent.map(|_| ())
    }

    /// Datagrams that came and found the queue full.
    #[must_use]
    pub fn dropped(&self) -> u32 {
        let mut values = [0u32; MEMORY_VALUES];
        let mut length = size_of_val(&values) as libc::socklen_t;
        // SAFETY: the descriptor is open, and `values` has room for `length` bytes, of which any are a value.
        let answer = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_MEMINFO,
                values.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        if answer == 0 {
            values[MEMORY_VALUES - 1]
        } else {
            0
        }
    }
}
