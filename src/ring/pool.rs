//! The buffer pool of a core and the ring through which the kernel takes buffers from it.
//!
//! Two sizes: small ones, which the kernel fills when bytes arrive for a connection that waits, and
//! large ones, which a connection takes when it knows that much is there to be received. The
//! address space for the largest pool is reserved once; memory is used as buffers are first touched
//! and given back by [`BufferPool::trim`]. A small number of small buffers is posted to the
//! kernel's ring at a time and the rest waits on a stack, the last used on top, so that a quiet
//! core keeps to the memory that its cache already holds. A buffer is in exactly one place: on the
//! stack, posted, or in one [`RingBuf`]. What waits for the rest of it longer than others may is in
//! memory of its own size ([`super::own`]).

use std::cell::{Cell, RefCell};
use std::io;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::task::Waker;

use io_uring::types::BufRingEntry;

use super::buffers::{BUFFER_BACK, BUFFER_FRONT, RingBuf};
use super::own::OwnMemory;
use super::pieces::CONTROL;

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

/// Which size a buffer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    Small,
    Large,
    /// As large as what is in it.
    Own,
}

/// All buffers of one size.
struct Slots {
    memory: Mapping,
    stride: usize,
    max: u16,
    created: Cell<u16>,
    free: RefCell<Vec<u16>>,
    /// The fewest that were free since the last trim: those at the bottom of the stack were not
    /// needed.
    unneeded: Cell<usize>,
    /// Of each buffer: whether it may hold memory.
    resident: RefCell<Vec<bool>>,
}

impl Slots {
    fn new(payload: usize, max: u16) -> io::Result<Self> {
        let stride = (BUFFER_FRONT + payload + BUFFER_BACK).next_multiple_of(64) + CONTROL;
        Ok(Self {
            memory: Mapping::new(stride * usize::from(max).max(1))?,
            stride,
            max,
            created: Cell::new(0),
            free: RefCell::new(Vec::new()),
            unneeded: Cell::new(0),
            resident: RefCell::new(Vec::new()),
        })
    }

    fn take(&self) -> Option<u16> {
        let mut free = self.free.borrow_mut();
        if let Some(id) = free.pop() {
            self.unneeded.set(self.unneeded.get().min(free.len()));
            self.resident.borrow_mut()[usize::from(id)] = true;
            return Some(id);
        }
        let id = self.created.get();
        (id < self.max).then(|| {
            self.created.set(id + 1);
            self.resident.borrow_mut().push(true);
            id
        })
    }

    fn address(&self, id: u16) -> *mut u8 {
        debug_assert!(id < self.max, "a buffer of another pool");
        // SAFETY: id is below `max`, and the mapping is `max` strides long.
        unsafe { self.memory.base.as_ptr().add(usize::from(id) * self.stride) }
    }

    /// Gives the memory of buffers that were not needed since the last call back to the system,
    /// `limit` at most.
    fn trim(&self, limit: usize) -> usize {
        let free = self.free.borrow();
        let unneeded = self.unneeded.replace(free.len()).min(free.len());
        let mut resident = self.resident.borrow_mut();
        let mut given = 0;
        for &id in &free[..unneeded] {
            if given == limit {
                break;
            }
            if std::mem::take(&mut resident[usize::from(id)]) {
                given += 1;
                self.give_back(id);
            }
        }
        given
    }

    fn give_back(&self, id: u16) {
        const PAGE: usize = 4096;
        let start = (self.address(id) as usize).next_multiple_of(PAGE);
        let end = (self.address(id) as usize + self.stride) / PAGE * PAGE;
        if start < end {
            // SAFETY: the pages lie wholly inside buffer `id`, which is on the free stack: nobody, the kernel included,
            // reads or writes it before it is taken again, and then its contents are not assumed.
            unsafe { libc::madvise(start as *mut _, end - start, libc::MADV_DONTNEED) };
        }
    }
}

