//! One tunnel, as its client sees it.

use std::io;

use bytes::Bytes;
use rustls::client::Resumption;

use super::http2::{self, Sessions};
use super::session::{LoadFailure, connected, reason, session};
use super::{Mode, Scenario};
use crate::limits::{REQUEST_HEADER_MAX, REQUEST_HEADERS_MAX};
use crate::ring::{RingBuf, TcpStream, try_join};
use crate::tls::{ClientStream, Received, StreamError};

/// The largest piece that is sealed at once, and the longest message whose sending may be waited
/// for before its echo is read: both directions' socket buffers hold it.
const PIECE: usize = 32 * 1024;

enum Transport {
    Tcp(TcpStream),
    Tls(Box<ClientStream>),
    Http2(Box<http2::Stream>),
}

impl Transport {
    async fn send(&self, payload: &Bytes) -> Result<(), LoadFailure> {
        match self {
            Self::Tcp(stream) => stream
                .send(payload.clone())
                .await
                .0
                .map_err(|_| LoadFailure::Cut),
            Self::Tls(session) => {
                for piece in payload.chunks(PIECE) {
                    session
                        .send_message(piece)
                        .await
                        .map_err(|_| LoadFailure::Cut)?;
                }
                Ok(())
            }
            Self::Http2(stream) => stream.send(payload.clone()).await,
        }
    }

    async fn recv(
        &self,
        carry: &mut Option<RingBuf>,
        mut take: impl FnMut(&[u8]),
    ) -> Result<usize, LoadFailure> {
        match self {
            Self::Tcp(stream) => match stream
                .recv()
                .await
                .map_err(|_: io::Error| LoadFailure::Cut)?
            {
                Some(bytes) => {
                    take(&bytes);
                    Ok(bytes.len())
                }
                None => Ok(0),
            },
            Self::Tls(session) => {
                let received = session
                    .recv(carry.take())
                    .await
                    .map_err(|_: StreamError| LoadFailure::Cut)?;
                match received {
                    Received::Data(pieces) => {
                        pieces.iter().for_each(&mut take);
                        let count = pieces.len();
                        *carry = pieces.into_rest();
                        Ok(count)
                    }
                    Received::Closed => Ok(0),
                }
            }
            Self::Http2(stream) => stream.recv(take).await,
        }
    }
}

/// An open tunnel.
pub(super) struct Tunnel {
    transport: Transport,
    carry: Option<RingBuf>,
    /// Bytes that have arrived and belong to nothing asked for yet.
    pub surplus: usize,
    pub resumed: bool,
}

impl Tunnel {
    /// Opens the tunnel of this slot.
    pub async fn open(
        scenario: &Scenario,
        sessions: &Sessions,
        slot: usize,
    ) -> Result<Self, LoadFailure> {
        let mut tunnel = match (&scenario.tls, scenario.mode) {
            (_, Mode::H2Connect) => {
                let stream = sessions.open(slot, scenario).await?;
                Self::over(Transport::Http2(Box::new(stream)), None, false)
            }
            (Some(_), Mode::Tls | Mode::H1Connect) => {
                let (session, carry, resumed) = session(scenario).await?;
                Self::over(Transport::Tls(Box::new(session)), carry, resumed)
            }
            _ => Self::over(Transport::Tcp(connected(scenario).await?), None, false),
        };
        if scenario.mode == Mode::H1Connect {
            tunnel.request(&scenario.connect).await?;
        }
        Ok(tunnel)
    }

    fn over(transport: Transport, carry: Option<RingBuf>, resumed: bool) -> Self {
        Self {
            transport,
            carry,
            surplus: 0,
            resumed,
        }
    }

    async fn request(&mut self, connect: &str) -> Result<(), LoadFailure> {
        let request = format!("CONNECT {connect} HTTP/1.1\r\nHost: {connect}\r\n\r\n");
        self.send(&request.into_bytes().into()).await?;
        let mut head = Vec::new();
        loop {
            let more = self.recv(|bytes| head.extend_from_slice(bytes)).await?;
            if let Some(length) = answered(&head)? {
                self.surplus = head.len() - length;
                return Ok(());
            }
            if more == 0 {
                return Err(LoadFailure::Cut);
            }
            if head.len() > REQUEST_HEADER_MAX {
                return Err(LoadFailure::Refused("a header without end".to_owned()));
            }
        }
    }

