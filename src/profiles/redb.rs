//! The store in the state folder: one redb file.
//!
//! It is open only for the moment of each look or change, so that the command line works beside a
//! running node; who finds it in use waits a bounded time. The first change makes it.

use std::fs::{File, TryLockError};
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Instant;

use redb::backends::InMemoryBackend;
use redb::{
    Builder, Database, DatabaseError, ReadOnlyDatabase, ReadTransaction, ReadableDatabase,
    ReadableTable, StorageBackend, StorageError, WriteTransaction,
};
use sha2::{Digest, Sha256};

use super::changes::{assign, delete, put};
use super::tables::{
    ASSIGNED, ENTRIES, NODE, StoreFailure, TEXTS, VersionRecord, history, kept, store,
};
use super::{
    Change, Changed, Overview, ProfileStore, StoreError, StoredProfile, Summary, VersionInfo,
};
use crate::files::{self, own_folder};
use crate::limits::{PROFILE_STORE_CACHE, PROFILE_STORE_PATIENCE, PROFILE_STORE_POLL};

/// The file in the state folder.
const FILE: &str = "profiles.redb";

/// The profiles in a node's state folder.
#[derive(Debug, Clone)]
pub struct RedbStore {
    path: PathBuf,
}

impl RedbStore {
    /// The store of the node with this state folder. Touches nothing yet.
    #[must_use]
    pub fn of(state_dir: &Path) -> Self {
        Self {
            path: state_dir.join(FILE),
        }
    }

    /// Looks at what is there. A store that was never written to is empty: then `empty` is the
    /// answer.
    fn look<T>(
        &self,
        empty: impl FnOnce() -> Result<T, StoreError>,
        question: impl FnOnce(&ReadTransaction) -> Result<T, StoreFailure>,
    ) -> Result<T, StoreError> {
        match self.path.try_exists() {
            Ok(true) => {}
            Ok(false) => return empty(),
            Err(source) => return Err(self.io(source)),
        }
        self.guarded(|| {
            // It lives as long as what is read from it.
            let opened = self.patiently(|| open_to_read(&self.path))?;
            let transaction = match &opened {
                OpenedStore::Clean(database) => database.begin_read()?,
                OpenedStore::Mended(database) => database.begin_read()?,
            };
            // A crash came between the making of the file and its first change.
            if transaction.list_tables()?.next().is_none() {
                return empty().map_err(store);
            }
            question(&transaction)
        })
    }

    /// Changes what is there; what `change` has done is kept if it answers without an error.
    fn write<T>(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<T, StoreFailure>,
    ) -> Result<T, StoreError> {
        self.make()?;
        self.guarded(|| {
            let database = self.patiently(|| open_to_write(&self.path))?;
            let transaction = database.begin_write()?;
            let result = change(&transaction)?;
            transaction.commit()?;
            Ok(result)
        })
    }

    /// Makes the file, empty, with mode 0600 and for the user whose folder it is in: the command
    /// line may run as root, and the node may not.
    fn make(&self) -> Result<(), StoreError> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        own_folder(folder).map_err(|error| StoreError::Bad(error.to_string()))?;
        let is_new = !self.path.try_exists().map_err(|error| self.io(error))?;
        files::open_kept(&self.path).map_err(|error| self.io(error))?;
        match is_new {
            true => File::open(folder)
                .and_then(|folder| folder.sync_all())
                .map_err(|error| self.io(error)),
            false => Ok(()),
        }
    }

    /// Opens the file, and waits while another process has it.
    fn patiently<T>(&self, open: impl Fn() -> Result<T, DatabaseError>) -> Result<T, StoreFailure> {
        let since = Instant::now();
        loop {
            match open() {
                Err(DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch) => {}
                other => return Ok(other?),
            }
            if since.elapsed() > PROFILE_STORE_PATIENCE {
                return Err(store(StoreError::Busy(self.path.clone())));
            }
            std::thread::sleep(PROFILE_STORE_POLL);
        }
    }

    /// redb may panic on a file that something else has written to; that ends no node.
    fn guarded<T>(&self, ask: impl FnOnce() -> Result<T, StoreFailure>) -> Result<T, StoreError> {
        match catch_unwind(AssertUnwindSafe(ask)) {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(StoreFailure::Store(error))) => Err(error),
            Ok(Err(StoreFailure::Redb(error))) => Err(self.failed(*error)),
            Err(_) => Err(self.damaged("reading it failed unexpectedly")),
        }
    }

    fn failed(&self, error: redb::Error) -> StoreError {
        match error {
            // redb's word for a file that is not its own.
            redb::Error::Io(source) if source.kind() == io::ErrorKind::InvalidData => {
                self.damaged(&source.to_string())
            }
            redb::Error::Io(source) if source.kind() == io::ErrorKind::UnexpectedEof => {
                self.damaged("it has been cut short")
            }
            redb::Error::Io(source) => self.io(source),
            redb::Error::PreviousIo | redb::Error::DatabaseClosed => {
                self.io(io::Error::other("writing to it has failed"))
            }
            other => self.damaged(&other.to_string()),
        }
    }

    fn io(&self, source: io::Error) -> StoreError {
        StoreError::Io {
            path: self.path.clone(),
            source,
        }
    }

    fn damaged(&self, why: &str) -> StoreError {
        StoreError::Damaged {
            path: self.path.clone(),
            why: why.to_owned(),
        }
    }
}

