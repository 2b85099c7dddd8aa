//! The certificate store as the admin listener uses it. Everything here reads and writes files: not for a thread that
//! answers probes.

use std::path::PathBuf;

use crate::certs::profile::Gateway;
use crate::certs::store::Kept;
use crate::certs::{Candidate, CertError, Entry, Export, Format, Reference, Store};
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
}

/// The store of a node, and what the config in force says of it.
#[derive(Debug, Clone)]
pub struct Keeper {
    store: Store,
    state_dir: PathBuf,
    /// The profile in force, where there is one.
    running: Option<ProfileUse>,
    /// Who documents for devices are about.
    gateway: Option<Gateway>,
    /// The name or address that devices use.
    host: Option<String>,
}

/// What an import has come to.
pub(super) struct Imported {
    /// The certificate.
    pub entry: Entry,
    /// What stood in its place, to take the import back.
    pub before: Kept,
    /// Whether the profile in force names it.
    pub runs: bool,
}

impl Keeper {
    /// The store of a node with this config.
    #[must_use]
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

    /// The profiles that may name certificates: the one in force, and those that are stored.
    fn profiles(&self) -> Result<Vec<ProfileUse>, StoreError> {
        let mut profiles = profiles_in_store(&self.state_dir)?;
        profiles.extend(self.running.clone());
        Ok(profiles)
    }

    pub(super) fn list(&self) -> Result<Vec<Entry>, Trouble> {
        let profiles = self.profiles()?;
        let mut entries = self.store.list(self.host.as_deref())?;
        for entry in &mut entries {
            entry.used_by = users_of(&entry.reference(), &profiles);
        }
        Ok(entries)
    }

    pub(super) fn get(&self, wanted: &Reference) -> Result<Entry, Trouble> {
        let host = self.host.as_deref();
        let mut entry = self.store.get(wanted.role, &wanted.name, host)?;
        entry.used_by = users_of(wanted, &self.profiles()?);
        Ok(entry)
    }

    /// What an import would come to.
    pub(super) fn look(&self, wanted: &Reference, candidate: &Candidate) -> Result<Entry, Trouble> {
        let mut entry = candidate.entry(&wanted.name);
        entry.used_by = users_of(wanted, &self.profiles()?);
        Ok(entry)
    }

    pub(super) fn import(
        &self,
        wanted: &Reference,
        candidate: &Candidate,
        replace: bool,
    ) -> Result<Imported, Trouble> {
        let entry = self.look(wanted, candidate)?;
        let before = self.store.kept(wanted.role, &wanted.name)?;
        self.store.put(&wanted.name, candidate, replace)?;
        let runs = self.running.as_ref();
        Ok(Imported {
            entry,
            before,
            runs: runs.is_some_and(|profile| profile.stored.contains(wanted)),
        })
    }

    /// Takes an import back.
    pub(super) fn restore(&self, wanted: &Reference, before: &Kept) -> Result<(), Trouble> {
        Ok(self.store.restore(wanted.role, &wanted.name, before)?)
    }

    pub(super) fn delete(&self, wanted: &Reference) -> Result<(), Trouble> {
        let users = users_of(wanted, &self.profiles()?);
        if !users.is_empty() {
            return Err(Trouble::InUse(users.join(", ")));
        }
        Ok(self.store.delete(wanted.role, &wanted.name)?)
    }

    pub(super) fn export(
        &self,
        wanted: &Reference,
        format: Format,
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
    pub(super) fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }
}
