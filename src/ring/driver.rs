//! The driver: submits operations, keeps what the kernel may still touch, and delivers completions.

use std::any::Any;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use io_uring::{IoUring, Probe, cqueue, opcode, squeue, types};
use slab::Slab;

use super::buffers::RingBuf;
use super::counters::{Cells, bump};
use super::enter;
use super::error::RingError;
use super::pool::BufferPool;

/// Completions that belong to no entry of the table.
const KEY_CANCEL: u64 = u64::MAX;
const KEY_CLOSE: u64 = u64::MAX - 1;
const KEY_EVENT: u64 = u64::MAX - 2;

/// Result of a completion besides its number; it must be cleaned up when nobody waits for it any
/// more.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing.
    Plain,
    /// A buffer of the pool, if the completion says so.
    Buffer,
    /// The same of the guests' pool.
    Guest,
    /// A new descriptor, if the result is not negative.
    Descriptor,
}

/// One completion as its future sees it.
pub(super) struct Completion {
    pub result: io::Result<u32>,
    pub buffer: Option<RingBuf>,
    pub flags: u32,
}

enum State {
    Waiting(Option<Waker>),
    /// A multishot operation: completions that wait to be taken, and whether more will come.
    Streaming {
        ready: VecDeque<i32>,
        waker: Option<Waker>,
        finished: bool,
    },
    Done(Completion),
    /// The future is gone. What the kernel may still touch stays here until the last completion.
    Abandoned {
        _keep: Option<Box<dyn Any>>,
    },
}

struct OpEntry {
    generation: u32,
    kind: Kind,
    state: State,
}

/// Names an operation: its slot in the table and the generation of that slot's use.
pub(super) type Key = u64;

/// The io_uring of one core and its table of operations.
pub(super) struct Driver {
    ring: IoUring,
    registered: u32,
    entries: Slab<OpEntry>,
    generation: u32,
    pool: Rc<BufferPool>,
    guests: Rc<BufferPool>,
    event_fd: i32,
    cells: Rc<Cells>,
    /// Resources of abandoned operations, dropped when the driver is no longer borrowed.
    garbage: Vec<Box<dyn Any>>,
    turn_limit: usize,
}

impl Driver {
    pub fn new(
        entries: u32,
        turn_limit: usize,
        [pool, guests]: [Rc<BufferPool>; 2],
        event_fd: i32,
        cells: Rc<Cells>,
    ) -> Result<Self, RingError> {
        let ring = set_up(entries)?;
        require_features(&ring)?;
        let registered = enter::register(&ring).map_err(|_| {
            RingError::missing(
                "registered ring descriptors (IORING_REGISTER_RING_FDS)",
                "5.18",
            )
        })?;
        for pool in [&pool, &guests] {
            let (address, count) = pool.ring_address();
            // SAFETY: the address is a page-aligned mapping of `count` entries owned by `pool`, which `self` keeps alive
            // until the ring is closed (fields drop in order: `ring` first).
            unsafe {
                ring.submitter()
                    .register_buf_ring_with_flags(address, count, pool.group(), 0)
            }
            .map_err(|_| {
                RingError::missing("provided-buffer rings (IORING_REGISTER_PBUF_RING)", "5.19")
            })?;
        }
        let mut driver = Self {
            ring,
            registered,
            entries: Slab::with_capacity(1024),
            generation: 0,
            pool,
            guests,
            event_fd,
            cells,
            garbage: Vec::new(),
            turn_limit,
        };
        driver.arm_event();
        Ok(driver)
    }

    /// Operations that have not completed.
    pub fn live(&self) -> usize {
        self.entries.len()
    }

    /// Shrinks the table to what is in flight.
    pub fn shrink(&mut self) {
        self.entries.shrink_to_fit();
    }

    /// Starts an operation with one completion.
    pub fn start(&mut self, entry: squeue::Entry, kind: Kind) -> Key {
        self.insert(entry, kind, State::Waiting(None))
    }

