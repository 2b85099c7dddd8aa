//! Listening sockets that the process was started with: by systemd, or by the process before.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::Path;

use socket2::SockRef;

use crate::files::Identity;

/// Listening sockets that this process was started with (`sd_listen_fds(3)`).
#[derive(Debug, Default)]
pub struct Inherited {
    /// For tunnels and the admin listener.
    pub tcp: Vec<NamedSocket>,
    /// For the admin listener.
    pub unix: Vec<UnixSocket>,
    /// The one in the state folder, of the process before.
    pub state: Option<UnixListener>,
}

/// A listening socket of TCP.
#[derive(Debug)]
pub struct NamedSocket {
    /// Of the listener that it was opened for: a listener of the profile's, or [`ADMIN`]. Empty
    /// where this is not known.
    pub name: String,
    /// The socket.
    pub socket: TcpListener,
}

/// A listening Unix socket.
#[derive(Debug)]
pub struct UnixSocket {
    /// The socket.
    pub socket: UnixListener,
    /// Its file stays when the node ends: another program made it, such as systemd, which starts
    /// the next node on the same socket.
    pub is_held: bool,
}

/// The name of the admin listener's socket.
pub const ADMIN: &str = "admin";

/// The name of the admin listener's Unix socket where its file [stays](UnixSocket::is_held), as one
/// process passes it on to the next.
pub const ADMIN_HELD: &str = "admin-held";

/// The name of the socket in the state folder, as one process passes it on to the next.
pub const STATE: &str = "state";

impl Inherited {
    /// Copies of all of them.
    ///
    /// # Errors
    /// The system's, at its limit of open files.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            tcp: self
                .tcp
                .iter()
                .map(NamedSocket::try_clone)
                .collect::<Result<_, _>>()?,
            unix: self
                .unix
                .iter()
                .map(UnixSocket::try_clone)
                .collect::<Result<_, _>>()?,
            // It is of the node, and no listener asks for it.
            state: None,
        })
    }

    /// Takes the sockets that listen on `address`; for port 0, those on any port of it that may be
    /// the listener's of this name.
    ///
    /// Where there are none, `0.0.0.0` takes those on `[::]` that IPv4 comes in by: systemd's
    /// `ListenStream=PORT` opens such a socket.
    pub fn take_tcp(&mut self, name: &str, address: SocketAddr) -> Vec<TcpListener> {
        let exact = |bound: SocketAddr, _: &TcpListener| is_same_ip(bound, address);
        let taken = self.take(name, address.port(), exact);
        if !taken.is_empty() || !is_any_ipv4(address) {
            return taken;
        }
        self.take(name, address.port(), takes_ipv4_too)
    }

    fn take(
        &mut self,
        name: &str,
        port: u16,
        fits: impl Fn(SocketAddr, &TcpListener) -> bool,
    ) -> Vec<TcpListener> {
        let is_meant = |named: &mut NamedSocket| named.fits(name, port, &fits);
        let taken = self.tcp.extract_if(.., is_meant);
        taken.map(|named| named.socket).collect()
    }

    /// The address of a socket with which the listener of this name cannot have `address`, and
    /// which it cannot use.
    pub(super) fn in_the_way(&self, name: &str, address: SocketAddr) -> Option<SocketAddr> {
        let fits = |bound: SocketAddr, socket: &TcpListener| {
            is_same_ip(bound, address) || is_any_ipv4(address) && takes_ipv4_too(bound, socket)
        };
        if self
            .tcp
            .iter()
            .any(|named| named.fits(name, address.port(), fits))
        {
            return None;
        }
        let mut bound = self
            .tcp
            .iter()
            .filter_map(|named| named.socket.local_addr().ok());
        bound.find(|bound| overlap(*bound, address))
    }

    /// Takes the socket that listens on `path`, however the path is spelled: by links (`/var/run`),
    /// or from another folder.
    pub fn take_unix(&mut self, path: &Path) -> Option<UnixSocket> {
        let mut sockets = self.unix.iter();
        let at = sockets.position(|unix| is_at(&unix.socket, path))?;
        Some(self.unix.swap_remove(at))
    }

    /// Takes the socket in the state folder, where its file is still there and is this one.
    pub fn take_state(&mut self, path: &Path) -> Option<UnixListener> {
        let fits = |socket: &UnixListener| Identity::of_name(path).is_ok() && is_at(socket, path);
        self.state.take().filter(fits)
    }

    /// The address of a socket that nothing in the config has taken.
    #[must_use]
    pub fn left(&self) -> Option<String> {
        let tcp = self
            .tcp
            .first()
            .map(|named| match named.socket.local_addr() {
                Ok(address) => address.to_string(),
                Err(error) => error.to_string(),
            });
        let unix = || {
            let address = self.unix.first()?.socket.local_addr().ok()?;
            Some(match address.as_pathname() {
                Some(path) => path.display().to_string(),
                None => "a Unix socket without a path".to_owned(),
            })
        };
        tcp.or_else(unix)
    }
}

