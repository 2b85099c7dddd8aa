//! A TLS session over a socket of the ring: its handshake, then its bytes.

use std::cell::{Cell, RefCell};
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::{AlertDescription, ClientConfig, HandshakeKind, ProtocolVersion, ServerConfig};

use super::handshake::{Connection, Handshake};
use super::notes::Notes;
use super::record::{Content, Fault, RecordLayer};
use super::rejected::Rejection;
use super::server::ALPN_HTTP2;
use super::verifier::{DeviceVerifier, VerifiedChain};
use crate::limits::{BEGINNING_MAX, TLS_PLAINTEXT_MAX, TLS_PREDICTED_RECORD};
use crate::ring::{self, BUFFER_FRONT, Pieces, RingBuf, SMALL_PAYLOAD, Spacing, TcpStream};

/// How a handshake can fail.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The peer broke the protocol or was refused; the alert has been queued.
    #[error("TLS: {}", super::words(.0))]
    Tls(#[from] rustls::Error),
    /// The connection failed.
    #[error("connection: {0}")]
    Io(#[from] io::Error),
    /// The peer ended the connection before it sent anything.
    #[error("the connection ended before its first byte")]
    Unused,
    /// The peer ended the connection later.
    #[error("the connection ended in the handshake")]
    Ended,
}

/// How an established session can fail.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// A record, or what it says, is not as it must be.
    #[error("TLS: {0}")]
    Record(#[from] Fault),
    /// The connection failed.
    #[error("connection: {0}")]
    Io(#[from] io::Error),
    /// The peer ended the connection without close_notify (RFC 8446, section 6.1: the data may be
    /// incomplete).
    #[error("the connection ended without close_notify")]
    Truncated,
}

/// Result of one receive.
pub enum Received {
    /// Opened bytes, at least one, in front of records that are not complete yet.
    Data(Pieces),
    /// close_notify: the peer sends no more.
    Closed,
}

/// The gateway's end of a session with an app.
pub type ServerStream = TlsStream<UnbufferedServerConnection>;

/// Its handshake.
pub type ServerHandshake = TlsHandshake<UnbufferedServerConnection>;

/// The load generator's end of a session with a gateway.
pub type ClientStream = TlsStream<UnbufferedClientConnection>;

/// Its handshake.
pub type ClientHandshake = TlsHandshake<UnbufferedClientConnection>;

/// A connection on which the handshake is made.
pub struct TlsHandshake<C> {
    stream: TcpStream,
    handshake: RefCell<Handshake<C>>,
}

impl ServerHandshake {
    /// Starts on an accepted connection; nothing is read yet.
    ///
    /// # Errors
    /// rustls's, for a configuration that cannot work.
    pub fn accepted(stream: TcpStream, config: Arc<ServerConfig>) -> Result<Self, rustls::Error> {
        let connection = UnbufferedServerConnection::new(config)?;
        Ok(Self {
            stream,
            handshake: RefCell::new(Handshake::new(connection)),
        })
    }

    /// The certificates that the client has presented in this complete handshake. Those of a
    /// resumed one are checked again, by `verifier`, at `now`.
    ///
    /// # Errors
    /// As [`DeviceVerifier::recheck`].
    pub fn verified_chain(
        &self,
        verifier: &DeviceVerifier,
        now: SystemTime,
    ) -> Result<VerifiedChain<'static>, Box<Rejection>> {
        let handshake = self.handshake.borrow();
        VerifiedChain::of_handshake(handshake.connection(), verifier, now)
    }

    /// Takes what the handshake has shown of the client so far, also in one that has failed.
    #[must_use]
    pub fn take_notes(&self) -> Notes {
        self.handshake.borrow_mut().take_notes()
    }
}

impl ClientHandshake {
    /// Starts on a connection that was made, by sending the client's hello.
    ///
    /// # Errors
    /// [`HandshakeError`].
    pub async fn connected(
        stream: TcpStream,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, HandshakeError> {
        let connection = UnbufferedClientConnection::new(config, name)?;
        let handshake = Self {
            stream,
            handshake: RefCell::new(Handshake::new(connection)),
        };
        handshake.handshake.borrow_mut().begin()?;
        handshake.flush().await?;
        Ok(handshake)
    }
}

impl<C: Connection> TlsHandshake<C> {
    /// Completes the handshake; `pace` is awaited before each step that takes long. `begun` holds
    /// bytes that were received already. Returns the bytes that came behind it, to be given to the
    /// session's first [`TlsStream::recv`].
    ///
    /// # Errors
    /// [`HandshakeError`]; after [`HandshakeError::Tls`] the alert waits for
    /// [`TlsHandshake::linger`].
    pub async fn complete<F: Future<Output = ()>>(
        &self,
        begun: Option<RingBuf>,
        pace: impl Fn() -> F,
    ) -> Result<Option<RingBuf>, HandshakeError> {
        let mut received = match begun {
            Some(begun) => Some(begun),
            // A reset comes from checks that do not want to wait for the end.
            None => match self.stream.recv_more(None, BEGINNING_MAX).await {
                Ok(Some(first)) => Some(first),
                Ok(None) => return Err(HandshakeError::Unused),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Err(HandshakeError::Unused);
                }
                Err(error) => return Err(error.into()),
            },
        };
        loop {
            let Some(mut input) = received else {
                return Err(HandshakeError::Ended);
            };
            pace().await;
            let read = self.handshake.borrow_mut().read(&mut input);
            let (used, done) = read?;
            let asked = done && used < input.len();
            let waits = asked && self.handshake.borrow().may_wait();
            let answered = !waits && self.flush().await?;
            input.consume(used);
            input.compact();
            let carry = (!input.is_empty()).then_some(input);
            if done {
                if !asked && !answered {
                    // A peer with Nagle's algorithm holds its request back until its last message is acknowledged.
                    self.stream.acknowledge();
                }
                return Ok(carry);
            }
            received = self.more(carry).await?;
        }
    }

    /// The session, when the handshake is complete.
    ///
    /// # Errors
    /// rustls's, if it is not.
    pub fn into_session(self) -> Result<TlsStream<C>, rustls::Error> {
        Ok(TlsStream {
            stream: self.stream,
            layer: RefCell::new(RecordLayer::take_over(self.handshake.into_inner())?),
            peer_closed: Cell::new(false),
            writing: Cell::new(false),
            closed: Cell::new(false),
            predicted: Cell::new(0),
        })
    }

    /// Sends what is queued (an alert), ends the sending direction and reads the peer's bytes away
    /// until it closes, so that no reset overtakes what was sent. The caller bounds the time.
    pub async fn linger(&self) {
        if self.flush().await.is_ok() {
            self.stream.linger().await;
        }
    }

    /// Protocol version and kind of handshake, once it is done.
    #[must_use]
    pub fn negotiated(&self) -> Option<(ProtocolVersion, HandshakeKind)> {
        let handshake = self.handshake.borrow();
        Some((
            handshake.connection().protocol_version()?,
            handshake.connection().handshake_kind()?,
        ))
    }

    /// Names of the cipher suite, once it is agreed on, and of the key exchange's group, where there
    /// was one.
    #[must_use]
    pub fn suite_and_group(&self) -> (&'static str, Option<&'static str>) {
        let handshake = self.handshake.borrow();
        let suite = handshake.connection().negotiated_cipher_suite();
        let group = handshake.connection().negotiated_key_exchange_group();
        let suite = suite.and_then(|suite| suite.suite().as_str());
        (
            suite.unwrap_or_default(),
            group.and_then(|group| group.name().as_str()),
        )
    }

    /// Returns whether the peer and this end have agreed to speak HTTP/2.
    #[must_use]
    pub fn is_http2(&self) -> bool {
        self.handshake.borrow().connection().alpn_protocol() == Some(ALPN_HTTP2)
    }

    /// More of the peer's bytes, behind what is carried over. A message may span several records.
    async fn more(&self, carry: Option<RingBuf>) -> Result<Option<RingBuf>, HandshakeError> {
        match self.stream.recv_more(carry, BEGINNING_MAX).await {
            Ok(more) => Ok(more),
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                Err(rustls::Error::General("a handshake message is too long".into()).into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Sends what is queued; whether there was anything.
    async fn flush(&self) -> Result<bool, HandshakeError> {
        let outgoing = self.handshake.borrow_mut().take_outgoing();
        if outgoing.is_empty() {
            return Ok(false);
        }
        self.stream.send(outgoing).await.0?;
        Ok(true)
    }
}

/// An established session.
pub struct TlsStream<C: Connection> {
    stream: TcpStream,
    layer: RefCell<RecordLayer<C>>,
    peer_closed: Cell<bool>,
    /// A send has begun and not ended: the peer may have got a part of a record.
    writing: Cell<bool>,
    /// close_notify was said.
    closed: Cell<bool>,
    /// Length of the last record, when it was one of those that a bulk sender makes; else 0.
    predicted: Cell<u32>,
}

impl<C: Connection> TlsStream<C> {
    /// Receives the next opened bytes. `carry` is the rest of the last receive
    /// ([`Pieces::into_rest`]).
    ///
    /// # Errors
    /// [`StreamError`]; [`TlsStream::alert`] tells the peer.
    pub async fn recv(&self, mut carry: Option<RingBuf>) -> Result<Received, StreamError> {
        loop {
            if self.peer_closed.get() {
                return Ok(Received::Closed);
            }
            if let Some(buffer) = carry {
                let pieces = self.open(buffer)?;
                if !pieces.is_empty() {
                    return Ok(Received::Data(pieces));
                }
                carry = pieces.into_rest();
                if self.peer_closed.get() {
                    return Ok(Received::Closed);
                }
            }
            let more = match carry {
                None => self.first().await?,
                Some(part) => {
                    let (part, limit) = self.room_behind(part)?;
                    self.stream.recv_rest(part, limit).await?
                }
            };
            if more.is_none() {
                return Err(StreamError::Truncated);
            }
            carry = more;
        }
    }

    /// Opens the complete records in `buffer` where they lie.
    fn open(&self, buffer: RingBuf) -> Result<Pieces, Fault> {
        let mut layer = self.layer.borrow_mut();
        let mut pieces = Pieces::of(buffer);
        while let Some((length, content)) = layer.open(pieces.rest())? {
            match content {
                Content::Data(place) => {
                    let bulk = length >= TLS_PREDICTED_RECORD;
                    self.predicted.set(if bulk { length as u32 } else { 0 });
                    pieces.take(length, place);
                }
                Content::Nothing => pieces.take(length, 0..0),
                Content::Closed => {
                    // What comes behind is not the peer's (RFC 8446, section 6.1).
                    self.peer_closed.set(true);
                    break;
                }
            }
        }
        if layer.owes_answer() {
            drop(layer);
            self.answer()?;
        }
        Ok(pieces)
    }

    /// Answers what the peer has asked for (RFC 8446, section 4.6.3: new keys; RFC 5746, section 5:
    /// a renegotiation) without waiting until there is data to be sent. It does not wait for the
    /// peer either: what the socket does not take goes before the next record. Nothing is done
    /// while something is sent: whoever sends answers when that is done.
    #[cold]
    fn answer(&self) -> Result<(), Fault> {
        if self.writing.get() || self.closed.get() {
            return Ok(());
        }
        let mut layer = self.layer.borrow_mut();
        let mut answer = layer.before_sealing()?;
        // A connection that is broken is found to be so by those who receive and send.
        let sent = self.stream.try_send(&answer).unwrap_or(0);
        answer.drain(..sent);
        layer.not_sent(answer);
        Ok(())
    }

    /// A send has ended well.
    fn written(&self) -> Result<(), Fault> {
        self.writing.set(false);
        let owes_answer = self.layer.borrow().owes_answer();
        if owes_answer { self.answer() } else { Ok(()) }
    }

    /// Ciphertext of which nothing is there yet. A stream gets a large buffer while bytes wait, and
    /// as many whole records as it holds, if they are as long as the last one, so that no part of
    /// one is left to be moved.
    fn first(&self) -> impl Future<Output = io::Result<Option<RingBuf>>> + '_ {
        let predicted = self.predicted.get();
        let large = self.stream.is_bulk().then(RingBuf::large).flatten();
        let at_once = large.map(|large| {
            let limit = whole_records(large.spare(), 0, predicted as usize);
            let receive = self.stream.try_recv_into(large, limit);
            ring::map(
                receive,
                |(count, buffer)| Ok((count? > 0).then_some(buffer)),
            )
        });
        ring::unless_blocked(at_once, move || {
            let limit = match predicted {
                0 => SMALL_PAYLOAD as u32,
                predicted => predicted,
            };
            self.stream.recv_at_most(limit)
        })
    }

    /// Returns where the bytes go that come behind `carry`, and how many are wanted.
    fn room_behind(&self, carry: RingBuf) -> Result<(RingBuf, usize), Fault> {
        let predicted = self.predicted.get() as usize;
        let carry = match self.stream.is_bulk() {
            true if !carry.is_large() => moved(RingBuf::large(), carry),
            // While it waits, a session holds no large buffer.
            false if carry.is_large() && carry.len() < SMALL_PAYLOAD => {
                moved(RingBuf::small(), carry)
            }
            _ => carry,
        };
        let missing = match self.layer.borrow().record_length(&carry)? {
            Some(length) => length - carry.len(),
            None => predicted.saturating_sub(carry.len()),
        };
        let limit = whole_records(carry.receivable(), missing, predicted);
        Ok((carry, limit))
    }

    /// Returns when the peer's direction has ended: true where it was cut (RFC 8446, section 6.1:
    /// without `close_notify`), false where bytes wait, which may hold that, or it has come.
    pub async fn is_cut(&self) -> bool {
        !self.peer_closed.get() && self.stream.has_ended().await
    }

    /// The gaps that [`TlsStream::send`] needs in a buffer with more than one record's content.
    #[must_use]
    pub fn spacing(&self) -> Spacing {
        let (front, back) = self.layer.borrow().around();
        Spacing {
            piece: TLS_PLAINTEXT_MAX,
            gap: front + back,
            most: u16::MAX,
        }
    }

    /// Seals what `buffer` holds where it lies, and sends it. Content of more than one record is
    /// spaced ([`TlsStream::spacing`]).
    ///
    /// # Errors
    /// [`StreamError`].
    ///
    /// # Panics
    /// If the buffer has less room than a record needs around its content.
    pub async fn send(&self, mut buffer: RingBuf) -> Result<(), StreamError> {
        loop {
            let first = self.layer.borrow_mut().before_sealing()?;
            if first.is_empty() {
                break;
            }
            Box::pin(self.write(first)).await?;
        }
        {
            let mut layer = self.layer.borrow_mut();
            let (front, back) = layer.around();
            buffer.widen(front, back);
            layer.seal(&mut buffer)?;
        }
        self.writing.set(true);
        self.stream.send(buffer).await.0?;
        Ok(self.written()?)
    }

    /// Seals `pieces` and sends them; they come back with their rest. Sealed where they lie if the
    /// records that they came in leave the room for it, as those of the same version and suite do;
    /// else copied.
    ///
    /// # Errors
    /// [`StreamError`].
    pub async fn send_pieces(&self, mut pieces: Pieces) -> (Result<(), StreamError>, Pieces) {
        let (front, back) = self.layer.borrow().around();
        if !pieces.have_room(front, back, TLS_PLAINTEXT_MAX) {
            let sent = Box::pin(self.send_slices(pieces.iter())).await;
            return (sent, pieces);
        }
        loop {
            let first = self.layer.borrow_mut().before_sealing();
            match first {
                Ok(first) if first.is_empty() => break,
                Ok(first) => {
                    if let Err(error) = Box::pin(self.write(first)).await {
                        return (Err(error), pieces);
                    }
                }
                Err(fault) => return (Err(fault.into()), pieces),
            }
        }
        let sealed = {
            let mut layer = self.layer.borrow_mut();
            pieces.widen_each(front, back, |record| layer.seal(record))
        };
        if let Err(fault) = sealed {
            return (Err(fault.into()), pieces);
        }
        self.writing.set(true);
        let (sent, pieces) = self.stream.send_pieces(pieces).await;
        let sent = sent.map_err(StreamError::from);
        (sent.and_then(|()| Ok(self.written()?)), pieces)
    }

    /// Seals copies of `pieces` and sends them.
    ///
    /// # Errors
    /// [`StreamError`].
    pub async fn send_slices<'a>(
        &self,
        pieces: impl Iterator<Item = &'a [u8]>,
    ) -> Result<(), StreamError> {
        let mut records = Vec::new();
        for piece in pieces {
            records.append(&mut self.layer.borrow_mut().seal_message(piece)?);
        }
        self.write(records).await
    }

    /// Seals and sends a few bytes of this end's own.
    ///
    /// # Errors
    /// [`StreamError`].
    pub async fn send_message(&self, message: &[u8]) -> Result<(), StreamError> {
        let sealed = self.layer.borrow_mut().seal_message(message)?;
        self.write(sealed).await
    }

    /// Says close_notify and ends the sending direction.
    ///
    /// # Errors
    /// [`StreamError`].
    pub async fn close(&self) -> Result<(), StreamError> {
        let last = self.layer.borrow_mut().close_notify()?;
        // Nothing comes behind it (RFC 8446, section 6.1).
        self.closed.set(true);
        self.write(last).await?;
        self.stream.shutdown().await?;
        Ok(())
    }

    /// Tells the peer by an alert why the session ends, and lingers. Not where a send was given up
    /// on its way: what follows a part of a record cannot be read. The caller bounds the time.
    pub async fn alert(&self, alert: AlertDescription) {
        if self.writing.get() {
            return;
        }
        let fatal = self.layer.borrow_mut().fatal(alert);
        self.closed.set(true);
        if let Ok(fatal) = fatal
            && self.write(fatal).await.is_ok()
        {
            self.linger().await;
        }
    }

    /// Gives back what the session does not need while nothing moves.
    pub fn rest(&self) {
        self.layer.borrow_mut().rest();
        self.stream.rest();
    }

    /// Ends the sending direction and reads the peer's bytes away until it closes, so that no reset
    /// overtakes what was sent. The caller bounds the time.
    pub async fn linger(&self) {
        self.stream.linger().await;
    }

    /// Bytes that were sent and the peer has not acknowledged; `None` where the kernel does not
    /// say.
    #[must_use]
    pub fn unsent(&self) -> Option<u32> {
        self.stream.unsent()
    }

    /// Makes the coming close a reset: the peer learns that the stream was cut.
    pub fn reset_on_close(&self) {
        self.stream.reset_on_close();
    }

    async fn write(&self, records: Vec<u8>) -> Result<(), StreamError> {
        self.writing.set(true);
        self.stream.send(records).await.0?;
        Ok(self.written()?)
    }
}

/// Moves what `from` holds into `to`; stays where it is when there is no buffer to move to.
fn moved(to: Option<RingBuf>, from: RingBuf) -> RingBuf {
    match to {
        Some(to) => from.moved_to(to),
        None => from,
    }
}

/// How much to receive: what is missing of one record, and as many whole ones behind it as `room`
/// holds.
fn whole_records(room: usize, missing: usize, predicted: usize) -> usize {
    if predicted == 0 || missing > room {
        return room;
    }
    let whole = missing + (room - missing) / predicted * predicted;
    if whole == 0 { room } else { whole }
}

const _: () = assert!(BUFFER_FRONT >= 13, "room for a TLS 1.2 record's front");
