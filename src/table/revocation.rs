//! What is revoked: an exact answer for (issuer, serial), built off the data cores from lists that somebody else has
//! verified.
//!
//! Guarantees: no false answer in either direction; a look-up allocates nothing. It does not read CRLs, check
//! signatures or decide what a missing or stale list means: `src/tls` does the first two, the profile's policy the last.

use std::cmp::Ordering;
use std::sync::Arc;

use super::serials::SerialSet;

/// What the index knows about one certificate at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// A list of the issuer that is still in force does not name the certificate.
    Good,
    /// A list of the issuer names the certificate. A list past its `nextUpdate` still revokes.
    Revoked,
    /// There is no list of this issuer, or none that speaks for this certificate.
    Unknown,
    /// The issuer's list does not name the certificate, but is out of date and so proves nothing.
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
    /// The list gives only some reasons for a revocation: it can revoke, but never prove that nothing is revoked.
    pub some_reasons: bool,
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

/// What a certificate says that decides whether a list speaks for it. Asked only where an issuer's lists are partial.
pub trait Subject {
    /// Whether it is the certificate of an authority.
    fn is_authority(&self) -> bool;

    /// Whether it names this distribution point, given as in [`Scope::points`].
    fn names_point(&self, point: &[u8]) -> bool;
}

/// One list: what it revokes, for which certificates it speaks, and until when.
#[derive(Clone, Debug)]
pub struct RevocationList {
    /// Its issuer's `Name` in DER.
    pub issuer: Box<[u8]>,
    /// Who signed it, in whatever form tells keys apart: two authorities may have one name.
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
    /// Sorted by length and octets of the name: there are few issuers, and a hash of a name would cost more than the
    /// whole look-up.
    issuers: Box<[Issuer]>,
}

#[derive(Debug)]
struct Issuer {
    name: Box<[u8]>,
    /// What any list of the issuer names.
    serials: Arc<SerialSet>,
    /// What proves that nothing is revoked, those of one signer side by side.
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
            && !self.some_reasons
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

    /// Looks up one certificate of which no more is known: lists that speak only for a part of their issuer's
    /// certificates revoke, and prove nothing. Else as [`status_of`](Self::status_of).
    pub fn status(&self, issuer: &[u8], serial: &[u8], now: u64) -> Status {
        self.look_up(issuer, serial, now, None)
    }

    /// Looks up one certificate.
    ///
    /// `issuer` is the certificate's issuer `Name` in DER, byte for byte (as webpki compares names too); `serial` the
    /// contents of its serial `INTEGER`, with or without redundant leading octets; `now` is in unix seconds.
    ///
    /// What any list of the issuer names is revoked. To be good, a certificate needs a list in force that speaks for
    /// it, from each key that signs lists in the issuer's name.
    pub fn status_of(
        &self,
        issuer: &[u8],
        serial: &[u8],
        now: u64,
        subject: &dyn Subject,
    ) -> Status {
        self.look_up(issuer, serial, now, Some(subject))
    }

    fn look_up(
        &self,
        issuer: &[u8],
        serial: &[u8],
        now: u64,
        subject: Option<&dyn Subject>,
    ) -> Status {
        let Ok(at) = self
            .issuers
            .binary_search_by(|known| order(&known.name, issuer))
        else {
            return Status::Unknown;
        };
        let known = &self.issuers[at];
        if known.serials.contains(canonical_serial(serial)) {
            return Status::Revoked;
        }
        match known.proven_until(subject) {
            None => Status::Unknown,
            Some(since) if now >= since => Status::Stale { since },
            Some(_) => Status::Good,
        }
    }

    /// The number of revoked certificates, over all issuers.
    pub fn len(&self) -> usize {
        self.issuers.iter().map(|issuer| issuer.serials.len()).sum()
    }

    /// Whether no certificate is revoked; the index may know issuers nevertheless.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of issuers that have a list.
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
    /// Joins the lists of one issuer. The set of a single list is shared, not copied.
    fn of(lists: &mut [RevocationList]) -> Self {
        lists.sort_by(|one, other| one.signer.cmp(&other.signer));
        let serials = match &*lists {
            [only] => only.serials.clone(),
            several => {
                let all = several.iter().flat_map(|list| list.serials.iter());
                Arc::new(SerialSet::collect(all))
            }
        };
        Issuer {
            name: lists
                .first()
                .map(|list| list.issuer.clone())
                .unwrap_or_default(),
            serials,
            proofs: lists
                .iter()
                .map(|list| Proof {
                    signer: list.signer.clone(),
                    scope: list.scope.clone(),
                    next_update: list.next_update,
                })
                .collect(),
        }
    }

