//! The process before this one, as the new process sees it: what it is still to be told, and
//! whether it answers.
//!
//! A thread of its own speaks with it. What is to be told waits in a place of fixed size: that the
//! config was read again, and the newest devices, of which the thread itself finds what is new to
//! the other process. So nobody waits for the other process, and nothing that it must know is
//! dropped because it is slow.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, Signal, getppid, pidfd_open, pidfd_send_signal};

use super::{DeviceMessage, Link, Message, Response, is_timeout, pass};
use crate::limits::{
    DEVICE_SHARDS, SUCCESSION_APPLY, SUCCESSION_BEAT, SUCCESSION_DEVICES, SUCCESSION_END,
    SUCCESSION_SHARDS, SUCCESSION_SILENCE,
};
use crate::ring;
use crate::table::DeviceRegistry;

/// The process before this one, which finishes its tunnels.
#[derive(Debug)]
pub struct Predecessor {
    shared: Arc<Shared>,
    link: Mutex<Option<Link>>,
    /// Socket by which it takes connections for its control core.
    questions: Option<UnixStream>,
    /// How many processes there were before this one.
    generation: u64,
}

/// State of the process before this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PredecessorInfo {
    /// Its number.
    pub pid: u32,
    /// Why it does not follow any more, and is made to end; `None` while it follows.
    pub lost: Option<String>,
    /// It has refused the last config.
    pub refused: bool,
}

#[derive(Debug)]
struct Shared {
    tasks: Mutex<Tasks>,
    wake: Condvar,
    pid: u32,
    /// Becomes readable when it has ended.
    process: Option<OwnedFd>,
    /// True if it is of the first version, which answers nothing.
    is_first: bool,
}

#[derive(Debug, Default)]
struct Tasks {
    reload: bool,
    reopen: bool,
    devices: Option<DeviceRegistry>,
    /// It has ended.
    ended: bool,
    lost: Option<String>,
    losses: u64,
    refused: bool,
}

/// Why it is not spoken with any more.
enum End {
    /// It has ended.
    Ended,
    /// It is there, and does not follow.
    Lost(String),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Self::Ended,
            _ if is_timeout(&error) => Self::Lost(silent()),
            _ => Self::Lost(error.to_string()),
        }
    }
}

fn silent() -> String {
    format!("it has not answered for {} s", SUCCESSION_SILENCE.as_secs())
}

impl Predecessor {
    /// At the other end of `link`. `questions` takes connections to its admin pages, where it is of
    /// a version that has them; `generation` is how many processes there were before this one.
    ///
    /// # Errors
    /// The system's.
    pub fn new(
        link: UnixStream,
        questions: Option<UnixStream>,
        generation: u64,
    ) -> io::Result<Self> {
        let parent = getppid();
        // Whoever has ended already has another parent's number in its place: then there is nobody to be watched.
        let process = parent.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        let process = process.filter(|_| getppid() == parent);
        let shared = Shared {
            tasks: Mutex::default(),
            wake: Condvar::new(),
            pid: parent.map_or(0, |pid| pid.as_raw_nonzero().get().unsigned_abs()),
            process,
            is_first: questions.is_none(),
        };
        Ok(Self {
            shared: Arc::new(shared),
            link: Mutex::new(Some(Link::new(link))),
            questions,
            generation,
        })
    }

    /// How many processes there were before this one.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// This process serves, with these devices: the other one shall stop to accept, and follow from
    /// now on.
    ///
    /// # Errors
    /// There can be no more threads.
    pub fn is_succeeded(&self, devices: DeviceRegistry) -> io::Result<()> {
        let link = self
            .link
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(link) = link else { return Ok(()) };
        {
            let mut tasks = self.shared.tasks();
            // It may not have seen what this process has read.
            tasks.reload = true;
            tasks.devices.get_or_insert(devices);
        }
        let shared = self.shared.clone();
        let thread = thread::Builder::new().name("adit-link".to_owned());
        thread.spawn(move || shared.run(link))?;
        Ok(())
    }

