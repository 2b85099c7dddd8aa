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
use super::ends::{AppEnd, Broken, Data, ServerEnd};
use super::gates::{Direction, Pass};
use super::open::Terms;
use super::outcome::alert_of;
use crate::limits::{CUT_LINGER, LINGER, SESSION_REST};
use crate::observe::{CloseReason, Stage, Who};
use crate::ring::{self, Either, RingBuf, TaskHandle};

/// How a direction ended.
type End = Result<(), CloseReason>;

/// The two ends of a tunnel and what is known about it.
pub(super) struct Relay<A, S> {
    pub core: Rc<Core>,
    pub app: A,
    pub server: S,
    pub live: Rc<Live>,
    pub terms: Terms,
    /// What its service and its app may take.
    pub pass: Pass,
    /// Directions that wait until more may move.
    pub paced: Cell<u8>,
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

impl<A: AppEnd, S: ServerEnd> Relay<A, S> {
    /// Starts both directions; they end with their handles.
    pub fn start(self: &Rc<Self>, behind: Box<Behind>) -> [TaskHandle; 2] {
        let (up, down) = (self.clone(), self.clone());
        [
            ring::spawn_owned(async move {
                let ending = Ending::of(&up, |ends| &ends.up);
                ending.with(up.up(behind).await);
            }),
            ring::spawn_owned(async move {
                let ending = Ending::of(&down, |ends| &ends.down);
                ending.with(down.down().await);
            }),
        ]
    }

    /// Waits until both directions have ended, one has failed, nothing moves any more or the node ends.
    pub async fn end(&self, directions: [TaskHandle; 2]) -> CloseReason {
        let stopped = ring::race(self.time_over(), self.core.cut.wait());
        let ended = match ring::race(self.both_ended(), stopped).await {
            Either::Left(end) => end,
            Either::Right(Either::Left(reason)) => Err(reason),
            Either::Right(Either::Right(())) => Err(CloseReason::DrainTimeout),
        };
        drop(directions);
        match ended {
            Ok(()) if self.ends.server_gone.get() => CloseReason::ServerReset,
            Ok(()) => CloseReason::Closed,
            Err(reason) => {
                let cut = self.live.closing.get().and_then(alert_of);
                let alert = match cut {
                    Some(alert) => Some((alert, CUT_LINGER)),
                    None => self.ends.alert.get().map(|alert| (alert, LINGER)),
                };
                // Cut, not ended: neither side may take what it has for the whole. In a box of its own: an open tunnel
                // has no room for its alert.
                Box::pin(self.app.cut(reason, alert)).await;
                self.server.reset_on_close();
                reason
            }
        }
    }

    /// App to server.
    async fn up(&self, behind: Box<Behind>) -> End {
        let mut carry = {
            let Behind { early, carry } = *behind;
            self.send_early(early).await?;
            carry
        };
        loop {
            match self.app.recv(carry).await {
                Ok(Some(data)) => {
                    let count = data.len();
                    self.moved(&self.live.up, count);
                    let (sent, data) = self.server.send(data).await;
                    match sent {
                        Ok(()) => {}
                        // It is the app's fault.
                        Err(reason) if reason.who() == Who::Client => return Err(reason),
                        Err(_) => {
                            // The server reads no more. What it has already answered is still the app's.
                            self.ends.server_gone.set(true);
                            return Ok(());
                        }
                    }
                    carry = data.into_rest();
                    if let Some(wait) = self.pass.moved(Direction::Up, count) {
                        self.pace(wait).await;
                    }
                }
                Ok(None) => {
                    self.server.close().await;
                    return Ok(());
                }
                Err(broken) => return Err(self.app_end(broken)),
            }
        }
    }

    /// In a box of its own, like all that an open tunnel does once.
    fn send_early(&self, early: Vec<u8>) -> Pin<Box<dyn Future<Output = End> + '_>> {
        Box::pin(async move {
            if early.is_empty() {
                return Ok(());
            }
            let count = early.len();
            self.moved(&self.live.up, count);
            self.server.send(early).await.0?;
            if let Some(wait) = self.pass.moved(Direction::Up, count) {
                self.pace(wait).await;
            }
            Ok(())
        })
    }

