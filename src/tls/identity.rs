//! Who is at the other end, as its certificate says.
//!
//! Guarantees: a [`PeerIdentity`] is made from a [`VerifiedChain`] only; it always has a device.
//! Names are bounded and hold nothing that could forge a line of a log. It does not say whether the
//! device may do anything: authorization does.

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::{
    OID_USERID, OID_X509_COMMON_NAME, OID_X509_ORGANIZATIONAL_UNIT, Oid, asn1_rs::oid,
};
use x509_parser::prelude::FromDer;

use super::fields::expiry;
use super::text::{distinguished_name, hexadecimal, is_deceptive};
use super::verifier::VerifiedChain;
use crate::asn1::{Reader, tag};
use crate::config::{Field, IdentityMapping};
use crate::limits::MAX_IDENTITY_NAME_BYTES;
use crate::table::canonical_serial;

/// The user principal name, an `otherName` of the subject's alternative names (Microsoft's
/// `szOID_NT_PRINCIPAL_NAME`).
const OID_USER_PRINCIPAL_NAME: Oid<'static> = oid!(1.3.6.1.4.1.311.20.2.3);

/// The device, app and user of a session. Only this room makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    device: String,
    user: Option<String>,
    app: Option<String>,
    serial: String,
    serial_raw: Vec<u8>,
    issuer_der: Vec<u8>,
    good_until: u64,
}

/// Names in a certificate that was not accepted: for logs alone, since nothing of them is proved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClaimedIdentity {
    /// The device's name, where it can be read.
    pub device: Option<String>,
    /// The user's.
    pub user: Option<String>,
    /// The app's.
    pub app: Option<String>,
    /// Serial number in hexadecimal, as [`PeerIdentity::serial`].
    pub serial: Option<String>,
    /// The issuer's name, as text.
    pub issuer: Option<String>,
}

impl ClaimedIdentity {
    /// Reads what can be read of a certificate in DER.
    #[must_use]
    pub fn read(certificate: &[u8], mapping: &IdentityMapping) -> Self {
        let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
            return Self::default();
        };
        let name = |fields: &[Field]| first_name(&certificate, fields).ok().flatten();
        let serial = hexadecimal(certificate.raw_serial());
        Self {
            device: name(&mapping.device),
            user: name(&mapping.user),
            app: name(&mapping.app),
            serial: (serial.len() <= MAX_IDENTITY_NAME_BYTES).then_some(serial),
            issuer: Some(distinguished_name(certificate.issuer().as_raw())),
        }
    }
}

/// Why a certificate names nobody, and the session is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The certificate does not parse.
    #[error("the identity certificate is malformed")]
    Malformed,
    /// No field that the profile reads the device from is in the certificate.
    #[error("the identity certificate has none of the fields that identity.device names")]
    NoDevice,
    /// A name is there but cannot be used.
    #[error("the {name} name of the identity certificate {problem}")]
    BadName {
        /// `device`, `user` or `app`.
        name: &'static str,
        /// The fault.
        problem: NameProblem,
    },
}

/// A fault of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameProblem {
    /// It is no UTF-8 text, or of a string type that is not read (T61String, BMPString, ...).
    #[error("is not text that can be read")]
    NotText,
    /// It is longer than [`MAX_IDENTITY_NAME_BYTES`].
    #[error("is longer than {MAX_IDENTITY_NAME_BYTES} bytes")]
    TooLong,
    /// It holds a control character, a line separator or a mark that changes the direction of text.
    #[error("has a control character")]
    Control,
}

impl PeerIdentity {
    /// Reads the identity from the first certificate of `chain`.
    ///
    /// For each name the first field of the mapping that the certificate has counts, and of a field
    /// that occurs several times the first; an empty one counts as absent. A name that is there but
    /// unusable is an error rather than passed over, so that no later field speaks in its place.
    ///
    /// # Errors
    /// If there is no device name, or a name cannot be used.
    pub fn from_chain(
        chain: &VerifiedChain<'_>,
        mapping: &IdentityMapping,
    ) -> Result<Self, IdentityError> {
        Self::read(chain.end_entity(), mapping)
    }

