//! The TLS configuration of a core.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{Error, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion, version};

use super::resumption::Resumption;
use super::secrets::hand_over;
use super::ticket_keys::TicketKeysError;
use super::verifier::DeviceVerifier;

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// There is nothing that a device's certificate could chain to.
    #[error("there is no group certificate; see profile.device_auth.group_certificates")]
    NoGroupCertificate,
    /// A group certificate that cannot be a trust anchor.
    #[error(
        "group certificate {position} (counted from 1) cannot be a trust anchor: {source}; \
         see profile.device_auth.group_certificates"
    )]
    GroupCertificate {
        /// Its place among the group certificates, from 1.
        position: usize,
        /// What webpki found.
        source: webpki::Error,
    },
    /// The server certificate and its key.
    #[error("the server certificate cannot be used: {0}; check that chain and key belong together")]
    ServerCertificate(Error),
    /// The versions.
    #[error("these protocol versions cannot be used: {0}; see profile.tls.inbound")]
    Versions(Error),
    /// The tickets.
    #[error("{0}")]
    Tickets(#[from] TicketKeysError),
}

/// All suites, the gateway's preference first, as BoringSSL's servers prefer them: AES-128-GCM is the cheapest where there
/// are instructions for AES, and SHA-256 costs less than half of SHA-384 in the handshake's key schedule.
const CIPHER_SUITES: [SupportedCipherSuite; 9] = [
    cipher_suite::TLS13_AES_128_GCM_SHA256,
    cipher_suite::TLS13_AES_256_GCM_SHA384,
    cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
];

/// The name of HTTP/2 in ALPN (RFC 9113, section 3.2).
pub const ALPN_HTTP2: &[u8] = b"h2";

/// What a core's TLS is made of.
pub struct ServerTls {
    /// The server certificate, then its issuers.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
    /// The check of client certificates.
    pub verifier: Arc<DeviceVerifier>,
    /// Whether TLS 1.2 is offered.
    pub tls12: bool,
    /// Whether TLS 1.3 is offered.
    pub tls13: bool,
    /// How sessions are resumed, on all cores.
    pub resumption: Arc<Resumption>,
}

/// Builds the configuration: client certificate required, ALPN `h2` and `http/1.1`.
///
/// # Errors
/// [`TlsError`].
pub fn server_config(tls: ServerTls) -> Result<ServerConfig, TlsError> {
    let mut versions: Vec<&'static SupportedProtocolVersion> = Vec::new();
    if tls.tls13 {
        versions.push(&version::TLS13);
    }
    if tls.tls12 {
        versions.push(&version::TLS12);
    }
    let provider = Arc::new(CryptoProvider {
        cipher_suites: CIPHER_SUITES.to_vec(),
        ..aws_lc_rs::default_provider()
    });
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)
        .map_err(TlsError::Versions)?
        .with_client_cert_verifier(tls.verifier)
        .with_single_cert(tls.chain, tls.key)
        .map_err(TlsError::ServerCertificate)?;
    config.ignore_client_order = true;
    config.alpn_protocols = vec![ALPN_HTTP2.to_vec(), b"http/1.1".to_vec()];
    tls.resumption.apply(&mut config);
    // The record layer takes the secrets over when the handshake is done.
    config.enable_secret_extraction = true;
    config.key_log = hand_over();
    // Without the extended master secret a resumed TLS 1.2 session can be spliced between two servers, and with it the
    // client's identity (RFC 7627, section 1). Go's clients before 1.21 have none; they have TLS 1.3.
    config.require_ems = true;
    Ok(config)
}
