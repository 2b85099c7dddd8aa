//! The gateway's own server certificate, for when none is configured.

use std::net::IpAddr;
use std::path::Path;

use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::describe::{AlternativeName, alternative_names};
use super::files::{self, Mode};
use super::make::{Usage, key_to_pem, to_pem};
use super::{
    CertError, IssueRequest, Issued, Validity, key_matches, read_certificates, read_private_key,
};

/// The certificate's file in the state folder.
pub const CERTIFICATE_FILE: &str = "server-self-signed.pem";

/// Its key's file in the state folder.
pub const KEY_FILE: &str = "server-self-signed.key";

/// How long a self-signed certificate is valid, in days. Devices have to be given each new one, so it is as long as Apple's
/// requirements for server certificates allow (825 days, HT210176), less one for the hour by which it is backdated.
const DAYS: u32 = 824;

/// Makes a self-signed server certificate for host names and IP addresses. The first name is also its common name, as far as it
/// fits.
///
/// # Errors
/// [`CertError::Request`] where there is no name, or one that can not be.
pub fn self_signed(names: &[String], days: u32) -> Result<Issued, CertError> {
    let first = names.first().ok_or_else(|| {
        CertError::request(
            "a server certificate needs a name",
            "give the name that devices connect to",
        )
    })?;
    // The common name may hold 64 characters, a DNS name 253; clients read the subject alternative names.
    let common_name = if first.len() <= 64 { first } else { "adit" };
    let mut request = IssueRequest::new(Usage::Server, common_name, Validity::days(days)?);
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

/// The self-signed certificate for exactly these names and its key, from the state folder; made and kept there when it is
/// missing, was made for other names, is not valid now, or does not belong to its key (a start that was cut short).
///
/// # Errors
/// Where the files can not be read, are broken, or can not be written. Broken files are not replaced: this process did not
/// leave them so, since it writes each of them whole.
pub fn ensure_self_signed(
    state_dir: &Path,
    names: &[String],
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), CertError> {
    let (certificate_path, key_path) = (state_dir.join(CERTIFICATE_FILE), state_dir.join(KEY_FILE));
    if certificate_path.exists() && key_path.exists() {
        let chain = read_certificates(&certificate_path)?;
        let key = read_private_key(&key_path)?;
        match reason_to_remake(&chain[0], &key, names, OffsetDateTime::now_utc()) {
            None => return Ok((chain, key)),
            Some(reason) => tracing::warn!(
                file = %certificate_path.display(),
                reason,
                "making a new self-signed server certificate: devices that pinned the old one must be given the new one"
            ),
        }
    }
    files::make_folder(state_dir)?;
    let issued = self_signed(names, DAYS)?;
    files::replace(&key_path, key_to_pem(&issued.key).as_bytes(), Mode::Secret)?;
    files::replace(
        &certificate_path,
        to_pem(&issued.chain).as_bytes(),
        Mode::Public,
    )?;
    tracing::info!(file = %certificate_path.display(), ?names, "made a self-signed server certificate");
    Ok((issued.chain, issued.key))
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
    if now > validity.not_after.to_datetime() {
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
