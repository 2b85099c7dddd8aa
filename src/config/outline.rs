//! What a config says of the node, where the rest of it need not be right yet: a certificate is imported before the config
//! that names it is.

use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::document::{Reader, Section};
use super::error::{ConfigError, Report};
use super::raw::{Part, RawConfig, RawProfile};
use super::stored::references;
use super::validate::{document, host_and_port};
use super::values::{Folder, STATE_DIR};
use crate::certs::Reference;

/// Where a node keeps its state, and what its profile is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    /// Where the node keeps what it makes and fetches itself.
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

/// Reads what a config file says of the node. Nothing else in it is looked at. Where it has no profile, the one that is
/// assigned in the store speaks.
///
/// # Errors
/// Where the file cannot be read or is no TOML, or where one of these values is wrong.
pub fn outline(file: &Path) -> Result<Outline, ConfigError> {
    let text = super::read(file)?;
    let reader = Reader::new(&text);
    let Some(document) = document(&reader, &text) else {
        return Err(reader.into_report().into_error(file));
    };
    let raw = RawConfig::read(Section::root(&reader, document.get_ref()), Part::All);
    let folder = Folder::of(file);
    let mut report = Report::default();
    let state_dir = raw.state_dir.parse(&mut report, |text| folder.path(&text));
    let state_dir = state_dir.or(PathBuf::from(STATE_DIR));
    let outline = match raw.profile {
        Some(profile) => {
            let stored = references(document.get_ref());
            of_profile(profile, state_dir, stored, &mut report)
        }
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
    let reader = Reader::new(&stored.text);
    let (document, _) = DeTable::parse_recoverable(&stored.text);
    let profile = RawProfile::alone(Section::root(&reader, document.get_ref()));
    let references = references(document.get_ref());
    Ok(of_profile(profile, state_dir, references, report))
}

fn of_profile(
    profile: RawProfile,
    state_dir: PathBuf,
    stored: Vec<Reference>,
    report: &mut Report,
) -> Outline {
    let external = profile.external.parse(report, |text| host_and_port(&text));
    Outline {
        state_dir,
        name: profile.name.or("default".to_owned()),
        description: profile.description.or(String::new()),
        external: external.given(),
        stored,
    }
}
