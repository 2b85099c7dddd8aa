//! Sessions of the plain listener: a trusted front end has ended TLS, and says which certificate the client presented.
//!
//! The certificate is checked exactly as in a handshake, and everything behind that is the same. Over HTTP/1.1 the
//! connection takes one request and becomes its tunnel. Over HTTP/2, which begins without more (RFC 9113, section 3.3), it
//! takes the requests of many clients, and each says for whom it is.

use std::io;
use std::rc::Rc;

use super::asker::{Asker, FrontEnd};
use super::core::{Core, Snapshot};
use super::ends::PlainApp;
use super::entrance::{Entrance, refuse};
use super::forwarded::certificates;
use super::http2;
use super::open::{Opened, Peer, open};
use super::outcome::{Outcome, record};
use super::patience::{Patience, in_time};
use super::relay::Behind;
use super::request::{ConnectRequest, RequestError, RequestParser};
use super::response::{established, health};
use super::session::{refused_request, subject_before};
use crate::config::{Listener, ListenerKind};
use crate::limits::{BEGINNING_MAX, LINGER, REQUEST_EMPTY_LINES, REQUEST_HEADER_MAX};
use crate::reason::CloseReason;
use crate::ring::{self, RingBuf, TcpStream};

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

/// From the request to an open tunnel, an answer or a refusal. `changes`: how many there were when the session began.
pub(super) async fn session(
    core: &Rc<Core>,
    (snapshot, listener): (&Snapshot, &Listener),
    stream: TcpStream,
    mut entrance: Entrance,
    changes: u64,
    patience: &mut Patience,
    counted: impl Sized + 'static,
) {
    let subject = subject_before(entrance.client);
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
    let mut outcome = Outcome::of(subject.into());
    let asked = match head {
        Ok(head) if is_health_check(head.bytes(), listener) => {
            record(core, &outcome, CloseReason::HealthCheck);
            let ready = !core.leaving.get() && !core.draining.is_raised();
            let answering = answer_check(&stream, ready);
            return patience.guest.linger(answering).await;
        }
        Ok(_) if entrance.health_only => Err(CloseReason::ProxyUntrusted),
        Ok(head) if head.bytes() == HTTP2 => {
            let carry = Some(head.received);
            let asker = Asker::each(FrontEnd::new(&stream, entrance));
            ring::spawn(http2::serve(core.clone(), stream, carry, asker, counted));
            return;
        }
        Ok(head) => Ok((head, FrontEnd::new(&stream, entrance))),
        Err(reason) => Err(reason),
    };
    let settings = (snapshot, listener);
    match connect(core, settings, &stream, (asked, changes), &mut outcome).await {
        Ok((opened, peer, behind)) => {
            let app = PlainApp(stream);
            opened.run(core.clone(), &peer, (app, behind), counted);
        }
        Err(reason) => {
            record(core, &outcome, reason);
            let refusing = refuse(&stream, ListenerKind::Http, reason);
            patience.guest.linger(refusing).await;
        }
    }
}

/// Opens the tunnel that is asked for, and says so. An error is a refusal that the client has not been told yet.
async fn connect(
    core: &Core,
    (snapshot, listener): (&Snapshot, &Listener),
    stream: &TcpStream,
    (asked, changes): (Result<(Head, FrontEnd), CloseReason>, u64),
    outcome: &mut Outcome,
) -> Result<(Opened, Peer, Behind), CloseReason> {
    let (head, front_end) = asked?;
    let request = RequestParser::new()
        .push(head.bytes())
        .map_err(|error| match error {
            // A front end has its own configuration.
            RequestError::Configuration => CloseReason::Malformed,
            error => refused_request(error),
        })?;
    let Some(ConnectRequest { target, idle, .. }) = request else {
        return Err(CloseReason::Malformed);
    };
    outcome.target = Some(target.clone());
    let place = listener.client_identity;
    let presented = certificates(head.bytes(), front_end.certificate(), place);
    let peer = front_end.peer(core, snapshot, presented, changes)?;
    outcome.subject = peer.subject.clone();
    let mut opened = open(core, snapshot, &peer, target, outcome).await?;
    let idle = opened.propose_idle(idle, &snapshot.limits);
    let (sent, _) = stream.send(established(idle).into_owned()).await;
    sent.map_err(|_| CloseReason::RequestAborted)?;
    let behind = Behind {
        early: head.received[head.length..].to_vec(),
        carry: None,
    };
    Ok((opened, peer, behind))
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

/// Whether this is a GET of the health page. Those who may not ask for it come no further than to here with a request of
/// their own, so it is answered to all who do.
fn is_health_check(head: &[u8], listener: &Listener) -> bool {
    let Some(path) = &listener.health_path else {
        return false;
    };
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    ["1.0", "1.1"]
        .iter()
        .any(|version| line == format!("GET {path} HTTP/{version}").as_bytes())
}

async fn answer_check(stream: &TcpStream, ready: bool) {
    let telling = async {
        if stream.send(health(ready)).await.0.is_ok() {
            stream.linger().await;
        }
    };
    let _ = ring::timeout(LINGER, telling).await;
}
