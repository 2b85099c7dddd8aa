//! PKCS#12 files (RFC 7292) with a password: certificates and private keys.
//!
//! The MAC is checked before anything is decrypted. A missing password opens only a file that has none; the empty password
//! is one like any other, in both of the forms that programs give it. Files that are signed or encrypted for a public
//! key are not read.

use aws_lc_rs::{digest, hmac};
use zeroize::Zeroizing;

use super::kdf::{Purpose, derive};
use super::pbe::{Fault, Password, Work, decrypt, decrypt_key};
use crate::asn1::tag::{CONTEXT_0, INTEGER, OBJECT_IDENTIFIER, SEQUENCE};
use crate::asn1::{Element, Reader};
use crate::limits::MAX_DER_DEPTH;

/// 1.2.840.113549.1.7, and one octet: 1 data, 2 signed, 3 enveloped, 6 encrypted.
const PKCS7: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7];
/// 1.2.840.113549.1.12.10.1, and one octet: the kind of a bag.
const BAG: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 12, 10, 1];
/// 1.2.840.113549.1.9.22.1
const X509_CERTIFICATE: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 22, 1];
/// 1.2.840.113549.1.5.14, of RFC 9579.
const PBMAC1: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 5, 14];
/// 1.3.14.3.2.26
const SHA1: &[u8] = &[0x2b, 14, 3, 2, 26];
/// 2.16.840.1.101.3.4.2, and one octet: 1 SHA-256, 2 SHA-384, 3 SHA-512, 4 SHA-224.
const SHA2: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2];

const BROKEN: Fault = Fault::Broken("the PKCS#12 structure is broken");

/// Content of a file: DER of each, in its order.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// X.509 certificates.
    pub(super) certificates: Vec<Vec<u8>>,
    /// Private keys in PKCS#8.
    pub(super) keys: Vec<Zeroizing<Vec<u8>>>,
}

/// Returns whether `bytes` begin like a PKCS#12 file: version 3, then a content with its kind.
pub(super) fn is_pkcs12(bytes: &[u8]) -> bool {
    let Some(mut pfx) = Reader::ber(bytes).open(SEQUENCE) else {
        return false;
    };
    pfx.take(INTEGER).and_then(|version| version.number()) == Some(3)
        && pfx
            .open(SEQUENCE)
            .is_some_and(|mut content| content.take(OBJECT_IDENTIFIER).is_some())
}

/// Opens a file.
pub(super) fn open(bytes: &[u8], password: Option<&str>) -> Result<Contents, Fault> {
    let mut file = Reader::ber(bytes);
    let mut pfx = file.take(SEQUENCE).ok_or(BROKEN)?.inside();
    if !file.is_empty() {
        return Err(Fault::Broken(
            "bytes follow the end of the PKCS#12 structure",
        ));
    }
    pfx.take(INTEGER).ok_or(BROKEN)?;
    let (kind, content) = content(&pfx.take(SEQUENCE).ok_or(BROKEN)?)?;
    if kind != 1 {
        return Err(Fault::Unsupported("a PKCS#12 file signed with a key"));
    }
    let safe = content.ok_or(BROKEN)?.inside().octets().ok_or(BROKEN)?;
    let mut work = Work::new();
    let mut password = password.map(Password::new);
    if let Some(mac) = pfx.take(SEQUENCE) {
        let given = password.take().ok_or(Fault::PasswordMissing)?;
        password = Some(authenticated(&mac, &safe, given, &mut work)?);
    }
    let mut opening = Opening {
        password,
        work,
        contents: Contents::default(),
    };
    let mut safes = Reader::ber(&safe).take(SEQUENCE).ok_or(BROKEN)?.inside();
    while !safes.is_empty() {
        opening.safe(&safes.take(SEQUENCE).ok_or(BROKEN)?)?;
    }
    Ok(opening.contents)
}

/// The kind of a `ContentInfo` (RFC 5652, section 3), and the `[0]` around its content.
fn content<'a>(info: &Element<'a>) -> Result<(u8, Option<Element<'a>>), Fault> {
    let mut inside = info.inside();
    let kind = inside.take(OBJECT_IDENTIFIER).ok_or(BROKEN)?.content;
    match kind.strip_prefix(PKCS7) {
        Some([kind]) => Ok((*kind, inside.take(CONTEXT_0))),
        _ => Err(Fault::Unsupported("a content that PKCS#12 does not have")),
    }
}

