//! Which devices are managed: the registry that authorization asks.
//!
//! Guarantees: a registry is whole or there is none (one bad line refuses the text, and every bad
//! line is named); a look-up allocates nothing. A registry never changes: a changed one shares all
//! parts with the old one but those that the change is about, so that one device of millions costs
//! one part in 4096. What an unmanaged device may do is the profile's decision, not this table's.

mod shard;
mod text;

use std::collections::{BTreeMap, BinaryHeap};
use std::sync::{Arc, LazyLock};

use shard::{NameHash, Record, Records, Shard};
pub use text::{DeviceFault, DeviceFormat, DeviceReader, RegistryError, RegistryProblem};

use crate::limits::{DEVICE_SHARDS, DEVICES_MAX};

/// State of a device in the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeviceState {
    /// Registered, and allowed.
    Managed,
    /// Not in the registry.
    Unmanaged,
    /// Registered, and refused whatever its certificate says.
    Blocked,
}

impl DeviceState {
    /// The word in files, on the admin listener and in documents.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Managed => "managed",
            Self::Unmanaged => "unmanaged",
            Self::Blocked => "blocked",
        }
    }
}

/// Entry of one device. In changes, [`DeviceState::Unmanaged`] takes the device out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceEntry<'a> {
    /// The state.
    pub state: DeviceState,
    /// Who has the device.
    pub user: Option<&'a str>,
}

/// There are more devices than the registry takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {DEVICES_MAX} devices; give each node the devices that it serves")]
pub struct RegistryFull;

/// The devices that are known, each managed or blocked.
#[derive(Clone)]
pub struct DeviceRegistry {
    shards: Box<[Arc<Shard>]>,
    len: usize,
}

impl Default for DeviceRegistry {
    fn default() -> Self {
        // An empty registry costs no memory of its own for its parts.
        static EMPTY: LazyLock<Arc<Shard>> = LazyLock::new(Arc::default);
        DeviceRegistry {
            shards: vec![EMPTY.clone(); DEVICE_SHARDS].into(),
            len: 0,
        }
    }
}

impl std::fmt::Debug for DeviceRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceRegistry")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl DeviceRegistry {
    /// Returns what is known about a device, by its exact name; `None` where it is unmanaged.
    #[must_use]
    pub fn get(&self, device: &str) -> Option<DeviceEntry<'_>> {
        self.find(device).map(|record| record.entry())
    }

    /// The state of a device, by its exact name.
    #[must_use]
    pub fn state(&self, device: &str) -> DeviceState {
        self.find(device)
            .map_or(DeviceState::Unmanaged, |record| record.state)
    }

    /// The user that the registry gives for a device.
    #[must_use]
    pub fn user(&self, device: &str) -> Option<&str> {
        self.get(device)?.user
    }

    fn find(&self, device: &str) -> Option<Record<'_>> {
        let hash = NameHash::of(device.as_bytes());
        self.shards[hash.shard()].find(hash, device.as_bytes())
    }

    /// The number of devices that are managed or blocked.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether no device is registered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of memory that the devices take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.bytes()).sum()
    }

    /// This registry after `changes`. Costs the parts that they are about, and a pointer for each
    /// other part.
    ///
    /// # Errors
    /// [`RegistryFull`].
    pub fn with(&self, changes: &DeviceChanges) -> Result<Self, RegistryFull> {
        let mut registry = self.clone();
        for (&number, change) in &changes.shards {
            let shard = &mut registry.shards[usize::from(number)];
            let new = Arc::new(shard.with(change)?);
            registry.len = registry.len - shard.len() + new.len();
            *shard = new;
        }
        if registry.len > DEVICES_MAX {
            return Err(RegistryFull);
        }
        Ok(registry)
    }

    /// Returns what has to be said about devices for `before` to become this registry, of these
    /// parts alone, of which there are [`DEVICE_SHARDS`]: for a thread that has something else to do
    /// between them. Parts that both share are not looked at.
    ///
    /// # Errors
    /// [`RegistryFull`].
    pub fn changes_in(
        &self,
        before: &Self,
        parts: std::ops::Range<usize>,
    ) -> Result<DeviceChanges, RegistryFull> {
        let mut changes = DeviceCollector::default();
        let both = self.shards[parts.clone()].iter().zip(&before.shards[parts]);
        for (new, old) in both {
            if Arc::ptr_eq(new, old) {
                continue;
            }
            for record in new.records() {
                if before.get(record.name()) != Some(record.entry()) {
                    changes.add(record.name(), record.entry());
                }
            }
            for gone in old.records().filter(|old| self.get(old.name()).is_none()) {
                let (state, user) = (DeviceState::Unmanaged, None);
                changes.add(gone.name(), DeviceEntry { state, user });
            }
        }
        changes.finish()
    }

    /// Up to `limit` devices whose names begin with `prefix` and come behind `after`, in the order
    /// of their names. Looks at every device: not for a data core.
    #[must_use]
    pub fn list(&self, prefix: &str, after: &str, limit: usize) -> Vec<(&str, DeviceEntry<'_>)> {
        let mut least = BinaryHeap::new();
        for record in self.shards.iter().flat_map(|shard| shard.records()) {
            if record.name <= after.as_bytes() || !record.name.starts_with(prefix.as_bytes()) {
                continue;
            }
            if least.len() >= limit {
                match least.peek() {
                    Some(ByName(last)) if record.name < last.name => least.pop(),
                    _ => continue,
                };
            }
            least.push(ByName(record));
        }
        let sorted = least.into_sorted_vec();
        sorted
            .iter()
            .map(|ByName(record)| (record.name(), record.entry()))
            .collect()
    }
}

