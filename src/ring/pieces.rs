//! Several parts of one buffer in one send or one receive, so that nothing is copied to make them
//! adjoin.
//!
//! What the kernel is told about them (a message header and its vectors) lies in the buffer's own
//! slot, behind the room that its owner sees: it lives exactly as long, and no operation allocates.

use std::ops::Range;

use super::buffers::{BUFFER_FRONT, RingBuf};

/// Most pieces of one send or receive: a large buffer has 15 records. Where shorter ones are more,
/// they are moved together.
const PIECES: usize = 16;

/// Pieces shorter than this are moved behind the piece before them, in bytes: a move within the
/// cache is then cheaper than another vector for the kernel to walk.
const MERGE: usize = 2048;

/// Offset of the vectors in the control area: behind the message header, on a cache line.
const VECTORS: usize = 64;

/// Bytes of the control area of a slot.
pub(super) const CONTROL: usize = VECTORS + PIECES * size_of::<libc::iovec>();

const _: () = assert!(size_of::<libc::msghdr>() <= VECTORS && CONTROL.is_multiple_of(64));

/// A buffer that is read front to back: pieces of it that are to be passed on, and behind them the
/// rest.
pub struct Pieces {
    /// Holds the rest; the pieces lie in front of it.
    rest: RingBuf,
    count: u8,
    /// Pieces that have been sent wholly.
    sent: u8,
    /// Least room in front of a piece, and behind one, that was read with it and is not passed on.
    front: u16,
    back: u16,
    total: u32,
}

impl Pieces {
    /// All of `buffer` is rest.
    #[must_use]
    pub fn of(buffer: RingBuf) -> Self {
        Self {
            rest: buffer,
            count: 0,
            sent: 0,
            front: u16::MAX,
            back: u16::MAX,
            total: 0,
        }
    }

    /// The bytes that are not read yet.
    pub fn rest(&mut self) -> &mut [u8] {
        &mut self.rest
    }

    /// Reads `count` bytes of the rest, of which those in `piece` (offsets from the rest's start)
    /// are to be passed on.
    ///
    /// # Panics
    /// If the rest is shorter, or the piece is not inside.
    pub fn take(&mut self, count: usize, piece: Range<usize>) {
        assert!(
            piece.start <= piece.end && piece.end <= count && count <= self.rest.len(),
            "taking more than the rest"
        );
        let (at, len) = (piece.start, piece.len());
        if len > 0 {
            let pointer = self.rest[at..].as_mut_ptr();
            if self.add(pointer, len) {
                self.front = self.front.min(u16::try_from(at).unwrap_or(u16::MAX));
            }
            let back = count - piece.end;
            self.back = self.back.min(u16::try_from(back).unwrap_or(u16::MAX));
        }
        self.rest.consume(count);
    }

    /// Bytes of all pieces.
    #[must_use]
    pub fn len(&self) -> usize {
        self.total as usize
    }

