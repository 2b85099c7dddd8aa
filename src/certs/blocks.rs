//! The blocks of a PEM file (RFC 7468), of whatever kind and in any order, with text between them.

use std::borrow::Cow;
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustls_pki_types::pem::{PemObject, SectionKind};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use zeroize::Zeroize;

use super::CertError;
use super::pkcs7::is_pkcs7;
use super::read::from_pkcs7;
use crate::asn1::Reader;
use crate::asn1::tag::{CONTEXT_0, SEQUENCE};

pub(super) const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"-----END ";
const DASHES: &[u8] = b"-----";

/// One block of a PEM file; its line is that of its BEGIN, from 1; its text includes BEGIN and END.
pub(super) struct PemBlock<'a> {
    pub(super) label: &'a [u8],
    pub(super) line: usize,
    text: &'a [u8],
}

impl PemBlock<'_> {
    pub(super) fn kind(&self) -> Option<SectionKind> {
        SectionKind::try_from(self.label).ok()
    }

    pub(super) fn is_private_key(&self) -> bool {
        self.label.ends_with(b"PRIVATE KEY")
    }

    /// Returns whether its label says that it holds certificates: by itself (RFC 7468, section 5),
    /// as older programs have called it, with OpenSSL's settings of trust behind it, or in a
    /// container (section 9).
    fn is_of_certificates(&self) -> bool {
        const LABELS: [&[u8]; 3] = [b"CERTIFICATE", b"X509 CERTIFICATE", b"TRUSTED CERTIFICATE"];
        self.is_container() || LABELS.contains(&self.label)
    }

    /// Returns whether its label says that it is a container of certificates.
    fn is_container(&self) -> bool {
        self.label == b"PKCS7" || self.label == b"CMS"
    }

    /// Returns whether its label says that it holds something else that bundles have.
    fn is_of_another_kind(&self) -> bool {
        const LABELS: [&[u8]; 8] = [
            b"X509 CRL",
            b"CRL",
            b"PUBLIC KEY",
            b"EC PARAMETERS",
            b"DH PARAMETERS",
            b"CERTIFICATE REQUEST",
            b"NEW CERTIFICATE REQUEST",
            b"ATTRIBUTE CERTIFICATE",
        ];
        self.is_private_key() || LABELS.contains(&self.label)
    }

    /// The certificates in it, in DER. What the content is counts, under whatever label, so that none is passed over.
    ///
    /// # Errors
    /// [`CertError::Content`] where it should hold some, and cannot be read, or OpenSSL's settings forbid its use.
    pub(super) fn certificates(&self, path: &Path) -> Result<Vec<Vec<u8>>, CertError> {
        if self.is_of_another_kind() {
            return Ok(Vec::new());
        }
        let der = match self.decode(path) {
            Err(_) if !self.is_of_certificates() => return Ok(Vec::new()),
            decoded => decoded?,
        };
        if is_certificate(&der) {
            return Ok(vec![der]);
        }
        // Of another type, such as enveloped data, it is said to be none that can be read.
        if is_pkcs7(&der) || self.is_container() {
            return from_pkcs7(path, &der);
        }
        if self.label != b"CERTIFICATE"
            && let Some((certificate, settings)) = with_settings(&der)
        {
            return match settings.allow_tls() {
                true => Ok(vec![certificate.to_vec()]),
                false => Err(CertError::content(
                    path,
                    format!(
                        "the certificate that begins on line {} is marked as not trusted for TLS (OpenSSL's settings of trust)",
                        self.line
                    ),
                    "leave it out, or remove the settings with `openssl x509 -in FILE -out FILE.pem`",
                )),
            };
        }
        match self.is_of_certificates() {
            true => Err(self.broken(path, "certificate")),
            false => Ok(Vec::new()),
        }
    }

    pub(super) fn broken(&self, path: &Path, noun: &str) -> CertError {
        CertError::content(
            path,
            format!("the {noun} that begins on line {} is broken", self.line),
            "export it again from its source",
        )
    }

    pub(super) fn is_encrypted(&self) -> bool {
        // RFC 7468 section 11, and the older encapsulated header of RFC 1421 section 4.6.1.1 that OpenSSL still writes.
        self.label == b"ENCRYPTED PRIVATE KEY" || self.has_old_encryption()
    }

    /// Returns whether it has the encapsulated header.
    pub(super) fn has_old_encryption(&self) -> bool {
        lines(self.text).any(|(_, _, line)| line.starts_with(b"Proc-Type:"))
    }

    pub(super) fn decode(&self, path: &Path) -> Result<Vec<u8>, CertError> {
        let mut text = with_line_feeds(self.text);
        // The crate knows the kinds of TLS only; it decodes keys in constant time.
        let decoded = if self.kind().is_some() {
            let section: Result<(SectionKind, Vec<u8>), _> = PemObject::from_pem_slice(&text);
            section.map(|(_, der)| der).ok()
        } else {
            content(&text)
        };
        if let Cow::Owned(copy) = &mut text {
            // It may be a key.
            copy.zeroize();
        }
        match decoded {
            Some(der) => Ok(der),
            None => Err(CertError::content(
                path,
                format!(
                    "the PEM block that begins on line {} is not valid base64",
                    self.line
                ),
                "copy it again completely from its source",
            )),
        }
    }
}

