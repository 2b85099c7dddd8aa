//! Reading certificates, private keys and revocation lists from files.
//!
//! A file is PEM or DER by its content. In PEM, blocks of other kinds, text between blocks and any order are accepted, so that
//! one bundle can hold a chain, its key and a CRL. Every certificate that is returned has been parsed once,
//! to its last byte, of a CRL its frame alone; every key has been accepted by the cryptographic library. Truncation is always an error.
//!
//! Nothing is verified here: not a signature, not a date, not the order of a chain. PKCS#7 and PKCS#12 are not read yet.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject, SectionKind};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::CertError;
use super::frame::{der_length, is_crl, is_encrypted};
use crate::limits::{MAX_CERTIFICATE_FILE, MAX_CRL_FILE};

const BEGIN: &[u8] = b"-----BEGIN ";
const DASHES: &[u8] = b"-----";

/// Reads every certificate of a file, in the order in which they stand there.
///
/// # Errors
/// Where the file can not be read, holds no certificate, or holds one that is broken or truncated.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertError> {
    let bytes = load(path, MAX_CERTIFICATE_FILE)?;
    let ders = items(
        path,
        &bytes,
        SectionKind::Certificate,
        "certificate",
        |der| matches!(X509Certificate::from_der(der), Ok((rest, _)) if rest.is_empty()),
    )?;
    Ok(ders.into_iter().map(CertificateDer::from).collect())
}

/// Reads every certificate revocation list of a file.
///
/// # Errors
/// Where the file can not be read, holds no CRL, or holds one that is broken or truncated.
pub fn read_crls(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, CertError> {
    crls_in(path, load(path, MAX_CRL_FILE)?)
}

/// Reads every certificate revocation list of what a file or a server gave; errors call it `path`.
///
/// # Errors
/// As [`read_crls`].
pub fn crls_in(
    path: &Path,
    bytes: Vec<u8>,
) -> Result<Vec<CertificateRevocationListDer<'static>>, CertError> {
    if Encoding::of(&bytes) == Encoding::Der {
        // Half a gigabyte is not copied.
        check_length(path, &bytes)?;
        if !is_crl(&bytes) {
            return Err(no_item(path, "CRL", &[]));
        }
        return Ok(vec![bytes.into()]);
    }
    let ders = items(path, &bytes, SectionKind::Crl, "CRL", is_crl)?;
    Ok(ders
        .into_iter()
        .map(CertificateRevocationListDer::from)
        .collect())
}

/// Reads the one private key of a file: PKCS#8, PKCS#1 or SEC1, RSA, ECDSA (P-256, P-384, P-521) or Ed25519.
///
/// # Errors
/// Where the file can not be read, holds no key or more than one, or one that is encrypted, broken, truncated or of a
/// kind that TLS has no use for. No error carries a part of the file.
pub fn read_private_key(path: &Path) -> Result<PrivateKeyDer<'static>, CertError> {
    let bytes = load(path, MAX_CERTIFICATE_FILE)?;
    let key = match Encoding::of(&bytes) {
        Encoding::Pem => private_key_from_pem(path, &bytes)?,
        Encoding::Der => private_key_from_der(path, bytes)?,
        Encoding::Unknown => return Err(no_item(path, "private key", &[])),
    };
    // Bytes after the key are looked at here, since the library does not mind them. Its own words are dropped: they add
    // nothing, and what they quote is not ours to promise.
    let der = key.secret_der();
    if der_length(der) != Some(der.len() as u64) || any_supported_type(&key).is_err() {
        return Err(CertError::content(
            path,
            "the private key is broken or of a kind that is not supported",
            "use an RSA (2048 bits or more), ECDSA (P-256, P-384, P-521) or Ed25519 key",
        ));
    }
    Ok(key)
}

/// Whether `key` is the private half of the public key in `certificate`. `false` also where either can not be parsed.
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

