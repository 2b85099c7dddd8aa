//! PKCS#7 files that carry certificates: `SignedData` (RFC 5652, section 5.1), mostly without a signature.
//!
//! The certificates are taken out byte for byte. Signatures and what they sign are not looked at: the file vouches for nothing.

use crate::asn1::Reader;
use crate::asn1::tag::{CONTEXT_0, INTEGER, OBJECT_IDENTIFIER, SEQUENCE, SET};

/// 1.2.840.113549.1.7.2
const SIGNED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 2];

/// Returns whether `bytes` begin like a PKCS#7 file, signed data.
pub(super) fn is_pkcs7(bytes: &[u8]) -> bool {
    Reader::ber(bytes)
        .open(SEQUENCE)
        .and_then(|mut inside| inside.take(OBJECT_IDENTIFIER))
        .is_some_and(|kind| kind.content == SIGNED_DATA)
}

/// The X.509 certificates, in the order of the file, which is a set. `None` where the structure is broken.
pub(super) fn certificates(bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut file = Reader::ber(bytes);
    let mut info = file.take(SEQUENCE)?.inside();
    if !file.is_empty() || info.take(OBJECT_IDENTIFIER)?.content != SIGNED_DATA {
        return None;
    }
    let mut signed = info.take(CONTEXT_0)?.inside().take(SEQUENCE)?.inside();
    signed.take(INTEGER)?;
    signed.take(SET)?;
    signed.take(SEQUENCE)?;
    let mut found = Vec::new();
    if let Some(set) = signed.take(CONTEXT_0) {
        let mut set = set.inside();
        while !set.is_empty() {
            let certificate = set.any()?;
            // Other choices are attribute certificates and forms that X.509 has replaced.
            if certificate.tag == SEQUENCE {
                found.push(certificate.whole.to_vec());
            }
        }
    }
    Some(found)
}
