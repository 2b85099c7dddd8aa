//! Looks again at open tunnels when something has changed that they were granted on, and closes
//! those that would be refused now.
//!
//! A sweep walks through a core's list in chunks and rests between them, so that it takes a small
//! share of the core. It asks only what the change can have altered, and the complete check of a
//! certificate (webpki's path and all) only where a look at serial numbers or dates gives a reason
//! to. What it decides is what a new session would be told, but for one thing: that a status is not
//! *known* any more (a CRL ran out) refuses new sessions and closes no tunnel.
//!
//! Certificates that expire need no sweep: the list knows which is next. What counts is the path
//! that was verified, so that nobody causes work by presenting others.
//!
//! No tunnel slips through: a change is counted before its sweep starts, and a tunnel whose session
//! began before a change and that is listed after it is looked at when it is listed.

use std::rc::Rc;
use std::time::SystemTime;

use rustls::pki_types::CertificateDer;

use super::core::{Core, Live, Snapshot};
use super::peer::Peer;
use super::policy::{route, still_granted};
use super::tunnels::Walk;
use crate::limits::{
    EXPIRY_CHECK, EXPIRY_LOOK_AGAIN_SECONDS, SWEEP_CHUNK, SWEEP_COMPLETE_CHECK, SWEEP_PAUSE,
};
use crate::observe::Subject;
use crate::reason::CloseReason;
use crate::ring;
use crate::table::DeviceRegistry;
use crate::tls::{HandshakeFailure, PeerIdentity, failure_of, good_until};

/// Causes of a sweep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Causes(u8);

impl Causes {
    /// The device registry.
    pub const DEVICES: Self = Self(1);
    /// The revocation index.
    pub const REVOCATION: Self = Self(2);
    /// Rules, services, or what unmanaged devices may do.
    pub const POLICY: Self = Self(4);
    /// Group certificates, or where names are read in a certificate.
    pub const TRUST: Self = Self(8);

    /// These and others.
    #[must_use]
    pub const fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    const fn has(self, cause: Self) -> bool {
        self.0 & cause.0 != 0
    }
}

/// When each cause last came, by the core's count of changes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Changes {
    count: u64,
    last: [u64; 4],
}

impl Changes {
    fn add(&mut self, causes: Causes) {
        self.count += 1;
        for (bit, last) in self.last.iter_mut().enumerate() {
            if causes.has(Causes(1 << bit)) {
                *last = self.count;
            }
        }
    }

    /// How many there were.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The causes that have come since there were `count`.
    pub fn since(&self, count: u64) -> Causes {
        let bits = self.last.iter().enumerate();
        bits.filter(|(_, last)| **last > count)
            .fold(Causes::default(), |causes, (bit, _)| {
                causes.and(Causes(1 << bit))
            })
    }
}

/// Sweeps the core's open tunnels for `causes`. While a sweep runs, what else comes is added to the
/// next one.
pub fn sweep(core: &Rc<Core>, causes: Causes) {
    let mut changes = core.changes.get();
    changes.add(causes);
    core.changes.set(changes);
    let waiting = core.sweep_for.get();
    core.sweep_for.set(waiting.and(causes));
    if !core.sweeping.replace(true) {
        ring::spawn(run(core.clone()));
    }
}

/// Activates a new configuration for new sessions, and sweeps for what it changes.
pub fn replace_snapshot(core: &Rc<Core>, snapshot: Snapshot) {
    let old = core.snapshot.replace(Rc::new(snapshot));
    let new = core.snapshot.borrow().clone();
    let trusted = new.verifier.has_trust_of(&old.verifier) && new.identity == old.identity;
    let causes = if trusted {
        Causes::POLICY
    } else {
        Causes::POLICY.and(Causes::TRUST)
    };
    sweep(core, causes);
}

/// Closes tunnels as their certificates expire, for as long as the core runs.
pub async fn watch_expiry(core: Rc<Core>) {
    loop {
        ring::sleep(EXPIRY_CHECK).await;
        while expire(&core) {
            ring::sleep(SWEEP_PAUSE).await;
        }
    }
}

