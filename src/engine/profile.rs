//! A node and its profile: which one is active, and what becomes of the sockets of a node that has
//! none.
//!
//! A node without a profile listens nowhere. The sockets that it was started with (by systemd, or
//! by the process before) it keeps, unused, until a profile listens on them: connections wait in
//! their queues meanwhile. One that loses its profile keeps those of its sockets that it was
//! started with, because it could not open their addresses again.

use std::sync::{MutexGuard, PoisonError};

use super::inherited::Inherited;
use super::listeners::OpenListeners;
use super::node::{EngineError, Node};
use super::reload::ReloadError;
use crate::config::{Config, Origin, Profile, Stale};

/// The active profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InForce {
    /// Its name; empty where there is none.
    pub name: String,
    /// Its origin.
    pub origin: Origin,
}

impl From<&Profile> for InForce {
    fn from(profile: &Profile) -> Self {
        Self {
            name: profile.name.clone(),
            origin: profile.origin,
        }
    }
}

impl Inherited {
    /// Returns whether none is left over: a profile listens on each, or there is no profile yet.
    pub(super) fn fit(&self, profile: &Profile) -> Result<(), EngineError> {
        match self.left() {
            Some(address) if !profile.is_none() => Err(EngineError::NotListened(address)),
            _ => Ok(()),
        }
    }
}

impl Node {
    /// The active profile.
    #[must_use]
    pub fn profile(&self) -> InForce {
        InForce::from(&self.lock_config().profile)
    }

    /// The active policy for an expired or missing CRL.
    #[must_use]
    pub fn stale_policy(&self) -> Stale {
        self.lock_config().profile.device_auth.stale
    }

    /// Opens what `config` listens on and the node does not, and gives back the sockets that are
    /// spare then. Nothing is accepted yet.
    pub(super) fn open_listeners(
        &self,
        config: &Config,
    ) -> Result<(OpenListeners, Inherited), ReloadError> {
        let failed = |error| ReloadError::from(EngineError::Thread(error));
        let listeners = self.listeners();
        let mut spare = self.lock_spare().try_clone().map_err(failed)?;
        let addresses = config.profile.listener.addresses();
        let opened = listeners.open(addresses, self.core_count(), &mut spare)?;
        spare.fit(&config.profile)?;
        if config.profile.is_none() {
            spare.tcp.extend(listeners.inherited().map_err(failed)?);
        }
        Ok((opened, spare))
    }

    pub(super) fn lock_spare(&self) -> MutexGuard<'_, Inherited> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
