//! The single-threaded executor and its loop.
//!
//! A turn: fire timers, run the tasks that are ready (a bounded number), then a bounded number of
//! long steps ([`super::permit()`]), one `io_uring_enter`, take completions (a bounded number),
//! take messages of other threads.
//!
//! A waker is one word, core, slot and generation packed together: waking costs no allocation and
//! no reference count, and a waker that outlives its task, or even its runtime, is harmless.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, RawWaker, RawWakerVTable, Waker};
use std::time::{Duration, Instant};

use slab::Slab;

use super::buffers::{BUFFER_BACK, BUFFER_FRONT};
use super::counters::{Cells, Counters, bump};
use super::driver::{Driver, Key};
use super::error::RingError;
use super::permit::Permits;
use super::pieces::CONTROL;
use super::pool::{BufferPool, PoolConfig};
use super::remote::{Message, Remote, Shared};
use super::wheel::Wheel;

/// Bytes that one receive may fill in a small buffer: a whole TLS record of either version (RFC
/// 8446, section 5.2: 2^14 + 256 and a header of 5).
pub const SMALL_PAYLOAD: usize = 16_704;

/// Bytes that one receive may fill in a large buffer: as many such records as one system call takes
/// in pieces. Each call wakes the peer and walks the TCP stack, which costs a stream more than its
/// bytes do.
pub const LARGE_PAYLOAD: usize = 15 * SMALL_PAYLOAD;

/// Bytes that one receive may fill in a buffer for guests: with the room around it, a page.
const GUEST_PAYLOAD: usize = 4096 - BUFFER_FRONT - BUFFER_BACK - CONTROL;

/// Sizes and bounds of a runtime. The defaults suit a data core.
#[derive(Clone, Copy, Debug)]
pub struct RuntimeConfig {
    /// Submission queue entries; the completion queue has four times as many.
    pub entries: u32,
    /// Bytes that one receive may fill in a small buffer.
    pub buffer_payload: usize,
    /// Bytes that one receive may fill in a large buffer.
    pub large_buffer_payload: usize,
    /// Small buffers posted to the kernel at a time; a power of two.
    pub buffers_posted: u16,
    /// Small buffers at most. Beyond them a receive waits until one comes back.
    pub buffers_max: u16,
    /// Large buffers at most. Beyond them a receive has to do with a small one.
    pub large_buffers_max: u16,
    /// Buffers for those who are not authenticated yet ([`super::TcpStream::recv_more`]), of a page
    /// each: posted to the kernel, and at most. Nobody holds one while waiting.
    pub guest_buffers: (u16, u16),
    /// Task polls per loop turn.
    pub polls_per_turn: usize,
    /// Long steps ([`super::permit()`]) per loop turn.
    pub permits_per_turn: usize,
    /// Completions taken per loop turn.
    pub completions_per_turn: usize,
}

impl Default for RuntimeConfig {
    fn default() -> Self {
        Self {
            entries: 4096,
            buffer_payload: SMALL_PAYLOAD,
            large_buffer_payload: LARGE_PAYLOAD,
            buffers_posted: 128,
            buffers_max: 16 * 1024,
            large_buffers_max: 1024,
            guest_buffers: (64, 1024),
            polls_per_turn: 256,
            permits_per_turn: 1,
            completions_per_turn: 512,
        }
    }
}

/// Length of a tick of the timer wheel: fine enough for a load generator's schedule, coarse enough
/// that timers of the same moment fire together.
const TICK_NANOS: u64 = 1 << 14;

struct Task {
    generation: u32,
    queued: bool,
    /// `None` while the task is being polled.
    future: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

/// Everything of one runtime, reached by its sockets and timers.
pub(super) struct Core {
    pub driver: RefCell<Driver>,
    pub pool: Rc<BufferPool>,
    /// The buffers of those who are not authenticated yet.
    pub guests: Rc<BufferPool>,
    pub permits: Permits,
    pub timers: RefCell<Wheel>,
    pub now: Cell<Instant>,
    pub cells: Rc<Cells>,
    start: Instant,
    index: u8,
    tasks: RefCell<Slab<Task>>,
    ready: RefCell<VecDeque<u64>>,
    generation: Cell<u32>,
    shared: Arc<Shared>,
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<Core>>> = const { RefCell::new(None) };
    static CURRENT_INDEX: Cell<Option<u8>> = const { Cell::new(None) };
}

/// The running runtimes, for wakers that are used on another thread.
static RUNTIMES: Mutex<Vec<Weak<Shared>>> = Mutex::new(Vec::new());

/// Runs `f` with this thread's runtime.
pub(super) fn current<R>(f: impl FnOnce(&Rc<Core>) -> R) -> R {
    CURRENT.with_borrow(|core| f(core.as_ref().expect("called outside a ring runtime")))
}

impl Core {
    /// The first tick of the wheel at which `deadline` has passed.
    pub fn tick_at(&self, deadline: Instant) -> u64 {
        let nanos = deadline.saturating_duration_since(self.start).as_nanos();
        u64::try_from(nanos.div_ceil(u128::from(TICK_NANOS))).unwrap_or(u64::MAX)
    }

