//! Who is at the other end, as the certificate and the profile's mapping say.

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::certs::describe::{AlternativeName, alternative_names};
use crate::config::{Field, IdentityMapping};
use crate::limits::MAX_IDENTITY_NAME_BYTES;

/// Why a verified certificate gives no identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The session has no client certificate.
    #[error("the session has no client certificate")]
    NoCertificate,
    /// It cannot be read, though webpki could.
    #[error("the client certificate cannot be read: {0}")]
    Unreadable(String),
    /// None of the mapped fields holds a name.
    #[error(
        "the client certificate has none of the fields that profile.device_auth.identity.device names"
    )]
    NoDevice,
}

/// The device, user and app of a session. Made from verified certificates only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    device: String,
    user: Option<String>,
    app: Option<String>,
    serial: String,
}

impl PeerIdentity {
    /// Reads the names in the first certificate of a chain that has been verified.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub(crate) fn from_chain(
        chain: &[CertificateDer<'_>],
        mapping: &IdentityMapping,
    ) -> Result<Self, IdentityError> {
        let leaf = chain.first().ok_or(IdentityError::NoCertificate)?;
        let (_, certificate) = X509Certificate::from_der(leaf)
            .map_err(|error| IdentityError::Unreadable(error.to_string()))?;
        let names = alternative_names(&certificate);
        let serial: String = certificate
            .raw_serial()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let first = |fields: &[Field]| {
            fields
                .iter()
                .find_map(|field| read(*field, &certificate, &names, &serial))
        };
        Ok(Self {
            device: first(&mapping.device).ok_or(IdentityError::NoDevice)?,
            user: first(&mapping.user),
            app: first(&mapping.app),
            serial,
        })
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &str {
        &self.device
    }

    /// The user, if the certificate names one.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// The app, if the certificate names one.
    #[must_use]
    pub fn app(&self) -> Option<&str> {
        self.app.as_deref()
    }

    /// The certificate's serial number in hexadecimal.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.serial
    }
}

/// The first usable name in a field. Empty or very long names and control characters are not names.
fn read(
    field: Field,
    certificate: &X509Certificate<'_>,
    names: &[AlternativeName],
    serial: &str,
) -> Option<String> {
    let subject = certificate.subject();
    let uid = x509_parser::oid_registry::OID_USERID;
    let found = match field {
        Field::SanUri => names
            .iter()
            .find_map(|name| matching(name, |n| matches!(n, AlternativeName::Uri(_)))),
        Field::SanDns => names
            .iter()
            .find_map(|name| matching(name, |n| matches!(n, AlternativeName::Dns(_)))),
        Field::SanEmail => names
            .iter()
            .find_map(|name| matching(name, |n| matches!(n, AlternativeName::Email(_)))),
        Field::SanUpn => names
            .iter()
            .find_map(|name| matching(name, |n| matches!(n, AlternativeName::Upn(_)))),
        Field::Cn => subject
            .iter_common_name()
            .find_map(|value| value.as_str().ok().map(str::to_owned)),
        Field::Ou => subject
            .iter_organizational_unit()
            .find_map(|value| value.as_str().ok().map(str::to_owned)),
        Field::Uid => subject
            .iter_by_oid(&uid)
            .find_map(|value| value.as_str().ok().map(str::to_owned)),
        Field::Serial => Some(serial.to_owned()),
    };
    found.filter(|name| {
        !name.is_empty()
            && name.len() <= MAX_IDENTITY_NAME_BYTES
            && !name.chars().any(char::is_control)
    })
}

fn matching(name: &AlternativeName, wanted: impl Fn(&AlternativeName) -> bool) -> Option<String> {
    match name {
        AlternativeName::Uri(text)
        | AlternativeName::Dns(text)
        | AlternativeName::Email(text)
        | AlternativeName::Upn(text)
            if wanted(name) =>
        {
            Some(text.clone())
        }
        _ => None,
    }
}
