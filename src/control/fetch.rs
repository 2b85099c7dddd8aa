//! One HTTP request for a CRL, bounded in every direction.
//!
//! Bounded are the time in all and between two pieces, the size, the redirections, the hosts and
//! the addresses: a name is resolved here and connected to by address, so that it cannot lead to
//! loopback, to a metadata service or to this machine itself unless the configuration lists the
//! network. The list's own signature is what makes it trusted; https hides only who asks for what.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::backend::guard::{self, OwnAddresses};
use crate::backend::{QueryOwner, ResolveError, ResolverHandle};
use crate::config::{CrlFetch, url_host};
use crate::limits::{
    ADMIN_REQUEST_BYTES, CRL_CONNECT_TIMEOUT, CRL_FETCH_TIMEOUT, CRL_PIECE_TIMEOUT,
    CRL_REDIRECTS_MAX, MAX_CRL_FILE,
};
use crate::tls::io_words;

/// Why a CRL could not be fetched.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("{0} is not an allowed host; list it in profile.device_auth.crl.allowed_hosts")]
    Host(String),
    #[error(
        "{0} has only addresses that are not allowed ({1}); if they are right, list the network in \
            profile.device_auth.crl.allow"
    )]
    Address(String, IpAddr),
    #[error("{0}: {1}")]
    Name(String, ResolveError),
    #[error("cannot connect to {}: {}", .0, io_words(.1))]
    Connect(String, std::io::Error),
    #[error("the server gave no complete answer within {0:?}")]
    Slow(Duration),
    #[error("the server answered {0}")]
    Status(StatusCode),
    #[error("more than {CRL_REDIRECTS_MAX} redirections")]
    Redirects,
    #[error("a redirection without a valid target, or from https to http")]
    Redirect,
    #[error("the list is larger than {0} bytes")]
    TooLarge(u64),
    #[error(
        "the server sent the list in an encoding that was not requested (Content-Encoding: {0}); let it send \
            the list without an encoding"
    )]
    Encoded(String),
    #[error("no HTTP: {0}")]
    Http(#[from] hyper::Error),
}

/// Validators by which a server distinguishes a list from a later one (RFC 9110, section 8.8).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Validators {
    etag: Option<HeaderValue>,
    last_modified: Option<HeaderValue>,
}

/// Answer of a server.
#[derive(Debug)]
pub(super) enum Fetched {
    /// It has no other list than the one before.
    NotModified,
    /// A list, whatever it may be.
    List(Vec<u8>, Validators),
}

/// How long and how much.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub whole: Duration,
    pub piece: Duration,
    pub bytes: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            whole: CRL_FETCH_TIMEOUT,
            piece: CRL_PIECE_TIMEOUT,
            bytes: MAX_CRL_FILE,
        }
    }
}

/// Fetches lists. Cheap to clone.
#[derive(Clone)]
pub(super) struct Fetcher {
    pub resolver: ResolverHandle,
    pub bounds: Bounds,
}

impl Fetcher {
    /// Fetches `url` if it is not what `known` belongs to.
    pub async fn fetch(
        &self,
        url: &str,
        rules: &CrlFetch,
        known: &Validators,
    ) -> Result<Fetched, FetchError> {
        let whole = self.bounds.whole;
        timeout(whole, self.follow(url, rules, known))
            .await
            .unwrap_or(Err(FetchError::Slow(whole)))
    }

    async fn follow(
        &self,
        url: &str,
        rules: &CrlFetch,
        known: &Validators,
    ) -> Result<Fetched, FetchError> {
        let mut url = url.to_owned();
        for _ in 0..=CRL_REDIRECTS_MAX {
            let response = self.ask(&url, rules, known).await?;
            match response.status() {
                StatusCode::OK => return self.read(response).await,
                StatusCode::NOT_MODIFIED => return Ok(Fetched::NotModified),
                StatusCode::MOVED_PERMANENTLY
                | StatusCode::FOUND
                | StatusCode::SEE_OTHER
                | StatusCode::TEMPORARY_REDIRECT
                | StatusCode::PERMANENT_REDIRECT => {
                    url = redirected(&url, response.headers()).ok_or(FetchError::Redirect)?;
                }
                other => return Err(FetchError::Status(other)),
            }
        }
        Err(FetchError::Redirects)
    }

