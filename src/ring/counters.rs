//! Counters of the runtime, for `/metrics` and for the leak tests.

use std::cell::Cell;
use std::io;

/// A snapshot of one runtime's counters and gauges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Loop turns since start; one `io_uring_enter` each.
    pub turns: u64,
    /// Completions handled.
    pub completions: u64,
    /// Receives that found the buffer ring empty and were retried when a buffer came back.
    pub enobufs: u64,
    /// Accepts or sockets that met the process or system file limit and were retried after a pause.
    pub emfile: u64,
    /// Pauses of accepting for want of files or memory.
    pub accept_pauses: u64,
    /// Operations that ended with a reset by the peer.
    pub resets: u64,
    /// Tasks that ended by a panic.
    pub panics: u64,
    /// Loop turns that found the completion queue overflowed (the kernel keeps the completions;
    /// none is lost).
    pub cq_overflow: u64,
    /// Wake-ups received from other threads.
    pub cross_wakes: u64,
    /// Buffers that have ever been put to use.
    pub buffers_total: u64,
    /// Buffers held by tasks now.
    pub buffers_in_use: u64,
    /// Small buffers at most.
    pub buffers_max: u64,
    /// Blocks of memory of their own size, in which a part of something waits for the rest.
    pub own_blocks: u64,
    /// Bytes of these blocks.
    pub own_bytes: u64,
    /// Tasks that have not ended.
    pub tasks_live: u64,
    /// Operations that the kernel has not completed (accept and wake-up included).
    pub operations_live: u64,
    /// Sockets open in this runtime, listeners apart.
    pub fds_live: u64,
    /// Timers set.
    pub timers_live: u64,
}

/// The cells behind the counters that are not derived from a pool's size.
#[derive(Default)]
pub(super) struct Cells {
    pub turns: Cell<u64>,
    pub completions: Cell<u64>,
    pub enobufs: Cell<u64>,
    pub emfile: Cell<u64>,
    pub accept_pauses: Cell<u64>,
    pub resets: Cell<u64>,
    pub panics: Cell<u64>,
    pub cq_overflow: Cell<u64>,
    pub cross_wakes: Cell<u64>,
    pub fds_live: Cell<u64>,
}

/// Adds one to a counter cell.
pub(super) fn bump(cell: &Cell<u64>) {
    cell.set(cell.get().wrapping_add(1));
}

/// Counts an error that says that there are no more files.
pub(super) fn count_exhaustion(cells: &Cells, error: &io::Error) {
    if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) {
        bump(&cells.emfile);
    }
}

impl Counters {
    /// Adds what another core counted.
    pub fn merge(&mut self, other: &Self) {
        // Taken apart, so that a new field cannot be forgotten here.
        let Self {
            turns,
            completions,
            enobufs,
            emfile,
            accept_pauses,
            resets,
            panics,
            cq_overflow,
            cross_wakes,
            buffers_total,
            buffers_in_use,
            buffers_max,
            own_blocks,
            own_bytes,
            tasks_live,
            operations_live,
            fds_live,
            timers_live,
        } = self;
        *turns += other.turns;
        *completions += other.completions;
        *enobufs += other.enobufs;
        *emfile += other.emfile;
        *accept_pauses += other.accept_pauses;
        *resets += other.resets;
        *panics += other.panics;
        *cq_overflow += other.cq_overflow;
        *cross_wakes += other.cross_wakes;
        *buffers_total += other.buffers_total;
        *buffers_in_use += other.buffers_in_use;
        *buffers_max += other.buffers_max;
        *own_blocks += other.own_blocks;
        *own_bytes += other.own_bytes;
        *tasks_live += other.tasks_live;
        *operations_live += other.operations_live;
        *fds_live += other.fds_live;
        *timers_live += other.timers_live;
    }
}
