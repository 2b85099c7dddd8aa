//! How sessions are resumed: by tickets, or out of the table that all cores share.
//!
//! A resumed session skips the client's certificate, so what it was granted under must still hold:
//! its *scope*, the profile's name and the set of group certificates, is part of each ticket's key
//! and of each key in the table. The rest (validity, revocation, the device's state, the rules) is
//! asked again at each session, and is no part of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, ProducesTickets, StoresServerSessions};

use super::scope::{Scope, now};
use super::ticket_keys::TicketKeysError;
use super::tickets::Tickets;
use crate::config;
use crate::limits::CERTIFICATE_ENDS_MAX;
use crate::table::SessionCache;

/// When server certificates end, in order.
///
/// A session is not resumed once a certificate has ended that was served when it began. A resumed
/// session shows none, so it would live on under the old one, in new tickets for ever; and a client
/// that looks at the certificate again when it resumes would refuse the session, though a valid one
/// is here (RFC 8446, section 4.6.1: the lifetime of the peer's certificate is to bound how long
/// its sessions are resumed).
#[derive(Clone, Debug, Default)]
pub(super) struct CertificateEnds(Arc<[u64]>);

impl CertificateEnds {
    pub(super) fn new(mut moments: Vec<u64>) -> Self {
        moments.sort_unstable();
        moments.dedup();
        moments.truncate(CERTIFICATE_ENDS_MAX);
        Self(moments.into())
    }

    /// Returns whether a session that began at `begun` may be resumed at `now`.
    pub(super) fn allow(&self, begun: u64, now: u64) -> bool {
        let ended = self.0.partition_point(|end| *end <= now);
        ended == 0 || begun >= self.0[ended - 1]
    }
}

/// The table, made when it is used first: a reload that continues with the earlier one must not
/// fill as much memory for one that it throws away.
#[derive(Debug)]
struct Cache {
    bytes: usize,
    lifetime: u64,
    table: OnceLock<Arc<SessionCache>>,
}

impl Cache {
    fn new(bytes: usize, lifetime: u64) -> Self {
        Self {
            bytes,
            lifetime,
            table: OnceLock::new(),
        }
    }

    fn table(&self) -> Arc<SessionCache> {
        let make = || Arc::new(SessionCache::new(self.bytes, self.lifetime));
        self.table.get_or_init(make).clone()
    }
}

/// Means of session resumption, shared by the cores of a node.
#[derive(Debug)]
pub struct Resumption {
    scope: Scope,
    ends: CertificateEnds,
    cache: Option<Arc<Cache>>,
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
            ends: CertificateEnds::default(),
            cache: cached.then(|| Arc::new(Cache::new(config.cache_bytes, lifetime))),
            tickets,
            purged: AtomicU64::new(now()),
        })
    }

    /// The same, for certificates that end at these moments, in seconds since 1970.
    #[must_use]
    pub fn ending(mut self, moments: impl IntoIterator<Item = u64>) -> Self {
        self.ends = CertificateEnds::new(moments.into_iter().collect());
        self
    }

    /// The same, but with what `previous` has where it fits, so that a reload ends no session that
    /// is still in scope. The table is kept in any scope: what is in it is found in its own scope
    /// only, and ages out.
    ///
    /// # Errors
    /// [`TicketKeysError`], when the file has changed again in this moment.
    pub fn continuing(&self, previous: &Self) -> Result<Self, TicketKeysError> {
        let (mut cache, mut tickets) = (self.cache.clone(), self.tickets.clone());
        if let (Some(mine), Some(old)) = (&cache, &previous.cache)
            && (mine.bytes, mine.lifetime) == (old.bytes, old.lifetime)
        {
            cache = Some(old.clone());
        }
        if let (Some(mine), Some(old)) = (&tickets, &previous.tickets)
            && mine.continues(old)
        {
            old.refresh()?;
            tickets = Some(old.clone());
        }
        // Sessions that began under certificates that are not served any more still end with them.
        let ends = self.ends.0.iter().chain(&*previous.ends.0);
        Ok(Self {
            scope: self.scope,
            ends: CertificateEnds::new(ends.copied().collect()),
            cache,
            tickets,
            purged: AtomicU64::new(previous.purged.load(Ordering::Relaxed)),
        })
    }

    /// Changes the ticket keys if it is time, and erases sessions that have expired. Not for a data
    /// core.
    ///
    /// # Errors
    /// [`TicketKeysError`]; the keys stay. Told once for each state of the file.
    pub fn refresh(&self) -> Result<bool, TicketKeysError> {
        if let Some(cache) = self.cache.as_ref().and_then(|cache| cache.table.get()) {
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
            config.ticketer = Arc::new(Ticketer {
                tickets: tickets.clone(),
                ends: self.ends.clone(),
            });
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
                cache: cache.table(),
                scope: self.scope,
                ends: self.ends.clone(),
            }),
            None => Arc::new(NoServerSessionStorage {}),
        }
    }
}

/// The tickets as rustls asks for them.
#[derive(Debug)]
struct Ticketer {
    tickets: Arc<Tickets>,
    ends: CertificateEnds,
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        self.tickets.lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.tickets.seal(plain, now())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let now = now();
        let (begun, session) = self.tickets.open_with_time(cipher, now)?;
        self.ends.allow(begun, now).then_some(session)
    }
}

/// The table as rustls asks it, in one scope. Behind each session is when it was put there (8
/// bytes).
#[derive(Debug)]
struct Sessions {
    cache: Arc<SessionCache>,
    scope: Scope,
    ends: CertificateEnds,
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

    /// Returns what was put into the table, without its time; `None` where it may not be resumed
    /// any more.
    fn opened(&self, mut session: Vec<u8>, now: u64) -> Option<Vec<u8>> {
        let begun = u64::from_be_bytes(*session.last_chunk()?);
        session.truncate(session.len() - size_of::<u64>());
        self.ends.allow(begun, now).then_some(session)
    }
}

impl StoresServerSessions for Sessions {
    fn put(&self, id: Vec<u8>, mut session: Vec<u8>) -> bool {
        let now = now();
        session.extend_from_slice(&now.to_be_bytes());
        self.with_key(&id, |key| self.cache.put(key, &session, now))
            .unwrap_or(false)
    }

    fn get(&self, id: &[u8]) -> Option<Vec<u8>> {
        let now = now();
        let found = self.with_key(id, |key| self.cache.get(key, now)).flatten();
        self.opened(found?, now)
    }

    fn take(&self, id: &[u8]) -> Option<Vec<u8>> {
        let now = now();
        let found = self.with_key(id, |key| self.cache.take(key, now)).flatten();
        self.opened(found?, now)
    }

    fn can_cache(&self) -> bool {
        true
    }
}
