//! Configuration of this gateway, as a client reads it from `/.well-known/pvd` (RFC 8801, section
//! 4.3, with the proxies and destination rules of draft-ietf-intarea-proxy-config).
//!
//! It is made from the rules that are about the client's app, and given only to a client that may
//! open tunnels. A client narrows what it sends here by it, and never widens: what is allowed is
//! decided request by request, by the same rules.

use std::ops::RangeInclusive;
use std::time::SystemTime;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::access::{Snapshot, authorize};
use crate::config::{HostPattern, Rule};
use crate::limits::{PVD_LIFETIME, PVD_RULES_MAX};
use crate::reason::CloseReason;
use crate::table::DeviceState;
use crate::tls::PeerIdentity;

/// Its path.
pub(super) const PATH: &str = "/.well-known/pvd";

/// Its media type.
pub(super) const MEDIA_TYPE: &str = "application/pvd+json";

/// Names of the proxies in the destination rules.
const TCP: &str = "adit";
const UDP: &str = "adit-udp";

/// The document for a client, if it may open tunnels.
pub(super) fn document(
    snapshot: &Snapshot,
    identity: &PeerIdentity,
    state: DeviceState,
    now: SystemTime,
) -> Result<String, CloseReason> {
    authorize(identity, state, snapshot.unmanaged_allowed)?;
    let allows_udp = |rule: &Rule| snapshot.services[rule.service].udp;
    let (host, port) = &snapshot.external;
    Ok(of(
        host,
        *port,
        &snapshot.rules,
        identity.app(),
        allows_udp,
        now,
    ))
}

fn of(
    host: &str,
    port: u16,
    rules: &[Rule],
    app: Option<&str>,
    allows_udp: impl Fn(&Rule) -> bool,
    now: SystemTime,
) -> String {
    let literal = host.parse::<std::net::IpAddr>().is_ok();
    let authority = match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    };
    let of_app = |rule: &&Rule| rule.app.is_none() || rule.app.as_deref() == app;
    let rules: Vec<&Rule> = rules.iter().filter(of_app).collect();
    let mut proxies = vec![json!({
        "protocol": "https-connect",
        "proxy": authority,
        "identifier": TCP,
    })];
    if rules.iter().any(|rule| allows_udp(rule)) {
        proxies.push(json!({
            "protocol": "connect-udp",
            "proxy": format!("https://{authority}/.well-known/masque/udp/{{target_host}}/{{target_port}}/"),
            "identifier": UDP,
        }));
    }
    let expires = OffsetDateTime::from(now + PVD_LIFETIME);
    let expires = expires.replace_nanosecond(0).unwrap_or(expires);
    let mut document = json!({
        "identifier": if literal { host.to_owned() } else { format!("{host}.") },
        "expires": expires.format(&Rfc3339).unwrap_or_default(),
        "prefixes": [],
        "proxies": proxies,
    });
    // A part of the rules would say of the others that they lead nowhere.
    if rules.len() <= PVD_RULES_MAX {
        let rules = rules.iter().map(|rule| destination(rule, allows_udp(rule)));
        document["proxy-match"] = rules.collect();
    }
    document.to_string()
}

/// One destination rule. It has at least one key beside the proxies.
fn destination(rule: &Rule, udp: bool) -> Value {
    let mut destination = json!({ "proxies": if udp { vec![TCP, UDP] } else { vec![TCP] } });
    match &rule.host {
        HostPattern::Any => {}
        HostPattern::Exact(name) => destination["domains"] = json!([name]),
        HostPattern::Suffix(name) => destination["domains"] = json!([format!("*.{name}")]),
        HostPattern::Net(net) => destination["subnets"] = json!([net]),
    }
    match (&rule.ports, &rule.host) {
        (Some(ports), _) => {
            let ranges = ranges(ports).map(|range| match (range.start(), range.end()) {
                (first, last) if first == last => first.to_string(),
                (first, last) => format!("{first}-{last}"),
            });
            destination["ports"] = ranges.collect();
        }
        (None, HostPattern::Any) => destination["ports"] = json!(["1-65535"]),
        (None, _) => {}
    }
    destination
}

/// Ascending ports as ranges.
fn ranges(ports: &[u16]) -> impl Iterator<Item = RangeInclusive<u16>> {
    ports
        .chunk_by(|one, next| one.checked_add(1) == Some(*next))
        .map(|run| run[0]..=run[run.len() - 1])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn rule(app: Option<&str>, host: &str, ports: Option<&[u16]>, service: usize) -> Rule {
        Rule {
            app: app.map(Into::into),
            host: host.parse().unwrap(),
            ports: ports.map(Into::into),
            service,
        }
    }

    fn made(host: &str, rules: &[Rule], app: Option<&str>) -> Value {
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(86_400_500);
        let text = of(host, 443, rules, app, |rule| rule.service == 1, now);
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn rules_become_destination_rules_in_their_order() {
        let rules = [
            rule(
                None,
                "wiki.corp.example.com",
                Some(&[80, 443, 8000, 8001, 8002]),
                0,
            ),
            rule(Some("mail"), "*.example.net", None, 0),
            rule(Some("chat"), "*.example.org", None, 1),
            rule(None, "10.0.0.0/8", Some(&[65534, 65535]), 0),
            rule(None, "*", None, 0),
        ];
        let document = made("tunnel.example.com", &rules, Some("mail"));
        assert_eq!(document["identifier"], "tunnel.example.com.");
        assert_eq!(document["expires"], "1970-01-02T01:00:00Z");
        assert_eq!(document["prefixes"], json!([]));
        assert_eq!(
            document["proxies"],
            json!([{ "protocol": "https-connect", "proxy": "tunnel.example.com:443", "identifier": "adit" }])
        );
        assert_eq!(
            document["proxy-match"],
            json!([
                { "domains": ["wiki.corp.example.com"], "ports": ["80", "443", "8000-8002"], "proxies": ["adit"] },
                { "domains": ["*.example.net"], "proxies": ["adit"] },
                { "subnets": ["10.0.0.0/8"], "ports": ["65534-65535"], "proxies": ["adit"] },
                { "ports": ["1-65535"], "proxies": ["adit"] },
            ])
        );
    }

    #[test]
    fn udp_is_named_where_a_rule_allows_it() {
        let rules = [rule(None, "a.test", None, 0), rule(None, "b.test", None, 1)];
        let document = made("2001:db8::1", &rules, None);
        assert_eq!(document["identifier"], "2001:db8::1");
        assert_eq!(
            document["proxies"][1],
            json!({
                "protocol": "connect-udp",
                "proxy": "https://[2001:db8::1]:443/.well-known/masque/udp/{target_host}/{target_port}/",
                "identifier": "adit-udp",
            })
        );
        let of_rules: Vec<_> = (0..2)
            .map(|at| document["proxy-match"][at]["proxies"].clone())
            .collect();
        assert_eq!(of_rules, [json!(["adit"]), json!(["adit", "adit-udp"])]);
    }

    #[test]
    fn too_many_rules_are_left_out_wholly() {
        let rules = vec![rule(None, "a.test", None, 0); PVD_RULES_MAX + 1];
        let document = made("tunnel.example.com", &rules, None);
        assert!(document.get("proxy-match").is_none());
        assert_eq!(
            made("x.test", &rules[1..], None)["proxy-match"]
                .as_array()
                .unwrap()
                .len(),
            PVD_RULES_MAX
        );
    }
}
