//! Moves the bytes of an open tunnel.
//!
//! Each direction holds at most one buffer, and none while it waits: a reader that does not read stops the writer at
//! the other end, and nothing grows with the transfer. The end of one direction is carried through to the other side.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::core::{Core, Live};
use crate::observe::{CloseReason, Stage};
use crate::ring::{self, Either, RingBuf, TcpStream};
use crate::tls::{Received, ServerStream, StreamError};

/// The two ends of a tunnel and what is known about it.
pub(super) struct Relay<'a> {
    pub core: &'a Core,
    pub client: &'a ServerStream,
    pub server: &'a TcpStream,
    pub live: &'a Live,
    pub idle_timeout: Duration,
    /// When a byte last moved.
    pub last: Cell<Instant>,
}

impl Relay<'_> {
    /// Runs until both directions have ended, one has failed, nothing moves any more or the node ends.
    pub async fn run(&self, early: Vec<u8>, carry: Option<RingBuf>) -> CloseReason {
        let fault = Cell::new(None);
        let both = ring::try_join(self.up(early, carry, &fault), self.down());
        let ended = match ring::race(both, ring::race(self.idle(), self.core.cut.wait())).await {
            Either::Left(Ok(())) => fault.get().map_or(Ok(()), Err),
            Either::Left(Err(reason)) => Err(reason),
            Either::Right(Either::Left(())) => Err(CloseReason::IdleTimeout),
            Either::Right(Either::Right(())) => Err(CloseReason::DrainTimeout),
        };
        match ended {
            Ok(()) => CloseReason::Closed,
            Err(reason) => {
                // Cut, not ended: neither side may take what it has for the whole.
                self.client.reset_on_close();
                self.server.reset_on_close();
                reason
            }
        }
    }

    /// Client to server.
    async fn up(
        &self,
        early: Vec<u8>,
        mut carry: Option<RingBuf>,
        fault: &Cell<Option<CloseReason>>,
    ) -> Result<(), CloseReason> {
        if !early.is_empty() {
            self.moved(&self.live.up, early.len());
            if self.server.send(early).await.0.is_err() {
                return Err(CloseReason::ServerReset);
            }
        }
        loop {
            match self
                .client
                .recv(carry)
                .await
                .map_err(|error| client_end(&error))?
            {
                Received::Data(front) => {
                    self.moved(&self.live.up, front.len());
                    let (sent, front) = self.server.send(front).await;
                    if sent.is_err() {
                        // The server reads no more. What it has already answered is still the client's.
                        fault.set(Some(CloseReason::ServerReset));
                        return Ok(());
                    }
                    carry = front.into_rest();
                }
                Received::Closed => {
                    let _ = self.server.shutdown().await;
                    return Ok(());
                }
            }
        }
    }

    /// Server to client.
    async fn down(&self) -> Result<(), CloseReason> {
        let mut first = true;
        loop {
            match self.server.recv().await {
                Ok(Some(buffer)) => {
                    self.moved(&self.live.down, buffer.len());
                    if std::mem::take(&mut first) {
                        let waited = ring::now().saturating_duration_since(self.live.opened);
                        self.core
                            .metrics
                            .borrow_mut()
                            .record(Stage::FirstByte, waited);
                    }
                    self.client
                        .send(buffer)
                        .await
                        .map_err(|error| client_end(&error))?;
                }
                Ok(None) => {
                    return self
                        .client
                        .close()
                        .await
                        .map_err(|error| client_end(&error));
                }
                Err(_) => return Err(CloseReason::ServerReset),
            }
        }
    }

    fn moved(&self, counter: &Cell<u64>, bytes: usize) {
        counter.set(counter.get() + bytes as u64);
        self.last.set(ring::now());
    }

    /// Returns when nothing has moved for the idle timeout. The timer is set anew only when it has run out.
    async fn idle(&self) {
        let mut timer = ring::sleep(self.idle_timeout);
        loop {
            (&mut timer).await;
            let deadline = self.last.get() + self.idle_timeout;
            if ring::now() >= deadline {
                return;
            }
            timer.reset(deadline);
        }
    }
}

fn client_end(error: &StreamError) -> CloseReason {
    match error {
        StreamError::Tls(_) => CloseReason::TlsProtocol,
        StreamError::Io(_) => CloseReason::ClientReset,
        StreamError::Truncated => CloseReason::ClientTruncated,
    }
}
