//! What a DER value is and how long, from its first octets: the frame only, no value is made of what is inside.

/// The length of the header of the DER SEQUENCE at the start of `bytes`.
fn header_length(bytes: &[u8]) -> Option<usize> {
    match bytes {
        [0x30, length, ..] if *length < 0x80 => Some(2),
        // Up to four octets of length: more than any file that is read here.
        [0x30, form @ 0x81..=0x84, ..] => Some(2 + usize::from(form & 0x7f)),
        _ => None,
    }
}

/// The length, header included, of the DER SEQUENCE at the start of `bytes`, whether or not `bytes` has it all. `None` where
/// no SEQUENCE begins there.
pub(super) fn der_length(bytes: &[u8]) -> Option<u64> {
    let header = header_length(bytes)?;
    let content = match bytes.get(2..header)? {
        [] => u64::from(bytes[1]),
        octets => octets
            .iter()
            .fold(0, |length, octet| length << 8 | u64::from(*octet)),
    };
    Some(header as u64 + content)
}

/// Whether DER has the frame of a CRL (RFC 5280, section 5.1) and its length. A parse that makes a value of each entry
/// would take gigabytes for a large list; who uses one walks through its entries anyway.
pub(super) fn is_crl(der: &[u8]) -> bool {
    const INTEGER: u8 = 0x02;
    const SEQUENCE: u8 = 0x30;
    const TIME: [u8; 2] = [0x17, 0x18];
    let whole = der_length(der) == Some(der.len() as u64);
    let Some(list) = header_length(der).and_then(|header| der.get(header..)) else {
        return false;
    };
    let Some(mut rest) = header_length(list).and_then(|header| list.get(header..)) else {
        return false;
    };
    // The version, which may be missing, and then the signature algorithm, the issuer and a time.
    if let [INTEGER, 1, _, behind @ ..] = rest {
        rest = behind;
    }
    for _ in 0..2 {
        let length = der_length(rest).and_then(|length| usize::try_from(length).ok());
        match length.and_then(|length| rest.get(length..)) {
            Some(behind) if rest.first() == Some(&SEQUENCE) => rest = behind,
            _ => return false,
        }
    }
    whole && rest.first().is_some_and(|tag| TIME.contains(tag))
}

/// `EncryptedPrivateKeyInfo` (RFC 5958 section 3) is an AlgorithmIdentifier and an OCTET STRING, nothing else; a certificate also
/// begins with a SEQUENCE, but no OCTET STRING follows that.
pub(super) fn is_encrypted(bytes: &[u8]) -> bool {
    const SEQUENCE: u8 = 0x30;
    const OCTET_STRING: u8 = 0x04;
    let Some(inner) = header_length(bytes).and_then(|header| bytes.get(header..)) else {
        return false;
    };
    let after = der_length(inner)
        .and_then(|length| usize::try_from(length).ok())
        .and_then(|length| inner.get(length));
    inner.first() == Some(&SEQUENCE) && after == Some(&OCTET_STRING)
}
