//! A byte stream of the ring in the form that protocol libraries ask for: tokio's `AsyncRead` and
//! `AsyncWrite`.
//!
//! What is written is gathered in a buffer of the ring, spaced as records need it, and sent in one
//! piece when the owner asks ([`Duplex::poll_send`]) or the buffer is full: a library that flushes
//! after each frame makes neither small records nor small sends. One buffer may be on its way while
//! the next is filled; no more is taken.
//!
//! All of it is polled from one task.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use rustls::AlertDescription;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::handshake::Connection;
use super::stream::{Received, StreamError, TlsStream};
use crate::limits::TLS_PLAINTEXT_MAX;
use crate::ring::{self, LARGE_PAYLOAD, Pieces, RingBuf, SMALL_PAYLOAD, Spacing, TcpStream};

/// A stream of the ring that moves bytes in both directions.
pub trait ByteStream: 'static {
    /// Receives the next bytes. `carry` is the rest of the last receive ([`Pieces::into_rest`]).
    fn recv(
        &self,
        carry: Option<RingBuf>,
    ) -> impl Future<Output = Result<Received, StreamError>> + '_;

    /// The gaps that [`ByteStream::send`] needs in a buffer with more than one piece.
    fn spacing(&self) -> Spacing;

    /// Sends what `buffer` holds, spaced.
    fn send(&self, buffer: RingBuf) -> impl Future<Output = Result<(), StreamError>> + '_;

    /// Says that nothing more comes.
    fn close(&self) -> impl Future<Output = Result<(), StreamError>> + '_;

    /// Ends this end, with a fatal alert where there is one and alerts are spoken, and reads the
    /// peer's bytes away until it closes, so that no reset overtakes what was sent. The caller
    /// bounds the time.
    fn end(&self, alert: Option<AlertDescription>) -> impl Future<Output = ()> + '_;

    /// Gives back what is not needed while nothing moves.
    fn rest(&self) {}

    /// Bytes that were sent and the peer has not acknowledged, where that is known.
    fn unsent(&self) -> Option<u32> {
        None
    }
}

impl<C: Connection + 'static> ByteStream for TlsStream<C> {
    fn recv(
        &self,
        carry: Option<RingBuf>,
    ) -> impl Future<Output = Result<Received, StreamError>> + '_ {
        self.recv(carry)
    }

    fn spacing(&self) -> Spacing {
        self.spacing()
    }

    fn send(&self, buffer: RingBuf) -> impl Future<Output = Result<(), StreamError>> + '_ {
        self.send(buffer)
    }

    fn close(&self) -> impl Future<Output = Result<(), StreamError>> + '_ {
        self.close()
    }

    async fn end(&self, alert: Option<AlertDescription>) {
        match alert {
            Some(alert) => self.alert(alert).await,
            None => self.linger().await,
        }
    }

    fn rest(&self) {
        self.rest();
    }

    fn unsent(&self) -> Option<u32> {
        self.unsent()
    }
}

/// Of a plain end: no gaps, in pieces as long as a record's content.
pub const CONTIGUOUS: Spacing = Spacing {
    piece: TLS_PLAINTEXT_MAX,
    gap: 0,
    most: u16::MAX,
};

/// A connection without TLS, or in front of which somebody else has ended it.
impl ByteStream for TcpStream {
    async fn recv(&self, carry: Option<RingBuf>) -> Result<Received, StreamError> {
        let received = match carry {
            Some(carry) => Some(carry),
            None => self.recv().await?,
        };
        Ok(match received {
            Some(buffer) => {
                let count = buffer.len();
                let mut pieces = Pieces::of(buffer);
                pieces.take(count, 0..count);
                Received::Data(pieces)
            }
            None => Received::Closed,
        })
    }

    fn spacing(&self) -> Spacing {
        CONTIGUOUS
    }

    async fn send(&self, buffer: RingBuf) -> Result<(), StreamError> {
        Ok(self.send(buffer).await.0?)
    }

    async fn close(&self) -> Result<(), StreamError> {
        Ok(self.shutdown().await?)
    }

    async fn end(&self, _alert: Option<AlertDescription>) {
        self.linger().await;
    }

    fn unsent(&self) -> Option<u32> {
        self.unsent()
    }
}

type Pump = Pin<Box<dyn Future<Output = Result<(), StreamError>>>>;

/// A handle to the stream; its clones are the same stream.
pub struct Duplex<S>(Rc<Ends<S>>);

struct Ends<S> {
    stream: Rc<S>,
    input: RefCell<Input>,
    output: RefCell<Output>,
    failure: Cell<Option<StreamError>>,
}

impl<S> Clone for Duplex<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: ByteStream> Duplex<S> {
    /// A stream of which `carry` has been received and not been read.
    #[must_use]
    pub fn new(stream: S, carry: Option<RingBuf>) -> Self {
        let stream = Rc::new(stream);
        let (inbox, outbox) = (Rc::<Inbox>::default(), Rc::<Outbox>::default());
        let input = Input {
            pump: Some(Box::pin(receive(stream.clone(), inbox.clone(), carry))),
            inbox,
            current: None,
        };
        let output = Output {
            pump: Some(Box::pin(send(stream.clone(), outbox.clone()))),
            outbox,
            filling: Filling::new(stream.spacing()),
            closing: None,
            since: ring::now(),
        };
        Self(Rc::new(Ends {
            stream,
            input: RefCell::new(input),
            output: RefCell::new(output),
            failure: Cell::new(None),
        }))
    }

