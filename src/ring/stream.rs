//! A connected TCP socket.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::Duration;

use io_uring::{opcode, squeue, types};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use super::buffers::{BUFFER_BACK, RingBuf, SendBuf};
use super::combine::{map, unless_blocked};
use super::counters::{bump, count_exhaustion};
use super::driver::{Completion, Kind};
use super::executor::{Core, SMALL_PAYLOAD, current};
use super::gather::Gather;
use super::op::Op;
use super::options::{TcpOptions, acknowledge, bind_without_port, unsent};
use super::pieces::{Left, Pieces, Spacing, ToSend, spaced_header};
use super::pool::BufferPool;

/// Arms the poll before it tries to receive: saves an attempt that is known to find nothing (`IORING_RECVSEND_POLL_FIRST`).
const POLL_FIRST: u16 = 1;

/// A receive of this many bytes that leaves bytes behind is part of a stream: half of what a small buffer holds.
const BULK: usize = SMALL_PAYLOAD / 2;

/// A part of a record that is shorter than this leaves its buffer to wait for the rest: to move it costs less than a tenth of
/// what it costs to wait.
const SHORT: usize = 2048;

/// In place of the descriptor of a stream that was given away.
const GIVEN_AWAY: RawFd = -1;

/// A TCP connection of this core. Closed, through the ring, when it is dropped.
pub struct TcpStream {
    core: Rc<Core>,
    fd: RawFd,
    /// True if the last receive left bytes behind.
    more_waits: Cell<bool>,
    /// True if it was a long one and left bytes behind.
    bulk: Cell<bool>,
}

impl TcpStream {
    /// Takes ownership of an accepted descriptor.
    pub(super) fn adopt(core: &Rc<Core>, fd: RawFd) -> Self {
        bump(&core.cells.fds_live);
        Self {
            core: core.clone(),
            fd,
            more_waits: Cell::new(true),
            bulk: Cell::new(false),
        }
    }

    /// Takes ownership of a connected socket that comes from another core.
    ///
    /// # Panics
    /// Outside a runtime.
    #[must_use]
    pub fn from_descriptor(socket: OwnedFd) -> Self {
        Self::adopt(&current(Rc::clone), socket.into_raw_fd())
    }

    /// Gives the socket away, to be served by another core. Nothing may have been started on it: an operation of this
    /// ring would take bytes that are the other core's.
    #[must_use]
    pub fn into_descriptor(mut self) -> OwnedFd {
        let cells = &self.core.cells;
        cells.fds_live.set(cells.fds_live.get() - 1);
        let fd = std::mem::replace(&mut self.fd, GIVEN_AWAY);
        // SAFETY: the descriptor is open and was this stream's alone, which forgot it: drop does not close it.
        unsafe { OwnedFd::from_raw_fd(fd) }
    }

