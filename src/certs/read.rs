//! Reading certificates and private keys from files.
//!
//! A file is PEM, DER, PKCS#7 or PKCS#12 by its content. In PEM, blocks of other kinds, text between blocks and any order are
//! accepted, so that one bundle can hold a chain, its key and a CRL. Every certificate that is returned has been parsed once,
//! to its last byte; every key has been accepted by the cryptographic library. Truncation is always an error.
//!
//! Nothing is verified here: not a signature, not a date, not the order of a chain.

use std::path::{Path, PathBuf};

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{PemObject, SectionKind};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use super::blocks::{BEGIN, PemBlock, blocks, is_certificate, lines};
use super::chain::in_order;
use super::frame::{der_length, is_encrypted};
use super::group::is_explicit_curve;
use super::pbe::{Fault, Password, Work, decrypt_key};
use super::pkcs7::is_pkcs7;
use super::pkcs12::{Contents, is_pkcs12};
use super::{CertError, pkcs7, pkcs12};
use crate::asn1::Reader;
use crate::asn1::tag::{CONTEXT_0, INTEGER, OCTET_STRING, SEQUENCE};
use crate::files::{self, read_secret};
use crate::limits::{CERTIFICATE_PASSWORD_MAX, MAX_CERTIFICATE_FILE, MAX_PASSWORD_ITERATIONS};

/// A chain, the end certificate first, and the private key of its end certificate.
pub type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Reads every certificate of a file, in the order in which they stand there.
///
/// # Errors
/// Where the file can not be read, holds no certificate, or holds one that is broken or truncated.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertError> {
    read_certificates_with(path, None)
}

/// [`read_certificates`], of a file that `password` may protect. `None` is no password, another thing than an empty one.
///
/// # Errors
/// As [`read_certificates`], and where the password is missing or wrong.
pub fn read_certificates_with(
    path: &Path,
    password: Option<&str>,
) -> Result<Vec<CertificateDer<'static>>, CertError> {
    certificates_in(path, &load(path, MAX_CERTIFICATE_FILE)?, password)
}

/// Reads a certificate with its chain and its private key: both from `path`, or the key from `key`. `password` opens
/// PKCS#12 and encrypted keys. The chain is put in order: programs write PKCS#12 files with the root first, and PKCS#7 as a set.
///
/// # Errors
/// As [`read_certificates`] and [`read_private_key`], and where the password is missing or wrong.
pub fn read_identity(
    path: &Path,
    key: Option<&Path>,
    password: Option<&str>,
) -> Result<Identity, CertError> {
    let file = CertFile::load(path)?;
    let key = key.map(CertFile::load).transpose()?;
    let (chain, found) = unordered(&file, key.as_ref(), password)?;
    let key = found.ok_or_else(|| no_item(&key.unwrap_or(file).path, "private key", &[]))?;
    Ok((in_order(chain, &key), key))
}

/// Content of a file, read or received.
pub struct CertFile {
    /// The file; errors call it so.
    pub path: PathBuf,
    /// Its content, in which there may be a key.
    pub bytes: Zeroizing<Vec<u8>>,
}

impl CertFile {
    /// Reads a certificate or key file.
    ///
    /// # Errors
    /// Where it cannot be read or is larger than any such file.
    pub fn load(path: &Path) -> Result<Self, CertError> {
        Ok(Self {
            path: path.to_path_buf(),
            bytes: Zeroizing::new(load(path, MAX_CERTIFICATE_FILE)?),
        })
    }
}

/// The certificates of a file, in its order, and its private key or that of the file `key`, if there is one.
pub(super) fn unordered(
    file: &CertFile,
    key: Option<&CertFile>,
    password: Option<&str>,
) -> Result<(Vec<CertificateDer<'static>>, Option<PrivateKeyDer<'static>>), CertError> {
    let CertFile { path, bytes } = file;
    if key.is_none() && is_pkcs12(bytes) {
        let Contents { certificates, keys } = open_pkcs12(path, bytes, password)?;
        let chain = checked(path, certificates)?;
        let key = (!keys.is_empty()).then(|| only_key(path, keys));
        return Ok((chain, key.transpose()?));
    }
    let chain = certificates_in(path, bytes, password)?;
    let has_key = Encoding::of(bytes) == Encoding::Pem
        && blocks(path, bytes)?.iter().any(PemBlock::is_private_key);
    // A DER file with a certificate in it has no key.
    let key = key.or(has_key.then_some(file));
    let key = key.map(|key| private_key_in(&key.path, &key.bytes, password));
    Ok((chain, key.transpose()?))
}

