//! An HTTP/2 session and its requests: what they share, the task of each request, and the session's own record.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderValue, Request, Response, StatusCode};

use super::app::{Chunk, StreamEnd};
use super::driver::{self, Driver};
use super::request::{Asked, asked};
use super::windows::Windows;
use crate::config::HostPort;
use crate::limits::{HTTP2_STALL_PERCENT, LINGER};
use crate::observe::{Abuse, AuditEvent, CloseReason};
use crate::ring::{self, Either, RingBuf};
use crate::tls::{ByteStream, Duplex};
use crate::tunnel::asker::{Asker, Refused};
use crate::tunnel::core::Core;
use crate::tunnel::open::{Peer, open};
use crate::tunnel::outcome::{Outcome, audit, record};
use crate::tunnel::relay::Behind;
use crate::tunnel::response::told_by_status;

/// What the tasks of one session share.
pub(super) struct Session {
    pub core: Rc<Core>,
    pub asker: Asker,
    pub opened: Instant,
    /// Requests so far.
    pub requests: Cell<u64>,
    /// Requests whose tasks have not ended.
    pub open: Cell<usize>,
    /// When a byte last moved in any tunnel, or the last tunnel ended.
    pub last: Cell<Instant>,
    /// Tunnels whose bytes the client's flow control holds back.
    pub held: Cell<usize>,
    pub windows: RefCell<Windows>,
    /// Why the session ends: for the tunnels that end with it.
    pub ending: Cell<Option<CloseReason>>,
    pub abuse: Rc<Cell<Option<Abuse>>>,
    /// Of the session's own task.
    pub waker: RefCell<Option<Waker>>,
}

impl Session {
    /// Takes note that something has moved.
    pub fn moved(&self) {
        self.last.set(ring::now());
    }