    /// Gives up an operation and drops what can be dropped.
    pub fn abandon(&self, key: Key, keep: Option<Box<dyn Any>>) {
        let garbage = {
            let mut driver = self.driver.borrow_mut();
            driver.abandon(key, keep);
            driver.take_garbage()
        };
        drop(garbage);
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()>>>) -> u64 {
        let generation = self.generation.get().wrapping_add(1);
        self.generation.set(generation);
        let slot = self.tasks.borrow_mut().insert(Task {
            generation,
            queued: true,
            future: Some(future),
        });
        assert!(slot < 1 << 24, "more than 16 million tasks");
        let packed = pack(self.index, slot, generation);
        self.ready.borrow_mut().push_back(packed);
        packed
    }

    /// Takes the task out of the table, if it has not ended.
    fn remove_task(&self, packed: u64) -> Option<Task> {
        let slot = ((packed >> 32) & 0xff_ffff) as usize;
        let mut tasks = self.tasks.borrow_mut();
        let lives = tasks
            .get(slot)
            .is_some_and(|task| task.generation == packed as u32);
        lives.then(|| tasks.remove(slot))
    }

    fn wake(&self, packed: u64) {
        let (slot, generation) = (((packed >> 32) & 0xff_ffff) as usize, packed as u32);
        // The table is borrowed while a task is looked up, never while one is polled.
        if let Some(task) = self.tasks.borrow_mut().get_mut(slot)
            && task.generation == generation
            && !task.queued
        {
            task.queued = true;
            self.ready.borrow_mut().push_back(packed);
        }
    }

    fn poll_task(&self, packed: u64) {
        let slot = ((packed >> 32) & 0xff_ffff) as usize;
        let taken = match self.tasks.borrow_mut().get_mut(slot) {
            Some(task) if task.generation == packed as u32 => {
                task.queued = false;
                task.future.take()
            }
            _ => None,
        };
        let Some(mut future) = taken else { return };
        let waker = waker(packed);
        // A bug that one task meets must not end the others: its task is dropped, and the runtime goes on.
        let poll = AssertUnwindSafe(|| future.as_mut().poll(&mut Context::from_waker(&waker)));
        let polled = catch_unwind(poll).unwrap_or_else(|_| {
            bump(&self.cells.panics);
            Poll::Ready(())
        });
        match polled {
            Poll::Pending => {
                let mut tasks = self.tasks.borrow_mut();
                match tasks.get_mut(slot) {
                    Some(task) if task.generation == packed as u32 => task.future = Some(future),
                    // Its handle was dropped while it was polled.
                    _ => {
                        drop(tasks);
                        drop(future);
                    }
                }
            }
            Poll::Ready(()) => {
                drop(future);
                drop(self.remove_task(packed));
            }
        }
    }

    fn run_ready(&self, limit: usize) {
        for _ in 0..limit {
            let next = self.ready.borrow_mut().pop_front();
            match next {
                Some(packed) => self.poll_task(packed),
                None => break,
            }
        }
    }

    fn fire_timers(&self, fired: &mut Vec<Waker>) {
        let elapsed = self
            .now
            .get()
            .saturating_duration_since(self.start)
            .as_nanos() as u64
            / TICK_NANOS;
        self.timers.borrow_mut().advance(elapsed, fired);
        fired.drain(..).for_each(Waker::wake);
    }

    /// How long the loop may sleep; `None` for ever.
    fn time_to_next_timer(&self) -> Option<Duration> {
        let tick = self.timers.borrow().next_tick()?;
        let due = self.start + Duration::from_nanos(tick.saturating_mul(TICK_NANOS));
        Some(due.saturating_duration_since(Instant::now()))
    }

