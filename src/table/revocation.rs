//! Index of revoked certificates: an exact answer for (issuer, serial), built off the data cores
//! from lists that somebody else has verified.
//!
//! Guarantees: no false answer in either direction; a look-up allocates nothing. It does not read
//! CRLs, check signatures or decide what a missing or stale list means: `src/tls` does the first
//! two, the profile's policy the last.

use std::cmp::Ordering;
use std::sync::Arc;

use super::names::same_name;
use super::serials::SerialSet;

/// Status of one certificate at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// A list by the issuer's key that is still valid does not name the certificate.
    Good,
    /// A list in the issuer's name, by whatever key, names the certificate. A list past its
    /// `nextUpdate` still revokes.
    Revoked,
    /// There is no list by the key of this issuer, or none that speaks for this certificate.
    Unknown,
    /// The list by the issuer's key does not name the certificate, but is out of date and so proves
    /// nothing.
    Stale {
        /// The list's `nextUpdate`, in unix seconds.
        since: u64,
    },
}

/// For which certificates of its issuer a list speaks: what is in none of its scopes has no status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Which kind of certificate.
    pub holders: Holders,
    /// If given, only certificates that name one of these distribution points.
    pub points: Option<Box<[Box<[u8]>]>>,
    /// The list can revoke, but never prove that nothing is revoked: it gives only some reasons, is
    /// a delta without its base, or its signer is revoked itself.
    pub revokes_only: bool,
}

/// The kind of certificates that a list speaks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Holders {
    /// Every kind.
    #[default]
    All,
    /// Those that are not of an authority.
    EndEntities,
    /// Those of authorities.
    Authorities,
}

/// Properties of a certificate that decide whether a list covers it. Asked only where an issuer's
/// lists are partial.
pub trait Subject {
    /// Returns whether it is the certificate of an authority.
    fn is_authority(&self) -> bool;

    /// Returns whether it names this distribution point, given as in [`Scope::points`].
    fn names_point(&self, point: &[u8]) -> bool;
}

/// One list: what it revokes, for which certificates it speaks, and until when.
#[derive(Clone, Debug)]
pub struct RevocationList {
    /// Its issuer's `Name` in DER.
    pub issuer: Box<[u8]>,
    /// The key that signed it, as look-ups give it: the same name may have had another before.
    pub signer: Box<[u8]>,
    /// The serials that it names.
    pub serials: Arc<SerialSet>,
    /// For which certificates it speaks.
    pub scope: Scope,
    /// The moment from which it is out of date, in unix seconds.
    pub next_update: u64,
}

/// An exact index of revoked certificates by issuer and serial number.
#[derive(Debug, Default)]
pub struct RevocationIndex {
    /// Each spelling of a name with the place of its issuer, sorted by length and octets: there are
    /// few, and a hash of a name would cost more than the whole look-up.
    names: Box<[(Box<[u8]>, usize)]>,
    issuers: Box<[Issuer]>,
}

/// All authorities of one name.
#[derive(Debug)]
struct Issuer {
    /// Entries of all lists in the name.
    serials: Arc<SerialSet>,
    /// Proofs that a certificate is not revoked.
    proofs: Box<[Proof]>,
}

/// A list without its serials.
#[derive(Debug)]
struct Proof {
    signer: Box<[u8]>,
    scope: Scope,
    next_update: u64,
}

impl Scope {
    fn covers(&self, subject: Option<&dyn Subject>) -> bool {
        let holder = match self.holders {
            Holders::All => true,
            Holders::EndEntities => subject.is_some_and(|subject| !subject.is_authority()),
            Holders::Authorities => subject.is_some_and(Subject::is_authority),
        };
        holder
            && !self.revokes_only
            && self.points.as_ref().is_none_or(|points| {
                subject.is_some_and(|subject| points.iter().any(|point| subject.names_point(point)))
            })
    }
}

impl RevocationIndex {
    /// An index is made by a builder and never changed afterwards.
    pub fn builder() -> RevocationIndexBuilder {
        RevocationIndexBuilder::default()
    }

