//! Why a node that is asked does not answer, or does not do it.

use std::io;

use hyper::StatusCode;

use super::export::ExportError;
use crate::certs::CertError;
use crate::config;
use crate::control::TokenError;
use crate::control::client::ClientError;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address.
    #[error("--admin {0} is neither an address with a port nor unix:PATH")]
    Address(String),
    /// The config.
    #[error("{0}")]
    Config(#[from] config::ConfigError),
    /// The export of device configurations.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The token.
    #[error("{0}")]
    Token(#[from] TokenError),
    /// The file.
    #[error("cannot read {0}: {1}")]
    File(String, io::Error),
    /// There is no answer, or none that counts.
    #[error("no answer from the admin listener at {0}: {1}")]
    Client(String, ClientError),
    /// There is no answer, and there may be one for others.
    #[error(
        "{0}; this user may not use the node's own socket, {1}: run the command as root or as the user that the node runs as"
    )]
    NotOwner(Box<AdminError>, String),
    /// A part of the answer is missing.
    #[error("the answer of the admin listener at {0} is not complete: {1} did not answer it")]
    Incomplete(String, String),
    /// The client cannot run.
    #[error("cannot ask the node: {0}")]
    Runtime(io::Error),
    /// The config does not say where.
    #[error(
        "admin.listen leaves the port to the system; name it with --admin HOST:PORT, as the node's log has it"
    )]
    AnyPort,
    /// The answer.
    #[error("the admin listener at {0} answered: {1}")]
    Refused(String, String, StatusCode),
    /// Standard output.
    #[error(transparent)]
    Output(#[from] CertError),
    /// A change.
    #[error("the node refuses the change; the state before it stays active:\n{0}")]
    Change(String),
    /// The command line.
    #[error(
        "--close needs a selection of tunnels: --id, --device, --user, --app, --serial or --service"
    )]
    CloseAll,
}

impl AdminError {
    /// As [`CliError::exit_code`](super::CliError::exit_code).
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::NotOwner(error, _) => error.exit_code(),
            Self::Address(_) | Self::Config(_) | Self::Token(_) | Self::File(..) => 2,
            Self::AnyPort | Self::Change(_) | Self::CloseAll => 2,
            Self::Export(ExportError::Usage(_) | ExportError::Config(_)) => 2,
            Self::Refused(_, _, StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY) => 2,
            Self::Refused(..)
            | Self::Export(_)
            | Self::Client(..)
            | Self::Incomplete(..)
            | Self::Runtime(_)
            | Self::Output(_) => 1,
        }
    }
}