    /// The stream underneath, for what is not its bytes. It must not be read from or written to.
    #[must_use]
    pub fn stream(&self) -> &S {
        &self.0.stream
    }

    /// Why the stream broke, once.
    #[must_use]
    pub fn take_failure(&self) -> Option<StreamError> {
        self.0.failure.take()
    }

    /// Since when the kernel has not taken the whole of a buffer; `None` where nothing waits for
    /// it.
    #[must_use]
    pub fn sending_since(&self) -> Option<Instant> {
        let output = self.0.output.borrow();
        output.outbox.busy.get().then_some(output.since)
    }

    /// Ends this end ([`ByteStream::end`]); nothing is read or written any more. The caller bounds
    /// the time.
    pub async fn end(&self, alert: Option<AlertDescription>) {
        // What they wait for is cancelled, so that the end has the stream for itself.
        self.0.input.borrow_mut().pump = None;
        self.0.output.borrow_mut().pump = None;
        self.0.stream.end(alert).await;
    }

    /// Sends what has been written. Ready when all is with the kernel.
    ///
    /// # Errors
    /// The stream broke; [`Duplex::take_failure`] says how.
    pub fn poll_send(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let sent = self.0.output.borrow_mut().poll_send(context);
        sent.map(|sent| sent.map_err(|error| self.broken(error)))
    }

    fn broken(&self, error: StreamError) -> io::Error {
        let kind = match &error {
            StreamError::Io(error) => error.kind(),
            StreamError::Truncated => io::ErrorKind::UnexpectedEof,
            StreamError::Record(_) => io::ErrorKind::InvalidData,
        };
        self.0.failure.set(Some(error));
        kind.into()
    }
}

/// Received data that is not consumed yet.
#[derive(Default)]
struct Inbox {
    pieces: Cell<Option<Pieces>>,
    rest: Cell<Option<RingBuf>>,
    taken: Cell<bool>,
}

/// Receives for as long as it is polled; waits in between until what it has brought is read.
async fn receive<S: ByteStream>(
    stream: Rc<S>,
    inbox: Rc<Inbox>,
    mut carry: Option<RingBuf>,
) -> Result<(), StreamError> {
    loop {
        let Received::Data(pieces) = stream.recv(carry).await? else {
            return Ok(());
        };
        inbox.pieces.set(Some(pieces));
        poll_fn(|_| match inbox.taken.take() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
        carry = inbox.rest.take();
    }
}

struct Input {
    /// `None` after the end.
    pump: Option<Pump>,
    inbox: Rc<Inbox>,
    current: Option<Reading>,
}

/// Pieces of which some are read.
struct Reading {
    pieces: Pieces,
    piece: usize,
    offset: usize,
}

impl Input {
    fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<Result<(), StreamError>> {
        loop {
            if let Some(reading) = &mut self.current {
                if reading.copy_into(into) {
                    return Poll::Ready(Ok(()));
                }
                if let Some(read) = self.current.take() {
                    self.inbox.rest.set(read.pieces.into_rest());
                    self.inbox.taken.set(true);
                }
            }
            let Some(pump) = &mut self.pump else {
                return Poll::Ready(Ok(()));
            };
            if let Poll::Ready(ended) = pump.as_mut().poll(context) {
                self.pump = None;
                ended?;
                continue;
            }
            match self.inbox.pieces.take() {
                Some(pieces) => {
                    self.current = Some(Reading {
                        pieces,
                        piece: 0,
                        offset: 0,
                    });
                }
                None => return Poll::Pending,
            }
        }
    }
}

impl Reading {
    /// Copies as much as there is room for; false if nothing is left.
    fn copy_into(&mut self, into: &mut ReadBuf<'_>) -> bool {
        let mut any = false;
        for piece in self.pieces.iter().skip(self.piece) {
            let left = &piece[self.offset..];
            let count = left.len().min(into.remaining());
            into.put_slice(&left[..count]);
            any |= count > 0;
            if count < left.len() {
                self.offset += count;
                return true;
            }
            self.piece += 1;
            self.offset = 0;
        }
        any
    }
}

/// The buffer on its way.
#[derive(Default)]
struct Outbox {
    buffer: Cell<Option<RingBuf>>,
    busy: Cell<bool>,
}

/// Sends for as long as it is polled; waits in between for the next buffer.
async fn send<S: ByteStream>(stream: Rc<S>, outbox: Rc<Outbox>) -> Result<(), StreamError> {
    loop {
        let buffer = poll_fn(|_| match outbox.buffer.take() {
            Some(buffer) => Poll::Ready(buffer),
            None => Poll::Pending,
        })
        .await;
        stream.send(buffer).await?;
        outbox.busy.set(false);
    }
}

struct Output {
    /// `None` after a failure.
    pump: Option<Pump>,
    outbox: Rc<Outbox>,
    filling: Filling,
    closing: Option<Pump>,
    /// When the buffer on its way was given to the pump.
    since: Instant,
}

impl Output {
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        loop {
            if !self.outbox.busy.get() {
                let Some(buffer) = self.filling.take() else {
                    return Poll::Ready(Ok(()));
                };
                self.outbox.busy.set(true);
                self.since = ring::now();
                self.outbox.buffer.set(Some(buffer));
            }
            let Some(pump) = &mut self.pump else {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::BrokenPipe).into()));
            };
            if let Poll::Ready(ended) = pump.as_mut().poll(context) {
                self.pump = None;
                ended?;
            } else if self.outbox.busy.get() {
                return Poll::Pending;
            }
        }
    }

    fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<Result<usize, StreamError>> {
        let mut written = 0;
        for slice in slices {
            let mut left: &[u8] = slice;
            while !left.is_empty() {
                match self.filling.put(left, slices) {
                    Put::Some(count) => {
                        written += count;
                        left = &left[count..];
                    }
                    Put::Full => {
                        // What is ready goes while the next buffer is filled.
                        let sent = self.poll_send(context)?;
                        if sent.is_pending() && !self.filling.is_empty() {
                            return if written > 0 {
                                Poll::Ready(Ok(written))
                            } else {
                                Poll::Pending
                            };
                        }
                    }
                    Put::NoBuffer => {
                        // All are in use. Others must run, and give theirs back.
                        context.waker().wake_by_ref();
                        return if written > 0 {
                            Poll::Ready(Ok(written))
                        } else {
                            Poll::Pending
                        };
                    }
                }
            }
        }
        Poll::Ready(Ok(written))
    }
}

