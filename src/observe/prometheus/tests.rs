//! The text for Prometheus, its names and its documents.

use std::collections::BTreeSet;

use super::*;
use crate::observe::{HandshakeKind, TlsVersion};

fn sample() -> String {
    let mut metrics = CoreMetrics::new();
    metrics.tunnels_opened = 5;
    metrics.tunnels_closed = 2;
    metrics.bytes_client_to_server = 4096;
    metrics.count_end(CloseReason::DeviceBlocked);
    metrics.count_handshake(TlsVersion::Tls13, HandshakeKind::Full);
    metrics.record(Stage::Connect, Duration::from_micros(100));
    metrics.record(Stage::Connect, Duration::from_millis(3));
    metrics.record(Stage::Connect, Duration::from_secs(5000));
    let node = NodeGauges {
        version: "1.2.3",
        started: Some(UNIX_EPOCH + Duration::from_secs(1_700_000_000)),
        ready: true,
        profile: Some(("corp".to_owned(), Some(4))),
        audit_lost: 7,
        predecessor: Some(PredecessorGauges {
            is_there: true,
            is_lost: false,
            losses: 1,
        }),
        crl_entries: Some(9),
        crl_next_update: Some(UNIX_EPOCH),
        crls: Arc::new([CrlInfo {
            number: Some("7".into()),
            this_update: Some(1),
            next_update: Some(2),
            ..CrlInfo::default()
        }]),
        certificates: vec![
            CertificateInfo {
                role: "primary",
                file: "server.pem".into(),
                not_after: 86_400,
                served: true,
                ..CertificateInfo::default()
            }
            .at(0),
        ],
        registry_devices: Some(0),
        servers: vec![ServerInfo {
            service: "wiki".into(),
            server: "10.0.0.5:443".into(),
            state: "slow-start".into(),
            weight: 3,
            share: 40,
            tunnels: 2,
            checks_failed: 4,
            ..ServerInfo::default()
        }],
        ..NodeGauges::default()
    };
    render(metrics, &[true, false], node)
}

#[test]
fn text_holds_the_numbers() {
    let text = sample();
    for line in [
        "adit_build_info{version=\"1.2.3\"} 1",
        "adit_start_time_seconds 1700000000",
        "adit_ready 1",
        "adit_audit_lost_total 7",
        "adit_crl_entries 9",
        "adit_certificate_expiry_timestamp_seconds{role=\"primary\",file=\"server.pem\"} 86400",
        "adit_certificate_days_left{role=\"primary\",file=\"server.pem\"} 1",
        "adit_certificate_served{role=\"primary\",file=\"server.pem\"} 1",
        "adit_server_up{service=\"wiki\",server=\"10.0.0.5:443\"} 1",
        "adit_server_tunnels{service=\"wiki\",server=\"10.0.0.5:443\"} 2",
        "adit_server_share{service=\"wiki\",server=\"10.0.0.5:443\"} 40",
        "adit_server_checks_total{service=\"wiki\",server=\"10.0.0.5:443\",result=\"failed\"} 4",
        "adit_core_up{core=\"0\"} 1",
        "adit_core_up{core=\"1\"} 0",
        "adit_tunnels_live 3",
        "adit_bytes_total{direction=\"client-to-server\"} 4096",
        "adit_handshakes_total{version=\"1.3\",kind=\"full\"} 1",
        "adit_ends_total{reason=\"device-blocked\",kind=\"refusal\",who=\"policy\"} 1",
        "# TYPE adit_stage_seconds histogram",
        "adit_stage_seconds_count{stage=\"connect\"} 3",
    ] {
        assert!(
            text.lines().any(|have| have == line),
            "no line {line} in\n{text}"
        );
    }
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn buckets_are_cumulative_and_in_seconds() {
    let text = sample();
    let connect: Vec<(&str, u64)> = text
        .lines()
        .filter_map(|line| line.strip_prefix("adit_stage_seconds_bucket{le=\""))
        .filter(|line| line.contains("stage=\"connect\""))
        .map(|line| {
            (
                line.split('"').next().unwrap(),
                line.rsplit(' ').next().unwrap().parse().unwrap(),
            )
        })
        .collect();
    assert_eq!(connect.len(), BUCKETS.len() + 1);
    assert!(connect.iter().map(|(_, count)| count).is_sorted());
    let at = |le: f64| {
        connect
            .iter()
            .find(|(bound, _)| bound.parse() == Ok(le))
            .unwrap()
            .1
    };
    assert_eq!(
        (at(0.00005), at(0.0001), at(0.0025), at(0.005)),
        (0, 1, 1, 2)
    );
    assert_eq!(connect.last(), Some(&("+Inf", 3)));
}

#[test]
fn every_metric_is_documented_and_every_documented_metric_exists() {
    let text = sample();
    let made: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    let documented: BTreeSet<&str> = include_str!("../../../docs/metrics.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .filter(|name| name.starts_with("adit_"))
        .map(|name| name.trim_end_matches("_total").trim_end_matches("_info"))
        .collect();
    assert_eq!(made, documented);
}

#[test]
fn every_reason_is_documented() {
    let document = include_str!("../../../docs/metrics.md");
    for reason in CloseReason::ALL {
        let row = reason.row();
        let line = format!(
            "| `{}` | {} | {} |",
            row.word,
            row.kind.word(),
            row.who.word()
        );
        assert!(
            document.contains(&line),
            "docs/metrics.md has no row {line}"
        );
    }
}
