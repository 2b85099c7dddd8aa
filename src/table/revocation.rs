//! What is revoked: an exact answer for (issuer, serial), built off the data cores from lists that somebody else has
//! verified.
//!
//! Guarantees: no false answer in either direction; a look-up allocates nothing. It does not read CRLs, check
//! signatures or decide what a missing or stale list means: `src/tls` does the first two, the profile's policy the last.

use std::collections::{BTreeMap, HashMap};

/// What the index knows about one certificate at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// A list of the issuer that is still in force does not name the certificate.
    Good,
    /// A list of the issuer names the certificate. A list past its `nextUpdate` still revokes.
    Revoked,
    /// There is no list of this issuer.
    Unknown,
    /// The issuer's list does not name the certificate, but is out of date and so proves nothing.
    Stale {
        /// The list's `nextUpdate`, in unix seconds.
        since: u64,
    },
}

/// An exact index of revoked certificates by issuer and serial number.
#[derive(Debug, Default)]
pub struct RevocationIndex {
    issuers: HashMap<Box<[u8]>, IssuerList>,
}

#[derive(Debug)]
struct IssuerList {
    /// One table for each length of serial, shortest first: equal lengths need no offsets, so an entry costs its
    /// own bytes and nothing else.
    tables: Box<[SerialTable]>,
    /// The moment from which the list is out of date, in unix seconds.
    next_update: u64,
}

/// Serials of one length, sorted, without duplicates, end to end.
#[derive(Debug)]
struct SerialTable {
    width: usize,
    bytes: Box<[u8]>,
}

impl RevocationIndex {
    /// An index is made by a builder and never changed afterwards.
    pub fn builder() -> RevocationIndexBuilder {
        RevocationIndexBuilder::default()
    }

    /// Looks up one certificate.
    ///
    /// `issuer` is the certificate's issuer `Name` in DER, byte for byte (as webpki compares names too); `serial` the
    /// contents of its serial `INTEGER`, with or without redundant leading octets; `now` is in unix seconds.
    pub fn status(&self, issuer: &[u8], serial: &[u8], now: u64) -> Status {
        let Some(list) = self.issuers.get(issuer) else {
            return Status::Unknown;
        };
        if list.contains(canonical_serial(serial)) {
            Status::Revoked
        } else if now >= list.next_update {
            Status::Stale {
                since: list.next_update,
            }
        } else {
            Status::Good
        }
    }

    /// The number of revoked certificates, over all issuers.
    pub fn len(&self) -> usize {
        self.issuers
            .values()
            .flat_map(|list| &list.tables)
            .map(SerialTable::len)
            .sum()
    }

    /// Whether no certificate is revoked; the index may know issuers nevertheless.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of issuers that have a list.
    pub fn issuers(&self) -> usize {
        self.issuers.len()
    }
}

impl IssuerList {
    fn contains(&self, serial: &[u8]) -> bool {
        self.tables
            .binary_search_by_key(&serial.len(), |table| table.width)
            .is_ok_and(|at| self.tables[at].contains(serial))
    }
}

impl SerialTable {
    /// Sorts `bytes`, which holds serials of `width` octets end to end, and drops duplicates.
    fn build(width: usize, bytes: Vec<u8>) -> Self {
        let mut serials: Vec<&[u8]> = bytes.chunks_exact(width).collect();
        serials.sort_unstable();
        serials.dedup();
        SerialTable {
            width,
            bytes: serials.concat().into(),
        }
    }

    fn len(&self) -> usize {
        self.bytes.len() / self.width
    }

    fn contains(&self, serial: &[u8]) -> bool {
        let (mut from, mut to) = (0, self.len());
        while from < to {
            let middle = from + (to - from) / 2;
            let at = middle * self.width;
            match self.bytes[at..at + self.width].cmp(serial) {
                std::cmp::Ordering::Equal => return true,
                std::cmp::Ordering::Less => from = middle + 1,
                std::cmp::Ordering::Greater => to = middle,
            }
        }
        false
    }
}

/// Gathers the lists of all issuers; see [`RevocationIndex::builder`].
#[derive(Debug, Default)]
pub struct RevocationIndexBuilder {
    issuers: HashMap<Box<[u8]>, Gathered>,
}

#[derive(Debug)]
struct Gathered {
    by_width: BTreeMap<usize, Vec<u8>>,
    next_update: u64,
}

impl RevocationIndexBuilder {
    /// Adds a list: its issuer's `Name` in DER, the contents of each revoked serial `INTEGER`, and `nextUpdate` in
    /// unix seconds.
    ///
    /// Lists of one issuer *name* are joined: what one of them revokes is revoked, and the answer goes stale with the
    /// first that does. That is right for a CA that changed its key and still signs with both; to leave out a list
    /// that a newer one replaces is the caller's business.
    pub fn add<'a>(
        &mut self,
        issuer: &[u8],
        serials: impl IntoIterator<Item = &'a [u8]>,
        next_update: u64,
    ) {
        let gathered = self
            .issuers
            .entry(issuer.into())
            .or_insert_with(|| Gathered {
                by_width: BTreeMap::new(),
                next_update: u64::MAX,
            });
        gathered.next_update = gathered.next_update.min(next_update);
        for serial in serials {
            let serial = canonical_serial(serial);
            gathered
                .by_width
                .entry(serial.len())
                .or_default()
                .extend_from_slice(serial);
        }
    }

    /// Sorts what was added and makes the index.
    pub fn build(self) -> RevocationIndex {
        let issuers = self.issuers.into_iter().map(|(issuer, gathered)| {
            let tables = gathered
                .by_width
                .into_iter()
                .map(|(width, bytes)| SerialTable::build(width, bytes));
            (
                issuer,
                IssuerList {
                    tables: tables.collect(),
                    next_update: gathered.next_update,
                },
            )
        });
        RevocationIndex {
            issuers: issuers.collect(),
        }
    }
}

