//! The buffer pool of a core and the ring through which the kernel takes buffers from it.
//!
//! The address space for the largest pool is reserved once; memory is used as buffers are first touched. A small number
//! of buffers is posted to the kernel's ring at a time and the rest waits on a stack, the last used on top, so that a
//! quiet core keeps to the memory that its cache already holds. A buffer is in exactly one place: on the stack, posted,
//! or in one [`RingBuf`].

use std::cell::{Cell, RefCell};
use std::io;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::task::Waker;

use io_uring::types::BufRingEntry;

/// An anonymous private mapping, zeroed by the kernel.
struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

impl Mapping {
    fn new(len: usize) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no existing memory.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base =
            NonNull::new(base.cast()).expect("mmap never maps page zero for an unprivileged hint");
        Ok(Self { base, len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: base and len are those of the mapping made in `new`; the pool outlives every buffer in it, and the
        // runtime keeps the pool until the kernel has completed every operation (see `Runtime::drop`).
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// Sizes of a pool.
#[derive(Clone, Copy, Debug)]
pub(super) struct PoolConfig {
    /// Bytes that one receive may fill.
    pub payload: usize,
    /// Bytes behind the payload that are never filled by a receive, for protocols that grow what they pass on.
    pub tail_room: usize,
    /// Buffers posted to the kernel at a time; a power of two.
    pub posted: u16,
    /// Buffers at most.
    pub max: u16,
}

/// The pool. Shared by the driver and every [`RingBuf`] of one core.
pub(super) struct BufferPool {
    config: PoolConfig,
    stride: usize,
    memory: Mapping,
    ring: Mapping,
    tail: Cell<u16>,
    posted: Cell<u16>,
    created: Cell<u16>,
    free: RefCell<Vec<u16>>,
    in_use: Cell<u64>,
    waiters: RefCell<Vec<Waker>>,
}

impl BufferPool {
    pub fn new(config: PoolConfig) -> io::Result<Rc<Self>> {
        assert!(
            config.posted.is_power_of_two() && config.max >= config.posted,
            "pool sizes"
        );
        let stride = (config.payload + config.tail_room).next_multiple_of(64);
        let pool = Rc::new(Self {
            config,
            stride,
            memory: Mapping::new(stride * config.max as usize)?,
            ring: Mapping::new(config.posted as usize * size_of::<BufRingEntry>())?,
            tail: Cell::new(0),
            posted: Cell::new(0),
            created: Cell::new(0),
            free: RefCell::new(Vec::new()),
            in_use: Cell::new(0),
            waiters: RefCell::new(Vec::new()),
        });
        pool.refill();
        Ok(pool)
    }

    /// Address and entry count of the kernel's ring.
    pub fn ring_address(&self) -> (u64, u16) {
        (self.ring.base.as_ptr() as u64, self.config.posted)
    }

    /// Buffers ever put to use.
    pub fn created(&self) -> u64 {
        u64::from(self.created.get())
    }

    /// Buffers held by tasks.
    pub fn in_use(&self) -> u64 {
        self.in_use.get()
    }

    /// Whether a receive posted now could find a buffer.
    pub fn has_posted(&self) -> bool {
        self.posted.get() > 0
    }

    /// Asks to be woken when a buffer comes back.
    pub fn wait(&self, waker: &Waker) {
        self.waiters.borrow_mut().push(waker.clone());
    }

    /// Notes that the kernel took buffer `id` out of the ring and filled `len` bytes of it.
    pub fn taken(self: &Rc<Self>, id: u16, len: usize) -> RingBuf {
        debug_assert!(
            id < self.created.get() && len <= self.config.payload,
            "completion of a foreign buffer"
        );
        self.posted.set(self.posted.get() - 1);
        self.in_use.set(self.in_use.get() + 1);
        self.refill();
        RingBuf {
            pool: self.clone(),
            id,
            start: 0,
            end: len as u32,
        }
    }

    /// Takes an empty buffer. `None` when the pool is exhausted.
    #[cfg(test)]
    pub fn acquire(self: &Rc<Self>) -> Option<RingBuf> {
        let id = self.next_free()?;
        self.in_use.set(self.in_use.get() + 1);
        Some(RingBuf {
            pool: self.clone(),
            id,
            start: 0,
            end: 0,
        })
    }

    fn next_free(&self) -> Option<u16> {
        self.free.borrow_mut().pop().or_else(|| {
            let id = self.created.get();
            (id < self.config.max).then(|| {
                self.created.set(id + 1);
                id
            })
        })
    }

    /// Posts free buffers until the ring is full again.
    fn refill(&self) {
        let before = self.tail.get();
        while self.posted.get() < self.config.posted {
            let Some(id) = self.next_free() else { break };
            self.post(id);
        }
        if self.tail.get() != before {
            self.publish();
        }
    }

    fn post(&self, id: u16) {
        let index = self.tail.get() & (self.config.posted - 1);
        let entries = self.ring.base.as_ptr().cast::<BufRingEntry>();
        // SAFETY: index is below the entry count, so the entry lies in the mapping; the kernel does not read entries at
        // or beyond the published tail. Only the three fields are written: entry 0's last two bytes are the tail itself.
        let entry = unsafe { &mut *entries.add(index as usize) };
        entry.set_addr(self.address(id) as u64);
        entry.set_len(self.config.payload as u32);
        entry.set_bid(id);
        self.tail.set(self.tail.get().wrapping_add(1));
        self.posted.set(self.posted.get() + 1);
    }

    fn publish(&self) {
        // SAFETY: the ring's base is page aligned and holds at least one entry; the tail is an aligned u16 in it that
        // the kernel reads concurrently, hence the atomic store with release ordering after the entries were written.
        unsafe {
            let tail = BufRingEntry::tail(self.ring.base.as_ptr().cast()).cast::<AtomicU16>();
            (*tail).store(self.tail.get(), Ordering::Release);
        }
    }

    fn address(&self, id: u16) -> *mut u8 {
        // SAFETY: id is below `max`, and the mapping is `max` strides long.
        unsafe { self.memory.base.as_ptr().add(id as usize * self.stride) }
    }

    fn release(&self, id: u16) {
        self.in_use.set(self.in_use.get() - 1);
        if self.posted.get() < self.config.posted {
            self.post(id);
            self.publish();
        } else {
            self.free.borrow_mut().push(id);
        }
        // All of them: one whose task has gone meanwhile must not swallow the wake-up of another.
        self.waiters.borrow_mut().drain(..).for_each(Waker::wake);
    }
}

/// A buffer of the core's pool, owned by a task: the bytes in it, the room behind them, and its return on drop.
pub struct RingBuf {
    pool: Rc<BufferPool>,
    id: u16,
    start: u32,
    end: u32,
}

impl RingBuf {
    /// Bytes that can still be appended.
    #[must_use]
    pub fn spare(&self) -> usize {
        self.pool.stride - self.end as usize
    }

    /// Drops the first `count` bytes; their room stays in front of the rest until [`RingBuf::compact`].
    ///
    /// # Panics
    /// If there are fewer.
    pub fn consume(&mut self, count: usize) {
        assert!(count <= self.len(), "consuming more than the buffer holds");
        self.start += count as u32;
    }

    /// Puts `bytes` into the room in front of the bytes that the buffer still holds, ready to be sent.
    ///
    /// # Panics
    /// If that room, which [`RingBuf::consume`] makes, is too small.
    #[must_use]
    pub fn with_front(mut self, bytes: &[u8]) -> Front {
        if self.is_empty() {
            (self.start, self.end) = (bytes.len() as u32, bytes.len() as u32);
        }
        assert!(
            bytes.len() <= self.start as usize,
            "more bytes than room in front"
        );
        self.whole()[..bytes.len()].copy_from_slice(bytes);
        Front {
            rest: self,
            len: bytes.len(),
        }
    }

    /// Keeps only `range` of the bytes.
    ///
    /// # Panics
    /// If the range is out of bounds.
    pub fn keep(&mut self, range: Range<usize>) {
        assert!(
            range.start <= range.end && range.end <= self.len(),
            "keeping more than the buffer holds"
        );
        self.end = self.start + range.end as u32;
        self.start += range.start as u32;
    }

    /// Moves the bytes to the front, so that all room is behind them.
    pub fn compact(&mut self) {
        if self.start > 0 {
            let (start, end) = (self.start as usize, self.end as usize);
            self.whole().copy_within(start..end, 0);
            (self.start, self.end) = (0, (end - start) as u32);
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

    /// Replaces the contents.
    ///
    /// # Panics
    /// If they do not fit in the whole buffer.
    pub fn replace(&mut self, bytes: &[u8]) {
        (self.start, self.end) = (0, 0);
        self.append(bytes);
    }

    /// Where the kernel may write more bytes, and how many.
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

    fn whole(&mut self) -> &mut [u8] {
        // SAFETY: this RingBuf is the only owner of buffer `id`: it is neither on the stack nor posted (`taken` and
        // `next_free` hand an id out once, `release` is called only by drop). The memory was zeroed at first.
        unsafe { std::slice::from_raw_parts_mut(self.pool.address(self.id), self.pool.stride) }
    }
}

impl Deref for RingBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: as in `whole`; start <= end <= stride holds after every method.
        let whole =
            unsafe { std::slice::from_raw_parts(self.pool.address(self.id), self.pool.stride) };
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
        self.pool.release(self.id);
    }
}

/// Bytes in front of what a buffer holds: the opened part of a stream before the part that is not complete yet.
pub struct Front {
    rest: RingBuf,
    len: usize,
}

impl Front {
    /// The buffer without the front; `None`, and the buffer goes back to the pool, if it holds nothing else.
    #[must_use]
    pub fn into_rest(self) -> Option<RingBuf> {
        let mut rest = self.rest;
        rest.compact();
        (!rest.is_empty()).then_some(rest)
    }
}

impl Deref for Front {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: as in `RingBuf::whole`, and len <= start <= stride was asserted when the front was made.
        unsafe { std::slice::from_raw_parts(self.rest.pool.address(self.rest.id), self.len) }
    }
}

/// Bytes that can be given to the kernel to send.
///
/// # Safety
/// `bytes` returns the same memory, unchanged, for as long as the value lives, also when the value is moved.
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

// SAFETY: as for the buffer that it is a part of.
unsafe impl SendBuf for Front {
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

// SAFETY: the slice is on the heap, shared and immutable.
unsafe impl SendBuf for Rc<[u8]> {
    fn bytes(&self) -> &[u8] {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(posted: u16, max: u16) -> Rc<BufferPool> {
        BufferPool::new(PoolConfig {
            payload: 1000,
            tail_room: 100,
            posted,
            max,
        })
        .unwrap()
    }

    #[test]
    fn a_buffer_is_posted_free_or_held_and_comes_back() {
        let pool = pool(4, 6);
        assert_eq!((pool.created(), pool.in_use()), (4, 0));
        let first = pool.taken(0, 10);
        assert_eq!(
            (pool.created(), pool.in_use(), pool.posted.get()),
            (5, 1, 4)
        );
        let rest: Vec<RingBuf> = std::iter::from_fn(|| pool.acquire()).collect();
        assert_eq!(rest.len(), 1);
        let second = pool.taken(1, 10);
        assert_eq!(pool.posted.get(), 3, "nothing left to post");
        drop(first);
        assert_eq!(pool.posted.get(), 4, "a returned buffer is posted first");
        drop((second, rest));
        assert_eq!((pool.in_use(), pool.free.borrow().len()), (0, 2));
    }

    #[test]
    fn bytes_can_be_consumed_compacted_and_appended() {
        let pool = pool(1, 2);
        let mut buffer = pool.acquire().unwrap();
        buffer.append(b"hello, tunnel");
        buffer.consume(7);
        assert_eq!(&*buffer, b"tunnel");
        let room = buffer.spare();
        buffer.compact();
        assert_eq!((&*buffer, buffer.spare()), (&b"tunnel"[..], room + 7));
        buffer.append(b"!");
        buffer.keep(3..7);
        assert_eq!(&*buffer, b"nel!");
        buffer.consume(2);
        let front = buffer.with_front(b"front");
        assert_eq!(&*front, b"front");
        let mut rest = front.into_rest().expect("two bytes are left");
        assert_eq!((&*rest, rest.spare()), (&b"l!"[..], rest.pool.stride - 2));
        rest.consume(2);
        assert!(rest.with_front(b"whole").into_rest().is_none());
        assert_eq!(pool.in_use(), 0);
    }

    #[test]
    #[should_panic(expected = "appending more")]
    fn appending_beyond_the_end_is_refused() {
        let pool = pool(1, 2);
        let mut buffer = pool.acquire().unwrap();
        let too_long = vec![0; buffer.spare() + 1];
        buffer.append(&too_long);
    }
}
