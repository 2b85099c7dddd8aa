//! The config file: TOML text in, validated types out.
//!
//! A file is read in two steps. `raw` has the keys as they are written, each with its line;
//! `validate` is the one bridge from there to the types of a valid [`Config`]. Both go on after an
//! error, so that one run tells everything that is wrong, and each error names the line, the key
//! and a remedy.
//!
//! Guaranteed of a [`Config`]: what its types and their comments say. In particular each path is
//! resolved against the folder of the config file and the files that it reads were there and could
//! be opened; service names are unique; rules point at services that exist; nothing that this
//! version cannot do was silently ignored.
//!
//! Not done here: reading certificates, CRLs or the device registry, binding addresses, resolving
//! names, making folders.

mod address;
mod authentication;
mod certificate_files;
mod cores;
mod document;
mod error;
mod listener;
mod named;
mod outline;
mod protocols;
mod raw;
mod raw_reach;
mod reach;
mod resumption;
mod routing;
mod servers;
mod slot;
mod sni;
mod suites;
mod summary;
mod traffic;
mod types;
mod validate;
mod values;

#[cfg(test)]
mod tests;

use std::io::Read;
use std::path::Path;
use std::time::Duration;

pub use address::{AddressError, Host, HostPattern, HostPort};
pub use authentication::url_host;
pub use certificate_files::CertificateFiles;
pub use error::ConfigError;
pub use listener::{ClientIdentity, Listener, ListenerKind, ProxyProtocol};
pub use outline::{Outline, ProfileUse, outline, profiles_in_store, stored_certificates, users_of};
pub use reach::{
    Balance, CIPHER_SUITES, Check, CheckKind, Health, KEY_EXCHANGE, Keepalive, KeyExchange,
    OutboundTls, ProxyVersion, Reach, Server, Tcp, TlsChoice, UpstreamProxy,
};
pub use sni::Sni;
pub use summary::Summary;
pub use types::{
    AdminListen, AppLimits, AuditSink, Config, CrlFetch, DeviceAuth, Engine, Field,
    IdentityMapping, Log, LogFormat, Origin, Profile, Rate, Resumption, ResumptionKind, Rule,
    ServerCertificate, Service, ServiceKind, Stale, TrafficLimits,
};

use document::Document;
use error::{Fault, Location, Report};

use crate::findings::Problem;
use crate::limits::PROFILE_TEXT_MAX;
use crate::profiles::{StoredProfile, store_of};

/// Reads and checks a config file. Where it has no `[profile]`, the profile that the store assigns
/// the node takes its place; where none is assigned, the node is unconfigured.
///
/// # Errors
///
/// All problems of the file or of the assigned profile: it cannot be read, it is not TOML, or what
/// it says is not right.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let text = read(path)?;
    let node = parse(&text, path)?;
    if !node.profile.is_none() {
        return Ok(node);
    }
    match assigned(&node.state_dir, path)? {
        None => Ok(node),
        Some(stored) => with_stored(&node, path, &stored),
    }
}

/// The profile that is assigned in the store of this state folder, for the node whose config file
/// is `path`.
fn assigned(state_dir: &Path, path: &Path) -> Result<Option<StoredProfile>, ConfigError> {
    store_of(state_dir).assigned().map_err(|error| {
        let fault = Fault::new(error.message(), error.remedy());
        Report::single(path, &Location::default(), fault)
    })
}

/// Reads and checks the node's part of a config file, and passes its profile over. What comes out
/// is an unconfigured node.
///
/// # Errors
///
/// All problems of that part.
pub fn load_node(path: &Path) -> Result<Config, ConfigError> {
    let text = read(path)?;
    validate::check(&text, path, cores::cpus(), raw::Part::Node)
}

/// Returns whether a config file has a profile of its own, right or wrong.
///
/// # Errors
///
/// The file cannot be read.
pub fn has_profile(path: &Path) -> Result<bool, ConfigError> {
    let text = read(path)?;
    Ok(Document::of_broken(&text).has(raw::PROFILE))
}

/// Checks the text of a config file. `file` names it in errors, and paths in it are relative to the
/// folder of `file`. A text without `[profile]` is that of an unconfigured node.
///
/// Looks at the file system (the files that the config names) and at the CPUs that the process may
/// use.
///
/// # Errors
///
/// All problems of the text.
pub fn parse(text: &str, file: &Path) -> Result<Config, ConfigError> {
    validate::check(text, file, cores::cpus(), raw::Part::All)
}

/// The text of a profile by itself: `[profile]` and the tables below it, as in a config file, and
/// nothing else.
#[derive(Debug, Clone, Copy)]
pub struct ProfileText<'t> {
    /// The text.
    pub text: &'t str,
    /// Its name in errors: its file, or its name and version.
    pub shown: &'t Path,
    /// The name that it must have, if that is known.
    pub name: Option<&'t str>,
    /// The version that it is, where it comes from the store.
    pub version: Option<u64>,
}

/// `node`, whose config file is `file`, with this profile. Paths in the profile are relative to the
/// folder of `file`.
///
/// # Errors
///
/// All problems of the profile, with its lines.
pub fn with_profile(
    node: &Config,
    file: &Path,
    profile: &ProfileText<'_>,
) -> Result<Config, ConfigError> {
    validate::check_profile(profile, node, file)
}

/// The same with a profile of the store, which errors call by its name and version.
fn with_stored(node: &Config, file: &Path, stored: &StoredProfile) -> Result<Config, ConfigError> {
    let shown = format!("profile {} version {}", stored.name, stored.version);
    let text = ProfileText {
        text: &stored.text,
        shown: Path::new(&shown),
        name: Some(&stored.name),
        version: Some(stored.version),
    };
    with_profile(node, file, &text)
}

/// Reads the text of a profile from its file, bounded.
///
/// # Errors
///
/// The file cannot be read, is too large or is not UTF-8.
pub fn read_profile(path: &Path) -> Result<String, ConfigError> {
    read_bounded(path, PROFILE_TEXT_MAX as u64)
}

/// Reads a duration as the config file has it, such as `500ms`, `10s`, `5m` or `24h`; not zero.
///
/// # Errors
///
/// What is wrong, and a remedy.
pub fn duration(text: &str) -> Result<Duration, Box<Problem>> {
    values::duration(text).map_err(|fault| Box::new(fault.at(&Location::default())))
}

/// The file's text, bounded.
fn read(path: &Path) -> Result<String, ConfigError> {
    read_bounded(path, crate::limits::CONFIG_FILE_MAX)
}

fn read_bounded(path: &Path, most: u64) -> Result<String, ConfigError> {
    let whole_file = |fault| Report::single(path, &Location::default(), fault);
    let mut bytes = Vec::new();
    crate::files::open(path)
        .and_then(|file| file.take(most + 1).read_to_end(&mut bytes))
        .map_err(|error| {
            let remedy = "name a config file that this user may read (adit quickstart makes one to start from)";
            whole_file(Fault::new(format!("cannot be read: {error}"), remedy))
        })?;
    if bytes.len() as u64 > most {
        let message = format!("is larger than {most} bytes");
        return Err(whole_file(Fault::new(message, "name a config file")));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..valid]
            .iter()
            .filter(|b| **b == b'\n')
            .count();
        let place = Location {
            line: Some(line),
            key: String::new(),
        };
        let fault = Fault::new("is not UTF-8 text", "save the file as UTF-8");
        Report::single(path, &place, fault)
    })
}
