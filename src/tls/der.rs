//! The little DER (X.690) that is read here without a library: the libraries give a certificate's issuer without its
//! header, and no times or number of a CRL at all, and copying every certificate to get at them would cost each
//! handshake.

/// Tag octets of the types that are read.
pub(super) mod tag {
    pub const BOOLEAN: u8 = 0x01;
    pub const INTEGER: u8 = 0x02;
    pub const BIT_STRING: u8 = 0x03;
    pub const OCTET_STRING: u8 = 0x04;
    pub const OBJECT_IDENTIFIER: u8 = 0x06;
    pub const ENUMERATED: u8 = 0x0a;
    pub const UTF8_STRING: u8 = 0x0c;
    pub const UTC_TIME: u8 = 0x17;
    pub const GENERALIZED_TIME: u8 = 0x18;
    pub const SEQUENCE: u8 = 0x30;
    pub const CONTEXT_0: u8 = 0xa0;
    pub const CONTEXT_3: u8 = 0xa3;
}

/// One element: its contents, and the whole with its header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Element<'a> {
    pub contents: &'a [u8],
    pub whole: &'a [u8],
}

/// Reads elements one after the other; `None` means malformed or at the end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn is_at_end(&self) -> bool {
        self.0.is_empty()
    }

    /// The tag of the next element.
    pub fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// The next element. Lengths are definite (10.1) and below 2^32; that they are shortest is the business of the
    /// strict parsers that see the same bytes.
    pub fn next(&mut self) -> Option<Element<'a>> {
        let (_tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let (octets, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (
                    octets
                        .iter()
                        .fold(0, |length, octet| length << 8 | usize::from(*octet)),
                    rest,
                )
            }
            _ => return None,
        };
        let (contents, rest) = rest.split_at_checked(length)?;
        let whole = &self.0[..self.0.len() - rest.len()];
        self.0 = rest;
        Some(Element { contents, whole })
    }

    /// The next element, if it has this tag.
    pub fn expect(&mut self, tag: u8) -> Option<Element<'a>> {
        if self.peek() == Some(tag) {
            self.next()
        } else {
            None
        }
    }

    /// A reader of the contents of the next element, which has this tag.
    pub fn enter(&mut self, tag: u8) -> Option<Reader<'a>> {
        self.expect(tag).map(|element| Reader(element.contents))
    }
}

/// What names a certificate: its issuer's `Name` in DER, and the contents of its serial `INTEGER`.
///
/// `None` if this is no certificate; one that webpki accepted always is.
pub(super) fn issuer_and_serial(certificate: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut tbs = Reader(certificate)
        .enter(tag::SEQUENCE)?
        .enter(tag::SEQUENCE)?;
    if tbs.peek() == Some(tag::CONTEXT_0) {
        tbs.next()?;
    }
    let serial = tbs.expect(tag::INTEGER)?.contents;
    tbs.expect(tag::SEQUENCE)?;
    let issuer = tbs.expect(tag::SEQUENCE)?.whole;
    Some((issuer, serial))
}

/// Whom a certificate certifies: its subject's `Name` in DER.
pub(super) fn subject(certificate: &[u8]) -> Option<&[u8]> {
    Some(subject_and_key(certificate)?.0.whole)
}

/// The public key that a certificate certifies: the contents of its `SubjectPublicKeyInfo`, as webpki gives that of an
/// anchor.
pub(super) fn public_key(certificate: &[u8]) -> Option<&[u8]> {
    Some(subject_and_key(certificate)?.1.contents)
}

fn subject_and_key(certificate: &[u8]) -> Option<(Element<'_>, Element<'_>)> {
    let mut tbs = Reader(certificate)
        .enter(tag::SEQUENCE)?
        .enter(tag::SEQUENCE)?;
    if tbs.peek() == Some(tag::CONTEXT_0) {
        tbs.next()?;
    }
    tbs.expect(tag::INTEGER)?;
    // Algorithm, issuer, validity.
    for _ in 0..3 {
        tbs.expect(tag::SEQUENCE)?;
    }
    Some((tbs.expect(tag::SEQUENCE)?, tbs.expect(tag::SEQUENCE)?))
}

/// What is signed and how: the frame of certificates and of lists (RFC 5280, sections 4.1 and 5.1).
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
        let mut outer = Reader(der).enter(tag::SEQUENCE)?;
        Some(Signed {
            message: outer.expect(tag::SEQUENCE)?.whole,
            algorithm: outer.expect(tag::SEQUENCE)?.contents,
            signature: whole_octets(outer.expect(tag::BIT_STRING)?.contents)?,
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
    /// What the octet string holds.
    pub value: &'a [u8],
}

/// Reads the next extension of a list of them.
pub(super) fn next_extension<'a>(list: &mut Reader<'a>) -> Option<Extension<'a>> {
    let mut extension = list.enter(tag::SEQUENCE)?;
    let oid = extension.expect(tag::OBJECT_IDENTIFIER)?.contents;
    let critical = extension.peek() == Some(tag::BOOLEAN) && boolean(extension.next()?.contents)?;
    let value = extension.expect(tag::OCTET_STRING)?.contents;
    extension.is_at_end().then_some(Extension {
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

/// What an extension of a certificate holds, if it has it. A certificate that webpki accepted has it once at most.
pub(super) fn certificate_extension<'a>(certificate: &'a [u8], oid: &[u8]) -> Option<&'a [u8]> {
    let mut tbs = Reader(certificate)
        .enter(tag::SEQUENCE)?
        .enter(tag::SEQUENCE)?;
    while tbs.peek()? != tag::CONTEXT_3 {
        tbs.next()?;
    }
    let mut list = tbs.enter(tag::CONTEXT_3)?.enter(tag::SEQUENCE)?;
    loop {
        let extension = next_extension(&mut list)?;
        if extension.oid == oid {
            return Some(extension.value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_short_and_long_lengths() {
        let mut bytes = vec![0x04, 0x81, 0x80];
        bytes.extend([7; 0x80]);
        bytes.extend([0x02, 0x01, 0x05]);
        let mut reader = Reader(&bytes);
        assert_eq!(
            reader.expect(0x04).map(|element| element.contents.len()),
            Some(0x80)
        );
        assert_eq!(
            reader.expect(tag::INTEGER).map(|element| element.whole),
            Some([2, 1, 5].as_slice())
        );
        assert!(reader.is_at_end() && reader.next().is_none());
    }

    #[test]
    fn what_is_cut_off_or_indefinite_is_nothing() {
        for bytes in [
            &[][..],
            &[4],
            &[4, 1],
            &[4, 0x82, 1],
            &[4, 0x80, 0, 0],
            &[4, 0x85, 0, 0, 0, 0, 1, 9],
            &[4, 0x84, 255, 255, 255, 255],
        ] {
            assert!(Reader(bytes).next().is_none(), "{bytes:?}");
        }
        assert!(issuer_and_serial(&[0x30, 0x02, 0x30, 0x00]).is_none());
    }
}
