//! Apple's requirements for the certificates of TLS servers (HT210176, and HT211025 for the length of their validity).

use time::macros::datetime;
use x509_parser::certificate::X509Certificate;
use x509_parser::public_key::PublicKey;

use super::describe::{AlternativeName, alternative_names};
use super::findings::Findings;
use crate::findings::Severity;
use crate::limits::{APPLE_PUBLIC_VALIDITY_DAYS, APPLE_VALIDITY_DAYS};

const LEAST_RSA_BITS: usize = 2048;
/// Signatures with MD5 and SHA-1: RSA, ECDSA, DSA.
const WEAK_SIGNATURES: &[&str] = &[
    "1.2.840.113549.1.1.4",
    "1.2.840.113549.1.1.5",
    "1.2.840.10045.4.1",
    "1.2.840.10040.4.3",
    "1.3.14.3.2.29",
];

pub(super) fn check(end: &X509Certificate<'_>, findings: &mut Findings) {
    let mut add = |code, problem: String, remedy| {
        findings.add(
            Severity::Warning,
            code,
            end,
            format!("Apple's systems refuse it: {problem}"),
            remedy,
        );
    };
    if let Ok(PublicKey::RSA(key)) = end.public_key().parsed()
        && key.key_size() < LEAST_RSA_BITS
    {
        let problem = format!(
            "its RSA key has {} bits, fewer than {LEAST_RSA_BITS}",
            key.key_size()
        );
        add("apple-key", problem, "make a new key");
    }
    let signature = end.signature_algorithm.algorithm.to_id_string();
    if WEAK_SIGNATURES.contains(&signature.as_str()) {
        let problem = "it is not signed with SHA-2".to_owned();
        add(
            "apple-signature",
            problem,
            "have it issued with SHA-256 or better",
        );
    }
    let names = alternative_names(end);
    if !names
        .iter()
        .any(|name| matches!(name, AlternativeName::Dns(_)))
    {
        let problem = "no DNS name in its subject alternative names".to_owned();
        add(
            "apple-name",
            problem,
            "have it issued for the DNS name that devices use",
        );
    }
    let begin = end.validity().not_before.to_datetime();
    let days = (end.validity().not_after.to_datetime() - begin).as_seconds_f64() / 86_400.0;
    if begin >= datetime!(2019-07-01 0:00 UTC) {
        let usage = end.extended_key_usage().ok().flatten();
        if !usage.is_some_and(|usage| usage.value.server_auth) {
            let problem = "serverAuth is not in its extended key usage".to_owned();
            add("apple-usage", problem, "have it issued for TLS servers");
        }
        if days > APPLE_VALIDITY_DAYS as f64 {
            let problem = format!("it is valid for more than {APPLE_VALIDITY_DAYS} days");
            add(
                "apple-validity",
                problem,
                "have it issued for a shorter time",
            );
            return;
        }
    }
    if begin >= datetime!(2020-09-01 0:00 UTC) && days > APPLE_PUBLIC_VALIDITY_DAYS as f64 {
        let problem = format!(
            "it is valid for more than {APPLE_PUBLIC_VALIDITY_DAYS} days, if its root is one that those systems come with"
        );
        add(
            "apple-public-validity",
            problem,
            "have it issued for a shorter time, unless its root is your own",
        );
    }
}
