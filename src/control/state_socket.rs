//! The node's socket in its state folder, by which commands find the node that runs there: no
//! address and no token is needed, since whoever may write to the folder may change the node. It
//! answers as the admin listener does, to root and the node's own user alone.
//!
//! A node runs on without it where it cannot be there. It is looked for now and then, and made anew
//! where it has gone.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use super::socket::{SocketError, SocketFile, check, listen};
use crate::engine::Inherited;
use crate::files;
use crate::findings::{Problem, Severity};
use crate::limits::STATE_SOCKET_POLL;

/// The path of the socket in a state folder.
#[must_use]
pub fn state_socket_path(state_dir: &Path) -> PathBuf {
    state_dir.join("admin.sock")
}

/// Returns what keeps a node from having its socket in this state folder, as far as that can be
/// seen before it runs.
#[must_use]
pub fn check_state_socket(state_dir: &Path) -> Option<Problem> {
    let path = state_socket_path(state_dir);
    check(&path).err().map(|error| problem(&path, &error))
}

/// The socket in a state folder, shared by who accepts on it, who tells of it and who passes it on.
#[derive(Debug)]
pub struct StateSocket {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    bound: Option<(UnixListener, SocketFile)>,
    /// Why it is not there.
    problem: Option<Problem>,
    /// It is another process's, or the node ends.
    is_over: bool,
}

impl StateSocket {
    /// That of the process before where that is still there, else a new one. The lock of the folder
    /// is this process's.
    pub(super) fn open(state_dir: &Path, inherited: &mut Inherited) -> Self {
        let path = state_socket_path(state_dir);
        let taken = inherited.take_state(&path);
        let bound = taken.and_then(|listener| {
            listener.set_nonblocking(true).ok()?;
            Some((listener, SocketFile::inherited(&path).ok()?))
        });
        let socket = Self {
            path,
            state: Mutex::new(State {
                bound,
                ..State::default()
            }),
        };
        socket.tend();
        socket
    }

    /// Why the node does not have it.
    #[must_use]
    pub fn problem(&self) -> Option<Problem> {
        self.lock().problem.clone()
    }

    /// A copy of the listening socket, for a process that takes it over; `None` where there is
    /// none.
    ///
    /// # Errors
    /// The system's, at its limit of open files.
    pub fn copy(&self) -> io::Result<Option<OwnedFd>> {
        Ok(self.listener()?.map(OwnedFd::from))
    }

    fn listener(&self) -> io::Result<Option<UnixListener>> {
        let state = self.lock();
        let listener = state.bound.as_ref().map(|(listener, _)| listener);
        listener.map(UnixListener::try_clone).transpose()
    }

    /// Looks whether it is there, and makes it anew where it is not. What is to be accepted on then
    /// in place of what was before. Asks the file system: not for a thread that answers others.
    fn tend(&self) -> Option<UnixListener> {
        let mut state = self.lock();
        if state.is_over {
            return None;
        }
        let has_gone = match &state.bound {
            Some((_, file)) if file.is_there() => return None,
            Some(_) => true,
            None => false,
        };
        let made = listen(&self.path).and_then(|made| Ok((made.0.try_clone()?, made)));
        match made {
            Ok((listener, made)) => {
                if has_gone || state.problem.is_some() {
                    let path = self.path.display();
                    tracing::warn!(%path, "the socket in the state folder was not there, and is made anew");
                }
                state.bound = Some(made);
                state.problem = None;
                Some(listener)
            }
            Err(error) => {
                let problem = problem(&self.path, &error);
                if state.problem.as_ref() != Some(&problem) {
                    tracing::warn!("{problem}");
                    state.problem = Some(problem);
                }
                None
            }
        }
    }

