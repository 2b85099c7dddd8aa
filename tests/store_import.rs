//! `adit certs import`: what it finds, what it refuses, and that the store stays whole.

use crate::common;
use crate::common::store;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Instant;

use common::{Gateway, PATIENCE, Pki, authority, free_port};
use serde_json::Value;
use store::{ADIT, certs, done, pkcs12, refused, run, stored};

#[test]
fn findings_are_printed_and_decide() {
    let pki = Pki::new();
    fs::create_dir(pki.path("state")).unwrap();
    // For another name than the one that devices use: a warning, and imported.
    fs::copy(pki.path("server.pem"), pki.path("chain.pem")).unwrap();
    let mut chain = fs::OpenOptions::new()
        .append(true)
        .open(pki.path("chain.pem"))
        .unwrap();
    chain
        .write_all(&fs::read(pki.path("ca.pem")).unwrap())
        .unwrap();
    let import = "import chain.pem --key server.key --as server --name a --state-dir state";
    let said = done(&pki, &format!("{import} --host other.test --json"));
    let report: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (&report["imported"], &report["errors"]),
        (&"a".into(), &0.into())
    );
    let found: Vec<&str> = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| finding["code"].as_str().unwrap())
        .collect();
    assert_eq!(found, ["expires-urgent", "expires-urgent", "name"]);
    assert!(
        report["findings"][2]["message"]
            .as_str()
            .unwrap()
            .contains("other.test")
    );
    // The host of the config, where there is one.
    let text = Gateway::builder(&pki)
        .auth("")
        .servers(&[free_port()])
        .text();
    fs::write(
        pki.path("adit.toml"),
        text.replace("localhost:8443", "third.test:443"),
    )
    .unwrap();
    let said = done(
        &pki,
        "import chain.pem --key server.key --as server --name b",
    );
    assert!(said.contains("third.test"), "{said}");

    // Errors: told, with exit code 1, and nothing imported.
    let import = "import server.pem --key server.key --as server --name c --state-dir state";
    let (code, said) = certs(&pki, &format!("{import} --json"));
    assert_eq!(code, 1);
    let report = said.rsplit_once('}').unwrap().0.to_owned() + "}";
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(
        (&report["imported"], &report["errors"]),
        (&Value::Null, &1.into())
    );
    assert_eq!(report["findings"][0]["code"], "no-chain");
    assert!(!stored(&pki, "server", "c").exists());
    refused(&pki, import, 1, "no-chain");
    refused(&pki, &format!("{import} --force"), 2, "--force");

    // A key that others may read is a warning.
    fs::set_permissions(pki.path("server.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let import = "import chain.pem --key server.key --as server --name d --state-dir state";
    assert!(done(&pki, import).contains("key-exposed"));
    let mode = stored(&pki, "server", "d")
        .metadata()
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    // The command line.
    let import = "import chain.pem --key server.key --as server --state-dir state";
    refused(
        &pki,
        &format!("{import} --name ../x"),
        2,
        "is not a valid name of a certificate",
    );
    refused(
        &pki,
        "import ca.pem --as group --config none.toml",
        2,
        "none.toml",
    );
    refused(
        &pki,
        "import ca.pem --key server.key --as group --state-dir state",
        1,
        "leave the key out",
    );
}

#[test]
fn files_that_are_no_certificates_are_refused_at_once() {
    let pki = Pki::new();
    fs::create_dir(pki.path("state")).unwrap();
    // 100 MB without a byte on the disk.
    let large = fs::File::create(pki.path("large.p12")).unwrap();
    large.set_len(100 << 20).unwrap();
    fs::write(pki.path("empty.pem"), "").unwrap();
    fs::write(pki.path("noise.pem"), [0xff; 5000]).unwrap();
    pki.secret("pass", "hunter2");
    let start = Instant::now();
    for (file, why) in [
        ("large.p12", "larger than 4194304 bytes"),
        ("empty.pem", "holds no certificate"),
        ("noise.pem", "holds no certificate"),
        ("none.pem", "check the path"),
        ("state", "not a folder"),
    ] {
        for kind in ["server", "group"] {
            let import = format!("import {file} --as {kind} --name x --state-dir state");
            refused(&pki, &format!("{import} --password-file pass"), 1, why);
        }
    }
    let import = "import ca.pem --as group --state-dir state --password-file";
    refused(&pki, &format!("{import} large.p12"), 1, "chmod 600");
    // A PKCS#12 file whose MAC asks for 10^9 iterations instead of the usual 2048: its last number, two bytes longer, as
    // are the two sequences around it.
    pkcs12(&pki, "slow.p12", "server");
    let mut bytes = fs::read(pki.path("slow.p12")).unwrap();
    assert!(bytes.ends_with(&[2, 2, 8, 0]) && bytes.starts_with(&[0x30, 0x82]));
    bytes.truncate(bytes.len() - 4);
    bytes.extend([2, 4, 0x3b, 0x9a, 0xca, 0]);
    let length = u16::from_be_bytes([bytes[2], bytes[3]]) + 2;
    bytes[2..4].copy_from_slice(&length.to_be_bytes());
    let mac = bytes.windows(2).rposition(|two| two == [0x30, 0x41]);
    bytes[mac.unwrap() + 1] += 2;
    fs::write(pki.path("slow.p12"), bytes).unwrap();
    let import = "import slow.p12 --as server --state-dir state --password-file pass";
    refused(&pki, import, 1, "1000000000 iterations");
    assert!(start.elapsed() < PATIENCE);
    assert_eq!(fs::read_dir(pki.path("state")).unwrap().count(), 0);
}

/// Runs a script in a mount namespace of its own, where `state` is a small file system in memory.
fn in_memory(pki: &Pki, script: &str) -> (i32, String) {
    let mount = "set -e; mount -t tmpfs -o size=64k,mode=700 adit-test state; set +e";
    let script = format!("{mount}; {script}");
    let output = run(pki, "unshare", &["--mount", "sh", "-c", &script]);
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

#[test]
fn a_full_or_read_only_state_folder_is_told_and_what_was_there_stays() {
    let pki = Pki::new();
    fs::create_dir(pki.path("state")).unwrap();
    let other = authority("other");
    other.write(&pki.path("other")).unwrap();
    let import = |file: &str| {
        format!("{ADIT} certs import {file} --as group --name fleet --state-dir state")
    };
    let file = "state/certificates/group/fleet.pem";
    let first = import("ca.pem");
    let second = import("other/ca.pem") + " --replace";
    let lock = ["adit.lock", "with free space that this user may write to"];
    for (hinder, why) in [
        (
            "dd if=/dev/zero of=state/fill bs=1k 2>/dev/null",
            ["cannot write", "free some space"],
        ),
        ("mount -o remount,ro state", lock),
    ] {
        let (code, said) = in_memory(
            &pki,
            &format!(
                "{first} || exit 90; cp {file} before; {hinder}; {second}; code=$?; cmp {file} before || exit 91; \
                 test $(ls -A state/certificates/group | wc -l) = 1 || exit 92; exit $code"
            ),
        );
        assert_eq!(code, 1, "{hinder}: {said}");
        let says = |parts: [&str; 2], said: &str| parts.iter().all(|part| said.contains(part));
        assert!(says(why, &said), "{hinder}: {said}");
        // The first certificate of all: the folder cannot be made.
        let (code, said) = in_memory(&pki, &format!("{hinder}; {first}"));
        assert_eq!(code, 1, "{hinder}: {said}");
        assert!(says(lock, &said), "{hinder}: {said}");
        // Neither can one be deleted from a folder that cannot be written; from a full one it can.
        let delete = format!("{ADIT} certs delete fleet --as group --state-dir state");
        let (code, said) = in_memory(&pki, &format!("{first} && {hinder}; {delete}"));
        assert_eq!(code == 0, hinder.starts_with("dd"), "{hinder}: {said}");
    }
}

#[test]
fn processes_that_import_at_once_leave_one_whole_certificate() {
    let pki = Pki::new();
    let other = authority("other");
    other.write(&pki.path("other")).unwrap();
    let spawn = |file: &str, more: &[&str]| {
        Command::new(ADIT)
            .args(["certs", "import", file, "--as", "group", "--name", "fleet"])
            .args(["--state-dir", "state"])
            .args(more)
            .current_dir(pki.folder.path())
            .output()
            .unwrap()
            .status
            .success()
    };
    let spawn = &spawn;
    let at_once = |more: &'static [&'static str]| {
        std::thread::scope(|scope| {
            let files = ["ca.pem", "other/ca.pem", "ca.pem", "other/ca.pem"];
            let threads = files.map(|file| scope.spawn(move || spawn(file, more)));
            threads.map(|thread| thread.join().unwrap())
        })
    };
    let succeeded = at_once(&[]);
    assert_eq!(succeeded.iter().filter(|done| **done).count(), 1);
    for _ in 0..3 {
        assert_eq!(at_once(&["--replace"]), [true; 4]);
        let kept = fs::read(stored(&pki, "group", "fleet")).unwrap();
        let whole = ["ca.pem", "other/ca.pem"].map(|file| fs::read(pki.path(file)).unwrap());
        assert!(whole.contains(&kept));
    }
    let folder = pki.path("state/certificates/group");
    assert_eq!(fs::read_dir(folder).unwrap().count(), 1);
}

/// Root imports into the state folder of the node's own user, who must be able to read it.
#[test]
fn what_root_imports_belongs_to_the_owner_of_the_state_folder() {
    use std::os::unix::fs::{MetadataExt, chown};

    let pki = Pki::new();
    let state = pki.path("state");
    adit::files::own_folder(&state).unwrap();
    chown(&state, Some(64_123), Some(64_123)).unwrap();
    done(
        &pki,
        "import ca.pem --as group --name fleet --state-dir state",
    );
    for (name, mode) in [
        ("certificates", 0o700),
        ("certificates/group", 0o700),
        ("certificates/group/fleet.pem", 0o644),
    ] {
        let made = std::fs::metadata(state.join(name)).unwrap();
        assert_eq!((made.uid(), made.gid()), (64_123, 64_123), "{name}");
        assert_eq!(made.mode() & 0o777, mode, "{name}");
    }
}