/// Returns whether a socket listens on `path`, however that is spelled.
fn is_at(socket: &UnixListener, path: &Path) -> bool {
    let bound = socket.local_addr();
    bound.is_ok_and(|bound| {
        bound.as_pathname().is_some_and(|bound| {
            let is_same = |wanted| Identity::of(bound).is_ok_and(|bound| bound == wanted);
            bound == path || Identity::of(path).is_ok_and(is_same)
        })
    })
}

/// Returns whether connections to one of them could be meant for the other.
pub(super) fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let any = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port() && (any || is_same_ip(one, other))
}

/// Returns whether both are one address: `[::ffff:192.0.2.1]` is `192.0.2.1`.
fn is_same_ip(one: SocketAddr, other: SocketAddr) -> bool {
    one.ip().to_canonical() == other.ip().to_canonical()
}

fn is_any_ipv4(address: SocketAddr) -> bool {
    address.is_ipv4() && address.ip().is_unspecified()
}

/// Returns whether a socket is on all addresses of IPv6, and of IPv4 with them (`IPV6_V6ONLY` is
/// off).
fn takes_ipv4_too(bound: SocketAddr, socket: &TcpListener) -> bool {
    let only_v6 = || SockRef::from(socket).only_v6();
    bound.is_ipv6() && bound.ip().is_unspecified() && only_v6().is_ok_and(|only| !only)
}

impl NamedSocket {
    /// Returns whether it may be a listener's of this name and port, and `fits`.
    fn fits(&self, name: &str, port: u16, fits: impl Fn(SocketAddr, &TcpListener) -> bool) -> bool {
        let bound = self.socket.local_addr();
        bound.is_ok_and(|bound| {
            let port_fits = match port {
                0 => ["", name].contains(&&*self.name),
                port => bound.port() == port,
            };
            port_fits && fits(bound, &self.socket)
        })
    }

    fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            name: self.name.clone(),
            socket: self.socket.try_clone()?,
        })
    }
}

impl UnixSocket {
    fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            socket: self.socket.try_clone()?,
            is_held: self.is_held,
        })
    }
}

/// Sockets that are passed on with this name.
#[cfg(test)]
pub(super) fn passed_on(name: &str, sockets: impl IntoIterator<Item = TcpListener>) -> Inherited {
    let sockets = sockets.into_iter().map(|socket| NamedSocket {
        name: name.to_owned(),
        socket,
    });
    Inherited {
        tcp: sockets.collect(),
        ..Inherited::default()
    }
}

#[cfg(test)]
mod tests {
    use socket2::{Domain, Socket, Type};

    use super::*;

    fn on_all_addresses(only_v6: bool) -> TcpListener {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
        socket.set_only_v6(only_v6).unwrap();
        let any = SocketAddr::from(([0; 8], 0));
        socket.bind(&any.into()).unwrap();
        socket.listen(1).unwrap();
        socket.into()
    }

