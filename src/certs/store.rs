//! The certificate store: the gateway's own certificates and those of authorities, by name, in plain files of the state folder.
//!
//! `certificates/server/NAME.pem` and `certificates/client/NAME.pem` hold a chain in order and its key (0600), `certificates/group/NAME.pem` the certificates of
//! authorities (0644), all as PEM without a password, whatever they came as. Folders have mode 0700, and all belongs to the owner of the
//! state folder, root's imports too.
//!
//! A file is written whole and then renamed, so processes that import, read and delete at once need no lock: each sees the
//! old certificate with its key or the new one with its own. Of two that import a new name at once, one is refused.
//!
//! Whether a profile still uses what is deleted is for the caller to ask.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustls_pki_types::CertificateDer;
use serde::Serialize;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::describe::{AlternativeName, described};
use super::findings::{Inspected, Role, exposed, inspect_source, sort};
use super::pem::{key_to_pem, to_pem};
use super::{CertError, CertFile, read_certificates};
use crate::files::{self, FileError, Mode};
use crate::findings::{Problem, Severity};
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

/// A text is not the name of a certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}; {}", self.message(), self.remedy())]
pub struct NameError {
    shown: String,
}

impl NameError {
    /// The fault.
    #[must_use]
    pub fn message(&self) -> String {
        format!("{:?} is not a valid name of a certificate", self.shown)
    }

    /// The remedy.
    #[must_use]
    pub fn remedy(&self) -> String {
        format!("write 1 to {CERTIFICATE_NAME_MAX} of A-Z a-z 0-9 . _ - and no dot at the start")
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let is_right = (1..=CERTIFICATE_NAME_MAX).contains(&text.len())
            && text.bytes().all(known)
            && !text.starts_with('.');
        if is_right {
            Ok(Self(text.to_owned()))
        } else {
            let shown: String = text.chars().take(CERTIFICATE_NAME_MAX).collect();
            Err(NameError { shown })
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
    /// Its purpose.
    pub role: Role,
    /// Its name.
    pub name: Name,
}

/// A certificate to import, read and checked. Nothing is written yet.
pub struct Candidate {
    role: Role,
    inspected: Inspected,
}

impl Candidate {
    /// Reads a certificate in any format, the key from `key` where it is not in `file`, and looks for what is wrong.
    /// `host` is the name or address that devices use, for a server certificate.
    ///
    /// # Errors
    /// Where a file is broken or of no known format, holds no certificate, or the password is missing or wrong.
    pub fn read(
        role: Role,
        file: &CertFile,
        key: Option<&CertFile>,
        password: Option<&str>,
        host: Option<&str>,
    ) -> Result<Self, CertError> {
        let mut inspected = inspect_source(role, file, key, password, host)?;
        // What is kept is used as it is: nobody will name a key for it later.
        if role != Role::Group {
            let without_key = |finding: &&mut Problem| finding.code == "no-key";
            for finding in inspected.findings.iter_mut().filter(without_key) {
                finding.severity = Severity::Error;
            }
            sort(&mut inspected.findings);
        }
        let candidate = Self { role, inspected };
        Ok(candidate)
    }

    /// [`read`](Self::read), of files. A key that others may read is a finding.
    ///
    /// # Errors
    /// As [`read`](Self::read), and where a file cannot be read or is too large.
    pub fn load(
        role: Role,
        file: &Path,
        key: Option<&Path>,
        password: Option<&str>,
        host: Option<&str>,
    ) -> Result<Self, CertError> {
        let key_source = key.map(CertFile::load).transpose()?;
        let file_source = CertFile::load(file)?;
        let mut candidate = Self::read(role, &file_source, key_source.as_ref(), password, host)?;
        if candidate.inspected.key.is_some() {
            let found = exposed(key.unwrap_or(file));
            candidate.inspected.findings.extend(found);
        }
        Ok(candidate)
    }

    /// Faults, errors first.
    #[must_use]
    pub fn findings(&self) -> &[Problem] {
        &self.inspected.findings
    }

    /// How many certificates it has.
    #[must_use]
    pub fn certificates(&self) -> usize {
        self.inspected.certificates.len()
    }

    /// How many findings are errors: with any, it is not imported.
    #[must_use]
    pub fn errors(&self) -> usize {
        let findings = self.inspected.findings.iter();
        findings
            .filter(|finding| finding.severity == Severity::Error)
            .count()
    }

    /// Returns what it would be in the store.
    #[must_use]
    pub fn entry(&self, name: &Name) -> StoredCertificate {
        let Inspected {
            certificates,
            findings,
            ..
        } = &self.inspected;
        let facts = Facts::of(certificates, OffsetDateTime::now_utc());
        StoredCertificate {
            role: self.role,
            name: name.clone(),
            facts,
            findings: findings.clone(),
            used_by: Vec::new(),
        }
    }

    /// As the store keeps it: PEM without a password, with the key.
    #[must_use]
    pub fn content(&self) -> Zeroizing<String> {
        let mut certificates = self.inspected.certificates.clone();
        if self.role == Role::Group {
            let mut seen = std::collections::HashSet::new();
            certificates.retain(|certificate| seen.insert(certificate.clone()));
        }
        let mut text = Zeroizing::new(to_pem(&certificates));
        if let Some(key) = &self.inspected.key {
            text.push_str(&Zeroizing::new(key_to_pem(key)));
        }
        text
    }
}

/// A certificate of the store: what it says and what is wrong with it now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoredCertificate {
    /// Its name.
    pub name: Name,
    /// Its purpose.
    #[serde(rename = "kind")]
    pub role: Role,
    /// Its content; `None` where its file cannot be read, which is a finding.
    #[serde(flatten)]
    pub facts: Option<Facts>,
    /// Faults, errors first.
    pub findings: Vec<Problem>,
    /// The profiles that name it, as far as whoever asked knows profiles: none are known here.
    pub used_by: Vec<String>,
}

impl StoredCertificate {
    /// Returns what a config calls it.
    #[must_use]
    pub fn reference(&self) -> Reference {
        let (role, name) = (self.role, self.name.clone());
        Reference { role, name }
    }
}

/// Facts about the first certificate of a file: of a server the end certificate. Moments are RFC
/// 3339 in UTC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// The subject's distinguished name.
    pub subject: String,
    /// The issuer's distinguished name.
    pub issuer: String,
    /// The subject alternative names.
    pub names: Vec<String>,
    /// The public key: algorithm and size.
    pub key_type: String,
    /// The first moment of validity.
    pub not_before: String,
    /// The last moment at which every certificate of the file is valid.
    pub not_after: String,
    /// Whole days until then, negative once it has passed.
    pub days_left: i64,
    /// The SHA-256 fingerprint, hexadecimal with colons.
    pub sha256: String,
    /// How many certificates the file has.
    pub certificates: usize,
}

