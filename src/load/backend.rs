//! The server behind the peer under test.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use crate::limits::{ACCEPT_BACKLOG, REQUEST_HEADER_MAX, REQUEST_HEADERS_MAX};
use crate::ring::{self, RingError, Runtime, RuntimeConfig, TcpListener, TcpStream};

/// Behaviour of the server with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum BackendKind {
    /// Sends back what comes.
    Echo,
    /// Reads and answers nothing.
    Sink,
    /// Sends for ever.
    Source,
    /// A small HTTP/1.1 server that answers each request with what was asked.
    Http,
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// No runtime.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The address.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, io::Error),
}

/// Serves on this thread for ever. `ready` is told the address, with the port that the system chose
/// for port 0.
///
/// # Errors
/// [`BackendError`].
pub fn serve(
    address: SocketAddr,
    kind: BackendKind,
    ready: impl FnOnce(SocketAddr) + 'static,
) -> Result<(), BackendError> {
    Runtime::new(RuntimeConfig::default())?.block_on(async move {
        let listener = TcpListener::bind(address, ACCEPT_BACKLOG)
            .map_err(|error| BackendError::Listen(address, error))?;
        ready(listener.local_address());
        let source: Rc<[u8]> = vec![0x61; 64 * 1024].into();
        loop {
            let stream = listener
                .accept()
                .await
                .map_err(|error| BackendError::Listen(address, error))?;
            let source = source.clone();
            ring::spawn(async move {
                // A client that leaves is not worth a word.
                let _ = match kind {
                    BackendKind::Echo => echo(&stream).await,
                    BackendKind::Sink => sink(&stream).await,
                    BackendKind::Source => send_for_ever(&stream, &source).await,
                    BackendKind::Http => http(&stream).await,
                };
            });
        }
    })
}

async fn echo(stream: &TcpStream) -> io::Result<()> {
    while let Some(bytes) = stream.recv().await? {
        stream.send(bytes).await.0?;
    }
    Ok(())
}

async fn sink(stream: &TcpStream) -> io::Result<()> {
    while stream.recv().await?.is_some() {}
    Ok(())
}

async fn send_for_ever(stream: &TcpStream, source: &Rc<[u8]>) -> io::Result<()> {
    loop {
        stream.send(source.clone()).await.0?;
    }
}

/// One request after the other, each answered with its method and target.
async fn http(stream: &TcpStream) -> io::Result<()> {
    let mut head: Vec<u8> = Vec::new();
    loop {
        while let Some((length, answer)) = answer(&head) {
            head.drain(..length);
            stream.send(answer).await.0?;
        }
        let Some(bytes) = stream.recv().await? else {
            return Ok(());
        };
        head.extend_from_slice(&bytes);
        if head.len() > REQUEST_HEADER_MAX {
            return Ok(());
        }
    }
}

/// The answer to a complete request without body at the start of `head`, and the request's length.
fn answer(head: &[u8]) -> Option<(usize, Vec<u8>)> {
    let mut headers = [httparse::EMPTY_HEADER; REQUEST_HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let Ok(httparse::Status::Complete(length)) = request.parse(head) else {
        return None;
    };
    let (method, path) = (
        request.method.unwrap_or_default(),
        request.path.unwrap_or_default(),
    );
    let body = format!("hello from behind the gateway: {method} {path}\n");
    let size = body.len();
    Some((
        length,
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {size}\r\n\r\n{body}"
        )
        .into_bytes(),
    ))
}

/// Bytes of the HTTP server's answer to `request`, which has no body.
#[must_use]
pub fn http_answer_length(request: &[u8]) -> usize {
    answer(request).map_or(0, |(_, answer)| answer.len())
}