    /// The config was read again.
    pub fn reload(&self) {
        self.shared.give(|tasks| tasks.reload = true);
    }

    /// The audit log's file was renamed.
    pub fn reopen(&self) {
        self.shared.give(|tasks| tasks.reopen = true);
    }

    /// These are the devices now.
    pub fn devices_changed(&self, devices: DeviceRegistry) {
        self.shared.give(|tasks| tasks.devices = Some(devices));
    }

    /// Returns what is known of it; `None` when it has ended.
    #[must_use]
    pub fn info(&self) -> Option<PredecessorInfo> {
        let tasks = self.shared.tasks();
        (!tasks.ended).then(|| PredecessorInfo {
            pid: self.shared.pid,
            lost: tasks.lost.clone(),
            refused: tasks.refused,
        })
    }

    /// How often it was given up.
    #[must_use]
    pub fn losses(&self) -> u64 {
        self.shared.tasks().losses
    }

    /// A new connection to its admin pages; `None` where it takes none. Does not wait.
    #[must_use]
    pub fn connect(&self) -> Option<UnixStream> {
        let is_there = self.info().is_some_and(|info| info.lost.is_none());
        let questions = self.questions.as_ref().filter(|_| is_there)?;
        let (ours, theirs) = UnixStream::pair().ok()?;
        pass(questions, theirs.as_fd()).ok()?;
        Some(ours)
    }
}

impl Shared {
    fn tasks(&self) -> MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give(&self, task: impl FnOnce(&mut Tasks)) {
        let mut tasks = self.tasks();
        if !tasks.ended && tasks.lost.is_none() {
            task(&mut tasks);
            self.wake.notify_one();
        }
    }

    fn run(&self, mut link: Link) {
        // What millions of devices cost here is nothing that tunnels are to feel.
        ring::yield_to_others();
        let end = match self.speak(&mut link) {
            Ok(never) => match never {},
            Err(end) => end,
        };
        // A link that is closed is the end of the process only where the process says so.
        let is_there = || {
            self.process
                .as_ref()
                .is_some_and(|process| !ends(process, SUCCESSION_BEAT))
        };
        let end = match end {
            End::Ended if is_there() => End::Lost("it has closed the link".to_owned()),
            end => end,
        };
        if let End::Lost(why) = end {
            let pid = self.pid;
            tracing::error!(
                pid,
                "the process before this one does not follow any more, and is being ended: {why}"
            );
            let mut tasks = self.tasks();
            (tasks.devices, tasks.lost) = (None, Some(why));
            tasks.losses += 1;
            drop(tasks);
            let _ = link.stream.get_ref().shutdown(Shutdown::Both);
            self.see_it_end();
        }
        let mut tasks = self.tasks();
        (tasks.devices, tasks.lost, tasks.ended) = (None, None, true);
        drop(tasks);
        tracing::info!(pid = self.pid, "the process before this one has ended");
    }

    /// Waits for the end of the process, which has lost its link, and brings it about where it is
    /// stopped or stuck.
    fn see_it_end(&self) {
        let Some(process) = &self.process else { return };
        if !ends(process, SUCCESSION_END) {
            tracing::error!(
                pid = self.pid,
                "killing the process before this one: it does not end"
            );
            if let Err(error) = pidfd_send_signal(process, Signal::KILL) {
                tracing::error!(%error, "it cannot be killed");
            }
            ends(process, SUCCESSION_END);
        }
    }

    fn speak(&self, link: &mut Link) -> Result<std::convert::Infallible, End> {
        link.set_timeouts(Some(SUCCESSION_BEAT), Some(SUCCESSION_SILENCE))?;
        let mut told = None;
        link.write(match self.is_first {
            true => &Message::Ready,
            false => &Message::Serving,
        })?;
        loop {
            let (devices, reload, reopen) = self.next();
            if let Some(devices) = devices {
                self.tell_devices(link, told.as_ref(), &devices)?;
                told = Some(devices);
            }
            if reload {
                link.write(&Message::Reload)?;
                self.wait(link)?;
            }
            if self.is_first {
                continue;
            }
            if reopen {
                link.write(&Message::Reopen)?;
            }
            link.write(&Message::Beat)?;
            self.hear(link)?;
        }
    }