/// Reads a file up to a bound.
pub(crate) fn load(path: &Path, limit: u64) -> Result<Vec<u8>, CertError> {
    let read = |path: &Path| {
        let mut bytes = Vec::new();
        File::open(path)?
            .take(limit + 1)
            .read_to_end(&mut bytes)
            .map(|_| bytes)
    };
    let bytes: Vec<u8> = read(path).map_err(|cause| CertError::io("read", path, cause))?;
    if bytes.len() as u64 > limit {
        return Err(CertError::TooLarge {
            path: path.to_path_buf(),
            limit,
        });
    }
    Ok(bytes)
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
                    return Err(CertError::content(
                        path,
                        format!("the {noun} that begins on line {} is broken", block.line),
                        "export it again from where it came",
                    ));
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

fn private_key_from_pem(path: &Path, bytes: &[u8]) -> Result<PrivateKeyDer<'static>, CertError> {
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

fn private_key_from_der(path: &Path, bytes: Vec<u8>) -> Result<PrivateKeyDer<'static>, CertError> {
    check_length(path, &bytes)?;
    if is_encrypted(&bytes) {
        return Err(CertError::EncryptedKey {
            path: path.to_path_buf(),
        });
    }
    PrivateKeyDer::try_from(bytes).map_err(|_| no_item(path, "private key", &[]))
}

/// One block of a PEM file; its line is that of its BEGIN, from 1; its text includes BEGIN and END.
pub(crate) struct Block<'a> {
    label: &'a [u8],
    line: usize,
    text: &'a [u8],
}

impl Block<'_> {
    pub(crate) fn kind(&self) -> Option<SectionKind> {
        SectionKind::try_from(self.label).ok()
    }

    pub(crate) fn is_private_key(&self) -> bool {
        self.label.ends_with(b"PRIVATE KEY")
    }

    fn is_encrypted(&self) -> bool {
        // RFC 7468 section 11, and the older encapsulated header of RFC 1421 section 4.6.1.1 that OpenSSL still writes.
        self.label == b"ENCRYPTED PRIVATE KEY"
            || lines(self.text).any(|(_, _, line)| line.starts_with(b"Proc-Type:"))
    }

    pub(crate) fn decode(&self, path: &Path) -> Result<Vec<u8>, CertError> {
        let section: Result<(SectionKind, Vec<u8>), pem::Error> =
            PemObject::from_pem_slice(self.text);
        match section {
            Ok((_, der)) => Ok(der),
            Err(_) => Err(CertError::content(
                path,
                format!(
                    "the PEM block that begins on line {} is not valid base64",
                    self.line
                ),
                "copy it again, whole, from where it came",
            )),
        }
    }
}

/// Finds the blocks of a PEM file, of whatever kind.
pub(crate) fn blocks<'a>(path: &Path, bytes: &'a [u8]) -> Result<Vec<Block<'a>>, CertError> {
    let truncated = |line: usize| {
        CertError::content(
            path,
            format!("the PEM block that begins on line {line} has no end: the file is truncated"),
            "copy it again, whole, from where it came",
        )
    };
    let mut found = Vec::new();
    let mut open: Option<(&[u8], usize, usize)> = None;
    for (number, start, line) in lines(bytes) {
        if let Some(rest) = line.strip_prefix(BEGIN) {
            if let Some((_, begin, _)) = open {
                return Err(truncated(begin));
            }
            let label = rest.strip_suffix(DASHES).ok_or_else(|| {
                CertError::content(
                    path,
                    format!("line {number} begins a PEM block without ending in -----"),
                    "copy the block again, whole, from where it came",
                )
            })?;
            open = Some((label, number, start));
        } else if let (Some(rest), Some((label, begin, text_start))) =
            (line.strip_prefix(b"-----END "), open)
        {
            if rest.strip_suffix(DASHES) != Some(label) {
                return Err(truncated(begin));
            }
            found.push(Block {
                label,
                line: begin,
                text: &bytes[text_start..start + line.len()],
            });
            open = None;
        }
    }
    match open {
        Some((_, begin, _)) => Err(truncated(begin)),
        None => Ok(found),
    }
}

/// The lines of a text as (number from 1, offset, line without trailing blanks), after a byte order mark if there is one.
fn lines(bytes: &[u8]) -> impl Iterator<Item = (usize, usize, &[u8])> {
    const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
    let mut offset = if bytes.starts_with(BYTE_ORDER_MARK) {
        BYTE_ORDER_MARK.len()
    } else {
        0
    };
    bytes[offset..]
        .split(|byte| *byte == b'\n')
        .enumerate()
        .map(move |(index, line)| {
            let start = offset;
            offset += line.len() + 1;
            (index + 1, start, line.trim_ascii_end())
        })
}

