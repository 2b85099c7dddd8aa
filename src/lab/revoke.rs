//! Making certificate revocation lists.
//!
//! A new list keeps every entry of the one before it and raises its number by one (RFC 5280 section 5.2.3). Lists that this code
//! could not carry over faithfully (another issuer's, indirect or partial ones) are refused.

use rcgen::{
    CertificateRevocationListParams, KeyIdMethod, RevocationReason, RevokedCertParams, SerialNumber,
};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::{CertificateRevocationList, RevokedCertificate};

use super::CertificateAuthority;
use crate::certs::make::encodable;
use crate::certs::{CertError, Serial};

/// The file of an authority's revocation list in its folder.
pub const CRL_FILE: &str = "ca.crl";

/// Why a certificate is revoked (RFC 5280 section 5.3.1). *removeFromCRL* is missing: it exists for delta CRLs only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Reason {
    /// No reason is given.
    #[default]
    Unspecified,
    /// The private key is, or may be, in other hands: a lost device.
    KeyCompromise,
    /// The key of the authority is in other hands.
    CaCompromise,
    /// The holder's affiliation has changed.
    AffiliationChanged,
    /// A newer certificate has taken its place.
    Superseded,
    /// It is no longer needed.
    CessationOfOperation,
    /// It is suspended for now.
    CertificateHold,
    /// A privilege that it contains was withdrawn.
    PrivilegeWithdrawn,
    /// The key of the attribute authority is in other hands.
    AaCompromise,
}

impl From<Reason> for RevocationReason {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Unspecified => Self::Unspecified,
            Reason::KeyCompromise => Self::KeyCompromise,
            Reason::CaCompromise => Self::CaCompromise,
            Reason::AffiliationChanged => Self::AffiliationChanged,
            Reason::Superseded => Self::Superseded,
            Reason::CessationOfOperation => Self::CessationOfOperation,
            Reason::CertificateHold => Self::CertificateHold,
            Reason::PrivilegeWithdrawn => Self::PrivilegeWithdrawn,
            Reason::AaCompromise => Self::AaCompromise,
        }
    }
}

/// Parameters of a new revocation list.
#[derive(Debug, Clone)]
pub struct CrlRequest {
    /// The serial numbers to add; may be empty, to refresh a list or to make an empty one.
    pub serials: Vec<Serial>,
    /// The reason for each of them.
    pub reason: Reason,
    /// When the list is made.
    pub this_update: OffsetDateTime,
    /// When the next list is due; after this moment the list is stale.
    pub next_update: OffsetDateTime,
}

/// A new revocation list.
#[derive(Debug, Clone)]
pub struct Crl {
    /// The signed list.
    pub der: CertificateRevocationListDer<'static>,
    /// How many entries it has.
    pub entries: usize,
    /// Those of the request that were not in the list before.
    pub added: Vec<Serial>,
}

/// Makes the revocation list that follows `previous`, or the first one.
///
/// # Errors
/// [`CertError::Request`] where `previous` is not a complete list of this authority or the times are in the wrong order,
/// [`CertError::Crypto`].
pub fn revoke(
    ca: &CertificateAuthority,
    previous: Option<&CertificateRevocationListDer<'_>>,
    request: &CrlRequest,
) -> Result<Crl, CertError> {
    let (this_update, next_update) = match (
        encodable(request.this_update),
        encodable(request.next_update),
    ) {
        (Some(this_update), Some(next_update)) if this_update < next_update => {
            (this_update, next_update)
        }
        _ => {
            return Err(CertError::request(
                format!(
                    "updates at {} and {} are not possible",
                    request.this_update, request.next_update
                ),
                "let the next update come after this one, both between the years 1950 and 9999",
            ));
        }
    };
    let (_, authority) = X509Certificate::from_der(ca.certificate())
        .map_err(|cause| CertError::crypto("read the certificate of the authority", cause))?;
    let (number, mut entries) = match previous {
        None => (vec![1], Vec::new()),
        Some(previous) => carry_over(previous, &authority)?,
    };
    let mut known: std::collections::HashSet<Serial> = entries
        .iter()
        .map(|entry| Serial::of_others(entry.serial_number.as_ref()))
        .collect();
    let mut added = Vec::new();
    for serial in &request.serials {
        if !known.insert(serial.clone()) {
            continue;
        }
        added.push(serial.clone());
        entries.push(RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial.octets()),
            revocation_time: this_update,
            reason_code: Some(request.reason.into()),
            invalidity_date: None,
        });
    }
    let count = entries.len();
    let params = CertificateRevocationListParams {
        this_update,
        next_update,
        crl_number: number.into(),
        issuing_distribution_point: None,
        revoked_certs: entries,
        key_identifier_method: key_identifier(&authority),
    };
    let crl = params
        .signed_by(ca.issuer())
        .map_err(|cause| CertError::crypto("sign the CRL", cause))?;
    Ok(Crl {
        der: crl.into(),
        entries: count,
        added,
    })
}

