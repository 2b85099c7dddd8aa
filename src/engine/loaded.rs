//! From a configuration to what cores run on: files read, certificates and CRLs checked, TLS set
//! up.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};

use super::certificates::{Certificates, Inventory, PlanSelfSigned};
use super::group::GroupCertificates;
use super::registry::{self, StoreError};
use super::revocation::{Crls, Revocation};
use super::sizes::Sizes;
use crate::access::{
    AdmissionLimits, AppGates, Gates, Limits, Names, ServiceGates, ServiceState, Snapshot,
};
use crate::backend::{self, Backends, Connector, ConnectorError, ConnectorSource, Group, Watch};
use crate::certs::CertError;
use crate::certs::self_signed::{Plan, Prepared};
use crate::config::{Config, Origin, Profile, Stale};
use crate::files;
use crate::findings::Problem;
use crate::observe::ProfileName;
use crate::reason::CloseReason;
use crate::table::RegistryError;
use crate::tls::{
    self, CrlErrors, DeviceVerifier, Resumption, RevocationPolicy, Scope, ServerTls, StalePolicy,
    TlsError,
};

/// Why a valid config cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A certificate or key.
    #[error("{0}")]
    Certificates(#[from] CertError),
    /// CRLs.
    #[error("{0}")]
    Crl(#[from] CrlErrors),
    /// The device registry's contents.
    #[error("{0}")]
    Registry(#[from] RegistryError),
    /// A file that cannot be read.
    #[error("cannot read {0}: {1}")]
    Read(String, std::io::Error),
    /// A file of the state folder that cannot be written.
    #[error("cannot write {0}: {1}")]
    Write(String, std::io::Error),
    /// The stored part of the device registry.
    #[error("device registry: {0}")]
    Store(#[from] StoreError),
    /// Files for the connections to a service's servers.
    #[error("service {0}: {1}")]
    Service(String, ConnectorError),
    /// A certificate, by its file, that cannot do what it is for.
    #[error("{}: {}", .0.display(), .1)]
    Finding(PathBuf, Box<Problem>),
    /// TLS cannot be set up with these certificates.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// More than one of these.
    #[error("{}", lines(.0))]
    Several(Vec<LoadError>),
}

/// One a line.
fn lines(errors: &[LoadError]) -> String {
    let lines: Vec<String> = errors.iter().map(LoadError::to_string).collect();
    lines.join("\n")
}

impl LoadError {
    /// Each thing that is wrong by itself.
    pub(super) fn apart(self) -> Vec<Self> {
        match self {
            Self::Several(errors) => errors.into_iter().flat_map(Self::apart).collect(),
            other => vec![other],
        }
    }

    /// The same for people and programs.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let problem = |file: &Path, line, message: String| Problem {
            file: Some(file.display().to_string()),
            line,
            message,
            ..Problem::default()
        };
        match self {
            Self::Several(errors) => errors.iter().flat_map(Self::problems).collect(),
            Self::Finding(file, finding) => vec![Problem {
                file: Some(file.display().to_string()),
                ..(**finding).clone()
            }],
            Self::Registry(RegistryError { path, problems }) => {
                let lines = problems.iter();
                let lines = lines.map(|one| problem(path, Some(one.line), one.fault.to_string()));
                lines.collect()
            }
            Self::Crl(CrlErrors(errors)) => errors.iter().map(Problem::of).collect(),
            Self::Certificates(error) => vec![Problem::of(error)],
            Self::Store(error) => vec![Problem::of(error)],
            Self::Tls(error) => vec![Problem::of(error)],
            Self::Read(..) | Self::Write(..) | Self::Service(..) => vec![Problem::of(self)],
        }
    }
}

/// Faults found so far; later files are still checked.
#[derive(Debug, Default)]
pub(super) struct Problems(pub Vec<LoadError>);

impl Problems {
    /// The value, or its error among those that are noted.
    pub fn note<T>(&mut self, result: Result<T, impl Into<LoadError>>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.0.extend(error.into().apart());
                None
            }
        }
    }

    /// The value, which is there unless an error of its own was noted.
    ///
    /// # Errors
    /// All that were noted, if any.
    pub fn conclude<T>(self, value: Option<T>) -> Result<T, LoadError> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => Err(match <[LoadError; 1]>::try_from(self.0) {
                Ok([only]) => only,
                Err(several) => LoadError::Several(several),
            }),
        }
    }
}

