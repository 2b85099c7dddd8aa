//! An exact set of serial numbers of which one look-up costs about one miss of the cache, at any size.
//!
//! Serials of one length lie in one array of slots, ordered by a keyed hash: a serial's hash, scaled to the number of
//! slots, is where it lies or a few slots before. So a look-up reads one short stretch of memory, needs no directory, and
//! stops at the first slot that is empty or whose hash is larger. Equal lengths need no offsets; the share of empty
//! slots is chosen so that a serial of up to 20 octets (RFC 5280, section 4.1.2.2) costs at most 24 bytes.
//!
//! The order does not depend on how a CA numbers: sequential serials are as good as random ones, and the key is new
//! for each table. Measured against other layouts in `docs/decisions/0013-revocation.md`.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};

/// Bytes that an entry may take, empty slots included, unless it is so long that it needs more itself.
const ENTRY_BYTES: usize = 23;

/// Most and fewest slots in use, as shares of a hundred. Beyond 87 the stretches that are read grow fast; below 70 an
/// emptier array gains nothing.
const FILL: (usize, usize) = (70, 87);

/// Slots that are compared before the first look at whether the search is over: nearly every search ends here, without
/// a branch that the processor has to guess.
const WINDOW: usize = 4;

/// Serials of any length, each in its canonical form; see [`canonical_serial`](super::canonical_serial).
#[derive(Debug, Default)]
pub struct SerialSet {
    /// One table for each length, shortest first.
    tables: Box<[Table]>,
}

/// Serials of one length.
#[derive(Debug)]
struct Table {
    width: usize,
    len: usize,
    /// Slots that hashes are scaled to; behind them lie those into which the last ones were pushed, and a window more.
    capacity: usize,
    /// An empty slot is all zero. Of the canonical serials only the single octet 0 looks like that, and is kept apart.
    slots: Box<[u8]>,
    /// Whether the serial 0 is in the set.
    zero: bool,
    keys: [u64; 2],
}

impl SerialSet {
    /// Gathers serials, which must be canonical. Takes twice the serials' own bytes meanwhile, and 16 for each.
    pub fn collect<'a>(serials: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut by_width: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
        for serial in serials {
            by_width
                .entry(serial.len())
                .or_default()
                .extend_from_slice(serial);
        }
        SerialSet {
            tables: by_width
                .into_iter()
                .map(|(width, bytes)| Table::build(width, &bytes))
                .collect(),
        }
    }

    /// Whether a canonical serial is in the set.
    pub fn contains(&self, serial: &[u8]) -> bool {
        // Serials of a CA have one or two lengths: a search for the right one would cost more.
        self.tables
            .iter()
            .any(|table| table.width == serial.len() && table.contains(serial))
    }

    /// The number of different serials.
    pub fn len(&self) -> usize {
        self.tables.iter().map(|table| table.len).sum()
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The memory that the serials take, in bytes.
    pub fn bytes(&self) -> usize {
        self.tables.iter().map(|table| table.slots.len()).sum()
    }

    /// Every serial once, in no useful order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.tables.iter().flat_map(|table| {
            let zero = table.zero.then_some([0].as_slice());
            let slots = table.slots.chunks_exact(table.width);
            slots.filter(|slot| !is_empty(slot)).chain(zero)
        })
    }
}

impl Table {
    /// `bytes` holds serials of `width` octets end to end.
    fn build(width: usize, bytes: &[u8]) -> Self {
        let random = RandomState::new();
        let mut table = Table {
            width,
            len: 0,
            capacity: capacity(width, bytes.len() / width),
            slots: Box::default(),
            zero: false,
            keys: [random.hash_one(1u8), random.hash_one(2u8)],
        };
        let mut order: Vec<(u64, u32)> = bytes
            .chunks_exact(width)
            .zip(0..)
            .map(|(serial, at)| (table.hash(serial), at))
            .collect();
        order.sort_unstable();
        let mut used = 0;
        for (hash, _) in &order {
            used = table.home(*hash).max(used) + 1;
        }
        table.slots = zeroed((used + WINDOW) * width);
        let mut next = 0;
        let mut last: &[u8] = &[];
        for (hash, at) in order {
            let serial = &bytes[at as usize * width..][..width];
            if is_empty(serial) {
                table.zero = true;
            } else if serial != last && !table.is_before(next, hash, serial) {
                let slot = table.home(hash).max(next);
                table.slots[slot * width..][..width].copy_from_slice(serial);
                table.len += 1;
                next = slot + 1;
                last = serial;
            }
        }
        table.len += usize::from(table.zero);
        table
    }

    /// Whether `serial` lies right before slot `end`, among those of the same hash.
    fn is_before(&self, end: usize, hash: u64, serial: &[u8]) -> bool {
        self.slots[..end * self.width]
            .rchunks_exact(self.width)
            .take_while(|slot| !is_empty(slot) && self.hash(slot) == hash)
            .any(|slot| slot == serial)
    }

    fn contains(&self, serial: &[u8]) -> bool {
        if is_empty(serial) {
            return self.zero;
        }
        let hash = self.hash(serial);
        let mut at = self.home(hash) * self.width;
        let last_word = tail(serial);
        // The last slot is empty, so the array does not end before the search does.
        while let Some(window) = self.slots.get(at..at + WINDOW * self.width) {
            // The last octets differ in nearly every pair of serials; comparing them costs no call.
            let mut like = false;
            for slot in window.chunks_exact(self.width) {
                like |= tail(slot) == last_word;
            }
            if like && window.chunks_exact(self.width).any(|slot| slot == serial) {
                return true;
            }
            let last = &window[(WINDOW - 1) * self.width..];
            if is_empty(last) || self.hash(last) > hash {
                return false;
            }
            at += WINDOW * self.width;
        }
        false
    }

