//! `adit certs` as far as it is about the store: import, list, show, delete, export.
//!
//! Where a node runs, it makes the changes (see `change`); what only looks reads the files of the state folder beside it.
//! Of the config they need the state folder and the profile's name, not that it is right: a certificate is imported before
//! the config that names it.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use rustls::pki_types::CertificateDer;
use serde::Serialize;
use serde::de::IgnoredAny;
use serde_json::json;

use super::admin::AdminCommand;
use super::change::{self, ChangeError, Maker, Request};
use super::target::{JSON, Target};

use crate::certs::check::{self, CheckArgs, Report};
use crate::certs::describe::escaped;
use crate::certs::profile::Gateway;
use crate::certs::self_signed::{CERTIFICATE_FILE, NEXT_CERTIFICATE_FILE};
use crate::certs::store::NameError;
use crate::certs::{
    self, Candidate, CertError, Export, ExportFormat, Name, Reference, Role, Store,
    StoredCertificate,
};
use crate::config::{self, ConfigError, ProfileUse, users_of};
use crate::files::{self, Mode};
#[cfg(feature = "lab")]
use crate::lab::LabCommand;
use crate::profiles::StoreError;

/// Commands of `adit certs`.
#[derive(Debug, Subcommand)]
pub enum CertificatesCommand {
    /// Authorities of test fleets.
    #[cfg(feature = "lab")]
    #[command(flatten)]
    Lab(LabCommand),
    /// Say what is wrong with a certificate file before it is used: chain, key, dates, purpose, name.
    ///
    /// Exits with 1 where there is an error, with 0 where there are warnings only.
    Check(CheckArgs),
    /// The store.
    #[command(flatten)]
    Store(StoreCommand),
}

/// Commands for the store.
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Look at a certificate in any format and take it into the store, if nothing is wrong with it.
    ///
    /// Prints what `adit certs check` does. With an error nothing is imported, and the exit code is 1. It is kept without a
    /// password, a certificate of the gateway with its key.
    #[command(after_help = "Examples:
  adit certs import server.p12 --as server --password-file server.pass
  adit certs import group-ca.p7b --as group --name fleet
  adit certs import gateway.pem --as client --key gateway.key      what servers of services see")]
    Import(ImportArgs),
    /// List the certificates of the store, until when they are valid, which profiles name them and what is wrong with them.
    List(ListArgs),
    /// Show what a file or a certificate of the store holds: certificates, revocation lists and private keys (their kind only).
    Show(ShowArgs),
    /// Delete a certificate from the store. One that a profile names is not deleted.
    Delete(DeleteArgs),
    /// Write a certificate for others, without its key: to be pinned, or the root for devices to trust.
    #[command(after_help = "Examples:
  adit certs export front --as server -o front.pem               what the gateway shows, to be pinned
  adit certs export front --as server --root --format mobileconfig -o root.mobileconfig
  adit certs export --self-signed --format der -o root.der       where no server certificate is configured")]
    Export(ExportArgs),
}

/// Location of the store.
#[derive(Debug, Args)]
struct StoreLocation {
    /// The config file, which names the state folder.
    #[arg(long, value_name = "FILE", default_value = "adit.toml")]
    config: PathBuf,
    /// The state folder; the config file is then not read.
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    state_dir: Option<PathBuf>,
}

/// Arguments of `adit certs import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The file: PKCS#12, PKCS#7, PEM or DER.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Purpose of the certificate.
    #[arg(long = "as", value_enum, value_name = "KIND")]
    role: Role,
    /// Its name in the store [default: the file's, without its ending].
    #[arg(long, value_name = "NAME")]
    name: Option<Name>,
    /// File of the private key, where it is not in FILE.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// File with the password, alone in it; an empty file is the empty password.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Name or address that devices use, which a server certificate must cover [default: profile.external].
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// Put it in the place of the one that has this name.
    #[arg(long)]
    replace: bool,
    /// Print JSON, one object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: StoreLocation,
}

/// Arguments of `adit certs list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Print JSON, one object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: StoreLocation,
}

/// Arguments of `adit certs show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    #[command(flatten)]
    what: What,
    /// Print JSON, one array of objects.
    #[arg(long)]
    json: bool,
    /// File with the password of a PKCS#12 file, alone in it; an empty file is the empty password.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    #[command(flatten)]
    place: StoreLocation,
}

