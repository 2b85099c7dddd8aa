//! Path policy: what RFC 5280 asks of the certificates of a path and webpki leaves out.
//!
//! webpki checks names, signatures, dates, `basicConstraints`, extended key usages and name constraints of what is presented. It looks
//! neither at key usages nor at anything of a trust anchor but its name, key and name constraints. Here are the rules for
//! the rest, once for the handshake, for each later look at a session and for files before they are used.
//!
//! A certificate of version 1 cannot say what it may do. One that has signed itself is taken for an authority, as it is named in
//! the configuration as one; another could be a device's, and is not.

use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Version;

use super::chain::{Issued, is_self_issued, issued};
use crate::asn1::Reader;
use crate::asn1::tag::{BIT_STRING, BOOLEAN, CONTEXT_3, OBJECT_IDENTIFIER, OCTET_STRING, SEQUENCE};

/// Fault of a certificate at its position in a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathFault {
    /// It cannot be read.
    #[error("it cannot be read")]
    Unreadable,
    /// RFC 5280, section 6.1.4 (k).
    #[error("not a certification authority")]
    NotCa,
    /// Version 1, and issued by another.
    #[error("of version 1, which cannot say that it is a certification authority")]
    Version1,
    /// RFC 5280, section 6.1.4 (n).
    #[error("its key usage does not let it sign certificates (no keyCertSign)")]
    NoCertSign,
    /// RFC 5280, section 4.2.1.12: where an authority has extended key usages, they bound what it issues.
    #[error("its extended key usage does not include TLS clients")]
    NotForClients,
    /// RFC 5280, section 4.2.1.3; RFC 8446, section 4.4.2.2.
    #[error("its key usage does not let it sign handshakes (no digitalSignature)")]
    NoSignature,
    /// RFC 5280, section 6.1.4 (l).
    #[error("more authorities are below it than its path length allows")]
    PathLength,
    /// It has ended, at this second since 1970.
    #[error("it has expired")]
    Expired(u64),
    /// It begins at this second since 1970.
    #[error("it is not valid yet")]
    NotYetValid(u64),
}

impl PathFault {
    /// As one word for programs.
    pub(super) const fn code(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::NotCa => "not-ca",
            Self::Version1 => "version-1",
            Self::NoCertSign => "no-cert-sign",
            Self::NotForClients => "not-for-clients",
            Self::NoSignature => "no-signature",
            Self::PathLength => "path-length",
            Self::Expired(_) => "expired",
            Self::NotYetValid(_) => "not-yet-valid",
        }
    }

    /// Returns what would put it right in a file.
    pub(super) const fn remedy(self) -> &'static str {
        match self {
            Self::Unreadable => "export it again from its source",
            Self::NotCa | Self::Version1 => {
                "name the certificate of the authority that issues the identity certificates"
            }
            Self::NoCertSign => {
                "use the certificate of the authority that issues, or have it issued again with keyCertSign"
            }
            Self::NotForClients => {
                "name an authority for TLS clients, or have it issued again with clientAuth"
            }
            Self::NoSignature => "have it issued again with digitalSignature",
            Self::PathLength => "have the authority issued again with a greater path length",
            Self::Expired(_) => "replace it",
            Self::NotYetValid(_) => "wait, or check this machine's clock",
        }
    }
}

/// `id-ce-keyUsage`.
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
/// Bits of the first octet of a `KeyUsage` (RFC 5280, section 4.2.1.3).
const DIGITAL_SIGNATURE: u8 = 0x80;
const KEY_CERT_SIGN: u8 = 0x04;

/// Returns whether a certificate may issue others, as far as its key usage says.
///
/// # Errors
/// [`PathFault::NoCertSign`].
pub fn may_issue(certificate: &[u8]) -> Result<(), PathFault> {
    match key_usage(certificate) {
        Some(bits) if bits & KEY_CERT_SIGN == 0 => Err(PathFault::NoCertSign),
        _ => Ok(()),
    }
}

/// Returns whether an end certificate may prove that its key is there, as far as its key usage
/// says.
///
/// # Errors
/// [`PathFault::NoSignature`].
pub fn may_authenticate(certificate: &[u8]) -> Result<(), PathFault> {
    match key_usage(certificate) {
        Some(bits) if bits & DIGITAL_SIGNATURE == 0 => Err(PathFault::NoSignature),
        _ => Ok(()),
    }
}

/// The first octet of the key usage; `None` where the certificate has none, and no bit where it cannot be read. Allocates nothing.
fn key_usage(certificate: &[u8]) -> Option<u8> {
    find_key_usage(certificate).unwrap_or(Some(0))
}

