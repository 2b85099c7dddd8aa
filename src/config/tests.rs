//! Whole files: what they mean, and every way in which they can be wrong.

use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

/// The contract, with what this version cannot do at its default.
const CONTRACT: &str = r#"state_dir = "/var/lib/adit"

[engine]
cores = "all"
max_tunnels = 100000
max_tunnels_per_device = 256
handshake_timeout = "10s"
connect_timeout = "5s"
idle_timeout = "60s"
drain_timeout = "30s"

[admin]
listen = "127.0.0.1:9901"

[log]
format = "json"
audit = "stdout"

[profile]
name = "corp"
description = ""
external = "tunnel.example.com:443"

[profile.listener]
protocol = "https"
https = "0.0.0.0:8443"
http = "0.0.0.0:8080"
proxy_protocol = "off"
trusted_proxies = []

[profile.server_certificate]
primary = "server.pem"
key = "server.key"

[profile.tls]
inbound = { protocols = ["1.2", "1.3"], cipher_suites = [] }
outbound = { protocols = ["1.2", "1.3"], cipher_suites = [] }

[profile.device_auth]
group_certificates = ["group-ca.pem"]
unmanaged = "block"
device_registry = "devices.csv"

[profile.device_auth.crl]
enabled = true
files = ["group-ca.crl"]
urls = []
stale = "hard"
grace = "24h"

[profile.device_auth.identity]
device = ["san-uri", "cn"]
user = ["san-upn", "san-email"]
app = ["ou"]

[[profile.service]]
name = "wiki"
servers = ["10.0.0.5:443", "10.0.0.6:443"]
balance = "round-robin"
tls = false
proxy_protocol = "off"

[[profile.rule]]
app = "*"
host = "*.corp.example.com"
port = 443
service = "wiki"
"#;

/// The least that a config says. A test adds lines to it with [`with`].
const LEAST: &str = r#"[profile.device_auth]
group_certificates = ["group-ca.pem"]
[profile.device_auth.crl]
files = ["group-ca.crl"]
[[profile.service]]
name = "wiki"
servers = ["10.0.0.5:443"]
[[profile.rule]]
host = "*"
port = "*"
service = "wiki"
"#;

/// A folder with the files that the configs of these tests name, and the path of a config in it.
struct Place {
    dir: TempDir,
    file: PathBuf,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "server.pem",
            "server.key",
            "group-ca.pem",
            "group-ca.crl",
            "devices.csv",
        ] {
            std::fs::write(dir.path().join(name), "x").unwrap();
        }
        let file = dir.path().join("adit.toml");
        Self { dir, file }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Parses for a machine with the CPUs 0, 1, 4 and 5.
    fn parse(&self, text: &str) -> Result<Config, ConfigError> {
        validate::check(text, &self.file, &[0, 1, 4, 5])
    }
}

/// `LEAST` with `lines` before it and `more` after it.
fn with(lines: &str, more: &str) -> String {
    format!("{lines}\n{LEAST}{more}\n")
}

fn right(text: &str) -> Config {
    Place::new()
        .parse(text)
        .unwrap_or_else(|error| panic!("{error}\nin\n{text}"))
}

/// The problems of a text as `line key: message; remedy`.
fn wrong(text: &str) -> Vec<String> {
    let error = Place::new().parse(text).expect_err(text);
    let line = |line: Option<usize>| line.map_or("-".to_owned(), |line| line.to_string());
    let shown = |p: &Problem| format!("{} {}: {}; {}", line(p.line), p.key, p.message, p.remedy);
    error.problems.iter().map(shown).collect()
}

/// Asserts that a text has exactly one problem, which has each of `parts`.
#[track_caller]
fn one_problem(text: &str, parts: &[&str]) {
    let problems = wrong(text);
    assert_eq!(problems.len(), 1, "{problems:#?}");
    for part in parts {
        assert!(
            problems[0].contains(part),
            "{part:?} is not in {problems:?}"
        );
    }
}

