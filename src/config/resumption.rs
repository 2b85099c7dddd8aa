//! From what was written about the resumption of sessions to what is valid.

use std::time::Duration;

use super::document::Value;
use super::error::{Fault, Report, quoted};
use super::raw::RawResumption;
use super::types::{Resumption, ResumptionKind};
use super::values::{Folder, duration, word};
use crate::limits::{SESSION_CACHE_MAX, SESSION_CACHE_MIN, SESSION_LIFETIME_MAX};

pub(super) fn resumption(raw: RawResumption, folder: &Folder, report: &mut Report) -> Resumption {
    let defaults = Resumption::default();
    let kinds = [
        ("tickets", ResumptionKind::Tickets),
        ("cache", ResumptionKind::Cache),
        ("off", ResumptionKind::Off),
    ];
    let by = raw
        .by
        .parse(report, |text| word(&text, &kinds))
        .or(defaults.by);
    let cache_place = raw.session_cache.place.clone();
    let cache_bytes = raw
        .session_cache
        .parse(report, |text| cache_size(&text))
        .or(defaults.cache_bytes);
    if by == ResumptionKind::Cache && cache_bytes == 0 {
        let message = "sessions are to be resumed out of a cache that is off";
        let remedy = "write a size, as in \"64 MiB\", or profile.tls.resumption = \"tickets\"";
        report.add(&cache_place, Fault::new(message, remedy));
    }
    let lifetime = raw.session_lifetime.parse(report, |text| lifetime(&text));
    if by != ResumptionKind::Tickets && !matches!(raw.ticket_keys.value, Value::Absent) {
        let message = "ticket keys are named, and no tickets are given";
        let remedy = "leave the key out, or write profile.tls.resumption = \"tickets\"";
        report.add(&raw.ticket_keys.place, Fault::new(message, remedy));
    }
    Resumption {
        by,
        cache_bytes,
        lifetime: lifetime.or(defaults.lifetime),
        ticket_keys: raw
            .ticket_keys
            .parse(report, |text| folder.readable(&text))
            .given(),
    }
}

/// Reads a size such as `64 MiB`, or `off`, which is 0.
fn cache_size(text: &str) -> Result<usize, Fault> {
    const REMEDY: &str = "write a whole number and KiB, MiB or GiB, as in \"64 MiB\", or \"off\"";
    if text == "off" {
        return Ok(0);
    }
    let unit_at = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(unit_at);
    let shift = match unit.strip_prefix(' ').unwrap_or(unit) {
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => {
            let message = format!("{} is not a size", quoted(text));
            return Err(Fault::new(message, REMEDY));
        }
    };
    let range = SESSION_CACHE_MIN..=SESSION_CACHE_MAX;
    digits
        .parse()
        .ok()
        .and_then(|number: usize| number.checked_mul(1 << shift))
        .filter(|bytes| range.contains(bytes))
        .ok_or_else(|| {
            let (min, max) = (SESSION_CACHE_MIN >> 20, SESSION_CACHE_MAX >> 30);
            let message = format!("{} is out of range", quoted(text));
            let remedy = format!("write a size from \"{min} MiB\" to \"{max} GiB\", or \"off\"");
            Fault::new(message, remedy)
        })
}

fn lifetime(text: &str) -> Result<Duration, Fault> {
    let lifetime = duration(text)?;
    if lifetime < Duration::from_secs(1) || lifetime > SESSION_LIFETIME_MAX {
        let hours = SESSION_LIFETIME_MAX.as_secs() / 3600;
        let message = format!("{} is out of range", quoted(text));
        let remedy = format!("write at least \"1s\" and at most \"{hours}h\" (RFC 8446)");
        return Err(Fault::new(message, remedy));
    }
    Ok(lifetime)
}
