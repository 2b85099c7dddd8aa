//! Fields of certificates, read without a library: the libraries give a certificate's issuer
//! without its header, and copying every certificate to get at it would cost each handshake.

use x509_parser::certificate::X509Certificate;

use crate::asn1::{Element, Reader, tag};

/// Returns what names a certificate: its issuer's `Name` in DER, and the contents of its serial
/// `INTEGER`.
///
/// `None` if this is no certificate; one that webpki accepted always is.
pub(super) fn issuer_and_serial(certificate: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut tbs = Reader::der(certificate)
        .enter(tag::SEQUENCE)?
        .enter(tag::SEQUENCE)?;
    if tbs.peek() == Some(tag::CONTEXT_0) {
        tbs.any()?;
    }
    let serial = tbs.take(tag::INTEGER)?.content;
    tbs.take(tag::SEQUENCE)?;
    let issuer = tbs.take(tag::SEQUENCE)?.whole;
    Some((issuer, serial))
}

/// Whom a certificate certifies: its subject's `Name` in DER.
pub(super) fn subject(certificate: &[u8]) -> Option<&[u8]> {
    Some(subject_and_key(certificate)?.0.whole)
}

/// The public key that a certificate certifies: the contents of its `SubjectPublicKeyInfo`, as
/// webpki gives that of an anchor.
pub(super) fn public_key(certificate: &[u8]) -> Option<&[u8]> {
    Some(subject_and_key(certificate)?.1.content)
}

fn subject_and_key(certificate: &[u8]) -> Option<(Element<'_>, Element<'_>)> {
    let mut tbs = Reader::der(certificate)
        .enter(tag::SEQUENCE)?
        .enter(tag::SEQUENCE)?;
    if tbs.peek() == Some(tag::CONTEXT_0) {
        tbs.any()?;
    }
    tbs.take(tag::INTEGER)?;
    // Algorithm, issuer, validity.
    for _ in 0..3 {
        tbs.take(tag::SEQUENCE)?;
    }
    Some((tbs.take(tag::SEQUENCE)?, tbs.take(tag::SEQUENCE)?))
}

/// The signed part and its signature: the frame of certificates and of lists (RFC 5280, sections
/// 4.1 and 5.1).
#[derive(Clone, Copy, Debug)]
pub(super) struct Signed<'a> {
    /// The octets that are signed.
    pub message: &'a [u8],
    /// The contents of the `AlgorithmIdentifier`.
    pub algorithm: &'a [u8],
    pub signature: &'a [u8],
}

impl<'a> Signed<'a> {
    /// Reads the frame of a certificate.
    pub fn certificate(der: &'a [u8]) -> Option<Self> {
        let mut outer = Reader::der(der).enter(tag::SEQUENCE)?;
        Some(Signed {
            message: outer.take(tag::SEQUENCE)?.whole,
            algorithm: outer.take(tag::SEQUENCE)?.content,
            signature: whole_octets(outer.take(tag::BIT_STRING)?.content)?,
        })
    }
}

/// The octets of a `BIT STRING` that is whole ones.
pub(super) fn whole_octets(contents: &[u8]) -> Option<&[u8]> {
    contents.strip_prefix(&[0])
}

/// One X.509 extension (RFC 5280, section 4.2).
#[derive(Clone, Copy, Debug)]
pub(super) struct Extension<'a> {
    /// The contents of its object identifier.
    pub oid: &'a [u8],
    pub critical: bool,
    /// Content of the octet string.
    pub value: &'a [u8],
}

/// Reads the next extension of a list of them.
pub(super) fn next_extension<'a>(list: &mut Reader<'a>) -> Option<Extension<'a>> {
    let mut extension = list.enter(tag::SEQUENCE)?;
    let oid = extension.take(tag::OBJECT_IDENTIFIER)?.content;
    let critical = extension.peek() == Some(tag::BOOLEAN) && boolean(extension.any()?.content)?;
    let value = extension.take(tag::OCTET_STRING)?.content;
    extension.is_empty().then_some(Extension {
        oid,
        critical,
        value,
    })
}

/// The value of a `BOOLEAN`. Some authorities write another octet than DER's 0xff for true.
pub(super) fn boolean(contents: &[u8]) -> Option<bool> {
    match contents {
        [octet] => Some(*octet != 0),
        _ => None,
    }
}

/// Returns what an extension of a certificate holds, if it has it. A certificate that webpki
/// accepted has it once at most.
pub(super) fn certificate_extension<'a>(certificate: &'a [u8], oid: &[u8]) -> Option<&'a [u8]> {
    let mut tbs = Reader::der(certificate)
        .enter(tag::SEQUENCE)?
        .enter(tag::SEQUENCE)?;
    while tbs.peek()? != tag::CONTEXT_3 {
        tbs.any()?;
    }
    let mut list = tbs.enter(tag::CONTEXT_3)?.enter(tag::SEQUENCE)?;
    loop {
        let extension = next_extension(&mut list)?;
        if extension.oid == oid {
            return Some(extension.value);
        }
    }
}

/// The last moment at which a certificate is valid, in unix seconds. A date before 1970 has long
/// passed, as zero has.
pub(super) fn expiry(certificate: &X509Certificate<'_>) -> u64 {
    u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_has_no_fields() {
        assert!(issuer_and_serial(&[0x30, 0x02, 0x30, 0x00]).is_none());
    }
}
