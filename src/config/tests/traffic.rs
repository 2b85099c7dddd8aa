//! Limits of services and apps, lifetimes, and the idle timeout that a client may propose.

use super::*;

fn service(lines: &str) -> String {
    with("", "").replace(
        "servers = [\"10.0.0.5:443\"]\n",
        &format!("servers = [\"10.0.0.5:443\"]\n[profile.service.limits]\n{lines}\n"),
    )
}

const RATE: Option<Rate> = Some(Rate {
    per_second: 50,
    burst: 100,
});

#[test]
fn limits_of_a_service_and_of_an_app() {
    let all = "tunnels = 500\nnew_tunnels_per_second = 50\nnew_tunnels_burst = 100\n\
               bytes_per_second = \"10 MiB\"\nbytes_burst = \"256 KiB\"";
    let limits = TrafficLimits {
        tunnels: Some(500),
        new_tunnels: RATE,
        bytes: Some(Rate {
            per_second: 10 << 20,
            burst: 256 << 10,
        }),
    };
    let config = right(&service(&format!("{all}\nmax_lifetime = \"8h\"")));
    let service_now = &config.profile.services[0];
    assert_eq!(service_now.limits, limits);
    assert_eq!(service_now.max_lifetime, Some(Duration::from_secs(28_800)));
    let shown = config.summary().to_string();
    assert!(
        shown.contains("wiki: 10.0.0.5:443; 500 tunnels; 50 new tunnels a second, 100 at once; 10240 KiB/s in each direction, 256 KiB at once; for 8h at most"),
        "{shown}"
    );

    let app = format!("[[profile.app_limits]]\napp = \"mail\"\n{all}");
    let config = right(&with("", &app));
    let mail = AppLimits {
        app: "mail".into(),
        limits,
    };
    assert_eq!(config.profile.app_limits, [mail]);
    assert!(config.summary().to_string().contains("  mail; 500 tunnels"));
}

#[test]
fn bursts_have_defaults() {
    let limits = |lines: &str| right(&service(lines)).profile.services[0].limits;
    let new = limits("new_tunnels_per_second = 7").new_tunnels.unwrap();
    assert_eq!((new.per_second, new.burst), (7, 7));
    let bytes = |rate: &str| limits(&format!("bytes_per_second = {rate:?}")).bytes;
    assert_eq!(bytes("100 MiB").unwrap().burst, 10 << 20);
    let least = crate::limits::BYTE_BURST_MIN;
    assert_eq!(bytes("16 KiB").unwrap().burst, least);
}

#[test]
fn what_is_wrong_with_limits() {
    for (lines, parts) in [
        (
            "",
            ["9 profile.service[0].limits: limits nothing", "tunnels"],
        ),
        (
            "tunnels = 0",
            ["10 profile.service[0].limits.tunnels:", "1 to"],
        ),
        (
            "new_tunnels_per_second = 1000001",
            ["out of range", "1 to 1000000"],
        ),
        ("new_tunnels_burst = 5", ["a burst without a rate", "10 "]),
        ("bytes_burst = \"1 MiB\"", ["a burst without a rate", "10 "]),
        (
            "bytes_per_second = \"15 KiB\"",
            ["out of range", "\"16 KiB\" to \"1024 GiB\""],
        ),
        ("bytes_per_second = \"1025 GiB\"", ["out of range", "GiB"]),
        ("bytes_per_second = \"10 MB\"", ["is not a size", "MiB"]),
        ("bytes_per_second = 1000", ["must be a text", "quotes"]),
        (
            "max_lifetime = \"0s\"",
            ["max_lifetime: a duration of zero", ""],
        ),
        ("tunnel = 5\ntunnels = 5", ["unknown key", "\"tunnels\""]),
    ] {
        one_problem(&service(lines), &parts);
    }
    let app = |lines: &str| with("", &format!("[[profile.app_limits]]\n{lines}"));
    for (lines, parts) in [
        ("tunnels = 5", ["profile.app_limits[0].app: is missing", ""]),
        ("app = \"mail\"", ["limits nothing", ""]),
        ("app = \"*\"\ntunnels = 5", ["not the name of one app", ""]),
        ("app = \"\"\ntunnels = 5", ["not the name of one app", ""]),
        (
            "app = \"a\"\ntunnels = 5\n[[profile.app_limits]]\napp = \"a\"\ntunnels = 6",
            [
                "profile.app_limits[1].app: the app \"a\" has limits already in line",
                "",
            ],
        ),
        (
            "app = \"a\"\nmax_lifetime = \"1h\"\ntunnels = 5",
            ["unknown key", ""],
        ),
    ] {
        one_problem(&app(lines), &parts);
    }
}

#[test]
fn idle_bounds_and_lifetime() {
    let engine = |lines: &str| format!("[engine]\n{lines}\n{LEAST}");
    let config = right(&engine(
        "idle_timeout = \"30s\"\nidle_timeout_min = \"5s\"\nidle_timeout_max = \"1h\"\nmax_lifetime = \"24h\"",
    ));
    let now = &config.engine;
    assert_eq!(now.idle_timeout_min, Duration::from_secs(5));
    assert_eq!(now.idle_timeout_max, Duration::from_secs(3600));
    assert_eq!(now.max_lifetime, Some(Duration::from_secs(86_400)));
    let shown = config.summary().to_string();
    assert!(
        shown.contains("from 5s to 1h") && shown.contains("24h at most"),
        "{shown}"
    );
    let alone = right(&engine("idle_timeout = \"30s\"")).engine;
    let bounds = (alone.idle_timeout_min, alone.idle_timeout_max);
    assert_eq!(bounds, (alone.idle_timeout, alone.idle_timeout));
    one_problem(
        &engine("idle_timeout = \"30s\"\nidle_timeout_min = \"31s\""),
        &["3 engine.idle_timeout_min: \"31s\" is longer than engine.idle_timeout"],
    );
    one_problem(
        &engine("idle_timeout_max = \"59s\""),
        &["2 engine.idle_timeout_max: \"59s\" is shorter than engine.idle_timeout"],
    );
}

#[test]
fn udp_and_what_no_rule_is_about() {
    assert!(!right(LEAST).profile.services[0].udp && !right(LEAST).profile.no_rule_direct);
    let udp = |value: &str| LEAST.replace("servers = [", &format!("udp = {value}\nservers = ["));
    let config = right(&udp("true"));
    assert!(config.profile.services[0].udp);
    assert!(
        config
            .summary()
            .to_string()
            .contains("10.0.0.5:443, also by UDP")
    );
    one_problem(&udp("\"yes\""), &["service[0].udp: must be true or false"]);
    let no_rule = |value: &str| {
        with(&format!("[profile]\nno_rule = {value:?}"), "").replacen(
            "[profile]\n[profile",
            "[profile",
            1,
        )
    };
    let direct = right(&no_rule("direct"));
    assert!(direct.profile.no_rule_direct);
    assert!(
        direct
            .summary()
            .to_string()
            .contains("the device may reach itself")
    );
    assert!(!right(&no_rule("refuse")).profile.no_rule_direct);
    one_problem(
        &no_rule("drop"),
        &["profile.no_rule: \"drop\" is not known here", "\"direct\""],
    );
}
