//! The gateway's own server certificate, for when none is configured.
//!
//! A state folder has one key, for which every certificate is made: devices pin it, and nothing here replaces it. What is
//! done about a certificate is decided first and written later ([`Plan`]), so that a start that fails and a reload that is
//! refused leave the folder as it was. The clock may be wrong: by its word certificates are added and change places, and
//! none is ever lost. What has to make room is kept beside ([`KEPT`]), and is used again when it fits again.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rcgen::KeyPair;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::{Duration, OffsetDateTime};

use super::make::{CLOCK_SKEW, Usage};
use super::pairs::{Changes, Pairs};
use super::{
    CertError, Identity, IssueRequest, Issued, KeyType, Term, Validity, read_certificates,
};
use crate::files::{self, PendingFile};
use crate::limits::SELF_SIGNED_NEXT_DAYS;

pub use super::pairs::{
    CERTIFICATE_FILE, KEPT, KEY_FILE, NEXT_CERTIFICATE_FILE, NEXT_KEY_FILE, SelfSigned,
};

/// How long a self-signed certificate is valid, in days. Devices have to be given each new one, so it is as long as Apple's
/// requirements for server certificates allow (825 days, HT210176), less one for the hour by which it is backdated.
const DAYS: i64 = 824;

/// Makes a self-signed server certificate for host names and IP addresses. The first name is also its common name, as far as it
/// fits.
///
/// # Errors
/// [`CertError::Request`] where there is no name, or one that can not be.
pub fn self_signed(names: &[String], days: u32) -> Result<Issued, CertError> {
    self_signed_for(names, Validity::days(days)?)
}

/// [`self_signed`], with a choice of when it is valid.
///
/// # Errors
/// As [`self_signed`].
pub fn self_signed_for(names: &[String], validity: Validity) -> Result<Issued, CertError> {
    let key = KeyType::P256.generate()?;
    let chain = signed_by(&key, names, validity)?;
    let key = key.into();
    Ok(Issued { chain, key })
}

/// A new certificate for the key that is there; for a new key where there is none.
fn renewed(
    key: Option<(&Path, &PrivateKeyDer<'static>)>,
    names: &[String],
    validity: Validity,
) -> Result<Identity, CertError> {
    let Some((file, key)) = key else {
        let Issued { chain, key } = self_signed_for(names, validity)?;
        return Ok((chain, key));
    };
    let pair = KeyPair::try_from(key).map_err(|_| {
        let remedy = "put a PKCS#8 key there, or move it away to have a new one made";
        CertError::content(file, "no certificate can be made for this key", remedy)
    })?;
    Ok((signed_by(&pair, names, validity)?, key.clone_key()))
}

fn signed_by(
    key: &KeyPair,
    names: &[String],
    validity: Validity,
) -> Result<Vec<CertificateDer<'static>>, CertError> {
    let first = names.first().ok_or_else(|| {
        CertError::request(
            "a server certificate needs a name",
            "give the name that devices connect to",
        )
    })?;
    // The common name may hold 64 characters, a DNS name 253; clients read the subject alternative names.
    let common_name = if first.len() <= 64 { first } else { "adit" };
    let mut request = IssueRequest::new(Usage::Server, common_name, validity);
    for name in names {
        match name.parse::<IpAddr>() {
            Ok(address) => request.ip.push(address),
            Err(_) => request.dns.push(name.to_ascii_lowercase()),
        }
    }
    let certificate = request.params()?.self_signed(key);
    let certificate =
        certificate.map_err(|cause| CertError::crypto("sign the server certificate", cause))?;
    Ok(vec![certificate.into()])
}

fn copy((chain, key): &Identity) -> Identity {
    (chain.clone(), key.clone_key())
}

/// The self-signed certificates that a node shows, and what has to be written for them.
#[derive(Debug)]
pub struct Plan {
    /// The certificates that are served.
    pub shown: SelfSigned,
    /// Changes that are not on disk yet.
    changes: Changes,
}

/// A [`Plan`] on the disk, under temporary names.
#[derive(Debug, Default)]
pub struct Prepared {
    pending: Vec<PendingFile>,
    remove: Vec<PathBuf>,
    made: Option<Vec<String>>,
    lost: Vec<PathBuf>,
}

impl Plan {
    /// The self-signed certificate for exactly these names, from the state folder, and what must be written. Writes nothing.
    ///
    /// One is made, for the key that is there, where none is there for these names or all that are have expired. Its
    /// successor is made when it has [`SELF_SIGNED_NEXT_DAYS`] days left, so that it can be distributed before it is needed,
    /// and takes its place when it has expired. One that is not valid yet is shown as it is: the clock is behind.
    ///
    /// # Errors
    /// Where the files can not be read, or are broken: this process did not leave them so, since it writes each of them
    /// whole.
    pub fn new(state_dir: &Path, names: &[String]) -> Result<Self, CertError> {
        Self::at(state_dir, names, OffsetDateTime::now_utc())
    }

