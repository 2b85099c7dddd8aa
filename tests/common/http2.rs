//! A client of HTTP/2 tunnels.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "a test helper: each file uses its part, and fails by panic"
)]

use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit::certs::Issued;
use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use h2::{RecvStream, SendStream};
use http::{Method, Request, Response};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::common::{Gateway, PATIENCE, Pki, World, client_config};

pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Runs a test's client; ten seconds or so are all that anything may take.
pub fn run(test: impl Future<Output = ()>) {
    runtime().block_on(async {
        let limit = 2 * PATIENCE;
        tokio::time::timeout(limit, test)
            .await
            .expect("the test hangs");
    });
}

/// A TLS session on which HTTP/2 was agreed.
pub async fn tls(pki: &Pki, gateway: &Gateway, identity: &Issued) -> TlsStream<TcpStream> {
    let mut config =
        rustls::ClientConfig::clone(&client_config(&pki.path("ca.pem"), Some(identity)));
    config.alpn_protocols = vec![b"h2".to_vec()];
    let socket = TcpStream::connect(gateway.address).await.unwrap();
    socket.set_nodelay(true).unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, socket)
        .await
        .unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    stream
}

/// An HTTP/2 session; it ends with the client, and its driver tells how.
pub struct Client {
    pub requests: SendRequest<Bytes>,
    pub driver: JoinHandle<Result<(), h2::Error>>,
}

pub async fn client(pki: &Pki, gateway: &Gateway, identity: &Issued) -> Client {
    let mut builder = Builder::new();
    builder
        .initial_window_size(1 << 20)
        .initial_connection_window_size(8 << 20);
    client_with(&builder, pki, gateway, identity).await
}

pub async fn client_with(
    builder: &Builder,
    pki: &Pki,
    gateway: &Gateway,
    identity: &Issued,
) -> Client {
    let stream = tls(pki, gateway, identity).await;
    let (requests, connection) = builder.handshake(stream).await.unwrap();
    Client {
        requests,
        driver: tokio::spawn(connection),
    }
}

impl World {
    /// The device's HTTP/2 session.
    pub async fn http2(&self) -> Client {
        client(&self.pki, &self.gateway, &self.device).await
    }
}

pub fn connect_request(authority: &str) -> Request<()> {
    Request::builder()
        .method(Method::CONNECT)
        .uri(authority)
        .body(())
        .unwrap()
}

/// An open tunnel.
pub struct Tunnel {
    pub up: SendStream<Bytes>,
    pub down: RecvStream,
}

impl Client {
    /// The answer to a request, and the two directions behind it.
    pub async fn ask(
        &self,
        request: Request<()>,
    ) -> Result<(Response<RecvStream>, SendStream<Bytes>), h2::Error> {
        let mut requests = self.requests.clone().ready().await?;
        let (response, up) = requests.send_request(request, false)?;
        Ok((response.await?, up))
    }

    pub async fn tunnel(&self, authority: &str) -> Tunnel {
        let (response, up) = self.ask(connect_request(authority)).await.unwrap();
        assert_eq!(response.status(), 200);
        Tunnel {
            up,
            down: response.into_body(),
        }
    }
}

impl Tunnel {
    /// Sends bytes as the gateway's windows let them go.
    pub async fn send(&mut self, bytes: impl Into<Bytes>) -> Result<(), h2::Error> {
        send(&mut self.up, bytes.into()).await
    }

    pub fn end(&mut self) {
        self.up.send_data(Bytes::new(), true).unwrap();
    }

    /// Receives exactly so many bytes.
    pub async fn read(&mut self, count: usize) -> Vec<u8> {
        let mut seen = Vec::new();
        while seen.len() < count {
            let bytes = self.next().await.expect("the stream ended").unwrap();
            seen.extend_from_slice(&bytes);
        }
        assert_eq!(seen.len(), count);
        seen
    }

    /// The next bytes, which may be sent again; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<Bytes, h2::Error>> {
        next(&mut self.down).await
    }
}

pub async fn send(up: &mut SendStream<Bytes>, mut bytes: Bytes) -> Result<(), h2::Error> {
    while !bytes.is_empty() {
        up.reserve_capacity(bytes.len());
        while up.capacity() == 0 {
            match poll_fn(|context| up.poll_capacity(context)).await {
                Some(capacity) => capacity?,
                None => return Err(h2::Error::from(h2::Reason::STREAM_CLOSED)),
            };
        }
        let part = bytes.split_to(up.capacity().min(bytes.len()));
        up.send_data(part, false)?;
    }
    Ok(())
}

pub async fn next(down: &mut RecvStream) -> Option<Result<Bytes, h2::Error>> {
    loop {
        let bytes = match down.data().await? {
            Ok(bytes) if bytes.is_empty() => continue,
            Ok(bytes) => bytes,
            Err(error) => return Some(Err(error)),
        };
        down.flow_control().release_capacity(bytes.len()).unwrap();
        return Some(Ok(bytes));
    }
}

/// Waits until `done`, for [`PATIENCE`] at most, while the client's tasks go on.
pub async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
