//! Tickets and their keys, and what a session may be resumed under.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ProducesTickets, ResolvesServerCertUsingSni};

use super::*;
use crate::config;
use crate::limits::{TICKET_BYTES_MAX, TICKET_CLOCK_SKEW, TICKET_KEYS_MAX};
use crate::tls::resumption::CertificateEnds;
use crate::tls::scope::now;
use rustls::pki_types::CertificateDer;

const HOUR: u64 = 3600;
const SESSION: &[u8] = b"what rustls wants to be kept";

fn group(names: &[&str]) -> Vec<CertificateDer<'static>> {
    let der = |name: &&str| CertificateDer::from(name.as_bytes().to_vec());
    names.iter().map(der).collect()
}

fn scope(profile: &str, names: &[&str]) -> Scope {
    Scope::new(profile, &group(names))
}

/// A file with one key that has long begun.
fn key_file(folder: &Path) -> std::path::PathBuf {
    let file = folder.join("tickets.key");
    TicketKeys::generate(1000)
        .unwrap()
        .write_new(&file)
        .unwrap();
    file
}

#[test]
fn nodes_with_one_file_open_each_other_s_tickets() {
    let folder = tempfile::tempdir().unwrap();
    let file = key_file(folder.path());
    let node =
        |profile, names: &[&str]| Tickets::new(scope(profile, names), HOUR, Some(&file)).unwrap();
    let ticket = node("corp", &["a", "b"]).encrypt(SESSION).unwrap();
    for (profile, names, opens) in [
        ("corp", &["a", "b"][..], true),
        ("corp", &["b", "a"], true),
        ("corp", &["b", "a", "b"], true),
        ("lab", &["a", "b"], false),
        ("corp", &["a"], false),
        ("corp", &["a", "b", "c"], false),
        ("corpa", &["b"], false),
    ] {
        let opened = node(profile, names).decrypt(&ticket);
        assert_eq!(
            opened.as_deref(),
            opens.then_some(SESSION),
            "{profile} {names:?}"
        );
    }
    let alone = Tickets::new(scope("corp", &["a", "b"]), HOUR, None).unwrap();
    assert_eq!(alone.decrypt(&ticket), None);
}

#[test]
fn a_changed_ticket_does_not_open() {
    let tickets = Tickets::new(scope("corp", &["a"]), HOUR, None).unwrap();
    let ticket = tickets.encrypt(SESSION).unwrap();
    assert_eq!(tickets.decrypt(&ticket).as_deref(), Some(SESSION));
    assert_ne!(tickets.encrypt(SESSION).unwrap(), ticket, "the same nonce");
    for at in 0..ticket.len() {
        let mut changed = ticket.clone();
        changed[at] ^= 1;
        assert_eq!(tickets.decrypt(&changed), None, "byte {at}");
        assert_eq!(tickets.decrypt(&ticket[..at]), None, "only {at} bytes");
    }
}

/// The client's chain is in a ticket, and a ticket has to fit the client's next hello.
#[test]
fn a_session_that_is_too_large_has_no_ticket() {
    let tickets = Tickets::new(scope("corp", &["a"]), 100, None).unwrap();
    let around = tickets.seal(&[], 1).unwrap().len();
    let most = vec![7; TICKET_BYTES_MAX - around];
    let ticket = tickets.seal(&most, 1).unwrap();
    assert_eq!(ticket.len(), TICKET_BYTES_MAX);
    assert_eq!(tickets.open(&ticket, 1).unwrap(), most);
    assert!(tickets.seal(&[&most[..], &[7]].concat(), 1).is_none());
}

#[test]
fn a_ticket_ends_with_its_lifetime_whatever_the_keys() {
    let tickets = Tickets::new(scope("corp", &["a"]), HOUR, None).unwrap();
    let at = 10 * HOUR;
    let ticket = tickets.seal(SESSION, at).unwrap();
    for (now, opens) in [
        (at - TICKET_CLOCK_SKEW - 1, false),
        (at - TICKET_CLOCK_SKEW, true),
        (at, true),
        (at + HOUR - 1, true),
        (at + HOUR, false),
    ] {
        assert_eq!(tickets.open(&ticket, now).is_some(), opens, "{now}");
    }
    assert_eq!(tickets.lifetime(), 3600);
}

