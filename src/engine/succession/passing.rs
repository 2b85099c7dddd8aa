//! Descriptors that one process hands to another over a socket (`unix(7)`, `SCM_RIGHTS`), each with
//! one byte.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Hands a copy of `descriptor` to the process at the other end of `link`. Does not wait: where
/// that one takes nothing, it is an error.
///
/// # Errors
/// The system's.
pub fn pass(link: &UnixStream, descriptor: BorrowedFd<'_>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut message = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor];
    message.push(SendAncillaryMessage::ScmRights(&descriptors));
    let byte = [IoSlice::new(&[0])];
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    sendmsg(link, &byte, &mut message, flags)?;
    Ok(())
}

/// Returns what the process at the other end of `link` has [passed](pass). Waits for it.
///
/// # Errors
/// The system's, or there is none.
pub fn receive(link: &UnixStream) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut message = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut into = [IoSliceMut::new(&mut byte)];
    recvmsg(link, &mut into, &mut message, RecvFlags::CMSG_CLOEXEC)?;
    let given = message.drain().find_map(|part| match part {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    });
    given.ok_or_else(|| io::Error::other("the other process hands nothing over"))
}
