//! A process in another one's place: started by systemd on sockets that it holds, or by the process before, which then
//! finishes its tunnels.
//!
//! On SIGUSR2 a process gives its registry's store free, and starts its program anew with its listening sockets and one end
//! of a link, in the way of `sd_listen_fds(3)`, each with the name of its listener. Both accept until the new process says that it serves; then the old one
//! stops, and follows what the new one tells it until its last tunnel has ended. Where the new process does not come to
//! serve, it is ended, and the old one goes on as if nothing had been.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use command_fds::{CommandFdExt, FdMapping};
use listenfd::ListenFd;
use sd_notify::NotifyState;

use super::lock::{self, StateLock};
use crate::engine::{ADMIN, Event, Inherited, NamedSocket, Node, Predecessor, Successor};
use crate::limits::SUCCESSION_PATIENCE;

/// Set where the last of the descriptors that a process is started with is the link to the process before.
const LINKED: &str = "ADIT_LINKED";

/// Set where the process before hands the lock of the state folder over through the link.
const LOCKED: &str = "ADIT_LOCKED";

/// The names of the descriptors, with colons between them (`sd_listen_fds_with_names(3)`).
const NAMES: &str = "LISTEN_FDNAMES";

/// The first descriptor that is passed on (`SD_LISTEN_FDS_START`).
const FIRST: i32 = 3;

/// What this process was started with.
#[derive(Debug, Default)]
pub struct Inheritance {
    /// Listening sockets.
    pub(super) sockets: Inherited,
    /// The process before.
    pub(super) predecessor: Option<Arc<Predecessor>>,
    /// Its lock of the state folder.
    pub(super) lock: Option<OwnedFd>,
}

impl Inheritance {
    /// Takes the descriptors that the environment names. To be called once, before there are other threads.
    ///
    /// # Errors
    /// A descriptor is not a listening socket, or the process before does not hand over what it says.
    pub(super) fn take() -> io::Result<Self> {
        let mut descriptors = ListenFd::from_env();
        let mut count = descriptors.len();
        let mut taken = Self::default();
        // Those that systemd passes on have names of the operator's.
        let mut names = String::new();
        if count > 0 && std::env::var_os(LINKED).is_some() {
            count -= 1;
            names = std::env::var(NAMES).unwrap_or_default();
            let (unix, stream) = (libc::AF_UNIX, libc::SOCK_STREAM);
            let link = descriptors.take_custom::<UnixStream>(count, unix, stream, "link")?;
            if let Some(link) = &link
                && std::env::var_os(LOCKED).is_some()
            {
                taken.lock = Some(lock::receive(link)?);
            }
            let predecessor = link.map(Predecessor::new).transpose()?;
            taken.predecessor = predecessor.map(Arc::new);
        }
        let mut names = names.split(':');
        for index in 0..count {
            let name = names.next().unwrap_or_default().to_owned();
            match descriptors.take_tcp_listener(index) {
                Ok(Some(socket)) => taken.sockets.tcp.push(NamedSocket { name, socket }),
                Ok(None) => {}
                Err(_) => taken
                    .sockets
                    .unix
                    .extend(descriptors.take_unix_listener(index)?),
            }
        }
        Ok(taken)
    }
}

/// Tells systemd, where it asks to be told (`Type=notify`), that this process is the service's main one, and serves.
pub(super) fn notify_ready() {
    notify(&[NotifyState::MainPid(std::process::id()), NotifyState::Ready]);
}

/// Tells systemd that the service ends.
pub(super) fn notify_stopping() {
    notify(&[NotifyState::Stopping]);
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd cannot be told");
    }
}

/// How to start this process's successor.
pub(super) struct Succession {
    program: PathBuf,
    arguments: Vec<OsString>,
    admin: OwnedFd,
    lock: StateLock,
    under_way: AtomicBool,
}

impl Succession {
    /// With the program and the arguments of this process. `admin`: the socket of the admin listener; `lock`: that of
    /// the state folder, which this keeps.
    ///
    /// # Errors
    /// The program's path is not known.
    pub fn new(admin: OwnedFd, lock: StateLock) -> io::Result<Self> {
        let mut arguments = std::env::args_os();
        let named = arguments.next().map(PathBuf::from);
        // A path with folders may lead through a link that leads to another version later; it counts from here.
        let program = match named.filter(|named| named.components().count() > 1) {
            Some(named) => std::path::absolute(named)?,
            None => std::env::current_exe()?,
        };
        Ok(Self {
            program,
            arguments: arguments.collect(),
            admin,
            lock,
            under_way: AtomicBool::new(false),
        })
    }

    /// Says that the state folder is this process's now.
    pub fn sign(&self) {
        if let Err(error) = self.lock.sign() {
            let file = self.lock.path().display();
            tracing::warn!(
                "{file} names the process before this one, and cannot be written: {error}"
            );
        }
    }

    /// Whether a succession is under way already; if not, it is now.
    pub fn begin(&self) -> bool {
        self.under_way.swap(true, Ordering::Relaxed)
    }

    /// Starts the successor and waits until it serves; `node` accepts no more then. Afterwards `node` keeps up with what it
    /// says, and `reload` is called when it has read the config again, until it ends. Takes long: a thread of its own.
    ///
    /// # Errors
    /// The successor does not come to serve; nothing has changed then.
    pub fn hand_over(
        &self,
        node: &Node,
        retired: impl FnOnce(),
        reload: impl Fn(),
    ) -> io::Result<()> {
        node.follow(true);
        let mut successor = self.start(node).inspect_err(|_| {
            node.follow(false);
            self.under_way.store(false, Ordering::Relaxed);
        })?;
        retired();
        node.retire();
        loop {
            match successor.listen() {
                Ok(Some(Event::Devices(changes))) => node.registry().followed(changes),
                Ok(Some(Event::Reload)) => reload(),
                Ok(Some(Event::Ready)) => {}
                Ok(None) => return Ok(()),
                Err(error) => {
                    tracing::error!(%error, "the new process is not understood, and not followed any more");
                    return Ok(());
                }
            }
        }
    }

    fn start(&self, node: &Node) -> io::Result<Successor> {
        let (ours, theirs) = UnixStream::pair()?;
        let (mut names, mut descriptors) = (ADMIN.to_owned(), vec![self.admin.try_clone()?]);
        for NamedSocket { name, socket } in node.sockets()? {
            names = names + ":" + &name;
            descriptors.push(socket.into());
        }
        descriptors.push(theirs.into());
        self.lock.give(&ours)?;
        let mut child = self.spawn(descriptors, &names)?;
        let ready = || -> io::Result<Successor> {
            let mut successor = Successor::new(ours, SUCCESSION_PATIENCE)?;
            match successor.listen()? {
                Some(Event::Ready) => {}
                _ => return Err(io::Error::other("it has ended; its log says why")),
            }
            successor.be_patient()?;
            Ok(successor)
        };
        ready().inspect_err(|_| {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        })
    }

    /// `names`: of the descriptors, but for the link, which is the last.
    fn spawn(&self, descriptors: Vec<OwnedFd>, names: &str) -> io::Result<Child> {
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .env("LISTEN_FDS", descriptors.len().to_string())
            .env(LINKED, "1")
            .env(LOCKED, "1")
            .env(NAMES, names)
            .env_remove("LISTEN_PID");
        let mapping = |(parent_fd, child_fd)| FdMapping {
            parent_fd,
            child_fd,
        };
        let mappings = descriptors.into_iter().zip(FIRST..).map(mapping).collect();
        command.fd_mappings(mappings).map_err(io::Error::other)?;
        command.spawn()
    }
}
