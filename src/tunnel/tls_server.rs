//! A server behind TLS, as the end of a tunnel.
//!
//! What it sends is opened in the ring's buffer and, where the server's records are full and of the
//! same kind as the app's, sealed again in the same place; else it is copied once, to where the
//! app's records need it.

use std::cell::RefCell;
use std::time::Duration;

use super::ends::{Data, ServerEnd};
use crate::limits::BUFFER_WAIT;
use crate::reason::CloseReason;
use crate::ring::{self, Rest, RingBuf, Spacing};
use crate::tls::{ClientStream, Received, StreamError};

/// A server behind TLS.
pub(super) struct TlsServer {
    session: ClientStream,
    read_ahead: RefCell<ReadAhead>,
}

/// Received data that is not passed on yet.
struct ReadAhead {
    /// Opened bytes.
    opened: Vec<u8>,
    /// Records that are not opened.
    rest: Rest,
}

impl TlsServer {
    /// `carry`: what came behind the handshake.
    pub fn new(session: ClientStream, carry: Option<RingBuf>) -> Self {
        let read_ahead = ReadAhead {
            opened: Vec::new(),
            rest: carry.map_or(Rest::None, Rest::Buffer),
        };
        Self {
            session,
            read_ahead: read_ahead.into(),
        }
    }

    /// The rest of the last receive, in a buffer.
    async fn carry(&self) -> Option<RingBuf> {
        let rest = std::mem::replace(&mut self.read_ahead.borrow_mut().rest, Rest::None);
        match rest {
            Rest::None => None,
            Rest::Buffer(buffer) => Some(buffer),
            Rest::Bytes(bytes) => Some(Box::pin(filled(&bytes)).await),
        }
    }
}

/// A small buffer with these bytes. Holds none while it waits for one, so that nobody waits for
/// this tunnel in turn.
async fn filled(bytes: &[u8]) -> RingBuf {
    loop {
        if let Some(mut buffer) = RingBuf::small() {
            buffer.append(bytes);
            return buffer;
        }
        ring::sleep(BUFFER_WAIT).await;
    }
}

impl ServerEnd for TlsServer {
    async fn send<D: Data>(&self, data: D) -> (Result<(), CloseReason>, D) {
        let (sent, data) = data.seal_to(&self.session).await;
        (sent.map_err(|error| reason_of(&error)), data)
    }

    async fn recv(&self, spacing: Spacing) -> Result<Option<(usize, RingBuf)>, CloseReason> {
        let opened = std::mem::take(&mut self.read_ahead.borrow_mut().opened);
        if !opened.is_empty() {
            let (now, later) = opened.split_at(opened.len().min(spacing.piece));
            self.read_ahead.borrow_mut().opened = later.to_vec();
            return Ok(Some((now.len(), Box::pin(filled(now)).await)));
        }
        let carry = self.carry().await;
        match self.session.recv(carry).await {
            Ok(Received::Data(pieces)) => {
                let count = pieces.len();
                let spaced = pieces.into_spaced(spacing);
                let count = count - spaced.over.len();
                *self.read_ahead.borrow_mut() = ReadAhead {
                    opened: spaced.over,
                    rest: spaced.rest,
                };
                Ok(Some((count, spaced.buffer)))
            }
            Ok(Received::Closed) => Ok(None),
            Err(error) => {
                if let StreamError::Record(fault) = &error
                    && let Some(alert) = fault.alert()
                {
                    const SHORT: Duration = Duration::from_millis(100);
                    let _ = Box::pin(ring::timeout(SHORT, self.session.alert(alert))).await;
                }
                Err(reason_of(&error))
            }
        }
    }

    async fn close(&self) {
        let _ = self.session.close().await;
    }

    fn reset_on_close(&self) {
        self.session.reset_on_close();
    }

    fn rest(&self) {
        self.session.rest();
    }
}

fn reason_of(error: &StreamError) -> CloseReason {
    match error {
        StreamError::Record(_) => CloseReason::ServerTlsBroken,
        StreamError::Io(_) => CloseReason::ServerReset,
        StreamError::Truncated => CloseReason::ServerTruncated,
    }
}