    async fn ask(
        &self,
        url: &str,
        rules: &CrlFetch,
        known: &Validators,
    ) -> Result<Response<Incoming>, FetchError> {
        let host = url_host(url)
            .filter(|host| rules.hosts.contains(host))
            .ok_or_else(|| FetchError::Host(url.to_owned()))?;
        let uri: Uri = url.parse().map_err(|_| FetchError::Redirect)?;
        let is_https = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if is_https { 443 } else { 80 });
        let stream = self.connect(&host, port, rules).await?;
        let request = request(&uri, known);
        if is_https {
            let name = host
                .trim_start_matches('[')
                .trim_end_matches(']')
                .to_owned();
            let name = ServerName::try_from(name).map_err(|_| FetchError::Redirect)?;
            let connected = timeout(CRL_CONNECT_TIMEOUT, connector().connect(name, stream)).await;
            let stream = connected
                .map_err(|_| FetchError::Slow(CRL_CONNECT_TIMEOUT))?
                .map_err(|error| FetchError::Connect(host, error))?;
            self.exchange(stream, request).await
        } else {
            self.exchange(stream, request).await
        }
    }

    /// Connects to the first address of `host` that may be connected to and answers.
    async fn connect(
        &self,
        host: &str,
        port: u16,
        rules: &CrlFetch,
    ) -> Result<TcpStream, FetchError> {
        let literal = host.trim_start_matches('[').trim_end_matches(']');
        let addresses = match literal.parse() {
            Ok(address) => vec![address],
            Err(_) => self
                .resolve(host)
                .await
                .map_err(|error| FetchError::Name(host.to_owned(), error))?,
        };
        let own = OwnAddresses::read().unwrap_or_default();
        let mut last = None;
        for address in addresses {
            if !guard::is_allowed(address, &rules.allow, &own) {
                last.get_or_insert(FetchError::Address(host.to_owned(), address));
                continue;
            }
            let connecting = TcpStream::connect(SocketAddr::new(address, port));
            match timeout(CRL_CONNECT_TIMEOUT, connecting).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = Some(FetchError::Connect(host.to_owned(), error)),
                Err(_) => last = Some(FetchError::Slow(CRL_CONNECT_TIMEOUT)),
            }
        }
        Err(last.unwrap_or(FetchError::Name(host.to_owned(), ResolveError::NotFound)))
    }

    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let (sender, receiver) = oneshot::channel();
        let reply = move |answer| drop(sender.send(answer));
        let _ticket = self.resolver.lookup(QueryOwner::Node, host, reply);
        let answer = timeout(CRL_CONNECT_TIMEOUT, receiver).await;
        match answer {
            Ok(Ok(answer)) => answer.map(|answer| answer.addresses),
            _ => Err(ResolveError::Timeout),
        }
    }

    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        request: Request<Empty<Bytes>>,
    ) -> Result<Response<Incoming>, FetchError> {
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(8 * ADMIN_REQUEST_BYTES)
            .handshake(TokioIo::new(stream))
            .await?;
        // Ends with the response's body, or when that is dropped.
        tokio::spawn(connection);
        let answer = timeout(self.bounds.piece, sender.send_request(request)).await;
        Ok(answer.map_err(|_| FetchError::Slow(self.bounds.piece))??)
    }

    async fn read(&self, response: Response<Incoming>) -> Result<Fetched, FetchError> {
        let validators = Validators {
            etag: response.headers().get(header::ETAG).cloned(),
            last_modified: response.headers().get(header::LAST_MODIFIED).cloned(),
        };
        if let Some(encoding) = response.headers().get(header::CONTENT_ENCODING)
            && encoding != "identity"
        {
            let named = encoding.as_bytes().escape_ascii().to_string();
            return Err(FetchError::Encoded(named));
        }
        let mut body = response.into_body();
        let mut bytes = Vec::new();
        loop {
            let piece = timeout(self.bounds.piece, body.frame()).await;
            let Some(frame) = piece.map_err(|_| FetchError::Slow(self.bounds.piece))? else {
                return Ok(Fetched::List(bytes, validators));
            };
            if let Ok(data) = frame?.into_data() {
                if (bytes.len() + data.len()) as u64 > self.bounds.bytes {
                    return Err(FetchError::TooLarge(self.bounds.bytes));
                }
                bytes.extend_from_slice(&data);
            }
        }
    }
}

fn request(uri: &Uri, known: &Validators) -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    *request.uri_mut() = target.parse().unwrap_or_default();
    let headers = request.headers_mut();
    let mut set = |name: HeaderName, value: Option<HeaderValue>| {
        value.map(|value| headers.insert(name, value));
    };
    let host = uri.authority();
    set(
        header::HOST,
        host.and_then(|host| host.as_str().parse().ok()),
    );
    set(header::USER_AGENT, Some(HeaderValue::from_static("adit")));
    set(
        header::ACCEPT,
        Some(HeaderValue::from_static("application/pkix-crl, */*")),
    );
    set(
        header::ACCEPT_ENCODING,
        Some(HeaderValue::from_static("identity")),
    );
    set(header::IF_NONE_MATCH, known.etag.clone());
    set(header::IF_MODIFIED_SINCE, known.last_modified.clone());
    request
}

/// Returns where a redirection leads: an absolute URL, or a path on the same server. Never from
/// https to http.
fn redirected(from: &str, headers: &HeaderMap) -> Option<String> {
    let to = headers.get(header::LOCATION)?.to_str().ok()?;
    let from: Uri = from.parse().ok()?;
    let url = if to.starts_with('/') && !to.starts_with("//") {
        format!("{}://{}{to}", from.scheme_str()?, from.authority()?)
    } else {
        to.to_owned()
    };
    let to: Uri = url.parse().ok()?;
    let weaker = from.scheme_str() == Some("https") && to.scheme_str() != Some("https");
    (!weaker).then_some(url)
}

/// TLS to servers whose certificates the system trusts.
fn connector() -> TlsConnector {
    static CONFIG: OnceLock<Arc<rustls::ClientConfig>> = OnceLock::new();
    let config = CONFIG.get_or_init(|| {
        let mut roots = rustls::RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            tracing::warn!(
                "the system has no trusted certificates: no CRL can be fetched by https"
            );
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has suites of both versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Arc::new(config)
    });
    TlsConnector::from(config.clone())
}

#[cfg(test)]
mod tests;
