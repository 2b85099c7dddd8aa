//! Certificates and keys as PEM text (RFC 7468).

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// A certificate chain as PEM text.
pub fn to_pem(chain: &[CertificateDer<'_>]) -> String {
    chain
        .iter()
        .map(|certificate| pem_block("CERTIFICATE", certificate.as_ref()))
        .collect()
}

/// A private key as PEM text, with the label of its form.
pub(crate) fn key_to_pem(key: &PrivateKeyDer<'_>) -> String {
    let label = match key {
        PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
        PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
        _ => "PRIVATE KEY",
    };
    pem_block(label, key.secret_der())
}

/// One block of PEM text (RFC 7468).
#[must_use]
pub fn pem_block(label: &str, der: &[u8]) -> String {
    /// Octets to a line of 64 letters, as RFC 7468 says.
    const LINE: usize = 48;
    let lines = der
        .chunks(LINE)
        .map(|octets| BASE64_STANDARD.encode(octets) + "\n");
    let text: String = lines.collect();
    format!("-----BEGIN {label}-----\n{text}-----END {label}-----\n")
}
