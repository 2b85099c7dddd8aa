//! Folders that are this process's own.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, fchown};
use std::path::Path;

use rustix::process::geteuid;

use super::FileError;

/// Makes the folder and its parents with mode 0700 where they are missing; an existing folder is
/// left as it is.
///
/// # Errors
/// [`FileError::Io`] where the folder can not be made.
pub fn make_folder(folder: &Path) -> Result<(), FileError> {
    if folder.as_os_str().is_empty() {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|cause| FileError::io("make the folder", folder, cause))
}

/// A folder for keys and state: made with mode 0700 where it is missing, and refused where others
/// may write to it.
///
/// # Errors
/// As [`make_folder`] and [`check_folder`].
pub fn own_folder(folder: &Path) -> Result<(), FileError> {
    make_folder(folder)?;
    check_folder(folder)
}

/// Looks whether others may write to a folder: they could put a file of their own in the place of
/// any in it. Its group counts as others, and the sticky bit of a folder such as `/tmp` does not
/// help: it lets others make the names that are used here. The owner is this user, root, or, where
/// this is root, any one. One that does not exist is right. The folders above are the operator's.
///
/// # Errors
/// [`FileError::Shared`], [`FileError::Io`].
pub fn check_folder(folder: &Path) -> Result<(), FileError> {
    let path = match folder.as_os_str().is_empty() {
        true => Path::new("."),
        false => folder,
    };
    let failed = |cause| FileError::io("use the folder", path, cause);
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(cause) => return Err(failed(cause)),
    };
    if !metadata.is_dir() {
        return Err(failed(io::ErrorKind::NotADirectory.into()));
    }
    let shared = |why, remedy| FileError::Shared {
        path: path.to_path_buf(),
        why,
        remedy,
    };
    if metadata.mode() & 0o022 != 0 {
        let mode = metadata.mode() & 0o7777;
        // One like /tmp is as it has to be.
        let remedy = match mode & 0o1000 {
            0 => {
                "let its owner alone write to it (chmod go-w), or name a folder in it that does not exist yet: it is made with \
                 mode 0700"
            }
            _ => "name a folder in it that does not exist yet: it is made with mode 0700",
        };
        return Err(shared(format!("its mode is {mode:04o}"), remedy));
    }
    let (own, owner) = (geteuid().as_raw(), metadata.uid());
    if own != 0 && owner != 0 && own != owner {
        return Err(shared(
            format!("it belongs to user {owner}, and this is user {own}"),
            "run adit as that user, or name a folder of this one's",
        ));
    }
    Ok(())
}

/// The folder in which a file of this path is.
pub(super) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Gives what root has just made in a folder to the folder's owner.
pub(super) fn give(made: &File, folder: &Path) {
    if let (Ok(folder), Ok(made_by)) = (fs::metadata(folder), made.metadata())
        && folder.uid() != made_by.uid()
    {
        // Whoever is not root may not, and need not.
        let _ = fchown(made, Some(folder.uid()), Some(folder.gid()));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_folder_that_others_may_write_to_is_refused_with_its_mode() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("a/state");
        check_folder(&folder).unwrap();
        own_folder(&folder).unwrap();
        let set = |mode| fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
        for mode in [0o700, 0o711, 0o750, 0o755, 0o2755] {
            set(mode);
            own_folder(&folder).unwrap();
        }
        for mode in [0o720, 0o702, 0o770, 0o775, 0o777, 0o1777, 0o2770, 0o2775] {
            set(mode);
            let error = own_folder(&folder).unwrap_err().to_string();
            let shown = format!(
                "others may write to {} (its mode is {mode:04o});",
                folder.display()
            );
            assert!(error.starts_with(&shown), "{error}");
            assert_eq!(error.contains("chmod go-w"), mode != 0o1777, "{error}");
        }
        // A link leads to what counts.
        let link = parent.path().join("link");
        std::os::unix::fs::symlink(&folder, &link).unwrap();
        assert!(own_folder(&link).is_err());
        set(0o700);
        own_folder(&link).unwrap();
        let file = folder.join("file");
        fs::write(&file, "").unwrap();
        assert!(check_folder(&file).is_err());
        assert!(own_folder(&file).is_err());
    }
}
