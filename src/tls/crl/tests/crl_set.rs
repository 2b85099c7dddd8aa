//! Which list takes the place of which, and what counts where that cannot be told.

use super::*;
use crate::table::Status;

const DAY: u64 = 86_400;

/// Valid from the 13th to the 15th, from the 14th to the 21st, and from the 1st to the 10th; now is
/// the 14th.
const OLD: (&str, Option<&str>) = ("231113000000Z", Some("20231115000000Z"));
const NEW: (&str, Option<&str>) = ("231114000000Z", Some("20231121000000Z"));
const OVER: (&str, Option<&str>) = ("231114010000Z", Some("20231114020000Z"));

fn list(number: u8, dates: (&'static str, Option<&'static str>), serial: u8) -> List {
    let list = List::default().dated(dates.0, dates.1);
    list.number(number).entries(&[&[serial]])
}

fn refused(crl_set: &mut CrlSet, lists: Vec<CheckedCrl>, now: u64) -> (String, Option<u64>) {
    match crl_set.admit(source("ca.crl"), lists, now) {
        Admission::Refused { problem, until } => (problem, until),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_later_list_of_a_smaller_number_waits_until_the_old_one_has_run_out() {
    let ca = Authority::ordinary();
    let check = |list: &List| check_one(&ca, &list.signed(&ca)).unwrap();
    let (old, anew) = (list(100, OLD, 1), list(1, NEW, 2));
    let mut crl_set = CrlSet::default();
    assert_eq!(
        crl_set.admit(source("ca.crl"), check(&old), NOW),
        Admission::Taken
    );
    let (text, until) = refused(&mut crl_set, check(&anew), NOW);
    let words = [
        "smaller number",
        "number 1 of 2023-11-14T00:00:00Z",
        "number 100",
        "adit crl forget 'ca.crl'",
    ];
    assert!(words.iter().all(|word| text.contains(word)), "{text}");
    let end = until.unwrap();
    assert_eq!(
        index_of(&ca, &crl_set).status(&ca.name, ca.key(), &[1], NOW),
        Status::Revoked
    );
    // One that is older in both stays refused for ever.
    let replay = list(99, ("231112000000Z", NEW.1), 3);
    assert_eq!(refused(&mut crl_set, check(&replay), end + DAY).1, None);
    refused(&mut crl_set, check(&anew), end - 1);
    assert_eq!(
        crl_set.admit(source("ca.crl"), check(&anew), end),
        Admission::Taken
    );
    assert_eq!(
        index_of(&ca, &crl_set).status(&ca.name, ca.key(), &[1], end),
        Status::Good
    );
    // And the old one does not come back.
    assert!(
        refused(&mut crl_set, check(&old), end)
            .0
            .contains("has expired already")
    );
    let late = list(99, ("231112000000Z", Some("20231130000000Z")), 3);
    assert!(
        refused(&mut crl_set, check(&late), end)
            .0
            .contains("older than the one in use")
    );
}

#[test]
fn what_is_forgotten_counts_until_the_next_list_and_for_one_list() {
    let ca = Authority::ordinary();
    let check = |list: &List| check_one(&ca, &list.signed(&ca)).unwrap();
    let (old, new) = (list(1, OLD, 1), list(100, NEW, 2));
    let file = source("ca.crl");
    let mut crl_set = CrlSet::default();
    assert!(!crl_set.forget(&file), "there is nothing yet");
    let first = check(&new);
    crl_set.admit(file.clone(), first.clone(), NOW);
    assert!(crl_set.forget(&file));
    assert_eq!(
        index_of(&ca, &crl_set).status(&ca.name, ca.key(), &[2], NOW),
        Status::Revoked
    );
    assert_eq!(
        crl_set.admit(file.clone(), check(&old), NOW),
        Admission::Taken
    );
    crl_set.admit(file.clone(), first.clone(), NOW);
    refused(&mut crl_set, check(&old), NOW);
    // The list in use, offered again, ends it: no door stays open.
    assert!(crl_set.forget(&file));
    assert_eq!(
        crl_set.admit(file.clone(), first, NOW),
        Admission::Unchanged
    );
    refused(&mut crl_set, check(&old), NOW);
    // It goes with the list over a reload.
    assert!(crl_set.forget(&file));
    let mut next = CrlSet::default();
    assert!(next.carry_over(&crl_set, &file, &[ca.key().into()]));
    assert_eq!(next.admit(file, check(&old), NOW), Admission::Taken);
}

/// By a clock that is behind, this one's or the authority's.
#[test]
fn a_list_that_is_to_come_revokes_and_proves_from_its_beginning_on() {
    const EARLY: (&str, Option<&str>) = ("231116000000Z", Some("20231123000000Z"));
    let ca = Authority::ordinary();
    let check = |list: &List| check_one(&ca, &list.signed(&ca)).unwrap();
    let begins = NOW - NOW % DAY + 2 * DAY - 300;
    let file = source("ca.crl");
    let mut crl_set = CrlSet::default();
    let early = check(&list(5, EARLY, 1));
    assert_eq!(
        crl_set.admit(file.clone(), early.clone(), NOW),
        Admission::Taken
    );
    let status = |crl_set: &CrlSet, serial: u8, now| {
        index_of(&ca, crl_set).status(&ca.name, ca.key(), &[serial], now)
    };
    assert_eq!(status(&crl_set, 1, NOW), Status::Revoked);
    assert_eq!(status(&crl_set, 2, NOW), Status::Unknown);
    let text = crl_set.reports()[0].unproving_text(NOW).unwrap();
    assert!(
        text.contains("2023-11-16T00:00:00Z") && text.contains("clock"),
        "{text}"
    );
    // The same one again changes nothing; a valid one takes its place, though it is earlier by date, if its number is not.
    assert_eq!(
        crl_set.admit(file.clone(), early.clone(), NOW),
        Admission::Unchanged
    );
    refused(&mut crl_set, check(&list(4, NEW, 3)), NOW);
    let mut other = crl_set.clone();
    assert_eq!(
        other.admit(file.clone(), check(&list(6, NEW, 3)), NOW),
        Admission::Taken
    );
    assert_eq!(status(&other, 1, NOW), Status::Good);
    // Its time comes, and stays, whatever the clock does then.
    assert!(!crl_set.begin(begins - 1) && crl_set.begin(begins) && !crl_set.begin(begins));
    assert_eq!(status(&crl_set, 2, begins), Status::Good);
    assert_eq!(crl_set.reports()[0].unproving_text(begins), None);
    assert_eq!(
        crl_set.admit(file.clone(), early.clone(), NOW),
        Admission::Unchanged
    );
    assert_eq!(status(&crl_set, 2, NOW), Status::Good);

    // It takes the place of a list that is not valid, though the operator has the next one taken, nor of another source's.
    let mut crl_set = CrlSet::default();
    crl_set.admit(file.clone(), check(&list(1, NEW, 1)), NOW);
    crl_set.forget(&file);
    let (text, until) = refused(&mut crl_set, early, NOW);
    assert!(text.contains("not valid before"), "{text}");
    assert_eq!(until, Some(begins));
    crl_set.admit(source("other.crl"), check(&list(5, EARLY, 2)), NOW);
    assert_eq!(status(&crl_set, 1, NOW), Status::Revoked);
    assert_eq!(status(&crl_set, 2, NOW), Status::Revoked);
    assert_eq!(status(&crl_set, 3, NOW), Status::Good);
}

#[test]
fn a_list_that_has_run_out_replaces_none_in_force() {
    let ca = Authority::ordinary();
    let check = |list: &List| check_one(&ca, &list.signed(&ca)).unwrap();
    let endless = List::default().dated(NEW.0, None).number(9);
    let mut crl_set = CrlSet::default();
    crl_set.admit(source("ca.crl"), check(&list(5, OLD, 1)), NOW);
    for worse in [list(6, OVER, 2), endless] {
        let (text, until) = refused(&mut crl_set, check(&worse), NOW);
        assert!(text.contains("has expired already"), "{text}");
        assert!(!text.contains("forget"), "{text}");
        assert!(until.is_some_and(|until| until > NOW));
    }
    // Not though the operator has the next list taken; that is for the one after it then.
    let ended = list(4, ("231101000000Z", Some("20231110000000Z")), 2);
    assert!(crl_set.forget(&source("ca.crl")));
    for worse in [list(6, OVER, 2), ended] {
        let (text, _) = refused(&mut crl_set, check(&worse), NOW);
        assert!(text.contains("has expired already"), "{text}");
        assert_eq!(
            index_of(&ca, &crl_set).status(&ca.name, ca.key(), &[2], NOW),
            Status::Good
        );
    }
    let anew = ("231112000000Z", Some("20231120000000Z"));
    assert_eq!(
        crl_set.admit(source("ca.crl"), check(&list(1, anew, 3)), NOW),
        Admission::Taken
    );
    // Where there is no better one, it is taken: it still revokes.
    let mut crl_set = CrlSet::default();
    crl_set.admit(source("ca.crl"), check(&list(5, OVER, 1)), NOW);
    assert_eq!(
        crl_set.admit(source("ca.crl"), check(&list(6, OVER, 2)), NOW),
        Admission::Taken
    );
    assert_eq!(
        index_of(&ca, &crl_set).status(&ca.name, ca.key(), &[2], NOW),
        Status::Revoked
    );
}

#[test]
fn lists_of_several_sources_that_cannot_be_ordered_all_count() {
    let ca = Authority::ordinary();
    let check = |list: &List| check_one(&ca, &list.signed(&ca)).unwrap();
    let after = NOW + 5 * DAY;
    for (one, other) in [
        // Rebuilt: a larger number, and a later date.
        (list(100, OLD, 1), list(1, NEW, 2)),
        // Newer in both, and over already.
        (list(5, NEW, 1), list(6, OVER, 2)),
    ] {
        for order in [[&one, &other], [&other, &one]] {
            let mut crl_set = CrlSet::default();
            for (at, list) in order.iter().enumerate() {
                crl_set.admit(source(&at.to_string()), check(list), NOW);
            }
            let index = index_of(&ca, &crl_set);
            let status = |serial: u8, now| index.status(&ca.name, ca.key(), &[serial], now);
            for now in [NOW, after] {
                assert_eq!(
                    (status(1, now), status(2, now)),
                    (Status::Revoked, Status::Revoked)
                );
                assert_eq!(status(3, now), Status::Good);
            }
        }
    }
    // Newer in all: the older one is as if it were not there.
    let mut crl_set = CrlSet::default();
    crl_set.admit(source("a"), check(&list(5, OLD, 1)), NOW);
    crl_set.admit(source("b"), check(&list(6, NEW, 2)), NOW);
    assert_eq!(
        index_of(&ca, &crl_set).status(&ca.name, ca.key(), &[1], NOW),
        Status::Good
    );
}

#[test]
fn a_list_counts_for_the_key_that_signed_it_alone() {
    let (old, new) = (Authority::ordinary(), Authority::ordinary());
    let group = [old.certificate.clone(), new.certificate.clone()];
    let mut crl_set = CrlSet::default();
    let signed = List::default().number(1).entries(&[&[1]]).signed(&new);
    let lists = check_crls(&source("a"), &[signed], &group, now()).unwrap();
    crl_set.admit(source("a"), lists, NOW);
    let index = crl_set.index(&Standing::of(&group)).index;
    assert_eq!(index.status(&old.name, new.key(), &[2], NOW), Status::Good);
    assert_eq!(
        index.status(&old.name, old.key(), &[2], NOW),
        Status::Unknown
    );
    assert_eq!(
        index.status(&old.name, old.key(), &[1], NOW),
        Status::Revoked
    );
}
