//! The server certificates: read and looked at at start and reload, and what is told of them while
//! the node runs.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::SystemTime;

use zeroize::Zeroizing;

use super::loaded::{LoadError, Problems};
use super::node::Node;
use super::reload::ReloadErrors;
use crate::certs::self_signed::{CERTIFICATE_FILE, NEXT_CERTIFICATE_FILE, Plan, Prepared};
use crate::certs::term::{current, dns_names, key_algorithm};
use crate::certs::{self, CertError, Identity, Term};
use crate::config::{CertificateFiles, Config};
use crate::findings::{Problem, Severity};
use crate::observe::CertificateInfo;
use crate::tls::ServerCertificates;

/// Purpose of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Role {
    Primary,
    Secondary,
    Additional,
    /// Of a service that has names of its own.
    Service,
    SelfSigned,
    SelfSignedNext,
    /// A file of group certificates.
    Group,
}

impl Role {
    const fn word(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Secondary => "secondary",
            Self::Additional => "additional",
            Self::Service => "service",
            Self::SelfSigned => "self-signed",
            Self::SelfSignedNext => "self-signed-next",
            Self::Group => "group",
        }
    }

    /// Returns whether it is one of those that are served one after the other.
    const fn is_in_line(self) -> bool {
        !matches!(self, Self::Additional | Self::Service | Self::Group)
    }
}

/// A certificate that is there: what for, from where, and when it can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
struct InventoryEntry {
    role: Role,
    file: PathBuf,
    term: Term,
}

impl InventoryEntry {
    fn new(role: Role, file: &Path, (chain, _): &Identity) -> Self {
        Self {
            role,
            file: file.to_path_buf(),
            term: Term::of(chain),
        }
    }
}

/// The server certificates of a configuration, without their keys, and its files of group
/// certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Inventory(Arc<[InventoryEntry]>);

impl Inventory {
    /// When each server certificate ends, in seconds since 1970.
    pub(super) fn ends(&self) -> impl Iterator<Item = u64> {
        let shown = self.0.iter().filter(|held| held.role != Role::Group);
        shown.map(|held| held.term.not_after)
    }

    /// Returns whether these are among them.
    fn contains(&self, others: &Self) -> bool {
        others.0.iter().all(|other| self.0.contains(other))
    }

    /// Each of them, as it is at `now`.
    pub(super) fn list(&self, now: u64) -> Vec<CertificateInfo> {
        let line = || self.0.iter().filter(|held| held.role.is_in_line());
        let in_turn = line().nth(current(line().map(|held| held.term), now));
        let list = self.0.iter().map(|held| {
            let info = CertificateInfo {
                role: held.role.word(),
                file: held.file.display().to_string(),
                not_before: held.term.not_before,
                not_after: held.term.not_after,
                served: match held.role.is_in_line() {
                    true => in_turn == Some(held),
                    false => held.term.contains(now),
                },
                ..CertificateInfo::default()
            };
            info.at(now)
        });
        list.collect()
    }
}

/// The files as read.
pub(super) struct Certificates {
    /// Those of the profile.
    pub general: Arc<ServerCertificates>,
    /// Of the services that have certificates of their own, by their index.
    pub named: HashMap<usize, ServerCertificates>,
    /// All of them.
    pub inventory: Inventory,
    /// Warnings, each with its file.
    pub findings: Vec<(PathBuf, Problem)>,
    /// Plan for the self-signed certificate, if none is named.
    self_signed: Option<Plan>,
}

impl Certificates {
    /// These, and the files of group certificates with what may be wrong with them.
    pub(super) fn with_group(
        mut self,
        files: &[(PathBuf, Term)],
        findings: Vec<(PathBuf, Problem)>,
    ) -> Self {
        let group = files.iter().map(|(file, term)| InventoryEntry {
            role: Role::Group,
            file: file.clone(),
            term: *term,
        });
        self.inventory = Inventory(self.inventory.0.iter().cloned().chain(group).collect());
        self.findings.extend(findings);
        self
    }

