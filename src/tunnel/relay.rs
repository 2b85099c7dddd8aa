//! Moves the bytes of an open tunnel.
//!
//! Each direction is a task of its own, so that a byte wakes only what it concerns. A direction
//! holds at most one buffer, and none while it waits for whole records: a reader that does not read
//! stops the writer at the other end, and nothing grows with the transfer. The end of one direction
//! is carried through to the other side.
//!
//! A third task, that of the tunnel (in `open`), starts the two, waits for what ends them, and
//! closes both connections.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::Duration;

use rustls::AlertDescription;

use super::ends::{AppEnd, Broken, Data, ServerEnd};
use crate::access::{Activity, Core, Direction, Due, Lifetimes, Live, Pass};
use crate::limits::{CUT_LINGER, LINGER};
use crate::observe::Stage;
use crate::reason::{CloseReason, Who};
use crate::ring::{self, Either, RingBuf, TaskHandle};

/// How a direction ended.
pub(crate) type End = Result<(), CloseReason>;

/// The two ends of a tunnel and what is known about it.
pub(crate) struct Relay<A, S> {
    pub core: Rc<Core>,
    pub app: A,
    pub server: S,
    pub live: Rc<Live>,
    pub lifetimes: Lifetimes,
    /// Limits of its service and its app.
    pub pass: Pass,
    /// Directions that wait until more may move.
    pub paced: Cell<u8>,
    pub activity: Activity,
    pub ends: Ends,
}

/// Data that was received after the request: bytes for the server, and records that are not
/// complete yet.
#[derive(Default)]
pub(crate) struct ReadAhead {
    pub early: Vec<u8>,
    pub carry: Option<RingBuf>,
}

/// State of the two directions.
#[derive(Default)]
pub(crate) struct Ends {
    up: Cell<Option<End>>,
    down: Cell<Option<End>>,
    /// The server reads no more, but may still send.
    server_gone: Cell<bool>,
    /// The alert for the client before the session is cut.
    alert: Cell<Option<AlertDescription>>,
}

impl<A: AppEnd, S: ServerEnd> Relay<A, S> {
    /// Starts both directions; they end with their handles.
    pub fn start(self: &Rc<Self>, read_ahead: Box<ReadAhead>) -> [TaskHandle; 2] {
        let (up, down) = (self.clone(), self.clone());
        [
            ring::spawn_owned(async move {
                let ending = Ending::of(&up, |ends| &ends.up);
                ending.with(up.up(read_ahead).await);
            }),
            ring::spawn_owned(async move {
                let ending = Ending::of(&down, |ends| &ends.down);
                ending.with(down.down().await);
            }),
        ]
    }

    /// Waits until both directions have ended, one has failed, nothing moves any more or the node
    /// ends.
    pub fn ended(&self) -> impl Future<Output = End> {
        let stopped = ring::race(self.time_over(), self.core.cut.wait());
        ring::map(
            ring::race(self.both_ended(), stopped),
            |first| match first {
                Either::Left(end) => end,
                Either::Right(Either::Left(reason)) => Err(reason),
                Either::Right(Either::Right(())) => Err(CloseReason::DrainTimeout),
            },
        )
    }

    /// Returns when both directions have ended well, one has not, or the tunnel is to be closed (a
    /// sweep, or the operator).
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

    /// Returns when nothing has moved for the idle timeout, or the tunnel's time is over. Before
    /// that, the session rests. The timer is set anew only when it has run out, or a rest has
    /// ended.
    fn time_over(&self) -> impl Future<Output = CloseReason> {
        let mut timer = ring::sleep(Duration::ZERO);
        let mut rested = false;
        poll_fn(move |context| {
            loop {
                let rest_has_ended = rested && !self.activity.rests();
                if !rest_has_ended {
                    ready!(Pin::new(&mut timer).poll(context));
                }
                // A tunnel that waits because of a limit is not idle.
                let is_busy = self.paced.get() > 0;
                let (activity, opened) = (&self.activity, self.live.opened);
                let next = loop {
                    match activity.due(ring::now(), opened, &self.lifetimes, is_busy) {
                        Due::At(at) => break at,
                        Due::Rest => {
                            self.app.rest();
                            self.server.rest();
                        }
                        Due::Over(reason) => return Poll::Ready(reason),
                    }
                };
                timer.reset(next);
                rested = activity.rests();
            }
        })
    }