/// Reads the password of a certificate file: all of a file that its owner only may use, without a line end behind it.
///
/// # Errors
/// [`CertError::Request`], which names the file.
pub fn read_password(path: &Path) -> Result<Zeroizing<String>, CertError> {
    const REMEDY: &str = "put the password alone into it, readable by adit only";
    let mut text = read_secret(path, CERTIFICATE_PASSWORD_MAX as u64)
        .map_err(|problem| CertError::request(problem.to_string(), REMEDY))?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

/// Every certificate of a file, of whatever format.
pub(super) fn certificates_in(
    path: &Path,
    bytes: &[u8],
    password: Option<&str>,
) -> Result<Vec<CertificateDer<'static>>, CertError> {
    if is_pkcs12(bytes) {
        return checked(path, open_pkcs12(path, bytes, password)?.certificates);
    }
    if is_pkcs7(bytes) {
        return checked(path, from_pkcs7(path, bytes)?);
    }
    if is_utf16(bytes) {
        return Err(utf16(path));
    }
    if Encoding::of(bytes) != Encoding::Pem {
        let ders = items(
            path,
            bytes,
            SectionKind::Certificate,
            "certificate",
            is_certificate,
        )?;
        return Ok(ders.into_iter().map(CertificateDer::from).collect());
    }
    let blocks = blocks(path, bytes)?;
    let mut found = Vec::new();
    for block in &blocks {
        let ders = block.certificates(path)?;
        if !ders.is_empty() {
            found.extend(checked(path, ders)?);
        }
    }
    if found.is_empty() {
        return Err(no_item(path, "certificate", &blocks));
    }
    Ok(found)
}

/// Certificates that came in a container; at least one, each parsed.
fn checked(path: &Path, ders: Vec<Vec<u8>>) -> Result<Vec<CertificateDer<'static>>, CertError> {
    if ders.is_empty() {
        let remedy = "export it again, with its certificates";
        return Err(CertError::content(path, "holds no certificate", remedy));
    }
    if let Some(index) = ders.iter().position(|der| !is_certificate(der)) {
        return Err(CertError::content(
            path,
            format!("certificate {} of {} is broken", index + 1, ders.len()),
            "export it again from its source",
        ));
    }
    Ok(ders.into_iter().map(CertificateDer::from).collect())
}

pub(super) fn from_pkcs7(path: &Path, bytes: &[u8]) -> Result<Vec<Vec<u8>>, CertError> {
    pkcs7::certificates(bytes).ok_or_else(|| {
        CertError::content(
            path,
            "its PKCS#7 structure is broken or truncated",
            "copy it again completely from its source",
        )
    })
}

pub(super) fn open_pkcs12(
    path: &Path,
    bytes: &[u8],
    password: Option<&str>,
) -> Result<Contents, CertError> {
    pkcs12::open(bytes, password).map_err(|fault| protected(path, fault))
}

/// The error for a file that could not be opened with its password.
fn protected(path: &Path, fault: Fault) -> CertError {
    let path = path.to_path_buf();
    let (problem, remedy) = match fault {
        Fault::PasswordMissing => return CertError::PasswordMissing { path },
        Fault::PasswordWrong => return CertError::PasswordWrong { path },
        Fault::Broken(problem) => (
            format!("{problem}, or truncated"),
            "copy it again completely from its source",
        ),
        Fault::Unsupported(what) => (
            format!("has {what}, which is not read"),
            "export it again with AES-256 and SHA-256, as `openssl pkcs12 -export` does",
        ),
        Fault::TooMuchWork(count) => (
            format!(
                "needs {count} iterations of key derivation; the limit is {MAX_PASSWORD_ITERATIONS} for all \
                    its parts"
            ),
            "export it again with a usual count, such as 100000",
        ),
    };
    CertError::content(&path, problem, remedy)
}

pub(super) fn only_key(
    path: &Path,
    mut keys: Vec<Zeroizing<Vec<u8>>>,
) -> Result<PrivateKeyDer<'static>, CertError> {
    let count = keys.len();
    match keys.pop() {
        Some(key) if count == 1 => usable(path, PrivatePkcs8KeyDer::from(key.to_vec()).into()),
        Some(_) => Err(CertError::content(
            path,
            format!("holds {count} private keys"),
            "export only the one that belongs to the certificate",
        )),
        None => Err(CertError::content(
            path,
            "holds no private key",
            "export it again, with its private key",
        )),
    }
}

/// Reads the one private key of a file: PKCS#8, PKCS#1 or SEC1, RSA, ECDSA (P-256, P-384, P-521) or Ed25519.
///
/// # Errors
/// Where the file can not be read, holds no key or more than one, or one that is encrypted, broken, truncated or of a
/// kind that TLS has no use for. No error carries a part of the file.
pub fn read_private_key(path: &Path) -> Result<PrivateKeyDer<'static>, CertError> {
    private_key_in(path, &CertFile::load(path)?.bytes, None)
}