enum OpenedStore {
    Clean(ReadOnlyDatabase),
    Mended(Database),
}

/// Opens without writing. What a killed process has left is mended in memory, so that a disk that
/// is full or read only hides no profile.
fn open_to_read(path: &Path) -> Result<OpenedStore, DatabaseError> {
    let clean = Builder::new()
        .set_cache_size(PROFILE_STORE_CACHE)
        .open_read_only(path);
    match clean {
        Ok(database) => Ok(OpenedStore::Clean(database)),
        // A file that its last user did not close, or that is empty.
        Err(DatabaseError::RepairAborted | DatabaseError::Storage(StorageError::Io(_))) => {
            mended_copy(path).map(OpenedStore::Mended)
        }
        Err(error) => Err(error),
    }
}

/// A copy in memory, in which what is not whole is cut off.
fn mended_copy(path: &Path) -> Result<Database, DatabaseError> {
    let mut file = files::open(path)?;
    // redb locks the file as a whole, too.
    match file.try_lock_shared() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(DatabaseError::DatabaseAlreadyOpen),
        Err(TryLockError::Error(error)) => return Err(error.into()),
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let copy = InMemoryBackend::new();
    copy.set_len(bytes.len() as u64)?;
    copy.write(0, &bytes)?;
    drop(bytes);
    Builder::new()
        .set_cache_size(PROFILE_STORE_CACHE)
        .set_check_integrity_on_open(true)
        .create_with_backend(copy)
}

/// Opens, and looks first whether anything but redb has written to the file.
fn open_to_write(path: &Path) -> Result<Database, DatabaseError> {
    Builder::new()
        .set_cache_size(PROFILE_STORE_CACHE)
        .set_check_integrity_on_open(true)
        .create(path)
}

impl ProfileStore for RedbStore {
    fn file(&self) -> Option<&Path> {
        Some(&self.path)
    }

    fn overview(&self) -> Result<Overview, StoreError> {
        self.look(|| Ok(Overview::default()), overview)
    }

    fn read(&self, name: &str, version: Option<u64>) -> Result<StoredProfile, StoreError> {
        let none = || Err(StoreError::NoProfile(name.to_owned()));
        self.look(none, |transaction| {
            let history = history(&transaction.open_table(ENTRIES)?, name)?;
            stored(transaction, name, version, history)
        })
    }

    fn assigned(&self) -> Result<Option<StoredProfile>, StoreError> {
        self.look(
            || Ok(None),
            |transaction| {
                let node = transaction.open_table(NODE)?;
                let Some(name) = node.get(ASSIGNED)? else {
                    return Ok(None);
                };
                let history = history(&transaction.open_table(ENTRIES)?, name.value())?;
                if history.is_empty() {
                    let why = format!("the assigned profile {:?} is not in it", name.value());
                    return Err(StorageError::Corrupted(why).into());
                }
                stored(transaction, name.value(), None, history).map(Some)
            },
        )
    }

