//! `adit reload`: a running node reads everything again, and says what comes of it.

use serde::Deserialize;

use super::admin::AdminCommand;
use super::admin_error::AdminError;
use crate::certs;
use crate::findings::{Problem, in_lines};

/// Has a running node read its config and the files that it names again.
#[derive(Debug, clap::Args)]
pub struct ReloadCommand {
    #[command(flatten)]
    admin: AdminCommand,
}

/// Answer of a node.
#[derive(Deserialize)]
#[serde(untagged)]
enum ReloadResult {
    Taken { generation: u64 },
    Refused { problems: Vec<Problem> },
}

impl ReloadCommand {
    /// Does it.
    ///
    /// # Errors
    /// [`AdminError`]; [`AdminError::Change`] with all that is wrong where the node refuses the
    /// change.
    pub fn run(&self) -> Result<(), AdminError> {
        let answer = self.admin.ask("POST", "/reload", None)?;
        let generation = match serde_json::from_str(&answer.body) {
            Ok(ReloadResult::Taken { generation }) => generation,
            Ok(ReloadResult::Refused { problems }) => {
                return Err(AdminError::Change(in_lines(&problems)));
            }
            Err(_) => return Err(answer.wrong()),
        };
        let said = format!("generation {generation} is active\n");
        Ok(certs::print(said.as_bytes())?)
    }
}
