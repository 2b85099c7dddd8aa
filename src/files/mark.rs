//! Changes of files, seen by looking again: it also works where no other way of being told does, on
//! NFS, on overlays, in containers, and through symbolic links that are swapped, as Kubernetes and
//! deployment tools do it.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::Identity;

/// Mark that distinguishes a file from an earlier one at its path: device, inode, size, and when
/// its content and when anything of it last changed, each in seconds and nanoseconds. That of a
/// path that leads to nothing, or cannot be looked at, is equal to itself alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(Option<(Identity, u64, Time, Time)>);

type Time = (i64, i64);

impl Mark {
    /// Of what the path leads to now.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        let Ok(file) = std::fs::metadata(path) else {
            return Self(None);
        };
        let content = (file.mtime(), file.mtime_nsec());
        let any = (file.ctime(), file.ctime_nsec());
        let size = file.size();
        Self(Some((file.into(), size, content, any)))
    }
}

/// A change that counts when two looks have seen the same of it, so that a file is not read while
/// it is written.
#[derive(Clone, Copy, Debug)]
pub struct Quiet<T> {
    seen: Option<T>,
}

impl<T: PartialEq> Quiet<T> {
    /// Nothing has been seen.
    #[must_use]
    pub fn new() -> Self {
        Self { seen: None }
    }

    /// Forgets the last look: it was used, or is of no interest any more.
    pub fn forget(&mut self) {
        self.seen = None;
    }

    /// Returns whether `now` is what the last look has seen; `is_changed` says whether it is
    /// another than what was taken.
    pub fn is_due(&mut self, is_changed: bool, now: T) -> bool {
        if !is_changed {
            self.seen = None;
            return false;
        }
        let is_quiet = self.seen.as_ref() == Some(&now);
        self.seen = Some(now);
        is_quiet
    }
}

impl<T: PartialEq> Default for Quiet<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn another_file_has_another_mark() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let none = Mark::of(&at("a"));
        fs::write(at("a"), "one").unwrap();
        let first = Mark::of(&at("a"));
        assert_ne!(none, first);
        assert_eq!(Mark::of(&at("a")), first);
        // The same name, size and time.
        let modified = fs::metadata(at("a")).unwrap().modified().unwrap();
        fs::write(at("b"), "two").unwrap();
        let other = fs::File::open(at("b")).unwrap();
        other.set_modified(modified).unwrap();
        fs::rename(at("b"), at("a")).unwrap();
        let second = Mark::of(&at("a"));
        assert_ne!(first, second);
        // A link has that of what it leads to.
        std::os::unix::fs::symlink(at("a"), at("link")).unwrap();
        assert_eq!(Mark::of(&at("link")), second);
        fs::remove_file(at("a")).unwrap();
        assert_eq!(Mark::of(&at("link")), none);
    }

    #[test]
    fn a_change_is_due_when_it_was_seen_twice() {
        let mut quiet = Quiet::new();
        assert!(!quiet.is_due(true, 1));
        assert!(!quiet.is_due(true, 2), "it was still written");
        assert!(quiet.is_due(true, 2));
        assert!(!quiet.is_due(false, 3) && !quiet.is_due(true, 2));
        quiet.forget();
        assert!(!quiet.is_due(true, 2) && quiet.is_due(true, 2));
    }
}
