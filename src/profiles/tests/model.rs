//! The store beside a model of it: whatever is done, in whatever order, both say the same.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::limits::PROFILE_VERSIONS_KEPT;

#[derive(Clone, Debug)]
enum Step {
    Put(usize, u8, Option<u64>),
    Assign(Option<usize>),
    Delete(usize, Option<u64>),
    /// A change that whoever is asked refuses.
    Refused(usize, u8),
}

const NAMES: [&str; 3] = ["a", "a.b", "b"];

fn step() -> impl Strategy<Value = Step> {
    let name = || 0..NAMES.len();
    let expect = || proptest::option::weighted(0.3, 0_u64..6);
    prop_oneof![
        6 => (name(), 0_u8..4, expect()).prop_map(|(name, text, expect)| Step::Put(name, text, expect)),
        2 => proptest::option::of(name()).prop_map(Step::Assign),
        2 => (name(), expect()).prop_map(|(name, expect)| Step::Delete(name, expect)),
        1 => (name(), 0_u8..4).prop_map(|(name, text)| Step::Refused(name, text)),
    ]
}

/// Model of the store.
#[derive(Default)]
struct Model {
    versions: BTreeMap<&'static str, Vec<(u64, String)>>,
    last: BTreeMap<&'static str, u64>,
    assigned: Option<&'static str>,
}

impl Model {
    fn newest(&self, name: &str) -> u64 {
        self.versions
            .get(name)
            .and_then(|all| all.last())
            .map_or(0, |(version, _)| *version)
    }

    /// Returns whether it is done.
    fn take(&mut self, step: &Step) -> bool {
        let fits = |newest: u64, expect: Option<u64>| expect.is_none_or(|expect| expect == newest);
        match *step {
            Step::Put(name, text, expect) => {
                let (name, text) = (NAMES[name], text.to_string());
                if !fits(self.newest(name), expect) {
                    return false;
                }
                let all = self.versions.entry(name).or_default();
                if all.last().is_none_or(|(_, newest)| *newest != text) {
                    let last = self.last.entry(name).or_default();
                    *last += 1;
                    all.push((*last, text));
                    let extra = all.len().saturating_sub(PROFILE_VERSIONS_KEPT);
                    all.drain(..extra);
                }
                true
            }
            Step::Assign(name) => {
                let name = name.map(|name| NAMES[name]);
                let is_there = name.is_none_or(|name| self.newest(name) > 0);
                if is_there {
                    self.assigned = name;
                }
                is_there
            }
            Step::Delete(name, expect) => {
                let name = NAMES[name];
                let newest = self.newest(name);
                let done = newest > 0 && fits(newest, expect) && self.assigned != Some(name);
                if done {
                    self.versions.remove(name);
                }
                done
            }
            // Done where there is nothing to ask about.
            Step::Refused(name, text) => {
                let all = self.versions.get(NAMES[name]);
                let newest = all.and_then(|all| all.last());
                newest.is_some_and(|(_, newest)| *newest == text.to_string())
            }
        }
    }
}

fn done(store: &RedbStore, step: &Step) -> Result<Changed, StoreError> {
    let put = |name: usize, text: u8, expect, agree: bool| {
        let new = NewVersion {
            name: NAMES[name],
            text: &text.to_string(),
            who: "ann",
            note: "",
            expect,
        };
        store.change(&Change::Put(new), &mut |_| agree)
    };
    let change = match *step {
        Step::Put(name, text, expect) => return put(name, text, expect, true),
        Step::Refused(name, text) => return put(name, text, None, false),
        Step::Assign(name) => Change::Assign(name.map(|name| NAMES[name])),
        Step::Delete(name, expect) => Change::Delete {
            name: NAMES[name],
            expect,
        },
    };
    store.change(&change, &mut |_| true)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn the_store_is_what_its_model_is(steps in proptest::collection::vec(step(), 1..24)) {
        let folder = tempfile::tempdir().unwrap();
        let store = RedbStore::of(folder.path());
        let mut model = Model::default();
        for step in &steps {
            let expected = model.take(step);
            let found = done(&store, step);
            prop_assert_eq!(found.is_ok(), expected, "{:?}: {:?}", step, found);
        }
        let overview = store.overview().unwrap();
        prop_assert_eq!(overview.assigned.as_deref(), model.assigned);
        let assigned = store.assigned().unwrap().map(|profile| (profile.name, profile.version));
        let expected = model.assigned.map(|name| (name.to_owned(), model.newest(name)));
        prop_assert_eq!(assigned, expected);
        let names: Vec<_> = overview.profiles.iter().map(|profile| profile.name.as_str()).collect();
        let expected: Vec<_> = model.versions.keys().copied().collect();
        prop_assert_eq!(names, expected);
        for (name, versions) in &model.versions {
            for (version, text) in versions {
                let found = store.read(name, Some(*version)).unwrap();
                prop_assert_eq!(&found.text, text);
                prop_assert_eq!(found.history.len(), versions.len());
            }
        }
    }
}
