//! Sessions of the plain listener: a trusted front end has ended TLS, and says which certificate
//! the client presented.
//!
//! The certificate is checked exactly as in a handshake, and everything behind that is the same.
//! Over HTTP/1.1 the connection takes one request and becomes its tunnel. Over HTTP/2, which begins
//! without more (RFC 9113, section 3.3), it takes the requests of many clients, and each says for
//! whom it is.

use std::io;
use std::rc::Rc;

use super::entrance::{Entrance, refuse};
use super::forwarded::certificates;
use super::http2;
use super::patience::{Patience, in_time};
use super::request::{Request, RequestError, RequestParser};
use super::requester::{FrontEnd, Requester};
use super::response::{configuration, established, health};
use super::seam::{self, Front, TunnelTerms};
use crate::access::{Core, GuestGuard, Outcome, Snapshot, record};
use crate::config::{Listener, ListenerKind};
use crate::limits::{BEGINNING_MAX, LINGER, REQUEST_EMPTY_LINES, REQUEST_HEADER_MAX};
use crate::observe::{Protocol, Subject};
use crate::reason::CloseReason;
use crate::ring::{self, RingBuf, TcpStream};
use crate::tunnel::{PlainApp, ReadAhead};

const END: &[u8] = b"\r\n\r\n";
const EMPTY_LINE: &[u8] = b"\r\n";

/// How HTTP/2 begins (RFC 9113, section 3.4), up to what would end a header of HTTP/1.1.
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";

/// A request's header, and what was received behind it.
struct Head {
    received: RingBuf,
    length: usize,
}

impl Head {
    fn bytes(&self) -> &[u8] {
        &self.received[..self.length]
    }
}

/// From the request to an open tunnel, an answer or a refusal. `changes`: how many there were when
/// the session began.
pub(super) async fn session(
    core: &Rc<Core>,
    (snapshot, listener): (&Snapshot, &Listener),
    stream: TcpStream,
    mut entrance: Entrance,
    changes: u64,
    patience: &mut Patience,
    counted: impl Sized + 'static,
) {
    let mut subject = Subject::of(entrance.client);
    subject.session = Some(core.next_session());
    subject.protocol = Some(Protocol::Plain);
    let begun = entrance.begun.take();
    let head = head(&stream, begun);
    let head = in_time(core, patience, CloseReason::RequestTimeout, head).await;
    let Some(head) = head else { return };
    if entrance.health_only || head.is_err() {
        if let Err(reason) = &head {
            patience.guest.failed(*reason);
        }
    } else {
        patience.guest.leave();
    }
    let mut outcome = Outcome::of(subject.clone().into());
    let head = match head {
        Ok(head) if is_health_check(head.bytes(), listener) => {
            record(core, &outcome, CloseReason::HealthCheck);
            let ready = !core.leaving.get() && !core.draining.is_raised();
            let answering = answer(&stream, health(ready));
            return patience.guest.linger(answering).await;
        }
        Ok(_) if entrance.health_only => Err(CloseReason::ProxyUntrusted),
        Ok(head) if head.bytes() == HTTP2 => {
            let carry = Some(head.received);
            let requester = Requester::each(FrontEnd::new(&stream, entrance, subject));
            ring::spawn(http2::serve(
                core.clone(),
                stream,
                carry,
                requester,
                counted,
            ));
            return;
        }
        head => head,
    };
    let asked = head.and_then(|head| {
        let front_end = FrontEnd::new(&stream, entrance, subject);
        let request = request(&head)?;
        outcome.target = request.asked.target().cloned();
        let place = listener.client_identity;
        let presented = certificates(head.bytes(), front_end.certificate(), place);
        let peer = front_end.peer(core, snapshot, presented, changes);
        let peer = peer.map_err(|nobody| outcome.of_nobody(*nobody))?;
        Ok((request, peer, head.received[head.length..].to_vec()))
    });
    let mut session = Session {
        stream,
        read_ahead: ReadAhead::default(),
        guest: &patience.guest,
        counted,
    };
    match asked {
        Ok((request, peer, early)) => {
            session.read_ahead.early = early;
            seam::serve(core, snapshot, &peer, request, session).await;
        }
        Err(reason) => seam::refuse(core, &outcome, session, reason).await,
    }
}