/// The one private key of a file, of whatever format.
pub(super) fn private_key_in(
    path: &Path,
    bytes: &[u8],
    password: Option<&str>,
) -> Result<PrivateKeyDer<'static>, CertError> {
    if is_pkcs12(bytes) {
        return only_key(path, open_pkcs12(path, bytes, password)?.keys);
    }
    if is_utf16(bytes) {
        return Err(utf16(path));
    }
    let key = match Encoding::of(bytes) {
        Encoding::Pem => private_key_from_pem(path, bytes, password)?,
        Encoding::Der => private_key_from_der(path, bytes, password)?,
        Encoding::Unknown => return Err(no_item(path, "private key", &[])),
    };
    usable(path, key)
}

/// A key that TLS can sign with.
fn usable(path: &Path, key: PrivateKeyDer<'static>) -> Result<PrivateKeyDer<'static>, CertError> {
    // Bytes after the key are looked at here, since the library does not mind them. Its own words are dropped: they add
    // nothing, and what they quote is not ours to promise.
    let der = key.secret_der();
    if has_explicit_curve(der) {
        return Err(CertError::content(
            path,
            "the private key has explicit elliptic curve parameters in place of the name of a curve",
            "name it with `openssl pkey -in FILE -ec_param_enc named_curve -out FILE.key`, and have the certificate issued again if it \
             has them too",
        ));
    }
    if der_length(der) != Some(der.len() as u64) || any_supported_type(&key).is_err() {
        return Err(CertError::content(
            path,
            "the private key is broken or of a kind that is not supported",
            "use an RSA (2048 bits or more), ECDSA (P-256, P-384, P-521) or Ed25519 key",
        ));
    }
    Ok(key)
}

/// A key that a password protects (RFC 5958, section 3).
fn decrypted(
    path: &Path,
    der: &[u8],
    password: Option<&str>,
) -> Result<PrivateKeyDer<'static>, CertError> {
    let Some(password) = password else {
        return Err(CertError::EncryptedKey {
            path: path.to_path_buf(),
        });
    };
    let key = Reader::ber(der)
        .take(SEQUENCE)
        .ok_or(Fault::Broken("the encrypted private key is broken"))
        .and_then(|info| decrypt_key(&info, &Password::new(password), &mut Work::new()))
        .map_err(|fault| protected(path, fault))?;
    // One wrong password in some hundreds leaves a padding that looks right.
    if der_length(&key) != Some(key.len() as u64) {
        return Err(protected(path, Fault::PasswordWrong));
    }
    Ok(PrivatePkcs8KeyDer::from(key.to_vec()).into())
}

/// Returns whether `key` is the private half of the public key in `certificate`. `false` also where
/// either can not be parsed.
pub fn key_matches(certificate: &CertificateDer<'_>, key: &PrivateKeyDer<'_>) -> bool {
    any_supported_type(key).is_ok_and(|key| {
        CertifiedKey::new(vec![certificate.clone().into_owned()], key)
            .keys_match()
            .is_ok()
    })
}

/// How the bytes of a file are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Pem,
    Der,
    Unknown,
}

impl Encoding {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        // A whole DER value first: a certificate may carry the text of a PEM line inside.
        if der_length(bytes).is_some_and(|length| length == bytes.len() as u64) {
            Self::Der
        } else if lines(bytes).any(|(_, _, line)| line.starts_with(BEGIN)) {
            Self::Pem
        } else if der_length(bytes).is_some() {
            Self::Der
        } else {
            Self::Unknown
        }
    }
}

/// Reads a regular file up to a bound.
pub(crate) fn load(path: &Path, limit: u64) -> Result<Vec<u8>, CertError> {
    Ok(files::read(path, limit)?)
}

/// The DER of every item of one kind in a file; at least one.
fn items(
    path: &Path,
    bytes: &[u8],
    kind: SectionKind,
    noun: &'static str,
    is_whole: impl Fn(&[u8]) -> bool,
) -> Result<Vec<Vec<u8>>, CertError> {
    match Encoding::of(bytes) {
        Encoding::Unknown => Err(no_item(path, noun, &[])),
        Encoding::Der => {
            check_length(path, bytes)?;
            if !is_whole(bytes) {
                return Err(no_item(path, noun, &[]));
            }
            Ok(vec![bytes.to_vec()])
        }
        Encoding::Pem => {
            let blocks = blocks(path, bytes)?;
            let mut ders = Vec::new();
            for block in blocks.iter().filter(|block| block.kind() == Some(kind)) {
                let der = block.decode(path)?;
                if !is_whole(&der) {
                    return Err(block.broken(path, noun));
                }
                ders.push(der);
            }
            if ders.is_empty() {
                Err(no_item(path, noun, &blocks))
            } else {
                Ok(ders)
            }
        }
    }
}

