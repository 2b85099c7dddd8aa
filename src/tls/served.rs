//! Which server certificate a client is shown: by the clock, by what it can verify, and by the name
//! that it asks for.
//!
//! The choice is made in the handshake, of what is there: it waits for nothing, allocates nothing,
//! and needs no task that would have to run at the right second. A profile with one certificate has
//! no choice to make.

use std::iter::once;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert, ResolvesServerCertUsingSni};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use rustls::{Error, SignatureAlgorithm, SignatureScheme};

use super::notes;
use crate::certs::chain::sent;
use crate::certs::term::{covers, current, dns_names};
use crate::certs::{Identity, Term};

/// The server certificates of a profile: chains in order, each with its key.
#[derive(Debug)]
pub struct ServerCertificates {
    /// Served one after the other in time, as [`current`] says. Where there is none, no handshake
    /// comes to its end.
    pub line: Vec<Identity>,
    /// For clients that want another key type or name.
    pub additional: Vec<Identity>,
}

impl From<Identity> for ServerCertificates {
    fn from(only: Identity) -> Self {
        Self {
            line: vec![only],
            additional: Vec::new(),
        }
    }
}

impl ServerCertificates {
    /// Makes the resolver that rustls asks in each handshake. Its keys belong to it alone, so that
    /// cores share no count.
    ///
    /// # Errors
    /// rustls's, where a chain and its key do not belong together.
    pub(super) fn resolver(
        &self,
        provider: &CryptoProvider,
        clock: Arc<dyn TimeProvider>,
    ) -> Result<Arc<dyn ResolvesServerCert>, Error> {
        let entries = |identities: &[Identity]| -> Result<Vec<Candidate>, Error> {
            let entries = identities.iter();
            entries.map(|one| Candidate::new(one, provider)).collect()
        };
        if self.line.is_empty() {
            return Ok(Arc::new(Noting(ResolvesServerCertUsingSni::new())));
        }
        let mut line = entries(&self.line)?;
        let additional = entries(&self.additional)?;
        if line.len() == 1 && additional.is_empty() {
            return Ok(Arc::new(Noting(SingleCertAndKey::from(line.remove(0).key))));
        }
        Ok(Arc::new(Noting(Served {
            line,
            additional,
            clock,
        })))
    }
}

/// Notes the name that each hello asks for.
#[derive(Debug)]
struct Noting<R>(R);

impl<R: ResolvesServerCert> ResolvesServerCert for Noting<R> {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if let Some(name) = hello.server_name() {
            notes::server_name(name);
        }
        self.0.resolve(hello)
    }
}

/// A certificate, and what decides whether it is shown.
#[derive(Debug)]
struct Candidate {
    key: Arc<CertifiedKey>,
    term: Term,
    /// In order.
    names: Vec<String>,
    /// Signature schemes of its key.
    schemes: Vec<SignatureScheme>,
    is_rsa: bool,
}

impl Candidate {
    fn new((chain, key): &Identity, provider: &CryptoProvider) -> Result<Self, Error> {
        let key = CertifiedKey::from_der(sent(chain), key.clone_key(), provider)?;
        let known = [
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ECDSA_NISTP384_SHA384,
            SignatureScheme::ECDSA_NISTP521_SHA512,
            SignatureScheme::ED25519,
            SignatureScheme::RSA_PSS_SHA256,
            SignatureScheme::RSA_PSS_SHA384,
            SignatureScheme::RSA_PSS_SHA512,
            SignatureScheme::RSA_PKCS1_SHA256,
            SignatureScheme::RSA_PKCS1_SHA384,
            SignatureScheme::RSA_PKCS1_SHA512,
        ];
        let signs = |scheme: &SignatureScheme| key.key.choose_scheme(&[*scheme]).is_some();
        Ok(Self {
            term: Term::of(chain),
            names: chain.first().map_or(Vec::new(), dns_names),
            schemes: known.into_iter().filter(signs).collect(),
            is_rsa: key.key.algorithm() == SignatureAlgorithm::RSA,
            key: Arc::new(key),
        })
    }

    fn covers(&self, name: &str) -> bool {
        self.names.iter().any(|pattern| covers(pattern, name))
    }

    fn signs_one_of(&self, schemes: &[SignatureScheme]) -> bool {
        self.schemes.iter().any(|scheme| schemes.contains(scheme))
    }
}

/// Chooses among several.
#[derive(Debug)]
struct Served {
    line: Vec<Candidate>,
    additional: Vec<Candidate>,
    clock: Arc<dyn TimeProvider>,
}

impl Served {
    /// The best for a client that asks for `name` and can verify `schemes`. In this order: it can
    /// verify it at all; it is for that name, or, where none is or no name was asked for, for the
    /// same names as the one in the line; it can be used now; it is not RSA, with which signing
    /// costs the gateway the most; it comes first.
    fn choose(&self, now: u64, name: Option<&str>, schemes: &[SignatureScheme]) -> &Candidate {
        let in_turn = &self.line[current(self.line.iter().map(|entry| entry.term), now)];
        if self.additional.is_empty() {
            return in_turn;
        }
        let all = || once(in_turn).chain(&self.additional);
        let name = name.filter(|name| all().any(|entry| entry.covers(name)));
        let best = all().min_by_key(|entry| {
            let is_named = match name {
                Some(name) => entry.covers(name),
                None => entry.names == in_turn.names,
            };
            (
                !entry.signs_one_of(schemes),
                !is_named,
                !entry.term.contains(now),
                entry.is_rsa,
            )
        });
        best.unwrap_or(in_turn)
    }
}

impl ResolvesServerCert for Served {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // Without a clock every certificate seems to begin later, and the one that ends last is shown.
        let now = self.clock.current_time().map_or(0, |now| now.as_secs());
        let entry = self.choose(now, hello.server_name(), hello.signature_schemes());
        Some(entry.key.clone())
    }
}

#[cfg(test)]
mod tests;