/// Looks at some tunnels whose time is over. Whether there may be more.
fn expire(core: &Core) -> bool {
    let now = SystemTime::now();
    let snapshot = core.snapshot.borrow().clone();
    let mut spent = 0;
    while spent < SWEEP_CHUNK {
        let Some(live) = core.tunnels.borrow_mut().next_expired(unix(now)) else {
            return false;
        };
        core.metrics.borrow_mut().expiry_checks += 1;
        let ended = |own: &Rc<[u8]>| good_until(own) < unix(now);
        if live.chain.first().is_some_and(ended) {
            // It needs no other path.
            spent += 1;
            live.close(CloseReason::CutCertificateExpired);
            continue;
        }
        spent += SWEEP_COMPLETE_CHECK;
        let reason = core.devices.read(|devices| {
            let look = Look {
                snapshot: &snapshot,
                devices,
                causes: Causes::default(),
                now,
            };
            look.certificate(&live.chain, &live.subject, false)
        });
        match reason {
            Some(reason) => {
                live.close(reason);
            }
            None => {
                // There is another path, which may expire later.
                let until = snapshot
                    .verifier
                    .path_good_until(&certificates(&live.chain), now);
                let until = until
                    .unwrap_or(0)
                    .max(unix(now) + EXPIRY_LOOK_AGAIN_SECONDS);
                core.tunnels.borrow_mut().put_off(&live, until);
            }
        }
    }
    true
}

/// That a sweep runs; also when it ends by a panic.
struct Sweeping(Rc<Core>);

impl Drop for Sweeping {
    fn drop(&mut self) {
        self.0.sweeping.set(false);
    }
}

async fn run(core: Rc<Core>) {
    let _sweeping = Sweeping(core.clone());
    loop {
        let causes = core.sweep_for.take();
        if causes == Causes::default() {
            break;
        }
        let mut walk = core.tunnels.borrow().walk();
        while chunk(&core, causes, &mut walk) {
            ring::sleep(SWEEP_PAUSE).await;
        }
        core.metrics.borrow_mut().sweeps += 1;
    }
}

/// Looks at some tunnels of a walk. Whether there may be more.
fn chunk(core: &Core, causes: Causes, walk: &mut Walk) -> bool {
    let snapshot = core.snapshot.borrow().clone();
    let mut doomed = Vec::new();
    let more = core.devices.read(|devices| {
        let tunnels = core.tunnels.borrow();
        let look = Look {
            snapshot: &snapshot,
            devices,
            causes,
            now: SystemTime::now(),
        };
        let mut spent = 0;
        while spent < tunnels.chunk() {
            let Some(live) = tunnels.next(walk) else {
                return false;
            };
            let (reason, cost) = look.at(live);
            spent += 1 + cost;
            doomed.extend(reason.map(|reason| (live.clone(), reason)));
        }
        true
    });
    for (live, reason) in doomed {
        live.close(reason);
    }
    more
}

/// Looks at a tunnel that has just been listed for what has changed since its session began, when
/// there were `count` changes.
pub(crate) fn reconsider(core: &Core, live: &Live, count: u64) {
    let causes = core.changes.get().since(count);
    if causes == Causes::default() {
        return;
    }
    let snapshot = core.snapshot.borrow().clone();
    let reason = core.devices.read(|devices| {
        let look = Look {
            snapshot: &snapshot,
            devices,
            causes,
            now: SystemTime::now(),
        };
        look.at(live).0
    });
    if let Some(reason) = reason {
        live.close(reason);
    }
}

/// Looks at the certificates of a session that asks for another tunnel: what has changed since they
/// were checked, or their time, may have made them worthless.
///
/// # Errors
/// Why they are.
pub(crate) fn still_trusted(core: &Core, peer: &Peer) -> Result<(), CloseReason> {
    let causes = core.changes.get().since(peer.changes);
    let changed = causes.has(Causes::REVOCATION.and(Causes::TRUST));
    if !changed && unix_now() <= peer.good_until {
        return Ok(());
    }
    let snapshot = core.snapshot.borrow().clone();
    let now = SystemTime::now();
    let certificates = peer.chain.iter().map(|certificate| &**certificate);
    let revoked = snapshot.verifier.is_any_revoked(certificates);
    let reason = core.devices.read(|devices| {
        let look = Look {
            snapshot: &snapshot,
            devices,
            causes,
            now,
        };
        look.certificate(&peer.chain, &peer.subject, revoked)
    });
    reason.map_or(Ok(()), Err)
}