    fn read(certificate: &[u8], mapping: &IdentityMapping) -> Result<Self, IdentityError> {
        let (_, certificate) =
            X509Certificate::from_der(certificate).map_err(|_| IdentityError::Malformed)?;
        let read = |name, fields: &[Field]| match first_name(&certificate, fields) {
            Ok(value) => Ok(value),
            Err(ReadError::Malformed) => Err(IdentityError::Malformed),
            Err(ReadError::Name(problem)) => Err(IdentityError::BadName { name, problem }),
        };
        Ok(PeerIdentity {
            device: read("device", &mapping.device)?.ok_or(IdentityError::NoDevice)?,
            user: read("user", &mapping.user)?,
            app: read("app", &mapping.app)?,
            serial: hexadecimal(certificate.raw_serial()),
            serial_raw: canonical_serial(certificate.raw_serial()).to_vec(),
            issuer_der: certificate.issuer().as_raw().to_vec(),
            good_until: expiry(&certificate),
        })
    }

    /// The identity that a certificate names, without a session: for the fuzzer and for tests,
    /// which have none.
    ///
    /// # Errors
    /// As for a session's chain.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn from_unverified(
        certificate: &[u8],
        mapping: &IdentityMapping,
    ) -> Result<Self, IdentityError> {
        Self::read(certificate, mapping)
    }

    /// The device's name.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// The user's name, if the certificate has one.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// The app's name, if the certificate has one.
    pub fn app(&self) -> Option<&str> {
        self.app.as_deref()
    }

    /// The certificate's serial number in lower-case hexadecimal, two digits an octet, without
    /// leading zero octets.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// The serial number as [`RevocationIndex::status`](crate::table::RevocationIndex::status)
    /// takes it.
    pub fn serial_raw(&self) -> &[u8] {
        &self.serial_raw
    }

    /// The issuer's `Name` in DER, as the revocation index takes it.
    pub fn issuer_der(&self) -> &[u8] {
        &self.issuer_der
    }

    /// The last moment at which the certificate itself is valid, in unix seconds.
    pub fn good_until(&self) -> u64 {
        self.good_until
    }
}

/// The common name in a certificate's subject, if it has one that can be read.
#[must_use]
pub fn common_name(certificate: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let name = attribute(&certificate, &OID_X509_COMMON_NAME).ok()??;
    let usable = name.len() <= MAX_IDENTITY_NAME_BYTES && !name.chars().any(is_deceptive);
    usable.then_some(name)
}

enum ReadError {
    Malformed,
    Name(NameProblem),
}

fn first_name(
    certificate: &X509Certificate<'_>,
    fields: &[Field],
) -> Result<Option<String>, ReadError> {
    for field in fields {
        if let Some(name) = read_field(certificate, *field)?
            && !name.is_empty()
        {
            return checked(name).map(Some).map_err(ReadError::Name);
        }
    }
    Ok(None)
}

fn checked(name: String) -> Result<String, NameProblem> {
    if name.len() > MAX_IDENTITY_NAME_BYTES {
        Err(NameProblem::TooLong)
    } else if name.contains(is_deceptive) {
        Err(NameProblem::Control)
    } else {
        Ok(name)
    }
}

fn read_field(
    certificate: &X509Certificate<'_>,
    field: Field,
) -> Result<Option<String>, ReadError> {
    match field {
        Field::SanUri | Field::SanDns | Field::SanEmail | Field::SanUpn => {
            alternative_name(certificate, field)
        }
        Field::Cn => attribute(certificate, &OID_X509_COMMON_NAME),
        Field::Ou => attribute(certificate, &OID_X509_ORGANIZATIONAL_UNIT),
        Field::Uid => attribute(certificate, &OID_USERID),
        Field::Serial => Ok(Some(hexadecimal(certificate.raw_serial()))),
    }
}