impl Facts {
    fn of(certificates: &[CertificateDer<'_>], now: OffsetDateTime) -> Option<Self> {
        let all: Option<Vec<_>> = certificates.iter().map(|der| described(der, now)).collect();
        let all = all?;
        let soonest = all.iter().min_by_key(|certificate| certificate.days_left)?;
        let (not_after, days_left) = (soonest.not_after.clone(), soonest.days_left);
        let certificates = all.len();
        let first = all.into_iter().next()?;
        let names = first.subject_alternative_names.iter();
        let names = names.map(|name| match name {
            AlternativeName::Dns(name) => name.clone(),
            AlternativeName::Ip(address) => address.to_string(),
            other => other.to_string(),
        });
        Some(Self {
            names: names.collect(),
            subject: first.subject,
            issuer: first.issuer,
            key_type: first.key,
            not_before: first.not_before,
            not_after,
            days_left,
            sha256: first.sha256,
            certificates,
        })
    }
}

/// The certificate store of a state folder. Nothing is kept open: each call looks at the files as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    state_dir: PathBuf,
}

impl Store {
    /// The store in this state folder. It need not be there yet.
    #[must_use]
    pub fn new(state_dir: &Path) -> Self {
        Self {
            state_dir: state_dir.to_owned(),
        }
    }

    /// The file of a certificate, be it there or not.
    #[must_use]
    pub fn path(&self, role: Role, name: &Name) -> PathBuf {
        self.folder(role).join(format!("{name}.pem"))
    }

    fn folder(&self, role: Role) -> PathBuf {
        self.state_dir.join(inner_folder(role))
    }

    /// Imports a certificate; with `replace` in place of the one that has the name, else only if none has.
    ///
    /// # Errors
    /// [`CertError::Findings`] where it has errors, [`CertError::InStore`] where the name is taken, [`CertError::File`]. The
    /// store is then as it was.
    pub fn put(&self, name: &Name, candidate: &Candidate, replace: bool) -> Result<(), CertError> {
        let errors = candidate.errors();
        if errors > 0 {
            return Err(CertError::Findings { errors });
        }
        let role = candidate.role;
        let (path, content) = (self.path(role, name), candidate.content());
        let mode = mode(role);
        files::own_folder_in(&self.state_dir, &inner_folder(role))?;
        self.sweep()?;
        if replace {
            return Ok(files::keep(&path, content.as_bytes(), mode)?);
        }
        files::keep_new(&path, content.as_bytes(), mode).map_err(|error| match error {
            FileError::Exists { .. } => CertError::InStore {
                role: role.word(),
                name: name.clone(),
            },
            other => other.into(),
        })
    }

    /// Removes what killed imports have left, keys among it. An import that is under way goes on, in whatever process it is. How
    /// many files there were.
    ///
    /// # Errors
    /// [`CertError::File`] where a folder cannot be read.
    pub fn sweep(&self) -> Result<usize, CertError> {
        let swept =
            Role::ALL.map(|role| files::sweep(&self.folder(role), |file| name_of(file).is_some()));
        Ok(swept.into_iter().sum::<Result<_, FileError>>()?)
    }

