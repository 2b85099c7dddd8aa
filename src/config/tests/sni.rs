//! Services that sessions reach by name.

use super::*;

fn service(lines: &str) -> String {
    let service =
        format!("[[profile.service]]\nname = \"git\"\nservers = [\"10.0.0.7:443\"]\n{lines}");
    with("[profile]\nexternal = \"tunnel.example.com:443\"", &service)
}

#[test]
fn names_certificate_and_protocols() {
    let place = Scratch::new();
    let text = service(
        "sni = [\"Git.Example.com\", \"*.git.example.com\"]\nsni_certificate = \"server.pem\"\n\
         sni_key = \"server.key\"\nsni_alpn = [\"h2\", \"http/1.1\"]",
    );
    let profile = place.parse(&text).unwrap().profile;
    let expected = Sni {
        names: vec![
            HostPattern::Exact("git.example.com".into()),
            HostPattern::Suffix("git.example.com".into()),
        ],
        certificate: Some(CertificateFiles {
            file: place.path("server.pem"),
            key: Some(place.path("server.key")),
            password_file: None,
        }),
        protocols: vec!["h2".into(), "http/1.1".into()],
    };
    assert_eq!(profile.services[1].sni, Some(expected));
    assert_eq!(profile.services[0].sni, None);
    let least = right(&service("sni = [\"git.example.com\"]")).profile;
    let sni = least.services[1].sni.as_ref().unwrap();
    assert!(sni.certificate.is_none() && sni.protocols.is_empty());
    let summary = right(&text).summary().to_string();
    assert!(
        summary.contains("by the name git.example.com, *.git.example.com"),
        "{summary}"
    );
}

#[test]
fn names_that_lead_nowhere_or_to_two_places_are_refused() {
    for (lines, parts) in [
        ("sni = []", ["sni: the list is empty", "git.corp"]),
        (
            "sni = [\"*\"]",
            ["sni[0]: \"*\" is not a name", "write a name"],
        ),
        ("sni = [\"10.0.0.1\"]", ["sni[0]:", "is not a name"]),
        ("sni = [\"a b.test\"]", ["sni[0]:", "character"]),
        ("sni = [\"a.*.test\"]", ["sni[0]:", "wildcard"]),
        (
            "sni = [\"a.test\", \"A.test.\"]",
            [
                "sni[1]:",
                "already belongs to a service (profile.service[1].sni[0], line",
            ],
        ),
        (
            "sni = [\"tunnel.example.com\"]",
            ["sni[0]:", "profile.external"],
        ),
        ("sni = [\"*.example.com\"]", ["sni[0]:", "profile.external"]),
        (
            "sni = [\"a.test\"]\nsni_key = \"server.key\"",
            ["sni_key:", "sni_certificate"],
        ),
        (
            "sni = [\"a.test\"]\nsni_certificate = \"none.pem\"",
            ["sni_certificate:", "cannot be found"],
        ),
        (
            "sni = [\"a.test\"]\nsni_alpn = [\"\"]",
            ["sni_alpn[0]:", "1 to 255"],
        ),
        (
            "sni = [\"a.test\"]\nsni_alpn = [\"h2\", \"h2\"]",
            ["sni_alpn[1]:", "twice"],
        ),
        ("sni_alpn = [\"h2\"]", ["sni_alpn:", "has no sni"]),
        (
            "sni_certificate = \"server.pem\"",
            ["sni_certificate:", "has no sni"],
        ),
    ] {
        one_problem(&service(lines), &parts);
    }
    let any = with(
        "",
        "[[profile.service]]\nname = \"<ANY>\"\nsni = [\"a.test\"]",
    );
    one_problem(&any, &["sni: a service with a special name", "of its own"]);
    let plain = with(
        "[profile.listener]\nprotocol = \"http\"\ntrusted_proxies = [\"10.0.0.1\"]",
        "[[profile.service]]\nname = \"git\"\nservers = [\"a:1\"]\nsni = [\"a.test\"]",
    );
    one_problem(&plain, &["sni: sessions by name need", "\"both\""]);
}
