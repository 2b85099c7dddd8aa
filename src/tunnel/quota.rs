//! How many tunnels a node and each device may hold, counted exactly across all cores.
//!
//! Touched once when a tunnel opens and once when it ends; memory is bounded by the tunnels that are open.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::observe::CloseReason;

const SHARDS: usize = 64;

/// The counters.
pub struct Quota {
    node: AtomicUsize,
    devices: [Mutex<HashMap<Arc<str>, usize>>; SHARDS],
    hasher: RandomState,
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
pub(super) struct Permit {
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
    pub(super) fn acquire(
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
        let mut devices = self
            .shard(device)
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let known = devices
            .get_key_value(device)
            .map(|(name, count)| (name.clone(), *count));
        let (name, count) = known.unwrap_or_else(|| (device.into(), 0));
        if count >= device_limit {
            drop(devices);
            self.node.fetch_sub(1, Ordering::Relaxed);
            return Err(CloseReason::DeviceLimit);
        }
        devices.insert(name.clone(), count + 1);
        Ok(Permit {
            quota: self.clone(),
            device: name,
        })
    }

    fn shard(&self, device: &str) -> &Mutex<HashMap<Arc<str>, usize>> {
        &self.devices[self.hasher.hash_one(device) as usize % SHARDS]
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut devices = self
            .quota
            .shard(&self.device)
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = devices.get_mut(&*self.device) {
            *count -= 1;
            if *count == 0 {
                devices.remove(&*self.device);
            }
        }
        drop(devices);
        self.quota.node.fetch_sub(1, Ordering::Relaxed);
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
