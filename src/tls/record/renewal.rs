//! The keys that follow a direction's first ones in TLS 1.3 (RFC 8446, sections 7.1 to 7.3).

use rustls::Tls13CipherSuite;
use rustls::crypto::tls13::{HkdfExpander, OkmBlock};
use zeroize::Zeroizing;

use super::fault::Fault;

/// Bytes of the longest hash of a suite, SHA-384, and so of the longest secret.
const SECRET_MAX: usize = 48;

/// One direction's traffic secret. rustls's own block for it is longer by half.
pub(super) struct Renewal {
    suite: &'static Tls13CipherSuite,
    /// As many bytes as the suite's hash has.
    secret: Zeroizing<[u8; SECRET_MAX]>,
}

impl Renewal {
    /// # Errors
    /// [`Fault::Internal`] for a secret that is longer than any hash.
    pub fn new(suite: &'static Tls13CipherSuite, secret: &OkmBlock) -> Result<Self, Fault> {
        let mut own = Zeroizing::new([0; SECRET_MAX]);
        let secret = secret.as_ref();
        own.get_mut(..secret.len())
            .ok_or(Fault::Internal)?
            .copy_from_slice(secret);
        Ok(Self { suite, secret: own })
    }

    /// Makes the next secret the current one, and fills in its key and nonce.
    ///
    /// # Errors
    /// [`Fault::Internal`], if the hash cannot give so many bytes.
    pub fn next(&mut self, key: &mut [u8], iv: &mut [u8]) -> Result<(), Fault> {
        let mut next = Zeroizing::new([0; SECRET_MAX]);
        let next_secret = next.get_mut(..self.hash_len()).ok_or(Fault::Internal)?;
        expand_label(&*self.expander()?, b"traffic upd", next_secret)?;
        self.secret = next;
        let expander = self.expander()?;
        expand_label(&*expander, b"key", key)?;
        expand_label(&*expander, b"iv", iv)
    }

    fn hash_len(&self) -> usize {
        self.suite.common.hash_provider.output_len()
    }

    fn expander(&self) -> Result<Box<dyn HkdfExpander>, Fault> {
        let secret = self.secret.get(..self.hash_len()).ok_or(Fault::Internal)?;
        let block = OkmBlock::new(secret);
        Ok(self.suite.hkdf_provider.expander_for_okm(&block))
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
