//! The CRLs in use, by where they are from: which of them counts, and the index of all.
//!
//! A source's list is replaced by a newer one only: one with a smaller number, or without numbers
//! an older date, is refused, so that nobody can bring back what a later list has revoked by
//! serving an earlier one. An authority that was rebuilt begins its numbers anew: its list, which
//! is later by date, is taken when the one in use has run out, or when the operator says so
//! ([`CrlSet::forget`]). One that has run out takes the place of none that has not, and one that
//! has not begun of none that has, whatever the operator says.

use std::path::PathBuf;
use std::sync::Arc;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{CheckedCrl, CrlReport, Standing};
use crate::table::{RevocationIndex, RevocationList, SerialSet, same_name};

/// Source of a CRL.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CrlSource {
    /// A file of the configuration.
    File(PathBuf),
    /// A URL, of the configuration or of a certificate.
    Url(String),
}

impl std::fmt::Display for CrlSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Url(url) => url.fmt(f),
        }
    }
}

/// Result for the lists that a source offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// They are in use from the next index on.
    Taken,
    /// They are those in use.
    Unchanged,
    /// One may not take the place of the one in use; the old ones stay.
    Refused {
        /// Which and why, and what is to be done.
        problem: String,
        /// The moment from which it would be taken, in unix seconds, if there is one.
        until: Option<u64>,
    },
}

/// The CRLs in use.
#[derive(Debug, Clone, Default)]
pub struct CrlSet {
    sources: Vec<SourceLists>,
}

/// The lists of a source.
#[derive(Debug, Clone)]
struct SourceLists {
    source: CrlSource,
    lists: Vec<CheckedCrl>,
    /// Whatever comes next takes their place.
    forgotten: bool,
}

/// An index, and which lists prove nothing in it.
#[derive(Debug, Default)]
pub struct Indexed {
    /// The index.
    pub index: RevocationIndex,
    /// Lists whose signer is revoked: the source and the issuer of each.
    pub disowned: Vec<(CrlSource, String)>,
}

impl CrlSet {
    /// Takes the lists of a source in place of those that it had, at a moment in unix seconds.
    pub fn admit(&mut self, source: CrlSource, mut lists: Vec<CheckedCrl>, now: u64) -> Admission {
        let Some(held) = self.sources.iter_mut().find(|held| held.source == source) else {
            self.sources.push(SourceLists {
                source,
                lists,
                forgotten: false,
            });
            return Admission::Taken;
        };
        let mut unchanged = held.lists.len() == lists.len();
        for new in &mut lists {
            let rivals = held.lists.iter().filter(|old| old.succeeds_as(new));
            let (mut same, mut has_begun) = (false, false);
            for old in rivals {
                if new.signature == old.signature {
                    same = true;
                    has_begun |= !old.report.early;
                    continue;
                }
                if let Some(end) = new.has_run_out_before(old, now) {
                    return Admission::Refused {
                        problem: new.run_out_text(end),
                        until: Some(end),
                    };
                }
                if new.report.early && !old.report.early {
                    return Admission::Refused {
                        problem: new.report.early_text("the one in use stays until then"),
                        until: Some(new.report.begins()),
                    };
                }
                if held.forgotten {
                    continue;
                }
                if let Err((problem, until)) = new.may_replace(old, now) {
                    let problem = format!(
                        "{problem}; remedy: publish a list that is newer in both, or accept this one with \
                         `adit crl forget '{source}'`"
                    );
                    return Admission::Refused { problem, until };
                }
            }
            unchanged &= same;
            // Whatever the clock says now.
            new.report.early &= !has_begun;
        }
        held.forgotten = false;
        if unchanged {
            return Admission::Unchanged;
        }
        held.lists = lists;
        Admission::Taken
    }

    /// Lets the lists that have begun at a moment in unix seconds count as such, for good. Whether
    /// there are any.
    pub fn begin(&mut self, now: u64) -> bool {
        let lists = self.sources.iter_mut().flat_map(|held| &mut held.lists);
        let mut reports = lists.map(|list| &mut list.report);
        let mut any = false;
        for report in reports
            .by_ref()
            .filter(|report| report.early && report.begins() <= now)
        {
            report.early = false;
            any = true;
        }
        any
    }

