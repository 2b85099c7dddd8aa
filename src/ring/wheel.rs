//! A hierarchical timer wheel (Varghese and Lauck, 1987): six levels of 64 slots.
//!
//! Insert, remove and expiry are O(1) amortised. The wheel does not look at a clock: ticks go in,
//! wakers come out. A deadline beyond the last level is taken as the last tick that the wheel can
//! hold: who set it looks at the clock and sets it again.

use std::task::Waker;

use slab::Slab;

const LEVELS: usize = 6;
const SLOT_BITS: usize = 6;
const SLOTS: usize = 1 << SLOT_BITS;
const MAX_SPAN: u64 = 1 << (LEVELS * SLOT_BITS);

/// Position of an entry: its level, slot and position in that slot's list.
#[derive(Clone, Copy)]
struct Position {
    level: u8,
    slot: u8,
    index: u32,
}

struct Timer {
    when: u64,
    waker: Option<Waker>,
    /// `None` once the entry has fired; it stays until its owner removes it.
    place: Option<Position>,
}

struct Level {
    occupied: u64,
    slots: [Vec<u32>; SLOTS],
}

/// The wheel.
pub(super) struct Wheel {
    elapsed: u64,
    levels: Vec<Level>,
    entries: Slab<Timer>,
}

impl Wheel {
    pub fn new() -> Self {
        let level = || Level {
            occupied: 0,
            slots: std::array::from_fn(|_| Vec::new()),
        };
        Self {
            elapsed: 0,
            levels: (0..LEVELS).map(|_| level()).collect(),
            entries: Slab::new(),
        }
    }

    /// Timers set and not yet removed.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Sets a timer at tick `when`; a tick that has passed fires at the next advance.
    pub fn insert(&mut self, when: u64, waker: Waker) -> usize {
        let key = self.entries.insert(Timer {
            when,
            waker: Some(waker),
            place: None,
        });
        self.link(key);
        key
    }

    /// Replaces the waker of a timer, unless the one it has wakes the same task. `false` if it has
    /// fired already.
    pub fn refresh(&mut self, key: usize, waker: &Waker) -> bool {
        let entry = &mut self.entries[key];
        if entry.place.is_none() {
            return false;
        }
        if !entry.waker.as_ref().is_some_and(|old| old.will_wake(waker)) {
            entry.waker = Some(waker.clone());
        }
        true
    }

    /// Removes a timer, fired or not.
    pub fn remove(&mut self, key: usize) {
        self.unlink(key);
        self.entries.remove(key);
    }

    /// The tick at which [`Wheel::advance`] next has something to do.
    pub fn next_tick(&self) -> Option<u64> {
        self.next_slot().map(|(_, _, tick)| tick)
    }

    /// Moves time on to tick `now` and hands out the wakers of every timer that is due.
    pub fn advance(&mut self, now: u64, fired: &mut Vec<Waker>) {
        while let Some((level, slot, tick)) = self.next_slot() {
            if tick > now {
                break;
            }
            self.elapsed = self.elapsed.max(tick);
            self.levels[level].occupied &= !(1 << slot);
            let keys = std::mem::take(&mut self.levels[level].slots[slot]);
            for &key in &keys {
                let entry = &mut self.entries[key as usize];
                entry.place = None;
                if entry.when <= self.elapsed {
                    fired.extend(entry.waker.take());
                } else {
                    self.link(key as usize);
                }
            }
            // Give the list's memory back to the slot: a busy slot must not allocate anew each round.
            let slot = &mut self.levels[level].slots[slot];
            if slot.is_empty() {
                *slot = keys;
                slot.clear();
            }
        }
        self.elapsed = self.elapsed.max(now);
    }

    fn next_slot(&self) -> Option<(usize, usize, u64)> {
        let (number, level) = self
            .levels
            .iter()
            .enumerate()
            .find(|(_, level)| level.occupied != 0)?;
        let slot_span = 1u64 << (number * SLOT_BITS);
        let level_span = slot_span << SLOT_BITS;
        let now_slot = (self.elapsed / slot_span) as usize % SLOTS;
        let ahead = level
            .occupied
            .rotate_right(now_slot as u32)
            .trailing_zeros() as usize;
        let slot = (now_slot + ahead) % SLOTS;
        let mut tick = self.elapsed - self.elapsed % level_span + slot as u64 * slot_span;
        if slot < now_slot {
            // Only the last level wraps: the slot belongs to its next round.
            tick += level_span;
        }
        Some((number, slot, tick))
    }

