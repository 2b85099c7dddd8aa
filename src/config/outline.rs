//! What a config says of the node, where the rest of it need not be right yet: a certificate is imported before the config
//! that names it is.

use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::document::{Reader, Section};
use super::error::{ConfigError, Fault, Report};
use super::raw::RawConfig;
use super::stored::references;
use super::validate::{add_syntax_errors, host_and_port};
use super::values::{Folder, STATE_DIR};
use crate::certs::Reference;

/// Where a node keeps its state, and what its profile is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    /// Where the node keeps what it makes and fetches itself.
    pub state_dir: PathBuf,
    /// The profile's name.
    pub name: String,
    /// The profile's description; may be empty.
    pub description: String,
    /// Host and port that devices use, where the profile says so.
    pub external: Option<(String, u16)>,
    /// The certificates of the store that the profile names.
    pub stored: Vec<Reference>,
}

/// Reads what a config file says of the node. Nothing else in it is looked at.
///
/// # Errors
/// Where the file cannot be read or is no TOML, or where one of these values is wrong.
pub fn outline(file: &Path) -> Result<Outline, ConfigError> {
    let text = super::read(file).map_err(|(place, fault)| Report::single(file, &place, fault))?;
    let reader = Reader::new(&text);
    let (document, errors) = DeTable::parse_recoverable(&text);
    if !errors.is_empty() {
        add_syntax_errors(&reader, &errors);
        return Err(reader.into_report().into_error(file));
    }
    let raw = RawConfig::read(Section::root(&reader, document.get_ref()));
    let folder = Folder::of(file);
    let mut report = Report::default();
    let state_dir = raw
        .state_dir
        .parse(&mut report, |text| -> Result<_, Fault> {
            folder.path(&text)
        });
    let profile = raw.profile;
    let external = profile
        .external
        .parse(&mut report, |text| host_and_port(&text));
    let outline = Outline {
        state_dir: state_dir.or(PathBuf::from(STATE_DIR)),
        name: profile.name.or("default".to_owned()),
        description: profile.description.or(String::new()),
        external: external.given(),
        stored: references(document.get_ref()),
    };
    report.conclude(file, outline)
}
