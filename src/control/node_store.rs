//! The certificate store as the admin listener uses it. Everything here reads and writes files: not
//! for a thread that answers probes. Who changes the store has the turn in which the node takes
//! changes.

use std::path::PathBuf;

use super::reload::{Refusal, ReloadGuard, ReloadTrigger};
use crate::certs::profile::Gateway;
use crate::certs::{
    Candidate, CertError, Export, ExportFormat, Reference, Store, StoredCertificate,
};
use crate::config::{Config, ProfileUse, profiles_in_store, users_of};
use crate::profiles::StoreError;

/// Why the store does not do what it is asked for.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// A certificate, or the store.
    #[error(transparent)]
    Certificate(#[from] CertError),
    /// The profiles, of which one may use it.
    #[error(transparent)]
    Profiles(#[from] StoreError),
    /// It is not deleted.
    #[error("the profile {0} names it; take it out of the profile first")]
    InUse(String),
    /// The node does not run with it.
    #[error("{0}")]
    Refused(Refusal),
}

/// The store of a node, and what the active config says of it.
pub(super) struct NodeStore {
    store: Store,
    state_dir: PathBuf,
    /// The active profile, where there is one.
    running: Option<ProfileUse>,
    /// Who documents for devices are about.
    gateway: Option<Gateway>,
    /// The name or address that devices use.
    host: Option<String>,
}

impl NodeStore {
    /// The store of a node with this config.
    pub fn new(config: &Config) -> Self {
        let profile = &config.profile;
        let runs = !profile.is_none();
        let (host, port) = (&profile.external_host, profile.external_port);
        let gateway = || Gateway::new(host, port, &profile.name, &profile.description);
        Self {
            store: Store::new(&config.state_dir),
            state_dir: config.state_dir.clone(),
            running: runs.then(|| ProfileUse {
                profile: profile.name.clone(),
                stored: profile.stored.clone(),
            }),
            gateway: runs.then(gateway),
            host: runs.then(|| host.clone()),
        }
    }

    /// The profiles that may name certificates: the active one, and those that are stored.
    fn profiles(&self) -> Result<Vec<ProfileUse>, StoreError> {
        let mut profiles = profiles_in_store(&self.state_dir)?;
        profiles.extend(self.running.clone());
        Ok(profiles)
    }

    pub fn list(&self) -> Result<Vec<StoredCertificate>, Trouble> {
        let profiles = self.profiles()?;
        let mut entries = self.store.list(self.host.as_deref())?;
        for entry in &mut entries {
            entry.used_by = users_of(&entry.reference(), &profiles);
        }
        Ok(entries)
    }

    pub fn get(&self, wanted: &Reference) -> Result<StoredCertificate, Trouble> {
        let host = self.host.as_deref();
        let mut entry = self.store.get(wanted.role, &wanted.name, host)?;
        entry.used_by = users_of(wanted, &self.profiles()?);
        Ok(entry)
    }

    /// Checks an import without making it.
    pub fn look(
        &self,
        wanted: &Reference,
        candidate: &Candidate,
    ) -> Result<StoredCertificate, Trouble> {
        let mut entry = candidate.entry(&wanted.name);
        entry.used_by = users_of(wanted, &self.profiles()?);
        Ok(entry)
    }

    /// Imports a certificate. If the active profile names it, it is active then; where the node
    /// refuses it, what was there before stays.
    pub fn import(
        &self,
        turn: &mut ReloadGuard<'_>,
        wanted: &Reference,
        candidate: &Candidate,
        replace: bool,
    ) -> Result<StoredCertificate, Trouble> {
        let entry = self.look(wanted, candidate)?;
        let before = self.store.kept(wanted.role, &wanted.name)?;
        self.store.put(&wanted.name, candidate, replace)?;
        let running = self.running.as_ref();
        if running.is_some_and(|profile| profile.stored.contains(wanted))
            && let Err(refusal) = turn.reload(ReloadTrigger::Admin)
        {
            self.store.restore(wanted.role, &wanted.name, &before)?;
            return Err(Trouble::Refused(refusal));
        }
        Ok(entry)
    }

    pub fn delete(&self, _: &mut ReloadGuard<'_>, wanted: &Reference) -> Result<(), Trouble> {
        let users = users_of(wanted, &self.profiles()?);
        if !users.is_empty() {
            return Err(Trouble::InUse(users.join(", ")));
        }
        Ok(self.store.delete(wanted.role, &wanted.name)?)
    }

    pub fn export(
        &self,
        wanted: &Reference,
        format: ExportFormat,
        root: bool,
    ) -> Result<Vec<u8>, Trouble> {
        let Reference { role, name } = wanted;
        let certificates = self.store.certificates(*role, name)?;
        let export = Export {
            role: *role,
            root,
            format,
            gateway: self.gateway.as_ref(),
            name: name.as_str(),
        };
        Ok(export.content(&certificates)?)
    }

    /// The name or address that devices use.
    pub fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }
}