/// The gates of a profile's services, by index, and those of its apps.
type ProfileGates = (ServiceGates, Arc<AppGates>);

/// Warnings about files that can be used.
#[derive(Debug)]
pub struct Doubts {
    /// With the certificates, by file.
    pub certificates: Vec<(PathBuf, Problem)>,
    /// CRLs that are not valid now: where each is from, and what is to be said of it.
    pub ended_crls: Vec<(String, String)>,
}

/// Everything that is read from files, checked.
pub struct Loaded {
    config: Config,
    certificates: Certificates,
    group: Vec<CertificateDer<'static>>,
    /// The file of each group certificate.
    origins: Vec<PathBuf>,
    /// Content of the files for the connections to each service's servers.
    means: Vec<ConnectorSource>,
    /// How sessions are resumed.
    pub resumption: Arc<Resumption>,
    /// The CRLs.
    pub(super) crls: Crls,
    /// Clock of TLS, on all cores.
    clock: Arc<dyn TimeProvider>,
}

impl Loaded {
    /// Reads and checks the files that `config` names. Where no server certificate is
    /// named a self-signed one is made, and written by [`Prepared::commit`] only.
    ///
    /// # Errors
    /// [`LoadError`]: each file that is wrong.
    pub fn load(config: &Config) -> Result<Self, LoadError> {
        Self::read(config, None, Plan::new)
    }

    /// As [`load`](Self::load), while a node runs whose CRLs stand in for bad ones.
    pub(super) fn load_beside(
        config: &Config,
        running: Option<&Revocation>,
    ) -> Result<Self, LoadError> {
        Self::read(config, running, Plan::new)
    }

    fn read(
        config: &Config,
        running: Option<&Revocation>,
        plan: PlanSelfSigned,
    ) -> Result<Self, LoadError> {
        let profile = &config.profile;
        let auth = &profile.device_auth;
        let mut problems = Problems::default();
        let certificates = problems.note(Certificates::load(config, plan));
        let group = problems.note(GroupCertificates::load(auth));
        // Who signs a list can only be told of a whole group.
        let crls = group.as_ref().and_then(|group| {
            problems.note(match running {
                Some(running) => running.load(config, &group.all),
                None => Crls::load(config, &group.all, None, Vec::new()),
            })
        });
        let GroupCertificates {
            all: group,
            origins,
            files,
            findings,
        } = group.unwrap_or_default();
        let resumption = Resumption::new(&profile.resumption, Scope::new(&profile.name, &group));
        let resumption = problems.note(resumption.map_err(TlsError::from));
        let means = profile.services.iter().filter_map(|service| {
            let means = ConnectorSource::load(service, &profile.outbound);
            problems.note(means.map_err(|why| LoadError::Service(service.name.clone(), why)))
        });
        let means = means.collect();
        let parts = certificates.zip(crls).zip(resumption);
        let ((certificates, crls), resumption) = problems.conclude(parts)?;
        let resumption = resumption.ending(certificates.inventory.ends());
        let certificates = certificates.with_group(&files, findings);
        Ok(Self {
            means,
            config: config.clone(),
            certificates,
            group,
            origins,
            resumption: Arc::new(resumption),
            crls,
            clock: Arc::new(DefaultTimeProvider),
        })
    }

