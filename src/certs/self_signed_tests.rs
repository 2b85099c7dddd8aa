//! The self-signed certificate: kept while it fits, and replaced before it ends.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use time::macros::datetime;

use super::*;
use crate::certs::{KeyType, MakeCa, issue, make_ca};

#[test]
fn the_self_signed_certificate_is_kept_until_it_no_longer_fits() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let names = ["Tunnel.example.com".to_owned(), "192.0.2.1".to_owned()];
    let ensure = |names: &[String]| ensure_self_signed(&state, names).map(|found| found.current);
    let (first, first_key) = ensure(&names).unwrap();
    let key_path = state.join("server-self-signed.key");
    assert_eq!(
        fs::metadata(&key_path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert!(key_matches(&first[0], &first_key));

    let reordered = ["192.0.2.1".to_owned(), "tunnel.example.com".to_owned()];
    assert_eq!(ensure(&reordered).unwrap(), (first.clone(), first_key));
    let (renamed, renamed_key) = ensure(&names[..1]).unwrap();
    assert_ne!(renamed, first);
    assert!(key_matches(&renamed[0], &renamed_key));

    // A start that was cut short between the two files: the key is new, the certificate is old.
    let other = self_signed(&names[..1], 1).unwrap();
    fs::write(&key_path, crate::certs::make::key_to_pem(&other.key)).unwrap();
    let (healed, healed_key) = ensure(&names[..1]).unwrap();
    assert!(key_matches(&healed[0], &healed_key));

    // Expired.
    let past = Validity::between(
        datetime!(2020-01-01 0:00 UTC),
        datetime!(2020-02-01 0:00 UTC),
    )
    .unwrap();
    let mut request = IssueRequest::new(Usage::Server, "tunnel.example.com", past);
    request.dns = vec!["tunnel.example.com".into()];
    let ca = make_ca(&MakeCa {
        common_name: "root".into(),
        days: 10,
        key_type: KeyType::P256,
    })
    .unwrap();
    let expired = issue(&ca, &request).unwrap();
    fs::remove_file(&key_path).unwrap();
    fs::remove_file(state.join("server-self-signed.pem")).unwrap();
    expired
        .write(&state.join("server-self-signed.pem"), &key_path)
        .unwrap();
    assert_ne!(ensure(&names[..1]).unwrap().0, expired.chain);

    // Broken by somebody else: said, not replaced.
    fs::write(&key_path, "nonsense").unwrap();
    assert!(
        ensure(&names[..1])
            .unwrap_err()
            .to_string()
            .contains("server-self-signed.key")
    );
    assert_eq!(fs::read(&key_path).unwrap(), b"nonsense");
    assert!(self_signed(&[], 1).is_err());
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
