//! A client of the admin listener: one request, and its whole answer or an error.
//!
//! An answer counts when it is whole, says so itself, and came in time. Everything is bounded: the
//! wait for a connection, for each part of an answer, and for all of it; and its size.

use std::convert::Infallible;
use std::fmt;
use std::future::pending;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, TRANSFER_ENCODING};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::config::AdminListen;
use crate::limits::{
    ADMIN_ANSWER_MAX, ADMIN_ANSWER_TOTAL, ADMIN_BODY_PIECE, ADMIN_CONNECT, ADMIN_HEADER_TIMEOUT,
};

/// Why there is no answer that counts.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody is there.
    #[error("cannot connect: {0}; is the node running?")]
    Connect(io::Error),
    /// The request is not taken.
    #[error("the connection broke while the request was sent: {0}")]
    Send(hyper::Error),
    /// The data to send cannot be read.
    #[error("the data to send cannot be read: {0}")]
    Source(io::Error),
    /// Nothing comes.
    #[error("no answer within {} s; the node may be stuck, and its log may say why", .0.as_secs())]
    Silent(Duration),
    /// Nothing more comes.
    #[error("the answer stopped in its middle, and nothing more came for {} s", .0.as_secs())]
    Stalled(Duration),
    /// It has not ended.
    #[error("the answer did not end within {} s", .0.as_secs())]
    Slow(Duration),
    /// It ended too early.
    #[error("the answer was cut short")]
    Truncated,
    /// It does not say where it ends.
    #[error("the answer does not say how long it is, so it may have been cut short")]
    Endless,
    /// It is larger than any.
    #[error("the answer is larger than {ADMIN_ANSWER_MAX} bytes")]
    TooLarge,
    /// It is no HTTP.
    #[error("the answer is not from an admin listener: {0}")]
    Foreign(String),
}

/// Complete answer of an admin listener.
#[derive(Debug)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The header fields.
    pub headers: HeaderMap,
    /// The content.
    pub body: Bytes,
}

impl Reply {
    /// Returns whether the content has this media type.
    #[must_use]
    pub fn is_of(&self, media_type: &str) -> bool {
        let given = self.headers.get(CONTENT_TYPE);
        let given = given.and_then(|value| value.to_str().ok());
        given.is_some_and(|given| {
            let given = given.split(';').next().unwrap_or_default().trim();
            given.eq_ignore_ascii_case(media_type)
        })
    }

    /// The status as a line of text.
    #[must_use]
    pub fn line(&self) -> String {
        self.status.to_string()
    }
}

/// Body of a request: nothing, or a text, or what a reader gives.
pub type RequestBody = Either<Full<Bytes>, Upload>;

/// A body that is read piece by piece, of a length that is known before.
pub struct Upload {
    from: Box<dyn Read>,
    left: u64,
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload").field("left", &self.left).finish()
    }
}

