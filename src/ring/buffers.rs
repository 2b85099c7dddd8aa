//! One buffer of a core's pool, and what can be given to the kernel to send.

use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use bytes::Bytes;

use super::executor::{SMALL_PAYLOAD, current};
use super::pool::{BufferPool, Size};

/// Room in front of what a receive fills, in bytes: for protocols that put a header before what
/// they pass on. A cache line, so that the payload begins on one.
pub const BUFFER_FRONT: usize = 64;

/// Room behind what a receive fills, in bytes: for protocols that put something behind what they
/// pass on.
pub const BUFFER_BACK: usize = 64;

/// A buffer of the core's pool, owned by a task: the bytes in it, the room around them, and its
/// return on drop.
pub struct RingBuf {
    pool: Rc<BufferPool>,
    start: u32,
    end: u32,
    id: u32,
    size: Size,
}

impl RingBuf {
    /// A buffer that holds `len` bytes behind the usual room in front.
    pub(super) fn new(pool: Rc<BufferPool>, size: Size, id: u32, len: usize) -> Self {
        Self {
            pool,
            start: BUFFER_FRONT as u32,
            end: (BUFFER_FRONT + len) as u32,
            id,
            size,
        }
    }

    /// An empty small buffer; `None` when all are in use.
    ///
    /// # Panics
    /// Outside a runtime.
    #[must_use]
    pub fn small() -> Option<Self> {
        current(|core| core.pool.acquire(Size::Small))
    }

    /// An empty large buffer; `None` when all are in use.
    ///
    /// # Panics
    /// Outside a runtime.
    #[must_use]
    pub fn large() -> Option<Self> {
        current(|core| core.pool.acquire(Size::Large))
    }

    /// Empty memory of its own for `payload` bytes, which takes nothing from the pool.
    ///
    /// # Panics
    /// Outside a runtime.
    #[must_use]
    pub fn of_size(payload: usize) -> Self {
        current(|core| core.pool.own(payload))
    }

    /// Moves the bytes to memory of their own size, and gives the buffer back.
    #[must_use]
    pub fn into_own(self) -> Self {
        const SLACK: usize = 1024;
        if self.is_own() && self.room() <= 2 * self.len() + SLACK {
            return self;
        }
        let own = self.pool.own(self.len());
        self.moved_to(own)
    }

    /// Returns whether this is memory of its own size.
    pub(super) fn is_own(&self) -> bool {
        self.size == Size::Own
    }

    /// Memory of its own size with these bytes behind those that are there. What comes in small
    /// parts is moved a few times and not with each of them.
    pub(super) fn joined(self, more: &[u8]) -> Self {
        let mut own = match self.is_own() && self.spare() >= more.len() + BUFFER_BACK {
            true => self,
            false => {
                let payload = (self.len() + more.len()).next_power_of_two();
                let own = self.pool.own(payload);
                self.moved_to(own)
            }
        };
        own.append(more);
        own
    }

    /// Returns whether this is one of the large buffers.
    #[must_use]
    pub fn is_large(&self) -> bool {
        self.size == Size::Large
    }

    /// Bytes that can still be appended.
    #[must_use]
    pub fn spare(&self) -> usize {
        self.room() - self.end as usize
    }

    /// Bytes that may be received behind those that are there. Memory of its own size grows with
    /// them, up to what the kernel's buffers hold.
    #[must_use]
    pub fn receivable(&self) -> usize {
        if self.is_own() {
            SMALL_PAYLOAD.saturating_sub(self.len()).max(BUFFER_BACK)
        } else {
            self.spare()
        }
    }

