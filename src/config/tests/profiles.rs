//! Profiles by themselves, in the store, and a node without one.

use super::*;
use crate::profiles::{Change, NewVersion, StoreError, store_of};

/// The node's part of a config file.
const NODE: &str = "state_dir = 'state'\n[admin]\nlisten = '127.0.0.1:9902'\n";

/// The least profile with a name.
fn named(name: &str) -> String {
    format!("[profile]\nname = '{name}'\n{LEAST}")
}

fn place(text: &str) -> Scratch {
    let place = Scratch::new();
    std::fs::write(&place.file, text).unwrap();
    place
}

fn text<'t>(text: &'t str, name: Option<&'t str>) -> ProfileText<'t> {
    ProfileText {
        text,
        shown: Path::new("new.toml"),
        name,
        version: None,
    }
}

fn put(place: &Scratch, name: &str, text: &str) -> Result<(), StoreError> {
    let store = store_of(&place.path("state"));
    let new = NewVersion {
        name,
        text,
        who: "ann",
        note: "",
        expect: None,
    };
    store.change(&Change::Put(new), &mut |_| true)?;
    store.change(&Change::Assign(Some(name)), &mut |_| true)?;
    Ok(())
}

#[test]
fn a_file_without_a_profile_is_of_an_unconfigured_node() {
    let place = place(NODE);
    let config = load(&place.file).unwrap();
    assert_eq!(config.profile, Profile::none());
    assert_eq!(config.state_dir, place.path("state"));
    assert!(
        config
            .summary()
            .to_string()
            .contains("none: the node is unconfigured")
    );
    assert!(!place.path("state").exists(), "a look makes nothing");
    assert!(parse(LEAST, &place.file).unwrap().profile.origin == Origin::File);
}

#[test]
fn the_assigned_profile_takes_the_place_of_the_files() {
    let place = place(NODE);
    put(&place, "corp", &named("corp")).unwrap();
    let config = load(&place.file).unwrap();
    let mut expected = parse(&format!("{NODE}{}", named("corp")), &place.file).unwrap();
    expected.profile.origin = Origin::Store { version: 1 };
    assert_eq!(config, expected);
    // Paths start where those of the config file do.
    assert_eq!(
        config.profile.device_auth.group_certificates,
        [place.path("group-ca.pem")]
    );
    let summary = config.summary().to_string();
    assert!(summary.contains("corp version 1 of the store"), "{summary}");
    // A profile in the file counts, and the store is not asked.
    std::fs::write(&place.file, format!("{NODE}{LEAST}")).unwrap();
    std::fs::write(place.path("state/profiles.redb"), "not a store").unwrap();
    assert_eq!(load(&place.file).unwrap().profile.origin, Origin::File);
    std::fs::write(&place.file, NODE).unwrap();
    let error = load(&place.file).unwrap_err().to_string();
    assert!(
        error.contains("profiles.redb is damaged") && error.contains("; remedy: put a backup"),
        "{error}"
    );
}

#[test]
fn errors_of_a_stored_profile_have_its_name_version_and_line() {
    let place = place(NODE);
    let wrong = named("corp")
        .replace("\"wiki\"\n[[", "\"wiki\"\nservice = 3\n[[")
        .replace("service = \"wiki\"", "service = \"wik\"");
    put(&place, "corp", &wrong).unwrap();
    let error = load(&place.file).unwrap_err().to_string();
    let line = wrong
        .lines()
        .position(|line| line.contains("\"wik\""))
        .unwrap()
        + 1;
    let start = format!("profile corp version 1:{line}: profile.rule[0].service: ");
    assert!(
        error.lines().any(|said| said.starts_with(&start)),
        "{error}"
    );
    // The node's part counts without it.
    let node = load_node(&place.file).unwrap();
    assert!(node.profile.is_none());
    assert_eq!(
        node.admin,
        AdminListen::Tcp("127.0.0.1:9902".parse().unwrap())
    );
}

#[test]
fn a_profile_by_itself_has_nothing_of_the_node() {
    let place = place(NODE);
    let node = load_node(&place.file).unwrap();
    let check = |profile: &str, name: Option<&str>| {
        with_profile(&node, &place.file, &text(profile, name)).map_err(|error| error.to_string())
    };
    let config = check(&named("corp"), Some("corp")).unwrap();
    assert_eq!(
        (&*config.profile.name, config.admin),
        ("corp", node.admin.clone())
    );
    assert_eq!(config.files, [place.path("group-ca.pem")].into());
    let error = check(&format!("state_dir = 'x'\n{}", named("corp")), None).unwrap_err();
    assert!(
        error.starts_with("new.toml:1: state_dir: unknown key"),
        "{error}"
    );
    let error = check(LEAST, None).unwrap_err();
    assert!(error.contains("profile.name: is missing"), "{error}");
    let error = check(&named("corp"), Some("lab")).unwrap_err();
    assert!(
        error.starts_with("new.toml:2: profile.name: this is profile corp, but lab is expected"),
        "{error}"
    );
    let error = check(&named("a b"), None).unwrap_err();
    assert!(
        error.contains(
            "profile.name: \"a b\" cannot name a profile in the store; remedy: take 1 to 64"
        ),
        "{error}"
    );
    for (wrong, said) in [
        ("", "profile.name: is missing"),
        ("[profile", "not valid TOML"),
        ("profile = 1", "must be a table"),
    ] {
        assert!(check(wrong, None).unwrap_err().contains(said), "{wrong}");
    }
}

#[test]
fn the_nodes_part_is_read_whatever_the_profile_says() {
    let place = place(&format!("{NODE}[profile]\nname = 3\n[profile.colour]\n"));
    assert!(load(&place.file).is_err());
    assert!(load_node(&place.file).unwrap().profile.is_none());
    std::fs::write(&place.file, "[engine]\ncores = 99\n").unwrap();
    assert!(
        load_node(&place.file)
            .unwrap_err()
            .to_string()
            .contains("engine.cores")
    );
}

#[test]
fn a_profile_that_is_too_large_is_not_read() {
    let place = place(NODE);
    let file = place.path("large.toml");
    std::fs::write(&file, vec![b'#'; 10 << 20]).unwrap();
    let error = read_profile(&file).unwrap_err().to_string();
    assert!(
        error.contains("large.toml: is larger than 4194304 bytes"),
        "{error}"
    );
    std::fs::write(&file, "# small").unwrap();
    assert_eq!(read_profile(&file).unwrap(), "# small");
    assert!(read_profile(&place.path("none.toml")).is_err());
}
