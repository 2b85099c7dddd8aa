//! The config file: TOML text in, validated types out.
//!
//! A file is read in two steps. `raw` has the keys as they are written, each with its line; `validate` is the one bridge
//! from there to the types of a valid [`Config`]. Both go on after an error, so that one run tells everything
//! that is wrong, and each error names the line, the key and a remedy.
//!
//! Guaranteed of a [`Config`]: what its types and their comments say. In particular each path is resolved
//! against the folder of the config file and the files that it reads were there and could be opened; service names are
//! unique; rules point at services that exist; nothing that this version cannot do was silently ignored.
//!
//! Not done here: reading certificates, CRLs or the device registry, binding addresses, resolving names, making folders.

mod address;
mod authentication;
mod cores;
mod document;
mod error;
mod files;
mod listener;
mod protocols;
mod raw;
mod raw_reach;
mod reach;
mod resumption;
mod routing;
mod servers;
mod sni;
mod summary;
mod traffic;
mod types;
mod validate;
mod values;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

pub use address::{AddressError, Host, HostPattern, HostPort};
pub use authentication::url_host;
pub use error::{ConfigError, Problem};
pub use listener::{ClientIdentity, Listener, ListenerKind, ProxyProtocol};
pub use reach::{
    Balance, CIPHER_SUITES, Check, CheckKind, Health, Keepalive, OutboundTls, ProxyVersion, Reach,
    Server, Tcp, TlsChoice, UpstreamProxy,
};
pub use sni::Sni;
pub use summary::Summary;
pub use types::{
    AdminListen, AppLimits, AuditSink, CertificateFiles, Config, CrlFetch, DeviceAuth, Engine,
    Field, IdentityMapping, Log, LogFormat, Profile, Rate, Resumption, ResumptionKind, Rule,
    ServerCertificate, Service, ServiceKind, Stale, TrafficLimits,
};

use error::{Fault, Place, Report};

/// Reads and checks a config file.
///
/// # Errors
///
/// All problems of the file: it cannot be read, it is not TOML, or what it says is not right.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let text = read(path).map_err(|(place, fault)| Report::single(path, &place, fault))?;
    parse(&text, path)
}

/// Checks the text of a config file. `file` names it in errors, and paths in it are relative to the folder of `file`.
///
/// Looks at the file system (the files that the config names) and at the CPUs that the process may use.
///
/// # Errors
///
/// All problems of the text.
pub fn parse(text: &str, file: &Path) -> Result<Config, ConfigError> {
    validate::check(text, file, cores::cpus())
}

/// Reads a duration as the config file has it, such as `500ms`, `10s`, `5m` or `24h`; not zero.
///
/// # Errors
///
/// What is wrong, and a remedy.
pub fn duration(text: &str) -> Result<Duration, String> {
    values::duration(text).map_err(|fault| fault.to_string())
}

/// The file's text, bounded.
fn read(path: &Path) -> Result<String, (Place, Fault)> {
    let whole_file = |fault| (Place::default(), fault);
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(crate::limits::CONFIG_FILE_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| {
            let remedy = "name a config file that this user may read (adit quickstart makes one to start from)";
            whole_file(Fault::new(format!("cannot be read: {error}"), remedy))
        })?;
    if bytes.len() as u64 > crate::limits::CONFIG_FILE_MAX {
        let message = format!("is larger than {} bytes", crate::limits::CONFIG_FILE_MAX);
        return Err(whole_file(Fault::new(message, "name a config file")));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..valid]
            .iter()
            .filter(|b| **b == b'\n')
            .count();
        let place = Place {
            line: Some(line),
            key: String::new(),
        };
        (
            place,
            Fault::new("is not UTF-8 text", "save the file as UTF-8"),
        )
    })
}
