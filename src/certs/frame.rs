//! Kinds of DER values, told by their frame: no value is made of what is inside.

use crate::asn1::Reader;
use crate::asn1::tag::{GENERALIZED_TIME, INTEGER, OCTET_STRING, SEQUENCE, UTC_TIME};

/// The length, header included, of the DER SEQUENCE at the start of `bytes`, whether or not `bytes` has it all. `None` where
/// no SEQUENCE begins there.
pub(super) fn der_length(bytes: &[u8]) -> Option<u64> {
    let reader = Reader::der(bytes);
    reader.length().filter(|_| reader.peek() == Some(SEQUENCE))
}

/// Returns whether DER has the frame of a CRL (RFC 5280, section 5.1) and its length. A parse that
/// makes a value of each entry would take gigabytes for a large list; who uses one walks through
/// its entries anyway.
pub(super) fn is_crl(der: &[u8]) -> bool {
    der_length(der) == Some(der.len() as u64) && has_frame_of_crl(der).is_some()
}

fn has_frame_of_crl(der: &[u8]) -> Option<()> {
    let mut fields = Reader::der(der).open(SEQUENCE)?.open(SEQUENCE)?;
    // The version, which may be missing, and then the signature algorithm, the issuer and a time.
    if let Some(version) = fields.take(INTEGER)
        && version.content.len() != 1
    {
        return None;
    }
    fields.take(SEQUENCE)?;
    fields.take(SEQUENCE)?;
    let next = fields.peek()?;
    [UTC_TIME, GENERALIZED_TIME].contains(&next).then_some(())
}

/// `EncryptedPrivateKeyInfo` (RFC 5958 section 3) is an AlgorithmIdentifier and an OCTET STRING, nothing else; a certificate also
/// begins with a SEQUENCE, but no OCTET STRING follows that.
pub(super) fn is_encrypted(bytes: &[u8]) -> bool {
    let fields = Reader::der(bytes).open(SEQUENCE);
    fields.is_some_and(|mut fields| {
        fields.take(SEQUENCE).is_some() && fields.peek() == Some(OCTET_STRING)
    })
}