/// The request of a complete header.
fn request(head: &Head) -> Result<Request, CloseReason> {
    let parsed = RequestParser::new().push(head.bytes());
    let parsed = parsed.map_err(RequestError::reason)?;
    parsed
        .map(|parsed| parsed.request)
        .ok_or(CloseReason::Malformed)
}

/// A connection on which a front end has asked for a client.
struct Session<'p, C> {
    stream: TcpStream,
    read_ahead: ReadAhead,
    guest: &'p GuestGuard,
    counted: C,
}

impl<C: 'static> Front for Session<'_, C> {
    type App = PlainApp;
    type Guards = C;

    async fn accept(self, agreed: TunnelTerms) -> Option<(PlainApp, ReadAhead, C)> {
        let answer = established(agreed.idle).into_owned();
        self.stream.send(answer).await.0.ok()?;
        Some((PlainApp(self.stream), self.read_ahead, self.counted))
    }

    async fn configure(self, document: String) {
        let answering = answer(&self.stream, configuration(&document));
        self.guest.linger(answering).await;
    }

    async fn refuse(self, reason: CloseReason) {
        let refusing = refuse(&self.stream, ListenerKind::Http, reason);
        self.guest.linger(refusing).await;
    }
}

/// Receives until the header is complete.
async fn head(stream: &TcpStream, mut received: Option<RingBuf>) -> Result<Head, CloseReason> {
    let (mut seen, mut empty_lines) = (0, 0);
    loop {
        if let Some(mut bytes) = received.take() {
            // RFC 9112, section 2.2.
            while seen < EMPTY_LINE.len() && bytes.starts_with(EMPTY_LINE) {
                empty_lines += 1;
                if empty_lines > REQUEST_EMPTY_LINES {
                    return Err(CloseReason::Malformed);
                }
                bytes.consume(EMPTY_LINE.len());
                seen = 0;
            }
            let from = seen.min(bytes.len()).saturating_sub(END.len() - 1);
            let mut windows = bytes[from..].windows(END.len());
            let end = windows.position(|window| window == END);
            match end.map(|at| from + at + END.len()) {
                Some(length) if length <= REQUEST_HEADER_MAX => {
                    return Ok(Head {
                        received: bytes,
                        length,
                    });
                }
                None if bytes.len() <= REQUEST_HEADER_MAX => {}
                _ => return Err(CloseReason::HeaderTooLarge),
            }
            seen = bytes.len();
            received = Some(bytes);
        }
        let unused = received.is_none();
        received = match stream.recv_more(received, BEGINNING_MAX).await {
            Ok(Some(more)) => Some(more),
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                return Err(CloseReason::HeaderTooLarge);
            }
            Ok(None) | Err(_) if unused => return Err(CloseReason::Unused),
            Ok(None) | Err(_) => return Err(CloseReason::RequestAborted),
        };
    }
}

/// Returns whether this is a GET of the health page. Those who may not ask for it come no further
/// than to here with a request of their own, so it is answered to all who do.
fn is_health_check(head: &[u8], listener: &Listener) -> bool {
    let Some(path) = &listener.health_path else {
        return false;
    };
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    ["1.0", "1.1"]
        .iter()
        .any(|version| line == format!("GET {path} HTTP/{version}").as_bytes())
}

/// Answers for the last time, and waits a moment for it to be read.
async fn answer(stream: &TcpStream, response: Vec<u8>) {
    let telling = async {
        if stream.send(response).await.0.is_ok() {
            stream.linger().await;
        }
    };
    let _ = ring::timeout(LINGER, telling).await;
}
