//! The two ends of a tunnel, whatever they are made of. The relay is compiled for each pair: no
//! byte passes a table of functions.

use std::io;
use std::time::Duration;

use rustls::AlertDescription;

use crate::reason::CloseReason;
use crate::ring::{self, Pieces, RingBuf, Spacing, TcpStream};
use crate::tls::{CONTIGUOUS, ClientStream, Received, ServerStream, StreamError};

/// The app's end of a tunnel.
pub(crate) trait AppEnd: 'static {
    /// Data of one receive.
    type Data: Data;

    /// Receives the next bytes; `None` when the app sends no more. `carry` is the rest of the last
    /// receive ([`Data::into_rest`]).
    fn recv(
        &self,
        carry: Option<RingBuf>,
    ) -> impl Future<Output = Result<Option<Self::Data>, Broken>>;

    /// The gaps that [`AppEnd::send`] needs in a buffer with more than one piece.
    fn spacing(&self) -> Spacing;

    /// Sends what `buffer` holds, spaced.
    fn send(&self, buffer: RingBuf) -> impl Future<Output = Result<(), Broken>>;

    /// Says that nothing more comes.
    fn close(&self) -> impl Future<Output = Result<(), Broken>>;

    /// Ends the tunnel before its time, so that the app cannot take what it has for the whole: for
    /// `reason`, told by the alert where there is one, for which it is waited so long at most.
    fn cut(
        &self,
        reason: CloseReason,
        alert: Option<(AlertDescription, Duration)>,
    ) -> impl Future<Output = ()>;

    /// Ready when the app has given the tunnel up after it has said that it sends no more. Only for
    /// ends that can tell: a connection's end is seen when something is sent.
    fn given_up(&self) -> impl Future<Output = Broken> {
        std::future::pending()
    }

    /// Gives back what is not needed while nothing moves.
    fn rest(&self);
}

/// The server's end of a tunnel.
pub(crate) trait ServerEnd: 'static {
    /// Sends all of `data`, which comes back with its rest.
    fn send<D: Data>(&self, data: D) -> impl Future<Output = (Result<(), CloseReason>, D)>;

    /// Receives bytes with gaps as the app's end needs them, and how many; `None` when the server
    /// sends no more.
    fn recv(
        &self,
        spacing: Spacing,
    ) -> impl Future<Output = Result<Option<(usize, RingBuf)>, CloseReason>>;

    /// Says that nothing more comes.
    fn close(&self) -> impl Future<Output = ()>;

    /// Makes the coming close a reset.
    fn reset_on_close(&self);

    /// Gives back what is not needed while nothing moves.
    fn rest(&self) {}
}

/// Bytes on their way to a server.
pub(crate) trait Data: 'static {
    /// How many.
    fn len(&self) -> usize;

    /// The bytes at this place, from 0, of those that adjoin; `None` behind the last.
    fn run(&self, index: usize) -> Option<&[u8]>;

    /// Sends them on a connection.
    fn send_to(self, stream: &TcpStream) -> impl Future<Output = (io::Result<()>, Self)>
    where
        Self: Sized;

    /// Seals and sends them in a session.
    fn seal_to(
        self,
        session: &ClientStream,
    ) -> impl Future<Output = (Result<(), StreamError>, Self)>
    where
        Self: Sized;

    /// Returns what was received behind them and is not opened yet.
    fn into_rest(self) -> Option<RingBuf>;
}

/// The app's end broke.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Broken {
    pub reason: CloseReason,
    /// The alert for the app.
    pub alert: Option<AlertDescription>,
}

impl From<StreamError> for Broken {
    fn from(error: StreamError) -> Self {
        let alert = match &error {
            StreamError::Record(fault) => fault.alert(),
            _ => None,
        };
        let reason = match error {
            StreamError::Record(_) => CloseReason::TlsProtocol,
            StreamError::Io(_) => CloseReason::ClientReset,
            StreamError::Truncated => CloseReason::ClientTruncated,
        };
        Self { reason, alert }
    }
}

impl AppEnd for ServerStream {
    type Data = Pieces;