/// Sizes of a pool.
#[derive(Clone, Copy, Debug)]
pub(super) struct PoolConfig {
    /// Bytes that one receive may fill in a small buffer.
    pub payload: usize,
    /// Bytes that one receive may fill in a large buffer.
    pub large_payload: usize,
    /// Small buffers posted to the kernel at a time; a power of two.
    pub posted: u16,
    /// Small buffers at most.
    pub max: u16,
    /// Large buffers at most.
    pub large_max: u16,
    /// The kernel's name for the ring.
    pub group: u16,
}

/// One in so many of the small buffers may hold a part of a record that waits for its rest.
const IN_PLACE_PART: u16 = 4;

/// The right to wait in a buffer for the rest of a record; given back on drop.
pub(super) struct InPlace<'a>(&'a BufferPool);

impl Drop for InPlace<'_> {
    fn drop(&mut self) {
        self.0.in_place.set(self.0.in_place.get() - 1);
    }
}

/// The pool. Shared by the driver and every [`RingBuf`] of one core.
pub(super) struct BufferPool {
    config: PoolConfig,
    small: Slots,
    large: Slots,
    own: OwnMemory,
    /// Buffers in which a part of a record waits for the rest.
    in_place: Cell<u16>,
    ring: Mapping,
    tail: Cell<u16>,
    posted: Cell<u16>,
    in_use: Cell<u64>,
    waiters: RefCell<Vec<Waker>>,
}

