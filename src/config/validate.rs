//! The bridge from what was written to what is valid.
//!
//! It always goes to the end: where something is wrong, the problem is reported and a stand-in
//! takes the value's place, so that the rest is looked at too. Stand-ins never get out, since a
//! report that is not empty gives an error.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::ProfileText;
use super::address::{Host, HostPort};
use super::authentication::{device_auth, server_certificate};
use super::cores::Cpus;
use super::document::Document;
use super::error::{ConfigError, Fault, Report, nearest, quoted};
use super::listener::{Listener, listener};
use super::named::NamedFiles;
use super::protocols::tls;
use super::raw::{Part, RawConfig, RawEngine, RawProfile};
use super::reach::Tcp;
use super::resumption::resumption;
use super::routing::routing;
use super::servers::tcp;
use super::slot::{Numbers, Slot};
use super::sni::SniNames;
use super::traffic::{app_limits, idle};
use super::types::{AdminListen, AuditSink, Config, Engine, Log, LogFormat, Origin, Profile};
use super::values::{
    Folder, STATE_DIR, count, count_or_none, duration, host_port, listen_address,
    without_repetition, word,
};
use crate::limits::{
    CONFIG_TUNNELS_MAX, FAILED_HANDSHAKES, TUNNEL_RATE_MAX, UNAUTHENTICATED, UNAUTHENTICATED_MAX,
    UNAUTHENTICATED_PER_SOURCE, UNIX_SOCKET_PATH_MAX,
};
use crate::profiles;

/// Checks the text of a config file for a machine with these CPUs. With `part`, the profile is
/// passed over. Where it has none, or it is passed over, the node is unconfigured.
pub(super) fn check(
    text: &str,
    file: &Path,
    cpus: &Cpus,
    part: Part,
) -> Result<Config, ConfigError> {
    let mut read = Document::parse(text, file)?.read(|root| RawConfig::read(root, part));
    let (folder, report) = (Folder::of(file), &mut read.report);
    let config = config(read.value, &read.named, &folder, cpus, report);
    read.report.conclude(file, config)
}

/// Checks the text of a profile by itself for `node`, whose config file is `file`.
pub(super) fn check_profile(
    profile: &ProfileText<'_>,
    node: &Config,
    file: &Path,
) -> Result<Config, ConfigError> {
    let mut read = Document::parse(profile.text, profile.shown)?.read(RawProfile::alone);
    let (mut raw, report) = (read.value, &mut read.report);
    raw.name = raw
        .name
        .required(report, "write the name by which it is stored")
        .parse(report, |name| stored_name(name, profile.name));
    let folder = Folder::of(file).storing(&node.state_dir);
    let files = folder.paths(&read.named);
    let mut checked = self::profile(raw, &read.named, node.engine.tcp, &folder, report);
    checked.origin = match profile.version {
        Some(version) => Origin::Store { version },
        None => Origin::File,
    };
    let config = Config {
        files: node.files.union(&files).cloned().collect(),
        profile: checked,
        ..node.clone()
    };
    read.report.conclude(profile.shown, config)
}

/// The name of a profile in the store, which is `expected` where it has one already.
fn stored_name(name: String, expected: Option<&str>) -> Result<String, Fault> {
    profiles::check_name(&name).map_err(|error| Fault::new(error.message(), error.remedy()))?;
    match expected {
        Some(expected) if expected != name => {
            let message = format!("this is profile {name}, but {expected} is expected");
            let remedy = format!("write {expected:?}, or name the other profile");
            Err(Fault::new(message, remedy))
        }
        _ => Ok(name),
    }
}

fn config(
    raw: RawConfig,
    named: &NamedFiles,
    folder: &Folder,
    cpus: &Cpus,
    report: &mut Report,
) -> Config {
    let engine = engine(raw.engine, cpus, report);
    let tcp = engine.tcp;
    let state_dir = raw
        .state_dir
        .parse(report, |text| folder.path(&text))
        .or(PathBuf::from(STATE_DIR));
    let folder = &folder.storing(&state_dir);
    Config {
        files: folder.paths(named),
        state_dir,
        engine,
        admin: raw
            .admin_listen
            .parse(report, |text| admin_listen(&text, folder))
            .or(AdminListen::Tcp(SocketAddr::from((
                Ipv4Addr::LOCALHOST,
                9901,
            )))),
        admin_token: raw
            .admin_token_file
            .parse(report, |file| folder.readable(&file))
            .given(),
        admin_users: users(raw.admin_socket_users, report),
        log: Log {
            format: raw
                .log_format
                .parse(report, |text| {
                    word(
                        &text,
                        &[("json", LogFormat::Json), ("text", LogFormat::Text)],
                    )
                })
                .or(LogFormat::Json),
            audit: raw
                .log_audit
                .parse(report, |text| audit(&text, folder))
                .or(AuditSink::Stdout),
        },
        profile: match raw.profile {
            Some(raw) => profile(raw, named, tcp, folder, report),
            None => Profile::none(),
        },
    }
}