/// Returns what a block holds, behind headers if it has some (RFC 1421, section 4.4).
fn content(text: &[u8]) -> Option<Vec<u8>> {
    let all: Vec<&[u8]> = lines(text).map(|(_, _, line)| line).collect();
    let [_, inner @ .., _] = &all[..] else {
        return None;
    };
    let mut inner = inner;
    if inner.first().is_some_and(|line| line.contains(&b':')) {
        let headers = inner.iter().position(|line| line.is_empty())?;
        inner = &inner[headers..];
    }
    let mut letters = inner.concat();
    letters.retain(|letter| !letter.is_ascii_whitespace());
    BASE64_STANDARD.decode(letters).ok()
}

pub(super) fn is_certificate(der: &[u8]) -> bool {
    matches!(X509Certificate::from_der(der), Ok((rest, _)) if rest.is_empty())
}

/// Trust settings that OpenSSL writes after a `TRUSTED CERTIFICATE`: what it is trusted for, if not
/// for all, and what it is not.
struct Settings<'a> {
    trusted: Option<Reader<'a>>,
    rejected: Option<Reader<'a>>,
}

impl Settings<'_> {
    /// Returns whether nothing in them speaks against TLS.
    fn allow_tls(&self) -> bool {
        const ANY: &[u8] = &[0x55, 0x1d, 0x25, 0];
        const SERVER: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
        const CLIENT: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];
        let names_tls = |list: Reader<'_>| {
            let mut list = list;
            std::iter::from_fn(|| list.any())
                .any(|purpose| [ANY, SERVER, CLIENT].contains(&purpose.content))
        };
        self.trusted.is_none_or(names_tls) && !self.rejected.is_some_and(names_tls)
    }
}

/// A certificate, and OpenSSL's settings behind it: `SEQUENCE { trust SEQUENCE OF OID OPTIONAL, reject [0] OPTIONAL, ... }`.
fn with_settings(der: &[u8]) -> Option<(&[u8], Settings<'_>)> {
    let mut all = Reader::ber(der);
    let certificate = all.take(SEQUENCE)?.whole;
    let mut settings = all.take(SEQUENCE)?.inside();
    if !all.is_empty() || !is_certificate(certificate) {
        return None;
    }
    let settings = Settings {
        trusted: settings.take(SEQUENCE).map(|list| list.inside()),
        rejected: settings.take(CONTEXT_0).map(|list| list.inside()),
    };
    Some((certificate, settings))
}

