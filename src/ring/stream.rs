//! A connected TCP socket.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, RawFd};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use io_uring::{opcode, squeue, types};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use super::buffers::{RingBuf, SendBuf};
use super::counters::bump;
use super::driver::{BUFFER_GROUP, Kind};
use super::executor::{Core, current};
use super::op::Op;

/// Arms the poll before it tries to receive: saves an attempt that is known to find nothing (`IORING_RECVSEND_POLL_FIRST`).
const POLL_FIRST: u16 = 1;

/// A TCP connection of this core. Closed, through the ring, when it is dropped.
pub struct TcpStream {
    core: Rc<Core>,
    fd: RawFd,
    /// Whether the last receive left bytes behind.
    more_waits: Cell<bool>,
}

impl TcpStream {
    /// Takes ownership of an accepted descriptor.
    pub(super) fn adopt(core: &Rc<Core>, fd: RawFd) -> Self {
        bump(&core.cells.fds_live);
        Self {
            core: core.clone(),
            fd,
            more_waits: Cell::new(true),
        }
    }

    /// Connects, with `TCP_NODELAY` set. There is no time limit but the system's: see [`super::timeout`].
    ///
    /// # Errors
    /// The system's, from socket or connect. At the file limit the error is counted and returned.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let core = current(Rc::clone);
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )
        .inspect_err(|error| count_exhaustion(&core, error))?;
        socket.set_tcp_nodelay(true)?;
        let stream = Self::adopt(&core, socket.into_raw_fd());
        let target = Box::new(SockAddr::from(address));
        let entry =
            opcode::Connect::new(types::Fd(stream.fd), target.as_ptr().cast(), target.len())
                .build();
        let (completion, _target) = Op::new(&core, entry, Kind::Plain, target).await;
        completion.result?;
        Ok(stream)
    }

    /// Receives into a buffer that the kernel takes from the core's ring when bytes have arrived. `None` at the end of
    /// the stream. While no buffer is free, waits for one.
    ///
    /// # Errors
    /// The system's; a reset is counted.
    pub async fn recv(&self) -> io::Result<Option<RingBuf>> {
        loop {
            let entry = opcode::Recv::new(types::Fd(self.fd), std::ptr::null_mut(), 0)
                .buf_group(BUFFER_GROUP)
                .ioprio(if self.more_waits.get() { 0 } else { POLL_FIRST })
                .build()
                .flags(squeue::Flags::BUFFER_SELECT);
            let (completion, ()) = Op::new(&self.core, entry, Kind::Buffer, ()).await;
            match completion.result {
                Ok(0) => return Ok(None),
                Ok(_) => {
                    self.more_waits
                        .set(io_uring::cqueue::sock_nonempty(completion.flags));
                    return Ok(completion.buffer);
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    bump(&self.core.cells.enobufs);
                    self.more_waits.set(true);
                    self.buffer_returned().await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Receives behind the bytes that `buffer` holds. `Ok(0)` at the end of the stream.
    ///
    /// # Errors
    /// The system's; the buffer comes back unchanged.
    ///
    /// # Panics
    /// If the buffer has no room.
    pub async fn recv_into(&self, mut buffer: RingBuf) -> (io::Result<usize>, RingBuf) {
        let (pointer, room) = buffer.spare_pointer();
        assert!(room > 0, "receiving into a full buffer");
        let entry = opcode::Recv::new(types::Fd(self.fd), pointer, room)
            .ioprio(if self.more_waits.get() { 0 } else { POLL_FIRST })
            .build();
        let (completion, mut buffer) = Op::new(&self.core, entry, Kind::Plain, buffer).await;
        if let Ok(count) = completion.result {
            self.more_waits
                .set(io_uring::cqueue::sock_nonempty(completion.flags));
            buffer.grown(count as usize);
        }
        (completion.result.map(|count| count as usize), buffer)
    }

    /// Sends all of `buffer`, which comes back for further use.
    ///
    /// # Errors
    /// The system's; how much was sent before is not known then.
    pub async fn send<B: SendBuf + Unpin>(&self, mut buffer: B) -> (io::Result<()>, B) {
        let mut sent = 0;
        while sent < buffer.bytes().len() {
            let rest = &buffer.bytes()[sent..];
            let entry = opcode::Send::new(types::Fd(self.fd), rest.as_ptr(), rest.len() as u32)
                .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
                .build();
            let (completion, back) = Op::new(&self.core, entry, Kind::Plain, buffer).await;
            buffer = back;
            match completion.result {
                Ok(count) => sent += count as usize,
                Err(error) => return (Err(error), buffer),
            }
        }
        (Ok(()), buffer)
    }

    /// Ends the sending direction: the peer sees the end of the stream.
    ///
    /// # Errors
    /// The system's, for example when the peer has reset the connection.
    pub async fn shutdown(&self) -> io::Result<()> {
        let entry = opcode::Shutdown::new(types::Fd(self.fd), libc::SHUT_WR).build();
        let (completion, ()) = Op::new(&self.core, entry, Kind::Plain, ()).await;
        completion.result.map(|_| ())
    }

    /// Makes every pending operation on this socket complete with `ECANCELED`.
    pub fn cancel(&self) {
        self.core.driver.borrow_mut().cancel_fd(self.fd);
    }

    /// Makes the coming close a reset: the peer learns that the stream was cut and not ended.
    pub fn reset_on_close(&self) {
        let _ = SockRef::from(&self.descriptor()).set_linger(Some(Duration::ZERO));
    }

    /// The peer's address.
    ///
    /// # Errors
    /// The system's, if the peer has gone already.
    pub fn peer_address(&self) -> io::Result<SocketAddr> {
        SockRef::from(&self.descriptor())
            .peer_addr()?
            .as_socket()
            .ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }

    /// This end's address.
    ///
    /// # Errors
    /// The system's.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        SockRef::from(&self.descriptor())
            .local_addr()?
            .as_socket()
            .ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open for as long as `self` lives: only drop closes it.
        unsafe { BorrowedFd::borrow_raw(self.fd) }
    }

    /// Waits until the pool has given a buffer to the ring again.
    fn buffer_returned(&self) -> impl Future<Output = ()> {
        let pool = self.core.pool.clone();
        poll_fn(move |context| {
            if pool.has_posted() {
                return Poll::Ready(());
            }
            pool.wait(context.waker());
            Poll::Pending
        })
    }
}

impl AsRawFd for TcpStream {
    fn as_raw_fd(&self) -> RawFd {
        self.fd
    }
}

impl Drop for TcpStream {
    fn drop(&mut self) {
        self.core.driver.borrow_mut().close(self.fd);
    }
}

fn count_exhaustion(core: &Core, error: &io::Error) {
    if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) {
        bump(&core.cells.emfile);
    }
}
