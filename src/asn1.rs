//! BER and DER (X.690): tags and lengths, no meaning.
//!
//! One reader for all that reads ASN.1 without a library: certificates in a handshake, names,
//! revocation lists, PKCS#7 and PKCS#12. It allocates nothing and copies nothing, but for an octet
//! string that is in pieces. Every step is bounded by the octets that are there, nesting by
//! [`MAX_DER_DEPTH`].
//!
//! DER has one form of each value, of which this asks for definite lengths alone: that lengths and
//! values are the shortest is the business of the strict parsers that see the same octets. BER has
//! indefinite lengths and octet strings in pieces too, which several programs write.

use std::borrow::Cow;

use crate::limits::MAX_DER_DEPTH;

/// Identifier octets.
pub mod tag {
    /// `BOOLEAN`
    pub const BOOLEAN: u8 = 0x01;
    /// `INTEGER`
    pub const INTEGER: u8 = 0x02;
    /// `BIT STRING`
    pub const BIT_STRING: u8 = 0x03;
    /// `OCTET STRING`
    pub const OCTET_STRING: u8 = 0x04;
    /// `OBJECT IDENTIFIER`
    pub const OBJECT_IDENTIFIER: u8 = 0x06;
    /// `ENUMERATED`
    pub const ENUMERATED: u8 = 0x0a;
    /// `UTF8String`
    pub const UTF8_STRING: u8 = 0x0c;
    /// `UTCTime`
    pub const UTC_TIME: u8 = 0x17;
    /// `GeneralizedTime`
    pub const GENERALIZED_TIME: u8 = 0x18;
    /// `SEQUENCE`
    pub const SEQUENCE: u8 = 0x30;
    /// `SET`
    pub const SET: u8 = 0x31;
    /// `[0]`, with other values inside.
    pub const CONTEXT_0: u8 = 0xa0;
    /// `[3]`, with other values inside.
    pub const CONTEXT_3: u8 = 0xa3;
}

const CONSTRUCTED: u8 = 0x20;
const END_OF_CONTENTS: &[u8] = &[0, 0];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rules {
    Der,
    Ber,
}

/// One value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Element<'a> {
    /// Its identifier octet.
    pub tag: u8,
    /// Its content, without its header and without an end-of-contents.
    pub content: &'a [u8],
    /// All of it.
    pub whole: &'a [u8],
    rules: Rules,
}

impl<'a> Element<'a> {
    /// The values inside.
    #[must_use]
    pub fn inside(&self) -> Reader<'a> {
        Reader {
            rest: self.content,
            rules: self.rules,
        }
    }

    /// The octets of an octet string, which in BER may be in pieces (X.690, section 8.7). An
    /// implicit tag is one too.
    #[must_use]
    pub fn octets(&self) -> Option<Cow<'a, [u8]>> {
        self.octets_at(0)
    }

    fn octets_at(&self, depth: usize) -> Option<Cow<'a, [u8]>> {
        if self.tag & CONSTRUCTED == 0 {
            return Some(Cow::Borrowed(self.content));
        }
        if depth == MAX_DER_DEPTH || self.rules == Rules::Der {
            return None;
        }
        let mut all = Vec::new();
        let mut pieces = self.inside();
        while !pieces.is_empty() {
            let piece = pieces.any()?;
            if piece.tag & !CONSTRUCTED != tag::OCTET_STRING {
                return None;
            }
            all.extend_from_slice(&piece.octets_at(depth + 1)?);
        }
        Some(Cow::Owned(all))
    }

    /// A number that is not negative and fits.
    #[must_use]
    pub fn number(&self) -> Option<u64> {
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

/// The values that follow each other in some octets. `None` from any of its functions is a value
/// that is missing, cut off or of a form that no format here uses.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
    rules: Rules,
}

impl<'a> Reader<'a> {
    /// A reader of DER.
    #[must_use]
    pub fn der(octets: &'a [u8]) -> Self {
        Self {
            rest: octets,
            rules: Rules::Der,
        }
    }

