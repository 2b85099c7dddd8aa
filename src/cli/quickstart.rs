//! `adit quickstart`: a working gateway with real traffic, from nothing.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use time::OffsetDateTime;

use super::lock::{LockError, StateLock};
use super::run::{Gateway, RunError};
use super::upgrade::Inheritance;
use crate::certs::make::Usage;
use crate::certs::pem::pem_block;
use crate::certs::{self, CertError, IssueRequest, KeyType, Validity};
use crate::config::ConfigError;
use crate::control::ConfigFile;
use crate::files::{self, FileError, Mode};
use crate::lab::{self, CRL_FILE, CertificateAuthority, CrlRequest, MakeCa, Reason};
use crate::limits::LOAD_OPEN_TIMEOUT;
use crate::load::{
    self, BackendKind, Direction, LoadError, Mode as TunnelMode, Progress, Report, Scenario, Work,
};
use crate::observe::plot;

const FOLDER: &str = "adit-quickstart";
/// The state folder in it.
const STATE: &str = "state";
const HOST: &str = "echo.quickstart";
const TUNNELS: usize = 50;
const DAYS: u32 = 365;
const CRL_DAYS: i64 = 30;

/// Options of the quickstart.
#[derive(Debug, clap::Args)]
pub struct QuickstartCommand {
    /// Address for tunnels.
    #[arg(long, default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
    /// Seconds of traffic.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// End after the report instead of running on.
    #[arg(long)]
    once: bool,
}

