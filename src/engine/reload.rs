//! A new configuration for a running node: read, checked and opened wholly, then activated, which
//! cannot fail any more.
//!
//! A node that drains opens no listener: it has none any more, and where another process has taken
//! its place, that one has the addresses. Such a node also leaves the state folder to the other
//! process, and takes from it what only a new process could have changed.

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::inherited::Inherited;
use super::listeners::OpenListeners;
use super::loaded::{LoadError, Loaded, Problems};
use super::node::{EngineError, Node};
use super::worker;
use crate::access::Snapshot;
use crate::certs::self_signed::Prepared;
use crate::config::Config;

/// One reason why a new configuration does not take effect.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The files.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// An address that cannot be listened on.
    #[error(transparent)]
    Listen(#[from] EngineError),
    /// A key that only a restart can change.
    #[error("{0} cannot change while the node runs; restart it to change this")]
    NeedsRestart(&'static str),
}

/// All that was found, one a line. Never empty; the old configuration stays.
#[derive(Debug)]
pub struct ReloadErrors(pub Vec<ReloadError>);

impl std::error::Error for ReloadErrors {}

impl fmt::Display for ReloadErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{error}")?;
        }
        Ok(())
    }
}

impl<E: Into<ReloadError>> From<E> for ReloadErrors {
    fn from(error: E) -> Self {
        Self(vec![error.into()])
    }
}

impl Node {
    /// Puts a new configuration into effect for new sessions. Reads files, and waits where another
    /// one is on the way: not for a data core.
    ///
    /// # Errors
    /// [`ReloadErrors`], counted; the old configuration stays.
    pub fn reload(&self, config: Config) -> Result<(), ReloadErrors> {
        self.replace(|_| config)
    }

    /// Reads the files of the active configuration again. As [`reload`](Self::reload).
    ///
    /// # Errors
    /// [`ReloadErrors`], counted; what was read before stays.
    pub fn read_again(&self) -> Result<(), ReloadErrors> {
        self.replace(Config::clone)
    }

    /// Counts a configuration that was refused before it came here.
    pub fn count_reload_failure(&self) {
        self.reload_failures.fetch_add(1, Ordering::Relaxed);
    }

    fn replace(&self, next: impl FnOnce(&Config) -> Config) -> Result<(), ReloadErrors> {
        let turn = self.reloading.lock();
        let _turn = turn.unwrap_or_else(PoisonError::into_inner);
        let current = self.config();
        let next = next(&current);
        self.try_reload(&current, next)
            .inspect_err(|_| self.count_reload_failure())
    }

    fn try_reload(&self, current: &Config, config: Config) -> Result<(), ReloadErrors> {
        let follows = self.follows();
        let mut errors = match follows {
            // The process that is followed has them already.
            true => Vec::new(),
            false => fixed(current, &config),
        };
        if !follows && current.state_dir != config.state_dir {
            return Err(ReloadErrors(errors));
        }
        let _turn = self.revocation.turn();
        let mut problems = Problems::default();
        let source = match follows {
            // The other process reads the file, and says what is in it.
            true => {
                self.misses_devices();
                Some(None)
            }
            false => problems.note(self.registry.read(&config)),
        };
        let loaded = problems.note(Loaded::load_beside(&config, Some(&self.revocation)));
        errors.extend(problems.0.into_iter().map(ReloadError::Load));
        let (Some(source), Some(mut loaded), true) = (source, loaded, errors.is_empty()) else {
            return Err(ReloadErrors(errors));
        };
        loaded.continue_sessions(&self.resumption())?;
        let groups = self.backends.prepare(&config.profile.services);
        let watches = loaded.watches(&groups)?;
        let snapshots =
            loaded.snapshots(self.cores.len(), &self.revocation, &groups, &self.gates)?;
        let opened = match self.is_draining() {
            true => None,
            false => Some(self.open_listeners(&config)?),
        };
        // The state folder is the other process's.
        let written = match follows {
            true => Prepared::default(),
            false => loaded.prepare()?,
        };
        // The last that can fail: the registry, and before it takes effect what it waits for.
        self.registry
            .rebase(source, || written.commit().map_err(LoadError::from))?;
        self.revocation.replace(std::mem::take(&mut loaded.crls));
        self.commit(watches, groups);
        self.gates.configure(&config.profile);
        self.configure_cores(snapshots, opened);
        self.revocation_changed();
        loaded.log_findings();
        *self.lock_resumption() = loaded.resumption.clone();
        self.hold(loaded.inventory());
        *self.lock_config() = config;
        self.generation.fetch_add(1, Ordering::Relaxed);
        if let Some(predecessor) = &self.predecessor {
            predecessor.reload();
        }
        Ok(())
    }

    /// Gives each core its part. Listeners change when every core has its snapshot: a connection
    /// may be handed to another core than that which has accepted it.
    fn configure_cores(
        &self,
        snapshots: Vec<Snapshot>,
        opened: Option<(OpenListeners, Inherited)>,
    ) {
        let mut listeners = self.listeners();
        // It may have begun to drain since.
        let opened = opened.filter(|_| !self.is_draining());
        let last = opened.map(|(opened, spare)| {
            *self.lock_spare() = spare;
            let (cores, sources) = (self.cores.clone(), listeners.replace(opened));
            Arc::new(AtLast(Some(move || {
                for (core, sources) in cores.iter().zip(sources) {
                    core.run(move || worker::listen(sources));
                }
            })))
        });
        for (core, snapshot) in self.cores.iter().zip(snapshots) {
            let last = last.clone();
            core.run(move || {
                worker::replace_snapshot(snapshot);
                drop(last);
            });
        }
    }
}

/// Returns what has changed that only a restart can change.
fn fixed(current: &Config, config: &Config) -> Vec<ReloadError> {
    let keys = [
        (current.engine.cores != config.engine.cores, "engine.cores"),
        (current.admin != config.admin, "admin.listen"),
        (
            current.admin_token != config.admin_token,
            "admin.token_file",
        ),
        (
            current.admin_users != config.admin_users,
            "admin.socket_users",
        ),
        (current.log != config.log, "log"),
        (current.state_dir != config.state_dir, "state_dir"),
    ];
    let changed = keys.into_iter().filter(|(changed, _)| *changed);
    changed
        .map(|(_, key)| ReloadError::NeedsRestart(key))
        .collect()
}

/// Does something when it is dropped.
struct AtLast<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Drop for AtLast<F> {
    fn drop(&mut self) {
        if let Some(last) = self.0.take() {
            last();
        }
    }
}
