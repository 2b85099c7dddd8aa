//! Options of TCP connections, and addresses to connect from.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use socket2::{SockRef, Socket, TcpKeepalive};

/// Options of a connection; `None` leaves the system's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpOptions {
    /// Probes of an idle connection: the time until the first one, the time between two, and how
    /// many without an answer end the connection.
    pub keepalive: Option<(Duration, Duration, u32)>,
    /// How long sent data may stay unacknowledged (`TCP_USER_TIMEOUT`, RFC 5482).
    pub user_timeout: Option<Duration>,
}

impl TcpOptions {
    pub(super) fn apply(&self, socket: &SockRef<'_>) -> io::Result<()> {
        if let Some((idle, interval, count)) = self.keepalive {
            let keepalive = TcpKeepalive::new()
                .with_time(idle)
                .with_interval(interval)
                .with_retries(count);
            socket.set_tcp_keepalive(&keepalive)?;
        }
        if self.user_timeout.is_some() {
            socket.set_tcp_user_timeout(self.user_timeout)?;
        }
        Ok(())
    }
}

/// Has the kernel acknowledge at once what has been received and is to be acknowledged, and go on
/// waiting for an answer to send along after that (`TCP_QUICKACK`, tcp(7); an even value does it
/// once, since Linux 2.4).
pub(super) fn acknowledge(socket: BorrowedFd<'_>) -> io::Result<()> {
    const ONCE: libc::c_int = 2;
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_QUICKACK, ONCE)
}

/// Bytes that the kernel holds for the peer: not sent, or not acknowledged (`SIOCOUTQ`, tcp(7)).
/// `None` where it does not say.
pub(super) fn unsent(socket: BorrowedFd<'_>) -> Option<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: this request writes one integer to where the pointer leads, which outlives the call; the socket is open.
    let told = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    u32::try_from(bytes).ok().filter(|_| told == 0)
}

/// Binds to an address and leaves the port to connect: one address then has its 65 536 ports for
/// each destination, and not for all of them together (`IP_BIND_ADDRESS_NO_PORT`, ip(7)).
pub(super) fn bind_without_port(socket: &Socket, source: IpAddr) -> io::Result<()> {
    let option = libc::IP_BIND_ADDRESS_NO_PORT;
    set_option(socket.as_fd(), libc::IPPROTO_IP, option, 1)?;
    socket.bind(&SocketAddr::new(source, 0).into())
}

/// Sets an option that is an integer.
fn set_option(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the option's value is the integer that is pointed to, which is read during the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