    /// Ends the connections as it befits how the directions, which are no more, have ended. In a
    /// box of its own, like all that an open tunnel does once.
    pub fn close(&self, ended: End) -> Pin<Box<dyn Future<Output = CloseReason> + '_>> {
        Box::pin(async move {
            match ended {
                Ok(()) if self.ends.server_gone.get() => CloseReason::ServerReset,
                Ok(()) => CloseReason::Closed,
                Err(reason) => {
                    // Closed from outside, or because of what the app has sent.
                    let alert = match self.live.closing.get().and_then(CloseReason::alert) {
                        Some(alert) => Some((alert, CUT_LINGER)),
                        None => self.ends.alert.get().map(|alert| (alert, LINGER)),
                    };
                    // Cut, not ended: neither side may take what it has for the whole.
                    self.app.cut(reason, alert).await;
                    self.server.reset_on_close();
                    reason
                }
            }
        })
    }

    /// App to server: what came behind the request, then what the app sends.
    async fn up(&self, read_ahead: Box<ReadAhead>) -> End {
        let mut carry = self.send_early(read_ahead).await?;
        loop {
            let received = ring::map(self.app.recv(carry), |received| {
                received.map_err(|broken| self.app_end(broken))
            });
            let Some(data) = received.await? else {
                return Box::pin(self.close_server()).await;
            };
            let count = data.len();
            self.moved(Direction::Up, count);
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
    }

    /// Sends what came right behind the request. Gives back the records of it that are not
    /// complete.
    fn send_early(
        &self,
        read_ahead: Box<ReadAhead>,
    ) -> Pin<Box<dyn Future<Output = Result<Option<RingBuf>, CloseReason>> + '_>> {
        Box::pin(async move {
            let ReadAhead { early, carry } = *read_ahead;
            if early.is_empty() {
                return Ok(carry);
            }
            let count = early.len();
            self.moved(Direction::Up, count);
            self.server.send(early).await.0?;
            if let Some(wait) = self.pass.moved(Direction::Up, count) {
                self.pace(wait).await;
            }
            Ok(carry)
        })
    }

    async fn close_server(&self) -> End {
        self.server.close().await;
        Ok(())
    }

    /// Server to app.
    async fn down(&self) -> End {
        loop {
            let received = self.server.recv(self.app.spacing());
            let received = ring::map(
                ring::race(received, self.app.given_up()),
                |first| match first {
                    Either::Left(received) => received,
                    Either::Right(broken) => Err(self.app_end(broken)),
                },
            );
            let Some((count, buffer)) = received.await? else {
                // In a box of its own: an open tunnel has no room for its end.
                return Box::pin(self.app.close())
                    .await
                    .map_err(|broken| self.app_end(broken));
            };
            if self.live.down.get() == 0 {
                self.first_byte();
            }
            self.moved(Direction::Down, count);
            let sent = self.app.send(buffer).await;
            sent.map_err(|broken| self.app_end(broken))?;
            if let Some(wait) = self.pass.moved(Direction::Down, count) {
                self.pace(wait).await;
            }
        }
    }

    /// Waits until what has moved is paid for. Nothing is read meanwhile, so that TCP stops the
    /// sender; no buffer is held but that of an incomplete record, and the next receive is a small
    /// one: a limit is kept in small steps. In a box of its own: most tunnels have no limit.
    fn pace(&self, wait: Duration) -> Pin<Box<dyn Future<Output = ()> + '_>> {
        {
            let mut metrics = self.core.metrics.borrow_mut();
            metrics.rate_waits += 1;
            metrics.rate_wait_nanos += wait.as_nanos() as u64;
        }
        self.app.rest();
        self.server.rest();
        Box::pin(async move {
            self.paced.set(self.paced.get() + 1);
            ring::sleep(wait).await;
            self.paced.set(self.paced.get() - 1);
            self.touch();
        })
    }

    /// Bytes have moved, which ends a rest.
    fn moved(&self, direction: Direction, bytes: usize) {
        let (tunnel, all) = match direction {
            Direction::Up => (&self.live.up, &self.core.bytes_up),
            Direction::Down => (&self.live.down, &self.core.bytes_down),
        };
        tunnel.set(tunnel.get() + bytes as u64);
        all.set(all.get() + bytes as u64);
        self.touch();
    }

    /// Ends a rest.
    fn touch(&self) {
        if self.activity.moved(ring::now()) {
            // The timer is set to the idle timeout, and has to be set to the next rest.
            self.live.wake();
        }
    }

    fn first_byte(&self) {
        let waited = ring::now().saturating_duration_since(self.live.opened);
        let mut metrics = self.core.metrics.borrow_mut();
        metrics.record(Stage::FirstByte, waited);
    }

    /// Why the app's end broke. What it is to be told of that waits for [`Relay::close`].
    fn app_end(&self, broken: Broken) -> CloseReason {
        self.ends.alert.set(broken.alert);
        broken.reason
    }
}

/// Tells the relay how a direction ended; also when its task panics, which is a fault of the
/// gateway.
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

#[cfg(test)]
impl<A: AppEnd, S: ServerEnd> Relay<A, S> {
    /// Memory of the relay and its two directions, in bytes, without what their connections hold.
    pub fn memory() -> usize {
        fn up<R: 'static, F>(_: impl FnOnce(&'static R, Box<ReadAhead>) -> F) -> usize {
            size_of::<F>()
        }
        fn down<R: 'static, F>(_: impl FnOnce(&'static R) -> F) -> usize {
            size_of::<F>()
        }
        size_of::<Self>() + up(Self::up) + down(Self::down)
    }
}