    /// Starts an operation with many completions.
    pub fn start_stream(&mut self, entry: squeue::Entry, kind: Kind) -> Key {
        self.insert(
            entry,
            kind,
            State::Streaming {
                ready: VecDeque::new(),
                waker: None,
                finished: false,
            },
        )
    }

    fn insert(&mut self, entry: squeue::Entry, kind: Kind, state: State) -> Key {
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation & 0x7fff_ffff; // keeps clear of the reserved keys
        let slot = self.entries.insert(OpEntry {
            generation,
            kind,
            state,
        });
        let key = u64::from(generation) << 32 | slot as u64;
        self.push(&entry.user_data(key));
        key
    }

    /// Takes the completion of an operation, or leaves a waker.
    pub fn poll(&mut self, key: Key, waker: &Waker) -> Option<Completion> {
        let slot = key as u32 as usize;
        let entry = &mut self.entries[slot];
        match &mut entry.state {
            State::Waiting(Some(old)) if old.will_wake(waker) => None,
            State::Waiting(old) => {
                *old = Some(waker.clone());
                None
            }
            State::Done(_) => match self.entries.remove(slot).state {
                State::Done(completion) => Some(completion),
                _ => None,
            },
            State::Streaming { .. } | State::Abandoned { .. } => None,
        }
    }

    /// Takes the next result of a stream: `Ok(Some)` a result, `Ok(None)` to wait, `Err(())` at its
    /// end.
    pub fn poll_stream(&mut self, key: Key, waker: &Waker) -> Result<Option<i32>, ()> {
        let slot = key as u32 as usize;
        let State::Streaming {
            ready,
            waker: waiting,
            finished,
        } = &mut self.entries[slot].state
        else {
            return Err(());
        };
        if let Some(result) = ready.pop_front() {
            return Ok(Some(result));
        }
        if *finished {
            self.entries.remove(slot);
            return Err(());
        }
        *waiting = Some(waker.clone());
        Ok(None)
    }

    /// Gives an operation up: its resource is kept until the kernel is done with it, and the kernel
    /// is asked to stop.
    pub fn abandon(&mut self, key: Key, keep: Option<Box<dyn Any>>) {
        let slot = key as u32 as usize;
        let entry = &mut self.entries[slot];
        let kind = entry.kind;
        match std::mem::replace(&mut entry.state, State::Abandoned { _keep: keep }) {
            State::Done(completion) => {
                self.clean_up(kind, completion);
                self.discard_entry(slot);
            }
            State::Streaming {
                ready, finished, ..
            } => {
                ready
                    .into_iter()
                    .for_each(|result| self.clean_up_result(kind, result));
                if finished {
                    self.discard_entry(slot);
                } else {
                    self.cancel(key);
                }
            }
            State::Waiting(_) | State::Abandoned { .. } => self.cancel(key),
        }
    }

    /// Asks the kernel to stop an operation, whose results can still be polled for.
    pub fn cancel(&mut self, key: Key) {
        self.push(&opcode::AsyncCancel::new(key).build().user_data(KEY_CANCEL));
    }

    /// Asks the kernel to stop every operation on a descriptor; each completes with `ECANCELED`.
    pub fn cancel_fd(&mut self, fd: i32) {
        let target = types::CancelBuilder::fd(types::Fd(fd)).all();
        self.push(
            &opcode::AsyncCancel2::new(target)
                .build()
                .user_data(KEY_CANCEL),
        );
    }

    /// Closes a descriptor after everything that was started before.
    pub fn close(&mut self, fd: i32) {
        self.push(
            &opcode::Close::new(types::Fd(fd))
                .build()
                .user_data(KEY_CLOSE),
        );
    }

    fn arm_event(&mut self) {
        let poll = opcode::PollAdd::new(types::Fd(self.event_fd), libc::POLLIN as u32)
            .multi(true)
            .build();
        self.push(&poll.user_data(KEY_EVENT));
    }

    fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: what the entry points to stays valid until its completion: `Op` holds the resource and hands it to
        // `abandon` when it is dropped; cancel, close and poll entries point to nothing.
        while unsafe { self.ring.submission().push(entry) }.is_err() {
            // The queue is full: hand it over without waiting. EBUSY means that completions have to be taken first;
            // they are kept by the kernel, and taking them here only touches the table.
            let queued = self.ring.submission().len();
            if enter::enter(self.registered, queued, 0, None).is_err() {
                self.take_completions(usize::MAX);
            }
        }
    }

    /// One `io_uring_enter`: submits what was queued and, if `wait`, waits for a completion or for
    /// `timeout`.
    pub fn turn(&mut self, wait: bool, timeout: Option<Duration>) -> io::Result<bool> {
        let submission = self.ring.submission();
        let (submit, deferred, overflow) = (
            submission.len(),
            submission.taskrun(),
            submission.cq_overflow(),
        );
        drop(submission);
        if overflow {
            bump(&self.cells.cq_overflow);
        }
        let want = u32::from(wait && self.ring.completion().is_empty());
        if (submit > 0 || want > 0 || deferred || overflow)
            && let Err(error) = enter::enter(self.registered, submit, want, timeout)
        {
            match error.raw_os_error() {
                // A timer is due, a signal came, or completions must be taken before more is accepted.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => {}
                _ => return Err(error),
            }
        }
        Ok(self.take_completions(self.turn_limit))
    }

    /// Takes up to `limit` completions. Returns whether other threads have left a message.
    fn take_completions(&mut self, limit: usize) -> bool {
        let mut event = false;
        for _ in 0..limit {
            let Some(completion) = self.ring.completion().next() else {
                break;
            };
            bump(&self.cells.completions);
            event |= self.deliver(&completion);
        }
        event
    }

    fn deliver(&mut self, completion: &cqueue::Entry) -> bool {
        let (key, result, flags) = (
            completion.user_data(),
            completion.result(),
            completion.flags(),
        );
        match key {
            KEY_CANCEL => return false,
            KEY_CLOSE => {
                self.cells.fds_live.set(self.cells.fds_live.get() - 1);
                return false;
            }
            KEY_EVENT => {
                if !cqueue::more(flags) {
                    self.arm_event();
                }
                return true;
            }
            _ => {}
        }
        let slot = key as u32 as usize;
        let Some(entry) = self
            .entries
            .get_mut(slot)
            .filter(|entry| u64::from(entry.generation) == key >> 32)
        else {
            debug_assert!(false, "completion without an operation");
            return false;
        };
        let more = cqueue::more(flags);
        let kind = entry.kind;
        match &mut entry.state {
            State::Streaming {
                ready,
                waker,
                finished,
            } => {
                ready.push_back(result);
                *finished = !more;
                if let Some(waker) = waker.take() {
                    waker.wake();
                }
            }
            State::Abandoned { .. } => {
                let completion = self.completion(kind, result, flags);
                self.clean_up(kind, completion);
                if !more {
                    self.discard_entry(slot);
                }
            }
            State::Waiting(waker) => {
                let waker = waker.take();
                self.entries[slot].state = State::Done(self.completion(kind, result, flags));
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            State::Done(_) => debug_assert!(false, "second completion of a single operation"),
        }
        false
    }

    fn completion(&self, kind: Kind, result: i32, flags: u32) -> Completion {
        let pool = match kind {
            Kind::Guest => &self.guests,
            Kind::Plain | Kind::Buffer | Kind::Descriptor => &self.pool,
        };
        let buffer = cqueue::buffer_select(flags).map(|id| pool.taken(id, result.max(0) as usize));
        if result == -libc::ECONNRESET {
            bump(&self.cells.resets);
        }
        let result = u32::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result));
        Completion {
            result,
            buffer,
            flags,
        }
    }

    fn clean_up(&mut self, kind: Kind, completion: Completion) {
        if let (Kind::Descriptor, Ok(fd)) = (kind, &completion.result) {
            self.adopt_and_close(*fd as i32);
        }
    }

    fn clean_up_result(&mut self, kind: Kind, result: i32) {
        if kind == Kind::Descriptor && result >= 0 {
            self.adopt_and_close(result);
        }
    }

    fn adopt_and_close(&mut self, fd: i32) {
        bump(&self.cells.fds_live);
        self.close(fd);
    }

    fn discard_entry(&mut self, slot: usize) {
        if let State::Abandoned {
            _keep: Some(resource),
        } = self.entries.remove(slot).state
        {
            self.garbage.push(resource);
        }
    }

    /// Returns what abandoned operations held; to be dropped outside the driver's borrow.
    pub fn take_garbage(&mut self) -> Vec<Box<dyn Any>> {
        std::mem::take(&mut self.garbage)
    }

    /// Stops everything and waits until the kernel touches no memory of ours. `false` if it did not
    /// let go in time.
    pub fn shut_down(&mut self) -> bool {
        let all = types::CancelBuilder::any();
        self.push(&opcode::AsyncCancel2::new(all).build().user_data(KEY_CANCEL));
        for _ in 0..200 {
            if self.entries.is_empty() {
                return true;
            }
            if self.turn(true, Some(Duration::from_millis(10))).is_err() {
                return false;
            }
            self.garbage.clear();
        }
        self.entries.is_empty()
    }
}

