//! `adit servers`: the servers of a running node, and which of them take new tunnels.

use super::admin::{AdminCommand, encoded};
use super::admin_error::AdminError;
use super::target::Body;

/// Shows the servers of a running node, or takes new tunnels away from one.
#[derive(Debug, clap::Args)]
pub struct ServersCommand {
    #[command(flatten)]
    admin: AdminCommand,
    #[command(subcommand)]
    what: Servers,
}

#[derive(Debug, clap::Subcommand)]
enum Servers {
    /// List servers with their state.
    List {
        /// Only those of this service.
        #[arg(long)]
        service: Option<String>,
    },
    /// Let a server get no new tunnels. Those that are open go on.
    Drain(OneServer),
    /// Let a drained server get tunnels again, and take a dead one for alive.
    Restore(OneServer),
}

#[derive(Debug, clap::Args)]
struct OneServer {
    /// Its service.
    service: String,
    /// The server, as host:port.
    server: String,
}

impl ServersCommand {
    /// Does it.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn run(&self) -> Result<(), AdminError> {
        let set = |one: &OneServer, state: &str| {
            let path = format!(
                "/servers/{}/{}",
                encoded(&one.service),
                encoded(&one.server)
            );
            let said = serde_json::json!({ "state": state });
            self.admin.request("PUT", &path, Some(Body::json(&said)))
        };
        match &self.what {
            Servers::List { service: None } => self.admin.print("/servers"),
            Servers::List {
                service: Some(service),
            } => self
                .admin
                .print(&format!("/servers?service={}", encoded(service))),
            Servers::Drain(one) => set(one, "drained"),
            Servers::Restore(one) => set(one, "up"),
        }
    }
}