    /// Reads the files that `config` names. Where none is named, the self-signed certificate is
    /// planned by `plan`.
    ///
    /// # Errors
    /// [`LoadError`], which names each file with what is wrong.
    pub(super) fn load(config: &Config, plan: PlanSelfSigned) -> Result<Self, LoadError> {
        let profile = &config.profile;
        let mut reading = Reading::default();
        match &profile.server_certificate {
            Some(files) => {
                let host = Some(profile.external_host.as_str());
                reading.read(Role::Primary, &files.primary, host);
                if let Some(secondary) = &files.secondary {
                    reading.read(Role::Secondary, secondary, host);
                }
                for additional in &files.additional {
                    reading.read(Role::Additional, additional, None);
                }
            }
            // Nobody comes to a node without a profile, and it has no name to make one for.
            None if profile.is_none() => {}
            None => reading.self_signed(config, plan)?,
        }
        let mut services = Vec::new();
        for (index, service) in profile.services.iter().enumerate() {
            let own = service
                .sni
                .as_ref()
                .and_then(|sni| sni.certificate.as_ref());
            if let Some(files) = own {
                services.push(index);
                reading.read(Role::Service, files, None);
            }
        }
        reading.into_certificates(services)
    }

    /// Writes what is new of the self-signed certificates, under temporary names: nothing changes
    /// before [`Prepared::commit`].
    ///
    /// # Errors
    /// [`LoadError`], where that is not possible.
    pub(super) fn prepare(&self, config: &Config) -> Result<Prepared, LoadError> {
        let plan = self.self_signed.as_ref();
        let prepared = plan.map(|plan| plan.prepare(&config.state_dir));
        Ok(prepared.transpose()?.unwrap_or_default())
    }
}

/// [`Plan::new`], or [`Plan::rehearsed`] for a check.
pub(super) type PlanSelfSigned = fn(&Path, &[String]) -> Result<Plan, CertError>;

/// The self-signed certificates that a node with `config` shows.
///
/// # Errors
/// [`CertError`].
pub(super) fn self_signed(config: &Config) -> Result<Inventory, CertError> {
    let mut reading = Reading::default();
    reading.self_signed(config, Plan::new)?;
    let held = reading.read.into_iter().map(|one| one.held);
    Ok(Inventory(held.collect()))
}

impl Node {
    /// The server certificates and the files of group certificates, each as it is now.
    #[must_use]
    pub fn certificates(&self) -> Vec<CertificateInfo> {
        self.lock_inventory().list(unix_now())
    }

    /// Times that a server certificate took over from one that had expired.
    #[must_use]
    pub fn certificate_takeovers(&self) -> u64 {
        self.takeovers.load(Ordering::Relaxed)
    }

    /// Counts one that has just taken over.
    pub fn count_certificate_takeover(&self) {
        self.takeovers.fetch_add(1, Ordering::Relaxed);
    }

    /// Makes a successor of the self-signed certificate when it is time, and activates it, or what
    /// the clock wants now that it has been set. Reads and writes files: not for a data core.
    ///
    /// # Errors
    /// [`ReloadErrors`]; what was active stays so.
    pub fn renew_self_signed(&self) -> Result<bool, ReloadErrors> {
        let config = self.config();
        let profile = &config.profile;
        let is_ours = !self.is_draining() && !self.follows();
        if profile.server_certificate.is_some() || profile.is_none() || !is_ours {
            return Ok(false);
        }
        let found = self_signed(&config).map_err(LoadError::from)?;
        if self.lock_inventory().contains(&found) {
            return Ok(false);
        }
        self.read_again()?;
        Ok(true)
    }

    pub(super) fn hold(&self, inventory: Inventory) {
        *self.lock_inventory() = inventory;
    }

    fn lock_inventory(&self) -> MutexGuard<'_, Inventory> {
        self.inventory
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Seconds since 1970.
fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// A certificate with its key.
struct Read {
    held: InventoryEntry,
    identity: Identity,
    /// Why a gateway does not start with it, unless another one stands in for it.
    expired: Vec<Problem>,
}

impl Read {
    /// Returns whether clients of `self` are as well off with `other`: it can be used, and is what
    /// they want.
    fn is_replaced_by(&self, other: &Self) -> bool {
        if !other.expired.is_empty() || other.held.role == Role::Service {
            return false;
        }
        if self.held.role.is_in_line() {
            return other.held.role.is_in_line();
        }
        let (own, others) = (&self.identity.0, &other.identity.0);
        let first = |chain: &[_]| {
            chain
                .first()
                .map(|first| (dns_names(first), key_algorithm(first)))
        };
        self.held.role == Role::Additional && first(own) == first(others)
    }
}

/// Certificates as they are read, and what is wrong with them.
#[derive(Default)]
struct Reading {
    read: Vec<Read>,
    findings: Vec<(PathBuf, Problem)>,
    problems: Problems,
    plan: Option<Plan>,
}

impl Reading {
    fn read(&mut self, role: Role, files: &CertificateFiles, host: Option<&str>) {
        let read = self.try_read(role, files, host);
        self.problems.note(read);
    }

