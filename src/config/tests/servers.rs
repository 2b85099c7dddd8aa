//! How the servers of a service are reached.

use super::*;

/// A config whose service has these lines too; they begin in line 8.
fn service_with(lines: &str) -> String {
    LEAST.replace(
        "[\"10.0.0.5:443\"]",
        &format!("[\"10.0.0.5:443\"]\n{lines}"),
    )
}

fn reach(lines: &str) -> Reach {
    right(&service_with(lines)).profile.services[0]
        .reach
        .clone()
}

#[test]
fn servers_have_weights() {
    let servers = |list: &str| LEAST.replace("[\"10.0.0.5:443\"]", list);
    let mixed = "[\"a:1\", { address = \"b:2\", weight = 3 }, { address = \"c:3\" }]";
    assert_eq!(
        right(&servers(mixed)).profile.services[0].kind,
        ServiceKind::Servers(vec![server("a:1", 1), server("b:2", 3), server("c:3", 1)])
    );
    let wrong = [
        (
            "[{ address = \"a:1\", weight = 0 }]",
            "servers[0].weight: 0 is out of range",
        ),
        ("[{ address = \"a:1\", weight = 257 }]", "from 1 to 256"),
        ("[{ weight = 2 }]", "servers[0].address: is missing"),
        (
            "[{ address = \"a:1\", wieght = 2 }]",
            "did you mean \"weight\"?",
        ),
        (
            "[\"a:1\", { address = \"A.:1\", weight = 2 }]",
            "is in the list twice",
        ),
        ("[1]", "servers[0]: must be a text"),
        ("\"a:1\"", "servers: must be a list"),
    ];
    for (list, expected) in wrong {
        one_problem(&servers(list), &["7 profile.service[0].servers", expected]);
    }
    let many: Vec<String> = (1..300).map(|port| format!("\"a:{port}\"")).collect();
    let many = servers(&format!("[{}]", many.join(",")));
    one_problem(&many, &["299 servers are too many"]);
}

#[test]
fn what_is_left_out_is_usual() {
    assert_eq!(reach(""), Reach::default());
    assert_eq!(reach("tls = true").tls, Some(OutboundTls::default()));
}

#[test]
fn every_key_has_its_meaning() {
    let place = Scratch::new();
    let text = service_with(
        "balance = \"least-tunnels\"\nproxy_protocol = \"v1\"\nbind = [\"10.0.0.1\", \"fd00::1\"]\n\
         tls = true\ntls_roots = \"group-ca.pem\"\ntls_name = \"Wiki.corp.\"\ntls_certificate = \"server.pem\"\n\
         tls_key = \"server.key\"\nupstream_proxy = \"http://ann@proxy:3128/\"\n\
         upstream_proxy_password_file = \"proxy.pass\"\nuser_timeout = \"30s\"\n\
         keepalive = { idle = \"2m\", interval = \"5s\", count = 3 }\n[profile.service.health]\nfailures = 5\n\
         window = \"1m\"\ndead_time = \"2s\"\ndead_time_max = \"8s\"\ncheck = \"tls\"\ninterval = \"500ms\"\n\
         timeout = \"1s\"\nrise = 4\nfall = 6\nslow_start = \"20s\"\nwhen_none_alive = \"refuse\"",
    );
    let parsed = place.parse(&text).unwrap();
    let reach = &parsed.profile.services[0].reach;
    let seconds = Duration::from_secs;
    assert_eq!(
        *reach,
        Reach {
            balance: Balance::LeastTunnels,
            tls: Some(OutboundTls {
                roots: Some(place.path("group-ca.pem")),
                name: Some("wiki.corp".into()),
                certificate: Some(CertificateFiles {
                    file: place.path("server.pem"),
                    key: Some(place.path("server.key")),
                    password_file: None,
                }),
            }),
            proxy_protocol: Some(ProxyVersion::V1),
            upstream_proxy: Some(UpstreamProxy {
                address: "proxy:3128".parse().unwrap(),
                user: Some("ann".into()),
                password_file: Some(place.path("proxy.pass")),
            }),
            bind: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            tcp: Tcp {
                keepalive: Some(Keepalive {
                    idle: seconds(120),
                    interval: seconds(5),
                    count: 3,
                }),
                user_timeout: Some(seconds(30)),
            },
            health: Health {
                failures: 5,
                window: seconds(60),
                dead_time: seconds(2),
                dead_time_max: seconds(8),
                check: Some(Check {
                    kind: CheckKind::Tls,
                    interval: Duration::from_millis(500),
                    timeout: seconds(1),
                    rise: 4,
                    fall: 6,
                }),
                slow_start: Some(seconds(20)),
                try_dead: false,
            },
        }
    );
}