fn attribute(
    certificate: &X509Certificate<'_>,
    oid: &Oid<'static>,
) -> Result<Option<String>, ReadError> {
    let Some(attribute) = certificate.subject().iter_by_oid(oid).next() else {
        return Ok(None);
    };
    match attribute.as_str() {
        Ok(text) => Ok(Some(text.to_owned())),
        Err(_) => Err(ReadError::Name(NameProblem::NotText)),
    }
}

fn alternative_name(
    certificate: &X509Certificate<'_>,
    field: Field,
) -> Result<Option<String>, ReadError> {
    let Some(names) = certificate
        .subject_alternative_name()
        .map_err(|_| ReadError::Malformed)?
    else {
        return Ok(None);
    };
    for name in &names.value.general_names {
        let text = match (field, name) {
            (Field::SanUri, GeneralName::URI(text))
            | (Field::SanDns, GeneralName::DNSName(text))
            | (Field::SanEmail, GeneralName::RFC822Name(text)) => *text,
            (Field::SanUpn, GeneralName::OtherName(oid, value))
                if *oid == OID_USER_PRINCIPAL_NAME =>
            {
                principal_name(value).ok_or(ReadError::Name(NameProblem::NotText))?
            }
            // One name that cannot be read makes it unknown which would have been the first.
            (_, GeneralName::Invalid(..)) => return Err(ReadError::Name(NameProblem::NotText)),
            _ => continue,
        };
        return Ok(Some(text.to_owned()));
    }
    Ok(None)
}

