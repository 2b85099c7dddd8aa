//! State of a CRL, in `/metrics` and on `/readyz`.

/// One CRL, or a place where there should be one.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct CrlInfo {
    /// The file or URL that it is from.
    pub source: String,
    /// Its issuer; empty where there is none yet.
    pub issuer: String,
    /// Its number.
    pub number: Option<String>,
    /// When it was made, in Unix time; absent where there is none yet.
    pub this_update: Option<u64>,
    /// When it expires, in Unix time.
    pub next_update: Option<u64>,
    /// Entries in it.
    pub entries: u64,
    /// True if it is a delta CRL.
    pub delta: bool,
    /// True if it is not valid yet.
    #[serde(skip)]
    pub early: bool,
    /// Why the last list of that source was not taken, why the one in use proves nothing, or that
    /// it is not valid now.
    pub problem: Option<String>,
    /// True if the last list of that source was not taken, or the one in use proves nothing
    /// whatever the date.
    pub refused: bool,
}

impl CrlInfo {
    /// `current`, `early`, `expired` or `missing`.
    #[must_use]
    pub fn state(&self, now: u64) -> &'static str {
        match (self.this_update, self.next_update) {
            (None, _) => "missing",
            _ if self.early => "early",
            (_, Some(next)) if now < next => "current",
            _ => "expired",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_follows_the_dates() {
        let crl = |this_update, next_update| CrlInfo {
            this_update,
            next_update,
            ..CrlInfo::default()
        };
        assert_eq!(crl(None, None).state(5), "missing");
        assert_eq!(crl(Some(1), Some(6)).state(5), "current");
        assert_eq!(crl(Some(1), Some(5)).state(5), "expired");
        assert_eq!(
            crl(Some(1), None).state(5),
            "expired",
            "nothing says until when"
        );
        let early = CrlInfo {
            early: true,
            ..crl(Some(7), Some(9))
        };
        assert_eq!(early.state(5), "early");
    }
}