    /// Keeps what sessions are resumed with, where it still fits: a reload ends none that is in
    /// scope.
    ///
    /// # Errors
    /// [`LoadError`], if the ticket keys changed in this moment and are wrong.
    pub fn continue_sessions(&mut self, previous: &Resumption) -> Result<(), LoadError> {
        self.resumption = Arc::new(
            self.resumption
                .continuing(previous)
                .map_err(TlsError::from)?,
        );
        Ok(())
    }

    /// Writes what is new under temporary names, so that little can fail when it is put in its
    /// place.
    ///
    /// # Errors
    /// [`LoadError`], where that is not possible.
    pub(super) fn prepare(&self) -> Result<Prepared, LoadError> {
        self.certificates.prepare(&self.config)
    }

    /// The server certificates.
    pub(super) fn inventory(&self) -> Inventory {
        self.certificates.inventory.clone()
    }

    /// Says what may be wrong with the certificates in the log, once.
    pub(super) fn log_findings(&self) {
        for (file, finding) in &self.certificates.findings {
            tracing::warn!(file = %file.display(), code = &*finding.code, "certificate: {finding}");
        }
    }

    /// Reads and checks everything that a start would, and keeps nothing. Gives back what may be
    /// wrong all the same.
    ///
    /// # Errors
    /// [`LoadError`], which names the file.
    pub fn check(config: &Config) -> Result<Doubts, LoadError> {
        let mut problems = Problems::default();
        problems.note(files::check_folder(&config.state_dir).map_err(CertError::from));
        problems.note(registry::check(config));
        let loaded = problems.note(Self::read(config, None, Plan::rehearsed));
        let mut loaded = problems.conclude(loaded)?;
        let ended_crls = loaded.crls.ended();
        let revocation = Revocation::new(std::mem::take(&mut loaded.crls));
        let groups = Backends::default().prepare(&config.profile.services);
        loaded.snapshots(1, &revocation, &groups, &Gates::default())?;
        Ok(Doubts {
            certificates: loaded.certificates.findings,
            ended_crls,
        })
    }

    /// The snapshots of `cores` cores. They look revoked certificates up in `revocation`.
    ///
    /// # Errors
    /// [`TlsError`].
    pub(super) fn snapshots(
        &self,
        cores: usize,
        revocation: &Revocation,
        groups: &[Option<Arc<Group>>],
        gates: &Gates,
    ) -> Result<Vec<Snapshot>, LoadError> {
        let auth = &self.config.profile.device_auth;
        let stale = match auth.stale {
            Stale::Hard => StalePolicy::Hard,
            Stale::Grace(grace) => StalePolicy::Grace(grace),
            Stale::Soft => StalePolicy::Soft,
        };
        let policy = RevocationPolicy {
            enabled: auth.crl_enabled,
            stale,
        };
        let index = revocation.index.clone();
        let mut verifier = match self.config.profile.is_none() {
            true => DeviceVerifier::of_nobody(index),
            false => DeviceVerifier::new(&self.group, index, policy)
                .map_err(|error| self.of_group(error))?,
        };
        if auth.crl_enabled && auth.crl_fetch.from_certificates {
            verifier = verifier.noting(revocation.points.clone());
        }
        let verifier = Arc::new(verifier);
        let (services, apps) = gates.of(&self.config.profile);
        let gates = (services, Arc::new(apps));
        (0..cores)
            .map(|core| self.snapshot(core, &verifier, groups, &gates))
            .collect()
    }

    /// Returns what is wrong with a group certificate, with its file and its place there.
    fn of_group(&self, error: TlsError) -> LoadError {
        let TlsError::GroupCertificate { position, why } = error else {
            return error.into();
        };
        let origins = &self.origins[..position.min(self.origins.len())];
        match origins.last() {
            Some(file) => {
                let place = origins.iter().filter(|other| *other == file).count();
                let problem = Problem {
                    message: format!("certificate {place}: {why}"),
                    remedy: "see profile.device_auth.group_certificates".into(),
                    ..Problem::default()
                };
                LoadError::Finding(file.clone(), Box::new(problem))
            }
            None => TlsError::GroupCertificate { position, why }.into(),
        }
    }

