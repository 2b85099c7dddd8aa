//! The store of profiles: texts with their versions, and which of them this node is assigned.
//!
//! A version never changes and its number is never given to another text. A change is on the disk
//! when it is answered, whole or not at all, and names the version that it replaces where the
//! caller knows it, so that two administrators do not overwrite each other in silence.
//! [`ProfileStore`] is the seam: [`RedbStore`] keeps everything in the state folder, and a store
//! that many nodes share can stand behind the same questions.
//!
//! What a text means is not known here: `config` reads it.

mod author;
mod changes;
mod redb;
mod tables;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

pub use self::author::this_user;
pub use self::redb::RedbStore;

use crate::limits::{
    PROFILE_AUTHOR_MAX, PROFILE_NAME_MAX, PROFILE_NOTE_MAX, PROFILE_STORE_PATIENCE,
    PROFILE_TEXT_MAX, PROFILES_MAX,
};

/// A store of profiles. Every call may wait for the disk and for another process: not for a thread
/// that answers probes.
pub trait ProfileStore: Send + Sync {
    /// The file in which changes by others show, where there is one.
    fn file(&self) -> Option<&Path>;

    /// Every profile, by name, and the one that this node is assigned.
    ///
    /// # Errors
    /// [`StoreError`].
    fn overview(&self) -> Result<Overview, StoreError>;

    /// One version of a profile; the newest where none is named.
    ///
    /// # Errors
    /// [`StoreError`], also where there is no such one.
    fn read(&self, name: &str, version: Option<u64>) -> Result<StoredProfile, StoreError>;

    /// The newest version of the profile that this node is assigned.
    ///
    /// # Errors
    /// [`StoreError`].
    fn assigned(&self) -> Result<Option<StoredProfile>, StoreError>;

    /// The newest version of every profile.
    ///
    /// # Errors
    /// [`StoreError`].
    fn newest(&self) -> Result<Vec<StoredProfile>, StoreError>;

    /// Makes a change. Before it is kept, and while nobody else can make another, `agree` is told
    /// what it comes to, and can stop it by answering `false`. A text that is the newest version's
    /// already changes nothing, and asks nobody.
    ///
    /// # Errors
    /// [`StoreError`]; nothing has changed then.
    fn change(
        &self,
        change: &Change<'_>,
        agree: &mut dyn FnMut(&Changed) -> bool,
    ) -> Result<Changed, StoreError>;
}

/// The store of the node with this state folder. Here, and nowhere else, is chosen which one it is.
#[must_use]
pub fn store_of(state_dir: &Path) -> Box<dyn ProfileStore> {
    Box::new(RedbStore::of(state_dir))
}

/// A change of the store.
#[derive(Debug, Clone, Copy)]
pub enum Change<'c> {
    /// A new version of a profile, which need not be there yet.
    Put(NewVersion<'c>),
    /// Assigns this node a profile, or none.
    Assign(Option<&'c str>),
    /// Deletes a profile with all its versions. Not the one that is assigned.
    Delete {
        /// The profile.
        name: &'c str,
        /// The newest version, if the caller knows it.
        expect: Option<u64>,
    },
}

/// Parameters of a new version.
#[derive(Debug, Clone, Copy)]
pub struct NewVersion<'c> {
    /// The profile; see [`check_name`].
    pub name: &'c str,
    /// The text, of [`PROFILE_TEXT_MAX`] bytes at most.
    pub text: &'c str,
    /// Who makes it.
    pub who: &'c str,
    /// Its note; may be empty.
    pub note: &'c str,
    /// The version that it replaces, if the caller knows it; 0 for a profile that does not exist
    /// yet.
    pub expect: Option<u64>,
}

/// Result of a change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changed {
    /// The newest version of the profile then; 0 where it is gone, or where the change is of no
    /// profile.
    pub version: u64,
    /// The newest version before, if there was one.
    pub replaced: Option<u64>,
    /// True if it is about the profile that this node is assigned, or assigns another.
    pub assigned: bool,
    /// The profile that this node was assigned before.
    pub assigned_before: Option<String>,
    /// True if anything has changed.
    pub stored: bool,
}

/// Every profile, and the one that the node is assigned.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Overview {
    /// The profile that this node is assigned.
    pub assigned: Option<String>,
    /// The profiles, by name.
    pub profiles: Vec<Summary>,
}

/// A profile in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Its name.
    pub name: String,
    /// Its newest version.
    pub version: u64,
    /// How many versions are kept.
    pub versions: usize,
    /// Who made the newest.
    pub who: String,
    /// When (RFC 3339, UTC).
    pub when: String,
}

/// One version of a profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoredProfile {
    /// Its name.
    pub name: String,
    /// The version.
    pub version: u64,
    /// The text.
    pub text: String,
    /// Who made it.
    pub who: String,
    /// When (RFC 3339, UTC).
    pub when: String,
    /// Its note; may be empty.
    pub note: String,
    /// All versions that are kept, the newest first.
    pub history: Vec<VersionInfo>,
}