    /// Connects, with `TCP_NODELAY` set. There is no time limit but the system's: see [`super::timeout`].
    ///
    /// # Errors
    /// The system's, from socket or connect. At the file limit the error is counted and returned.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        Self::connect_with(address, None, &TcpOptions::default()).await
    }

    /// As [`TcpStream::connect`], from the address `source`, with `options`.
    ///
    /// # Errors
    /// As there, and from bind.
    pub async fn connect_with(
        address: SocketAddr,
        source: Option<IpAddr>,
        options: &TcpOptions,
    ) -> io::Result<Self> {
        let core = current(Rc::clone);
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )
        .inspect_err(|error| count_exhaustion(&core.cells, error))?;
        socket.set_tcp_nodelay(true)?;
        options.apply(&SockRef::from(&socket))?;
        if let Some(source) = source {
            bind_without_port(&socket, source)?;
        }
        let stream = Self::adopt(&core, socket.into_raw_fd());
        let target = Box::new(SockAddr::from(address));
        let entry =
            opcode::Connect::new(types::Fd(stream.fd), target.as_ptr().cast(), target.len())
                .build();
        let (completion, _target) = Op::new(&core, entry, Kind::Plain, target).await;
        completion.result?;
        Ok(stream)
    }

    /// Sets options of the connection.
    ///
    /// # Errors
    /// The system's.
    pub fn set_options(&self, options: &TcpOptions) -> io::Result<()> {
        options.apply(&SockRef::from(&self.descriptor()))
    }

    /// Acknowledges at once what was received, where the kernel would wait for an answer to send along, up to 40 ms. Sends
    /// nothing while bytes wait that were not received. It saves the peer time and is no promise: an error is ignored.
    pub fn acknowledge(&self) {
        let _ = acknowledge(self.descriptor());
    }

    /// Sends as many of a few bytes as the socket takes at once. Not while a send is under way, whose bytes they could part.
    ///
    /// # Errors
    /// The system's; `WouldBlock` where it takes none.
    pub fn try_send(&self, bytes: &[u8]) -> io::Result<usize> {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        SockRef::from(&self.descriptor()).send_with_flags(bytes, flags)
    }

    /// Bytes that were sent and the peer has not acknowledged; `None` where the kernel does not say.
    #[must_use]
    pub fn unsent(&self) -> Option<u32> {
        unsent(self.descriptor())
    }

    /// Receives into a small buffer that the kernel takes from the core's ring when bytes have arrived. `None` at the end
    /// of the stream. While no buffer is free, waits for one.
    ///
    /// # Errors
    /// The system's; a reset is counted.
    pub async fn recv(&self) -> io::Result<Option<RingBuf>> {
        self.recv_at_most(i32::MAX as u32).await
    }

    /// As [`TcpStream::recv`], with no more than `limit` bytes.
    ///
    /// # Errors
    /// As there.
    pub fn recv_at_most(
        &self,
        limit: u32,
    ) -> impl Future<Output = io::Result<Option<RingBuf>>> + '_ {
        self.recv_from(&self.core.pool, Kind::Buffer, limit)
    }

    fn recv_from<'a>(
        &'a self,
        pool: &'a BufferPool,
        kind: Kind,
        limit: u32,
    ) -> impl Future<Output = io::Result<Option<RingBuf>>> + 'a {
        // `None` while it waits for a buffer.
        let mut receive = Some(self.start_recv(pool.group(), kind, limit));
        poll_fn(move |context| {
            loop {
                let Some(started) = &mut receive else {
                    if !pool.has_posted() {
                        pool.wait(context.waker());
                        return Poll::Pending;
                    }
                    receive = Some(self.start_recv(pool.group(), kind, limit));
                    continue;
                };
                let (completion, ()) = ready!(Pin::new(started).poll(context));
                match completion.result {
                    Ok(0) => return Poll::Ready(Ok(None)),
                    Ok(count) => {
                        self.note_rest(completion.flags, count);
                        return Poll::Ready(Ok(completion.buffer));
                    }
                    Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                        bump(&self.core.cells.enobufs);
                        self.more_waits.set(true);
                        receive = None;
                    }
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
        })
    }

    fn start_recv(&self, group: u16, kind: Kind, limit: u32) -> Op<()> {
        let entry = opcode::Recv::new(types::Fd(self.fd), std::ptr::null_mut(), limit)
            .buf_group(group)
            .ioprio(self.poll_first())
            .build()
            .flags(squeue::Flags::BUFFER_SELECT);
        Op::new(&self.core, entry, kind, ())
    }

    /// Receives `limit` bytes at most behind those that `buffer` holds. `Ok(0)` at the end of the stream.
    ///
    /// # Errors
    /// The system's; the buffer comes back unchanged.
    ///
    /// # Panics
    /// If the buffer has no room.
    pub fn recv_into(
        &self,
        buffer: RingBuf,
        limit: usize,
    ) -> impl Future<Output = (io::Result<usize>, RingBuf)> + '_ {
        self.recv_behind(buffer, limit, self.poll_first(), 0)
    }

    /// Receives behind all that has come so far and is to stay together, for a peer that is not authenticated yet: through
    /// buffers that are for such peers alone, into memory of its own size, so that nothing is held while it waits but what
    /// has come. `None` at the end of the stream.
    ///
    /// # Errors
    /// The system's; `StorageFull` when `most` bytes are there already.
    pub async fn recv_more(
        &self,
        so_far: Option<RingBuf>,
        most: usize,
    ) -> io::Result<Option<RingBuf>> {
        let so_far = so_far.map(RingBuf::into_own);
        let limit = most.saturating_sub(so_far.as_ref().map_or(0, |so_far| so_far.len()));
        if limit == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        let next = self
            .recv_from(&self.core.guests, Kind::Guest, limit)
            .await?;
        Ok(next.map(|next| match so_far {
            Some(so_far) => so_far.joined(&next),
            None => next.into_own(),
        }))
    }

    /// Receives the rest of something that has begun in `part`, `limit` bytes at most. A short part waits in memory of its own
    /// size; a longer one in its buffer, as long as not too many of the pool's wait like that. `None` at the end of the
    /// stream.
    ///
    /// # Errors
    /// The system's.
    pub async fn recv_rest(&self, part: RingBuf, limit: usize) -> io::Result<Option<RingBuf>> {
        // It does not wait where bytes are known to be there.
        let waits = !self.more_waits.get();
        let apart = part.is_own() || (waits && part.len() < SHORT);
        let pool = &self.core.pool;
        let in_place = (waits && !apart).then(|| pool.wait_in_place());
        if apart || matches!(in_place, Some(None)) {
            return Box::pin(self.recv_apart(part, limit)).await;
        }
        let (count, buffer) = self.recv_into(part, limit).await;
        drop(in_place);
        Ok((count? > 0).then_some(buffer))
    }

    async fn recv_apart(&self, part: RingBuf, limit: usize) -> io::Result<Option<RingBuf>> {
        let part = part.into_own();
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        let next = self.recv_at_most(limit).await?;
        Ok(next.map(|mut next| {
            let long = part.len() + next.len() >= SHORT;
            match long && next.spare() >= part.len() + BUFFER_BACK {
                true => {
                    next.put_in_front(&part);
                    next
                }
                false => part.joined(&next),
            }
        }))
    }

    /// Ends the sending direction and reads the peer's bytes away until it closes, so that no reset overtakes what was
    /// sent. The caller bounds the time.
    pub async fn linger(&self) {
        if self.shutdown().await.is_err() {
            return;
        }
        let away = || self.recv_from(&self.core.guests, Kind::Guest, i32::MAX as u32);
        while let Ok(Some(_)) = away().await {}
    }

    /// As [`TcpStream::recv_into`], but does not wait: `WouldBlock` when nothing is there.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Panics
    /// As there.
    pub fn try_recv_into(
        &self,
        buffer: RingBuf,
        limit: usize,
    ) -> impl Future<Output = (io::Result<usize>, RingBuf)> + '_ {
        self.recv_behind(buffer, limit, 0, libc::MSG_DONTWAIT)
    }

    /// As [`TcpStream::recv_into`], but the bytes stay to be received again.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Panics
    /// As there.
    pub fn peek_into(
        &self,
        buffer: RingBuf,
        limit: usize,
    ) -> impl Future<Output = (io::Result<usize>, RingBuf)> + '_ {
        self.recv_behind(buffer, limit, 0, libc::MSG_PEEK)
    }

    fn recv_behind(
        &self,
        mut buffer: RingBuf,
        limit: usize,
        priority: u16,
        flags: i32,
    ) -> impl Future<Output = (io::Result<usize>, RingBuf)> + '_ {
        let (pointer, room) = buffer.spare_pointer();
        assert!(room > 0 && limit > 0, "receiving into a full buffer");
        let room = room.min(u32::try_from(limit).unwrap_or(u32::MAX));
        let entry = opcode::Recv::new(types::Fd(self.fd), pointer, room)
            .ioprio(priority)
            .flags(flags)
            .build();
        let mut receive = Op::new(&self.core, entry, Kind::Plain, buffer);
        poll_fn(move |context| {
            let completed = ready!(Pin::new(&mut receive).poll(context));
            Poll::Ready(self.received(completed, |count| count))
        })
    }

    /// Takes note of what a receive has put behind the bytes of its buffer: `span` bytes for those received.
    fn received(
        &self,
        (completion, mut buffer): (Completion, RingBuf),
        span: impl FnOnce(usize) -> usize,
    ) -> (io::Result<usize>, RingBuf) {
        match &completion.result {
            Ok(count) => {
                self.note_rest(completion.flags, *count);
                buffer.grown(span(*count as usize));
            }
            Err(_) => self.note_rest(0, 0),
        }
        (completion.result.map(|count| count as usize), buffer)
    }

    /// Receives into a buffer of this core, in pieces with gaps between them: a large one while a stream's bytes wait, a
    /// small one with a single piece otherwise. `None` at the end of the stream.
    ///
    /// # Errors
    /// The system's.
    pub fn recv_spaced(
        &self,
        spacing: Spacing,
    ) -> impl Future<Output = io::Result<Option<(usize, RingBuf)>>> + '_ {
        // A large buffer where more than a small one holds may come.
        let worth = spacing.piece * usize::from(spacing.most) > SMALL_PAYLOAD;
        let large = (worth && self.is_bulk()).then(RingBuf::large).flatten();
        let at_once = large.map(|large| {
            let receive = self.start_recv_spaced(large, spacing);
            map(receive, move |completed| {
                let (count, buffer) = self.received(completed, |count| spacing.span(count));
                let count = count?;
                Ok((count > 0).then_some((count, buffer)))
            })
        });
        unless_blocked(at_once, move || {
            map(self.recv_at_most(spacing.piece as u32), |received| {
                Ok(received?.map(|buffer| (buffer.len(), buffer)))
            })
        })
    }

    /// Does not wait: `WouldBlock` when nothing is there.
    fn start_recv_spaced(&self, mut buffer: RingBuf, spacing: Spacing) -> Op<RingBuf> {
        let header = spaced_header(&mut buffer, spacing);
        let entry = opcode::RecvMsg::new(types::Fd(self.fd), header)
            .flags(libc::MSG_DONTWAIT as u32)
            .build();
        Op::new(&self.core, entry, Kind::Plain, buffer)
    }

    /// Takes the connection for one that does not stream, until its next receive says otherwise.
    pub fn rest(&self) {
        self.bulk.set(false);
    }

    /// Returns true for a stream with more bytes waiting, which is worth a large buffer.
    #[must_use]
    pub fn is_bulk(&self) -> bool {
        self.bulk.get()
    }

    fn poll_first(&self) -> u16 {
        if self.more_waits.get() { 0 } else { POLL_FIRST }
    }

    fn note_rest(&self, flags: u32, count: u32) {
        let more = io_uring::cqueue::sock_nonempty(flags);
        self.more_waits.set(more);
        self.bulk.set(more && count as usize >= BULK);
    }

    /// Sends all pieces, which come back with their buffer.
    ///
    /// # Errors
    /// The system's; how much was sent before is not known then.
    pub fn send_pieces(
        &self,
        pieces: Pieces,
    ) -> impl Future<Output = (io::Result<()>, Pieces)> + '_ {
        self.send_all(pieces)
    }

    /// Sends all runs, which come back.
    ///
    /// # Errors
    /// The system's; how much was sent before is not known then.
    pub fn send_gather(
        &self,
        gather: Gather,
    ) -> impl Future<Output = (io::Result<()>, Gather)> + '_ {
        self.send_all(gather)
    }

    /// Sends all of `buffer`, which comes back for further use.
    ///
    /// # Errors
    /// The system's; how much was sent before is not known then.
    pub fn send<B: SendBuf + Unpin>(
        &self,
        buffer: B,
    ) -> impl Future<Output = (io::Result<()>, B)> + '_ {
        let unsent = Unsent { buffer, sent: 0 };
        map(self.send_all(unsent), |(sent, unsent)| {
            (sent, unsent.buffer)
        })
    }

    /// Sends until nothing is left. By hand, because an `async fn` would keep room for what is sent three times.
    fn send_all<R: ToSend>(&self, rest: R) -> impl Future<Output = (io::Result<()>, R)> + '_ {
        let mut step = self.send_step(rest);
        poll_fn(move |context| {
            loop {
                let send = match &mut step {
                    Ok(send) => send,
                    Err(all_sent) => {
                        let rest = all_sent.take().expect("not polled after its end");
                        return Poll::Ready((Ok(()), rest));
                    }
                };
                let (completion, mut rest) = ready!(Pin::new(send).poll(context));
                match completion.result {
                    Ok(count) => rest.advance(count as usize),
                    Err(error) => return Poll::Ready((Err(error), rest)),
                }
                step = self.send_step(rest);
            }
        })
    }

    /// Starts to send what is left; an error is that nothing is.
    fn send_step<R: ToSend>(&self, mut rest: R) -> Result<Op<R>, Option<R>> {
        const FLAGS: i32 = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
        let fd = types::Fd(self.fd);
        let entry = match rest.left() {
            None => return Err(Some(rest)),
            Some(Left::Bytes(pointer, length)) => {
                opcode::Send::new(fd, pointer, length).flags(FLAGS).build()
            }
            Some(Left::Message(header)) => {
                opcode::SendMsg::new(fd, header).flags(FLAGS as u32).build()
            }
        };
        Ok(Op::new(&self.core, entry, Kind::Plain, rest))
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

    /// Returns when the peer has ended its direction or reset the connection: whether nothing is left to be received.
    pub async fn has_ended(&self) -> bool {
        let entry = opcode::PollAdd::new(types::Fd(self.fd), libc::POLLRDHUP as u32).build();
        let (completion, ()) = Op::new(&self.core, entry, Kind::Plain, ()).await;
        if completion.result.is_err() {
            return true;
        }
        let mut byte = [std::mem::MaybeUninit::uninit()];
        let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
        let left = SockRef::from(&self.descriptor()).recv_with_flags(&mut byte, flags);
        left.map_or(true, |count| count == 0)
    }

    /// Makes every pending operation on this socket complete with `ECANCELED`.
    pub fn cancel(&self) {
        self.core.driver.borrow_mut().cancel_fd(self.fd);
    }

    /// Makes the coming close a reset: the peer learns that the stream was cut and not ended.
    pub fn reset_on_close(&self) {
        let _ = SockRef::from(&self.descriptor()).set_linger(Some(Duration::ZERO));
    }

    /// The peer's address; an IPv4 one as such, also where the socket takes both families.
    ///
    /// # Errors
    /// The system's, if the peer has gone already.
    pub fn peer_address(&self) -> io::Result<SocketAddr> {
        SockRef::from(&self.descriptor())
            .peer_addr()?
            .as_socket()
            .map(canonical)
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
            .map(canonical)
            .ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open for as long as `self` lives: only drop closes it.
        unsafe { BorrowedFd::borrow_raw(self.fd) }
    }
}

/// A buffer of which a part is sent.
struct Unsent<B> {
    buffer: B,
    sent: usize,
}

impl<B: SendBuf + Unpin> ToSend for Unsent<B> {
    fn left(&mut self) -> Option<Left> {
        let rest = &self.buffer.bytes()[self.sent..];
        (!rest.is_empty()).then_some(Left::Bytes(rest.as_ptr(), rest.len() as u32))
    }

    fn advance(&mut self, count: usize) {
        self.sent += count;
    }
}

impl AsRawFd for TcpStream {
    fn as_raw_fd(&self) -> RawFd {
        self.fd
    }
}

impl Drop for TcpStream {
    fn drop(&mut self) {
        if self.fd != GIVEN_AWAY {
            self.core.driver.borrow_mut().close(self.fd);
        }
    }
}

/// An IPv4 address that a socket of both families writes as an IPv6 one, as it is.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip if ip.is_ipv4() => SocketAddr::new(ip, address.port()),
        _ => address,
    }
}
