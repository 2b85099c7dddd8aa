//! TLS sessions that are kept to be resumed: one table for all cores, of a fixed size.
//!
//! Guarantees: nobody waits for anybody. A session that is *taken* is given to one taker, however
//! many ask at once. What is found under a key is what was last put there, whole, and never after
//! its lifetime. The memory is what was asked for, from the start. It does not guarantee to keep
//! anything: the oldest sessions of a page make room for new ones, and where two cores meet in one
//! page the later one gives up, which costs its client a full handshake.
//!
//! How: a keyed hash of the key chooses a page. A page is a ring of words that holds sessions of
//! any length one behind the other, and a directory of them, with a word each:
//!
//! ```text
//! page       writer | next | oldest | end | start | - | - | - | directory ... | ring ...
//! directory  state (2 bits) | start in the ring (14) | version (16) | tag (32)
//! session    length of key and value | expiry | key ... | value ...
//! ```
//!
//! The directory word decides who owns the session's words in the ring. Who looks reads the words
//! without any ownership and believes them only if the directory word is still the same afterwards
//! (a sequence lock for each session, as in Boehm, "Can seqlocks get along with programming
//! language memory models?", 2012). Who takes swaps it to `CLAIMED` first. Who puts holds the
//! page's `writer` word, retires sessions from the oldest on until there is room, and then writes;
//! if one of those is claimed at this moment, or if another writer is there, it gives up. The
//! version keeps a word that came again from being taken for the one before: it repeats after 65536
//! turns of the directory.
//!
//! Eviction is first in, first out, which is least recently used where a session is taken at its
//! use and the new one is put (TLS 1.3). A session that is only looked at (TLS 1.2) moves to the
//! young end when it is found in the oldest quarter.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::ops::Range;

use super::atomic::{AtomicU64, Ordering, fence, zeroed};

/// Sessions of which a page keeps track at most, and words of a page: 16 KiB.
const DIRECTORY: usize = 32;
const PAGE: usize = 2048;

/// Layout of a page.
const WRITER: usize = 0;
const NEXT: usize = 1;
const OLDEST: usize = 2;
const END: usize = 3;
const START: usize = 4;
const HEAD: usize = 8;

/// Words before a session's key.
const SESSION_HEAD: usize = 2;

/// TLS sessions by key, shared by all cores.
pub struct SessionCache<const DIR: usize = DIRECTORY, const WORDS: usize = PAGE> {
    words: Box<[AtomicU64]>,
    pages: usize,
    lifetime: u64,
    hasher: RandomState,
}

impl SessionCache {
    /// Bytes of a page: a cache is a whole number of them.
    pub const PAGE_BYTES: usize = PAGE * size_of::<u64>();
}

impl<const DIR: usize, const WORDS: usize> SessionCache<DIR, WORDS> {
    /// A cache of so many bytes (at least one page) for sessions that live so many seconds.
    #[must_use]
    pub fn new(bytes: usize, lifetime: u64) -> Self {
        const { assert!(HEAD + DIR < WORDS && WORDS <= 1 << 14 && DIR <= 1 << 15) };
        let pages = (bytes / (WORDS * size_of::<u64>())).max(1);
        Self {
            words: zeroed(pages * WORDS),
            pages,
            lifetime,
            hasher: RandomState::new(),
        }
    }

