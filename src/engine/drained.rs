//! Which servers the operator has drained, in the state folder: a drain outlives a restart and an
//! upgrade.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::backend::Backends;
use crate::certs::CertError;
use crate::files::{self, Mode};
use crate::limits::DRAINED_FILE_MAX;
use crate::observe::ServerInfo;

/// The file in the state folder.
const FILE: &str = "drained-servers.json";

/// One drained server, as it is named on the admin listener.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct DrainedServer {
    service: String,
    server: String,
}

/// The list on disk. Without a drain there is no file.
#[derive(Debug)]
pub(super) struct Drained {
    file: PathBuf,
    /// One change at a time.
    turn: Mutex<()>,
}

impl Drained {
    pub fn new(state_dir: &Path) -> Self {
        Self {
            file: state_dir.join(FILE),
            turn: Mutex::default(),
        }
    }

    /// Drains what the list names. A list that cannot be read is said in the log, and drains
    /// nothing: a node that does not start would be worse.
    pub fn restore(&self, backends: &Backends) {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        match self.read() {
            Ok(list) => {
                for info in backends
                    .list()
                    .iter()
                    .filter(|info| info.state != "drained")
                {
                    let (service, server) = (&info.service, &info.server);
                    let is_meant = |named: &DrainedServer| {
                        named.service == *service && named.server == *server
                    };
                    if list.iter().any(is_meant) {
                        backends.drain(service, server, true);
                        tracing::info!(service, server, "the server is drained, as it was before");
                    }
                }
            }
            Err(error) => tracing::error!(
                "no server is drained: {} cannot be read: {error}; drain the servers again that must not be used",
                self.file.display()
            ),
        }
    }

    /// Drains a server or brings it back, on disk first. What is known of it then; `None` if there
    /// is no such one. Servers that are in no service any more are taken off the list.
    ///
    /// # Errors
    /// The list cannot be written; nothing has changed then.
    pub fn set(
        &self,
        backends: &Backends,
        (service, server): (&str, &str),
        drained: bool,
    ) -> Result<Option<ServerInfo>, CertError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let servers = backends.list();
        let is_meant = |info: &ServerInfo| info.service == service && info.server == server;
        if !servers.iter().any(is_meant) {
            return Ok(None);
        }
        let stays = |info: &&ServerInfo| match is_meant(info) {
            true => drained,
            false => info.state == "drained",
        };
        let list = servers.iter().filter(stays).map(|info| DrainedServer {
            service: info.service.clone(),
            server: info.server.clone(),
        });
        self.write(&list.collect())?;
        Ok(backends.drain(service, server, drained))
    }

    fn read(&self) -> io::Result<BTreeSet<DrainedServer>> {
        let mut text = Vec::new();
        match files::open(&self.file) {
            Ok(file) => file.take(DRAINED_FILE_MAX).read_to_end(&mut text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
            Err(error) => return Err(error),
        };
        Ok(serde_json::from_slice(&text)?)
    }

    fn write(&self, list: &BTreeSet<DrainedServer>) -> Result<(), CertError> {
        // Strings into strings: there is nothing that could fail.
        let text = serde_json::to_vec_pretty(list).unwrap_or_default();
        Ok(files::keep(&self.file, &text, Mode::Public)?)
    }
}
