//! One stream of a session as the app's end of a tunnel.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use h2::{RecvStream, SendStream};
use rustls::AlertDescription;

use super::adapter::blame;
use super::queue::{Chunk, StreamQueue};
use super::session::Session;
use crate::limits::{HTTP2_DOWN_BATCH, HTTP2_SESSION_QUEUE, HTTP2_UP_BATCH, TLS_PLAINTEXT_MAX};
use crate::reason::CloseReason;
use crate::ring::{self, Gather, RingBuf, Spacing, TcpStream};
use crate::tls::{ClientStream, StreamError};
use crate::tunnel::{AppEnd, Broken, Data};

/// The stream.
pub(super) struct StreamEnd {
    session: Rc<Session>,
    receiving: RefCell<RecvStream>,
    sending: RefCell<SendStream<Chunk>>,
    queue: Rc<StreamQueue>,
    /// Bytes that have been received and are not with the server yet.
    with_relay: Cell<usize>,
    /// The client has ended its direction.
    ended: Cell<bool>,
    /// Of the task that waits in [`AppEnd::given_up`] while the client may still send.
    watching: RefCell<Option<Waker>>,
}

impl StreamEnd {
    /// The end of a stream that was answered with 200.
    pub fn new(session: Rc<Session>, receiving: RecvStream, sending: SendStream<Chunk>) -> Self {
        Self {
            session,
            receiving: receiving.into(),
            sending: sending.into(),
            queue: Rc::default(),
            with_relay: 0.into(),
            ended: false.into(),
            watching: None.into(),
        }
    }