    /// Sockets to accept on: what there is, and what takes its place each time it has gone, for
    /// ever.
    pub(super) async fn listeners(self: &Arc<Self>, to: mpsc::Sender<UnixListener>) {
        match self.listener() {
            Ok(Some(listener)) => drop(to.send(listener).await),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, "the socket in the state folder is not accepted on");
            }
        }
        let socket = self.clone();
        files::watch(STATE_SOCKET_POLL, move || {
            if let Some(listener) = socket.tend() {
                // Where nobody accepts any more, there is nothing to do.
                let _ = to.blocking_send(listener);
            }
        })
        .await;
    }

    /// This process serves from now on.
    pub(super) fn take_over(&self) {
        if let Some((_, file)) = &mut self.lock().bound {
            file.take_over();
        }
    }

    /// It is another process's from now on.
    pub(super) fn leave(&self) {
        let mut state = self.lock();
        state.is_over = true;
        if let Some((_, mut file)) = state.bound.take() {
            file.leave();
        }
    }

    /// The node ends, and it with it.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.is_over = true;
        state.bound = None;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn problem(path: &Path, error: &SocketError) -> Problem {
    let remedy = match error {
        SocketError::TooLong(_) => {
            "choose a shorter state_dir, or have changes allowed on the admin listener (admin.token_file)"
        }
        SocketError::NotASocket => "move it away; the socket is made then within seconds",
        SocketError::InUse => "end the process that listens there",
        SocketError::System(_) => {
            "the state folder must be on a local disk with free space that this user may write to"
        }
    };
    Problem {
        severity: Severity::Warning,
        code: "state-socket".into(),
        file: Some(path.display().to_string()),
        message: format!(
            "cannot listen there, so commands reach the node by its admin listener alone: {error}"
        ),
        remedy: remedy.into(),
        ..Problem::default()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn open(folder: &Path) -> StateSocket {
        StateSocket::open(folder, &mut Inherited::default())
    }

    #[test]
    fn it_is_private_replaces_a_stale_one_and_goes_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = state_socket_path(folder.path());
        drop(UnixListener::bind(&path).unwrap());
        let socket = open(folder.path());
        assert_eq!(socket.problem(), None);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();
        socket.close();
        assert!(!path.exists());
        assert!(socket.tend().is_none() && !path.exists(), "the node ends");
    }

    #[test]
    fn what_is_removed_or_in_the_way_is_made_anew_when_it_can_be() {
        let folder = tempfile::tempdir().unwrap();
        let path = state_socket_path(folder.path());
        let socket = open(folder.path());
        assert!(socket.tend().is_none(), "it is there");
        fs::remove_file(&path).unwrap();
        let listener = socket.tend().unwrap();
        UnixStream::connect(&path).unwrap();
        listener.accept().unwrap();

        // A link that somebody has planted is not followed, and what it leads to stays.
        fs::remove_file(&path).unwrap();
        let precious = folder.path().join("precious");
        fs::write(&precious, "data").unwrap();
        symlink(&precious, &path).unwrap();
        assert!(socket.tend().is_none());
        let problem = socket.problem().unwrap();
        assert!(problem.to_string().contains("not a socket"), "{problem}");
        assert_eq!(check_state_socket(folder.path()), Some(problem));
        assert_eq!(fs::read_to_string(&precious).unwrap(), "data");
        fs::remove_file(&path).unwrap();
        assert!(socket.tend().is_some());
        assert_eq!(socket.problem(), None);

        // Another process's is not taken away from it, nor removed at the end.
        fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        assert!(socket.tend().is_none());
        let problem = socket.problem().unwrap();
        assert!(problem.message.contains("another process"), "{problem}");
        drop(socket);
        assert!(path.exists());
    }

    #[test]
    fn a_path_that_is_too_long_is_a_finding() {
        let folder = tempfile::tempdir().unwrap();
        let long = folder.path().join("x".repeat(120));
        fs::create_dir(&long).unwrap();
        let problem = open(&long).problem().unwrap();
        assert!(problem.message.contains("at most 107"), "{problem}");
        assert!(problem.remedy.contains("shorter state_dir"), "{problem}");
        assert_eq!(check_state_socket(&long), Some(problem));
        assert_eq!(check_state_socket(folder.path()), None);
    }

    #[test]
    fn a_successor_takes_it_and_one_that_fails_leaves_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = state_socket_path(folder.path());
        let first = open(folder.path());
        let succeed = || {
            let mut inherited = Inherited {
                state: Some(first.copy().unwrap().unwrap().into()),
                ..Inherited::default()
            };
            StateSocket::open(folder.path(), &mut inherited)
        };
        drop(succeed());
        UnixStream::connect(&path).unwrap();
        let second = succeed();
        second.take_over();
        first.leave();
        drop(first);
        UnixStream::connect(&path).unwrap();
        drop(second);
        assert!(!path.exists());
    }
}