    /// Drops the first `count` bytes.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn consume(&mut self, count: usize) {
        assert!(count <= self.len(), "consuming more than the buffer holds");
        self.start += count as u32;
    }

    /// Takes `front` bytes of the room in front and `back` bytes of that behind into the contents,
    /// as they are.
    ///
    /// # Panics
    /// If there is less room.
    pub fn widen(&mut self, front: usize, back: usize) {
        assert!(
            front <= self.start as usize && back <= self.spare(),
            "widening beyond the buffer"
        );
        self.start -= front as u32;
        self.end += back as u32;
    }

    /// Holds what lies from `start` to `end` of the whole buffer, as it is.
    ///
    /// # Panics
    /// If that is not inside.
    pub(super) fn narrow(&mut self, start: usize, end: usize) {
        assert!(start <= end && end <= self.room(), "beyond the buffer");
        self.start = start as u32;
        self.end = end as u32;
    }

    /// Returns where the whole buffer begins, as a number to compute offsets with.
    pub(super) fn offset_base(&self) -> usize {
        self.address() as usize
    }

    /// Moves the bytes to where a receive would put them, so that all room but [`BUFFER_FRONT`] is
    /// behind them.
    pub fn compact(&mut self) {
        if self.start as usize > BUFFER_FRONT {
            let (start, end) = (self.start as usize, self.end as usize);
            self.whole().copy_within(start..end, BUFFER_FRONT);
            self.start = BUFFER_FRONT as u32;
            self.end = (BUFFER_FRONT + end - start) as u32;
        }
    }

    /// Appends bytes.
    ///
    /// # Panics
    /// If they do not fit; see [`RingBuf::spare`].
    pub fn append(&mut self, bytes: &[u8]) {
        assert!(
            bytes.len() <= self.spare(),
            "appending more than the buffer can hold"
        );
        let end = self.end as usize;
        self.whole()[end..end + bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len() as u32;
    }

    /// Puts bytes in front, and moves what is there behind them.
    ///
    /// # Panics
    /// If they do not fit; see [`RingBuf::spare`].
    pub(super) fn put_in_front(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.spare(), "more than the buffer can hold");
        let (start, end) = (self.start as usize, self.end as usize);
        let whole = self.whole();
        whole.copy_within(start..end, start + bytes.len());
        whole[start..start + bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len() as u32;
    }

    /// Moves the bytes behind those of `to`, and gives this buffer back.
    ///
    /// # Panics
    /// If they do not fit.
    #[must_use]
    pub fn moved_to(self, mut to: Self) -> Self {
        to.append(&self);
        to
    }

    /// Returns where the kernel may write more bytes, and how many.
    pub(super) fn spare_pointer(&mut self) -> (*mut u8, u32) {
        let end = self.end as usize;
        let room = self.spare();
        (self.whole()[end..].as_mut_ptr(), room as u32)
    }

    /// Takes note of `count` bytes that the kernel wrote at [`RingBuf::spare_pointer`].
    pub(super) fn grown(&mut self, count: usize) {
        assert!(
            count <= self.spare(),
            "the kernel wrote more than there was room for"
        );
        self.end += count as u32;
    }

    /// The memory behind the bytes, where [`super::pieces`] keeps what it tells the kernel.
    pub(super) fn control(&self) -> *mut u8 {
        // SAFETY: a slot is `room` bytes and the control area behind them long.
        unsafe { self.address().add(self.room()) }
    }

    fn room(&self) -> usize {
        self.pool.room(self.size, self.id)
    }

    fn address(&self) -> *mut u8 {
        self.pool.address(self.size, self.id)
    }

    /// The whole buffer, the room in front and behind included.
    pub(super) fn whole(&mut self) -> &mut [u8] {
        // SAFETY: this RingBuf is the only owner of buffer `id`: it is neither on the stack nor posted (`taken` and
        // `acquire` hand an id out once, `release` is called only by drop). The memory was zeroed at first.
        unsafe { std::slice::from_raw_parts_mut(self.address(), self.room()) }
    }
}

impl Deref for RingBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: as in `whole`; start <= end <= room holds after every method.
        let whole = unsafe { std::slice::from_raw_parts(self.address(), self.room()) };
        &whole[self.start as usize..self.end as usize]
    }
}

impl DerefMut for RingBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        let range = self.start as usize..self.end as usize;
        &mut self.whole()[range]
    }
}

