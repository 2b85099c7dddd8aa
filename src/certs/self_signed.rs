//! The gateway's own server certificate, for when none is configured.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::{Duration, OffsetDateTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::describe::{AlternativeName, alternative_names};
use super::files::{self, Mode};
use super::make::{CLOCK_SKEW, Usage, key_to_pem, to_pem};
use super::{
    CertError, Identity, IssueRequest, Issued, Term, Validity, key_matches, read_certificates,
    read_private_key,
};
use crate::limits::SELF_SIGNED_NEXT_DAYS;

/// The certificate's file in the state folder.
pub const CERTIFICATE_FILE: &str = "server-self-signed.pem";

/// Its key's file in the state folder.
pub const KEY_FILE: &str = "server-self-signed.key";

/// The file of the certificate that will take its place.
pub const NEXT_CERTIFICATE_FILE: &str = "server-self-signed-next.pem";

/// The file of that one's key.
pub const NEXT_KEY_FILE: &str = "server-self-signed-next.key";

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
    let params = request.params()?;
    let key = request.key_type.generate()?;
    let certificate = params
        .self_signed(&key)
        .map_err(|cause| CertError::crypto("sign the server certificate", cause))?;
    Ok(Issued {
        chain: vec![certificate.into()],
        key: PrivateKeyDer::from(key),
    })
}

/// The self-signed certificates of a state folder.
#[derive(Debug)]
pub struct SelfSigned {
    /// The one that is shown until it expires.
    pub current: Identity,
    /// The one that is shown then, in the last [`SELF_SIGNED_NEXT_DAYS`] days of the first.
    pub next: Option<Identity>,
}

/// The self-signed certificate for exactly these names and its key, from the state folder; made and kept there when it is
/// missing, was made for other names, is not valid now, or does not belong to its key. Its successor is made when it has
/// [`SELF_SIGNED_NEXT_DAYS`] days left, so that it can be distributed before it is needed, and takes its place when it has
/// expired.
///
/// # Errors
/// Where the files can not be read, are broken, or can not be written. Broken files are not replaced: this process did not
/// leave them so, since it writes each of them whole.
pub fn ensure_self_signed(state_dir: &Path, names: &[String]) -> Result<SelfSigned, CertError> {
    ensure_self_signed_at(state_dir, names, OffsetDateTime::now_utc())
}

