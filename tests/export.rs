//! Documents for devices: `adit devices export` writes what Apple's key types, a browser's PAC engine and a second export
//! agree with.

use crate::common;

use std::io::Write;
use std::process::{Command, Output, Stdio};

use common::Gateway;
use common::Pki;
use serde_json::Value;

const RULES: &str = "[[profile.service]]\nname = 'wiki'\nservers = ['10.0.0.5:443']\n\
    [[profile.rule]]\nhost = '*.corp.example.com'\nport = 443\nservice = 'wiki'\n\
    [[profile.rule]]\napp = 'mail'\nhost = 'mail.example.net'\nport = [993, 465]\nservice = 'wiki'\n\
    [[profile.rule]]\nhost = '10.1.0.0/16'\nport = '*'\nservice = 'wiki'\n\
    [[profile.rule]]\nhost = '2001:db8::/32'\nport = '*'\nservice = 'wiki'\n";

/// A folder with a config of these rules.
fn config(rules: &str) -> Pki {
    let pki = Pki::new();
    Gateway::builder(&pki)
        .admin("127.0.0.1:1".parse().unwrap())
        .auth("")
        .rest(rules)
        .replace(
            "[profile]\n",
            "[profile]\nname = 'corp'\ndescription = 'Corporate tunnel'\n",
        )
        .replace("'localhost:8443'", "'tunnel.example.com:443'")
        .write();
    pki
}

fn export(pki: &Pki, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_adit"))
        .args(["devices", "export", "--config", "adit.toml"])
        .args(arguments)
        .current_dir(pki.folder.path())
        .output()
        .unwrap()
}

fn right(pki: &Pki, arguments: &[&str]) -> (String, String) {
    let output = export(pki, arguments);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{told}");
    (String::from_utf8(output.stdout).unwrap(), told)
}