/// Finds the blocks of a PEM file, of whatever kind.
pub(super) fn blocks<'a>(path: &Path, bytes: &'a [u8]) -> Result<Vec<PemBlock<'a>>, CertError> {
    let truncated = |line: usize| {
        CertError::content(
            path,
            format!("the PEM block that begins on line {line} has no end: the file is truncated"),
            "copy it again completely from its source",
        )
    };
    let joined = |line: usize| {
        CertError::content(
            path,
            format!("a line break is missing on line {line}, in front of -----BEGIN or -----END"),
            "add it: each of the files that are joined must end in a line break",
        )
    };
    let mut found = Vec::new();
    let mut open: Option<(&[u8], usize, usize)> = None;
    for (number, start, line) in lines(bytes) {
        match open {
            Some(_) if has_mark_inside(line) => return Err(joined(number)),
            Some(_) => {}
            None => refuse_damaged(path, number, line)?,
        }
        if let Some(rest) = line.strip_prefix(BEGIN) {
            if let Some((_, begin, _)) = open {
                return Err(truncated(begin));
            }
            let label = rest.strip_suffix(DASHES).ok_or_else(|| {
                CertError::content(
                    path,
                    format!("line {number} begins a PEM block without ending in -----"),
                    "copy the block again completely from its source",
                )
            })?;
            open = Some((label, number, start));
        } else if let (Some(rest), Some((label, begin, text_start))) =
            (line.strip_prefix(END), open)
        {
            if rest.strip_suffix(DASHES) != Some(label) {
                return Err(truncated(begin));
            }
            found.push(PemBlock {
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

/// Refuses what shows, outside of all blocks, that the beginning of one is damaged: what it holds would be left out in
/// silence.
fn refuse_damaged(path: &Path, number: usize, line: &[u8]) -> Result<(), CertError> {
    let refused = |problem: &str, remedy: &'static str| {
        Err(CertError::content(
            path,
            format!("line {number} {problem}"),
            remedy,
        ))
    };
    const AGAIN: &str = "copy the block again completely from its source";
    // A comment is left out on purpose.
    if line.starts_with(BEGIN) || line.starts_with(b"#") {
        return Ok(());
    }
    if line.starts_with(END) {
        return refused("ends a PEM block that does not begin", AGAIN);
    }
    if has_mark_inside(line) {
        return refused(
            "has something in front of -----BEGIN or -----END",
            "remove it (blanks, a dash or a quotation mark); each of the files that are joined must end in a \
                line break",
        );
    }
    if is_nearly_a_mark(line) {
        return refused(
            "is almost the beginning or the end of a PEM block",
            "write it like -----BEGIN CERTIFICATE-----: five dashes, capital letters",
        );
    }
    if is_content(line) {
        return refused("is the content of a PEM block that does not begin", AGAIN);
    }
    Ok(())
}

/// Returns whether a line has what is meant as the beginning or the end of a block: in small
/// letters, or a dash short.
fn is_nearly_a_mark(line: &[u8]) -> bool {
    const MARKS: [&[u8]; 2] = [b"----BEGIN ", b"----END "];
    let is_mark = |mark: &[u8]| {
        line.windows(mark.len())
            .any(|part| part.eq_ignore_ascii_case(mark))
    };
    MARKS.into_iter().any(is_mark)
}

/// Returns whether a line is the first of a certificate in base64: a SEQUENCE with a length of two
/// octets. Words are not as long.
fn is_content(line: &[u8]) -> bool {
    const FIRST_OCTETS: &[u8] = b"MII";
    const WRAPPED_AT: usize = 60;
    let line = line.trim_ascii_start();
    let line = line.strip_prefix(b">").unwrap_or(line).trim_ascii_start();
    let is_base64 = |octet: &u8| octet.is_ascii_alphanumeric() || b"+/=".contains(octet);
    line.len() >= WRAPPED_AT && line.starts_with(FIRST_OCTETS) && line.iter().all(is_base64)
}

/// Returns whether a line has the beginning or the end of a block behind something else.
fn has_mark_inside(line: &[u8]) -> bool {
    let mark = |at: &[u8]| at.starts_with(BEGIN) || at.starts_with(END);
    (1..line.len()).any(|at| line[at] == b'-' && mark(&line[at..]))
}

/// The lines of a text as (number from 1, offset, line without trailing blanks), after a byte order mark if there is one.
/// They end in LF, CR LF or, as old programs write them, CR.
pub(super) fn lines(bytes: &[u8]) -> impl Iterator<Item = (usize, usize, &[u8])> {
    const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
    let mut rest = Some(bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes));
    let mut number = 0;
    std::iter::from_fn(move || {
        let text = rest?;
        let start = bytes.len() - text.len();
        let end = text.iter().position(|octet| matches!(octet, b'\r' | b'\n'));
        let line = &text[..end.unwrap_or(text.len())];
        rest = end.map(|end| {
            let behind = &text[end..];
            behind.strip_prefix(b"\r\n").unwrap_or(&behind[1..])
        });
        number += 1;
        Some((number, start, line.trim_ascii_end()))
    })
}

/// A text with its line ends as LF, where some are CR alone, which decoders do not know.
fn with_line_feeds(text: &[u8]) -> Cow<'_, [u8]> {
    let is_alone = |at: usize| text[at] == b'\r' && text.get(at + 1) != Some(&b'\n');
    if !(0..text.len()).any(is_alone) {
        return Cow::Borrowed(text);
    }
    let octets = text.iter().map(|octet| match octet {
        b'\r' => b'\n',
        other => *other,
    });
    Cow::Owned(octets.collect())
}
