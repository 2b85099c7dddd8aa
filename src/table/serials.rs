//! An exact set of serial numbers in which a look-up costs one miss of the cache where the serial
//! is not in it, and two where it is, at any size.
//!
//! The serials of one length lie end to end, ordered by a keyed hash. Beside them is an array of
//! blocks, one cache line each: a block tells where the serials of its share of the hashes begin,
//! and 16 bits of the hash of each of them. So that a serial is not listed shows in one line, with
//! one serial in three thousand to be compared in vain; that is nearly every look-up of a gateway.
//! A serial costs its own octets and 3.2 bytes of blocks.
//!
//! The order does not depend on how a CA numbers: sequential serials are as good as random ones,
//! and the key is new for each table. Serials whose hashes crowd into one block are compared one by
//! one. Measured against other layouts in `docs/decisions/0013-revocation.md`.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};

/// Hashes that a block holds: what fits into a cache line.
const BLOCK: usize = 29;

/// Serials to a block in the mean. Their number varies as chance has it: with 20, one block in
/// fifty has more than it holds hashes of, and those beyond are compared themselves.
const MEAN: usize = 20;

/// Serials of any length, each in its canonical form; see
/// [`canonical_serial`](super::canonical_serial).
#[derive(Debug, Default)]
pub struct SerialSet {
    /// One table for each length.
    tables: Box<[Table]>,
}

/// Serials of one length.
#[derive(Debug)]
struct Table {
    width: usize,
    /// In the order of their hashes, each once.
    serials: Box<[u8]>,
    /// One for each equal share of all hashes, and one more that ends the last.
    blocks: Box<[SerialBlock]>,
    keys: [u64; 2],
}

/// Serials in a share of the hashes.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(64))]
struct SerialBlock {
    /// The position of the first of them.
    first: u32,
    /// How many of `marks` are in use. All: there may be more serials, up to the `first` of the
    /// next block.
    count: u16,
    marks: [u16; BLOCK],
}

const _: () = assert!(size_of::<SerialBlock>() == 64);

impl SerialSet {
    /// Gathers serials, which must be canonical; 2^32 of one length at most. Takes twice the
    /// serials' own octets meanwhile, and 16 bytes for each.
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

    /// Returns whether a canonical serial is in the set.
    pub fn contains(&self, serial: &[u8]) -> bool {
        // Serials of a CA have one or two lengths: a search for the right one would cost more.
        self.tables
            .iter()
            .any(|table| table.width == serial.len() && table.contains(serial))
    }

    /// The number of different serials.
    pub fn len(&self) -> usize {
        self.tables
            .iter()
            .map(|table| table.serials.len() / table.width)
            .sum()
    }

    /// Returns whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// The memory that the set takes, in bytes.
    pub fn bytes(&self) -> usize {
        self.tables
            .iter()
            .map(|table| table.serials.len() + size_of_val(&*table.blocks))
            .sum()
    }

    /// Every serial once, in no useful order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.tables
            .iter()
            .flat_map(|table| table.serials.chunks_exact(table.width))
    }
}

impl Table {
    /// `bytes` holds serials of `width` octets end to end; at least one.
    fn build(width: usize, bytes: &[u8]) -> Self {
        let random = RandomState::new();
        let keys = [random.hash_one(1u8), random.hash_one(2u8)];
        let mut order: Vec<(u64, u32)> = bytes
            .chunks_exact(width)
            .zip(0..)
            .map(|(serial, at)| (hash(keys, serial), at))
            .collect();
        order.sort_unstable();
        let serial = |at: u32| &bytes[at as usize * width..][..width];
        let mut serials = Vec::with_capacity(bytes.len());
        advise_huge_pages(serials.spare_capacity_mut());
        let shares = order.len() / MEAN + 1;
        let mut blocks = Vec::with_capacity(shares + 1);
        advise_huge_pages(blocks.spare_capacity_mut());
        blocks.resize(shares + 1, SerialBlock::default());
        let mut open = 0;
        for same in order.chunk_by(|one, other| one.0 == other.0) {
            let hash = same[0].0;
            let at = share(hash, shares);
            let begun = serials.len();
            for block in &mut blocks[open..at] {
                // Those without serials begin where the next one does.
                if block.count == 0 {
                    block.first = position(begun / width);
                }
            }
            open = at;
            let block = &mut blocks[at];
            if block.count == 0 {
                block.first = position(begun / width);
            }
            for (_, at) in same {
                let known = serials[begun..].chunks_exact(width);
                if known.into_iter().all(|known| known != serial(*at)) {
                    serials.extend_from_slice(serial(*at));
                    if let Some(mark) = block.marks.get_mut(usize::from(block.count)) {
                        *mark = mark_of(hash);
                        block.count += 1;
                    }
                }
            }
        }
        let end = position(serials.len() / width);
        for block in &mut blocks[open + 1..] {
            block.first = end;
        }
        Table {
            width,
            serials: serials.into(),
            blocks: blocks.into(),
            keys,
        }
    }