    /// The servers that are to be checked.
    pub(super) fn watches(&self, groups: &[Option<Arc<Group>>]) -> Result<Arc<[Watch]>, LoadError> {
        let services = self.config.profile.services.iter();
        let all = services.zip(groups).zip(&self.means);
        let watches = all.filter_map(|((service, group), means)| {
            Watch::new(service, group.clone()?, means).transpose()
        });
        Ok(watches.collect::<Result<_, TlsError>>()?)
    }

    /// The names that make a session a tunnel, with the TLS of each service that has some.
    fn names(&self, general: &ServerConfig) -> Result<Names, LoadError> {
        let mut names = Names::default();
        for (index, service) in self.config.profile.services.iter().enumerate() {
            if let Some(sni) = &service.sni {
                let own = self.certificates.named.get(&index);
                let tls = tls::named_config(general, own, &sni.protocols)?;
                names.add(&sni.names, index, Arc::new(tls));
            }
        }
        Ok(names)
    }

    fn snapshot(
        &self,
        core: usize,
        verifier: &Arc<DeviceVerifier>,
        groups: &[Option<Arc<Group>>],
        (gates, apps): &ProfileGates,
    ) -> Result<Snapshot, LoadError> {
        let profile = &self.config.profile;
        let engine = &self.config.engine;
        let tls = tls::server_config(ServerTls {
            certificates: self.certificates.general.clone(),
            clock: self.clock.clone(),
            verifier: verifier.clone(),
            choice: profile.inbound.clone(),
            resumption: self.resumption.clone(),
        })?;
        let services = profile.services.iter().zip(groups).zip(&self.means);
        let services = services.zip(gates);
        let services = services.map(|(((service, group), means), gate)| {
            Ok(ServiceState {
                name: service.name.as_str().into(),
                connector: Connector::new(service, group.clone(), means, core)?,
                gate: gate.clone(),
                max_lifetime: service.max_lifetime,
                udp: service.udp,
            })
        });
        let sizes = Sizes::of(engine);
        Ok(Snapshot {
            names: self.names(&tls)?,
            tls: Arc::new(tls),
            listener: Arc::new(profile.listener.clone()),
            external_port: profile.external_port,
            verifier: verifier.clone(),
            identity: profile.device_auth.identity.clone(),
            unmanaged_allowed: profile.device_auth.unmanaged_allowed,
            services: services.collect::<Result<_, TlsError>>()?,
            rules: profile.rules.clone(),
            apps: apps.clone(),
            no_rule: match profile.no_rule_direct {
                true => CloseReason::NoRuleDirect,
                false => CloseReason::NoRule,
            },
            profile: Arc::new(name_of(profile)),
            external: (profile.external_host.clone(), profile.external_port),
            limits: Limits {
                max_tunnels: sizes.tunnels,
                admission: AdmissionLimits {
                    open: sizes.unauthenticated,
                    most: engine.max_unauthenticated,
                    descriptors: sizes.usable,
                    cores: engine.cores.len(),
                    open_per_source: engine.max_unauthenticated_per_source,
                    failed_per_second: engine.failed_handshakes_per_second as u64,
                },
                max_tunnels_per_device: engine.max_tunnels_per_device,
                handshake_timeout: engine.handshake_timeout,
                connect_timeout: engine.connect_timeout,
                idle_timeout: engine.idle_timeout,
                tcp: backend::options(&engine.tcp),
                idle_bounds: (engine.idle_timeout_min, engine.idle_timeout_max),
                max_lifetime: engine.max_lifetime,
            },
        })
    }
}

/// The profile in records.
fn name_of(profile: &Profile) -> ProfileName {
    ProfileName {
        name: profile.name.as_str().into(),
        version: match profile.origin {
            Origin::Store { version } => Some(version),
            Origin::File | Origin::Nowhere => None,
        },
    }
}
