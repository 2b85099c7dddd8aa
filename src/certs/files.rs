//! Writing files so that a reader, or the next start after a crash, sees the old content or the new and nothing between:
//! a temporary file in the same folder, synced, moved into place, the folder synced.
//!
//! A temporary file is locked (flock(2)) while its process works on it. The system ends the lock with the process, so that
//! [`sweep`] tells what a killed one has left from what is being written.
//!
//! A key file has mode 0600 before its first byte is written. The guarantee is for one file at a time; a certificate and
//! its key are two files, so the key is written first and a reader checks that they match.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use zeroize::Zeroizing;

use super::CertError;

/// Who may read a file that is written here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// 0600: private keys.
    Secret,
    /// 0644, narrowed by the umask: certificates and revocation lists.
    Public,
}

/// Makes the folder and its parents with mode 0700 where they are missing; an existing folder is left as it is.
///
/// # Errors
/// [`CertError::Io`] where the folder can not be made.
pub fn make_folder(folder: &Path) -> Result<(), CertError> {
    if folder.as_os_str().is_empty() {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|cause| CertError::io("make the folder", folder, cause))
}

/// Reads a file with a secret that its owner only may use, of `most` bytes and some white space at most.
///
/// # Errors
/// What is wrong with the file, which is named, and what would be right.
pub fn read_secret(file: &Path, most: u64) -> Result<Zeroizing<String>, String> {
    const WHITE_SPACE: u64 = 64;
    let shown = file.display();
    let unread = |error| format!("cannot read {shown}: {error}");
    let opened = File::open(file).map_err(unread)?;
    let metadata = opened.metadata().map_err(unread)?;
    if !metadata.is_file() {
        return Err(format!("{shown} is not a regular file"));
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(format!("others may use {shown}; chmod 600 {shown}"));
    }
    if metadata.len() > most + WHITE_SPACE {
        return Err(format!("{shown} has more than {most} bytes"));
    }
    let mut text = Zeroizing::default();
    let read = opened.take(most + WHITE_SPACE).read_to_string(&mut text);
    read.map_err(unread)?;
    Ok(text)
}

/// Writes a file that must not exist yet.
///
/// # Errors
/// [`CertError::Exists`] where it does, also when another process made it in the same moment; [`CertError::Io`].
pub fn write_new(path: &Path, content: &[u8], mode: Mode) -> Result<(), CertError> {
    refuse_existing(path)?;
    let temporary = Temporary::write(path, content, mode)?;
    // A hard link fails where the name is taken, which a rename would silently replace.
    match fs::hard_link(&temporary.path, path) {
        Ok(()) => drop(temporary),
        Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => {
            return Err(CertError::Exists {
                path: path.to_path_buf(),
            });
        }
        // Some file systems (vfat, several FUSE ones) have no hard links: then the check above is all there is.
        Err(_) => temporary.rename(path)?,
    }
    sync_folder(path)
}

/// Writes a file, in place of the one that may be there.
///
/// # Errors
/// [`CertError::Io`]; the old file is then untouched.
pub fn replace(path: &Path, content: &[u8], mode: Mode) -> Result<(), CertError> {
    Temporary::write(path, content, mode)?.rename(path)?;
    sync_folder(path)
}

/// Removes a file; whether it was there.
///
/// # Errors
/// [`CertError::Io`].
pub fn remove(path: &Path) -> Result<bool, CertError> {
    match fs::remove_file(path) {
        Ok(()) => sync_folder(path).map(|()| true),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(cause) => Err(CertError::io("remove", path, cause)),
    }
}

/// Removes the temporary files in a folder that killed processes have left, of files that `is_meant` says yes to by their
/// names. What a process is writing, this one or another, stays. How many there were; none where there is no folder.
///
/// # Errors
/// [`CertError::Io`] where the folder cannot be read. What cannot be removed stays.
pub fn sweep(folder: &Path, is_meant: impl Fn(&str) -> bool) -> Result<usize, CertError> {
    let unread = |cause| CertError::io("read the folder", folder, cause);
    let entries = match fs::read_dir(folder) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(0),
        other => other.map_err(unread)?,
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry.map_err(unread)?;
        let (name, path) = (entry.file_name(), entry.path());
        let destination = name.to_str().and_then(Temporary::destination);
        if destination.is_some_and(&is_meant)
            && entry.file_type().is_ok_and(|kind| kind.is_file())
            && let Ok(file) = File::open(&path)
            && file.try_lock().is_ok()
            && fs::remove_file(&path).is_ok()
        {
            removed += 1;
        }
    }
    Ok(removed)
}