    /// Lets whatever the source offers next take the place of what it has, which stays in use until
    /// then. Whether it has something.
    pub fn forget(&mut self, source: &CrlSource) -> bool {
        let held = self.sources.iter_mut().find(|held| held.source == *source);
        held.map(|held| held.forgotten = true).is_some()
    }

    /// Takes over from the set before a reload what is still wanted, and signed by a key that is
    /// still trusted.
    pub fn carry_over(&mut self, before: &Self, source: &CrlSource, trusted: &[Box<[u8]>]) -> bool {
        let Some(held) = before.sources.iter().find(|held| held.source == *source) else {
            return false;
        };
        let is_trusted = |list: &CheckedCrl| trusted.contains(&list.list.signer);
        if held.lists.is_empty() || !held.lists.iter().all(is_trusted) {
            return false;
        }
        self.sources.push(held.clone());
        true
    }

    /// Returns whether lists of this source are in use.
    pub fn has(&self, source: &CrlSource) -> bool {
        self.sources.iter().any(|held| held.source == *source)
    }

    /// Returns what each list in use says about itself.
    pub fn reports(&self) -> Vec<CrlReport> {
        self.lists().map(|list| list.report.clone()).collect()
    }

    fn lists(&self) -> impl Iterator<Item = &CheckedCrl> {
        self.sources.iter().flat_map(|held| &held.lists)
    }

    /// The index of all lists, of which none is believed whose signer is revoked among the group
    /// certificates: it revokes, and proves nothing.
    pub fn index(&self, standing: &Standing) -> Indexed {
        let mut lists = self.joined();
        let index = RevocationIndex::of(lists.clone());
        if !standing.is_any_listed(&index) {
            return Indexed {
                index,
                disowned: Vec::new(),
            };
        }
        let is_revoked = |list: &RevocationList| {
            standing.are_revoked(&index, standing.of_key(&list.issuer, &list.signer))
        };
        for list in &mut lists {
            list.scope.revokes_only |= is_revoked(list);
        }
        let disowned = self.lists().filter(|list| is_revoked(&list.list));
        Indexed {
            disowned: disowned
                .map(|list| (list.report.source.clone(), list.report.issuer.clone()))
                .collect(),
            index: RevocationIndex::of(lists),
        }
    }

    /// The lists that count, with their deltas. Where several sources have the same list, the
    /// newest counts; where it cannot be told which that is, each does: what one of them holds is
    /// revoked, and the longest proves.
    fn joined(&self) -> Vec<RevocationList> {
        let all: Vec<&CheckedCrl> = self.lists().collect();
        let counts = |at: usize| {
            let is_replaced = |other: usize| {
                all[other].replaces(all[at]) && (!all[at].replaces(all[other]) || other < at)
            };
            !(0..all.len()).any(|other| other != at && is_replaced(other))
        };
        let newest = (0..all.len()).filter(|at| counts(*at)).map(|at| all[at]);
        let (deltas, full): (Vec<_>, Vec<_>) = newest.partition(|list| list.base.is_some());
        let mut joined: Vec<RevocationList> = full
            .iter()
            .map(|list| {
                let continuing = deltas.iter();
                let continuing =
                    continuing.filter(|delta| delta.continues(list) && !delta.report.early);
                match continuing.max_by_key(|delta| delta.age()) {
                    Some(delta) => list.with(delta),
                    None => list.alone(),
                }
            })
            .collect();
        for delta in deltas {
            let is_in = |list: &&CheckedCrl| {
                !delta.report.early
                    && (delta.continues(list)
                        || (list.has_scope_of(delta)
                            && delta.report.number.is_some()
                            && list.report.number >= delta.report.number))
            };
            if !full.iter().any(is_in) {
                // Without the list that it continues, or before it begins, a delta says nothing of what it does not name.
                let mut alone = delta.list.clone();
                alone.scope.revokes_only = true;
                joined.push(alone);
            }
        }
        joined
    }
}

impl CheckedCrl {
    /// Returns whether both are of one issuer, key and scope.
    fn has_scope_of(&self, other: &Self) -> bool {
        let (one, other) = (&self.list, &other.list);
        one.signer == other.signer
            && one.scope == other.scope
            && same_name(&one.issuer, &other.issuer)
    }

