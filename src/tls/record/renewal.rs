//! The keys that follow a direction's first ones in TLS 1.3 (RFC 8446, sections 7.1 to 7.3).

use rustls::Tls13CipherSuite;
use rustls::crypto::tls13::{HkdfExpander, OkmBlock};

use super::fault::Fault;

/// Bytes of the longest hash of a suite, SHA-384, and so of the longest secret.
const SECRET_MAX: usize = 48;

/// One direction's traffic secret.
pub(super) struct Renewal {
    suite: &'static Tls13CipherSuite,
    secret: OkmBlock,
}

impl Renewal {
    pub fn new(suite: &'static Tls13CipherSuite, secret: OkmBlock) -> Self {
        Self { suite, secret }
    }

    /// Makes the next secret the current one, and fills in its key and nonce.
    ///
    /// # Errors
    /// [`Fault::Internal`], if the hash cannot give so many bytes.
    pub fn next(&mut self, key: &mut [u8], iv: &mut [u8]) -> Result<(), Fault> {
        let mut secret = [0; SECRET_MAX];
        let expander = self.suite.hkdf_provider.expander_for_okm(&self.secret);
        let secret = secret
            .get_mut(..expander.hash_len())
            .ok_or(Fault::Internal)?;
        expand_label(&*expander, b"traffic upd", secret)?;
        self.secret = OkmBlock::new(secret);
        secret.fill(0);
        let expander = self.suite.hkdf_provider.expander_for_okm(&self.secret);
        expand_label(&*expander, b"key", key)?;
        expand_label(&*expander, b"iv", iv)
    }
}

/// HKDF-Expand-Label with an empty context (RFC 8446, section 7.1).
fn expand_label(expander: &dyn HkdfExpander, label: &[u8], output: &mut [u8]) -> Result<(), Fault> {
    const PREFIX: &[u8] = b"tls13 ";
    let length = (output.len() as u16).to_be_bytes();
    let label_length = [(PREFIX.len() + label.len()) as u8];
    let info = [&length[..], &label_length, PREFIX, label, &[0]];
    expander
        .expand_slice(&info, output)
        .map_err(|_| Fault::Internal)
}