    /// Returns what is to be told next; nothing, when it is time to ask whether the other process
    /// is there.
    fn next(&self) -> (Option<DeviceRegistry>, bool, bool) {
        let is_idle = |tasks: &mut Tasks| tasks.devices.is_none() && !tasks.reload && !tasks.reopen;
        let waited = self
            .wake
            .wait_timeout_while(self.tasks(), SUCCESSION_BEAT, is_idle);
        let (mut tasks, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let (reload, reopen) = (tasks.reload, tasks.reopen);
        (tasks.reload, tasks.reopen) = (false, false);
        (tasks.devices.take(), reload, reopen)
    }

    /// Says what is new since `told`; everything, where nothing was told yet. To find it may take
    /// seconds, in which the other process hears that this one is there.
    fn tell_devices(
        &self,
        link: &mut Link,
        told: Option<&DeviceRegistry>,
        devices: &DeviceRegistry,
    ) -> Result<(), End> {
        let none = DeviceRegistry::default();
        let before = told.unwrap_or(&none);
        let mut count = 0;
        for at in (0..DEVICE_SHARDS).step_by(SUCCESSION_SHARDS) {
            let parts = at..DEVICE_SHARDS.min(at + SUCCESSION_SHARDS);
            let changes = devices.changes_in(before, parts);
            let changes = changes.map_err(|error| End::Lost(error.to_string()))?;
            let said = changes
                .iter()
                .map(|(name, entry)| DeviceMessage::new(name, entry));
            let mut said = said.peekable();
            while said.peek().is_some() {
                let part = said.by_ref().take(SUCCESSION_DEVICES).collect();
                link.write(&Message::Devices(part))?;
            }
            count += changes.len();
            // Its answers are read, too: what piles up would stop it in the end.
            if !self.is_first {
                link.write(&Message::Beat)?;
                self.hear(link)?;
            }
        }
        if self.is_first || count == 0 && told.is_some() {
            return Ok(());
        }
        link.write(&Message::Apply {
            whole: told.is_none(),
        })?;
        self.wait(link)
    }

    /// Waits until what was told last is active there.
    fn wait(&self, link: &mut Link) -> Result<(), End> {
        if self.is_first {
            return Ok(());
        }
        let start = Instant::now();
        let mut heard = start;
        loop {
            match link.read::<Response>() {
                Ok(Some(Response::Done { taken })) => {
                    if !taken {
                        tracing::warn!(
                            "the process before this one has not taken a change; its log says why"
                        );
                    }
                    self.tasks().refused = !taken;
                    return Ok(());
                }
                Ok(Some(Response::Here)) => heard = Instant::now(),
                Ok(None) => return Err(End::Ended),
                Err(error) if is_timeout(&error) => {
                    if heard.elapsed() > SUCCESSION_SILENCE {
                        return Err(End::Lost(silent()));
                    }
                    if start.elapsed() > SUCCESSION_APPLY {
                        let seconds = SUCCESSION_APPLY.as_secs();
                        return Err(End::Lost(format!(
                            "it has not taken a change for {seconds} s"
                        )));
                    }
                    link.write(&Message::Beat)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits for the answer to a beat, and reads away those that came late.
    fn hear(&self, link: &mut Link) -> Result<(), End> {
        let start = Instant::now();
        loop {
            match link.read::<Response>() {
                Ok(Some(Response::Here)) => return Ok(()),
                Ok(Some(Response::Done { .. })) => {}
                Ok(None) => return Err(End::Ended),
                Err(error) if is_timeout(&error) => {
                    if start.elapsed() > SUCCESSION_SILENCE {
                        return Err(End::Lost(silent()));
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Returns whether a process ends within this time.
fn ends(process: &OwnedFd, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).ok();
        let mut watched = [PollFd::new(process, PollFlags::IN)];
        match poll(&mut watched, timeout.as_ref()) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}
