//! `adit load` and `adit load serve`.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, NamedGroup, RootCertStore};

use super::{
    BackendKind, Direction, LoadError, Mode, Progress, Report, Scenario, Work, execute, serve,
};
use crate::certs;
use crate::limits::{
    LOAD_MESSAGE_MAX, LOAD_OPEN_TIMEOUT, LOAD_RATE, LOAD_TIME_MAX, LOAD_TUNNELS_MAX,
};
use crate::observe::percentile_text;
use crate::ring;
use crate::tls::remembering;

/// Put load on a gateway, or on any TLS or TCP peer, and measure it.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct LoadCommand {
    #[command(subcommand)]
    serve: Option<ServeCommand>,
    /// The peer, host:port.
    #[arg(long)]
    target: Option<String>,
    /// How a tunnel is opened.
    #[arg(long, value_enum, default_value = "h1-connect")]
    mode: Mode,
    /// Open tunnels by CONNECT over HTTP/2; short for --mode h2-connect.
    #[arg(long, conflicts_with = "mode")]
    http2: bool,
    /// Tunnels in one HTTP/2 session.
    #[arg(long, default_value_t = 100)]
    tunnels_per_session: usize,
    /// The destination in CONNECT, host:port.
    #[arg(long, default_value = "localhost:80")]
    connect: String,
    /// Work of each tunnel.
    #[arg(long, value_enum, default_value = "echo")]
    scenario: Work,
    /// Resume sessions.
    #[arg(long)]
    resumed: bool,
    /// Tunnels at once.
    #[arg(long, default_value_t = 100)]
    tunnels: usize,
    /// Bytes of a message.
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// Operations a second over all tunnels (open loop; latency counts from the intended time).
    #[arg(long)]
    rate: Option<f64>,
    /// How long a tunnel may take to open, in seconds (60 by default); beyond it is counted as
    /// failed.
    #[arg(long, value_parser = seconds)]
    open_timeout: Option<Duration>,
    /// Measured time, in seconds ("10" or "10s").
    #[arg(long, default_value = "10s", value_parser = seconds)]
    duration: Duration,
    /// Time before it that is not measured, in seconds.
    #[arg(long, default_value = "1s", value_parser = seconds)]
    warmup: Duration,
    /// Direction of a stream.
    #[arg(long, value_enum, default_value = "down")]
    direction: Direction,
    /// TLS version, 1.2 or 1.3; both are offered by default.
    #[arg(long)]
    tls: Option<String>,
    /// Key exchange: "x25519", or rustls's default (X25519MLKEM768 first).
    #[arg(long)]
    groups: Option<String>,
    /// CA that the peer's certificate must chain to.
    #[arg(long)]
    ca: Option<PathBuf>,
    /// Client certificate, chain included.
    #[arg(long)]
    cert: Option<PathBuf>,
    /// Its key.
    #[arg(long)]
    key: Option<PathBuf>,
    /// Name that the peer's certificate must have; the host of --target by default.
    #[arg(long)]
    server_name: Option<String>,
    /// Write the latency histogram to this file, in HdrHistogram's percentile format.
    #[arg(long)]
    hgrm: Option<PathBuf>,
    /// Write the figures as JSON to this file, or to standard output with "-".
    #[arg(long)]
    json: Option<PathBuf>,
    /// Run on this CPU.
    #[arg(long)]
    core: Option<usize>,
}

#[derive(Debug, Subcommand)]
enum ServeCommand {
    /// Be the server behind the peer under test.
    Serve {
        /// Address to listen on.
        #[arg(long)]
        listen: SocketAddr,
        /// Behaviour of the server.
        #[arg(long, value_enum, default_value = "echo")]
        kind: BackendKind,
        /// Run on this CPU.
        #[arg(long)]
        core: Option<usize>,
    },
}

