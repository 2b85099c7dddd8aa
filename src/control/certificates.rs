//! Says when another server certificate is served, and has self-signed ones made in time.
//!
//! Which certificate is served is decided in each handshake, and needs nothing from here.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use crate::engine::Node;
use crate::files::in_background;
use crate::limits::{
    CERTIFICATE_POLL, EXPIRY_NOTICE_DAYS, EXPIRY_URGENT_DAYS, SELF_SIGNED_POLL, SELF_SIGNED_RETRY,
};
use crate::observe::{CertificateInfo, GROUP};

/// Looks for ever.
pub async fn watch_certificates(node: Arc<Node>) {
    let mut seen = Seen::default();
    let mut looked = Instant::now();
    loop {
        let certificates = node.certificates();
        let changes = seen.look(&certificates);
        // A self-signed one that has taken over gets the file names of the one before it. Where what is served is not valid,
        // the clock has been set, or is about to be.
        let patience = match is_usable(&certificates) {
            true => SELF_SIGNED_POLL,
            false => SELF_SIGNED_RETRY,
        };
        let takes_over =
            |change: &Change| matches!(change, Change::TakenOver { .. } | Change::Ended { .. });
        let is_due = changes.iter().any(takes_over) || looked.elapsed() >= patience;
        for change in changes {
            match change {
                Change::TakenOver { from, to } => {
                    node.count_certificate_takeover();
                    tracing::warn!(
                        expired = from,
                        served = to,
                        "the server certificate has expired, and the other one is served now"
                    );
                }
                Change::Ending { role, file, days } => {
                    tracing::warn!(role, file, days, "a certificate ends soon: replace it");
                }
                Change::GroupEnded { file } => tracing::error!(
                    file,
                    "a group certificate has expired: devices below it are refused"
                ),
                Change::Ended { file } => tracing::error!(
                    file,
                    "the server certificate has expired and there is no other one: clients refuse it"
                ),
            }
        }
        if is_due {
            looked = Instant::now();
            renew(&node).await;
        }
        tokio::time::sleep(CERTIFICATE_POLL).await;
    }
}

/// Returns whether the certificate in turn can be used now.
fn is_usable(certificates: &[CertificateInfo]) -> bool {
    let in_turn = certificates.iter().find(|one| one.is_in_turn());
    in_turn.is_none_or(|one| one.state == "valid")
}

async fn renew(node: &Arc<Node>) {
    let node = node.clone();
    // Makes keys and reads files: not on this thread, which answers probes.
    let renewed = in_background(move || node.renew_self_signed()).await;
    match renewed {
        Ok(Ok(true)) => tracing::info!("the self-signed server certificates have changed"),
        Ok(Err(error)) => {
            tracing::error!("the self-signed server certificates are unchanged: {error}");
        }
        Ok(Ok(false)) | Err(_) => {}
    }
}

/// The event.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    /// One took over.
    TakenOver { from: String, to: String },
    /// The last one ended.
    Ended { file: String },
    /// One has come nearer to its end than a mark.
    Ending {
        role: &'static str,
        file: String,
        days: i64,
    },
    /// One of the group certificates of a file has ended.
    GroupEnded { file: String },
}

/// State at the last look. No clock: what it is shown is of one moment.
#[derive(Default)]
struct Seen {
    /// File and end of the one that was served.
    served: Option<(String, u64)>,
    /// File and end of the last one that ended without a successor.
    ended: Option<(String, u64)>,
    /// How near each was to its end, by role, file and end.
    nearness: HashMap<(&'static str, String, u64), Nearness>,
}

/// How near a certificate is to its end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Nearness {
    Far,
    Notice,
    Urgent,
    Ended,
}

impl Nearness {
    fn of(one: &CertificateInfo) -> Self {
        if one.has_ended() {
            Self::Ended
        } else if one.days_left < EXPIRY_URGENT_DAYS {
            Self::Urgent
        } else if one.days_left < EXPIRY_NOTICE_DAYS {
            Self::Notice
        } else {
            Self::Far
        }
    }
}

