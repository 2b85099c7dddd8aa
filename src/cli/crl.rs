//! `adit crl`: the CRLs of a running node, and the way out where an authority was made anew.

use super::admin::{AdminCommand, AdminError, encoded};
use crate::certs;
use crate::control::client::ClientError;
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
    /// Let the next list of a file or URL take the place of the one in use, whatever its number and date, and ask for it at once.
    ///
    /// For an authority that was made anew and counts its lists from 1 again. The list in use stays until the next one is
    /// there, and that must be signed by a group certificate as always. Where no node runs, the list that is kept in
    /// state_dir is marked, and the node does the same when it is started.
    Forget {
        /// The file or URL, as `adit crl list` has it in `source`.
        source: String,
    },
}

impl CrlCommand {
    /// Does it.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn run(&self) -> Result<(), AdminError> {
        let Crl::Forget { source } = &self.what else {
            return self.admin.print("/crls");
        };
        let path = format!("/crls/{}", encoded(source));
        match self.admin.request("DELETE", &path, None) {
            Err(AdminError::Client(listener, error @ ClientError::Connect(_))) => {
                // With --admin a node is meant that is elsewhere, or runs.
                let Some(state_dir) = self.admin.state_dir()? else {
                    return Err(AdminError::Client(listener, error));
                };
                if !forget_kept_crl(&state_dir, source)? {
                    let error = Box::new(AdminError::Client(listener, error));
                    return Err(AdminError::NothingKept(error, source.clone()));
                }
                let said = "no node answers; what is kept of this URL is replaced by its next list after a start\n";
                Ok(certs::print(said.as_bytes())?)
            }
            other => other,
        }
    }
}