    /// Sends all of `payload`.
    pub async fn send(&mut self, payload: &Bytes) -> Result<(), LoadFailure> {
        self.transport.send(payload).await
    }

    /// Receives what has come, at least one byte; 0 at the end.
    pub async fn recv(&mut self, take: impl FnMut(&[u8])) -> Result<usize, LoadFailure> {
        self.transport.recv(&mut self.carry, take).await
    }

    /// Sends `payload` and waits until `answer` bytes have come back.
    pub async fn exchange(&mut self, payload: &Bytes, answer: usize) -> Result<(), LoadFailure> {
        let (transport, carry, surplus) = (&self.transport, &mut self.carry, &mut self.surplus);
        let read = async {
            while *surplus < answer {
                match transport.recv(carry, |_| ()).await? {
                    0 => return Err(LoadFailure::Cut),
                    count => *surplus += count,
                }
            }
            Ok(())
        };
        if payload.len() <= PIECE {
            transport.send(payload).await?;
            read.await?;
        } else {
            // A server that echoes stops reading once nobody takes what it sends.
            try_join(transport.send(payload), read).await?;
        }
        self.surplus -= answer;
        Ok(())
    }

    /// Ends the tunnel, and a connection with a reset: the generator opens more than there are
    /// ports to wait out.
    pub async fn end(self) {
        match self.transport {
            Transport::Tcp(stream) => stream.reset_on_close(),
            Transport::Tls(session) => session.reset_on_close(),
            Transport::Http2(stream) => stream.end().await,
        }
    }
}

/// The length of a complete answer to CONNECT at the start of `head` that says yes; `None` while it
/// is incomplete.
fn answered(head: &[u8]) -> Result<Option<usize>, LoadFailure> {
    let mut headers = [httparse::EMPTY_HEADER; REQUEST_HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(head) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(LoadFailure::Refused(format!("not HTTP: {error}"))),
    };
    let status = response.code.unwrap_or_default();
    if (200..300).contains(&status) {
        return Ok(Some(length));
    }
    let statuses = response
        .headers
        .iter()
        .filter(|header| header.name.eq_ignore_ascii_case("proxy-status"));
    let mut text = status.to_string();
    for header in statuses {
        let value = String::from_utf8_lossy(header.value);
        text.push(' ');
        text.push_str(&value);
    }
    Err(LoadFailure::Refused(reason(&text)))
}

/// A scenario for one slot: tickets of its own, or none.
pub(super) fn for_slot(scenario: &Scenario) -> Scenario {
    let mut scenario = scenario.clone();
    if let Some((config, _)) = &mut scenario.tls {
        let mut own = rustls::ClientConfig::clone(config);
        // The record layer takes the secrets over when the handshake is done.
        own.enable_secret_extraction = true;
        own.key_log = crate::tls::hand_over();
        own.resumption = if scenario.resumed {
            Resumption::in_memory_sessions(8)
        } else {
            Resumption::disabled()
        };
        *config = own.into();
    }
    scenario
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::LOAD_REASON_TEXT_MAX;

    fn refused(text: &str) -> Result<Option<usize>, LoadFailure> {
        Err(LoadFailure::Refused(text.to_owned()))
    }

    #[test]
    fn an_answer_is_read_by_its_status_and_reason() {
        let yes = b"HTTP/1.1 200 Connection established\r\n\r\n";
        assert_eq!(
            answered(&[&yes[..], b"early"].concat()),
            Ok(Some(yes.len()))
        );
        for cut in 0..yes.len() {
            assert_eq!(answered(&yes[..cut]), Ok(None), "{cut}");
        }
        assert_eq!(
            answered(b"HTTP/1.1 403 Forbidden\r\nproxy-status: adit; error=x\r\n\r\n"),
            refused("403 adit; error=x")
        );
        assert_eq!(answered(b"HTTP/1.0 502 no\r\n\r\n"), refused("502"));
        assert!(matches!(
            answered(b"SSH-2.0-x\r\n"),
            Err(LoadFailure::Refused(_))
        ));
        let long = format!(
            "HTTP/1.1 500 a\r\nProxy-Status: {}\r\n\r\n",
            "a".repeat(4096)
        );
        let Err(LoadFailure::Refused(text)) = answered(long.as_bytes()) else {
            panic!("a 500 is a refusal");
        };
        assert_eq!(text.len(), LOAD_REASON_TEXT_MAX);
    }
}