    /// Returns whether there are no pieces.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// The pieces.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..usize::from(self.count)).map(|index| {
            // SAFETY: `add` wrote this vector; it names bytes of the buffer that `self` owns, which lie in front of the
            // rest and can only change through `&mut self`.
            unsafe {
                let vector = *self.vectors().add(index);
                std::slice::from_raw_parts(vector.iov_base.cast(), vector.iov_len)
            }
        })
    }

    /// The buffer with the rest at its front; `None`, and the buffer goes back to the pool, if
    /// nothing is left.
    #[must_use]
    pub fn into_rest(self) -> Option<RingBuf> {
        let mut rest = self.rest;
        if rest.is_empty() {
            return None;
        }
        rest.compact();
        Some(rest)
    }

    /// Returns whether each piece has `front` bytes of room in front, `back` bytes behind, and no
    /// more than `longest` bytes.
    #[must_use]
    pub fn have_room(&self, front: usize, back: usize, longest: usize) -> bool {
        front <= usize::from(self.front)
            && back <= usize::from(self.back)
            && self.iter().all(|piece| piece.len() <= longest)
    }

    /// Takes `front` bytes in front of each piece and `back` bytes behind it into the piece, and
    /// lets `change` work on it.
    ///
    /// # Errors
    /// The first of `change`'s.
    ///
    /// # Panics
    /// If there is less room ([`Pieces::have_room`]).
    pub fn widen_each<E>(
        &mut self,
        front: usize,
        back: usize,
        mut change: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        assert!(
            self.have_room(front, back, usize::MAX),
            "widening beyond a piece's room"
        );
        // The room is used up.
        (self.front, self.back) = (0, 0);
        for index in 0..usize::from(self.count) {
            // SAFETY: `add` wrote this vector. The bytes around it lie in the same buffer, in front of the rest: they were
            // read with the piece and belong to no other (a piece that was moved to the one before only left more room).
            let bytes = unsafe {
                let vector = &mut *self.vectors().add(index);
                vector.iov_base = vector.iov_base.cast::<u8>().sub(front).cast();
                vector.iov_len += front + back;
                std::slice::from_raw_parts_mut(vector.iov_base.cast::<u8>(), vector.iov_len)
            };
            change(bytes)?;
        }
        Ok(())
    }

    /// The pieces with gaps between them as `spacing` says. In place where they lie so already, or
    /// there is only one; else copied.
    #[must_use]
    pub fn into_spaced(mut self, spacing: Spacing) -> Spaced {
        if let Some((start, end)) = self.extent(spacing) {
            let rest = Rest::copied(&self.rest);
            self.rest.narrow(start, end);
            return Spaced {
                buffer: self.rest,
                over: Vec::new(),
                rest,
            };
        }
        let room = |buffer: &RingBuf| spacing.holds(buffer.spare());
        let small = RingBuf::small().filter(|small| self.len() <= room(small));
        let fresh = small.or_else(RingBuf::large);
        match fresh.filter(|fresh| self.len() <= room(fresh)) {
            Some(mut buffer) => {
                let mut filled = 0;
                self.iter()
                    .for_each(|piece| filled = spacing.append(&mut buffer, piece, filled));
                Spaced {
                    buffer,
                    over: Vec::new(),
                    rest: self.into_rest().map_or(Rest::None, Rest::Buffer),
                }
            }
            None => {
                let bytes: Vec<u8> = self.iter().flatten().copied().collect();
                let rest = match self.rest.is_empty() {
                    true => Rest::None,
                    false => Rest::Bytes(self.rest.to_vec()),
                };
                let mut buffer = self.rest;
                buffer.narrow(BUFFER_FRONT, BUFFER_FRONT);
                let fitting = bytes.len().min(spacing.holds(buffer.spare()));
                spacing.append(&mut buffer, &bytes[..fitting], 0);
                Spaced {
                    buffer,
                    over: bytes[fitting..].to_vec(),
                    rest,
                }
            }
        }
    }

    /// From where to where the pieces lie in the buffer, if there are gaps between them as
    /// `spacing` says.
    fn extent(&self, spacing: Spacing) -> Option<(usize, usize)> {
        let slot = self.rest.offset_base();
        let mut start = None;
        let mut end = 0;
        for (index, piece) in self.iter().enumerate() {
            let at = piece.as_ptr() as usize - slot;
            let whole = index + 1 < usize::from(self.count);
            let is_right = piece.len() <= spacing.piece && (!whole || piece.len() == spacing.piece);
            if !is_right || (index > 0 && at != end + spacing.gap) {
                return None;
            }
            start.get_or_insert(at);
            end = at + piece.len();
        }
        Some((start?, end))
    }

    /// Adds a piece, or moves it behind the last one. Whether it stands alone.
    fn add(&mut self, pointer: *mut u8, len: usize) -> bool {
        let vectors = self.vectors();
        let merge = self.count > 0 && (len < MERGE || usize::from(self.count) == PIECES);
        // SAFETY: the vectors lie in the control area of the slot that `self` owns, `count` of them are written, and
        // `count` stays at most PIECES. A merged piece is moved towards the front, to right behind the piece before it,
        // so it stays inside the buffer; `copy` allows the overlap.
        unsafe {
            if merge {
                let last = &mut *vectors.add(usize::from(self.count) - 1);
                let end = last.iov_base.cast::<u8>().add(last.iov_len);
                std::ptr::copy(pointer, end, len);
                last.iov_len += len;
            } else {
                vectors.add(usize::from(self.count)).write(libc::iovec {
                    iov_base: pointer.cast(),
                    iov_len: len,
                });
                self.count += 1;
            }
        }
        self.total += len as u32;
        !merge
    }

    fn vectors(&self) -> *mut libc::iovec {
        vectors(&self.rest)
    }
}