    /// Bytes of memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.words.len() * size_of::<u64>()
    }

    /// Seconds that a session lives.
    #[must_use]
    pub fn lifetime(&self) -> u64 {
        self.lifetime
    }

    /// Keeps a session, in place of the one of that key. `now` is in seconds, of any clock that all
    /// callers share. Whether it was kept: it was not if it is larger than a page, or if another
    /// core was at work in the same page.
    #[must_use]
    pub fn put(&self, key: &[u8], value: &[u8], now: u64) -> bool {
        let (page, tag) = self.page(key);
        let Some(writer) = page.writer() else {
            return false;
        };
        writer.insert(tag, key, value, now.saturating_add(self.lifetime))
    }

    /// The session of `key`, for this caller alone: it is gone for all others.
    #[must_use]
    pub fn take(&self, key: &[u8], now: u64) -> Option<Vec<u8>> {
        let (page, tag) = self.page(key);
        let found = page.find(tag, key)?;
        let claim = page.claim(&found)?;
        let value = (now < claim.session.expiry).then(|| page.bytes(claim.session.value()));
        claim.erase();
        value
    }

    /// The session of `key`, which stays.
    #[must_use]
    pub fn get(&self, key: &[u8], now: u64) -> Option<Vec<u8>> {
        let (page, tag) = self.page(key);
        let found = page.find(tag, key)?;
        let value = page.bytes(found.session.value());
        if !page.is_still(&found) || now >= found.session.expiry {
            return None;
        }
        page.refresh(&found, tag, key, &value);
        Some(value)
    }

    /// Erases what has expired, secrets included, and says how many sessions that were. For the
    /// control core: it walks through all directories.
    pub fn purge(&self, now: u64) -> usize {
        let expired = |page: &Page<'_, DIR, WORDS>, slot| {
            page.session(slot)
                .filter(|found| now >= found.session.expiry)
                .and_then(|found| page.claim(&found))
                .map(Claim::erase)
                .is_some()
        };
        (0..self.pages)
            .map(|number| self.numbered(number))
            .filter(|page| page.word(NEXT).load(Ordering::Relaxed) > 0)
            .map(|page| (0..DIR).filter(|slot| expired(&page, *slot)).count())
            .sum()
    }

    /// The page of a key, and the key's tag in it.
    fn page(&self, key: &[u8]) -> (Page<'_, DIR, WORDS>, u32) {
        let hash = self.hasher.hash_one(key);
        let number = ((hash >> 32) * self.pages as u64) >> 32;
        (self.numbered(number as usize), hash as u32)
    }

    fn numbered(&self, number: usize) -> Page<'_, DIR, WORDS> {
        Page {
            words: &self.words[number * WORDS..][..WORDS],
        }
    }
}

impl<const DIR: usize, const WORDS: usize> std::fmt::Debug for SessionCache<DIR, WORDS> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionCache")
            .field("bytes", &self.bytes())
            .field("lifetime", &self.lifetime)
            .finish_non_exhaustive()
    }
}

/// A directory word: the state and place of a session.
#[derive(Clone, Copy, PartialEq, Eq)]
struct DirectoryWord(u64);

impl DirectoryWord {
    /// Nobody's: the session is gone, and its words may be written over.
    const GONE: u64 = 0;
    /// There to be found.
    const FULL: u64 = 1;
    /// Somebody has taken it and reads or erases its words.
    const CLAIMED: u64 = 2;

    fn full(start: usize, version: u64, tag: u32) -> Self {
        Self(Self::FULL << 62 | (start as u64) << 48 | (version & 0xffff) << 32 | u64::from(tag))
    }

    fn state(self) -> u64 {
        self.0 >> 62
    }

    fn to(self, state: u64) -> Self {
        Self(self.0 << 2 >> 2 | state << 62)
    }

    fn start(self) -> usize {
        (self.0 >> 48 & 0x3fff) as usize
    }

    fn version(self) -> u64 {
        self.0 >> 32 & 0xffff
    }

    fn tag(self) -> u32 {
        self.0 as u32
    }
}

/// Position of a session in the ring, and the end of its life.
#[derive(Clone, Copy)]
struct Session {
    start: usize,
    key: usize,
    value: usize,
    expiry: u64,
}

impl Session {
    /// Words of a session with a key and a value of so many bytes.
    fn words(key: usize, value: usize) -> usize {
        SESSION_HEAD + key.div_ceil(8) + value.div_ceil(8)
    }