#[test]
fn a_rotated_file_is_read_again_and_old_keys_open_until_they_are_retired() {
    let folder = tempfile::tempdir().unwrap();
    let file = key_file(folder.path());
    let tickets = Tickets::new(scope("corp", &["a"]), HOUR, Some(&file)).unwrap();
    let other = Tickets::new(scope("corp", &["a"]), HOUR, Some(&file)).unwrap();
    let old = tickets.encrypt(SESSION).unwrap();
    assert!(!tickets.refresh().unwrap(), "nothing has changed");

    let keys = TicketKeys::read(&file).unwrap();
    let (begun, now) = (now() - 1, now());
    let keys = keys.rotated(now, begun, HOUR).unwrap();
    assert_eq!(keys.keys().len(), 2);
    keys.replace(&file).unwrap();
    assert!(tickets.refresh().unwrap());
    assert!(!tickets.refresh().unwrap());
    let new = tickets.encrypt(SESSION).unwrap();
    assert_eq!(tickets.decrypt(&old).as_deref(), Some(SESSION));
    assert_eq!(other.decrypt(&new), None, "it has not read the file yet");
    other.refresh().unwrap();
    assert_eq!(other.decrypt(&new).as_deref(), Some(SESSION));

    // A lifetime later the first key has no ticket left, and goes with the next rotation.
    let later = begun + HOUR;
    let keys = keys.rotated(later, later + 300, HOUR).unwrap();
    assert_eq!(keys.keys().len(), 2);
    keys.replace(&file).unwrap();
    tickets.refresh().unwrap();
    assert_eq!(tickets.decrypt(&old), None);
    assert_eq!(tickets.decrypt(&new).as_deref(), Some(SESSION));
    // The newest key has not begun: it opens, and does not seal.
    assert_eq!(
        other.decrypt(&tickets.encrypt(SESSION).unwrap()).as_deref(),
        Some(SESSION)
    );
}

#[test]
fn a_broken_file_is_told_once_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = key_file(folder.path());
    let tickets = Tickets::new(scope("corp", &["a"]), HOUR, Some(&file)).unwrap();
    let ticket = tickets.encrypt(SESSION).unwrap();
    let good = std::fs::read(&file).unwrap();
    std::fs::write(&file, "# nothing\n").unwrap();
    assert!(tickets.refresh().is_err());
    assert!(!tickets.refresh().unwrap(), "told twice");
    assert_eq!(tickets.decrypt(&ticket).as_deref(), Some(SESSION));
    std::fs::remove_file(&file).unwrap();
    assert!(tickets.refresh().is_err());
    assert!(!tickets.refresh().unwrap(), "told twice");
    std::fs::write(&file, good).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert!(tickets.refresh().unwrap());
    assert_eq!(tickets.decrypt(&ticket).as_deref(), Some(SESSION));
}

#[test]
fn a_bad_file_of_keys_is_refused_with_its_place() {
    let file = Path::new("tickets.key");
    let key = "0123456789abcdef".repeat(4);
    let line = format!("2026-01-01T00:00:00Z {key}\n");
    assert!(TicketKeys::parse(&format!("# note\n\n{line}"), file).is_ok());
    let many: String = (0..=TICKET_KEYS_MAX)
        .map(|number| format!("2026-01-01T00:00:00Z {number:064x}\n"))
        .collect();
    for (text, part) in [
        (String::new(), "tickets.key: has no key"),
        (
            format!("2026-01-01T00:00:00Z {}\n", &key[..62]),
            "tickets.key:1: the key has 62 digits",
        ),
        (
            format!("{line}2026-01-01T00:00:00Z {key}00\n"),
            "tickets.key:2: the key has 66 digits",
        ),
        (
            format!("# x\n2026-01-01T00:00:00Z {}zz\n", &key[..62]),
            ":2: the key is not hexadecimal",
        ),
        (
            format!("2026-01-01T00:00:00Z {}é\n", &key[..62]),
            ":1: the key is not hexadecimal",
        ),
        (
            format!("yesterday {key}\n"),
            ":1: \"yesterday\" is not a time",
        ),
        (
            format!("1914-01-01T00:00:00Z {key}\n"),
            ":1: \"1914-01-01T00:00:00Z\" is not a time",
        ),
        (format!("{key}\n"), ":1: is not a time and a key"),
        (
            format!("2026-01-01T00:00:00Z {key} x\n"),
            ":1: is not a time and a key",
        ),
        (format!("{line}{line}"), ":2: the key is in the file twice"),
        (many, "the limit is"),
    ] {
        let error = TicketKeys::parse(&text, file).unwrap_err().to_string();
        assert!(
            error.contains(part) && error.contains("remedy: "),
            "{error}"
        );
        assert!(
            !error.contains(&key[..62]),
            "the key is in the message: {error}"
        );
    }
}

#[test]
fn a_file_of_keys_that_others_may_read_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = key_file(folder.path());
    let mode = std::fs::metadata(&file).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    for (mode, taken) in [
        (0o600, true),
        (0o400, true),
        (0o640, true),
        (0o644, false),
        (0o660, false),
        (0o602, false),
    ] {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        match TicketKeys::read(&file) {
            Ok(_) => assert!(taken, "{mode:o}"),
            Err(error) => {
                let text = error.to_string();
                let told = text.contains("tickets.key") && text.contains("chmod 0600");
                assert!(!taken && told, "{mode:o}: {text}");
            }
        }
    }
    std::fs::write(&file, "x".repeat(1 << 17)).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert!(
        TicketKeys::read(&file)
            .unwrap_err()
            .to_string()
            .contains("larger than")
    );
    assert!(
        TicketKeys::read(folder.path())
            .unwrap_err()
            .to_string()
            .contains("is a directory")
    );
}

