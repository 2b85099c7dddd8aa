//! The certificate store: server and group certificates by name, in plain files of the state folder.
//!
//! `certificates/server/NAME.pem` holds a chain in order and its key (0600), `certificates/group/NAME.pem` the certificates of
//! authorities (0644), both as PEM without a password, whatever they came as. Folders have mode 0700.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Serialize;

use super::findings::Role;
use crate::limits::CERTIFICATE_NAME_MAX;

/// How a config names a certificate of the store: this, and its name.
pub const PREFIX: &str = "store:";

/// The name of a certificate in the store: letters, digits, `.`, `_` and `-`, not beginning with a dot. It is a file's name, too.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Name(String);

impl Name {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let is_right = (1..=CERTIFICATE_NAME_MAX).contains(&text.len())
            && text.bytes().all(known)
            && !text.starts_with('.');
        if is_right {
            Ok(Self(text.to_owned()))
        } else {
            let shown: String = text.chars().take(CERTIFICATE_NAME_MAX).collect();
            Err(format!(
                "{shown:?} is not the name of a certificate; write 1 to {CERTIFICATE_NAME_MAX} of \
                 A-Z a-z 0-9 . _ - and no dot in front"
            ))
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One certificate of the store, as a config names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// What it is for.
    pub role: Role,
    /// Its name.
    pub name: Name,
}

/// The certificate store of a state folder. Nothing is kept open: each call looks at the files as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    folder: PathBuf,
}

impl Store {
    /// The store in this state folder. It need not be there yet.
    #[must_use]
    pub fn new(state_dir: &Path) -> Self {
        Self {
            folder: state_dir.join("certificates"),
        }
    }

    /// The file of a certificate, be it there or not.
    #[must_use]
    pub fn path(&self, role: Role, name: &Name) -> PathBuf {
        self.folder.join(role.word()).join(format!("{name}.pem"))
    }
}
