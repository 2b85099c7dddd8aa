//! The device registry's life: the file of the config, what the admin listener says beside it, and
//! what a restart finds.
//!
//! The last one who says something about a device counts. What the admin listener says holds until
//! the device's own line in the file changes (comes, goes or says something else); a block that the
//! admin listener has set is lifted by the admin listener only. A file that cannot be read or has a
//! wrong line changes nothing: at a start the last good copy counts, and the node says so.
//!
//! One thread writes. It answers when a change is on the disk and active; changes that wait for it
//! are written together.

mod source;
mod store;

use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

pub(crate) use source::RegistryFile;
use store::Store;
pub use store::StoreError;

use super::loaded::LoadError;
use crate::config::Config;
use crate::limits::{REGISTRY_BATCH, REGISTRY_QUEUE};
use crate::table::{
    DeviceChanges, DeviceCollector, DeviceEntry, DeviceRegistry, DeviceState, Published,
    RegistryFull,
};

/// Why a change did not become active. Nothing of it has.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The device to be removed does not exist.
    #[error("the device is not in the registry")]
    Unknown,
    /// More devices than are taken.
    #[error(transparent)]
    Full(#[from] RegistryFull),
    /// The disk.
    #[error("{0}")]
    Store(Arc<StoreError>),
    /// Too many changes wait.
    #[error("too many changes wait; try again")]
    Busy,
    /// Another process takes this one's place.
    #[error("a new process is taking over; try again")]
    Succeeded,
    /// The node ends.
    #[error("the node ends")]
    Ended,
}

/// Takes the answer to a change, on the writer's thread.
pub type ChangeReply = Box<dyn FnOnce(Result<(), ChangeError>) + Send>;

enum Job {
    Change {
        changes: DeviceChanges,
        /// Refuse if a device that is to be removed does not exist.
        must_exist: bool,
        reply: ChangeReply,
    },
    Rebase {
        source: Option<RegistryFile>,
        last: Last,
        reply: mpsc::SyncSender<Result<(), LoadError>>,
    },
    /// Another process has the store, or has it no more.
    Follow {
        follow: bool,
        reply: mpsc::SyncSender<()>,
    },
    /// Changes of that process, or its whole registry.
    Followed {
        changes: DeviceChanges,
        whole: bool,
        reply: mpsc::SyncSender<bool>,
    },
}

/// Last step on which a new file of devices depends: done when little of its own can fail any more.
type Last = Box<dyn FnOnce() -> Result<(), LoadError> + Send>;

/// Is told what is active after each change. Does not wait.
pub(crate) type Tell = Box<dyn Fn(DeviceRegistry) + Send>;

/// The active registry and the way to change it.
pub struct Registry {
    /// The registry as the data cores read it.
    pub table: Arc<Published<DeviceRegistry>>,
    jobs: Sender<Job>,
    /// Why the file does not count, while the last good copy does.
    stale: Mutex<Option<String>>,
}

impl Registry {
    /// Reads what `config` names and what earlier runs have left. `changed` is called after each
    /// change that became active, and `tell` with it.
    ///
    /// # Errors
    /// [`LoadError`]: the file is not right and there is no good copy, or what was kept cannot be read.
    pub(crate) fn start(
        config: &Config,
        changed: impl Fn() + Send + 'static,
        tell: Option<Tell>,
    ) -> Result<Self, LoadError> {
        let store = Store::open(&config.state_dir)?;
        let mut writer = Writer {
            store,
            base: DeviceRegistry::default(),
            table: Arc::default(),
            changed: Box::new(|| ()),
            tell: None,
            follows: false,
            owed: None,
        };
        let (mut stale, mut new) = (None, None);
        if let Some(file) = &config.profile.device_auth.device_registry {
            let last = source::last(&config.state_dir);
            let unchanged = source::is_unchanged(file, &config.state_dir);
            match (last, source::load(file, &config.state_dir)) {
                (Ok(Some(last)), Err(error)) if last.is_of(file) => {
                    tracing::error!("the last good copy of the device registry is used: {error}");
                    stale = Some(first_line(&error));
                    writer.base = last.registry;
                }
                (Ok(Some(last)), Err(error)) => {
                    tracing::error!(
                        "the last good copy is of another device registry, {}, and does not stand in",
                        last.file().display()
                    );
                    return Err(error);
                }
                (_, Err(error)) => return Err(error),
                (Ok(Some(last)), Ok(source)) if unchanged => {
                    drop(source);
                    writer.base = last.registry;
                }
                (last, Ok(source)) => {
                    // A copy that cannot be read any more is nothing to compare with. That of another file is: what its line
                    // said of a device was active.
                    let last = last.ok().flatten();
                    writer.base = last.map(|last| last.registry).unwrap_or_default();
                    new = Some(source);
                }
            }
        }
        match new {
            Some(source) => writer.rebase(Some(source), || Ok(()))?,
            None => writer.publish_all()?,
        }
        writer.changed = Box::new(changed);
        writer.tell = tell;
        let table = writer.table.clone();
        let (jobs, queue) = bounded(REGISTRY_QUEUE);
        thread::Builder::new()
            .name("adit-registry".to_owned())
            .spawn(move || writer.run(&queue))
            .map_err(|error| LoadError::Read("the device registry's thread".to_owned(), error))?;
        Ok(Self {
            table,
            jobs,
            stale: Mutex::new(stale),
        })
    }

