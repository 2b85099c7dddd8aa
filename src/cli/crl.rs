//! `adit crl`: the CRLs of a running node, and the way out where an authority was made anew.

use super::admin::{AdminCommand, encoded};
use super::admin_error::AdminError;
use super::change::{self, ChangeError, Maker, Request};
use super::target::JSON;
use crate::certs;
use crate::engine::forget_kept_crl;

/// Shows the CRLs of a running node, or has the next one taken whatever its number is.
#[derive(Debug, clap::Args)]
pub struct CrlCommand {
    #[command(flatten)]
    admin: AdminCommand,
    #[command(subcommand)]
    what: Crl,
}

#[derive(Debug, clap::Subcommand)]
enum Crl {
    /// List CRLs, with where they are from, their state, and why one is not used.
    List,
    /// Let the next list of a file or URL take the place of the one in use, whatever its number and
    /// date, and ask for it at once.
    ///
    /// For an authority that was made anew and counts its lists from 1 again. The list in use stays
    /// until the next one is there, and that must be signed by a group certificate as always. Where
    /// no node runs, the list that is kept in state_dir is marked, and the node does the same when
    /// it is started.
    Forget {
        /// The file or URL, as `adit crl list` has it in `source`.
        source: String,
    },
}

impl CrlCommand {
    /// Does it.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub fn run(&self) -> Result<(), ChangeError> {
        let Crl::Forget { source } = &self.what else {
            return Ok(self.admin.print("/crls")?);
        };
        let request = Request {
            method: "DELETE",
            path: format!("/crls/{}", encoded(source)),
            body: None,
        };
        let target = self.admin.target()?;
        let _lock = match change::make(&target, &request)? {
            Maker::Node(answer) => return Ok(answer.print(JSON)?),
            Maker::Here(lock) => lock,
        };
        let forgotten = target
            .state_dir()
            .map(|folder| forget_kept_crl(folder, source));
        if !forgotten
            .transpose()
            .map_err(AdminError::from)?
            .unwrap_or(false)
        {
            return Err(ChangeError::NothingKept(source.clone()));
        }
        let said = "no node runs; the stored list of this URL is replaced by its next list after a start\n";
        Ok(certs::print(said.as_bytes()).map_err(AdminError::from)?)
    }
}