/// Gives a file another name in the same folder, in place of the one that may have it.
///
/// # Errors
/// [`CertError::Io`]; both are then as they were.
pub fn rename(from: &Path, to: &Path) -> Result<(), CertError> {
    fs::rename(from, to).map_err(|cause| CertError::io("write", to, cause))?;
    sync_folder(to)
}

/// # Errors
/// [`CertError::Exists`] where something of that name exists, be it a dangling symbolic link.
pub fn refuse_existing(path: &Path) -> Result<(), CertError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Err(CertError::Exists {
            path: path.to_path_buf(),
        }),
        Err(_) => Ok(()),
    }
}

/// Writes a new certificate chain and its new key. Neither may exist; when the second can not be written the first is
/// taken back, so that a failed command leaves nothing that stops its repetition.
///
/// # Errors
/// [`CertError::Exists`], [`CertError::Io`].
pub fn write_new_pair(certificate: (&Path, &[u8]), key: (&Path, &[u8])) -> Result<(), CertError> {
    refuse_existing(certificate.0)?;
    write_new(key.0, key.1, Mode::Secret)?;
    write_new(certificate.0, certificate.1, Mode::Public).inspect_err(|_| {
        // The write's own error is the one to report; a left-over key is named by the next attempt.
        let _ = fs::remove_file(key.0);
    })
}

/// A temporary file beside its destination, removed when dropped.
struct Temporary {
    path: PathBuf,
    /// Locked.
    file: File,
}

impl Temporary {
    fn write(destination: &Path, content: &[u8], mode: Mode) -> Result<Self, CertError> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let name = destination.file_name().ok_or_else(|| {
            CertError::request(
                format!("{} names no file", destination.display()),
                "give a file name",
            )
        })?;
        let mut temporary = loop {
            let mut temporary_name = std::ffi::OsString::from(".");
            temporary_name.push(name);
            let count = COUNTER.fetch_add(1, Ordering::Relaxed);
            temporary_name.push(format!(".{}.{count}.tmp", std::process::id()));
            let path = destination.with_file_name(temporary_name);
            let made = Self::make(path, mode);
            let made = made.map_err(|cause| CertError::io("write", destination, cause))?;
            if let Some(temporary) = made {
                break temporary;
            }
        };
        let written = temporary.file.write_all(content);
        written
            .and_then(|()| temporary.file.sync_all())
            .map_err(|cause| CertError::io("write", destination, cause))?;
        Ok(temporary)
    }

    /// An empty one, locked; `None` where it was swept before it had its lock.
    fn make(path: PathBuf, mode: Mode) -> io::Result<Option<Self>> {
        let bits = match mode {
            Mode::Secret => 0o600,
            Mode::Public => 0o644,
        };
        // A left-over of a killed process with the same id is in the way of `create_new`, and holds nothing of use.
        let _ = fs::remove_file(&path);
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create_new(true)
            .mode(bits)
            .open(&path)?;
        // Where the file system has no locks, nothing is swept either.
        let _ = file.lock();
        let is_there = file.metadata()?.nlink() > 0;
        Ok(is_there.then_some(Self { path, file }))
    }

    /// The name of the file that a temporary one of this name was to become; `None` where it is none of adit's.
    fn destination(name: &str) -> Option<&str> {
        let name = name.strip_prefix('.')?.strip_suffix(".tmp")?;
        let (name, count) = name.rsplit_once('.')?;
        let (name, process) = name.rsplit_once('.')?;
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        (is_number(count) && is_number(process)).then_some(name)
    }

    fn rename(self, destination: &Path) -> Result<(), CertError> {
        fs::rename(&self.path, destination)
            .map_err(|cause| CertError::io("write", destination, cause))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After a rename it is gone already.
        let _ = fs::remove_file(&self.path);
    }
}

