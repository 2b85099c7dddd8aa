//! One part of the registry: the records of some hundred devices in one piece of memory, and where
//! each begins.
//!
//! A record is a head of two bytes, the user's length where there is one, the name and the user. A
//! slot of the index holds where a record begins and eight bits of its hash, so that a look-up
//! reads one record that is not its own in 256.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

use super::{DeviceEntry, DeviceState, RegistryFull};
use crate::limits::{DEVICE_SHARDS, MAX_IDENTITY_NAME_BYTES};

/// The name's length in a record's head; the state is in the two bits above, and whether there is a
/// user in the next.
const NAME_BITS: u32 = 9;
const NAME_MASK: u16 = (1 << NAME_BITS) - 1;
const STATE_MASK: u16 = 3;
const HAS_USER: u16 = 1 << (NAME_BITS + 2);

const OFFSET_BITS: u32 = 24;
const OFFSET_MASK: u32 = (1 << OFFSET_BITS) - 1;

const _: () = assert!(MAX_IDENTITY_NAME_BYTES <= NAME_MASK as usize);
const _: () = assert!(DEVICE_SHARDS == 1 << 12, "the hash's upper bits");

/// A name's hash: seeded for each process, so that nobody can choose names that fall together.
#[derive(Clone, Copy)]
pub(super) struct NameHash(u64);

impl NameHash {
    pub fn of(name: &[u8]) -> Self {
        static SEED: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        NameHash(SEED.hash_one(name))
    }

    /// Which shard the name is in.
    pub const fn shard(self) -> usize {
        (self.0 >> 52) as usize
    }

    const fn tag(self) -> u32 {
        (self.0 >> 44) as u32 & 0xff
    }
}

/// A record where it lies.
#[derive(Clone, Copy)]
pub(super) struct Record<'a> {
    pub name: &'a [u8],
    pub state: DeviceState,
    pub user: Option<&'a [u8]>,
    /// The whole of it.
    pub bytes: &'a [u8],
}

impl<'a> Record<'a> {
    /// Appends a record. Names and users are bounded by whoever reads them.
    pub fn write(data: &mut Vec<u8>, name: &str, entry: DeviceEntry<'_>) {
        let state = match entry.state {
            DeviceState::Unmanaged => 0,
            DeviceState::Managed => 1,
            DeviceState::Blocked => 2,
        };
        debug_assert!(name.len() <= MAX_IDENTITY_NAME_BYTES);
        let has_user = if entry.user.is_some() { HAS_USER } else { 0 };
        let head = name.len() as u16 & NAME_MASK | state << NAME_BITS | has_user;
        data.extend_from_slice(&head.to_le_bytes());
        if let Some(user) = entry.user {
            data.extend_from_slice(&(user.len() as u16).to_le_bytes());
        }
        data.extend_from_slice(name.as_bytes());
        data.extend_from_slice(entry.user.unwrap_or_default().as_bytes());
    }

    /// The record at the start of `data`; `None` behind the last one.
    pub fn read(data: &'a [u8]) -> Option<Self> {
        let (head, mut rest) = data.split_first_chunk::<2>()?;
        let head = u16::from_le_bytes(*head);
        let mut user_length = None;
        if head & HAS_USER != 0 {
            let (length, behind) = rest.split_first_chunk::<2>()?;
            user_length = Some(usize::from(u16::from_le_bytes(*length)));
            rest = behind;
        }
        let (name, rest) = rest.split_at_checked(usize::from(head & NAME_MASK))?;
        let (user, rest) = rest.split_at_checked(user_length.unwrap_or(0))?;
        Some(Record {
            name,
            state: match head >> NAME_BITS & STATE_MASK {
                1 => DeviceState::Managed,
                2 => DeviceState::Blocked,
                _ => DeviceState::Unmanaged,
            },
            user: user_length.map(|_| user),
            bytes: &data[..data.len() - rest.len()],
        })
    }