/// Arguments of `adit certs delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// Its name.
    #[arg(value_name = "NAME")]
    name: Name,
    /// Purpose of the certificate.
    #[arg(long = "as", value_enum, value_name = "KIND")]
    role: Role,
    #[command(flatten)]
    place: StoreLocation,
}

/// A certificate of the store, or a file.
#[derive(Debug, Args)]
struct What {
    /// A file; or with --as the name of a certificate in the store.
    #[arg(value_name = "FILE|NAME")]
    what: String,
    /// Purpose of the certificate in the store.
    #[arg(long = "as", value_enum, value_name = "KIND")]
    role: Option<Role>,
}

/// Arguments of `adit certs export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// A file; or with --as the name of a certificate in the store.
    #[arg(value_name = "FILE|NAME", required_unless_present = "self_signed")]
    what: Option<String>,
    /// Purpose of the certificate in the store.
    #[arg(long = "as", value_enum, value_name = "KIND")]
    role: Option<Role>,
    /// The certificate that the gateway has made itself, for want of another.
    #[arg(long, conflicts_with_all = ["what", "role"])]
    self_signed: bool,
    /// The one that will take its place, so that devices have it before.
    #[arg(long, requires = "self_signed")]
    next: bool,
    /// Only the root that the chain ends in.
    #[arg(long)]
    root: bool,
    /// Format of the output. DER holds one certificate: the first.
    #[arg(long, value_enum, default_value_t)]
    format: ExportFormat,
    /// Path of the output [default: standard output].
    #[arg(long, short = 'o', value_name = "FILE")]
    out: Option<PathBuf>,
    /// File with the password of a PKCS#12 file, alone in it; an empty file is the empty password.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    #[command(flatten)]
    place: StoreLocation,
}

/// Why a command on the store failed.
#[derive(Debug, thiserror::Error)]
pub enum CertificatesError {
    /// The config.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// A certificate, or the store.
    #[error("{0}")]
    Certificate(#[from] CertError),
    /// The profiles, of which one may use it.
    #[error(transparent)]
    Profiles(#[from] StoreError),
    /// It is not deleted.
    #[error(
        "the {role} certificate {name} is not deleted: the profile {profiles} names it; \
         take \"store:{name}\" out of the profile first"
    )]
    InUse {
        /// Purpose of the certificate.
        role: &'static str,
        /// Its name.
        name: Name,
        /// Which profiles.
        profiles: String,
    },
    /// The running node, which makes the change, or the lock of the state folder.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The command line.
    #[error("{0}")]
    Usage(String),
}

impl CertificatesCommand {
    /// Does it.
    ///
    /// # Errors
    /// [`CertificatesError`].
    pub fn run(self) -> Result<(), CertificatesError> {
        match self {
            #[cfg(feature = "lab")]
            Self::Lab(command) => Ok(command.run()?),
            Self::Check(arguments) => Ok(check::run(&arguments)?),
            Self::Store(StoreCommand::Import(arguments)) => arguments.run(),
            Self::Store(StoreCommand::List(arguments)) => arguments.run(),
            Self::Store(StoreCommand::Show(arguments)) => arguments.run(),
            Self::Store(StoreCommand::Delete(arguments)) => arguments.run(),
            Self::Store(StoreCommand::Export(arguments)) => arguments.run(),
        }
    }
}

/// A store, and what is known of the node that it belongs to.
struct Opened {
    store: Store,
    state_dir: PathBuf,
    /// `None` where only the state folder was named.
    outline: Option<config::Outline>,
}

impl StoreLocation {
    fn open(&self) -> Result<Opened, ConfigError> {
        let (state_dir, outline) = match &self.state_dir {
            Some(state_dir) => (state_dir.clone(), None),
            None => {
                let outline = config::outline(&self.config)?;
                (outline.state_dir.clone(), Some(outline))
            }
        };
        Ok(Opened {
            store: Store::new(&state_dir),
            state_dir,
            outline,
        })
    }
}

impl Opened {
    /// Has the running node make a change of a certificate; `here` makes it where none runs.
    fn change(
        &self,
        place: &StoreLocation,
        request: &Request,
        here: impl FnOnce() -> Result<(), CertificatesError>,
    ) -> Result<(), CertificatesError> {
        let named = self
            .outline
            .as_ref()
            .and_then(|_| AdminCommand::of(&place.config).target().ok());
        // The config may be wrong where it does not concern this command.
        let node = named.unwrap_or_else(|| Target::StateDir(self.state_dir.clone()));
        match change::make(&node, request)? {
            Maker::Node(answer) => {
                change::made::<IgnoredAny>(answer)?;
                Ok(())
            }
            Maker::Here(_lock) => here(),
        }
    }