    /// Ring word at which the value begins, and its bytes.
    fn value(&self) -> (usize, usize) {
        (self.start + SESSION_HEAD + self.key.div_ceil(8), self.value)
    }

    /// Ring words of key and value.
    fn content(&self) -> Range<usize> {
        self.start + SESSION_HEAD..self.start + Self::words(self.key, self.value)
    }
}

/// A session as it was seen; true only if the directory still has the same word.
struct FoundSession {
    slot: usize,
    entry: DirectoryWord,
    session: Session,
}

#[derive(Clone, Copy)]
struct Page<'c, const DIR: usize, const WORDS: usize> {
    words: &'c [AtomicU64],
}

impl<'c, const DIR: usize, const WORDS: usize> Page<'c, DIR, WORDS> {
    const RING: usize = WORDS - HEAD - DIR;

    fn word(&self, at: usize) -> &'c AtomicU64 {
        &self.words[at]
    }

    fn directory(&self, slot: usize) -> &'c AtomicU64 {
        &self.words[HEAD + slot]
    }

    /// A word of the ring; `at` may be one turn ahead.
    fn ring(&self, at: usize) -> &'c AtomicU64 {
        let at = if at < Self::RING { at } else { at - Self::RING };
        &self.words[HEAD + DIR + at]
    }

    /// The session of a key, not yet believed.
    fn find(&self, tag: u32, key: &[u8]) -> Option<FoundSession> {
        (0..DIR).find_map(|slot| {
            // Acquire: the words of a session were written before its directory word.
            let entry = DirectoryWord(self.directory(slot).load(Ordering::Acquire));
            if entry.state() != DirectoryWord::FULL || entry.tag() != tag {
                return None;
            }
            let found = self.seen(slot, entry)?;
            (found.session.key == key.len() && self.is_key(&found.session, key)).then_some(found)
        })
    }

    /// The session of a directory entry, not yet believed.
    fn session(&self, slot: usize) -> Option<FoundSession> {
        let entry = DirectoryWord(self.directory(slot).load(Ordering::Acquire));
        (entry.state() == DirectoryWord::FULL)
            .then(|| self.seen(slot, entry))
            .flatten()
    }

    fn seen(&self, slot: usize, entry: DirectoryWord) -> Option<FoundSession> {
        let session = self.session_at(entry.start())?;
        Some(FoundSession {
            slot,
            entry,
            session,
        })
    }

    /// Returns what the words at `start` say; nothing where that cannot be, since somebody writes
    /// there.
    fn session_at(&self, start: usize) -> Option<Session> {
        let lengths = self.ring(start).load(Ordering::Relaxed);
        let (key, value) = ((lengths >> 32) as usize, lengths as u32 as usize);
        (Session::words(key, value) <= Self::RING).then(|| Session {
            start,
            key,
            value,
            expiry: self.ring(start + 1).load(Ordering::Relaxed),
        })
    }

    fn is_key(&self, session: &Session, key: &[u8]) -> bool {
        let start = session.start + SESSION_HEAD;
        key.chunks(8)
            .enumerate()
            .all(|(at, chunk)| self.ring(start + at).load(Ordering::Relaxed) == word_of(chunk))
    }

    /// So many words of the ring, in two pieces where they go around its end. `start` may be one
    /// turn ahead.
    fn span(&self, start: usize, words: usize) -> (&'c [AtomicU64], &'c [AtomicU64]) {
        let ring = &self.words[HEAD + DIR..];
        let start = if start < Self::RING {
            start
        } else {
            start - Self::RING
        };
        let before = words.min(Self::RING - start);
        (&ring[start..start + before], &ring[..words - before])
    }

    /// So many bytes from a word of the ring on.
    fn bytes(&self, (start, length): (usize, usize)) -> Vec<u8> {
        let words = length.div_ceil(8);
        let (first, second) = self.span(start, words);
        let mut bytes = vec![0; words * 8];
        let (before, after) = bytes.as_chunks_mut::<8>().0.split_at_mut(first.len());
        for (words, chunks) in [(first, before), (second, after)] {
            for (word, chunk) in words.iter().zip(chunks) {
                *chunk = word.load(Ordering::Relaxed).to_le_bytes();
            }
        }
        bytes.truncate(length);
        bytes
    }

    /// Writes bytes from a word of the ring on.
    fn write(&self, start: usize, bytes: &[u8]) {
        let (chunks, rest) = bytes.as_chunks::<8>();
        let (first, second) = self.span(start, chunks.len());
        let (before, after) = chunks.split_at(first.len());
        for (words, chunks) in [(first, before), (second, after)] {
            for (word, chunk) in words.iter().zip(chunks) {
                word.store(u64::from_le_bytes(*chunk), Ordering::Relaxed);
            }
        }
        if !rest.is_empty() {
            self.ring(start + chunks.len())
                .store(word_of(rest), Ordering::Relaxed);
        }
    }

    /// Returns whether what was read of a session so far was whole.
    fn is_still(&self, found: &FoundSession) -> bool {
        // Whoever writes over a session has changed its directory word before, with a release fence between the two. So if
        // one of the loads above saw such a write, this fence makes the load below see that change.
        fence(Ordering::Acquire);
        self.directory(found.slot).load(Ordering::Relaxed) == found.entry.0
    }

    /// Takes possession of a session, if it is still there.
    fn claim(&self, found: &FoundSession) -> Option<Claim<'c, DIR, WORDS>> {
        let claimed = found.entry.to(DirectoryWord::CLAIMED);
        self.directory(found.slot)
            .compare_exchange(
                found.entry.0,
                claimed.0,
                Ordering::AcqRel,
                Ordering::Relaxed,
            )
            .ok()?;
        // The word was the same, so what was seen of the session was true; from here on it stays.
        Some(Claim {
            page: *self,
            slot: found.slot,
            entry: claimed,
            session: found.session,
        })
    }

    /// Moves a session that is in use to the young end, if it is in the oldest quarter of a page
    /// that fills up. `value` is its value, as it was found.
    fn refresh(&self, found: &FoundSession, tag: u32, key: &[u8], value: &[u8]) {
        let (next, oldest) = (self.count(NEXT), self.count(OLDEST));
        let (start, end) = (self.count(START), self.count(END));
        let turn = found.entry.version() * DIR as u64 + found.slot as u64;
        // The version has lost its upper bits, so this is how many came since, and not which one it is.
        let age = next.wrapping_sub(turn) % (DIR as u64 * 0x1_0000);
        // Others may be at work, so that these do not fit together: then this is a move too many or too few.
        let (count, used) = (next.saturating_sub(oldest), end.saturating_sub(start));
        let old = age * 4 > count * 3;
        let filling = used * 4 > Self::RING as u64 * 3 || count * 4 > DIR as u64 * 3;
        if old
            && filling
            && let Some(writer) = self.writer()
            && let Some(claim) = self.claim(found)
        {
            claim.erase();
            writer.insert(tag, key, value, found.session.expiry);
        }
    }

    fn count(&self, which: usize) -> u64 {
        self.word(which).load(Ordering::Relaxed)
    }

    /// The right to put, if nobody has it.
    fn writer(&self) -> Option<Writer<'c, DIR, WORDS>> {
        self.word(WRITER)
            .compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed)
            .ok()
            .map(|_| Writer { page: *self })
    }
}

