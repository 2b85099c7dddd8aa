//! Listening on a Unix socket whose file is this process's alone.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::files::Identity;
use crate::limits::SOCKET_PATH_MAX;

/// Connections that the kernel keeps until they are accepted; the standard library's for TCP.
const BACKLOG: i32 = 128;

/// Why it is not listened there.
#[derive(Debug, thiserror::Error)]
pub(super) enum SocketError {
    /// Another process listens there.
    #[error("another process listens there")]
    InUse,
    /// A file that is not a socket has the name.
    #[error("what is there is not a socket")]
    NotASocket,
    /// The path does not fit into an address.
    #[error("the path has {0} bytes, and that of a Unix socket at most {SOCKET_PATH_MAX}")]
    TooLong(usize),
    /// The system refuses.
    #[error("{0}")]
    System(#[from] io::Error),
}

/// Listens at `path`, with mode 0600 from the first moment on; a file that is left from a process
/// that nobody listens for any more is replaced.
pub(super) fn listen(path: &Path) -> Result<(UnixListener, SocketFile), SocketError> {
    check(path)?;
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Linux makes the file with the mode of the unbound socket, so there is no moment with a wider one.
    let file = File::from(OwnedFd::from(socket));
    file.set_permissions(Permissions::from_mode(0o600))?;
    let socket = Socket::from(OwnedFd::from(file));
    socket
        .bind(&SockAddr::unix(path)?)
        .map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => SocketError::InUse,
            _ => error.into(),
        })?;
    let file = SocketFile::made(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok((UnixListener::from(OwnedFd::from(socket)), file))
}

/// Looks whether a socket could be at `path`; nothing is changed.
pub(super) fn check(path: &Path) -> Result<(), SocketError> {
    let length = path.as_os_str().len();
    if length > SOCKET_PATH_MAX {
        return Err(SocketError::TooLong(length));
    }
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => Err(SocketError::NotASocket),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Removes the socket's file if nobody listens on it.
fn remove_stale(path: &Path) -> Result<(), SocketError> {
    match UnixStream::connect(path) {
        Ok(_) => Err(SocketError::InUse),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!(path = %path.display(), "replacing the admin socket of a process that has ended");
            Ok(fs::remove_file(path)?)
        }
        Err(error) => Err(error.into()),
    }
}

/// The file of a Unix socket. Where it is this process's, it is removed at the end, unless another
/// process has replaced it.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    identity: Identity,
    is_mine: bool,
    /// It is never this process's: the program that made it keeps it, such as systemd.
    is_held: bool,
}

impl SocketFile {
    /// One that this process has made.
    fn made(path: &Path) -> io::Result<Self> {
        let mut file = Self::inherited(path)?;
        file.take_over();
        Ok(file)
    }

    /// One that another process has made, whose it is until this one [takes it
    /// over](Self::take_over).
    pub fn inherited(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            identity: Identity::of_name(path)?,
            is_mine: false,
            is_held: false,
        })
    }

    /// One that another program has made, which keeps it when this process has ended.
    pub fn held(path: &Path) -> io::Result<Self> {
        let mut file = Self::inherited(path)?;
        file.is_held = true;
        Ok(file)
    }

    /// Returns whether another program keeps it.
    pub const fn is_held(&self) -> bool {
        self.is_held
    }

    /// Makes it this process's, which serves from now on, unless another program keeps it.
    pub fn take_over(&mut self) {
        self.is_mine = !self.is_held;
    }

    /// Leaves it to another process.
    pub fn leave(&mut self) {
        self.is_mine = false;
    }

    /// Returns whether its name still leads to it.
    pub fn is_there(&self) -> bool {
        self.is_at(&self.path)
    }

    /// Returns whether this name leads to it.
    pub fn is_at(&self, path: &Path) -> bool {
        Identity::of_name(path).is_ok_and(|found| found == self.identity)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_mine && self.is_there() {
            // Failing leaves a stale file, which the next start replaces.
            let _ = fs::remove_file(&self.path);
        }
    }
}
