//! Queue of data for the client of a session: payload of DATA frames, in the buffers that it was
//! received in.
//!
//! A buffer is held for what it takes and not for what is in it, so a stream has few of them
//! queued, whatever their length: a server's small messages wait in its connection meanwhile, where
//! the kernel joins them, and datagrams in their socket's queue.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};

use crate::limits::{HTTP2_SESSION_QUEUE, HTTP2_STREAM_BUFFERS};
use crate::ring::{LARGE_PAYLOAD, RingBuf, SMALL_PAYLOAD};

/// Queue of all streams of a session.
#[derive(Default)]
pub(super) struct SessionQueue {
    /// Bytes of memory.
    held: Cell<usize>,
    /// DATA frames queued since they were asked for.
    frames: Cell<u32>,
    /// Requests refused since they were asked for.
    refusals: Cell<u32>,
}

impl SessionQueue {
    /// Bytes of memory that are held.
    pub fn held(&self) -> usize {
        self.held.get()
    }

    /// How many DATA frames were queued since the last call.
    pub fn take_frames(&self) -> u32 {
        self.frames.take()
    }

    /// A request was refused for what the client asked.
    pub fn refused(&self) {
        self.refusals.set(self.refusals.get().saturating_add(1));
    }

    /// How many were since the last call.
    pub fn take_refusals(&self) -> u32 {
        self.refusals.take()
    }

    /// Payload of the gateway's own.
    pub fn own(self: &Rc<Self>, bytes: Bytes) -> Chunk {
        let memory = bytes.len();
        self.chunk(Payload::Shared(bytes), memory, None)
    }

    fn chunk(
        self: &Rc<Self>,
        payload: Payload,
        memory: usize,
        stream: Option<Rc<StreamQueue>>,
    ) -> Chunk {
        self.held.set(self.held.get() + memory);
        Chunk {
            payload,
            memory,
            session: self.clone(),
            stream,
        }
    }
}

/// Queue of one stream.
#[derive(Default)]
pub(super) struct StreamQueue {
    buffers: Cell<usize>,
    /// Of the task that waits until there are fewer.
    waiting: RefCell<Option<Waker>>,
}

impl StreamQueue {
    /// Returns what a server has sent.
    pub fn chunk(self: &Rc<Self>, session: &Rc<SessionQueue>, buffer: RingBuf) -> Chunk {
        self.buffers.set(self.buffers.get() + 1);
        let frames = 1 + buffer.len() / FRAME;
        session
            .frames
            .set(session.frames.get().saturating_add(frames as u32));
        let memory = if buffer.is_large() {
            LARGE_PAYLOAD
        } else {
            SMALL_PAYLOAD
        };
        session.chunk(Payload::Ring(buffer), memory, Some(self.clone()))
    }

    /// Waits until one more buffer may be queued.
    pub fn poll_room(&self, session: &SessionQueue, context: &mut Context<'_>) -> Poll<()> {
        let most = if session.held() < HTTP2_SESSION_QUEUE {
            HTTP2_STREAM_BUFFERS
        } else {
            1
        };
        if self.buffers.get() < most {
            return Poll::Ready(());
        }
        *self.waiting.borrow_mut() = Some(context.waker().clone());
        Poll::Pending
    }
}

/// Bytes of a DATA frame: what every client takes (RFC 9113, section 4.2).
const FRAME: usize = 1 << 14;

/// The payload of DATA frames; in the count for as long as it lives.
pub(super) struct Chunk {
    payload: Payload,
    memory: usize,
    session: Rc<SessionQueue>,
    stream: Option<Rc<StreamQueue>>,
}

enum Payload {
    /// From a server, in the buffer that it was received in.
    Ring(RingBuf),
    /// The gateway's own.
    Shared(Bytes),
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.session.held.set(self.session.held.get() - self.memory);
        if let Some(stream) = &self.stream {
            stream.buffers.set(stream.buffers.get() - 1);
            if let Some(waker) = stream.waiting.take() {
                waker.wake();
            }
        }
    }
}

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        self.chunk().len()
    }

    fn chunk(&self) -> &[u8] {
        match &self.payload {
            Payload::Ring(buffer) => buffer,
            Payload::Shared(bytes) => bytes,
        }
    }

    fn advance(&mut self, count: usize) {
        match &mut self.payload {
            Payload::Ring(buffer) => buffer.consume(count),
            Payload::Shared(bytes) => bytes.advance(count),
        }
    }
}
