//! `adit certs check`: the findings on a file, for people as a table and for programs as JSON.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::findings::{Inspected, Role, inspect};
use super::{CertError, Name, read_password};
use crate::findings::{Problem, Severity};

/// Arguments of `adit certs check`.
#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    /// The file, in any format.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Purpose of the certificate.
    #[arg(long = "as", value_enum, default_value = "server", value_name = "ROLE")]
    role: Role,
    /// File of the private key, where it is not in FILE.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Name or address that devices use, which the certificate must cover.
    #[arg(long, value_name = "HOST")]
    name: Option<String>,
    /// File with the password, alone in it; an empty file is the empty password.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Print JSON, one object.
    #[arg(long)]
    json: bool,
}

/// Findings of a file.
#[derive(Serialize)]
pub struct Report<'a> {
    file: String,
    role: Role,
    certificates: usize,
    errors: usize,
    warnings: usize,
    findings: &'a [Problem],
    /// The name under which it was imported.
    #[serde(skip_serializing_if = "Option::is_none")]
    imported: Option<&'a Name>,
}

impl<'a> Report<'a> {
    /// Of a file with so many certificates.
    #[must_use]
    pub fn new(file: &Path, role: Role, certificates: usize, findings: &'a [Problem]) -> Self {
        let count = |severity| findings.iter().filter(|f| f.severity == severity).count();
        Self {
            file: file.display().to_string(),
            role,
            certificates,
            errors: count(Severity::Error),
            warnings: count(Severity::Warning),
            findings,
            imported: None,
        }
    }

    /// It was imported.
    pub fn imported(&mut self, name: &'a Name) {
        self.imported = Some(name);
    }

    /// For programs, or for people.
    ///
    /// # Errors
    /// [`CertError::Crypto`], if memory ends.
    pub fn text(&self, json: bool) -> Result<String, CertError> {
        if json {
            let json = serde_json::to_string_pretty(self)
                .map_err(|cause| CertError::crypto("write the findings as JSON", cause))?;
            return Ok(json + "\n");
        }
        Ok(table(self))
    }
}

/// Prints the report.
///
/// # Errors
/// [`CertError::Findings`] where there are errors in it, [`CertError`] where there is none.
pub fn run(arguments: &CheckArgs) -> Result<(), CertError> {
    let password = arguments.password_file.as_deref();
    let password = password.map(read_password).transpose()?;
    let password = password.as_ref().map(|password| password.as_str());
    let file = &arguments.file;
    if arguments.role != Role::Server && arguments.name.is_some() {
        let problem = "only a server certificate must cover a name";
        return Err(CertError::request(problem, "leave --name out"));
    }
    let Inspected {
        certificates,
        findings,
        ..
    } = inspect(
        arguments.role,
        file,
        arguments.key.as_deref(),
        password,
        arguments.name.as_deref(),
    )?;
    let report = Report::new(file, arguments.role, certificates.len(), &findings);
    print(report.text(arguments.json)?.as_bytes())?;
    match report.errors {
        0 => Ok(()),
        errors => Err(CertError::Findings { errors }),
    }
}

/// Writes to standard output.
///
/// # Errors
/// [`CertError::File`].
pub fn print(report: &[u8]) -> Result<(), CertError> {
    let mut output = io::stdout().lock();
    match output.write_all(report).and_then(|()| output.flush()) {
        // The reader has seen enough, as in `adit certs show bundle.pem | head`.
        Err(cause) if cause.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => {
            other.map_err(|cause| CertError::io("write to", Path::new("standard output"), cause))
        }
    }
}

fn table(report: &Report<'_>) -> String {
    let mut text = String::new();
    for finding in report.findings {
        let severity = finding.severity.word();
        text.push_str(&format!("{severity:<8} {:<22} {finding}\n", finding.code));
    }
    text.push_str(&format!(
        "{}: {} certificates, {} errors, {} warnings\n",
        report.file, report.certificates, report.errors, report.warnings
    ));
    if let Some(name) = report.imported {
        let role = report.role.word();
        text.push_str(&format!(
            "imported as the {role} certificate {name}; a config names it \"store:{name}\"\n"
        ));
    }
    text
}