    /// Returns whether one of them can take the place of the other.
    fn succeeds_as(&self, other: &Self) -> bool {
        self.has_scope_of(other) && self.base.is_some() == other.base.is_some()
    }

    /// Orders the lists of one issuer, key and scope. A list without number is older than one with.
    fn age(&self) -> (&Option<super::Number>, u64) {
        (&self.report.number, self.report.this_update)
    }

    fn described_age(&self) -> String {
        let date = moment(self.report.this_update);
        match &self.report.number {
            Some(number) => format!("number {number} of {date}"),
            None => format!("without number, of {date}"),
        }
    }

    /// The list by itself. Before it begins it revokes, and proves nothing.
    fn alone(&self) -> RevocationList {
        let mut list = self.list.clone();
        list.scope.revokes_only |= self.report.early;
        list
    }

    /// Returns whether it makes the other one needless, whichever of them runs out first.
    fn replaces(&self, other: &Self) -> bool {
        self.succeeds_as(other)
            && (other.report.early || !self.report.early)
            && self.report.number >= other.report.number
            && self.report.this_update >= other.report.this_update
            && self.list.next_update >= other.list.next_update
    }

    /// Returns whether it may take the place of the one in use: else why not, and from which moment
    /// on.
    fn may_replace(&self, old: &Self, now: u64) -> Result<(), (String, Option<u64>)> {
        let end = old.list.next_update;
        let of = format!("the list of {}", self.report.issuer);
        let ages = format!("{}, {}", self.described_age(), old.described_age());
        let (number, date) = (&self.report.number, self.report.this_update);
        let has_smaller_number = *number < old.report.number;
        // Never an earlier date, whatever its number: after an authority has counted anew, its lists from before have
        // the larger ones. The date of one that is still to come proves nothing against one that is valid.
        let is_earlier = date < old.report.this_update && (self.report.early || !old.report.early);
        if is_earlier || has_smaller_number && date <= old.report.this_update {
            let problem = format!("{of} is older than the one in use ({ages})");
            return Err((problem, None));
        }
        if has_smaller_number && now < end {
            let problem = format!(
                "{of} is later than the one in use, but has a smaller number ({ages}), as from a CA that was \
                    set up again; the one in use stays until it expires on {}",
                moment(end)
            );
            return Err((problem, Some(end)));
        }
        Ok(())
    }

    /// The end of the one in use, where that is valid and this one has run out already: nothing and
    /// nobody lets it take the place of the other then, since its authority's devices would all be
    /// refused.
    fn has_run_out_before(&self, old: &Self, now: u64) -> Option<u64> {
        let end = old.list.next_update;
        (now < end && self.list.next_update <= now).then_some(end)
    }

    fn run_out_text(&self, end: u64) -> String {
        format!(
            "the list of {} has expired already ({}); the one in use stays, which is valid until {}; remedy: \
                publish \
             a list that is valid now",
            self.report.issuer,
            self.described_age(),
            moment(end)
        )
    }

    /// Returns whether this delta CRL can be put on top of the full list `base` (RFC 5280, section
    /// 5.2.4).
    fn continues(&self, base: &Self) -> bool {
        self.has_scope_of(base)
            && base.report.number.is_some()
            && self.base <= base.report.number
            && base.report.number < self.report.number
    }

    /// A full list with a delta CRL on top of it: valid now while both are.
    fn with(&self, delta: &Self) -> RevocationList {
        let kept = self.list.serials.iter();
        let kept = kept.filter(|serial| !delta.removed.contains(serial));
        RevocationList {
            serials: Arc::new(SerialSet::collect(kept.chain(delta.list.serials.iter()))),
            next_update: self.list.next_update.min(delta.list.next_update),
            ..self.alone()
        }
    }
}

/// A moment in unix seconds, for people.
pub(in crate::tls) fn moment(seconds: u64) -> String {
    let known = i64::try_from(seconds).ok();
    let date = known.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    date.and_then(|date| date.format(&Rfc3339).ok())
        .unwrap_or_else(|| seconds.to_string())
}
