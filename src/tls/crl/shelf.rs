//! The CRLs in use, by where they are from: which of them counts, and the index of all.
//!
//! A source's list is replaced by a newer one only: one with a smaller number, or without numbers an older date, is
//! refused, so that nobody can bring back what a later list has revoked by serving an earlier one.

use std::path::PathBuf;
use std::sync::Arc;

use super::{CheckedCrl, CrlReport};
use crate::table::{RevocationIndex, RevocationList, SerialSet};

/// Where a CRL is from.
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

/// What became of the lists that a source offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// They are in use from the next index on.
    Taken,
    /// They are those in use.
    Unchanged,
    /// One is older than the one in use; the old ones stay. The text says which.
    Older(String),
}

/// The CRLs in use.
#[derive(Debug, Clone, Default)]
pub struct CrlShelf {
    sources: Vec<(CrlSource, Vec<CheckedCrl>)>,
}

impl CrlShelf {
    /// Takes the lists of a source in place of those that it had.
    pub fn admit(&mut self, source: CrlSource, lists: Vec<CheckedCrl>) -> Admission {
        let Some((_, held)) = self.sources.iter_mut().find(|(known, _)| *known == source) else {
            self.sources.push((source, lists));
            return Admission::Taken;
        };
        let mut unchanged = held.len() == lists.len();
        for new in &lists {
            match held.iter().find(|old| old.succeeds_as(new)) {
                Some(old) if new.age() < old.age() => {
                    return Admission::Older(format!(
                        "the list of {} is older than the one in use ({}, {})",
                        new.report.issuer,
                        new.described_age(),
                        old.described_age()
                    ));
                }
                // An authority that makes two lists of one number is wrong, and its later word counts.
                Some(old) => unchanged &= new.signature == old.signature,
                None => unchanged = false,
            }
        }
        if unchanged {
            return Admission::Unchanged;
        }
        *held = lists;
        Admission::Taken
    }

    /// Takes over from the shelf before a reload what is still wanted, and signed by a key that is still trusted.
    pub fn carry_over(&mut self, before: &Self, source: &CrlSource, trusted: &[Box<[u8]>]) -> bool {
        let Some((_, held)) = before.sources.iter().find(|(known, _)| known == source) else {
            return false;
        };
        let is_trusted = |list: &CheckedCrl| trusted.contains(&list.list.signer);
        if held.is_empty() || !held.iter().all(is_trusted) {
            return false;
        }
        self.sources.push((source.clone(), held.clone()));
        true
    }

    /// Whether lists of this source are in use.
    pub fn has(&self, source: &CrlSource) -> bool {
        self.sources.iter().any(|(known, _)| known == source)
    }

    /// What each list in use says about itself.
    pub fn reports(&self) -> Vec<CrlReport> {
        self.lists().map(|list| list.report.clone()).collect()
    }

    fn lists(&self) -> impl Iterator<Item = &CheckedCrl> {
        self.sources.iter().flat_map(|(_, lists)| lists)
    }

    /// The index of all lists. Where several sources have the same list, the newest counts.
    pub fn index(&self) -> RevocationIndex {
        let mut newest: Vec<&CheckedCrl> = Vec::new();
        for list in self.lists() {
            match newest.iter_mut().find(|known| known.succeeds_as(list)) {
                Some(known) if known.age() < list.age() => *known = list,
                Some(_) => {}
                None => newest.push(list),
            }
        }
        let (deltas, full): (Vec<_>, Vec<_>) =
            newest.into_iter().partition(|list| list.base.is_some());
        let mut builder = RevocationIndex::builder();
        for list in &full {
            let delta = deltas.iter().find(|delta| delta.continues(list));
            builder.add_list(match delta {
                Some(delta) => list.with(delta),
                None => list.list.clone(),
            });
        }
        for delta in deltas {
            let is_in = |list: &&CheckedCrl| {
                delta.continues(list)
                    || (list.has_scope_of(delta)
                        && delta.report.number.is_some()
                        && list.report.number >= delta.report.number)
            };
            if !full.iter().any(is_in) {
                // Without the list that it continues, a delta says nothing of what it does not name.
                let mut alone = delta.list.clone();
                alone.scope.some_reasons = true;
                builder.add_list(alone);
            }
        }
        builder.build()
    }
}

impl CheckedCrl {
    /// Whether both are of one issuer, key and scope.
    fn has_scope_of(&self, other: &Self) -> bool {
        let (one, other) = (&self.list, &other.list);
        one.issuer == other.issuer && one.signer == other.signer && one.scope == other.scope
    }

    /// Whether one of them can take the place of the other.
    fn succeeds_as(&self, other: &Self) -> bool {
        self.has_scope_of(other) && self.base.is_some() == other.base.is_some()
    }

    /// Orders the lists of one issuer, key and scope. A list without number is older than one with.
    fn age(&self) -> (&Option<super::Number>, u64) {
        (&self.report.number, self.report.this_update)
    }

    fn described_age(&self) -> String {
        let date = self.report.this_update;
        match &self.report.number {
            Some(number) => format!("number {number} of {date}"),
            None => format!("without number, of {date}"),
        }
    }

    /// Whether this delta CRL can be put on top of the full list `base` (RFC 5280, section 5.2.4).
    fn continues(&self, base: &Self) -> bool {
        self.has_scope_of(base)
            && base.report.number.is_some()
            && self.base <= base.report.number
            && base.report.number < self.report.number
    }

    /// A full list with a delta CRL on top of it: in force while both are.
    fn with(&self, delta: &Self) -> RevocationList {
        let kept = self.list.serials.iter();
        let kept = kept.filter(|serial| !delta.removed.contains(serial));
        RevocationList {
            serials: Arc::new(SerialSet::collect(kept.chain(delta.list.serials.iter()))),
            next_update: self.list.next_update.min(delta.list.next_update),
            ..self.list.clone()
        }
    }
}
