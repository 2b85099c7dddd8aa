//! Who asks, and what is granted: the state of a core, its peers, policy, gates and quota, the
//! record of an end, and the sweep that looks at open tunnels again. It moves no byte of a tunnel,
//! and knows nothing of how a request is asked.

mod admission;
mod bucket;
mod core;
mod gates;
mod lifetimes;
mod listing;
mod names;
mod outcome;
mod peer;
mod policy;
mod quota;
mod refusals;
mod sweep;
mod tunnels;
mod words;

pub use self::core::{Core, Limits, ServiceState, Snapshot};
pub use admission::AdmissionLimits;
pub use gates::{AppGates, Gate, Gates, ServiceGates};
pub use listing::{close_matching, list_matching};
pub use names::Names;
pub use quota::Quota;
pub use sweep::{Causes, replace_snapshot, sweep, watch_expiry};

pub(crate) use self::core::Live;
pub(crate) use admission::GuestGuard;
pub(crate) use gates::{Direction, Pass};
pub(crate) use lifetimes::{Activity, Due, Lifetimes};
pub(crate) use names::NamedService;
pub(crate) use outcome::{Outcome, audit, record};
pub(crate) use peer::{Arrival, Peer, Unidentified, identify, reason_of};
pub(crate) use policy::{authorize, route};
pub(crate) use quota::{Permit, Presence};
pub(crate) use refusals::Repeated;
pub(crate) use sweep::{reconsider, still_trusted};
