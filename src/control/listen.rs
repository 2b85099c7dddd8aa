//! Sockets of the admin listener: bound early, so that a process whose address is taken refuses to
//! start.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;

use super::ControlError;
use super::permission::{Permission, Policy, Users, read_token};
use super::socket::{self, SocketError, SocketFile};
use super::state_socket::{StateSocket, state_socket_path};
use crate::config::AdminListen;
use crate::engine::{ADMIN, ADMIN_HELD, Inherited};

/// The control core with its bound admin listener, not running yet.
#[derive(Debug)]
pub struct Control {
    pub(super) listener: Listener,
    pub(super) policy: Policy,
    pub(super) state_socket: Option<Arc<StateSocket>>,
}

/// A bound listener.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener, SocketAddr),
    Unix(UnixListener, SocketFile),
}

impl Control {
    /// Binds the admin listener, or takes it from those that are `inherited`. A Unix socket gets
    /// mode 0600; where its file is left from a process that nobody listens for any more, it is
    /// replaced.
    ///
    /// # Errors
    ///
    /// The address is taken, is not loopback, or may not be used; each error names it.
    pub fn bind(listen: &AdminListen, inherited: &mut Inherited) -> Result<Self, ControlError> {
        let listener = match listen {
            AdminListen::Tcp(address) => bind_tcp(*address, inherited)?,
            AdminListen::Unix(path) => bind_unix(path, inherited)?,
        };
        let (permission, host) = match &listener {
            Listener::Tcp(_, address) => (Permission::Never, Some(address.ip())),
            Listener::Unix(..) => (Permission::Socket, None),
        };
        Ok(Self {
            listener,
            policy: Policy {
                permission,
                users: Users::new(&[]),
                host,
            },
            state_socket: None,
        })
    }

    /// Listens in the state folder too, whose lock this process has, unless the admin listener does
    /// that already. Where it cannot, the node runs on, and says so.
    #[must_use]
    pub fn with_state_socket(mut self, state_dir: &Path, inherited: &mut Inherited) -> Self {
        let path = state_socket_path(state_dir);
        let is_admin = matches!(&self.listener, Listener::Unix(_, file) if file.is_at(&path));
        if !is_admin {
            self.state_socket = Some(Arc::new(StateSocket::open(state_dir, inherited)));
        }
        self
    }

    /// The socket in the state folder, where there is one of its own.
    #[must_use]
    pub fn state_socket(&self) -> Option<Arc<StateSocket>> {
        self.state_socket.clone()
    }

    /// Serves these users on the Unix socket too, beside root and the node's own.
    #[must_use]
    pub fn with_users(mut self, users: &[u32]) -> Self {
        self.policy.users = Users::new(users);
        self
    }

    /// Lets changes be made with the token in `file`, and without it no more.
    ///
    /// # Errors
    ///
    /// The file holds no token, or others may read it.
    pub fn with_token(mut self, file: &Path) -> Result<Self, ControlError> {
        read_token(file).map_err(ControlError::Token)?;
        self.policy.permission = Permission::Token(file.to_owned());
        Ok(self)
    }

    /// A copy of the listening socket, for a process that takes it over, and the name to pass it on
    /// with.
    ///
    /// # Errors
    ///
    /// The system's, at its limit of open files.
    pub fn socket(&self) -> io::Result<(&'static str, OwnedFd)> {
        Ok(match &self.listener {
            Listener::Tcp(listener, _) => (ADMIN, listener.try_clone()?.into()),
            Listener::Unix(listener, file) if file.is_held() => {
                (ADMIN_HELD, listener.try_clone()?.into())
            }
            Listener::Unix(listener, _) => (ADMIN, listener.try_clone()?.into()),
        })
    }

    /// The TCP address, with the port that the system chose where the configured one was 0. `None`
    /// for a Unix socket.
    #[must_use]
    pub const fn local_addr(&self) -> Option<SocketAddr> {
        match &self.listener {
            Listener::Tcp(_, address) => Some(*address),
            Listener::Unix(..) => None,
        }
    }
}

