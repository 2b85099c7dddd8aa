//! Values with a limit from a wire format, the kernel or a fixed table are accepted at the limit,
//! and reported above it.

use super::*;
use crate::limits::{
    ALPN_NAME_MAX, CRL_SOURCES_MAX, HEALTH_COUNT_MAX, HOST_LABEL_MAX, KEEPALIVE_COUNT_MAX,
    KEEPALIVE_MAX, SERVER_WEIGHT_MAX, SERVICE_NAME_MAX, SERVICE_SERVERS_MAX, USER_TIMEOUT_MAX,
};

/// The contract, with these lines in its service.
fn of_service(lines: &str) -> String {
    CONTRACT.replace("balance = \"round-robin\"", lines)
}

/// A list of `count` texts.
fn list(count: usize, text: impl Fn(usize) -> String) -> String {
    let items: Vec<String> = (0..count)
        .map(|number| format!("\"{}\"", text(number)))
        .collect();
    format!("[{}]", items.join(", "))
}

fn servers(count: usize) -> String {
    let servers = list(count, |number| {
        format!("10.0.{}.{}:443", number / 256, number % 256)
    });
    let two = "[\"10.0.0.5:443\", \"10.0.0.6:443\"]";
    CONTRACT.replace(two, &servers)
}

#[test]
fn each_bounded_key_is_right_at_its_bound_and_told_beyond_it() {
    type Text = fn(usize) -> String;
    let bounded: [(&str, usize, Text); 9] = [
        (
            "user_timeout",
            USER_TIMEOUT_MAX.as_millis() as usize,
            |most| of_service(&format!("user_timeout = \"{most}ms\"")),
        ),
        ("keepalive", KEEPALIVE_MAX.as_secs() as usize, |most| {
            of_service(&format!("keepalive = {{ idle = \"{most}s\" }}"))
        }),
        ("keepalive", KEEPALIVE_COUNT_MAX, |most| {
            of_service(&format!("keepalive = {{ count = {most} }}"))
        }),
        ("servers", SERVICE_SERVERS_MAX, servers),
        ("weight", SERVER_WEIGHT_MAX as usize, |most| {
            let weighted = format!("{{ address = \"10.0.0.5:443\", weight = {most} }}, ");
            CONTRACT.replace("\"10.0.0.5:443\", ", &weighted)
        }),
        ("sni_alpn", ALPN_NAME_MAX, |most| {
            let name = "a".repeat(most);
            of_service(&format!(
                "sni = [\"w.example.com\"]\nsni_alpn = [\"{name}\"]"
            ))
        }),
        ("sni", HOST_LABEL_MAX, |most| {
            let label = "a".repeat(most);
            of_service(&format!("sni = [\"{label}.example.com\"]"))
        }),
        ("urls", CRL_SOURCES_MAX, |most| {
            let urls = list(most, |number| {
                format!("http://pki.example.com/{number}.crl")
            });
            CONTRACT.replace("urls = []", &format!("urls = {urls}"))
        }),
        ("name", SERVICE_NAME_MAX, |most| {
            CONTRACT.replace("\"wiki\"", &format!("\"{}\"", "w".repeat(most)))
        }),
    ];
    for (key, most, text) in bounded {
        let place = Scratch::new();
        if let Err(error) = place.parse(&text(most)) {
            panic!("{key} at {most}: {error}");
        }
        let told = wrong(&text(most + 1)).join("\n");
        assert!(told.contains(key), "{key} beyond {most}: {told}");
    }
    let of_health = |failures: usize| {
        CONTRACT.replace(
            "[[profile.rule]]",
            &format!(
                "[profile.service.health]\ncheck = \"tcp\"\nfailures = {failures}\n[[profile.rule]]"
            ),
        )
    };
    right(&of_health(HEALTH_COUNT_MAX));
    one_problem(&of_health(HEALTH_COUNT_MAX + 1), &["failures"]);
}
