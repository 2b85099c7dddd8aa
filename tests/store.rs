//! The certificate store: what an administrator imports, what uses it, and what keeps it whole.

#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use adit::certs::{self, Issued, KeyType, make};
use common::{
    Gateway, Pki, Session, ask, authority, client_of, config, connect, echo, free_port, request,
    server, service, tunnel, until,
};
use serde_json::Value;

const ADIT: &str = env!("CARGO_BIN_EXE_adit");

fn run(pki: &Pki, program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    let command = command.args(arguments).current_dir(pki.folder.path());
    command.output().unwrap()
}

fn openssl(pki: &Pki, arguments: &str) {
    let arguments: Vec<&str> = arguments.split(' ').collect();
    let output = run(pki, "openssl", &arguments);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {arguments:?}: {told}");
}

/// `adit certs …`: the exit code and all that it says.
fn certs(pki: &Pki, arguments: &str) -> (i32, String) {
    let mut words = vec!["certs"];
    words.extend(arguments.split(' '));
    let output = run(pki, ADIT, &words);
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap(),
        String::from_utf8(text).unwrap(),
    )
}

#[track_caller]
fn done(pki: &Pki, arguments: &str) -> String {
    let (code, said) = certs(pki, arguments);
    assert_eq!(code, 0, "{arguments}: {said}");
    said
}

#[track_caller]
fn refused(pki: &Pki, arguments: &str, code: i32, why: &str) {
    let (was, said) = certs(pki, arguments);
    assert_eq!(was, code, "{arguments}: {said}");
    assert!(said.contains(why), "{arguments}: {said}");
}

/// Its state folder's file of a certificate.
fn stored(pki: &Pki, kind: &str, name: &str) -> PathBuf {
    pki.path(&format!("state/certificates/{kind}/{name}.pem"))
}

/// A config in which the server and group certificates come from the store.
fn stored_config(admin: std::net::SocketAddr, group: &str, rest: &str) -> String {
    let text = config(admin, "", "unmanaged = 'allow'", rest);
    let text = text.replace(
        "primary = 'server.pem'\nkey = 'server.key'",
        "primary = 'store:front'",
    );
    text.replace("['ca.pem']", group)
}

/// A server certificate in PKCS#12 with its authority, and the password in a file.
fn pkcs12(pki: &Pki, name: &str, pem: &str) {
    pki.secret("pass", "hunter2\n");
    pki.pkcs12(name, pem, "hunter2", &[]);
}

fn reload(gateway: &Gateway) {
    let before = gateway.metric("adit_config_generation", "");
    gateway.signal("HUP");
    until("generation", || {
        gateway.metric("adit_config_generation", "") > before
    });
}

