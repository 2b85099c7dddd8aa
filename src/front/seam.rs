//! The seam between what is asked and how it is answered.
//!
//! Each front end (`http1`, `http2`, `plain`, `sni`) reads requests in its own way, and is a
//! [`Front`] to answer one. What lies between is here, once: [`serve`] opens what is asked for,
//! answers, and runs the tunnel.

use std::rc::Rc;
use std::time::{Duration, SystemTime};

use super::pvd;
use super::request::{Request, RequestKind};
use crate::access::{Core, Outcome, Peer, Snapshot, record};
use crate::reason::CloseReason;
use crate::ring::{self, Either};
use crate::tunnel::{AppEnd, ReadAhead, open, open_udp};

/// The way back to the client that has asked for something.
pub(super) trait Front: Sized {
    /// The app's end of a tunnel.
    type App: AppEnd;

    /// State that is kept until the tunnel has ended.
    type Guards: 'static;

    /// Ready when the client has left before it is answered, where that can be seen.
    fn gone(&mut self) -> impl Future<Output = ()> {
        std::future::pending()
    }

    /// Says that the tunnel is open. `None`: the client has left.
    fn accept(
        self,
        terms: TunnelTerms,
    ) -> impl Future<Output = Option<(Self::App, ReadAhead, Self::Guards)>>;

    /// Returns whether what waits for the client leaves room for another document.
    fn has_room(&self) -> bool {
        true
    }

    /// Says what the gateway is for.
    fn configure(self, document: String) -> impl Future<Output = ()>;

    /// Says why there is nothing, in the way that the reason's row says. The client may take its
    /// time to read of it.
    fn refuse(self, reason: CloseReason) -> impl Future<Output = ()>;
}

/// Details in the answer that opens a tunnel.
pub(super) struct TunnelTerms {
    /// The active idle timeout, where the client has proposed one.
    pub idle: Option<Duration>,
    /// The tunnel carries datagrams.
    pub datagrams: bool,
}

/// Serves one request of `peer`: to an open tunnel, an answer or a refusal. Nothing is recorded
/// where the node ends before anything is decided.
pub(super) async fn serve<F: Front>(
    core: &Rc<Core>,
    snapshot: &Snapshot,
    peer: &Peer,
    Request { asked, idle }: Request,
    mut front: F,
) {
    let mut outcome = Outcome::of(peer.subject.clone());
    let (target, datagrams) = match asked {
        RequestKind::Tunnel(target) => (target, false),
        RequestKind::Datagrams(target) => (target, true),
        RequestKind::Configuration => {
            return configure(core, snapshot, peer, &outcome, front).await;
        }
    };
    // In a box: whoever waits for a request keeps no room for the opening.
    let opening = Box::pin(async {
        match datagrams {
            false => open(core, snapshot, peer, target, &mut outcome).await,
            true => open_udp(core, snapshot, peer, target, &mut outcome).await,
        }
    });
    let stopped = ring::race(front.gone(), core.cut.wait());
    let opened = match ring::race(opening, stopped).await {
        Either::Left(opened) => opened,
        Either::Right(Either::Left(())) => Err(CloseReason::RequestAborted),
        Either::Right(Either::Right(())) => return,
    };
    let mut opened = match opened {
        Ok(opened) => opened,
        Err(reason) => return refuse(core, &outcome, front, reason).await,
    };
    let agreed = TunnelTerms {
        idle: opened.propose_idle(idle, &snapshot.limits),
        datagrams,
    };
    match front.accept(agreed).await {
        Some((app, read_ahead, kept)) => opened.run(core.clone(), peer, (app, read_ahead), kept),
        None => record(core, &outcome, CloseReason::RequestAborted),
    }
}

/// Records why nothing comes of what was asked, and says so.
pub(super) async fn refuse<F: Front>(
    core: &Core,
    outcome: &Outcome,
    front: F,
    reason: CloseReason,
) {
    record(core, outcome, reason);
    front.refuse(reason).await;
}

/// Says what the gateway is for, to a client that may open tunnels.
async fn configure<F: Front>(
    core: &Core,
    snapshot: &Snapshot,
    peer: &Peer,
    outcome: &Outcome,
    front: F,
) {
    let device = peer.identity.device();
    let state = core.devices.read(|devices| devices.state(device));
    // A client that asks again and again and reads nothing has them all in memory.
    let document = match front.has_room() {
        true => pvd::document(snapshot, &peer.identity, state, SystemTime::now()),
        false => Err(CloseReason::DeviceLimit),
    };
    match document {
        Ok(document) => {
            core.count(CloseReason::ConfigurationRead);
            front.configure(document).await;
        }
        Err(reason) => refuse(core, outcome, front, reason).await,
    }
}
