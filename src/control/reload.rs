//! The one way in which a running node takes a change: everything is read again, and activated or
//! refused as a whole.
//!
//! Signals, the admin listener and files that change ask for the same. One change is on the way at
//! a time. What is wrong is told wholly, and is remembered until a change is active again.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::SystemTime;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::watch::Watched;
use crate::config::{self, Config, ConfigError};
use crate::engine::{self, EngineError, ReloadError, ReloadErrors};
use crate::files;
use crate::findings::{Problem, in_lines};
use crate::limits::FILES_POLL;
use crate::ring;

/// Takes changes of files, for ever.
pub async fn watch_files(reloader: Arc<Reloader>) {
    files::watch(FILES_POLL, move || reloader.look()).await;
}

/// Who asks for a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReloadTrigger {
    /// SIGHUP.
    Signal,
    /// A file has changed.
    Files,
    /// A request to the admin listener.
    Admin,
    /// The process after this one has read its config again.
    Successor,
}

impl fmt::Display for ReloadTrigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Signal => "signal",
            Self::Files => "files",
            Self::Admin => "admin",
            Self::Successor => "successor",
        })
    }
}

/// A change that was not taken: the state before it is active.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// When.
    pub at: SystemTime,
    /// Why; at least one.
    pub problems: Arc<[Problem]>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&in_lines(&self.problems))
    }
}

impl Refusal {
    /// As the admin listener shows it: `at` (RFC 3339) and `problems`.
    pub(super) fn json(&self) -> Value {
        let at = OffsetDateTime::from(self.at).format(&Rfc3339);
        json!({"at": at.unwrap_or_default(), "problems": &*self.problems})
    }
}

impl From<&ConfigError> for Refusal {
    fn from(error: &ConfigError) -> Self {
        Self {
            at: SystemTime::now(),
            problems: error.problems.as_slice().into(),
        }
    }
}

impl From<ReloadErrors> for Refusal {
    fn from(errors: ReloadErrors) -> Self {
        let problems = errors.0.iter().flat_map(|error| match error {
            ReloadError::NeedsRestart(key) => vec![Problem {
                key: (*key).to_owned(),
                message: "cannot change while the node runs".to_owned(),
                remedy: "restart the node, or let a new process take over (SIGUSR2)".into(),
                ..Problem::default()
            }],
            ReloadError::Listen(EngineError::Listen {
                by,
                address,
                source,
            }) => vec![Problem {
                key: format!("profile.listener.{by}"),
                message: format!("cannot listen on {address}: {source}"),
                remedy: "choose another address or port, or stop the program that uses it".into(),
                ..Problem::default()
            }],
            ReloadError::Listen(error) => vec![Problem::of(error)],
            ReloadError::Load(error) => error.problems(),
        });
        Self {
            at: SystemTime::now(),
            problems: problems.collect(),
        }
    }
}

/// A config file, as it was read for the start.
#[derive(Debug)]
pub struct ConfigFile {
    path: PathBuf,
    watched: Watched,
}

impl ConfigFile {
    /// Reads it, and notes what it and the files that it names are like before anything else reads
    /// them.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn read(path: &Path) -> Result<(Config, Self), ConfigError> {
        // Where the node's part is wrong, the other says all that is.
        let node = config::load_node(path).or_else(|_| config::load(path))?;
        let mut watched = Watched::new(path, &node.state_dir);
        watched.note();
        let config = config::load(path)?;
        watched.follow(&config);
        watched.switch(config.engine.watch_files);
        let path = path.to_owned();
        Ok((config, Self { path, watched }))
    }
}

/// Takes changes for a running node.
pub struct Reloader {
    node: Arc<engine::Node>,
    path: PathBuf,
    /// Locked while a change is on the way.
    watched: Mutex<Watched>,
    refused: Mutex<Option<Refusal>>,
}

impl Reloader {
    /// For the node that was started with what is in `file`.
    #[must_use]
    pub fn new(node: Arc<engine::Node>, file: ConfigFile) -> Self {
        let ConfigFile { path, watched } = file;
        Self {
            node,
            path,
            watched: Mutex::new(watched),
            refused: Mutex::default(),
        }
    }

