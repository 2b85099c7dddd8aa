//! Session tickets that every node with the same keys can open.
//!
//! ```text
//! ticket     key name (16) | nonce (12) | sealed: issued (8), session ... | tag (16)
//! ```
//!
//! **Scope.** What seals is never a key of the file itself but one that HKDF-SHA256 derives from it and the scope: the
//! profile's name and the set of group certificates. The key's name is derived in the same way, so
//! a ticket of another scope is not even tried.
//!
//! **Construction.** AES-256-GCM-SIV (RFC 8452) with a random nonce. With plain AES-GCM one key must not seal more than
//! 2^32 tickets with random nonces (NIST SP 800-38D, section 8.3), for all nodes together, and no
//! node knows what the others have sealed; a nonce that comes twice gives the authentication key
//! away. With GCM-SIV it tells at most that two tickets are equal, which they never are, and as
//! each nonce has keys of its own the bound is far beyond what a fleet seals in a key's life (RFC
//! 8452, section 9: 2^48 messages and more).
//!
//! **Lifetime.** A ticket holds the time of its sealing and is refused when it is older than the lifetime, or from a
//! future beyond what clocks differ by, whichever keys are still there.
//!
//! The data cores read the keys through [`Published`]: no lock and no shared count.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{hkdf, rand};
use rustls::server::ProducesTickets;

use super::scope::{Scope, now};
use super::ticket_keys::{TicketKeys, TicketKeysError};
use crate::files::Mark;
use crate::limits::{TICKET_BYTES_MAX, TICKET_CLOCK_SKEW};
use crate::table::Published;

const NAME_LEN: usize = 16;
const TIME_LEN: usize = 8;

/// Seals and opens tickets with keys that change while it runs.
pub struct Tickets {
    working: Published<Vec<WorkingKey>>,
    scope: Scope,
    lifetime: u64,
    source: Mutex<KeySource>,
}

/// Source of the keys. Only the control core and reloads look here.
enum KeySource {
    File { path: PathBuf, seen: Mark },
    Memory(TicketKeys),
}

/// Keys derived from a ticket key for a scope.
struct WorkingKey {
    from: u64,
    name: [u8; NAME_LEN],
    key: LessSafeKey,
}

impl Tickets {
    /// With the keys of `file`, or with ones that are made and changed in memory.
    ///
    /// # Errors
    /// [`TicketKeysError`].
    pub fn new(scope: Scope, lifetime: u64, file: Option<&Path>) -> Result<Self, TicketKeysError> {
        let (keys, source) = match file {
            Some(path) => {
                // Before the reading: what changes in between is read again.
                let (path, seen) = (path.to_path_buf(), Mark::of(path));
                (TicketKeys::read(&path)?, KeySource::File { path, seen })
            }
            None => {
                let keys = TicketKeys::generate(now())?;
                (keys.clone(), KeySource::Memory(keys))
            }
        };
        Ok(Self {
            working: Published::new(working(&keys, &scope)?),
            scope,
            lifetime,
            source: Mutex::new(source),
        })
    }

    /// Returns whether tickets of `other` are tickets of this: the same scope, lifetime and source.
    pub fn continues(&self, other: &Self) -> bool {
        let path = |tickets: &Self| match &*tickets.lock() {
            KeySource::File { path, .. } => Some(path.clone()),
            KeySource::Memory(_) => None,
        };
        self.scope == other.scope && self.lifetime == other.lifetime && path(self) == path(other)
    }

