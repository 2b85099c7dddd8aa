//! Destination of the lines of the audit log: standard output, or a file that a rotation may
//! rename.

use std::fs::{File, FileType, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// The audit log could not be started.
#[derive(Debug, thiserror::Error)]
pub enum AuditLogError {
    /// The file cannot be opened for appending.
    #[error(
        "cannot open the audit log {path}: {source}; make it and its folder writable or change log.audit"
    )]
    Open {
        /// The file of the configuration.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The writer's thread cannot be started.
    #[error("cannot start the audit log's thread: {0}; raise the limit of processes")]
    Thread(io::Error),
}

/// Destination of lines.
pub(super) trait Output: Send {
    /// Writes some of the bytes, as [`Write::write`].
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Hands the bytes to the system.
    fn flush(&mut self) -> io::Result<()>;

    /// Opens the sink again by its name.
    fn reopen(&mut self) -> Result<(), AuditLogError> {
        Ok(())
    }
}

pub(super) struct Stdout;

impl Output for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::stdout().lock().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().lock().flush()
    }
}

pub(super) struct LogFile {
    path: PathBuf,
    file: File,
}

impl LogFile {
    pub fn open(path: PathBuf) -> Result<Self, AuditLogError> {
        match open_append(&path) {
            Ok(file) => Ok(Self { path, file }),
            Err(source) => Err(AuditLogError::Open { path, source }),
        }
    }
}

fn open_append(path: &Path) -> io::Result<File> {
    look_at(path)?;
    // Without a wait, should the name have become that of a pipe since then; it makes no difference for a file.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    // Names of devices and users are for the operator and the group that ships logs.
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .custom_flags(flags)
        .open(path)?;
    if !is_own_descriptor(path) {
        refuse_pipe(file.metadata()?.file_type())?;
    }
    // What is written to is waited for: a terminal or a pipe of this process takes lines as fast as it can.
    let flags = rustix::fs::fcntl_getfl(&file)?;
    rustix::fs::fcntl_setfl(&file, flags - OFlags::NONBLOCK)?;
    Ok(file)
}

/// Refuses a name that stands for a pipe or a socket: opening it waits for its reader, and what
/// nobody reads is lost. What this process was started with, as /dev/stdout, and devices may be
/// written to.
pub(super) fn look_at(path: &Path) -> io::Result<()> {
    let kind = match std::fs::metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if kind.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    match kind.is_fifo() && is_own_descriptor(path) {
        true => Ok(()),
        false => refuse_pipe(kind),
    }
}

fn refuse_pipe(kind: FileType) -> io::Result<()> {
    let kind = match kind {
        kind if kind.is_fifo() => "a pipe (FIFO)",
        kind if kind.is_socket() => "a socket",
        _ => return Ok(()),
    };
    let message = format!("it is {kind}; name a regular file, or write \"stdout\"");
    Err(io::Error::new(io::ErrorKind::InvalidInput, message))
}

/// Returns whether a name stands for a descriptor of this process, as /dev/stdout does.
fn is_own_descriptor(path: &Path) -> bool {
    const FOLDERS: [&str; 2] = ["/proc/self/fd", "/dev/fd"];
    let named = std::fs::read_link(path);
    let is_in = |path: &Path| FOLDERS.iter().any(|folder| path.starts_with(folder));
    is_in(path) || named.is_ok_and(|named| is_in(&named))
}

impl Output for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn reopen(&mut self) -> Result<(), AuditLogError> {
        self.file = open_append(&self.path).map_err(|source| AuditLogError::Open {
            path: self.path.clone(),
            source,
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_pipe_and_a_socket_are_refused_at_once_and_devices_taken() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        let socket = folder.path().join("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&pipe, &link).unwrap();
        for (path, word) in [(&pipe, "FIFO"), (&link, "FIFO"), (&socket, "a socket")] {
            for error in [look_at(path).unwrap_err(), open_append(path).unwrap_err()] {
                assert!(error.to_string().contains(word), "{error}");
            }
        }
        assert!(look_at(folder.path()).is_err());
        let new = folder.path().join("new.log");
        look_at(&new).unwrap();
        assert!(!new.exists(), "a look makes nothing");
        for path in [Path::new("/dev/null"), &new] {
            open_append(path).unwrap().write_all(b"line\n").unwrap();
        }
        assert_eq!(std::fs::read(&new).unwrap(), b"line\n");
    }

    #[test]
    fn a_pipe_that_the_process_was_started_with_is_no_pipe_of_others() {
        let (reader, writer) = io::pipe().unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&writer);
        let path = PathBuf::from(format!("/proc/self/fd/{number}"));
        look_at(&path).unwrap();
        let file = open_append(&path).unwrap();
        assert!(
            !rustix::fs::fcntl_getfl(&file)
                .unwrap()
                .contains(OFlags::NONBLOCK)
        );
        drop(reader);
    }
}
