//! The task of an HTTP/2 session: moves its frames, takes its requests, and ends it.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use h2::server::{Builder, Connection, SendResponse};
use h2::{Ping, PingPong, Reason, RecvStream};
use http::Request;
use rustls::AlertDescription;

use super::adapter::{Guarded, blame};
use super::queue::Chunk;
use super::session::{Session, settings_timeout, stall_after};
use crate::access::{Due, Lifetimes};
use crate::limits::{
    HTTP2_FRAME_MAX, HTTP2_HEADER_LIST_MAX, HTTP2_RESETS, HTTP2_SEND_QUEUE,
    HTTP2_SESSION_WINDOW_MIN, HTTP2_TUNNELS_MAX, LINGER, SESSION_REST,
};
use crate::observe::Abuse;
use crate::reason::CloseReason;
use crate::ring::{self, Either, Sleep};
use crate::tls::{ByteStream, Duplex, StreamError};

/// How a session ended.
pub(super) struct Ended {
    pub reason: CloseReason,
    /// The alert for the client.
    pub alert: Option<AlertDescription>,
}

impl Ended {
    fn by(reason: CloseReason) -> Self {
        Self {
            reason,
            alert: None,
        }
    }
}

type Frames<S> = Connection<Guarded<S>, Chunk>;

/// Exchanges the prefaces (RFC 9113, section 3.4), within the handshake timeout.
pub(super) async fn shake<S: ByteStream>(
    session: &Session,
    stream: &Duplex<S>,
) -> Result<Frames<S>, Ended> {
    let (queue, seen) = (session.queue.clone(), session.seen.clone());
    let guarded = Guarded::new(stream.clone(), queue, seen);
    let window = session.windows.borrow().window();
    let mut shaking = pin!(builder(window).handshake(guarded));
    let shaken = poll_fn(|context| {
        let shaken = shaking.as_mut().poll(context);
        // A failure shows in what is read.
        let _ = stream.poll_send(context);
        shaken
    });
    let timeout = session.core.snapshot.borrow().limits.handshake_timeout;
    let stopped = ring::race(ring::sleep(timeout), session.core.cut.wait());
    match ring::race(shaken, stopped).await {
        Either::Left(Ok(connection)) => Ok(connection),
        Either::Left(Err(error)) => Err(broken(stream, Some(&error))),
        Either::Right(Either::Left(())) => Err(Ended::by(CloseReason::RequestTimeout)),
        Either::Right(Either::Right(())) => Err(Ended::by(CloseReason::DrainTimeout)),
    }
}

fn builder(window: u32) -> Builder {
    let mut builder = Builder::new();
    builder
        .initial_window_size(window)
        .initial_connection_window_size(HTTP2_SESSION_WINDOW_MIN)
        .max_concurrent_streams(HTTP2_TUNNELS_MAX as u32)
        .max_frame_size(HTTP2_FRAME_MAX)
        .max_header_list_size(HTTP2_HEADER_LIST_MAX)
        .max_send_buffer_size(HTTP2_SEND_QUEUE)
        // The guard counts resets by the time they take; this is for those that come before their request is looked at.
        .max_pending_accept_reset_streams(HTTP2_RESETS.0 as usize)
        .enable_connect_protocol();
    builder
}

/// Returns what is known of an end: of the stream's failure first, which the protocol's own code
/// may take for an end in order.
fn broken<S: ByteStream>(stream: &Duplex<S>, error: Option<&h2::Error>) -> Ended {
    let failure = stream.take_failure();
    let alert = match &failure {
        Some(StreamError::Record(fault)) => fault.alert(),
        _ => None,
    };
    let reason = match failure {
        Some(StreamError::Record(_)) => CloseReason::TlsProtocol,
        Some(StreamError::Truncated) => CloseReason::ClientTruncated,
        Some(StreamError::Io(_)) => CloseReason::ClientReset,
        None => match error {
            None => CloseReason::Closed,
            Some(error) => blame(error),
        },
    };
    Ended { reason, alert }
}

/// Data in the kernel for the client at one moment, from a buffer that was not sent completely.
#[derive(Clone, Copy)]
struct Unsent {
    since: Instant,
    at: Instant,
    left: Option<u32>,
}

/// Drives a session.
pub(super) struct Driver<S: ByteStream, B> {
    session: Rc<Session>,
    stream: Duplex<S>,
    connection: Frames<S>,
    /// Starts a request's task.
    begin: B,
    pings: Option<PingPong>,
    /// The session's receive window.
    window: u32,
    /// Data that the client had not taken at the last look.
    seen: Option<Unsent>,
    /// When GOAWAY was sent because the node drains.
    draining: Option<Instant>,
    /// The connection ends as soon as it can.
    leaving: bool,
    /// It could not in the time allowed: its client does not read.
    late: bool,
    timer: Sleep,
    drain: Pin<Box<dyn Future<Output = ()>>>,
    cut: Pin<Box<dyn Future<Output = ()>>>,
}