fn check_length(path: &Path, bytes: &[u8]) -> Result<(), CertError> {
    let present = bytes.len() as u64;
    match der_length(bytes) {
        Some(announced) if announced > present => Err(CertError::content(
            path,
            format!("truncated: {present} of {announced} bytes are there"),
            "copy it again, whole, from where it came",
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

fn no_item(path: &Path, noun: &str, blocks: &[Block<'_>]) -> CertError {
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
mod tests {
    use super::*;
    use crate::certs::make::{Usage, key_to_pem, pem_block, to_pem};
    use crate::certs::{IssueRequest, KeyType, MakeCa, Validity, issue, make_ca};
    use std::path::PathBuf;

    struct Fixture {
        folder: tempfile::TempDir,
        certificates: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    }

    impl Fixture {
        fn new(key_type: KeyType) -> Self {
            let ca = make_ca(&MakeCa {
                common_name: "read".into(),
                days: 10,
                key_type: KeyType::P256,
            })
            .unwrap();
            let mut request =
                IssueRequest::new(Usage::Client, "device", Validity::days(5).unwrap());
            request.key_type = key_type;
            let issued = issue(&ca, &request).unwrap();
            let certificates = vec![issued.chain[0].clone(), ca.certificate().clone()];
            Self {
                folder: tempfile::tempdir().unwrap(),
                certificates,
                key: issued.key,
            }
        }

        fn file(&self, content: impl AsRef<[u8]>) -> PathBuf {
            // The ending says the wrong thing on purpose.
            let path = self.folder.path().join("file.crl");
            std::fs::write(&path, content).unwrap();
            path
        }
    }

    #[test]
    fn a_bundle_in_any_order_with_text_between_is_read() {
        let fixture = Fixture::new(KeyType::P256);
        let text = format!(
            "\u{feff}Bag Attributes\r\n{}some words\n{}-----BEGIN DH PARAMETERS-----\nAAAA\n-----END DH PARAMETERS-----\n{}",
            to_pem(&fixture.certificates[..1]).replace('\n', "\r\n"),
            key_to_pem(&fixture.key),
            to_pem(&fixture.certificates[1..]).trim_end(),
        );
        let path = fixture.file(text);
        assert_eq!(read_certificates(&path).unwrap(), fixture.certificates);
        assert_eq!(read_private_key(&path).unwrap(), fixture.key);
        let error = read_crls(&path).unwrap_err().to_string();
        assert!(
            error.contains("file.crl")
                && error.contains("only: CERTIFICATE, PRIVATE KEY, DH PARAMETERS"),
            "{error}"
        );
    }

    #[test]
    fn der_is_told_by_content() {
        let fixture = Fixture::new(KeyType::P384);
        let path = fixture.file(&fixture.certificates[0]);
        assert_eq!(read_certificates(&path).unwrap(), fixture.certificates[..1]);
        assert!(read_private_key(&path).is_err());
        let path = fixture.file(fixture.key.secret_der());
        assert_eq!(read_private_key(&path).unwrap(), fixture.key);
        assert!(read_certificates(&path).is_err());
    }

    #[test]
    fn a_certificate_cut_anywhere_is_refused() {
        let fixture = Fixture::new(KeyType::P256);
        let pem = to_pem(&fixture.certificates[..1]);
        for length in 0..pem.trim_end().len() {
            let path = fixture.file(&pem[..length]);
            assert!(
                read_certificates(&path).is_err(),
                "{length} characters of PEM"
            );
        }
        let der = &fixture.certificates[0];
        for length in 0..der.len() {
            let path = fixture.file(&der[..length]);
            let error = read_certificates(&path).unwrap_err().to_string();
            assert!(
                length < 4 || error.contains("truncated"),
                "{length} bytes of DER: {error}"
            );
        }
        let path = fixture.file([der.as_ref(), b"x"].concat());
        assert!(
            read_certificates(&path)
                .unwrap_err()
                .to_string()
                .contains("1 bytes follow")
        );
    }

    #[test]
    fn a_broken_block_is_named_by_its_line() {
        let fixture = Fixture::new(KeyType::P256);
        let good = to_pem(&fixture.certificates[..1]);
        let lines = good.lines().count();
        for broken in [
            "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n".to_owned(),
            pem_block("CERTIFICATE", b"\x30\x03\x02\x01\x01"),
        ] {
            let error = read_certificates(&fixture.file(good.clone() + &broken))
                .unwrap_err()
                .to_string();
            assert!(error.contains(&format!("line {}", lines + 1)), "{error}");
        }
    }

    #[test]
    fn every_key_kind_is_read_and_no_error_shows_a_key() {
        for key_type in [
            KeyType::P256,
            KeyType::P384,
            KeyType::Ed25519,
            KeyType::Rsa2048,
        ] {
            let fixture = Fixture::new(key_type);
            let pem = key_to_pem(&fixture.key);
            assert_eq!(read_private_key(&fixture.file(&pem)).unwrap(), fixture.key);
            assert!(key_matches(&fixture.certificates[0], &fixture.key));
            assert!(!key_matches(&fixture.certificates[1], &fixture.key));

            let body = pem.lines().nth(1).unwrap().to_owned();
            let secret = &body[20..40];
            for bad in [
                pem.replacen(secret, &format!("{}*", &secret[1..]), 1),
                pem.replacen(&body, &format!("{body}{body}"), 1),
                pem[..pem.len() - 10].to_owned(),
                pem.clone() + &pem,
                pem.replacen("PRIVATE KEY-----\n", "PRIVATE KEY\n", 1),
                pem.replace("PRIVATE", "EC PRIVATE"),
                body.clone(),
            ] {
                match read_private_key(&fixture.file(&bad)) {
                    Err(error) => {
                        let texts = format!("{error} {error:?}");
                        assert!(!texts.contains(&secret[1..]), "{texts}");
                        assert!(texts.contains("file.crl"), "{texts}");
                    }
                    // OpenSSL's code takes PKCS#8 under the label of SEC1, as other readers do.
                    Ok(_) => assert!(bad.contains("EC PRIVATE"), "accepted: {key_type:?}"),
                }
            }
        }
    }

    #[test]
    fn an_encrypted_key_is_called_that_in_each_of_its_forms() {
        let fixture = Fixture::new(KeyType::P256);
        // SEQUENCE { SEQUENCE { OID pbes2 }, OCTET STRING }: the frame of RFC 5958's EncryptedPrivateKeyInfo.
        let der = b"\x30\x12\x30\x0b\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x05\x0d\x04\x03abc";
        let legacy = "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n-----END EC PRIVATE KEY-----\n";
        for content in [
            der.to_vec(),
            pem_block("ENCRYPTED PRIVATE KEY", der).into_bytes(),
            legacy.as_bytes().to_vec(),
        ] {
            let error = read_private_key(&fixture.file(&content)).unwrap_err();
            assert!(matches!(error, CertError::EncryptedKey { .. }), "{error}");
        }
        let bundle = legacy.to_owned() + &to_pem(&fixture.certificates);
        assert_eq!(
            read_certificates(&fixture.file(bundle)).unwrap(),
            fixture.certificates
        );
    }

    #[test]
    fn what_is_no_certificate_file_is_refused_with_its_path() {
        let fixture = Fixture::new(KeyType::P256);
        for content in ["", "hello", "-----BEGIN", "0", "\u{feff}"] {
            let error = read_certificates(&fixture.file(content))
                .unwrap_err()
                .to_string();
            assert!(error.contains("file.crl"), "{content:?}: {error}");
        }
        assert!(
            read_certificates(fixture.folder.path())
                .unwrap_err()
                .to_string()
                .contains("cannot read")
        );
        let missing = fixture.folder.path().join("missing.pem");
        assert!(
            read_crls(&missing)
                .unwrap_err()
                .to_string()
                .contains("missing.pem")
        );
        let large = std::fs::File::create(fixture.folder.path().join("large")).unwrap();
        large.set_len(MAX_CERTIFICATE_FILE + 1).unwrap();
        let error = read_private_key(&fixture.folder.path().join("large")).unwrap_err();
        assert!(matches!(error, CertError::TooLarge { .. }), "{error}");
    }
}
