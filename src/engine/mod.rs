//! The cores: one pinned thread each, with its own ring, listener and TLS configuration; reload and
//! drain across them.
//!
//! [`Node`] is the handle to all of them that other threads hold. It never waits for a core.

mod certificates;
mod drained;
mod group;
mod handover;
mod inherited;
mod listeners;
mod loaded;
mod node;
mod peak;
mod profile;
mod registry;
mod reload;
mod revocation;
mod sizes;
mod succession;
mod sweeper;
mod worker;

pub use inherited::{ADMIN, ADMIN_HELD, Inherited, NamedSocket, STATE, UnixSocket};
pub use loaded::{Doubts, LoadError, Loaded};
pub use node::{DrainError, EngineError, Node};
pub use profile::InForce;
pub use registry::{ChangeError, ChangeReply, Registry, StoreError};
pub use reload::{ReloadError, ReloadErrors};
pub use revocation::{CRLS_FOLDER, forget_kept_crl};
pub use sizes::Sizes;
pub use succession::{Followed, Predecessor, PredecessorInfo, Successor, follow, pass, receive};
