//! Checks of group certificates, before a device is refused, or let in, for it.
//!
//! A group certificate is where paths end. What it may is decided once, here; webpki, which builds the paths, does not
//! honour all that it may say, and then refuses every device or some of them.

use std::collections::HashSet;

use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, GeneralSubtree};
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Version;

use super::chain::{Issued, Search, is_self_issued, issued, parsed};
use super::findings::{Findings, characters, dates};
use super::policy::{PathFault, faults};
use super::spelling;
use crate::asn1::Reader;
use crate::asn1::tag::{OBJECT_IDENTIFIER, SEQUENCE};
use crate::findings::{Problem, Severity};
use crate::limits::AUTHORITY_NAMES_BYTES_MAX;

/// The names of these authorities as a request for a certificate has them, each once: `Name`s in DER.
///
/// # Errors
/// How many bytes they take, where they are more than [`AUTHORITY_NAMES_BYTES_MAX`]: then none is sent.
pub fn acceptable_names(group: &[CertificateDer<'_>]) -> Result<Vec<Vec<u8>>, usize> {
    let mut seen = HashSet::new();
    let mut names = Vec::new();
    for der in group {
        if let Ok((_, certificate)) = X509Certificate::from_der(der) {
            let name = certificate.subject().as_raw().to_vec();
            if seen.insert(name.clone()) {
                names.push(name);
            }
        }
    }
    // Each has two bytes of length (RFC 8446, section 4.2.4).
    let bytes = names.iter().map(|name| name.len() + 2).sum();
    if bytes > AUTHORITY_NAMES_BYTES_MAX {
        return Err(bytes);
    }
    Ok(names)
}

/// Returns what there is to say of all group certificates of a profile together.
#[must_use]
pub fn together(group: &[CertificateDer<'_>]) -> Option<Problem> {
    let bytes = acceptable_names(group).err()?;
    Some(Problem {
        severity: Severity::Warning,
        code: "names-not-sent".into(),
        message: format!(
            "the names of these {} authorities have {bytes} bytes, more than {AUTHORITY_NAMES_BYTES_MAX}: \
                their list is not sent, and a client with several certificates must choose without it",
            group.len()
        ),
        remedy: "name fewer authorities, such as the root above them".into(),
        ..Problem::default()
    })
}

/// Returns what is wrong with group certificates at `now`.
pub(super) fn group_findings(ders: &[CertificateDer<'_>], now: OffsetDateTime) -> Vec<Problem> {
    let certificates = parsed(ders);
    let mut findings = Findings::default();
    spelling::check(&certificates, &mut findings);
    let mut search = Search::new(&certificates);
    for (place, certificate) in certificates.iter().enumerate() {
        for fault in faults(certificate) {
            // Of an authority of servers it is right; one of devices is refused where a profile is put together.
            let severity = match fault {
                PathFault::NotForClients => Severity::Warning,
                _ => Severity::Error,
            };
            let (code, remedy) = (fault.code(), fault.remedy());
            findings.add(severity, code, certificate, fault.to_string(), remedy);
        }
        if certificate.version() == X509Version::V1 && faults(certificate).is_empty() {
            findings.add(
                Severity::Warning,
                "version-1",
                certificate,
                "of version 1, which cannot say that it is a certification authority: it is accepted as one, \
                    because it is self-signed",
                "have it issued again as version 3 with basicConstraints and keyUsage",
            );
        }
        dates(certificate, now, &mut findings);
        characters(certificate, &mut findings);
        key(certificate, &mut findings);
        name_constraints(certificate, &mut findings);
        critical(certificate, &mut findings);
        let above = search
            .chain(place)
            .get(1)
            .map(|above| &certificates[*above]);
        issuer(certificate, above, &mut findings);
    }
    findings.0
}

/// Checks a certificate's issuer, which is `above` if known.
fn issuer(
    certificate: &X509Certificate<'_>,
    above: Option<&X509Certificate<'_>>,
    findings: &mut Findings,
) {
    let Some(above) = above else {
        if !is_self_issued(certificate) {
            let problem = format!(
                "no root is available: {} is not in the file",
                certificate.issuer()
            );
            let remedy = "add the root if devices send chains up to it";
            findings.add(Severity::Warning, "no-root", certificate, problem, remedy);
        }
        return;
    };
    if issued(certificate, above) == Issued::No {
        let problem = format!(
            "{} has the name of its issuer, but did not issue it",
            above.subject()
        );
        let remedy = "replace the root by the one that did";
        findings.add(
            Severity::Warning,
            "issuer-mismatch",
            certificate,
            problem,
            remedy,
        );
    }
}

/// `id-ecPublicKey`.
const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];

/// Returns whether an `AlgorithmIdentifier`'s contents are of an elliptic curve that is written
/// out, instead of named (RFC 5480, section 2.1.1, forbids it).
pub(super) fn is_explicit_curve(algorithm: &[u8]) -> bool {
    let mut parts = Reader::der(algorithm);
    let kind = parts.take(OBJECT_IDENTIFIER);
    kind.is_some_and(|kind| kind.content == EC_PUBLIC_KEY) && parts.take(SEQUENCE).is_some()
}

/// Returns whether signatures by its key can be checked.
fn key(certificate: &X509Certificate<'_>, findings: &mut Findings) {
    const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
    let algorithm = Reader::der(certificate.public_key().raw)
        .take(SEQUENCE)
        .and_then(|key| key.inside().take(SEQUENCE));
    let algorithm = algorithm.map_or(&[][..], |algorithm| algorithm.content);
    let kind = Reader::der(algorithm).take(OBJECT_IDENTIFIER);
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let mut known = provider.signature_verification_algorithms.all.iter();
    let is_odd = match certificate.public_key().parsed() {
        Ok(x509_parser::public_key::PublicKey::RSA(key)) => {
            !(2048..=8192).contains(&key.key_size())
        }
        _ => false,
    };
    let problem = if is_explicit_curve(algorithm) {
        "its key has explicit elliptic curve parameters in place of the name of a curve: no signature by it is checked"
    } else if kind.is_some_and(|kind| kind.content == RSA) && is_odd {
        "its RSA key has not 2048 to 8192 bits: no signature by it is accepted"
    } else if known.any(|known| known.public_key_alg_id().as_ref() == algorithm) {
        return;
    } else {
        "signatures by its type of key are not supported here"
    };
    let remedy =
        "use an authority with a key of RSA (2048 to 8192 bits), P-256, P-384, P-521 or Ed25519";
    findings.add(Severity::Error, "key-kind", certificate, problem, remedy);
}

/// Constraints on names of a kind that webpki does not compare: it refuses what has such a name.
fn name_constraints(certificate: &X509Certificate<'_>, findings: &mut Findings) {
    let constraints = match certificate.name_constraints() {
        Ok(None) => return,
        Ok(Some(constraints)) => constraints.value,
        Err(_) => {
            findings.add(
                Severity::Error,
                "name-constraints",
                certificate,
                "its name constraints cannot be read",
                "have it issued again without them",
            );
            return;
        }
    };
    let trees = [
        &constraints.permitted_subtrees,
        &constraints.excluded_subtrees,
    ];
    let trees = trees.into_iter().flatten().flatten();
    let mut kinds: Vec<&str> = trees.filter_map(not_compared).collect();
    kinds.sort_unstable();
    kinds.dedup();
    for kind in kinds {
        let (severity, who) = match kind {
            "directoryName" => (Severity::Error, "every device below it is refused"),
            _ => (
                Severity::Warning,
                "each device whose certificate has such a name is refused",
            ),
        };
        let problem = format!(
            "it has name constraints on names of the kind {kind}, which are not supported here: {who}"
        );
        let remedy =
            "use an authority without such constraints, or have it issued again without them";
        findings.add(severity, "name-constraints", certificate, problem, remedy);
    }
}

/// The kind of name of a constraint, where webpki does not compare such names (RFC 5280, section 4.2.1.10).
fn not_compared(tree: &GeneralSubtree<'_>) -> Option<&'static str> {
    match &tree.base {
        GeneralName::DNSName(_) | GeneralName::IPAddress(_) => None,
        GeneralName::DirectoryName(_) => Some("directoryName"),
        GeneralName::RFC822Name(_) => Some("rfc822Name"),
        GeneralName::URI(_) => Some("uniformResourceIdentifier"),
        GeneralName::OtherName(..) => Some("otherName"),
        GeneralName::X400Address(_) => Some("x400Address"),
        GeneralName::EDIPartyName(_) => Some("ediPartyName"),
        GeneralName::RegisteredID(_) => Some("registeredID"),
        GeneralName::Invalid(tag, _) => match tag.0 {
            0 => Some("otherName"),
            1 => Some("rfc822Name"),
            2 | 7 => None,
            4 => Some("directoryName"),
            6 => Some("uniformResourceIdentifier"),
            _ => Some("unknown"),
        },
    }
}

/// Finds critical extensions that are not supported (RFC 5280, section 4.2). Of a trust anchor it
/// is left to who trusts it what of it counts (section 6.2); policies, which no profile asks for,
/// are let be.
fn critical(certificate: &X509Certificate<'_>, findings: &mut Findings) {
    for extension in certificate.extensions() {
        let oid = extension.oid.to_id_string();
        let policy = match &*oid {
            // What webpki knows.
            "2.5.29.15" | "2.5.29.17" | "2.5.29.19" | "2.5.29.30" | "2.5.29.31" | "2.5.29.37" => {
                continue;
            }
            "2.5.29.32" if extension.critical => "certificate policies",
            "2.5.29.33" if extension.critical => "policy mappings",
            "2.5.29.36" => "policy constraints",
            "2.5.29.54" => "inhibitAnyPolicy",
            _ if extension.critical => {
                findings.add(
                    Severity::Error,
                    "critical-extension",
                    certificate,
                    format!("it has the critical extension {oid}, which is not known here"),
                    "use an authority without it",
                );
                continue;
            }
            _ => continue,
        };
        let problem = format!(
            "its {policy} are not applied: devices below it come in under any certificate policy, and are refused where \
             an intermediate that they send has such a critical extension"
        );
        let remedy = "use an authority that issues certificates of devices only";
        findings.add(Severity::Warning, "policies", certificate, problem, remedy);
    }
}

#[cfg(test)]
mod tests;
