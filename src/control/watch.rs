//! Looks at the config file, the store of profiles and the files that the config names, for changes
//! to take.
//!
//! A change counts when it is over ([`Quiet`]).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::config::{Config, ConfigError};
use crate::files::{Mark, Quiet};
use crate::profiles::store_of;

type Marks = BTreeMap<PathBuf, Mark>;

/// Watched files, as they were when they were read last.
#[derive(Debug)]
pub(super) struct Watched {
    /// The config file and the store of profiles.
    config: Vec<PathBuf>,
    tried: Marks,
    /// Another state.
    change: Quiet<Marks>,
    /// Errors of the config. It may be about files that are not known here.
    wrong: Option<ConfigError>,
    is_on: bool,
}

impl Watched {
    /// Of the config in `file`. Nothing is looked at yet.
    pub fn new(file: &Path, state_dir: &Path) -> Self {
        Self {
            config: config_and_store(file, state_dir),
            tried: Marks::new(),
            change: Quiet::new(),
            wrong: None,
            is_on: false,
        }
    }

    /// All of it is about to be read. To be called before that: what changes meanwhile is seen
    /// then.
    pub fn note(&mut self) {
        let named = std::mem::take(&mut self.tried).into_keys();
        let all = named.chain(self.config.iter().cloned());
        self.tried = all.map(|path| (path.clone(), Mark::of(&path))).collect();
        self.change.forget();
        self.wrong = None;
    }

    /// Notes that the current content of the store of profiles is known.
    pub fn note_store(&mut self) {
        for store in self.config.iter().skip(1) {
            self.tried.insert(store.clone(), Mark::of(store));
        }
    }

    /// The files of a config that was read are about to be read.
    pub fn follow(&mut self, config: &Config) {
        self.tried.retain(|path, _| self.config.contains(path));
        for file in &config.files {
            let note = || Mark::of(file);
            self.tried.entry(file.clone()).or_insert_with(note);
        }
    }

    /// The config was wrong.
    pub fn wrong(&mut self, error: ConfigError) {
        self.wrong = Some(error);
    }

    /// Returns whether files are looked at, as the active config says (`engine.watch_files`).
    pub fn switch(&mut self, on: bool) {
        self.is_on = on;
    }

    /// Returns whether something has changed since, and is quiet. `wrong` reads the config.
    pub fn is_due(&mut self, wrong: impl FnOnce() -> Option<ConfigError>) -> bool {
        if !self.is_on {
            return false;
        }
        let paths = self.tried.keys();
        let now: Marks = paths.map(|path| (path.clone(), Mark::of(path))).collect();
        let differs = now != self.tried || (self.wrong.is_some() && wrong() != self.wrong);
        self.change.is_due(differs, now)
    }
}

/// The config file, and behind it the file of the store of profiles.
fn config_and_store(file: &Path, state_dir: &Path) -> Vec<PathBuf> {
    let store = store_of(state_dir);
    let store = store.file().map(Path::to_owned);
    std::iter::once(file.to_owned()).chain(store).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_counts_once_when_it_is_quiet() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("adit.toml");
        let write = |text: &str| std::fs::write(&path, text).unwrap();
        write("one");
        let mut watched = Watched::new(&path, folder.path());
        watched.is_on = true;
        watched.note();
        let right = || None;
        assert!(!watched.is_due(right) && !watched.is_due(right));
        write("longer");
        assert!(!watched.is_due(right), "it may still be written");
        write("longer yet");
        assert!(!watched.is_due(right), "it was still written");
        assert!(watched.is_due(right));
        watched.note();
        assert!(!watched.is_due(right) && !watched.is_due(right));

        // The store of profiles, by others and by this process.
        let store = folder.path().join("profiles.redb");
        std::fs::write(&store, "by others").unwrap();
        assert!(!watched.is_due(right) && watched.is_due(right));
        watched.note();
        std::fs::write(&store, "by this process").unwrap();
        watched.note_store();
        assert!(!watched.is_due(right) && !watched.is_due(right));

        // The same size and time, by another file of that name; then none at all, and one again.
        let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
        let other = folder.path().join("other");
        std::fs::write(&other, "longer 2nd").unwrap();
        let file = std::fs::File::open(&other).unwrap();
        file.set_modified(modified).unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert!(!watched.is_due(right) && watched.is_due(right));
        watched.note();
        std::fs::remove_file(&path).unwrap();
        assert!(!watched.is_due(right));
        write("back");
        assert!(!watched.is_due(right) && watched.is_due(right));
        watched.is_on = false;
        assert!(!watched.is_due(right));
    }

    #[test]
    fn links_are_followed_to_what_they_lead_to_now() {
        let folder = tempfile::tempdir().unwrap();
        // As Kubernetes does: FILE -> ..data/FILE, ..data -> a folder, which another link replaces.
        let at = |name: &str| folder.path().join(name);
        for (version, text) in [("..1", "one"), ("..2", "two")] {
            std::fs::create_dir(at(version)).unwrap();
            std::fs::write(at(version).join("adit.toml"), text).unwrap();
        }
        std::os::unix::fs::symlink("..1", at("..data")).unwrap();
        std::os::unix::fs::symlink("..data/adit.toml", at("adit.toml")).unwrap();
        let mut watched = Watched::new(&at("adit.toml"), folder.path());
        watched.is_on = true;
        watched.note();
        assert!(!watched.is_due(|| None));
        std::os::unix::fs::symlink("..2", at("..new")).unwrap();
        std::fs::rename(at("..new"), at("..data")).unwrap();
        assert!(!watched.is_due(|| None) && watched.is_due(|| None));
    }

    #[test]
    fn a_config_that_was_wrong_for_something_else_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("adit.toml");
        std::fs::write(&path, "").unwrap();
        let error = |message: &str| ConfigError {
            problems: vec![crate::findings::Problem {
                message: message.to_owned(),
                ..Default::default()
            }],
        };
        let mut watched = Watched::new(&path, folder.path());
        watched.is_on = true;
        watched.note();
        watched.wrong(error("no such file"));
        let same = || Some(error("no such file"));
        assert!(!watched.is_due(same) && !watched.is_due(same));
        // The file that it names has come.
        assert!(!watched.is_due(|| None) && watched.is_due(|| None));
        watched.note();
        watched.wrong(error("no such file"));
        assert!(!watched.is_due(|| Some(error("another"))) && !watched.is_due(same));
    }
}
