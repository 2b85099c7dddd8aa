//! The listeners: what is taken, and what would be open to the wrong ones or do nothing.

use super::*;

fn listener(lines: &str) -> String {
    with(&format!("[profile.listener]\n{lines}"), "")
}

#[test]
fn listeners_and_their_proxies() {
    let only = right(&listener(
        "protocol = \"http\"\nhttp = \"[::1]:81\"\ntrusted_proxies = [\"10.0.0.0/24\", \"2001:db8::/32\"]",
    ))
    .profile;
    let kinds: Vec<_> = only.listener.addresses().collect();
    assert_eq!(kinds, [(ListenerKind::Http, "[::1]:81".parse().unwrap())]);
    assert_eq!((&*only.external_host, only.external_port), ("::1", 81));
    let both = right(&listener(
        "protocol = \"both\"\ntrusted_proxies = [\"10.0.0.1\"]\nproxy_protocol = \"required\"\n\
         client_identity = \"proxy-v2\"\nhealth_path = \"/health\"\nhealth_from = [\"10.1.0.0/16\"]",
    ))
    .profile
    .listener;
    assert_eq!(both.addresses().count(), 2);
    assert_eq!(both.proxy_protocol, ProxyProtocol::Required);
    assert_eq!(both.client_identity, ClientIdentity::ProxyV2);
    for (address, trusted, may_check) in [
        ("10.0.0.1", true, true),
        ("::ffff:10.0.0.1", true, true),
        ("10.0.0.2", false, false),
        ("10.1.2.3", false, true),
        ("::1", false, false),
    ] {
        let address = address.parse().unwrap();
        assert_eq!(both.trusts(address), trusted, "{address}");
        assert_eq!(both.may_check(address), may_check, "{address}");
    }
    let silent = right(&listener("trusted_proxies = [\"10.0.0.1\"]"))
        .profile
        .listener;
    assert!(!silent.may_check("10.0.0.1".parse().unwrap()), "no page");
}

#[test]
fn what_would_be_open_or_do_nothing_is_refused() {
    let trusted = "trusted_proxies = [\"10.0.0.1\"]";
    for (lines, parts) in [
        (
            "protocol = \"http\"",
            ["protocol: the plain listener", "trusted_proxies = ["],
        ),
        (
            "protocol = \"both\"",
            ["protocol: the plain listener", "trusted_proxies = ["],
        ),
        (
            "proxy_protocol = \"optional\"",
            ["proxy_protocol: PROXY protocol", "trusted_proxies = ["],
        ),
        (
            "proxy_protocol = \"required\"",
            ["proxy_protocol: PROXY protocol", "trusted_proxies = ["],
        ),
        (
            "proxy_protocol = \"v2\"",
            ["proxy_protocol: \"v2\" is not known", "\"required\""],
        ),
        (
            "trusted_proxies = [\"10.0.0.1/8\"]",
            ["trusted_proxies[0]", "10.0.0.0/8"],
        ),
        (
            "client_identity = \"proxy-v2\"",
            ["client_identity:", "proxy_protocol = \"required\""],
        ),
        (
            "client_identity = \"x-cert\"",
            ["client_identity:", "\"xfcc\""],
        ),
        (
            "health_path = \"/health\"",
            ["health_path: the plain listener answers", "\"both\""],
        ),
        (
            "health_from = [\"10.0.0.1\"]",
            ["health_from: it has no effect", "health_path"],
        ),
        (
            "protocol = \"htps\"",
            ["protocol:", "did you mean \"https\"?"],
        ),
    ] {
        one_problem(&listener(lines), &parts);
    }
    let same =
        format!("protocol = \"both\"\n{trusted}\nhttps = \"0.0.0.0:1\"\nhttp = \"0.0.0.0:1\"");
    one_problem(&listener(&same), &["http: both listeners", "another port"]);
    for path in ["health", "", "/a b", "/a?b", "/a\u{e4}", &"/x".repeat(200)] {
        let lines = format!("protocol = \"both\"\n{trusted}\nhealth_path = {path:?}");
        one_problem(&listener(&lines), &["health_path:", "\"/health\""]);
    }
}

#[test]
fn trust_that_two_have_is_what_is_in_networks_of_both() {
    let of = |proxies: &str| {
        let lines = format!("trusted_proxies = [{proxies}]\nproxy_protocol = \"required\"");
        right(&listener(&lines)).profile.listener
    };
    let own = of("\"10.0.0.0/8\", \"192.0.2.1\", \"2001:db8::/32\"");
    let other = of("\"10.1.0.0/16\", \"192.0.2.0/24\", \"2001:db9::/32\", \"0.0.0.0/1\"");
    for (one, two) in [(&own, &other), (&other, &own)] {
        let both = one.trusting_as(two);
        for address in [
            "10.1.2.3",
            "10.2.2.3",
            "192.0.2.1",
            "192.0.2.2",
            "2001:db8::1",
            "::1",
        ] {
            let address = address.parse().unwrap();
            let expected = one.trusts(address) && two.trusts(address);
            assert_eq!(both.trusts(address), expected, "{address}");
        }
    }
    let nobody = Listener {
        trusted_proxies: Vec::new(),
        ..other
    };
    assert!(own.trusting_as(&nobody).trusted_proxies.is_empty());
    assert_eq!(own.trusting_as(&own), own);
}