#[test]
fn the_contract() {
    let place = Place::new();
    let config = place.parse(CONTRACT).unwrap();
    let expected = Config {
        state_dir: PathBuf::from("/var/lib/adit"),
        engine: Engine {
            cores: vec![0, 1, 4, 5],
            max_tunnels: 100_000,
            max_tunnels_per_device: 256,
            handshake_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(30),
        },
        admin: AdminListen::Tcp("127.0.0.1:9901".parse().unwrap()),
        log: Log {
            format: LogFormat::Json,
            audit: AuditSink::Stdout,
        },
        profile: Profile {
            name: "corp".into(),
            description: String::new(),
            external_host: "tunnel.example.com".into(),
            external_port: 443,
            listen: "0.0.0.0:8443".parse().unwrap(),
            server_certificate: Some(ServerCertificate {
                primary: place.path("server.pem"),
                key: Some(place.path("server.key")),
            }),
            tls12: true,
            tls13: true,
            device_auth: DeviceAuth {
                group_certificates: vec![place.path("group-ca.pem")],
                unmanaged_allowed: false,
                device_registry: Some(place.path("devices.csv")),
                crl_enabled: true,
                crl_files: vec![place.path("group-ca.crl")],
                stale: Stale::Hard,
                identity: IdentityMapping {
                    device: vec![Field::SanUri, Field::Cn],
                    user: vec![Field::SanUpn, Field::SanEmail],
                    app: vec![Field::Ou],
                },
            },
            services: vec![Service {
                name: "wiki".into(),
                kind: ServiceKind::Servers(vec![
                    "10.0.0.5:443".parse().unwrap(),
                    "10.0.0.6:443".parse().unwrap(),
                ]),
                allow: vec![],
            }],
            rules: vec![Rule {
                app: None,
                host: HostPattern::Suffix("corp.example.com".into()),
                ports: Some(vec![443]),
                service: 0,
            }],
        },
    };
    assert_eq!(config, expected);
}

#[test]
fn what_is_left_out_has_the_contracts_defaults() {
    let least = right(LEAST);
    let contract = right(CONTRACT);
    assert_eq!(least.state_dir, contract.state_dir);
    assert_eq!(least.engine, contract.engine);
    assert_eq!(least.admin, contract.admin);
    assert_eq!(least.log, contract.log);
    assert_eq!(least.profile.listen, contract.profile.listen);
    assert_eq!(
        least.profile.device_auth.identity,
        contract.profile.device_auth.identity
    );
    assert_eq!(least.profile.device_auth.stale, Stale::Hard);
    assert!(least.profile.device_auth.crl_enabled && !least.profile.device_auth.unmanaged_allowed);
    assert!(least.profile.tls12 && least.profile.tls13);
    assert_eq!(
        (
            least.profile.server_certificate,
            least.profile.device_auth.device_registry
        ),
        (None, None)
    );
    // Without an external name, devices use the listener's address.
    assert_eq!(
        (
            least.profile.external_host.as_str(),
            least.profile.external_port
        ),
        ("0.0.0.0", 8443)
    );
    assert_eq!(least.profile.name, "default");
}

#[test]
fn an_empty_file_says_what_is_needed() {
    let problems = wrong("").join("\n");
    for part in [
        "profile: has no service and no rule",
        "profile.device_auth.group_certificates: is missing",
        "profile.device_auth.crl.enabled: revocation",
    ] {
        assert!(problems.contains(part), "{problems}");
    }
}

#[test]
fn every_error_at_once_in_the_order_of_the_lines() {
    let text = r#"state_dri = "/x"
[engine]
cores = 99
idle_timeout = "0s"
max_tunnels = "many"
[admin]
listen = "0.0.0.0:9901"
[profile.device_auth]
group_certificates = ["missing.pem"]
[profile.device_auth.crl]
enabled = false
[[profile.service]]
name = "wiki"
servers = ["10.0.0.5"]
[[profile.rule]]
host = "a*.b"
port = 70000
service = "wik"
"#;
    let error = Place::new().parse(text).unwrap_err();
    let found: Vec<_> = error
        .problems
        .iter()
        .map(|p| (p.line.unwrap(), p.key.as_str()))
        .collect();
    assert_eq!(
        found,
        [
            (1, "state_dri"),
            (3, "engine.cores"),
            (4, "engine.idle_timeout"),
            (5, "engine.max_tunnels"),
            (7, "admin.listen"),
            (9, "profile.device_auth.group_certificates[0]"),
            (14, "profile.service[0].servers[0]"),
            (16, "profile.rule[0].host"),
            (17, "profile.rule[0].port"),
            (18, "profile.rule[0].service"),
        ]
    );
    let shown = error.to_string();
    assert_eq!(shown.lines().count(), found.len());
    let line = format!(
        "{}:18: profile.rule[0].service: no service named \"wik\"; remedy: ",
        error.file.display()
    );
    assert!(shown.contains(&line), "{shown}");
}