    pub fn entry(&self) -> DeviceEntry<'a> {
        DeviceEntry {
            state: self.state,
            user: self.user.and_then(|user| std::str::from_utf8(user).ok()),
        }
    }

    pub fn name(&self) -> &'a str {
        // Written from a `str`.
        std::str::from_utf8(self.name).unwrap_or_default()
    }
}

/// The records one after the other.
pub(super) struct Records<'a>(pub &'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        let record = Record::read(self.0)?;
        self.0 = &self.0[record.bytes.len()..];
        Some(record)
    }
}

/// Records of different names, with their index.
#[derive(Default)]
pub(super) struct Shard {
    data: Box<[u8]>,
    /// 0, or a record's offset and one, with the hash's tag above. A power of two of them, or none.
    slots: Box<[u32]>,
    len: u32,
}

impl Shard {
    /// The shard of `records`. A later record of a name that was there already is given to `again`
    /// and left out.
    ///
    /// # Errors
    /// More bytes of records than offsets reach.
    pub fn build<'a>(
        records: impl Iterator<Item = Record<'a>>,
        capacity: (usize, usize),
        mut again: impl FnMut(usize, Record<'a>, Record<'_>),
    ) -> Result<Self, RegistryFull> {
        let (count, bytes) = capacity;
        let mut shard = Shard {
            data: Box::default(),
            slots: vec![0; (count + count / 3 + 1).next_power_of_two()].into(),
            len: 0,
        };
        let mut data = Vec::with_capacity(bytes);
        for (at, record) in records.enumerate() {
            let hash = NameHash::of(record.name);
            match shard.probe(&data, hash, record.name) {
                Ok(first) => again(at, record, first),
                Err(slot) => {
                    let offset = u32::try_from(data.len() + 1).unwrap_or(u32::MAX);
                    if offset > OFFSET_MASK {
                        return Err(RegistryFull);
                    }
                    shard.slots[slot] = hash.tag() << OFFSET_BITS | offset;
                    shard.len += 1;
                    data.extend_from_slice(record.bytes);
                }
            }
        }
        if shard.len == 0 {
            shard.slots = Box::default();
        }
        shard.data = data.into();
        Ok(shard)
    }

    /// This shard with what `changes` says about its devices.
    ///
    /// # Errors
    /// As for [`Shard::build`].
    pub fn with(&self, changes: &Shard) -> Result<Self, RegistryFull> {
        let kept = self.records().filter(|record| {
            changes
                .find(NameHash::of(record.name), record.name)
                .is_none()
        });
        let set = changes
            .records()
            .filter(|record| record.state != DeviceState::Unmanaged);
        let count = self.len() + changes.len();
        let bytes = self.data.len() + changes.data.len();
        Shard::build(kept.chain(set), (count, bytes), |_, _, _| ())
    }

    pub fn find(&self, hash: NameHash, name: &[u8]) -> Option<Record<'_>> {
        if self.slots.is_empty() {
            return None;
        }
        self.probe(&self.data, hash, name).ok()
    }

    /// The record of `name` in `data`, or the free slot where it would go. There is always one: a
    /// third of the records more are slots at least.
    fn probe<'d>(&self, data: &'d [u8], hash: NameHash, name: &[u8]) -> Result<Record<'d>, usize> {
        let mask = self.slots.len() - 1;
        let mut at = hash.0 as usize & mask;
        loop {
            let slot = self.slots[at];
            if slot == 0 {
                return Err(at);
            }
            if slot >> OFFSET_BITS == hash.tag() {
                let offset = (slot & OFFSET_MASK) as usize - 1;
                if let Some(record) = Record::read(&data[offset..])
                    && record.name == name
                {
                    return Ok(record);
                }
            }
            at = (at + 1) & mask;
        }
    }

    pub fn records(&self) -> Records<'_> {
        Records(&self.data)
    }

    pub const fn len(&self) -> usize {
        self.len as usize
    }

    pub fn bytes(&self) -> usize {
        self.data.len() + self.slots.len() * size_of::<u32>()
    }
}