    fn newest(&self) -> Result<Vec<StoredProfile>, StoreError> {
        self.look(
            || Ok(Vec::new()),
            |transaction| {
                let profiles = overview(transaction)?.profiles;
                let newest = profiles.into_iter().map(|profile| {
                    let history = history(&transaction.open_table(ENTRIES)?, &profile.name)?;
                    stored(transaction, &profile.name, None, history)
                });
                newest.collect()
            },
        )
    }

    fn change(
        &self,
        change: &Change<'_>,
        agree: &mut dyn FnMut(&Changed) -> bool,
    ) -> Result<Changed, StoreError> {
        if let Change::Put(new) = change {
            new.check()?;
        }
        self.write(|transaction| {
            let changed = match *change {
                Change::Put(new) => put(transaction, &new)?,
                Change::Assign(name) => assign(transaction, name)?,
                Change::Delete { name, expect } => delete(transaction, name, expect)?,
            };
            if changed.stored && !agree(&changed) {
                return Err(store(StoreError::Refused));
            }
            Ok(changed)
        })
    }
}

fn overview(transaction: &ReadTransaction) -> Result<Overview, StoreFailure> {
    let mut profiles: Vec<Summary> = Vec::new();
    for item in transaction.open_table(ENTRIES)?.iter()? {
        let (key, value) = item?;
        let (name, version) = key.value();
        let VersionRecord { who, when, .. } = kept(value.value())?;
        match profiles.last_mut().filter(|last| last.name == name) {
            Some(last) => {
                last.versions += 1;
                (last.version, last.who, last.when) = (version, who, when);
            }
            None => profiles.push(Summary {
                name: name.to_owned(),
                version,
                versions: 1,
                who,
                when,
            }),
        }
    }
    let assigned = transaction.open_table(NODE)?.get(ASSIGNED)?;
    Ok(Overview {
        assigned: assigned.map(|name| name.value().to_owned()),
        profiles,
    })
}

fn stored(
    transaction: &ReadTransaction,
    name: &str,
    version: Option<u64>,
    history: Vec<VersionInfo>,
) -> Result<StoredProfile, StoreFailure> {
    let newest = history.first().map(|newest| newest.version);
    let newest = newest.ok_or_else(|| store(StoreError::NoProfile(name.to_owned())))?;
    let version = version.unwrap_or(newest);
    let texts = transaction.open_table(TEXTS)?;
    let text = texts.get((name, version))?;
    let entry = history.iter().find(|entry| entry.version == version);
    let (Some(text), Some(entry)) = (text, entry.cloned()) else {
        let kept: Vec<_> = history
            .iter()
            .map(|entry| entry.version.to_string())
            .collect();
        let error = StoreError::NoVersion(name.to_owned(), version, kept.join(", "));
        return Err(store(error));
    };
    let (digest, text) = text.value();
    if digest != Sha256::digest(text).as_slice() {
        let why = format!("version {version} of profile {name} has changed since it was stored");
        return Err(StorageError::Corrupted(why).into());
    }
    Ok(StoredProfile {
        name: name.to_owned(),
        version,
        text: text.to_owned(),
        who: entry.who,
        when: entry.when,
        note: entry.note,
        history,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::PROFILES_MAX;
    use crate::profiles::NewVersion;

    #[test]
    fn the_store_has_an_end() {
        let folder = tempfile::tempdir().unwrap();
        let store = RedbStore::of(folder.path());
        // In one transaction, which a disk does once.
        let put_all = |count: usize| {
            store.write(|transaction| {
                for number in 0..count {
                    let name = format!("p{number}");
                    put(
                        transaction,
                        &NewVersion {
                            name: &name,
                            text: "x",
                            who: "ann",
                            note: "",
                            expect: None,
                        },
                    )?;
                }
                Ok(())
            })
        };
        let error = put_all(PROFILES_MAX + 1).unwrap_err().to_string();
        assert!(error.contains("1000 profiles, and no more"), "{error}");
        put_all(PROFILES_MAX).unwrap();
        assert_eq!(store.overview().unwrap().profiles.len(), PROFILES_MAX);
    }
}