fn sync_folder(path: &Path) -> Result<(), CertError> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|cause| CertError::io("sync the folder", folder, cause))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn mode_of(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_secret_is_readable_by_its_owner_only_and_leaves_no_temporary() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.key");
        write_new(&path, b"one", Mode::Secret).unwrap();
        assert_eq!(mode_of(&path), 0o600);
        replace(&path, b"two", Mode::Secret).unwrap();
        assert_eq!(mode_of(&path), 0o600);
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(names(folder.path()), ["a.key"]);
    }

    #[test]
    fn write_new_refuses_an_existing_file_and_a_dangling_link() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.key");
        write_new(&path, b"one", Mode::Secret).unwrap();
        let error = write_new(&path, b"two", Mode::Secret).unwrap_err();
        assert!(matches!(error, CertError::Exists { .. }), "{error}");
        assert!(error.to_string().contains("a.key"));
        assert_eq!(fs::read(&path).unwrap(), b"one");

        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path().join("nowhere"), &link).unwrap();
        assert!(matches!(
            write_new(&link, b"x", Mode::Public),
            Err(CertError::Exists { .. })
        ));
        assert_eq!(names(folder.path()), ["a.key", "link"]);
    }

    #[test]
    fn a_pair_is_written_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (folder.path().join("a.pem"), folder.path().join("a.key"));
        fs::write(&certificate, b"old").unwrap();
        assert!(write_new_pair((&certificate, b"new"), (&key, b"key")).is_err());
        assert_eq!(names(folder.path()), ["a.pem"]);
        assert_eq!(fs::read(&certificate).unwrap(), b"old");
    }

    #[test]
    fn only_what_a_killed_process_has_left_is_swept() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let others = [
            "a.pem",
            ".a.pem",
            ".a.pem.1.tmp",
            ".a.pem.1.2.tmp.x",
            ".a.pem.1.x.tmp",
            ".a.pem..2.tmp",
            "a.pem.1.2.tmp",
            ".b.pem.1.2.tmp",
        ];
        for name in others.iter().chain(&[".a.pem.1.2.tmp", ".a.pem.77.0.tmp"]) {
            fs::write(at(name), b"x").unwrap();
        }
        fs::create_dir(at(".a.pem.1.3.tmp")).unwrap();
        std::os::unix::fs::symlink(at("a.pem"), at(".a.pem.1.4.tmp")).unwrap();
        let written = Temporary::write(&at("a.pem"), b"new", Mode::Secret).unwrap();
        let is_meant = |name: &str| name == "a.pem";
        assert_eq!(sweep(folder.path(), is_meant).unwrap(), 2);
        for name in others.iter().chain(&[".a.pem.1.3.tmp", ".a.pem.1.4.tmp"]) {
            assert!(at(name).symlink_metadata().is_ok(), "{name}");
        }
        assert_eq!(names(folder.path()).len(), others.len() + 3);
        written.rename(&at("a.pem")).unwrap();
        assert_eq!(fs::read(at("a.pem")).unwrap(), b"new");
        assert_eq!(sweep(&at("none"), is_meant).unwrap(), 0);
    }

    /// One writes while another sweeps all the time: nothing is lost.
    #[test]
    fn what_is_being_written_is_not_swept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.pem");
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for count in 0..200 {
                    let content = format!("{count}");
                    replace(&path, content.as_bytes(), Mode::Secret).unwrap();
                    assert_eq!(fs::read_to_string(&path).unwrap(), content);
                }
            });
            while !writer.is_finished() {
                sweep(folder.path(), |_| true).unwrap();
            }
        });
        assert_eq!(names(folder.path()), ["a.pem"]);
    }

    #[test]
    fn a_missing_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("none/a.pem");
        let error = write_new(&path, b"x", Mode::Public)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("none/a.pem") && error.contains("check the path"),
            "{error}"
        );
    }
}
