//! The TLS configuration of a core.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::{self, cipher_suite};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::time_provider::TimeProvider;
use rustls::{ServerConfig, SupportedCipherSuite, SupportedProtocolVersion, version};

use super::error::TlsError;
use super::resumption::Resumption;
use super::secrets::hand_over;
use super::served::ServerCertificates;
use super::signatures::remembering;
use super::verifier::DeviceVerifier;
use crate::config::{KEY_EXCHANGE, TlsChoice};

/// All suites, the gateway's preference first, as BoringSSL's servers prefer them: AES-128-GCM is
/// the cheapest where there are instructions for AES, and SHA-256 costs less than half of SHA-384
/// in the handshake's key schedule.
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

/// Parts of a core's TLS.
pub struct ServerTls {
    /// The server certificates.
    pub certificates: Arc<ServerCertificates>,
    /// Clock that decides which of them is served, and everything else with a time.
    pub clock: Arc<dyn TimeProvider>,
    /// The check of client certificates.
    pub verifier: Arc<DeviceVerifier>,
    /// Versions, suites and groups that are offered.
    pub choice: TlsChoice,
    /// How sessions are resumed, on all cores.
    pub resumption: Arc<Resumption>,
}

/// The groups of [`KEY_EXCHANGE`], by their names.
fn kx_groups(names: &[&str]) -> Vec<&'static dyn SupportedKxGroup> {
    let of_name = |name: &str| {
        let mut all = aws_lc_rs::ALL_KX_GROUPS.iter().copied();
        all.find(|group| format!("{:?}", group.name()) == name)
    };
    names.iter().filter_map(|name| of_name(name)).collect()
}

/// aws-lc-rs with the cipher suites and key-exchange groups of a choice, or with the defaults where
/// it names none.
pub(super) fn provider(choice: &TlsChoice) -> CryptoProvider {
    let is_chosen = |suite: &SupportedCipherSuite| {
        // rustls calls TLS 1.3's suites TLS13_...
        let name = format!("{:?}", suite.suite()).replacen("TLS13_", "TLS_", 1);
        choice.suites.is_empty() || choice.suites.contains(&&*name)
    };
    let defaults = || {
        let defaults = KEY_EXCHANGE.iter().filter(|group| group.default);
        defaults.map(|group| group.name).collect()
    };
    let groups: Vec<&str> = match choice.groups.is_empty() {
        true => defaults(),
        false => choice.groups.clone(),
    };
    CryptoProvider {
        cipher_suites: CIPHER_SUITES.into_iter().filter(is_chosen).collect(),
        kx_groups: kx_groups(&groups),
        signature_verification_algorithms: remembering(),
        ..aws_lc_rs::default_provider()
    }
}

/// The versions of a choice.
pub(super) fn versions(choice: &TlsChoice) -> Vec<&'static SupportedProtocolVersion> {
    let known = [
        (choice.tls13, &version::TLS13),
        (choice.tls12, &version::TLS12),
    ];
    let chosen = known.into_iter().filter(|(chosen, _)| *chosen);
    chosen.map(|(_, version)| version).collect()
}

/// Builds the configuration: client certificate required, ALPN `h2` and `http/1.1`.
///
/// # Errors
/// [`TlsError`].
pub fn server_config(tls: ServerTls) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(provider(&tls.choice));
    let certificates = tls
        .certificates
        .resolver(&provider, tls.clock.clone())
        .map_err(TlsError::ServerCertificate)?;
    let mut config = ServerConfig::builder_with_details(provider, tls.clock)
        .with_protocol_versions(&versions(&tls.choice))
        .map_err(|error| TlsError::Versions("inbound", error))?
        .with_client_cert_verifier(tls.verifier)
        .with_cert_resolver(certificates);
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

/// Of sessions whose name (SNI) makes them a tunnel: as `general`, but with a certificate of their
/// own where they have one, and the protocols (ALPN) of the service. Without any, what a client
/// offers is left unanswered.
///
/// Sessions are resumed by the same means as those of `general`, and none under another name:
/// rustls keeps the name with the session and compares it (RFC 6066, section 3).
///
/// # Errors
/// [`TlsError::ServerCertificate`].
pub fn named_config(
    general: &ServerConfig,
    certificate: Option<&ServerCertificates>,
    protocols: &[String],
) -> Result<ServerConfig, TlsError> {
    let mut config = general.clone();
    if let Some(certificate) = certificate {
        config.cert_resolver = certificate
            .resolver(config.crypto_provider(), config.time_provider.clone())
            .map_err(TlsError::ServerCertificate)?;
    }
    config.alpn_protocols = protocols
        .iter()
        .map(|name| name.clone().into_bytes())
        .collect();
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_suite_that_a_config_may_name_is_found_by_its_name() {
        let choice = |name| TlsChoice {
            suites: vec![name],
            ..TlsChoice::default()
        };
        for (name, tls13) in crate::config::CIPHER_SUITES {
            let chosen = provider(&choice(name)).cipher_suites;
            assert_eq!(chosen.len(), 1, "{name}");
            assert_eq!(chosen[0].tls13().is_some(), tls13, "{name}");
        }
        let all = provider(&TlsChoice::default()).cipher_suites;
        assert_eq!(all.len(), CIPHER_SUITES.len());
    }

    #[test]
    fn each_group_that_a_config_may_name_is_found_and_the_defaults_are_those_of_rustls() {
        for known in KEY_EXCHANGE {
            let choice = TlsChoice {
                groups: vec![known.name],
                ..TlsChoice::default()
            };
            let groups = provider(&choice).kx_groups;
            assert_eq!(groups.len(), 1, "{}", known.name);
            let tls12 = groups[0].usable_for_version(rustls::ProtocolVersion::TLSv1_2);
            assert_eq!(tls12, known.tls12, "{}", known.name);
        }
        let names = |groups: &[&'static dyn SupportedKxGroup]| -> Vec<_> {
            groups.iter().map(|group| group.name()).collect()
        };
        let defaults = provider(&TlsChoice::default()).kx_groups;
        assert_eq!(names(&defaults), names(aws_lc_rs::DEFAULT_KX_GROUPS));
        assert_eq!(aws_lc_rs::ALL_KX_GROUPS.len(), KEY_EXCHANGE.len());
    }
}
