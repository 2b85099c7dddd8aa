//! How sessions are resumed: by tickets, or out of the table that all cores share.
//!
//! A resumed session skips the client's certificate, so what it was granted under must still hold: its *scope*, the
//! profile's name and the set of group certificates, is part of each ticket's key and of each key in the table. The rest
//! (validity, revocation, the device's state, the rules) is asked again at each session, and is no part of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use aws_lc_rs::digest::{self, SHA256};
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::server::{NoServerSessionStorage, StoresServerSessions};

use super::ticket_keys::TicketKeysError;
use super::tickets::Tickets;
use crate::config;
use crate::table::SessionCache;

/// What a session may be resumed under.
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

/// What the cores of a node resume sessions with.
#[derive(Debug)]
pub struct Resumption {
    scope: Scope,
    cache: Option<Arc<SessionCache>>,
    tickets: Option<Arc<Tickets>>,
    /// When the table was last searched for what has expired, in seconds since 1970.
    purged: AtomicU64,
}

impl Resumption {
    /// As `config` says, with new keys or those of its file, and an empty table.
    ///
    /// # Errors
    /// [`TicketKeysError`].
    pub fn new(config: &config::Resumption, scope: Scope) -> Result<Self, TicketKeysError> {
        let lifetime = config.lifetime.as_secs().max(1);
        let tickets = match config.by {
            config::ResumptionKind::Tickets => Some(Arc::new(Tickets::new(
                scope,
                lifetime,
                config.ticket_keys.as_deref(),
            )?)),
            config::ResumptionKind::Cache | config::ResumptionKind::Off => None,
        };
        let cached = config.by != config::ResumptionKind::Off && config.cache_bytes > 0;
        Ok(Self {
            scope,
            cache: cached.then(|| Arc::new(SessionCache::new(config.cache_bytes, lifetime))),
            tickets,
            purged: AtomicU64::new(now()),
        })
    }

    /// The same, but with what `previous` has where it fits, so that a reload ends no session that is still in scope. The
    /// table is kept in any scope: what is in it is found in its own scope only, and ages out.
    ///
    /// # Errors
    /// [`TicketKeysError`], when the file has changed again in this moment.
    pub fn continuing(&self, previous: &Self) -> Result<Self, TicketKeysError> {
        let (mut cache, mut tickets) = (self.cache.clone(), self.tickets.clone());
        if let (Some(mine), Some(old)) = (&cache, &previous.cache)
            && (mine.bytes(), mine.lifetime()) == (old.bytes(), old.lifetime())
        {
            cache = Some(old.clone());
        }
        if let (Some(mine), Some(old)) = (&tickets, &previous.tickets)
            && mine.continues(old)
        {
            old.refresh()?;
            tickets = Some(old.clone());
        }
        Ok(Self {
            scope: self.scope,
            cache,
            tickets,
            purged: AtomicU64::new(previous.purged.load(Ordering::Relaxed)),
        })
    }

    /// Changes the ticket keys if it is time, and erases sessions that have expired. Not for a data core.
    ///
    /// # Errors
    /// [`TicketKeysError`]; the keys stay. Told once for each state of the file.
    pub fn refresh(&self) -> Result<bool, TicketKeysError> {
        if let Some(cache) = &self.cache {
            // Expired sessions are never resumed; this is for their secrets, which would lie there until they are overwritten.
            let (now, last) = (now(), self.purged.load(Ordering::Relaxed));
            if now >= last.saturating_add((cache.lifetime() / 8).max(1)) {
                self.purged.store(now, Ordering::Relaxed);
                cache.purge(now);
            }
        }
        self.tickets
            .as_ref()
            .map_or(Ok(false), |tickets| tickets.refresh())
    }

    pub(super) fn apply(&self, config: &mut ServerConfig) {
        // One ticket is one sealing a handshake; a client that opens several sessions at once gets one with each.
        config.send_tls13_tickets = 1;
        if let Some(tickets) = self.tickets() {
            config.ticketer = tickets.clone();
        }
        config.session_storage = self.sessions();
    }

    /// The tickets, if there are any.
    pub(super) fn tickets(&self) -> Option<&Arc<Tickets>> {
        self.tickets.as_ref()
    }

    /// The table, as rustls wants it.
    pub(super) fn sessions(&self) -> Arc<dyn StoresServerSessions> {
        match &self.cache {
            Some(cache) => Arc::new(Sessions {
                cache: cache.clone(),
                scope: self.scope,
            }),
            None => Arc::new(NoServerSessionStorage {}),
        }
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// The table as rustls asks it, in one scope.
#[derive(Debug)]
struct Sessions {
    cache: Arc<SessionCache>,
    scope: Scope,
}

impl Sessions {
    /// A session id of TLS 1.2, or what rustls makes for one of TLS 1.3, is at most this long.
    const ID_MAX: usize = 32;

    /// Calls `f` with the key of a session; not for an id that no session can have.
    fn with_key<R>(&self, id: &[u8], f: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let mut key = [0; 32 + Self::ID_MAX];
        let length = 32 + id.len();
        key[..32].copy_from_slice(&self.scope.0);
        key.get_mut(32..length)?.copy_from_slice(id);
        Some(f(&key[..length]))
    }
}

impl StoresServerSessions for Sessions {
    fn put(&self, id: Vec<u8>, session: Vec<u8>) -> bool {
        self.with_key(&id, |key| self.cache.put(key, &session, now()))
            .unwrap_or(false)
    }

    fn get(&self, id: &[u8]) -> Option<Vec<u8>> {
        self.with_key(id, |key| self.cache.get(key, now()))
            .flatten()
    }

    fn take(&self, id: &[u8]) -> Option<Vec<u8>> {
        self.with_key(id, |key| self.cache.take(key, now()))
            .flatten()
    }

    fn can_cache(&self) -> bool {
        true
    }
}
