//! Files in a state folder belong to the owner of the folder: the command line runs as root
//! (`sudo`) where the node has a user of its own, which must be able to read and replace it. Only
//! root may give files away; to others nothing here is different.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use super::folder::{folder_of, give};
use super::{FileError, Mode, PendingFile, check_folder, own_folder};

/// A folder in a state folder, and this: made with mode 0700 where they are missing, and refused
/// where others may write.
///
/// # Errors
/// As [`own_folder`].
pub fn own_folder_in(state_dir: &Path, inner: &Path) -> Result<(), FileError> {
    own_folder(state_dir)?;
    let mut path = state_dir.to_path_buf();
    for part in inner.components() {
        let parent = path.clone();
        path.push(part);
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => {
                // Its name may have changed hands since: a link is not followed.
                let flags = (OFlags::DIRECTORY | OFlags::NOFOLLOW).bits().cast_signed();
                let made = OpenOptions::new()
                    .read(true)
                    .custom_flags(flags)
                    .open(&path);
                let made = made.map_err(|cause| FileError::io("make the folder", &path, cause))?;
                give(&made, &parent);
            }
            Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => {}
            Err(cause) => return Err(FileError::io("make the folder", &path, cause)),
        }
    }
    check_folder(&path)
}

/// Writes a file of a state folder, in place of the one that may be there.
///
/// # Errors
/// As [`replace`](super::replace).
pub fn keep(path: &Path, content: &[u8], mode: Mode) -> Result<(), FileError> {
    PendingFile::with(path, content, mode)?.in_state().put()
}

/// Writes a file of a state folder that must not exist yet.
///
/// # Errors
/// As [`write_new`](super::write_new).
pub fn keep_new(path: &Path, content: &[u8], mode: Mode) -> Result<(), FileError> {
    super::refuse_existing(path)?;
    PendingFile::with(path, content, mode)?.in_state().put_new()
}

/// Opens a file of a state folder for reading and writing; made, empty and with mode 0600, where it
/// is missing. Whoever has the folder cannot lead this to a file elsewhere: links are refused.
///
/// # Errors
/// The system's.
pub fn open_kept(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    match options.clone().create_new(true).open(path) {
        Ok(file) => {
            give(&file, folder_of(path));
            Ok(file)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => options.open(path),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    /// If this runs as root, as in a container: what is made belongs to the folder's owner. Else it
    /// is one's own anyway.
    #[test]
    fn what_is_made_belongs_to_the_owner_of_the_folder() {
        let parent = tempfile::tempdir().unwrap();
        let state = parent.path().join("state");
        own_folder(&state).unwrap();
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&state, Some(64_123), Some(64_124)).unwrap();
        }
        let inner = Path::new("certificates/server");
        own_folder_in(&state, inner).unwrap();
        own_folder_in(&state, inner).unwrap();
        let key = state.join(inner).join("a.pem");
        keep_new(&key, b"key", Mode::Secret).unwrap();
        assert!(keep_new(&key, b"key", Mode::Secret).is_err());
        keep(&state.join("b"), b"list", Mode::Public).unwrap();
        open_kept(&state.join("c")).unwrap();
        open_kept(&state.join("c")).unwrap();
        let owner = fs::metadata(&state).unwrap();
        for (name, mode) in [
            ("certificates", 0o700),
            ("certificates/server", 0o700),
            ("certificates/server/a.pem", 0o600),
            ("b", 0o644),
            ("c", 0o600),
        ] {
            let made = fs::metadata(state.join(name)).unwrap();
            let of = (made.uid(), made.gid());
            assert_eq!(of, (owner.uid(), owner.gid()), "{name}");
            assert_eq!(made.mode() & 0o777, mode, "{name}");
        }
        // The folder's owner leads nobody elsewhere.
        let elsewhere = parent.path().join("elsewhere");
        fs::write(&elsewhere, "mine").unwrap();
        std::os::unix::fs::symlink(&elsewhere, state.join("link")).unwrap();
        assert!(open_kept(&state.join("link")).is_err());
    }
}