#[test]
fn unknown_keys_are_errors_with_the_nearest_known_one() {
    one_problem(
        &with("stat_dir = \"x\"", ""),
        &["1 stat_dir: unknown key", "\"state_dir\""],
    );
    one_problem(
        &with("[engine]\nidletimeout = \"1s\"", ""),
        &["2 engine.idletimeout:", "\"idle_timeout\""],
    );
    one_problem(
        &with("[profile.tls]\ninbound = { protocol = [\"1.3\"] }", ""),
        &["2 profile.tls.inbound.protocol:", "\"protocols\""],
    );
    one_problem(
        &with("", "prt = 443"),
        &["13 profile.rule[0].prt:", "\"port\""],
    );
    one_problem(
        &with("[admin]\nwhatever = 1", ""),
        &["remove it; known here: \"listen\""],
    );
    one_problem(&with("\"a\\u001bb\" = 1", ""), &["\"a\\u{1b}b\""]);
    one_problem(
        &with("[[profile.services]]\nname = \"x\"", ""),
        &["profile.services", "\"service\""],
    );
}

#[test]
fn values_of_unknown_keys_are_not_repeated() {
    let problems = wrong(&with(
        "[profile.server_certificate]\nprimary = \"server.pem\"\npassword = \"hunter2\"",
        "",
    ));
    assert!(
        problems.len() == 1 && !problems[0].contains("hunter2"),
        "{problems:?}"
    );
}

#[test]
fn wrong_types() {
    let cases = [
        (
            "state_dir = 1",
            "state_dir: must be a text, and is a whole number",
        ),
        ("engine = 1", "engine: must be a table"),
        (
            "[engine]\nmax_tunnels = 1.5",
            "must be a whole number, and is a fraction",
        ),
        ("[engine]\nmax_tunnels = 99999999999999999999", "too large"),
        ("[engine]\nidle_timeout = 60", "must be a text"),
        (
            "[engine]\ncores = [0, \"1\"]",
            "engine.cores[1]: must be a whole number",
        ),
        (
            "[engine]\ncores = 1979-05-27",
            "must be a whole number, and is a date",
        ),
        (
            "[profile.listener]\ntrusted_proxies = \"10.0.0.0/8\"",
            "must be a list",
        ),
    ];
    for (lines, part) in cases {
        one_problem(&with(lines, ""), &[part]);
    }
    let text = CONTRACT.replace("[[profile.service]]", "[profile.service]");
    assert!(
        wrong(&text)[0].contains("[[profile.service]]"),
        "{:?}",
        wrong(&text)
    );
    one_problem(
        &CONTRACT.replace("enabled = true", "enabled = \"yes\""),
        &["true or false, and is a text"],
    );
}

#[test]
fn broken_toml_gives_its_lines_and_nothing_else() {
    let problems = wrong("state_dir = \"x\n[engine\ncores = \n");
    assert!(problems.len() > 1, "{problems:?}");
    assert!(
        problems.iter().all(|p| p.contains("is not valid TOML")),
        "{problems:?}"
    );
    assert!(problems[0].starts_with("1 "), "{problems:?}");
    one_problem(
        &with("state_dir = \"a\"\nstate_dir = \"b\"", ""),
        &["2 ", "duplicate key"],
    );
    assert!(wrong(&"a b\n".repeat(1000)).len() <= crate::limits::CONFIG_SYNTAX_ERRORS_MAX);
}

#[test]
fn cores() {
    let cores = |text: &str| {
        right(&with(&format!("[engine]\ncores = {text}"), ""))
            .engine
            .cores
    };
    assert_eq!(cores("\"all\""), [0, 1, 4, 5]);
    assert_eq!(cores("3"), [0, 1, 4]);
    assert_eq!(cores("[5, 0]"), [5, 0]);
    for (text, part) in [
        ("0", "0 cores"),
        ("5", "may use 4"),
        ("-1", "from 1 to 4"),
        ("[]", "empty"),
        ("[2]", "CPU 2 is not among"),
        ("[-1]", "CPU -1"),
        ("[1, 1]", "engine.cores[1]: stands in the list twice"),
        ("\"some\"", "\"all\", a count"),
    ] {
        one_problem(&with(&format!("[engine]\ncores = {text}"), ""), &[part]);
    }
}

