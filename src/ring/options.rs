//! Options of TCP connections, and addresses to connect from.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use socket2::{SockRef, Socket, TcpKeepalive};

/// Options of a connection; `None` leaves the system's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpOptions {
    /// Probes of an idle connection: the time until the first one, the time between two, and how many without an answer
    /// end the connection.
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

/// Binds to an address and leaves the port to connect: one address then has its 65 536 ports for each destination, and not
/// for all of them together (`IP_BIND_ADDRESS_NO_PORT`, ip(7)).
pub(super) fn bind_without_port(socket: &Socket, source: IpAddr) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is the integer that is pointed to, which is read during the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    socket.bind(&SocketAddr::new(source, 0).into())
}
