//! Where the admin listener listens: bound early, so that a process whose address is taken refuses to start.

use std::fs::{self, File, Permissions};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

use super::ControlError;
use super::permission::{Permission, Users, read_token};
use crate::config::AdminListen;
use crate::engine::{ADMIN, Inherited};

/// Connections that the kernel keeps for a Unix listener until they are accepted; the standard library's for TCP.
const BACKLOG: i32 = 128;

/// The control core with its bound admin listener, not running yet.
#[derive(Debug)]
pub struct Control {
    pub(super) listener: Listener,
    pub(super) permission: Permission,
    pub(super) users: Users,
}

/// A bound listener.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener, SocketAddr),
    Unix(UnixListener, SocketFile),
}

impl Control {
    /// Binds the admin listener, or takes it from those that are `inherited`. A Unix socket gets mode 0600; where its file is left from a process that nobody listens
    /// for any more, it is replaced.
    ///
    /// # Errors
    ///
    /// The address is taken, is not loopback, or may not be used; each error names it.
    pub fn bind(listen: &AdminListen, inherited: &mut Inherited) -> Result<Self, ControlError> {
        let listener = match listen {
            AdminListen::Tcp(address) => bind_tcp(*address, inherited)?,
            AdminListen::Unix(path) => bind_unix(path, inherited)?,
        };
        let permission = match listener {
            Listener::Tcp(..) => Permission::Never,
            Listener::Unix(..) => Permission::Socket,
        };
        Ok(Self {
            listener,
            permission,
            users: Users::new(&[]),
        })
    }

    /// Serves these users on the Unix socket too, beside root and the node's own.
    #[must_use]
    pub fn with_users(mut self, users: &[u32]) -> Self {
        self.users = Users::new(users);
        self
    }

    /// Lets changes be made with the token in `file`, and without it no more.
    ///
    /// # Errors
    ///
    /// The file holds no token, or others may read it.
    pub fn with_token(mut self, file: &Path) -> Result<Self, ControlError> {
        read_token(file).map_err(ControlError::Token)?;
        self.permission = Permission::Token(file.to_owned());
        Ok(self)
    }

    /// A copy of the listening socket, for a process that takes it over.
    ///
    /// # Errors
    ///
    /// The system's, at its limit of open files.
    pub fn socket(&self) -> io::Result<OwnedFd> {
        match &self.listener {
            Listener::Tcp(listener, _) => listener.try_clone().map(Into::into),
            Listener::Unix(listener, _) => listener.try_clone().map(Into::into),
        }
    }

    /// The TCP address, with the port that the system chose where the configured one was 0. `None` for a Unix socket.
    #[must_use]
    pub const fn local_addr(&self) -> Option<SocketAddr> {
        match &self.listener {
            Listener::Tcp(_, address) => Some(*address),
            Listener::Unix(..) => None,
        }
    }

    /// The address that a request's host may name beside loopback. `None` for a Unix socket, which no browser reaches.
    pub(super) fn host(&self) -> Option<IpAddr> {
        self.local_addr().map(|address| address.ip())
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
    let inherited = inherited.take_unix(path);
    if inherited.is_none() {
        remove_stale(path)?;
    }
    let bind = || {
        if let Some(listener) = inherited {
            listener.set_nonblocking(true)?;
            return Ok(Listener::Unix(listener, SocketFile::new(path)?));
        }
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // Linux makes the file with the mode of the unbound socket, so there is no moment with a wider one.
        let file = File::from(OwnedFd::from(socket));
        file.set_permissions(Permissions::from_mode(0o600))?;
        let socket = Socket::from(OwnedFd::from(file));
        socket.bind(&SockAddr::unix(path)?)?;
        let guard = SocketFile::new(path)?;
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(Listener::Unix(
            UnixListener::from(OwnedFd::from(socket)),
            guard,
        ))
    };
    bind().map_err(|source| bind_error(path.display().to_string(), source))
}

/// Removes the socket's file if nobody listens on it.
fn remove_stale(path: &Path) -> Result<(), ControlError> {
    let address = || path.display().to_string();
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            return Err(ControlError::Bind {
                address: address(),
                source,
            });
        }
    };
    if !metadata.file_type().is_socket() {
        return Err(ControlError::NotASocket {
            path: path.to_owned(),
        });
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(ControlError::AddressInUse { address: address() }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!(path = %path.display(), "replacing the admin socket of a process that is gone");
            fs::remove_file(path).map_err(|source| ControlError::Bind {
                address: address(),
                source,
            })
        }
        Err(source) => Err(ControlError::Bind {
            address: address(),
            source,
        }),
    }
}

fn bind_error(address: String, source: io::Error) -> ControlError {
    match source.kind() {
        io::ErrorKind::AddrInUse => ControlError::AddressInUse { address },
        _ => ControlError::Bind { address, source },
    }
}

/// The file of a Unix socket, removed at the end unless another process has replaced it.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
    is_mine: bool,
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            identity: identity(path)?,
            is_mine: true,
        })
    }

    /// Leaves the file to another process.
    pub fn leave(mut self) {
        self.is_mine = false;
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_mine && identity(&self.path).is_ok_and(|found| found == self.identity) {
            // Failing leaves a stale file, which the next start replaces.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
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
