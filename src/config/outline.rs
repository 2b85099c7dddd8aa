//! The part of a config or a profile about the node and the store; the rest need not be valid yet:
//! a certificate is imported before the config that names it is.

use std::path::{Path, PathBuf};

use super::document::Document;
use super::error::{ConfigError, Report};
use super::named::NamedFiles;
use super::raw::{Part, RawConfig, RawProfile};
use super::validate::host_and_port;
use super::values::{Folder, STATE_DIR};
use crate::certs::Reference;
use crate::profiles::{StoreError, store_of};

/// A node's state folder, and the name of its profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    /// Folder of the node's own files.
    pub state_dir: PathBuf,
    /// The profile's name; empty where it has none.
    pub name: String,
    /// The profile's description; may be empty.
    pub description: String,
    /// Host and port that devices use, where the profile says so.
    pub external: Option<(String, u16)>,
    /// The certificates of the store that the profile names.
    pub stored: Vec<Reference>,
}

/// Reads what a config file says of the node. Nothing else in it is looked at. Where it has no
/// profile, the one that is assigned in the store speaks.
///
/// # Errors
/// Where the file cannot be read or is no TOML, or where one of these values is wrong.
pub fn outline(file: &Path) -> Result<Outline, ConfigError> {
    let text = super::read(file)?;
    let read = Document::parse(&text, file)?.read(|root| RawConfig::read(root, Part::All));
    let raw = read.value;
    let folder = Folder::of(file);
    let mut report = Report::default();
    let state_dir = raw.state_dir.parse(&mut report, |text| folder.path(&text));
    let state_dir = state_dir.or(PathBuf::from(STATE_DIR));
    let outline = match raw.profile {
        Some(profile) => of_profile(profile, state_dir, &read.named, &mut report),
        None => assigned(state_dir, file, &mut report)?,
    };
    report.conclude(file, outline)
}

/// Of a node whose profile is in the store; without a name where none is assigned.
fn assigned(state_dir: PathBuf, file: &Path, report: &mut Report) -> Result<Outline, ConfigError> {
    let Some(stored) = super::assigned(&state_dir, file)? else {
        return Ok(Outline {
            state_dir,
            name: String::new(),
            description: String::new(),
            external: None,
            stored: Vec::new(),
        });
    };
    let read = Document::of_broken(&stored.text).read(RawProfile::alone);
    Ok(of_profile(read.value, state_dir, &read.named, report))
}

fn of_profile(
    profile: RawProfile,
    state_dir: PathBuf,
    named: &NamedFiles,
    report: &mut Report,
) -> Outline {
    let external = profile.external.parse(report, |text| host_and_port(&text));
    Outline {
        state_dir,
        name: profile.name.or("default".to_owned()),
        description: profile.description.or(String::new()),
        external: external.given(),
        stored: named.stored(),
    }
}

/// A profile and the certificates of the store that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileUse {
    /// The profile's name.
    pub profile: String,
    /// The certificates.
    pub stored: Vec<Reference>,
}

/// The profiles in the store of this state folder, by their newest versions. It waits for the disk.
///
/// # Errors
/// [`StoreError`].
pub fn profiles_in_store(state_dir: &Path) -> Result<Vec<ProfileUse>, StoreError> {
    let newest = store_of(state_dir).newest()?.into_iter();
    let uses = newest.map(|profile| ProfileUse {
        stored: stored_certificates(&profile.text),
        profile: profile.name,
    });
    Ok(uses.collect())
}

/// The names of the profiles that name this certificate, each once.
#[must_use]
pub fn users_of(wanted: &Reference, profiles: &[ProfileUse]) -> Vec<String> {
    let users = profiles.iter().filter(|user| user.stored.contains(wanted));
    let mut names: Vec<String> = users.map(|user| user.profile.clone()).collect();
    names.sort();
    names.dedup();
    names
}

/// The certificates of the store that the text of a profile names, each once; also where the text
/// is wrong elsewhere. Where it is not TOML, those of the part that can be read.
#[must_use]
pub fn stored_certificates(text: &str) -> Vec<Reference> {
    let read = Document::of_broken(text).read(RawProfile::alone);
    read.named.stored()
}