/// Checks the MAC (RFC 7292, section 5.1 and appendix B), and gives back the form of the password that fits.
fn authenticated<'a>(
    mac: &Element<'_>,
    safe: &[u8],
    password: Password<'a>,
    work: &mut Work,
) -> Result<Password<'a>, Fault> {
    let mut inside = mac.inside();
    let mut info = inside.take(SEQUENCE).ok_or(BROKEN)?.inside();
    let mut algorithm = info.take(SEQUENCE).ok_or(BROKEN)?.inside();
    let algorithm = algorithm.take(OBJECT_IDENTIFIER).ok_or(BROKEN)?.content;
    let expected = info.octets().ok_or(BROKEN)?;
    let salt = inside.octets().ok_or(BROKEN)?;
    let count = match inside.take(INTEGER) {
        Some(count) => count.number().filter(|count| *count > 0).ok_or(BROKEN)?,
        None => 1,
    };
    let (mac, digest) = match (algorithm, algorithm.strip_prefix(SHA2)) {
        (SHA1, _) => (
            hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            &digest::SHA1_FOR_LEGACY_USE_ONLY,
        ),
        (_, Some([1])) => (hmac::HMAC_SHA256, &digest::SHA256),
        (_, Some([2])) => (hmac::HMAC_SHA384, &digest::SHA384),
        (_, Some([3])) => (hmac::HMAC_SHA512, &digest::SHA512),
        (_, Some([4])) => (hmac::HMAC_SHA224, &digest::SHA224),
        (PBMAC1, _) => return Err(Fault::Unsupported("a PBMAC1 integrity check")),
        _ => {
            return Err(Fault::Unsupported(
                "an integrity check other than SHA-1 and SHA-2",
            ));
        }
    };
    let mut fits = |password: &Password<'_>| {
        work.spend(count, 1)?;
        let length = digest.output_len;
        let key = derive(digest, Purpose::Mac, &password.utf16, &salt, count, length);
        let key = hmac::Key::new(mac, &key);
        Ok(hmac::verify(&key, safe, &expected).is_ok())
    };
    if fits(&password)? {
        return Ok(password);
    }
    let other = Password::without_octets();
    if password.is_empty() && fits(&other)? {
        return Ok(other);
    }
    Err(Fault::PasswordWrong)
}

/// A file whose parts are being opened.
struct Opening<'a> {
    password: Option<Password<'a>>,
    work: Work,
    contents: Contents,
}

impl Opening<'_> {
    /// One `ContentInfo` of the authenticated safe (RFC 7292, section 4.1).
    fn safe(&mut self, info: &Element<'_>) -> Result<(), Fault> {
        let (kind, content) = content(info)?;
        let mut inside = content.ok_or(BROKEN)?.inside();
        match kind {
            1 => self.bags(&inside.octets().ok_or(BROKEN)?, 0),
            6 => {
                let mut data = inside.take(SEQUENCE).ok_or(BROKEN)?.inside();
                data.take(INTEGER).ok_or(BROKEN)?;
                let mut data = data.take(SEQUENCE).ok_or(BROKEN)?.inside();
                data.take(OBJECT_IDENTIFIER).ok_or(BROKEN)?;
                let algorithm = data.take(SEQUENCE).ok_or(BROKEN)?;
                // [0] IMPLICIT OCTET STRING, whole or in pieces.
                let encrypted = data.any().and_then(|data| data.octets()).ok_or(BROKEN)?;
                let password = self.password.as_ref().ok_or(Fault::PasswordMissing)?;
                let plain = decrypt(&algorithm, &encrypted, password, &mut self.work)?;
                self.bags(&plain, 0)
            }
            _ => Err(Fault::Unsupported(
                "a PKCS#12 file encrypted for a public key",
            )),
        }
    }

    /// `SafeContents` (RFC 7292, section 4.2).
    fn bags(&mut self, bytes: &[u8], depth: usize) -> Result<(), Fault> {
        let mut bags = Reader::ber(bytes).take(SEQUENCE).ok_or(BROKEN)?.inside();
        while !bags.is_empty() {
            let mut bag = bags.take(SEQUENCE).ok_or(BROKEN)?.inside();
            let kind = bag.take(OBJECT_IDENTIFIER).ok_or(BROKEN)?.content;
            let value = bag.take(CONTEXT_0).ok_or(BROKEN)?;
            self.bag(kind.strip_prefix(BAG), &value, depth)?;
        }
        Ok(())
    }

    fn bag(&mut self, kind: Option<&[u8]>, value: &Element<'_>, depth: usize) -> Result<(), Fault> {
        let mut inside = value.inside();
        match kind {
            Some([1]) => {
                let key = inside.take(SEQUENCE).ok_or(BROKEN)?;
                self.contents.keys.push(Zeroizing::new(key.whole.to_vec()));
            }
            Some([2]) => {
                let key = inside.take(SEQUENCE).ok_or(BROKEN)?;
                let password = self.password.as_ref().ok_or(Fault::PasswordMissing)?;
                let key = decrypt_key(&key, password, &mut self.work)?;
                self.contents.keys.push(key);
            }
            Some([3]) => {
                let mut bag = inside.take(SEQUENCE).ok_or(BROKEN)?.inside();
                let kind = bag.take(OBJECT_IDENTIFIER).ok_or(BROKEN)?.content;
                if kind != X509_CERTIFICATE {
                    return Err(Fault::Unsupported("a certificate that is not X.509"));
                }
                let mut value = bag.take(CONTEXT_0).ok_or(BROKEN)?.inside();
                let certificate = value.octets().ok_or(BROKEN)?;
                self.contents.certificates.push(certificate.into_owned());
            }
            Some([6]) if depth < MAX_DER_DEPTH => self.bags(value.content, depth + 1)?,
            Some([6]) => return Err(BROKEN),
            // CRLs, secrets and what others put there are no part of an identity.
            _ => {}
        }
        Ok(())
    }
}