    /// The name or address that devices use.
    fn host(&self) -> Option<&str> {
        let (host, _) = self.outline.as_ref()?.external.as_ref()?;
        Some(host)
    }

    /// The profiles that may name certificates of the store: the config file's, and those that are stored.
    fn profiles(&self) -> Result<Vec<ProfileUse>, StoreError> {
        let mut profiles = config::profiles_in_store(&self.state_dir)?;
        profiles.extend(self.outline.iter().map(|outline| ProfileUse {
            profile: outline.name.clone(),
            stored: outline.stored.clone(),
        }));
        Ok(profiles)
    }

    /// Who the documents for devices are about, where that is known.
    fn gateway(&self) -> Option<Gateway> {
        let outline = self.outline.as_ref()?;
        let (host, port) = outline.external.as_ref()?;
        Some(Gateway::new(
            host,
            *port,
            &outline.name,
            &outline.description,
        ))
    }
}

impl ImportArgs {
    fn run(&self) -> Result<(), CertificatesError> {
        let name = self.name()?;
        let opened = self.place.open()?;
        let password = password(self.password_file.as_deref())?;
        let password = password.as_ref().map(|password| password.as_str());
        let host = self.host.as_deref().or(opened.host());
        let (file, key) = (&self.file, self.key.as_deref());
        let candidate = Candidate::load(self.role, file, key, password, host)?;
        let count = candidate.certificates();
        let mut report = Report::new(file, self.role, count, candidate.findings());
        let errors = candidate.errors();
        if errors > 0 {
            certs::print(report.text(self.json)?.as_bytes())?;
            return Err(CertError::Findings { errors }.into());
        }
        let request = self.request(&name, &candidate);
        opened.change(&self.place, &request, || {
            Ok(opened.store.put(&name, &candidate, self.replace)?)
        })?;
        report.imported(&name);
        Ok(certs::print(report.text(self.json)?.as_bytes())?)
    }

    fn request(&self, name: &Name, candidate: &Candidate) -> Request {
        let file = STANDARD.encode(candidate.content().as_bytes());
        let content = json!({"file": file}).to_string().into_bytes();
        let query = if self.replace { "?replace=true" } else { "" };
        Request {
            method: "PUT",
            path: format!("/certificates/{}/{name}{query}", self.role.word()),
            body: Some((JSON, content)),
        }
    }

    fn name(&self) -> Result<Name, CertificatesError> {
        if let Some(name) = &self.name {
            return Ok(name.clone());
        }
        let stem = self.file.file_stem().and_then(|stem| stem.to_str());
        let stem = stem.unwrap_or_default();
        stem.parse()
            .map_err(|error| CertificatesError::Usage(format!("{error}; give one with --name")))
    }
}

#[derive(Serialize)]
struct List {
    certificates: Vec<StoredCertificate>,
}

impl ListArgs {
    fn run(&self) -> Result<(), CertificatesError> {
        let opened = self.place.open()?;
        let profiles = opened.profiles()?;
        let mut certificates = opened.store.list(opened.host())?;
        for entry in &mut certificates {
            entry.used_by = users_of(&entry.reference(), &profiles);
        }
        let list = List { certificates };
        let text = if self.json {
            pretty(&list)?
        } else {
            table(&list.certificates)
        };
        Ok(certs::print(text.as_bytes())?)
    }
}

fn table(listed: &[StoredCertificate]) -> String {
    let mut text = String::new();
    for entry in listed {
        let (until, subject) = match &entry.facts {
            Some(facts) => (
                format!("until {}, {} days", facts.not_after, facts.days_left),
                escaped(&facts.subject),
            ),
            None => ("cannot be read".to_owned(), String::new()),
        };
        let users = match entry.used_by.as_slice() {
            [] => "not used".to_owned(),
            users => format!("used by {}", escaped(&users.join(", "))),
        };
        let role = entry.role.word();
        text.push_str(&format!(
            "{role:<6}  {}  {until}  {users}  {subject}\n",
            entry.name
        ));
        for finding in &entry.findings {
            let severity = finding.severity.word();
            text.push_str(&format!(
                "    {severity:<8} {:<22} {finding}\n",
                finding.code
            ));
        }
    }
    if listed.is_empty() {
        text.push_str("the store is empty; `adit certs import` adds certificates\n");
    }
    text
}

