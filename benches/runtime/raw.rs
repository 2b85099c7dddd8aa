//! An echo straight on io_uring, without tasks: what is left of the difference between a single-shot and a multishot
//! receive when everything else is the same.
//!
//! Both take their buffers from a ring of provided buffers. A connection that has answered everything and is not being
//! received from starts a receive. Multishot has what backpressure needs: behind [`QUEUE`] unanswered receives it is
//! cancelled, and started again when they are answered.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::collections::VecDeque;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::{BufRingEntry, Fd};
use io_uring::{IoUring, cqueue, opcode, squeue};

use super::servers::{Announce, announce, listen};
use super::{Outcome, RECEIVE};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Receive {
    SingleShot,
    Multishot,
}

const GROUP: u16 = 0;
/// As many as the runtime of the data cores posts.
const BUFFERS: u16 = 128;
/// Receives of a connection that may wait to be answered.
const QUEUE: usize = 4;
const ENTRIES: u32 = 4096;
/// Arms the poll before it tries to receive (`IORING_RECVSEND_POLL_FIRST`).
const POLL_FIRST: u16 = 1;

/// What a completion belongs to; the rest of its number is the connection.
const RECEIVED: u64 = 0;
const SENT: u64 = 1;
const CANCELLED: u64 = 2;
const OPERATIONS: u64 = 4;

/// Bytes of one buffer that are still to be sent.
#[derive(Clone, Copy)]
struct Filled {
    buffer: u16,
    from: usize,
    to: usize,
}

struct Connection {
    stream: TcpStream,
    /// The first is being sent.
    filled: VecDeque<Filled>,
    receiving: bool,
    cancelling: bool,
    /// Whether the last receive left bytes behind.
    more_waits: bool,
    ended: bool,
}

impl Connection {
    fn is_gone(&self) -> bool {
        self.ended && !self.receiving && self.filled.is_empty()
    }
}

pub fn serve(connections: usize, receive: Receive, to: &Announce) -> Outcome<()> {
    let (listener, address) = listen()?;
    let ring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_coop_taskrun()
        .setup_cqsize(4 * ENTRIES)
        .build(ENTRIES)?;
    announce(to, address)?;
    let mut echo = Echo {
        buffers: Buffers::register(&ring)?,
        ring,
        receive,
        connections: Vec::with_capacity(connections),
        starved: Vec::new(),
    };
    for at in 0..connections {
        let (stream, _) = listener.accept()?;
        echo.connections.push(Connection {
            stream,
            filled: VecDeque::new(),
            receiving: false,
            cancelling: false,
            more_waits: true,
            ended: false,
        });
        echo.start_receive(at)?;
    }
    echo.run()
}

struct Echo {
    // Before the buffers: the kernel writes to them until the ring is closed.
    ring: IoUring,
    buffers: Buffers,
    receive: Receive,
    connections: Vec<Connection>,
    /// Connections whose receive found no buffer.
    starved: Vec<usize>,
}

impl Echo {
    fn run(&mut self) -> Outcome<()> {
        let mut open = self.connections.len();
        while open > 0 {
            self.ring.submit_and_wait(1)?;
            loop {
                let next = self.ring.completion().next();
                let Some(completion) = next else { break };
                open -= usize::from(self.complete(&completion)?);
            }
            self.buffers.publish();
            for at in std::mem::take(&mut self.starved) {
                self.start_receive(at)?;
            }
        }
        Ok(())
    }

    /// Takes one completion. Whether its connection is over with it.
    fn complete(&mut self, completion: &cqueue::Entry) -> Outcome<bool> {
        let number = completion.user_data();
        let (at, result) = ((number / OPERATIONS) as usize, completion.result());
        match number % OPERATIONS {
            RECEIVED => self.received(at, result, completion.flags())?,
            SENT => self.sent(at, result)?,
            _ => return Ok(false),
        }
        Ok(self.connections[at].is_gone())
    }

    fn received(&mut self, at: usize, result: i32, flags: u32) -> Outcome<()> {
        let connection = &mut self.connections[at];
        connection.receiving = cqueue::more(flags);
        connection.cancelling &= connection.receiving;
        connection.more_waits = cqueue::sock_nonempty(flags);
        match (result, cqueue::buffer_select(flags)) {
            (1.., Some(buffer)) => {
                connection.filled.push_back(Filled {
                    buffer,
                    from: 0,
                    to: result as usize,
                });
                let waiting = connection.filled.len();
                if waiting == 1 {
                    self.start_send(at)?;
                } else if waiting >= QUEUE && connection.receiving && !connection.cancelling {
                    connection.cancelling = true;
                    let number = at as u64 * OPERATIONS;
                    self.push(
                        &opcode::AsyncCancel::new(number + RECEIVED)
                            .build()
                            .user_data(number + CANCELLED),
                    )?;
                }
            }
            (error, None) if error == -libc::ENOBUFS => self.starved.push(at),
            (error, _) if error == -libc::ECANCELED => self.go_on(at)?,
            _ => connection.ended = true,
        }
        Ok(())
    }

