//! Properties of a certificate that decide which lists cover it.

use crate::asn1::{Reader, tag};
use crate::table::Subject;
use crate::tls::fields::{boolean, certificate_extension};

const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 19];
const CRL_DISTRIBUTION_POINTS: &[u8] = &[0x55, 0x1d, 31];
/// `uniformResourceIdentifier` of a `GeneralName` (RFC 5280, section 4.2.1.6).
const URI: u8 = 0x86;

/// A certificate in DER that has been accepted as one.
pub(in crate::tls) struct CertificateSubject<'a>(pub &'a [u8]);

impl Subject for CertificateSubject<'_> {
    fn is_authority(&self) -> bool {
        certificate_extension(self.0, BASIC_CONSTRAINTS)
            .and_then(|value| Reader::der(value).enter(tag::SEQUENCE)?.take(tag::BOOLEAN))
            .and_then(|authority| boolean(authority.content))
            .unwrap_or(false)
    }

    fn names_point(&self, point: &[u8]) -> bool {
        names(self.0).any(|name| name == point)
    }
}

/// The names of the distribution points, each in DER. A point for some reasons only, or with lists
/// of another issuer (RFC 5280, section 4.2.1.13), proves nothing here and is passed over.
fn names(certificate: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut points = certificate_extension(certificate, CRL_DISTRIBUTION_POINTS)
        .and_then(|value| Reader::der(value).enter(tag::SEQUENCE))
        .unwrap_or(Reader::der(&[]));
    std::iter::from_fn(move || points.enter(tag::SEQUENCE))
        .filter_map(|mut point| {
            let full = point.enter(tag::CONTEXT_0)?.enter(tag::CONTEXT_0)?;
            point.is_empty().then_some(full)
        })
        .flat_map(|mut full| std::iter::from_fn(move || full.any()))
        .map(|name| name.whole)
}

/// The http and https URLs at which a certificate's issuer publishes its lists.
pub fn urls(certificate: &[u8]) -> impl Iterator<Item = &str> {
    names(certificate)
        .filter_map(|name| Reader::der(name).take(URI))
        .filter_map(|uri| std::str::from_utf8(uri.content).ok())
        .filter(|uri| uri.starts_with("http://") || uri.starts_with("https://"))
}
