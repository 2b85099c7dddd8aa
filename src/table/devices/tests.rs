//! The registry and the texts that it is read from.

use std::collections::HashMap;
use std::path::Path;

use super::*;
use crate::limits::{DEVICE_LINE_MAX, DEVICE_PROBLEMS_MAX, MAX_IDENTITY_NAME_BYTES};

fn parse(text: &str) -> Result<DeviceRegistry, RegistryError> {
    DeviceRegistry::parse(text, Path::new("devices.csv"))
}

fn problems(text: &str) -> Vec<(usize, String)> {
    let error = parse(text).expect_err("accepted");
    error
        .problems
        .into_iter()
        .map(|problem| (problem.line, problem.fault.to_string()))
        .collect()
}

#[test]
fn reads_states_users_comments_and_blank_lines() {
    let registry = parse(
        "\u{feff}Device,State,User\n# fleet\n\nlaptop-1,managed\r\n  phone-1 , blocked , ada \n\
         \"Smith, \"\"J\"\"\",managed,\"j, s\"\nlaptop-1,managed,\n",
    )
    .expect("a right registry");
    assert_eq!(registry.len(), 3);
    assert_eq!(registry.state("laptop-1"), DeviceState::Managed);
    assert_eq!(registry.state("phone-1"), DeviceState::Blocked);
    assert_eq!(registry.state("Smith, \"J\""), DeviceState::Managed);
    assert_eq!(registry.state("laptop-2"), DeviceState::Unmanaged);
    assert_eq!(
        registry.state("LAPTOP-1"),
        DeviceState::Unmanaged,
        "names are exact"
    );
    assert_eq!(registry.user("phone-1"), Some("ada"));
    assert_eq!(registry.user("Smith, \"J\""), Some("j, s"));
    assert_eq!(registry.user("laptop-1"), None);
}

#[test]
fn nothing_is_a_registry_without_devices() {
    assert!(parse("").expect("empty").is_empty());
    assert!(parse("device,state\n").expect("header only").is_empty());
}

#[test]
fn names_every_bad_line() {
    let found = problems(
        "laptop-1,managed\nlaptop-2\nlaptop-3,Managed\n,blocked\nlaptop-1,blocked\na,managed,b,c\n\"x,managed\n\
         \"x\"y,managed\ndevice,state\n",
    );
    assert_eq!(
        found.iter().map(|(line, _)| *line).collect::<Vec<_>>(),
        [2, 3, 4, 5, 6, 7, 8, 9]
    );
    assert!(
        found[1].1.contains("`Managed`") && found[1].1.contains("write `managed` or `blocked`")
    );
    assert!(found[3].1.contains("laptop-1") && found[3].1.contains("line 1"));
}

#[test]
fn two_users_for_one_device_are_refused() {
    assert_eq!(problems("a,managed,x\na,managed,y\n").len(), 1);
}

#[test]
fn names_are_bounded_and_printable() {
    let long = "x".repeat(MAX_IDENTITY_NAME_BYTES + 1);
    assert_eq!(
        problems(&format!(
            "{long},managed\na\u{1b}[2J,managed\na,\u{1b}[2J\n"
        ))
        .len(),
        3
    );
    assert!(
        !problems("a,\u{1b}[2J\n")[0].1.contains('\u{1b}'),
        "an escape reached the message"
    );
    assert_eq!(
        parse(&format!("{},managed\n", &long[1..]))
            .expect("at the bound")
            .len(),
        1
    );
}

#[test]
fn a_message_names_file_and_line() {
    let error = parse("a\nb\n").expect_err("accepted");
    let text = error.to_string();
    assert!(
        text.starts_with("devices.csv:1: ") && text.contains("\ndevices.csv:2: "),
        "{text}"
    );
}

fn read(format: DeviceFormat, text: &[u8], piece: usize) -> Result<DeviceChanges, Vec<usize>> {
    let mut reader = DeviceReader::new(format);
    for piece in text.chunks(piece) {
        if !reader.push(piece) {
            break;
        }
    }
    reader
        .finish()
        .map_err(|problems| problems.iter().map(|problem| problem.line).collect())
}

#[test]
fn the_size_of_the_pieces_means_nothing() {
    let text = "device,state\r\na,managed,ann\nb,blocked\n\nc,managed\na,managed,ann";
    for piece in 1..text.len() {
        let changes = read(DeviceFormat::Csv, text.as_bytes(), piece).unwrap();
        assert_eq!(changes.len(), 3, "pieces of {piece}");
        let registry = DeviceRegistry::default().with(&changes).unwrap();
        assert_eq!(registry.user("a"), Some("ann"));
        assert_eq!(registry.state("b"), DeviceState::Blocked);
    }
}

#[test]
fn long_lines_and_other_encodings_are_named() {
    let mut text = b"a,managed\n".to_vec();
    text.extend(std::iter::repeat_n(b'x', 3 * DEVICE_LINE_MAX));
    text.extend(b"\nb\xff,managed\nc,managed\n");
    for piece in [1, 7, 4096, text.len()] {
        assert_eq!(
            read(DeviceFormat::Csv, &text, piece).err(),
            Some(vec![2, 3])
        );
    }
}

