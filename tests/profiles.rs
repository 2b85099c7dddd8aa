//! Profiles on the command line: kept with every version, checked before anything is stored, and never half.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use serde_json::Value;

use node::{Node, errors, profile};

use crate::common::profiles as node;

#[test]
fn every_version_is_kept_and_can_come_back() {
    let node = Node::new();
    assert!(node.done(&["list"]).contains("no profile is stored"));
    node.write("one.toml", "corp", "first");
    node.write("two.toml", "corp", "second");
    assert_eq!(
        node.done(&["apply", "one.toml", "--note", "the beginning"]),
        "corp version 1\n"
    );
    assert_eq!(node.done(&["apply", "two.toml"]), "corp version 2\n");
    assert_eq!(
        node.done(&["apply", "two.toml"]),
        "corp version 2 has this text already\n"
    );

    // The text comes back byte for byte.
    assert_eq!(node.done(&["show", "corp"]), profile("corp", "second"));
    assert_eq!(
        node.done(&["show", "corp", "--version", "1"]),
        profile("corp", "first")
    );
    let diff = node.done(&["diff", "corp"]);
    for line in [
        "--- corp version 1\t",
        "+++ corp version 2\t",
        "-description = 'first'",
        "+description = 'second'",
    ] {
        assert!(diff.contains(line), "{diff}");
    }
    node.write("three.toml", "corp", "third");
    let diff = node.done(&["diff", "corp", "--to", "three.toml"]);
    assert!(
        diff.contains("-description = 'second'\n+description = 'third'"),
        "{diff}"
    );
    assert_eq!(node.done(&["diff", "corp", "--from", "2", "--to", "2"]), "");

    assert_eq!(node.done(&["rollback", "corp"]), "corp version 3\n");
    assert_eq!(node.done(&["show", "corp"]), profile("corp", "first"));
    let versions = node.done(&["list", "corp"]);
    let lines: Vec<&str> = versions.lines().collect();
    assert_eq!(lines.len(), 4, "{versions}");
    assert!(lines[1].starts_with("3 "), "{versions}");
    assert!(lines[1].ends_with("rollback to version 1"), "{versions}");
    assert!(
        lines[3].starts_with("1 ") && lines[3].ends_with("the beginning"),
        "{versions}"
    );
    assert!(lines[1].contains("uid "), "{versions}");

    let shown = node.json(&["show", "corp"]);
    assert_eq!(shown["version"], 3);
    assert_eq!(shown["history"][2]["note"], "the beginning");
    let list = node.json(&["list"]);
    assert_eq!(list["assigned"], Value::Null);
    assert_eq!(list["profiles"][0]["versions"], 3);
    let when = list["profiles"][0]["when"].as_str().unwrap();
    assert!(when.ends_with('Z') && when.len() == 20, "{when}");

    node.write("lab.toml", "lab", "");
    node.done(&["apply", "lab.toml"]);
    node.done(&["assign", "lab"]);
    let table = node.done(&["list"]);
    assert!(
        table.contains("\n*  lab ") && table.contains("\n   corp "),
        "{table}"
    );
    assert!(
        node.refused(1, &["delete", "lab"])
            .contains("profile lab is assigned")
    );
    node.done(&["delete", "corp"]);
    assert!(
        node.refused(2, &["show", "corp"])
            .contains("no profile named")
    );
    node.done(&["unassign"]);
    node.done(&["delete", "lab"]);
    assert_eq!(node.json(&["list"])["profiles"], serde_json::json!([]));
}

