//! The self-signed certificate: kept while it fits, and replaced before it ends.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use time::macros::datetime;

use super::*;
use crate::certs::key_matches;
use crate::certs::pem::key_to_pem;

/// Ensures the certificate like a start that finds nothing wrong.
fn ensure_self_signed_at(
    state_dir: &Path,
    names: &[String],
    now: OffsetDateTime,
) -> Result<SelfSigned, CertError> {
    let plan = Plan::at(state_dir, names, now)?;
    plan.prepare(state_dir)?.commit()?;
    Ok(plan.shown)
}

/// Every file of a folder with its content.
fn files_of(folder: &Path) -> std::collections::BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    let read = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().unwrap();
        (name, fs::read(entry.path()).unwrap())
    };
    entries.map(read).collect()
}

/// Returns whether each content that was there is there still, under whatever name.
fn assert_nothing_lost(before: &std::collections::BTreeMap<String, Vec<u8>>, folder: &Path) {
    let after = files_of(folder);
    for (name, content) in before {
        let is_there = after.values().any(|other| other == content);
        assert!(is_there, "{name} is lost of {:?}", after.keys());
    }
}

#[test]
fn a_key_that_is_missing_is_named_once() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path();
    let names = ["tunnel.example.com".to_owned()];
    let now = OffsetDateTime::now_utc();
    let lost = || {
        let plan = Plan::at(state, &names, now).unwrap();
        plan.prepare(state).unwrap().commit().unwrap();
        plan.changes.lost
    };
    assert!(lost().is_empty(), "there was none before");
    assert!(lost().is_empty());
    let key = state.join(KEY_FILE);
    fs::remove_file(&key).unwrap();
    assert_eq!(lost(), std::slice::from_ref(&key));
    assert!(lost().is_empty(), "the new one is there");
    // Another key in its place is as good as none.
    let other = self_signed(&names, 9).unwrap();
    fs::write(&key, key_to_pem(&other.key)).unwrap();
    assert_eq!(lost(), [key]);
}

#[test]
fn the_key_is_one_and_what_fits_no_longer_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let names = ["Tunnel.example.com".to_owned(), "192.0.2.1".to_owned()];
    let ensure = |names: &[String]| {
        ensure_self_signed_at(&state, names, OffsetDateTime::now_utc()).map(|found| found.current)
    };
    let (first, key) = ensure(&names).unwrap();
    let key_path = state.join(KEY_FILE);
    let mode = fs::metadata(&key_path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(key_matches(&first[0], &key));
    let reordered = ["192.0.2.1".to_owned(), "tunnel.example.com".to_owned()];
    assert_eq!(
        ensure(&reordered).unwrap(),
        (first.clone(), key.clone_key())
    );

    // For another name: the same key, and the one for the first name is used again.
    let before = files_of(&state);
    let (renamed, same) = ensure(&names[..1]).unwrap();
    assert_ne!(renamed, first);
    assert_eq!(same, key);
    assert_nothing_lost(&before, &state);
    let before = files_of(&state);
    assert_eq!(ensure(&names).unwrap(), (first.clone(), key.clone_key()));
    assert_nothing_lost(&before, &state);

    // A restore that brought the key alone.
    fs::remove_file(state.join(CERTIFICATE_FILE)).unwrap();
    assert_eq!(ensure(&names[..1]).unwrap().1, key);

    // Another key in the place of the first: it is kept, and so is what it replaced.
    let other = self_signed(&names[..1], 1).unwrap();
    fs::write(&key_path, key_to_pem(&other.key)).unwrap();
    let before = files_of(&state);
    let (chain, own) = ensure(&names[..1]).unwrap();
    assert!(key_matches(&chain[0], &own));
    assert_nothing_lost(&before, &state);

    // Broken by somebody else: said, not replaced.
    fs::write(&key_path, "nonsense").unwrap();
    let error = ensure(&names[..1]).unwrap_err().to_string();
    assert!(error.contains("server-self-signed.key"), "{error}");
    assert_eq!(fs::read(&key_path).unwrap(), b"nonsense");
    assert!(self_signed(&[], 1).is_err());
}

#[test]
fn a_plan_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let names = ["tunnel.example.com".to_owned()];
    let plan = Plan::at(&state, &names, START).unwrap();
    assert!(!state.exists());
    let prepared = plan.prepare(&state).unwrap();
    assert_eq!(files_of(&state).len(), 2);
    drop(prepared);
    assert!(files_of(&state).is_empty());
    ensure_self_signed_at(&state, &names, START).unwrap();
    let before = files_of(&state);
    let other = ["other.example.com".to_owned()];
    for (names, days) in [(&names, 800), (&names, 9000), (&names, -9000), (&other, 0)] {
        let at = START + Duration::days(days);
        drop(
            Plan::at(&state, names, at)
                .unwrap()
                .prepare(&state)
                .unwrap(),
        );
        assert_eq!(files_of(&state), before);
    }
}