/// A session whose words belong to this caller.
struct Claim<'c, const DIR: usize, const WORDS: usize> {
    page: Page<'c, DIR, WORDS>,
    slot: usize,
    entry: DirectoryWord,
    session: Session,
}

impl<const DIR: usize, const WORDS: usize> Claim<'_, DIR, WORDS> {
    /// Overwrites key and value, and gives the words back.
    fn erase(self) {
        self.page.wipe(&self.session);
        // Release: the next writer of these words comes after the wiping.
        self.page
            .directory(self.slot)
            .store(self.entry.to(DirectoryWord::GONE).0, Ordering::Release);
    }
}

impl<const DIR: usize, const WORDS: usize> Page<'_, DIR, WORDS> {
    /// Overwrites key and value of a session that belongs to the caller. The head stays, for the
    /// space that it tells.
    fn wipe(&self, session: &Session) {
        // As in `is_still`: the change of the directory word comes before what is written here.
        fence(Ordering::Release);
        let content = session.content();
        let (first, second) = self.span(content.start, content.len());
        for word in first.iter().chain(second) {
            word.store(0, Ordering::Relaxed);
        }
    }
}

/// The right to put sessions into a page.
struct Writer<'c, const DIR: usize, const WORDS: usize> {
    page: Page<'c, DIR, WORDS>,
}

