//! Description of certificate, key and CRL files, for people and for programs.
//!
//! Names come from files that others made: in text they are shown with control characters escaped, so that they can not
//! steer a terminal. Private keys are described by their kind alone.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::SectionKind;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{OID_EC_P256, OID_NIST_EC_P384, OID_NIST_EC_P521, OID_SIG_ED25519};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::blocks::blocks;
use super::pkcs12::is_pkcs12;
use super::read::{Encoding, load, only_key, open_pkcs12};
use super::serial::hex_with_colons;
use super::{CertError, Serial, read_certificates, read_crls, read_private_key};
pub use crate::findings::escaped;
use crate::limits::MAX_CRL_FILE;

/// One item of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Description {
    /// A certificate.
    Certificate(CertificateDescription),
    /// A certificate revocation list.
    Crl(CrlDescription),
    /// A private key.
    PrivateKey(KeyDescription),
}

/// Content of a certificate. Moments are RFC 3339 in UTC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CertificateDescription {
    /// The subject's distinguished name.
    pub subject: String,
    /// The issuer's distinguished name.
    pub issuer: String,
    /// The serial number, hexadecimal with colons.
    pub serial: String,
    /// The first moment of validity.
    pub not_before: String,
    /// The last moment of validity.
    pub not_after: String,
    /// Whole days until `not_after`, negative once it has passed.
    pub days_left: i64,
    /// Its status now.
    pub status: Status,
    /// The public key: algorithm and size.
    pub key: String,
    /// The subject alternative names.
    pub subject_alternative_names: Vec<AlternativeName>,
    /// The extended key usages by name or OID; empty where there is no such extension, which allows any.
    pub extended_key_usage: Vec<String>,
    /// True if it is the certificate of a certification authority.
    pub ca: bool,
    /// The SHA-256 fingerprint of the DER encoding, hexadecimal with colons.
    pub sha256: String,
}

/// Content of a CRL. Moments are RFC 3339 in UTC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CrlDescription {
    /// The issuer's distinguished name.
    pub issuer: String,
    /// The CRL number in decimal, where it has one.
    pub number: Option<String>,
    /// When it was made.
    pub this_update: String,
    /// When the next one is due, where it says so.
    pub next_update: Option<String>,
    /// Its status now; a list without a next update never expires.
    pub status: Status,
    /// How many certificates it revokes.
    pub revoked: usize,
    /// The SHA-256 fingerprint of the DER encoding, hexadecimal with colons.
    pub sha256: String,
}

/// Public facts about a private key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyDescription {
    /// Algorithm and size, or "encrypted".
    pub key: String,
}

/// Position of the current time in a validity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Within it.
    Valid,
    /// Before it.
    NotYetValid,
    /// After it.
    Expired,
}

/// A subject alternative name (RFC 5280 section 4.2.1.6).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum AlternativeName {
    /// A DNS name.
    Dns(String),
    /// An IP address.
    Ip(IpAddr),
    /// A URI.
    Uri(String),
    /// An email address.
    Email(String),
    /// A user principal name (otherName 1.3.6.1.4.1.311.20.2.3).
    Upn(String),
    /// Anything else, as text for people.
    Other(String),
}

/// Describes every certificate, CRL and private key of a file: PEM in the order of its blocks, or DER.
///
/// # Errors
/// Where the file can not be read, is broken or truncated, or holds none of these.
pub fn describe(path: &Path) -> Result<Vec<Description>, CertError> {
    describe_at(path, OffsetDateTime::now_utc())
}

/// [`describe`], of a file that may be PKCS#12, which `password` opens; `None` is no password.
///
/// # Errors
/// As [`describe`], and where the password is missing or wrong.
pub fn describe_with(path: &Path, password: Option<&str>) -> Result<Vec<Description>, CertError> {
    let now = OffsetDateTime::now_utc();
    let bytes = load(path, MAX_CRL_FILE)?;
    if !is_pkcs12(&bytes) {
        return describe_at(path, now);
    }
    let contents = open_pkcs12(path, &bytes, password)?;
    let certificates = contents.certificates.iter();
    let certificates = certificates.map(|der| certificate(path, der, now));
    let mut descriptions = certificates.collect::<Result<Vec<_>, _>>()?;
    if !contents.keys.is_empty() {
        descriptions.push(described_key(&only_key(path, contents.keys)?));
    }
    if descriptions.is_empty() {
        return Err(nothing_to_describe(path));
    }
    Ok(descriptions)
}