#[test]
fn a_file_of_another_kind_is_not_read_to_its_end() {
    let text = "?\n".repeat(DEVICE_PROBLEMS_MAX + 10);
    let problems = read(DeviceFormat::Csv, text.as_bytes(), 1000)
        .err()
        .unwrap();
    assert_eq!(problems.len(), DEVICE_PROBLEMS_MAX + 1);
}

#[test]
fn objects_say_the_same_and_can_take_out() {
    let text = br#"{"device":"a","state":"managed","user":"ann"}
        {"state":"blocked","device":"q\"uote"}

        {"device":"c","state":"unmanaged"}"#;
    let registry = parse("c,managed\n").unwrap();
    let registry = registry
        .with(&read(DeviceFormat::Ndjson, text, 5).unwrap())
        .unwrap();
    assert_eq!(registry.len(), 2);
    assert_eq!(registry.user("a"), Some("ann"));
    assert_eq!(registry.state("q\"uote"), DeviceState::Blocked);
    assert_eq!(registry.state("c"), DeviceState::Unmanaged);
    let bad = br#"{"device":"a"}
        {"device":"a","state":"managed","colour":1}
        []
        {"device":"","state":"managed"}
        {"device":"a","state":"managed"}
        {"device":"a","state":"blocked"}"#;
    assert_eq!(
        read(DeviceFormat::Ndjson, bad, 9).err(),
        Some(vec![1, 2, 3, 4, 6])
    );
    let unmanaged = DeviceEntry::from_json("a", br#"{"state":"unmanaged"}"#, |_| ());
    assert!(unmanaged.is_err(), "one device is taken out by DELETE");
}

/// The words are the product's, and no library's.
#[test]
fn a_wrong_object_is_told_in_plain_words() {
    for (line, words) in [
        ("{\"device\":\"a\"}", "the field `state` is missing"),
        (
            "{\"device\":\"a\",\"state\":\"managed\",\"colour\":1}",
            "there is no field `colour`",
        ),
        ("[]", "it is not an object"),
        (
            "{\"device\":5,\"state\":\"managed\"}",
            "the value of `device` is not a text in quotes",
        ),
        (
            "{\"device\":\"a\",\"device\":\"b\",\"state\":\"managed\",\"user\":null}",
            "a field is given twice",
        ),
        ("{\"device\":\"a\",}", "it is not JSON, from column"),
        ("{\"device\":\"a", "it is not JSON, from column"),
    ] {
        let mut reader = DeviceReader::new(DeviceFormat::Ndjson);
        reader.push(line.as_bytes());
        let problems = reader.finish().err().unwrap();
        let message = problems[0].fault.to_string();
        assert!(message.starts_with(words), "{line}: {message}");
        assert!(message.contains("; write {"), "{message}");
        for foreign in ["expected", "struct", "invalid type", "EOF"] {
            assert!(!message.contains(foreign), "{message}");
        }
    }
    let error = DeviceEntry::from_json("a", b"{}", |_| ()).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("`state` is missing"), "{error}");
}

/// Random changes, against a plain map.
#[test]
fn changes_do_to_the_registry_what_they_do_to_a_map() {
    const STEPS: u32 = if cfg!(miri) { 20 } else { 400 };
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let mut model: HashMap<String, (DeviceState, Option<String>)> = HashMap::new();
    let mut registry = DeviceRegistry::default();
    for _ in 0..STEPS {
        let mut change = HashMap::new();
        for _ in 0..random(40) {
            let state = [
                DeviceState::Managed,
                DeviceState::Blocked,
                DeviceState::Unmanaged,
            ][random(3) as usize];
            let user = (random(2) == 0).then(|| format!("user-{}", random(9)));
            change.insert(format!("device-{}", random(500)), (state, user));
        }
        let mut collector = DeviceCollector::default();
        for (name, (state, user)) in &change {
            let (state, user) = (*state, user.as_deref());
            collector.add(name, DeviceEntry { state, user });
        }
        let changes = collector.finish().unwrap();
        assert_eq!(changes.len(), change.len());
        let before = registry.clone();
        registry = registry.with(&changes).unwrap();
        assert_eq!(before.len(), model.len(), "the old version has changed");
        for (name, (state, user)) in change {
            if state == DeviceState::Unmanaged {
                model.remove(&name);
            } else {
                model.insert(name, (state, user));
            }
        }
        assert_eq!(registry.len(), model.len());
        for number in 0..500 {
            let name = format!("device-{number}");
            let expected = model.get(&name).map(|(state, user)| DeviceEntry {
                state: *state,
                user: user.as_deref(),
            });
            assert_eq!(registry.get(&name), expected, "{name}");
        }
    }
    let mut names: Vec<&String> = model.keys().collect();
    names.sort_unstable();
    let listed = registry.list("", "", usize::MAX - 1);
    assert!(
        listed
            .iter()
            .map(|(name, _)| *name)
            .eq(names.iter().copied())
    );
    let page = registry.list("device-1", "device-12", 7);
    let expected = names
        .iter()
        .filter(|name| name.starts_with("device-1") && name.as_str() > "device-12")
        .take(7);
    assert!(page.iter().map(|(name, _)| *name).eq(expected.copied()));
}
