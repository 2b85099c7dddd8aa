//! TLS servers behind a gateway.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "a test's helper: each file uses its part, and fails by panic"
)]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;

use adit::certs::make::Usage;
use adit::certs::{IssueRequest, Issued, Validity};
use adit::lab;
use rustls::crypto::aws_lc_rs;
use rustls::server::WebPkiClientVerifier;
use rustls::{
    RootCertStore, ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion,
};

use crate::common::{Pki, Session, server};

/// A service of one server, with these lines more; every destination in .test leads to it.
pub fn service(server: &str, more: &str) -> String {
    format!(
        "[[profile.rule]]\nhost = '*.test'\nport = '*'\nservice = 'out'\n[[profile.service]]\nname = 'out'\n\
         servers = ['{server}']\n{more}"
    )
}

/// Sends `bytes` through an open tunnel, says that nothing more comes, and expects them back and the end.
pub fn round_trip(mut session: Session, bytes: &[u8]) {
    // The server echoes all the while, so that both directions move at once.
    let mut back = vec![0; bytes.len()];
    for (out, back) in bytes.chunks(40_000).zip(back.chunks_mut(40_000)) {
        session.write_all(out).unwrap();
        session.read_exact(back).unwrap();
    }
    assert!(back == bytes, "the bytes have changed");
    session.conn.send_close_notify();
    session.flush().unwrap();
    let mut rest = Vec::new();
    session.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty());
}

pub fn noise(len: usize) -> Vec<u8> {
    (0..len as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}

/// What a TLS server of the tests has.
pub struct Tls {
    identity: Issued,
    pub versions: Vec<&'static SupportedProtocolVersion>,
    clients: Option<RootCertStore>,
}

impl Tls {
    pub fn new(identity: Issued) -> Self {
        Self {
            identity,
            versions: rustls::ALL_VERSIONS.to_vec(),
            clients: None,
        }
    }

    /// It takes only clients with a certificate of this authority.
    pub fn for_clients_of(mut self, pki: &Pki) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(pki.ca.certificate().clone()).unwrap();
        self.clients = Some(roots);
        self
    }

    pub fn config(&self) -> Arc<ServerConfig> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&self.versions)
            .unwrap();
        let builder = match &self.clients {
            None => builder.with_no_client_auth(),
            Some(roots) => builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots.clone()), provider)
                    .build()
                    .unwrap(),
            ),
        };
        let chain = self.identity.chain.clone();
        Arc::new(
            builder
                .with_single_cert(chain, self.identity.key.clone_key())
                .unwrap(),
        )
    }

    /// A server that echoes.
    pub fn echo(&self) -> SocketAddr {
        let config = self.config();
        server(move |stream| {
            let mut session = session(&config, stream);
            let mut piece = vec![0; 30_000];
            while let Ok(count @ 1..) = session.read(&mut piece) {
                if session.write_all(&piece[..count]).is_err() {
                    return;
                }
            }
            session.conn.send_close_notify();
            let _ = session.flush();
        })
    }
}

pub fn session(
    config: &Arc<ServerConfig>,
    stream: TcpStream,
) -> StreamOwned<ServerConnection, TcpStream> {
    StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream)
}

/// A certificate for a server at `name`.
pub fn certificate(pki: &Pki, name: &str, change: impl FnOnce(&mut IssueRequest)) -> Issued {
    let mut request = IssueRequest::new(Usage::Server, name, Validity::days(1).unwrap());
    match name.parse::<IpAddr>() {
        Ok(address) => request.ip = vec![address],
        Err(_) => request.dns = vec![name.to_owned()],
    }
    change(&mut request);
    lab::issue(&pki.ca, &request).unwrap()
}
