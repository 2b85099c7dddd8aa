//! Checks of a certificate file before it is used: a list of findings, each with what would put it
//! right.
//!
//! The file is looked at as devices will: does the chain lead from the end certificate to a root, is everything in it valid now, is
//! it for this use and this name, would Apple's systems take it. Whether a device trusts the root is not known here.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde::Serialize;
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ExtendedKeyUsage;

use super::apple;
use super::chain::{Issued, in_order, issued, linked, parsed, sent_places};
use super::describe::{AlternativeName, alternative_names, rfc3339};
use super::group::{group_findings, together};
use super::policy::{Authority, may_authenticate, may_issue};
use super::read::{CertFile, certificates_in, unordered};
use super::{CertError, Identity, key_matches, spelling};
use crate::findings::{Problem, Severity};
use crate::limits::{CHAIN_BYTES_MAX, EXPIRY_NOTICE_DAYS, EXPIRY_URGENT_DAYS};

/// Purpose of a certificate file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The certificate that the gateway shows to devices, its chain and its key.
    Server,
    /// The authorities that certificates of others must chain to.
    Group,
    /// The certificate that the gateway shows to the servers of services, its chain and its key.
    Client,
}

impl Role {
    /// All.
    pub const ALL: [Self; 3] = [Self::Server, Self::Group, Self::Client];

    /// `server`, `group` or `client`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Group => "group",
            Self::Client => "client",
        }
    }
}

/// Returns whether the gateway does not start with this finding. All errors but a chain that is not
/// in the file: devices may have been given the issuer themselves, and the session then works.
#[must_use]
pub fn refuses(finding: &Problem) -> bool {
    finding.severity == Severity::Error && finding.code != "no-chain"
}

/// A file that was read, and what was found.
#[derive(Debug)]
pub struct Inspected {
    /// The certificates, of a server in order.
    pub certificates: Vec<CertificateDer<'static>>,
    /// The private key, where there is one.
    pub key: Option<PrivateKeyDer<'static>>,
    /// Faults; errors first.
    pub findings: Vec<Problem>,
}

impl Inspected {
    /// The findings with which the gateway does not start.
    pub fn errors(&self) -> impl Iterator<Item = &Problem> {
        self.findings.iter().filter(|finding| refuses(finding))
    }

    /// The chain and its key.
    ///
    /// # Errors
    /// [`CertError::Content`] where `path` has no key.
    pub fn identity(self, path: &Path) -> Result<Identity, CertError> {
        let no_key = || {
            let remedy = "name the file of the key, or export it again with its key";
            CertError::content(path, "holds no private key", remedy)
        };
        Ok((self.certificates, self.key.ok_or_else(no_key)?))
    }
}

/// Reads a certificate file and looks at it. `host` is the name or address that devices use, for a server certificate.
///
/// # Errors
/// As [`read_identity`](super::read_identity), and where a group certificate is given a key. A missing key is a finding.
pub fn inspect(
    role: Role,
    path: &Path,
    key: Option<&Path>,
    password: Option<&str>,
    host: Option<&str>,
) -> Result<Inspected, CertError> {
    let file = CertFile::load(path)?;
    let key_source = key.map(CertFile::load).transpose()?;
    let mut inspected = inspect_source(role, &file, key_source.as_ref(), password, host)?;
    if inspected.key.is_some() {
        inspected.findings.extend(exposed(key.unwrap_or(path)));
    }
    Ok(inspected)
}

/// [`inspect`], of what was read or sent.
pub(super) fn inspect_source(
    role: Role,
    file: &CertFile,
    key: Option<&CertFile>,
    password: Option<&str>,
    host: Option<&str>,
) -> Result<Inspected, CertError> {
    let now = OffsetDateTime::now_utc();
    if role == Role::Group {
        if key.is_some() {
            let problem = "a group certificate has no key here";
            return Err(CertError::request(problem, "leave the key out"));
        }
        let certificates = certificates_in(&file.path, &file.bytes, password)?;
        let mut findings = group_findings(&certificates, now);
        findings.extend(together(&certificates));
        let findings = sorted(findings);
        return Ok(Inspected {
            certificates,
            key: None,
            findings,
        });
    }
    let (certificates, key) = unordered(file, key, password)?;
    let findings = own_findings(role, &certificates, key.as_ref(), host, now);
    Ok(Inspected {
        certificates: match &key {
            Some(key) => in_order(certificates, key),
            None => certificates,
        },
        key,
        findings: sorted(findings),
    })
}

