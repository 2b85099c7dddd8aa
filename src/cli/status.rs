//! `adit status`: whether a running node is well, and what is amiss.

use std::fmt::Write as _;

use serde::Deserialize;

use super::admin::AdminCommand;
use super::admin_error::AdminError;
use crate::certs;
use crate::findings::{HealthLevel, escaped};

/// Shows the health of a running node.
#[derive(Debug, clap::Args)]
pub struct StatusCommand {
    #[command(flatten)]
    admin: AdminCommand,
    /// Print the answer of /readyz as it is.
    #[arg(long)]
    json: bool,
}

/// Why the command does not end with 0.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The node cannot be asked.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The node has findings; they were printed.
    #[error("the node needs attention: the worst finding is {}", .0.word())]
    Findings(HealthLevel),
    /// The node takes no new tunnel. Why was printed.
    #[error("the node takes no new tunnel")]
    Unavailable,
}

impl StatusError {
    /// As [`CliError::exit_code`](super::CliError::exit_code).
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Admin(error) => error.exit_code(),
            Self::Findings(HealthLevel::Notice | HealthLevel::Warning) => 3,
            Self::Findings(HealthLevel::Critical) | Self::Unavailable => 4,
        }
    }
}

/// The parts of the answer that are shown.
#[derive(Deserialize)]
struct Answer {
    ready: bool,
    status: String,
    version: String,
    profile: Option<Profile>,
    #[serde(default)]
    findings: Vec<Finding>,
}

#[derive(Deserialize)]
struct Profile {
    name: String,
}

#[derive(Deserialize)]
struct Finding {
    code: String,
    severity: HealthLevel,
    since: i64,
    message: String,
    consequence: String,
    remedy: String,
}

impl StatusCommand {
    /// Does it.
    ///
    /// # Errors
    /// [`StatusError`].
    pub fn run(&self) -> Result<(), StatusError> {
        let response = self.admin.ask("GET", "/readyz", None)?;
        let Ok(answer) = serde_json::from_str::<Answer>(&response.body) else {
            return Err(response.wrong().into());
        };
        let shown = match self.json {
            true => format!("{}\n", response.body.trim_end()),
            false => answer.text(),
        };
        certs::print(shown.as_bytes()).map_err(AdminError::from)?;
        let worst = answer.findings.iter().map(|one| one.severity).max();
        match worst {
            _ if !answer.ready => Err(StatusError::Unavailable),
            Some(worst) if worst > HealthLevel::Notice => Err(StatusError::Findings(worst)),
            _ => Ok(()),
        }
    }
}

impl Answer {
    fn text(&self) -> String {
        let profile = self
            .profile
            .as_ref()
            .map_or("none", |profile| &profile.name);
        let mut text = format!(
            "{}: adit {}, profile {}\n",
            self.status,
            self.version,
            escaped(profile)
        );
        for one in &self.findings {
            let since = time::OffsetDateTime::from_unix_timestamp(one.since).ok();
            let format = &time::format_description::well_known::Rfc3339;
            let since = since.and_then(|since| since.format(format).ok());
            let written = write!(
                text,
                "\n{} {} since {}\n  {}\n  consequence: {}\n  remedy: {}\n",
                one.severity.word(),
                escaped(&one.code),
                since.unwrap_or_default(),
                escaped(&one.message),
                one.consequence,
                one.remedy
            );
            written.expect("writing to a String does not fail");
        }
        text
    }
}