/// A clock that jumps as it likes: each start finds the one key, loses nothing, and shows again what it showed before.
#[test]
fn no_clock_loses_a_key_or_a_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path();
    let names = ["tunnel.example.com".to_owned()];
    let first = ensure_self_signed_at(state, &names, START).unwrap().current;
    let at = |moment| {
        let before = files_of(state);
        let found = ensure_self_signed_at(state, &names, moment).unwrap();
        assert_eq!(found.current.1, first.1, "the key");
        assert_nothing_lost(&before, state);
        found.current
    };
    // Behind: what is there is shown as it is.
    for behind in [
        OffsetDateTime::UNIX_EPOCH,
        START - Duration::days(400),
        START - Duration::days(1),
    ] {
        assert_eq!(at(behind), first);
        assert_eq!(files_of(state).len(), 2);
    }
    // Ahead: one that can be used, and back.
    let ahead = START + Duration::days(900);
    let later = at(ahead);
    assert_ne!(later, first);
    assert!(Term::of(&later.0).contains(ahead.unix_timestamp() as u64));
    assert_eq!(at(START + Duration::DAY), first);
    assert_eq!(at(ahead + Duration::DAY), later);
    let mut sizes = Vec::new();
    for _ in 0..4 {
        for round in 0..60_i64 {
            let day = (round * 7919) % 30_000 - 15_000;
            at(START + Duration::days(day));
        }
        sizes.push(files_of(state).len());
    }
    assert_eq!(sizes[2], sizes[3], "it comes to rest: {sizes:?}");
    assert_eq!(at(START + Duration::DAY), first);
}

/// A crash between any two of the steps: the next start has the key, and nothing is lost.
#[test]
fn a_commit_that_is_cut_short_loses_nothing() {
    let names = ["tunnel.example.com".to_owned()];
    let other = ["other.example.com".to_owned()];
    let end = START + Duration::days(DAYS);
    let changes: [(&[String], OffsetDateTime); 4] = [
        (&names, end - Duration::DAY),
        (&names, end + Duration::days(DAYS)),
        (&other, START),
        (&names, end + Duration::DAY),
    ];
    for (names_then, moment) in changes {
        for step in 0..6 {
            let folder = tempfile::tempdir().unwrap();
            let state = folder.path();
            let first = ensure_self_signed_at(state, &names, START).unwrap().current;
            ensure_self_signed_at(state, &names, end - Duration::days(2)).unwrap();
            let before = files_of(state);
            let plan = Plan::at(state, names_then, moment).unwrap();
            let mut prepared = plan.prepare(state).unwrap();
            prepared.pending.truncate(step);
            if step < 5 {
                prepared.remove.clear();
            }
            prepared.commit().unwrap();
            assert_nothing_lost(&before, state);
            let found = ensure_self_signed_at(state, names_then, moment).unwrap();
            assert_eq!(found.current.1, first.1);
            assert_nothing_lost(&before, state);
        }
    }
}

const START: OffsetDateTime = datetime!(2026-01-01 0:00 UTC);

fn pem(state: &Path, file: &str) -> Vec<u8> {
    fs::read(state.join(file)).unwrap()
}

#[test]
fn the_next_one_is_made_ahead_and_takes_its_place_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path();
    let names = ["tunnel.example.com".to_owned()];
    let at = |moment| ensure_self_signed_at(state, &names, moment).unwrap();
    let first = at(START);
    assert!(first.next.is_none());
    let end = START + Duration::days(DAYS);
    let ahead = end - Duration::days(SELF_SIGNED_NEXT_DAYS);
    let found = at(ahead);
    assert_eq!(found.current, first.current);
    assert!(found.next.is_none(), "it has that many days left");
    assert!(!state.join(NEXT_CERTIFICATE_FILE).exists());

    let found = at(ahead + Duration::SECOND);
    let next = found.next.unwrap();
    assert_eq!(found.current, first.current);
    assert!(key_matches(&next.0[0], &next.1));
    assert_eq!(
        Term::of(&next.0).not_before as i64,
        (ahead - CLOCK_SKEW).unix_timestamp() + 1
    );
    let mode = fs::metadata(state.join(NEXT_KEY_FILE))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let pinned = pem(state, NEXT_CERTIFICATE_FILE);
    let later = at(end - Duration::SECOND);
    assert_eq!(
        (later.current, later.next.as_ref()),
        (found.current, Some(&next))
    );

    // The second in which it ends.
    let found = at(end);
    assert_eq!((&found.current, found.next), (&next, None));
    assert_eq!(pem(state, CERTIFICATE_FILE), pinned, "what was distributed");
    assert!(!state.join(NEXT_CERTIFICATE_FILE).exists() && !state.join(NEXT_KEY_FILE).exists());
    assert_eq!(at(end + Duration::DAY).current, next);
    // A node that was off for years has no next one in time.
    let late = at(end + Duration::days(3 * DAYS));
    assert_ne!(late.current, next);
    assert_eq!(late.current.1, first.current.1, "the key that is pinned");
    assert!(late.next.is_none());
}

#[test]
fn a_move_that_was_cut_short_is_ended() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path();
    let names = ["tunnel.example.com".to_owned()];
    let end = START + Duration::days(DAYS);
    ensure_self_signed_at(state, &names, START).unwrap();
    let found = ensure_self_signed_at(state, &names, end - Duration::DAY).unwrap();
    let next = found.next.unwrap();
    // By a program that moved the key first, and with a key of its own for each.
    fs::rename(state.join(NEXT_KEY_FILE), state.join(KEY_FILE)).unwrap();
    let found = ensure_self_signed_at(state, &names, end).unwrap();
    assert_eq!(found.current, next);
    assert!(!state.join(NEXT_CERTIFICATE_FILE).exists());
}

#[test]
fn other_names_leave_no_next_one_of_the_old() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path();
    let names = ["tunnel.example.com".to_owned()];
    let late = START + Duration::days(DAYS - 1);
    ensure_self_signed_at(state, &names, START).unwrap();
    assert!(
        ensure_self_signed_at(state, &names, late)
            .unwrap()
            .next
            .is_some()
    );
    let other = ["other.example.com".to_owned()];
    let found = ensure_self_signed_at(state, &other, late).unwrap();
    assert!(found.next.is_none());
    assert!(!state.join(NEXT_CERTIFICATE_FILE).exists() && !state.join(NEXT_KEY_FILE).exists());
}