    fn contains(&self, serial: &[u8]) -> bool {
        let hash = hash(self.keys, serial);
        let at = share(hash, self.blocks.len() - 1);
        let block = &self.blocks[at];
        let first = block.first as usize;
        let mark = mark_of(hash);
        // All marks are compared, so that there is nothing to guess for the processor; those not in use are cut off.
        let mut found = 0u32;
        for (bit, known) in block.marks.iter().enumerate() {
            found |= u32::from(*known == mark) << bit;
        }
        found &= (1 << block.count) - 1;
        while found != 0 {
            if self.serial(first + found.trailing_zeros() as usize) == serial {
                return true;
            }
            found &= found - 1;
        }
        usize::from(block.count) == BLOCK
            && (first + BLOCK..self.blocks[at + 1].first as usize)
                .any(|at| self.serial(at) == serial)
    }

    fn serial(&self, at: usize) -> &[u8] {
        &self.serials[at * self.width..][..self.width]
    }
}

/// The share of all hashes that one falls into: its high bits, scaled.
#[inline]
fn share(hash: u64, shares: usize) -> usize {
    // Below `shares`, which is a usize.
    ((u128::from(hash) * shares as u128) >> 64) as usize
}

/// The low bits, on which the share hardly depends.
#[inline]
fn mark_of(hash: u64) -> u16 {
    hash as u16
}

fn position(at: usize) -> u32 {
    u32::try_from(at).expect("positions are counted in 32 bits from the start")
}

#[inline]
fn hash(keys: [u64; 2], serial: &[u8]) -> u64 {
    let [first, second] = keys;
    let mut state = first;
    let mut rest = serial;
    while let Some((word, behind)) = rest.split_first_chunk::<8>()
        && !behind.is_empty()
    {
        state = fold(state ^ u64::from_le_bytes(*word), second | 1);
        rest = behind;
    }
    // One to eight octets are left; reaching back over those that were taken saves a copy.
    let tail = match serial.last_chunk::<8>() {
        Some(word) => u64::from_le_bytes(*word),
        None => serial
            .iter()
            .fold(0, |word, octet| word << 8 | u64::from(*octet)),
    };
    fold(fold(state ^ tail, second | 1), 0x9e37_79b9_7f4a_7c15)
}

/// Both halves of a product: each bit of both factors reaches the result.
#[inline]
fn fold(one: u64, other: u64) -> u64 {
    let product = u128::from(one) * u128::from(other);
    product as u64 ^ (product >> 64) as u64
}

/// Asks for huge pages where the kernel has them: with small ones, most look-ups in a large table
/// would miss the translation of the address too.
fn advise_huge_pages<T>(memory: &mut [T]) {
    #[cfg(not(miri))]
    {
        const PAGE: usize = 4096;
        const HUGE_PAGE: usize = 2 << 20;
        let length = size_of_val(memory);
        if length >= HUGE_PAGE {
            let start = memory.as_mut_ptr().cast::<u8>();
            let skipped = start.align_offset(PAGE).min(length);
            // SAFETY: `skipped <= length`, so the range lies in the allocation that `memory` borrows for this call. The
            // advice changes neither contents nor access rights. On a system with larger pages the kernel refuses an
            // address between two of them, without effect.
            unsafe {
                libc::madvise(
                    start.add(skipped).cast(),
                    length - skipped,
                    libc::MADV_HUGEPAGE,
                );
            }
        }
    }
    #[cfg(miri)]
    let _ = memory;
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
        let (count, widths) = if cfg!(miri) {
            (12, vec![1, 2, 16, 20, 40])
        } else {
            (3000, (1..=24).chain([40]).collect())
        };
        for width in widths {
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
        let count: u32 = if cfg!(miri) { 60 } else { 100_000 };
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
    fn zero_is_a_serial_like_any_other() {
        let none = SerialSet::collect([[5].as_slice()]);
        assert!(!none.contains(&[0]) && none.contains(&[5]) && none.len() == 1);
        let zero = SerialSet::collect([[0].as_slice(), &[5], &[0]]);
        assert!(zero.contains(&[0]) && zero.contains(&[5]) && zero.len() == 2);
        assert!(SerialSet::default().is_empty() && !SerialSet::default().contains(&[0]));
    }

    /// More serials to a block than it has marks, which the hash alone seldom brings about.
    #[test]
    fn serials_that_crowd_into_one_block_are_found() {
        let mut state = 3;
        let serials: Vec<Vec<u8>> = (0..200).map(|_| serial(&mut state, 16)).collect();
        let mut table = Table::build(16, &serials.concat());
        table.blocks = Box::new([
            SerialBlock {
                first: 0,
                count: BLOCK as u16,
                marks: std::array::from_fn(|at| mark_of(hash(table.keys, table.serial(at)))),
            },
            SerialBlock {
                first: 200,
                ..SerialBlock::default()
            },
        ]);
        for serial in &serials {
            assert!(table.contains(serial));
        }
        for _ in 0..200 {
            assert!(!table.contains(&serial(&mut state, 16)));
        }
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