    /// Changes devices. `reply` is called when the change is on the disk and active, or refused; it
    /// is dropped if the node ends before. Never waits.
    pub fn change(&self, changes: DeviceChanges, must_exist: bool, reply: ChangeReply) {
        let job = Job::Change {
            changes,
            must_exist,
            reply,
        };
        let (job, error) = match self.jobs.try_send(job) {
            Ok(()) => return,
            Err(TrySendError::Full(job)) => (job, ChangeError::Busy),
            Err(TrySendError::Disconnected(job)) => (job, ChangeError::Ended),
        };
        if let Job::Change { reply, .. } = job {
            reply(Err(error));
        }
    }

    /// Reads the file that a new configuration names. Nothing changes before [`Registry::rebase`].
    ///
    /// # Errors
    /// [`LoadError`], which names the file and its wrong lines.
    pub(crate) fn read(&self, config: &Config) -> Result<Option<RegistryFile>, LoadError> {
        match &config.profile.device_auth.device_registry {
            Some(file) => source::load(file, &config.state_dir).map(Some),
            None => Ok(None),
        }
    }

    /// Activates the file's devices, once `last` is done, and waits for it: not for a data core.
    ///
    /// # Errors
    /// [`LoadError::Store`], and that of `last`; the active devices are what they were then.
    pub(crate) fn rebase(
        &self,
        source: Option<RegistryFile>,
        last: impl FnOnce() -> Result<(), LoadError> + Send + 'static,
    ) -> Result<(), LoadError> {
        let (reply, answer) = mpsc::sync_channel(1);
        let ended = || LoadError::Read("the device registry".to_owned(), ended());
        let last = Box::new(last);
        let job = Job::Rebase {
            source,
            last,
            reply,
        };
        self.jobs.send(job).map_err(|_| ended())?;
        answer.recv().map_err(|_| ended())??;
        *self.stale.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(())
    }

    /// Lets another process have what is kept on disk: changes are refused from now on, but for
    /// those that [`Registry::followed`] brings. With `false` they are this process's again. Waits:
    /// not for a data core.
    pub(crate) fn follow(&self, follow: bool) {
        let (reply, answer) = mpsc::sync_channel(1);
        if self.jobs.send(Job::Follow { follow, reply }).is_ok() {
            let _ = answer.recv();
        }
    }

    /// Takes over what the other process has changed, or with `whole` all that it has and nothing
    /// else. Returns whether it is active. Waits for it: not for a data core.
    pub fn followed(&self, changes: DeviceChanges, whole: bool) -> bool {
        let (reply, answer) = mpsc::sync_channel(1);
        let job = Job::Followed {
            changes,
            whole,
            reply,
        };
        self.jobs.send(job).is_ok() && answer.recv().unwrap_or(false)
    }

    /// The active devices.
    #[must_use]
    pub fn devices(&self) -> DeviceRegistry {
        self.table.read(DeviceRegistry::clone)
    }