impl Upload {
    /// The next `length` bytes of `from`, which waits for nothing but a disk.
    #[must_use]
    pub fn new(from: Box<dyn Read>, length: u64) -> Self {
        Self { from, left: length }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let size = self.left.min(ADMIN_BODY_PIECE as u64) as usize;
        let mut piece = vec![0; size];
        let count = match self.from.read(&mut piece) {
            Ok(0) => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "it has become shorter in the meantime",
            )),
            other => other,
        };
        Poll::Ready(Some(count.map(|count| {
            piece.truncate(count);
            self.left -= count as u64;
            Frame::data(piece.into())
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// How long each part of an answer may take, its first one most of all.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For the first byte, the request's own way included.
    pub first: Duration,
    /// For each further part.
    pub next: Duration,
    /// For all of it.
    pub all: Duration,
}

impl Patience {
    /// With a listener that has only to look something up.
    pub const READING: Self = Self {
        first: ADMIN_HEADER_TIMEOUT,
        next: ADMIN_HEADER_TIMEOUT,
        all: ADMIN_ANSWER_TOTAL,
    };
    /// With one that changes millions of devices, or reads them again.
    pub const CHANGING: Self = Self {
        first: ADMIN_ANSWER_TOTAL,
        ..Self::READING
    };
}

/// A connection to an admin listener, for one request.
#[derive(Debug)]
pub enum Connection {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
}

impl Connection {
    /// Asks. The request names its host itself.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn ask(
        self,
        request: Request<RequestBody>,
        patience: Patience,
    ) -> Result<Reply, ClientError> {
        match self {
            Self::Tcp(stream) => exchange(stream, request, patience).await,
            Self::Unix(stream) => exchange(stream, request, patience).await,
        }
    }
}

/// Connects to the listener at `listen`.
///
/// # Errors
/// [`ClientError::Connect`].
pub async fn connect(listen: &AdminListen) -> Result<Connection, ClientError> {
    let connecting = async {
        Ok::<_, io::Error>(match listen {
            AdminListen::Tcp(address) => Connection::Tcp(TcpStream::connect(address).await?),
            AdminListen::Unix(path) => Connection::Unix(UnixStream::connect(path).await?),
        })
    };
    let connected = timeout(ADMIN_CONNECT, connecting).await;
    let connected = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    connected.map_err(ClientError::Connect)
}

/// Connects to a socket, if it is one itself (no link to one) and whoever listens may: root, this
/// user, or the owner of the folder. What is sent may be a private key.
///
/// # Errors
/// [`ClientError::Connect`]; [`ClientError::Foreign`] where another user listens.
pub async fn connect_owned(path: &Path) -> Result<Connection, ClientError> {
    let is_socket = std::fs::symlink_metadata(path).map(|file| file.file_type().is_socket());
    if !is_socket.map_err(ClientError::Connect)? {
        let error = io::Error::new(io::ErrorKind::NotFound, "it is not a socket");
        return Err(ClientError::Connect(error));
    }
    let connection = connect(&AdminListen::Unix(path.to_owned())).await?;
    if let Connection::Unix(stream) = &connection {
        let peer = stream.peer_cred().map_err(ClientError::Connect)?.uid();
        let folder = path
            .parent()
            .and_then(|folder| std::fs::metadata(folder).ok());
        let may = [0, rustix::process::geteuid().as_raw()];
        if !may.contains(&peer) && folder.is_none_or(|folder| folder.uid() != peer) {
            let why = format!(
                "user {peer} listens there, who is neither root nor this user nor the owner of the folder"
            );
            return Err(ClientError::Foreign(why));
        }
    }
    Ok(connection)
}

/// Asks whoever is at the other end of `stream`, which is used for this alone.
///
/// # Errors
/// [`ClientError`].
pub async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    request: Request<RequestBody>,
    patience: Patience,
) -> Result<Reply, ClientError> {
    let whole = async {
        let shaken = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = shaken.map_err(ClientError::Send)?;
        let driven = async {
            // Its error comes to who waits for the answer.
            let _ = connection.await;
            pending::<Infallible>().await
        };
        let asked = async {
            let response = timeout(patience.first, sender.send_request(request)).await;
            let response = response.map_err(|_| ClientError::Silent(patience.first))?;
            read(response.map_err(of_head)?, patience).await
        };
        tokio::select! {
            biased;
            reply = asked => reply,
            never = driven => match never {},
        }
    };
    let whole = timeout(patience.all, whole).await;
    whole.unwrap_or(Err(ClientError::Slow(patience.all)))
}

async fn read(response: Response<Incoming>, patience: Patience) -> Result<Reply, ClientError> {
    let (head, mut body) = response.into_parts();
    let is_bounded =
        [CONTENT_LENGTH, TRANSFER_ENCODING].map(|name| head.headers.contains_key(name));
    if is_bounded == [false; 2] {
        return Err(ClientError::Endless);
    }
    let mut content = Vec::new();
    loop {
        let frame = timeout(patience.next, body.frame()).await;
        let frame = frame.map_err(|_| ClientError::Stalled(patience.next))?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|_| ClientError::Truncated)?;
        if let Some(bytes) = frame.data_ref() {
            if content.len() + bytes.len() > ADMIN_ANSWER_MAX {
                return Err(ClientError::TooLarge);
            }
            content.extend_from_slice(bytes);
        }
    }
    Ok(Reply {
        status: head.status,
        headers: head.headers,
        body: content.into(),
    })
}

/// Why no head came.
fn of_head(error: hyper::Error) -> ClientError {
    use std::error::Error;
    if error.is_user() {
        let source = error
            .source()
            .and_then(|source| source.downcast_ref::<io::Error>());
        let text = source.map_or_else(|| error.to_string(), ToString::to_string);
        return ClientError::Source(io::Error::other(text));
    }
    if error.is_parse() {
        return ClientError::Foreign(error.to_string());
    }
    if error.is_incomplete_message() || error.is_canceled() {
        return ClientError::Truncated;
    }
    ClientError::Send(error)
}