#[test]
fn what_is_written_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = key_file(folder.path());
    let mut keys = TicketKeys::read(&file).unwrap();
    for turn in 0..2 * TICKET_KEYS_MAX as u64 {
        keys = keys.rotated(2000 + turn, 2000 + turn, HOUR).unwrap();
    }
    assert_eq!(keys.keys().len(), TICKET_KEYS_MAX);
    keys.replace(&file).unwrap();
    let again = TicketKeys::read(&file).unwrap();
    let pairs = |keys: &TicketKeys| -> Vec<(u64, [u8; 32])> {
        keys.keys()
            .iter()
            .map(|key| (key.from, *key.secret))
            .collect()
    };
    assert_eq!(pairs(&keys), pairs(&again));
    assert_eq!(
        again.keys().last().unwrap().from,
        2000 + 2 * TICKET_KEYS_MAX as u64 - 1
    );
}

#[test]
fn a_reload_keeps_what_is_still_in_scope() {
    let config = config::Resumption::default();
    let resumption = |config: &config::Resumption, names: &[&str]| {
        Resumption::new(config, scope("corp", names)).unwrap()
    };
    let before = resumption(&config, &["a"]);
    let opens = |from: &Resumption, by: &Resumption| {
        let ticket = from.tickets().unwrap().encrypt(SESSION).unwrap();
        by.tickets().unwrap().decrypt(&ticket).is_some()
    };
    let finds = |from: &Resumption, by: &Resumption| {
        let id = vec![7; 32];
        assert!(from.sessions().put(id.clone(), SESSION.to_vec()));
        by.sessions().get(&id).as_deref() == Some(SESSION)
    };
    let same = resumption(&config, &["a"]).continuing(&before).unwrap();
    assert!(opens(&before, &same) && finds(&before, &same));
    let other = resumption(&config, &["a", "b"])
        .continuing(&before)
        .unwrap();
    assert!(!opens(&before, &other) && !finds(&before, &other));
    let shorter = config::Resumption {
        lifetime: config.lifetime / 2,
        ..config
    };
    let shorter = resumption(&shorter, &["a"]).continuing(&before).unwrap();
    assert!(!opens(&before, &shorter) && !finds(&before, &shorter));
}

#[test]
fn what_began_under_a_certificate_ends_with_it() {
    let ends = CertificateEnds::new(vec![200, 100, 200]);
    for (begun, now, allowed) in [
        (50, 99, true),
        (99, 100, false),
        (100, 100, true),
        (100, 199, true),
        (150, 200, false),
        (99, 300, false),
        (200, 300, true),
    ] {
        assert_eq!(ends.allow(begun, now), allowed, "{begun} {now}");
    }
    assert!(CertificateEnds::default().allow(0, 100));
}

#[test]
fn sessions_of_a_certificate_that_a_reload_has_replaced_end_with_it_too() {
    let config = config::Resumption::default();
    let make = |end: u64| {
        let made = Resumption::new(&config, scope("corp", &["a"])).unwrap();
        made.ending([end])
    };
    let end = now() + 2;
    let before = make(end);
    let (first, second) = (
        applied(&before),
        applied(&make(u64::MAX).continuing(&before).unwrap()),
    );
    let id = |number: u8| vec![number; 32];
    let ticket = first.ticketer.encrypt(SESSION).unwrap();
    for number in [1, 2] {
        assert!(first.session_storage.put(id(number), SESSION.to_vec()));
    }
    let opens = |config: &ServerConfig| config.ticketer.decrypt(&ticket).is_some();
    let found = second.session_storage.get(&id(1));
    if now() < end {
        assert!(opens(&first) && opens(&second));
        assert_eq!(found.as_deref(), Some(SESSION));
    }
    while now() < end {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(!opens(&first) && !opens(&second));
    assert_eq!(second.session_storage.get(&id(1)), None);
    assert_eq!(second.session_storage.take(&id(2)), None);
    let ticket = second.ticketer.encrypt(SESSION).unwrap();
    assert_eq!(second.ticketer.decrypt(&ticket).as_deref(), Some(SESSION));
    assert!(second.session_storage.put(id(3), SESSION.to_vec()));
    let found = second.session_storage.take(&id(3));
    assert_eq!(found.as_deref(), Some(SESSION));
}

/// A configuration that resumes sessions so.
fn applied(resumption: &Resumption) -> ServerConfig {
    let mut config = ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(ResolvesServerCertUsingSni::new()));
    resumption.apply(&mut config);
    config
}
