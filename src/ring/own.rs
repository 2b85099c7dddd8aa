//! Memory of its own size for bytes that wait for the rest of them: the start of a hello, of a
//! header, of a record.
//!
//! A buffer of the pool holds a whole record, whatever is in it. Who waits with less gives it back
//! and keeps the bytes in a block of the heap, so that a thousand clients that send one byte each
//! hold a thousand small blocks and no buffer.

use std::cell::{Cell, RefCell};
use std::ptr::NonNull;

use slab::Slab;

use super::buffers::{BUFFER_BACK, BUFFER_FRONT};
use super::pieces::CONTROL;

/// Bytes of a cache line: what blocks are measured in, and aligned to.
const LINE: usize = 64;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; LINE]);

/// One block of the heap; given back when it is dropped.
struct Block {
    base: NonNull<Line>,
    lines: usize,
}

impl Block {
    fn new(bytes: usize) -> Self {
        let lines = bytes.div_ceil(LINE);
        let memory: Box<[Line]> = vec![Line([0; LINE]); lines].into_boxed_slice();
        let base = NonNull::from(Box::leak(memory)).cast();
        Self { base, lines }
    }

    fn bytes(&self) -> usize {
        self.lines * LINE
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let memory = std::ptr::slice_from_raw_parts_mut(self.base.as_ptr(), self.lines);
        // SAFETY: `new` leaked a box of so many lines at this place, and nothing else frees it.
        drop(unsafe { Box::from_raw(memory) });
    }
}

/// The blocks of one pool. Each belongs to the one buffer that has its number.
#[derive(Default)]
pub(super) struct OwnMemory {
    blocks: RefCell<Slab<Block>>,
    bytes: Cell<usize>,
}

impl OwnMemory {
    /// A block for `payload` bytes, with the room around them that every buffer has.
    pub fn take(&self, payload: usize) -> u32 {
        let block = Block::new(BUFFER_FRONT + payload + BUFFER_BACK + CONTROL);
        self.bytes.set(self.bytes.get() + block.bytes());
        let id = self.blocks.borrow_mut().insert(block);
        u32::try_from(id).expect("a block for each connection at most")
    }

    /// Returns where block `id` begins.
    pub fn address(&self, id: u32) -> *mut u8 {
        self.blocks.borrow()[id as usize].base.as_ptr().cast()
    }

    /// Bytes of block `id`, without what is kept behind them for the kernel.
    pub fn room(&self, id: u32) -> usize {
        self.blocks.borrow()[id as usize].bytes() - CONTROL
    }

    /// Gives block `id` back.
    pub fn release(&self, id: u32) {
        let mut blocks = self.blocks.borrow_mut();
        let block = blocks.remove(id as usize);
        self.bytes.set(self.bytes.get() - block.bytes());
        if blocks.is_empty() {
            // The table goes with the last of a crowd.
            blocks.shrink_to_fit();
        }
    }

    /// Bytes of all blocks.
    pub fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// How many blocks there are.
    pub fn count(&self) -> usize {
        self.blocks.borrow().len()
    }
}