/// A record in the order of names.
struct ByName<'a>(Record<'a>);

impl PartialEq for ByName<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for ByName<'_> {}

impl PartialOrd for ByName<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByName<'_> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.name.cmp(other.0.name)
    }
}

/// Changes of some devices, each of them once.
#[derive(Default)]
pub struct DeviceChanges {
    shards: BTreeMap<u16, Shard>,
    len: usize,
}

impl DeviceChanges {
    /// Takes what is said about one device.
    #[must_use]
    pub fn one(name: &str, entry: DeviceEntry<'_>) -> Self {
        let mut collected = Collected::default();
        collected.add(name, entry, 1);
        collected
            .settle(|_| ())
            .expect("one record is far below the bound")
    }

    /// How many devices something is said about.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether nothing is said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns what is said, in no order that means anything.
    pub fn iter(&self) -> impl Iterator<Item = (&str, DeviceEntry<'_>)> {
        self.shards
            .values()
            .flat_map(|shard| shard.records())
            .map(|record| (record.name(), record.entry()))
    }
}

/// Collects what is said about devices one by one; of two that are said about one device, the first
/// counts.
#[derive(Default)]
pub struct DeviceCollector(Collected);

impl DeviceCollector {
    /// Adds what is said about one device.
    pub fn add(&mut self, name: &str, entry: DeviceEntry<'_>) {
        self.0.add(name, entry, 0);
    }

    /// Returns what was said.
    ///
    /// # Errors
    /// [`RegistryFull`].
    pub fn finish(self) -> Result<DeviceChanges, RegistryFull> {
        self.0.settle(|_| ())
    }
}

/// Collected changes of devices, which may still contradict each other.
#[derive(Default)]
struct Collected(BTreeMap<u16, PendingShard>);

#[derive(Default)]
struct PendingShard {
    data: Vec<u8>,
    /// The line that each record came from.
    lines: Vec<u32>,
}

/// Two lines that say different things about one device.
struct Conflict<'a> {
    name: &'a str,
    first: u32,
    line: u32,
}

impl Collected {
    fn add(&mut self, name: &str, entry: DeviceEntry<'_>, line: u32) {
        let number = NameHash::of(name.as_bytes()).shard() as u16;
        let pending = self.0.entry(number).or_default();
        Record::write(&mut pending.data, name, entry);
        pending.lines.push(line);
    }

    /// Keeps what is said about each device once; what is said twice and differently goes to
    /// `conflict`.
    fn settle(self, mut conflict: impl FnMut(Conflict<'_>)) -> Result<DeviceChanges, RegistryFull> {
        let mut changes = DeviceChanges::default();
        for (number, pending) in self.0 {
            let PendingShard { data, lines } = pending;
            let line_of = |name: &[u8]| {
                let first = Records(&data).position(|record| record.name == name);
                lines[first.unwrap_or_default()]
            };
            let shard = Shard::build(
                Records(&data),
                (lines.len(), data.len()),
                |at, record, first| {
                    if record.bytes != first.bytes {
                        conflict(Conflict {
                            name: record.name(),
                            first: line_of(record.name),
                            line: lines[at],
                        });
                    }
                },
            )?;
            changes.len += shard.len();
            changes.shards.insert(number, shard);
        }
        if changes.len > DEVICES_MAX {
            return Err(RegistryFull);
        }
        Ok(changes)
    }
}

#[cfg(test)]
mod tests;