/// Why the quickstart failed.
#[derive(Debug, thiserror::Error)]
pub enum QuickstartError {
    /// Certificates.
    #[error("{0}; delete the folder {FOLDER} to start again")]
    Certs(#[from] CertError),
    /// The config that was written.
    #[error("{0}; delete the folder {FOLDER} to start again")]
    Config(#[from] ConfigError),
    /// A file or folder that cannot be written.
    #[error(transparent)]
    Files(#[from] FileError),
    /// Another one runs here.
    #[error("{0}, in another folder")]
    Lock(#[from] LockError),
    /// The gateway.
    #[error("{0} (quickstart takes another address with --listen)")]
    Run(#[from] RunError),
    /// The traffic.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A thread.
    #[error("cannot start {0}: {1}")]
    Start(&'static str, String),
}

/// Runs it.
///
/// # Errors
/// [`QuickstartError`].
pub(super) fn run(command: &QuickstartCommand) -> Result<(), QuickstartError> {
    let folder = PathBuf::from(FOLDER);
    files::own_folder(&folder)?;
    // Before anything is written: one that runs here keeps its config and certificates as they are.
    let state = folder.join(STATE);
    files::own_folder(&state)?;
    let lock = StateLock::take(&state, None)?;
    prepare_certificates(&folder)?;
    let backend = start_backend()?;
    let file = folder.join("adit.toml");
    files::replace(
        &file,
        config_text(command.listen, backend).as_bytes(),
        Mode::Public,
    )?;
    let (config, file) = ConfigFile::read(&file)?;
    let gateway = Gateway::start(
        config,
        file,
        Inheritance {
            lock: Some(lock.into()),
            ..Inheritance::default()
        },
    )?;
    let admin = gateway.admin_address();
    let address = gateway.node.address().unwrap_or(command.listen);
    let node = gateway.node.clone();
    let control = std::thread::Builder::new()
        .name("control".into())
        .spawn(move || gateway.run())
        .map_err(|error| QuickstartError::Start("the control core", error.to_string()))?;
    say(&format!(
        "gateway      {address}, with an HTTP server behind it; everything is in ./{FOLDER}/\n"
    ));
    let report = traffic(&folder, address, command.seconds);
    if let Ok(report) = &report {
        print_report(report, address, admin);
    }
    if command.once || report.is_err() {
        node.drain();
    } else {
        say("\nRunning until Ctrl-C.\n");
    }
    let ended = control
        .join()
        .map_err(|_| QuickstartError::Start("the control core", "it panicked".into()))?;
    report.and(Ok(ended?))
}

/// CA, gateway and device certificates, made once and reused, and a CRL that is renewed at each start.
fn prepare_certificates(folder: &Path) -> Result<(), CertError> {
    if !folder.join("ca.pem").exists() {
        let name = "adit quickstart group".to_owned();
        let ca = lab::make_ca(&MakeCa {
            common_name: name,
            days: DAYS,
            key_type: KeyType::P256,
        })?;
        ca.write(folder)?;
    }
    let ca = CertificateAuthority::load(folder)?;
    let issue = |name: &str, usage: Usage, common_name: &str| {
        let (certificate, key) = (
            folder.join(format!("{name}.pem")),
            folder.join(format!("{name}.key")),
        );
        if certificate.exists() {
            return Ok(());
        }
        let mut request = IssueRequest::new(usage, common_name, Validity::days(DAYS - 1)?);
        if usage == Usage::Server {
            request.dns = vec!["localhost".to_owned()];
            request.ip = vec![[127, 0, 0, 1].into()];
        } else {
            request.app = Some("quickstart".to_owned());
        }
        lab::issue(&ca, &request)?.write(&certificate, &key)
    };
    issue("gateway", Usage::Server, "localhost")?;
    issue("device", Usage::Client, "device-1")?;
    let file = folder.join(CRL_FILE);
    let previous = if file.exists() {
        certs::read_crls(&file)?.into_iter().next()
    } else {
        None
    };
    let now = OffsetDateTime::now_utc();
    let request = CrlRequest {
        serials: Vec::new(),
        reason: Reason::default(),
        this_update: now,
        next_update: now + time::Duration::days(CRL_DAYS),
    };
    let crl = lab::revoke(&ca, previous.as_ref(), &request)?;
    let content = pem_block("X509 CRL", &crl.der);
    Ok(files::replace(&file, content.as_bytes(), Mode::Public)?)
}

fn start_backend() -> Result<SocketAddr, QuickstartError> {
    let (sender, receiver) = mpsc::channel();
    let failed = sender.clone();
    std::thread::spawn(move || {
        let ready = move |address| drop(sender.send(Ok(address)));
        if let Err(error) = load::serve(([127, 0, 0, 1], 0).into(), BackendKind::Http, ready) {
            let _ = failed.send(Err(error.to_string()));
        }
    });
    let started = receiver
        .recv()
        .unwrap_or_else(|error| Err(error.to_string()));
    started.map_err(|error| QuickstartError::Start("the HTTP server", error))
}

fn config_text(listen: SocketAddr, backend: SocketAddr) -> String {
    format!(
        r#"# Written by adit quickstart at each start.
state_dir = "{STATE}"

[engine]
max_tunnels = 5000
drain_timeout = "3s"

[admin]
listen = "127.0.0.1:0"

[log]
format = "text"
audit = "audit.log"

[profile]
name = "quickstart"
external = "localhost:{port}"

[profile.listener]
https = "{listen}"

[profile.server_certificate]
primary = "gateway.pem"
key = "gateway.key"

[profile.device_auth]
group_certificates = ["ca.pem"]
unmanaged = "allow" # there is no device registry here

[profile.device_auth.crl]
files = ["{CRL_FILE}"]

[[profile.service]]
name = "echo"
servers = ["{backend}"]

[[profile.rule]]
host = "{HOST}"
port = 80
service = "echo"
"#,
        port = listen.port(),
    )
}

/// Opens tunnels as the device and sends HTTP requests through them.
fn traffic(folder: &Path, address: SocketAddr, seconds: u64) -> Result<Report, QuickstartError> {
    let mut roots = RootCertStore::empty();
    for certificate in certs::read_certificates(&folder.join("ca.pem"))? {
        roots.add(certificate).map_err(LoadError::Tls)?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(LoadError::Tls)?
        .with_root_certificates(roots)
        .with_client_auth_cert(
            certs::read_certificates(&folder.join("device.pem"))?,
            certs::read_private_key(&folder.join("device.key"))?,
        )
        .map_err(LoadError::Tls)?;
    let request = format!("GET /quickstart HTTP/1.1\r\nHost: {HOST}\r\n\r\n").into_bytes();
    let answer = load::http_answer_length(&request);
    let scenario = Scenario {
        target: address,
        mode: TunnelMode::H1Connect,
        tunnels_per_session: 1,
        connect: format!("{HOST}:80"),
        work: Work::Echo,
        resumed: false,
        tunnels: TUNNELS,
        size: request.len(),
        exchange: Some((request, answer)),
        rate: None,
        open_timeout: LOAD_OPEN_TIMEOUT,
        direction: Direction::Down,
        warmup: Duration::from_millis(300),
        duration: Duration::from_secs(seconds.max(1)),
        tls: Some((
            Arc::new(config),
            ServerName::try_from("localhost").expect("localhost is a name"),
        )),
    };
    let live = std::io::stdout().is_terminal();
    let mut second = 0;
    let report = load::execute(&scenario, move |progress| match progress {
        Progress::Measuring => {
            say(&format!(
                "traffic      {TUNNELS} tunnels, HTTP requests one after the other in each\n"
            ));
        }
        Progress::Working { operations, bytes } => {
            second += 1;
            let (start, end) = if live { ("\r", "") } else { ("", "\n") };
            say(&format!(
                "{start}  {second:>3} s      {operations} requests, {:.1} MB{end}",
                bytes as f64 / 1e6
            ));
        }
        Progress::Measured => say("\n"),
    })?;
    Ok(report)
}

fn print_report(report: &Report, address: SocketAddr, admin: Option<SocketAddr>) {
    let port = address.port();
    say(&format!(
        "\n{report}\n\n{}\nTry it yourself:\n\n  curl --proxytunnel --proxy https://localhost:{port} --proxy-cacert {FOLDER}/ca.pem \\\n    \
         --proxy-cert {FOLDER}/device.pem --proxy-key {FOLDER}/device.key http://{HOST}/hello\n",
        plot(&report.latency, 60)
    ));
    if let Some(admin) = admin {
        say(&format!(
            "  curl http://{admin}/metrics\n  adit histogram --admin {admin}\n"
        ));
    }
    say(&format!(
        "\nEach tunnel has its lines in {FOLDER}/audit.log.\n"
    ));
}

/// Prints. Nobody needs to read it: the gateway runs on all the same.
fn say(text: &str) {
    let _ = certs::print(text.as_bytes());
}