/// [`describe`], at a given moment.
///
/// # Errors
/// As [`describe`].
pub fn describe_at(path: &Path, now: OffsetDateTime) -> Result<Vec<Description>, CertError> {
    let bytes = load(path, MAX_CRL_FILE)?;
    match Encoding::of(&bytes) {
        Encoding::Pem => describe_pem(path, &bytes, now),
        _ => describe_der(path, now),
    }
}

fn describe_pem(
    path: &Path,
    bytes: &[u8],
    now: OffsetDateTime,
) -> Result<Vec<Description>, CertError> {
    let mut descriptions = Vec::new();
    let mut has_key = false;
    for block in blocks(path, bytes)? {
        for der in block.certificates(path)? {
            descriptions.push(certificate(path, &der, now)?);
        }
        match block.kind() {
            Some(SectionKind::Crl) => descriptions.push(crl(path, &block.decode(path)?, now)?),
            _ => has_key |= block.is_private_key(),
        }
    }
    if has_key {
        descriptions.push(private_key(path)?);
    }
    if descriptions.is_empty() {
        return Err(nothing_to_describe(path));
    }
    Ok(descriptions)
}

fn describe_der(path: &Path, now: OffsetDateTime) -> Result<Vec<Description>, CertError> {
    if let Ok(certificates) = read_certificates(path) {
        return certificates
            .iter()
            .map(|der| certificate(path, der, now))
            .collect();
    }
    if let Ok(crls) = read_crls(path) {
        return crls.iter().map(|der| crl(path, der, now)).collect();
    }
    private_key(path)
        .map(|key| vec![key])
        .map_err(|_| nothing_to_describe(path))
}

fn nothing_to_describe(path: &Path) -> CertError {
    CertError::content(
        path,
        "holds no certificate, CRL or private key in PEM or DER",
        "check that it is the right file, and that it is whole",
    )
}

fn broken(path: &Path, noun: &str) -> CertError {
    CertError::content(
        path,
        format!("a {noun} in it is broken"),
        "export it again from its source",
    )
}

fn certificate(path: &Path, der: &[u8], now: OffsetDateTime) -> Result<Description, CertError> {
    let described = described(der, now).ok_or_else(|| broken(path, "certificate"))?;
    Ok(Description::Certificate(described))
}

/// Returns what a certificate says; `None` where it is broken.
pub fn described(der: &[u8], now: OffsetDateTime) -> Option<CertificateDescription> {
    let (_, parsed) = X509Certificate::from_der(der).ok()?;
    let not_before = parsed.validity().not_before.to_datetime();
    let not_after = parsed.validity().not_after.to_datetime();
    Some(CertificateDescription {
        subject: parsed.subject().to_string(),
        issuer: parsed.issuer().to_string(),
        serial: Serial::of_others(parsed.raw_serial()).to_string(),
        not_before: rfc3339(not_before),
        not_after: rfc3339(not_after),
        days_left: (not_after - now).whole_days(),
        status: Status::at(now, not_before, Some(not_after)),
        key: key_name(parsed.public_key()),
        subject_alternative_names: alternative_names(&parsed),
        extended_key_usage: extended_key_usage(&parsed),
        ca: parsed.is_ca(),
        sha256: hex_with_colons(digest(&SHA256, der).as_ref()),
    })
}

fn crl(path: &Path, der: &[u8], now: OffsetDateTime) -> Result<Description, CertError> {
    let (_, parsed) = CertificateRevocationList::from_der(der).map_err(|_| broken(path, "CRL"))?;
    let this_update = parsed.last_update().to_datetime();
    let next_update = parsed.next_update().map(|moment| moment.to_datetime());
    Ok(Description::Crl(CrlDescription {
        issuer: parsed.issuer().to_string(),
        number: parsed.crl_number().map(std::string::ToString::to_string),
        this_update: rfc3339(this_update),
        next_update: next_update.map(rfc3339),
        status: Status::at(now, this_update, next_update),
        revoked: parsed.iter_revoked_certificates().count(),
        sha256: hex_with_colons(digest(&SHA256, der).as_ref()),
    }))
}

fn private_key(path: &Path) -> Result<Description, CertError> {
    let key = match read_private_key(path) {
        // Whoever asks what is in a bundle wants to know of this, not to be refused the rest.
        Err(CertError::EncryptedKey { .. }) => {
            return Ok(Description::PrivateKey(KeyDescription {
                key: "encrypted".to_owned(),
            }));
        }
        other => other?,
    };
    Ok(described_key(&key))
}

fn described_key(key: &PrivateKeyDer<'_>) -> Description {
    let name = any_supported_type(key)
        .ok()
        .and_then(|key| {
            let spki = key.public_key()?;
            SubjectPublicKeyInfo::from_der(&spki)
                .ok()
                .map(|(_, spki)| key_name(&spki))
        })
        .unwrap_or_else(|| "unknown".to_owned());
    Description::PrivateKey(KeyDescription { key: name })
}

