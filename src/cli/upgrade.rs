//! A process in another one's place: started by systemd on sockets that it holds, or by the process
//! before, which then finishes its tunnels.
//!
//! On SIGUSR2 a process gives its registry's store free, and starts its program anew with its
//! listening sockets, in the way of `sd_listen_fds(3)`, each with the name of its listener, and
//! with two more: one by which it may ask this process's admin pages, and one end of a link. Both
//! accept until the new process says that it serves; then the old one stops, and follows what the
//! new one tells it until its last tunnel has ended. Where the new process does not come to serve,
//! it is ended, and the old one goes on as if nothing had been. Where it is lost later, the old one
//! ends soon, because nobody tells it any more whom to block.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use command_fds::{CommandFdExt, FdMapping};
use listenfd::ListenFd;
use sd_notify::NotifyState;
use tokio::sync::mpsc;

use super::lock::StateLock;
use crate::control::StateSocket;
use crate::engine::{
    ADMIN_HELD, Followed, Inherited, NamedSocket, Node, Predecessor, STATE, Successor, UnixSocket,
    follow, receive,
};
use crate::limits::{
    ADMIN_STOP, AUDIT_STOP, DRAIN_POLL, SESSIONS_END, SUCCESSION_BEAT, SUCCESSION_ORPHANED,
    SUCCESSION_PATIENCE,
};

/// Set where the last of the descriptors that a process is started with is the link to the process
/// before; its value says what that one understands.
const LINKED: &str = "ADIT_LINKED";

/// The value of [`LINKED`] of a process that answers, and takes questions by the descriptor before
/// the link.
const ANSWERS: &str = "2";

/// How many processes there were before, each in the other's place.
const GENERATION: &str = "ADIT_GENERATION";

/// Set where the process before hands the lock of the state folder over through the link.
const LOCKED: &str = "ADIT_LOCKED";

/// The names of the descriptors, with colons between them (`sd_listen_fds_with_names(3)`).
const NAMES: &str = "LISTEN_FDNAMES";

/// The first descriptor that is passed on (`SD_LISTEN_FDS_START`).
const FIRST: i32 = 3;

/// State that this process has inherited.
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
    /// Takes the descriptors that the environment names. To be called once, before there are other
    /// threads.
    ///
    /// # Errors
    /// A descriptor is not a listening socket, or the process before does not hand over what it
    /// says.
    pub(super) fn take() -> io::Result<Self> {
        let mut descriptors = ListenFd::from_env();
        let mut count = descriptors.len();
        let mut taken = Self::default();
        // Those that systemd passes on have names of the operator's.
        let mut names = String::new();
        if let Some(version) = std::env::var_os(LINKED)
            && count > 0
        {
            names = std::env::var(NAMES).unwrap_or_default();
            let mut last = |name| {
                count = count.saturating_sub(1);
                let (unix, stream) = (libc::AF_UNIX, libc::SOCK_STREAM);
                descriptors.take_custom::<UnixStream>(count, unix, stream, name)
            };
            let link = last("link")?;
            let questions = match version == ANSWERS {
                true => last("questions")?,
                false => None,
            };
            if let Some(link) = &link
                && std::env::var_os(LOCKED).is_some()
            {
                taken.lock = Some(receive(link)?);
            }
            let generation = std::env::var(GENERATION).ok();
            let generation = generation.and_then(|text| text.parse().ok()).unwrap_or(1);
            let predecessor = link.map(|link| Predecessor::new(link, questions, generation));
            taken.predecessor = predecessor.transpose()?.map(Arc::new);
        }
        // A socket of systemd's is its own for as long as the unit is there.
        let is_systemds = taken.predecessor.is_none();
        let mut names = names.split(':');
        for index in 0..count {
            let name = names.next().unwrap_or_default().to_owned();
            match descriptors.take_tcp_listener(index) {
                Ok(Some(socket)) => taken.sockets.tcp.push(NamedSocket { name, socket }),
                Ok(None) => {}
                Err(_) => match descriptors.take_unix_listener(index) {
                    Ok(socket) if name == STATE => taken.sockets.state = socket,
                    Ok(socket) => {
                        let is_held = is_systemds || name == ADMIN_HELD;
                        let unix = socket.map(|socket| UnixSocket { socket, is_held });
                        taken.sockets.unix.extend(unix);
                    }
                    Err(_) => return Err(unusable(index, &name)),
                },
            }
        }
        Ok(taken)
    }
}