/// State with which a tunnel is compared.
struct Look<'a> {
    snapshot: &'a Snapshot,
    devices: &'a DeviceRegistry,
    causes: Causes,
    now: SystemTime,
}

impl Look<'_> {
    /// Why the tunnel may not stay, and what it took to find out beyond the least.
    fn at(&self, live: &Live) -> (Option<CloseReason>, usize) {
        let verifier = &self.snapshot.verifier;
        if verifier.is_of_nobody() {
            return (Some(CloseReason::CutUnconfigured), 0);
        }
        let revoked = self.causes.has(Causes::REVOCATION)
            && verifier.is_any_revoked(live.chain.iter().map(|certificate| &**certificate));
        let mut cost = 0;
        if revoked || self.causes.has(Causes::TRUST) {
            cost = SWEEP_COMPLETE_CHECK;
            if let Some(reason) = self.certificate(&live.chain, &live.subject, revoked) {
                return (Some(reason), cost);
            }
        }
        let asks_policy = self.causes.has(Causes::DEVICES.and(Causes::POLICY));
        let reason = asks_policy.then(|| self.policy(live)).flatten();
        (reason, cost)
    }

    fn certificate(
        &self,
        chain: &[Rc<[u8]>],
        subject: &Subject,
        revoked: bool,
    ) -> Option<CloseReason> {
        let chain = certificates(chain);
        let chain = match self.snapshot.verifier.recheck(&chain, self.now) {
            Ok(chain) => chain,
            Err(rejection) => {
                return match failure_of(&rejection.error) {
                    HandshakeFailure::Revoked => Some(CloseReason::CutCertificateRevoked),
                    HandshakeFailure::Expired => Some(CloseReason::CutCertificateExpired),
                    // What is known of one certificate counts, even where nothing is known of another.
                    HandshakeFailure::RevocationUnknown => {
                        revoked.then_some(CloseReason::CutCertificateRevoked)
                    }
                    _ => Some(CloseReason::CutCertificateUntrusted),
                };
            }
        };
        if self.causes.has(Causes::TRUST) {
            let identity = PeerIdentity::from_chain(&chain, &self.snapshot.identity).ok();
            let same = identity.is_some_and(|identity| {
                Some(identity.device()) == subject.device.as_deref()
                    && identity.app() == subject.app.as_deref()
            });
            return (!same).then_some(CloseReason::CutIdentityChanged);
        }
        None
    }

    fn policy(&self, live: &Live) -> Option<CloseReason> {
        let device = live.subject.device.as_deref().unwrap_or_default();
        let state = self.devices.state(device);
        let grant = match still_granted(&live.subject, state, self.snapshot.unmanaged_allowed) {
            Ok(grant) => grant,
            Err(CloseReason::DeviceBlocked) => return Some(CloseReason::CutDeviceBlocked),
            Err(_) => return Some(CloseReason::CutDeviceUnmanaged),
        };
        if !self.causes.has(Causes::POLICY) {
            return None;
        }
        match route(
            &grant,
            &self.snapshot.rules,
            &live.target,
            CloseReason::NoRule,
        ) {
            Ok(route) => {
                let service = &self.snapshot.services[route.service];
                if service.name != live.service {
                    Some(CloseReason::CutRerouted)
                } else if live.udp && !service.udp {
                    Some(CloseReason::CutNoRule)
                } else {
                    None
                }
            }
            Err(_) => Some(CloseReason::CutNoRule),
        }
    }
}

fn certificates(chain: &[Rc<[u8]>]) -> Vec<CertificateDer<'_>> {
    let chain = chain.iter();
    chain
        .map(|certificate| CertificateDer::from(&**certificate))
        .collect()
}

fn unix_now() -> u64 {
    unix(SystemTime::now())
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_changed_since_is_known_for_each_cause() {
        let mut changes = Changes::default();
        changes.add(Causes::DEVICES);
        let session = changes.count();
        assert_eq!(changes.since(session), Causes::default());
        changes.add(Causes::POLICY.and(Causes::TRUST));
        changes.add(Causes::POLICY);
        let expected = Causes::POLICY.and(Causes::TRUST);
        assert_eq!(changes.since(session), expected);
        assert_eq!(changes.since(session + 1), Causes::POLICY);
        assert_eq!(changes.since(0), expected.and(Causes::DEVICES));
    }
}
