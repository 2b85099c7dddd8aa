//! `adit check`: a config and what it names, and with `--probe` the servers that it leads to.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;

use super::{CertificatesError, CliError, RunError};
use crate::backend::resolver;
use crate::certs;
use crate::certs::describe::{CertificateDescription, escaped};
use crate::config::{self, AuditSink, Config};
use crate::control::{self, ControlError, ServerProbe, TlsProbe, probe_servers};
use crate::engine::{self, LoadError};
use crate::observe::AuditLog;

/// Arguments of `adit check`.
#[derive(Debug, Args)]
pub struct CheckCommand {
    /// The config file.
    #[arg(long, default_value = "adit.toml")]
    config: PathBuf,
    /// Connect to every server of every service, and report what it speaks. No tunnel is opened.
    #[arg(long)]
    probe: bool,
    /// Print what was found of the servers as JSON, one object, and nothing else.
    #[arg(long, requires = "probe")]
    json: bool,
}

impl CheckCommand {
    /// Checks, and prints what was found.
    ///
    /// # Errors
    /// [`CliError`]: what is wrong with the config, or [`CliError::Probe`].
    pub fn run(&self) -> Result<(), CliError> {
        let config = config::load(&self.config)?;
        let doubts = engine::Loaded::check(&config)?;
        if let Some(file) = &config.admin_token {
            control::read_token(file).map_err(|why| RunError::Control(ControlError::Token(why)))?;
        }
        if let AuditSink::File(file) = &config.log.audit {
            AuditLog::check(file).map_err(RunError::Audit)?;
        }
        if !self.json {
            let mut said = config.summary().to_string();
            for (file, finding) in doubts.certificates {
                let _ = writeln!(said, "certificate     {}: {finding}", file.display());
            }
            if let Some(problem) = control::check_state_socket(&config.state_dir) {
                let _ = writeln!(said, "warning: {problem}");
            }
            for (source, text) in doubts.ended_crls {
                let _ = writeln!(said, "warning: crl    {source}: {text}");
            }
            let _ = writeln!(said, "{} is right", self.config.display());
            print(&said)?;
        }
        if self.probe {
            self.probe(&config)?;
        }
        Ok(())
    }

    fn probe(&self, config: &Config) -> Result<(), CliError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| CliError::System("start the probes", error))?;
        let found = runtime.block_on(async {
            let (handle, names) = resolver();
            tokio::select! {
                found = probe_servers(config, handle) => found,
                // It ends when nobody can ask any more, which is after the probes.
                () = names.run() => Ok(Vec::new()),
            }
        });
        let servers = found.map_err(|(service, why)| LoadError::Service(service, why))?;
        let unusable = servers.iter().filter(|server| !server.usable).count();
        if self.json {
            let report = serde_json::json!({"servers": servers, "unusable": unusable});
            print(&format!("{report:#}\n"))?;
        } else {
            print(&table(&servers))?;
        }
        match unusable {
            0 => Ok(()),
            _ => Err(CliError::Probe {
                unusable,
                all: servers.len(),
            }),
        }
    }
}

fn print(text: &str) -> Result<(), CertificatesError> {
    Ok(certs::print(text.as_bytes())?)
}

/// A line for each server, and below it what is wrong with it and its certificate.
fn table(servers: &[ServerProbe]) -> String {
    let head = [
        "SERVICE", "SERVER", "RESULT", "MS", "TLS", "SUITE", "GROUP", "ACCEPTS", "ALPN",
    ];
    let rows: Vec<[String; 9]> = servers.iter().map(cells).collect();
    let head = head.map(str::to_owned);
    let width = |column: usize| {
        let all = rows.iter().chain([&head]);
        all.map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    let mut line = |row: &[String; 9], notes: &[String]| {
        let cells = row.iter().zip(&widths);
        let cells: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        // Writing to a String does not fail.
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
        for note in notes {
            let _ = writeln!(text, "    {note}");
        }
    };
    if servers.is_empty() {
        return "no service has a server of its own\n".to_owned();
    }
    line(&head, &[]);
    for (server, row) in servers.iter().zip(&rows) {
        line(row, &notes(server));
    }
    text
}

fn cells(server: &ServerProbe) -> [String; 9] {
    let none = || "-".to_owned();
    let or_none = |value: Option<&str>| value.map_or_else(none, str::to_owned);
    let tls = server.tls.as_ref();
    let accepts = tls.map(|tls| tls.accepts.join(", "));
    [
        server.service.clone(),
        server.server.clone(),
        if server.usable { "ok" } else { "FAILED" }.to_owned(),
        server.connect_ms.map_or_else(none, |ms| ms.to_string()),
        or_none(tls.and_then(|tls| tls.version)),
        or_none(tls.and_then(|tls| tls.cipher_suite.as_deref())),
        or_none(tls.and_then(|tls| tls.key_exchange.as_deref())),
        or_none(accepts.as_deref().filter(|accepts| !accepts.is_empty())),
        or_none(tls.and_then(|tls| tls.alpn.as_deref())),
    ]
}

fn notes(server: &ServerProbe) -> Vec<String> {
    let mut notes: Vec<String> = server.problem.iter().map(|why| escaped(why)).collect();
    if let Some(TlsProbe {
        certificate: Some(certificate),
        chain_fault,
        fits_name,
        ..
    }) = &server.tls
    {
        let CertificateDescription {
            subject,
            issuer,
            not_after,
            days_left,
            ..
        } = certificate;
        let chains = match chain_fault {
            None => "chains to a root",
            Some(_) => "does not chain to a root",
        };
        let fits = match fits_name {
            Some(true) => "fits the name",
            _ => "does not cover the name",
        };
        notes.push(format!(
            "certificate {} by {}, until {not_after} ({days_left} days), {chains}, {fits}",
            escaped(subject),
            escaped(issuer)
        ));
    }
    notes
}