fn ensure_self_signed_at(
    state_dir: &Path,
    names: &[String],
    now: OffsetDateTime,
) -> Result<SelfSigned, CertError> {
    let (current, next) = (
        Pair::new(state_dir, CERTIFICATE_FILE, KEY_FILE),
        Pair::new(state_dir, NEXT_CERTIFICATE_FILE, NEXT_KEY_FILE),
    );
    finish_move(&next, &current)?;
    let mut successor = next.usable(names, now)?;
    let identity = match current.usable(names, now)? {
        Some(identity) => identity,
        None => match successor.take() {
            Some(identity) => {
                tracing::info!(file = %current.certificate.display(), "the next self-signed server certificate takes the place of the last");
                next.move_to(&current)?;
                identity
            }
            None => current.make(state_dir, names, now)?,
        },
    };
    if successor.is_none() && days_left(&identity, now) < SELF_SIGNED_NEXT_DAYS {
        successor = Some(next.make(state_dir, names, now)?);
    }
    if successor.is_none() {
        next.remove()?;
    }
    Ok(SelfSigned {
        current: identity,
        next: successor,
    })
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

/// A certificate's file and that of its key.
struct Pair {
    certificate: PathBuf,
    key: PathBuf,
}

impl Pair {
    fn new(state_dir: &Path, certificate: &str, key: &str) -> Self {
        Self {
            certificate: state_dir.join(certificate),
            key: state_dir.join(key),
        }
    }

    fn read(&self) -> Result<Option<Identity>, CertError> {
        if !self.certificate.exists() || !self.key.exists() {
            return Ok(None);
        }
        let chain = read_certificates(&self.certificate)?;
        Ok(Some((chain, read_private_key(&self.key)?)))
    }

    /// What is there, if it can be used now and for these names.
    fn usable(&self, names: &[String], now: OffsetDateTime) -> Result<Option<Identity>, CertError> {
        let Some((chain, key)) = self.read()? else {
            return Ok(None);
        };
        let reason = reason_to_remake(&chain[0], &key, names, now);
        if let Some(reason) = reason {
            tracing::warn!(file = %self.certificate.display(), reason, "this self-signed server certificate is not used any more");
        }
        Ok(reason.is_none().then_some((chain, key)))
    }

    fn make(
        &self,
        state_dir: &Path,
        names: &[String],
        now: OffsetDateTime,
    ) -> Result<Identity, CertError> {
        files::make_folder(state_dir)?;
        let validity = Validity::between(now - CLOCK_SKEW, now + Duration::days(DAYS))?;
        let Issued { chain, key } = self_signed_for(names, validity)?;
        files::replace(&self.key, key_to_pem(&key).as_bytes(), Mode::Secret)?;
        let pem = to_pem(&chain);
        files::replace(&self.certificate, pem.as_bytes(), Mode::Public)?;
        tracing::warn!(
            file = %self.certificate.display(),
            ?names,
            "made a self-signed server certificate: it must be given to devices that pin it"
        );
        Ok((chain, key))
    }

    /// Of no use to anyone: it was made for other names.
    fn remove(&self) -> Result<(), CertError> {
        files::remove(&self.key)?;
        files::remove(&self.certificate)?;
        Ok(())
    }

    /// The key first, as when it is written.
    fn move_to(&self, place: &Self) -> Result<(), CertError> {
        files::rename(&self.key, &place.key)?;
        files::rename(&self.certificate, &place.certificate)
    }
}

/// Ends a move that was cut short between its two files.
fn finish_move(next: &Pair, current: &Pair) -> Result<(), CertError> {
    if next.key.exists() || !next.certificate.exists() || !current.key.exists() {
        return Ok(());
    }
    let chain = read_certificates(&next.certificate)?;
    if key_matches(&chain[0], &read_private_key(&current.key)?) {
        files::rename(&next.certificate, &current.certificate)?;
    }
    Ok(())
}

fn days_left((chain, _): &Identity, now: OffsetDateTime) -> i64 {
    let end = i64::try_from(Term::of(chain).not_after).unwrap_or(i64::MAX);
    (end - now.unix_timestamp()) / (24 * 60 * 60)
}

fn reason_to_remake(
    certificate: &CertificateDer<'_>,
    key: &PrivateKeyDer<'_>,
    names: &[String],
    now: OffsetDateTime,
) -> Option<&'static str> {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
        return Some("it is broken");
    };
    let validity = parsed.validity();
    if now >= validity.not_after.to_datetime() {
        return Some("it has expired");
    }
    if now < validity.not_before.to_datetime() {
        return Some("it is not valid yet");
    }
    if !key_matches(certificate, key) {
        return Some("it does not belong to its key");
    }
    if !covers_exactly(&parsed, names) {
        return Some("it was made for other names");
    }
    None
}

fn covers_exactly(certificate: &X509Certificate<'_>, names: &[String]) -> bool {
    let mut wanted: Vec<AlternativeName> = names
        .iter()
        .map(|name| match name.parse::<IpAddr>() {
            Ok(address) => AlternativeName::Ip(address),
            Err(_) => AlternativeName::Dns(name.to_ascii_lowercase()),
        })
        .collect();
    let mut present = alternative_names(certificate);
    wanted.sort();
    wanted.dedup();
    present.sort();
    present.dedup();
    wanted == present
}

#[cfg(test)]
#[path = "self_signed_tests.rs"]
mod tests;
