//! The session's stream as `h2` sees it (what the client sends passes the guard first), and what
//! `h2` says of it.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use h2::Reason;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::guard::FrameGuard;
use super::queue::SessionQueue;
use crate::observe::Abuse;
use crate::reason::CloseReason;
use crate::ring;
use crate::tls::{ByteStream, Duplex};

/// A stream whose frames are watched.
pub(super) struct Guarded<S> {
    stream: Duplex<S>,
    guard: FrameGuard,
    /// Queue of data for the client.
    queue: Rc<SessionQueue>,
    seen: Rc<GuardReport>,
}

/// Observations of the guard, for the session's task.
#[derive(Default)]
pub(super) struct GuardReport {
    /// Abuse by the client, once it has happened.
    pub abuse: Cell<Option<Abuse>>,
    /// Abuse to report if the protocol's own code ends the session.
    pub suspected: Cell<Option<Abuse>>,
    /// The client has acknowledged SETTINGS since the session's task looked last.
    pub acknowledged: Cell<bool>,
}

impl<S: ByteStream> Guarded<S> {
    /// Watches `stream`. Once abuse has been seen nothing more is read.
    pub fn new(stream: Duplex<S>, queue: Rc<SessionQueue>, seen: Rc<GuardReport>) -> Self {
        Self {
            stream,
            guard: FrameGuard::new(ring::now()),
            queue,
            seen,
        }
    }
}

impl<S: ByteStream> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.seen.abuse.get().is_some() {
            return Poll::Pending;
        }
        let before = into.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, into))?;
        let sent = self.queue.take_frames();
        self.guard.sent(sent);
        let (refused, now) = (self.queue.take_refusals(), ring::now());
        let refused = self.guard.refused(refused, now);
        let watched = refused.and_then(|()| self.guard.push(&into.filled()[before..], now));
        if let Err(abuse) = watched {
            self.seen.abuse.set(Some(abuse));
            into.set_filled(before);
            // The session's task looks for it when it is polled again.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.seen.suspected.set(Some(self.guard.suspected()));
        if self.guard.take_acknowledged() {
            self.seen.acknowledged.set(true);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: ByteStream> AsyncWrite for Guarded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Who is to blame for what the protocol's own code reports.
pub(super) fn blame(error: &h2::Error) -> CloseReason {
    match error.reason() {
        // What the client sends, and what the connection comes to.
        _ if !error.is_library() => CloseReason::ClientReset,
        Some(Reason::ENHANCE_YOUR_CALM) => CloseReason::ClientFlood,
        _ => CloseReason::Http2Protocol,
    }
}
