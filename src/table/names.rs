//! Names of authorities, compared as RFC 5280, section 7.1, says: an authority whose software was
//! changed may write the same name in another string type, case or spacing, and it is one authority
//! still.
//!
//! Two names that count as one here are looked up together; what proves something is a key, never a
//! name. So a comparison that is too generous revokes more, and one that is too strict denies:
//! neither lets anybody in.

use icu_normalizer::ComposingNormalizerBorrowed;

use crate::asn1::tag::{SEQUENCE, SET};
use crate::asn1::{Element, Reader};

/// Attributes of one relative name that are compared in any order. Names of authorities have one,
/// rarely two.
const ATTRIBUTES_MAX: usize = 8;

/// Returns whether two `Name`s in DER are one (RFC 5280, section 7.1): the same attributes in the
/// same order, with values that are equal after RFC 4518's preparation (string type, case,
/// insignificant spaces). Names of the same octets are one, whatever they hold. Allocates nothing
/// unless a value needs a long decomposition.
#[must_use]
pub fn same_name(one: &[u8], other: &[u8]) -> bool {
    one == other || same_sequence(one, other).unwrap_or(false)
}

fn same_sequence(one: &[u8], other: &[u8]) -> Option<bool> {
    let (mut one, mut other) = (whole(one)?, whole(other)?);
    while !one.is_empty() && !other.is_empty() {
        if !same_relative(one.enter(SET)?, other.enter(SET)?)? {
            return Some(false);
        }
    }
    Some(one.is_empty() && other.is_empty())
}

/// The relative names of the one name that there is.
fn whole(name: &[u8]) -> Option<Reader<'_>> {
    let mut all = Reader::der(name);
    let inside = all.enter(SEQUENCE)?;
    all.is_empty().then_some(inside)
}

/// Relative names, which are sets: another string type changes the order of their attributes in
/// DER.
fn same_relative<'a>(one: Reader<'a>, other: Reader<'a>) -> Option<bool> {
    Some(is_within(one, other)? && is_within(other, one)?)
}

fn is_within<'a>(mut set: Reader<'a>, other: Reader<'a>) -> Option<bool> {
    for _ in 0..ATTRIBUTES_MAX {
        if set.is_empty() {
            return Some(true);
        }
        if !contains(other, &set.any()?)? {
            return Some(false);
        }
    }
    Some(set.is_empty())
}

fn contains<'a>(mut set: Reader<'a>, attribute: &Element<'a>) -> Option<bool> {
    while !set.is_empty() {
        if same_attribute(set.any()?.inside(), attribute.inside())? {
            return Some(true);
        }
    }
    Some(false)
}

/// `AttributeTypeAndValue`s: the type to the octet, the value as text where both are.
fn same_attribute<'a>(mut one: Reader<'a>, mut other: Reader<'a>) -> Option<bool> {
    let is_same = |one: &Element<'_>, other: &Element<'_>| {
        (one.tag, one.content) == (other.tag, other.content)
    };
    if !is_same(&one.any()?, &other.any()?) {
        return Some(false);
    }
    let (one, other) = (one.any()?, other.any()?);
    let text = |value: &Element<'a>| Text::of(value.tag, value.content);
    Some(match (text(&one), text(&other)) {
        _ if is_same(&one, &other) => true,
        (Some(one), Some(other)) => prepared(one).eq(prepared(other)),
        _ => false,
    })
}

