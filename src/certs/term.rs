//! When a chain can be used, and which of several is the one to use now.
//!
//! The second that `notAfter` names belongs to the validity (RFC 5280, section 4.1.2.5), and OpenSSL takes it for past all the
//! same. So a chain counts as usable up to that second and not in it: whoever takes its place is valid for both readings.

use rustls_pki_types::CertificateDer;
use x509_parser::certificate::{Validity, X509Certificate};
use x509_parser::prelude::FromDer;

use super::chain::{linked, parsed};
use super::describe::{AlternativeName, alternative_names};

/// From when to when a chain can be used, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    /// When the last of its certificates begins.
    pub not_before: u64,
    /// When the first of its certificates ends.
    pub not_after: u64,
}

impl Term {
    /// Of a chain in order. What is in the file and no part of the chain does not count; a chain that cannot be read has
    /// ended.
    #[must_use]
    pub fn of(chain: &[CertificateDer<'_>]) -> Self {
        let certificates = parsed(chain);
        let linked = linked(&certificates, 0);
        Self::of_each(linked.iter().map(|place| certificates[*place].validity()))
    }

    /// When all of these can be used, be they a chain or not.
    #[must_use]
    pub fn of_all(certificates: &[CertificateDer<'_>]) -> Self {
        let certificates = parsed(certificates);
        Self::of_each(certificates.iter().map(|one| one.validity()))
    }

    fn of_each<'a>(validity: impl Iterator<Item = &'a Validity> + Clone) -> Self {
        let seconds = |timestamp: i64| u64::try_from(timestamp).unwrap_or(0);
        Self {
            not_before: validity
                .clone()
                .map(|validity| seconds(validity.not_before.timestamp()))
                .max()
                .unwrap_or(0),
            not_after: validity
                .map(|validity| seconds(validity.not_after.timestamp()))
                .min()
                .unwrap_or(0),
        }
    }

    /// Returns whether it can be used at `now`.
    #[must_use]
    pub fn contains(&self, now: u64) -> bool {
        self.not_before <= now && now < self.not_after
    }

    /// Returns whether it has ended by `now`.
    #[must_use]
    pub fn has_ended(&self, now: u64) -> bool {
        now >= self.not_after
    }
}

/// The place of the one to use at `now`: the first that can be used, or, where there is none, the one that ends last.
/// 0 where there is none at all.
#[must_use]
pub fn current(terms: impl Iterator<Item = Term> + Clone, now: u64) -> usize {
    let usable = terms.clone().position(|term| term.contains(now));
    usable.unwrap_or_else(|| {
        // The least of what is turned round: the first of several that end together.
        let last = terms
            .enumerate()
            .min_by_key(|(_, term)| std::cmp::Reverse(term.not_after));
        last.map_or(0, |(place, _)| place)
    })
}

/// The DNS names of a certificate, in lower case and in order; wildcards as they are written.
#[must_use]
pub fn dns_names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
        return Vec::new();
    };
    let names = alternative_names(&parsed).into_iter();
    let mut names: Vec<String> = names
        .filter_map(|name| match name {
            AlternativeName::Dns(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        })
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The algorithm of a certificate's key, as an object identifier.
#[must_use]
pub fn key_algorithm(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(parsed.public_key().algorithm.algorithm.to_id_string())
}

/// Returns whether the name of a certificate covers `name`: they are the same, or a wildcard stands
/// for its first label (RFC 9525, section 6.3).
#[must_use]
pub fn covers(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix("*.") {
        None => pattern.eq_ignore_ascii_case(name),
        Some(below) => name
            .split_once('.')
            .is_some_and(|(first, rest)| !first.is_empty() && rest.eq_ignore_ascii_case(below)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn term(not_before: u64, not_after: u64) -> Term {
        Term {
            not_before,
            not_after,
        }
    }

    #[test]
    fn the_next_is_used_from_the_second_in_which_the_first_ends() {
        let terms = [term(100, 200), term(150, 300)];
        let at = |now| current(terms.into_iter(), now);
        assert_eq!((at(100), at(199)), (0, 0));
        assert_eq!((at(200), at(299)), (1, 1));
        assert_eq!(at(300), 1, "all have ended: the one that ended last");
        assert_eq!(at(99), 1, "none has begun: the one that ends last");
    }

    #[test]
    fn one_that_is_not_valid_yet_waits_for_its_turn() {
        let later = [term(100, 200), term(250, 300)];
        let at = |now| current(later.into_iter(), now);
        assert_eq!((at(150), at(200), at(250)), (0, 1, 1));
        let early = [term(200, 300), term(100, 400)];
        let at = |now| current(early.into_iter(), now);
        assert_eq!((at(199), at(200), at(300)), (1, 0, 1));
        let backwards = [term(0, 300), term(0, 200)];
        assert_eq!(current(backwards.into_iter(), 400), 0);
        assert_eq!(current([term(0, 9), term(0, 9)].into_iter(), 10), 0);
    }

    #[test]
    fn a_wildcard_stands_for_one_label() {
        for (pattern, name, expected) in [
            ("git.example.com", "GIT.example.com", true),
            ("git.example.com", "example.com", false),
            ("*.example.com", "git.example.com", true),
            ("*.example.com", "a.git.example.com", false),
            ("*.example.com", "example.com", false),
            ("*.example.com", ".example.com", false),
            ("*", "com", false),
        ] {
            assert_eq!(covers(pattern, name), expected, "{pattern} {name}");
        }
    }
}
