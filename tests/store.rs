//! The certificate store in use: what is imported serves, is exported, and is not deleted under a profile.

use crate::common;
use crate::common::store;

use std::fs;
use std::io::{Read, Write};
use std::time::Duration;

use adit::certs::{self, Issued, KeyType, make};
use adit::lab;
use common::{
    Gateway, Pki, Session, World, ask, authority, client_of, connect, echo, free_port, request,
    server, tunnel, until,
};
use serde_json::Value;
use store::{ADIT, done, pkcs12, refused, run, stored, stored_config};

fn goes_through(pki: &Pki, gateway: &Gateway, device: &Issued) {
    let mut session = connect(pki, gateway, Some(device));
    let answer = ask(&mut session, &request("web.test:80")).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn what_is_imported_serves_and_is_not_deleted_under_the_profile() {
    let pki = Pki::new();
    pkcs12(&pki, "front.p12", "server");
    let of = ["crl2pkcs7", "-nocrl", "-certfile", "ca.pem"];
    pki.openssl(&[&of[..], &["-outform", "DER", "-out", "fleet.p7b"]].concat());
    // The config names certificates that are not there yet: it is wrong, and the import is made with it all the same.
    let node = stored_config(&pki, "['store:fleet']").servers(&[server(echo)]);
    let admin = node.write();
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
    let world = World::around(pki, |pki| Gateway::run(pki, admin));
    goes_through(&world.pki, &world.gateway, &world.device);

    let listed = done(&world.pki, "list --json");
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let listed = listed["certificates"].as_array().unwrap();
    assert_eq!(listed.len(), 2);
    assert_eq!(
        (&listed[0]["name"], &listed[0]["kind"]),
        (&"front".into(), &"server".into())
    );
    assert_eq!(listed[0]["names"], serde_json::json!(["localhost"]));
    assert_eq!(listed[1]["used_by"], serde_json::json!(["default"]));
    let table = done(&world.pki, "list");
    assert!(
        table.contains("front") && table.contains("used by default"),
        "{table}"
    );
    assert!(done(&world.pki, "show front --as server").contains("CN=localhost"));
    refused(
        &world.pki,
        "show other --as server",
        1,
        "no server certificate other in the store",
    );

    refused(
        &world.pki,
        "delete fleet --as group",
        1,
        "the profile default names it",
    );
    refused(
        &world.pki,
        "delete front --as server",
        1,
        "the profile default names it",
    );
    assert!(
        stored(&world.pki, "server", "front").exists()
            && stored(&world.pki, "group", "fleet").exists()
    );
    // The same name as another kind is another certificate.
    refused(
        &world.pki,
        "delete front --as group",
        1,
        "no group certificate front in the store",
    );
    done(&world.pki, "import ca.pem --as group --name spare");
    done(&world.pki, "delete spare --as group");
    assert!(!stored(&world.pki, "group", "spare").exists());
}

#[test]
fn a_renewal_takes_the_place_only_where_that_is_said_and_is_served_after_a_reload() {
    let pki = Pki::new();
    pkcs12(&pki, "front.p12", "server");
    let node = stored_config(&pki, "['ca.pem']").servers(&[server(echo)]);
    let admin = node.write();
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
    let renewed = lab::issue(&pki.ca, &renewed).unwrap();
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
    gateway.reload();
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
    done(
        &pki,
        "import front.p12 --as server --password-file pass --state-dir state",
    );
    let other = authority("other");
    other.write(&pki.path("other")).unwrap();
    let crl = common::crl_of(
        &other,
        &[],
        time::OffsetDateTime::now_utc(),
        time::OffsetDateTime::now_utc() + Duration::from_secs(3600),
    );
    fs::write(pki.path("other.crl"), crl).unwrap();
    done(
        &pki,
        "import ca.pem --as group --name first --state-dir state",
    );
    let backend = server(echo);
    let write = |group: &str, crls: &str| {
        let node = stored_config(&pki, group).admin(admin).servers(&[backend]);
        node.replace("['ca.crl']", crls).write();
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
    gateway.reload();
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
    gateway.reload();
    let error = second.read_to_end(&mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("UnknownCA"), "{error}");
    until("counted", || {
        gateway.ended("cut-certificate-untrusted") == 1.0
    });
    assert!(echoes(&mut first));
    done(&pki, "delete second --as group");
    gateway.reload();
    assert!(echoes(&mut first));
}

/// Without a config file.
#[test]
fn certificates_are_exported_to_be_pinned_and_roots_to_be_trusted() {
    let pki = Pki::new();
    Gateway::builder(&pki)
        .auth("")
        .servers(&[free_port()])
        .write();
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
    let pki = Pki::new();
    let node = Gateway::builder(&pki).servers(&[server(echo)]);
    let admin = node.certificate(None).write();
    refused(&pki, "export --self-signed", 1, "server-self-signed.pem");
    let world = World::around(pki, |pki| Gateway::run(pki, admin));
    done(&world.pki, "export --self-signed --format der -o root.der");
    fs::remove_file(world.pki.path("ca.pem")).unwrap();
    // A device that trusts what was exported gets through.
    fs::copy(world.pki.path("root.der"), world.pki.path("ca.pem")).unwrap();
    goes_through(&world.pki, &world.gateway, &world.device);
    let profile = done(&world.pki, "export --self-signed --format mobileconfig");
    let profile = plist::Value::from_reader_xml(profile.as_bytes()).unwrap();
    let payloads = &profile.as_dictionary().unwrap()["PayloadContent"];
    let root = &payloads.as_array().unwrap()[0].as_dictionary().unwrap()["PayloadContent"];
    assert_eq!(
        root.as_data().unwrap(),
        fs::read(world.pki.path("root.der")).unwrap()
    );
}

#[test]
fn what_a_stored_profile_names_is_not_deleted_whether_it_is_assigned_or_not() {
    let pki = Pki::new();
    let node = format!("state_dir = 'state'\n[admin]\nlisten = '{}'\n", free_port());
    let profile = stored_config(&pki, "['store:fleet']")
        .servers(&[free_port()])
        .text();
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