/// A directory string that is text.
#[derive(Clone, Copy)]
enum Text<'a> {
    Utf8(&'a str),
    /// ASCII, or T.61, which authorities fill with Latin-1.
    Octets(&'a [u8]),
    /// UTF-16, big-endian.
    Pairs(&'a [u8]),
    /// UTF-32, big-endian.
    Quads(&'a [u8]),
}

impl<'a> Text<'a> {
    fn of(tag: u8, octets: &'a [u8]) -> Option<Self> {
        const UTF8: u8 = 0x0c;
        const NUMERIC: u8 = 0x12;
        const PRINTABLE: u8 = 0x13;
        const TELETEX: u8 = 0x14;
        const IA5: u8 = 0x16;
        const VISIBLE: u8 = 0x1a;
        const UNIVERSAL: u8 = 0x1c;
        const BMP: u8 = 0x1e;
        let text = match tag {
            UTF8 => Self::Utf8(std::str::from_utf8(octets).ok()?),
            NUMERIC | PRINTABLE | TELETEX | IA5 | VISIBLE => Self::Octets(octets),
            BMP if octets.len().is_multiple_of(2) => Self::Pairs(octets),
            UNIVERSAL if octets.len().is_multiple_of(4) => Self::Quads(octets),
            _ => return None,
        };
        Some(text)
    }

    /// Returns what is no character counts as the one that stands for such.
    fn characters(self) -> impl Iterator<Item = char> {
        let (utf8, octets, pairs, quads) = match self {
            Self::Utf8(text) => (text, &[][..], &[][..], &[][..]),
            Self::Octets(octets) => ("", octets, &[][..], &[][..]),
            Self::Pairs(pairs) => ("", &[][..], pairs, &[][..]),
            Self::Quads(quads) => ("", &[][..], &[][..], quads),
        };
        let unit = |pair: &[u8]| u16::from(pair[0]) << 8 | u16::from(pair[1]);
        let pairs = char::decode_utf16(pairs.chunks_exact(2).map(unit))
            .map(|character| character.unwrap_or(char::REPLACEMENT_CHARACTER));
        let quads = quads.chunks_exact(4).map(|quad| {
            let value = quad
                .iter()
                .fold(0, |all, octet| all << 8 | u32::from(*octet));
            char::from_u32(value).unwrap_or(char::REPLACEMENT_CHARACTER)
        });
        utf8.chars()
            .chain(octets.iter().map(|octet| char::from(*octet)))
            .chain(pairs)
            .chain(quads)
    }
}

/// RFC 4518, section 2: mapped, case-folded, normalized (NFKC), insignificant spaces left out.
fn prepared(text: Text<'_>) -> impl Iterator<Item = char> {
    let folded = text
        .characters()
        .filter_map(mapped)
        // Upper case first: it is what takes apart the letters that have two forms below, as the sharp s.
        .flat_map(char::to_uppercase)
        .flat_map(char::to_lowercase);
    let mut normal = ComposingNormalizerBorrowed::new_nfkc()
        .normalize_iter(folded)
        .peekable();
    let mut begun = false;
    std::iter::from_fn(move || {
        let mut space = false;
        while normal.next_if_eq(&' ').is_some() {
            space = true;
        }
        if space && begun && normal.peek().is_some() {
            return Some(' ');
        }
        begun = true;
        normal.next()
    })
}

/// Section 2.2 without the case: what is not seen is nothing, what separates is a space.
fn mapped(character: char) -> Option<char> {
    match character {
        '\t' | '\n' | '\u{0b}' | '\u{0c}' | '\r' | '\u{85}' => Some(' '),
        '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2063}' => {
            None
        }
        '\u{180b}'..='\u{180e}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fffc}' => None,
        _ if character.is_whitespace() => Some(' '),
        _ if character.is_control() => None,
        _ => Some(character),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn der(tag: u8, contents: &[u8]) -> Vec<u8> {
        let mut bytes = vec![tag];
        match contents.len() {
            short @ 0..0x80 => bytes.push(short as u8),
            long => bytes.extend([0x82, (long >> 8) as u8, long as u8]),
        }
        bytes.extend_from_slice(contents);
        bytes
    }

    fn attribute(kind: u8, tag: u8, value: &[u8]) -> Vec<u8> {
        let content = [der(6, &[0x55, 4, kind]), der(tag, value)].concat();
        der(SEQUENCE, &content)
    }

    fn name(tag: u8, value: &[u8]) -> Vec<u8> {
        der(SEQUENCE, &der(SET, &attribute(3, tag, value)))
    }

    #[test]
    fn string_type_case_and_spaces_do_not_matter() {
        let plain = name(0x13, b"Fleet CA");
        let pairs: Vec<u8> = "fleet ca"
            .encode_utf16()
            .flat_map(u16::to_be_bytes)
            .collect();
        let quads: Vec<u8> = "Fleet CA"
            .chars()
            .flat_map(|c| u32::from(c).to_be_bytes())
            .collect();
        for same in [
            name(0x0c, b"Fleet CA"),
            name(0x13, b"FLEET ca"),
            name(0x0c, b"  Fleet \t CA "),
            name(0x14, b"Fleet CA"),
            name(0x16, b"Fleet CA"),
            name(0x1e, &pairs),
            name(0x1c, &quads),
            name(0x0c, "Fleet\u{a0}C\u{ad}A".as_bytes()),
            name(0x0c, "Ｆleet CA".as_bytes()),
        ] {
            assert!(
                same_name(&plain, &same) && same_name(&same, &plain),
                "{same:x?}"
            );
        }
        for other in [
            name(0x0c, b"FleetCA"),
            name(0x0c, b"Fleet CA 2"),
            name(0x0c, b"Fleet C"),
            name(0x04, b"Fleet CA"),
            name(0x0c, b"Fleet CA\xff"),
            der(SEQUENCE, &der(SET, &attribute(10, 0x13, b"Fleet CA"))),
            der(SEQUENCE, &[]),
            [name(0x13, b"Fleet CA"), vec![0]].concat(),
        ] {
            assert!(
                !same_name(&plain, &other) && !same_name(&other, &plain),
                "{other:x?}"
            );
        }
        assert!(same_name(
            &name(0x14, b"M\xfcller"),
            &name(0x0c, "MÜLLER".as_bytes())
        ));
        assert!(same_name(
            &name(0x0c, "Mu\u{308}ller".as_bytes()),
            &name(0x0c, "Müller".as_bytes())
        ));
        assert!(same_name(
            &name(0x0c, "Straße".as_bytes()),
            &name(0x13, b"STRASSE")
        ));
        assert!(same_name(b"no name at all", b"no name at all"));
    }

    #[test]
    fn the_order_of_relative_names_matters_and_that_inside_of_one_does_not() {
        let (cn, ou) = (attribute(3, 0x13, b"a"), attribute(11, 0x0c, b"b"));
        let set = |parts: &[&[u8]]| der(SET, &parts.concat());
        let one = der(SEQUENCE, &set(&[&cn, &ou]));
        assert!(same_name(&one, &der(SEQUENCE, &set(&[&ou, &cn]))));
        let two =
            |first: &[u8], second: &[u8]| der(SEQUENCE, &[set(&[first]), set(&[second])].concat());
        assert!(!same_name(&two(&cn, &ou), &two(&ou, &cn)));
        assert!(!same_name(&one, &two(&cn, &ou)));
        assert!(!same_name(&one, &der(SEQUENCE, &set(&[&cn]))));
        let twice = der(SEQUENCE, &set(&[&cn, &cn]));
        assert!(!same_name(&one, &twice) && !same_name(&twice, &one));
        let many = vec![&cn[..]; ATTRIBUTES_MAX + 1];
        let (one, other) = (set(&many), set(&[&many[..], &[&ou[..]]].concat()));
        assert!(!same_name(&der(SEQUENCE, &one), &der(SEQUENCE, &other)));
    }

    proptest! {
        /// Cut and changed names end in an answer, which is the same both ways.
        #[test]
        fn any_octets_have_an_answer(at in 0usize..40, octet: u8, cut in 0usize..40) {
            let whole = name(0x0c, b"a name of an authority");
            let mut changed = whole.clone();
            let length = changed.len();
            changed[at % length] = octet;
            changed.truncate(length - cut % length);
            prop_assert_eq!(same_name(&whole, &changed), same_name(&changed, &whole));
        }
    }
}
