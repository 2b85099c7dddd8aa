//! Making keys and what certificates are made from: names, validity, usages.
//!
//! What is made follows RFC 5280: version 3, random serial numbers, key identifiers, critical basic constraints and key
//! usage. Certificates begin one hour before they are made, because the clocks of devices run behind.

use std::net::IpAddr;
use std::path::Path;

use rcgen::{
    CertificateParams, CrlDistributionPoint, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384,
    PKCS_RSA_SHA256, RsaKeySize, SanType,
};
use rustls_pki_types::{CertificateDer, DnsName, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::{Duration, OffsetDateTime, UtcOffset};

use super::pem::{key_to_pem, to_pem};
use super::{CertError, Serial};
use crate::files;
use crate::limits::MAX_VALIDITY_DAYS;

/// How far before now a certificate begins, so that a device whose clock is behind accepts it.
pub(super) const CLOCK_SKEW: Duration = Duration::HOUR;

/// The longest common name, organizational unit and user id (RFC 5280 appendix A.1, ub-common-name and its neighbours).
const MAX_NAME: usize = 64;

/// userId (RFC 4519 section 2.39), 0.9.2342.19200300.100.1.1.
const OID_USER_ID: &[u64] = &[0, 9, 2342, 19_200_300, 100, 1, 1];

/// User principal name, an otherName of Microsoft's, 1.3.6.1.4.1.311.20.2.3.
const OID_UPN: &[u64] = &[1, 3, 6, 1, 4, 1, 311, 20, 2, 3];

/// The kind of a new key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum KeyType {
    /// ECDSA on P-256: the fastest handshakes.
    #[default]
    P256,
    /// ECDSA on P-384.
    P384,
    /// Ed25519. Browsers and many devices do not accept it in certificates.
    Ed25519,
    /// RSA with 2048 bits, for old peers.
    Rsa2048,
}

impl KeyType {
    pub(crate) fn generate(self) -> Result<KeyPair, CertError> {
        let generated = match self {
            Self::P256 => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256),
            Self::P384 => KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384),
            Self::Rsa2048 => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048),
            Self::Ed25519 => return generate_ed25519(),
        };
        generated.map_err(|cause| CertError::crypto("generate a key", cause))
    }
}

/// rcgen writes Ed25519 keys as version 2 of PKCS#8 (RFC 5958), which OpenSSL 3 does not read; version 1 is read by all.
fn generate_ed25519() -> Result<KeyPair, CertError> {
    let document = aws_lc_rs::signature::Ed25519KeyPair::generate()
        .and_then(|pair| pair.to_pkcs8v1())
        .map_err(|cause| CertError::crypto("generate a key", cause))?;
    KeyPair::try_from(&PrivatePkcs8KeyDer::from(document.as_ref()))
        .map_err(|cause| CertError::crypto("generate a key", cause))
}

/// From when to when a certificate is valid, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
}

impl Validity {
    /// From an hour ago to `days` from now.
    ///
    /// # Errors
    /// [`CertError::Request`] for zero days and for more than [`MAX_VALIDITY_DAYS`].
    pub fn days(days: u32) -> Result<Self, CertError> {
        if days == 0 || days > MAX_VALIDITY_DAYS {
            return Err(CertError::request(
                format!("a validity of {days} days is not possible"),
                "choose 1 to 36525 days",
            ));
        }
        let now = OffsetDateTime::now_utc();
        Ok(Self {
            not_before: now - CLOCK_SKEW,
            not_after: now + Duration::days(i64::from(days)),
        })
    }

    /// Between two moments, also where both are past or to come.
    ///
    /// # Errors
    /// [`CertError::Request`] where the second is not after the first, or either is out of the years 1950 to 9999.
    pub fn between(
        not_before: OffsetDateTime,
        not_after: OffsetDateTime,
    ) -> Result<Self, CertError> {
        match (encodable(not_before), encodable(not_after)) {
            (Some(not_before), Some(not_after)) if not_before < not_after => Ok(Self {
                not_before,
                not_after,
            }),
            _ => Err(CertError::request(
                format!("a validity from {not_before} to {not_after} is not possible"),
                "let it end after it begins, both between the years 1950 and 9999",
            )),
        }
    }

    /// The first moment of validity.
    pub fn not_before(&self) -> OffsetDateTime {
        self.not_before
    }

    /// The last moment of validity.
    pub fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }
}

/// The moment in UTC, where certificates and CRLs can hold it (RFC 5280 section 4.1.2.5). The encoder panics on others, and on
/// offsets that carry a moment over the edge of a year that it can write.
pub(crate) fn encodable(moment: OffsetDateTime) -> Option<OffsetDateTime> {
    moment
        .checked_to_offset(UtcOffset::UTC)
        .filter(|moment| (1950..=9999).contains(&moment.year()))
}

/// Purpose of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Usage {
    /// TLS client: the identity certificate of a device or app.
    Client,
    /// TLS server.
    Server,
}

impl Usage {
    fn purpose(self) -> ExtendedKeyUsagePurpose {
        match self {
            Self::Client => ExtendedKeyUsagePurpose::ClientAuth,
            Self::Server => ExtendedKeyUsagePurpose::ServerAuth,
        }
    }
}

