//! Files on disk: read only where they are regular, written whole or not at all, and kept where
//! nobody else may write.
//!
//! - [`open`], [`read()`], [`read_secret`]: regular files only. A pipe would wait for its writer, a device may do anything.
//! - [`replace`], [`write_new`], [`PendingFile`]: a reader, or the next start after a crash, sees the old content or the new
//!   and nothing between.
//! - [`own_folder`], [`check_folder`]: a folder in which others may write keeps no secret and no state.
//! - [`Identity`]: which file it is.
//! - [`Mark`], [`Quiet`], [`watch()`]: a file that has changed, and whose change is over; the loop that looks.
//! - [`keep`], [`keep_new`], [`open_kept`], [`own_folder_in`]: what root makes in a state folder belongs to the folder's owner.
//!
//! The room knows nothing of what the files hold.

mod folder;
mod identity;
mod mark;
mod read;
mod state;
mod watch;
mod write;

use std::io;
use std::path::{Path, PathBuf};

pub use folder::{check_folder, make_folder, own_folder};
pub use identity::Identity;
pub use mark::{Mark, Quiet};
pub use read::{open, read, read_secret};
pub use state::{keep, keep_new, open_kept, own_folder_in};
pub use watch::{in_background, watch};
pub use write::{
    Mode, PendingFile, refuse_existing, remove, rename, replace, sweep, write_new, write_new_pair,
};

/// Why a file or folder is not used. The text of each says which and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The operating system refuses, or it is no regular file.
    #[error("cannot {action} {path}: {cause}{}", remedy(cause))]
    Io {
        /// The action, as a verb: "read", "write".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's message.
        cause: io::Error,
    },
    /// The file is larger than any file of its kind can be.
    #[error(
        "{path}: larger than {limit} bytes; a file of this kind is never so large, check the path"
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The bound, in bytes.
        limit: u64,
    },
    /// The file holds a secret, and others may read or write it.
    #[error("others may use {path}; chmod 600 {path}")]
    Exposed {
        /// The file.
        path: PathBuf,
    },
    /// A file that would be written exists, and is of a kind that is never replaced.
    #[error(
        "{path} exists already and is not overwritten; move it away, or choose another name or folder"
    )]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Others may replace what is in the folder.
    #[error("others may write to {path} ({why}); {remedy}")]
    Shared {
        /// The folder.
        path: PathBuf,
        /// Its mode, or its owner.
        why: String,
        /// The remedy.
        remedy: &'static str,
    },
    /// The path ends in no name.
    #[error("{path} names no file; give a file name")]
    NoName {
        /// The path.
        path: PathBuf,
    },
}

impl FileError {
    pub(crate) fn io(action: &'static str, path: &Path, cause: io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_path_buf(),
            cause,
        }
    }
}

/// Returns what to do about an answer of the operating system, to be put behind it; empty where
/// that is not known.
fn remedy(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::NotFound => "; check the path",
        io::ErrorKind::PermissionDenied => "; give the user that adit runs as access to it",
        io::ErrorKind::IsADirectory => "; name a file, not a folder",
        io::ErrorKind::StorageFull => "; free some space on that file system",
        io::ErrorKind::ReadOnlyFilesystem => "; choose a folder that can be written",
        _ => "",
    }
}
