//! CRLs into the index that handshakes look in. Each signature is verified here, once.
//!
//! A list that has run out, or that begins later by this machine's clock, is taken too: it revokes,
//! and the profile decides what it means for certificates that it does not name. What is taken:
//! complete lists; lists that an issuing distribution point restricts to a kind of certificate, to
//! distribution points or to some reasons; and delta lists on top of either. What is refused:
//! whatever is not signed by a group certificate that may sign lists, broken, of version 1,
//! indirect, or has a critical extension that is not understood (RFC 5280, section 5.2).

mod crl_set;
mod parse;
mod points;
mod signer;
mod subject;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Name};

use super::fields::public_key;
pub use super::standing::Standing;
use crate::certs::{self, CertError};
use crate::limits::CRL_CLOCK_SKEW_SECONDS;
use crate::table::{RevocationIndex, RevocationList, SerialSet, canonical_serial};
pub(super) use crl_set::moment;
pub use crl_set::{Admission, CrlSet, CrlSource, Indexed};
pub use parse::Number;
use parse::Parsed;
pub use points::PointsSeen;
pub(super) use subject::CertificateSubject;
pub use subject::urls as crl_urls;

/// Why a CRL is not used.
#[derive(Debug, thiserror::Error)]
pub enum CrlError {
    /// The file.
    #[error("{0}")]
    File(#[from] CertError),
    /// The fault of the list.
    #[error("CRL {file}: {problem}; remedy: {remedy}")]
    Invalid {
        /// Its file.
        file: String,
        /// The problem.
        problem: String,
        /// The remedy.
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

/// Facts about a loaded CRL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrlReport {
    /// Its source.
    pub source: CrlSource,
    /// Its issuer, as text.
    pub issuer: String,
    /// Its number.
    pub number: Option<Number>,
    /// When it was made, in seconds since 1970.
    pub this_update: u64,
    /// When it runs out, in seconds since 1970.
    pub next_update: Option<u64>,
    /// Entries in it.
    pub entries: usize,
    /// True if it is a delta CRL.
    pub delta: bool,
    /// True if it was made in the future, by the clock since it was checked.
    pub early: bool,
}

impl CrlReport {
    /// Returns what an operator has to know of a list that is not valid now at a moment in unix
    /// seconds, and what to do.
    pub fn unproving_text(&self, now: u64) -> Option<String> {
        if self.early {
            return Some(self.early_text("it revokes, and proves nothing until then, so that `stale` decides for its devices"));
        }
        let end = self.next_update.filter(|end| *end <= now)?;
        Some(format!(
            "the list of {} has expired on {}: it revokes, and proves nothing, so that `stale` decides for \
                its devices; \
             remedy: publish a newer one",
            self.issuer,
            crl_set::moment(end)
        ))
    }

    fn early_text(&self, consequence: &str) -> String {
        format!(
            "the list of {} is not valid before {}: {consequence}; remedy: check this machine's clock, or the CA's",
            self.issuer,
            crl_set::moment(self.this_update)
        )
    }

    /// The moment from which it is valid, in unix seconds: clocks differ a little.
    fn begins(&self) -> u64 {
        self.this_update.saturating_sub(CRL_CLOCK_SKEW_SECONDS)
    }
}

/// A CRL that can be used: parsed, and signed by a group certificate.
#[derive(Debug, Clone)]
pub struct CheckedCrl {
    report: CrlReport,
    /// The list, without what a delta CRL takes out.
    list: RevocationList,
    /// For a delta CRL, the number of the list that it continues.
    base: Option<Number>,
    /// Serials that a delta CRL removes.
    removed: Arc<SerialSet>,
    /// Tells lists apart that have one number: no two are signed alike.
    signature: Box<[u8]>,
}

/// Loads every CRL of `files`.
///
/// # Errors
/// [`CrlErrors`], each of which names its file: a list that is not signed by a group certificate,
/// is broken, or has a critical extension that is not understood (RFC 5280, section 5.2).
pub fn load_crls(
    files: &[PathBuf],
    group: &[CertificateDer<'_>],
    now: SystemTime,
) -> Result<(RevocationIndex, Vec<CrlReport>), CrlErrors> {
    let mut crl_set = CrlSet::default();
    let mut errors = Vec::new();
    for file in files {
        let source = CrlSource::File(file.clone());
        match read_crl_file(file, group, now) {
            Ok(lists) => drop(crl_set.admit(source, lists, unix_seconds(now))),
            Err(CrlErrors(found)) => errors.extend(found),
        }
    }
    if errors.is_empty() {
        Ok((crl_set.index(&Standing::of(group)).index, crl_set.reports()))
    } else {
        Err(CrlErrors(errors))
    }
}

/// Reads and checks every CRL of a file.
///
/// # Errors
/// As [`load_crls`].
pub fn read_crl_file(
    file: &std::path::Path,
    group: &[CertificateDer<'_>],
    now: SystemTime,
) -> Result<Vec<CheckedCrl>, CrlErrors> {
    let lists = certs::read_crls(file).map_err(|error| CrlErrors(vec![error.into()]))?;
    check_crls(&CrlSource::File(file.to_owned()), &lists, group, now)
}

/// Checks the CRLs of one source.
///
/// # Errors
/// [`CrlErrors`], each of which names the source.
pub fn check_crls(
    source: &CrlSource,
    lists: &[impl AsRef<[u8]>],
    group: &[CertificateDer<'_>],
    now: SystemTime,
) -> Result<Vec<CheckedCrl>, CrlErrors> {
    let now = unix_seconds(now);
    let mut errors = Vec::new();
    let mut checked = Vec::new();
    for der in lists {
        match check(source, der.as_ref(), group, now) {
            Ok(list) => checked.push(list),
            Err((problem, remedy)) => errors.push(CrlError::Invalid {
                file: source.to_string(),
                problem,
                remedy,
            }),
        }
    }
    if errors.is_empty() {
        Ok(checked)
    } else {
        Err(CrlErrors(errors))
    }
}

/// The public keys of certificates: the contents of each `SubjectPublicKeyInfo`.
pub fn public_keys(group: &[CertificateDer<'_>]) -> Vec<Box<[u8]>> {
    let keys = group.iter().filter_map(|der| public_key(der));
    keys.map(Into::into).collect()
}

impl CheckedCrl {
    /// The public key that has signed the list, as [`public_keys`] gives it.
    pub fn signer(&self) -> &[u8] {
        &self.list.signer
    }
}

fn unix_seconds(now: SystemTime) -> u64 {
    now.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

type Problem = (String, &'static str);

fn check(
    source: &CrlSource,
    der: &[u8],
    group: &[CertificateDer<'_>],
    now: u64,
) -> Result<CheckedCrl, Problem> {
    let parsed = Parsed::read(der)?;
    let issuer = X509Name::from_der(parsed.issuer)
        .map(|(_, name)| name.to_string())
        .map_err(|_| {
            let remedy = "fetch it again from the CA";
            ("has a broken issuer".to_owned(), remedy)
        })?;
    let signer = signer::of(&parsed, &issuer, group)?;
    let serials = |removed| {
        let entries = parsed
            .entries()
            .filter(move |entry| entry.removed == removed);
        let serials = entries.map(|entry| canonical_serial(entry.serial));
        Arc::new(SerialSet::collect(serials))
    };
    let mut report = CrlReport {
        source: source.clone(),
        issuer,
        this_update: parsed.this_update,
        next_update: parsed.next_update,
        entries: parsed.entries,
        delta: parsed.base.is_some(),
        number: parsed.number.clone(),
        early: false,
    };
    report.early = now < report.begins();
    Ok(CheckedCrl {
        list: RevocationList {
            issuer: signer.name,
            signer: signer.key,
            serials: serials(false),
            scope: parsed.scope.clone(),
            // Without nextUpdate (which RFC 5280 demands) a list can never be known to be valid.
            next_update: parsed.next_update.unwrap_or(0),
        },
        removed: serials(true),
        signature: parsed.signed.signature.into(),
        report,
        base: parsed.base,
    })
}

#[cfg(test)]
mod tests;