fn goes_through(pki: &Pki, gateway: &Gateway, device: &Issued) {
    let mut session = connect(pki, gateway, Some(device));
    let answer = ask(&mut session, &request("web.test:80")).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn what_is_imported_serves_and_is_not_deleted_under_the_profile() {
    let (pki, admin) = (Pki::new(), free_port());
    pkcs12(&pki, "front.p12", "server");
    openssl(
        &pki,
        "crl2pkcs7 -nocrl -certfile ca.pem -outform DER -out fleet.p7b",
    );
    // The config names certificates that are not there yet: it is wrong, and the import is made with it all the same.
    fs::write(
        pki.path("adit.toml"),
        stored_config(admin, "['store:fleet']", &service(&[server(echo)])),
    )
    .unwrap();
    let check = run(&pki, ADIT, &["check", "--config", "adit.toml"]);
    let told = String::from_utf8(check.stderr).unwrap();
    assert_eq!(check.status.code(), Some(2));
    for remedy in [
        "adit certs import FILE --as server --name front",
        "adit certs import FILE --as group --name fleet",
    ] {
        assert!(told.contains(remedy), "{told}");
    }
    let said = done(&pki, "import front.p12 --as server --password-file pass");
    assert!(
        said.contains("imported as the server certificate front"),
        "{said}"
    );
    done(&pki, "import fleet.p7b --as group");
    let device = pki.client("device", |_| ());
    let gateway = Gateway::run(&pki, admin);
    goes_through(&pki, &gateway, &device);

    let listed = done(&pki, "list --json");
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let listed = listed["certificates"].as_array().unwrap();
    assert_eq!(listed.len(), 2);
    assert_eq!(
        (&listed[0]["name"], &listed[0]["kind"]),
        (&"front".into(), &"server".into())
    );
    assert_eq!(listed[0]["names"], serde_json::json!(["localhost"]));
    assert_eq!(listed[1]["used_by"], serde_json::json!(["default"]));
    let table = done(&pki, "list");
    assert!(
        table.contains("front") && table.contains("used by default"),
        "{table}"
    );
    assert!(done(&pki, "show front --as server").contains("CN=localhost"));
    refused(
        &pki,
        "show other --as server",
        1,
        "no server certificate other in the store",
    );

    refused(
        &pki,
        "delete fleet --as group",
        1,
        "the profile default names it",
    );
    refused(
        &pki,
        "delete front --as server",
        1,
        "the profile default names it",
    );
    assert!(stored(&pki, "server", "front").exists() && stored(&pki, "group", "fleet").exists());
    // The same name as another kind is another certificate.
    refused(
        &pki,
        "delete front --as group",
        1,
        "no group certificate front in the store",
    );
    done(&pki, "import ca.pem --as group --name spare");
    done(&pki, "delete spare --as group");
    assert!(!stored(&pki, "group", "spare").exists());
}

#[test]
fn a_renewal_takes_the_place_only_where_that_is_said_and_is_served_after_a_reload() {
    let (pki, admin) = (Pki::new(), free_port());
    pkcs12(&pki, "front.p12", "server");
    let text = stored_config(admin, "['ca.pem']", &service(&[server(echo)]));
    fs::write(pki.path("adit.toml"), text).unwrap();
    done(&pki, "import front.p12 --as server --password-file pass");
    let gateway = Gateway::run(&pki, admin);
    let device = pki.client("device", |_| ());
    let mut open = tunnel(&pki, &gateway, &device, "a.test:1");
    let before = fs::read(stored(&pki, "server", "front")).unwrap();

    let mut renewed = certs::IssueRequest::new(
        make::Usage::Server,
        "localhost",
        certs::Validity::days(2).unwrap(),
    );
    renewed.dns = vec!["localhost".into()];
    renewed.key_type = KeyType::Ed25519;
    let renewed = certs::issue(&pki.ca, &renewed).unwrap();
    renewed
        .write(&pki.path("new.pem"), &pki.path("new.key"))
        .unwrap();
    let text = fs::read_to_string(pki.path("new.pem")).unwrap()
        + &fs::read_to_string(pki.path("ca.pem")).unwrap();
    fs::write(pki.path("chain.pem"), text).unwrap();
    let import = "import chain.pem --key new.key --as server --name front";
    refused(&pki, import, 1, "in the store already");
    assert_eq!(fs::read(stored(&pki, "server", "front")).unwrap(), before);
    done(&pki, &format!("{import} --replace"));
    reload(&gateway);
    let mut session = connect(&pki, &gateway, Some(&device));
    ask(&mut session, &request("web.test:80")).unwrap();
    let shown = session.conn.peer_certificates().unwrap();
    assert_eq!(shown[0], renewed.chain[0]);
    assert!(echoes(&mut open));
}

/// Whether a byte comes back.
fn echoes(session: &mut Session) -> bool {
    let mut back = [0; 5];
    session.write_all(b"alive").is_ok()
        && session.read_exact(&mut back).is_ok()
        && &back == b"alive"
}

#[test]
fn group_certificates_come_and_go_while_tunnels_are_open() {
    let (pki, admin) = (Pki::new(), free_port());
    pkcs12(&pki, "front.p12", "server");
    done_with_state(&pki, "import front.p12 --as server --password-file pass");
    let other = authority("other");
    other.write(&pki.path("other")).unwrap();
    let crl = common::crl_of(
        &other,
        &[],
        time::OffsetDateTime::now_utc(),
        time::OffsetDateTime::now_utc() + Duration::from_secs(3600),
    );
    fs::write(pki.path("other.crl"), crl).unwrap();
    done_with_state(&pki, "import ca.pem --as group --name first");
    let rest = service(&[server(echo)]);
    let write = |group: &str, crls: &str| {
        let text = stored_config(admin, group, &rest).replace("['ca.crl']", crls);
        fs::write(pki.path("adit.toml"), text).unwrap();
    };
    write("['store:first']", "['ca.crl']");
    let gateway = Gateway::run(&pki, admin);
    let (kept, lost) = (
        pki.client("kept", |_| ()),
        client_of(&other, "lost", |_| ()),
    );
    let mut first = tunnel(&pki, &gateway, &kept, "a.test:1");
    let mut stranger = connect(&pki, &gateway, Some(&lost));
    assert!(ask(&mut stranger, &request("web.test:80")).is_err());

    // Added: its devices come in.
    done(&pki, "import other/ca.pem --as group --name second");
    write("['store:first', 'store:second']", "['ca.crl', 'other.crl']");
    reload(&gateway);
    let mut second = tunnel(&pki, &gateway, &lost, "b.test:1");
    assert!(echoes(&mut first) && echoes(&mut second));
    refused(
        &pki,
        "delete second --as group",
        1,
        "the profile default names it",
    );

    // Taken out: what was built on it ends, and nothing else does.
    write("['store:first']", "['ca.crl']");
    reload(&gateway);
    let error = second.read_to_end(&mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("UnknownCA"), "{error}");
    until("counted", || {
        gateway.ended("cut-certificate-untrusted") == 1.0
    });
    assert!(echoes(&mut first));
    done(&pki, "delete second --as group");
    reload(&gateway);
    assert!(echoes(&mut first));
}

/// Without a config file.
fn done_with_state(pki: &Pki, arguments: &str) {
    done(pki, &format!("{arguments} --state-dir state"));
}

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
    let text = config(free_port(), "", "", &service(&[free_port()]));
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
        "is not the name of a certificate",
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
    assert!(start.elapsed() < Duration::from_secs(20));
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
    for (hinder, why) in [
        (
            "dd if=/dev/zero of=state/fill bs=1k 2>/dev/null",
            "free some space",
        ),
        (
            "mount -o remount,ro state",
            "choose a folder that can be written",
        ),
    ] {
        let (code, said) = in_memory(
            &pki,
            &format!(
                "{first} || exit 90; cp {file} before; {hinder}; {second}; code=$?; cmp {file} before || exit 91; \
                 test $(ls -A state/certificates/group | wc -l) = 1 || exit 92; exit $code"
            ),
        );
        assert_eq!(code, 1, "{hinder}: {said}");
        assert!(
            said.contains("cannot write") && said.contains(why),
            "{hinder}: {said}"
        );
        assert!(said.contains("fleet.pem"), "{said}");
        // The first certificate of all: the folder cannot be made.
        let (code, said) = in_memory(&pki, &format!("{hinder}; {first}"));
        assert_eq!(code, 1, "{hinder}: {said}");
        assert!(said.contains(why), "{hinder}: {said}");
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

#[test]
fn certificates_are_exported_to_be_pinned_and_roots_to_be_trusted() {
    let pki = Pki::new();
    let text = config(free_port(), "", "", &service(&[free_port()]));
    fs::write(pki.path("adit.toml"), &text).unwrap();
    pkcs12(&pki, "front.p12", "server");
    done(&pki, "import front.p12 --as server --password-file pass");
    done(&pki, "import ca.pem --as group --name fleet");
    let (end, root) = (
        certs::read_certificates(&pki.path("server.pem"))
            .unwrap()
            .remove(0),
        pki.ca.certificate().clone(),
    );
    let export = |arguments: &str| {
        done(&pki, &format!("export {arguments} -o out"));
        certs::read_certificates(&pki.path("out")).unwrap()
    };
    let one = std::slice::from_ref;
    assert_eq!(export("front --as server"), [end.clone(), root.clone()]);
    assert_eq!(export("front --as server --format der"), one(&end));
    assert_eq!(export("front --as server --root"), one(&root));
    assert_eq!(export("front --as server --root --format der"), one(&root));
    assert_eq!(export("fleet --as group --format der"), one(&root));
    assert_eq!(export("front.p12 --password-file pass --root"), one(&root));
    assert!(!done(&pki, "export front --as server").contains("PRIVATE"));
    refused(
        &pki,
        "export server.pem --root",
        1,
        "the chain ends below its root, CN=group",
    );

    // As a configuration profile: the root, and never the end certificate that has one.
    let profile = |arguments: &str| {
        done(
            &pki,
            &format!("export {arguments} --format mobileconfig -o out"),
        );
        plist::Value::from_file(pki.path("out"))
            .unwrap()
            .into_dictionary()
            .unwrap()
    };
    let first = profile("front --as server");
    let payload = |profile: &plist::Dictionary| {
        let payloads = profile["PayloadContent"].as_array().unwrap().clone();
        assert_eq!(payloads.len(), 1);
        payloads[0].clone().into_dictionary().unwrap()
    };
    let trusted = payload(&first);
    assert_eq!(
        trusted["PayloadType"].as_string(),
        Some("com.apple.security.root")
    );
    assert_eq!(trusted["PayloadContent"].as_data(), Some(root.as_ref()));
    assert_eq!(first["PayloadType"].as_string(), Some("Configuration"));
    assert_eq!(
        first["PayloadIdentifier"].as_string(),
        Some("localhost.default.server.front")
    );
    // A renewal replaces it on the device; another certificate's stands beside it.
    let again = profile("front --as server --root");
    assert_eq!(first, again);
    let group = profile("fleet --as group");
    for key in ["PayloadUUID", "PayloadIdentifier"] {
        assert_ne!(first[key], group[key]);
        assert_ne!(payload(&first)[key], payload(&group)[key]);
        assert_ne!(payload(&first)[key], first[key]);
    }
    refused(
        &pki,
        "export front --as server --format mobileconfig --state-dir state",
        1,
        "profile.external",
    );
}

#[test]
fn the_self_signed_certificate_is_exported_for_devices() {
    let (pki, admin) = (Pki::new(), free_port());
    let text = config(admin, "", "unmanaged = 'allow'", &service(&[server(echo)]));
    let own = "[profile.server_certificate]\nprimary = 'server.pem'\nkey = 'server.key'\n";
    assert!(text.contains(own));
    fs::write(pki.path("adit.toml"), text.replace(own, "")).unwrap();
    refused(&pki, "export --self-signed", 1, "server-self-signed.pem");
    let device = pki.client("device", |_| ());
    let gateway = Gateway::run(&pki, admin);
    done(&pki, "export --self-signed --format der -o root.der");
    fs::remove_file(pki.path("ca.pem")).unwrap();
    // A device that trusts what was exported gets through.
    fs::copy(pki.path("root.der"), pki.path("ca.pem")).unwrap();
    goes_through(&pki, &gateway, &device);
    let profile = done(&pki, "export --self-signed --format mobileconfig");
    let profile = plist::Value::from_reader_xml(profile.as_bytes()).unwrap();
    let payloads = &profile.as_dictionary().unwrap()["PayloadContent"];
    let root = &payloads.as_array().unwrap()[0].as_dictionary().unwrap()["PayloadContent"];
    assert_eq!(
        root.as_data().unwrap(),
        fs::read(pki.path("root.der")).unwrap()
    );
}

#[test]
fn what_a_stored_profile_names_is_not_deleted_whether_it_is_assigned_or_not() {
    let pki = Pki::new();
    let node = format!("state_dir = 'state'\n[admin]\nlisten = '{}'\n", free_port());
    let profile = stored_config(free_port(), "['store:fleet']", &service(&[free_port()]));
    let profile = &profile[profile.find("[profile]").unwrap()..];
    let profile = profile.replacen("[profile]", "[profile]\nname = 'corp'", 1);
    fs::write(pki.path("adit.toml"), node).unwrap();
    fs::write(pki.path("corp.toml"), profile).unwrap();
    pkcs12(&pki, "front.p12", "server");
    done(&pki, "import front.p12 --as server --password-file pass");
    done(&pki, "import ca.pem --as group --name fleet");
    let of_profile = |arguments: &[&str]| {
        let output = run(&pki, ADIT, &[&["profile"], arguments].concat());
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {told}");
    };
    of_profile(&["apply", "corp.toml"]);
    for step in ["stored", "assigned"] {
        for kind in ["front --as server", "fleet --as group"] {
            refused(
                &pki,
                &format!("delete {kind}"),
                1,
                "the profile corp names it",
            );
        }
        let listed: Value = serde_json::from_str(&done(&pki, "list --json")).unwrap();
        let listed = listed["certificates"].as_array().unwrap();
        let named = serde_json::json!(["corp"]);
        assert!(
            listed.iter().all(|one| one["used_by"] == named),
            "{step}: {listed:?}"
        );
        of_profile(&["assign", "corp"]);
    }
    // Only the state folder is needed to know.
    refused(
        &pki,
        "delete fleet --as group --state-dir state",
        1,
        "the profile corp names it",
    );
    // The assigned profile says whom a document is for.
    let document = done(&pki, "export front --as server --format mobileconfig");
    assert!(
        document.contains("localhost.corp.server.front"),
        "{document}"
    );
    of_profile(&["unassign"]);
    of_profile(&["delete", "corp"]);
    done(&pki, "delete fleet --as group");
}