    /// Makes the index. Where a name has several lists, their serials are copied into one set.
    pub fn of(lists: Vec<RevocationList>) -> Self {
        let mut issuers: Vec<Vec<RevocationList>> = Vec::new();
        for list in lists {
            let same = |known: &&mut Vec<RevocationList>| {
                let spelled = known.iter().map(|known| &known.issuer);
                spelled
                    .into_iter()
                    .any(|name| same_name(name, &list.issuer))
            };
            match issuers.iter_mut().find(same) {
                Some(known) => known.push(list),
                None => issuers.push(vec![list]),
            }
        }
        let spelled = issuers.iter().enumerate().flat_map(|(at, lists)| {
            let names = lists.iter().map(|list| list.issuer.clone());
            names.map(move |name| (name, at))
        });
        let mut names: Vec<_> = spelled.collect();
        names.sort_by(|(one, _), (other, _)| order(one, other));
        names.dedup_by(|(one, _), (other, _)| one == other);
        RevocationIndex {
            names: names.into(),
            issuers: issuers.iter().map(|lists| Issuer::of(lists)).collect(),
        }
    }

    /// Looks up one certificate of which no more is known: lists that speak only for a part of
    /// their issuer's certificates revoke, and prove nothing. Else as
    /// [`status_of`](Self::status_of).
    pub fn status(&self, issuer: &[u8], key: &[u8], serial: &[u8], now: u64) -> Status {
        self.look_up(issuer, key, serial, now, None)
    }

    /// Looks up one certificate.
    ///
    /// `issuer` is the certificate's issuer `Name` in DER, of which every spelling counts as one
    /// ([`same_name`]); `key` the public key that verified the certificate's signature, as in
    /// [`RevocationList::signer`]; `serial` the contents of its serial `INTEGER`, with or without
    /// redundant leading octets; `now` is in unix seconds.
    ///
    /// What any list in the issuer's name holds is revoked. To be good, a certificate needs a list
    /// by `key`, valid now, that speaks for it: an authority that has changed its key says nothing
    /// of what the old one signed.
    pub fn status_of(
        &self,
        issuer: &[u8],
        key: &[u8],
        serial: &[u8],
        now: u64,
        subject: &dyn Subject,
    ) -> Status {
        self.look_up(issuer, key, serial, now, Some(subject))
    }

    /// Returns whether any list in the issuer's name holds the serial, whoever signed it and
    /// however old it is.
    pub fn is_revoked(&self, issuer: &[u8], serial: &[u8]) -> bool {
        self.issuer(issuer)
            .is_some_and(|known| known.serials.contains(canonical_serial(serial)))
    }

    fn look_up(
        &self,
        issuer: &[u8],
        key: &[u8],
        serial: &[u8],
        now: u64,
        subject: Option<&dyn Subject>,
    ) -> Status {
        let Some(known) = self.issuer(issuer) else {
            return Status::Unknown;
        };
        if known.serials.contains(canonical_serial(serial)) {
            return Status::Revoked;
        }
        match known.proven_until(key, subject) {
            None => Status::Unknown,
            Some(since) if now >= since => Status::Stale { since },
            Some(_) => Status::Good,
        }
    }

    fn issuer(&self, name: &[u8]) -> Option<&Issuer> {
        let exact = self.names.binary_search_by(|(known, _)| order(known, name));
        let at = match exact {
            Ok(at) => at,
            Err(_) => {
                let mut names = self.names.iter();
                names.position(|(known, _)| same_name(known, name))?
            }
        };
        Some(&self.issuers[self.names[at].1])
    }

    /// The number of revoked certificates, over all issuers.
    pub fn len(&self) -> usize {
        self.issuers.iter().map(|issuer| issuer.serials.len()).sum()
    }

    /// Returns whether no certificate is revoked; the index may know issuers nevertheless.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of names that have a list.
    pub fn issuers(&self) -> usize {
        self.issuers.len()
    }

