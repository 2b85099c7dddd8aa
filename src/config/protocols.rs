//! From what was written about TLS versions, cipher suites and key-exchange groups to what is valid.

use super::document::{List, Slot};
use super::error::{Fault, Report};
use super::raw::RawTlsSide;
use super::reach::{CIPHER_SUITES, TlsChoice};
use super::values::{without_repetition, word};

/// What is spoken on one side.
pub(super) fn tls(raw: RawTlsSide, report: &mut Report) -> TlsChoice {
    let (tls12, tls13) = protocols(raw.protocols, report);
    let place = raw.cipher_suites.place.clone();
    let known = CIPHER_SUITES.map(|(name, _)| (name, name));
    let list = raw.cipher_suites.or(Vec::new()).into_iter();
    let list = list.map(|slot| slot.parse(report, |text| word(&text, &known)));
    let suites = without_repetition(list.collect(), report);
    let is_of = |tls13| move |suite: &&str| CIPHER_SUITES.contains(&(*suite, tls13));
    for (spoken, version, newer) in [(tls12, "1.2", false), (tls13, "1.3", true)] {
        if spoken && !suites.is_empty() && !suites.iter().any(is_of(newer)) {
            let message = format!("has no suite of TLS {version}, which is among the protocols");
            let remedy = "add one, or take the version out of protocols";
            report.add(&place, Fault::new(message, remedy));
        }
    }
    TlsChoice {
        tls12,
        tls13,
        suites,
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
    let version = |text: String| match text.as_str() {
        "1.0" | "1.1" => {
            let message = format!("TLS {text} is broken and was withdrawn (RFC 8996)");
            Err(Fault::new(message, "write \"1.2\" or \"1.3\""))
        }
        _ => word(&text, &[("1.2", 2), ("1.3", 3)]),
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
