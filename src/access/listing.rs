//! Requests of the operator for all open tunnels of a core: a list of some, and the end of some.
//!
//! Both walk in chunks and rest between them, so that no question stops the bytes of tunnels,
//! however many there are.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::rc::Rc;
use std::time::Instant;

use super::core::{Core, Live};
use crate::limits::{SWEEP_CHUNK, SWEEP_PAUSE};
use crate::observe::{TunnelFilter, TunnelInfo};
use crate::reason::CloseReason;
use crate::ring;

/// Lists, in chunks, the tunnels that `filter` chooses: `reply` gets how many there are, and the
/// `limit` oldest of them, in no order.
pub fn list_matching(
    core: &Rc<Core>,
    filter: TunnelFilter,
    limit: usize,
    reply: impl FnOnce((usize, Vec<TunnelInfo>)) + 'static,
) {
    let core = core.clone();
    ring::spawn(async move {
        let mut chosen = Oldest::new(limit);
        for_each(&core, |live| {
            if live.is_chosen(&filter) {
                chosen.add(live);
            }
        })
        .await;
        let mut listed = Vec::with_capacity(chosen.kept.len());
        let mut kept = chosen.kept.into_iter();
        loop {
            let now = ring::now();
            let some = kept.by_ref().take(SWEEP_CHUNK);
            listed.extend(some.map(|Aged(live)| info(&core, &live, now)));
            if kept.len() == 0 {
                break;
            }
            ring::sleep(SWEEP_PAUSE).await;
        }
        reply((chosen.count, listed));
    });
}

/// Closes, in chunks, the tunnels that `filter` chooses; `reply` gets their number.
pub fn close_matching(core: &Rc<Core>, filter: TunnelFilter, reply: impl FnOnce(usize) + 'static) {
    let core = core.clone();
    ring::spawn(async move {
        let mut closed = 0;
        for_each(&core, |live| {
            if live.is_chosen(&filter) && live.close(CloseReason::CutByAdmin) {
                closed += 1;
            }
        })
        .await;
        reply(closed);
    });
}

/// Meets every open tunnel, in chunks.
async fn for_each(core: &Core, mut meet: impl FnMut(&Rc<Live>)) {
    let mut walk = core.tunnels.borrow().walk();
    loop {
        {
            let tunnels = core.tunnels.borrow();
            for _ in 0..tunnels.chunk() {
                match tunnels.next(&mut walk) {
                    Some(live) => meet(live),
                    None => return,
                }
            }
        }
        ring::sleep(SWEEP_PAUSE).await;
    }
}

fn info(core: &Core, live: &Live, now: Instant) -> TunnelInfo {
    TunnelInfo {
        id: live.id,
        core: core.index,
        peer: live.subject.peer,
        device: live.subject.device.as_deref().unwrap_or_default().into(),
        serial: live.subject.serial.as_deref().map(str::to_owned),
        app: live.subject.app.as_deref().map(str::to_owned),
        user: live.subject.user.as_deref().map(str::to_owned),
        service: live.service.to_string(),
        server: live.server.to_string(),
        age_ms: now.saturating_duration_since(live.opened).as_millis() as u64,
        bytes_up: live.up.get(),
        bytes_down: live.down.get(),
    }
}

/// The oldest tunnels of those that are added, as many as wanted, and how many were added.
struct Oldest {
    limit: usize,
    count: usize,
    /// The youngest on top.
    kept: BinaryHeap<Aged>,
}

impl Oldest {
    fn new(limit: usize) -> Self {
        Self {
            limit,
            count: 0,
            kept: BinaryHeap::new(),
        }
    }

    fn add(&mut self, live: &Rc<Live>) {
        self.count += 1;
        if self.kept.len() >= self.limit {
            match self.kept.peek() {
                Some(youngest) if Aged(live.clone()) < *youngest => self.kept.pop(),
                _ => return,
            };
        }
        self.kept.push(Aged(live.clone()));
    }
}

/// A tunnel in the order of opening.
struct Aged(Rc<Live>);

impl Aged {
    fn key(&self) -> (Instant, u64) {
        (self.0.opened, self.0.id)
    }
}

impl PartialEq for Aged {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Aged {}

impl PartialOrd for Aged {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Aged {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}
