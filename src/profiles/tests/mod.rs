//! The store: what it keeps, what it refuses, and what it says of a file that is not what it was.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use tempfile::TempDir;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::*;
use crate::limits::PROFILE_VERSIONS_KEPT;

mod model;

struct StoreFixture {
    folder: TempDir,
    store: RedbStore,
}

impl StoreFixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = RedbStore::of(&folder.path().join("state"));
        Self { folder, store }
    }

    fn path(&self) -> &Path {
        self.store.file().unwrap()
    }

    fn change(&self, change: Change<'_>) -> Result<Changed, StoreError> {
        self.store.change(&change, &mut |_| true)
    }

    fn put(&self, name: &str, text: &str, expect: Option<u64>) -> Result<Changed, StoreError> {
        self.change(Change::Put(new(name, text, expect)))
    }

    fn versions(&self, name: &str) -> Vec<u64> {
        let history = self.store.read(name, None).unwrap().history;
        history.iter().map(|entry| entry.version).collect()
    }
}

fn new<'c>(name: &'c str, text: &'c str, expect: Option<u64>) -> NewVersion<'c> {
    NewVersion {
        name,
        text,
        who: "ann (uid 1000)",
        note: "a reason",
        expect,
    }
}

fn said<T: std::fmt::Debug>(result: Result<T, StoreError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn a_look_at_a_store_that_is_not_there_makes_none() {
    let fixture = StoreFixture::new();
    assert_eq!(fixture.store.overview().unwrap(), Overview::default());
    assert_eq!(fixture.store.assigned().unwrap(), None);
    assert_eq!(fixture.store.newest().unwrap(), []);
    assert!(said(fixture.store.read("corp", None)).contains("no profile named \"corp\""));
    assert!(!fixture.folder.path().join("state").exists());
}

#[test]
fn versions_are_kept_with_who_and_when() {
    let fixture = StoreFixture::new();
    let first = fixture.put("corp", "one", None).unwrap();
    assert_eq!(
        (first.version, first.replaced, first.stored),
        (1, None, true)
    );
    let second = fixture.put("corp", "two\n\u{e9}", None).unwrap();
    assert_eq!((second.version, second.replaced), (2, Some(1)));
    let same = fixture.put("corp", "two\n\u{e9}", None).unwrap();
    assert_eq!((same.version, same.stored), (2, false));

    let newest = fixture.store.read("corp", None).unwrap();
    assert_eq!((newest.version, &*newest.text), (2, "two\n\u{e9}"));
    assert_eq!(
        (&*newest.who, &*newest.note),
        ("ann (uid 1000)", "a reason")
    );
    let when = OffsetDateTime::parse(&newest.when, &Rfc3339).unwrap();
    assert!((OffsetDateTime::now_utc() - when).whole_seconds().abs() < 60);
    assert_eq!(fixture.versions("corp"), [2, 1]);
    assert_eq!(fixture.store.read("corp", Some(1)).unwrap().text, "one");
    let missing = said(fixture.store.read("corp", Some(3)));
    assert!(missing.contains("no version 3 of profile corp") && missing.contains("2, 1"));

    fixture.put("b", "three", None).unwrap();
    let overview = fixture.store.overview().unwrap();
    let lines: Vec<_> = overview
        .profiles
        .iter()
        .map(|p| (&*p.name, p.version, p.versions))
        .collect();
    assert_eq!(lines, [("b", 1, 1), ("corp", 2, 2)]);
    let texts: Vec<_> = fixture
        .store
        .newest()
        .unwrap()
        .into_iter()
        .map(|p| p.text)
        .collect();
    assert_eq!(texts, ["three", "two\n\u{e9}"]);
    let mode = fs::metadata(fixture.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn two_administrators_do_not_overwrite_each_other() {
    let fixture = StoreFixture::new();
    fixture.put("corp", "one", Some(0)).unwrap();
    assert!(
        said(fixture.put("corp", "other", Some(0)))
            .contains("the newest version of profile corp is 1, and not version 0")
    );
    fixture.put("corp", "two", Some(1)).unwrap();
    assert!(said(fixture.put("corp", "three", Some(1))).contains("is 2, and not version 1"));
    assert!(
        said(fixture.put("new", "x", Some(4)))
            .contains("profile new does not exist, and not version 4")
    );
    let delete = Change::Delete {
        name: "corp",
        expect: Some(1),
    };
    assert!(said(fixture.change(delete)).contains("is 2, and not version 1"));
    assert_eq!(fixture.versions("corp"), [2, 1]);
}

#[test]
fn what_is_not_agreed_to_is_not_kept() {
    let fixture = StoreFixture::new();
    let mut asked = Vec::new();
    let change = Change::Put(new("corp", "one", None));
    let refused = fixture.store.change(&change, &mut |changed| {
        asked.push(changed.version);
        false
    });
    assert!(matches!(refused, Err(StoreError::Refused)));
    assert_eq!(asked, [1]);
    assert_eq!(fixture.store.overview().unwrap(), Overview::default());
    // The number was not given.
    assert_eq!(fixture.put("corp", "two", None).unwrap().version, 1);
    // What changes nothing asks nobody.
    let change = Change::Put(new("corp", "two", None));
    assert!(
        !fixture
            .store
            .change(&change, &mut |_| panic!("asked"))
            .unwrap()
            .stored
    );
}

#[test]
fn one_profile_is_assigned_and_stays() {
    let fixture = StoreFixture::new();
    assert!(said(fixture.change(Change::Assign(Some("corp")))).contains("no profile named"));
    fixture.put("corp", "one", None).unwrap();
    fixture.put("lab", "x", None).unwrap();
    let assigned = fixture.change(Change::Assign(Some("corp"))).unwrap();
    assert_eq!(
        (assigned.version, assigned.stored, assigned.assigned_before),
        (1, true, None)
    );
    assert!(!fixture.change(Change::Assign(Some("corp"))).unwrap().stored);
    assert!(fixture.put("corp", "two", None).unwrap().assigned);
    assert!(!fixture.put("lab", "y", None).unwrap().assigned);
    let newest = fixture.store.assigned().unwrap().unwrap();
    assert_eq!(
        (&*newest.name, newest.version, &*newest.text),
        ("corp", 2, "two")
    );

    let delete = Change::Delete {
        name: "corp",
        expect: None,
    };
    assert!(said(fixture.change(delete)).contains("profile corp is assigned"));
    let other = fixture.change(Change::Assign(Some("lab"))).unwrap();
    assert_eq!(other.assigned_before.as_deref(), Some("corp"));
    fixture.change(delete).unwrap();
    assert!(said(fixture.change(delete)).contains("no profile named"));
    fixture.change(Change::Assign(None)).unwrap();
    assert_eq!(fixture.store.assigned().unwrap(), None);
    // A number is never given to two texts.
    assert_eq!(fixture.put("corp", "three", None).unwrap().version, 3);
}

#[test]
fn the_oldest_versions_go() {
    let fixture = StoreFixture::new();
    let last = PROFILE_VERSIONS_KEPT as u64 + 3;
    for number in 1..=last {
        fixture
            .put("corp", &format!("text {number}"), None)
            .unwrap();
    }
    let versions = fixture.versions("corp");
    assert_eq!(versions.len(), PROFILE_VERSIONS_KEPT);
    assert_eq!((versions[0], *versions.last().unwrap()), (last, 4));
    assert!(fixture.store.read("corp", Some(3)).is_err());
    assert_eq!(fixture.store.read("corp", Some(4)).unwrap().text, "text 4");
}

#[test]
fn what_cannot_be_kept_is_refused_by_name() {
    let fixture = StoreFixture::new();
    for name in [
        "",
        ".",
        "..",
        "a/b",
        "a b",
        "-a",
        "é",
        "a\0",
        "a\n",
        &"a".repeat(65),
    ] {
        assert!(
            said(fixture.put(name, "x", None)).contains("cannot name a profile"),
            "{name:?}"
        );
        assert!(check_name(name).is_err());
    }
    for name in ["a", "A.b_c-9", "_x", &"a".repeat(64)] {
        fixture.put(name, "x", None).unwrap();
    }
    let long = "x".repeat(PROFILE_TEXT_MAX + 1);
    assert!(said(fixture.put("a", &long, None)).contains("4194304 is the most"));
    fixture.put("a", &long[1..], None).unwrap();
    let (note, who) = ("n".repeat(1025), "w".repeat(257));
    let bad = |who, note| {
        fixture.change(Change::Put(NewVersion {
            who,
            note,
            ..new("a", "y", None)
        }))
    };
    assert!(said(bad("ann", &*note)).contains("the note has 1025 bytes"));
    assert!(said(bad(&*who, "")).contains("the name of the author has 257 bytes"));
    assert!(said(bad("ann", "two\nlines")).contains("control characters"));
    assert!(said(bad("\u{1b}[2J", "")).contains("control characters"));
    assert_eq!(fixture.versions("a"), [2, 1]);
}

#[test]
fn a_damaged_file_is_named_with_a_remedy() {
    let fixture = StoreFixture::new();
    for number in 0..20 {
        fixture
            .put("corp", &format!("{number}").repeat(2000), None)
            .unwrap();
    }
    fixture.change(Change::Assign(Some("corp"))).unwrap();
    let whole = fs::read(fixture.path()).unwrap();
    let look = |bytes: &[u8], what: &str| {
        fs::write(fixture.path(), bytes).unwrap();
        let read = fixture.store.assigned();
        if let Ok(Some(profile)) = &read {
            // What is damaged was not looked at, or redb has mended it.
            assert_eq!(profile.text, "19".repeat(2000), "{what}");
        }
        let overview = fixture.store.overview().map(drop);
        let put = fixture.put("corp", "new", None).map(drop);
        for error in [read.map(drop), overview, put]
            .into_iter()
            .filter_map(Result::err)
        {
            let error = error.to_string();
            assert!(
                error.contains("profiles.redb") && error.contains("damaged"),
                "{what}: {error}"
            );
            assert!(error.contains("move it away"), "{what}: {error}");
        }
    };
    look(b"this was a store once", "text");
    look(&vec![0; 100_000], "zeros");
    look(&vec![0xff; 100_000], "ones");
    for part in 1..64 {
        look(&whole[..whole.len() * part / 64], "cut short");
        let mut flipped = whole.clone();
        let at = whole.len() * part / 64;
        flipped[at..at + 64]
            .iter_mut()
            .for_each(|byte| *byte ^= 0x5a);
        look(&flipped, "flipped");
    }
    // Certainly wrong: nothing is read out of it.
    fs::write(fixture.path(), b"this was a store once").unwrap();
    assert!(matches!(
        fixture.store.assigned(),
        Err(StoreError::Damaged { .. })
    ));
    fs::write(fixture.path(), &whole).unwrap();
    assert_eq!(fixture.store.assigned().unwrap().unwrap().version, 20);
}

#[test]
fn an_empty_file_is_an_empty_store() {
    let fixture = StoreFixture::new();
    fs::create_dir(fixture.folder.path().join("state")).unwrap();
    fs::write(fixture.path(), b"").unwrap();
    assert_eq!(fixture.store.overview().unwrap(), Overview::default());
    assert_eq!(fixture.put("corp", "x", None).unwrap().version, 1);
}

#[test]
fn what_a_killed_process_leaves_is_read_without_writing() {
    let fixture = StoreFixture::new();
    fixture.put("corp", "one", None).unwrap();
    fixture.change(Change::Assign(Some("corp"))).unwrap();
    let mut killed = Vec::new();
    let change = Change::Put(new("corp", "two", None));
    let copied = fixture.store.change(&change, &mut |_| {
        killed = fs::read(fixture.path()).unwrap();
        true
    });
    copied.unwrap();
    fs::write(fixture.path(), &killed).unwrap();
    assert_eq!(fixture.store.assigned().unwrap().unwrap().text, "one");
    assert_eq!(fixture.store.overview().unwrap().profiles[0].versions, 1);
    assert!(
        fs::read(fixture.path()).unwrap() == killed,
        "a look writes nothing"
    );
    assert_eq!(fixture.put("corp", "three", None).unwrap().version, 2);
    assert_eq!(fixture.versions("corp"), [2, 1]);
}

#[test]
fn a_store_in_use_is_waited_for() {
    let fixture = StoreFixture::new();
    fixture.put("corp", "one", None).unwrap();
    let (store, (inside, entered)) = (fixture.store.clone(), std::sync::mpsc::channel());
    let slow = std::thread::spawn(move || {
        let change = Change::Put(new("corp", "two", None));
        store.change(&change, &mut |_| {
            inside.send(()).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(300));
            true
        })
    });
    entered.recv().unwrap();
    let since = Instant::now();
    assert_eq!(fixture.store.read("corp", None).unwrap().version, 2);
    assert!(
        since.elapsed().as_millis() >= 200,
        "read before the change was whole"
    );
    slow.join().unwrap().unwrap();
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let fixture = StoreFixture::new();
    // A file where the folder should be: also root cannot write there.
    fs::write(fixture.folder.path().join("state"), b"").unwrap();
    let error = said(fixture.put("corp", "one", None));
    assert!(error.contains("state"), "{error}");
    fs::remove_file(fixture.folder.path().join("state")).unwrap();
    fs::create_dir(fixture.folder.path().join("state")).unwrap();
    fs::create_dir(fixture.path()).unwrap();
    let error = said(fixture.put("corp", "one", None));
    assert!(error.contains("profiles.redb"), "{error}");
    fs::set_permissions(fixture.path(), Permissions::from_mode(0o700)).unwrap();
}