    /// Why the file does not count, while the last good copy does.
    #[must_use]
    pub fn stale(&self) -> Option<String> {
        self.stale
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

fn ended() -> std::io::Error {
    std::io::Error::other("its writer has ended")
}

fn first_line(error: &LoadError) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().to_owned()
}

/// The one who writes.
struct Writer {
    store: Store,
    /// Devices of the file.
    base: DeviceRegistry,
    /// The active registry: the file, and what the admin listener says.
    table: Arc<Published<DeviceRegistry>>,
    changed: Box<dyn Fn() + Send>,
    tell: Option<Tell>,
    /// Another process writes.
    follows: bool,
    /// Changes that are active and could not be written back to the disk.
    owed: Option<DeviceChanges>,
}

impl Writer {
    fn run(mut self, queue: &Receiver<Job>) {
        let mut next = queue.recv().ok();
        while let Some(job) = next.take() {
            match job {
                Job::Rebase {
                    source,
                    last,
                    reply,
                } => {
                    let result = match self.follows {
                        // The other process reads the file, and says what is new in it.
                        true => last(),
                        false => self.rebase(source, last),
                    };
                    let _ = reply.send(result);
                }
                Job::Follow { follow, reply } => {
                    self.follow(follow);
                    let _ = reply.send(());
                }
                Job::Followed {
                    changes,
                    whole,
                    reply,
                } => {
                    let taken = self.followed(&changes, whole);
                    let _ = reply.send(taken);
                }
                Job::Change {
                    changes,
                    must_exist,
                    reply,
                } => {
                    let mut batch = vec![(changes, must_exist, reply)];
                    while batch.len() < REGISTRY_BATCH && next.is_none() {
                        match queue.try_recv() {
                            Ok(Job::Change {
                                changes,
                                must_exist,
                                reply,
                            }) => batch.push((changes, must_exist, reply)),
                            Ok(other) => next = Some(other),
                            Err(_) => break,
                        }
                    }
                    self.change(batch);
                }
            }
            if next.is_none() {
                next = queue.recv().ok();
            }
        }
    }

    /// Takes over what the other process says. Returns whether it is active.
    fn followed(&mut self, changes: &DeviceChanges, whole: bool) -> bool {
        let before = match whole {
            true => DeviceRegistry::default(),
            false => self.table.read(DeviceRegistry::clone),
        };
        match before.with(changes) {
            Ok(registry) => {
                self.publish(registry);
                true
            }
            Err(error) => {
                tracing::error!(%error, "a change of devices is lost");
                false
            }
        }
    }

    /// Makes the changes that are possible, one after the other, in one write.
    fn change(&mut self, batch: Vec<(DeviceChanges, bool, ChangeReply)>) {
        if self.follows {
            for (.., reply) in batch {
                reply(Err(ChangeError::Succeeded));
            }
            return;
        }
        let mut registry = self.table.read(DeviceRegistry::clone);
        let mut accepted = Vec::with_capacity(batch.len());
        for (changes, must_exist, reply) in batch {
            let missing = |registry: &DeviceRegistry| {
                let mut said = changes.iter();
                must_exist && said.any(|(name, _)| registry.get(name).is_none())
            };
            if missing(&registry) {
                reply(Err(ChangeError::Unknown));
                continue;
            }
            match registry.with(&changes) {
                Ok(changed) => {
                    registry = changed;
                    accepted.push((changes, reply));
                }
                Err(full) => reply(Err(full.into())),
            }
        }
        let changes: Vec<&DeviceChanges> = accepted.iter().map(|(changes, _)| changes).collect();
        if changes.is_empty() {
            return;
        }
        let written = self.settle();
        match written.and_then(|()| self.store.apply(&changes, &self.base)) {
            Ok(()) => {
                self.publish(registry);
                accepted.into_iter().for_each(|(_, reply)| reply(Ok(())));
            }
            Err(error) => {
                tracing::error!(%error, "a change of the device registry is refused");
                let error = Arc::new(error);
                for (_, reply) in accepted {
                    reply(Err(ChangeError::Store(error.clone())));
                }
            }
        }
    }

