//! Moves the bytes of an open tunnel.
//!
//! Each direction is a task of its own, so that a byte wakes only what it concerns. A direction holds at most one buffer,
//! and none while it waits for whole records: a reader that does not read stops the writer at the other end, and nothing
//! grows with the transfer. The end of one direction is carried through to the other side.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use rustls::AlertDescription;

use super::core::{Core, Live};
use super::session::alert_of;
use crate::limits::{CUT_LINGER, LINGER, SESSION_REST};
use crate::observe::{CloseReason, Stage};
use crate::ring::{self, Either, RingBuf, TaskHandle, TcpStream};
use crate::tls::{Received, ServerStream, StreamError};

/// How a direction ended.
type End = Result<(), CloseReason>;

/// The two ends of a tunnel and what is known about it.
pub(super) struct Relay {
    pub core: Rc<Core>,
    pub client: ServerStream,
    pub server: TcpStream,
    pub live: Rc<Live>,
    pub idle_timeout: Duration,
    /// When a byte last moved.
    pub last: Cell<Instant>,
    pub ends: Ends,
}

/// What came behind the request: bytes for the server, and records that are not complete yet.
pub(super) struct Behind {
    pub early: Vec<u8>,
    pub carry: Option<RingBuf>,
}

/// What the directions have come to.
#[derive(Default)]
pub(super) struct Ends {
    up: Cell<Option<End>>,
    down: Cell<Option<End>>,
    /// The server reads no more, but may still send.
    server_gone: Cell<bool>,
    /// What the client is to be told before the session is cut.
    alert: Cell<Option<AlertDescription>>,
}

impl Relay {
    /// Starts both directions; they end with their handles.
    pub fn start(self: &Rc<Self>, behind: Box<Behind>) -> [TaskHandle; 2] {
        let (up, down) = (self.clone(), self.clone());
        [
            ring::spawn_owned(async move {
                let ending = Ending(&up, |ends| &ends.up);
                ending.with(up.up(behind).await);
            }),
            ring::spawn_owned(async move {
                let ending = Ending(&down, |ends| &ends.down);
                ending.with(down.down().await);
            }),
        ]
    }

    /// Waits until both directions have ended, one has failed, nothing moves any more or the node ends.
    pub async fn end(&self, directions: [TaskHandle; 2]) -> CloseReason {
        let stopped = ring::race(self.idle(), self.core.cut.wait());
        let ended = match ring::race(self.both_ended(), stopped).await {
            Either::Left(end) => end,
            Either::Right(Either::Left(())) => Err(CloseReason::IdleTimeout),
            Either::Right(Either::Right(())) => Err(CloseReason::DrainTimeout),
        };
        drop(directions);
        match ended {
            Ok(()) if self.ends.server_gone.get() => CloseReason::ServerReset,
            Ok(()) => CloseReason::Closed,
            Err(reason) => {
                let cut = self.live.closing.get().and_then(alert_of);
                let linger = if cut.is_some() { CUT_LINGER } else { LINGER };
                if let Some(alert) = cut.or(self.ends.alert.get()) {
                    // In a box of its own: an open tunnel has no room for its alert.
                    let _ = Box::pin(ring::timeout(linger, self.client.alert(alert))).await;
                }
                // Cut, not ended: neither side may take what it has for the whole.
                self.client.reset_on_close();
                self.server.reset_on_close();
                reason
            }
        }
    }

    /// Client to server.
    async fn up(&self, behind: Box<Behind>) -> End {
        let mut carry = {
            let Behind { early, carry } = *behind;
            self.send_early(early).await?;
            carry
        };
        loop {
            match self.client.recv(carry).await {
                Ok(Received::Data(pieces)) => {
                    self.moved(&self.live.up, pieces.len());
                    let (sent, pieces) = self.server.send_pieces(pieces).await;
                    if sent.is_err() {
                        // The server reads no more. What it has already answered is still the client's.
                        self.ends.server_gone.set(true);
                        return Ok(());
                    }
                    carry = pieces.into_rest();
                }
                Ok(Received::Closed) => {
                    let _ = self.server.shutdown().await;
                    return Ok(());
                }
                Err(error) => return Err(self.client_end(&error)),
            }
        }
    }