    fn recv(&self, carry: Option<RingBuf>) -> impl Future<Output = Result<Option<Pieces>, Broken>> {
        ring::map(self.recv(carry), |received| match received? {
            Received::Data(pieces) => Ok(Some(pieces)),
            Received::Closed => Ok(None),
        })
    }

    fn spacing(&self) -> Spacing {
        self.spacing()
    }

    fn send(&self, buffer: RingBuf) -> impl Future<Output = Result<(), Broken>> {
        ring::map(self.send(buffer), |sent| Ok(sent?))
    }

    async fn close(&self) -> Result<(), Broken> {
        Ok(self.close().await?)
    }

    async fn cut(&self, _reason: CloseReason, alert: Option<(AlertDescription, Duration)>) {
        if let Some((alert, linger)) = alert {
            let _ = ring::timeout(linger, self.alert(alert)).await;
        }
        self.reset_on_close();
    }

    fn rest(&self) {
        self.rest();
    }
}

/// An app behind a front end that has ended TLS.
pub(crate) struct PlainApp(pub TcpStream);

impl AppEnd for PlainApp {
    type Data = Pieces;

    async fn recv(&self, _carry: Option<RingBuf>) -> Result<Option<Pieces>, Broken> {
        let received = self.0.recv_spaced(CONTIGUOUS).await.map_err(|_| RESET)?;
        Ok(received.map(|(count, buffer)| {
            let mut pieces = Pieces::of(buffer);
            pieces.take(count, 0..count);
            pieces
        }))
    }

    fn spacing(&self) -> Spacing {
        CONTIGUOUS
    }

    async fn send(&self, buffer: RingBuf) -> Result<(), Broken> {
        self.0.send(buffer).await.0.map_err(|_| RESET)
    }

    async fn close(&self) -> Result<(), Broken> {
        self.0.shutdown().await.map_err(|_| RESET)
    }

    async fn cut(&self, _reason: CloseReason, _alert: Option<(AlertDescription, Duration)>) {
        self.0.reset_on_close();
    }

    fn rest(&self) {
        self.0.rest();
    }
}

/// The front end reset the connection.
const RESET: Broken = Broken {
    reason: CloseReason::ClientReset,
    alert: None,
};

impl ServerEnd for TcpStream {
    fn send<D: Data>(&self, data: D) -> impl Future<Output = (Result<(), CloseReason>, D)> {
        ring::map(data.send_to(self), |(sent, data)| {
            (sent.map_err(|_| CloseReason::ServerReset), data)
        })
    }

    fn recv(
        &self,
        spacing: Spacing,
    ) -> impl Future<Output = Result<Option<(usize, RingBuf)>, CloseReason>> {
        ring::map(self.recv_spaced(spacing), |received| {
            received.map_err(|_| CloseReason::ServerReset)
        })
    }

    async fn close(&self) {
        let _ = self.shutdown().await;
    }

    fn reset_on_close(&self) {
        self.reset_on_close();
    }

    fn rest(&self) {
        self.rest();
    }
}

impl Data for Pieces {
    fn run(&self, index: usize) -> Option<&[u8]> {
        self.iter().nth(index)
    }

    fn len(&self) -> usize {
        self.len()
    }

    fn send_to(self, stream: &TcpStream) -> impl Future<Output = (io::Result<()>, Self)> {
        stream.send_pieces(self)
    }

    fn seal_to(
        self,
        session: &ClientStream,
    ) -> impl Future<Output = (Result<(), StreamError>, Self)> {
        session.send_pieces(self)
    }

    fn into_rest(self) -> Option<RingBuf> {
        self.into_rest()
    }
}

impl Data for Vec<u8> {
    fn run(&self, index: usize) -> Option<&[u8]> {
        (index == 0).then_some(self)
    }

    fn len(&self) -> usize {
        self.len()
    }

    async fn send_to(self, stream: &TcpStream) -> (io::Result<()>, Self) {
        stream.send(self).await
    }

    async fn seal_to(self, session: &ClientStream) -> (Result<(), StreamError>, Self) {
        (session.send_message(&self).await, self)
    }

    fn into_rest(self) -> Option<RingBuf> {
        None
    }
}