/// A file; the path of one in the store where it is meant.
fn resolve(
    what: &str,
    role: Option<Role>,
    place: &StoreLocation,
) -> Result<PathBuf, CertificatesError> {
    match role {
        None => Ok(PathBuf::from(what)),
        Some(role) => {
            let name: Name = what
                .parse()
                .map_err(|error: NameError| CertificatesError::Usage(error.to_string()))?;
            let opened = place.open()?;
            // The error for a name that does not exist says more than that of its file.
            opened.store.certificates(role, &name)?;
            Ok(opened.store.path(role, &name))
        }
    }
}

impl ShowArgs {
    fn run(&self) -> Result<(), CertificatesError> {
        let file = resolve(&self.what.what, self.what.role, &self.place)?;
        let password = password(self.password_file.as_deref())?;
        let password = password.as_ref().map(|password| password.as_str());
        let descriptions = certs::describe_with(&file, password)?;
        let text = if self.json {
            pretty(&descriptions)?
        } else {
            let texts: Vec<String> = descriptions.iter().map(ToString::to_string).collect();
            texts.join("\n")
        };
        Ok(certs::print(text.as_bytes())?)
    }
}

impl DeleteArgs {
    fn run(&self) -> Result<(), CertificatesError> {
        let opened = self.place.open()?;
        let (role, name) = (self.role, &self.name);
        let wanted = Reference {
            role,
            name: name.clone(),
        };
        let request = Request {
            method: "DELETE",
            path: format!("/certificates/{}/{name}", role.word()),
            body: None,
        };
        opened.change(&self.place, &request, || {
            let users = users_of(&wanted, &opened.profiles()?);
            if users.is_empty() {
                return Ok(opened.store.delete(role, name)?);
            }
            Err(CertificatesError::InUse {
                role: role.word(),
                name: name.clone(),
                profiles: users.join(", "),
            })
        })?;
        let said = format!("deleted the {} certificate {name}\n", role.word());
        Ok(certs::print(said.as_bytes())?)
    }
}

impl ExportArgs {
    fn run(&self) -> Result<(), CertificatesError> {
        let (certificates, name) = self.certificates()?;
        let gateway = match self.format {
            ExportFormat::Mobileconfig => self.place.open()?.gateway(),
            ExportFormat::Pem | ExportFormat::Der => None,
        };
        let export = Export {
            role: self.role.unwrap_or(Role::Server),
            root: self.root,
            format: self.format,
            gateway: gateway.as_ref(),
            name: &name,
        };
        let content = export.content(&certificates)?;
        match &self.out {
            None => Ok(certs::print(&content)?),
            Some(file) => {
                files::replace(file, &content, Mode::Public).map_err(CertError::from)?;
                eprintln!("{}: written", file.display());
                Ok(())
            }
        }
    }

    /// The certificates, at least one, and by what name devices tell them from others.
    fn certificates(&self) -> Result<(Vec<CertificateDer<'static>>, String), CertificatesError> {
        let Some(what) = &self.what else {
            let (file, name) = match self.next {
                false => (CERTIFICATE_FILE, "self-signed"),
                true => (NEXT_CERTIFICATE_FILE, "self-signed-next"),
            };
            let file = self.place.open()?.state_dir.join(file);
            return Ok((certs::read_certificates(&file)?, name.to_owned()));
        };
        let file = resolve(what, self.role, &self.place)?;
        let password = password(self.password_file.as_deref())?;
        let password = password.as_ref().map(|password| password.as_str());
        let certificates = certs::read_certificates_with(&file, password)?;
        let stem = file.file_stem().unwrap_or_default().to_string_lossy();
        Ok((certificates, stem.into_owned()))
    }
}

fn password(file: Option<&Path>) -> Result<Option<zeroize::Zeroizing<String>>, CertError> {
    file.map(certs::read_password).transpose()
}

fn pretty(value: &impl Serialize) -> Result<String, CertError> {
    let json = serde_json::to_string_pretty(value)
        .map_err(|cause| CertError::crypto("write JSON", cause))?;
    Ok(json + "\n")
}