    #[test]
    fn a_socket_on_both_families_serves_a_listener_of_ipv4() {
        let both = on_all_addresses(false);
        let port = both.local_addr().unwrap().port();
        let any = SocketAddr::from(([0, 0, 0, 0], port));
        let one = SocketAddr::from(([127, 0, 0, 1], port));
        for wanted in [any, SocketAddr::from(([0, 0, 0, 0], 0))] {
            let mut inherited = passed_on("", [both.try_clone().unwrap()]);
            assert_eq!(inherited.in_the_way("https", wanted), None);
            assert_eq!(inherited.take_tcp("https", wanted).len(), 1);
            assert_eq!(inherited.left(), None);
        }
        // Not so one that is narrower than the socket, and one on a socket that IPv4 does not reach.
        let mut inherited = passed_on("", [both]);
        let bound = inherited.tcp[0].socket.local_addr().unwrap();
        assert_eq!(inherited.in_the_way("https", one), Some(bound));
        assert!(inherited.take_tcp("https", one).is_empty());
        let only = on_all_addresses(true);
        let bound = only.local_addr().unwrap();
        let any = SocketAddr::from(([0, 0, 0, 0], bound.port()));
        let mut inherited = passed_on("", [only]);
        assert_eq!(inherited.in_the_way("https", any), Some(bound));
        assert!(inherited.take_tcp("https", any).is_empty());
    }

    #[test]
    fn an_address_and_a_path_are_known_in_every_spelling() {
        let plain = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = plain.local_addr().unwrap().port();
        let mapped = SocketAddr::from(([0, 0, 0, 0, 0, 0xffff, 0x7f00, 1], port));
        let mut inherited = passed_on("", [plain]);
        assert_eq!(inherited.in_the_way("https", mapped), None);
        assert_eq!(inherited.take_tcp("https", mapped).len(), 1);

        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("run")).unwrap();
        std::os::unix::fs::symlink(at("run"), at("link")).unwrap();
        for (bound, wanted) in [("run/a", "link/a"), ("link/b", "run/../run/b")] {
            let mut inherited = Inherited {
                unix: vec![UnixSocket {
                    socket: UnixListener::bind(at(bound)).unwrap(),
                    is_held: true,
                }],
                ..Inherited::default()
            };
            assert!(inherited.take_unix(&at("run/none")).is_none());
            assert!(inherited.take_unix(&at(wanted)).is_some(), "{wanted}");
        }
    }

    #[test]
    fn what_nothing_takes_is_named() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let mut inherited = passed_on("https", [socket]);
        let other = SocketAddr::from(([127, 0, 0, 2], address.port()));
        assert!(inherited.take_tcp("https", other).is_empty());
        assert_eq!(inherited.left(), Some(address.to_string()));
    }

    #[test]
    fn port_0_takes_what_was_opened_for_the_listener() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut inherited = Inherited::default();
        for name in ["https", "http", ADMIN, "https"] {
            inherited
                .tcp
                .extend(passed_on(name, [TcpListener::bind(any).unwrap()]).tcp);
        }
        let https = inherited.try_clone().unwrap();
        let https = [&https.tcp[0], &https.tcp[3]].map(|named| named.socket.local_addr().unwrap());
        assert_eq!(inherited.take_tcp(ADMIN, any).len(), 1);
        let taken = inherited.take_tcp("https", any);
        assert_eq!(
            taken
                .iter()
                .map(|socket| socket.local_addr().unwrap())
                .collect::<Vec<_>>(),
            https
        );
        // A port that the config names tells enough: a listener may have another's.
        let last = inherited.tcp[0].socket.local_addr().unwrap();
        assert_eq!(inherited.take_tcp("https", last).len(), 1);
        assert_eq!(inherited.left(), None);
    }
}