impl StoredProfile {
    /// The newest version before this one that is kept.
    #[must_use]
    pub fn before(&self) -> Option<u64> {
        let mut versions = self.history.iter().map(|entry| entry.version);
        versions.find(|version| *version < self.version)
    }
}

/// Returns what a version is for that has the text of version `to`, where nothing else is said.
#[must_use]
pub fn rollback_note(to: u64) -> String {
    format!("rollback to version {to}")
}

/// Who made a version, when and what for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VersionInfo {
    /// The version.
    pub version: u64,
    /// Who made it.
    pub who: String,
    /// When (RFC 3339, UTC).
    pub when: String,
    /// Its note; may be empty.
    pub note: String,
}

/// Why the store does not answer, or does not do what it is asked for.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.whole())]
pub enum StoreError {
    /// Another process does not let go of it.
    Busy(PathBuf),
    /// It cannot be read or written.
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not a store of profiles, or is damaged.
    Damaged {
        /// The file.
        path: PathBuf,
        /// The reason.
        why: String,
    },
    /// There is no such profile.
    NoProfile(String),
    /// There is no such version: the profile, the version, and those that are kept.
    NoVersion(String, u64, String),
    /// Somebody else was faster.
    Conflict(String, u64),
    /// The node runs on it.
    Assigned(String),
    /// No profile can have this name.
    Name(String),
    /// Something is not as it must be.
    Bad(String),
    /// Whoever was asked did not agree.
    Refused,
}

impl StoreError {
    fn whole(&self) -> String {
        match self.remedy() {
            remedy if remedy.is_empty() => self.message(),
            remedy => format!("{}; {remedy}", self.message()),
        }
    }

    /// The fault.
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            Self::Busy(path) => format!(
                "{} has been in use by another process for {} s",
                path.display(),
                PROFILE_STORE_PATIENCE.as_secs()
            ),
            Self::Io { path, source } => format!("cannot use {}: {source}", path.display()),
            Self::Damaged { path, why } => format!("{} is damaged: {why}", path.display()),
            Self::NoProfile(name) => format!("there is no profile named {name:?}"),
            Self::NoVersion(name, version, _) => {
                format!("there is no version {version} of profile {name}")
            }
            Self::Conflict(found, expected) => format!("{found}, and not version {expected}"),
            Self::Assigned(name) => format!("profile {name} is assigned"),
            Self::Name(shown) => format!("{shown:?} cannot name a profile in the store"),
            Self::Bad(message) => message.clone(),
            Self::Refused => "the change was refused, and nothing was stored".to_owned(),
        }
    }

    /// Returns what would put it right; empty where the message says it.
    #[must_use]
    pub fn remedy(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Busy(_) => "try again, or end that process",
            Self::Io { .. } => "run this as the user of the node, or make room on the disk",
            Self::Damaged { .. } => {
                "put a backup in its place, or move it away to begin with an empty store \
                 (a config file with a [profile] of its own does not need it)"
            }
            Self::NoProfile(_) => "`adit profile list` names those that there are",
            Self::NoVersion(_, _, kept) => return format!("those that are kept: {kept}").into(),
            Self::Conflict(..) => "look at what is there (`adit profile diff`) and try again",
            Self::Assigned(_) => "assign another one first, or unassign it",
            Self::Name(_) => {
                let most = PROFILE_NAME_MAX;
                let remedy = format!(
                    "take 1 to {most} of A-Z a-z 0-9 . _ - , and begin with a letter, a digit or _"
                );
                return remedy.into();
            }
            Self::Bad(_) | Self::Refused => "",
        })
    }
}

/// Returns whether a profile can be stored under this name: 1 to 64 of `A-Z a-z 0-9 . _ -`, not
/// beginning with a dot or a hyphen.
///
/// # Errors
/// [`StoreError::Name`].
pub fn check_name(name: &str) -> Result<(), StoreError> {
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if (1..=PROFILE_NAME_MAX).contains(&name.len())
        && name.bytes().all(is_fit)
        && !name.starts_with(['.', '-'])
    {
        return Ok(());
    }
    let shown: String = name.chars().take(PROFILE_NAME_MAX).collect();
    Err(StoreError::Name(shown))
}

impl NewVersion<'_> {
    fn check(&self) -> Result<(), StoreError> {
        check_name(self.name)?;
        let too_long = |what: &str, length: usize, most: usize| {
            if length <= most {
                return Ok(());
            }
            let message = format!("the {what} has {length} bytes, and {most} is the most");
            Err(StoreError::Bad(message))
        };
        too_long("profile", self.text.len(), PROFILE_TEXT_MAX)?;
        too_long("note", self.note.len(), PROFILE_NOTE_MAX)?;
        too_long("name of the author", self.who.len(), PROFILE_AUTHOR_MAX)?;
        if self
            .note
            .chars()
            .chain(self.who.chars())
            .any(char::is_control)
        {
            let message = "a note or a name with control characters is not kept; write one line";
            return Err(StoreError::Bad(message.to_owned()));
        }
        Ok(())
    }
}

/// The store holds as many profiles as it takes.
fn too_many() -> StoreError {
    StoreError::Bad(format!(
        "the store holds {PROFILES_MAX} profiles, and no more; delete one that is not needed"
    ))
}