#[test]
fn what_is_wrong_is_told_at_once_and_nothing_is_stored() {
    let node = Node::new();
    let wrong = profile("corp", "")
        .replace("'server.key'", "'none.key'")
        .replace("service = 'wiki'", "service = 'wik'")
        .replace("[profile.listener]", "colour = 'red'\n[profile.listener]");
    std::fs::write(node.path("wrong.toml"), wrong).unwrap();
    for command in ["validate", "apply"] {
        let said = node.refused(2, &[command, "wrong.toml"]);
        for part in [
            "wrong.toml:5: profile.colour: unknown key",
            "wrong.toml:10: profile.server_certificate.key: the file",
            "wrong.toml:22: profile.rule[0].service: ",
        ] {
            assert!(said.contains(part), "{said}");
        }
    }
    let output = node.output(&["validate", "wrong.toml", "--json"]);
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["problems"].as_array().unwrap().len(), 3, "{said}");
    assert_eq!(said["problems"][0]["line"], 5);
    assert_eq!(said["problems"][0]["key"], "profile.colour");

    // What the files hold is looked at as a start would.
    std::fs::write(node.path("bad.pem"), "not a certificate").unwrap();
    let text = profile("corp", "").replace("'ca.pem'", "'bad.pem'");
    std::fs::write(node.path("bad.toml"), text).unwrap();
    assert!(node.refused(2, &["apply", "bad.toml"]).contains("bad.pem"));

    for (name, said) in [
        ("a b", "cannot name a profile in the store"),
        ("../up", "cannot name a profile in the store"),
        ("\u{1b}[2J", "not valid TOML"),
    ] {
        node.write("odd.toml", name, "");
        let error = node.refused(2, &["apply", "odd.toml"]);
        assert!(error.contains(said) && !error.contains('\u{1b}'), "{error}");
    }
    let text = format!("state_dir = 'x'\n{}", profile("corp", ""));
    std::fs::write(node.path("node.toml"), text).unwrap();
    assert!(
        node.refused(2, &["apply", "node.toml"])
            .contains("node.toml:1: state_dir: unknown key")
    );
    std::fs::write(node.path("large.toml"), vec![b'#'; 10_000_000]).unwrap();
    assert!(
        node.refused(2, &["apply", "large.toml"])
            .contains("larger than 4194304 bytes")
    );
    assert!(
        node.refused(2, &["apply", "none.toml"])
            .contains("none.toml: cannot be read")
    );
    assert!(!node.path("state").exists(), "nothing was stored");

    node.write("corp.toml", "corp", "");
    assert!(
        node.done(&["validate", "corp.toml"])
            .contains("is right: profile corp")
    );
    assert!(!node.path("state").exists(), "validate stores nothing");
    for args in [
        &["assign", "corp"][..],
        &["show", "corp"],
        &["diff", "corp"],
        &["rollback", "corp"],
        &["delete", "corp"],
        &["list", "corp"],
    ] {
        assert!(
            node.refused(2, args).contains("no profile named \"corp\""),
            "{args:?}"
        );
    }
    node.done(&["apply", "corp.toml"]);
    assert!(
        node.refused(2, &["show", "corp", "--version", "7"])
            .contains("no version 7 of profile corp")
    );
    assert!(
        node.refused(2, &["rollback", "corp"])
            .contains("is its oldest version")
    );
    // A certificate that is gone: a rollback and an assignment look again.
    node.write("two.toml", "corp", "two");
    node.done(&["apply", "two.toml"]);
    std::fs::remove_file(node.path("ca.crl")).unwrap();
    let said = node.refused(2, &["rollback", "corp"]);
    let start = "profile corp version 1:14: profile.device_auth.crl.files[0]: ";
    assert!(said.contains(start), "{said}");
    assert!(
        node.refused(2, &["assign", "corp"])
            .contains("profile corp version 2:14: ")
    );
    assert_eq!(node.json(&["list"])["profiles"][0]["version"], 2);
}