    /// In a box of its own, like all that an open tunnel does once.
    fn send_early(&self, early: Vec<u8>) -> Pin<Box<dyn Future<Output = End> + '_>> {
        Box::pin(async move {
            if early.is_empty() {
                return Ok(());
            }
            self.moved(&self.live.up, early.len());
            let sent = self.server.send(early).await.0;
            sent.map_err(|_| CloseReason::ServerReset)
        })
    }

    /// Server to client.
    async fn down(&self) -> End {
        let spacing = self.client.spacing();
        let mut first = true;
        loop {
            let sent = match self.server.recv_spaced(spacing).await {
                Ok(Some((count, buffer))) => {
                    self.moved(&self.live.down, count);
                    if std::mem::take(&mut first) {
                        self.first_byte();
                    }
                    self.client.send(buffer).await
                }
                Ok(None) => {
                    // In a box of its own: an open tunnel has no room for its end.
                    return Box::pin(self.client.close())
                        .await
                        .map_err(|error| self.client_end(&error));
                }
                Err(_) => return Err(CloseReason::ServerReset),
            };
            sent.map_err(|error| self.client_end(&error))?;
        }
    }

    fn first_byte(&self) {
        let waited = ring::now().saturating_duration_since(self.live.opened);
        let mut metrics = self.core.metrics.borrow_mut();
        metrics.record(Stage::FirstByte, waited);
    }

    fn moved(&self, counter: &Cell<u64>, bytes: usize) {
        counter.set(counter.get() + bytes as u64);
        self.last.set(ring::now());
    }

    /// Returns when nothing has moved for the idle timeout. Before that, the session rests. The timer is set anew only when
    /// it has run out.
    async fn idle(&self) {
        let mut timer = ring::sleep(self.idle_timeout.min(SESSION_REST));
        loop {
            (&mut timer).await;
            let now = ring::now();
            let (rest, end) = (
                self.last.get() + SESSION_REST,
                self.last.get() + self.idle_timeout,
            );
            if now >= end {
                return;
            }
            if now >= rest {
                self.client.rest();
            }
            timer.reset(if now >= rest { end } else { rest.min(end) });
        }
    }

    /// Returns when both directions have ended well, one has not, or the tunnel is to be closed.
    fn both_ended(&self) -> impl Future<Output = End> {
        poll_fn(|context| {
            if let Some(reason) = self.live.closing.get() {
                return Poll::Ready(Err(reason));
            }
            let (up, down) = (self.ends.up.get(), self.ends.down.get());
            match (up, down) {
                (Some(Err(reason)), _) | (_, Some(Err(reason))) => Poll::Ready(Err(reason)),
                (Some(Ok(())), Some(Ok(()))) => Poll::Ready(Ok(())),
                _ => {
                    *self.live.waiting.borrow_mut() = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
    }

    fn client_end(&self, error: &StreamError) -> CloseReason {
        if let StreamError::Record(fault) = error {
            self.ends.alert.set(fault.alert());
        }
        match error {
            StreamError::Tls(_) | StreamError::Record(_) => CloseReason::TlsProtocol,
            StreamError::Io(_) => CloseReason::ClientReset,
            StreamError::Truncated => CloseReason::ClientTruncated,
        }
    }
}

/// Tells the relay how a direction ended; also when its task panics, which is a fault of the gateway.
struct Ending<'a>(&'a Relay, fn(&Ends) -> &Cell<Option<End>>);

impl Ending<'_> {
    fn with(self, end: End) {
        (self.1)(&self.0.ends).set(Some(end));
    }
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let end = (self.1)(&self.0.ends);
        if end.get().is_none() {
            end.set(Some(Err(CloseReason::GatewayError)));
        }
        self.0.live.wake();
    }
}