    fn counters(&self) -> Counters {
        let cells = &self.cells;
        Counters {
            turns: cells.turns.get(),
            completions: cells.completions.get(),
            enobufs: cells.enobufs.get(),
            emfile: cells.emfile.get(),
            accept_pauses: cells.accept_pauses.get(),
            resets: cells.resets.get(),
            panics: cells.panics.get(),
            cq_overflow: cells.cq_overflow.get(),
            cross_wakes: cells.cross_wakes.get(),
            buffers_total: self.pool.created() + self.guests.created(),
            buffers_in_use: self.pool.in_use() + self.guests.in_use(),
            buffers_max: self.pool.max(),
            own_blocks: self.pool.own_count() + self.guests.own_count(),
            own_bytes: self.pool.own_bytes() + self.guests.own_bytes(),
            tasks_live: self.tasks.borrow().len() as u64,
            operations_live: self.driver.borrow().live() as u64,
            fds_live: cells.fds_live.get(),
            timers_live: self.timers.borrow().len() as u64,
        }
    }
}

/// A runtime on the thread that made it.
pub struct Runtime {
    core: Rc<Core>,
    config: RuntimeConfig,
}

impl Runtime {
    /// Sets up the ring, the buffers and the queues of this thread.
    ///
    /// # Errors
    /// [`RingError`], which names the missing kernel feature or the exhausted resource.
    ///
    /// # Panics
    /// If the process already has 255 runtimes.
    pub fn new(config: RuntimeConfig) -> Result<Self, RingError> {
        let no_memory = |error| RingError::io("reserve address space for buffers", error);
        let shared =
            Arc::new(Shared::new().map_err(|error| RingError::io("make an eventfd", error))?);
        let pool = BufferPool::new(PoolConfig {
            payload: config.buffer_payload,
            large_payload: config.large_buffer_payload,
            posted: config.buffers_posted,
            max: config.buffers_max,
            large_max: config.large_buffers_max,
            group: 0,
        })
        .map_err(no_memory)?;
        let (posted, max) = config.guest_buffers;
        let guests = BufferPool::new(PoolConfig {
            payload: GUEST_PAYLOAD,
            large_payload: 0,
            posted,
            max,
            large_max: 0,
            group: 1,
        })
        .map_err(no_memory)?;
        let cells = Rc::new(Cells::default());
        let driver = Driver::new(
            config.entries,
            config.completions_per_turn,
            [pool.clone(), guests.clone()],
            shared.event_fd(),
            cells.clone(),
        )?;
        let index = register(&shared);
        let start = Instant::now();
        let core = Rc::new(Core {
            driver: RefCell::new(driver),
            pool,
            guests,
            permits: Permits::default(),
            timers: RefCell::new(Wheel::new()),
            now: Cell::new(start),
            cells,
            start,
            index,
            tasks: RefCell::new(Slab::new()),
            ready: RefCell::new(VecDeque::new()),
            generation: Cell::new(0),
            shared,
        });
        Ok(Self { core, config })
    }

    /// A handle for other threads.
    #[must_use]
    pub fn remote(&self) -> Remote {
        Remote {
            shared: self.core.shared.clone(),
        }
    }

    /// Runs `future`, and every task that is spawned meanwhile, until `future` ends.
    ///
    /// # Panics
    /// If io_uring_enter fails for a reason that cannot be handled (a bug), or inside another
    /// runtime.
    pub fn block_on<F: Future + 'static>(&self, future: F) -> F::Output {
        let _entered = Entered::new(&self.core);
        let output = Rc::new(RefCell::new(None));
        let slot = output.clone();
        self.core.spawn(Box::pin(async move {
            let value = future.await;
            *slot.borrow_mut() = Some(value);
        }));
        let mut messages = Vec::new();
        let mut fired = Vec::new();
        loop {
            self.run_tasks(&mut fired);
            if let Some(value) = output.borrow_mut().take() {
                return value;
            }
            assert!(
                Rc::strong_count(&output) > 1,
                "the future that block_on runs has panicked"
            );
            self.enter(&mut messages);
        }
    }

    /// The first half of a turn: what can be done without the kernel.
    fn run_tasks(&self, fired: &mut Vec<Waker>) {
        let core = &*self.core;
        bump(&core.cells.turns);
        core.now.set(Instant::now());
        core.fire_timers(fired);
        core.run_ready(self.config.polls_per_turn);
        // Long steps last: what waits for them waits for nothing that this turn could have done before.
        core.run_ready(core.permits.grant(self.config.permits_per_turn));
    }

    /// The second half: submit, wait if there is nothing to do, and take what has come.
    fn enter(&self, messages: &mut Vec<Message>) {
        let core = &*self.core;
        let idle = core.ready.borrow().is_empty()
            && core.permits.is_empty()
            && core.shared.prepare_sleep();
        let timeout = if idle {
            core.time_to_next_timer()
        } else {
            None
        };
        let (event, garbage) = {
            let mut driver = core.driver.borrow_mut();
            let event = driver
                .turn(idle, timeout)
                .expect("io_uring_enter on a ring that this thread owns");
            (event, driver.take_garbage())
        };
        drop(garbage);
        core.shared.awake();
        if event {
            core.shared.drain_event();
        }
        core.shared.take(messages);
        for message in messages.drain(..) {
            bump(&core.cells.cross_wakes);
            match message {
                Message::Wake(packed) => core.wake(packed),
                Message::Run(job) => job(),
            }
        }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.core.shared.close();
        let _entered = Entered::new(&self.core);
        // Tasks first: their futures hand over what the kernel still touches. A task's end may spawn or drop others.
        loop {
            let tasks: Vec<Task> = self.core.tasks.borrow_mut().drain().collect();
            if tasks.is_empty() {
                break;
            }
            drop(tasks);
        }
        if !self.core.driver.borrow_mut().shut_down() {
            // The kernel holds on to something: its memory must outlive this process' interest in it.
            let _ = std::mem::ManuallyDrop::new(self.core.clone());
        }
    }
}