/// Pieces with gaps between them, and what was behind them.
pub struct Spaced {
    /// The pieces.
    pub buffer: RingBuf,
    /// Bytes of theirs that found no room.
    pub over: Vec<u8>,
    /// The rest.
    pub rest: Rest,
}

/// Bytes that are not read yet.
pub enum Rest {
    /// Nothing.
    None,
    /// In a buffer.
    Buffer(RingBuf),
    /// On the heap: no buffer was free.
    Bytes(Vec<u8>),
}

impl Rest {
    /// A copy of these bytes.
    fn copied(bytes: &[u8]) -> Self {
        if bytes.is_empty() {
            return Self::None;
        }
        match RingBuf::small().filter(|small| bytes.len() <= small.spare()) {
            Some(mut small) => {
                small.append(bytes);
                Self::Buffer(small)
            }
            None => Self::Bytes(bytes.to_vec()),
        }
    }
}

impl ToSend for Pieces {
    fn left(&mut self) -> Option<Left> {
        let (first, left) = (usize::from(self.sent), usize::from(self.count - self.sent));
        if left == 0 {
            return None;
        }
        // SAFETY: vectors from `sent` to `count` are written, and lie in the control area of the slot.
        let vector = unsafe { self.vectors().add(first) };
        if left == 1 {
            // SAFETY: as above.
            let one = unsafe { *vector };
            return Some(Left::Bytes(one.iov_base.cast(), one.iov_len as u32));
        }
        Some(Left::Message(write_header(&self.rest, vector, left)))
    }

    fn advance(&mut self, mut count: usize) {
        while self.sent < self.count {
            // SAFETY: as in `left`.
            let vector = unsafe { &mut *self.vectors().add(usize::from(self.sent)) };
            if count < vector.iov_len {
                // SAFETY: the pointer stays inside the piece.
                vector.iov_base = unsafe { vector.iov_base.cast::<u8>().add(count) }.cast();
                vector.iov_len -= count;
                return;
            }
            count -= vector.iov_len;
            self.sent += 1;
        }
    }
}

/// Data that is sent in as many steps as needed.
pub(super) trait ToSend: Unpin + 'static {
    /// Returns what is left: bytes that `self` owns and that stay in place when `self` is moved.
    /// `None` when all is sent.
    fn left(&mut self) -> Option<Left>;

    /// Takes note of `count` bytes that were sent.
    fn advance(&mut self, count: usize);
}

/// How the kernel is told what to send: one run of bytes, or several with the message header that
/// names them.
pub(super) enum Left {
    Bytes(*const u8, u32),
    Message(*mut libc::msghdr),
}

/// Gaps between the pieces of a receive, for what a protocol will put around each.
#[derive(Clone, Copy, Debug)]
pub struct Spacing {
    /// Bytes of one piece.
    pub piece: usize,
    /// Bytes between two pieces.
    pub gap: usize,
    /// Pieces that one receive may fill.
    pub most: u16,
}

impl Spacing {
    /// How many pieces an empty buffer of `room` bytes in all has room for, with a gap behind the
    /// last one too.
    fn fit(self, room: usize) -> usize {
        let most = PIECES.min(usize::from(self.most));
        ((room - BUFFER_FRONT) / (self.piece + self.gap)).min(most)
    }

    /// How many bytes fit into `spare` bytes, with a gap behind each piece.
    fn holds(self, spare: usize) -> usize {
        let each = self.piece + self.gap;
        spare / each * self.piece + (spare % each).saturating_sub(self.gap)
    }

    /// Appends `bytes` behind `filled` bytes that were appended so before, and leaves the gaps. How
    /// many are filled then.
    fn append(self, buffer: &mut RingBuf, mut bytes: &[u8], mut filled: usize) -> usize {
        while !bytes.is_empty() {
            let used = filled % self.piece;
            if used == 0 && filled > 0 {
                buffer.widen(0, self.gap);
            }
            let (now, later) = bytes.split_at(bytes.len().min(self.piece - used));
            buffer.append(now);
            filled += now.len();
            bytes = later;
        }
        filled
    }

