//! Reading regular files, and nothing else: opening a pipe waits for its writer, and reading a
//! device may never end.

use std::fs::{self, File, FileType, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use zeroize::Zeroizing;

use super::FileError;

/// White space that may be around a secret.
const WHITE_SPACE: u64 = 64;

/// Opens a regular file for reading; symbolic links are followed. Never waits for another process.
/// What hangs with a file system (NFS without its server) cannot be told beforehand.
///
/// # Errors
/// The system's, and where it is anything but a regular file, which the text names.
pub fn open(path: &Path) -> io::Result<File> {
    // Before it is opened, since opening some devices does something.
    refuse_irregular(fs::metadata(path)?.file_type())?;
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)?;
    // And of what was opened: the name may have changed hands in between.
    refuse_irregular(file.metadata()?.file_type())?;
    Ok(file)
}

fn refuse_irregular(kind: FileType) -> io::Result<()> {
    if kind.is_file() {
        return Ok(());
    }
    if kind.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let kind = match kind {
        kind if kind.is_fifo() => "a pipe (FIFO)",
        kind if kind.is_socket() => "a socket",
        _ => "a device",
    };
    let message = format!("it is not a regular file but {kind}; name a regular file");
    Err(io::Error::new(io::ErrorKind::InvalidInput, message))
}

/// Reads a regular file of `limit` bytes at most.
///
/// # Errors
/// [`FileError::Io`], [`FileError::TooLarge`].
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    let mut bytes = Vec::new();
    let read = open(path).and_then(|file| file.take(limit + 1).read_to_end(&mut bytes));
    read.map_err(|cause| FileError::io("read", path, cause))?;
    if bytes.len() as u64 > limit {
        return Err(FileError::TooLarge {
            path: path.to_path_buf(),
            limit,
        });
    }
    Ok(bytes)
}

/// Reads a file with a secret that its owner only may use, of `most` bytes and some white space at
/// most.
///
/// # Errors
/// [`FileError::Exposed`], and as [`read`].
pub fn read_secret(path: &Path, most: u64) -> Result<Zeroizing<String>, FileError> {
    let unread = |cause| FileError::io("read", path, cause);
    let file = open(path).map_err(unread)?;
    let metadata = file.metadata().map_err(unread)?;
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(FileError::Exposed {
            path: path.to_path_buf(),
        });
    }
    let limit = most + WHITE_SPACE;
    // As large as it can get: growing would leave copies behind.
    let mut text = Zeroizing::new(String::with_capacity(limit as usize + 1));
    let read = file.take(limit + 1).read_to_string(&mut text);
    read.map_err(unread)?;
    if text.len() as u64 > limit {
        return Err(FileError::TooLarge {
            path: path.to_path_buf(),
            limit: most,
        });
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::process::Command;

    use super::*;

    /// None of them waits: the test would.
    #[test]
    fn only_regular_files_are_opened() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("file"), "text").unwrap();
        let made = Command::new("mkfifo").arg(at("pipe")).status().unwrap();
        assert!(made.success());
        let _listener = UnixListener::bind(at("socket")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", at("zero")).unwrap();
        std::os::unix::fs::symlink(at("pipe"), at("link")).unwrap();
        std::os::unix::fs::symlink(at("file"), at("good")).unwrap();
        assert_eq!(read(&at("good"), 4).unwrap(), b"text");
        for (name, kind) in [
            ("pipe", "a pipe (FIFO)"),
            ("link", "a pipe (FIFO)"),
            ("socket", "a socket"),
            ("zero", "a device"),
        ] {
            let error = read(&at(name), 4).unwrap_err().to_string();
            let wanted = format!("not a regular file but {kind}; name a regular file");
            assert!(error.contains(&wanted) && error.contains(name), "{error}");
            assert!(read_secret(&at(name), 4).is_err());
        }
        let error = read(folder.path(), 4).unwrap_err().to_string();
        assert!(error.contains("name a file, not a folder"), "{error}");
        let error = read(&at("none"), 4).unwrap_err().to_string();
        assert!(error.contains("check the path"), "{error}");
    }

    #[test]
    fn a_file_is_read_up_to_its_bound() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "12345").unwrap();
        assert_eq!(read(&file, 5).unwrap(), b"12345");
        assert!(matches!(
            read(&file, 4).unwrap_err(),
            FileError::TooLarge { limit: 4, .. }
        ));
        let mode = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        mode(0o600);
        assert_eq!(&**read_secret(&file, 5).unwrap(), "12345");
        fs::write(&file, "x".repeat(5 + 65)).unwrap();
        assert!(matches!(
            read_secret(&file, 5).unwrap_err(),
            FileError::TooLarge { limit: 5, .. }
        ));
        for exposed in [0o640, 0o604, 0o620, 0o602] {
            mode(exposed);
            let error = read_secret(&file, 100).unwrap_err().to_string();
            assert!(error.starts_with("others may use"), "{error}");
        }
    }
}