    /// The memory that the serials take, in bytes.
    pub fn bytes(&self) -> usize {
        self.issuers
            .iter()
            .map(|issuer| issuer.serials.bytes())
            .sum()
    }
}

fn order(one: &[u8], other: &[u8]) -> Ordering {
    one.len().cmp(&other.len()).then_with(|| one.cmp(other))
}

impl Issuer {
    /// Joins the lists of one name. The set of a single list is shared, not copied.
    fn of(lists: &[RevocationList]) -> Self {
        let serials = match lists {
            [only] => only.serials.clone(),
            several => {
                let all = several.iter().flat_map(|list| list.serials.iter());
                Arc::new(SerialSet::collect(all))
            }
        };
        let proofs = lists.iter().map(|list| Proof {
            signer: list.signer.clone(),
            scope: list.scope.clone(),
            next_update: list.next_update,
        });
        Issuer {
            serials,
            proofs: proofs.collect(),
        }
    }

    /// Until when lists by `key` prove that what they do not name is good. `None`: none speaks for
    /// it.
    fn proven_until(&self, key: &[u8], subject: Option<&dyn Subject>) -> Option<u64> {
        let speaking = self
            .proofs
            .iter()
            .filter(|list| *list.signer == *key && list.scope.covers(subject));
        speaking.map(|list| list.next_update).max()
    }
}

/// Gathers the lists of all issuers; see [`RevocationIndex::builder`].
#[derive(Debug, Default)]
pub struct RevocationIndexBuilder {
    lists: Vec<RevocationList>,
}

impl RevocationIndexBuilder {
    /// Adds a list that speaks for all certificates of its issuer: the issuer's `Name` in DER, the
    /// key that signed, the contents of each revoked serial `INTEGER`, and `nextUpdate` in unix
    /// seconds.
    ///
    /// What any list of a name holds is revoked, and the longest of a key proves. To leave out a
    /// list that a newer one replaces is the caller's business.
    pub fn add<'a>(
        &mut self,
        issuer: &[u8],
        key: &[u8],
        serials: impl IntoIterator<Item = &'a [u8]>,
        next_update: u64,
    ) {
        let serials = SerialSet::collect(serials.into_iter().map(canonical_serial));
        self.add_list(RevocationList {
            issuer: issuer.into(),
            signer: key.into(),
            serials: Arc::new(serials),
            scope: Scope::default(),
            next_update,
        });
    }

    /// Adds a list.
    pub fn add_list(&mut self, list: RevocationList) {
        self.lists.push(list);
    }

    /// Makes the index.
    pub fn build(self) -> RevocationIndex {
        RevocationIndex::of(self.lists)
    }
}