/// Runs the command.
///
/// # Errors
/// [`LoadError`].
pub fn run(command: &LoadCommand) -> Result<(), LoadError> {
    if let Some(ServeCommand::Serve { listen, kind, core }) = &command.serve {
        pin(*core)?;
        let ready = |address| eprintln!("serving on {address}");
        return Ok(serve(*listen, *kind, ready)?);
    }
    pin(command.core)?;
    // Without room for descriptors a large run fails by itself, with the count of what failed.
    let _ = ring::raise_descriptor_limit();
    let scenario = scenario(command)?;
    let report = execute(&scenario, |progress| match progress {
        Progress::Measuring => eprintln!("measuring"),
        Progress::Measured => eprintln!("measured"),
        Progress::Working { .. } => {}
    })?;
    write(command, &report)?;
    if report.operations == 0 {
        return Err(LoadError::NothingDone(report.failed()));
    }
    Ok(())
}

fn pin(core: Option<usize>) -> Result<(), LoadError> {
    let Some(cpu) = core else { return Ok(()) };
    ring::pin_to_cpu(cpu)
        .map_err(|error| LoadError::Usage(format!("cannot run on CPU {cpu}: {error}")))
}

fn write(command: &LoadCommand, report: &Report) -> Result<(), LoadError> {
    let put = |path: &Path, text: String| {
        std::fs::write(path, text)
            .map_err(|error| LoadError::Write(path.display().to_string(), error))
    };
    if let Some(path) = &command.hgrm {
        put(path, percentile_text(&report.latency))?;
    }
    match command.json.as_deref() {
        Some(path) if path == Path::new("-") => {
            let text = serde_json::to_string(report).unwrap_or_default();
            return Ok(certs::print(format!("{text}\n").as_bytes())?);
        }
        Some(path) => put(
            path,
            serde_json::to_string_pretty(report).unwrap_or_default(),
        )?,
        None => {}
    }
    Ok(certs::print(format!("{report}\n").as_bytes())?)
}

fn scenario(command: &LoadCommand) -> Result<Scenario, LoadError> {
    let usage = |text: &str| LoadError::Usage(text.to_owned());
    let target = command
        .target
        .as_deref()
        .ok_or_else(|| usage("--target HOST:PORT is missing"))?;
    let address = target
        .to_socket_addrs()
        .ok()
        .and_then(|mut found| found.next());
    let address = address.ok_or_else(|| {
        LoadError::Usage(format!("--target {target} is not a reachable host:port"))
    })?;
    check_numbers(command)?;
    let tls = if command.mode == Mode::Tcp {
        None
    } else {
        let name = command
            .server_name
            .clone()
            .unwrap_or_else(|| host_of(target).to_owned());
        let name = ServerName::try_from(name).map_err(|_| usage("--server-name is not a name"))?;
        Some((client_config(command)?, name))
    };
    Ok(Scenario {
        target: address,
        mode: if command.http2 {
            Mode::H2Connect
        } else {
            command.mode
        },
        connect: command.connect.clone(),
        work: command.scenario,
        resumed: command.resumed,
        tunnels: command.tunnels,
        tunnels_per_session: command.tunnels_per_session,
        size: command.size,
        exchange: None,
        rate: command.rate,
        open_timeout: command.open_timeout.unwrap_or(LOAD_OPEN_TIMEOUT),
        direction: command.direction,
        warmup: command.warmup,
        duration: command.duration,
        tls,
    })
}

/// The host of `host:port`, without the brackets of an IPv6 address: what a certificate names.
fn host_of(target: &str) -> &str {
    let host = target.rsplit_once(':').map_or(target, |(host, _)| host);
    host.strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host)
}

