//! State of a server certificate and of group certificates, in `/metrics` and on `/readyz`.

use std::fmt;

use prometheus_client::metrics::MetricType;

use super::families::Families;

/// A server certificate, or a file of group certificates, at the moment of the question.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct CertificateInfo {
    /// `primary`, `secondary`, `additional`, `service`, `self-signed`, `self-signed-next` or
    /// `group`.
    pub role: &'static str,
    /// Its file.
    pub file: String,
    /// From when its chain can be used, in Unix time.
    pub not_before: u64,
    /// When the first of its chain ends, in Unix time.
    pub not_after: u64,
    /// `valid`, `expired` or `not-yet-valid`.
    pub state: &'static str,
    /// Whole days until it ends; negative where it has ended.
    pub days_left: i64,
    /// True if clients are shown it: of primary and secondary the one whose turn it is, of the
    /// others each that can be used. Of a file of group certificates, whether all of them can be
    /// used.
    pub served: bool,
}

/// The role of a file of group certificates.
pub const GROUP: &str = "group";

impl CertificateInfo {
    /// The same, with what is so at `now`.
    #[must_use]
    pub fn at(self, now: u64) -> Self {
        const DAY: i64 = 24 * 60 * 60;
        let seconds = |moment: u64| i64::try_from(moment).unwrap_or(i64::MAX);
        Self {
            state: if now >= self.not_after {
                "expired"
            } else if now < self.not_before {
                "not-yet-valid"
            } else {
                "valid"
            },
            days_left: (seconds(self.not_after) - seconds(now)).div_euclid(DAY),
            ..self
        }
    }

    /// Returns whether it is the one that clients are shown that ask for no other.
    #[must_use]
    pub fn is_in_turn(&self) -> bool {
        self.served && !matches!(self.role, "additional" | "service" | GROUP)
    }

    /// Returns whether it has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.state == "expired"
    }
}

/// As many time series as there are server certificates in the configuration.
pub(super) fn encode_certificates(
    certificates: &[CertificateInfo],
    out: &mut Families<'_>,
) -> fmt::Result {
    let mut gauge = |name, help, value: &dyn Fn(&CertificateInfo) -> i64| {
        if certificates.is_empty() {
            return Ok(());
        }
        let mut family = out.family(name, help, MetricType::Gauge)?;
        certificates.iter().try_for_each(|certificate| {
            let labels = [("role", certificate.role), ("file", &certificate.file)];
            let mut sample = family.encode_family(&labels)?;
            sample.encode_gauge(&value(certificate))
        })
    };
    let help = "When the server certificate or one of its chain, or the first of the group certificates of a file, ends, in Unix time";
    gauge("certificate_expiry_timestamp_seconds", help, &|one| {
        i64::try_from(one.not_after).unwrap_or(i64::MAX)
    })?;
    let help = "Whole days until then; negative when it has ended";
    gauge("certificate_days_left", help, &|one| one.days_left)?;
    let help = "1 while clients are shown the certificate, or all group certificates of the file can be used";
    gauge("certificate_served", help, &|one| i64::from(one.served))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_state_follow_the_dates() {
        let at = |now| {
            let certificate = CertificateInfo {
                not_before: 1_000,
                not_after: 1_000 + 3 * 86_400,
                ..CertificateInfo::default()
            };
            let certificate = certificate.at(now);
            (certificate.state, certificate.days_left)
        };
        assert_eq!(at(999), ("not-yet-valid", 3));
        assert_eq!(at(1_000), ("valid", 3));
        assert_eq!(at(1_001), ("valid", 2));
        assert_eq!(at(1_000 + 3 * 86_400 - 1), ("valid", 0));
        assert_eq!(at(1_000 + 3 * 86_400), ("expired", 0));
        assert_eq!(at(1_001 + 3 * 86_400), ("expired", -1));
    }
}
