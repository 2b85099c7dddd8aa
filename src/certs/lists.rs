//! Reading revocation lists from files and from what servers give. Of a list its frame alone is looked at.
//!
//! Authorities, certutil and mail programs wrap lists in many ways: what is a list inside is taken, whatever its PEM block
//! is called, and what is none is told by what it looks like.

use std::path::Path;

use rustls_pki_types::CertificateRevocationListDer;

use super::CertError;
use super::blocks::{blocks, is_certificate};
use super::frame::{der_length, is_crl};
use super::pkcs7::is_pkcs7;
use super::read::{Encoding, check_length, load, no_item};
use crate::limits::MAX_CRL_FILE;

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
    match Encoding::of(&bytes) {
        Encoding::Pem => in_pem(path, &bytes),
        Encoding::Der => {
            // Half a gigabyte is not copied.
            check_length(path, &bytes)?;
            if is_crl(&bytes) {
                Ok(vec![bytes.into()])
            } else {
                Err(no_list(path, &bytes))
            }
        }
        Encoding::Unknown => Err(no_list(path, &bytes)),
    }
}

fn in_pem(
    path: &Path,
    bytes: &[u8],
) -> Result<Vec<CertificateRevocationListDer<'static>>, CertError> {
    let blocks = blocks(path, bytes)?;
    let mut found = Vec::new();
    let mut broken = None;
    for block in blocks.iter().filter(|block| !block.is_private_key()) {
        let is_called_list = block.label == b"X509 CRL" || block.label == b"CRL";
        match block.decode(path) {
            // certutil puts whatever it encodes between the lines of a certificate.
            Ok(der) if is_crl(&der) => found.push(der.into()),
            Ok(_) if is_called_list => return Err(block.broken(path, "CRL")),
            Err(error) if is_called_list => return Err(error),
            Ok(_) => {}
            Err(error) => broken = Some(error),
        }
    }
    match (found.is_empty(), broken) {
        (false, _) => Ok(found),
        (true, Some(error)) => Err(error),
        (true, None) => Err(no_item(path, "CRL", &blocks)),
    }
}

/// Returns what is there instead of a list.
fn no_list(path: &Path, bytes: &[u8]) -> CertError {
    let text = bytes.trim_ascii_start();
    let is_base64 = |octet: &u8| octet.is_ascii_alphanumeric() || b"+/=\r\n".contains(octet);
    let (problem, remedy) = if bytes.is_empty() {
        (
            "it is empty",
            "write it under another name and rename it, so that it is never empty",
        )
    } else if bytes.starts_with(&[0x1f, 0x8b]) || bytes.starts_with(b"PK\x03\x04") {
        (
            "it is compressed (gzip or zip)",
            "unpack it; a server must send it without Content-Encoding",
        )
    } else if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        (
            "it is text in UTF-16",
            "save it as ASCII (in PowerShell: Out-File -Encoding ascii)",
        )
    } else if text.starts_with(b"<") {
        (
            "it is an HTML or XML page",
            "name the URL of the list itself, not of a page about it, of a login or of an error",
        )
    } else if der_length(bytes).is_some() && is_certificate(bytes) {
        ("it is a certificate", "name the file of the list")
    } else if is_pkcs7(bytes) {
        (
            "it is PKCS#7",
            "take the list out of it (openssl pkcs7 -print_certs prints lists too)",
        )
    } else if bytes.len() >= 64 && bytes.starts_with(b"M") && bytes.iter().all(is_base64) {
        (
            "it is base64 without a line -----BEGIN X509 CRL-----",
            "put that line before it and -----END X509 CRL----- behind it, or decode it",
        )
    } else {
        return no_item(path, "CRL", &[]);
    };
    CertError::content(path, format!("holds no CRL: {problem}"), remedy)
}

#[cfg(test)]
mod tests {
    use super::super::pem::pem_block;
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    /// The frame of a list: a version, two sequences and a time.
    fn list() -> Vec<u8> {
        let inner = [&[2, 1, 1, 0x30, 0, 0x30, 0, 0x17, 13][..], b"260101000000Z"].concat();
        let mut list = vec![0x30, inner.len() as u8];
        list.extend(&inner);
        let mut whole = vec![0x30, list.len() as u8];
        whole.extend(&list);
        whole
    }

    fn read(bytes: impl Into<Vec<u8>>) -> Result<usize, String> {
        crls_in(Path::new("ca.crl"), bytes.into())
            .map(|lists| lists.len())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_list_is_taken_from_whatever_it_is_wrapped_in() {
        let list = list();
        assert_eq!(read(list.clone()), Ok(1));
        for label in [
            "X509 CRL",
            "CRL",
            "CERTIFICATE",
            "X509 CERTIFICATE",
            "PUBLIC THING",
        ] {
            let block = pem_block(label, &list);
            assert_eq!(read(block.clone()), Ok(1), "{label}");
            assert_eq!(read(block.replace('\n', "\r\n")), Ok(1), "{label}");
            assert_eq!(read(block.replace('\n', "  \r\n")), Ok(1), "{label}");
            assert_eq!(
                read(format!("\u{feff}issuer=a\n\n{block}\n{block}")),
                Ok(2),
                "{label}"
            );
        }
        let beside = pem_block("X509 CRL", &list) + &pem_block("CERTIFICATE", &[0x30, 0]);
        assert_eq!(read(beside), Ok(1));
    }

    #[test]
    fn what_is_no_list_is_told_by_what_it_looks_like() {
        let list = list();
        let base64 = STANDARD.encode([&list[..], &list].concat());
        for (bytes, words) in [
            (Vec::new(), "empty"),
            (vec![0x1f, 0x8b, 8, 0, 0], "gzip"),
            (b"PK\x03\x04....".to_vec(), "zip"),
            (b"\xff\xfe-\0-\0".to_vec(), "UTF-16"),
            (b"\n <!DOCTYPE html><html>".to_vec(), "HTML"),
            (base64.into_bytes(), "-----BEGIN X509 CRL-----"),
            (b"nothing".to_vec(), "holds no CRL in PEM or DER"),
            (list[..list.len() - 1].to_vec(), "truncated"),
            ([&list[..], b"x"].concat(), "follow the end"),
            (
                pem_block("X509 CRL", &list[..9]).into_bytes(),
                "line 1 is broken",
            ),
            (
                pem_block("CERTIFICATE", &[0x30, 0]).into_bytes(),
                "only: CERTIFICATE",
            ),
            (b"-----BEGIN X509 CRL".to_vec(), "line 1"),
        ] {
            let error = read(bytes).unwrap_err();
            assert!(
                error.contains("ca.crl") && error.contains(words),
                "{words}: {error}"
            );
        }
    }
}