    /// Reads everything again and activates it. Gives the new generation. Waits while another
    /// change is on the way, and reads files: not for a thread that answers others.
    ///
    /// # Errors
    /// [`Refusal`], counted and logged; the state before stays active.
    pub fn reload(&self, by: ReloadTrigger) -> Result<u64, Refusal> {
        let watched = self.watched.lock();
        let mut watched = watched.unwrap_or_else(PoisonError::into_inner);
        self.attempt(&mut watched, by)
    }

    /// The config file.
    pub(super) fn file(&self) -> &Path {
        &self.path
    }

    /// The active config.
    pub(super) fn config(&self) -> Config {
        self.node.config()
    }

    /// Waits until no other change is on the way, and lets none be until the end of what comes
    /// back: reloads, and changes of what is stored, profiles and certificates. Whoever has it
    /// waits for nothing that a thread of the control core does, and takes the file of profiles and
    /// the engine's own turn after it, not before. For a thread that may wait.
    #[must_use]
    pub(super) fn turn(&self) -> ReloadGuard<'_> {
        let watched = self.watched.lock();
        ReloadGuard {
            watched: watched.unwrap_or_else(PoisonError::into_inner),
            reloader: self,
        }
    }

    /// As [`reload`](Self::reload), on a thread of its own, behind everything else.
    pub fn in_background(
        self: &Arc<Self>,
        by: ReloadTrigger,
        reply: impl FnOnce(Result<u64, Refusal>) + Send + 'static,
    ) {
        let reloader = self.clone();
        std::thread::spawn(move || {
            ring::yield_to_others();
            reply(reloader.reload(by));
        });
    }

    /// Takes a change of the files, once they are quiet. Asks the file system: not for a thread
    /// that answers others.
    pub fn look(&self) {
        let mut watched = match self.watched.try_lock() {
            Ok(watched) => watched,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Who has it reads the files anyway.
            Err(TryLockError::WouldBlock) => return,
        };
        if !self.node.is_draining() && watched.is_due(|| config::load(&self.path).err()) {
            // Logged and remembered.
            let _ = self.attempt(&mut watched, ReloadTrigger::Files);
        }
    }

    /// Why the last change was not taken, while none is active that came after it.
    #[must_use]
    pub fn refused(&self) -> Option<Refusal> {
        self.lock_refused().clone()
    }

    fn attempt(&self, watched: &mut Watched, by: ReloadTrigger) -> Result<u64, Refusal> {
        watched.note();
        let config = config::load(&self.path);
        self.take(watched, config, by)
    }

    fn take(
        &self,
        watched: &mut Watched,
        config: Result<Config, ConfigError>,
        by: ReloadTrigger,
    ) -> Result<u64, Refusal> {
        // Servers are resolved with what stands there now, whatever comes of the config.
        self.node.names().reread();
        let result = match config {
            Ok(config) => {
                watched.follow(&config);
                let on = config.engine.watch_files;
                let taken = self.node.reload(config).map_err(Refusal::from);
                taken.inspect(|()| watched.switch(on))
            }
            Err(error) => {
                self.node.count_reload_failure();
                let refusal = Refusal::from(&error);
                watched.wrong(error);
                Err(refusal)
            }
        };
        *self.lock_refused() = result.as_ref().err().cloned();
        match &result {
            Ok(()) => {
                let generation = self.node.generation();
                tracing::info!(generation, %by, "the new config is active");
            }
            Err(refusal) => tracing::error!(
                %by,
                "the new config is refused and the old one stays: {refusal}"
            ),
        }
        result.map(|()| self.node.generation())
    }

    fn lock_refused(&self) -> MutexGuard<'_, Option<Refusal>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The only change that is on the way.
pub(super) struct ReloadGuard<'r> {
    reloader: &'r Reloader,
    watched: MutexGuard<'r, Watched>,
}

impl ReloadGuard<'_> {
    /// As [`Reloader::reload`].
    pub fn reload(&mut self, by: ReloadTrigger) -> Result<u64, Refusal> {
        self.reloader.attempt(&mut self.watched, by)
    }

    /// Activates a config that is not on the disk yet.
    ///
    /// # Errors
    /// [`Refusal`], counted and logged; the state before stays active.
    pub fn force(&mut self, config: Config, by: ReloadTrigger) -> Result<u64, Refusal> {
        self.watched.note();
        self.reloader.take(&mut self.watched, Ok(config), by)
    }

    /// Notes that the active profile has been stored: no change to look for.
    pub fn has_stored(&mut self) {
        self.watched.note_store();
    }
}
