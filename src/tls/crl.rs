//! CRL files into the index that handshakes look in. Each signature is verified here, once.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use x509_parser::oid_registry;
use x509_parser::prelude::{
    CertificateRevocationList, FromDer, RevokedCertificate, X509Certificate,
};

use crate::certs::{self, CertError};
use crate::limits::CRL_CLOCK_SKEW_SECONDS;
use crate::table::{RevocationIndex, RevocationIndexBuilder};

/// Why a CRL is not used.
#[derive(Debug, thiserror::Error)]
pub enum CrlError {
    /// The file.
    #[error("{0}")]
    File(#[from] CertError),
    /// What is wrong with the list.
    #[error("CRL {file}: {problem}; remedy: {remedy}")]
    Invalid {
        /// Its file.
        file: String,
        /// The problem.
        problem: String,
        /// What would be right.
        remedy: &'static str,
    },
}

/// Every CRL that is not used, one a line: who repairs one wants to know of the others.
#[derive(Debug, thiserror::Error)]
#[error("{}", lines(.0))]
pub struct CrlErrors(pub Vec<CrlError>);

fn lines(errors: &[CrlError]) -> String {
    let lines: Vec<String> = errors.iter().map(CrlError::to_string).collect();
    lines.join("\n")
}

/// What a loaded CRL says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrlReport {
    /// Its file.
    pub file: PathBuf,
    /// Its issuer, as text.
    pub issuer: String,
    /// When it runs out, in seconds since 1970.
    pub next_update: Option<u64>,
    /// Revoked certificates in it.
    pub entries: usize,
}

/// Loads every CRL of `files`. A list that has run out is loaded too: it still revokes, and the profile decides what
/// it means for certificates that it does not name.
///
/// # Errors
/// [`CrlErrors`], each of which names its file: a list that is not signed by a group certificate, is broken, not valid
/// yet, or has a critical extension that is not understood (RFC 5280, section 5.2).
pub fn load_crls(
    files: &[PathBuf],
    group: &[CertificateDer<'_>],
    now: SystemTime,
) -> Result<(RevocationIndex, Vec<CrlReport>), CrlErrors> {
    let now = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let mut builder = RevocationIndex::builder();
    let mut issuers = HashSet::new();
    let mut reports = Vec::new();
    let mut errors = Vec::new();
    for file in files {
        let lists = certs::read_crls(file).unwrap_or_else(|error| {
            errors.push(error.into());
            Vec::new()
        });
        for der in lists {
            match add(&mut builder, &mut issuers, &der, group, now) {
                Ok(report) => reports.push(CrlReport {
                    file: file.clone(),
                    ..report
                }),
                Err((problem, remedy)) => errors.push(CrlError::Invalid {
                    file: file.display().to_string(),
                    problem,
                    remedy,
                }),
            }
        }
    }
    if errors.is_empty() {
        Ok((builder.build(), reports))
    } else {
        Err(CrlErrors(errors))
    }
}

type Problem = (String, &'static str);

fn add(
    builder: &mut RevocationIndexBuilder,
    issuers: &mut HashSet<Vec<u8>>,
    der: &[u8],
    group: &[CertificateDer<'_>],
    now: u64,
) -> Result<CrlReport, Problem> {
    let (rest, list) = CertificateRevocationList::from_der(der).map_err(|error| {
        (
            format!("cannot be read: {error}"),
            "fetch it again from the CA",
        )
    })?;
    if !rest.is_empty() {
        return Err((
            "has bytes behind its end".into(),
            "fetch it again from the CA",
        ));
    }
    verify_signature(&list, group)?;
    refuse_unknown_extensions(&list)?;
    let seconds = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
    if seconds(list.last_update()) > now + CRL_CLOCK_SKEW_SECONDS {
        return Err((
            "is not valid yet".into(),
            "check this machine's clock, or the CA's",
        ));
    }
    let issuer = list.issuer().as_raw();
    let next_update = list.next_update().map(seconds);
    if !issuers.insert(issuer.to_vec()) {
        return Err((
            format!("is the second list of {}", list.issuer()),
            "name one CRL for each CA; partitioned lists are not supported in this version",
        ));
    }
    // Without nextUpdate (which RFC 5280 demands) a list can never be known to be in force.
    let entries: Vec<&[u8]> = list
        .iter_revoked_certificates()
        .map(RevokedCertificate::raw_serial)
        .collect();
    builder.add(issuer, entries.iter().copied(), next_update.unwrap_or(0));
    Ok(CrlReport {
        file: PathBuf::new(),
        issuer: list.issuer().to_string(),
        next_update,
        entries: entries.len(),
    })
}

fn verify_signature(
    list: &CertificateRevocationList<'_>,
    group: &[CertificateDer<'_>],
) -> Result<(), Problem> {
    let mut known = false;
    for der in group {
        let Ok((_, ca)) = X509Certificate::from_der(der) else {
            continue;
        };
        if ca.subject().as_raw() != list.issuer().as_raw() {
            continue;
        }
        known = true;
        let may_sign = ca
            .key_usage()
            .ok()
            .flatten()
            .is_none_or(|usage| usage.value.crl_sign());
        if may_sign && list.verify_signature(ca.public_key()).is_ok() {
            return Ok(());
        }
    }
    let remedy = "name the CRL that the CA of profile.device_auth.group_certificates has signed";
    if known {
        Err((format!("is not signed by {}", list.issuer()), remedy))
    } else {
        Err((
            format!(
                "is from {}, which is not a group certificate",
                list.issuer()
            ),
            remedy,
        ))
    }
}

fn refuse_unknown_extensions(list: &CertificateRevocationList<'_>) -> Result<(), Problem> {
    let remedy =
        "name a full CRL of the CA; delta and partitioned lists are not supported in this version";
    for extension in list.extensions() {
        // These two must be critical (RFC 5280, sections 5.2.4 and 5.2.5). A list that says so or not is a part of the
        // truth, and taking it for the whole would pass what another part revokes.
        let partial = extension.oid == oid_registry::OID_X509_EXT_DELTA_CRL_INDICATOR
            || extension.oid == oid_registry::OID_X509_EXT_ISSUER_DISTRIBUTION_POINT;
        if extension.critical || partial {
            return Err((
                format!(
                    "has the extension {}, which is not understood",
                    extension.oid
                ),
                remedy,
            ));
        }
    }
    for revoked in list.iter_revoked_certificates() {
        if let Some(extension) = revoked
            .extensions()
            .iter()
            .find(|extension| extension.critical)
        {
            return Err((
                format!("has an entry with the critical extension {}", extension.oid),
                remedy,
            ));
        }
    }
    Ok(())
}