/// Makes a runtime this thread's current one for as long as it lives.
struct Entered;

impl Entered {
    fn new(core: &Rc<Core>) -> Self {
        CURRENT.with_borrow_mut(|current| {
            assert!(current.is_none(), "a runtime inside a runtime");
            *current = Some(core.clone());
        });
        CURRENT_INDEX.set(Some(core.index));
        Self
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT_INDEX.set(None);
        CURRENT.with_borrow_mut(std::option::Option::take);
    }
}

/// Starts a task on this thread's runtime.
///
/// # Panics
/// Outside a runtime.
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    current(|core| core.spawn(Box::pin(future)));
}

/// A task that ends with its handle: when this is dropped, so is the task's future, which cancels
/// its operations.
pub struct TaskHandle {
    core: Rc<Core>,
    task: u64,
}

impl Drop for TaskHandle {
    fn drop(&mut self) {
        drop(self.core.remove_task(self.task));
    }
}

/// Starts a task on this thread's runtime that does not outlive its handle.
///
/// # Panics
/// Outside a runtime.
pub fn spawn_owned(future: impl Future<Output = ()> + 'static) -> TaskHandle {
    current(|core| TaskHandle {
        core: core.clone(),
        task: core.spawn(Box::pin(future)),
    })
}

/// Gives the memory of buffers that were not needed since the last call back to the system, `limit`
/// at most of each size.
///
/// # Panics
/// Outside a runtime.
pub fn trim_buffers(limit: usize) -> usize {
    current(|core| core.pool.trim(limit) + core.guests.trim(limit))
}

/// Shrinks the tables of what runs to what there is.
///
/// # Panics
/// Outside a runtime.
pub fn shrink() {
    current(|core| {
        core.tasks.borrow_mut().shrink_to_fit();
        core.ready.borrow_mut().shrink_to_fit();
        core.driver.borrow_mut().shrink();
    });
}

/// Bytes that those hold who are not authenticated yet ([`super::TcpStream::recv_more`]).
///
/// # Panics
/// Outside a runtime.
#[must_use]
pub fn guest_bytes() -> u64 {
    current(|core| core.guests.own_bytes())
}

/// A handle to this thread's runtime for other threads.
///
/// # Panics
/// Outside a runtime.
#[must_use]
pub fn remote() -> Remote {
    current(|core| Remote {
        shared: core.shared.clone(),
    })
}

/// The counters of this thread's runtime.
///
/// # Panics
/// Outside a runtime.
#[must_use]
pub fn counters() -> Counters {
    current(|core| core.counters())
}

/// Lets the other ready tasks run first.
pub async fn yield_now() {
    let mut yielded = false;
    poll_fn(|context| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

fn register(shared: &Arc<Shared>) -> u8 {
    let mut runtimes = RUNTIMES.lock().unwrap_or_else(PoisonError::into_inner);
    let index = match runtimes.iter().position(|slot| slot.strong_count() == 0) {
        Some(free) => {
            runtimes[free] = Arc::downgrade(shared);
            free
        }
        None => {
            runtimes.push(Arc::downgrade(shared));
            runtimes.len() - 1
        }
    };
    u8::try_from(index).expect("at most 256 runtimes in a process")
}

/// core 8 bits | slot 24 | generation 32
fn pack(core: u8, slot: usize, generation: u32) -> u64 {
    u64::from(core) << 56 | (slot as u64) << 32 | u64::from(generation)
}

const VTABLE: RawWakerVTable =
    RawWakerVTable::new(|data| RawWaker::new(data, &VTABLE), wake, wake, |_| ());

fn waker(packed: u64) -> Waker {
    const { assert!(size_of::<usize>() == 8, "a waker is one 64-bit word") };
    let data = std::ptr::without_provenance(packed as usize);
    // SAFETY: the vtable treats `data` as a number and never as an address; its functions may be called on any thread.
    unsafe { Waker::from_raw(RawWaker::new(data, &VTABLE)) }
}

fn wake(data: *const ()) {
    let packed = data.addr() as u64;
    let index = (packed >> 56) as u8;
    if CURRENT_INDEX.get() == Some(index) {
        current(|core| core.wake(packed));
        return;
    }
    let shared = {
        let runtimes = RUNTIMES.lock().unwrap_or_else(PoisonError::into_inner);
        runtimes.get(index as usize).and_then(Weak::upgrade)
    };
    if let Some(shared) = shared {
        shared.send(Message::Wake(packed));
    }
}
