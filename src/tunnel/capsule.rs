//! Capsules (RFC 9297, section 3) with the datagrams of CONNECT-UDP (RFC 9298, section 5) in them.
//!
//! Bytes go in as they come, at any split; datagrams come out. Capsules of an unknown kind, and
//! datagrams of an unknown context, are skipped, as both documents ask for. Memory is bounded by
//! [`UDP_DATAGRAM_MAX`], whatever lengths a client writes: what is longer is skipped too.

use crate::limits::UDP_DATAGRAM_MAX;

/// Most bytes in front of a datagram in its capsule: kind, length and context.
pub const CAPSULE_HEADER_MAX: usize = 6;

/// The capsule that holds a datagram (RFC 9297, section 3.5).
const DATAGRAM: u64 = 0;
/// The context of UDP payload (RFC 9298, section 4).
const UDP_CONTEXT: u64 = 0;
/// Longest UDP payload (RFC 9298, section 5). A longer one ends the stream.
const UDP_PAYLOAD_MAX: u64 = 65_527;
/// Longest context identifier.
const CONTEXT_MAX: u64 = 8;

/// Why a stream of capsules cannot be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CapsuleFault {
    /// A datagram without a context identifier.
    #[error("a datagram without a context")]
    NoContext,
    /// More than a UDP datagram can hold.
    #[error("a datagram longer than {UDP_PAYLOAD_MAX} bytes")]
    TooLong,
}

/// An event of a capsule stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// The payload of a UDP datagram.
    Datagram(&'a [u8]),
    /// A datagram that is longer than this gateway passes on, or of an unknown context.
    Dropped,
}

/// Reads a stream of capsules.
#[derive(Debug, Default)]
pub struct CapsuleReader {
    /// Part that is being read.
    part: Part,
    /// A variable-length integer that is not whole yet.
    number: [u8; 8],
    /// Bytes of it that are there.
    digits: usize,
    /// A datagram that was not whole in the bytes of one call, its context included.
    datagram: Vec<u8>,
    /// It has been given out, and is done with.
    given: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Part {
    #[default]
    Kind,
    Length {
        kind: u64,
    },
    Datagram {
        left: usize,
    },
    /// `dropped`: it is a datagram.
    Skip {
        left: u64,
        dropped: bool,
    },
}

impl CapsuleReader {
    /// Takes bytes from the front of `bytes` until something has come out, or all are taken.
    ///
    /// # Errors
    /// [`CapsuleFault`]; nothing more can be read then.
    pub fn next<'s, 'b: 's>(
        &'s mut self,
        bytes: &mut &'b [u8],
    ) -> Result<Option<Event<'s>>, CapsuleFault> {
        if std::mem::take(&mut self.given) {
            self.datagram.clear();
        }
        loop {
            match self.part {
                Part::Kind => match self.number(bytes) {
                    Some(kind) => self.part = Part::Length { kind },
                    None => return Ok(None),
                },
                Part::Length { kind } => match self.number(bytes) {
                    Some(length) => self.part = part_of(kind, length)?,
                    None => return Ok(None),
                },
                Part::Datagram { left } => {
                    let (taken, rest) = bytes.split_at(left.min(bytes.len()));
                    *bytes = rest;
                    if taken.len() == left && self.datagram.is_empty() {
                        self.part = Part::Kind;
                        return payload(taken).map(Some);
                    }
                    self.datagram.extend_from_slice(taken);
                    if taken.len() < left {
                        let left = left - taken.len();
                        self.part = Part::Datagram { left };
                        return Ok(None);
                    }
                    self.part = Part::Kind;
                    self.given = true;
                    return payload(&self.datagram).map(Some);
                }
                Part::Skip { left, dropped } => {
                    let count = left.min(bytes.len() as u64);
                    *bytes = &bytes[count as usize..];
                    if count < left {
                        let left = left - count;
                        self.part = Part::Skip { left, dropped };
                        return Ok(None);
                    }
                    self.part = Part::Kind;
                    if dropped {
                        return Ok(Some(Event::Dropped));
                    }
                }
            }
        }
    }

    /// The next variable-length integer (RFC 9000, section 16), if it is whole.
    fn number(&mut self, bytes: &mut &[u8]) -> Option<u64> {
        loop {
            let whole = &self.number[..self.digits];
            if let Some((number, rest)) = varint(whole) {
                debug_assert!(rest.is_empty(), "one byte more at a time");
                self.digits = 0;
                return Some(number);
            }
            let (first, rest) = bytes.split_first()?;
            self.number[self.digits] = *first;
            self.digits += 1;
            *bytes = rest;
        }
    }
}

/// Returns what follows the head of a capsule.
fn part_of(kind: u64, length: u64) -> Result<Part, CapsuleFault> {
    if kind != DATAGRAM {
        let dropped = false;
        return Ok(Part::Skip {
            left: length,
            dropped,
        });
    }
    match length {
        0 => Err(CapsuleFault::NoContext),
        length if length > UDP_PAYLOAD_MAX + CONTEXT_MAX => Err(CapsuleFault::TooLong),
        length if length > UDP_DATAGRAM_MAX as u64 + CONTEXT_MAX => Ok(Part::Skip {
            left: length,
            dropped: true,
        }),
        length => Ok(Part::Datagram {
            left: length as usize,
        }),
    }
}

/// The UDP payload of a datagram with its context.
fn payload(content: &[u8]) -> Result<Event<'_>, CapsuleFault> {
    let (context, payload) = varint(content).ok_or(CapsuleFault::NoContext)?;
    if context == UDP_CONTEXT && payload.len() <= UDP_DATAGRAM_MAX {
        Ok(Event::Datagram(payload))
    } else {
        Ok(Event::Dropped)
    }
}

