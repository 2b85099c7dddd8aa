//! Whole files: what they mean, and how all that is wrong with one is told.

use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::findings::Problem;

mod limits;
mod listener;
mod profiles;
mod robust;
mod routing;
mod servers;
mod single_values;
mod sni;
mod store;
mod traffic;

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
resumption = "tickets"
session_cache = "64 MiB"
session_lifetime = "12h"
ticket_keys = "tickets.key"

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
struct Scratch {
    dir: TempDir,
    file: PathBuf,
}

impl Scratch {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "server.pem",
            "server.key",
            "group-ca.pem",
            "group-ca.crl",
            "devices.csv",
            "tickets.key",
            "proxy.pass",
        ] {
            std::fs::write(dir.path().join(name), "x").unwrap();
        }
        let file = dir.path().join("adit.toml");
        Self { dir, file }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Parses for a process that may use the CPUs 0, 1, 4 and 5 and has a quota for three.
    fn parse(&self, text: &str) -> Result<Config, ConfigError> {
        validate::check(text, &self.file, &cpus(), raw::Part::All)
    }
}

fn server(address: &str, weight: u32) -> Server {
    Server {
        address: address.parse().unwrap(),
        weight,
    }
}

fn both_versions() -> TlsChoice {
    TlsChoice {
        tls12: true,
        tls13: true,
        suites: vec![],
        groups: vec![],
    }
}

fn cpus() -> cores::Cpus {
    cores::Cpus {
        allowed: vec![0, 1, 4, 5],
        usable: 3,
    }
}

/// `LEAST` with `lines` before it and `more` after it.
fn with(lines: &str, more: &str) -> String {
    format!("{lines}\n{LEAST}{more}\n")
}

fn right(text: &str) -> Config {
    Scratch::new()
        .parse(text)
        .unwrap_or_else(|error| panic!("{error}\nin\n{text}"))
}

/// The problems of a text as `line key: message; remedy`.
fn wrong(text: &str) -> Vec<String> {
    let error = Scratch::new().parse(text).expect_err(text);
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

fn engine_of_the_contract() -> Engine {
    Engine {
        cores: vec![0, 1, 4],
        max_tunnels: 100_000,
        max_tunnels_per_device: 256,
        max_unauthenticated: 16_384,
        max_unauthenticated_per_source: 8192,
        failed_handshakes_per_second: 200,
        handshake_timeout: Duration::from_secs(10),
        connect_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_secs(60),
        idle_timeout_min: Duration::from_secs(60),
        idle_timeout_max: Duration::from_secs(60),
        max_lifetime: None,
        drain_delay: Duration::ZERO,
        drain_timeout: Duration::from_secs(30),
        watch_files: true,
        tcp: Tcp::default(),
    }
}

fn server_certificate_of_the_contract(place: &Scratch) -> ServerCertificate {
    ServerCertificate {
        primary: CertificateFiles {
            file: place.path("server.pem"),
            key: Some(place.path("server.key")),
            password_file: None,
        },
        secondary: None,
        additional: vec![],
    }
}

fn service_of_the_contract() -> Service {
    let servers = ["10.0.0.5:443", "10.0.0.6:443"].map(|address| server(address, 1));
    Service {
        name: "wiki".into(),
        kind: ServiceKind::Servers(servers.into()),
        allow: vec![],
        udp: false,
        sni: None,
        limits: TrafficLimits::default(),
        max_lifetime: None,
        reach: Reach::default(),
    }
}

#[test]
fn the_contract() {
    let place = Scratch::new();
    let config = place.parse(CONTRACT).unwrap();
    let expected = Config {
        state_dir: PathBuf::from("/var/lib/adit"),
        engine: engine_of_the_contract(),
        admin: AdminListen::Tcp("127.0.0.1:9901".parse().unwrap()),
        admin_token: None,
        admin_users: vec![],
        log: Log {
            format: LogFormat::Json,
            audit: AuditSink::Stdout,
        },
        profile: Profile {
            origin: Origin::File,
            name: "corp".into(),
            description: String::new(),
            external_host: "tunnel.example.com".into(),
            external_port: 443,
            listener: Listener::default(),
            server_certificate: Some(server_certificate_of_the_contract(&place)),
            inbound: both_versions(),
            outbound: both_versions(),
            resumption: Resumption {
                by: ResumptionKind::Tickets,
                cache_bytes: 64 << 20,
                lifetime: Duration::from_secs(12 * 3600),
                ticket_keys: Some(place.path("tickets.key")),
            },
            device_auth: DeviceAuth {
                group_certificates: vec![place.path("group-ca.pem")],
                group_password_file: None,
                unmanaged_allowed: false,
                device_registry: Some(place.path("devices.csv")),
                crl_enabled: true,
                crl_files: vec![place.path("group-ca.crl")],
                crl_fetch: CrlFetch::default(),
                stale: Stale::Hard,
                identity: IdentityMapping {
                    device: vec![Field::SanUri, Field::Cn],
                    user: vec![Field::SanUpn, Field::SanEmail],
                    app: vec![Field::Ou],
                },
            },
            services: vec![service_of_the_contract()],
            app_limits: vec![],
            no_rule_direct: false,
            rules: vec![Rule {
                app: None,
                host: HostPattern::Suffix("corp.example.com".into()),
                ports: Some(vec![443]),
                service: 0,
            }],
            stored: Vec::new(),
        },
        files: ["server.pem", "server.key", "group-ca.pem", "devices.csv"]
            .map(|name| place.path(name))
            .into(),
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
    assert_eq!(least.profile.listener, contract.profile.listener);
    assert_eq!(
        least.profile.device_auth.identity,
        contract.profile.device_auth.identity
    );
    assert_eq!(least.profile.device_auth.stale, Stale::Hard);
    assert!(least.profile.device_auth.crl_enabled && !least.profile.device_auth.unmanaged_allowed);
    assert!(least.profile.inbound.tls12 && least.profile.inbound.tls13);
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
fn an_empty_profile_says_what_is_needed() {
    let problems = wrong("[profile]").join("\n");
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
    let error = Scratch::new().parse(text).unwrap_err();
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
        error.problems[0].file.as_ref().unwrap()
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
fn the_summary_says_what_the_config_means() {
    let more = "[[profile.rule]]\napp = \"mail\"\nhost = \"10.0.0.0/8\"\nport = [143, 993]\nservice = \"<ANY>\"\n\
                [[profile.service]]\nname = \"spare\"\nservers = [\"[::1]:1\"]\n";
    let shown = right(&format!("{CONTRACT}{more}")).summary().to_string();
    for part in [
        "profile         corp, for devices at tunnel.example.com:443\n",
        "listen          https 0.0.0.0:8443, TLS 1.2 and 1.3\n",
        "cores           0, 1, 4\n",
        "tickets.key and a cache of 64 MiB, for 12h\n",
        "timeouts        handshake 10s, connect 5s, idle 1m, drain 30s\n",
        "devices.csv; others are blocked\n",
        "group-ca.crl; a stale or missing CRL refuses\n",
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
    let place = Scratch::new();
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