#[test]
fn limits_and_timeouts() {
    let config = right(&with(
        "[engine]\nmax_tunnels = 10\nidle_timeout = \"1500ms\"",
        "",
    ));
    assert_eq!(
        (
            config.engine.max_tunnels,
            config.engine.max_tunnels_per_device
        ),
        (10, 10)
    );
    assert_eq!(config.engine.idle_timeout, Duration::from_millis(1500));
    one_problem(&with("[engine]\nmax_tunnels = 0", ""), &["from 1 to"]);
    one_problem(
        &with("[engine]\ndrain_timeout = \"1 minute\"", ""),
        &["\"1 minute\" is not a duration", "\"10s\""],
    );
}

#[test]
fn the_admin_interface_stays_on_the_machine() {
    let admin = |text: &str| with(&format!("[admin]\nlisten = {text:?}"), "");
    for text in [
        "127.0.0.1:1",
        "127.9.9.9:80",
        "[::1]:9901",
        "[::ffff:127.0.0.1]:80",
    ] {
        assert_eq!(
            right(&admin(text)).admin,
            AdminListen::Tcp(text.parse().unwrap())
        );
    }
    for text in [
        "0.0.0.0:9901",
        "[::]:9901",
        "10.0.0.1:9901",
        "[::ffff:10.0.0.1]:80",
    ] {
        one_problem(
            &admin(text),
            &["2 admin.listen:", "reached from other machines", "loopback"],
        );
    }
    one_problem(&admin("localhost:9901"), &["not an address and a port"]);
    assert_eq!(
        right(&admin("unix:/run/adit/a.sock")).admin,
        AdminListen::Unix("/run/adit/a.sock".into())
    );
    one_problem(&admin("unix:"), &["the path is empty"]);
    one_problem(
        &admin(&format!("unix:/{}", "x".repeat(107))),
        &["108 bytes", "shorter"],
    );
}

#[test]
fn the_audit_sink() {
    let place = Place::new();
    let audit = |text: &str| with(&format!("[log]\naudit = {text:?}"), "");
    assert_eq!(right(&audit("off")).log.audit, AuditSink::Off);
    let config = place.parse(&audit("./audit.log")).unwrap();
    assert_eq!(config.log.audit, AuditSink::File(place.path("./audit.log")));
    one_problem(&audit("logs/audit.log"), &["the folder", "is not there"]);
    one_problem(&audit("/"), &["is a folder"]);
    one_problem(&audit("stdot"), &["did you mean \"stdout\"?"]);
    one_problem(
        &audit("syslog"),
        &["neither a known word nor clearly a path"],
    );
    one_problem(
        &with("[log]\nformat = \"jsn\"", ""),
        &["\"jsn\"", "did you mean \"json\"?"],
    );
}

#[test]
fn what_this_version_cannot_do_is_refused() {
    let before = [
        "[profile.listener]\nprotocol = \"http\"",
        "[profile.listener]\nprotocol = \"both\"",
        "[profile.listener]\nhttp = \"0.0.0.0:8081\"",
        "[profile.listener]\nproxy_protocol = \"required\"",
        "[profile.listener]\ntrusted_proxies = [\"10.0.0.0/8\"]",
        "[profile.server_certificate]\nprimary = \"server.p12\"",
        "[profile.server_certificate]\nprimary = \"server.PFX\"",
        "[profile.server_certificate]\nprimary = \"server.pem\"\npassword_file = \"x\"",
        "[profile.server_certificate]\nprimary = \"server.pem\"\nsecondary = \"x\"",
        "[profile.server_certificate]\nprimary = \"server.pem\"\nsecondary_password_file = \"x\"",
        "[profile.tls]\ninbound = { cipher_suites = [\"TLS_AES_128_GCM_SHA256\"] }",
        "[profile.tls]\noutbound = { cipher_suites = [\"TLS_AES_128_GCM_SHA256\"] }",
        "[profile.tls]\noutbound = { protocols = [\"1.3\"] }",
    ];
    for lines in before {
        one_problem(&with(lines, ""), &["is not supported in this version"]);
    }
    let replaced = [
        ("urls = []", "urls = [\"cdp\"]"),
        ("\"round-robin\"", "\"least-tunnels\""),
        ("tls = false", "tls = true"),
        (
            "tls = false\nproxy_protocol = \"off\"",
            "tls = false\nproxy_protocol = \"v2\"",
        ),
        ("\"group-ca.pem\"", "\"group-ca.p7b\""),
        ("\"group-ca.pem\"", "\"group-ca.p12\""),
    ];
    for (from, to) in replaced {
        assert!(CONTRACT.contains(from));
        one_problem(
            &CONTRACT.replace(from, to),
            &["is not supported in this version"],
        );
    }
    // A word that no version knows is a different mistake.
    one_problem(
        &CONTRACT.replace("\"round-robin\"", "\"random\""),
        &["not known here"],
    );
}