    /// Takes a new file over, with what was said beside it: all of it, or on an error nothing. What
    /// was said about devices whose line it changes is forgotten first: a crash between the two
    /// finds the line changed still.
    fn rebase(
        &mut self,
        source: Option<RegistryFile>,
        last: impl FnOnce() -> Result<(), LoadError>,
    ) -> Result<(), LoadError> {
        self.settle()?;
        let said = self.store.load()?;
        let Some(mut source) = source else {
            // No file is named any more: it says nothing, so it says nothing new about any device.
            let base = DeviceRegistry::default();
            let registry = base.with(&said).map_err(StoreError::from)?;
            last()?;
            self.base = base;
            self.publish(registry);
            return Ok(());
        };
        let (superseded, rest) = self.superseded(said, &source)?;
        // What can be refused for its size is refused before anything is written.
        let registry = source.registry.with(&rest).map_err(StoreError::from)?;
        let devices = superseded.len();
        if devices > 0 {
            self.store.forget(&superseded)?;
        }
        if let Err(error) = last().and_then(|()| source.keep()) {
            self.owe(superseded);
            return Err(error);
        }
        if devices > 0 {
            tracing::info!(
                devices,
                "the registry's file has changed what the admin listener had said"
            );
        }
        self.base = std::mem::take(&mut source.registry);
        self.publish(registry);
        Ok(())
    }

    /// Of what was said, that about devices whose line `source` changes, and the rest.
    fn superseded(
        &self,
        said: DeviceChanges,
        source: &RegistryFile,
    ) -> Result<(DeviceChanges, DeviceChanges), StoreError> {
        let is_changed = |name: &str, entry: DeviceEntry<'_>| {
            let blocked = entry.state == DeviceState::Blocked;
            !blocked && self.base.get(name) != source.registry.get(name)
        };
        if !said.iter().any(|(name, entry)| is_changed(name, entry)) {
            return Ok((DeviceChanges::default(), said));
        }
        let (mut superseded, mut rest) = (DeviceCollector::default(), DeviceCollector::default());
        for (name, entry) in said.iter() {
            let part = match is_changed(name, entry) {
                true => &mut superseded,
                false => &mut rest,
            };
            part.add(name, entry);
        }
        Ok((superseded.finish()?, rest.finish()?))
    }

    /// Writes back what was forgotten for a file that is not taken over now.
    fn owe(&mut self, forgotten: DeviceChanges) {
        if forgotten.is_empty() {
            return;
        }
        let devices = forgotten.len();
        self.owed = Some(forgotten);
        if let Err(error) = self.settle() {
            tracing::error!(
                devices,
                "changes of devices through the admin listener are active but not on disk, and are written \
                    with the next change: {error}"
            );
        }
    }

    /// Writes what is owed, if anything is.
    fn settle(&mut self) -> Result<(), StoreError> {
        if let Some(owed) = &self.owed {
            self.store.apply(&[owed], &self.base)?;
            self.owed = None;
        }
        Ok(())
    }

    /// Activates what the file has said, and what was said beside it.
    fn publish_all(&mut self) -> Result<(), LoadError> {
        let said = self.store.load()?;
        let registry = self.base.with(&said).map_err(StoreError::from)?;
        self.publish(registry);
        Ok(())
    }

    /// Notes whether the file on disk belongs to another process, or to this one again. Where it
    /// cannot be opened then, it is this one's all the same: each change and each reload tries
    /// again, and says why it is refused.
    fn follow(&mut self, follow: bool) {
        if follow {
            if let Err(error) = self.settle() {
                tracing::error!("another process does not get all changes of devices: {error}");
            }
            self.store.release();
        } else if let Err(error) = self.store.take_back() {
            tracing::error!(
                "the device registry takes no changes until its store can be opened again: {error}"
            );
        }
        self.follows = follow;
    }

    fn publish(&mut self, registry: DeviceRegistry) {
        if let Some(tell) = &self.tell {
            tell(registry.clone());
        }
        self.table.publish(registry);
        (self.changed)();
    }
}

/// Returns whether the file that the config names is right; changes nothing.
///
/// # Errors
/// [`LoadError`], which names the file and its wrong lines.
pub(crate) fn check(config: &Config) -> Result<(), LoadError> {
    match &config.profile.device_auth.device_registry {
        Some(file) => source::check(file).map(|_| ()),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