/// The serial number of a certificate, once it is certain that this authority signed it.
///
/// # Errors
/// [`CertError::Request`] where it did not.
pub fn serial_of_issued(
    ca: &CertificateAuthority,
    certificate: &CertificateDer<'_>,
) -> Result<Serial, CertError> {
    let broken = |cause: x509_parser::nom::Err<x509_parser::error::X509Error>| {
        CertError::crypto("read the certificate", cause)
    };
    let (_, authority) = X509Certificate::from_der(ca.certificate()).map_err(broken)?;
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(broken)?;
    if certificate.issuer().as_raw() != authority.subject().as_raw()
        || certificate
            .verify_signature(Some(authority.public_key()))
            .is_err()
    {
        return Err(CertError::request(
            "the certificate was not issued by this authority, which therefore cannot revoke it",
            "name the folder of its own authority with --dir",
        ));
    }
    Ok(Serial::of_others(certificate.raw_serial()))
}

/// The CRL's authority key identifier must be the subject key identifier of the authority, also where that was not made by
/// the same method as ours (RFC 5280 section 5.2.1).
fn key_identifier(authority: &X509Certificate<'_>) -> KeyIdMethod {
    authority
        .iter_extensions()
        .find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(identifier) => {
                Some(KeyIdMethod::PreSpecified(identifier.0.to_vec()))
            }
            _ => None,
        })
        .unwrap_or(KeyIdMethod::Sha256)
}

/// The number of the next list, and the entries of the previous one.
fn carry_over(
    previous: &CertificateRevocationListDer<'_>,
    authority: &X509Certificate<'_>,
) -> Result<(Vec<u8>, Vec<RevokedCertParams>), CertError> {
    let refused = |problem: &str| {
        CertError::request(
            format!("the existing CRL cannot be continued: {problem}"),
            "move it away to start a new one, without its entries",
        )
    };
    let (_, crl) =
        CertificateRevocationList::from_der(previous).map_err(|_| refused("it is broken"))?;
    if crl.issuer().as_raw() != authority.subject().as_raw()
        || crl.verify_signature(authority.public_key()).is_err()
    {
        return Err(refused("it was not signed by this authority"));
    }
    // Every critical extension that RFC 5280 defines here makes a list partial, indirect or a delta.
    if crl.extensions().iter().any(|extension| extension.critical) {
        return Err(refused("it is a partial or an indirect CRL"));
    }
    let number = next_number(
        crl.crl_number()
            .map(x509_parser::num_bigint::BigUint::to_bytes_be)
            .unwrap_or_default(),
    );
    let entries = crl
        .iter_revoked_certificates()
        .map(|entry| {
            carry_over_entry(entry).ok_or_else(|| refused("an entry has a critical extension"))
        })
        .collect::<Result<_, _>>()?;
    Ok((number, entries))
}

fn carry_over_entry(entry: &RevokedCertificate<'_>) -> Option<RevokedCertParams> {
    if entry
        .extensions()
        .iter()
        .any(|extension| extension.critical)
    {
        return None;
    }
    Some(RevokedCertParams {
        serial_number: SerialNumber::from_slice(&entry.serial().to_bytes_be()),
        revocation_time: entry.revocation_date.to_datetime(),
        reason_code: entry
            .reason_code()
            .and_then(|(_, reason)| reason_from_code(reason.0)),
        invalidity_date: entry.invalidity_date().map(|(_, date)| date.to_datetime()),
    })
}

fn reason_from_code(code: u8) -> Option<RevocationReason> {
    Some(match code {
        1 => RevocationReason::KeyCompromise,
        2 => RevocationReason::CaCompromise,
        3 => RevocationReason::AffiliationChanged,
        4 => RevocationReason::Superseded,
        5 => RevocationReason::CessationOfOperation,
        6 => RevocationReason::CertificateHold,
        8 => RevocationReason::RemoveFromCrl,
        9 => RevocationReason::PrivilegeWithdrawn,
        10 => RevocationReason::AaCompromise,
        // 0 is written by leaving it out; 7 is not assigned.
        _ => return None,
    })
}

/// A big-endian number plus one.
fn next_number(mut octets: Vec<u8>) -> Vec<u8> {
    for octet in octets.iter_mut().rev() {
        let (sum, carried) = octet.overflowing_add(1);
        *octet = sum;
        if !carried {
            return octets;
        }
    }
    octets.insert(0, 1);
    octets
}
