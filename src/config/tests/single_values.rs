//! Engine, admin, log, certificates, TLS and device authentication: what is taken and what is
//! refused.

use super::*;

#[test]
fn cores() {
    let cores = |text: &str| {
        right(&with(&format!("[engine]\ncores = {text}"), ""))
            .engine
            .cores
    };
    assert_eq!(cores("\"all\""), [0, 1, 4]);
    assert_eq!(cores("2"), [0, 1]);
    assert_eq!(cores("4"), [0, 1, 4, 5]);
    assert_eq!(cores("[5, 0]"), [5, 0]);
    for (text, part) in [
        ("0", "0 cores"),
        ("5", "may use 4"),
        ("-1", "from 1 to 4"),
        ("[]", "empty"),
        ("[2]", "CPU 2 is not among"),
        ("[-1]", "CPU -1"),
        ("[1, 1]", "engine.cores[1]: is in the list twice"),
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
    let place = Scratch::new();
    let audit = |text: &str| with(&format!("[log]\naudit = {text:?}"), "");
    assert_eq!(right(&audit("off")).log.audit, AuditSink::Off);
    let config = place.parse(&audit("./audit.log")).unwrap();
    assert_eq!(config.log.audit, AuditSink::File(place.path("./audit.log")));
    one_problem(&audit("logs/audit.log"), &["the folder", "does not exist"]);
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
fn a_word_that_is_not_known_is_refused() {
    one_problem(
        &CONTRACT.replace("\"round-robin\"", "\"random\""),
        &["not known here"],
    );
}

#[test]
fn resumption() {
    let resumption = |lines: &str| {
        right(&with(&format!("[profile.tls]\n{lines}"), ""))
            .profile
            .resumption
    };
    assert_eq!(resumption(""), Resumption::default());
    assert_eq!(resumption("resumption = \"off\"").by, ResumptionKind::Off);
    for (text, bytes) in [
        ("1024 KiB", 1 << 20),
        ("16MiB", 16 << 20),
        ("64 GiB", 64 << 30),
        ("off", 0),
    ] {
        let shown = format!("session_cache = {text:?}");
        assert_eq!(resumption(&shown).cache_bytes, bytes, "{text}");
    }
    let week = "session_lifetime = \"168h\"";
    assert_eq!(resumption(week).lifetime, Duration::from_secs(604_800));
    for (lines, parts) in [
        ("session_cache = \"1 MB\"", ["is not a size", "64 MiB"]),
        ("session_cache = \"64  MiB\"", ["is not a size", "64 MiB"]),
        ("session_cache = \"MiB\"", ["is not a size", "64 MiB"]),
        ("session_cache = \"1023 KiB\"", ["is out of range", "1 MiB"]),
        ("session_cache = \"65 GiB\"", ["is out of range", "64 GiB"]),
        (
            "session_cache = \"99999999999999 GiB\"",
            ["is out of range", "64 GiB"],
        ),
        ("session_lifetime = \"169h\"", ["is out of range", "168h"]),
        ("session_lifetime = \"999ms\"", ["is out of range", "1s"]),
        (
            "ticket_keys = \"none.key\"",
            ["profile.tls.ticket_keys", "cannot be found"],
        ),
        (
            "resumption = \"cache\"\nticket_keys = \"tickets.key\"",
            ["profile.tls.ticket_keys", "tickets are off"],
        ),
        (
            "resumption = \"cache\"\nsession_cache = \"off\"",
            ["profile.tls.session_cache", "the cache is off"],
        ),
        ("resumption = \"ticket\"", ["did you mean \"tickets\"", ""]),
    ] {
        one_problem(&with(&format!("[profile.tls]\n{lines}"), ""), &parts);
    }
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
    assert_eq!((only13.inbound.tls12, only13.inbound.tls13), (false, true));
    let only12 = right(&inbound("[\"1.2\"]")).profile;
    assert_eq!((only12.inbound.tls12, only12.inbound.tls13), (true, false));
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
fn passwords_of_certificates_are_files() {
    let group = "group_certificates = [\"group-ca.pem\"]";
    assert!(CONTRACT.contains(group));
    let text = CONTRACT
        .replace(
            group,
            &format!("{group}\ngroup_password_file = \"server.key\""),
        )
        .replace("key = \"server.key\"", "password_file = \"server.key\"");
    let valid = right(&text);
    let files = valid.profile.server_certificate.unwrap();
    assert!(files.primary.password_file.unwrap().ends_with("server.key"));
    let group = valid.profile.device_auth.group_password_file.unwrap();
    assert!(group.ends_with("server.key"));
    one_problem(
        &with(
            "[profile.server_certificate]\nprimary = \"server.pem\"\npassword_file = \"none\"",
            "",
        ),
        &[
            "profile.server_certificate.password_file",
            "cannot be found",
        ],
    );
}

#[test]
fn there_may_be_a_secondary_and_additional_certificates() {
    let place = Scratch::new();
    for name in ["next.pem", "next.key", "rsa.pem", "old.p12", "old.pass"] {
        std::fs::write(place.path(name), "x").unwrap();
    }
    let text = |more: &str| {
        CONTRACT.replace(
            "key = \"server.key\"",
            &format!("key = \"server.key\"\n{more}"),
        )
    };
    let text_of = text(
        "secondary = \"next.pem\"\nsecondary_key = \"next.key\"\n\
         additional = [\"rsa.pem\", { file = \"old.p12\", password_file = \"old.pass\" }]",
    );
    let profile = place.parse(&text_of).unwrap().profile;
    let files = |file: &str, key: Option<&str>, password_file: Option<&str>| CertificateFiles {
        file: place.path(file),
        key: key.map(|name| place.path(name)),
        password_file: password_file.map(|name| place.path(name)),
    };
    let certificate = profile.server_certificate.unwrap();
    assert_eq!(
        certificate.secondary,
        Some(files("next.pem", Some("next.key"), None))
    );
    assert_eq!(
        certificate.additional,
        [
            files("rsa.pem", None, None),
            files("old.p12", None, Some("old.pass"))
        ]
    );
    let cases = [
        ("secondary_key = \"server.key\"", "there is none"),
        ("secondary_password_file = \"server.key\"", "there is none"),
        ("secondary = \"nothing.here\"", "cannot be found"),
        (
            "secondary = \"server.pem\"",
            "already named as another server",
        ),
        (
            "additional = [\"server.pem\"]",
            "already named as another server",
        ),
        ("additional = [{ key = \"server.key\" }]", "is missing"),
        (
            "additional = [{ file = \"server.pem\", name = \"x\" }]",
            "additional[0].name",
        ),
    ];
    for (more, part) in cases {
        let problems = wrong(&text(more));
        assert!(problems[0].contains(part), "{more}: {problems:?}");
    }
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
        ("\"group-ca.crl\"", "profile.device_auth.crl.files[0]"),
    ];
    for (from, key) in cases {
        one_problem(
            &CONTRACT.replace(from, "\"nothing.here\""),
            &[key, "nothing.here\" cannot be found"],
        );
        one_problem(&CONTRACT.replace(from, "\".\""), &[key, "is not a file"]);
    }
    // Its last good copy counts where it is gone.
    right(&CONTRACT.replace("\"devices.csv\"", "\"nothing.here\""));
    one_problem(
        &CONTRACT.replace("primary = \"server.pem\"\n", ""),
        &["31 profile.server_certificate.primary: is missing"],
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
        &["group_certificates[1]: is in the list twice"],
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
        &["identity.app[1]: is in the list twice"],
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
fn places_to_fetch_crls_from() {
    let fetch = |lines: &str| {
        right(&CONTRACT.replace("urls = []", lines))
            .profile
            .device_auth
            .crl_fetch
    };
    let found = fetch(
        "urls = [\"http://PKI.example.com/a.crl\", \"https://[2001:db8::1]:8443/b\", \"cdp\"]\n\
         allowed_hosts = [\"cdn.example.com\"]\nallow = [\"127.0.0.0/8\"]",
    );
    assert_eq!(found.urls.len(), 2);
    assert!(found.from_certificates);
    assert_eq!(
        found.hosts,
        ["cdn.example.com", "pki.example.com", "[2001:db8::1]"]
    );
    assert_eq!(found.allow.len(), 1);
    for (lines, part) in [
        ("urls = [\"ftp://a.example.com/a.crl\"]", "is not a URL"),
        ("urls = [\"http://user@a.example.com/\"]", "is not a URL"),
        ("urls = [\"http:///a.crl\"]", "is not a URL"),
        ("urls = [\"cdp\"]", "allowed_hosts"),
        (
            "urls = []\nallowed_hosts = [\"a.example.com:80\"]",
            "is not a host",
        ),
        ("urls = []\nallow = [\"localhost\"]", "write a network"),
    ] {
        one_problem(&CONTRACT.replace("urls = []", lines), &[part]);
    }
}
