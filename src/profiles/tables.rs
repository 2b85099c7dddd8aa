//! The tables of the store, and what is read from them by looks and changes.

use redb::{ReadableTable, StorageError, TableDefinition};
use serde::{Deserialize, Serialize};

use super::{StoreError, VersionInfo};

/// Profile and version to who, when and what for, as JSON.
pub(super) const ENTRIES: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("entries");

/// Profile and version to the SHA-256 of the text, and the text. redb looks at checksums when it
/// writes; a look at the digest is one at a text that is only read.
pub(super) const TEXTS: TableDefinition<'_, (&str, u64), (&[u8], &str)> =
    TableDefinition::new("texts");

/// Profile to the last number that was given. It outlives the profile, so that no number means two
/// texts.
pub(super) const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");

/// Values of this node.
pub(super) const NODE: TableDefinition<'_, &str, &str> = TableDefinition::new("node");

/// The key of [`NODE`] under which the assigned profile stands.
pub(super) const ASSIGNED: &str = "assigned";

/// Who made a version, when and what for, as it is kept.
#[derive(Serialize, Deserialize)]
pub(super) struct VersionRecord {
    pub who: String,
    pub when: String,
    pub note: String,
}

/// Why a question to redb has no answer: its own reason, or ours.
pub(super) enum StoreFailure {
    Redb(Box<redb::Error>),
    Store(StoreError),
}

impl<E: Into<redb::Error>> From<E> for StoreFailure {
    fn from(error: E) -> Self {
        Self::Redb(Box::new(error.into()))
    }
}

pub(super) fn store(error: StoreError) -> StoreFailure {
    StoreFailure::Store(error)
}

pub(super) fn kept(value: &[u8]) -> Result<VersionRecord, StoreFailure> {
    serde_json::from_slice(value)
        .map_err(|error| StorageError::Corrupted(format!("an entry is not valid: {error}")).into())
}

/// The versions of a profile, the newest first.
pub(super) fn history(
    entries: &impl ReadableTable<(&'static str, u64), &'static [u8]>,
    name: &str,
) -> Result<Vec<VersionInfo>, StoreFailure> {
    let mut found = Vec::new();
    for item in entries.range((name, 0)..=(name, u64::MAX))?.rev() {
        let (key, value) = item?;
        let VersionRecord { who, when, note } = kept(value.value())?;
        found.push(VersionInfo {
            version: key.value().1,
            who,
            when,
            note,
        });
    }
    Ok(found)
}