/// Parameters of a new certificate. Begin with [`IssueRequest::new`] and fill in what differs.
#[derive(Debug, Clone)]
pub struct IssueRequest {
    /// The common name of the subject, 1 to 64 characters.
    pub common_name: String,
    /// The organizational unit: the app, for an identity certificate.
    pub app: Option<String>,
    /// The user id (UID) in the subject.
    pub uid: Option<String>,
    /// DNS names, `*.` in front allowed.
    pub dns: Vec<String>,
    /// IP addresses.
    pub ip: Vec<IpAddr>,
    /// URIs.
    pub uri: Vec<String>,
    /// Email addresses.
    pub email: Vec<String>,
    /// User principal names.
    pub upn: Vec<String>,
    /// URLs at which the authority's CRL is to be had (RFC 5280 section 4.2.1.13).
    pub crl_urls: Vec<String>,
    /// The serial number; `None`: a random one.
    pub serial: Option<Serial>,
    /// When it is valid.
    pub validity: Validity,
    /// The kind of its key.
    pub key_type: KeyType,
    /// Its extended key usage; empty: the extension is absent, which means any usage (RFC 5280 section 4.2.1.12).
    pub usages: Vec<Usage>,
}

impl IssueRequest {
    /// A request for one usage with a P-256 key, a random serial number and no subject alternative names.
    pub fn new(usage: Usage, common_name: impl Into<String>, validity: Validity) -> Self {
        Self {
            common_name: common_name.into(),
            app: None,
            uid: None,
            dns: Vec::new(),
            ip: Vec::new(),
            uri: Vec::new(),
            email: Vec::new(),
            upn: Vec::new(),
            crl_urls: Vec::new(),
            serial: None,
            validity,
            key_type: KeyType::default(),
            usages: vec![usage],
        }
    }

    fn subject_alternative_names(&self) -> Result<Vec<SanType>, CertError> {
        let mut names = Vec::new();
        for name in &self.dns {
            names.push(SanType::DnsName(ia5(checked_dns_name(name)?)?));
        }
        names.extend(self.ip.iter().copied().map(SanType::IpAddress));
        for uri in &self.uri {
            names.push(SanType::URI(ia5(uri)?));
        }
        for email in &self.email {
            names.push(SanType::Rfc822Name(ia5(email)?));
        }
        for upn in &self.upn {
            names.push(SanType::OtherName((
                OID_UPN.to_vec(),
                checked_text(upn, usize::MAX)?.into(),
            )));
        }
        Ok(names)
    }

    /// Everything but the issuer and the key.
    pub(crate) fn params(&self) -> Result<CertificateParams, CertError> {
        let mut params = CertificateParams::default();
        params.distinguished_name =
            subject(&self.common_name, self.app.as_deref(), self.uid.as_deref())?;
        params.subject_alt_names = self.subject_alternative_names()?;
        let serial = self.serial.clone().map_or_else(Serial::random, Ok)?;
        params.serial_number = Some(serial.octets().to_vec().into());
        params.not_before = self.validity.not_before;
        params.not_after = self.validity.not_after;
        params.is_ca = IsCa::ExplicitNoCa;
        if !self.crl_urls.is_empty() {
            for url in &self.crl_urls {
                ia5(url)?;
            }
            let uris = self.crl_urls.clone();
            params.crl_distribution_points = vec![CrlDistributionPoint { uris }];
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = self.usages.iter().map(|usage| usage.purpose()).collect();
        Ok(params)
    }
}

/// A new certificate with its private key.
#[derive(Debug)]
pub struct Issued {
    /// The certificate, then the authorities above it. A self-signed root is left out: whoever verifies has it, and it would cost
    /// its bytes in every handshake (RFC 8446 section 4.4.2).
    pub chain: Vec<CertificateDer<'static>>,
    /// Its private key, PKCS#8.
    pub key: PrivateKeyDer<'static>,
}

impl Issued {
    /// Writes the chain and the key (mode 0600), both PEM.
    ///
    /// # Errors
    /// [`FileError::Exists`](crate::files::FileError::Exists), [`CertError::File`].
    pub fn write(&self, certificate: &Path, key: &Path) -> Result<(), CertError> {
        let key_pem = key_to_pem(&self.key);
        Ok(files::write_new_pair(
            (certificate, to_pem(&self.chain).as_bytes()),
            (key, key_pem.as_bytes()),
        )?)
    }
}

pub(crate) fn subject(
    common_name: &str,
    app: Option<&str>,
    uid: Option<&str>,
) -> Result<DistinguishedName, CertError> {
    let mut name = DistinguishedName::new();
    if let Some(app) = app {
        name.push(DnType::OrganizationalUnitName, checked_text(app, MAX_NAME)?);
    }
    name.push(DnType::CommonName, checked_text(common_name, MAX_NAME)?);
    if let Some(uid) = uid {
        name.push(
            DnType::CustomDnType(OID_USER_ID.to_vec()),
            checked_text(uid, MAX_NAME)?,
        );
    }
    Ok(name)
}

/// A control character in a name (a NUL above all) is the start of every confusion about whose certificate it is.
fn checked_text(text: &str, longest: usize) -> Result<&str, CertError> {
    if text.is_empty() || text.chars().count() > longest || text.chars().any(char::is_control) {
        return Err(CertError::request(
            format!("{text:?} is not a possible name"),
            "use 1 to 64 characters without control characters",
        ));
    }
    Ok(text)
}

fn checked_dns_name(name: &str) -> Result<&str, CertError> {
    let without_wildcard = name.strip_prefix("*.").unwrap_or(name);
    match DnsName::try_from(without_wildcard) {
        Ok(_) => Ok(name),
        Err(_) => Err(CertError::request(
            format!("{name:?} is not a DNS name"),
            "write it like gateway.example.com or *.example.com, an address with --ip",
        )),
    }
}

fn ia5(text: &str) -> Result<rcgen::string::Ia5String, CertError> {
    checked_text(text, usize::MAX)?.try_into().map_err(|_| {
        CertError::request(
            format!("{text:?} is not ASCII"),
            "write it in its ASCII form (punycode, percent encoding)",
        )
    })
}
