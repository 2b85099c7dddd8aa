//! Sessions of the plain listener: a trusted front end has ended TLS, and says which certificate the client presented.
//!
//! The certificate is checked exactly as in a handshake, and everything behind that is the same. The connection is the
//! tunnel's alone: it takes one request.

use std::rc::Rc;

use super::core::{Core, Snapshot};
use super::ends::PlainApp;
use super::entrance::{Entrance, linger, refuse};
use super::forwarded::{ForwardedError, certificates};
use super::introduction::Arrival;
use super::open::{Opened, Peer, open};
use super::outcome::{Outcome, record};
use super::relay::Behind;
use super::request::{ConnectRequest, RequestError, RequestParser};
use super::response::{established, health};
use super::session::{Interrupt, identify, interrupted, refused_request, subject_before};
use crate::config::ListenerKind;
use crate::limits::{LINGER, REQUEST_HEADER_MAX};
use crate::observe::CloseReason;
use crate::ring::{self, Either, TcpStream};

const END: &[u8] = b"\r\n\r\n";

/// A request's header, and what was received behind it.
struct Head {
    bytes: Vec<u8>,
    length: usize,
}

impl Head {
    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// From the request to an open tunnel, an answer or a refusal. `changes`: how many there were when the session began.
pub(super) async fn session(
    core: &Rc<Core>,
    snapshot: &Snapshot,
    stream: TcpStream,
    mut entrance: Entrance,
    changes: u64,
    deadline: &mut ring::Sleep,
    counted: impl Sized + 'static,
) {
    let subject = subject_before(entrance.client);
    let begun = entrance.begun.take();
    let begun = begun.map_or(Vec::new(), |bytes| bytes.to_vec());
    let head = match ring::race(head(&stream, begun), interrupted(core, deadline)).await {
        Either::Left(head) => head,
        Either::Right(Interrupt::NodeEnds) => return,
        Either::Right(Interrupt::Timeout) => Err(CloseReason::RequestTimeout),
    };
    let mut outcome = Outcome::of(subject.into());
    if let Ok(head) = &head
        && is_health_check(head.bytes(), snapshot)
    {
        record(core, &outcome, CloseReason::HealthCheck);
        let ready = !core.leaving.get() && !core.draining.is_raised();
        answer_check(&stream, ready).await;
        return;
    }
    let asked = Asked {
        head,
        entrance,
        changes,
    };
    match connect(core, snapshot, &stream, asked, &mut outcome).await {
        Ok((opened, peer, behind)) => {
            let app = PlainApp(stream);
            opened.run(core.clone(), &peer, (app, behind), counted);
        }
        Err(reason) => {
            record(core, &outcome, reason);
            refuse(&stream, ListenerKind::Http, reason).await;
        }
    }
}

/// A request, if it came.
struct Asked {
    head: Result<Head, CloseReason>,
    entrance: Entrance,
    changes: u64,
}

/// Opens the tunnel that is asked for, and says so. An error is a refusal that the client has not been told yet.
async fn connect(
    core: &Core,
    snapshot: &Snapshot,
    stream: &TcpStream,
    asked: Asked,
    outcome: &mut Outcome,
) -> Result<(Opened, Peer, Behind), CloseReason> {
    let Asked {
        head,
        entrance,
        changes,
    } = asked;
    let head = head?;
    if entrance.health_only {
        return Err(CloseReason::ProxyUntrusted);
    }
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
    let place = snapshot.listener.client_identity;
    let presented =
        certificates(head.bytes(), entrance.certificate.as_deref(), place).map_err(|error| {
            match error {
                ForwardedError::Missing => CloseReason::CertificateRequired,
                ForwardedError::Conflict => CloseReason::IdentityConflict,
                ForwardedError::Malformed(_) => CloseReason::CertificateInvalid,
            }
        })?;
    // The front end's word is not enough: chain, validity, usage and revocation are checked here.
    let arrival = Arrival {
        local: stream.local_address().ok(),
        ..Arrival::default()
    };
    let subject = &outcome.subject;
    let peer = identify(core, snapshot, &presented, true, arrival, subject, changes)?;
    outcome.subject = peer.subject.clone();
    let mut opened = open(core, snapshot, &peer, target, outcome).await?;
    let idle = opened.propose_idle(idle, &snapshot.limits);
    let (sent, _) = stream.send(established(idle).into_owned()).await;
    sent.map_err(|_| CloseReason::RequestAborted)?;
    let behind = Behind {
        early: head.bytes[head.length..].to_vec(),
        carry: None,
    };
    Ok((opened, peer, behind))
}

/// Receives until the header is complete.
async fn head(stream: &TcpStream, mut bytes: Vec<u8>) -> Result<Head, CloseReason> {
    let mut seen = 0;
    loop {
        let from = seen.min(bytes.len()).saturating_sub(END.len() - 1);
        let end = bytes[from..]
            .windows(END.len())
            .position(|window| window == END);
        match end.map(|at| from + at + END.len()) {
            Some(length) if length <= REQUEST_HEADER_MAX => return Ok(Head { bytes, length }),
            None if bytes.len() <= REQUEST_HEADER_MAX => {}
            _ => return Err(CloseReason::HeaderTooLarge),
        }
        seen = bytes.len();
        match stream.recv().await {
            Ok(Some(more)) => bytes.extend_from_slice(&more),
            Ok(None) | Err(_) if bytes.is_empty() => return Err(CloseReason::Unused),
            Ok(None) | Err(_) => return Err(CloseReason::RequestAborted),
        }
    }
}

/// Whether this is a GET of the health page. Those who may not ask for it come no further than to here with a request of
/// their own, so it is answered to all who do.
fn is_health_check(head: &[u8], snapshot: &Snapshot) -> bool {
    let Some(path) = &snapshot.listener.health_path else {
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
            linger(stream).await;
        }
    };
    let _ = ring::timeout(LINGER, telling).await;
}