impl Status {
    fn at(now: OffsetDateTime, first: OffsetDateTime, last: Option<OffsetDateTime>) -> Self {
        if now < first {
            Self::NotYetValid
        } else if last.is_some_and(|last| now > last) {
            Self::Expired
        } else {
            Self::Valid
        }
    }
}

pub(super) fn rfc3339(moment: OffsetDateTime) -> String {
    // Years beyond 9999 have no such form, and a certificate can not hold them either.
    moment
        .format(&Rfc3339)
        .unwrap_or_else(|_| moment.to_string())
}

fn key_name(spki: &SubjectPublicKeyInfo<'_>) -> String {
    let curve = spki
        .algorithm
        .parameters
        .as_ref()
        .and_then(|parameters| parameters.as_oid().ok());
    match spki.parsed() {
        Ok(PublicKey::RSA(key)) => format!("RSA {}", key.key_size()),
        Ok(PublicKey::EC(_)) => match curve {
            Some(curve) if curve == OID_EC_P256 => "ECDSA P-256".to_owned(),
            Some(curve) if curve == OID_NIST_EC_P384 => "ECDSA P-384".to_owned(),
            Some(curve) if curve == OID_NIST_EC_P521 => "ECDSA P-521".to_owned(),
            Some(curve) => format!("EC {curve}"),
            None => "EC".to_owned(),
        },
        _ if spki.algorithm.algorithm == OID_SIG_ED25519 => "Ed25519".to_owned(),
        _ => spki.algorithm.algorithm.to_id_string(),
    }
}

fn extended_key_usage(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = certificate.extended_key_usage() else {
        return Vec::new();
    };
    let usage = extension.value;
    let named = [
        (usage.any, "any"),
        (usage.server_auth, "serverAuth"),
        (usage.client_auth, "clientAuth"),
        (usage.code_signing, "codeSigning"),
        (usage.email_protection, "emailProtection"),
        (usage.time_stamping, "timeStamping"),
        (usage.ocsp_signing, "OCSPSigning"),
    ];
    let named = named
        .into_iter()
        .filter(|(present, _)| *present)
        .map(|(_, name)| name.to_owned());
    named
        .chain(
            usage
                .other
                .iter()
                .map(x509_parser::asn1_rs::Oid::to_id_string),
        )
        .collect()
}

/// The subject alternative names of a certificate, in its order; none where the extension is absent.
pub fn alternative_names(certificate: &X509Certificate<'_>) -> Vec<AlternativeName> {
    certificate
        .iter_extensions()
        .filter_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => {
                Some(names.general_names.iter().map(alternative_name))
            }
            _ => None,
        })
        .flatten()
        .collect()
}

fn alternative_name(name: &GeneralName<'_>) -> AlternativeName {
    const UPN: &str = "1.3.6.1.4.1.311.20.2.3";
    match name {
        GeneralName::DNSName(name) => AlternativeName::Dns((*name).to_owned()),
        GeneralName::URI(uri) => AlternativeName::Uri((*uri).to_owned()),
        GeneralName::RFC822Name(email) => AlternativeName::Email((*email).to_owned()),
        GeneralName::IPAddress(octets) => {
            match (<[u8; 4]>::try_from(*octets), <[u8; 16]>::try_from(*octets)) {
                (Ok(octets), _) => AlternativeName::Ip(octets.into()),
                (_, Ok(octets)) => AlternativeName::Ip(octets.into()),
                _ => AlternativeName::Other(format!("IP address of {} octets", octets.len())),
            }
        }
        GeneralName::OtherName(oid, value) if oid.to_id_string() == UPN => match upn(value) {
            Some(upn) => AlternativeName::Upn(upn),
            None => AlternativeName::Other("broken user principal name".to_owned()),
        },
        GeneralName::OtherName(oid, _) => AlternativeName::Other(format!("otherName {oid}")),
        other => AlternativeName::Other(other.to_string()),
    }
}

/// The text of an otherName's value, `[0] EXPLICIT UTF8String`.
fn upn(value: &[u8]) -> Option<String> {
    use x509_parser::der_parser::asn1_rs::{TaggedExplicit, Utf8String};
    let (rest, tagged) =
        TaggedExplicit::<Utf8String<'_>, x509_parser::der_parser::asn1_rs::Error, 0>::from_der(
            value,
        )
        .ok()?;
    rest.is_empty().then(|| tagged.into_inner().string())
}