fn private_key_from_pem(
    path: &Path,
    bytes: &[u8],
    password: Option<&str>,
) -> Result<PrivateKeyDer<'static>, CertError> {
    let blocks = blocks(path, bytes)?;
    let mut keys = blocks.iter().filter(|block| block.is_private_key());
    let Some(block) = keys.next() else {
        return Err(no_item(path, "private key", &blocks));
    };
    if let Some(second) = keys.next() {
        return Err(CertError::content(
            path,
            format!(
                "two private keys, on line {} and on line {}",
                block.line, second.line
            ),
            "leave only the one that belongs to the certificate",
        ));
    }
    if block.label == b"ENCRYPTED PRIVATE KEY" && password.is_some() {
        return decrypted(path, &block.decode(path)?, password);
    }
    if block.has_old_encryption() {
        // The way with a digest of one round is not worth a decoder.
        return Err(CertError::content(
            path,
            "the private key is encrypted in OpenSSL's old way (Proc-Type: 4,ENCRYPTED), which is not read, with a password or without",
            "write it again with `openssl pkcs8 -topk8 -v2 aes-256-cbc -in OLD -out NEW`, and name the file \
                of its password",
        ));
    }
    if block.is_encrypted() {
        return Err(CertError::EncryptedKey {
            path: path.to_path_buf(),
        });
    }
    let der = block.decode(path)?;
    block
        .kind()
        .and_then(|kind| PrivateKeyDer::from_pem(kind, der))
        .ok_or_else(|| no_item(path, "private key", &blocks))
}

fn private_key_from_der(
    path: &Path,
    bytes: &[u8],
    password: Option<&str>,
) -> Result<PrivateKeyDer<'static>, CertError> {
    check_length(path, bytes)?;
    if is_encrypted(bytes) {
        return decrypted(path, bytes, password);
    }
    PrivateKeyDer::try_from(bytes.to_vec()).map_err(|_| no_item(path, "private key", &[]))
}

/// Text as some programs of Windows save it, in two bytes a letter, with its mark in front.
fn is_utf16(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff])
}

fn utf16(path: &Path) -> CertError {
    CertError::content(
        path,
        "is text in UTF-16",
        "save it as plain text (ASCII or UTF-8)",
    )
}

/// Returns whether the curve of an EC key is written out instead of named: in PKCS#8 (RFC 5958,
/// section 2) or SEC 1 (RFC 5915, section 3).
fn has_explicit_curve(key: &[u8]) -> bool {
    let curve = || {
        let mut parts = Reader::ber(key).take(SEQUENCE)?.inside();
        parts.take(INTEGER)?;
        if let Some(algorithm) = parts.take(SEQUENCE) {
            return Some(is_explicit_curve(algorithm.content));
        }
        parts.take(OCTET_STRING)?;
        Some(parts.take(CONTEXT_0)?.inside().take(SEQUENCE).is_some())
    };
    curve().unwrap_or(false)
}

pub(super) fn check_length(path: &Path, bytes: &[u8]) -> Result<(), CertError> {
    let present = bytes.len() as u64;
    match der_length(bytes) {
        Some(announced) if announced > present => Err(CertError::content(
            path,
            format!("truncated: {present} of {announced} bytes are there"),
            "copy it again completely from its source",
        )),
        Some(announced) if announced < present => Err(CertError::content(
            path,
            format!(
                "{} bytes follow the end of its DER content",
                present - announced
            ),
            "keep one DER item a file, or use PEM",
        )),
        _ => Ok(()),
    }
}

pub(super) fn no_item(path: &Path, noun: &str, blocks: &[PemBlock<'_>]) -> CertError {
    if blocks.is_empty() {
        return CertError::content(
            path,
            format!("holds no {noun} in PEM or DER"),
            "check that it is the right file, and export it again as PEM",
        );
    }
    let mut labels: Vec<String> = Vec::new();
    for block in blocks {
        let label = block.label.escape_ascii().to_string();
        if !labels.contains(&label) && labels.len() < 8 {
            labels.push(label);
        }
    }
    CertError::content(
        path,
        format!("holds no {noun}, only: {}", labels.join(", ")),
        "check that it is the right file",
    )
}

#[cfg(test)]
mod tests;
