//! Limits on the tunnels of one service, or of one app, together: how many are open, how many are
//! new in a second, and how many bytes flow. Counted exactly over all cores, without a lock.
//!
//! A gate outlives a reload, so that what was open before still counts after it, and its new
//! numbers are active at once, also for open tunnels. A tunnel of a service and an app without
//! limits has no gate and pays nothing.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::bucket::Bucket;
use crate::config::{Profile, TrafficLimits};
use crate::reason::CloseReason;
use crate::ring;

/// The way of bytes through a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// The limits of one service or app.
#[derive(Debug)]
pub struct Gate {
    /// From where the buckets count the time.
    epoch: Instant,
    open: AtomicUsize,
    most: AtomicUsize,
    opening: Bucket,
    up: Bucket,
    down: Bucket,
}

/// Which limit said no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Full {
    Tunnels,
    Rate,
}

impl Gate {
    fn new(epoch: Instant, limits: &TrafficLimits) -> Self {
        let gate = Self {
            epoch,
            open: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            opening: Bucket::default(),
            up: Bucket::default(),
            down: Bucket::default(),
        };
        gate.configure(limits);
        gate
    }

    fn configure(&self, limits: &TrafficLimits) {
        let most = limits.tunnels.unwrap_or(usize::MAX);
        self.most.store(most, Ordering::Relaxed);
        self.opening.configure(limits.new_tunnels);
        self.up.configure(limits.bytes);
        self.down.configure(limits.bytes);
    }

    fn enter(&self, now: Instant) -> Result<(), Full> {
        let most = self.most.load(Ordering::Relaxed);
        self.open
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| {
                (open < most).then_some(open + 1)
            })
            .map_err(|_| Full::Tunnels)?;
        if self.opening.try_take(1, self.time(now)) {
            return Ok(());
        }
        self.leave();
        Err(Full::Rate)
    }

    fn leave(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    fn moved(&self, direction: Direction, bytes: usize, now: Instant) -> Duration {
        let bucket = match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        };
        bucket.take(bytes as u64, self.time(now))
    }

    fn time(&self, now: Instant) -> u64 {
        // 584 years.
        now.saturating_duration_since(self.epoch).as_nanos() as u64
    }
}

/// The right of one tunnel to be open, by its service and its app; given back on drop.
#[derive(Debug, Default)]
pub(crate) struct Pass {
    service: Option<Arc<Gate>>,
    app: Option<Arc<Gate>>,
}

impl Pass {
    /// Takes a tunnel from both gates. The app's comes first: an app beyond its rate takes nothing
    /// from its service.
    pub fn enter(
        service: Option<&Arc<Gate>>,
        app: Option<&Arc<Gate>>,
        now: Instant,
    ) -> Result<Self, CloseReason> {
        let mut pass = Self::default();
        if let Some(gate) = app {
            gate.enter(now).map_err(|full| match full {
                Full::Tunnels => CloseReason::AppLimit,
                Full::Rate => CloseReason::AppRate,
            })?;
            pass.app = Some(gate.clone());
        }
        if let Some(gate) = service {
            gate.enter(now).map_err(|full| match full {
                Full::Tunnels => CloseReason::ServiceLimit,
                Full::Rate => CloseReason::ServiceRate,
            })?;
            pass.service = Some(gate.clone());
        }
        Ok(pass)
    }

    /// Takes bytes that have moved from both gates. How long to wait before more may move, if at
    /// all. A tunnel without gates pays for two comparisons.
    #[inline]
    pub fn moved(&self, direction: Direction, bytes: usize) -> Option<Duration> {
        if self.service.is_none() && self.app.is_none() {
            return None;
        }
        self.moved_at(direction, bytes, ring::now())
    }

    #[cold]
    fn moved_at(&self, direction: Direction, bytes: usize, now: Instant) -> Option<Duration> {
        [&self.app, &self.service]
            .into_iter()
            .flatten()
            .map(|gate| gate.moved(direction, bytes, now))
            .max()
            .filter(|wait| !wait.is_zero())
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        for gate in [&self.app, &self.service].into_iter().flatten() {
            gate.leave();
        }
    }
}

/// Gates of services, by index.
pub type ServiceGates = Vec<Option<Arc<Gate>>>;

/// Gates of apps, by name.
pub type AppGates = HashMap<String, Arc<Gate>>;

/// The gates of the node.
#[derive(Debug)]
pub struct Gates {
    epoch: Instant,
    services: Mutex<HashMap<String, Arc<Gate>>>,
    apps: Mutex<HashMap<String, Arc<Gate>>>,
}

impl Default for Gates {
    fn default() -> Self {
        Self {
            epoch: Instant::now(),
            services: Mutex::default(),
            apps: Mutex::default(),
        }
    }
}