/// The shortest contents of a DER `INTEGER` (X.690 8.3.2) with the value of `serial`: redundant
/// leading octets are dropped, the octet that carries the sign is kept, since 255 and -1 are two
/// serials. Nothing counts as zero.
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

    const KEY: &[u8] = b"key";

    fn index(issuer: &[u8], serials: &[&[u8]], next_update: u64) -> RevocationIndex {
        let mut builder = RevocationIndex::builder();
        builder.add(issuer, KEY, serials.iter().copied(), next_update);
        builder.build()
    }

    #[test]
    fn answers_by_issuer_serial_and_time() {
        let index = index(b"ca", &[&[7], &[1, 0]], 100);
        assert_eq!(index.status(b"ca", KEY, &[7], 99), Status::Revoked);
        assert_eq!(index.status(b"ca", KEY, &[1, 0], 99), Status::Revoked);
        assert_eq!(index.status(b"ca", KEY, &[8], 99), Status::Good);
        assert_eq!(
            index.status(b"ca", KEY, &[8], 100),
            Status::Stale { since: 100 }
        );
        assert_eq!(index.status(b"ca", KEY, &[7], 100), Status::Revoked);
        assert_eq!(index.status(b"other", KEY, &[7], 99), Status::Unknown);
    }

    #[test]
    fn an_empty_list_makes_its_issuer_known() {
        let index = index(b"ca", &[], 100);
        assert!(index.is_empty());
        assert_eq!(index.issuers(), 1);
        assert_eq!(index.status(b"ca", KEY, &[7], 1), Status::Good);
    }

    #[test]
    fn redundant_octets_do_not_matter_but_the_sign_does() {
        let index = index(b"ca", &[&[0, 0, 0xff], &[0], &[0, 0x7f]], 100);
        assert_eq!(index.status(b"ca", KEY, &[0, 0xff], 1), Status::Revoked);
        assert_eq!(
            index.status(b"ca", KEY, &[0xff], 1),
            Status::Good,
            "-1 is not 255"
        );
        assert_eq!(
            index.status(b"ca", KEY, &[0xff, 0xff], 1),
            Status::Good,
            "-1 is not 255"
        );
        assert_eq!(index.status(b"ca", KEY, &[0x7f], 1), Status::Revoked);
        assert_eq!(
            index.status(b"ca", KEY, &[], 1),
            Status::Revoked,
            "nothing is zero"
        );
        assert_eq!(index.status(b"ca", KEY, &[0, 0], 1), Status::Revoked);
    }

    #[test]
    fn lists_of_one_key_are_joined_and_the_last_to_go_stale_decides() {
        let mut builder = RevocationIndex::builder();
        builder.add(b"ca", KEY, [[1u8].as_slice(), &[1]], 200);
        builder.add(b"ca", KEY, [[2u8].as_slice()], 100);
        let index = builder.build();
        assert_eq!(index.len(), 2);
        assert_eq!(index.status(b"ca", KEY, &[1], 1), Status::Revoked);
        assert_eq!(index.status(b"ca", KEY, &[2], 1), Status::Revoked);
        assert_eq!(index.status(b"ca", KEY, &[3], 150), Status::Good);
        assert_eq!(
            index.status(b"ca", KEY, &[3], 200),
            Status::Stale { since: 200 }
        );
    }

    #[test]
    fn a_list_by_another_key_of_the_name_revokes_and_proves_nothing() {
        let mut builder = RevocationIndex::builder();
        builder.add(b"ca", b"new", [[1u8].as_slice()], 200);
        let index = builder.build();
        assert_eq!(index.status(b"ca", b"new", &[2], 1), Status::Good);
        assert_eq!(index.status(b"ca", b"old", &[2], 1), Status::Unknown);
        assert_eq!(index.status(b"ca", b"old", &[1], 1), Status::Revoked);
        // The same key under another name is another authority.
        assert_eq!(index.status(b"cb", b"new", &[1], 1), Status::Unknown);
        assert!(index.is_revoked(b"ca", &[1]) && !index.is_revoked(b"ca", &[2]));
        assert!(!index.is_revoked(b"cb", &[1]));
    }

    #[test]
    fn every_spelling_of_a_name_is_one_issuer() {
        let name = |tag: u8, text: &[u8]| {
            let value = [&[6, 3, 0x55, 4, 3, tag, text.len() as u8], text].concat();
            let mut bytes = value;
            for outer in [0x30, 0x31, 0x30] {
                bytes.splice(..0, [outer, bytes.len() as u8]);
            }
            bytes
        };
        let (printable, utf8, third) = (name(0x13, b"ca"), name(0x0c, b"ca"), name(0x0c, b"CA "));
        let mut builder = RevocationIndex::builder();
        builder.add(&printable, b"one", [[1u8].as_slice()], 200);
        builder.add(&utf8, b"two", [[2u8].as_slice()], 200);
        let index = builder.build();
        assert_eq!((index.issuers(), index.len()), (1, 2));
        for spelling in [&printable, &utf8, &third] {
            for serial in [1, 2] {
                assert_eq!(
                    index.status(spelling, b"one", &[serial], 1),
                    Status::Revoked
                );
            }
            assert_eq!(index.status(spelling, b"two", &[3], 1), Status::Good);
            assert_eq!(index.status(spelling, b"three", &[3], 1), Status::Unknown);
        }
        assert_eq!(
            index.status(&name(0x0c, b"cb"), b"one", &[1], 1),
            Status::Unknown
        );
    }

    struct Device(&'static [u8]);

    impl Subject for Device {
        fn is_authority(&self) -> bool {
            false
        }
        fn names_point(&self, point: &[u8]) -> bool {
            point == self.0
        }
    }

    fn partial(signer: u8, serial: u8, scope: Scope, next_update: u64) -> RevocationList {
        RevocationList {
            issuer: (*b"ca").into(),
            signer: [signer].into(),
            serials: Arc::new(SerialSet::collect([[serial].as_slice()])),
            scope,
            next_update,
        }
    }

    fn at(point: &[u8]) -> Scope {
        Scope {
            points: Some([point.into()].into()),
            ..Scope::default()
        }
    }

    fn index_of(lists: &[RevocationList]) -> RevocationIndex {
        let mut builder = RevocationIndex::builder();
        for list in lists {
            builder.add_list(list.clone());
        }
        builder.build()
    }

    #[test]
    fn a_partition_speaks_for_its_own_certificates_alone_and_revokes_any() {
        let index = index_of(&[
            partial(0, 7, at(b"one"), 100),
            partial(0, 8, at(b"two"), 50),
        ]);
        let ask =
            |serial: u8, point, now| index.status_of(b"ca", &[0], &[serial], now, &Device(point));
        assert_eq!(ask(1, b"one", 60), Status::Good);
        assert_eq!(ask(1, b"two", 60), Status::Stale { since: 50 });
        assert_eq!(ask(1, b"three", 60), Status::Unknown);
        assert_eq!(ask(8, b"one", 60), Status::Revoked);
        assert_eq!(index.status(b"ca", &[0], &[1], 1), Status::Unknown);
        assert_eq!(index.status(b"ca", &[0], &[7], 1), Status::Revoked);
    }

    #[test]
    fn lists_for_a_kind_of_certificate_or_some_reasons_prove_no_more_than_that() {
        let kind = |holders| Scope {
            holders,
            ..Scope::default()
        };
        let ask = |scope| {
            index_of(&[partial(0, 7, scope, 100)]).status_of(b"ca", &[0], &[1], 1, &Device(b""))
        };
        assert_eq!(ask(kind(Holders::EndEntities)), Status::Good);
        assert_eq!(ask(kind(Holders::Authorities)), Status::Unknown);
        let some = Scope {
            revokes_only: true,
            ..Scope::default()
        };
        assert_eq!(ask(some), Status::Unknown);
    }

    #[test]
    fn the_key_that_issued_must_speak_for_a_certificate_and_its_best_list_counts() {
        let lists = [
            partial(0, 7, Scope::default(), 100),
            partial(0, 8, at(b"one"), 200),
            partial(1, 9, at(b"one"), 150),
        ];
        let index = index_of(&lists);
        let status =
            |key: u8, point, now| index.status_of(b"ca", &[key], &[1], now, &Device(point));
        assert_eq!(status(0, b"one", 150), Status::Good);
        assert_eq!(status(0, b"two", 150), Status::Stale { since: 100 });
        assert_eq!(status(1, b"one", 150), Status::Stale { since: 150 });
        assert_eq!(status(1, b"two", 1), Status::Unknown);
        assert_eq!(status(2, b"one", 1), Status::Unknown);
    }

    proptest! {
        /// Random lists against a set. Octets come from a small alphabet, so that redundant leading
        /// octets, duplicates and near misses are common.
        #[test]
        fn agrees_with_a_set(
            lists in prop::collection::vec((0u8..3, prop::collection::vec(serial(), 0..60)), 0..5),
            probes in prop::collection::vec((0u8..4, serial()), 0..60),
        ) {
            let mut builder = RevocationIndex::builder();
            let mut issuers = BTreeSet::new();
            let mut model = BTreeSet::new();
            for (issuer, serials) in &lists {
                builder.add(&[*issuer], KEY, serials.iter().map(Vec::as_slice), 100);
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
                prop_assert_eq!(index.status(&[issuer], KEY, &serial, 1), expected);
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
