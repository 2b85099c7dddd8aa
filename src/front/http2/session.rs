//! An HTTP/2 session and its requests: what they share, the task of each request, and the session's
//! own record.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Waker;
use std::time::{Duration, Instant};

use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderValue, Request, Response, StatusCode};

use super::adapter::GuardReport;
use super::app::StreamEnd;
use super::driver::{self, Driver};
use super::queue::{Chunk, SessionQueue};
use super::request::request as read;
use super::share::WindowShare;
use super::windows::Windows;
use crate::access::{Activity, Core, Outcome, Presence, Repeated, audit, record};
use crate::config::HostPort;
use crate::front::pvd;
use crate::front::request::IDLE_TIMEOUT;
use crate::front::requester::{Refused, Requester};
use crate::front::response::{seconds, told_by_status};
use crate::front::seam::{self, Front, TunnelTerms};
use crate::limits::{HTTP2_SESSION_QUEUE, HTTP2_STALL_PERCENT, LINGER};
use crate::observe::AuditEvent;
use crate::reason::{CloseReason, Who};
use crate::ring::{self, RingBuf};
use crate::tls::{ByteStream, Duplex};
use crate::tunnel::ReadAhead;

/// State shared by the tasks of one session.
pub(super) struct Session {
    pub core: Rc<Core>,
    pub requester: Requester,
    pub opened: Instant,
    /// Requests so far.
    pub requests: Cell<u64>,
    /// Requests whose tasks have not ended.
    pub open: Cell<usize>,
    /// Those of them that are no tunnels yet: nobody reads what comes on their streams.
    pub opening: Cell<usize>,
    /// A request has become a tunnel.
    pub had_tunnel: Cell<bool>,
    /// Bytes in any tunnel, and tunnels that were opened or ended. A request that opens none keeps
    /// no session.
    pub activity: Activity,
    /// Queue of data for the client.
    pub queue: Rc<SessionQueue>,
    /// Bytes from the client that servers have not taken yet.
    pub unread: Cell<usize>,
    /// Memory for the windows.
    pub share: RefCell<WindowShare>,
    /// The session in its device's count.
    _presence: Option<Presence>,
    /// Tunnels whose bytes the client's flow control holds back.
    pub held: Cell<usize>,
    pub windows: RefCell<Windows>,
    /// Why the session ends: for the tunnels that end with it.
    pub ending: Cell<Option<CloseReason>>,
    /// Observations of the guard.
    pub seen: Rc<GuardReport>,
    /// Of the session's own task.
    pub waker: RefCell<Option<Waker>>,
}

impl Session {
    /// Records a refusal of a request of nobody known.
    fn record(&self, target: Option<HostPort>, reason: CloseReason) {
        let mut outcome = Outcome::of(self.requester.subject().clone());
        outcome.target = target;
        record(&self.core, &outcome, reason);
    }

    /// Records it and tells it.
    pub fn refuse(
        &self,
        target: Option<HostPort>,
        respond: SendResponse<Chunk>,
        reason: CloseReason,
    ) {
        self.record(target, reason);
        refuse(&self.queue, respond, reason);
    }