    /// Bytes that `count` received bytes take up, gaps between them included.
    pub(super) fn span(self, count: usize) -> usize {
        count + count.saturating_sub(1) / self.piece * self.gap
    }
}

/// Tells the kernel to fill the empty `buffer` with spaced pieces.
pub(super) fn spaced_header(buffer: &mut RingBuf, spacing: Spacing) -> *mut libc::msghdr {
    assert!(buffer.is_empty(), "spacing needs an empty buffer");
    let vectors = vectors(buffer);
    let whole = buffer.whole();
    let count = spacing.fit(whole.len());
    for index in 0..count {
        let start = BUFFER_FRONT + index * (spacing.piece + spacing.gap);
        let piece = &mut whole[start..start + spacing.piece];
        // SAFETY: `fit` keeps `count` at PIECES at most, for which the control area has room.
        unsafe {
            vectors.add(index).write(libc::iovec {
                iov_base: piece.as_mut_ptr().cast(),
                iov_len: piece.len(),
            });
        }
    }
    write_header(buffer, vectors, count)
}

fn vectors(buffer: &RingBuf) -> *mut libc::iovec {
    // SAFETY: the control area is CONTROL bytes long, and aligned to a cache line as the slot is.
    unsafe { buffer.control().add(VECTORS).cast() }
}

fn write_header(buffer: &RingBuf, first: *mut libc::iovec, count: usize) -> *mut libc::msghdr {
    let header: *mut libc::msghdr = buffer.control().cast();
    // SAFETY: the header's place in the control area is owned with the buffer, large enough and aligned; all-zero is a
    // valid msghdr.
    unsafe {
        header.write(std::mem::zeroed());
        (*header).msg_iov = first;
        (*header).msg_iovlen = count;
    }
    header
}

#[cfg(test)]
mod tests {
    use super::super::pool::{BufferPool, PoolConfig, Size};
    use super::*;

    fn large(bytes: &[u8]) -> RingBuf {
        let config = PoolConfig {
            payload: 100,
            large_payload: 60_000,
            posted: 1,
            max: 1,
            large_max: 1,
            group: 0,
        };
        let pool = BufferPool::new(config).unwrap();
        let mut buffer = pool.acquire(Size::Large).unwrap();
        buffer.append(bytes);
        buffer
    }

    /// Takes `bytes` apart into pieces of `sizes` with three bytes in front of and two behind each.
    fn apart(bytes: &[u8], sizes: &[usize]) -> (Pieces, Vec<u8>) {
        let mut pieces = Pieces::of(large(bytes));
        let mut expected = Vec::new();
        for &size in sizes {
            expected.extend_from_slice(&pieces.rest()[3..3 + size]);
            pieces.take(3 + size + 2, 3..3 + size);
        }
        (pieces, expected)
    }

    #[test]
    fn pieces_are_merged_or_kept_apart_and_lose_nothing() {
        let bytes: Vec<u8> = (0..50_000u32).map(|i| (i % 251) as u8).collect();
        for sizes in [
            &[1][..],
            &[5000],
            &[5000, 6000],
            &[5000, 10, 7, 0, 9000, 1],
            &[10; 400],
            &[2048; 20],
        ] {
            let (pieces, expected) = apart(&bytes, sizes);
            assert_eq!(pieces.iter().collect::<Vec<_>>().concat(), expected);
            assert_eq!(pieces.len(), expected.len());
            assert!(usize::from(pieces.count) <= PIECES);
            let used: usize = sizes.iter().map(|size| size + 5).sum();
            assert_eq!(&*pieces.into_rest().unwrap(), &bytes[used..]);
        }
    }