    /// Ends the session: no more requests, and its tunnels are cut.
    pub fn end(&self, reason: CloseReason) {
        if self.ending.get().is_none() {
            self.ending.set(Some(reason));
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// Serves a session to its end. `counted` is kept as long as the session or one of its tunnels.
pub(in crate::tunnel) async fn serve<S: ByteStream>(
    core: Rc<Core>,
    stream: S,
    carry: Option<RingBuf>,
    asker: Asker,
    counted: impl Sized + 'static,
) {
    core.metrics.borrow_mut().http2_sessions += 1;
    let duplex = Duplex::new(stream, carry);
    let now = ring::now();
    let session = Rc::new(Session {
        core,
        asker,
        opened: now,
        requests: 0.into(),
        open: 0.into(),
        last: now.into(),
        held: 0.into(),
        windows: Windows::new(now).into(),
        ending: None.into(),
        abuse: Rc::default(),
        waker: None.into(),
    });
    let counted = Rc::new(counted);
    let begin = |request, respond| begin(&session, request, respond, counted.clone());
    let ended = match driver::shake(&session, &duplex).await {
        Ok(connection) => {
            let mut driver = Driver::new(session.clone(), duplex.clone(), connection, begin);
            let ended = poll_fn(|context| driver.poll(context)).await;
            // A tunnel that was open when its session ended in order has not ended in order.
            session.end(match ended.reason {
                CloseReason::Closed => CloseReason::ClientReset,
                reason => reason,
            });
            ended
        }
        Err(ended) => ended,
    };
    finish(&session, ended.reason);
    let _ = ring::timeout(LINGER, duplex.end(ended.alert)).await;
}

/// The session's own record. It counts as an outcome only where it came to no request: each request has its own.
fn finish(session: &Session, reason: CloseReason) {
    let core = &session.core;
    if let Some(abuse) = session.abuse.get() {
        core.metrics.borrow_mut().http2_abuse[abuse.index()] += 1;
    }
    if session.requests.get() == 0 {
        core.count(reason);
    }
    let end = AuditEvent::SessionEnd {
        requests: session.requests.get(),
        duration: ring::now().saturating_duration_since(session.opened),
        reason,
    };
    audit(core, session.asker.subject(), None, end);
}

/// A request in the session's count, for as long as its task lives.
struct Open(Rc<Session>);

impl Open {
    fn new(session: &Rc<Session>) -> Self {
        session.requests.set(session.requests.get() + 1);
        session.open.set(session.open.get() + 1);
        Self(session.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.moved();
        if let Some(waker) = self.0.waker.take() {
            waker.wake();
        }
    }
}

/// Starts a request's task.
fn begin(
    session: &Rc<Session>,
    request: Request<RecvStream>,
    respond: SendResponse<Chunk>,
    counted: impl Sized + 'static,
) {
    let open = Open::new(session);
    let session = session.clone();
    ring::spawn(async move {
        let (parts, body) = request.into_parts();
        match asked(&parts) {
            Ok(Asked::Tunnel(target)) => {
                let mut outcome = Outcome::of(session.asker.subject().clone());
                match session.asker.of_request(&session.core, &parts.headers) {
                    Ok(peer) => {
                        drop(parts);
                        tunnel(session, (peer, target), body, respond, (open, counted)).await;
                    }
                    Err(refused) => {
                        outcome.target = Some(target);
                        match refused {
                            Refused::Session(reason) => {
                                record(&session.core, &outcome, reason);
                                session.end(reason);
                            }
                            Refused::Request(reason) => {
                                record(&session.core, &outcome, reason);
                                refuse(respond, reason);
                            }
                        }
                    }
                }
            }
            Err(reason) => {
                record(
                    &session.core,
                    &Outcome::of(session.asker.subject().clone()),
                    reason,
                );
                refuse(respond, reason);
            }
        }
    });
}

/// A plain CONNECT: from the request to an open tunnel or a refusal.
async fn tunnel(
    session: Rc<Session>,
    (peer, target): (Rc<Peer>, HostPort),
    body: RecvStream,
    mut respond: SendResponse<Chunk>,
    kept: impl Sized + 'static,
) {
    let core = &session.core;
    let mut outcome = Outcome::of(peer.subject.clone());
    let snapshot = core.snapshot.borrow().clone();
    let opening = open(core, &snapshot, &peer, target, &mut outcome);
    let left = poll_fn(|context| match respond.poll_reset(context) {
        Poll::Ready(_) => Poll::Ready(()),
        Poll::Pending => Poll::Pending,
    });
    let opened = match ring::race(Box::pin(opening), ring::race(left, core.cut.wait())).await {
        Either::Left(opened) => opened,
        Either::Right(Either::Left(())) => Err(CloseReason::RequestAborted),
        Either::Right(Either::Right(())) => return,
    };
    let opened = match opened {
        Ok(opened) => opened,
        Err(reason) => {
            record(core, &outcome, reason);
            refuse(respond, reason);
            return;
        }
    };
    let Ok(send) = respond.send_response(Response::new(()), false) else {
        record(core, &outcome, CloseReason::RequestAborted);
        return;
    };
    let app = StreamEnd::new(session.clone(), body, send);
    let behind = Behind {
        early: Vec::new(),
        carry: None,
    };
    opened.run(core.clone(), &peer, (app, behind), kept);
}

/// Tells the client why its request is refused: status and `Proxy-Status` of the reason's row, its word as content.
fn refuse(mut respond: SendResponse<Chunk>, reason: CloseReason) {
    let Some(response) = refusal(reason) else {
        respond.send_reset(h2::Reason::CANCEL);
        return;
    };
    if let Ok(mut content) = respond.send_response(response, false) {
        let text = format!("{}\n", reason.word());
        let _ = content.send_data(Chunk::Shared(text.into()), true);
    }
}

fn refusal(reason: CloseReason) -> Option<Response<()>> {
    let (status, proxy_status) = told_by_status(reason)?;
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(status).ok()?;
    let fields = response.headers_mut();
    fields.insert("proxy-status", HeaderValue::from_str(&proxy_status).ok()?);
    fields.insert(
        http::header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain"),
    );
    if reason == CloseReason::NotConnect {
        // RFC 9110, section 15.5.6.
        fields.insert(http::header::ALLOW, HeaderValue::from_static("CONNECT"));
    }
    Some(response)
}

/// How long bytes may be held back while nothing moves.
pub(super) fn stall_after(session: &Session) -> Duration {
    session.core.snapshot.borrow().limits.idle_timeout * HTTP2_STALL_PERCENT / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_http_reason_has_a_response() {
        for &reason in CloseReason::ALL {
            let response = refusal(reason);
            let told = told_by_status(reason);
            assert_eq!(response.is_some(), told.is_some(), "{reason:?}");
            let (Some(response), Some((status, proxy_status))) = (response, told) else {
                continue;
            };
            assert_eq!(response.status().as_u16(), status);
            assert_eq!(
                response.headers()["proxy-status"].to_str().ok(),
                Some(&*proxy_status)
            );
        }
    }
}
