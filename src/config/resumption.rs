//! From what was written about the resumption of sessions to what is valid.

use std::time::Duration;

use super::error::{Fault, Report, quoted};
use super::raw::RawResumption;
use super::types::{Resumption, ResumptionKind};
use super::values::{Folder, duration, size, word};
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
        let message = "sessions are resumed from a cache, but the cache is off";
        let remedy = "write a size, as in \"64 MiB\", or profile.tls.resumption = \"tickets\"";
        report.add(&cache_place, Fault::new(message, remedy));
    }
    let lifetime = raw.session_lifetime.parse(report, |text| lifetime(&text));
    if let (false, Some(place)) = (by == ResumptionKind::Tickets, raw.ticket_keys.written()) {
        let message = "ticket keys are named, but tickets are off";
        let remedy = "leave the key out, or write profile.tls.resumption = \"tickets\"";
        report.add(place, Fault::new(message, remedy));
    }
    Resumption {
        by,
        cache_bytes,
        lifetime: lifetime.or(defaults.lifetime),
        ticket_keys: raw
            .ticket_keys
            .parse(report, |file| folder.readable(&file))
            .given(),
    }
}

/// Reads a size such as `64 MiB`, or `off`, which is 0.
fn cache_size(text: &str) -> Result<usize, Fault> {
    if text == "off" {
        return Ok(0);
    }
    let range = SESSION_CACHE_MIN..=SESSION_CACHE_MAX;
    usize::try_from(size(text)?)
        .ok()
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