    #[test]
    fn what_was_sent_is_skipped() {
        let bytes: Vec<u8> = (0..50_000u32).map(|i| (i % 249) as u8).collect();
        let (mut pieces, expected) = apart(&bytes, &[3000, 4000, 5000]);
        let mut seen = Vec::new();
        for step in [1, 2999, 3999, 1, 1, 10_000] {
            let next: Vec<u8> = match pieces.left().unwrap() {
                // SAFETY: both name bytes of the buffer that `pieces` owns.
                Left::Bytes(at, len) => unsafe {
                    std::slice::from_raw_parts(at, len as usize).to_vec()
                },
                // SAFETY: the header and what it points to live in the slot that `pieces` owns.
                Left::Message(header) => unsafe {
                    let vectors =
                        std::slice::from_raw_parts((*header).msg_iov, (*header).msg_iovlen);
                    vectors
                        .iter()
                        .flat_map(|v| {
                            std::slice::from_raw_parts(v.iov_base.cast::<u8>(), v.iov_len).to_vec()
                        })
                        .collect()
                },
            };
            let step = step.min(next.len());
            seen.extend_from_slice(&next[..step]);
            pieces.advance(step);
        }
        assert_eq!(seen, expected);
    }

    #[test]
    fn the_room_around_each_piece_can_be_used_and_is_used_once() {
        let bytes: Vec<u8> = (0..50_000u32).map(|i| (i % 247) as u8).collect();
        for sizes in [&[5000, 6000, 3000][..], &[5000, 10, 7, 4000], &[2048; 20]] {
            let (mut pieces, expected) = apart(&bytes, sizes);
            assert!(pieces.have_room(3, 2, 50_000) && !pieces.have_room(4, 2, 50_000));
            assert!(!pieces.have_room(3, 3, 50_000) && !pieces.have_room(3, 2, 2000));
            let mut inside = Vec::new();
            let widened: Result<(), ()> = pieces.widen_each(3, 2, |record| {
                let end = record.len() - 2;
                inside.extend_from_slice(&record[3..end]);
                record[..3].fill(0xee);
                record[end..].fill(0xee);
                Ok(())
            });
            assert_eq!((widened, inside), (Ok(()), expected));
            assert!(!pieces.have_room(1, 0, 50_000), "there is none left");
            let used: usize = sizes.iter().map(|size| size + 5).sum();
            assert_eq!(&*pieces.into_rest().unwrap(), &bytes[used..]);
        }
    }

    #[test]
    fn pieces_are_spaced_whatever_their_sizes_and_lose_nothing() {
        use super::super::{Runtime, RuntimeConfig};
        let spacing = Spacing {
            piece: 1000,
            gap: 5,
            most: u16::MAX,
        };
        let runtime = Runtime::new(RuntimeConfig::default()).unwrap();
        runtime.block_on(async move {
            let bytes: Vec<u8> = (0..50_000u32).map(|i| (i % 241) as u8).collect();
            for sizes in [
                &[300][..],
                &[1000, 1000, 1000],
                &[1000, 999],
                &[2500, 3000, 10],
                &[10; 100],
                &[20_000, 20_000],
            ] {
                let (pieces, expected) = apart(&bytes, sizes);
                let spaced = pieces.into_spaced(spacing);
                let mut got = Vec::new();
                for record in spaced.buffer.chunks(spacing.piece + spacing.gap) {
                    got.extend_from_slice(&record[..record.len().min(spacing.piece)]);
                }
                got.extend_from_slice(&spaced.over);
                assert!(got == expected, "{sizes:?}");
                let used: usize = sizes.iter().map(|size| size + 5).sum();
                let rest: Vec<u8> = match spaced.rest {
                    Rest::None => Vec::new(),
                    Rest::Buffer(buffer) => buffer.to_vec(),
                    Rest::Bytes(bytes) => bytes,
                };
                assert!(rest == bytes[used..], "{sizes:?}");
            }
        });
    }

    #[test]
    fn a_spaced_receive_leaves_its_gaps() {
        let spacing = Spacing {
            piece: 16_384,
            gap: 22,
            most: u16::MAX,
        };
        assert_eq!(spacing.fit(BUFFER_FRONT + 3 * 16_406 + 16_405), 3);
        let one = Spacing { most: 1, ..spacing };
        assert_eq!(one.fit(BUFFER_FRONT + 3 * 16_406), 1);
        assert_eq!(spacing.span(0), 0);
        assert_eq!(spacing.span(16_384), 16_384);
        assert_eq!(spacing.span(16_385), 16_385 + 22);
        let mut buffer = large(b"");
        let header = spaced_header(&mut buffer, spacing);
        // SAFETY: the header lies in the buffer's slot.
        assert_eq!(unsafe { (*header).msg_iovlen }, 3);
    }
}
