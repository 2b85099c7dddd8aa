//! A TLS session over a socket of the ring.

use std::cell::{Cell, RefCell};
use std::io;
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion, ServerConfig};

use super::records::{Connection, Progress, Records};
use crate::ring::{Front, RingBuf, TcpStream};

/// How a session's stream can fail.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The peer broke the protocol or was refused; the alert has been queued.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The connection failed.
    #[error("connection: {0}")]
    Io(#[from] io::Error),
    /// The peer ended the connection without close_notify (RFC 8446, section 6.1: the data may be incomplete).
    #[error("the connection ended without close_notify")]
    Truncated,
}

/// What one receive brought.
pub enum Received {
    /// Opened bytes, at least one, in front of records that are not complete yet.
    Data(Front),
    /// close_notify: the peer sends no more.
    Closed,
}

/// A session of the gateway with an app.
pub type ServerStream = TlsStream<UnbufferedServerConnection>;

/// A session of the load generator with a gateway.
pub type ClientStream = TlsStream<UnbufferedClientConnection>;

/// A connection whose session can be in any state.
pub struct TlsStream<C> {
    stream: TcpStream,
    records: RefCell<Records<C>>,
    peer_closed: Cell<bool>,
}

impl ServerStream {
    /// Starts a session on an accepted connection; nothing is read yet.
    ///
    /// # Errors
    /// rustls's, for a configuration that cannot work.
    pub fn accepted(stream: TcpStream, config: Arc<ServerConfig>) -> Result<Self, rustls::Error> {
        Ok(Self::over(stream, UnbufferedServerConnection::new(config)?))
    }
}

impl ClientStream {
    /// Starts a session on a connection that was made, by sending the client's hello.
    ///
    /// # Errors
    /// [`StreamError`].
    pub async fn connected(
        stream: TcpStream,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, StreamError> {
        let session = Self::over(stream, UnbufferedClientConnection::new(config, name)?);
        session.records.borrow_mut().begin()?;
        session.flush().await?;
        Ok(session)
    }
}

impl<C: Connection> TlsStream<C> {
    fn over(stream: TcpStream, connection: C) -> Self {
        Self {
            stream,
            records: RefCell::new(Records::new(connection)),
            peer_closed: Cell::new(false),
        }
    }

    /// Completes the handshake. Returns what came behind it: opened bytes and records that are not complete yet.
    ///
    /// # Errors
    /// [`StreamError`]; after [`StreamError::Tls`] the alert waits for [`TlsStream::linger`].
    pub async fn handshake(&self) -> Result<Front, StreamError> {
        let mut carry = None;
        loop {
            let Some(input) = self.more(carry).await? else {
                return Err(StreamError::Truncated);
            };
            let opened = self.records.borrow_mut().open(input, RingBuf::with_front);
            let (progress, front) = opened?;
            self.flush().await?;
            match progress {
                Progress::Established => return Ok(front),
                Progress::Handshaking => carry = front.into_rest(),
                Progress::PeerClosed if self.records.borrow().connection().is_handshaking() => {
                    return Err(StreamError::Truncated);
                }
                Progress::PeerClosed => {
                    self.peer_closed.set(true);
                    return Ok(front);
                }
            }
        }
    }

    /// Receives the next opened bytes. `carry` is the rest of the last receive ([`Front::into_rest`]).
    ///
    /// # Errors
    /// [`StreamError`].
    pub async fn recv(&self, mut carry: Option<RingBuf>) -> Result<Received, StreamError> {
        loop {
            if self.peer_closed.get() {
                return Ok(Received::Closed);
            }
            let Some(input) = self.more(carry).await? else {
                return Err(StreamError::Truncated);
            };
            let opened = self.records.borrow_mut().open(input, RingBuf::with_front);
            let (progress, front) = opened?;
            if progress == Progress::PeerClosed {
                self.peer_closed.set(true);
            }
            if !front.is_empty() {
                return Ok(Received::Data(front));
            }
            carry = front.into_rest();
        }
    }

    /// Seals and sends what `buffer` holds.
    ///
    /// # Errors
    /// [`StreamError`].
    pub async fn send(&self, mut buffer: RingBuf) -> Result<(), StreamError> {
        self.records.borrow_mut().seal(&mut buffer)?;
        self.stream.send(buffer).await.0?;
        Ok(())
    }

    /// Seals and sends a few bytes of the gateway's own.
    ///
    /// # Errors
    /// [`StreamError`].
    pub async fn send_message(&self, message: &[u8]) -> Result<(), StreamError> {
        let sealed = self.records.borrow_mut().seal_message(message)?;
        self.stream.send(sealed).await.0?;
        Ok(())
    }

    /// Says close_notify and ends the sending direction.
    ///
    /// # Errors
    /// [`StreamError`].
    pub async fn close(&self) -> Result<(), StreamError> {
        self.records.borrow_mut().close_notify();
        self.flush().await?;
        self.stream.shutdown().await?;
        Ok(())
    }

    /// Sends what is queued (an alert), ends the sending direction and reads the peer's bytes away until it closes, so
    /// that no reset overtakes what was sent. The caller bounds the time.
    pub async fn linger(&self) {
        if self.flush().await.is_ok() && self.stream.shutdown().await.is_ok() {
            while let Ok(Some(_)) = self.stream.recv().await {}
        }
    }

    /// Makes the coming close a reset: the peer learns that the stream was cut.
    pub fn reset_on_close(&self) {
        self.stream.reset_on_close();
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &TcpStream {
        &self.stream
    }

    /// The certificates that the peer presented, in this handshake or in the one that is resumed.
    #[must_use]
    pub fn peer_certificates(&self) -> Vec<CertificateDer<'static>> {
        self.records
            .borrow()
            .connection()
            .peer_certificates()
            .unwrap_or_default()
            .to_vec()
    }

    /// Protocol version and kind of handshake, once it is done.
    #[must_use]
    pub fn negotiated(&self) -> Option<(ProtocolVersion, HandshakeKind)> {
        let records = self.records.borrow();
        Some((
            records.connection().protocol_version()?,
            records.connection().handshake_kind()?,
        ))
    }

    /// More ciphertext, behind what is carried over.
    async fn more(&self, carry: Option<RingBuf>) -> Result<Option<RingBuf>, StreamError> {
        let Some(carry) = carry else {
            return Ok(self.stream.recv().await?);
        };
        if carry.spare() == 0 {
            return Err(
                rustls::Error::General("a record does not fit into a buffer".into()).into(),
            );
        }
        let (count, buffer) = self.stream.recv_into(carry).await;
        Ok((count? > 0).then_some(buffer))
    }

    async fn flush(&self) -> Result<(), StreamError> {
        let outgoing = self.records.borrow_mut().take_outgoing();
        if !outgoing.is_empty() {
            self.stream.send(outgoing).await.0?;
        }
        Ok(())
    }
}