fn engine(raw: RawEngine, cpus: &Cpus, report: &mut Report) -> Engine {
    let idle = idle(
        raw.idle_timeout,
        raw.idle_timeout_min,
        raw.idle_timeout_max,
        report,
    );
    let mut timeout = |slot: Slot<String>, seconds| {
        slot.parse(report, |text| duration(&text))
            .or(Duration::from_secs(seconds))
    };
    let handshake_timeout = timeout(raw.handshake_timeout, 10);
    let connect_timeout = timeout(raw.connect_timeout, 5);
    let drain_timeout = timeout(raw.drain_timeout, 30);
    let drain_delay = timeout(raw.drain_delay, 0);
    let max_tunnels = raw
        .max_tunnels
        .parse(report, |n| count(n, CONFIG_TUNNELS_MAX))
        .or(100_000);
    let max_unauthenticated = raw
        .max_unauthenticated
        .parse(report, |n| count(n, UNAUTHENTICATED_MAX))
        .or(UNAUTHENTICATED);
    let tcp = tcp(raw.tcp, report);
    Engine {
        cores: cores(raw.cores, cpus, report),
        max_tunnels,
        // A device's share above the node's is no mistake: it is how one writes that devices have no limit of their own.
        max_tunnels_per_device: raw
            .max_tunnels_per_device
            .parse(report, |n| count(n, CONFIG_TUNNELS_MAX))
            .or(256)
            .min(max_tunnels),
        max_unauthenticated,
        max_unauthenticated_per_source: raw
            .max_unauthenticated_per_source
            .parse(report, |n| count_or_none(n, UNAUTHENTICATED_MAX))
            .or(UNAUTHENTICATED_PER_SOURCE.min(max_unauthenticated.div_ceil(2))),
        failed_handshakes_per_second: raw
            .failed_handshakes_per_second
            .parse(report, |n| count_or_none(n, TUNNEL_RATE_MAX))
            .or(FAILED_HANDSHAKES),
        handshake_timeout,
        connect_timeout,
        idle_timeout: idle.0,
        idle_timeout_min: idle.1,
        idle_timeout_max: idle.2,
        max_lifetime: raw
            .max_lifetime
            .parse(report, |text| duration(&text))
            .given(),
        drain_delay,
        drain_timeout,
        watch_files: raw.watch_files.or(true),
        tcp,
    }
}

fn cores(slot: Slot<Numbers>, cpus: &Cpus, report: &mut Report) -> Vec<usize> {
    const REMEDY: &str = "write \"all\", a count, or a list of CPU ids";
    // More workers than the quota keeps busy would only wait for each other; whoever wants them can name a number.
    let all = || cpus.allowed[..cpus.usable].to_vec();
    let place = slot.place.clone();
    let Some(numbers) = slot.given() else {
        return all();
    };
    match numbers {
        Numbers::Word(text) => {
            if text != "all" {
                report.add(
                    &place,
                    Fault::new(format!("{} is not known here", quoted(&text)), REMEDY),
                );
            }
            all()
        }
        Numbers::One(number) => match usize::try_from(number)
            .ok()
            .filter(|n| (1..=cpus.allowed.len()).contains(n))
        {
            Some(number) => cpus.allowed[..number].to_vec(),
            None => {
                let message = format!(
                    "{number} cores are wanted, and the process may use {}",
                    cpus.allowed.len()
                );
                report.add(
                    &place,
                    Fault::new(
                        message,
                        format!(
                            "write a number from 1 to {}, or \"all\"",
                            cpus.allowed.len()
                        ),
                    ),
                );
                Vec::new()
            }
        },
        Numbers::Many(list) => {
            if list.is_empty() {
                report.add(&place, Fault::new("the list is empty", REMEDY));
            }
            let usable = |number: i64| {
                usize::try_from(number)
                    .ok()
                    .filter(|id| cpus.allowed.contains(id))
                    .ok_or_else(|| {
                        let message =
                            format!("CPU {number} is not among those that the process may use");
                        Fault::new(
                            message,
                            format!("choose from {:?}, or widen the affinity mask", cpus.allowed),
                        )
                    })
            };
            let list = list
                .into_iter()
                .map(|slot| slot.parse(report, usable))
                .collect();
            without_repetition(list, report)
        }
    }
}

/// Numbers of users.
fn users(slot: Slot<Numbers>, report: &mut Report) -> Vec<u32> {
    const REMEDY: &str = "write a list of numbers of users, as in [1001] (`id -u NAME` says them)";
    let place = slot.place.clone();
    let wrong = |what: &str| Fault::new(format!("{what} is not a number of a user"), REMEDY);
    let user = |number: i64| {
        // The last one means none (`chown(2)`).
        let user = u32::try_from(number).ok().filter(|user| *user != u32::MAX);
        user.ok_or_else(|| wrong(&number.to_string()))
    };
    match slot.given() {
        Some(Numbers::Word(text)) => {
            report.add(&place, wrong(&quoted(&text)));
            Vec::new()
        }
        Some(Numbers::One(number)) => {
            report.add(&place, wrong(&number.to_string()));
            Vec::new()
        }
        Some(Numbers::Many(list)) => {
            let list = list.into_iter().map(|slot| slot.parse(report, user));
            list.collect::<Vec<_>>()
                .into_iter()
                .filter_map(Slot::given)
                .collect()
        }
        None => Vec::new(),
    }
}

