//! From what was written about TLS versions, cipher suites and key-exchange groups to what is
//! valid.

use super::error::{Fault, Location, Report, quoted};
use super::raw::RawTlsSide;
use super::reach::{CIPHER_SUITES, KEY_EXCHANGE, TlsChoice};
use super::slot::{List, Slot};
use super::suites::{group, suite};
use super::values::{without_repetition, word};

/// Returns what is spoken on one side.
pub(super) fn tls(raw: RawTlsSide, report: &mut Report) -> TlsChoice {
    let (tls12, tls13) = protocols(raw.protocols, report);
    let mut names = |list: Slot<List>, known: fn(&str) -> Result<&'static str, Fault>| {
        let place = list.place.clone();
        let list = list.or(Vec::new());
        let length = list.len();
        let list = list
            .into_iter()
            .map(|slot| slot.parse(report, |text| known(&text)));
        let list = list.collect();
        let kept = without_repetition(list, report);
        // A list with a wrong entry gives no second error for what it lacks.
        (kept.len() == length && length > 0)
            .then_some(place)
            .map_or((Vec::new(), None), |place| (kept, Some(place)))
    };
    let (suites, suites_place) = names(raw.cipher_suites, suite);
    let (groups, groups_place) = names(raw.key_exchange, group);
    if let Some(place) = suites_place {
        let has = |tls13| {
            suites
                .iter()
                .any(|suite| CIPHER_SUITES.contains(&(*suite, tls13)))
        };
        let has = (has(false), has(true));
        lacking("suite", (tls12, tls13), has, &place, report);
    }
    if let Some(place) = groups_place {
        let mut known = KEY_EXCHANGE.iter();
        let has = known.any(|known| known.tls12 && groups.contains(&known.name));
        lacking("group", (tls12, tls13), (has, true), &place, report);
    }
    TlsChoice {
        tls12,
        tls13,
        suites,
        groups,
    }
}

/// Reports each version, 1.2 and 1.3, that is spoken and has nothing of its own in a list.
fn lacking(
    what: &str,
    spoken: (bool, bool),
    has: (bool, bool),
    place: &Location,
    report: &mut Report,
) {
    let versions = [("1.2", spoken.0, has.0), ("1.3", spoken.1, has.1)];
    for (version, spoken, has) in versions {
        if spoken && !has {
            let message = format!("has no {what} of TLS {version}, which is among the protocols");
            let remedy = "add one, or take the version out of protocols";
            report.add(place, Fault::new(message, remedy));
        }
    }
}

fn protocols(list: Slot<List>, report: &mut Report) -> (bool, bool) {
    let place = list.place.clone();
    let Some(list) = list.given() else {
        return (true, true);
    };
    if list.is_empty() {
        report.add(
            &place,
            Fault::new(
                "the list is empty",
                "write at least one of \"1.2\" and \"1.3\"",
            ),
        );
    }
    // Versions are told apart by number so that a list with one wrong entry gives no second error.
    let version = |text: String| {
        let lower = text.to_ascii_lowercase();
        let number = lower.trim_start_matches(|c: char| !c.is_ascii_digit());
        match (lower.starts_with("ssl"), number) {
            (true, _) => Err(Fault::new(
                format!(
                    "{} is broken and was withdrawn (RFC 6176, RFC 7568)",
                    quoted(&text)
                ),
                "write \"1.2\" or \"1.3\"",
            )),
            (_, "1" | "1.0" | "1.1") => Err(Fault::new(
                format!("TLS {number} is broken and was withdrawn (RFC 8996)"),
                "write \"1.2\", which nearly all such peers also support, or \"1.3\"",
            )),
            _ => word(&text, &[("1.2", 2), ("1.3", 3)]),
        }
    };
    let length = list.len();
    let list = list
        .into_iter()
        .map(|slot| slot.parse(report, version))
        .collect();
    let versions = without_repetition(list, report);
    if versions.len() < length {
        return (true, true);
    }
    (versions.contains(&2), versions.contains(&3))
}
