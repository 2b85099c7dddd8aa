//! Writing files so that a reader, or the next start after a crash, sees the old content or the new
//! and nothing between: a temporary file of a name that nobody knows beforehand in the same folder,
//! synced, moved into place, the folder synced.
//!
//! A temporary file is locked (flock(2)) while its process works on it. The system ends the lock
//! with the process, so that [`sweep`] tells what a killed one has left from what is being written.
//!
//! A key file has mode 0600 before its first byte is written. A file that is replaced keeps its
//! owner, where this user may give it away: the command line may run as root, and the node may not.
//! The guarantee is for one file at a time; a certificate and its key are two files, so the key is
//! written first and a reader checks that they match.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use tempfile::{Builder, NamedTempFile};

use super::FileError;
use super::folder::{folder_of, give};

/// Characters of a temporary file's name that are chosen at random.
const RANDOM: usize = 12;

/// Who may read a file that is written here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// 0600: private keys.
    Secret,
    /// 0644, narrowed by the umask: certificates and revocation lists.
    Public,
}

/// Writes a file that must not exist yet.
///
/// # Errors
/// [`FileError::Exists`] where it does, also when another process made it in the same moment;
/// [`FileError::Io`].
pub fn write_new(path: &Path, content: &[u8], mode: Mode) -> Result<(), FileError> {
    refuse_existing(path)?;
    PendingFile::with(path, content, mode)?.put_new()
}

/// Writes a file, in place of the one that may be there.
///
/// # Errors
/// [`FileError::Io`]; the old file is then untouched.
pub fn replace(path: &Path, content: &[u8], mode: Mode) -> Result<(), FileError> {
    PendingFile::with(path, content, mode)?.put()
}

/// Removes a file; whether it was there.
///
/// # Errors
/// [`FileError::Io`].
pub fn remove(path: &Path) -> Result<bool, FileError> {
    match fs::remove_file(path) {
        Ok(()) => sync_folder(path).map(|()| true),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(cause) => Err(FileError::io("remove", path, cause)),
    }
}

/// Removes the temporary files in a folder that killed processes have left, of files that
/// `is_meant` says yes to by their names. What a process is writing, this one or another, stays.
/// How many there were; none where there is no folder.
///
/// # Errors
/// [`FileError::Io`] where the folder cannot be read. What cannot be removed stays.
pub fn sweep(folder: &Path, is_meant: impl Fn(&str) -> bool) -> Result<usize, FileError> {
    let unread = |cause| FileError::io("read the folder", folder, cause);
    let entries = match fs::read_dir(folder) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(0),
        other => other.map_err(unread)?,
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry.map_err(unread)?;
        let (name, path) = (entry.file_name(), entry.path());
        let destination = name.to_str().and_then(destination);
        if destination.is_some_and(&is_meant)
            && let Ok(file) = super::open(&path)
            && entry.file_type().is_ok_and(|kind| kind.is_file())
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
/// [`FileError::Io`]; both are then as they were.
pub fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    fs::rename(from, to).map_err(|cause| FileError::io("write", to, cause))?;
    sync_folder(to)
}

/// # Errors
/// [`FileError::Exists`] where something of that name exists, be it a dangling symbolic link.
pub fn refuse_existing(path: &Path) -> Result<(), FileError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Err(FileError::Exists {
            path: path.to_path_buf(),
        }),
        Err(_) => Ok(()),
    }
}

/// Writes a new certificate chain and its new key. Neither may exist; when the second can not be
/// written the first is taken back, so that a failed command leaves nothing that stops its
/// repetition.
///
/// # Errors
/// [`FileError::Exists`], [`FileError::Io`].
pub fn write_new_pair(certificate: (&Path, &[u8]), key: (&Path, &[u8])) -> Result<(), FileError> {
    refuse_existing(certificate.0)?;
    write_new(key.0, key.1, Mode::Secret)?;
    write_new(certificate.0, certificate.1, Mode::Public).inspect_err(|_| {
        // The write's own error is the one to report; a left-over key is named by the next attempt.
        let _ = fs::remove_file(key.0);
    })
}

/// A file that is being written under a temporary name beside its place, where it gets by
/// [`PendingFile::put`] only. Removed when it is dropped before.
#[derive(Debug)]
pub struct PendingFile {
    /// Locked.
    file: NamedTempFile,
    place: PathBuf,
    /// It is of whom the folder is.
    in_state: bool,
}

impl PendingFile {
    /// An empty one.
    ///
    /// # Errors
    /// [`FileError::Io`], [`FileError::NoName`].
    pub fn new(place: &Path, mode: Mode) -> Result<Self, FileError> {
        let failed = |cause| FileError::io("write", place, cause);
        let Some(name) = place.file_name() else {
            return Err(FileError::NoName {
                path: place.to_path_buf(),
            });
        };
        let bits = match mode {
            Mode::Secret => 0o600,
            Mode::Public => 0o644,
        };
        let mut prefix = std::ffi::OsString::from(".");
        prefix.push(name);
        prefix.push(".");
        loop {
            let file = Builder::new()
                .prefix(&prefix)
                .suffix(SUFFIX)
                .rand_bytes(RANDOM)
                .permissions(Permissions::from_mode(bits))
                .tempfile_in(folder_of(place))
                .map_err(failed)?;
            // Where the file system has no locks, nothing is swept either.
            let _ = file.as_file().lock();
            // Unless it was swept before it had its lock.
            if file.as_file().metadata().map_err(failed)?.nlink() > 0 {
                let place = place.to_path_buf();
                let in_state = false;
                return Ok(Self {
                    file,
                    place,
                    in_state,
                });
            }
        }
    }