fn bind_tcp(address: SocketAddr, inherited: &mut Inherited) -> Result<Listener, ControlError> {
    if !address.ip().is_loopback() {
        return Err(ControlError::NotLoopback { address });
    }
    let failed = |source| bind_error(address.to_string(), source);
    let listener = match inherited.take_tcp(ADMIN, address).pop() {
        Some(listener) => listener,
        None => TcpListener::bind(address).map_err(failed)?,
    };
    listener.set_nonblocking(true).map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok(Listener::Tcp(listener, bound))
}

fn bind_unix(path: &Path, inherited: &mut Inherited) -> Result<Listener, ControlError> {
    let Some(unix) = inherited.take_unix(path) else {
        let (listener, file) = socket::listen(path).map_err(|error| of_socket(path, error))?;
        return Ok(Listener::Unix(listener, file));
    };
    let of_file = match unix.is_held {
        true => SocketFile::held,
        false => SocketFile::inherited,
    };
    let ready = unix.socket.set_nonblocking(true);
    let file = ready.and_then(|()| of_file(path));
    let file = file.map_err(|source| bind_error(path.display().to_string(), source))?;
    Ok(Listener::Unix(unix.socket, file))
}

fn of_socket(path: &Path, error: SocketError) -> ControlError {
    let address = path.display().to_string();
    match error {
        SocketError::InUse => ControlError::AddressInUse { address },
        SocketError::NotASocket => ControlError::NotASocket {
            path: path.to_owned(),
        },
        SocketError::System(source) => ControlError::Bind { address, source },
        SocketError::TooLong(_) => ControlError::Bind {
            address,
            source: io::Error::new(io::ErrorKind::InvalidFilename, error.to_string()),
        },
    }
}

fn bind_error(address: String, source: io::Error) -> ControlError {
    match source.kind() {
        io::ErrorKind::AddrInUse => ControlError::AddressInUse { address },
        _ => ControlError::Bind { address, source },
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn bind(listen: &AdminListen) -> Result<Control, ControlError> {
        Control::bind(listen, &mut Inherited::default())
    }

    #[test]
    fn a_taken_port_is_named() {
        let first = bind(&AdminListen::Tcp("127.0.0.1:0".parse().unwrap())).unwrap();
        let address = first.local_addr().unwrap();
        assert_ne!(address.port(), 0);
        let error = bind(&AdminListen::Tcp(address)).unwrap_err();
        assert!(
            matches!(error, ControlError::AddressInUse { .. }),
            "{error:?}"
        );
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }

    #[test]
    fn other_machines_are_kept_out() {
        for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
            let error = bind(&AdminListen::Tcp(address.parse().unwrap())).unwrap_err();
            assert!(
                matches!(error, ControlError::NotLoopback { .. }),
                "{error:?}"
            );
        }
    }

    #[test]
    fn a_unix_socket_is_private_and_goes_with_its_listener() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let listen = AdminListen::Unix(path.clone());
        let first = bind(&listen).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let error = bind(&listen).unwrap_err();
        assert!(
            matches!(error, ControlError::AddressInUse { .. }),
            "{error:?}"
        );
        assert!(path.exists());
        drop(first);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_file_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let stale = folder.path().join("stale.sock");
        drop(UnixListener::bind(&stale).unwrap());
        assert!(stale.exists());
        bind(&AdminListen::Unix(stale)).unwrap();

        let file = folder.path().join("precious");
        fs::write(&file, "data").unwrap();
        let error = bind(&AdminListen::Unix(file.clone())).unwrap_err();
        assert!(
            matches!(error, ControlError::NotASocket { .. }),
            "{error:?}"
        );
        assert_eq!(fs::read_to_string(&file).unwrap(), "data");
    }

    #[test]
    fn a_file_that_another_process_made_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let old = bind(&AdminListen::Unix(path.clone())).unwrap();
        // The old file stays under another name, so that its inode is not given out again.
        fs::rename(&path, folder.path().join("old.sock")).unwrap();
        let _new = bind(&AdminListen::Unix(path.clone())).unwrap();
        drop(old);
        assert!(path.exists());
    }
}
