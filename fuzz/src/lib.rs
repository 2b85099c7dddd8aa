//! What the fuzz targets share: a file that readers of files are given, a small PKI, and two ends of a TLS session.

use std::io::{Seek, Write};
use std::path::Path;
use std::sync::{Arc, LazyLock};

use adit::certs::make::Usage;
use adit::certs::{IssueRequest, Issued, KeyType, Validity};
use adit::lab::{self, CertificateAuthority, MakeCa};
use adit::tls::{Handshake, hand_over};
use rustls::client::UnbufferedClientConnection;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::ServerName;
use rustls::server::{UnbufferedServerConnection, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedCipherSuite};

mod wire;

pub use wire::{Sealed, Wire};

/// A file whose content is replaced for each input.
pub struct Scratch(tempfile::NamedTempFile);

impl Scratch {
    /// An empty file, in memory where the system has such a place.
    pub fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let file = if memory.is_dir() {
            tempfile::NamedTempFile::new_in(memory)
        } else {
            tempfile::NamedTempFile::new()
        };
        Self(file.expect("a temporary file can be made"))
    }

    /// The file with this content.
    pub fn with(&mut self, content: &[u8]) -> &Path {
        let file = self.0.as_file_mut();
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(content))
            .expect("a temporary file can be written");
        self.0.path()
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

/// A certification authority, made once a run.
pub static CA: LazyLock<CertificateAuthority> = LazyLock::new(|| {
    lab::make_ca(&MakeCa {
        common_name: "fuzz".into(),
        // Longer than what it issues a moment later.
        days: 60,
        key_type: KeyType::P256,
    })
    .expect("a CA can be made")
});

static SERVER: LazyLock<Issued> = LazyLock::new(|| issued(Usage::Server));
static CLIENT: LazyLock<Issued> = LazyLock::new(|| issued(Usage::Client));

fn issued(usage: Usage) -> Issued {
    let validity = Validity::days(30).expect("30 days are allowed");
    let mut request = IssueRequest::new(usage, "server", validity);
    request.dns = vec!["server.test".into()];
    lab::issue(&CA, &request).expect("a certificate can be issued")
}

/// The cipher suites whose records are laid out differently: TLS 1.3, TLS 1.2 with GCM, TLS 1.2 with ChaCha20.
const SUITES: [SupportedCipherSuite; 4] = [
    aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
    aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    aws_lc_rs::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    aws_lc_rs::cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
];

struct Configs {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

static CONFIGS: LazyLock<Vec<Configs>> = LazyLock::new(|| {
    SUITES
        .into_iter()
        .map(|suite| configs(suite).expect("the suite and its version go together"))
        .collect()
});

fn configs(suite: SupportedCipherSuite) -> Result<Configs, rustls::Error> {
    let provider = Arc::new(CryptoProvider {
        cipher_suites: vec![suite],
        ..aws_lc_rs::default_provider()
    });
    let versions = [suite.version()];
    let mut roots = RootCertStore::empty();
    roots.add(CA.certificate().clone())?;
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots.clone().into(), provider.clone())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&versions)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(SERVER.chain.clone(), SERVER.key.clone_key())?;
    server.enable_secret_extraction = true;
    server.key_log = hand_over();
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)?
        .with_root_certificates(roots)
        .with_client_auth_cert(CLIENT.chain.clone(), CLIENT.key.clone_key())?;
    client.enable_secret_extraction = true;
    client.key_log = hand_over();
    Ok(Configs {
        server: server.into(),
        client: client.into(),
    })
}

/// The server's end of a new connection, on suite number `suite`.
pub fn server(suite: u8) -> Handshake<UnbufferedServerConnection> {
    let config = CONFIGS[usize::from(suite) % CONFIGS.len()].server.clone();
    Handshake::new(UnbufferedServerConnection::new(config).expect("the configuration is sound"))
}

/// The client's end, its hello queued.
pub fn client(suite: u8) -> Handshake<UnbufferedClientConnection> {
    let config = CONFIGS[usize::from(suite) % CONFIGS.len()].client.clone();
    let name = ServerName::try_from("server.test").expect("a DNS name");
    let connection =
        UnbufferedClientConnection::new(config, name).expect("the configuration is sound");
    let mut handshake = Handshake::new(connection);
    handshake.begin().expect("a hello can be written");
    handshake
}

/// Both ends of a new connection, the client's hello queued, with records of a length that `fragment` chooses.
pub fn ends(
    suite: u8,
    fragment: u8,
) -> (
    Handshake<UnbufferedClientConnection>,
    Handshake<UnbufferedServerConnection>,
) {
    let configs = &CONFIGS[usize::from(suite) % CONFIGS.len()];
    let length = (fragment > 0).then(|| 32 + 8 * usize::from(fragment));
    let mut config = ServerConfig::clone(&configs.server);
    config.max_fragment_size = length;
    let server =
        UnbufferedServerConnection::new(config.into()).expect("the configuration is sound");
    let mut config = ClientConfig::clone(&configs.client);
    config.max_fragment_size = length;
    let name = ServerName::try_from("server.test").expect("a DNS name");
    let client =
        UnbufferedClientConnection::new(config.into(), name).expect("the configuration is sound");
    let mut client = Handshake::new(client);
    client.begin().expect("a hello can be written");
    (client, Handshake::new(server))
}

/// Two ends whose handshake is done, the client's with what it was sent behind it: session tickets.
pub fn session(suite: u8) -> (Wire, Handshake<UnbufferedServerConnection>) {
    let (mut client, mut server) = (client(suite), server(suite));
    let (mut to_client, mut to_server) = (Vec::new(), Vec::new());
    let (mut client_done, mut server_done) = (false, false);
    while !(client_done && server_done) {
        to_server.extend(client.take_outgoing());
        let (used, done) = server.read(&mut to_server).expect("an honest client");
        to_server.drain(..used);
        server_done |= done;
        to_client.extend(server.take_outgoing());
        // Tickets come behind the client's handshake: they are left where they are.
        if !client_done {
            let (used, done) = client.read(&mut to_client).expect("an honest server");
            to_client.drain(..used);
            client_done = done;
        }
    }
    let (connection, ..) = client.into_parts();
    (Wire::new(connection, &to_client), server)
}
