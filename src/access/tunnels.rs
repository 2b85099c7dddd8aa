//! The open tunnels of one core: what is done to all of them costs what is open now, not what once
//! was, and what is done as certificates expire costs what expires.
//!
//! The list has no gaps: the last tunnel takes the place of one that goes. A walk begins at the
//! end, so that it meets every tunnel that was there when it began and still is, however many come
//! and go between its steps; one that takes the place of another may be met twice.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::core::Live;
use crate::limits::{LIST_KEPT_MIN, SWEEP_CHUNK, SWEEP_CHUNKS};

/// The list, and the order in which certificates expire.
#[derive(Default)]
pub(crate) struct Tunnels {
    list: Vec<Rc<Live>>,
    /// By the second in which the tunnel is to be looked at, and its number.
    expiring: BTreeMap<(u64, u64), Rc<Live>>,
}

/// How far a walk has come: the tunnels below this place are to be met yet.
#[derive(Debug)]
pub(crate) struct Walk(usize);

impl Tunnels {
    /// Lists a tunnel.
    pub fn insert(&mut self, live: Rc<Live>) {
        live.place.set(self.list.len());
        self.expiring
            .insert((live.good_until.get(), live.id), live.clone());
        self.list.push(live);
    }

    /// Takes a tunnel out that was listed once. The memory of a peak is given back.
    pub fn remove(&mut self, live: &Live) {
        let place = live.place.get();
        self.list.swap_remove(place);
        if let Some(moved) = self.list.get(place) {
            moved.place.set(place);
        }
        self.expiring.remove(&(live.good_until.get(), live.id));
        if self.list.capacity() > LIST_KEPT_MIN && self.list.len() < self.list.capacity() / 4 {
            self.list.shrink_to(self.list.len() * 2);
        }
    }

    /// A walk through all of them.
    pub fn walk(&self) -> Walk {
        Walk(self.list.len())
    }

    /// The next tunnel of a walk; `None` at its end.
    pub fn next(&self, walk: &mut Walk) -> Option<&Rc<Live>> {
        walk.0 = walk.0.min(self.list.len()).checked_sub(1)?;
        self.list.get(walk.0)
    }

    /// How many are met between two rests of a walk: so many that its rests do not add up beyond
    /// what it may take.
    pub fn chunk(&self) -> usize {
        SWEEP_CHUNK.max(self.list.len().div_ceil(SWEEP_CHUNKS))
    }

    /// The next tunnel whose time is over at `now`, in seconds since 1970; out of the order until
    /// it is [`put off`](Self::put_off) or taken out.
    pub fn next_expired(&mut self, now: u64) -> Option<Rc<Live>> {
        let first = self.expiring.first_entry()?;
        (first.key().0 < now).then(|| first.remove())
    }

    /// The tunnel is good until then.
    pub fn put_off(&mut self, live: &Rc<Live>, good_until: u64) {
        live.good_until.set(good_until);
        self.expiring.insert((good_until, live.id), live.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;
    use crate::config::{Host, HostPort};
    use crate::observe::Subject;

    /// Synthetic tunnels, good until the second that `good_until` says of their number.
    fn filled(count: u64, good_until: impl Fn(u64) -> u64) -> Tunnels {
        let subject = Arc::new(Subject {
            device: Some("device".into()),
            ..Subject::of("192.0.2.1:1".parse().unwrap())
        });
        let (service, server): (Arc<str>, Arc<str>) = ("wiki".into(), "10.0.0.1:443".into());
        let chain: Rc<[Rc<[u8]>]> = Rc::from([]);
        let mut tunnels = Tunnels::default();
        for id in 0..count {
            tunnels.insert(Rc::new(Live {
                id,
                subject: subject.clone(),
                service: service.clone(),
                rule: 1,
                server: server.clone(),
                target: HostPort {
                    host: Host::Name("wiki.test".into()),
                    port: 443,
                },
                udp: false,
                chain: chain.clone(),
                good_until: good_until(id).into(),
                place: 0.into(),
                opened: Instant::now(),
                up: 0.into(),
                down: 0.into(),
                closing: None.into(),
                waiting: None.into(),
            }));
        }
        tunnels
    }

    /// The numbers of the tunnels that a walk meets, and its chunks. `between`: what happens
    /// between two chunks.
    fn walked(tunnels: &mut Tunnels, mut between: impl FnMut(&mut Tunnels)) -> (Vec<u64>, usize) {
        let (mut walk, mut met, mut chunks) = (tunnels.walk(), Vec::new(), 0);
        loop {
            chunks += 1;
            for _ in 0..tunnels.chunk() {
                match tunnels.next(&mut walk) {
                    Some(live) => met.push(live.id),
                    None => return (met, chunks),
                }
            }
            between(tunnels);
        }
    }

    #[test]
    fn a_walk_through_200_000_tunnels_rests_seldom_enough_to_end_within_a_second() {
        let mut tunnels = filled(200_000, |_| u64::MAX);
        let (met, chunks) = walked(&mut tunnels, |_| {});
        assert_eq!(met.len(), 200_000);
        assert!(chunks <= SWEEP_CHUNKS + 1, "{chunks}");
    }

    #[test]
    fn a_walk_costs_what_is_open_and_not_what_was() {
        let mut tunnels = filled(200_000, |_| u64::MAX);
        while tunnels.list.len() > 10 {
            let last = tunnels.list[tunnels.list.len() / 2].clone();
            tunnels.remove(&last);
        }
        let (met, chunks) = walked(&mut tunnels, |_| {});
        assert_eq!((met.len(), chunks), (10, 1));
        assert_eq!(tunnels.expiring.len(), 10);
        assert!(tunnels.list.capacity() <= LIST_KEPT_MIN);
    }

    #[test]
    fn a_walk_meets_every_tunnel_that_stays_whatever_comes_and_goes() {
        let mut tunnels = filled(20_000, |_| u64::MAX);
        let mut gone = HashSet::new();
        let (mut next, mut random) = (1_000_000, 1_u64);
        let (met, _) = walked(&mut tunnels, |tunnels| {
            for _ in 0..100 {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let one = tunnels.list[random as usize % tunnels.list.len()].clone();
                tunnels.remove(&one);
                gone.insert(one.id);
                if random & 1 == 0 {
                    let mut new = Rc::into_inner(one).unwrap();
                    new.id = next;
                    next += 1;
                    tunnels.insert(Rc::new(new));
                }
            }
        });
        let met: HashSet<u64> = met.into_iter().collect();
        assert!(!gone.is_empty());
        for id in (0..20_000).filter(|id| !gone.contains(id)) {
            assert!(met.contains(&id), "{id}");
        }
        for (place, live) in tunnels.list.iter().enumerate() {
            assert_eq!(live.place.get(), place);
        }
    }

    #[test]
    fn only_what_expires_is_looked_at_among_200_000() {
        let mut tunnels = filled(200_000, |id| 1000 + id);
        assert!(tunnels.next_expired(1000).is_none(), "good in that second");
        let mut looked = 0;
        while let Some(live) = tunnels.next_expired(1003) {
            looked += 1;
            match live.id {
                // Good for longer, as it turns out.
                0 => tunnels.put_off(&live, 5000),
                _ => tunnels.remove(&live),
            }
        }
        assert_eq!((looked, tunnels.list.len()), (3, 199_998));
        assert!(tunnels.next_expired(1003).is_none());
        let again: Vec<u64> = std::iter::from_fn(|| tunnels.next_expired(5001))
            .map(|live| live.id)
            .collect();
        assert_eq!(again.len(), 3999, "each once");
        assert!(again.contains(&0));
    }
}