#[test]
fn tls_versions() {
    let inbound = |list: &str| {
        with(
            &format!("[profile.tls]\ninbound = {{ protocols = {list} }}"),
            "",
        )
    };
    let only13 = right(&inbound("[\"1.3\"]")).profile;
    assert_eq!((only13.tls12, only13.tls13), (false, true));
    let only12 = right(&inbound("[\"1.2\"]")).profile;
    assert_eq!((only12.tls12, only12.tls13), (true, false));
    one_problem(
        &inbound("[]"),
        &["2 profile.tls.inbound.protocols: the list is empty"],
    );
    one_problem(
        &inbound("[\"1.1\"]"),
        &["protocols[0]: TLS 1.1 is broken", "RFC 8996"],
    );
    one_problem(&inbound("[\"1.3\", \"1.3\"]"), &["twice"]);
    one_problem(&inbound("[\"TLSv1.3\"]"), &["\"1.2\" or \"1.3\""]);
}

#[test]
fn the_external_name() {
    let external = |text: &str| with(&format!("[profile]\nexternal = {text:?}"), "");
    let profile = right(&external("[2001:db8::1]:443")).profile;
    assert_eq!(
        (profile.external_host.as_str(), profile.external_port),
        ("2001:db8::1", 443)
    );
    one_problem(
        &external("tunnel.example.com"),
        &[
            "2 profile.external:",
            "the port is missing",
            "tunnel.example.com:443",
        ],
    );
    one_problem(
        &external("https://tunnel.example.com"),
        &["profile.external"],
    );
}

#[test]
fn files_must_be_there() {
    let cases = [
        ("\"server.pem\"", "profile.server_certificate.primary"),
        ("\"server.key\"", "profile.server_certificate.key"),
        (
            "\"group-ca.pem\"",
            "profile.device_auth.group_certificates[0]",
        ),
        ("\"devices.csv\"", "profile.device_auth.device_registry"),
        ("\"group-ca.crl\"", "profile.device_auth.crl.files[0]"),
    ];
    for (from, key) in cases {
        one_problem(
            &CONTRACT.replace(from, "\"nothing.here\""),
            &[key, "nothing.here\" cannot be found"],
        );
        one_problem(&CONTRACT.replace(from, "\".\""), &[key, "is not a file"]);
    }
    one_problem(
        &CONTRACT.replace("primary = \"server.pem\"\n", ""),
        &["34 profile.server_certificate.primary: is missing"],
    );
}

#[test]
fn device_authentication() {
    one_problem(
        &CONTRACT.replace("[\"group-ca.pem\"]", "[]"),
        &["group_certificates: the list is empty"],
    );
    one_problem(
        &CONTRACT.replace("[\"group-ca.pem\"]", "[\"group-ca.pem\", \"group-ca.pem\"]"),
        &["group_certificates[1]: stands in the list twice"],
    );
    assert!(
        right(&CONTRACT.replace("\"block\"", "\"allow\""))
            .profile
            .device_auth
            .unmanaged_allowed
    );
    one_problem(
        &CONTRACT.replace("\"block\"", "\"blocked\""),
        &["did you mean \"block\"?"],
    );
    let stale = |word: &str| {
        right(&CONTRACT.replace("\"hard\"", word))
            .profile
            .device_auth
            .stale
    };
    assert_eq!(
        stale("\"grace\""),
        Stale::Grace(Duration::from_secs(86_400))
    );
    assert_eq!(stale("\"soft\""), Stale::Soft);
    one_problem(
        &CONTRACT.replace("[\"san-uri\", \"cn\"]", "[]"),
        &["identity.device: the list is empty"],
    );
    one_problem(
        &CONTRACT.replace("[\"ou\"]", "[\"ou\", \"ou\"]"),
        &["identity.app[1]: stands in the list twice"],
    );
    one_problem(
        &CONTRACT.replace("[\"ou\"]", "[\"san-url\"]"),
        &["did you mean \"san-uri\"?"],
    );
    assert_eq!(
        right(&CONTRACT.replace("[\"ou\"]", "[]"))
            .profile
            .device_auth
            .identity
            .app,
        []
    );
}

