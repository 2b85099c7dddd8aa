//! The health of a node: what is amiss, since when, whom it concerns and what to do.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::ser::{SerializeStruct, Serializer};
use serde::{Deserialize, Serialize};

/// How soon somebody must act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HealthLevel {
    /// By day, some time.
    Notice,
    /// Soon: something does less than it should.
    Warning,
    /// Now: clients are refused, or the node takes no tunnel.
    Critical,
}

impl HealthLevel {
    /// The word in metrics and documents.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Notice => "notice",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

macro_rules! finding_codes {
    ($($(#[$doc:meta])* $name:ident = $word:literal, $consequence:literal, $remedy:literal;)*) => {
        /// Kinds of findings; docs/health.md has a row for each.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum FindingCode {
            $($(#[$doc])* $name,)*
        }

        impl FindingCode {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The word in metrics, logs and documents, in kebab case.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)*
                }
            }

            /// The consequence.
            #[must_use]
            pub const fn consequence(self) -> &'static str {
                match self {
                    $(Self::$name => $consequence,)*
                }
            }

            /// The remedy.
            #[must_use]
            pub const fn remedy(self) -> &'static str {
                match self {
                    $(Self::$name => $remedy,)*
                }
            }
        }
    };
}

finding_codes! {
    /// The node drains, or is about to.
    Draining = "draining", "new tunnels are refused",
        "none: the process ends with its last tunnel or after drain_timeout";
    /// No profile is assigned.
    Unconfigured = "unconfigured", "no tunnel is accepted",
        "assign a profile with adit profile assign";
    /// A data core's thread has ended.
    CoreEnded = "core-ended", "its tunnels are lost, and the node takes no new ones",
        "restart the node, and report what its log says";
    /// The server certificate that is served has ended.
    ServerCertificateExpired = "server-certificate-expired", "clients refuse the gateway",
        "replace the file and reload";
    /// A server certificate ends.
    ServerCertificateEnding = "server-certificate-ending",
        "clients refuse the gateway once it has ended, if no other takes over",
        "replace the file, or add a secondary certificate, and reload";
    /// A group certificate has ended.
    GroupCertificateExpired = "group-certificate-expired", "devices below it are refused",
        "replace the file with the renewed certificate of the authority and reload";
    /// A group certificate ends.
    GroupCertificateEnding = "group-certificate-ending",
        "devices below it are refused once it has ended",
        "get the renewed certificate of the authority, add it to the file and reload";
    /// A CRL has ended.
    CrlExpired = "crl-expired",
        "devices of its authority are refused, as far as profile.device_auth.crl.stale says",
        "publish a new list, or mend the source; adit crl list shows each";
    /// There is no list from a source.
    CrlMissing = "crl-missing",
        "devices of its authority are refused, as far as profile.device_auth.crl.stale says",
        "publish a list, or mend the source; adit crl list shows each";
    /// A CRL ends soon.
    CrlEnding = "crl-ending",
        "devices of its authority are refused once it has ended, as far as profile.device_auth.crl.stale says",
        "publish the next list; adit crl list shows each";
    /// A new list was not taken, or one proves nothing.
    CrlRefused = "crl-refused", "the list before it is used until it ends",
        "mend the list as the message says";
    /// No server of a service is up.
    ServiceDown = "service-down",
        "tunnels to the service fail, or are tried at a dead server (when_none_alive)",
        "look at its servers; adit servers shows why each is not used";
    /// A server is not up.
    ServerDown = "server-down", "the other servers of the service have its share",
        "look at the server; adit servers shows why it is not used";
    /// The registry's file could not be read.
    RegistryStale = "registry-stale",
        "the last good copy counts: later changes of the file are not active",
        "mend the file as the message says";
    /// The last change of the configuration was refused.
    ChangeRefused = "change-refused", "the configuration before it stays active",
        "mend what the message names, then adit reload";
    /// Audit records were lost.
    AuditLost = "audit-lost", "the audit log has gaps",
        "look at the disk or the reader of the log; the count is kept until a restart";
    /// The socket in the state folder is not there.
    StateSocket = "state-socket", "commands use admin.listen, which may need the token",
        "mend what the message names";
    /// The process before this one does not follow.
    PredecessorLost = "predecessor-lost",
        "its tunnels are not checked after changes, and it is being ended",
        "look at the log of that process";
    /// The process before this one has refused a change.
    PredecessorRefused = "predecessor-refused",
        "its tunnels go by the configuration before the change",
        "look at the log of that process";
}

