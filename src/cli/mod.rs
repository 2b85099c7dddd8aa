//! The command line.

mod admin;
mod admin_error;
mod certificates;
mod change;
mod check;
mod crl;
mod export;
mod lock;
mod profile;
mod profile_text;
#[cfg(all(feature = "lab", feature = "load"))]
mod quickstart;
mod reload;
mod run;
mod servers;
mod status;
mod target;
mod ticket_keys;
mod upgrade;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::config::ConfigError;
use crate::engine;
#[cfg(feature = "load")]
use crate::load::{self, LoadCommand, LoadError};
use crate::tls::TicketKeysError;

pub use admin::{AdminCommand, DevicesCommand, TunnelsCommand};
pub use admin_error::AdminError;
pub use certificates::{CertificatesCommand, CertificatesError};
pub use change::ChangeError;
pub use check::CheckCommand;
pub use crl::CrlCommand;
pub use export::{ExportCommand, ExportError};
pub use lock::LockError;
pub use profile::{ProfileCommand, ProfileError};
#[cfg(all(feature = "lab", feature = "load"))]
pub use quickstart::{QuickstartCommand, QuickstartError};
pub use reload::ReloadCommand;
pub use run::{Gateway, RunError};
pub use servers::ServersCommand;
pub use status::{StatusCommand, StatusError};
pub use ticket_keys::TicketKeysCommand;

/// A per-app tunnel gateway: mutual TLS in, policy, one io_uring per core.
#[derive(Debug, Parser)]
#[command(name = "adit", version, about, max_term_width = 120)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway.
    ///
    /// SIGHUP reads the config again, for new sessions, and closes open tunnels that it allows no more; SIGTERM and SIGINT drain, a second one ends at once.
    Run(ConfigFile),
    /// Have a running node read its config and the files that it names again, and say what comes of it.
    Reload(ReloadCommand),
    /// Check a config and the files that it names, and say what it means.
    ///
    /// With --probe, connect to every server of every service too. Exit code 2 where the config is wrong, 1 where a server cannot be used.
    Check(CheckCommand),
    /// See it work: make certificates, start a gateway with a server behind it, and send traffic through.
    ///
    /// Everything is kept in ./adit-quickstart/ and used again the next time.
    #[cfg(all(feature = "lab", feature = "load"))]
    Quickstart(QuickstartCommand),
    /// Make and inspect certificates for devices and servers, and keep those that the gateway uses.
    #[command(subcommand)]
    Certs(CertificatesCommand),
    /// Keep profiles in the store of a node, with every version, and assign one to it.
    ///
    /// They are kept in state_dir. A node whose config file has no [profile] runs on the one that is assigned.
    Profile(ProfileCommand),
    /// Make and rotate the keys with which the nodes of a deployment seal session tickets.
    #[command(subcommand)]
    TicketKeys(TicketKeysCommand),
    /// Put load on a gateway, or on any TLS or TCP peer, and measure it.
    #[cfg(feature = "load")]
    Load(Box<LoadCommand>),
    /// List the open tunnels of a running node, or close some.
    Tunnels(TunnelsCommand),
    /// Read or change the device registry of a running node, or write what makes devices use the gateway.
    Devices(DevicesCommand),
    /// Show the servers of a running node, drain one or bring it back.
    Servers(ServersCommand),
    /// List the CRLs of a running node, or have the next list of an authority that was made anew taken.
    Crl(CrlCommand),
    /// Say whether a running node is well, and what is amiss: findings, with their consequence and remedy.
    ///
    /// Exit code 0 where it is well, 3 with a warning, 4 with something critical or where it takes no new tunnel.
    Status(StatusCommand),
    /// Print a latency histogram of a running node, in HdrHistogram's percentile format.
    Histogram(AdminCommand),
}

#[derive(Debug, clap::Args)]
struct ConfigFile {
    /// The config file.
    #[arg(long, default_value = "adit.toml")]
    config: PathBuf,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The config.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// A file that the config names.
    #[error("{0}")]
    Files(#[from] engine::LoadError),
    /// While running.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The quickstart.
    #[cfg(all(feature = "lab", feature = "load"))]
    #[error(transparent)]
    Quickstart(#[from] QuickstartError),
    /// Certificates.
    #[error(transparent)]
    Certs(#[from] CertificatesError),
    /// Profiles.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// Ticket keys.
    #[error(transparent)]
    TicketKeys(#[from] TicketKeysError),
    /// Load.
    #[cfg(feature = "load")]
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The admin listener of a running node.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// A change of what a node stores.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The health of a node.
    #[error(transparent)]
    Status(#[from] StatusError),
    /// Servers were met, and some are of no use. They were printed.
    #[error("{unusable} of {all} servers cannot be used")]
    Probe {
        /// How many.
        unusable: usize,
        /// Of how many.
        all: usize,
    },
    /// The system refuses what a command needs.
    #[error("cannot {0}: {1}")]
    System(&'static str, std::io::Error),
}

impl CliError {
    /// 2 where the command line, the config or a file that they name is wrong, else 1: the table in docs/running.md.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Files(_) => 2,
            Self::Certs(CertificatesError::Config(_) | CertificatesError::Usage(_)) => 2,
            Self::Certs(CertificatesError::Change(error)) => error.exit_code(),
            #[cfg(feature = "load")]
            Self::Load(LoadError::Usage(_)) => 2,
            Self::Profile(error) => error.exit_code(),
            Self::Run(error) => error.exit_code(),
            Self::Admin(error) => error.exit_code(),
            Self::Change(error) => error.exit_code(),
            Self::Status(error) => error.exit_code(),
            #[cfg(feature = "load")]
            Self::Load(_) => 1,
            #[cfg(all(feature = "lab", feature = "load"))]
            Self::Quickstart(_) => 1,
            Self::Certs(_) | Self::TicketKeys(_) | Self::Probe { .. } | Self::System(..) => 1,
        }
    }
}

/// Runs the command.
///
/// # Errors
/// [`CliError`], to be printed.
pub fn execute(cli: Cli) -> Result<(), CliError> {
    match cli.command {
        Command::Run(file) => Ok(run::run(&file.config)?),
        Command::Reload(command) => Ok(command.run()?),
        Command::Check(command) => command.run(),
        #[cfg(all(feature = "lab", feature = "load"))]
        Command::Quickstart(command) => Ok(quickstart::run(&command)?),
        Command::Certs(command) => Ok(command.run()?),
        Command::Profile(command) => Ok(command.run()?),
        Command::TicketKeys(command) => Ok(command.run()?),
        #[cfg(feature = "load")]
        Command::Load(command) => Ok(load::run(&command)?),
        Command::Tunnels(command) => Ok(command.run()?),
        Command::Devices(command) => Ok(command.run()?),
        Command::Servers(command) => Ok(command.run()?),
        Command::Crl(command) => Ok(command.run()?),
        Command::Status(command) => Ok(command.run()?),
        Command::Histogram(command) => Ok(command.histogram()?),
    }
}
