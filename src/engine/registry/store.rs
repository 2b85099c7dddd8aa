//! Changes of devices through the admin listener, on disk: one redb file in the state folder.
//!
//! A change is on the disk when [`Store::apply`] returns, whole or not at all. The file is made by
//! the first change: a node that is never told anything has none.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};

use crate::files;
use crate::limits::REGISTRY_STORE_CACHE;
use crate::table::{
    DeviceChanges, DeviceCollector, DeviceEntry, DeviceRegistry, DeviceState, RegistryFull,
};

/// Name to state and user.
const DEVICES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("devices");

/// The file in the state folder.
const FILE: &str = "devices.redb";

/// Why the store does not work.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it.
    #[error("{0} is in use by another process; give each node a state_dir of its own")]
    InUse(PathBuf),
    /// The file, or the disk.
    #[error("{path}: {source}; free or repair the disk, or move the file away to start without it")]
    Database {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<redb::Error>,
    },
    /// The file cannot be opened, or made if it does not exist.
    #[error("cannot open {path}: {source}")]
    Create {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// More devices than are taken.
    #[error(transparent)]
    Full(#[from] RegistryFull),
}

/// The open file, or the place where it will be.
pub(super) struct Store {
    path: PathBuf,
    database: Option<Database>,
}

impl Store {
    /// Opens the file if there is one. After a crash this cuts off what was not committed.
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        let mut store = Store {
            path: state_dir.join(FILE),
            database: None,
        };
        store.take_back()?;
        Ok(store)
    }

    /// Lets another process have the file.
    pub fn release(&mut self) {
        self.database = None;
    }

    /// Takes the file again, if there is one.
    pub fn take_back(&mut self) -> Result<(), StoreError> {
        let unseen = |source| StoreError::Create {
            path: self.path.clone(),
            source,
        };
        if self.path.try_exists().map_err(unseen)? {
            self.database()?;
        }
        Ok(())
    }

    fn database(&mut self) -> Result<&Database, StoreError> {
        let database = match self.database.take() {
            Some(database) => database,
            None => self.create()?,
        };
        Ok(self.database.insert(database))
    }

    fn create(&self) -> Result<Database, StoreError> {
        let failed = |source| StoreError::Create {
            path: self.path.clone(),
            source,
        };
        // An empty file is an empty store; made here for its mode and its owner.
        files::open_kept(&self.path).map_err(failed)?;
        let database = Database::builder()
            .set_cache_size(REGISTRY_STORE_CACHE)
            .create(&self.path)
            .map_err(|error| match error {
                DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
                    StoreError::InUse(self.path.clone())
                }
                other => self.error(other),
            })?;
        let folder = self.path.parent().unwrap_or(Path::new("."));
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(failed)?;
        Ok(database)
    }

    fn error(&self, error: impl Into<redb::Error>) -> StoreError {
        StoreError::Database {
            path: self.path.clone(),
            source: Box::new(error.into()),
        }
    }

    /// Everything that was said and not taken back. What is there and cannot be opened is an error,
    /// and never nothing.
    pub fn load(&mut self) -> Result<DeviceChanges, StoreError> {
        self.take_back()?;
        let mut said = DeviceCollector::default();
        if let Some(database) = &self.database {
            read(database, &mut said).map_err(|error| self.error(error))?;
        }
        Ok(said.finish()?)
    }

    /// Keeps the changes, one after the other, all or none of them. A device that is taken out and
    /// that `base` does not know is forgotten.
    pub fn apply(
        &mut self,
        changes: &[&DeviceChanges],
        base: &DeviceRegistry,
    ) -> Result<(), StoreError> {
        let database = self.database()?;
        write(database, changes, base).map_err(|error| self.error(error))
    }

    /// Forgets what was said about these devices.
    pub fn forget(&mut self, devices: &DeviceChanges) -> Result<(), StoreError> {
        let database = self.database()?;
        remove(database, devices).map_err(|error| self.error(error))
    }
}

fn read(database: &Database, said: &mut DeviceCollector) -> Result<(), redb::Error> {
    let transaction = database.begin_read()?;
    let table = match transaction.open_table(DEVICES) {
        Ok(table) => table,
        // A crash came between the making of the file and its first change.
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    for item in table.iter()? {
        let (name, value) = item?;
        if let Some(entry) = decode(value.value()) {
            said.add(name.value(), entry);
        }
    }
    Ok(())
}

fn write(
    database: &Database,
    changes: &[&DeviceChanges],
    base: &DeviceRegistry,
) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut table = transaction.open_table(DEVICES)?;
        let mut value = Vec::new();
        for changes in changes {
            for (name, entry) in changes.iter() {
                if entry.state == DeviceState::Unmanaged && base.get(name).is_none() {
                    table.remove(name)?;
                } else {
                    encode(entry, &mut value);
                    table.insert(name, &*value)?;
                }
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

fn remove(database: &Database, devices: &DeviceChanges) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut table = transaction.open_table(DEVICES)?;
        for (name, _) in devices.iter() {
            table.remove(name)?;
        }
    }
    transaction.commit()?;
    Ok(())
}

fn encode(entry: DeviceEntry<'_>, value: &mut Vec<u8>) {
    value.clear();
    value.push(match entry.state {
        DeviceState::Unmanaged => b'-',
        DeviceState::Managed => b'm',
        DeviceState::Blocked => b'b',
    });
    value.extend_from_slice(entry.user.unwrap_or_default().as_bytes());
}

fn decode(value: &[u8]) -> Option<DeviceEntry<'_>> {
    let (state, user) = value.split_first()?;
    let user = std::str::from_utf8(user).ok()?;
    Some(DeviceEntry {
        state: match state {
            b'-' => DeviceState::Unmanaged,
            b'm' => DeviceState::Managed,
            b'b' => DeviceState::Blocked,
            _ => return None,
        },
        user: (!user.is_empty()).then_some(user),
    })
}
