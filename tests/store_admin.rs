//! The certificate store through the admin listener of a running node.

use crate::common;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

use adit::certs::make::Usage;
use adit::certs::pem::to_pem;
use adit::certs::{IssueRequest, Issued, Validity};
use adit::lab;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::gateway::Builder;
use common::{
    Gateway, Pki, TOKEN, ask, authority, client_of, connect, echo, request, server, tunnel, until,
};
use serde_json::{Value, json};

/// The config with a token, and these group certificates and server certificate.
fn config<'p>(pki: &'p Pki, group: &str, certificate: &str) -> Builder<'p> {
    let node = Gateway::builder(pki).token().servers(&[server(echo)]);
    node.replace("['ca.pem']", group)
        .certificate(Some(certificate))
}

const FILES: &str = "primary = 'server.pem'\nkey = 'server.key'";

/// A request with the token: status, header and body.
fn exchange(gateway: &Gateway, method: &str, target: &str, body: &[u8]) -> (u16, String, Vec<u8>) {
    let mut stream = TcpStream::connect(gateway.admin).unwrap();
    let head = format!(
        "{method} {target} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nAuthorization: Bearer {TOKEN}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        gateway.admin,
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    // A body that is refused by its length may not be read to its end.
    let _ = stream.write_all(body);
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap();
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (
        status,
        head.to_ascii_lowercase(),
        answer[end + 4..].to_vec(),
    )
}

fn call(gateway: &Gateway, method: &str, target: &str, body: &Value) -> (u16, Value) {
    let body = if body.is_null() {
        Vec::new()
    } else {
        serde_json::to_vec(body).unwrap()
    };
    let (status, _, answer) = exchange(gateway, method, target, &body);
    (status, serde_json::from_slice(&answer).unwrap())
}

fn upload(file: &[u8]) -> Value {
    json!({"file": STANDARD.encode(file)})
}

fn codes(answer: &Value) -> Vec<&str> {
    let findings = answer["findings"].as_array().unwrap().iter();
    findings
        .map(|finding| finding["code"].as_str().unwrap())
        .collect()
}

/// A server certificate with its chain and key in one PEM file.
fn renewed(pki: &Pki) -> (Issued, Vec<u8>) {
    let mut request = IssueRequest::new(Usage::Server, "localhost", Validity::days(9).unwrap());
    request.dns = vec!["localhost".into()];
    let issued = lab::issue(&pki.ca, &request).unwrap();
    issued
        .write(&pki.path("renewed.pem"), &pki.path("renewed.key"))
        .unwrap();
    let key = fs::read_to_string(pki.path("renewed.key")).unwrap();
    fs::remove_file(pki.path("renewed.pem")).unwrap();
    fs::remove_file(pki.path("renewed.key")).unwrap();
    let text = to_pem(&[issued.chain[0].clone(), pki.ca.certificate().clone()]) + &key;
    (issued, text.into_bytes())
}

#[test]
fn certificates_are_looked_at_imported_listed_exported_and_deleted() {
    let pki = Pki::new();
    let gateway = config(&pki, "['ca.pem']", FILES).start();
    assert_eq!(
        call(&gateway, "GET", "/certificates", &Value::Null),
        (200, json!({"certificates": []}))
    );
    let (issued, file) = renewed(&pki);
    let target = "/certificates/server/front";
    let (status, looked) = call(
        &gateway,
        "PUT",
        &format!("{target}?dry_run=true"),
        &upload(&file),
    );
    assert_eq!(status, 200, "{looked}");
    assert_eq!(
        (&looked["name"], &looked["kind"]),
        (&json!("front"), &json!("server"))
    );
    assert_eq!(looked["names"], json!(["localhost"]));
    assert_eq!(codes(&looked), ["expires-urgent", "expires-urgent"]);
    assert_eq!(call(&gateway, "GET", target, &Value::Null).0, 404);
    assert!(!pki.path("state/certificates").exists());

    let (status, imported) = call(&gateway, "PUT", target, &upload(&file));
    assert_eq!((status, &imported), (200, &looked));
    assert_eq!(
        call(&gateway, "GET", target, &Value::Null),
        (200, looked.clone())
    );
    let (_, listed) = call(&gateway, "GET", "/certificates", &Value::Null);
    assert_eq!(listed, json!({"certificates": [looked]}));
    let (status, refused) = call(&gateway, "PUT", target, &upload(&file));
    assert_eq!(status, 409);
    assert!(
        refused["error"].as_str().unwrap().contains("replace=true"),
        "{refused}"
    );
    let replace = format!("{target}?replace=true");
    assert_eq!(call(&gateway, "PUT", &replace, &upload(&file)).0, 200);

    // Exports have no key, and need no token.
    let root = pki.ca.certificate().to_vec();
    for (query, media, content) in [
        ("", "application/pem-certificate-chain", None),
        (
            "?format=der",
            "application/pkix-cert",
            Some(issued.chain[0].to_vec()),
        ),
        (
            "?format=der&root=true",
            "application/pkix-cert",
            Some(root.clone()),
        ),
        (
            "?format=mobileconfig",
            "application/x-apple-aspen-config",
            None,
        ),
    ] {
        let (status, head, body) =
            exchange(&gateway, "GET", &format!("{target}/export{query}"), b"");
        assert_eq!(status, 200);
        assert!(head.contains(&format!("content-type: {media}")), "{head}");
        assert!(
            head.contains("content-disposition: attachment; filename=\"front."),
            "{head}"
        );
        assert!(!body.windows(7).any(|seven| seven == b"PRIVATE"));
        assert!(content.is_none_or(|content| content == body));
        if query == "?format=mobileconfig" {
            let profile = plist::Value::from_reader_xml(&*body).unwrap();
            let payload = &profile.as_dictionary().unwrap()["PayloadContent"]
                .as_array()
                .unwrap()[0];
            let trusted = payload.as_dictionary().unwrap()["PayloadContent"].as_data();
            assert_eq!(trusted, Some(&*root));
        }
    }
    let gone = json!({"name": "front", "kind": "server"});
    assert_eq!(call(&gateway, "DELETE", target, &Value::Null), (200, gone));
    assert_eq!(call(&gateway, "DELETE", target, &Value::Null).0, 404);
    assert_eq!(
        call(&gateway, "GET", &format!("{target}/export"), &Value::Null).0,
        404
    );
}

#[test]
fn what_cannot_be_imported_is_told_with_findings_and_never_with_its_password() {
    let pki = Pki::new();
    let admin = config(&pki, "['ca.pem']", FILES).write();
    pki.pkcs12("server.p12", "server", "hunter2", &[]);
    // What the node logs is looked at, too.
    let mut command = Command::new("bash");
    let run = format!(
        "exec {} run --config adit.toml 2> >(tee log >&2)",
        env!("CARGO_BIN_EXE_adit")
    );
    command.args(["-c", &run]).current_dir(pki.folder.path());
    let gateway = Gateway::spawn(command, admin);
    let p12 = fs::read(pki.path("server.p12")).unwrap();
    let with = |password: &str| json!({"file": STANDARD.encode(&p12), "password": password});
    let target = "/certificates/server/front";
    let end = fs::read(pki.path("server.pem")).unwrap();
    let ca = fs::read(pki.path("ca.pem")).unwrap();
    for (body, why) in [
        (with("hunter3"), "the password is wrong"),
        (with(""), "the password is wrong"),
        (upload(&p12), "protected by a password"),
        (upload(b"noise"), "holds no certificate"),
        (upload(&p12[..p12.len() / 2]), "truncated"),
        (
            json!({"file": STANDARD.encode(&end), "key": STANDARD.encode("x")}),
            "holds no private key",
        ),
    ] {
        for query in ["", "?dry_run=true"] {
            let (status, answer) = call(&gateway, "PUT", &format!("{target}{query}"), &body);
            assert_eq!((status, &answer["findings"]), (422, &json!([])), "{answer}");
            assert!(
                answer["error"].as_str().unwrap().contains(why),
                "{why}: {answer}"
            );
            assert!(!answer.to_string().contains("hunter"), "{answer}");
        }
    }
    for (target, body, wanted) in [
        (
            target,
            upload(&end),
            &["no-chain", "no-key", "expires-urgent"][..],
        ),
        (
            "/certificates/group/fleet",
            upload(&end),
            &["not-ca", "expires-urgent", "no-root"],
        ),
    ] {
        let (status, answer) = call(&gateway, "PUT", target, &body);
        assert_eq!((status, codes(&answer)), (422, wanted.to_vec()), "{answer}");
        assert!(answer["findings"][0]["remedy"].is_string());
    }
    // Requests that are none.
    for (method, target, body, wanted) in [
        ("PUT", "/certificates/server/.x", upload(&ca), 400),
        ("PUT", "/certificates/server/..%2Fx", upload(&ca), 400),
        ("PUT", "/certificates/other/x", upload(&ca), 404),
        ("GET", "/certificates/server/x/key", Value::Null, 404),
        ("PUT", "/certificates/server/x/export", upload(&ca), 405),
        ("POST", "/certificates/group/x", upload(&ca), 405),
        ("PUT", "/certificates/group/x", json!({"file": "!"}), 400),
        (
            "PUT",
            "/certificates/group/x",
            json!({"file": "", "secret": "hunter2"}),
            400,
        ),
        (
            "PUT",
            "/certificates/group/x?dry_run=perhaps",
            upload(&ca),
            400,
        ),
        (
            "PUT",
            "/certificates/group/x",
            upload(&vec![b'x'; 5 << 20]),
            413,
        ),
        (
            "PUT",
            "/certificates/group/x",
            upload(&vec![b'x'; 12 << 20]),
            413,
        ),
    ] {
        let (status, answer) = call(&gateway, method, target, &body);
        assert_eq!(status, wanted, "{method} {target}: {answer}");
        assert!(!answer.to_string().contains("hunter"), "{answer}");
    }
    // Without the token nothing changes.
    let mut stream = TcpStream::connect(gateway.admin).unwrap();
    let body = upload(&ca).to_string();
    let head = format!(
        "PUT /certificates/group/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    assert!(!pki.path("state/certificates").exists());

    assert_eq!(call(&gateway, "PUT", target, &with("hunter2")).0, 200);
    let logged = || fs::read_to_string(pki.path("log")).unwrap();
    until("logged", || logged().contains("certificate imported"));
    assert!(!logged().contains("hunter"));
}

#[test]
fn what_the_profile_names_is_served_at_once_and_is_not_deleted() {
    let pki = Pki::new();
    let node = config(&pki, "['store:fleet']", "primary = 'store:front'").without_crls();
    let admin = node.write();
    let import = |file: &str, kind: &str, name: &str| {
        let done = pki.adit(["certs", "import", file, "--as", kind, "--name", name]);
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
    };
    let (_, first) = renewed(&pki);
    fs::write(pki.path("first.pem"), first).unwrap();
    import("first.pem", "server", "front");
    import("ca.pem", "group", "fleet");
    let gateway = Gateway::run(&pki, admin);
    let device = pki.client("device", |_| ());
    let mut open = tunnel(&pki, &gateway, &device, "a.test:1");

    let (second, file) = renewed(&pki);
    let target = "/certificates/server/front?replace=true";
    let (status, answer) = call(&gateway, "PUT", target, &upload(&file));
    assert_eq!(
        (status, &answer["used_by"]),
        (200, &json!(["default"])),
        "{answer}"
    );
    // The answer comes when it is active.
    let mut session = connect(&pki, &gateway, Some(&device));
    ask(&mut session, &request("web.test:80")).unwrap();
    assert_eq!(
        session.conn.peer_certificates().unwrap()[0],
        second.chain[0]
    );
    // A second group certificate in the bundle lets its devices in; open tunnels stay.
    let other = authority("other");
    let bundle = to_pem(&[pki.ca.certificate().clone(), other.certificate().clone()]);
    let target = "/certificates/group/fleet?replace=true";
    assert_eq!(
        call(&gateway, "PUT", target, &upload(bundle.as_bytes())).0,
        200
    );
    let stranger = client_of(&other, "stranger", |_| ());
    let mut session = connect(&pki, &gateway, Some(&stranger));
    let answer = ask(&mut session, &request("web.test:80")).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    open.write_all(b"alive").unwrap();
    let mut back = [0; 5];
    open.read_exact(&mut back).unwrap();

    for target in ["/certificates/server/front", "/certificates/group/fleet"] {
        let (status, answer) = call(&gateway, "DELETE", target, &Value::Null);
        assert_eq!(status, 409);
        assert!(
            answer["error"]
                .as_str()
                .unwrap()
                .contains("the profile default"),
            "{answer}"
        );
    }
}

#[test]
fn an_import_that_the_node_refuses_is_taken_back() {
    let pki = Pki::new();
    let admin = config(&pki, "['ca.pem']", "primary = 'store:front'").write();
    let (first, file) = renewed(&pki);
    fs::create_dir_all(pki.path("state/certificates/server")).unwrap();
    fs::write(pki.path("state/certificates/server/front.pem"), &file).unwrap();
    let gateway = Gateway::run(&pki, admin);
    // The config on the disk is wrong: nothing can be activated.
    let text = fs::read_to_string(pki.path("adit.toml")).unwrap();
    fs::write(pki.path("adit.toml"), format!("{text}\nwrong = true\n")).unwrap();
    let target = "/certificates/server/front?replace=true";
    let (status, answer) = call(&gateway, "PUT", target, &upload(&renewed(&pki).1));
    assert_eq!(status, 422, "{answer}");
    assert!(answer["problems"].to_string().contains("wrong"), "{answer}");
    assert_eq!(
        fs::read(pki.path("state/certificates/server/front.pem")).unwrap(),
        file
    );
    let device = pki.client("device", |_| ());
    let mut session = connect(&pki, &gateway, Some(&device));
    ask(&mut session, &request("web.test:80")).unwrap();
    assert_eq!(session.conn.peer_certificates().unwrap()[0], first.chain[0]);
    fs::write(pki.path("adit.toml"), text).unwrap();
    assert_eq!(
        call(&gateway, "PUT", target, &upload(&renewed(&pki).1)).0,
        200
    );
}