impl Drop for RingBuf {
    fn drop(&mut self) {
        self.pool.release(self.size, self.id);
    }
}

/// Bytes that can be given to the kernel to send.
///
/// # Safety
/// `bytes` returns the same memory, unchanged, for as long as the value lives, also when the value
/// is moved.
pub unsafe trait SendBuf: 'static {
    /// The bytes.
    fn bytes(&self) -> &[u8];
}

// SAFETY: the memory belongs to the pool, which the value keeps alive; it is not moved by moving the handle.
unsafe impl SendBuf for RingBuf {
    fn bytes(&self) -> &[u8] {
        self
    }
}

// SAFETY: a vector's bytes are on the heap and do not move with it; an owned vector in flight is not reachable for change.
unsafe impl SendBuf for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }
}

// SAFETY: static memory neither moves nor ends.
unsafe impl SendBuf for &'static [u8] {
    fn bytes(&self) -> &[u8] {
        self
    }
}

// SAFETY: the bytes are shared and immutable, and do not move with the handle.
unsafe impl SendBuf for Bytes {
    fn bytes(&self) -> &[u8] {
        self
    }
}

// SAFETY: the slice is on the heap, shared and immutable.
unsafe impl SendBuf for Rc<[u8]> {
    fn bytes(&self) -> &[u8] {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::super::pool::PoolConfig;
    use super::*;

    fn buffer() -> RingBuf {
        let config = PoolConfig {
            payload: 1000,
            large_payload: 2000,
            posted: 1,
            max: 2,
            large_max: 1,
            group: 0,
        };
        BufferPool::new(config)
            .unwrap()
            .acquire(Size::Small)
            .unwrap()
    }

    #[test]
    fn bytes_can_be_consumed_compacted_and_appended() {
        let mut buffer = buffer();
        assert!(buffer.spare() >= 1000 + BUFFER_BACK);
        buffer.append(b"hello, tunnel");
        buffer.consume(7);
        assert_eq!(&*buffer, b"tunnel");
        let room = buffer.spare();
        buffer.compact();
        assert_eq!((&*buffer, buffer.spare()), (&b"tunnel"[..], room + 7));
        buffer.append(b"!");
        buffer.put_in_front(b"the ");
        assert_eq!(&*buffer, b"the tunnel!");
        buffer.consume(4);
        buffer.widen(2, 0);
        assert_eq!(buffer.len(), 9);
        assert_eq!(&buffer[2..], b"tunnel!");
    }

    #[test]
    fn bytes_move_to_memory_of_their_size_and_grow_there() {
        let mut buffer = buffer();
        let pool = buffer.pool.clone();
        buffer.append(b"x");
        let mut own = buffer.into_own();
        assert_eq!((pool.in_use(), pool.own_count()), (0, 1));
        assert!(pool.own_bytes() < 600, "{}", pool.own_bytes());
        let mut expected = b"x".to_vec();
        for part in 0..3000u32 {
            let part = [part as u8, (part >> 8) as u8];
            own = own.joined(&part);
            expected.extend_from_slice(&part);
            assert_eq!(&*own, &expected[..]);
            assert!(own.spare() >= BUFFER_BACK, "the room behind is kept");
        }
        own.consume(expected.len() - 3);
        let own = own.into_own();
        assert_eq!(&*own, &expected[expected.len() - 3..]);
        assert!(pool.own_bytes() < 600, "what is left is small again");
        drop(own);
        assert_eq!((pool.own_count(), pool.own_bytes()), (0, 0));
    }

    #[test]
    #[should_panic(expected = "appending more")]
    fn appending_beyond_the_end_is_refused() {
        let mut buffer = buffer();
        let too_long = vec![0; buffer.spare() + 1];
        buffer.append(&too_long);
    }

    #[test]
    #[should_panic(expected = "widening beyond")]
    fn widening_beyond_the_front_is_refused() {
        buffer().widen(BUFFER_FRONT + 1, 0);
    }
}
