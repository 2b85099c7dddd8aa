//! The adapter over a stream that only remembers.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::IoSlice;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use rustls::AlertDescription;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::ring::{self, Pieces, RingBuf, Runtime, RuntimeConfig, Spacing};
use crate::tls::duplex::{ByteStream, Duplex};
use crate::tls::stream::{Received, StreamError};

const SPACING: Spacing = Spacing {
    piece: 16_384,
    gap: 22,
    most: u16::MAX,
};

/// Sent buffers, and data to be received.
#[derive(Default)]
struct Memory {
    sent: Rc<RefCell<Vec<Vec<u8>>>>,
    closed: Rc<RefCell<bool>>,
    incoming: RefCell<VecDeque<Vec<u8>>>,
}

impl ByteStream for Memory {
    async fn recv(&self, carry: Option<RingBuf>) -> Result<Received, StreamError> {
        assert!(carry.is_none(), "the rest of what was opened whole");
        ring::yield_now().await;
        let Some(bytes) = self.incoming.borrow_mut().pop_front() else {
            return Ok(Received::Closed);
        };
        let mut buffer = RingBuf::small().unwrap();
        buffer.append(&bytes);
        let mut pieces = Pieces::of(buffer);
        // Two pieces, with a byte around each that is no content.
        let half = bytes.len() / 2;
        pieces.take(half, 1..half - 1);
        pieces.take(bytes.len() - half, 1..bytes.len() - half - 1);
        Ok(Received::Data(pieces))
    }

    fn spacing(&self) -> Spacing {
        SPACING
    }

    async fn send(&self, buffer: RingBuf) -> Result<(), StreamError> {
        ring::yield_now().await;
        let mut content = Vec::new();
        for piece in buffer.chunks(SPACING.piece + SPACING.gap) {
            content.extend_from_slice(&piece[..piece.len().min(SPACING.piece)]);
        }
        self.sent.borrow_mut().push(content);
        Ok(())
    }

    async fn close(&self) -> Result<(), StreamError> {
        *self.closed.borrow_mut() = true;
        Ok(())
    }

    async fn end(&self, _alert: Option<AlertDescription>) {}
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 7 + at / 253) as u8).collect()
}

fn run<F: Future<Output = ()> + 'static>(test: impl FnOnce() -> F) {
    let runtime = Runtime::new(RuntimeConfig::default()).unwrap();
    runtime.block_on(test());
}

/// Writes all of `bytes` in slices of these sizes, two at a time, and sends when all is written.
async fn write(duplex: &mut Duplex<Memory>, bytes: &[u8], sizes: &[usize]) {
    let (mut at, mut turn) = (0, 0);
    while at < bytes.len() {
        let first = bytes.len().min(at + sizes[turn % sizes.len()]);
        let second = bytes.len().min(first + sizes[(turn + 1) % sizes.len()]);
        let slices = [
            IoSlice::new(&bytes[at..first]),
            IoSlice::new(&bytes[first..second]),
        ];
        let written =
            poll_fn(|context| Pin::new(&mut *duplex).poll_write_vectored(context, &slices));
        at += written.await.unwrap();
        turn += 1;
    }
    poll_fn(|context| duplex.poll_send(context)).await.unwrap();
}

#[test]
fn what_is_written_is_sent_in_order_in_few_buffers() {
    run(async || {
        for sizes in [&[9, 16_384][..], &[1], &[100_000], &[3, 70_000, 16_384, 1]] {
            let memory = Memory::default();
            let (sent, closed) = (memory.sent.clone(), memory.closed.clone());
            let mut duplex = Duplex::new(memory, None);
            let bytes = pattern(300_001);
            write(&mut duplex, &bytes, sizes).await;
            assert!(sent.borrow().concat() == bytes, "{sizes:?}");
            let buffers = sent.borrow().len();
            assert!(buffers <= 300_001 / 65_536 + 2, "{buffers} for {sizes:?}");
            poll_fn(|context| Pin::new(&mut duplex).poll_shutdown(context))
                .await
                .unwrap();
            assert!(*closed.borrow());
        }
    });
}

#[test]
fn flushing_sends_nothing_until_the_owner_asks() {
    run(async || {
        let memory = Memory::default();
        let sent = memory.sent.clone();
        let mut duplex = Duplex::new(memory, None);
        for _ in 0..100 {
            poll_fn(|context| Pin::new(&mut duplex).poll_write(context, b"small"))
                .await
                .unwrap();
            poll_fn(|context| Pin::new(&mut duplex).poll_flush(context))
                .await
                .unwrap();
        }
        assert!(sent.borrow().is_empty());
        poll_fn(|context| duplex.poll_send(context)).await.unwrap();
        assert_eq!(*sent.borrow(), [b"small".repeat(100)]);
    });
}

#[test]
fn what_is_received_is_read_at_any_sizes() {
    run(async || {
        for size in [1, 7, 4096, 1 << 20] {
            let bytes = pattern(30_000);
            let memory = Memory::default();
            for part in bytes.chunks(7001) {
                let half = part.len() / 2;
                let around = [&[0], &part[..half], &[0, 0], &part[half..], &[0]].concat();
                memory.incoming.borrow_mut().push_back(around);
            }
            let mut duplex = Duplex::new(memory, None);
            let mut seen = Vec::new();
            let mut space = vec![0; size];
            loop {
                let count = poll_fn(|context| {
                    let mut into = ReadBuf::new(&mut space);
                    match Pin::new(&mut duplex).poll_read(context, &mut into) {
                        Poll::Ready(read) => Poll::Ready(read.map(|()| into.filled().len())),
                        Poll::Pending => Poll::Pending,
                    }
                });
                match count.await.unwrap() {
                    0 => break,
                    count => seen.extend_from_slice(&space[..count]),
                }
            }
            assert!(seen == bytes, "{size}");
        }
    });
}
