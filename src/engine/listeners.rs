//! The sockets on which tunnels are opened: opened here, or taken over from systemd or from the process before.
//!
//! A socket that is taken over keeps its queue, so that no connection is lost which the system has completed already.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::Path;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::node::EngineError;
use crate::config::ListenerKind;
use crate::limits::ACCEPT_BACKLOG;

/// Listening sockets that this process was started with (`sd_listen_fds(3)`).
#[derive(Debug, Default)]
pub struct Inherited {
    /// For tunnels and the admin listener.
    pub tcp: Vec<TcpListener>,
    /// For the admin listener.
    pub unix: Vec<UnixListener>,
}

impl Inherited {
    /// Takes the sockets that listen on `address`; for port 0, on any port of it.
    pub fn take_tcp(&mut self, address: SocketAddr) -> Vec<TcpListener> {
        let fits = |socket: &TcpListener| {
            socket.local_addr().is_ok_and(|bound| {
                bound.ip() == address.ip()
                    && (address.port() == 0 || bound.port() == address.port())
            })
        };
        self.tcp.extract_if(.., |socket| fits(socket)).collect()
    }

    /// Takes the socket that listens on `path`.
    pub fn take_unix(&mut self, path: &Path) -> Option<UnixListener> {
        let fits = |socket: &UnixListener| {
            socket
                .local_addr()
                .is_ok_and(|bound| bound.as_pathname() == Some(path))
        };
        let at = self.unix.iter().position(fits)?;
        Some(self.unix.swap_remove(at))
    }

    /// The address of a socket that nothing in the config has taken.
    #[must_use]
    pub fn left(&self) -> Option<String> {
        let tcp = self.tcp.first().map(|socket| match socket.local_addr() {
            Ok(address) => address.to_string(),
            Err(error) => error.to_string(),
        });
        let unix = || {
            let address = self.unix.first()?.local_addr().ok()?;
            Some(match address.as_pathname() {
                Some(path) => path.display().to_string(),
                None => "a Unix socket without a path".to_owned(),
            })
        };
        tcp.or_else(unix)
    }
}

/// The open sockets of a node.
pub(super) struct Listening {
    /// For each core its own.
    pub of_cores: Vec<Vec<(ListenerKind, TcpListener)>>,
    /// The addresses, with the ports that the system chose for port 0.
    pub bound: Vec<(ListenerKind, SocketAddr)>,
    /// A copy of each socket, for a process that takes them over.
    pub copies: Vec<TcpListener>,
}

impl Listening {
    /// Takes what is `inherited` for these addresses, and opens the rest.
    pub fn open(
        addresses: impl Iterator<Item = (ListenerKind, SocketAddr)>,
        cores: usize,
        inherited: &mut Inherited,
    ) -> Result<Self, EngineError> {
        let mut listening = Self {
            of_cores: (0..cores).map(|_| Vec::new()).collect(),
            bound: Vec::new(),
            copies: Vec::new(),
        };
        for (kind, address) in addresses {
            let failed = |source| EngineError::Listen { address, source };
            let sockets = open(address, cores, inherited).map_err(failed)?;
            let first = sockets.iter().flatten().next();
            let bound = first
                .map_or(Ok(address), TcpListener::local_addr)
                .map_err(failed)?;
            listening.bound.push((kind, bound));
            for (core, sockets) in sockets.into_iter().enumerate() {
                for socket in sockets {
                    listening.copies.push(socket.try_clone().map_err(failed)?);
                    listening.of_cores[core].push((kind, socket));
                }
            }
        }
        Ok(listening)
    }
}

/// The sockets of `address`, for each core its own: a core may have several, and cores share one where there are fewer.
/// Several sockets of one address share its connections by `SO_REUSEPORT`, so each must be accepted from.
fn open(
    address: SocketAddr,
    cores: usize,
    inherited: &mut Inherited,
) -> io::Result<Vec<Vec<TcpListener>>> {
    let mut sockets = inherited.take_tcp(address);
    if sockets.is_empty() {
        refuse_taken(address)?;
        let mut address = address;
        for _ in 0..cores {
            let socket = bind(address)?;
            // Port 0: the others get the port of the first.
            address = socket.local_addr()?;
            sockets.push(socket);
        }
    }
    let count = sockets.len();
    let mut of_cores: Vec<Vec<TcpListener>> = (0..cores).map(|_| Vec::new()).collect();
    for core in count..cores {
        let shared = sockets[core % count].try_clone()?;
        of_cores[core].push(shared);
    }
    for (index, socket) in sockets.into_iter().enumerate() {
        prepare(&socket)?;
        of_cores[index % cores].push(socket);
    }
    Ok(of_cores)
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = tcp_socket(address)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(ACCEPT_BACKLOG)?;
    Ok(socket.into())
}

/// Accepted sockets inherit `TCP_NODELAY`. An accept that the ring is to wait for must not be non-blocking.
fn prepare(socket: &TcpListener) -> io::Result<()> {
    SockRef::from(socket).set_tcp_nodelay(true)?;
    socket.set_nonblocking(false)
}

/// `SO_REUSEPORT` lets cores share an address, and would let a second node share it in silence: ask without it first.
fn refuse_taken(address: SocketAddr) -> io::Result<()> {
    let socket = tcp_socket(address)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

fn tcp_socket(address: SocketAddr) -> io::Result<Socket> {
    Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(sockets: &[Vec<TcpListener>]) -> Vec<SocketAddr> {
        let all = sockets.iter().flatten();
        all.map(|socket| socket.local_addr().unwrap()).collect()
    }

    #[test]
    fn each_core_listens_and_each_socket_is_accepted_from() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let first = open(any, 2, &mut Inherited::default()).unwrap();
        assert_eq!(first.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1]);
        let address = addresses(&first)[0];
        assert_eq!(addresses(&first), [address; 2]);
        assert!(open(address, 1, &mut Inherited::default()).is_err());

        let mut inherited = Inherited {
            tcp: first.into_iter().flatten().collect(),
            unix: Vec::new(),
        };
        let second = open(any, 3, &mut inherited).unwrap();
        assert_eq!(second.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 1]);
        assert_eq!(addresses(&second), [address; 3]);
        assert_eq!(inherited.left(), None);
        inherited.tcp = second.into_iter().flatten().collect();
        let third = open(address, 1, &mut inherited).unwrap();
        assert_eq!(third[0].len(), 3);
    }

    #[test]
    fn what_nothing_takes_is_named() {
        let socket = bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = socket.local_addr().unwrap();
        let mut inherited = Inherited {
            tcp: vec![socket],
            unix: Vec::new(),
        };
        let other = SocketAddr::from(([127, 0, 0, 2], address.port()));
        assert!(inherited.take_tcp(other).is_empty());
        assert_eq!(inherited.left(), Some(address.to_string()));
    }
}
