//! Certification authorities in a folder, and the certificates that they issue.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::certs::make::subject;
use crate::certs::pem::{pem_block, to_pem};
use crate::certs::{
    CertError, IssueRequest, Issued, KeyType, Serial, Validity, key_matches, read_certificates,
    read_private_key,
};
use crate::files;

/// The file of an authority's certificate in its folder.
pub const CA_CERTIFICATE_FILE: &str = "ca.pem";

/// The file of an authority's private key in its folder.
pub const CA_KEY_FILE: &str = "ca.key";

/// Parameters of a new certification authority.
#[derive(Debug, Clone)]
pub struct MakeCa {
    /// The common name of its subject, 1 to 64 characters.
    pub common_name: String,
    /// How many days it is valid from now.
    pub days: u32,
    /// The kind of its key.
    pub key_type: KeyType,
}

/// A certification authority with its private key: what signs certificates and revocation lists.
#[derive(Debug)]
pub struct CertificateAuthority {
    /// Its certificate, then those above it up to the root, as far as they are known.
    chain: Vec<CertificateDer<'static>>,
    issuer: Issuer<'static, KeyPair>,
    not_after: OffsetDateTime,
}

/// Makes a self-signed certification authority that may sign end certificates and revocation lists, but no further
/// authorities.
///
/// # Errors
/// [`CertError::Request`] for an impossible name or number of days, [`CertError::Crypto`].
pub fn make_ca(request: &MakeCa) -> Result<CertificateAuthority, CertError> {
    let validity = Validity::days(request.days)?;
    let key = request.key_type.generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(&request.common_name, None, None)?;
    params.serial_number = Some(Serial::random()?.octets().to_vec().into());
    params.not_before = validity.not_before();
    params.not_after = validity.not_after();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params
        .self_signed(&key)
        .map_err(|cause| CertError::crypto("sign the certificate of the authority", cause))?;
    Ok(CertificateAuthority {
        chain: vec![certificate.into()],
        issuer: Issuer::new(params, key),
        not_after: validity.not_after(),
    })
}

impl CertificateAuthority {
    /// Reads an authority from `ca.pem` (its certificate, then any above it) and `ca.key` in a folder.
    ///
    /// # Errors
    /// Where either can not be read, they do not belong together, or the certificate is not that of an authority.
    pub fn load(folder: &Path) -> Result<Self, CertError> {
        let path = folder.join(CA_CERTIFICATE_FILE);
        if !path.exists() {
            return Err(CertError::content(
                &path,
                "there is no certification authority here",
                "make one with `adit certs make-ca`, or name its folder with --dir",
            ));
        }
        let chain = read_certificates(&path)?;
        let key_path = folder.join(CA_KEY_FILE);
        let key = read_private_key(&key_path)?;
        if !key_matches(&chain[0], &key) {
            return Err(CertError::content(
                &key_path,
                "is not the private key of the first certificate in ca.pem",
                "put the two files of one authority into the folder",
            ));
        }
        let broken = |problem: String| {
            CertError::content(
                &path,
                problem,
                "use a certificate made by `adit certs make-ca`",
            )
        };
        let (_, certificate) =
            X509Certificate::from_der(&chain[0]).map_err(|cause| broken(cause.to_string()))?;
        if !certificate.is_ca() {
            return Err(broken(
                "the first certificate is not that of a certification authority".to_owned(),
            ));
        }
        let not_after = certificate.validity().not_after.to_datetime();
        let key = KeyPair::try_from(&key)
            .map_err(|cause| CertError::crypto("use the key of the authority", cause))?;
        let issuer =
            Issuer::from_ca_cert_der(&chain[0], key).map_err(|cause| broken(cause.to_string()))?;
        Ok(Self {
            chain,
            issuer,
            not_after,
        })
    }

    /// Its certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.chain[0]
    }

    /// The last moment of its validity.
    pub fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }

    /// Writes `ca.pem` and `ca.key` (mode 0600) into a folder, which is made where it is missing. Returns the two paths.
    ///
    /// # Errors
    /// [`FileError::Exists`](crate::files::FileError::Exists) where the folder holds an authority already, [`CertError::File`].
    pub fn write(&self, folder: &Path) -> Result<(PathBuf, PathBuf), CertError> {
        files::make_folder(folder)?;
        let (certificate, key) = (folder.join(CA_CERTIFICATE_FILE), folder.join(CA_KEY_FILE));
        let key_pem = pem_block("PRIVATE KEY", self.issuer.key().serialized_der());
        files::write_new_pair(
            (&certificate, to_pem(&self.chain).as_bytes()),
            (&key, key_pem.as_bytes()),
        )?;
        Ok((certificate, key))
    }

    pub(crate) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }
}

/// Makes a key and a certificate for it, signed by the authority.
///
/// # Errors
/// [`CertError::Request`] for names that can not be and for a certificate that would outlive its authority,
/// [`CertError::Crypto`].
pub fn issue(ca: &CertificateAuthority, request: &IssueRequest) -> Result<Issued, CertError> {
    if request.validity.not_after() > ca.not_after {
        return Err(CertError::request(
            format!(
                "the certificate would outlive its authority, which ends {}",
                ca.not_after
            ),
            "choose an earlier end, or make a new authority",
        ));
    }
    let mut params = request.params()?;
    params.use_authority_key_identifier_extension = true;
    let key = request.key_type.generate()?;
    let certificate = params
        .signed_by(&key, &ca.issuer)
        .map_err(|cause| CertError::crypto("sign the certificate", cause))?;
    check_issuer(certificate.der(), ca)?;
    let mut chain = vec![certificate.into()];
    chain.extend(
        ca.chain
            .iter()
            .filter(|certificate| !is_self_issued(certificate))
            .cloned(),
    );
    Ok(Issued {
        chain,
        key: PrivateKeyDer::from(key),
    })
}

/// rcgen keeps one value for each kind of attribute, so the name of an authority with, say, two organizational units would come
/// out different in what it issues, and no chain would verify.
fn check_issuer(
    certificate: &CertificateDer<'_>,
    ca: &CertificateAuthority,
) -> Result<(), CertError> {
    let same = match (
        X509Certificate::from_der(certificate),
        X509Certificate::from_der(ca.certificate()),
    ) {
        (Ok((_, issued)), Ok((_, authority))) => {
            issued.issuer().as_raw() == authority.subject().as_raw()
        }
        _ => false,
    };
    if same {
        return Ok(());
    }
    Err(CertError::request(
        "the subject of this authority is of a form that cannot be copied exactly",
        "use an authority made by `adit certs make-ca`",
    ))
}

fn is_self_issued(certificate: &CertificateDer<'_>) -> bool {
    X509Certificate::from_der(certificate).is_ok_and(|(_, certificate)| {
        certificate.subject().as_raw() == certificate.issuer().as_raw()
    })
}
