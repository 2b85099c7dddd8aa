//! The peer's sessions, and why there is none.

use std::fmt::Display;

use rustls::HandshakeKind;

use super::Scenario;
use crate::limits::LOAD_REASON_TEXT_MAX;
use crate::ring::{RingBuf, TcpStream};
use crate::tls::{ClientHandshake, ClientStream};

/// Why an operation failed, in the classes that the report counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LoadFailure {
    Connect,
    /// No session, and why.
    Tls(String),
    /// The peer's answer to CONNECT: its status and what Proxy-Status says, or what is wrong with
    /// the answer.
    Refused(String),
    Cut,
    /// Not open within [`Scenario::open_timeout`].
    Timeout,
}

impl LoadFailure {
    /// More than the word says: the peer's answer, the fault of its certificate.
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::Tls(reason) | Self::Refused(reason) => Some(format!("{}: {reason}", self.word())),
            Self::Connect | Self::Cut | Self::Timeout => None,
        }
    }

    pub fn word(&self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Tls(_) => "tls",
            Self::Refused(_) => "refused",
            Self::Cut => "cut",
            Self::Timeout => "timeout",
        }
    }
}

/// A handshake's failure.
fn tls(error: impl Display) -> LoadFailure {
    LoadFailure::Tls(reason(&error.to_string()))
}

/// A peer's words, short enough and without control characters, to be counted by.
pub(super) fn reason(text: &str) -> String {
    let letters = text.chars().filter(|letter| !letter.is_control());
    letters.take(LOAD_REASON_TEXT_MAX).collect()
}

pub(super) async fn connected(scenario: &Scenario) -> Result<TcpStream, LoadFailure> {
    let stream = TcpStream::connect(scenario.target).await;
    stream.map_err(|_| LoadFailure::Connect)
}

/// A TLS session, what came behind its handshake, and whether it was resumed.
pub(super) async fn session(
    scenario: &Scenario,
) -> Result<(ClientStream, Option<RingBuf>, bool), LoadFailure> {
    let stream = connected(scenario).await?;
    let Some((config, name)) = &scenario.tls else {
        return Err(LoadFailure::Tls("no TLS is set up".to_owned()));
    };
    let handshake = ClientHandshake::connected(stream, config.clone(), name.clone())
        .await
        .map_err(tls)?;
    let carry = handshake
        .complete(None, || std::future::ready(()))
        .await
        .map_err(tls)?;
    let resumed = handshake
        .negotiated()
        .is_some_and(|(_, kind)| kind == HandshakeKind::Resumed);
    let session = handshake.into_session().map_err(tls)?;
    Ok((session, carry, resumed))
}