    /// All frames that are there, up to a batch.
    fn poll_recv(&self, context: &mut Context<'_>) -> Poll<Result<Option<Gather>, Broken>> {
        let mut receiving = self.receiving.borrow_mut();
        let mut gather = Gather::default();
        let mut counted = 0;
        while counted < HTTP2_UP_BATCH && gather.runs() < Gather::RUNS_AT_ONCE {
            match receiving.poll_data(context) {
                Poll::Ready(Some(Ok(bytes))) => {
                    counted += bytes.len();
                    if bytes.is_empty() {
                        continue;
                    }
                    gather.push(bytes);
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(self.broken(&error))),
                Poll::Ready(None) if gather.is_empty() => {
                    self.client_ended();
                    return Poll::Ready(Ok(None));
                }
                Poll::Ready(None) => break,
                Poll::Pending if gather.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        self.with_relay.set(counted);
        let unread = &self.session.unread;
        unread.set(unread.get() + counted);
        self.session.moved();
        let mut windows = self.session.windows.borrow_mut();
        windows.received(counted, ring::now());
        Poll::Ready(Ok(Some(gather)))
    }

    /// The data received last is with the server: the client may send as much again.
    fn release(&self) {
        let count = self.with_relay.take();
        if count > 0 {
            let unread = &self.session.unread;
            unread.set(unread.get() - count);
            let mut receiving = self.receiving.borrow_mut();
            // An error is that the stream is gone, which the next receive tells.
            let _ = receiving.flow_control().release_capacity(count);
        }
    }

    fn client_ended(&self) {
        self.ended.set(true);
        if let Some(waker) = self.watching.take() {
            waker.wake();
        }
    }

    /// Waits until the client's flow control, and the session's queue, let some of the bytes go.
    fn poll_capacity(&self, context: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let mut sending = self.sending.borrow_mut();
        while sending.capacity() == 0 {
            match ready!(sending.poll_capacity(context)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(self.broken(&error))),
                None => return Poll::Ready(Err(self.gone(CloseReason::ClientReset))),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn broken(&self, error: &h2::Error) -> Broken {
        self.gone(blame(error))
    }

    /// The stream has ended, for the session's reason where the session has ended.
    fn gone(&self, reason: CloseReason) -> Broken {
        Broken {
            reason: self.session.ending.get().unwrap_or(reason),
            alert: None,
        }
    }
}

impl Drop for StreamEnd {
    fn drop(&mut self) {
        self.release();
    }
}

/// A tunnel in the count of those that are held back.
struct HeldBackGuard<'a>(&'a Session);

impl<'a> HeldBackGuard<'a> {
    fn new(session: &'a Session) -> Self {
        session.held.set(session.held.get() + 1);
        Self(session)
    }
}

impl Drop for HeldBackGuard<'_> {
    fn drop(&mut self) {
        self.0.held.set(self.0.held.get() - 1);
    }
}

impl AppEnd for StreamEnd {
    type Data = Gather;

    async fn recv(&self, _carry: Option<RingBuf>) -> Result<Option<Gather>, Broken> {
        self.release();
        poll_fn(|context| self.poll_recv(context)).await
    }

    /// Frames are made of it later: a server's bytes are received without gaps.
    fn spacing(&self) -> Spacing {
        let piece = if self.session.queue.held() < HTTP2_SESSION_QUEUE {
            HTTP2_DOWN_BATCH
        } else {
            TLS_PLAINTEXT_MAX
        };
        Spacing {
            piece,
            gap: 0,
            most: 1,
        }
    }

    async fn send(&self, buffer: RingBuf) -> Result<(), Broken> {
        let chunk = self.queue.chunk(&self.session.queue, buffer);
        self.sending
            .borrow_mut()
            .reserve_capacity(chunk.remaining());
        let mut held = None;
        poll_fn(|context| {
            let capacity = self.poll_capacity(context);
            if capacity.is_pending() && held.is_none() {
                held = Some(HeldBackGuard::new(&self.session));
            }
            capacity
        })
        .await?;
        drop(held);
        self.session.moved();
        // All of it: what the client's window does not take now waits in the session's queue, and the next buffer here.
        let sent = self.sending.borrow_mut().send_data(chunk, false);
        sent.map_err(|error| self.broken(&error))?;
        // What the server sends meanwhile waits in its connection, where small messages become few buffers.
        poll_fn(|context| self.queue.poll_room(&self.session.queue, context)).await;
        Ok(())
    }

    async fn close(&self) -> Result<(), Broken> {
        let nothing = self.session.queue.own(Bytes::new());
        let sent = self.sending.borrow_mut().send_data(nothing, true);
        sent.map_err(|error| self.broken(&error))
    }

    async fn cut(&self, reason: CloseReason, _alert: Option<(AlertDescription, Duration)>) {
        self.sending.borrow_mut().send_reset(reason.reset());
    }

    async fn given_up(&self) -> Broken {
        poll_fn(|context| {
            if !self.ended.get() {
                // Until then the other direction sees a reset.
                *self.watching.borrow_mut() = Some(context.waker().clone());
                return Poll::Pending;
            }
            let reset = ready!(self.sending.borrow_mut().poll_reset(context));
            Poll::Ready(match reset {
                Ok(_) => self.gone(CloseReason::ClientReset),
                Err(error) => self.broken(&error),
            })
        })
        .await
    }

    fn rest(&self) {}
}

impl Data for Gather {
    fn run(&self, index: usize) -> Option<&[u8]> {
        self.run(index)
    }

    fn len(&self) -> usize {
        self.len()
    }

    async fn send_to(self, stream: &TcpStream) -> (io::Result<()>, Self) {
        stream.send_gather(self).await
    }

    async fn seal_to(self, session: &ClientStream) -> (Result<(), StreamError>, Self) {
        (session.send_slices(self.iter()).await, self)
    }

    fn into_rest(self) -> Option<RingBuf> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::TcpStream;
    use crate::tunnel::memory;

    /// In bytes, without its part of the session. A server with TLS or datagrams adds what it adds
    /// to every tunnel.
    #[test]
    fn a_tunnel_of_a_session_keeps_to_its_memory() {
        let bytes = memory::<StreamEnd, TcpStream>();
        assert!(bytes <= 1024, "{bytes}");
    }
}
