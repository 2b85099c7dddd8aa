//! One tunnel, as its client sees it.

use std::io;
use std::rc::Rc;

use rustls::HandshakeKind;
use rustls::client::Resumption;

use super::{Mode, Scenario};
use crate::ring::{RingBuf, TcpStream};
use crate::tls::{ClientHandshake, ClientStream, Received, StreamError};

/// The largest piece that is sealed at once.
const PIECE: usize = 32 * 1024;

/// Why an operation failed, in the classes that the report counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Failure {
    Connect,
    Tls,
    Refused,
    Cut,
}

impl Failure {
    pub fn word(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Refused => "refused",
            Self::Cut => "cut",
        }
    }
}

enum Transport {
    Tcp(TcpStream),
    Tls(Box<ClientStream>),
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
    /// Opens a tunnel.
    pub async fn open(scenario: &Scenario) -> Result<Self, Failure> {
        let stream = TcpStream::connect(scenario.target)
            .await
            .map_err(|_| Failure::Connect)?;
        let mut tunnel = match (&scenario.tls, scenario.mode) {
            (Some((config, name)), Mode::Tls | Mode::H1Connect) => {
                let handshake = ClientHandshake::connected(stream, config.clone(), name.clone())
                    .await
                    .map_err(|_| Failure::Tls)?;
                let carry = handshake
                    .complete(|| std::future::ready(()))
                    .await
                    .map_err(|_| Failure::Tls)?;
                let resumed = handshake
                    .negotiated()
                    .is_some_and(|(_, kind)| kind == HandshakeKind::Resumed);
                let session = handshake.into_session().map_err(|_| Failure::Tls)?;
                Self {
                    transport: Transport::Tls(Box::new(session)),
                    carry,
                    surplus: 0,
                    resumed,
                }
            }
            _ => Self {
                transport: Transport::Tcp(stream),
                carry: None,
                surplus: 0,
                resumed: false,
            },
        };
        if scenario.mode == Mode::H1Connect {
            tunnel.request(&scenario.connect).await?;
        }
        Ok(tunnel)
    }

    async fn request(&mut self, connect: &str) -> Result<(), Failure> {
        let request = format!("CONNECT {connect} HTTP/1.1\r\nHost: {connect}\r\n\r\n");
        self.send(&request.into_bytes().into()).await?;
        let mut head = Vec::new();
        loop {
            let more = self.recv(|bytes| head.extend_from_slice(bytes)).await?;
            if let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") {
                self.surplus = head.len() - end - 4;
                return if head.starts_with(b"HTTP/1.1 200") {
                    Ok(())
                } else {
                    Err(Failure::Refused)
                };
            }
            if more == 0 || head.len() > 64 * 1024 {
                return Err(Failure::Refused);
            }
        }
    }

    /// Sends all of `payload`.
    pub async fn send(&mut self, payload: &Rc<[u8]>) -> Result<(), Failure> {
        match &self.transport {
            Transport::Tcp(stream) => stream
                .send(payload.clone())
                .await
                .0
                .map_err(|_| Failure::Cut),
            Transport::Tls(session) => {
                for piece in payload.chunks(PIECE) {
                    session
                        .send_message(piece)
                        .await
                        .map_err(|_| Failure::Cut)?;
                }
                Ok(())
            }
        }
    }

    /// Receives what has come, at least one byte; 0 at the end.
    pub async fn recv(&mut self, mut take: impl FnMut(&[u8])) -> Result<usize, Failure> {
        match &self.transport {
            Transport::Tcp(stream) => {
                match stream.recv().await.map_err(|_: io::Error| Failure::Cut)? {
                    Some(bytes) => {
                        take(&bytes);
                        Ok(bytes.len())
                    }
                    None => Ok(0),
                }
            }
            Transport::Tls(session) => {
                let received = session
                    .recv(self.carry.take())
                    .await
                    .map_err(|_: StreamError| Failure::Cut)?;
                match received {
                    Received::Data(pieces) => {
                        pieces.iter().for_each(&mut take);
                        let count = pieces.len();
                        self.carry = pieces.into_rest();
                        Ok(count)
                    }
                    Received::Closed => Ok(0),
                }
            }
        }
    }

    /// Sends `payload` and waits until `answer` bytes have come back.
    pub async fn exchange(&mut self, payload: &Rc<[u8]>, answer: usize) -> Result<(), Failure> {
        self.send(payload).await?;
        while self.surplus < answer {
            match self.recv(|_| ()).await? {
                0 => return Err(Failure::Cut),
                count => self.surplus += count,
            }
        }
        self.surplus -= answer;
        Ok(())
    }

    /// Ends the tunnel with a reset: the generator opens more tunnels than there are ports to wait out.
    pub fn drop_hard(self) {
        match self.transport {
            Transport::Tcp(stream) => stream.reset_on_close(),
            Transport::Tls(session) => session.reset_on_close(),
        }
    }
}

/// A scenario for one slot: tickets of its own, or none.
pub(super) fn for_slot(scenario: &Scenario) -> Scenario {
    let mut scenario = scenario.clone();
    if let Some((config, _)) = &mut scenario.tls {
        let mut own = rustls::ClientConfig::clone(config);
        // The record layer takes the secrets over when the handshake is done.
        own.enable_secret_extraction = true;
        own.resumption = if scenario.resumed {
            Resumption::in_memory_sessions(8)
        } else {
            Resumption::disabled()
        };
        *config = own.into();
    }
    scenario
}