    /// A reader of BER, and so of DER.
    #[must_use]
    pub fn ber(octets: &'a [u8]) -> Self {
        Self {
            rest: octets,
            rules: Rules::Ber,
        }
    }

    /// Returns whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Returns what is left.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The tag of the next value.
    #[must_use]
    pub fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// The next value.
    pub fn any(&mut self) -> Option<Element<'a>> {
        let element = element(self.rest, self.rules, 0)?;
        self.rest = &self.rest[element.whole.len()..];
        Some(element)
    }

    /// The next value, if it has this tag. Another one stays.
    pub fn take(&mut self, tag: u8) -> Option<Element<'a>> {
        match self.peek() == Some(tag) {
            true => self.any(),
            false => None,
        }
    }

    /// The values inside the next one, if that has this tag. Another one stays.
    pub fn enter(&mut self, tag: u8) -> Option<Self> {
        self.take(tag).map(|element| element.inside())
    }

    /// The next value, if it is an octet string, whole or, in BER, in pieces.
    pub fn octets(&mut self) -> Option<Cow<'a, [u8]>> {
        match self.peek()? & !CONSTRUCTED == tag::OCTET_STRING {
            true => self.any()?.octets(),
            false => None,
        }
    }

    /// Returns what follows the header of the next value, if it has this tag; its end may be
    /// missing.
    #[must_use]
    pub fn open(&self, tag: u8) -> Option<Self> {
        let header = header(self.rest, self.rules)?;
        (self.peek() == Some(tag)).then(|| Self {
            rest: &self.rest[header.octets..],
            rules: self.rules,
        })
    }

    /// How many octets the next value has, header included, whether or not they are all there;
    /// `None` also where its length is indefinite.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        let header = header(self.rest, self.rules)?;
        Some(header.octets as u64 + header.content?)
    }
}

/// The identifier and length of a value.
struct Header {
    /// How many octets it has.
    octets: usize,
    /// How many follow; `None` where the length is indefinite.
    content: Option<u64>,
}

/// The header at the start of `octets`.
fn header(octets: &[u8], rules: Rules) -> Option<Header> {
    let [tag, form, rest @ ..] = octets else {
        return None;
    };
    // Tags of more than one octet are used by none of these formats.
    if tag & 0x1f == 0x1f {
        return None;
    }
    match form {
        0x00..0x80 => Some(Header {
            octets: 2,
            content: Some(u64::from(*form)),
        }),
        0x80 if tag & CONSTRUCTED != 0 && rules == Rules::Ber => Some(Header {
            octets: 2,
            content: None,
        }),
        // Up to four octets of length: more than any file that is read here.
        0x81..=0x84 => {
            let length = rest.get(..usize::from(form & 0x7f))?;
            let content = length.iter();
            let content = content.fold(0, |all, octet| all << 8 | u64::from(*octet));
            Some(Header {
                octets: 2 + length.len(),
                content: Some(content),
            })
        }
        _ => None,
    }
}

/// The value at the start of `octets`.
fn element(octets: &[u8], rules: Rules, depth: usize) -> Option<Element<'_>> {
    if depth > MAX_DER_DEPTH {
        return None;
    }
    let header = header(octets, rules)?;
    let start = header.octets;
    let (content_end, end) = match header.content {
        Some(length) => {
            let end = start.checked_add(usize::try_from(length).ok()?)?;
            (end, end)
        }
        None => {
            let end = end_of_contents(octets, start, rules, depth)?;
            (end, end + END_OF_CONTENTS.len())
        }
    };
    Some(Element {
        tag: octets[0],
        content: octets.get(start..content_end)?,
        whole: octets.get(..end)?,
        rules,
    })
}