    /// Until when the lists prove that what they do not name is good. `None`: they do not speak for it.
    fn proven_until(&self, subject: Option<&dyn Subject>) -> Option<u64> {
        self.proofs
            .chunk_by(|one, other| one.signer == other.signer)
            .map(|lists| {
                let speaking = lists.iter().filter(|list| list.scope.covers(subject));
                speaking.map(|list| list.next_update).max()
            })
            // No list that speaks for it from one of the keys is less than any date.
            .min()
            .flatten()
    }
}

/// Gathers the lists of all issuers; see [`RevocationIndex::builder`].
#[derive(Debug, Default)]
pub struct RevocationIndexBuilder {
    lists: Vec<RevocationList>,
}

impl RevocationIndexBuilder {
    /// Adds a list that speaks for all certificates of its issuer: the issuer's `Name` in DER, the contents of each
    /// revoked serial `INTEGER`, and `nextUpdate` in unix seconds.
    ///
    /// Each call counts as another signer: what one of them revokes is revoked, and the answer goes stale with the
    /// first that does. That is right for a CA that changed its key and still signs with both; to leave out a list
    /// that a newer one replaces is the caller's business.
    pub fn add<'a>(
        &mut self,
        issuer: &[u8],
        serials: impl IntoIterator<Item = &'a [u8]>,
        next_update: u64,
    ) {
        let serials = SerialSet::collect(serials.into_iter().map(canonical_serial));
        self.add_list(RevocationList {
            issuer: issuer.into(),
            signer: self.lists.len().to_ne_bytes().into(),
            serials: Arc::new(serials),
            scope: Scope::default(),
            next_update,
        });
    }

    /// Adds a list.
    pub fn add_list(&mut self, list: RevocationList) {
        self.lists.push(list);
    }

    /// Makes the index. Where an issuer has several lists, their serials are copied into one set.
    pub fn build(mut self) -> RevocationIndex {
        self.lists
            .sort_by(|one, other| order(&one.issuer, &other.issuer));
        RevocationIndex {
            issuers: self
                .lists
                .chunk_by_mut(|one, other| one.issuer == other.issuer)
                .map(Issuer::of)
                .collect(),
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
        let ask = |serial: u8, point, now| index.status_of(b"ca", &[serial], now, &Device(point));
        assert_eq!(ask(1, b"one", 60), Status::Good);
        assert_eq!(ask(1, b"two", 60), Status::Stale { since: 50 });
        assert_eq!(ask(1, b"three", 60), Status::Unknown);
        assert_eq!(ask(8, b"one", 60), Status::Revoked);
        assert_eq!(index.status(b"ca", &[1], 1), Status::Unknown);
        assert_eq!(index.status(b"ca", &[7], 1), Status::Revoked);
    }

    #[test]
    fn lists_for_a_kind_of_certificate_or_some_reasons_prove_no_more_than_that() {
        let kind = |holders| Scope {
            holders,
            ..Scope::default()
        };
        let ask =
            |scope| index_of(&[partial(0, 7, scope, 100)]).status_of(b"ca", &[1], 1, &Device(b""));
        assert_eq!(ask(kind(Holders::EndEntities)), Status::Good);
        assert_eq!(ask(kind(Holders::Authorities)), Status::Unknown);
        let some = Scope {
            some_reasons: true,
            ..Scope::default()
        };
        assert_eq!(ask(some), Status::Unknown);
    }

    #[test]
    fn each_signer_must_speak_for_a_certificate_and_its_best_list_counts() {
        let lists = [
            partial(0, 7, Scope::default(), 100),
            partial(0, 8, at(b"one"), 200),
            partial(1, 9, at(b"one"), 150),
        ];
        let status = |count, point, now| {
            index_of(&lists[..count]).status_of(b"ca", &[1], now, &Device(point))
        };
        assert_eq!(status(2, b"one", 150), Status::Good);
        assert_eq!(status(2, b"two", 150), Status::Stale { since: 100 });
        assert_eq!(status(3, b"one", 150), Status::Stale { since: 150 });
        assert_eq!(
            status(3, b"two", 1),
            Status::Unknown,
            "the second key says nothing of it"
        );
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