impl Gates {
    /// The gates of a profile's services, by index, and of its apps. Those that are there already
    /// keep their numbers until [`configure`](Self::configure).
    #[must_use]
    pub fn of(&self, profile: &Profile) -> (ServiceGates, AppGates) {
        let find = |gates: &Mutex<HashMap<String, Arc<Gate>>>, name: &str, limits| {
            let mut gates = gates.lock().unwrap_or_else(PoisonError::into_inner);
            gates
                .entry(name.to_owned())
                .or_insert_with(|| Arc::new(Gate::new(self.epoch, limits)))
                .clone()
        };
        let services = profile.services.iter().map(|service| {
            (service.limits != TrafficLimits::default())
                .then(|| find(&self.services, &service.name, &service.limits))
        });
        let apps = profile.app_limits.iter().map(|app| {
            let gate = find(&self.apps, &app.app, &app.limits);
            (app.app.clone(), gate)
        });
        (services.collect(), apps.collect())
    }

    /// Activates a profile's numbers. What the profile does not limit any more has no limit.
    pub fn configure(&self, profile: &Profile) {
        let set = |gates: &Mutex<HashMap<String, Arc<Gate>>>,
                   limits: HashMap<&str, &TrafficLimits>| {
            let mut gates = gates.lock().unwrap_or_else(PoisonError::into_inner);
            for (name, gate) in gates.iter() {
                let none = TrafficLimits::default();
                gate.configure(limits.get(name.as_str()).unwrap_or(&&none));
            }
            gates.retain(|name, gate| {
                limits.contains_key(name.as_str()) || Arc::strong_count(gate) > 1
            });
        };
        let services = profile.services.iter();
        set(
            &self.services,
            services.map(|s| (s.name.as_str(), &s.limits)).collect(),
        );
        let apps = profile.app_limits.iter();
        set(
            &self.apps,
            apps.map(|a| (a.app.as_str(), &a.limits)).collect(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Rate;

    /// A gate that is older than the times that the tests count from.
    fn gate(tunnels: Option<usize>, new: Option<Rate>, bytes: Option<Rate>) -> Arc<Gate> {
        let limits = TrafficLimits {
            tunnels,
            new_tunnels: new,
            bytes,
        };
        let epoch = Instant::now() - Duration::from_secs(1);
        Arc::new(Gate::new(epoch, &limits))
    }

    const ONE: Option<Rate> = Some(Rate {
        per_second: 1,
        burst: 1,
    });

    #[test]
    fn each_limit_has_its_reason_and_a_pass_is_given_back() {
        let now = Instant::now();
        let (wide, narrow) = (gate(None, None, None), gate(Some(1), None, None));
        let first = Pass::enter(Some(&narrow), Some(&wide), now).unwrap();
        let reason = |service, app| Pass::enter(service, app, now).unwrap_err();
        assert_eq!(
            reason(Some(&narrow), Some(&wide)),
            CloseReason::ServiceLimit
        );
        assert_eq!(reason(Some(&wide), Some(&narrow)), CloseReason::AppLimit);
        assert_eq!(
            wide.open.load(Ordering::Relaxed),
            1,
            "refused ones count nowhere"
        );
        drop(first);
        assert_eq!(wide.open.load(Ordering::Relaxed), 0);
        Pass::enter(Some(&narrow), None, now).unwrap();

        let (slow, slow_app) = (gate(None, ONE, None), gate(None, ONE, None));
        Pass::enter(Some(&slow), Some(&slow_app), now).unwrap();
        assert_eq!(reason(Some(&slow), None), CloseReason::ServiceRate);
        assert_eq!(reason(None, Some(&slow_app)), CloseReason::AppRate);
        assert_eq!(slow.open.load(Ordering::Relaxed), 0);
        Pass::enter(Some(&slow), None, now + Duration::from_secs(1)).unwrap();
    }

    #[test]
    fn an_app_beyond_its_rate_takes_nothing_from_its_service() {
        let now = Instant::now();
        let (service, app) = (gate(None, ONE, None), gate(None, ONE, None));
        Pass::enter(None, Some(&app), now).unwrap();
        for _ in 0..10 {
            let refused = Pass::enter(Some(&service), Some(&app), now);
            assert_eq!(refused.unwrap_err(), CloseReason::AppRate);
        }
        Pass::enter(Some(&service), None, now).unwrap();
    }

    #[test]
    fn directions_wait_for_themselves_and_for_the_slower_gate() {
        let now = Instant::now();
        let rate = |per_second| {
            Some(Rate {
                per_second,
                burst: 1,
            })
        };
        let (service, app) = (gate(None, None, rate(1000)), gate(None, None, rate(100)));
        let pass = Pass::enter(Some(&service), Some(&app), now).unwrap();
        let wait = pass.moved_at(Direction::Up, 101, now);
        assert_eq!(wait, Some(Duration::from_secs(1)));
        assert_eq!(pass.moved_at(Direction::Down, 1, now), None);
        assert_eq!(Pass::default().moved(Direction::Up, 1 << 30), None);
    }
}