    /// Changes the keys if it is time: the file is another one, or those in memory are old. Whether
    /// they changed. An error is told once for each state of the file, and the keys stay. Reads a
    /// file: not for a data core.
    ///
    /// # Errors
    /// [`TicketKeysError`].
    pub fn refresh(&self) -> Result<bool, TicketKeysError> {
        let mut source = self.lock();
        let keys = match &mut *source {
            KeySource::File { path, seen } => {
                let now = Mark::of(path);
                if *seen == now {
                    return Ok(false);
                }
                *seen = now;
                TicketKeys::read(path)?
            }
            KeySource::Memory(keys) => {
                let newest = keys.keys().last().map_or(0, |key| key.from);
                let now = now();
                // A key seals for half a lifetime and opens for one more, so that it ends soon after its tickets.
                if now < newest.saturating_add((self.lifetime / 2).max(1)) {
                    return Ok(false);
                }
                *keys = keys.rotated(now, now, self.lifetime)?;
                keys.clone()
            }
        };
        self.working.publish(working(&keys, &self.scope)?);
        Ok(true)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, KeySource> {
        self.source.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` where it would be larger than a client could send back, for the chain of certificates
    /// that it holds: that client gets none.
    pub(super) fn seal(&self, session: &[u8], now: u64) -> Option<Vec<u8>> {
        let start = NAME_LEN + NONCE_LEN;
        let length = start + TIME_LEN + session.len() + AES_256_GCM_SIV.tag_len();
        if length > TICKET_BYTES_MAX {
            return None;
        }
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        let mut ticket = Vec::with_capacity(length);
        self.working.read(|keys| {
            // The newest that has begun; the first where none has, since a client needs some ticket.
            let begun = keys.iter().rev().find(|key| key.from <= now);
            let key = begun.or(keys.first())?;
            ticket.extend_from_slice(&key.name);
            ticket.extend_from_slice(&nonce);
            ticket.extend_from_slice(&now.to_be_bytes());
            ticket.extend_from_slice(session);
            let nonce = Nonce::assume_unique_for_key(nonce);
            let tag = key
                .key
                .seal_in_place_separate_tag(nonce, Aad::from(key.name), &mut ticket[start..])
                .ok()?;
            ticket.extend_from_slice(tag.as_ref());
            Some(ticket)
        })
    }

    pub(super) fn open(&self, ticket: &[u8], now: u64) -> Option<Vec<u8>> {
        self.open_with_time(ticket, now).map(|(_, session)| session)
    }

    /// When it was sealed, and what is in it.
    pub(super) fn open_with_time(&self, ticket: &[u8], now: u64) -> Option<(u64, Vec<u8>)> {
        let (name, rest) = ticket.split_at_checked(NAME_LEN)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut plain = self.working.read(|keys| {
            let key = keys.iter().find(|key| key.name == name)?;
            let mut plain = sealed.to_vec();
            let length = key
                .key
                .open_in_place(nonce, Aad::from(key.name), &mut plain)
                .ok()?
                .len();
            plain.truncate(length);
            Some(plain)
        })?;
        let issued = u64::from_be_bytes(*plain.first_chunk()?);
        let ended = now.saturating_sub(issued) >= self.lifetime;
        let future = issued.saturating_sub(now) > TICKET_CLOCK_SKEW;
        plain.drain(..TIME_LEN);
        (!ended && !future).then_some((issued, plain))
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(self.lifetime).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, now())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.open(cipher, now())
    }
}

impl std::fmt::Debug for Tickets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tickets")
            .field("lifetime", &self.lifetime)
            .finish_non_exhaustive()
    }
}

fn working(keys: &TicketKeys, scope: &Scope) -> Result<Vec<WorkingKey>, TicketKeysError> {
    let derive = |from, secret: &[u8]| {
        let derived = hkdf::Salt::new(hkdf::HKDF_SHA256, &scope.0).extract(secret);
        let mut name = [0; NAME_LEN];
        derived
            .expand(&[b"adit ticket key name 1"], NameLength)?
            .fill(&mut name)?;
        let key: UnboundKey = derived
            .expand(&[b"adit ticket key 1"], &AES_256_GCM_SIV)?
            .into();
        Ok(WorkingKey {
            from,
            name,
            key: LessSafeKey::new(key),
        })
    };
    keys.keys()
        .iter()
        .map(|key| derive(key.from, &key.secret[..]))
        .collect::<Result<_, aws_lc_rs::error::Unspecified>>()
        .map_err(|_| TicketKeysError::Random)
}

struct NameLength;

impl hkdf::KeyType for NameLength {
    fn len(&self) -> usize {
        NAME_LEN
    }
}