/// `None` where the certificate is malformed.
fn find_key_usage(certificate: &[u8]) -> Option<Option<u8>> {
    // Certificate { TBSCertificate { ..., [3] { SEQUENCE OF Extension } } } (RFC 5280, section 4.1).
    let tbs = Reader::der(certificate)
        .take(SEQUENCE)?
        .inside()
        .take(SEQUENCE)?;
    let mut fields = tbs.inside();
    let list = loop {
        if fields.is_empty() {
            return Some(None);
        }
        let field = fields.any()?;
        if field.tag == CONTEXT_3 {
            break field.inside().take(SEQUENCE)?;
        }
    };
    let mut extensions = list.inside();
    while !extensions.is_empty() {
        let mut parts = extensions.take(SEQUENCE)?.inside();
        if parts.take(OBJECT_IDENTIFIER)?.content != KEY_USAGE {
            continue;
        }
        let _critical = parts.take(BOOLEAN);
        // BIT STRING: its length, the unused bits, and then the bits.
        return match parts.take(OCTET_STRING)?.content {
            [BIT_STRING, _, _, first, ..] => Some(Some(*first)),
            _ => None,
        };
    }
    Some(None)
}

/// An authority that paths may end at, and what it bounds them by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Authority {
    path_length: Option<u32>,
    not_before: u64,
    not_after: u64,
}

impl Authority {
    /// Of a group certificate: what does not change is looked at here, once.
    ///
    /// # Errors
    /// The first of its faults.
    pub fn new(certificate: &CertificateDer<'_>) -> Result<Self, PathFault> {
        let (_, parsed) =
            X509Certificate::from_der(certificate).map_err(|_| PathFault::Unreadable)?;
        match faults(&parsed).first() {
            Some(fault) => Err(*fault),
            None => Ok(Self::of(&parsed)),
        }
    }

    pub(super) fn of(certificate: &X509Certificate<'_>) -> Self {
        let constraints = certificate.basic_constraints().ok().flatten();
        let seconds = |timestamp: i64| u64::try_from(timestamp).unwrap_or(0);
        let validity = certificate.validity();
        Self {
            path_length: constraints.and_then(|constraints| constraints.value.path_len_constraint),
            not_before: seconds(validity.not_before.timestamp()),
            not_after: seconds(validity.not_after.timestamp()),
        }
    }

    /// The last second of its validity, since 1970.
    #[must_use]
    pub fn not_after(&self) -> u64 {
        self.not_after
    }

    /// Returns whether a path may end here at `now`, in seconds since 1970, with so many
    /// authorities below that others have issued.
    ///
    /// # Errors
    /// [`PathFault`].
    pub fn admits(&self, below: usize, now: u64) -> Result<(), PathFault> {
        if now < self.not_before {
            return Err(PathFault::NotYetValid(self.not_before));
        }
        if now > self.not_after {
            return Err(PathFault::Expired(self.not_after));
        }
        self.bounds(below)
    }

    /// Returns whether so many authorities may stand below.
    ///
    /// # Errors
    /// [`PathFault::PathLength`].
    pub(super) fn bounds(&self, below: usize) -> Result<(), PathFault> {
        match self.path_length {
            Some(most) if below > most as usize => Err(PathFault::PathLength),
            _ => Ok(()),
        }
    }
}

/// Returns whether it has signed itself, as far as that can be checked.
pub(super) fn is_self_signed(certificate: &X509Certificate<'_>) -> bool {
    is_self_issued(certificate) && issued(certificate, certificate) != Issued::No
}

/// All that keeps a certificate from being a group certificate at any time.
pub(super) fn faults(certificate: &X509Certificate<'_>) -> Vec<PathFault> {
    let mut faults = Vec::new();
    if certificate.version() == X509Version::V1 {
        if !is_self_signed(certificate) {
            faults.push(PathFault::Version1);
        }
        return faults;
    }
    if !certificate.is_ca() {
        return vec![PathFault::NotCa];
    }
    faults.extend(may_issue(certificate.as_raw()).err());
    let is_for_clients = match certificate.extended_key_usage() {
        Ok(None) => true,
        Ok(Some(usage)) => usage.value.client_auth || usage.value.any,
        Err(_) => false,
    };
    if !is_for_clients {
        faults.push(PathFault::NotForClients);
    }
    faults
}

/// Meaning of a certificate in a file of roots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RootKind {
    /// True if certificates that it has issued are accepted.
    pub is_authority: bool,
    /// It is accepted itself: it has signed itself, or is no authority.
    pub is_pin: bool,
}

/// Meaning of a certificate in a file of roots. One that cannot be read is left to who uses it as a
/// root.
#[must_use]
pub fn root_kind(certificate: &CertificateDer<'_>) -> RootKind {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
        return RootKind {
            is_authority: true,
            is_pin: false,
        };
    };
    // Its extended key usages are webpki's business.
    let is_authority = faults(&parsed)
        .iter()
        .all(|fault| *fault == PathFault::NotForClients);
    RootKind {
        is_authority,
        is_pin: !is_authority || is_self_signed(&parsed),
    }
}

#[cfg(test)]
mod tests;
