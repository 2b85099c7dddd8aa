//! A walk through BER and DER values (X.690, section 8): tags and lengths, no meaning.
//!
//! PKCS#7 and PKCS#12 files are BER: several programs write them with indefinite lengths and with octet strings in pieces.
//! Every step is bounded by the bytes that are there; nesting by [`MAX_DER_DEPTH`].

use std::borrow::Cow;

use crate::limits::MAX_DER_DEPTH;

pub(super) const BOOLEAN: u8 = 0x01;
pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const OBJECT_IDENTIFIER: u8 = 0x06;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;
/// `[0]`, with other values inside.
pub(super) const CONTEXT_0: u8 = 0xa0;
/// `[3]`, with other values inside.
pub(super) const CONTEXT_3: u8 = 0xa3;

const CONSTRUCTED: u8 = 0x20;
const END_OF_CONTENTS: &[u8] = &[0, 0];

/// One value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Element<'a> {
    /// Its identifier octet.
    pub(super) tag: u8,
    /// What is in it, without its header and without an end-of-contents.
    pub(super) content: &'a [u8],
    /// All of it.
    pub(super) whole: &'a [u8],
}

impl<'a> Element<'a> {
    /// The values inside.
    pub(super) fn inside(&self) -> Reader<'a> {
        Reader(self.content)
    }

    /// The octets of an octet string, which may be in pieces (X.690, section 8.7). An implicit tag is one too.
    pub(super) fn octets(&self) -> Option<Cow<'a, [u8]>> {
        self.octets_at(0)
    }

    fn octets_at(&self, depth: usize) -> Option<Cow<'a, [u8]>> {
        if self.tag & CONSTRUCTED == 0 {
            return Some(Cow::Borrowed(self.content));
        }
        if depth == MAX_DER_DEPTH {
            return None;
        }
        let mut all = Vec::new();
        let mut pieces = self.inside();
        while !pieces.is_empty() {
            let piece = pieces.any()?;
            if piece.tag & !CONSTRUCTED != OCTET_STRING {
                return None;
            }
            all.extend_from_slice(&piece.octets_at(depth + 1)?);
        }
        Some(Cow::Owned(all))
    }

    /// A number that is not negative and fits.
    pub(super) fn number(&self) -> Option<u64> {
        let first = *self.content.first()?;
        if first & 0x80 != 0 {
            return None;
        }
        let significant = &self.content[usize::from(first == 0)..];
        (significant.len() <= 8).then(|| {
            let octets = significant.iter();
            octets.fold(0, |number, octet| number << 8 | u64::from(*octet))
        })
    }
}

/// The values that follow each other in some bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next value; `None` where there is none, or one that is cut off or of a form that no format here uses.
    pub(super) fn any(&mut self) -> Option<Element<'a>> {
        let element = element(self.0, 0)?;
        self.0 = &self.0[element.whole.len()..];
        Some(element)
    }

    /// The next value, if it has this tag. Another one stays.
    pub(super) fn take(&mut self, tag: u8) -> Option<Element<'a>> {
        let mut ahead = *self;
        let element = ahead.any().filter(|element| element.tag == tag)?;
        *self = ahead;
        Some(element)
    }

    /// The next value, if it is an octet string, whole or in pieces.
    pub(super) fn octets(&mut self) -> Option<Cow<'a, [u8]>> {
        let mut ahead = *self;
        let element = ahead
            .any()
            .filter(|element| element.tag & !CONSTRUCTED == OCTET_STRING)?;
        *self = ahead;
        element.octets()
    }
}

/// The value at the start of `bytes`.
fn element(bytes: &[u8], depth: usize) -> Option<Element<'_>> {
    let [tag, form, rest @ ..] = bytes else {
        return None;
    };
    // Tags of more than one octet are used by none of these formats.
    if tag & 0x1f == 0x1f || depth > MAX_DER_DEPTH {
        return None;
    }
    let (length, rest) = match form {
        0x80 if tag & CONSTRUCTED != 0 => return indefinite(*tag, bytes, depth),
        0x81..=0x84 => {
            let (octets, rest) = rest.split_at_checked(usize::from(form & 0x7f))?;
            let length = octets
                .iter()
                .fold(0_u64, |length, octet| length << 8 | u64::from(*octet));
            (usize::try_from(length).ok()?, rest)
        }
        0x00..0x80 => (usize::from(*form), rest),
        _ => return None,
    };
    let content = rest.get(..length)?;
    let header = bytes.len() - rest.len();
    Some(Element {
        tag: *tag,
        content,
        whole: &bytes[..header + length],
    })
}

/// A value whose end is marked by two zero octets (X.690, section 8.1.3.6).
fn indefinite(tag: u8, bytes: &[u8], depth: usize) -> Option<Element<'_>> {
    const HEADER: usize = 2;
    let mut end = HEADER;
    while !bytes.get(end..)?.starts_with(END_OF_CONTENTS) {
        end += element(&bytes[end..], depth + 1)?.whole.len();
    }
    Some(Element {
        tag,
        content: &bytes[HEADER..end],
        whole: &bytes[..end + END_OF_CONTENTS.len()],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indefinite_lengths_and_pieces_are_one_value() {
        // SEQUENCE (indefinite) { OCTET STRING in pieces (indefinite) { 01 02, 03 }, INTEGER 256 }
        let bytes = [
            0x30, 0x80, 0x24, 0x80, 4, 2, 1, 2, 4, 1, 3, 0, 0, 2, 2, 1, 0, 0, 0, 0xff,
        ];
        let mut reader = Reader(&bytes);
        let sequence = reader.take(SEQUENCE).unwrap();
        assert_eq!(reader.0, [0xff]);
        let mut inside = sequence.inside();
        assert!(inside.take(INTEGER).is_none(), "another tag stays");
        assert_eq!(&*inside.octets().unwrap(), [1, 2, 3]);
        assert_eq!(inside.take(INTEGER).unwrap().number(), Some(256));
        assert!(inside.is_empty());
        for length in 0..bytes.len() - 1 {
            assert!(Reader(&bytes[..length]).any().is_none(), "{length}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = [0x30, 0x80].repeat(100_000);
        assert!(Reader(&deep).any().is_none());
    }

    #[test]
    fn numbers_that_are_negative_or_do_not_fit_are_none() {
        let number = |content: &[u8]| {
            let mut bytes = vec![INTEGER, content.len() as u8];
            bytes.extend_from_slice(content);
            Reader(&bytes).any().unwrap().number()
        };
        assert_eq!(number(&[0x3b, 0x9a, 0xca, 0x00]), Some(1_000_000_000));
        assert_eq!(number(&[0, 0xff]), Some(255));
        assert_eq!(number(&[0xff]), None);
        assert_eq!(number(&[]), None);
        assert_eq!(number(&[1; 9]), None);
    }
}