    /// The slot from which on a serial of this hash lies.
    fn home(&self, hash: u64) -> usize {
        // Below `capacity`, which is a usize.
        ((u128::from(hash) * self.capacity as u128) >> 64) as usize
    }

    #[inline]
    fn hash(&self, serial: &[u8]) -> u64 {
        let [first, second] = self.keys;
        let mut state = first;
        let mut rest = serial;
        while let Some((word, behind)) = rest.split_first_chunk::<8>()
            && !behind.is_empty()
        {
            state = fold(state ^ u64::from_le_bytes(*word), second | 1);
            rest = behind;
        }
        // One to eight octets are left; reaching back over those that were taken saves a copy.
        fold(state ^ tail(serial), second | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

/// Both halves of a product: each bit of both factors reaches the result.
#[inline]
fn fold(one: u64, other: u64) -> u64 {
    let product = u128::from(one) * u128::from(other);
    product as u64 ^ (product >> 64) as u64
}

/// The last eight octets, or all of fewer.
#[inline]
fn tail(serial: &[u8]) -> u64 {
    match serial.last_chunk::<8>() {
        Some(word) => u64::from_le_bytes(*word),
        None => serial
            .iter()
            .fold(0, |word, octet| word << 8 | u64::from(*octet)),
    }
}

#[inline]
fn is_empty(slot: &[u8]) -> bool {
    tail(slot) == 0 && slot.iter().all(|octet| *octet == 0)
}

/// The number of slots for `count` serials of `width` octets.
fn capacity(width: usize, count: usize) -> usize {
    let slots = count.saturating_mul(ENTRY_BYTES) / width;
    slots.clamp(count * 100 / FILL.1, count * 100 / FILL.0) + 1
}

/// A zeroed array, in huge pages where the kernel has them: with small ones, most look-ups in a large table would miss
/// the translation of the address too.
fn zeroed(length: usize) -> Box<[u8]> {
    let mut bytes = vec![0; length].into_boxed_slice();
    #[cfg(not(miri))]
    if length >= super::HUGE_PAGE {
        // SAFETY: the range is that of a living allocation, which `&mut` proves nobody else uses now, and the advice
        // changes neither its contents nor its access rights. An address between page bounds is refused by the kernel
        // without effect, so it is rounded up to one, inside the allocation since that is longer than a page.
        unsafe {
            let start = bytes.as_mut_ptr();
            let skipped = start.align_offset(super::PAGE).min(length);
            libc::madvise(
                start.add(skipped).cast(),
                length - skipped,
                libc::MADV_HUGEPAGE,
            );
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// splitmix64.
    fn random(state: &mut u64) -> u64 {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn serial(state: &mut u64, width: usize) -> Vec<u8> {
        let mut octets: Vec<u8> = (0..width).map(|_| random(state) as u8).collect();
        octets[0] = octets[0] & 0x3f | 0x40;
        octets
    }

    #[test]
    fn holds_exactly_what_was_put_in_at_every_width() {
        let mut state = 7;
        let count = if cfg!(miri) { 40 } else { 3000 };
        for width in (1..=24).chain([40]) {
            let listed: BTreeSet<Vec<u8>> = (0..count).map(|_| serial(&mut state, width)).collect();
            let twice = listed.iter().chain(&listed).map(Vec::as_slice);
            let set = SerialSet::collect(twice);
            assert_eq!(set.len(), listed.len(), "width {width}");
            for serial in &listed {
                assert!(set.contains(serial), "{serial:?}");
                let mut near = serial.clone();
                for at in 0..width {
                    near[at] ^= 1;
                    assert_eq!(set.contains(&near), listed.contains(&near), "{near:?}");
                    near[at] ^= 1;
                }
            }
            let found: BTreeSet<Vec<u8>> = set.iter().map(<[u8]>::to_vec).collect();
            assert_eq!(found, listed);
        }
    }

    #[test]
    fn sequential_serials_are_found_and_their_neighbours_are_not() {
        let count: u32 = if cfg!(miri) { 100 } else { 100_000 };
        let bytes: Vec<[u8; 16]> = (0..count)
            .map(|number| {
                let mut serial = [0x11; 16];
                serial[12..].copy_from_slice(&(2 * number).to_be_bytes());
                serial
            })
            .collect();
        let set = SerialSet::collect(bytes.iter().map(|serial| &serial[..]));
        assert_eq!(set.len(), count as usize);
        for serial in &bytes {
            let mut next = *serial;
            next[15] += 1;
            assert!(set.contains(serial) && !set.contains(&next));
        }
    }

    #[test]
    fn zero_is_a_serial_and_an_empty_slot_is_none() {
        let none = SerialSet::collect([[5].as_slice()]);
        assert!(!none.contains(&[0]) && none.contains(&[5]) && none.len() == 1);
        let zero = SerialSet::collect([[0].as_slice(), &[5], &[0]]);
        assert!(zero.contains(&[0]) && zero.contains(&[5]) && zero.len() == 2);
        assert_eq!(zero.iter().count(), 2);
        assert!(SerialSet::default().is_empty() && !SerialSet::default().contains(&[0]));
    }

    #[test]
    #[cfg_attr(miri, ignore = "two million entries")]
    fn an_entry_takes_at_most_24_bytes() {
        let mut state = 1;
        for width in [16, 17, 18, 19, 20] {
            let count = 200_000;
            let bytes: Vec<u8> = (0..count).flat_map(|_| serial(&mut state, width)).collect();
            let set = SerialSet::collect(bytes.chunks_exact(width));
            assert_eq!(set.len(), count);
            assert!(set.bytes() <= 24 * count, "{width}: {}", set.bytes());
        }
    }
}