impl Seen {
    /// Returns what has come nearer to its end. What is seen for the first time has been told of
    /// when it was read.
    fn look_at_ends(&mut self, certificates: &[CertificateInfo]) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut nearness = HashMap::new();
        for one in certificates {
            let (now, key) = (
                Nearness::of(one),
                (one.role, one.file.clone(), one.not_after),
            );
            if self.nearness.get(&key).is_some_and(|before| *before < now) {
                let (role, file, days) = (one.role, one.file.clone(), one.days_left);
                match now {
                    Nearness::Ended if role == GROUP => changes.push(Change::GroupEnded { file }),
                    // Of the server's own, below.
                    Nearness::Ended | Nearness::Far => {}
                    Nearness::Notice | Nearness::Urgent => {
                        changes.push(Change::Ending { role, file, days });
                    }
                }
            }
            nearness.insert(key, now);
        }
        self.nearness = nearness;
        changes
    }

    /// Returns what has happened since, each thing once.
    fn look(&mut self, certificates: &[CertificateInfo]) -> Vec<Change> {
        let mut changes = self.look_at_ends(certificates);
        let Some(served) = certificates.iter().find(|one| one.is_in_turn()) else {
            return changes;
        };
        let named = |one: &CertificateInfo| (one.file.clone(), one.not_after);
        // What is not there any more went with a reload.
        let last = self.served.take().filter(|last| {
            let mut all = certificates.iter();
            all.any(|one| named(one) == *last && one.has_ended())
        });
        if let Some((from, _)) = last.filter(|last| *last != named(served)) {
            let to = served.file.clone();
            changes.push(Change::TakenOver { from, to });
        }
        if served.has_ended() && self.ended.as_ref() != Some(&named(served)) {
            self.ended = Some(named(served));
            let file = served.file.clone();
            changes.push(Change::Ended { file });
        }
        self.served = Some(named(served));
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(role: &'static str, not_after: u64, served: bool, now: u64) -> CertificateInfo {
        let info = CertificateInfo {
            role,
            file: format!("{role}.pem"),
            not_after,
            served,
            ..CertificateInfo::default()
        };
        info.at(now)
    }

    #[test]
    fn a_takeover_and_the_last_end_are_told_once() {
        let mut seen = Seen::default();
        let at = |now| {
            [
                certificate("primary", 100, now < 100, now),
                certificate("secondary", 200, now >= 100, now),
            ]
        };
        let quiet: [&[Change]; 2] = [&[], &[]];
        assert_eq!([&*seen.look(&at(98)), &*seen.look(&at(99))], quiet);
        let taken = Change::TakenOver {
            from: "primary.pem".into(),
            to: "secondary.pem".into(),
        };
        assert_eq!(seen.look(&at(100)), [taken]);
        assert_eq!([&*seen.look(&at(101)), &*seen.look(&at(199))], quiet);
        let ended = Change::Ended {
            file: "secondary.pem".into(),
        };
        assert_eq!(seen.look(&at(200)), [ended]);
        assert_eq!(seen.look(&at(300)), []);
    }

    #[test]
    fn what_comes_near_to_its_end_is_told_once_a_mark() {
        const DAY: u64 = 24 * 60 * 60;
        let mut seen = Seen::default();
        let end = 100 * DAY;
        let told: Vec<Change> = (35..=101)
            .flat_map(|day| {
                let now = day * DAY + 1;
                let server = certificate("primary", 300 * DAY, true, now);
                seen.look(&[server, certificate(GROUP, end, now < end, now)])
            })
            .collect();
        let ending = |days| Change::Ending {
            role: GROUP,
            file: "group.pem".into(),
            days,
        };
        let ended = Change::GroupEnded {
            file: "group.pem".into(),
        };
        assert_eq!(told, [ending(59), ending(29), ended]);
        let mut late = Seen::default();
        let now = end - DAY;
        let group = [certificate(GROUP, end, true, now)];
        assert_eq!(late.look(&group), [], "told of when it was read");
    }

    #[test]
    fn a_reload_is_no_takeover() {
        let mut seen = Seen::default();
        assert_eq!(seen.look(&[certificate("primary", 100, true, 50)]), []);
        let other = [certificate("self-signed", 300, true, 50)];
        assert_eq!(seen.look(&other), []);
        assert_eq!(seen.look(&[]), []);
        let renewed = [certificate("self-signed", 900, true, 400)];
        assert_eq!(seen.look(&renewed), []);
    }
}
