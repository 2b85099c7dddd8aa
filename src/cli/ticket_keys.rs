//! `adit ticket-keys`: the file of keys that the nodes of a deployment share.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::Subcommand;

use crate::certs;
use crate::config;
use crate::findings::Problem;
use crate::tls::{TicketKeys, TicketKeysError};

/// Make and rotate the keys of session tickets.
///
/// Give every node of a deployment the same file (`profile.tls.ticket_keys`), and a session that
/// one node has begun is resumed by any other. Nodes read the file again when it changes. Rotate at
/// least once in `session_lifetime`: whoever gets at a key can read recorded sessions that were
/// resumed with its tickets.
#[derive(Debug, Subcommand)]
pub enum TicketKeysCommand {
    /// Write a new file with one key, readable by its owner alone.
    Make {
        /// The file. It must not exist.
        file: PathBuf,
    },
    /// Add a key to a file, and remove those whose tickets have all ended.
    ///
    /// The file is written anew, for the user that runs this alone: let it be the user that runs
    /// the gateway.
    Rotate {
        /// The file.
        file: PathBuf,
        /// When the new key begins to seal. By then every node must have the file: a node without
        /// it refuses the new key's tickets, and its clients take a full handshake.
        #[arg(long = "in", value_name = "TIME", default_value = "5m", value_parser = time)]
        begins: Duration,
        /// How long a key opens tickets after the next one has begun: the nodes'
        /// profile.tls.session_lifetime.
        #[arg(long, value_name = "TIME", default_value = "12h", value_parser = time)]
        lifetime: Duration,
    },
}

impl TicketKeysCommand {
    /// Does it.
    ///
    /// # Errors
    /// [`TicketKeysError`]; the file is then as it was.
    pub fn run(self) -> Result<(), TicketKeysError> {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        let said = match self {
            Self::Make { file } => {
                TicketKeys::generate(now)?.write_new(&file)?;
                format!("{}: one key, which seals from now on\n", file.display())
            }
            Self::Rotate {
                file,
                begins,
                lifetime,
            } => {
                let old = TicketKeys::read(&file)?;
                let new = old.rotated(now, now + begins.as_secs(), lifetime.as_secs())?;
                new.replace(&file)?;
                format!(
                    "{}: {} keys, of which the new one seals in {} s; {} removed\n",
                    file.display(),
                    new.keys().len(),
                    begins.as_secs(),
                    old.keys().len() + 1 - new.keys().len(),
                )
            }
        };
        Ok(certs::print(said.as_bytes())?)
    }
}

/// A time as the config file writes it, or 0.
fn time(text: &str) -> Result<Duration, Box<Problem>> {
    if matches!(text, "0" | "0s") {
        return Ok(Duration::ZERO);
    }
    config::duration(text)
}