#[test]
fn a_service_takes_from_the_engine_what_it_leaves_out() {
    let engine = "[engine]\nuser_timeout = \"7s\"\nkeepalive = { idle = \"9s\" }";
    let text = with(engine, "");
    let parsed = right(&text);
    let tcp = parsed.engine.tcp;
    assert_eq!(tcp.user_timeout, Some(Duration::from_secs(7)));
    assert_eq!(tcp.keepalive.unwrap().idle, Duration::from_secs(9));
    assert_eq!(tcp.keepalive.unwrap().count, 6);
    assert_eq!(parsed.profile.services[0].reach.tcp, tcp);
    let own = text.replace(
        "servers = [\"10.0.0.5:443\"]",
        "servers = [\"10.0.0.5:443\"]\nuser_timeout = \"1s\"",
    );
    let own = right(&own).profile.services[0].reach.tcp;
    assert_eq!(own.user_timeout, Some(Duration::from_secs(1)));
    assert_eq!(own.keepalive, tcp.keepalive);
}

#[test]
fn what_would_have_no_effect_or_contradicts_itself_is_told() {
    let wrong = [
        (
            "balance = \"least-tunnel\"",
            "did you mean \"least-tunnels\"?",
        ),
        ("proxy_protocol = \"v3\"", "not known here"),
        (
            "tls_name = \"wiki\"",
            "tls_name: has no effect while the service has no TLS",
        ),
        ("tls_roots = \"group-ca.pem\"", "write tls = true"),
        ("tls = true\ntls_roots = \"missing.pem\"", "cannot be found"),
        (
            "tls = true\ntls_key = \"server.key\"",
            "is the key of a certificate that is not named; name tls_certificate too",
        ),
        ("tls = true\ntls_name = \"a b\"", "tls_name: \"a b\""),
        (
            "bind = [\"10.0.0.1\", \"10.0.0.2\"]",
            "bind[1]: there is another address of this family",
        ),
        ("bind = [\"0.0.0.0\"]", "not a usable source address"),
        ("bind = [\"10.0.0.1:80\"]", "is not an address"),
        ("user_timeout = \"0s\"", "duration of zero"),
        ("keepalive = { idle = \"1500ms\" }", "whole seconds"),
        ("keepalive = { count = 128 }", "from 1 to 127"),
        ("keepalive = { time = \"1s\" }", "unknown key"),
        ("keepalive = \"60s\"", "keepalive: must be a table"),
        (
            "upstream_proxy = \"https://proxy:3128\"",
            "does not begin with http://",
        ),
        ("upstream_proxy = \"http://proxy\"", "has no host and port"),
        ("upstream_proxy = \"http://@proxy:1\"", "is empty"),
        (
            "upstream_proxy = \"http://p:1\"\nupstream_proxy_password_file = \"proxy.pass\"",
            "without a user",
        ),
        (
            "[profile.service.health]\ncheck = \"http\"",
            "not known here",
        ),
        (
            "[profile.service.health]\ncheck = \"tls\"",
            "a TLS check needs",
        ),
        (
            "[profile.service.health]\nrise = 2",
            "has no effect without checks",
        ),
        (
            "[profile.service.health]\ninterval = \"1s\"",
            "has no effect without checks",
        ),
        ("[profile.service.health]\nfailures = 0", "out of range"),
        (
            "[profile.service.health]\ndead_time = \"9s\"\ndead_time_max = \"8s\"",
            "shorter than dead_time",
        ),
        (
            "[profile.service.health]\nwhen_none_alive = \"panic\"",
            "write \"try\" or \"refuse\"",
        ),
    ];
    for (lines, expected) in wrong {
        one_problem(&service_with(lines), &["profile.service[0].", expected]);
    }
}

#[test]
fn a_password_in_a_url_is_refused_and_not_repeated() {
    let text = service_with("upstream_proxy = \"http://ann:sesame@proxy:3128\"");
    let problems = wrong(&text);
    assert_eq!(problems.len(), 1);
    assert!(
        problems[0].contains("8 profile.service[0].upstream_proxy: the proxy's URL has a password")
    );
    assert!(!problems[0].contains("sesame"), "{}", problems[0]);
}