/// `value [0] EXPLICIT UTF8String` of an `otherName`.
fn principal_name(value: &[u8]) -> Option<&str> {
    let mut value = Reader::der(value);
    let mut text = value.enter(tag::CONTEXT_0)?;
    let contents = text.take(tag::UTF8_STRING)?.content;
    (value.is_empty() && text.is_empty())
        .then(|| std::str::from_utf8(contents).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{
        CertificateParams, CustomExtension, DistinguishedName, DnType, DnValue, KeyPair, SanType,
        SerialNumber,
    };
    use rustls_pki_types::CertificateDer;

    fn certificate(change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        change(&mut params);
        params
            .self_signed(&KeyPair::generate().unwrap())
            .unwrap()
            .into()
    }

    fn device(
        certificate: CertificateDer<'static>,
        fields: &[Field],
    ) -> Result<String, IdentityError> {
        let mapping = IdentityMapping {
            device: fields.to_vec(),
            user: Vec::new(),
            app: Vec::new(),
        };
        PeerIdentity::read(&certificate, &mapping).map(|identity| identity.device)
    }

    fn named(name: &str) -> CertificateDer<'static> {
        certificate(|params| {
            params.distinguished_name.push(DnType::CommonName, name);
            params.subject_alt_names = vec![SanType::DnsName("fallback".try_into().unwrap())];
        })
    }

    fn bad(problem: NameProblem) -> Result<String, IdentityError> {
        Err(IdentityError::BadName {
            name: "device",
            problem,
        })
    }

    #[test]
    fn a_name_that_cannot_be_used_is_not_passed_over() {
        let fields = [Field::Cn, Field::SanDns];
        assert_eq!(device(named("laptop"), &fields), Ok("laptop".into()));
        assert_eq!(
            device(named(""), &fields),
            Ok("fallback".into()),
            "an empty name is none"
        );
        assert_eq!(
            device(named("lap\ntop"), &fields),
            bad(NameProblem::Control)
        );
        assert_eq!(
            device(named("lap\u{202e}pot"), &fields),
            bad(NameProblem::Control)
        );
        let long = "x".repeat(MAX_IDENTITY_NAME_BYTES + 1);
        assert_eq!(device(named(&long), &fields), bad(NameProblem::TooLong));
        assert_eq!(device(named(&long[1..]), &fields), Ok(long[1..].into()));
        let unreadable = certificate(|params| {
            let name = rcgen::string::TeletexString::try_from("laptop").unwrap();
            params
                .distinguished_name
                .push(DnType::CommonName, DnValue::TeletexString(name));
            params.subject_alt_names = vec![SanType::DnsName("fallback".try_into().unwrap())];
        });
        assert_eq!(device(unreadable, &fields), bad(NameProblem::NotText));
    }

    #[test]
    fn the_first_of_several_alternative_names_of_a_kind_counts() {
        let uri = |text: &str| SanType::URI(text.try_into().unwrap());
        let two = certificate(|params| {
            params.subject_alt_names = vec![
                SanType::DnsName("host".try_into().unwrap()),
                uri("urn:a"),
                uri("urn:b"),
            ];
        });
        assert_eq!(device(two.clone(), &[Field::SanUri]), Ok("urn:a".into()));
        assert_eq!(
            device(two.clone(), &[Field::SanUpn, Field::SanDns]),
            Ok("host".into())
        );
        assert_eq!(
            device(two, &[Field::SanEmail, Field::Uid]),
            Err(IdentityError::NoDevice)
        );
    }

    #[test]
    fn a_principal_name_is_read_from_its_other_name() {
        let upn = |text: &str| {
            certificate(|params| {
                let name = (vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 3], text.into());
                params.subject_alt_names = vec![SanType::OtherName(name)];
            })
        };
        assert_eq!(
            device(upn("ann@corp.test"), &[Field::SanUpn]),
            Ok("ann@corp.test".into())
        );
        assert_eq!(principal_name(&[0xa0, 3, 0x0c, 1, b'a']), Some("a"));
        for broken in [
            &[][..],
            &[0x0c, 1, b'a'],
            &[0xa0, 3, 0x0c, 2, b'a'],
            &[0xa0, 3, 0x0c, 1, b'a', 0],
            &[0xa0, 3, 0x0c, 1, 0xff],
        ] {
            assert_eq!(principal_name(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn alternative_names_that_cannot_be_read_hide_none_behind_them() {
        // [2] dNSName of octets that are no UTF-8, then a readable one.
        let broken = certificate(|params| {
            let names = vec![0x30, 9, 0x82, 2, 0xff, 0xfe, 0x82, 3, b'a', b'b', b'c'];
            params.custom_extensions =
                vec![CustomExtension::from_oid_content(&[2, 5, 29, 17], names)];
        });
        assert_eq!(device(broken, &[Field::SanDns]), bad(NameProblem::NotText));
    }

    #[test]
    fn serial_and_issuer_are_given_as_the_index_takes_them() {
        let leaf = certificate(|params| {
            params.serial_number = Some(SerialNumber::from_slice(&[0xa5, 0x00, 0x01]));
            params.distinguished_name.push(DnType::CommonName, "laptop");
        });
        let mapping = IdentityMapping {
            device: vec![Field::Serial],
            user: vec![Field::Cn],
            app: Vec::new(),
        };
        let identity = PeerIdentity::read(&leaf, &mapping).unwrap();
        assert_eq!((identity.serial(), identity.device()), ("a50001", "a50001"));
        assert_eq!(identity.serial_raw(), [0x00, 0xa5, 0x00, 0x01]);
        let (issuer, serial) = super::super::fields::issuer_and_serial(&leaf).unwrap();
        assert_eq!(
            (identity.issuer_der(), identity.serial_raw()),
            (issuer, canonical_serial(serial))
        );
        assert_eq!((identity.user(), identity.app()), (Some("laptop"), None));
        assert!(identity.good_until() > 0);
    }

    #[test]
    fn what_is_no_certificate_has_no_identity() {
        assert_eq!(
            device(CertificateDer::from(vec![0x30, 0]), &[Field::Cn]),
            Err(IdentityError::Malformed)
        );
    }
}