impl BufferPool {
    pub fn new(config: PoolConfig) -> io::Result<Rc<Self>> {
        assert!(
            config.posted.is_power_of_two() && config.max >= config.posted,
            "pool sizes"
        );
        let pool = Rc::new(Self {
            config,
            small: Slots::new(config.payload, config.max)?,
            large: Slots::new(config.large_payload, config.large_max)?,
            own: OwnMemory::default(),
            in_place: Cell::new(0),
            ring: Mapping::new(usize::from(config.posted) * size_of::<BufRingEntry>())?,
            tail: Cell::new(0),
            posted: Cell::new(0),
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

    /// The kernel's name for the ring.
    pub fn group(&self) -> u16 {
        self.config.group
    }

    /// Small buffers at most.
    pub fn max(&self) -> u64 {
        u64::from(self.config.max)
    }

    /// Buffers ever put to use.
    pub fn created(&self) -> u64 {
        u64::from(self.small.created.get()) + u64::from(self.large.created.get())
    }

    /// Buffers held by tasks.
    pub fn in_use(&self) -> u64 {
        self.in_use.get()
    }

    /// Bytes in memory of their own size, the room around them included.
    pub fn own_bytes(&self) -> u64 {
        self.own.bytes() as u64
    }

    /// How many blocks hold them.
    pub fn own_count(&self) -> u64 {
        self.own.count() as u64
    }

    /// The right to wait in a buffer for the rest of a record. `None` when as many do as may: a
    /// part of the pool, so that those who wait never have all of it.
    pub fn wait_in_place(&self) -> Option<InPlace<'_>> {
        let waiting = self.in_place.get();
        (waiting < self.config.max / IN_PLACE_PART).then(|| {
            self.in_place.set(waiting + 1);
            InPlace(self)
        })
    }

    /// Empty memory for `payload` bytes.
    pub fn own(self: &Rc<Self>, payload: usize) -> RingBuf {
        RingBuf::new(self.clone(), Size::Own, self.own.take(payload), 0)
    }

    /// Returns whether a receive posted now could find a buffer.
    pub fn has_posted(&self) -> bool {
        self.posted.get() > 0
    }

    /// Asks to be woken when a buffer comes back.
    pub fn wait(&self, waker: &Waker) {
        self.waiters.borrow_mut().push(waker.clone());
    }

    /// Notes that the kernel took small buffer `id` out of the ring and filled `len` bytes of it.
    pub fn taken(self: &Rc<Self>, id: u16, len: usize) -> RingBuf {
        debug_assert!(
            id < self.small.created.get() && len <= self.config.payload,
            "completion of a foreign buffer"
        );
        self.posted.set(self.posted.get() - 1);
        self.in_use.set(self.in_use.get() + 1);
        self.refill();
        RingBuf::new(self.clone(), Size::Small, id.into(), len)
    }

    /// Takes an empty buffer of the pool. `None` when all of that size are in use.
    pub fn acquire(self: &Rc<Self>, size: Size) -> Option<RingBuf> {
        let id = self.slots(size)?.take()?;
        self.in_use.set(self.in_use.get() + 1);
        Some(RingBuf::new(self.clone(), size, id.into(), 0))
    }

    /// Returns where buffer `id` begins.
    pub fn address(&self, size: Size, id: u32) -> *mut u8 {
        match self.slots(size) {
            Some(slots) => slots.address(id as u16),
            None => self.own.address(id),
        }
    }

    /// Bytes of a buffer, its room in front and behind included, and what this module keeps behind
    /// them not.
    pub fn room(&self, size: Size, id: u32) -> usize {
        match self.slots(size) {
            Some(slots) => slots.stride - CONTROL,
            None => self.own.room(id),
        }
    }

    /// Gives the memory of buffers that were not needed since the last call back to the system,
    /// `limit` at most of each size. Returns how many.
    pub fn trim(&self, limit: usize) -> usize {
        self.small.trim(limit) + self.large.trim(limit)
    }

    /// Takes a buffer back.
    pub fn release(&self, size: Size, id: u32) {
        let Some(slots) = self.slots(size) else {
            self.own.release(id);
            return;
        };
        let id = id as u16;
        self.in_use.set(self.in_use.get() - 1);
        if size == Size::Small && self.posted.get() < self.config.posted {
            self.post(id);
            self.publish();
        } else {
            slots.free.borrow_mut().push(id);
        }
        // All of them: one whose task has gone meanwhile must not swallow the wake-up of another.
        if size == Size::Small {
            self.waiters.borrow_mut().drain(..).for_each(Waker::wake);
        }
    }

    fn slots(&self, size: Size) -> Option<&Slots> {
        match size {
            Size::Small => Some(&self.small),
            Size::Large => Some(&self.large),
            Size::Own => None,
        }
    }

    /// Posts free buffers until the ring is full again.
    fn refill(&self) {
        let before = self.tail.get();
        while self.posted.get() < self.config.posted {
            let Some(id) = self.small.take() else { break };
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
        let entry = unsafe { &mut *entries.add(usize::from(index)) };
        entry.set_addr(self.small.address(id) as u64 + BUFFER_FRONT as u64);
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(posted: u16, max: u16) -> Rc<BufferPool> {
        BufferPool::new(PoolConfig {
            payload: 1000,
            large_payload: 20_000,
            posted,
            max,
            large_max: 3,
            group: 0,
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
        let rest: Vec<RingBuf> = std::iter::from_fn(|| pool.acquire(Size::Small)).collect();
        assert_eq!(rest.len(), 1);
        let second = pool.taken(1, 10);
        assert_eq!(pool.posted.get(), 3, "nothing left to post");
        drop(first);
        assert_eq!(pool.posted.get(), 4, "a returned buffer is posted first");
        drop((second, rest));
        assert_eq!((pool.in_use(), pool.small.free.borrow().len()), (0, 2));
    }

    #[test]
    fn the_number_of_large_buffers_is_bounded() {
        let pool = pool(1, 1);
        let all: Vec<RingBuf> = std::iter::from_fn(|| pool.acquire(Size::Large)).collect();
        assert_eq!((all.len(), pool.in_use()), (3, 3));
        drop(all);
        assert!(pool.acquire(Size::Large).is_some());
    }

    #[test]
    fn memory_that_was_not_needed_is_given_back_once() {
        let pool = pool(1, 1);
        let all: Vec<RingBuf> = std::iter::from_fn(|| pool.acquire(Size::Large)).collect();
        assert_eq!(pool.trim(10), 0, "all are in use");
        drop(all);
        assert_eq!(pool.trim(10), 0, "all were needed since the last time");
        drop(pool.acquire(Size::Large));
        assert_eq!(pool.trim(10), 2, "one was needed");
        assert_eq!(pool.trim(10), 1);
        assert_eq!(pool.trim(10), 0, "there is nothing left to give");
        let mut again = pool.acquire(Size::Large).unwrap();
        again.append(b"usable");
        assert_eq!(&*again, b"usable");
    }
}