/// Refuses numbers that ask for nothing, or for more than can be counted.
fn check_numbers(command: &LoadCommand) -> Result<(), LoadError> {
    let refuse = |text: String| Err(LoadError::Usage(text));
    if !(1..=LOAD_TUNNELS_MAX).contains(&command.tunnels) {
        return refuse(format!("--tunnels must be 1 to {LOAD_TUNNELS_MAX}"));
    }
    if !(1..=LOAD_TUNNELS_MAX).contains(&command.tunnels_per_session) {
        return refuse(format!(
            "--tunnels-per-session must be 1 to {LOAD_TUNNELS_MAX}"
        ));
    }
    if !(1..=LOAD_MESSAGE_MAX).contains(&command.size) {
        return refuse(format!("--size must be 1 to {LOAD_MESSAGE_MAX} bytes"));
    }
    let (lowest, highest) = LOAD_RATE;
    if command
        .rate
        .is_some_and(|rate| !(lowest..=highest).contains(&rate))
    {
        return refuse(format!(
            "--rate must be {lowest} to {highest} operations a second"
        ));
    }
    if command.rate.is_some() && matches!(command.scenario, Work::Stream | Work::Idle) {
        return refuse("--rate is for the scenarios handshake and echo".to_owned());
    }
    for (name, time, shortest) in [
        ("--duration", command.duration, Duration::from_millis(1)),
        (
            "--open-timeout",
            command.open_timeout.unwrap_or(LOAD_OPEN_TIMEOUT),
            Duration::from_millis(1),
        ),
        ("--warmup", command.warmup, Duration::ZERO),
    ] {
        if !(shortest..=LOAD_TIME_MAX).contains(&time) {
            return refuse(format!(
                "{name} must be {} to {} seconds",
                shortest.as_secs_f64(),
                LOAD_TIME_MAX.as_secs()
            ));
        }
    }
    Ok(())
}

fn client_config(command: &LoadCommand) -> Result<Arc<ClientConfig>, LoadError> {
    let usage = |text: &str| LoadError::Usage(text.to_owned());
    let ca = command
        .ca
        .as_deref()
        .ok_or_else(|| usage("--ca FILE is missing: the peer is always verified"))?;
    let mut roots = RootCertStore::empty();
    for certificate in certs::read_certificates(ca)? {
        roots.add(certificate)?;
    }
    let mut provider = CryptoProvider {
        signature_verification_algorithms: remembering(),
        ..aws_lc_rs::default_provider()
    };
    match command.groups.as_deref() {
        None | Some("default") => {}
        Some("x25519") => provider
            .kx_groups
            .retain(|group| group.name() == NamedGroup::X25519),
        Some(_) => return Err(usage("--groups is x25519 or default")),
    }
    let versions: &[&rustls::SupportedProtocolVersion] = match command.tls.as_deref() {
        None => rustls::ALL_VERSIONS,
        Some("1.2") => &[&rustls::version::TLS12],
        Some("1.3") => &[&rustls::version::TLS13],
        Some(_) => return Err(usage("--tls is 1.2 or 1.3")),
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)?
        .with_root_certificates(roots);
    Ok(Arc::new(match (&command.cert, &command.key) {
        (Some(cert), Some(key)) => builder.with_client_auth_cert(
            certs::read_certificates(cert)?,
            certs::read_private_key(key)?,
        )?,
        (None, None) => builder.with_no_client_auth(),
        _ => return Err(usage("--cert and --key belong together")),
    }))
}

fn seconds(text: &str) -> Result<Duration, LoadError> {
    let number = text.strip_suffix('s').unwrap_or(text).parse();
    let usage = |text: &str| LoadError::Usage(text.to_owned());
    let number: f64 = number.map_err(|_| usage("not a number of seconds"))?;
    Duration::try_from_secs_f64(number).map_err(|error| usage(&error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_name_is_the_host_without_brackets() {
        for (target, host) in [
            ("gate.test:443", "gate.test"),
            ("127.0.0.1:8443", "127.0.0.1"),
            ("[::1]:8443", "::1"),
            ("[2001:db8::5]:1", "2001:db8::5"),
        ] {
            assert_eq!(host_of(target), host);
            assert!(ServerName::try_from(host).is_ok(), "{host}");
        }
    }
}