/// A variable-length integer and what follows it, if it is whole (RFC 9000, section 16).
fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let length = 1 << (bytes.first()? >> 6);
    let (number, rest) = bytes.split_at_checked(length)?;
    let number = number
        .iter()
        .fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    Some((number & (u64::MAX >> (66 - 8 * length)), rest))
}

/// Returns what comes before a datagram of `length` bytes in its capsule, in the shortest form, and
/// how long that is.
///
/// # Panics
/// If `length` is above [`UDP_DATAGRAM_MAX`].
#[must_use]
pub fn datagram_header(length: usize) -> ([u8; CAPSULE_HEADER_MAX], usize) {
    assert!(length <= UDP_DATAGRAM_MAX, "longer than what is received");
    let mut header = [0; CAPSULE_HEADER_MAX];
    let content = length + 1;
    let digits = match content {
        0..0x40 => 1,
        0x40..0x4000 => 2,
        _ => 4,
    };
    let marked = content as u32 | [0, 0, 0x4000, 0, 0x8000_0000][digits];
    header[1..=digits].copy_from_slice(&marked.to_be_bytes()[4 - digits..]);
    (header, 1 + digits + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn capsule(kind: u64, content: &[u8]) -> Vec<u8> {
        let number = |n: u64| (n | 0xc000_0000_0000_0000).to_be_bytes();
        [&number(kind)[..], &number(content.len() as u64), content].concat()
    }

    fn datagram(payload: &[u8]) -> Vec<u8> {
        let (header, length) = datagram_header(payload.len());
        [&header[..length], payload].concat()
    }

    /// Reads `bytes` in pieces of these lengths; `None` for a dropped one.
    fn read(
        bytes: &[u8],
        mut size: impl FnMut() -> usize,
    ) -> Result<Vec<Option<Vec<u8>>>, CapsuleFault> {
        let mut reader = CapsuleReader::default();
        let (mut out, mut rest) = (Vec::new(), bytes);
        while !rest.is_empty() {
            let (mut piece, after) = rest.split_at(size().clamp(1, rest.len()));
            rest = after;
            while let Some(event) = reader.next(&mut piece)? {
                out.push(match event {
                    Event::Datagram(payload) => Some(payload.to_vec()),
                    Event::Dropped => None,
                });
            }
            assert!(piece.is_empty());
            assert!(reader.datagram.len() <= UDP_DATAGRAM_MAX + 8);
        }
        Ok(out)
    }

    fn whole(bytes: &[u8]) -> Result<Vec<Option<Vec<u8>>>, CapsuleFault> {
        read(bytes, || usize::MAX)
    }

    #[test]
    fn the_documents_examples() {
        // RFC 9000, section A.1.
        for (bytes, number) in [
            (
                &[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c][..],
                151_288_809_941_952_652,
            ),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x25], 37),
            (&[0x40, 0x25], 37),
        ] {
            assert_eq!(varint(bytes), Some((number, &[][..])));
            assert_eq!(varint(&bytes[..bytes.len() - 1]), None);
        }
        assert_eq!(datagram(b"hi"), [0, 3, 0, b'h', b'i']);
        assert_eq!(datagram(&[7; 62])[..3], [0, 63, 0]);
        assert_eq!(datagram(&[7; 63])[..4], [0, 0x40, 64, 0]);
        assert_eq!(datagram(&[7; 16_383])[..6], [0, 0x80, 0, 0x40, 0, 0]);
    }

    #[test]
    fn what_is_unknown_is_skipped() {
        let bytes = [
            capsule(0x1234, b"whatever"),
            datagram(b"one"),
            capsule(DATAGRAM, &[0x40, 2, 9]),
            capsule(DATAGRAM, &[0]),
            capsule(7, b""),
            datagram(&vec![1; UDP_DATAGRAM_MAX]),
            capsule(DATAGRAM, &vec![0; UDP_DATAGRAM_MAX + 2]),
            capsule(DATAGRAM, &vec![0; 60_000]),
            datagram(b"end"),
        ]
        .concat();
        let long = vec![1; UDP_DATAGRAM_MAX];
        let expected = [
            Some(&b"one"[..]),
            None,
            Some(b""),
            Some(&long),
            None,
            None,
            Some(b"end"),
        ];
        let found = whole(&bytes).unwrap();
        let found: Vec<Option<&[u8]>> = found.iter().map(Option::as_deref).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn what_ends_a_stream() {
        assert_eq!(whole(&capsule(DATAGRAM, b"")), Err(CapsuleFault::NoContext));
        assert_eq!(
            whole(&capsule(DATAGRAM, &[0x40])),
            Err(CapsuleFault::NoContext)
        );
        assert_eq!(
            whole(&capsule(DATAGRAM, &vec![0; 65_536])),
            Err(CapsuleFault::TooLong)
        );
        // An unknown capsule may claim any length: it costs nothing to skip it.
        assert_eq!(
            whole(&[9, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2]),
            Ok(vec![])
        );
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same(
            bytes in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..300),
                proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..100), 0..8)
                    .prop_map(|list| list.iter().flat_map(|payload| datagram(payload)).collect()),
            ],
            sizes in proptest::collection::vec(1usize..40, 1..30),
        ) {
            let mut sizes = sizes.into_iter().cycle();
            prop_assert_eq!(read(&bytes, || sizes.next().unwrap()), whole(&bytes));
        }

        #[test]
        fn what_is_written_is_read(payload in proptest::collection::vec(any::<u8>(), 0..UDP_DATAGRAM_MAX)) {
            prop_assert_eq!(whole(&datagram(&payload)), Ok(vec![Some(payload)]));
        }
    }
}
