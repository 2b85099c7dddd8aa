//! epoll, which the standard library does not have: of the client, and of the server written by hand.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use super::check;

/// Level-triggered epoll.
pub struct Epoll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Epoll {
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes no pointer; a non-negative result is a new descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?) };
        let events = vec![libc::epoll_event { events: 0, u64: 0 }; 1024];
        Ok(Self { fd, events })
    }

    pub fn add(&self, socket: &impl AsRawFd, token: usize) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, socket, token, libc::EPOLLIN)
    }

    pub fn change(&self, socket: &impl AsRawFd, token: usize, events: i32) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, socket, token, events)
    }

    fn control(
        &self,
        operation: i32,
        socket: &impl AsRawFd,
        token: usize,
        events: i32,
    ) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: events as u32,
            u64: token as u64,
        };
        // SAFETY: the kernel reads one event that lives through the call.
        check(unsafe {
            libc::epoll_ctl(
                self.fd.as_raw_fd(),
                operation,
                socket.as_raw_fd(),
                &raw mut event,
            )
        })?;
        Ok(())
    }

    /// Waits; the number of events that [`Epoll::event`] then has.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        let millis = timeout.map_or(-1, |time| time.as_millis() as i32);
        let room = self.events.len() as i32;
        loop {
            // SAFETY: the kernel writes at most `room` events, which the vector holds.
            let ready = check(unsafe {
                libc::epoll_wait(self.fd.as_raw_fd(), self.events.as_mut_ptr(), room, millis)
            });
            match ready {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                ready => return ready.map(|count| count as usize),
            }
        }
    }

    /// The token of an event, and whether it is to be read and to be written.
    pub fn event(&self, index: usize) -> (usize, bool, bool) {
        let event = self.events[index];
        let bits = event.events as i32;
        let writable = bits & libc::EPOLLOUT != 0;
        (event.u64 as usize, bits & !libc::EPOLLOUT != 0, writable)
    }
}
