//! One node a state folder: a locked file in it, with the number of the process that has the lock.
//!
//! The system ends the lock with the last descriptor of the open file, so a process that was killed
//! leaves none. A process that takes another one's place is given the descriptor, and both have the
//! lock while both run.

use std::fs::{File, TryLockError};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Instant;

use crate::engine::pass;
use crate::files::{self, Identity};
use crate::limits::{STATE_LOCK_PATIENCE, STATE_LOCK_POLL};

/// The file in the state folder.
const FILE: &str = "adit.lock";

/// Most digits of a process's number that are read.
const PID_DIGITS: u64 = 20;

/// Why the state folder cannot be this process's.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error(
        "state_dir: {folder} is in use by process {pid}; stop that one, or give this node a state_dir of its own"
    )]
    Taken {
        /// The state folder.
        folder: PathBuf,
        /// The other process, as it says itself.
        pid: String,
    },
    /// The file.
    #[error(
        "state_dir: cannot {what} {path}: {source}; the state folder must be on a local disk with free space that this user may write to"
    )]
    File {
        /// The failed action.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

impl LockError {
    /// Returns whether the folder is another user's.
    pub(super) fn is_denied(&self) -> bool {
        matches!(self, Self::File { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }
}

/// The locked file.
#[derive(Debug)]
pub(super) struct StateLock {
    file: File,
    path: PathBuf,
}

impl StateLock {
    /// Locks `state_dir`, which is there; `inherited` is what the process before has handed over,
    /// if there is one.
    ///
    /// # Errors
    /// [`LockError`], which names the process that has the lock.
    pub fn take(state_dir: &Path, inherited: Option<OwnedFd>) -> Result<Self, LockError> {
        let path = state_dir.join(FILE);
        let failed = |what| {
            let path = path.clone();
            move |source| LockError::File { what, path, source }
        };
        let file = files::open_kept(&path).map_err(failed("open"))?;
        let inherited = inherited.map(File::from);
        if let Some(held) = inherited.filter(|held| is_same(held, &file)) {
            return Ok(Self { file: held, path });
        }
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let folder = state_dir.to_owned();
                let pid = holder(file);
                return Err(LockError::Taken { folder, pid });
            }
            Err(TryLockError::Error(source)) => return Err(failed("lock")(source)),
        }
        let lock = Self {
            file,
            path: path.clone(),
        };
        lock.sign().map_err(failed("write"))?;
        Ok(lock)
    }

    /// As [`take`](Self::take), and waits for a command that changes what is stored.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub fn wait(state_dir: &Path, mut inherited: Option<OwnedFd>) -> Result<Self, LockError> {
        let deadline = Instant::now() + STATE_LOCK_PATIENCE;
        loop {
            match Self::take(state_dir, inherited.take()) {
                Err(LockError::Taken { .. }) if Instant::now() < deadline => sleep(STATE_LOCK_POLL),
                other => return other,
            }
        }
    }

    /// Says that the lock is this process's.
    ///
    /// # Errors
    /// The system's.
    pub fn sign(&self) -> io::Result<()> {
        let line = format!("{}\n", std::process::id());
        // First over the old text: a disk that is full keeps what is there.
        self.file.write_all_at(line.as_bytes(), 0)?;
        self.file.set_len(line.len() as u64)
    }

    /// Hands it over to the process at the other end of `link`; it stays this one's too.
    ///
    /// # Errors
    /// The system's.
    pub fn give(&self, link: &UnixStream) -> io::Result<()> {
        pass(link, self.file.as_fd())
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl From<StateLock> for OwnedFd {
    fn from(lock: StateLock) -> Self {
        lock.file.into()
    }
}

fn is_same(one: &File, other: &File) -> bool {
    let identity = |file| Identity::of_file(file).ok();
    identity(one).is_some() && identity(one) == identity(other)
}

/// Who has the lock, as it has written. It may be about to.
fn holder(file: File) -> String {
    let mut text = String::new();
    let read = file.take(PID_DIGITS).read_to_string(&mut text);
    match text.trim() {
        pid if read.is_ok() && pid.parse::<u32>().is_ok() => pid.to_owned(),
        _ => "that has just started".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::engine::receive;

    #[test]
    fn one_at_a_time_and_none_is_left_behind() {
        let folder = tempfile::tempdir().unwrap();
        let first = StateLock::take(folder.path(), None).unwrap();
        let mode = first.path().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let error = StateLock::take(folder.path(), None).unwrap_err();
        let own = std::process::id().to_string();
        assert!(
            matches!(&error, LockError::Taken { pid, .. } if *pid == own),
            "{error}"
        );
        drop(first);
        // What a longer number has left.
        std::fs::write(folder.path().join(FILE), "12345678901234567890\n").unwrap();
        let second = StateLock::take(folder.path(), None).unwrap();
        let text = std::fs::read_to_string(second.path()).unwrap();
        assert_eq!(text, format!("{own}\n"));
    }

    #[test]
    fn it_is_handed_over_and_has_no_gap() {
        let folder = tempfile::tempdir().unwrap();
        let first = StateLock::take(folder.path(), None).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        first.give(&ours).unwrap();
        let given = receive(&theirs).unwrap();
        drop(first);
        assert!(StateLock::take(folder.path(), None).is_err());
        let second = StateLock::take(folder.path(), Some(given)).unwrap();
        assert!(StateLock::take(folder.path(), None).is_err());
        drop(second);
        drop(StateLock::take(folder.path(), None).unwrap());

        // Of another folder: it is of no use here.
        let other = tempfile::tempdir().unwrap();
        let first = StateLock::take(folder.path(), None).unwrap();
        first.give(&ours).unwrap();
        let given = receive(&theirs).unwrap();
        let second = StateLock::take(other.path(), Some(given)).unwrap();
        drop(first);
        drop(StateLock::take(folder.path(), None).unwrap());
        assert!(StateLock::take(other.path(), None).is_err());
        drop(second);
        drop(ours);
        assert!(receive(&theirs).is_err());
    }
}