/// Returns what a descriptor is that is of no use, and what would be.
fn unusable(index: usize, name: &str) -> io::Error {
    let descriptor = FIRST as usize + index;
    io::Error::other(format!(
        "descriptor {descriptor} ({name}) is not a listening socket of TCP or Unix streams; the socket unit \
            may have ListenStream= only, \
         and no ListenDatagram= (tunnels of UDP come over TCP, too), ListenFIFO= or Accept=yes"
    ))
}

/// Tells systemd, where it asks to be told (`Type=notify`), that this process is the service's main
/// one, and serves.
pub(super) fn notify_ready() {
    notify(&[NotifyState::MainPid(std::process::id()), NotifyState::Ready]);
}

/// Tells systemd that the service ends.
pub(super) fn notify_stopping() {
    notify(&[NotifyState::Stopping]);
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}

/// How to start this process's successor.
pub(super) struct Succession {
    program: PathBuf,
    arguments: Vec<OsString>,
    admin: (&'static str, OwnedFd),
    state_socket: Option<Arc<StateSocket>>,
    lock: StateLock,
    under_way: AtomicBool,
    /// The process that is to serve, until it does.
    starting: Mutex<Option<Child>>,
    /// None is to serve any more.
    is_abandoned: AtomicBool,
}

impl Succession {
    /// With the program and the arguments of this process. `admin`: the name and the socket of the
    /// admin listener; `state_socket`: that in the state folder, where it is another one; `lock`: that of
    /// the state folder, which this keeps.
    ///
    /// # Errors
    /// The program's path is not known.
    pub fn new(
        admin: (&'static str, OwnedFd),
        state_socket: Option<Arc<StateSocket>>,
        lock: StateLock,
    ) -> io::Result<Self> {
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
            state_socket,
            lock,
            under_way: AtomicBool::new(false),
            starting: Mutex::default(),
            is_abandoned: AtomicBool::new(false),
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

    /// Returns whether a succession is under way already; if not, it is now.
    pub fn begin(&self) -> bool {
        self.under_way.swap(true, Ordering::Relaxed)
    }

    /// Ends the process that was started and does not serve yet: this one is to stop.
    pub fn abandon(&self) {
        self.is_abandoned.store(true, Ordering::SeqCst);
        if let Some(child) = &mut *self.starting() {
            // It may have ended by itself; who waits for it sees the end.
            let _ = child.kill();
        }
    }

    /// Starts the successor and waits until it serves; `node` accepts no more then, after `retired`
    /// was given the socket by which the successor asks. Afterwards `take` activates what the
    /// successor says, until it is lost, which soon ends `node`. Takes long: a thread of its own.
    ///
    /// # Errors
    /// The successor does not come to serve; nothing has changed then.
    pub fn hand_over(
        &self,
        node: &Node,
        retired: impl FnOnce(UnixStream),
        take: impl Fn(Followed) -> bool + Send + 'static,
    ) -> io::Result<()> {
        node.follow(true);
        let started = self.start(node).inspect_err(|_| {
            let is_behind = node.follow(false);
            self.under_way.store(false, Ordering::Relaxed);
            if is_behind {
                take(Followed::Reload);
            }
        });
        let (successor, questions) = started?;
        retired(questions);
        node.retire();
        let why = match follow(successor, take) {
            Ok(why) => why,
            Err(error) => error.to_string(),
        };
        end_alone(node, &why);
        Ok(())
    }

    fn starting(&self) -> MutexGuard<'_, Option<Child>> {
        self.starting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self, node: &Node) -> io::Result<(Successor, UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        let (asked, asking) = UnixStream::pair()?;
        let (name, socket) = &self.admin;
        let (mut names, mut descriptors) = ((*name).to_owned(), vec![socket.try_clone()?]);
        let state = self.state_socket.as_ref().map(|socket| socket.copy());
        if let Some(socket) = state.transpose()?.flatten() {
            names = names + ":" + STATE;
            descriptors.push(socket);
        }
        for NamedSocket { name, socket } in node.sockets()? {
            names = names + ":" + &name;
            descriptors.push(socket.into());
        }
        descriptors.push(asking.into());
        descriptors.push(theirs.into());
        self.lock.give(&ours)?;
        let generation = node.generation_of_process() + 1;
        *self.starting() = Some(self.spawn(descriptors, &names, generation)?);
        if self.is_abandoned.load(Ordering::SeqCst) {
            // That came before there was a process to be ended.
            self.abandon();
        }
        let successor = Successor::await_service(ours, SUCCESSION_PATIENCE);
        let child = self.starting().take();
        match (successor, child) {
            (Ok(successor), Some(_)) => Ok((successor, asked)),
            (Err(error), Some(child)) => Err(why_it_ended(child, error)),
            (Err(error), None) => Err(error),
            (Ok(_), None) => Err(io::Error::other("it was given up")),
        }
    }

    /// `names`: of the descriptors, but for the link, which is the last.
    fn spawn(&self, descriptors: Vec<OwnedFd>, names: &str, generation: u64) -> io::Result<Child> {
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .env("LISTEN_FDS", descriptors.len().to_string())
            .env(LINKED, ANSWERS)
            .env(GENERATION, generation.to_string())
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

/// Tells the control core that another process has the admin listener, and gives it the connections
/// that come over `questions`, on a thread of its own, until that process has ended. One for which
/// the core has no room gets no answer.
pub(super) fn take_questions(questions: UnixStream, to: mpsc::Sender<Option<UnixStream>>) {
    thread::spawn(move || {
        let _ = to.blocking_send(None);
        while let Ok(connection) = receive(&questions) {
            let _ = to.try_send(Some(connection.into()));
        }
    });
}

/// Ends a process that did not come to serve. Why it did not: where it has ended by itself, with
/// its exit code.
fn why_it_ended(mut child: Child, error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        // The link closes a moment before the process has ended.
        let deadline = Instant::now() + SUCCESSION_BEAT;
        while Instant::now() < deadline {
            if let Ok(Some(status)) = child.try_wait() {
                return io::Error::other(format!(
                    "it ended before it was ready ({status}); its log lines before this one have the reason"
                ));
            }
            thread::sleep(DRAIN_POLL);
        }
    }
    // It may have ended by itself.
    let _ = child.kill();
    let _ = child.wait();
    match error.kind() {
        io::ErrorKind::BrokenPipe => io::Error::other("it has closed its link, and was ended"),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            let seconds = SUCCESSION_PATIENCE.as_secs();
            io::Error::other(format!(
                "it was not ready within {seconds} s, and was ended"
            ))
        }
        _ => error,
    }
}

/// Ends a process that follows nobody any more: its tunnels have a little time, and then it ends,
/// whatever hangs in it.
fn end_alone(node: &Node, why: &str) {
    tracing::warn!(
        tunnels = node.open_tunnels(),
        "changes of the process after this one are not taken any more: {why}; the tunnels that are left end \
            in {} s",
        SUCCESSION_ORPHANED.as_secs()
    );
    let deadline = Instant::now() + SUCCESSION_ORPHANED;
    while !node.has_ended() && Instant::now() < deadline {
        thread::sleep(DRAIN_POLL);
    }
    node.cut();
    // The process ends before, and this thread with it.
    thread::sleep(SESSIONS_END + AUDIT_STOP + ADMIN_STOP);
    tracing::error!("this process has not ended in time, and is ended");
    std::process::exit(1);
}