    /// Returns what is kept under a name, if anything is: for [`restore`](Self::restore).
    ///
    /// # Errors
    /// [`CertError::File`].
    pub fn kept(&self, role: Role, name: &Name) -> Result<PreviousFile, CertError> {
        match CertFile::load(&self.path(role, name)) {
            Ok(source) => Ok(PreviousFile(Some(source.bytes))),
            Err(error) if is_absent(&error) => Ok(PreviousFile(None)),
            Err(error) => Err(error),
        }
    }

    /// Takes a change back.
    ///
    /// # Errors
    /// [`CertError::File`].
    pub fn restore(&self, role: Role, name: &Name, kept: &PreviousFile) -> Result<(), CertError> {
        let path = self.path(role, name);
        match &kept.0 {
            Some(content) => files::keep(&path, content, mode(role))?,
            None => drop(files::remove(&path)?),
        }
        Ok(())
    }

    /// Every certificate, servers' first, in the order of their names. `host` is the name that devices use.
    ///
    /// # Errors
    /// [`CertError::File`] where a folder cannot be read. A broken certificate is listed with what is wrong with it.
    pub fn list(&self, host: Option<&str>) -> Result<Vec<StoredCertificate>, CertError> {
        let mut entries = Vec::new();
        for role in Role::ALL {
            for name in self.names(role)? {
                match self.get(role, &name, host) {
                    // Deleted in this moment.
                    Err(CertError::NotInStore { .. }) => {}
                    entry => entries.push(entry?),
                }
            }
        }
        Ok(entries)
    }

    fn names(&self, role: Role) -> Result<Vec<Name>, CertError> {
        let folder = self.folder(role);
        let unread = |cause| CertError::io("read the folder", &folder, cause);
        let entries = match fs::read_dir(&folder) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(unread)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let file = entry.map_err(unread)?.file_name();
            // What has another name was not written here, or not to its end.
            names.extend(file.to_str().and_then(name_of));
        }
        names.sort();
        Ok(names)
    }

    /// One certificate.
    ///
    /// # Errors
    /// [`CertError::NotInStore`]. One whose file is broken has that as a finding.
    pub fn get(
        &self,
        role: Role,
        name: &Name,
        host: Option<&str>,
    ) -> Result<StoredCertificate, CertError> {
        let path = self.path(role, name);
        match Candidate::load(role, &path, None, None, host) {
            Ok(candidate) => Ok(candidate.entry(name)),
            Err(error) if is_absent(&error) => Err(not_in_store(role, name)),
            Err(error) => {
                let unreadable = Problem {
                    severity: Severity::Error,
                    code: "unreadable".into(),
                    message: error.to_string(),
                    remedy: "import it again in its place".into(),
                    ..Problem::default()
                };
                let (name, findings) = (name.clone(), vec![unreadable]);
                Ok(StoredCertificate {
                    name,
                    role,
                    facts: None,
                    findings,
                    used_by: Vec::new(),
                })
            }
        }
    }

    /// The certificates of one, without its key.
    ///
    /// # Errors
    /// [`CertError::NotInStore`], and where its file is broken.
    pub fn certificates(
        &self,
        role: Role,
        name: &Name,
    ) -> Result<Vec<CertificateDer<'static>>, CertError> {
        let read = read_certificates(&self.path(role, name));
        read.map_err(|error| {
            if is_absent(&error) {
                not_in_store(role, name)
            } else {
                error
            }
        })
    }

    /// Deletes one. Whether something uses it is not looked at.
    ///
    /// # Errors
    /// [`CertError::NotInStore`], [`CertError::File`].
    pub fn delete(&self, role: Role, name: &Name) -> Result<(), CertError> {
        match files::remove(&self.path(role, name))? {
            true => Ok(()),
            false => Err(not_in_store(role, name)),
        }
    }
}

/// The folder of certificates of a role, in the state folder.
fn inner_folder(role: Role) -> PathBuf {
    Path::new("certificates").join(role.word())
}

/// The certificate that a file of this name is.
fn name_of(file: &str) -> Option<Name> {
    file.strip_suffix(".pem")?.parse().ok()
}

/// The file of a certificate as it was, which may have held a key.
pub struct PreviousFile(Option<Zeroizing<Vec<u8>>>);

const fn mode(role: Role) -> Mode {
    match role {
        Role::Server | Role::Client => Mode::Secret,
        Role::Group => Mode::Public,
    }
}

fn is_absent(error: &CertError) -> bool {
    error.refusal() == Some(io::ErrorKind::NotFound)
}

fn not_in_store(role: Role, name: &Name) -> CertError {
    CertError::NotInStore {
        role: role.word(),
        name: name.clone(),
    }
}

#[cfg(test)]
mod tests;