/// One thing that is amiss.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthFinding {
    /// Which.
    pub code: FindingCode,
    /// How soon somebody must act.
    pub level: HealthLevel,
    /// The object: a file, a service, a server. Empty for the node.
    pub subject: String,
    /// The facts, without a final stop.
    pub message: String,
    /// Since when it has been seen, in this run of the program.
    pub since: SystemTime,
}

impl HealthFinding {
    /// A finding that is seen now.
    #[must_use]
    pub fn new(
        code: FindingCode,
        level: HealthLevel,
        subject: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            code,
            level,
            subject: subject.into(),
            message: message.into(),
            since: UNIX_EPOCH,
        }
    }
}

impl Serialize for HealthFinding {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let since = self.since.duration_since(UNIX_EPOCH);
        let mut out = serializer.serialize_struct("HealthFinding", 7)?;
        out.serialize_field("code", self.code.word())?;
        out.serialize_field("severity", &self.level)?;
        out.serialize_field("since", &since.as_ref().map_or(0, Duration::as_secs))?;
        out.serialize_field("subject", &self.subject)?;
        out.serialize_field("message", &self.message)?;
        out.serialize_field("consequence", self.code.consequence())?;
        out.serialize_field("remedy", self.code.remedy())?;
        out.end()
    }
}

/// The findings that a node knows, from one look to the next.
#[derive(Debug, Default)]
pub struct HealthBoard {
    known: HashMap<(FindingCode, String), (HealthLevel, SystemTime)>,
}

/// Changes between two looks.
#[derive(Debug, Default)]
pub struct HealthChanges {
    /// New, or of another level than before.
    pub appeared: Vec<HealthFinding>,
    /// Those that are no more: code and subject.
    pub gone: Vec<(FindingCode, String)>,
}

impl HealthBoard {
    /// Takes what is found `now`: fills in since when each is known, sorts by severity, and returns
    /// what has changed.
    pub fn look(&mut self, found: &mut [HealthFinding], now: SystemTime) -> HealthChanges {
        let before = std::mem::take(&mut self.known);
        let mut changes = HealthChanges::default();
        for finding in found.iter_mut() {
            let key = (finding.code, finding.subject.clone());
            let known = before.get(&key);
            finding.since = known.map_or(now, |(_, since)| *since);
            if known.is_none_or(|(level, _)| *level != finding.level) {
                changes.appeared.push(finding.clone());
            }
            self.known.insert(key, (finding.level, finding.since));
        }
        let gone = before
            .into_keys()
            .filter(|key| !self.known.contains_key(key));
        changes.gone.extend(gone);
        changes.gone.sort();
        found.sort_by(|a, b| {
            let of = |one: &HealthFinding| (std::cmp::Reverse(one.level), one.code);
            of(a).cmp(&of(b)).then_with(|| a.subject.cmp(&b.subject))
        });
        changes
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn down(server: &str, level: HealthLevel) -> HealthFinding {
        HealthFinding::new(FindingCode::ServerDown, level, server, "it is dead")
    }

    #[test]
    fn a_finding_appears_once_stays_and_goes() {
        let mut board = HealthBoard::default();
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let mut found = [
            down("b", HealthLevel::Notice),
            down("a", HealthLevel::Warning),
        ];
        assert_eq!(board.look(&mut found, at(5)).appeared.len(), 2);
        assert_eq!(found[0].subject, "a", "the worst first");
        let mut found = [down("a", HealthLevel::Warning)];
        let changes = board.look(&mut found, at(9));
        assert_eq!((changes.appeared.len(), found[0].since), (0, at(5)));
        assert_eq!(changes.gone, [(FindingCode::ServerDown, "b".to_owned())]);
        let mut worse = [down("a", HealthLevel::Critical)];
        let changes = board.look(&mut worse, at(11));
        assert_eq!((changes.appeared.len(), worse[0].since), (1, at(5)));
        assert_eq!(board.look(&mut [], at(12)).gone.len(), 1);
        assert_eq!(board.look(&mut [], at(13)).gone.len(), 0);
    }

    #[test]
    fn the_document_has_each_code_and_no_other() {
        let document = include_str!("../../docs/health.md");
        let rows = document.lines().filter(|line| line.starts_with("| `"));
        let described: BTreeSet<&str> = rows.filter_map(|row| row.split('`').nth(1)).collect();
        let all: BTreeSet<&str> = FindingCode::ALL.iter().map(|code| code.word()).collect();
        assert_eq!(described, all);
    }
}