/// Runs a program with `input` and gives what it prints.
fn piped(mut command: Command, input: &str) -> String {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("tests/run installs what the tests need");
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

/// A property list as JSON, read by Python's parser; data become `{"data": hex}`.
fn plist(text: &str) -> Value {
    let mut command = Command::new("python3");
    command.args([
        "-c",
        "import json, plistlib, sys\n\
         print(json.dumps(plistlib.loads(sys.stdin.buffer.read()), default=lambda data: {'data': data.hex()}))",
    ]);
    serde_json::from_str(&piped(command, text)).unwrap()
}

/// Keys, types and whether they must be there, as Apple publishes them for a payload.
type Keys = [(&'static str, char, bool)];

const COMMON: &Keys = &[
    ("PayloadType", 's', true),
    ("PayloadVersion", 'i', true),
    ("PayloadIdentifier", 's', true),
    ("PayloadUUID", 'u', true),
    ("PayloadDisplayName", 's', false),
];
const TOP: &Keys = &[("PayloadContent", 'a', true)];
const RELAY: &Keys = &[
    ("Relays", 'a', true),
    ("MatchDomains", 'a', false),
    ("ExcludedDomains", 'a', false),
    ("RelayUUID", 'u', false),
    ("UIToggleEnabled", 'b', false),
    ("AllowDNSFailover", 'b', false),
];
const SERVER: &Keys = &[
    ("HTTP2RelayURL", 's', true),
    ("PayloadCertificateUUID", 'u', false),
    ("AdditionalHTTPHeaderFields", 'd', false),
];
const ROOT: &Keys = &[("PayloadContent", 'x', true)];
const PKCS12: &Keys = &[("PayloadContent", 'x', true), ("Password", 's', false)];
const SCEP_CONTENT: &Keys = &[
    ("URL", 's', true),
    ("Name", 's', false),
    ("Subject", 'a', false),
    ("Challenge", 's', false),
    ("Keysize", 'i', false),
    ("Key Type", 's', false),
    ("Key Usage", 'i', false),
];
const DECLARATION: &Keys = &[
    ("Type", 's', true),
    ("Identifier", 'u', true),
    ("ServerToken", 'u', true),
    ("Payload", 'd', true),
];
const DECLARED_RELAY: &Keys = &[
    ("VisibleName", 's', true),
    ("Relays", 'a', true),
    ("MatchDomains", 'a', false),
    ("ExcludedDomains", 'a', false),
    ("RelayUUID", 'u', false),
    ("UIToggleEnabled", 'b', false),
    ("AllowDNSFailover", 'b', false),
];
const DECLARED_SERVER: &Keys = &[
    ("HTTP2RelayURL", 's', true),
    ("CredentialAssetReference", 's', false),
    ("AdditionalHTTPHeaderFields", 'd', false),
];

/// That `value` has the keys that it must have, no others, and each of its type.
fn conforms(value: &Value, keys: &[&Keys]) {
    let table = value.as_object().unwrap();
    let known: Vec<_> = keys.iter().flat_map(|keys| keys.iter()).collect();
    for (key, _, needed) in &known {
        assert!(
            !needed || table.contains_key(*key),
            "{key} is missing in {value}"
        );
    }
    for (key, value) in table {
        let (_, kind, _) = known
            .iter()
            .find(|(name, _, _)| name == key)
            .unwrap_or_else(|| panic!("{key} is not documented"));
        let fits = match kind {
            's' => value.as_str().is_some_and(|text| !text.is_empty()),
            'u' => value.as_str().is_some_and(is_uuid),
            'i' => value.is_i64(),
            'b' => value.is_boolean(),
            'a' => value.is_array(),
            'd' => value.is_object(),
            _ => value["data"].is_string(),
        };
        assert!(fits, "{key} is {value}");
    }
}

/// As Apple's schema has it: `^[0-9A-Za-z]{8}-...{12}$`.
fn is_uuid(text: &str) -> bool {
    let lengths: Vec<usize> = text.split('-').map(str::len).collect();
    lengths == [8, 4, 4, 4, 12] && text.bytes().all(|b| b == b'-' || b.is_ascii_alphanumeric())
}

fn payload<'v>(profile: &'v Value, kind: &str) -> &'v Value {
    let payloads = profile["PayloadContent"].as_array().unwrap();
    let mut of_kind = payloads
        .iter()
        .filter(|payload| payload["PayloadType"] == kind);
    let payload = of_kind.next().unwrap_or_else(|| panic!("no {kind}"));
    assert!(of_kind.next().is_none());
    payload
}

#[test]
fn a_profile_with_a_pkcs12_identity() {
    let pki = config(RULES);
    let device = pki.client("device", |_| ());
    drop(device);
    let made = Command::new("openssl")
        .args([
            "pkcs12",
            "-export",
            "-in",
            "device.pem",
            "-inkey",
            "device.key",
        ])
        .args(["-out", "device.p12", "-passout", "pass:open sesame"])
        .current_dir(pki.folder.path())
        .status()
        .unwrap();
    assert!(made.success());
    std::fs::write(pki.path("password"), "open sesame\n").unwrap();

    let plain = [
        "--format",
        "mobileconfig",
        "--identity",
        "device.p12",
        "--root",
        "ca.pem",
    ];
    let (text, told) = right(&pki, &plain);
    for net in ["10.1.0.0/16", "2001:db8::/32"] {
        assert!(
            told.contains(&format!(
                "cannot match addresses: devices do not use the rule for {net}"
            )),
            "{told}"
        );
    }
    let profile = plist(&text);
    conforms(&profile, &[COMMON, TOP]);
    assert_eq!(profile["PayloadType"], "Configuration");
    assert_eq!(profile["PayloadIdentifier"], "com.example.tunnel.corp");
    assert_eq!(profile["PayloadDisplayName"], "Corporate tunnel");
    let relay = payload(&profile, "com.apple.relay.managed");
    conforms(relay, &[COMMON, RELAY]);
    conforms(&relay["Relays"][0], &[SERVER]);
    assert_eq!(
        relay["Relays"][0]["HTTP2RelayURL"],
        "https://tunnel.example.com:443/"
    );
    assert_eq!(
        relay["MatchDomains"],
        serde_json::json!(["corp.example.com", "mail.example.net"])
    );
    assert_eq!(
        (&relay["UIToggleEnabled"], &relay["AllowDNSFailover"]),
        (&true.into(), &false.into())
    );

    let identity = payload(&profile, "com.apple.security.pkcs12");
    conforms(identity, &[COMMON, PKCS12]);
    assert_eq!(
        relay["Relays"][0]["PayloadCertificateUUID"],
        identity["PayloadUUID"]
    );
    let file = std::fs::read(pki.path("device.p12")).unwrap();
    let hex: String = file.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(identity["PayloadContent"]["data"], hex);
    assert!(
        identity.get("Password").is_none(),
        "only when it is asked for"
    );
    let root = payload(&profile, "com.apple.security.root");
    conforms(root, &[COMMON, ROOT]);

    let (again, _) = right(&pki, &plain);
    assert_eq!(again, text, "a new export replaces the old one");
    let uuids = |profile: &Value| -> Vec<String> {
        let payloads = profile["PayloadContent"].as_array().unwrap();
        let all = payloads.iter().chain([profile]);
        all.map(|payload| payload["PayloadUUID"].as_str().unwrap().to_owned())
            .collect()
    };
    let (mut first, other) = (
        uuids(&profile),
        plist(&right(&pki, &[&plain[..], &["--app", "mail"]].concat()).0),
    );
    first.extend(uuids(&other));
    let all = first.len();
    first.sort();
    first.dedup();
    assert_eq!(first.len(), all, "no two parts share an identifier");

    let out = ["--embed-password", "password", "--out", "corp.mobileconfig"];
    let (_, told) = right(&pki, &[&plain[..], &out].concat());
    assert!(
        told.contains("the identity and its password") && !told.contains("sesame"),
        "{told}"
    );
    let written = plist(&std::fs::read_to_string(pki.path("corp.mobileconfig")).unwrap());
    assert_eq!(
        payload(&written, "com.apple.security.pkcs12")["Password"],
        "open sesame"
    );
    let mode = std::os::unix::fs::MetadataExt::mode(
        &std::fs::metadata(pki.path("corp.mobileconfig")).unwrap(),
    );
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_profile_with_scep_and_settings() {
    let pki = config(RULES);
    std::fs::write(pki.path("challenge"), "knock\n").unwrap();
    let (text, _) = right(
        &pki,
        &[
            "--format",
            "mobileconfig",
            "--scep-url",
            "https://scep.example.com/scep",
            "--scep-name",
            "corp",
            "--scep-subject",
            "O=Example",
            "--scep-subject",
            "CN=%HardwareUUID%",
            "--scep-challenge",
            "challenge",
            "--header",
            "X-Group=blue",
            "--no-toggle",
            "--dns-failover",
            "--exclude",
            "Public.corp.example.com.",
        ],
    );
    let profile = plist(&text);
    let scep = payload(&profile, "com.apple.security.scep");
    conforms(&scep["PayloadContent"], &[SCEP_CONTENT]);
    let subject = serde_json::json!([[["O", "Example"]], [["CN", "%HardwareUUID%"]]]);
    assert_eq!(scep["PayloadContent"]["Subject"], subject);
    assert_eq!(scep["PayloadContent"]["Challenge"], "knock");
    let relay = payload(&profile, "com.apple.relay.managed");
    conforms(relay, &[COMMON, RELAY]);
    let server = &relay["Relays"][0];
    assert_eq!(server["PayloadCertificateUUID"], scep["PayloadUUID"]);
    assert_eq!(
        server["AdditionalHTTPHeaderFields"],
        serde_json::json!({ "X-Group": "blue" })
    );
    assert_eq!(
        relay["ExcludedDomains"],
        serde_json::json!(["public.corp.example.com"])
    );
    assert_eq!(
        (&relay["UIToggleEnabled"], &relay["AllowDNSFailover"]),
        (&false.into(), &true.into())
    );
    assert_eq!(
        profile["PayloadContent"].as_array().unwrap().len(),
        2,
        "a public certificate needs no root"
    );
}

#[test]
fn a_declaration() {
    let pki = config(RULES);
    let arguments = [
        "--format",
        "declaration",
        "--credential-asset",
        "identity-asset",
        "--header",
        "X-Group=blue",
    ];
    let declared = |more: &[&str]| -> Value {
        serde_json::from_str(&right(&pki, &[&arguments[..], more].concat()).0).unwrap()
    };
    let first = declared(&[]);
    conforms(&first, &[DECLARATION]);
    assert_eq!(first["Type"], "com.apple.configuration.network.relay");
    let payload = &first["Payload"];
    conforms(payload, &[DECLARED_RELAY]);
    conforms(&payload["Relays"][0], &[DECLARED_SERVER]);
    assert_eq!(
        payload["Relays"][0]["CredentialAssetReference"],
        "identity-asset"
    );
    assert_eq!(
        payload["MatchDomains"],
        serde_json::json!(["corp.example.com", "mail.example.net"])
    );
    assert_eq!(declared(&[]), first);
    let changed = declared(&["--no-toggle"]);
    assert_eq!(changed["Identifier"], first["Identifier"]);
    assert_ne!(
        changed["ServerToken"], first["ServerToken"],
        "a change has a token of its own"
    );
    let mail = declared(&["--app", "chat"]);
    assert_eq!(
        mail["Payload"]["MatchDomains"],
        serde_json::json!(["corp.example.com"])
    );
    assert_ne!(mail["Identifier"], first["Identifier"]);
}

#[test]
fn a_pac_file_leads_exactly_what_a_rule_is_about() {
    let pki = config(RULES);
    let (script, told) = right(&pki, &["--format", "pac"]);
    assert!(
        told.contains("cannot match IPv6 networks") && told.contains("2001:db8::/32"),
        "{told}"
    );
    // What a browser brings beside the file itself.
    let engine = "function isInNet(host, net, mask) {\n\
                    var n = function (a) { return a.split('.').reduce(function (s, p) { return s * 256 + +p; }, 0); };\n\
                    return ((n(host) & n(mask)) >>> 0) === (n(net) >>> 0);\n}\n";
    let cases = [
        (
            "https://wiki.corp.example.com/x?y=:1",
            "wiki.corp.example.com",
            true,
        ),
        (
            "https://a.b.corp.example.com:443/",
            "A.b.Corp.example.com.",
            true,
        ),
        ("wss://wiki.corp.example.com", "wiki.corp.example.com", true),
        (
            "http://wiki.corp.example.com/",
            "wiki.corp.example.com",
            false,
        ),
        (
            "https://wiki.corp.example.com:8443/",
            "wiki.corp.example.com",
            false,
        ),
        ("https://corp.example.com/", "corp.example.com", false),
        ("https://notcorp.example.com/", "notcorp.example.com", false),
        (
            "https://corp.example.com.evil.test/",
            "corp.example.com.evil.test",
            false,
        ),
        ("https://mail.example.net:993/", "mail.example.net", true),
        ("https://mail.example.net/", "mail.example.net", false),
        ("http://10.1.255.7:8080/", "10.1.255.7", true),
        ("http://10.2.0.1/", "10.2.0.1", false),
        ("http://[2001:db8::1]/", "2001:db8::1", false),
        ("https://example.org/", "example.org", false),
    ];
    let calls: String = cases
        .iter()
        .map(|(url, host, _)| format!("console.log(FindProxyForURL({url:?}, {host:?}));\n"))
        .collect();
    let mut node = Command::new("node");
    node.arg("-");
    let answers = piped(node, &format!("{engine}{script}{calls}"));
    for (answer, (url, host, through)) in answers.lines().zip(cases) {
        let expected = if through {
            "HTTPS tunnel.example.com:443; DIRECT"
        } else {
            "DIRECT"
        };
        assert_eq!(answer, expected, "{url} {host}");
    }
    assert_eq!(answers.lines().count(), cases.len());
}

#[test]
fn what_cannot_be_exported_is_told() {
    let pki = config(RULES);
    std::fs::write(pki.path("not.p12"), "hello").unwrap();
    for (arguments, words) in [
        (
            &["--format", "pac", "--no-toggle"][..],
            "--no-toggle cannot be used with the format pac",
        ),
        (
            &["--format", "declaration", "--identity", "x"],
            "--identity cannot be used",
        ),
        (
            &["--format", "mobileconfig", "--identity", "not.p12"],
            "not.p12 is not a PKCS#12 file",
        ),
        (
            &["--format", "mobileconfig", "--header", "a b=c"],
            "is not a header field",
        ),
        (
            &["--format", "mobileconfig", "--exclude", "10.0.0.1"],
            "is not a domain",
        ),
        (
            &["--format", "mobileconfig", "--scep-url", "scep.test"],
            "is not a URL",
        ),
    ] {
        let output = export(&pki, arguments);
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(told.contains(words), "{told}");
        assert_eq!(output.status.code(), Some(2), "{told}");
    }
    // Without domains a relay would get everything: only a rule for everything may mean that.
    let service = "[[profile.service]]\nname = 'wiki'\nservers = ['10.0.0.5:443']\n[[profile.rule]]\nport = '*'\nservice = 'wiki'\n";
    let only_networks = config(&format!("{service}host = '10.0.0.0/8'\n"));
    let output = export(&only_networks, &["--format", "mobileconfig"]);
    assert_eq!(output.status.code(), Some(2));
    let everything = config(&format!("{service}host = '*'\n"));
    let (text, told) = right(&everything, &["--format", "mobileconfig"]);
    let profile = plist(&text);
    assert!(
        payload(&profile, "com.apple.relay.managed")
            .get("MatchDomains")
            .is_none()
    );
    assert!(told.contains("a rule matches every host"), "{told}");
}

#[test]
fn a_self_signed_certificate_comes_along() {
    let pki = config(RULES);
    let text = std::fs::read_to_string(pki.path("adit.toml")).unwrap();
    let text = text.replace(
        "[profile.server_certificate]\nprimary = 'server.pem'\nkey = 'server.key'\n",
        "",
    );
    std::fs::write(pki.path("adit.toml"), text).unwrap();
    let output = export(&pki, &["--format", "mobileconfig"]);
    assert_eq!(
        output.status.code(),
        Some(1),
        "the gateway has made none yet"
    );
    let made = adit::certs::self_signed(&["tunnel.example.com".into()], 10).unwrap();
    std::fs::create_dir(pki.path("state")).unwrap();
    made.write(
        &pki.path("state/server-self-signed.pem"),
        &pki.path("state/server-self-signed.key"),
    )
    .unwrap();
    let profile = plist(&right(&pki, &["--format", "mobileconfig"]).0);
    let hex: String = made.chain[0]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(
        payload(&profile, "com.apple.security.root")["PayloadContent"]["data"],
        hex
    );
}
