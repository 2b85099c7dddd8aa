//! Reaching a runtime from other threads: closures to run on it, and wake-ups of its tasks.

use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

/// Request of another thread to a runtime.
pub(super) enum Message {
    /// Wake the task with this packed identity.
    Wake(u64),
    /// Run this on the runtime's thread.
    Run(Box<dyn FnOnce() + Send>),
}

/// The half of a runtime that other threads see.
///
/// A sender pushes, marks `pending`, then looks at `sleeping`; the runtime marks `sleeping`, then
/// looks at `pending`. Both orders are sequentially consistent, so one of the two always sees the
/// other: no wake-up is lost, and a busy runtime costs its senders no system call.
pub(super) struct Shared {
    inbox: Mutex<Vec<Message>>,
    pending: AtomicBool,
    sleeping: AtomicBool,
    closed: AtomicBool,
    event: OwnedFd,
}

impl Shared {
    pub fn new() -> io::Result<Self> {
        // SAFETY: eventfd takes no pointer; a non-negative result is a new descriptor that nobody else owns.
        let event = unsafe {
            let fd = libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        Ok(Self {
            inbox: Mutex::new(Vec::new()),
            pending: AtomicBool::new(false),
            sleeping: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            event,
        })
    }

    /// The descriptor that becomes readable when a sleeping runtime is wanted.
    pub fn event_fd(&self) -> i32 {
        self.event.as_raw_fd()
    }

    /// Leaves a message and wakes the runtime if it sleeps. `false` if the runtime has ended.
    pub fn send(&self, message: Message) -> bool {
        {
            let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
            if self.closed.load(Ordering::SeqCst) {
                return false;
            }
            inbox.push(message);
        }
        self.pending.store(true, Ordering::SeqCst);
        if self.sleeping.swap(false, Ordering::SeqCst) {
            let one = 1u64.to_ne_bytes();
            // SAFETY: the descriptor is open for the lifetime of `self`, and the buffer is eight readable bytes.
            unsafe { libc::write(self.event.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        }
        true
    }

    /// Says that the runtime is about to sleep; `false` if it must not, since messages wait.
    pub fn prepare_sleep(&self) -> bool {
        self.sleeping.store(true, Ordering::SeqCst);
        if self.pending.load(Ordering::SeqCst) {
            self.sleeping.store(false, Ordering::SeqCst);
            return false;
        }
        true
    }

    /// Says that the runtime is awake again.
    pub fn awake(&self) {
        self.sleeping.store(false, Ordering::SeqCst);
    }

    /// Takes the waiting messages into `into`, which must be empty; the two lists trade their
    /// memory.
    pub fn take(&self, into: &mut Vec<Message>) {
        if self.pending.swap(false, Ordering::SeqCst) {
            std::mem::swap(
                &mut *self.inbox.lock().unwrap_or_else(PoisonError::into_inner),
                into,
            );
        }
    }

    /// Clears the event counter after it was seen readable.
    pub fn drain_event(&self) {
        let mut count = [0u8; 8];
        // SAFETY: the descriptor is open and non-blocking, and the buffer is eight writable bytes.
        unsafe {
            libc::read(
                self.event.as_raw_fd(),
                count.as_mut_ptr().cast(),
                count.len(),
            )
        };
    }

    /// Refuses messages from now on and drops those that wait.
    pub fn close(&self) {
        let waiting = {
            let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
            self.closed.store(true, Ordering::SeqCst);
            std::mem::take(&mut *inbox)
        };
        drop(waiting);
    }
}

/// A handle to a runtime that any thread may hold.
#[derive(Clone)]
pub struct Remote {
    pub(super) shared: Arc<Shared>,
}

impl Remote {
    /// Runs `job` on the runtime's thread, at its next loop turn. `false` if the runtime has ended;
    /// the job is dropped.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) -> bool {
        self.shared.send(Message::Run(Box::new(job)))
    }
}

struct Slot<T> {
    value: Option<T>,
    waker: Option<Waker>,
    sender_gone: bool,
}

/// The sending end of [`oneshot`].
pub struct OneshotSender<T>(Arc<Mutex<Slot<T>>>);

/// The receiving end of [`oneshot`]: a future of the value, or of `None` when the sender was
/// dropped.
pub struct OneshotReceiver<T>(Arc<Mutex<Slot<T>>>);

/// One value, from any thread to a task.
#[must_use]
pub fn oneshot<T>() -> (OneshotSender<T>, OneshotReceiver<T>) {
    let slot = Arc::new(Mutex::new(Slot {
        value: None,
        waker: None,
        sender_gone: false,
    }));
    (OneshotSender(slot.clone()), OneshotReceiver(slot))
}

impl<T> OneshotSender<T> {
    /// Delivers the value.
    pub fn send(self, value: T) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).value = Some(value);
    }
}

impl<T> Drop for OneshotSender<T> {
    fn drop(&mut self) {
        let waker = {
            let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            slot.sender_gone = true;
            slot.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Future for OneshotReceiver<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.value.is_some() || slot.sender_gone {
            return Poll::Ready(slot.value.take());
        }
        slot.waker = Some(context.waker().clone());
        Poll::Pending
    }
}