/// The buffer that is being filled.
struct Filling {
    spacing: Spacing,
    buffer: Option<RingBuf>,
    /// Pieces that are full.
    pieces: usize,
    /// Bytes in the piece behind them.
    in_piece: usize,
    /// The last buffer was filled to its end: there is more to come than a small one holds.
    bulk: bool,
}

enum Put {
    Some(usize),
    Full,
    NoBuffer,
}

impl Filling {
    fn new(spacing: Spacing) -> Self {
        Self {
            spacing,
            buffer: None,
            pieces: 0,
            in_piece: 0,
            bulk: false,
        }
    }

    fn is_empty(&self) -> bool {
        self.buffer.is_none()
    }

    /// The buffer, if it holds anything.
    fn take(&mut self) -> Option<RingBuf> {
        let buffer = self.buffer.take()?;
        self.bulk = self.is_full(&buffer);
        (self.pieces, self.in_piece) = (0, 0);
        Some(buffer)
    }

    fn is_full(&self, buffer: &RingBuf) -> bool {
        let payload = if buffer.is_large() {
            LARGE_PAYLOAD
        } else {
            SMALL_PAYLOAD
        };
        self.pieces == payload / (self.spacing.piece + self.spacing.gap)
    }

    /// Appends some of `bytes`, which are a part of what is written at once.
    fn put(&mut self, bytes: &[u8], all: &[io::IoSlice<'_>]) -> Put {
        if self.buffer.is_none() {
            let coming: usize = all.iter().map(|slice| slice.len()).sum();
            let large = self.bulk || coming > self.spacing.piece;
            self.buffer = large
                .then(RingBuf::large)
                .flatten()
                .or_else(RingBuf::small)
                .or_else(RingBuf::large);
        }
        let Some(mut buffer) = self.buffer.take() else {
            return Put::NoBuffer;
        };
        let put = if self.is_full(&buffer) {
            Put::Full
        } else {
            if self.in_piece == 0 && self.pieces > 0 {
                buffer.widen(0, self.spacing.gap);
            }
            let count = bytes.len().min(self.spacing.piece - self.in_piece);
            buffer.append(&bytes[..count]);
            self.in_piece += count;
            if self.in_piece == self.spacing.piece {
                self.pieces += 1;
                self.in_piece = 0;
            }
            Put::Some(count)
        };
        self.buffer = Some(buffer);
        put
    }
}

impl<S: ByteStream> AsyncRead for Duplex<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = self.0.input.borrow_mut().poll_read(context, into);
        read.map(|read| read.map_err(|error| self.broken(error)))
    }
}

impl<S: ByteStream> AsyncWrite for Duplex<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.0.output.borrow_mut().poll_write(context, slices);
        written.map(|written| written.map_err(|error| self.broken(error)))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Does nothing: the owner sends when it has nothing more to write ([`Duplex::poll_send`]).
    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(context))?;
        let mut output = self.0.output.borrow_mut();
        let closing = output.closing.get_or_insert_with(|| {
            let stream = self.0.stream.clone();
            Box::pin(async move { stream.close().await })
        });
        let closed = ready!(closing.as_mut().poll(context));
        output.closing = Some(Box::pin(std::future::ready(Ok(()))));
        Poll::Ready(closed.map_err(|error| self.broken(error)))
    }
}