    /// As [`Plan::new`], for a look without a consequence: where this user may not read what is there, one that is made up
    /// stands for it.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn rehearsed(state_dir: &Path, names: &[String]) -> Result<Self, CertError> {
        let denied = |error: &CertError| error.refusal() == Some(io::ErrorKind::PermissionDenied);
        Self::new(state_dir, names).or_else(|error| match denied(&error) {
            true => Self::decide(
                state_dir,
                Pairs::default(),
                names,
                OffsetDateTime::now_utc(),
            ),
            false => Err(error),
        })
    }

    fn at(state_dir: &Path, names: &[String], now: OffsetDateTime) -> Result<Self, CertError> {
        Self::decide(state_dir, Pairs::read(state_dir)?, names, now)
    }

    fn decide(
        state_dir: &Path,
        pairs: Pairs,
        names: &[String],
        now: OffsetDateTime,
    ) -> Result<Self, CertError> {
        let mut made = None;
        let mut make = || -> Result<Identity, CertError> {
            made = Some(names.to_vec());
            let validity = Validity::between(now - CLOCK_SKEW, now + Duration::days(DAYS))?;
            renewed(pairs.key(), names, validity)
        };
        let line = pairs.fitting(names);
        let seconds = u64::try_from(now.unix_timestamp()).unwrap_or(0);
        let current = match in_turn(&line, seconds) {
            Some(one) => copy(one),
            None => make()?,
        };
        let term = Term::of(&current.0);
        let next = line.iter().find(|one| {
            let other = Term::of(&one.0);
            let begins_in_time = other.not_before <= term.not_after;
            begins_in_time && other.not_after > term.not_after
        });
        let next = match next {
            Some(one) => Some(copy(one)),
            None if term.contains(seconds) && days_left(term, now) < SELF_SIGNED_NEXT_DAYS => {
                Some(make()?)
            }
            None => None,
        };
        let shown = SelfSigned { current, next };
        let mut changes = pairs.changes(state_dir, &shown);
        changes.made = made;
        changes.lost = pairs.lost_keys(state_dir);
        Ok(Self { shown, changes })
    }

    /// Returns whether what is shown is not valid yet.
    #[must_use]
    pub fn is_early(&self, now: u64) -> bool {
        now < Term::of(&self.shown.current.0).not_before
    }

    /// Writes what there is to write, under temporary names.
    ///
    /// # Errors
    /// Where that is not possible.
    pub fn prepare(&self, state_dir: &Path) -> Result<Prepared, CertError> {
        if !self.changes.write.is_empty() {
            files::own_folder(state_dir)?;
        }
        let write = self.changes.write.iter();
        let pending = write.map(|(place, content, mode)| PendingFile::with(place, content, *mode));
        Ok(Prepared {
            pending: pending
                .map(|pending| pending.map(PendingFile::in_state))
                .collect::<Result<_, _>>()?,
            remove: self.changes.remove.clone(),
            made: self.changes.made.clone(),
            lost: self.changes.lost.clone(),
        })
    }
}

impl Prepared {
    /// Puts everything into its place. What is in the way has been copied before.
    ///
    /// # Errors
    /// The system's; nothing is lost then, and the next start finds what is there.
    pub fn commit(self) -> Result<(), CertError> {
        for file in self.pending {
            file.put()?;
        }
        for file in &self.remove {
            files::remove(file)?;
        }
        for file in self.lost {
            tracing::warn!(
                file = %file.display(),
                "the key of the self-signed server certificate is missing: another certificate with another \
                    key is served, and every device that pins the certificate or its key must be given the \
                    new one; remedy: put the old key \
                 back there, or distribute the new certificate"
            );
        }
        if let Some(names) = self.made {
            tracing::warn!(
                ?names,
                "made a self-signed server certificate: it must be given to devices that do not pin the key alone"
            );
        }
        Ok(())
    }
}

/// The self-signed certificates that devices have to be given: the one that is shown, and the next one if there is one.
///
/// # Errors
/// As [`read_certificates`].
pub fn to_distribute(state_dir: &Path) -> Result<Vec<CertificateDer<'static>>, CertError> {
    let mut certificates = read_certificates(&state_dir.join(CERTIFICATE_FILE))?;
    let next = state_dir.join(NEXT_CERTIFICATE_FILE);
    if next.exists() {
        certificates.extend(read_certificates(&next)?);
    }
    Ok(certificates)
}

/// Of certificates for the same names, the one to show; `None` where there is none, or the clock says that all that have
/// begun have ended.
fn in_turn(line: &[Identity], now: u64) -> Option<&Identity> {
    let term = |one: &Identity| Term::of(&one.0);
    let valid = line.iter().filter(|one| term(one).contains(now));
    // The one that devices have known for the longest time.
    valid.min_by_key(|one| term(one).not_before).or_else(|| {
        // The clock is behind: what was shown last.
        let all_to_come = line.iter().all(|one| now < term(one).not_before);
        line.first().filter(|_| all_to_come)
    })
}

fn days_left(term: Term, now: OffsetDateTime) -> i64 {
    let end = i64::try_from(term.not_after).unwrap_or(i64::MAX);
    (end - now.unix_timestamp()) / (24 * 60 * 60)
}

#[cfg(test)]
mod tests;