/// Returns what is wrong with who may read this file with a key in it.
pub(super) fn exposed(path: &Path) -> Option<Problem> {
    let is_open = path
        .metadata()
        .is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0);
    is_open.then(|| Problem {
        severity: Severity::Warning,
        code: "key-exposed".into(),
        message: format!("others may read the private key in {}", path.display()),
        remedy: "chmod 600 it, and make a new key if others have had access".into(),
        ..Problem::default()
    })
}

/// Errors first.
pub(super) fn sort(findings: &mut [Problem]) {
    findings.sort_by_key(|finding| finding.severity == Severity::Warning);
}

fn sorted(mut findings: Vec<Problem>) -> Vec<Problem> {
    sort(&mut findings);
    findings
}

/// Collects findings.
#[derive(Default)]
pub(super) struct Findings(pub(super) Vec<Problem>);

impl Findings {
    pub(super) fn add(
        &mut self,
        severity: Severity,
        code: &'static str,
        about: &X509Certificate<'_>,
        problem: impl Into<String>,
        remedy: &'static str,
    ) {
        self.0.push(Problem {
            severity,
            code: code.into(),
            subject: Some(about.subject().to_string()),
            message: problem.into(),
            remedy: remedy.into(),
            ..Problem::default()
        });
    }
}

/// Checks a certificate of the gateway at `now`, in the order in which the file has it.
pub(super) fn own_findings(
    role: Role,
    ders: &[CertificateDer<'_>],
    key: Option<&PrivateKeyDer<'_>>,
    host: Option<&str>,
    now: OffsetDateTime,
) -> Vec<Problem> {
    let certificates = parsed(ders);
    let mut findings = Findings::default();
    if certificates.is_empty() {
        return findings.0;
    }
    let of_key = key.and_then(|key| ders.iter().position(|der| key_matches(der, key)));
    let end_entity = certificates
        .iter()
        .position(|certificate| !certificate.is_ca());
    let place = of_key.or(end_entity).unwrap_or(0);
    let end = &certificates[place];
    if key.is_none() {
        let remedy = "name the file of the key with --key, or export it again with its key";
        findings.add(
            Severity::Warning,
            "no-key",
            end,
            "there is no private key to compare it with",
            remedy,
        );
    } else if of_key.is_none() {
        let remedy = "use the key that the certificate was requested with";
        findings.add(
            Severity::Error,
            "key-mismatch",
            end,
            "the private key does not belong to it",
            remedy,
        );
    }
    let chain = linked(&certificates, place);
    order(&certificates, &chain, &mut findings);
    chain_of(role, &certificates, &chain, &mut findings);
    spelling::check(&certificates, &mut findings);
    for place in &chain {
        dates(&certificates[*place], now, &mut findings);
        characters(&certificates[*place], &mut findings);
    }
    purpose(role, end, chain.len() == 1, &mut findings);
    if let Err(fault) = may_authenticate(end.as_raw()) {
        let (code, remedy) = (fault.code(), fault.remedy());
        findings.add(Severity::Warning, code, end, fault.to_string(), remedy);
    }
    if role == Role::Server {
        must_staple(end, &mut findings);
        apple::check(end, &mut findings);
        if let Some(host) = host {
            name(&ders[place], end, host, &mut findings);
        }
    }
    findings.0
}

fn order(certificates: &[X509Certificate<'_>], chain: &[usize], findings: &mut Findings) {
    let sent = sent_places(certificates, chain);
    for (place, certificate) in certificates.iter().enumerate() {
        if !chain.contains(&place) && !sent.contains(&place) {
            let remedy = "leave it out: it is not sent";
            findings.add(
                Severity::Warning,
                "extra",
                certificate,
                "no part of the end certificate's chain",
                remedy,
            );
        }
    }
    if chain
        .iter()
        .enumerate()
        .any(|(wanted, place)| wanted != *place)
    {
        let remedy = "nothing to do: the order is corrected when the file is read";
        findings.add(
            Severity::Warning,
            "order",
            &certificates[chain[0]],
            "the chain is not in order, end certificate first",
            remedy,
        );
    }
    // Each has three bytes of length, and with TLS 1.3 two for its extensions.
    let bytes = sent
        .iter()
        .map(|place| certificates[*place].as_raw().len() + 5);
    let bytes: usize = bytes.sum();
    if bytes > CHAIN_BYTES_MAX {
        findings.add(
            Severity::Error,
            "chain-too-long",
            &certificates[chain[0]],
            format!("its chain has {bytes} bytes in a handshake, and clients accept at most {CHAIN_BYTES_MAX}"),
            "have it issued with fewer names, or below fewer authorities",
        );
    }
}

/// From the end certificate up: is each issued by the next, and where does it end.
fn chain_of(
    role: Role,
    certificates: &[X509Certificate<'_>],
    chain: &[usize],
    findings: &mut Findings,
) {
    let (end, top) = (
        &certificates[chain[0]],
        &certificates[chain[chain.len() - 1]],
    );
    let self_issued = top.subject().as_raw() == top.issuer().as_raw();
    if chain.len() == 1 {
        if self_issued && issued(top, top) != Issued::No {
            let remedy = match role {
                Role::Client => {
                    "give it to the servers, or use a certificate of an authority that they trust"
                }
                _ => "give it to the devices, or use a certificate of an authority that they trust",
            };
            findings.add(
                Severity::Warning,
                "self-signed",
                end,
                "it is self-signed",
                remedy,
            );
        } else {
            let problem = format!(
                "no chain to a certification authority: {} is not in the file",
                end.issuer()
            );
            // Servers that ask for a certificate know who issues it.
            let (severity, remedy) = match role {
                Role::Client => (
                    Severity::Warning,
                    "add the certificates of its authorities, or make sure that the servers have them",
                ),
                _ => (
                    Severity::Error,
                    "put the certificates of its authorities into the file, up to the root",
                ),
            };
            findings.add(severity, "no-chain", end, problem, remedy);
        }
        return;
    }
    links(certificates, chain, findings);
    if !self_issued {
        let problem = format!("no root is available: {} is not in the file", top.issuer());
        let remedy = match role {
            Role::Client => "add the root, or make sure that the servers have it",
            _ => "add the root, or make sure that the devices have it",
        };
        findings.add(Severity::Warning, "no-root", top, problem, remedy);
    }
}

/// Returns whether each of the chain issued the one before it, and may.
fn links(certificates: &[X509Certificate<'_>], chain: &[usize], findings: &mut Findings) {
    for (level, pair) in chain.windows(2).enumerate() {
        let (below, above) = (&certificates[pair[0]], &certificates[pair[1]]);
        if !above.is_ca() {
            let remedy = "get the end certificate from a certification authority";
            findings.add(
                Severity::Error,
                "not-ca",
                above,
                "it has issued another, and is not a certification authority",
                remedy,
            );
        }
        if let Err(fault) = may_issue(above.as_raw()) {
            let (code, remedy) = (fault.code(), fault.remedy());
            findings.add(Severity::Error, code, above, fault.to_string(), remedy);
        }
        let own = |place: &&usize| {
            let certificate = &certificates[**place];
            certificate.subject().as_raw() != certificate.issuer().as_raw()
        };
        let below_it = chain[1..=level].iter().filter(own).count();
        if let Err(fault) = Authority::of(above).bounds(below_it) {
            let (code, remedy) = (fault.code(), fault.remedy());
            findings.add(Severity::Error, code, above, fault.to_string(), remedy);
        }
        let remedy = "put the certificate that issued it into the file: the authority has another one with \
            the same name";
        match issued(below, above) {
            Issued::Yes => {}
            Issued::No if level == 0 => {
                let problem = format!(
                    "{} has the name of its issuer, but did not sign it",
                    above.subject()
                );
                findings.add(Severity::Error, "broken-chain", below, problem, remedy);
            }
            Issued::No => {
                let problem = format!(
                    "{} has the name of its issuer, but did not issue it",
                    above.subject()
                );
                findings.add(Severity::Warning, "issuer-mismatch", below, problem, remedy);
            }
            Issued::Unknown => {
                let remedy = "have it issued with SHA-256 or better";
                findings.add(
                    Severity::Warning,
                    "unverified",
                    below,
                    "its signature algorithm is not supported here",
                    remedy,
                );
            }
        }
    }
}

pub(super) fn dates(
    certificate: &X509Certificate<'_>,
    now: OffsetDateTime,
    findings: &mut Findings,
) {
    let validity = certificate.validity();
    let (begin, end) = (
        validity.not_before.to_datetime(),
        validity.not_after.to_datetime(),
    );
    let left = (end - now).whole_days();
    if now > end {
        let remedy = "replace it";
        findings.add(
            Severity::Error,
            "expired",
            certificate,
            format!("it has expired, {}", rfc3339(end)),
            remedy,
        );
    } else if now < begin {
        let remedy = "wait, or check this machine's clock";
        findings.add(
            Severity::Warning,
            "not-yet-valid",
            certificate,
            format!("it is not valid before {}", rfc3339(begin)),
            remedy,
        );
    } else if left < EXPIRY_URGENT_DAYS {
        let problem = format!("it expires in {left} days, within {EXPIRY_URGENT_DAYS}");
        findings.add(
            Severity::Warning,
            "expires-urgent",
            certificate,
            problem,
            "replace it now",
        );
    } else if left < EXPIRY_NOTICE_DAYS {
        let problem = format!("it expires in {left} days, within {EXPIRY_NOTICE_DAYS}");
        findings.add(
            Severity::Warning,
            "expires-soon",
            certificate,
            problem,
            "have a new one issued",
        );
    }
}

/// A zero byte ends a name for some programs and not for others, which then see two different names. RFC 5280, section
/// 4.2.1.6, has no place for control characters.
pub(super) fn characters(certificate: &X509Certificate<'_>, findings: &mut Findings) {
    use AlternativeName::{Dns, Email, Upn, Uri};
    let mut names = vec![certificate.subject().to_string()];
    for name in alternative_names(certificate) {
        if let Dns(name) | Email(name) | Upn(name) | Uri(name) = name {
            names.push(name);
        }
    }
    if let Some(name) = names.iter().find(|name| name.contains(char::is_control)) {
        let problem = format!("a name in it has a control character: {name:?}");
        let remedy = "have it issued again; no trustworthy authority signs such names";
        findings.add(Severity::Error, "bad-name", certificate, problem, remedy);
    }
}

/// RFC 5280, sections 4.2.1.9 and 4.2.1.12.
fn purpose(role: Role, end: &X509Certificate<'_>, alone: bool, findings: &mut Findings) {
    let (code, remedy) = match role {
        Role::Client => (
            "not-client",
            "have a certificate issued for TLS clients (extended key usage clientAuth)",
        ),
        _ => (
            "not-server",
            "have a certificate issued for TLS servers (extended key usage serverAuth)",
        ),
    };
    let word = role.word();
    let usage = end.extended_key_usage().ok().flatten();
    let is_for = |usage: &ExtendedKeyUsage<'_>| match role {
        Role::Client => usage.client_auth,
        _ => usage.server_auth,
    };
    if usage.is_some_and(|usage| !is_for(usage.value) && !usage.value.any) {
        let problem = format!("not a {word} certificate: its extended key usage says otherwise");
        findings.add(Severity::Error, code, end, problem, remedy);
    }
    // Many a self-signed certificate says that it is an authority, and most clients take it.
    if end.is_ca() && !alone {
        let problem = format!("not a {word} certificate but that of a certification authority");
        findings.add(Severity::Error, code, end, problem, remedy);
    }
}

/// RFC 7633: a client that honours it ends a handshake without a stapled OCSP answer.
fn must_staple(end: &X509Certificate<'_>, findings: &mut Findings) {
    let mut extensions = end.extensions().iter();
    // id-pe-tlsfeature
    if extensions.any(|extension| extension.oid.to_id_string() == "1.3.6.1.5.5.7.1.24") {
        findings.add(
            Severity::Warning,
            "must-staple",
            end,
            "it requires a stapled OCSP response (must-staple), which is not sent here: Firefox and others \
                refuse it",
            "have it issued again without the TLS feature extension (RFC 7633)",
        );
    }
}

/// RFC 9525: only the subject alternative names count.
fn name(der: &CertificateDer<'_>, end: &X509Certificate<'_>, host: &str, findings: &mut Findings) {
    let covered = ServerName::try_from(host).is_ok_and(|name| {
        webpki::EndEntityCert::try_from(der)
            .is_ok_and(|end| end.verify_is_valid_for_subject_name(&name).is_ok())
    });
    if !covered {
        let problem = format!("its subject alternative names do not cover {host}");
        let remedy = "have a certificate issued for that name: devices ask for it";
        findings.add(Severity::Warning, "name", end, problem, remedy);
    }
}

#[cfg(test)]
mod tests;
