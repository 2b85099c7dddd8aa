//! Why a client's certificate was rejected, in words for an operator: which certificate, which
//! authority, which list, which extension.
//!
//! Nothing of it is made for a certificate that is accepted. Names are a client's own words: they
//! are bounded, and no character of them steers a terminal.

use rustls::Error;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::oid_registry::Oid;
use x509_parser::prelude::FromDer;

use super::crl::moment;
use super::failure::rustls_error;
use super::fields::{expiry, issuer_and_serial, subject};
use super::text::{bounded, quoted, which};
use super::words::words;
use crate::certs::policy::{may_authenticate, may_issue};
use crate::limits::REJECTION_DETAIL_MAX;
use crate::table::same_name;

/// A client's certificate that was not accepted.
#[derive(Clone, Debug, PartialEq)]
pub struct Rejection {
    /// rustls's error, which decides the alert.
    pub error: Error,
    /// The exact cause, at most [`REJECTION_DETAIL_MAX`] bytes.
    pub detail: Box<str>,
    /// The end-entity certificate in DER, as it was presented: nothing of it is proved.
    pub certificate: Box<[u8]>,
}

impl Rejection {
    /// Of `certificate`, with the `cause` that goes beyond the error's own words.
    pub(super) fn new(error: Error, certificate: &[u8], cause: Option<String>) -> Box<Self> {
        let detail = bounded(cause.unwrap_or_else(|| words(&error)), REJECTION_DETAIL_MAX);
        Box::new(Self {
            error,
            detail: detail.into(),
            certificate: certificate.into(),
        })
    }
}

impl From<Error> for Box<Rejection> {
    /// Of a client that has shown no certificate.
    fn from(error: Error) -> Self {
        Rejection::new(error, &[], None)
    }
}

/// A chain as it was presented, and the subjects of the group certificates: `Name`s in DER.
pub(super) struct Presented<'a> {
    pub end_entity: &'a [u8],
    pub intermediates: &'a [CertificateDer<'a>],
    pub authorities: &'a [&'a [u8]],
}

impl<'a> Presented<'a> {
    fn all(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let intermediates = self.intermediates.iter().map(|one| &**one);
        std::iter::once(self.end_entity).chain(intermediates)
    }

    fn is_authority(&self, name: &[u8]) -> bool {
        let mut known = self.authorities.iter();
        known.any(|authority| same_name(authority, name))
    }

    /// Why there is no path to a group certificate.
    pub fn cause(&self, error: &webpki::Error) -> Option<String> {
        use webpki::Error as E;
        match error {
            E::UnknownIssuer | E::InvalidSignatureForPublicKey => self.unknown_issuer(),
            E::CertExpired { not_after, .. } => Some(self.dated("ended", *not_after, expiry)),
            E::CertNotValidYet { not_before, .. } => {
                Some(self.dated("begins", *not_before, |parsed| {
                    u64::try_from(parsed.validity().not_before.timestamp()).unwrap_or(0)
                }))
            }
            E::UnsupportedCriticalExtension => self.critical_extension(),
            E::EndEntityUsedAsCa => self.key_usage(),
            _ => Some(words(&rustls_error(error.clone()))),
        }
    }

    /// The first certificate on the way up whose issuer is neither presented nor trusted, or whose
    /// issuer's name is there with another key.
    fn unknown_issuer(&self) -> Option<String> {
        let mut at = self.end_entity;
        for _ in 0..=self.intermediates.len() {
            let (issuer, _) = issuer_and_serial(at)?;
            if self.is_authority(issuer) {
                return Some(format!(
                    "{} has not signed {} with the key of the group certificate of that name",
                    quoted(issuer),
                    which(at)
                ));
            }
            let mut above = self.intermediates.iter().map(|one| &**one);
            let next = above.find(|one| {
                !std::ptr::eq(*one, at) && subject(one).is_some_and(|name| same_name(name, issuer))
            });
            match next {
                Some(next) => at = next,
                None => {
                    return Some(format!(
                        "the issuer {} of {} is no group certificate and was not presented",
                        quoted(issuer),
                        which(at)
                    ));
                }
            }
        }
        None
    }

    fn dated(
        &self,
        verb: &str,
        moment_of: UnixTime,
        field: impl Fn(&X509Certificate<'_>) -> u64,
    ) -> String {
        let seconds = moment_of.as_secs();
        let mut all = self.all();
        let one = all.find(|one| {
            X509Certificate::from_der(one).is_ok_and(|(_, parsed)| field(&parsed) == seconds)
        });
        let which = one.map_or_else(|| "the group certificate".to_owned(), which);
        format!("{which} {verb} at {}", moment(seconds))
    }

    fn critical_extension(&self) -> Option<String> {
        let mut all = self.all();
        all.find_map(|one| {
            let (_, parsed) = X509Certificate::from_der(one).ok()?;
            let mut extensions = parsed.extensions().iter();
            let unknown = extensions.find(|each| each.critical && !is_known(&each.oid))?;
            Some(format!(
                "{} has the critical extension {}, which is not known here",
                which(one),
                unknown.oid
            ))
        })
    }

    fn key_usage(&self) -> Option<String> {
        let mut above = self.intermediates.iter();
        let issuer = above.find_map(|one| Some((one, may_issue(one).err()?)));
        issuer.map(|(one, fault)| format!("{}: {fault}", which(one)))
    }

    /// Why the certificate itself may not authenticate a client.
    pub fn purpose(&self) -> Option<String> {
        let fault = may_authenticate(self.end_entity).err()?;
        Some(fault.to_string())
    }
}

/// Critical extensions that webpki knows (RFC 5280, section 4.2.1).
fn is_known(oid: &Oid<'_>) -> bool {
    use x509_parser::oid_registry as known;
    [
        &known::OID_X509_EXT_BASIC_CONSTRAINTS,
        &known::OID_X509_EXT_KEY_USAGE,
        &known::OID_X509_EXT_EXTENDED_KEY_USAGE,
        &known::OID_X509_EXT_NAME_CONSTRAINTS,
        &known::OID_X509_EXT_SUBJECT_ALT_NAME,
    ]
    .contains(&oid)
}
