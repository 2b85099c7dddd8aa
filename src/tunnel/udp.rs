//! UDP through a tunnel (CONNECT-UDP, RFC 9298): the app's end is a stream of capsules, the
//! server's a UDP socket.
//!
//! The relay is that of every tunnel. A datagram is held by nobody for long: one from the app is
//! sent when it is whole, and one from the server waits in the system's queue until the app's flow
//! control takes the one before. That queue is bounded ([`crate::limits::UDP_QUEUE`]) and drops the
//! newest when it is full, as a line does. What is dropped is counted. When the app ends its
//! direction, the tunnel ends: nothing of a UDP exchange is still to come that it could wait for.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

use super::capsule::{CapsuleReader, Event, datagram_header};
use super::ends::{Data, ServerEnd};
use crate::access::Core;
use crate::limits::{BUFFER_WAIT, UDP_DATAGRAM_MAX};
use crate::reason::CloseReason;
use crate::ring::{self, Either, RingBuf, Signal, Spacing, UdpSocket};

/// A UDP socket as the end of a tunnel.
pub(super) struct UdpServer {
    core: Rc<Core>,
    socket: UdpSocket,
    reader: RefCell<CapsuleReader>,
    /// Raised when the app has ended its direction.
    ended: Signal,
    /// Datagrams that were not passed on.
    dropped: Cell<u64>,
}

impl UdpServer {
    pub fn new(core: Rc<Core>, socket: UdpSocket) -> Self {
        Self {
            core,
            socket,
            reader: RefCell::default(),
            ended: Signal::default(),
            dropped: 0.into(),
        }
    }

    fn drop_one(&self) {
        self.dropped.set(self.dropped.get() + 1);
    }

    /// The next datagram in `bytes`, in a buffer of its own; `None` when all bytes are taken.
    fn next(&self, bytes: &mut &[u8]) -> Result<Option<RingBuf>, CloseReason> {
        let mut reader = self.reader.borrow_mut();
        loop {
            match reader.next(bytes) {
                Ok(Some(Event::Datagram(payload))) => {
                    let Some(mut buffer) = RingBuf::small() else {
                        self.drop_one();
                        continue;
                    };
                    buffer.append(payload);
                    return Ok(Some(buffer));
                }
                Ok(Some(Event::Dropped)) => self.drop_one(),
                Ok(None) => return Ok(None),
                Err(_) => return Err(CloseReason::CapsuleProtocol),
            }
        }
    }

    async fn send_all(&self, data: &impl Data) -> Result<(), CloseReason> {
        let mut index = 0;
        while let Some(mut run) = data.run(index) {
            while let Some(datagram) = self.next(&mut run)? {
                match self.socket.send(datagram).await {
                    Ok(()) => {}
                    Err(error) if is_of_one_datagram(&error) => self.drop_one(),
                    Err(_) => return Err(CloseReason::ServerReset),
                }
            }
            index += 1;
        }
        Ok(())
    }

    /// The next datagram from the server in its capsule.
    async fn receive(&self) -> Result<RingBuf, CloseReason> {
        loop {
            let mut buffer = match self.socket.recv().await {
                Ok(Some(buffer)) => buffer,
                Ok(None) => empty().await,
                Err(_) => return Err(CloseReason::ServerReset),
            };
            if buffer.len() > UDP_DATAGRAM_MAX {
                self.drop_one();
                continue;
            }
            let (header, length) = datagram_header(buffer.len());
            buffer.widen(length, 0);
            buffer[..length].copy_from_slice(&header[..length]);
            return Ok(buffer);
        }
    }
}

/// An empty buffer. Holds none while it waits for one.
async fn empty() -> RingBuf {
    loop {
        if let Some(buffer) = RingBuf::small() {
            return buffer;
        }
        ring::sleep(BUFFER_WAIT).await;
    }
}

/// Returns whether an error says nothing about the next datagram.
fn is_of_one_datagram(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMSGSIZE | libc::ENOBUFS | libc::EAGAIN | libc::EPERM)
    )
}

impl ServerEnd for UdpServer {
    async fn send<D: Data>(&self, data: D) -> (Result<(), CloseReason>, D) {
        (self.send_all(&data).await, data)
    }

    async fn recv(&self, _spacing: Spacing) -> Result<Option<(usize, RingBuf)>, CloseReason> {
        match ring::race(self.receive(), self.ended.wait()).await {
            Either::Left(received) => received.map(|buffer| Some((buffer.len(), buffer))),
            Either::Right(()) => Ok(None),
        }
    }

    async fn close(&self) {
        self.ended.raise();
    }

    fn reset_on_close(&self) {}
}

impl Drop for UdpServer {
    fn drop(&mut self) {
        let mut metrics = self.core.metrics.borrow_mut();
        metrics.udp_dropped += self.dropped.get();
        metrics.udp_queue_full += u64::from(self.socket.dropped());
    }
}
