//! Profiles on the admin listener. Everything here reads files, and waits for the store and for
//! other changes: it is called on threads for that.
//!
//! A change of the profile that the node runs on is stored and activated in one step. The store is
//! told to keep it when it is active; where it cannot become active, it is not kept.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use super::reload::{Refusal, ReloadGuard, ReloadTrigger, Reloader};
use crate::config::{self, Config, ConfigError, Origin, ProfileText};
use crate::engine::{Loaded, ReloadErrors};
use crate::profiles::{
    Change, Changed, NewVersion, Overview, ProfileStore, StoreError, StoredProfile, rollback_note,
    store_of,
};

/// The profiles of a running node.
pub(super) struct Profiles {
    file: PathBuf,
    store: Box<dyn ProfileStore>,
    reloader: Arc<Reloader>,
}

/// Why something was not done.
#[derive(Debug)]
pub(super) enum ProfileFailure {
    /// The store's reason.
    Store(StoreError),
    /// The profile, or what it names, is wrong.
    Wrong(Refusal),
}

impl From<StoreError> for ProfileFailure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Details of a change.
#[derive(Clone, Debug, Default)]
pub(super) struct With {
    pub who: String,
    pub note: String,
    /// The version that is replaced, if the client knows it.
    pub expect: Option<u64>,
}

/// Result of a change.
#[derive(Debug)]
pub(super) struct Done {
    pub changed: Changed,
    /// The generation with which it became active, if it did.
    pub generation: Option<u64>,
}

impl Done {
    pub fn json(&self, name: &str) -> Value {
        json!({
            "name": name,
            "version": self.changed.version,
            "replaced": self.changed.replaced,
            "stored": self.changed.stored,
            "assigned": self.changed.assigned,
            "in_force": self.generation.is_some(),
            "generation": self.generation,
        })
    }
}

impl Profiles {
    /// Those of the node that `reloader` takes changes for, in the store of its state folder.
    pub fn new(reloader: Arc<Reloader>) -> Self {
        Self {
            file: reloader.file().to_owned(),
            store: store_of(&reloader.config().state_dir),
            reloader,
        }
    }

    pub fn overview(&self) -> Result<Overview, StoreError> {
        self.store.overview()
    }

    pub fn read(&self, name: &str, version: Option<u64>) -> Result<StoredProfile, StoreError> {
        self.store.read(name, version)
    }

    /// Checks a profile and what it names, as a start would. What may be wrong, in lines.
    pub fn check(&self, name: &str, text: &str) -> Result<Vec<String>, ProfileFailure> {
        self.checked(name, text).map(|(_, findings)| findings)
    }

    fn checked(&self, name: &str, text: &str) -> Result<(Config, Vec<String>), ProfileFailure> {
        let shown = format!("profile {name}");
        let profile = ProfileText {
            text,
            shown: Path::new(&shown),
            name: Some(name),
            version: None,
        };
        let node = config::load_node(&self.file);
        let config = node.and_then(|node| config::with_profile(&node, &self.file, &profile));
        let config = config.map_err(|error| wrong(&error))?;
        let findings = Loaded::check(&config);
        let findings = findings
            .map_err(|error| ProfileFailure::Wrong(Refusal::from(ReloadErrors::from(error))))?;
        let line = |(file, finding): (PathBuf, _)| format!("{}: {finding}", file.display());
        Ok((
            config,
            findings.certificates.into_iter().map(line).collect(),
        ))
    }

    /// A new version of a profile.
    pub fn put(&self, name: &str, text: &str, with: &With) -> Result<Done, ProfileFailure> {
        let mut turn = self.reloader.turn();
        let (config, _) = self.checked(name, text)?;
        let new = NewVersion {
            name,
            text,
            who: &with.who,
            note: &with.note,
            expect: with.expect,
        };
        self.change(&mut turn, &Change::Put(new), |changed| {
            of_store(config, changed.version)
        })
    }

