//! Services and rules: what is taken, what is refused, and what a rule matches.

use super::*;

#[test]
fn service_names() {
    let named = |name: &str| LEAST.replace("\"wiki\"", &toml::Value::from(name).to_string());
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
        &["servers[1]: is in the list twice"],
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
            allow: vec![],
            udp: false,
            sni: None,
            limits: TrafficLimits::default(),
            max_lifetime: None,
            reach: Reach::default(),
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