impl<const DIR: usize, const WORDS: usize> Drop for Writer<'_, DIR, WORDS> {
    fn drop(&mut self) {
        self.page.word(WRITER).store(0, Ordering::Release);
    }
}

impl<const DIR: usize, const WORDS: usize> Writer<'_, DIR, WORDS> {
    fn insert(&self, tag: u32, key: &[u8], value: &[u8], expiry: u64) -> bool {
        let page = &self.page;
        let words = Session::words(key.len(), value.len());
        if words > Page::<DIR, WORDS>::RING {
            return false;
        }
        if let Some(found) = page.find(tag, key)
            && let Some(claim) = page.claim(&found)
        {
            claim.erase();
        }
        if !self.make_room(words) {
            return false;
        }
        let (next, end) = (page.count(NEXT), page.count(END));
        let start = (end % Page::<DIR, WORDS>::RING as u64) as usize;
        // As in `is_still`: what was retired comes before what is written here.
        fence(Ordering::Release);
        let lengths = (key.len() as u64) << 32 | value.len() as u64;
        page.ring(start).store(lengths, Ordering::Relaxed);
        page.ring(start + 1).store(expiry, Ordering::Relaxed);
        page.write(start + SESSION_HEAD, key);
        page.write(start + SESSION_HEAD + key.len().div_ceil(8), value);
        let slot = (next % DIR as u64) as usize;
        let entry = DirectoryWord::full(start, next / DIR as u64, tag);
        page.word(NEXT).store(next + 1, Ordering::Relaxed);
        page.word(END).store(end + words as u64, Ordering::Relaxed);
        // Release: who finds the session finds its words.
        page.directory(slot).store(entry.0, Ordering::Release);
        true
    }

    /// Retires the oldest sessions until there is room for `words`, and for one more in the
    /// directory. Gives up at one that somebody is taking.
    fn make_room(&self, words: usize) -> bool {
        let page = &self.page;
        loop {
            let (next, oldest) = (page.count(NEXT), page.count(OLDEST));
            let (start, end) = (page.count(START), page.count(END));
            let used = (end - start) as usize;
            if next - oldest < DIR as u64 && used + words <= Page::<DIR, WORDS>::RING {
                return true;
            }
            let slot = (oldest % DIR as u64) as usize;
            let at = (start % Page::<DIR, WORDS>::RING as u64) as usize;
            // Acquire: after the wiping of who has erased it.
            let entry = DirectoryWord(page.directory(slot).load(Ordering::Acquire));
            let Some(session) = page.session_at(at) else {
                return false;
            };
            if entry.state() != DirectoryWord::GONE {
                match page.claim(&FoundSession {
                    slot,
                    entry: entry.to(DirectoryWord::FULL),
                    session,
                }) {
                    Some(claim) => claim.erase(),
                    None => return false,
                }
            }
            let length = Session::words(session.key, session.value) as u64;
            page.word(OLDEST).store(oldest + 1, Ordering::Relaxed);
            page.word(START).store(start + length, Ordering::Relaxed);
        }
    }
}

/// Up to eight bytes as a word.
fn word_of(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(word)
}