    fn link(&mut self, key: usize) {
        let entry = &mut self.entries[key];
        let when = entry
            .when
            .max(self.elapsed + 1)
            .min(self.elapsed + MAX_SPAN - 1);
        let differing = (self.elapsed ^ when) | (SLOTS as u64 - 1);
        let level = (((63 - differing.leading_zeros()) as usize) / SLOT_BITS).min(LEVELS - 1);
        let slot = (when >> (level * SLOT_BITS)) as usize % SLOTS;
        let list = &mut self.levels[level].slots[slot];
        entry.when = when;
        entry.place = Some(Position {
            level: level as u8,
            slot: slot as u8,
            index: list.len() as u32,
        });
        list.push(key as u32);
        self.levels[level].occupied |= 1 << slot;
    }

    fn unlink(&mut self, key: usize) {
        let Some(place) = self.entries[key].place.take() else {
            return;
        };
        let level = &mut self.levels[place.level as usize];
        let list = &mut level.slots[place.slot as usize];
        list.swap_remove(place.index as usize);
        if let Some(&moved) = list.get(place.index as usize)
            && let Some(moved_place) = &mut self.entries[moved as usize].place
        {
            moved_place.index = place.index;
        }
        if list.is_empty() {
            level.occupied &= !(1 << place.slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn counter() -> (Arc<Count>, Waker) {
        let count = Arc::new(Count(AtomicUsize::new(0)));
        (count.clone(), Waker::from(count))
    }

    fn advance(wheel: &mut Wheel, now: u64) {
        let mut fired = Vec::new();
        wheel.advance(now, &mut fired);
        fired.into_iter().for_each(Waker::wake);
    }

    #[test]
    fn fires_at_its_tick_and_not_before() {
        for when in [
            1, 63, 64, 65, 4095, 4096, 4097, 262_143, 262_144, 20_000_000,
        ] {
            let mut wheel = Wheel::new();
            let (count, waker) = counter();
            wheel.insert(when, waker);
            advance(&mut wheel, when - 1);
            assert_eq!(count.0.load(Ordering::Relaxed), 0, "{when}");
            advance(&mut wheel, when);
            assert_eq!(count.0.load(Ordering::Relaxed), 1, "{when}");
        }
    }

    #[test]
    fn a_past_tick_fires_at_the_next_advance() {
        let mut wheel = Wheel::new();
        advance(&mut wheel, 1000);
        let (count, waker) = counter();
        wheel.insert(10, waker);
        advance(&mut wheel, 1001);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
    }

    /// A clock that runs by small steps, as the loop's does, with timers set all the time: none is
    /// forgotten.
    #[test]
    fn a_running_clock_fires_everything_in_time() {
        let mut wheel = Wheel::new();
        let mut timers: Vec<(u64, Arc<Count>)> = Vec::new();
        for step in 0..400_000u64 {
            let now = step * 7;
            advance(&mut wheel, now);
            if step % 1000 == 0 {
                for span in [50, 18_311, 61_036, 600_000] {
                    let (count, waker) = counter();
                    wheel.insert(now + span, waker);
                    timers.push((now + span, count));
                }
            }
            if step % 97 == 0 {
                for (when, count) in &timers {
                    assert_eq!(
                        count.0.load(Ordering::Relaxed),
                        usize::from(*when <= now),
                        "{when} at {now}"
                    );
                }
            }
        }
    }

    /// Random inserts, removals and steps against a sorted map.
    #[test]
    fn agrees_with_a_sorted_map() {
        let mut seed = 0x9e37_79b9_7f4a_7c15u64;
        let mut random = move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        let mut wheel = Wheel::new();
        let mut model: BTreeMap<usize, (u64, Arc<Count>)> = BTreeMap::new();
        let mut now = 0u64;
        for _ in 0..20_000 {
            match random() % 4 {
                0 | 1 => {
                    let when = now + 1 + random() % [50, 5_000, 500_000][(random() % 3) as usize];
                    let (count, waker) = counter();
                    model.insert(wheel.insert(when, waker), (when, count));
                }
                2 => {
                    let victim = model
                        .keys()
                        .nth(random() as usize % model.len().max(1))
                        .copied();
                    if let Some(key) = victim {
                        wheel.remove(key);
                        model.remove(&key);
                    }
                }
                _ => {
                    if let Some(next) = wheel.next_tick() {
                        let earliest = model
                            .values()
                            .filter(|(_, c)| c.0.load(Ordering::Relaxed) == 0);
                        assert!(
                            earliest
                                .map(|(w, _)| *w)
                                .min()
                                .is_none_or(|when| next <= when),
                            "sleeps too long"
                        );
                    }
                    now += random() % [2, 100, 10_000][(random() % 3) as usize];
                    advance(&mut wheel, now);
                    for (when, count) in model.values() {
                        assert_eq!(
                            count.0.load(Ordering::Relaxed),
                            usize::from(*when <= now),
                            "{when} at {now}"
                        );
                    }
                }
            }
            assert_eq!(wheel.len(), model.len());
        }
    }
}