    /// Server to app.
    async fn down(&self) -> End {
        let spacing = self.app.spacing();
        let mut first = true;
        loop {
            let received = ring::race(self.server.recv(spacing), self.app.given_up()).await;
            let received = match received {
                Either::Left(received) => received?,
                Either::Right(broken) => return Err(self.app_end(broken)),
            };
            match received {
                Some((count, buffer)) => {
                    self.moved(&self.live.down, count);
                    if std::mem::take(&mut first) {
                        self.first_byte();
                    }
                    let sent = self.app.send(buffer).await;
                    sent.map_err(|broken| self.app_end(broken))?;
                    if let Some(wait) = self.pass.moved(Direction::Down, count) {
                        self.pace(wait).await;
                    }
                }
                None => {
                    // In a box of its own: an open tunnel has no room for its end.
                    return Box::pin(self.app.close())
                        .await
                        .map_err(|broken| self.app_end(broken));
                }
            }
        }
    }

    /// Waits until what has moved is paid for. Nothing is read meanwhile, so that TCP stops the sender; no buffer is held
    /// but that of an incomplete record. In a box of its own: most tunnels have no limit.
    fn pace(&self, wait: Duration) -> Pin<Box<dyn Future<Output = ()> + '_>> {
        {
            let mut metrics = self.core.metrics.borrow_mut();
            metrics.rate_waits += 1;
            metrics.rate_wait_nanos += wait.as_nanos() as u64;
        }
        Box::pin(async move {
            self.paced.set(self.paced.get() + 1);
            ring::sleep(wait).await;
            self.paced.set(self.paced.get() - 1);
            self.last.set(ring::now());
        })
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

    /// Returns when nothing has moved for the idle timeout, or the tunnel's time is over. Before that, the session rests. The
    /// timer is set anew only when it has run out. A tunnel that waits because of a limit is not idle.
    async fn time_over(&self) -> CloseReason {
        let Terms {
            idle_timeout,
            max_lifetime,
        } = self.terms;
        let lifetime = max_lifetime.unwrap_or(Duration::MAX);
        let mut timer = ring::sleep(idle_timeout.min(SESSION_REST).min(lifetime));
        loop {
            (&mut timer).await;
            let now = ring::now();
            let age = now.saturating_duration_since(self.live.opened);
            if age >= lifetime {
                return CloseReason::LifetimeOver;
            }
            let last = if self.paced.get() > 0 {
                now
            } else {
                self.last.get()
            };
            let (rest, end) = (last + SESSION_REST, last + idle_timeout);
            if now >= end {
                return CloseReason::IdleTimeout;
            }
            if now >= rest {
                self.app.rest();
                self.server.rest();
            }
            let next = if now >= rest { end } else { rest.min(end) };
            // The lifetime that is left may be too long to be added to a time.
            let left = (next - now).min(lifetime - age);
            timer.reset(now + left);
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

    fn app_end(&self, broken: Broken) -> CloseReason {
        self.ends.alert.set(broken.alert);
        broken.reason
    }
}

/// Tells the relay how a direction ended; also when its task panics, which is a fault of the gateway.
struct Ending<'a> {
    end: &'a Cell<Option<End>>,
    live: &'a Live,
}

impl<'a> Ending<'a> {
    fn of<A, S>(relay: &'a Relay<A, S>, direction: fn(&Ends) -> &Cell<Option<End>>) -> Self {
        Self {
            end: direction(&relay.ends),
            live: &relay.live,
        }
    }

    fn with(self, end: End) {
        self.end.set(Some(end));
    }
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        if self.end.get().is_none() {
            self.end.set(Some(Err(CloseReason::GatewayError)));
        }
        self.live.wake();
    }
}