    fn sent(&mut self, at: usize, result: i32) -> Outcome<()> {
        let connection = &mut self.connections[at];
        let first = connection.filled.front_mut().expect("what was sent");
        first.from += usize::try_from(result).unwrap_or(0);
        connection.ended |= result < 0;
        if first.from < first.to && !connection.ended {
            return self.start_send(at);
        }
        self.buffers.give_back(first.buffer);
        connection.filled.pop_front();
        if !connection.filled.is_empty() {
            return self.start_send(at);
        }
        self.go_on(at)
    }

    /// Starts to receive again where nothing waits to be answered.
    fn go_on(&mut self, at: usize) -> Outcome<()> {
        let connection = &self.connections[at];
        if connection.filled.is_empty() && !connection.receiving && !connection.ended {
            self.start_receive(at)?;
        }
        Ok(())
    }

    fn start_receive(&mut self, at: usize) -> Outcome<()> {
        let connection = &mut self.connections[at];
        connection.receiving = true;
        let fd = Fd(connection.stream.as_raw_fd());
        let poll_first = if connection.more_waits { 0 } else { POLL_FIRST };
        let entry = match self.receive {
            Receive::SingleShot => opcode::Recv::new(fd, std::ptr::null_mut(), RECEIVE as u32)
                .buf_group(GROUP)
                .ioprio(poll_first)
                .build()
                .flags(squeue::Flags::BUFFER_SELECT),
            Receive::Multishot => opcode::RecvMulti::new(fd, GROUP).build(),
        };
        self.push(&entry.user_data(at as u64 * OPERATIONS + RECEIVED))
    }

    fn start_send(&mut self, at: usize) -> Outcome<()> {
        let connection = &self.connections[at];
        let filled = connection.filled.front().expect("something to send");
        let start = self.buffers.bytes(filled.buffer).wrapping_add(filled.from);
        let fd = Fd(connection.stream.as_raw_fd());
        let entry = opcode::Send::new(fd, start, (filled.to - filled.from) as u32).build();
        self.push(&entry.user_data(at as u64 * OPERATIONS + SENT))
    }

    fn push(&mut self, entry: &squeue::Entry) -> Outcome<()> {
        // SAFETY: what an entry points to is a buffer of `self.buffers`, which outlive the ring; one that is sent is
        // given back to the kernel when the send has completed.
        while unsafe { self.ring.submission().push(entry) }.is_err() {
            self.ring.submit()?;
        }
        Ok(())
    }
}

/// Buffers, and the ring through which the kernel takes them.
struct Buffers {
    entries: *mut BufRingEntry,
    bytes: Vec<u8>,
    tail: u16,
}

impl Buffers {
    const LAYOUT: Layout =
        match Layout::from_size_align(BUFFERS as usize * size_of::<BufRingEntry>(), 4096) {
            Ok(layout) => layout,
            Err(_) => panic!("the size of the ring"),
        };

    fn register(ring: &IoUring) -> Outcome<Self> {
        // SAFETY: the layout has a size.
        let entries = unsafe { alloc_zeroed(Self::LAYOUT) }.cast::<BufRingEntry>();
        if entries.is_null() {
            handle_alloc_error(Self::LAYOUT);
        }
        let mut buffers = Self {
            entries,
            bytes: vec![0; usize::from(BUFFERS) * RECEIVE],
            tail: 0,
        };
        // SAFETY: a page-aligned array of so many entries, freed after the ring is closed (see the order of `Echo`).
        unsafe {
            ring.submitter()
                .register_buf_ring_with_flags(entries as u64, BUFFERS, GROUP, 0)
        }?;
        (0..BUFFERS).for_each(|buffer| buffers.give_back(buffer));
        buffers.publish();
        Ok(buffers)
    }

    fn bytes(&self, buffer: u16) -> *const u8 {
        self.bytes[usize::from(buffer) * RECEIVE..].as_ptr()
    }

    /// The kernel sees it from the next [`Buffers::publish`] on.
    fn give_back(&mut self, buffer: u16) {
        let address = self.bytes(buffer) as u64;
        let at = usize::from(self.tail & (BUFFERS - 1));
        // SAFETY: inside the array; the kernel reads no entry at or behind the published tail. The tail itself, which
        // lies in the last bytes of entry 0, is not written.
        let entry = unsafe { &mut *self.entries.add(at) };
        entry.set_addr(address);
        entry.set_len(RECEIVE as u32);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
    }

    fn publish(&self) {
        // SAFETY: the tail is an aligned u16 of the array, which the kernel reads at the same time.
        unsafe {
            (*BufRingEntry::tail(self.entries).cast::<AtomicU16>())
                .store(self.tail, Ordering::Release);
        };
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout; the ring, and with it the kernel's use, is gone.
        unsafe { dealloc(self.entries.cast(), Self::LAYOUT) };
    }
}