impl<S: ByteStream, B: Fn(Request<RecvStream>, SendResponse<Chunk>)> Driver<S, B> {
    /// A session whose prefaces are exchanged. `begin` is given each request.
    pub fn new(
        session: Rc<Session>,
        stream: Duplex<S>,
        mut connection: Frames<S>,
        begin: B,
    ) -> Self {
        let (for_drain, for_cut) = (session.core.clone(), session.core.clone());
        Self {
            pings: connection.ping_pong(),
            window: HTTP2_SESSION_WINDOW_MIN,
            seen: None,
            draining: None,
            leaving: false,
            late: false,
            timer: ring::sleep(SESSION_REST),
            drain: Box::pin(async move { for_drain.draining.wait().await }),
            cut: Box::pin(async move { for_cut.cut.wait().await }),
            session,
            stream,
            connection,
            begin,
        }
    }

    /// One turn: what has happened outside, then frames in both directions until there are no more,
    /// then one send.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Ended> {
        *self.session.waker.borrow_mut() = Some(context.waker().clone());
        self.look_outside(context);
        if self.late {
            let reason = self.session.ending.get();
            return Poll::Ready(Ended::by(reason.unwrap_or(CloseReason::Closed)));
        }
        let ended = loop {
            self.set_windows(context);
            match self.connection.poll_accept(context) {
                // What a client asks before it can know of the GOAWAY is served. One that does not answer the ping behind it
                // could ask for ever.
                Poll::Ready(Some(Ok((_, respond)))) if self.has_told_long_ago() => {
                    self.session.refuse(None, respond, CloseReason::Draining);
                }
                Poll::Ready(Some(Ok((request, respond)))) => (self.begin)(request, respond),
                Poll::Ready(Some(Err(error))) => break Poll::Ready(self.failed(&error)),
                Poll::Ready(None) => break Poll::Ready(broken(&self.stream, None)),
                Poll::Pending if self.leave_for_abuse() || self.session.seen.acknowledged.get() => {
                }
                Poll::Pending => break Poll::Pending,
            }
        };
        // A failure shows in what is read.
        let _ = self.stream.poll_send(context);
        match (ended, self.session.ending.get()) {
            (Poll::Ready(ended), Some(reason)) => Poll::Ready(Ended { reason, ..ended }),
            (ended, _) => ended,
        }
    }

    /// Returns whether the client has had time to hear that it is to ask elsewhere.
    fn has_told_long_ago(&self) -> bool {
        self.draining
            .is_some_and(|since| ring::now() >= since + LINGER)
    }

    /// Drain, the end of the node, the session's own end, and what time brings.
    fn look_outside(&mut self, context: &mut Context<'_>) {
        if self.draining.is_none() && self.drain.as_mut().poll(context).is_ready() {
            self.draining = Some(ring::now());
            // GOAWAY at once; the tunnels run on.
            self.connection.graceful_shutdown();
        }
        if !self.leaving && self.cut.as_mut().poll(context).is_ready() {
            self.leave(CloseReason::DrainTimeout, Reason::NO_ERROR);
        }
        if let Some(reason) = self.session.ending.get() {
            self.leave(reason, Reason::NO_ERROR);
        }
        if let Some(since) = self.draining
            && !self.leaving
            && self.session.open.get() == 0
        {
            // It ends by itself when its client has answered; the client may not answer.
            self.timer
                .reset(self.session.activity.last().max(since) + LINGER);
        }
        while Pin::new(&mut self.timer).poll(context).is_ready() {
            let next = self.time_passed(ring::now());
            self.timer.reset(next);
        }
    }

    /// Looks at what has not moved for too long. When to look again.
    fn time_passed(&mut self, now: Instant) -> Instant {
        let session = self.session.clone();
        let last = session.activity.last();
        let idle = session.core.snapshot.borrow().limits.idle_timeout;
        if self.leaving {
            self.late = true;
            return now + idle;
        }
        let has_tunnels = session.open.get() > 0;
        if let Some(since) = self.draining
            && !has_tunnels
            && now >= last.max(since) + LINGER
        {
            self.leave(CloseReason::Draining, Reason::NO_ERROR);
            return now + LINGER;
        }
        let lifetimes = Lifetimes {
            idle_timeout: idle,
            max_lifetime: None,
        };
        // Tunnels have lifetimes of their own, and a session that drains ends by itself.
        let is_busy = has_tunnels || self.draining.is_some();
        let due = loop {
            match session
                .activity
                .due(now, session.opened, &lifetimes, is_busy)
            {
                Due::At(at) => break at,
                Due::Rest => {}
                Due::Over(reason) => {
                    self.leave(reason, Reason::NO_ERROR);
                    return now + LINGER;
                }
            }
        };
        if session.activity.rests() {
            // At each look: a PING or a refused request moves nothing, and makes keys ready again.
            self.stream.stream().rest();
        }
        let stall = last + stall_after(&session);
        if now >= stall && session.held.get() > 0 {
            session.seen.abuse.set(Some(Abuse::ZeroWindow));
            self.leave(CloseReason::ClientStalled, Reason::ENHANCE_YOUR_CALM);
            return now + LINGER;
        }
        let asked = session.windows.borrow().unacknowledged();
        let answer = asked.unwrap_or(now) + settings_timeout(&session);
        if now >= answer {
            self.leave(CloseReason::ClientStalled, Reason::SETTINGS_TIMEOUT);
            return now + LINGER;
        }
        let Some(look) = self.look_at_unsent(now) else {
            self.leave(CloseReason::ClientStalled, Reason::ENHANCE_YOUR_CALM);
            return now + LINGER;
        };
        let unread = session.unread.get() > 0;
        let rest = session.windows.borrow_mut().rest(unread, now);
        let coming = [due, stall, rest, look, answer];
        let coming = coming.into_iter().filter(|time| *time > now);
        coming.min().unwrap_or(now + SESSION_REST)
    }

    /// Looks whether the client takes what is sent, whatever else it does. When to look again;
    /// `None`: it has taken nothing for too long. One on a slow way takes some of it between two
    /// looks.
    fn look_at_unsent(&mut self, now: Instant) -> Option<Instant> {
        let step = stall_after(&self.session) / 2;
        let Some(since) = self.stream.sending_since() else {
            return Some(now + step);
        };
        let seen = self.seen.filter(|seen| seen.since == since);
        let next = seen.map_or(since, |seen| seen.at) + step;
        if now < next {
            return Some(next);
        }
        let left = self.stream.stream().unsent();
        if seen.is_some_and(|seen| seen.left == left) {
            return None;
        }
        self.seen = Some(Unsent {
            since,
            at: now,
            left,
        });
        Some(now + step)
    }

    /// Ends the session for what the guard has found. Whether there is something to be done about
    /// it.
    fn leave_for_abuse(&mut self) -> bool {
        if self.leaving || self.session.seen.abuse.get().is_none() {
            return false;
        }
        self.leave(CloseReason::ClientFlood, Reason::ENHANCE_YOUR_CALM);
        true
    }

    /// Says GOAWAY and ends the connection; its tunnels are cut.
    fn leave(&mut self, reason: CloseReason, code: Reason) {
        if !std::mem::replace(&mut self.leaving, true) {
            self.session.ending.set(Some(reason));
            self.connection.abrupt_shutdown(code);
            self.timer.reset(ring::now() + LINGER);
        }
    }

    /// The protocol's own code has found a fault. What it calls too much is one of the guard's
    /// kinds.
    fn failed(&self, error: &h2::Error) -> Ended {
        let ended = broken(&self.stream, Some(error));
        let seen = &self.session.seen;
        if ended.reason == CloseReason::ClientFlood && seen.abuse.get().is_none() {
            seen.abuse.set(seen.suspected.get());
        }
        ended
    }

    /// Tells the client of other windows, and measures what they should be.
    fn set_windows(&mut self, context: &mut Context<'_>) {
        let now = ring::now();
        let mut windows = self.session.windows.borrow_mut();
        if let Some(pings) = &mut self.pings {
            if let Poll::Ready(Ok(_)) = pings.poll_pong(context) {
                windows.answered(now);
            }
            if windows.probe(now) {
                let _ = pings.send_ping(Ping::opaque());
            }
        }
        if self.session.seen.acknowledged.take() {
            windows.acknowledged();
        }
        let session = &self.session;
        // What comes for a tunnel that is being opened is not read either.
        let unread = session.unread.get() + session.opening.get() > 0;
        let tunnels = (session.open.get(), unread);
        let share = &mut self.session.share.borrow_mut();
        // Refused while the protocol's own code has not read the acknowledgement: tried again when something has happened.
        windows.adapt(share, tunnels, now, |window| {
            self.connection.set_initial_window_size(window).is_ok()
        });
        let of_session = windows.of_session();
        if of_session != self.window {
            self.connection.set_target_window_size(of_session);
            self.window = of_session;
        }
    }
}