    /// The text of an older version, the one before the newest where none is named, as a new
    /// version.
    pub fn roll_back(
        &self,
        name: &str,
        to: Option<u64>,
        with: With,
    ) -> Result<Done, ProfileFailure> {
        let newest = self.read(name, None)?;
        let to = to.or(newest.before()).ok_or_else(|| {
            let message = format!("profile {name} has no older version");
            StoreError::Bad(message)
        })?;
        let old = self.read(name, Some(to))?;
        let note = match with.note.is_empty() {
            true => rollback_note(to),
            false => with.note,
        };
        let with = With {
            note,
            expect: with.expect.or(Some(newest.version)),
            who: with.who,
        };
        self.put(name, &old.text, &with)
    }

    /// Lets the node run on a profile.
    pub fn assign(&self, name: &str) -> Result<Done, ProfileFailure> {
        let mut turn = self.reloader.turn();
        let newest = self.read(name, None)?;
        let (config, _) = self.checked(name, &newest.text)?;
        // Another process may store another version in between; it is checked, too, where it is activated.
        self.change(&mut turn, &Change::Assign(Some(name)), |changed| {
            of_store(config, changed.version).filter(|_| changed.version == newest.version)
        })
    }

    /// Lets the node run on no profile, if it is this one that it runs on.
    pub fn unassign(&self, name: &str) -> Result<Done, ProfileFailure> {
        let mut turn = self.reloader.turn();
        if self.overview()?.assigned.as_deref() != Some(name) {
            let message = format!("profile {name} is not assigned, so there is nothing to undo");
            return Err(StoreError::Bad(message).into());
        }
        let node = config::load_node(&self.file).map_err(|error| wrong(&error))?;
        self.change(&mut turn, &Change::Assign(None), |_| Some(node))
    }

    /// Makes a change. Where the node runs on the profile that it is about, what `config` makes of
    /// it becomes active, or nothing is stored; a `config` that makes nothing of it refuses it.
    fn change(
        &self,
        turn: &mut ReloadGuard<'_>,
        change: &Change<'_>,
        config: impl FnOnce(&Changed) -> Option<Config>,
    ) -> Result<Done, ProfileFailure> {
        let has_own = config::has_profile(&self.file).map_err(|error| wrong(&error))?;
        let mut config = Some(config);
        let (mut generation, mut refused) = (None, None);
        let result = self.store.change(change, &mut |changed| {
            if !changed.assigned || has_own {
                return true;
            }
            let config = config.take().and_then(|config| config(changed));
            match config.map(|config| turn.force(config, ReloadTrigger::Admin)) {
                Some(Ok(new)) => generation = Some(new),
                Some(Err(refusal)) => refused = Some(refusal),
                None => {}
            }
            generation.is_some()
        });
        let changed = match (result, refused) {
            (Ok(changed), _) => changed,
            (Err(_), Some(refusal)) => return Err(ProfileFailure::Wrong(refusal)),
            (Err(error), None) => {
                if generation.is_some() {
                    // Active and not kept: back to what is.
                    let _ = turn.reload(ReloadTrigger::Admin);
                }
                return Err(error.into());
            }
        };
        turn.has_stored();
        if !changed.stored && changed.assigned && !has_own {
            // Stored before by somebody who did not activate it.
            generation = Some(
                turn.reload(ReloadTrigger::Admin)
                    .map_err(ProfileFailure::Wrong)?,
            );
        }
        Ok(Done {
            changed,
            generation,
        })
    }

    pub fn delete(&self, name: &str, expect: Option<u64>) -> Result<(), ProfileFailure> {
        let _turn = self.reloader.turn();
        self.store
            .change(&Change::Delete { name, expect }, &mut |_| true)?;
        Ok(())
    }
}

fn wrong(error: &ConfigError) -> ProfileFailure {
    ProfileFailure::Wrong(Refusal::from(error))
}

/// A config whose profile is this version of the store.
fn of_store(mut config: Config, version: u64) -> Option<Config> {
    config.profile.origin = Origin::Store { version };
    Some(config)
}