#[test]
fn two_administrators_do_not_overwrite_each_other() {
    let node = Node::new();
    node.write("one.toml", "corp", "one");
    assert!(
        node.refused(1, &["apply", "one.toml", "--expect", "3"])
            .contains("profile corp does not exist")
    );
    node.done(&["apply", "one.toml", "--expect", "0"]);
    for number in 0..8 {
        node.write(&format!("{number}.toml"), "corp", &format!("by {number}"));
    }
    // All at once, each on top of what all have seen: one wins, the others are told.
    let codes: Vec<i32> = thread::scope(|scope| {
        let apply = |number: usize| {
            let file = format!("{number}.toml");
            node.output(&["apply", &file, "--expect", "1"])
                .status
                .code()
                .unwrap()
        };
        let running: Vec<_> = (0..8)
            .map(|number| scope.spawn(move || apply(number)))
            .collect();
        running
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!(
        codes.iter().filter(|code| **code == 0).count(),
        1,
        "{codes:?}"
    );
    assert_eq!(
        codes.iter().filter(|code| **code == 1).count(),
        7,
        "{codes:?}"
    );
    let shown = node.json(&["show", "corp"]);
    assert_eq!(shown["version"], 2);
    let winner = codes.iter().position(|code| *code == 0).unwrap();
    assert_eq!(shown["text"], profile("corp", &format!("by {winner}")));
    assert!(
        node.refused(1, &["apply", "7.toml", "--expect", "1"])
            .contains("is 2, and not version 1")
    );
    assert!(
        node.refused(1, &["rollback", "corp", "--expect", "1"])
            .contains("is 2, and not version 1")
    );
    assert!(
        node.refused(1, &["delete", "corp", "--expect", "1"])
            .contains("is 2, and not version 1")
    );
    // Without a word of what is expected, all come in, one after the other.
    thread::scope(|scope| {
        for number in 0..4 {
            let (node, file) = (&node, format!("new{number}.toml"));
            node.write(&file, "corp", &format!("new {number}"));
            scope.spawn(move || node.done(&["apply", &file]));
        }
    });
    assert_eq!(node.json(&["show", "corp"])["version"], 6);
}

/// Nothing that a command has acknowledged is lost when commands are killed at any moment.
#[test]
fn a_killed_apply_leaves_a_whole_store() {
    let node = Node::new();
    let since = Instant::now();
    node.write("first.toml", "corp", "round none");
    node.done(&["apply", "first.toml"]);
    let takes = since.elapsed();
    let mut acknowledged = 1;
    let mut killed = 0;
    for round in 0..30_u32 {
        let file = format!("{round}.toml");
        node.write(&file, "corp", &format!("round {round}"));
        let mut child = node
            .command(&["apply", &file, "--json"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // From its beginning to after its end.
        thread::sleep(takes * (round * 7 % 30) / 20);
        let _ = child.kill();
        let output = child.wait_with_output().unwrap();
        if let Ok(said) = serde_json::from_slice::<Value>(&output.stdout) {
            acknowledged = said["version"].as_u64().unwrap();
            let shown = node.json(&["show", "corp"]);
            assert_eq!(shown["version"], acknowledged);
            assert_eq!(shown["text"], profile("corp", &format!("round {round}")));
        } else {
            killed += 1;
            let list = node.json(&["list"]);
            let newest = list["profiles"][0]["version"].as_u64().unwrap_or(0);
            // What was not acknowledged may be there or not, but whole.
            assert!(
                newest == acknowledged || newest == acknowledged + 1,
                "{list} after {acknowledged}"
            );
            if newest > 0 {
                let text = node.json(&["show", "corp"])["text"].to_string();
                assert!(text.contains("description = 'round "), "{text}");
            }
            acknowledged = newest;
        }
    }
    assert!(
        killed > 0 && acknowledged > 1,
        "{killed} killed, {acknowledged} acknowledged"
    );
}

#[test]
fn a_damaged_store_hinders_no_node_with_a_profile_in_its_file() {
    let node = Node::new();
    node.write("corp.toml", "corp", "");
    node.done(&["apply", "corp.toml"]);
    std::fs::write(node.path("state/profiles.redb"), "this was a store once").unwrap();
    for args in [&["list"][..], &["apply", "corp.toml"], &["assign", "corp"]] {
        let said = node.refused(1, args);
        assert!(
            said.contains("profiles.redb is damaged") && said.contains("move it away"),
            "{said}"
        );
    }
    let check = |config: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_adit"));
        command
            .args(["check", "--config"])
            .arg(config)
            .output()
            .unwrap()
    };
    let output = check(&node.path("adit.toml"));
    assert_eq!(output.status.code(), Some(2));
    assert!(
        errors(&output).contains("profiles.redb is damaged"),
        "{}",
        errors(&output)
    );
    let own = std::fs::read_to_string(node.path("adit.toml")).unwrap() + &profile("corp", "");
    std::fs::write(node.path("own.toml"), own).unwrap();
    assert!(check(&node.path("own.toml")).status.success());
    // The remedy is one.
    std::fs::rename(node.path("state/profiles.redb"), node.path("state/away")).unwrap();
    assert_eq!(node.done(&["apply", "corp.toml"]), "corp version 1\n");
}

/// A state folder in which nothing can be written: on a disk without room, and on one that is read only.
#[test]
fn a_full_or_read_only_disk_is_named_and_loses_nothing() {
    let node = Node::new();
    node.write("one.toml", "corp", "one");
    node.write("two.toml", "corp", &"long ".repeat(60_000));
    let script = r#"
        mkdir -p state && mount -t tmpfs -o size=256k,mode=700 tmpfs state || exit 99
        "$ADIT" profile apply one.toml || exit 98
        "$ADIT" profile apply two.toml; echo "full: $?"
        "$ADIT" profile show corp
        mount -o remount,ro state || exit 97
        sed 's/one/three/' one.toml > three.toml
        "$ADIT" profile apply three.toml; echo "read-only: $?"
        "$ADIT" profile list --json
    "#;
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", script])
        .env("ADIT", env!("CARGO_BIN_EXE_adit"))
        .current_dir(node.pki.folder.path())
        .output()
        .unwrap();
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), errors(&output));
    assert!(output.status.success(), "{said}\n{errors}");
    assert!(
        said.contains("full: 1\n") && said.contains("read-only: 1\n"),
        "{said}\n{errors}"
    );
    assert!(
        said.contains("description = 'one'") && said.contains("\"version\":1"),
        "{said}"
    );
    for (file, remedy) in [
        ("profiles.redb", "make room on the disk"),
        ("adit.lock", "that this user may write to"),
    ] {
        let mut lines = errors.lines();
        let named = lines.any(|line| line.contains(file) && line.contains(remedy));
        assert!(named, "{file}: {errors}");
    }
}

#[test]
fn a_profile_in_the_config_file_counts_and_that_is_said() {
    let node = Node::new();
    node.write("corp.toml", "corp", "");
    node.done(&["apply", "corp.toml"]);
    let output = node.output(&["assign", "corp"]);
    assert!(
        output.status.success() && errors(&output).contains("no node runs with this state folder"),
        "{}",
        errors(&output)
    );
    let own = std::fs::read_to_string(node.path("adit.toml")).unwrap() + &profile("own", "");
    std::fs::write(node.path("adit.toml"), own).unwrap();
    node.done(&["unassign"]);
    let output = node.output(&["assign", "corp"]);
    assert!(
        output.status.success() && errors(&output).contains("has its own [profile], which is used"),
        "{}",
        errors(&output)
    );
}

/// Where a node runs, it makes the change or nobody does.
#[test]
fn a_change_is_the_nodes_where_one_runs() {
    let node = Node::new();
    node.write("one.toml", "corp", "one");
    node.write("two.toml", "corp", "two");
    node.done(&["apply", "one.toml"]);
    // A process that has the state folder and does not listen: one that starts, or hangs.
    let lock = std::fs::OpenOptions::new()
        .write(true)
        .open(node.path("state/adit.lock"))
        .unwrap();
    lock.lock().unwrap();
    for args in [
        &["apply", "two.toml"][..],
        &["assign", "corp"],
        &["delete", "corp"],
    ] {
        let said = node.refused(1, args);
        assert!(said.contains("has to make the change"), "{said}");
    }
    // Another command is waited for.
    thread::scope(|scope| {
        let applied = scope.spawn(|| node.done(&["apply", "two.toml"]));
        thread::sleep(std::time::Duration::from_millis(200));
        drop(lock);
        assert_eq!(applied.join().unwrap(), "corp version 2\n");
    });

    let running = node.run();
    assert_eq!(node.done(&["rollback", "corp"]), "corp version 3\n");
    let shown = running.json(200, running.get("/profiles/corp"));
    let who = shown["who"].as_str().unwrap();
    assert!(
        who.contains("uid ") && who.ends_with(" (admin listener)"),
        "{who}"
    );
    assert_eq!(shown["note"], "rollback to version 1");
    assert!(
        node.refused(1, &["apply", "two.toml", "--expect", "1"])
            .contains("is 3, and not version 1")
    );
    // Over the listener that is named it takes no change from who does not know the token.
    node.pki.secret("other", &"x".repeat(32));
    let admin = node.admin.to_string();
    let named = ["--admin", &admin, "--token-file", "other"];
    let said = node.refused(1, &[&["apply", "two.toml"], &named[..]].concat());
    assert!(said.contains("401"), "{said}");
    assert_eq!(
        node.done(&["unassign"]),
        "no profile is assigned: the node is unconfigured\n"
    );
    node.done(&["delete", "corp"]);
    running.json(404, running.get("/profiles/corp"));
    let audit = std::fs::read_to_string(node.path("audit.log")).unwrap();
    assert!(
        audit.contains("\"http.request.method\":\"DELETE\",\"url.original\":\"/profiles/corp\""),
        "{audit}"
    );
}

/// The command line may run as root, and the node as a user of its own.
#[test]
fn the_store_is_of_the_user_whose_folder_it_is_in() {
    let node = Node::new();
    let state = node.path("state");
    std::fs::create_dir(&state).unwrap();
    std::os::unix::fs::chown(&state, Some(65534), Some(65534)).unwrap();
    node.write("corp.toml", "corp", "");
    node.done(&["apply", "corp.toml"]);
    let store = std::fs::metadata(state.join("profiles.redb")).unwrap();
    assert_eq!(
        (store.uid(), store.gid(), store.mode() & 0o777),
        (65534, 65534, 0o600)
    );
}
