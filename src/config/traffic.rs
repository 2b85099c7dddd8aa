//! From what was written about limits of services and apps, and about the life of a tunnel, to what
//! is valid.

use std::collections::HashMap;
use std::time::Duration;

use super::error::{Fault, Location, Report, quoted};
use super::raw::{RawAppLimits, RawLimits, RawServiceLimits};
use super::slot::{Slot, Value};
use super::types::{AppLimits, Rate, TrafficLimits};
use super::values::{count, duration, size};
use crate::limits::{
    BYTE_BURST_MAX, BYTE_BURST_MIN, BYTE_BURST_PART, BYTE_RATE_MAX, BYTE_RATE_MIN,
    CONFIG_TUNNELS_MAX, MAX_IDENTITY_NAME_BYTES, TUNNEL_RATE_MAX,
};

/// The idle timeout, and the shortest and the longest that a client may propose.
pub(super) fn idle(
    idle: Slot<String>,
    min: Slot<String>,
    max: Slot<String>,
    report: &mut Report,
) -> (Duration, Duration, Duration) {
    let idle = idle
        .parse(report, |text| duration(&text))
        .or(Duration::from_secs(60));
    let mut bound = |slot: Slot<String>, fits: fn(&Duration, &Duration) -> bool, words: &str| {
        let bound = slot.parse(report, |text| {
            let bound = duration(&text)?;
            if fits(&bound, &idle) {
                return Ok(bound);
            }
            let message = format!("{} is {words} than engine.idle_timeout", quoted(&text));
            Err(Fault::new(
                message,
                "a client that proposes nothing gets engine.idle_timeout, which lies within the bounds",
            ))
        });
        bound.or(idle)
    };
    let min = bound(min, Duration::le, "longer");
    let max = bound(max, Duration::ge, "shorter");
    (idle, min, max)
}

/// The limits of a service, and the lifetime of its tunnels.
pub(super) fn service_limits(
    raw: RawServiceLimits,
    report: &mut Report,
) -> (TrafficLimits, Option<Duration>) {
    let named = has_any(&raw.limits) || raw.max_lifetime.written().is_some();
    refuse_nothing(named, &raw.place, report);
    let limits = limits(raw.limits, report);
    let lifetime = raw.max_lifetime.parse(report, |text| duration(&text));
    (limits, lifetime.given())
}

/// The limits of the apps that are named.
pub(super) fn app_limits(raw: Vec<RawAppLimits>, report: &mut Report) -> Vec<AppLimits> {
    let mut seen: HashMap<String, Option<usize>> = HashMap::new();
    let mut list = Vec::with_capacity(raw.len());
    for raw in raw {
        refuse_nothing(has_any(&raw.limits), &raw.place, report);
        let limits = limits(raw.limits, report);
        let line = raw.app.place.line;
        let app = raw
            .app
            .required(report, "write the app's name, as in app = \"mail\"")
            .parse(report, |name| app_name(name, &seen))
            .given();
        if let Some(app) = app {
            seen.insert(app.clone(), line);
            list.push(AppLimits { app, limits });
        }
    }
    list
}

fn app_name(name: String, seen: &HashMap<String, Option<usize>>) -> Result<String, Fault> {
    if let Some(first) = seen.get(&name) {
        let line = first.map_or(String::new(), |line| format!(" in line {line}"));
        let message = format!("the app {} has limits already{line}", quoted(&name));
        return Err(Fault::new(message, "put all its limits in one table"));
    }
    if name.is_empty() || name.len() > MAX_IDENTITY_NAME_BYTES || name.contains('*') {
        return Err(Fault::new(
            format!("{} is not the name of one app", quoted(&name)),
            "write the app's name exactly, one table for each app",
        ));
    }
    Ok(name)
}

fn has_any(raw: &RawLimits) -> bool {
    // Taken apart, so that a new key cannot be forgotten here.
    let RawLimits {
        tunnels,
        new_tunnels_per_second,
        new_tunnels_burst,
        bytes_per_second,
        bytes_burst,
    } = raw;
    let counts = [tunnels, new_tunnels_per_second, new_tunnels_burst];
    let sizes = [bytes_per_second, bytes_burst];
    counts.into_iter().any(|slot| slot.written().is_some())
        || sizes.into_iter().any(|slot| slot.written().is_some())
}

fn refuse_nothing(named: bool, place: &Location, report: &mut Report) {
    if !named {
        let remedy = "write a limit, as in tunnels = 1000, or remove the table";
        report.add(place, Fault::new("limits nothing", remedy));
    }
}

fn limits(raw: RawLimits, report: &mut Report) -> TrafficLimits {
    let tunnels = raw
        .tunnels
        .parse(report, |n| count(n, CONFIG_TUNNELS_MAX))
        .given();
    let tunnel_count = |n| count(n, TUNNEL_RATE_MAX).map(|n| n as u64);
    let new_tunnels = rate(
        raw.new_tunnels_per_second.parse(report, tunnel_count),
        raw.new_tunnels_burst.parse(report, tunnel_count),
        |per_second| per_second,
        report,
    );
    let bytes = rate(
        raw.bytes_per_second
            .parse(report, |text| bytes(&text, BYTE_RATE_MIN, BYTE_RATE_MAX)),
        raw.bytes_burst
            .parse(report, |text| bytes(&text, BYTE_RATE_MIN, BYTE_BURST_MAX)),
        |per_second| (per_second / BYTE_BURST_PART).max(BYTE_BURST_MIN),
        report,
    );
    TrafficLimits {
        tunnels,
        new_tunnels,
        bytes,
    }
}

/// A rate and its burst, `usual` where none is written. A burst alone limits nothing, and is
/// refused.
fn rate(
    per_second: Slot<u64>,
    burst: Slot<u64>,
    usual: impl FnOnce(u64) -> u64,
    report: &mut Report,
) -> Option<Rate> {
    if matches!(
        (&per_second.value, &burst.value),
        (Value::Absent, Value::Given(_))
    ) {
        let remedy = "write the rate that it belongs to beside it, or remove it";
        report.add(&burst.place, Fault::new("a burst without a rate", remedy));
    }
    let per_second = per_second.given()?;
    Some(Rate {
        per_second,
        burst: burst.given().unwrap_or_else(|| usual(per_second)),
    })
}

fn bytes(text: &str, min: u64, max: u64) -> Result<u64, Fault> {
    let bytes = size(text)?;
    if (min..=max).contains(&bytes) {
        return Ok(bytes);
    }
    let (min, max) = (min >> 10, max >> 30);
    Err(Fault::new(
        format!("{} is out of range", quoted(text)),
        format!("write a size from \"{min} KiB\" to \"{max} GiB\""),
    ))
}