    /// Takes note that something has moved.
    pub fn moved(&self) {
        self.activity.moved(ring::now());
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
pub(in crate::front) async fn serve<S: ByteStream>(
    core: Rc<Core>,
    stream: S,
    carry: Option<RingBuf>,
    requester: Requester,
    counted: impl Sized + 'static,
) {
    let presence = match enter(&core, &requester) {
        Ok(presence) => presence,
        Err(reason) => {
            record(&core, &Outcome::of(requester.subject().clone()), reason);
            let _ = ring::timeout(LINGER, turn_away(stream)).await;
            return;
        }
    };
    core.metrics.borrow_mut().http2_sessions += 1;
    let duplex = Duplex::new(stream, carry);
    let now = ring::now();
    let of_device = presence.as_ref().map(|held| held.windows().clone());
    let mut share = WindowShare::new(of_device.unwrap_or_default(), core.windows.clone());
    let windows = Windows::new(&mut share, now);
    let session = Rc::new(Session {
        core,
        requester,
        opened: now,
        requests: 0.into(),
        open: 0.into(),
        opening: 0.into(),
        had_tunnel: false.into(),
        activity: Activity::new(now),
        held: 0.into(),
        queue: Rc::default(),
        unread: 0.into(),
        share: share.into(),
        _presence: presence,
        windows: windows.into(),
        ending: None.into(),
        seen: Rc::default(),
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

/// Counts the session for its device, where it is one's.
fn enter(core: &Core, requester: &Requester) -> Result<Option<Presence>, CloseReason> {
    let limit = core.snapshot.borrow().limits.sessions_per_device();
    let device = requester.device();
    device
        .map(|device| core.quota.enter(device, limit))
        .transpose()
}

/// Tells a client that its device has too many sessions: SETTINGS, then GOAWAY with
/// ENHANCE_YOUR_CALM (RFC 9113, sections 6.5 and 6.8), without waiting for anything of its.
async fn turn_away<S: ByteStream>(stream: S) {
    const TOLD: [u8; 26] = [
        0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 11,
    ];
    if let Some(mut buffer) = RingBuf::small() {
        buffer.append(&TOLD);
        let _ = stream.send(buffer).await;
    }
    stream.end(None).await;
}

/// The session's own record. It counts as an outcome only where it came to no request: each request
/// has its own.
fn finish(session: &Session, reason: CloseReason) {
    let core = &session.core;
    if let Some(abuse) = session.seen.abuse.get() {
        core.metrics.borrow_mut().http2_abuse[abuse.index()] += 1;
    }
    if session.requests.get() == 0 {
        core.count(reason);
    }
    let (requests, now) = (session.requests.get(), ring::now());
    let subject = session.requester.subject();
    let repeated = Repeated {
        session: requests > 0,
        reason,
    };
    if !session.had_tunnel.get() && !core.refusals.has_line(subject, repeated, now) {
        return;
    }
    let end = AuditEvent::SessionEnd {
        requests,
        duration: now.saturating_duration_since(session.opened),
        reason,
    };
    audit(core, subject, None, end);
}

/// A request in the session's count, for as long as its task lives.
struct Open {
    session: Rc<Session>,
    /// It has become a tunnel.
    tunnel: Cell<bool>,
}

impl Open {
    fn new(session: &Rc<Session>) -> Self {
        session.requests.set(session.requests.get() + 1);
        session.open.set(session.open.get() + 1);
        session.opening.set(session.opening.get() + 1);
        Self {
            session: session.clone(),
            tunnel: false.into(),
        }
    }

    fn is_tunnel(&self) {
        self.tunnel.set(true);
        self.session.had_tunnel.set(true);
        self.session.opening.set(self.session.opening.get() - 1);
        self.session.moved();
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let session = &self.session;
        session.open.set(session.open.get() - 1);
        match self.tunnel.get() {
            true => session.moved(),
            false => session.opening.set(session.opening.get() - 1),
        }
        if let Some(waker) = session.waker.take() {
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
    let counting = Open::new(session);
    let session = session.clone();
    ring::spawn(async move {
        let (parts, body) = request.into_parts();
        let request = match read(&parts) {
            Ok(request) => request,
            Err(reason) => return session.refuse(None, respond, reason),
        };
        let target = request.asked.target().cloned();
        let peer = match session.requester.of_request(&session.core, &parts.headers) {
            Ok(peer) => peer,
            Err(Refused::Request(refused)) => {
                let reason = refused.reason;
                let mut outcome = Outcome::refused(*refused);
                outcome.target = target;
                record(&session.core, &outcome, reason);
                return refuse(&session.queue, respond, reason);
            }
            Err(Refused::Session(reason)) => {
                session.record(target, reason);
                return session.end(reason);
            }
        };
        drop(parts);
        let core = session.core.clone();
        let snapshot = core.snapshot.borrow().clone();
        let stream = Stream {
            session,
            body,
            respond,
            kept: (counting, counted),
        };
        seam::serve(&core, &snapshot, &peer, request, stream).await;
    });
}

/// A stream on which something was asked.
struct Stream<C> {
    session: Rc<Session>,
    body: RecvStream,
    respond: SendResponse<Chunk>,
    kept: (Open, C),
}

impl<C: 'static> Front for Stream<C> {
    type App = StreamEnd;
    type Guards = (Open, C);

    async fn gone(&mut self) {
        poll_fn(|context| self.respond.poll_reset(context).map(|_| ())).await;
    }

    async fn accept(mut self, agreed: TunnelTerms) -> Option<(StreamEnd, ReadAhead, (Open, C))> {
        let sent = self.respond.send_response(established(&agreed), false);
        let app = StreamEnd::new(self.session, self.body, sent.ok()?);
        self.kept.0.is_tunnel();
        Some((app, ReadAhead::default(), self.kept))
    }

    fn has_room(&self) -> bool {
        self.session.queue.held() < HTTP2_SESSION_QUEUE
    }

    async fn configure(mut self, document: String) {
        let mut response = Response::new(());
        let fields = response.headers_mut();
        let media_type = HeaderValue::from_static(pvd::MEDIA_TYPE);
        fields.insert(http::header::CONTENT_TYPE, media_type);
        fields.insert(
            http::header::CACHE_CONTROL,
            HeaderValue::from_static("private"),
        );
        if let Ok(mut content) = self.respond.send_response(response, false) {
            let _ = content.send_data(self.session.queue.own(document.into()), true);
        }
    }

    async fn refuse(self, reason: CloseReason) {
        refuse(&self.session.queue, self.respond, reason);
    }
}

/// The tunnel is open.
fn established(agreed: &TunnelTerms) -> Response<()> {
    let mut response = Response::new(());
    let fields = response.headers_mut();
    if let Some(idle) = agreed.idle
        && let Ok(seconds) = HeaderValue::try_from(seconds(idle))
    {
        fields.insert(IDLE_TIMEOUT, seconds);
    }
    if agreed.datagrams {
        // RFC 9298, section 3.5.
        fields.insert("capsule-protocol", HeaderValue::from_static("?1"));
    }
    response
}

/// Tells the client why its request is refused: status and `Proxy-Status` of the reason's row, its
/// word as content.
fn refuse(queue: &Rc<SessionQueue>, mut respond: SendResponse<Chunk>, reason: CloseReason) {
    if reason.who() != Who::Server {
        queue.refused();
    }
    let Some(response) = refusal(reason) else {
        respond.send_reset(h2::Reason::CANCEL);
        return;
    };
    if let Ok(mut content) = respond.send_response(response, false) {
        let text = format!("{}\n", reason.word());
        let _ = content.send_data(queue.own(text.into()), true);
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

/// How long a client may leave SETTINGS unacknowledged. They wait behind what was sent before them,
/// and a device may sleep: as long as one that reads nothing, and no less than for the first ones.
pub(super) fn settings_timeout(session: &Session) -> Duration {
    let first = session.core.snapshot.borrow().limits.handshake_timeout;
    stall_after(session).max(first)
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