    /// One with this content, which is on the disk.
    ///
    /// # Errors
    /// As [`PendingFile::new`].
    pub fn with(place: &Path, content: &[u8], mode: Mode) -> Result<Self, FileError> {
        let mut pending = Self::new(place, mode)?;
        let written = pending.write_all(content);
        written.map_err(|cause| FileError::io("write", place, cause))?;
        pending.sync()?;
        Ok(pending)
    }

    /// A file of a state folder: it will be of whom the folder is, where root writes it and none is
    /// there before.
    #[must_use]
    pub fn in_state(mut self) -> Self {
        self.in_state = true;
        self
    }

    /// Has all of it on the disk, so that nothing but the renaming is left.
    ///
    /// # Errors
    /// [`FileError::Io`].
    pub fn sync(&self) -> Result<(), FileError> {
        let synced = self.file.as_file().sync_all();
        synced.map_err(|cause| FileError::io("write", &self.place, cause))
    }

    /// Returns where it gets.
    #[must_use]
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// Puts it in its place, and in that of the file that may be there.
    ///
    /// # Errors
    /// [`FileError::Io`]; the old file is then untouched.
    pub fn put(self) -> Result<(), FileError> {
        self.sync()?;
        self.give_to_owner();
        let Self { file, place, .. } = self;
        let put = file.persist(&place).map(drop);
        put.map_err(|error| FileError::io("write", &place, error.error))?;
        sync_folder(&place)
    }

    /// Puts it in its place, where nothing may be.
    ///
    /// # Errors
    /// [`FileError::Exists`], [`FileError::Io`].
    pub fn put_new(self) -> Result<(), FileError> {
        self.sync()?;
        self.give_to_owner();
        let Self { file, place, .. } = self;
        if let Err(error) = file.persist_noclobber(&place) {
            if error.error.kind() == io::ErrorKind::AlreadyExists {
                return Err(FileError::Exists { path: place });
            }
            // Some file systems (vfat, several FUSE ones) know neither of the ways: then a look beforehand is all there is.
            refuse_existing(&place)?;
            let put = error.file.persist(&place).map(drop);
            put.map_err(|error| FileError::io("write", &place, error.error))?;
        }
        sync_folder(&place)
    }

    /// The owner of the file that is there already has this one.
    fn give_to_owner(&self) {
        let new = self.file.as_file();
        match (fs::symlink_metadata(&self.place), new.metadata()) {
            (Ok(before), Ok(now)) if (before.uid(), before.gid()) != (now.uid(), now.gid()) => {
                // Only root may give files away, and only root needs to.
                let _ = fchown(new, Some(before.uid()), Some(before.gid()));
            }
            (Err(_), _) if self.in_state => give(new, folder_of(&self.place)),
            _ => {}
        }
    }
}

impl Write for PendingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

const SUFFIX: &str = ".tmp";

/// The name of the file that a temporary one of this name was to become; `None` where it is none of
/// adit's.
fn destination(name: &str) -> Option<&str> {
    let name = name.strip_prefix('.')?.strip_suffix(SUFFIX)?;
    let (name, random) = name.rsplit_once('.')?;
    let is_random = random.len() == RANDOM && random.bytes().all(|b| b.is_ascii_alphanumeric());
    (is_random && !name.is_empty()).then_some(name)
}

fn sync_folder(path: &Path) -> Result<(), FileError> {
    let folder = folder_of(path);
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|cause| FileError::io("sync the folder", folder, cause))
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(matches!(error, FileError::Exists { .. }), "{error}");
        assert!(error.to_string().contains("a.key"));
        assert_eq!(fs::read(&path).unwrap(), b"one");

        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path().join("nowhere"), &link).unwrap();
        assert!(matches!(
            write_new(&link, b"x", Mode::Public),
            Err(FileError::Exists { .. })
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
            ".a.pem.12345678901.tmp",
            ".a.pem.1234567890123.tmp",
            ".a.pem.123456789012.tmp.x",
            ".a.pem.12345678901-.tmp",
            "..123456789012.tmp",
            "a.pem.123456789012.tmp",
            ".b.pem.123456789012.tmp",
        ];
        let left = [".a.pem.aBcDeF789012.tmp", ".a.pem.123456789012.tmp"];
        for name in others.iter().chain(&left) {
            fs::write(at(name), b"x").unwrap();
        }
        fs::create_dir(at(".a.pem.000000000003.tmp")).unwrap();
        std::os::unix::fs::symlink(at("a.pem"), at(".a.pem.000000000004.tmp")).unwrap();
        let written = PendingFile::with(&at("a.pem"), b"new", Mode::Secret).unwrap();
        let is_meant = |name: &str| name == "a.pem";
        assert_eq!(sweep(folder.path(), is_meant).unwrap(), 2);
        for name in others
            .iter()
            .chain(&[".a.pem.000000000003.tmp", ".a.pem.000000000004.tmp"])
        {
            assert!(at(name).symlink_metadata().is_ok(), "{name}");
        }
        assert_eq!(names(folder.path()).len(), others.len() + 3);
        written.put().unwrap();
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

    /// Who may write to the folder knows no name that will be used, and what is there under any is
    /// left alone.
    #[test]
    fn temporary_names_are_not_known_beforehand() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.pem");
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..50 {
            let pending = PendingFile::new(&path, Mode::Secret).unwrap();
            let name = names(folder.path());
            assert_eq!(name.len(), 1);
            assert_eq!(destination(&name[0]), Some("a.pem"));
            assert!(seen.insert(name[0].clone()));
            assert_eq!(mode_of(&folder.path().join(&name[0])), 0o600);
            drop(pending);
        }
        assert!(names(folder.path()).is_empty());
    }
}
