//! How many tunnels a node and each device may hold, and how many sessions a device, counted
//! exactly across all cores.
//!
//! Touched once when one opens and once when it ends; memory is bounded by those that are open.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::reason::CloseReason;

const SHARDS: usize = 64;

/// The counters.
pub struct Quota {
    node: AtomicUsize,
    devices: [Mutex<HashMap<Arc<str>, Device>>; SHARDS],
    hasher: RandomState,
}

/// Tunnels and sessions of one device.
#[derive(Default)]
struct Device {
    tunnels: usize,
    /// HTTP/2 sessions, with tunnels or without, and others that have no tunnel yet.
    sessions: usize,
    /// Bytes of their receive windows beyond the least.
    windows: Arc<AtomicUsize>,
}

/// The right to hold one HTTP/2 session; given back on drop.
pub(crate) struct Presence {
    quota: Arc<Quota>,
    device: Arc<str>,
    windows: Arc<AtomicUsize>,
}

impl Presence {
    /// Bytes of receive windows beyond the least, of all the device's sessions.
    pub fn windows(&self) -> &Arc<AtomicUsize> {
        &self.windows
    }
}

impl Default for Quota {
    fn default() -> Self {
        Self {
            node: AtomicUsize::new(0),
            devices: std::array::from_fn(|_| Mutex::new(HashMap::new())),
            hasher: RandomState::new(),
        }
    }
}

/// The right to hold one tunnel; given back on drop.
pub(crate) struct Permit {
    quota: Arc<Quota>,
    device: Arc<str>,
}

impl Quota {
    /// Tunnels open on this node.
    #[must_use]
    pub fn open(&self) -> usize {
        self.node.load(Ordering::Relaxed)
    }

    /// Takes a tunnel for `device`, if neither limit is reached.
    pub(crate) fn acquire(
        self: &Arc<Self>,
        device: &str,
        node_limit: usize,
        device_limit: usize,
    ) -> Result<Permit, CloseReason> {
        let taken = self
            .node
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| {
                (open < node_limit).then_some(open + 1)
            });
        if taken.is_err() {
            return Err(CloseReason::NodeLimit);
        }
        let place = self.with(device, |held| {
            if held.tunnels >= device_limit {
                return Err(CloseReason::DeviceLimit);
            }
            held.tunnels += 1;
            Ok(())
        });
        match place {
            Ok(((), device)) => Ok(Permit {
                quota: self.clone(),
                device,
            }),
            Err(reason) => {
                self.node.fetch_sub(1, Ordering::Relaxed);
                Err(reason)
            }
        }
    }

    /// Takes a session for `device`, which may have so many.
    pub(crate) fn enter(
        self: &Arc<Self>,
        device: &str,
        limit: usize,
    ) -> Result<Presence, CloseReason> {
        let (windows, device) = self.with(device, |held| {
            if held.sessions >= limit {
                return Err(CloseReason::DeviceLimit);
            }
            held.sessions += 1;
            Ok(held.windows.clone())
        })?;
        Ok(Presence {
            quota: self.clone(),
            device,
            windows,
        })
    }

    /// Changes what a device holds. With the name that all its permits share.
    fn with<T>(
        &self,
        device: &str,
        change: impl FnOnce(&mut Device) -> Result<T, CloseReason>,
    ) -> Result<(T, Arc<str>), CloseReason> {
        let mut devices = self
            .shard(device)
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let known = devices.get_key_value(device).map(|(name, _)| name.clone());
        let name = known.unwrap_or_else(|| device.into());
        let held = devices.entry(name.clone()).or_default();
        let changed = change(held);
        if held.tunnels == 0 && held.sessions == 0 {
            devices.remove(device);
        }
        Ok((changed?, name))
    }

    fn give_back(&self, device: &str, change: impl FnOnce(&mut Device)) {
        let given = self.with(device, |held| {
            change(held);
            Ok(())
        });
        debug_assert!(given.is_ok(), "nothing here fails");
    }

    fn shard(&self, device: &str) -> &Mutex<HashMap<Arc<str>, Device>> {
        &self.devices[self.hasher.hash_one(device) as usize % SHARDS]
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.quota.give_back(&self.device, |held| held.tunnels -= 1);
        self.quota.node.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.quota
            .give_back(&self.device, |held| held.sessions -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_limits_hold_and_nothing_is_left_behind() {
        let quota = Arc::new(Quota::default());
        let first = quota.acquire("a", 3, 2).unwrap();
        let second = quota.acquire("a", 3, 2).unwrap();
        assert_eq!(
            quota.acquire("a", 3, 2).err(),
            Some(CloseReason::DeviceLimit)
        );
        let third = quota.acquire("b", 3, 2).unwrap();
        assert_eq!(quota.acquire("c", 3, 2).err(), Some(CloseReason::NodeLimit));
        drop(second);
        let again = quota.acquire("a", 3, 2).unwrap();
        drop((first, third, again));
        assert_eq!(quota.open(), 0);
        assert!(
            quota
                .devices
                .iter()
                .all(|shard| shard.lock().unwrap().is_empty())
        );
    }

    #[test]
    fn sessions_have_a_limit_of_their_own() {
        let quota = Arc::new(Quota::default());
        let first = quota.enter("a", 2).unwrap();
        let second = quota.enter("a", 2).unwrap();
        assert!(Arc::ptr_eq(first.windows(), second.windows()));
        assert_eq!(quota.enter("a", 2).err(), Some(CloseReason::DeviceLimit));
        let (other, tunnel) = (quota.enter("b", 2), quota.acquire("a", 9, 1));
        drop(first);
        let again = quota.enter("a", 2).unwrap();
        drop((second, other, tunnel, again));
        let mut shards = quota.devices.iter();
        assert!(shards.all(|shard| shard.lock().unwrap().is_empty()));
    }

    #[test]
    fn threads_never_exceed_the_limit() {
        let quota = Arc::new(Quota::default());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        let permit = quota.acquire("device", 3, 3);
                        assert!(quota.open() <= 3);
                        drop(permit);
                    }
                });
            }
        });
        assert_eq!(quota.open(), 0);
    }
}
