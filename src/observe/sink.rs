//! Where the lines of the audit log go: standard output, or a file that a rotation may rename.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::audit::AuditLogError;

/// Where lines go.
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
    // Names of devices and users are for the operator and the group that ships logs.
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
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