fn set_up(entries: u32) -> Result<IoUring, RingError> {
    let with = |single: bool, defer: bool, coop: bool| {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(entries * 4).setup_clamp();
        if single {
            builder.setup_single_issuer();
        }
        if defer {
            builder.setup_defer_taskrun();
        }
        if coop {
            builder.setup_coop_taskrun().setup_taskrun_flag();
        }
        builder.build(entries)
    };
    let error = match with(true, true, true) {
        Ok(ring) => return Ok(ring),
        Err(error) => error,
    };
    if error.raw_os_error() != Some(libc::EINVAL) {
        return Err(RingError::io("set up io_uring", error));
    }
    // The kernel refuses an unknown flag with EINVAL and does not say which: ask for one more each time.
    for (single, coop, feature, since) in [
        (false, true, "IORING_SETUP_COOP_TASKRUN", "5.19"),
        (true, true, "IORING_SETUP_SINGLE_ISSUER", "6.0"),
    ] {
        if with(single, false, coop).is_err() {
            return Err(RingError::missing(feature, since));
        }
    }
    Err(RingError::missing("IORING_SETUP_DEFER_TASKRUN", "6.1"))
}

fn require_features(ring: &IoUring) -> Result<(), RingError> {
    let parameters = ring.params();
    if !parameters.is_feature_nodrop() {
        return Err(RingError::missing("IORING_FEAT_NODROP", "5.5"));
    }
    if !parameters.is_feature_ext_arg() {
        return Err(RingError::missing("IORING_FEAT_EXT_ARG", "5.11"));
    }
    let mut probe = Probe::new();
    ring.submitter()
        .register_probe(&mut probe)
        .map_err(|error| RingError::io("ask io_uring for its operations", error))?;
    for (code, feature, since) in [
        (opcode::AcceptMulti::CODE, "accept", "5.5"),
        (opcode::Connect::CODE, "connect", "5.5"),
        (opcode::AsyncCancel::CODE, "cancellation", "5.5"),
        (opcode::Close::CODE, "close", "5.6"),
        (opcode::Send::CODE, "send", "5.6"),
        (opcode::Recv::CODE, "receive", "5.6"),
        (opcode::SendMsg::CODE, "sending a message", "5.3"),
        (opcode::RecvMsg::CODE, "receiving a message", "5.3"),
        (opcode::Shutdown::CODE, "shutdown", "5.11"),
        (opcode::PollAdd::CODE, "poll", "5.1"),
    ] {
        if !probe.is_supported(code) {
            return Err(RingError::missing(feature, since));
        }
    }
    Ok(())
}
