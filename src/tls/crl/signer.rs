//! Who has signed a list, found by the same check as that of chains.

use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Problem;
use super::parse::{Parsed, dotted};
use crate::asn1::{Reader, tag};
use crate::table::same_name;
use crate::tls::fields::{public_key, subject};
use crate::tls::signatures::{Unverified, verify};

/// The authority that has signed a list.
pub(super) struct Signer {
    /// Its name as its certificate spells it, and so the certificates that it issues.
    pub name: Box<[u8]>,
    /// Its public key: the contents of the `SubjectPublicKeyInfo`.
    pub key: Box<[u8]>,
}

const NAME_THE_RIGHT_ONE: &str =
    "name the CRL that the CA of profile.device_auth.group_certificates has signed";

/// Finds the group certificate that signed the list (RFC 5280, section 6.3.3 (f) and (g)): of the
/// list's issuer, by its name as section 7.1 compares names, with a key usage that allows it.
pub(super) fn of(
    list: &Parsed<'_>,
    issuer: &str,
    group: &[CertificateDer<'_>],
) -> Result<Signer, Problem> {
    let mut known = false;
    let mut may_not_sign = false;
    let mut faults = Vec::new();
    for der in group {
        let (Some(name), Some(key)) = (subject(der), public_key(der)) else {
            continue;
        };
        if !same_name(name, list.issuer) {
            continue;
        }
        known = true;
        match verify(&list.signed, key) {
            Ok(()) if may_sign_lists(der) => {
                return Ok(Signer {
                    name: name.into(),
                    key: key.into(),
                });
            }
            Ok(()) => may_not_sign = true,
            Err(fault) => faults.push(fault),
        }
    }
    Err(if may_not_sign {
        (
            format!("is signed by {issuer}, whose key usage lacks cRLSign"),
            "issue the CA's certificate again with the key usage cRLSign",
        )
    } else if known {
        unverified(list, issuer, &faults)
    } else {
        (
            format!("is from {issuer}, which is not a group certificate"),
            NAME_THE_RIGHT_ONE,
        )
    })
}

/// A certificate without key usage may do anything (RFC 5280, section 4.2.1.3); with a broken one,
/// nothing.
fn may_sign_lists(der: &[u8]) -> bool {
    X509Certificate::from_der(der).is_ok_and(|(_, ca)| {
        ca.key_usage()
            .is_ok_and(|usage| usage.is_none_or(|usage| usage.value.crl_sign()))
    })
}

/// Returns what cannot be checked is another thing than what is wrong.
fn unverified(list: &Parsed<'_>, issuer: &str, faults: &[Unverified]) -> Problem {
    let algorithm = algorithm(list.signed.algorithm);
    if faults.contains(&Unverified::Wrong) {
        let problem =
            format!("is not signed by {issuer}: its signature is by another key, or broken");
        (problem, NAME_THE_RIGHT_ONE)
    } else if faults.contains(&Unverified::Key) {
        (
            format!(
                "cannot be checked: a key like that of {issuer} is not supported for {algorithm}"
            ),
            "use a CA whose key is RSA of at least 2048 bits, ECDSA on P-256, P-384 or P-521 (by name), or Ed25519",
        )
    } else {
        (
            format!("cannot be checked: it is signed with {algorithm}, which is not supported"),
            "let the CA sign its lists with SHA-256, SHA-384 or SHA-512, or Ed25519",
        )
    }
}

/// The name of a signature algorithm, for people.
fn algorithm(identifier: &[u8]) -> String {
    let mut fields = Reader::der(identifier);
    let Some(oid) = fields.take(tag::OBJECT_IDENTIFIER) else {
        return "a broken algorithm".into();
    };
    let dotted = dotted(oid.content);
    let name = match dotted.as_str() {
        "1.2.840.113549.1.1.4" => "MD5 and RSA",
        "1.2.840.113549.1.1.5" => "SHA-1 and RSA",
        "1.2.840.113549.1.1.10" => "RSASSA-PSS with its parameters",
        "1.2.840.113549.1.1.11" => "SHA-256 and RSA",
        "1.2.840.113549.1.1.12" => "SHA-384 and RSA",
        "1.2.840.113549.1.1.13" => "SHA-512 and RSA",
        "1.2.840.113549.1.1.14" => "SHA-224 and RSA",
        "1.2.840.10045.4.1" => "SHA-1 and ECDSA",
        "1.2.840.10045.4.3.1" => "SHA-224 and ECDSA",
        "1.2.840.10045.4.3.2" => "SHA-256 and ECDSA",
        "1.2.840.10045.4.3.3" => "SHA-384 and ECDSA",
        "1.2.840.10045.4.3.4" => "SHA-512 and ECDSA",
        "1.2.840.10040.4.3" => "SHA-1 and DSA",
        "1.3.101.112" => "Ed25519",
        "1.3.101.113" => "Ed448",
        _ => return format!("the algorithm {dotted}"),
    };
    name.into()
}