#[test]
fn revocation_is_off_only_where_the_file_says_so() {
    let without = LEAST.replace("files = [\"group-ca.crl\"]", "");
    one_problem(
        &without,
        &[
            "profile.device_auth.crl.enabled",
            "no CRL is named",
            "enabled = false",
        ],
    );
    let off = LEAST.replace("files = [\"group-ca.crl\"]", "enabled = false");
    assert!(!right(&off).profile.device_auth.crl_enabled);
}

#[test]
fn service_names() {
    let named = |name: &str| LEAST.replace("\"wiki\"", &format!("{name:?}"));
    for name in ["a", "wiki-2.corp", "wiki/eu", "Ünïcode", &"x".repeat(128)] {
        assert_eq!(right(&named(name)).profile.services[0].name, name);
    }
    for name in [
        "my wiki", "a\\b", "a;b", "a*", "a?", "a\"b", "a|b", "<a", "a>", "a\tb", "a\u{7f}",
        "a\u{a0}b",
    ] {
        one_problem(
            &named(name),
            &["6 profile.service[0].name: the service name", "in it"],
        );
    }
    one_problem(&named(""), &["1 to 128 bytes"]);
    one_problem(&named(&"x".repeat(129)), &["1 to 128 bytes"]);
    assert!(wrong(&named("<any>"))[0].contains("did you mean \"<ANY>\"?"));
}

#[test]
fn services() {
    let twice = with(
        "",
        "[[profile.service]]\nname = \"wiki\"\nservers = [\"a:1\"]",
    );
    one_problem(
        &twice,
        &["14 profile.service[1].name:", "\"wiki\" already in line 7"],
    );
    one_problem(
        &LEAST.replace("servers = [\"10.0.0.5:443\"]\n", ""),
        &["servers: is missing", "5 "],
    );
    one_problem(
        &LEAST.replace("[\"10.0.0.5:443\"]", "[]"),
        &["servers: the list is empty"],
    );
    one_problem(
        &LEAST.replace("[\"10.0.0.5:443\"]", "[\"a:1\", \"A.:1\"]"),
        &["servers[1]: stands in the list twice"],
    );
    one_problem(
        &LEAST.replace("10.0.0.5:443", "10.0.0.5:0"),
        &["servers[0]:", "from 1 to 65535"],
    );
    one_problem(
        &LEAST
            .replace("name = \"wiki\"\n", "")
            .replace("= \"wiki\"", "= \"<ANY>\""),
        &["profile.service[0].name: is missing"],
    );
    one_problem(
        &LEAST.replace("[\"10.0.0.5:443\"]", "[\"a:1\"]\nallow = [\"10.0.0.0/8\"]"),
        &["allow: only the services"],
    );
}

#[test]
fn special_services() {
    let special = |more: &str| {
        with(
            "",
            &format!("[[profile.rule]]\nhost = \"x\"\nport = 1\nservice = \"<ANY>\"\n{more}"),
        )
    };
    let implied = right(&special("")).profile;
    assert_eq!((implied.services.len(), implied.rules[1].service), (2, 1));
    assert_eq!(
        implied.services[1],
        Service {
            name: "<ANY>".into(),
            kind: ServiceKind::Any,
            allow: vec![]
        }
    );

    let declared = right(&special(
        "[[profile.service]]\nname = \"<ANY>\"\nallow = [\"127.0.0.0/8\", \"::1\"]",
    ))
    .profile;
    assert_eq!(declared.services.len(), 2);
    assert_eq!(declared.services[1].kind, ServiceKind::Any);
    let allow: Vec<_> = declared.services[1]
        .allow
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(allow, ["127.0.0.0/8", "::1/128"]);

    let both = right(&special(
        "[[profile.rule]]\nhost = \"y\"\nport = 1\nservice = \"<TCP_ANY>\"",
    ))
    .profile;
    assert_eq!(both.services[both.rules[2].service].name, "<TCP_ANY>");

    let declare = |lines: &str| special(&format!("[[profile.service]]\nname = \"<ANY>\"\n{lines}"));
    one_problem(
        &declare("servers = [\"a:1\"]"),
        &["profile.service[1].servers:", "what the app asks for"],
    );
    one_problem(
        &declare("allow = [\"10.0.0.0/40\"]"),
        &["allow[0]: \"10.0.0.0/40\": it is not a network"],
    );
    one_problem(
        &declare("allow = [\"10.1.2.3/8\"]"),
        &["bits set beyond", "write \"10.0.0.0/8\""],
    );
}

