//! Scope in which a session may be resumed, and for how long.

use std::time::SystemTime;

use aws_lc_rs::digest::{self, SHA256};
use rustls::pki_types::CertificateDer;

/// Scope in which a session may be resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope(pub(super) [u8; 32]);

impl Scope {
    /// The scope of a profile with these group certificates, in whatever order.
    #[must_use]
    pub fn new(profile: &str, group: &[CertificateDer<'_>]) -> Self {
        let mut hashes: Vec<_> = group
            .iter()
            .map(|certificate| digest::digest(&SHA256, certificate))
            .collect();
        hashes.sort_by(|a, b| a.as_ref().cmp(b.as_ref()));
        hashes.dedup_by(|a, b| a.as_ref() == b.as_ref());
        let mut whole = digest::Context::new(&SHA256);
        whole.update(b"adit scope 1");
        whole.update(&(profile.len() as u64).to_be_bytes());
        whole.update(profile.as_bytes());
        hashes.iter().for_each(|hash| whole.update(hash.as_ref()));
        let mut scope = [0; 32];
        scope.copy_from_slice(whole.finish().as_ref());
        Self(scope)
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