#[test]
fn a_special_service_has_only_what_makes_sense_for_any_destination() {
    let special = |lines: &str| {
        let service = format!("[[profile.service]]\nname = \"<ANY>\"\n{lines}");
        with("", &service)
    };
    let fine = "balance = \"round-robin\"\ntls = false\nproxy_protocol = \"off\"\nbind = [\"10.0.0.1\"]\nuser_timeout = \"1s\"";
    assert_eq!(
        right(&special(fine)).profile.services[1].reach.bind.len(),
        1
    );
    for lines in [
        "balance = \"least-tunnels\"",
        "tls = true",
        "proxy_protocol = \"v2\"",
        "upstream_proxy = \"http://proxy:3128\"",
        "[profile.service.health]\nfailures = 2",
    ] {
        one_problem(&special(lines), &["profile.service[1]."]);
    }
}

#[test]
fn datagrams_are_not_led_around_what_a_service_does() {
    let udp = |lines: &str| service_with(&format!("udp = true\n{lines}"));
    assert!(right(&udp("bind = [\"10.0.0.1\"]")).profile.services[0].udp);
    for (lines, key) in [
        ("tls = true", "tls"),
        ("upstream_proxy = \"http://proxy:3128\"", "upstream_proxy"),
        ("proxy_protocol = \"v2\"", "proxy_protocol"),
    ] {
        let expected = format!("8 profile.service[0].udp: {key} of this service");
        one_problem(&udp(lines), &[&expected]);
    }
    right(&service_with("udp = false\ntls = true"));
}

#[test]
fn cipher_suites_are_named_as_iana_does() {
    let side =
        |side: &str, value: &str| with(&format!("[profile.tls]\n{side} = {{ {value} }}"), "");
    let parsed = right(&side(
        "outbound",
        "protocols = [\"1.3\"], cipher_suites = [\"TLS_AES_256_GCM_SHA384\"]",
    ));
    assert_eq!(
        parsed.profile.outbound,
        TlsChoice {
            tls12: false,
            tls13: true,
            suites: vec!["TLS_AES_256_GCM_SHA384"],
            groups: vec![],
        }
    );
    assert_eq!(parsed.profile.inbound, both_versions());
    let both =
        "cipher_suites = [\"TLS_AES_128_GCM_SHA256\", \"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256\"]";
    assert_eq!(
        right(&side("inbound", both)).profile.inbound.suites.len(),
        2
    );
    one_problem(
        &side("inbound", "cipher_suites = [\"TLS_AES_128_GCM_SHA256\"]"),
        &["profile.tls.inbound.cipher_suites: has no suite of TLS 1.2"],
    );
    one_problem(
        &side(
            "outbound",
            "protocols = [\"1.3\"], cipher_suites = [\"TLS_AES_128_GCM_SHA255\"]",
        ),
        &["did you mean \"TLS_AES_128_GCM_SHA256\"?"],
    );
}

#[test]
fn key_exchange_groups_are_chosen_for_each_side_apart() {
    let side =
        |side: &str, value: &str| with(&format!("[profile.tls]\n{side} = {{ {value} }}"), "");
    let groups = "key_exchange = [\"secp384r1\", \"X25519MLKEM768\"]";
    let profile = right(&side("outbound", groups)).profile;
    assert_eq!(profile.outbound.groups, ["secp384r1", "X25519MLKEM768"]);
    assert!(profile.inbound.groups.is_empty());
    one_problem(
        &side("inbound", "key_exchange = [\"X25519MLKEM768\"]"),
        &["profile.tls.inbound.key_exchange: has no group of TLS 1.2"],
    );
    right(&side(
        "inbound",
        "protocols = [\"1.3\"], key_exchange = [\"X25519MLKEM768\"]",
    ));
    one_problem(
        &side("inbound", "key_exchange = [\"X25519\", \"ffdhe2048\"]"),
        &["profile.tls.inbound.key_exchange[1]: \"ffdhe2048\" does not exist here"],
    );
    one_problem(
        &side("inbound", "key_exchange = [\"X25519\", \"X25519\"]"),
        &["twice"],
    );
    one_problem(
        &side("outbound", "cipher_suites = [\"AES128-SHA\"]"),
        &[
            "profile.tls.outbound.cipher_suites[0]",
            "does not exist here",
        ],
    );
}