/// Returns where two zero octets end a value of indefinite length (X.690, section 8.1.3.6) whose
/// content begins at `start`.
fn end_of_contents(octets: &[u8], start: usize, rules: Rules, depth: usize) -> Option<usize> {
    let mut end = start;
    while !octets.get(end..)?.starts_with(END_OF_CONTENTS) {
        end += element(&octets[end..], rules, depth + 1)?.whole.len();
    }
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tag::{INTEGER, OCTET_STRING, SEQUENCE};

    #[test]
    fn indefinite_lengths_and_pieces_are_one_value_in_ber() {
        // SEQUENCE (indefinite) { OCTET STRING in pieces (indefinite) { 01 02, 03 }, INTEGER 256 }
        let octets = [
            0x30, 0x80, 0x24, 0x80, 4, 2, 1, 2, 4, 1, 3, 0, 0, 2, 2, 1, 0, 0, 0, 0xff,
        ];
        let mut reader = Reader::ber(&octets);
        let sequence = reader.take(SEQUENCE).unwrap();
        assert_eq!(reader.rest(), [0xff]);
        let mut inside = sequence.inside();
        assert!(inside.take(INTEGER).is_none(), "another tag stays");
        assert_eq!(&*inside.octets().unwrap(), [1, 2, 3]);
        assert_eq!(inside.take(INTEGER).unwrap().number(), Some(256));
        assert!(inside.is_empty());
        for length in 0..octets.len() - 1 {
            assert!(Reader::ber(&octets[..length]).any().is_none(), "{length}");
        }
        assert!(Reader::der(&octets).any().is_none());
        // In pieces of definite length: one value in DER too, whose octets it does not give.
        let pieces = [0x24, 3, 4, 1, 7];
        assert_eq!(&*Reader::ber(&pieces).octets().unwrap(), [7]);
        assert!(Reader::der(&pieces).any().is_some());
        assert!(Reader::der(&pieces).octets().is_none());
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = [0x30, 0x80].repeat(100_000);
        assert!(Reader::ber(&deep).any().is_none());
    }

    #[test]
    fn numbers_that_are_negative_or_do_not_fit_are_none() {
        let number = |content: &[u8]| {
            let mut octets = vec![INTEGER, content.len() as u8];
            octets.extend_from_slice(content);
            Reader::der(&octets).any().unwrap().number()
        };
        assert_eq!(number(&[0x3b, 0x9a, 0xca, 0x00]), Some(1_000_000_000));
        assert_eq!(number(&[0, 0xff]), Some(255));
        assert_eq!(number(&[0xff]), None);
        assert_eq!(number(&[]), None);
        assert_eq!(number(&[1; 9]), None);
    }

    #[test]
    fn short_and_long_lengths_are_read() {
        let mut octets = vec![0x04, 0x81, 0x80];
        octets.extend([7; 0x80]);
        octets.extend([0x02, 0x01, 0x05]);
        let mut reader = Reader::der(&octets);
        assert_eq!(reader.length(), Some(0x83));
        assert_eq!(reader.take(OCTET_STRING).unwrap().content.len(), 0x80);
        assert_eq!(reader.take(INTEGER).unwrap().whole, [2, 1, 5]);
        assert!(reader.is_empty() && reader.any().is_none());
    }

    #[test]
    fn what_is_cut_off_or_of_another_form_is_nothing() {
        for octets in [
            &[][..],
            &[4],
            &[4, 1],
            &[4, 0x82, 1],
            &[4, 0x80, 0, 0],
            &[4, 0x85, 0, 0, 0, 0, 1, 9],
            &[4, 0x84, 255, 255, 255, 255],
            &[0x1f, 0x81, 0],
        ] {
            assert!(Reader::der(octets).any().is_none(), "{octets:?}");
            assert!(Reader::ber(octets).any().is_none(), "{octets:?}");
        }
    }

    #[test]
    fn a_header_is_read_of_what_has_no_end_yet() {
        let octets = [0x30, 0x82, 1, 0, 2, 1, 3];
        let reader = Reader::der(&octets);
        assert_eq!(reader.length(), Some(0x104));
        let mut opened = reader.open(SEQUENCE).unwrap();
        assert_eq!(opened.take(INTEGER).unwrap().number(), Some(3));
        assert!(reader.open(INTEGER).is_none());
        let indefinite = [0x30, 0x80, 2, 1, 3];
        assert!(Reader::der(&indefinite).open(SEQUENCE).is_none());
        assert!(Reader::ber(&indefinite).open(SEQUENCE).is_some());
        assert_eq!(Reader::ber(&indefinite).length(), None);
    }
}
