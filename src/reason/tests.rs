//! The table keeps its promises to clients, dashboards and servers.

use std::collections::HashSet;

use super::*;

/// RFC 9209, section 2.3, those that the table uses.
const PROXY_ERRORS: [&str; 17] = [
    "destination_unavailable",
    "tls_protocol_error",
    "tls_certificate_error",
    "tls_alert_received",
    "http_protocol_error",
    "proxy_configuration_error",
    "dns_timeout",
    "dns_error",
    "destination_ip_prohibited",
    "destination_ip_unroutable",
    "connection_refused",
    "connection_timeout",
    "connection_limit_reached",
    "http_request_error",
    "http_request_denied",
    "proxy_internal_response",
    "proxy_internal_error",
];

#[test]
fn words_are_unique_and_in_kebab_case() {
    let mut seen = HashSet::new();
    for reason in CloseReason::ALL {
        let word = reason.word();
        assert!(seen.insert(word), "{word} twice");
        assert!(
            word.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'),
            "{word}"
        );
    }
}

#[test]
fn index_is_the_place_in_all() {
    for (place, reason) in CloseReason::ALL.iter().enumerate() {
        assert_eq!(reason.index(), place);
    }
}

#[test]
fn what_policy_ends_and_each_refusal_tell_the_client_and_nothing_else_but_a_fault_does() {
    for reason in CloseReason::ALL {
        let told = reason.status().is_some() || reason.alert().is_some();
        let cut = reason.row().kind == Kind::End && reason.who() == Who::Policy;
        let may_tell = reason.is_refusal() || cut || *reason == CloseReason::GatewayError;
        assert_eq!(told, may_tell, "{reason:?}");
    }
}

#[test]
fn proxy_status_is_distinct_and_well_formed() {
    let mut seen = HashSet::new();
    for reason in CloseReason::ALL {
        let Some(value) = reason.proxy_status() else {
            continue;
        };
        assert!(seen.insert(value), "{value} twice");
        assert!(
            PROXY_ERRORS.contains(&reason.proxy_error().expect("has a header")),
            "{value}"
        );
        // An sf-string (RFC 8941, section 3.3.3) holds printable ASCII; these need no escapes.
        let details = value.split("details=").nth(1).expect("has details");
        let inner = details
            .strip_prefix('"')
            .and_then(|d| d.strip_suffix('"'))
            .expect("quoted");
        assert!(
            inner
                .bytes()
                .all(|b| (b' '..0x7f).contains(&b) && b != b'"' && b != b'\\'),
            "{inner}"
        );
    }
    assert_eq!(
        CloseReason::DeviceUnmanaged.proxy_status(),
        Some("adit; error=http_request_denied; details=\"device is not managed\"")
    );
}

/// Apple's relay clients go to the destination themselves when they get both.
#[test]
fn only_one_reason_sends_a_device_elsewhere() {
    let elsewhere = |reason: &CloseReason| {
        reason.status() == Some(503) && reason.proxy_error() == Some("destination_unavailable")
    };
    let found: Vec<_> = CloseReason::ALL.iter().copied().filter(elsewhere).collect();
    assert_eq!(found, [CloseReason::NoRuleDirect]);
}

#[test]
fn statuses_are_those_of_the_contract() {
    for reason in CloseReason::ALL {
        let Some(status) = reason.status() else {
            continue;
        };
        let expected: &[u16] = match (reason.row().kind, reason.who()) {
            (Kind::Refusal, Who::Client) => &[400, 405, 408, 431, 501],
            (Kind::Refusal, Who::Policy) if *reason == CloseReason::NoRuleDirect => &[503],
            (Kind::Refusal, Who::Policy) => &[403, 502],
            (Kind::Refusal, Who::Server) => &[502, 504],
            (Kind::Refusal, Who::Gateway) => &[503],
            _ => &[500],
        };
        assert!(expected.contains(&status), "{reason:?} {status}");
    }
}

#[test]
fn only_failures_to_reach_a_server_speak_against_it() {
    for reason in CloseReason::ALL {
        if reason.blames_server() {
            assert_eq!(
                (reason.who(), reason.row().kind),
                (Who::Server, Kind::Refusal),
                "{reason:?}"
            );
        }
    }
    for reason in [
        CloseReason::GatewayError,
        CloseReason::NodeLimit,
        CloseReason::NameTimeout,
        CloseReason::UpstreamRefused,
        CloseReason::NoServer,
    ] {
        assert!(!reason.blames_server(), "{reason:?}");
    }
}

/// RFC 9113, section 8.5: the end of a tunnel that the server caused is CONNECT_ERROR.
#[test]
fn what_a_server_ends_is_a_connect_error_and_nothing_else_is() {
    for reason in CloseReason::ALL {
        assert_eq!(
            reason.reset() == Reset::CONNECT_ERROR,
            reason.who() == Who::Server,
            "{reason:?}"
        );
    }
}

/// Lines that a client without a certificate can cause as fast as it likes must not fill the disk.
#[test]
fn only_what_comes_before_a_certificate_is_not_audited() {
    let silent: Vec<_> = CloseReason::ALL
        .iter()
        .filter(|reason| !reason.is_audited())
        .collect();
    assert_eq!(silent.len(), 5);
    assert!(
        silent
            .iter()
            .all(|reason| reason.row().kind == Kind::Abandoned)
    );
}
