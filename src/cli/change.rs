//! Who changes what a node stores, profiles and certificates.
//!
//! Where a node runs on the state folder, the node does: it checks, stores and activates in one
//! step, or refuses and changes nothing. Else this process does, which has the lock of the folder
//! meanwhile: a node that is started waits for it, and so does another command.

use std::thread::sleep;
use std::time::Instant;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::admin_error::AdminError;
use super::lock::{LockError, StateLock};
use super::target::{AdminResponse, Body, Target};
use crate::control::client::ClientError;
use crate::files::{FileError, own_folder};
use crate::findings::{Problem, in_lines};
use crate::limits::{STATE_LOCK_PATIENCE, STATE_LOCK_POLL};

/// A change as a request to the admin listener.
pub(super) struct Request {
    pub method: &'static str,
    pub path: String,
    /// Media type and content.
    pub body: Option<(&'static str, Vec<u8>)>,
}

/// Who makes a change.
pub(super) enum Maker {
    /// The running node, which has answered.
    Node(AdminResponse),
    /// This process, as long as it has the lock.
    Here(StateLock),
}

/// Why a change is not made.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The state folder.
    #[error("{0}")]
    Folder(#[from] FileError),
    /// Its lock.
    #[error(transparent)]
    Lock(LockError),
    /// Its lock, which this user may not take.
    #[error("{0}; run the command as root or as the user that the node runs as")]
    NotOwner(LockError),
    /// A node runs, and does not listen.
    #[error(
        "process {0} runs with this state folder, and has to make the change, but does not answer: {1}"
    )]
    Silent(String, AdminError),
    /// No node runs, and there is nothing that could be changed without one.
    #[error(
        "no node runs with this state folder, nor is a list kept in it that was fetched from {0}: name it as `adit crl list` has \
         it in `source`"
    )]
    NothingKept(String),
    /// The running node refuses it.
    #[error("the running node refuses it, so nothing was changed: {}", in_lines(.0))]
    Refused(Vec<Problem>),
    /// The running node does not make it.
    #[error(transparent)]
    Admin(#[from] AdminError),
}

impl ChangeError {
    /// As [`CliError::exit_code`](super::CliError::exit_code).
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Refused(_) => 2,
            Self::Admin(error) => error.exit_code(),
            Self::Folder(_) | Self::Lock(_) | Self::NotOwner(_) => 1,
            Self::NothingKept(_) | Self::Silent(..) => 1,
        }
    }
}

/// Has the running node make a change, or takes the lock of its state folder, for the caller to
/// make it. A node that is known by its listener alone runs, and may have its folder elsewhere.
///
/// # Errors
/// [`ChangeError`]; nothing has changed then, or the node has not said whether it has.
pub(super) fn make(node: &Target, request: &Request) -> Result<Maker, ChangeError> {
    let Some(state_dir) = node.state_dir() else {
        return Ok(Maker::Node(request.ask(node)?));
    };
    own_folder(state_dir)?;
    let deadline = Instant::now() + STATE_LOCK_PATIENCE;
    loop {
        let pid = match StateLock::take(state_dir, None) {
            Ok(lock) => return Ok(Maker::Here(lock)),
            Err(LockError::Taken { pid, .. }) => pid,
            Err(error) if error.is_denied() => return Err(ChangeError::NotOwner(error)),
            Err(error) => return Err(ChangeError::Lock(error)),
        };
        // It may be another command, which ends soon, or a node that does not listen yet.
        let error = match request.ask(node) {
            Err(error @ (AdminError::AnyPort | AdminError::Client(_, ClientError::Connect(_)))) => {
                ChangeError::Silent(pid, error)
            }
            answer => return Ok(Maker::Node(answer?)),
        };
        if Instant::now() >= deadline {
            return Err(error);
        }
        sleep(STATE_LOCK_POLL);
    }
}

impl Request {
    fn ask(&self, node: &Target) -> Result<AdminResponse, AdminError> {
        let body = self.body.clone();
        let body = body.map(|(media_type, content)| Body::new(media_type, content));
        node.ask(self.method, &self.path, body)
    }
}

/// Returns what the node says of a change that it has made.
///
/// # Errors
/// [`ChangeError`] where it has not made it.
pub(super) fn made<T: DeserializeOwned>(answer: AdminResponse) -> Result<T, ChangeError> {
    #[derive(Deserialize)]
    struct Refusal {
        problems: Vec<Problem>,
    }
    if let Ok(Refusal { problems }) = serde_json::from_str(&answer.body) {
        return Err(ChangeError::Refused(problems));
    }
    match serde_json::from_str(&answer.body) {
        Ok(said) if answer.is_done() => Ok(said),
        _ => Err(answer.wrong().into()),
    }
}
