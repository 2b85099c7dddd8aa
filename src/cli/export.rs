//! `adit devices export`: what makes a device use this gateway, made from the config's rules.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use rustls::pki_types::CertificateDer;

use crate::certs::profile::{
    Gateway, Identity, PacHosts, PacRule, Reach, Relay, Scep, is_pkcs12, pac,
};
use crate::certs::{self, CertError};
use crate::config::{self, Config, ConfigError, Host, HostPattern, Profile};
use crate::files::{self, FileError, Mode};

/// Format of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ExportKind {
    /// A configuration profile for Apple devices, with a network relay.
    Mobileconfig,
    /// The same relay as a declaration, com.apple.configuration.network.relay (iOS, macOS 27).
    Declaration,
    /// A PAC file for browsers.
    Pac,
}

/// Arguments of `adit devices export`.
#[derive(Debug, clap::Args)]
pub struct ExportCommand {
    /// Format of the output.
    #[arg(long, value_enum)]
    format: ExportKind,
    /// Path of the output [default: standard output].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Only what this app may reach, for a document of its own.
    #[arg(long, value_name = "NAME")]
    app: Option<String>,
    /// A domain that does not go through the gateway, nor what is below it. May be repeated.
    #[arg(long, value_name = "DOMAIN")]
    exclude: Vec<String>,
    /// The device's identity: a PKCS#12 file, put into the profile.
    #[arg(long, value_name = "FILE", conflicts_with = "scep_url")]
    identity: Option<PathBuf>,
    /// Put the password that this file holds into the profile too. Else the device asks for it.
    #[arg(long, value_name = "FILE", requires = "identity")]
    embed_password: Option<PathBuf>,
    /// The URL at which the device asks for its identity (SCEP).
    #[arg(long, value_name = "URL")]
    scep_url: Option<String>,
    /// The name of the authority there.
    #[arg(long, value_name = "NAME", requires = "scep_url")]
    scep_name: Option<String>,
    /// An attribute of the identity's subject, such as CN=%HardwareUUID% or OU=mail. May be
    /// repeated, in order.
    #[arg(long, value_name = "ATTRIBUTE=VALUE", requires = "scep_url", value_parser = pair)]
    scep_subject: Vec<(String, String)>,
    /// The file with the challenge for the authority.
    #[arg(long, value_name = "FILE", requires = "scep_url")]
    scep_challenge: Option<PathBuf>,
    /// The identifier of the asset declaration that holds the device's identity.
    #[arg(long, value_name = "IDENTIFIER")]
    credential_asset: Option<String>,
    /// A certificate file of the authority that issued the gateway's certificate, where devices do
    /// not trust it anyway. [default: the self-signed certificate, if the gateway has one]
    #[arg(long, value_name = "FILE")]
    root: Option<PathBuf>,
    /// A header field of each request. May be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    header: Vec<(String, String)>,
    /// The user cannot switch the relay off.
    #[arg(long)]
    no_toggle: bool,
    /// Names that the gateway cannot resolve are asked of the system's resolver.
    #[arg(long)]
    dns_failover: bool,
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The config.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// A certificate, or standard output.
    #[error("{0}")]
    Certificate(#[from] CertError),
    /// The command line, or a config that has nothing to export.
    #[error("{0}")]
    Usage(String),
    /// A file of the command line.
    #[error(transparent)]
    Read(#[from] FileError),
    /// The document.
    #[error("cannot write the document: {0}")]
    Document(#[from] plist::Error),
}

impl ExportCommand {
    /// Does it.
    ///
    /// # Errors
    /// [`ExportError`].
    pub fn run(&self, config: &Path) -> Result<(), ExportError> {
        let config = config::load(config)?;
        if config.profile.is_none() {
            let message = "the node has no profile that devices could use; assign one with adit profile assign";
            return Err(ExportError::Usage(message.to_owned()));
        }
        self.check_use()?;
        let (content, mode) = self.document(&config)?;
        match &self.out {
            Some(file) => {
                files::replace(file, &content, mode).map_err(CertError::from)?;
                eprintln!("{}: written", file.display());
            }
            None => certs::print(&content)?,
        }
        Ok(())
    }

    /// Options that the format has no place for are an error: whoever gives one counts on it.
    fn check_use(&self) -> Result<(), ExportError> {
        let profile = self.format == ExportKind::Mobileconfig;
        let declaration = self.format == ExportKind::Declaration;
        for (given, fits, option) in [
            (self.identity.is_some(), profile, "--identity"),
            (self.scep_url.is_some(), profile, "--scep-url"),
            (self.root.is_some(), profile, "--root"),
            (
                self.credential_asset.is_some(),
                declaration,
                "--credential-asset",
            ),
            (!self.header.is_empty(), profile || declaration, "--header"),
            (self.no_toggle, profile || declaration, "--no-toggle"),
            (self.dns_failover, profile || declaration, "--dns-failover"),
            (
                !self.exclude.is_empty(),
                profile || declaration,
                "--exclude",
            ),
        ] {
            if given && !fits {
                let format = self
                    .format
                    .to_possible_value()
                    .map(|value| value.get_name().to_owned());
                let format = format.unwrap_or_default();
                return Err(ExportError::Usage(format!(
                    "{option} cannot be used with the format {format}; leave it out"
                )));
            }
        }
        Ok(())
    }

    fn document(&self, config: &Config) -> Result<(Vec<u8>, Mode), ExportError> {
        let profile = &config.profile;
        let (host, port) = (&profile.external_host, profile.external_port);
        let mut gateway = Gateway::new(host, port, &profile.name, &profile.description);
        if self.format == ExportKind::Pac {
            let text = pac(&gateway.authority, &self.pac_rules(profile)?);
            return Ok((text.into_bytes(), Mode::Public));
        }
        gateway.app.clone_from(&self.app);
        let relay = Relay {
            reach: self.reach(profile)?,
            headers: self.headers()?,
            toggle: !self.no_toggle,
            dns_failover: self.dns_failover,
        };
        if self.format == ExportKind::Declaration {
            if self.credential_asset.is_none() {
                warn(
                    "the declaration names no identity, but the gateway requires one: see --credential-asset",
                );
            }
            let text = gateway.declaration(&relay, self.credential_asset.as_deref());
            return Ok((text.into_bytes(), Mode::Public));
        }
        let (identity, mode) = self.identity()?;
        if identity.is_none() {
            warn(
                "the profile has no identity, but the gateway requires one: see --identity and --scep-url",
            );
        }
        let roots = self.roots(config)?;
        Ok((
            gateway.mobileconfig(&relay, &roots, identity.as_ref())?,
            mode,
        ))
    }

    /// The rules that are about the app.
    fn rules<'c>(&self, profile: &'c Profile) -> impl Iterator<Item = &'c config::Rule> {
        let app = self.app.clone();
        profile
            .rules
            .iter()
            .filter(move |rule| match (&rule.app, &app) {
                (Some(of), Some(app)) => of == app,
                _ => true,
            })
    }

    /// The domains of the rules. What a device cannot be told is said on standard error.
    fn reach(&self, profile: &Profile) -> Result<Reach, ExportError> {
        let mut domains: Vec<String> = Vec::new();
        let mut everything = false;
        for rule in self.rules(profile) {
            match &rule.host {
                HostPattern::Any => everything = true,
                HostPattern::Exact(name) => domains.push(name.clone()),
                HostPattern::Suffix(name) => domains.push(name.clone()),
                HostPattern::Net(net) => warn(&format!(
                    "a relay cannot match addresses: devices do not use the rule for {net}"
                )),
            }
        }
        if everything {
            warn(
                "a rule matches every host: the device sends everything to the gateway, except the domains \
                    of --exclude",
            );
            domains.clear();
        } else if domains.is_empty() {
            let message = "no rule names a host, and with a relay without domains the device would send \
                everything; \
                           add a [[profile.rule]] with a name or a wildcard, or one with host = \"*\"";
            return Err(ExportError::Usage(message.into()));
        } else {
            let mut seen = std::collections::HashSet::new();
            domains.retain(|domain| seen.insert(domain.clone()));
        }
        let excluded = self.exclude.iter().map(|domain| match domain.parse() {
            Ok(Host::Name(name)) => Ok(name),
            _ => Err(ExportError::Usage(format!(
                "--exclude {domain:?} is not a domain; write one such as public.example.com"
            ))),
        });
        Ok(Reach {
            domains,
            excluded: excluded.collect::<Result<_, _>>()?,
        })
    }

    fn pac_rules(&self, profile: &Profile) -> Result<Vec<PacRule>, ExportError> {
        let mut rules = Vec::new();
        for rule in self.rules(profile) {
            let hosts = match &rule.host {
                HostPattern::Any => PacHosts::Any,
                HostPattern::Exact(name) => PacHosts::Name(name.clone()),
                HostPattern::Suffix(name) => PacHosts::Below(name.clone()),
                HostPattern::Net(net) => {
                    if net.network().is_ipv6() {
                        warn(&format!(
                            "a PAC file cannot match IPv6 networks: browsers do not use the rule for {net}"
                        ));
                        continue;
                    }
                    PacHosts::Network(*net)
                }
            };
            let rule = PacRule {
                hosts,
                ports: rule.ports.clone(),
            };
            if !rules.contains(&rule) {
                rules.push(rule);
            }
        }
        if rules.is_empty() {
            let message = "no rule is left that a browser could use; add a [[profile.rule]]";
            return Err(ExportError::Usage(message.into()));
        }
        Ok(rules)
    }

    fn headers(&self) -> Result<Vec<(String, String)>, ExportError> {
        for (name, value) in &self.header {
            let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
            let visible = |b: u8| (b' '..0x7f).contains(&b);
            if !name.bytes().all(token) || !value.bytes().all(visible) {
                return Err(ExportError::Usage(format!(
                    "--header {name:?} is not a header field; write NAME=VALUE in plain ASCII (RFC 9110, section 5.1)"
                )));
            }
        }
        Ok(self.header.clone())
    }

    /// How the device gets its identity, and who may read the document that says so.
    fn identity(&self) -> Result<(Option<Identity>, Mode), ExportError> {
        if let Some(file) = &self.identity {
            let content = read(file)?;
            if !is_pkcs12(&content) {
                return Err(ExportError::Usage(format!(
                    "{} is not a PKCS#12 file; make one with `openssl pkcs12 -export -in device.pem -inkey device.key -out device.p12`",
                    file.display()
                )));
            }
            let password = self.embed_password.as_deref().map(secret).transpose()?;
            let whoever = match password {
                Some(_) => {
                    "the profile has the identity and its password: everybody who can read it has both"
                }
                None => "the profile has the identity, protected by the file's password",
            };
            warn(whoever);
            return Ok((Some(Identity::Pkcs12 { content, password }), Mode::Secret));
        }
        let Some(url) = &self.scep_url else {
            return Ok((None, Mode::Public));
        };
        if !url.starts_with("https://") && !url.starts_with("http://") {
            return Err(ExportError::Usage(format!(
                "--scep-url {url:?} is not a URL; write http:// or https:// and the address of the authority"
            )));
        }
        let challenge = self.scep_challenge.as_deref().map(secret).transpose()?;
        let mode = match challenge {
            Some(_) => Mode::Secret,
            None => Mode::Public,
        };
        let scep = Scep {
            url: url.clone(),
            name: self.scep_name.clone(),
            subject: self.scep_subject.clone(),
            challenge,
        };
        Ok((Some(Identity::Scep(scep)), mode))
    }

    fn roots(&self, config: &Config) -> Result<Vec<CertificateDer<'static>>, ExportError> {
        match (&self.root, &config.profile.server_certificate) {
            (Some(file), _) => Ok(certs::read_certificates(file)?),
            (None, Some(_)) => Ok(Vec::new()),
            (None, None) => Ok(certs::self_signed::to_distribute(&config.state_dir)?),
        }
    }
}

fn pair(text: &str) -> Result<(String, String), ExportError> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => {
            Ok((name.to_owned(), value.to_owned()))
        }
        _ => Err(ExportError::Usage("write a name, =, and a value".into())),
    }
}

fn read(file: &Path) -> Result<Vec<u8>, ExportError> {
    Ok(files::read(file, crate::limits::MAX_CERTIFICATE_FILE)?)
}

/// The first line of a file.
fn secret(file: &Path) -> Result<String, ExportError> {
    let text = String::from_utf8(read(file)?).unwrap_or_default();
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(line.to_owned()),
        _ => Err(ExportError::Usage(format!(
            "{} has no text in its first line; write the secret there",
            file.display()
        ))),
    }
}

fn warn(message: &str) {
    eprintln!("note: {message}");
}