#[test]
fn rules_are_read() {
    let rule = |lines: &str| {
        with(
            "",
            &format!("[[profile.rule]]\nservice = \"wiki\"\n{lines}"),
        )
    };
    let profile = right(&rule(
        "app = \"mail\"\nhost = \"10.0.0.0/8\"\nport = [993, 143, 993]",
    ))
    .profile;
    let expected = Rule {
        app: Some("mail".into()),
        host: "10.0.0.0/8".parse().unwrap(),
        ports: Some(vec![143, 993]),
        service: 0,
    };
    assert_eq!(profile.rules[1], expected);
    for (lines, part) in [
        (
            "host = \"a*.b\"\nport = 1",
            "profile.rule[1].host: \"a*.b\": a wildcard",
        ),
        ("host = \"10.0.0.0/33\"\nport = 1", "not a network in CIDR"),
        ("port = 1", "profile.rule[1].host: is missing"),
        ("host = \"a\"", "profile.rule[1].port: is missing"),
        ("host = \"a\"\nport = 0", "0 is not a port"),
        (
            "host = \"a\"\nport = [1, 65536]",
            "profile.rule[1].port[1]: 65536 is not a port",
        ),
        ("host = \"a\"\nport = []", "the list is empty"),
        ("host = \"a\"\nport = \"443\"", "numbers go without quotes"),
        (
            "host = \"a\"\nport = 1\napp = \"\"",
            "the app's name is empty",
        ),
        (
            "host = \"a\"\nport = 1\napp = \"ma*\"",
            "\"ma*\" has a wildcard inside",
        ),
    ] {
        one_problem(&rule(lines), &[part]);
    }
    one_problem(
        &with("", "[[profile.rule]]\nhost = \"a\"\nport = 1"),
        &["profile.rule[1].service: is missing"],
    );
    let wik = LEAST.replace("service = \"wiki\"", "service = \"wik\"");
    one_problem(
        &wik,
        &[
            "11 profile.rule[0].service: no service named \"wik\"",
            "did you mean \"wiki\"?",
        ],
    );
}

#[test]
fn a_rule_that_an_equal_one_shadows_is_an_error() {
    let again = |lines: &str| {
        with(
            "",
            &format!("[[profile.rule]]\nservice = \"<ANY>\"\n{lines}"),
        )
    };
    one_problem(
        &again("host = \"*\"\nport = \"*\"\napp = \"*\""),
        &["13 profile.rule[1]: can never match: profile.rule[0] in line 9 has the same"],
    );
    // The same host and ports in another spelling.
    let two = "[[profile.rule]]\nservice = \"wiki\"\nhost = \"10.0.0.5/32\"\nport = [2, 1]\n";
    one_problem(
        &with(
            "",
            &format!("{two}{}", two.replace("/32", "").replace("2, 1", "1, 2")),
        ),
        &["profile.rule[2]: can never"],
    );
    right(&again("host = \"*\"\nport = 443"));
    right(&again("host = \"*\"\nport = \"*\"\napp = \"mail\""));
}

#[test]
fn rules_match() {
    let rule = |app: Option<&str>, host: &str, ports: Option<Vec<u16>>| Rule {
        app: app.map(str::to_owned),
        host: host.parse().unwrap(),
        ports,
        service: 0,
    };
    let host = |text: &str| text.parse::<Host>().unwrap();
    let any = rule(None, "*", None);
    assert!(any.matches(None, &host("x"), 1) && any.matches(Some("mail"), &host("::1"), 65535));
    let narrow = rule(Some("mail"), "*.corp", Some(vec![143, 993]));
    assert!(narrow.matches(Some("mail"), &host("imap.corp"), 993));
    assert!(!narrow.matches(None, &host("imap.corp"), 993));
    assert!(!narrow.matches(Some("Mail"), &host("imap.corp"), 993));
    assert!(!narrow.matches(Some("mail"), &host("corp"), 993));
    assert!(!narrow.matches(Some("mail"), &host("imap.corp"), 994));
}