impl fmt::Display for AlternativeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => write!(f, "DNS:{}", escaped(name)),
            Self::Ip(address) => write!(f, "IP:{address}"),
            Self::Uri(uri) => write!(f, "URI:{}", escaped(uri)),
            Self::Email(email) => write!(f, "email:{}", escaped(email)),
            Self::Upn(upn) => write!(f, "UPN:{}", escaped(upn)),
            Self::Other(other) => f.write_str(&escaped(other)),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Valid => "valid",
            Self::NotYetValid => "not yet valid",
            Self::Expired => "expired",
        })
    }
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate(certificate) => certificate.fmt(f),
            Self::Crl(crl) => crl.fmt(f),
            Self::PrivateKey(key) => writeln!(f, "Private key: {}", key.key),
        }
    }
}

impl fmt::Display for CertificateDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self
            .subject_alternative_names
            .iter()
            .map(ToString::to_string)
            .collect();
        let usages = self.extended_key_usage.join(", ");
        writeln!(f, "Certificate: {}", escaped(&self.subject))?;
        writeln!(f, "  issuer       {}", escaped(&self.issuer))?;
        writeln!(f, "  serial       {}", self.serial)?;
        writeln!(
            f,
            "  valid        {} to {}",
            self.not_before, self.not_after
        )?;
        writeln!(
            f,
            "  status       {}, {} days left",
            self.status, self.days_left
        )?;
        writeln!(f, "  key          {}", self.key)?;
        writeln!(
            f,
            "  names        {}",
            if names.is_empty() {
                "none".to_owned()
            } else {
                names.join(", ")
            }
        )?;
        writeln!(
            f,
            "  usage        {}",
            if usages.is_empty() { "any" } else { &usages }
        )?;
        writeln!(f, "  authority    {}", if self.ca { "yes" } else { "no" })?;
        writeln!(f, "  SHA-256      {}", self.sha256)
    }
}

impl fmt::Display for CrlDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Revocation list: {}", escaped(&self.issuer))?;
        writeln!(
            f,
            "  number       {}",
            self.number.as_deref().unwrap_or("none")
        )?;
        writeln!(f, "  this update  {}", self.this_update)?;
        writeln!(
            f,
            "  next update  {}",
            self.next_update.as_deref().unwrap_or("none")
        )?;
        writeln!(f, "  status       {}", self.status)?;
        writeln!(f, "  revoked      {}", self.revoked)?;
        writeln!(f, "  SHA-256      {}", self.sha256)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certs::KeyType;
    use crate::lab::{MakeCa, make_ca};
    use std::fs;

    fn ca(key_type: KeyType) -> crate::lab::CertificateAuthority {
        make_ca(&MakeCa {
            common_name: "Test CA".into(),
            days: 30,
            key_type,
        })
        .unwrap()
    }

    #[test]
    fn json_names_its_type_and_text_escapes_what_steers_a_terminal() {
        let folder = tempfile::tempdir().unwrap();
        ca(KeyType::P256).write(folder.path()).unwrap();
        let descriptions = describe(&folder.path().join("ca.pem")).unwrap();
        let json = serde_json::to_value(&descriptions).unwrap();
        assert_eq!(json[0]["type"], "certificate");
        assert_eq!(json[0]["ca"], true);
        assert_eq!(json[0]["status"], "valid");

        let Description::Certificate(mut certificate) = descriptions[0].clone() else {
            panic!("not a certificate")
        };
        certificate.subject = "CN=a\u{1b}[2Jb\u{202e}c\0".into();
        let text = Description::Certificate(certificate).to_string();
        assert!(text.contains(r"CN=a\u{1b}[2Jb\u{202e}c\u{0}"), "{text}");
    }

    #[test]
    fn a_bundle_with_an_encrypted_key_is_described_and_one_with_nothing_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bundle");
        let encrypted = crate::certs::pem::pem_block("ENCRYPTED PRIVATE KEY", b"any");
        fs::write(
            &path,
            crate::certs::pem::to_pem(&[ca(KeyType::P256).certificate().clone()]) + &encrypted,
        )
        .unwrap();
        let descriptions = describe(&path).unwrap();
        assert!(
            matches!(&descriptions[0], Description::Certificate(certificate) if certificate.ca)
        );
        assert!(matches!(&descriptions[1], Description::PrivateKey(key) if key.key == "encrypted"));
        assert_eq!(descriptions.len(), 2);
        for content in [
            "",
            "words",
            &crate::certs::pem::pem_block("DH PARAMETERS", b"any"),
        ] {
            fs::write(&path, content).unwrap();
            let error = describe(&path).unwrap_err().to_string();
            assert!(
                error.contains("bundle") && error.contains("no certificate, CRL or private key"),
                "{error}"
            );
        }
    }
}