fn admin_listen(text: &str, folder: &Folder) -> Result<AdminListen, Fault> {
    if let Some(path) = text.strip_prefix("unix:") {
        let path = folder.path(path)?;
        let length = path.as_os_str().len();
        if length > UNIX_SOCKET_PATH_MAX {
            let message = format!(
                "the socket's path has {length} bytes; the limit is {UNIX_SOCKET_PATH_MAX}"
            );
            return Err(Fault::new(message, "choose a shorter path"));
        }
        return Ok(AdminListen::Unix(path));
    }
    let address = listen_address(text, "127.0.0.1:9901")?;
    if AdminListen::is_loopback(address.ip()) {
        Ok(AdminListen::Tcp(address))
    } else {
        let message = format!(
            "{address} can be reached from other machines, and the admin interface must not be"
        );
        Err(Fault::new(
            message,
            "write a loopback address, as in \"127.0.0.1:9901\", or \"unix:/path/of/a/socket\"",
        ))
    }
}

fn audit(text: &str, folder: &Folder) -> Result<AuditSink, Fault> {
    match text {
        "stdout" => return Ok(AuditSink::Stdout),
        "off" => return Ok(AuditSink::Off),
        _ => {}
    }
    // A misspelt word must not become a file of that name and leave the operator without the audit log.
    if !text.contains(['/', '.']) {
        let message = format!(
            "{} is neither a known word nor clearly a path",
            quoted(text)
        );
        return Err(match nearest(text, ["stdout", "off"]) {
            Some(similar) => Fault::new(message, format!("did you mean {similar:?}?")),
            None => Fault::new(
                message,
                "write \"stdout\", \"off\" or a path, as in \"./audit.log\"",
            ),
        });
    }
    let path = folder.path(text)?;
    if path.is_dir() {
        return Err(Fault::new(
            format!("{} is a folder", quoted(text)),
            "name a file in it",
        ));
    }
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    if !parent.is_dir() {
        let message = format!(
            "the folder {} does not exist",
            quoted(&parent.display().to_string())
        );
        return Err(Fault::new(
            message,
            "make the folder, or choose another path",
        ));
    }
    Ok(AuditSink::File(path))
}

/// Host and port that devices use; those of the listener where none are written.
fn external(slot: Slot<String>, listener: &Listener, report: &mut Report) -> (String, u16) {
    let given = slot.parse(report, |text| host_and_port(&text)).given();
    given.unwrap_or_else(|| {
        let first = listener.addresses().next();
        first.map_or((String::new(), 0), |(_, listen)| {
            (listen.ip().to_string(), listen.port())
        })
    })
}

/// Reads `host:port`; an IPv6 address loses its brackets.
pub(super) fn host_and_port(text: &str) -> Result<(String, u16), Fault> {
    let HostPort { host, port } = host_port(text)?;
    let host = match host {
        Host::Name(name) => name,
        Host::Ip(address) => address.to_string(),
    };
    Ok((host, port))
}

fn profile(
    raw: RawProfile,
    named: &NamedFiles,
    tcp: Tcp,
    folder: &Folder,
    report: &mut Report,
) -> Profile {
    let name = raw.name.parse(report, |name| match name.trim() {
        "" => {
            let remedy = "write a name, or leave the key out";
            Err(Fault::new("the name is empty", remedy))
        }
        _ => Ok(name),
    });
    let listener = listener(raw.listener, report);
    let (external_host, external_port) = external(raw.external, &listener, report);
    let resumption = resumption(raw.tls.resumption, folder, report);
    let (inbound, outbound) = (tls(raw.tls.inbound, report), tls(raw.tls.outbound, report));
    let names = SniNames {
        folder,
        external: &external_host,
        seen: HashMap::new(),
    };
    let sni_place = raw
        .services
        .iter()
        .find_map(|service| service.sni.names.written());
    if let (None, Some(place)) = (listener.https, sni_place) {
        let message = "sessions by name need the TLS listener, which is not open";
        report.add(
            place,
            Fault::new(message, "write profile.listener.protocol = \"both\""),
        );
    }
    let (services, rules) = routing(
        raw.services,
        raw.rules,
        &raw.place,
        (tcp, folder),
        names,
        report,
    );
    Profile {
        origin: Origin::File,
        name: name.or("default".to_owned()),
        description: raw.description.or(String::new()),
        external_host,
        external_port,
        listener,
        server_certificate: raw
            .server_certificate
            .map(|raw| server_certificate(raw, folder, report)),
        inbound,
        outbound,
        resumption,
        device_auth: device_auth(raw.device_auth, folder, report),
        services,
        no_rule_direct: raw
            .no_rule
            .parse(report, |text| {
                word(&text, &[("refuse", false), ("direct", true)])
            })
            .or(false),
        app_limits: app_limits(raw.app_limits, report),
        rules,
        stored: named.stored(),
    }
}