    fn try_read(
        &mut self,
        role: Role,
        files: &CertificateFiles,
        host: Option<&str>,
    ) -> Result<(), CertError> {
        let password = read_password(files.password_file.as_deref())?;
        let password = password.as_ref().map(|password| password.as_str());
        let file = &files.file;
        let (of, key) = (certs::Role::Server, files.key.as_deref());
        let inspected = certs::inspect(of, file, key, password, host)?;
        let errors = inspected.errors().cloned();
        let (expired, errors): (Vec<_>, Vec<_>) =
            errors.partition(|finding| finding.code == "expired");
        self.refuse(file, errors);
        let findings = inspected.findings.iter().cloned();
        self.findings
            .extend(findings.map(|finding| (file.clone(), finding)));
        // Without a key there is nothing to go on with; that is a finding of its own only where one is looked for.
        let identity = inspected.identity(file)?;
        self.read.push(Read {
            held: InventoryEntry::new(role, file, &identity),
            identity,
            expired,
        });
        Ok(())
    }

    fn refuse(&mut self, file: &Path, errors: Vec<Problem>) {
        let errors = errors.into_iter();
        let errors = errors.map(|error| LoadError::Finding(file.to_owned(), Box::new(error)));
        self.problems.0.extend(errors);
    }

    fn self_signed(&mut self, config: &Config, plan: PlanSelfSigned) -> Result<(), CertError> {
        let names = std::slice::from_ref(&config.profile.external_host);
        let plan = plan(&config.state_dir, names)?;
        let mut add = |role, file, (chain, key): &Identity| {
            let identity = (chain.clone(), key.clone_key());
            self.read.push(Read {
                held: InventoryEntry::new(role, &config.state_dir.join(file), &identity),
                identity,
                expired: Vec::new(),
            });
        };
        add(Role::SelfSigned, CERTIFICATE_FILE, &plan.shown.current);
        if let Some(next) = &plan.shown.next {
            add(Role::SelfSignedNext, NEXT_CERTIFICATE_FILE, next);
        }
        let file = config.state_dir.join(CERTIFICATE_FILE);
        let early = plan.is_early(unix_now()).then(|| (file, early()));
        self.findings.extend(early);
        self.plan = Some(plan);
        Ok(())
    }

    /// `services`: the indexes of those whose certificates were read, in that order.
    fn into_certificates(mut self, services: Vec<usize>) -> Result<Certificates, LoadError> {
        let replaced = |one: &Read| self.read.iter().any(|other| one.is_replaced_by(other));
        let ended = self.read.iter().filter(|one| !replaced(one));
        let ended = ended.map(|one| (one.held.file.clone(), one.expired.clone()));
        for (file, errors) in ended.collect::<Vec<_>>() {
            self.refuse(&file, errors);
        }
        std::mem::take(&mut self.problems).conclude(Some(()))?;
        let mut seen = HashSet::new();
        let held = self.read.iter().map(|one| one.held.clone());
        // Services may share a certificate, which is one all the same.
        let held = held.filter(|held| seen.insert((held.role, held.file.clone())));
        let inventory = Inventory(held.collect());
        let mut general = ServerCertificates {
            line: Vec::new(),
            additional: Vec::new(),
        };
        let mut named = HashMap::new();
        let mut services = services.into_iter();
        for one in self.read.drain(..) {
            match one.held.role {
                Role::Service => {
                    named.extend(services.next().map(|index| (index, one.identity.into())));
                }
                Role::Additional => general.additional.push(one.identity),
                _ => general.line.push(one.identity),
            }
        }
        Ok(Certificates {
            general: Arc::new(general),
            named,
            inventory,
            findings: self.findings,
            self_signed: self.plan,
        })
    }
}

/// Returns what is said of a self-signed certificate that is not valid yet.
fn early() -> Problem {
    Problem {
        severity: Severity::Warning,
        code: "not-yet-valid".into(),
        message:
            "the self-signed certificate is not valid yet by this machine's clock; it is served \
            anyway"
                .to_owned(),
        remedy: "set the clock".into(),
        ..Problem::default()
    }
}

/// The password of a certificate file.
///
/// # Errors
/// [`CertError`].
pub(super) fn read_password(file: Option<&Path>) -> Result<Option<Zeroizing<String>>, CertError> {
    file.map(certs::read_password).transpose()
}
