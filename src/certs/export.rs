//! Certificates for others, without their keys: to be pinned, or for devices to trust.

use rustls_pki_types::CertificateDer;

use super::chain::root;
use super::pem::to_pem;
use super::profile::Gateway;
use super::{CertError, Role};

/// How certificates are written for others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ExportFormat {
    /// PEM, in order.
    #[default]
    Pem,
    /// The first certificate alone.
    Der,
    /// A configuration profile for Apple devices, with identifiers that stay the same.
    Mobileconfig,
}

impl ExportFormat {
    /// The word for it, which is also the usual ending of a file's name.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pem => "pem",
            Self::Der => "der",
            Self::Mobileconfig => "mobileconfig",
        }
    }

    /// Returns what the word stands for.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        let all = [Self::Pem, Self::Der, Self::Mobileconfig];
        all.into_iter().find(|format| format.word() == word)
    }

    /// The media type.
    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Pem => "application/pem-certificate-chain",
            Self::Der => "application/pkix-cert",
            Self::Mobileconfig => "application/x-apple-aspen-config",
        }
    }
}

/// Content and format of an export.
#[derive(Debug, Clone, Copy)]
pub struct Export<'e> {
    /// Purpose of the certificates.
    pub role: Role,
    /// Only the root that the chain ends in. Of the gateway's own a configuration profile has nothing else: a device that is told to
    /// trust the end certificate would have to be told again at each renewal.
    pub root: bool,
    /// How.
    pub format: ExportFormat,
    /// Whose configuration profile it is.
    pub gateway: Option<&'e Gateway>,
    /// The name that tells it from what else the gateway exports.
    pub name: &'e str,
}

impl Export<'_> {
    /// The certificates of a file, as others get them.
    ///
    /// # Errors
    /// [`CertError::Request`] where the root is asked for and is not among them, or there is no gateway to make a
    /// configuration profile for.
    pub fn content(&self, certificates: &[CertificateDer<'static>]) -> Result<Vec<u8>, CertError> {
        let of_gateway = self.role != Role::Group && self.format == ExportFormat::Mobileconfig;
        let only_root;
        let certificates = if self.root || of_gateway {
            only_root = [root(certificates)?];
            &only_root[..]
        } else {
            certificates
        };
        match self.format {
            ExportFormat::Pem => Ok(to_pem(certificates).into_bytes()),
            ExportFormat::Der => Ok(certificates
                .first()
                .map(|der| der.to_vec())
                .unwrap_or_default()),
            ExportFormat::Mobileconfig => {
                let Some(gateway) = self.gateway else {
                    return Err(CertError::request(
                        "a configuration profile needs the name that devices use, which is not known",
                        "set profile.external in the config, and name the config with --config",
                    ));
                };
                let part = format!("{}.{}", self.role.word(), self.name);
                let document = gateway.trust(&part, certificates);
                document
                    .map_err(|cause| CertError::crypto("write the configuration profile", cause))
            }
        }
    }
}