#[test]
fn the_summary_says_what_the_config_means() {
    let more = "[[profile.rule]]\napp = \"mail\"\nhost = \"10.0.0.0/8\"\nport = [143, 993]\nservice = \"<ANY>\"\n\
                [[profile.service]]\nname = \"spare\"\nservers = [\"[::1]:1\"]\n";
    let shown = right(&format!("{CONTRACT}{more}")).summary().to_string();
    for part in [
        "profile         corp, for devices at tunnel.example.com:443\n",
        "listen          0.0.0.0:8443, TLS 1.2 and 1.3\n",
        "cores           0, 1, 4, 5\n",
        "timeouts        handshake 10s, connect 5s, idle 1m, drain 30s\n",
        "devices.csv; others are blocked\n",
        "group-ca.crl; a stale or missing one refuses\n",
        "identity        device from san-uri, cn; user from san-upn, san-email; app from ou\n",
        "  wiki: 10.0.0.5:443, 10.0.0.6:443\n",
        "  spare: [::1]:1 (no rule leads here)\n",
        "  <ANY>: the destination that the app asks for\n",
        "  1. any app, *.corp.example.com, port 443 -> wiki\n",
        "  2. mail, 10.0.0.0/8, port 143, 993 -> <ANY>\n",
    ] {
        assert!(shown.contains(part), "{part:?} is not in\n{shown}");
    }
    let shown = right(LEAST).summary().to_string();
    for part in [
        "certificate     self-signed",
        "no registry, so all are unmanaged: blocked",
    ] {
        assert!(shown.contains(part), "{part:?} is not in\n{shown}");
    }
}

#[test]
fn load_reads_files_and_says_why_it_cannot() {
    let place = Place::new();
    let error = load(&place.file).unwrap_err();
    assert!(
        error.to_string().contains("adit.toml: cannot be read"),
        "{error}"
    );
    std::fs::write(&place.file, b"# \n\xff").unwrap();
    assert_eq!(load(&place.file).unwrap_err().problems[0].line, Some(2));
    std::fs::write(&place.file, LEAST).unwrap();
    let config = load(&place.file).unwrap();
    assert!(!config.engine.cores.is_empty());
    assert_eq!(config, parse(LEAST, &place.file).unwrap());
    std::fs::write(
        &place.file,
        vec![b'#'; crate::limits::CONFIG_FILE_MAX as usize + 1],
    )
    .unwrap();
    assert!(
        load(&place.file).unwrap_err().problems[0]
            .message
            .contains("larger")
    );
}

/// Whatever a text is, it gives a config or problems that can be shown: no panic, no line outside the file, nothing that
/// a terminal would obey.
fn holds(text: &str) {
    let Err(error) = validate::check(text, Path::new("adit.toml"), &[0, 1]) else {
        return;
    };
    assert!(!error.problems.is_empty());
    let lines = text.matches('\n').count() + 1;
    assert!(
        error
            .problems
            .iter()
            .all(|p| p.line.is_none_or(|line| (1..=lines).contains(&line)))
    );
    assert_eq!(
        error.to_string().lines().count(),
        error.problems.len(),
        "{error}"
    );
    assert!(
        !error
            .to_string()
            .contains(|c: char| c.is_control() && c != '\n'),
        "{error:?}"
    );
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in "(?s).{0,400}") {
        holds(&text);
    }

    #[test]
    fn toml_like_text_never_panics(text in r#"([a-z_.=\[\]{}",'# \n\t0-9*:/-]|\[\[|"""|profile|engine|\\u00){0,120}"#) {
        holds(&text);
    }

    #[test]
    fn a_damaged_contract_never_panics(
        from in any::<prop::sample::Index>(),
        length in 0usize..40,
        patch in "(?s).{0,20}",
    ) {
        let start = from.index(CONTRACT.len());
        let end = (start + length).min(CONTRACT.len());
        holds(&format!("{}{patch}{}", &CONTRACT[..start], &CONTRACT[end..]));
    }

    #[test]
    fn an_odd_value_never_panics(line in any::<prop::sample::Index>(), value in r#"(-?[0-9]{1,22}|"[^"\\]{0,12}"|\[("[^"\\]{0,6}",?){0,4}\]|true|\{\})"#) {
        let mut lines: Vec<String> = CONTRACT.lines().map(str::to_owned).collect();
        let at = line.index(lines.len());
        if let Some((key, _)) = lines[at].clone().split_once(" = ") {
            lines[at] = format!("{key} = {value}");
        }
        holds(&lines.join("\n"));
    }
}
