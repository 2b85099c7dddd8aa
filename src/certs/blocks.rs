//! The blocks of a PEM file (RFC 7468), of whatever kind and in any order, with text between them.

use std::path::Path;

use rustls_pki_types::pem::{PemObject, SectionKind};

use super::CertError;

pub(super) const BEGIN: &[u8] = b"-----BEGIN ";
const DASHES: &[u8] = b"-----";

/// One block of a PEM file; its line is that of its BEGIN, from 1; its text includes BEGIN and END.
pub(super) struct Block<'a> {
    pub(super) label: &'a [u8],
    pub(super) line: usize,
    text: &'a [u8],
}

impl Block<'_> {
    pub(super) fn kind(&self) -> Option<SectionKind> {
        SectionKind::try_from(self.label).ok()
    }

    pub(super) fn is_private_key(&self) -> bool {
        self.label.ends_with(b"PRIVATE KEY")
    }

    /// A container of certificates: as OpenSSL has called it, and as RFC 7468, section 9, does.
    pub(super) fn is_pkcs7(&self) -> bool {
        self.label == b"PKCS7" || self.label == b"CMS"
    }

    pub(super) fn broken(&self, path: &Path, noun: &str) -> CertError {
        CertError::content(
            path,
            format!("the {noun} that begins on line {} is broken", self.line),
            "export it again from where it came",
        )
    }

    pub(super) fn is_encrypted(&self) -> bool {
        // RFC 7468 section 11, and the older encapsulated header of RFC 1421 section 4.6.1.1 that OpenSSL still writes.
        self.label == b"ENCRYPTED PRIVATE KEY"
            || lines(self.text).any(|(_, _, line)| line.starts_with(b"Proc-Type:"))
    }

    pub(super) fn decode(&self, path: &Path) -> Result<Vec<u8>, CertError> {
        // The first knows the kinds of TLS only, and reads those with less copying.
        let decoded = if self.kind().is_some() {
            let section: Result<(SectionKind, Vec<u8>), _> = PemObject::from_pem_slice(self.text);
            section.map(|(_, der)| der).ok()
        } else {
            pem::parse(self.text).map(pem::Pem::into_contents).ok()
        };
        match decoded {
            Some(der) => Ok(der),
            None => Err(CertError::content(
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
pub(super) fn blocks<'a>(path: &Path, bytes: &'a [u8]) -> Result<Vec<Block<'a>>, CertError> {
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
pub(super) fn lines(bytes: &[u8]) -> impl Iterator<Item = (usize, usize, &[u8])> {
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