/// The shortest contents of a DER `INTEGER` (X.690 8.3.2) with the value of `serial`: redundant leading octets are
/// dropped, the octet that carries the sign is kept, since 255 and -1 are two serials. Nothing counts as zero.
pub fn canonical_serial(serial: &[u8]) -> &[u8] {
    let mut rest = serial;
    while let [first, second, ..] = rest
        && (*first == 0x00 && *second < 0x80 || *first == 0xff && *second >= 0x80)
    {
        rest = &rest[1..];
    }
    if rest.is_empty() { &[0] } else { rest }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn index(issuer: &[u8], serials: &[&[u8]], next_update: u64) -> RevocationIndex {
        let mut builder = RevocationIndex::builder();
        builder.add(issuer, serials.iter().copied(), next_update);
        builder.build()
    }

    #[test]
    fn answers_by_issuer_serial_and_time() {
        let index = index(b"ca", &[&[7], &[1, 0]], 100);
        assert_eq!(index.status(b"ca", &[7], 99), Status::Revoked);
        assert_eq!(index.status(b"ca", &[1, 0], 99), Status::Revoked);
        assert_eq!(index.status(b"ca", &[8], 99), Status::Good);
        assert_eq!(index.status(b"ca", &[8], 100), Status::Stale { since: 100 });
        assert_eq!(index.status(b"ca", &[7], 100), Status::Revoked);
        assert_eq!(index.status(b"other", &[7], 99), Status::Unknown);
    }

    #[test]
    fn an_empty_list_makes_its_issuer_known() {
        let index = index(b"ca", &[], 100);
        assert!(index.is_empty());
        assert_eq!(index.issuers(), 1);
        assert_eq!(index.status(b"ca", &[7], 1), Status::Good);
    }

    #[test]
    fn redundant_octets_do_not_matter_but_the_sign_does() {
        let index = index(b"ca", &[&[0, 0, 0xff], &[0], &[0, 0x7f]], 100);
        assert_eq!(index.status(b"ca", &[0, 0xff], 1), Status::Revoked);
        assert_eq!(
            index.status(b"ca", &[0xff], 1),
            Status::Good,
            "-1 is not 255"
        );
        assert_eq!(
            index.status(b"ca", &[0xff, 0xff], 1),
            Status::Good,
            "-1 is not 255"
        );
        assert_eq!(index.status(b"ca", &[0x7f], 1), Status::Revoked);
        assert_eq!(
            index.status(b"ca", &[], 1),
            Status::Revoked,
            "nothing is zero"
        );
        assert_eq!(index.status(b"ca", &[0, 0], 1), Status::Revoked);
    }

    #[test]
    fn lists_of_one_issuer_are_joined_and_the_first_to_go_stale_decides() {
        let mut builder = RevocationIndex::builder();
        builder.add(b"ca", [[1u8].as_slice(), &[1]], 200);
        builder.add(b"ca", [[2u8].as_slice()], 100);
        let index = builder.build();
        assert_eq!(index.len(), 2);
        assert_eq!(index.status(b"ca", &[1], 1), Status::Revoked);
        assert_eq!(index.status(b"ca", &[2], 1), Status::Revoked);
        assert_eq!(index.status(b"ca", &[3], 150), Status::Stale { since: 100 });
    }

    proptest! {
        /// Random lists against a set. Octets come from a small alphabet, so that redundant leading octets, duplicates
        /// and near misses are common.
        #[test]
        fn agrees_with_a_set(
            lists in prop::collection::vec((0u8..3, prop::collection::vec(serial(), 0..60)), 0..5),
            probes in prop::collection::vec((0u8..4, serial()), 0..60),
        ) {
            let mut builder = RevocationIndex::builder();
            let mut issuers = BTreeSet::new();
            let mut model = BTreeSet::new();
            for (issuer, serials) in &lists {
                builder.add(&[*issuer], serials.iter().map(Vec::as_slice), 100);
                issuers.insert(*issuer);
                model.extend(serials.iter().map(|serial| (*issuer, value(serial))));
            }
            let index = builder.build();
            prop_assert_eq!(index.len(), model.len());
            let listed = lists.iter().flat_map(|(issuer, serials)| serials.iter().map(|serial| (*issuer, serial.clone())));
            for (issuer, serial) in probes.iter().cloned().chain(listed) {
                let expected = if model.contains(&(issuer, value(&serial))) {
                    Status::Revoked
                } else if issuers.contains(&issuer) {
                    Status::Good
                } else {
                    Status::Unknown
                };
                prop_assert_eq!(index.status(&[issuer], &serial, 1), expected);
            }
        }
    }

    fn serial() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(
            prop::sample::select(&[0x00u8, 0x01, 0x7f, 0x80, 0xff]),
            0..6,
        )
    }

    /// The number that a two's complement big-endian string stands for.
    fn value(serial: &[u8]) -> i64 {
        let negative = serial.first().is_some_and(|first| *first >= 0x80);
        serial
            .iter()
            .fold(if negative { -1 } else { 0 }, |value, octet| {
                value << 8 | i64::from(*octet)
            })
    }
}
