//! Encryption under a password: PBES2 (RFC 8018, section 6.2) and the older schemes of PKCS#12 (RFC 7292, appendices B and C).
//!
//! The work that a file asks for is known before it is done, and bounded for the file as a whole ([`Work`]). Ciphers come
//! from crates; what is here chooses among them.

use aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY;
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockCipherDecrypt, BlockModeDecrypt, KeyInit, KeyIvInit};
use pkcs5::der::Decode;
use zeroize::Zeroizing;

use super::kdf::{Purpose, derive};
use crate::asn1::tag::{INTEGER, OBJECT_IDENTIFIER, SEQUENCE};
use crate::asn1::{Element, Reader};
use crate::limits::MAX_PASSWORD_ITERATIONS;

/// 1.2.840.113549.1.5.13
const PBES2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 5, 13];
/// 1.2.840.113549.1.5.12
const PBKDF2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 5, 12];
/// 1.2.840.113549.1.12.1, and one octet that says which scheme.
const PKCS12_PBE: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 12, 1];

/// Why something protected by a password could not be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is not what it should be, or is cut off.
    Broken(&'static str),
    /// A scheme that is not read.
    Unsupported(&'static str),
    /// More work than is done for one file.
    TooMuchWork(u64),
    /// There is a password, and none was given.
    PasswordMissing,
    /// Another password. A changed file looks the same.
    PasswordWrong,
}

/// How many iterations of key derivation are left for one file.
#[derive(Debug)]
pub(super) struct Work(u64);

impl Work {
    pub(super) fn new() -> Self {
        Self(MAX_PASSWORD_ITERATIONS)
    }

    /// Takes `iterations` of `blocks` off, or refuses them.
    pub(super) fn spend(&mut self, iterations: u64, blocks: u64) -> Result<(), Fault> {
        let left = self.0.checked_sub(iterations.saturating_mul(blocks));
        self.0 = left.ok_or(Fault::TooMuchWork(iterations))?;
        Ok(())
    }
}

/// A password in the two forms in which it is used.
pub(super) struct Password<'a> {
    /// As PBES2 takes it.
    utf8: &'a str,
    /// As PKCS#12 derives from it: UTF-16, big-endian, with a final zero (RFC 7292, appendix B.1).
    pub(super) utf16: Zeroizing<Vec<u8>>,
}

impl<'a> Password<'a> {
    pub(super) fn new(utf8: &'a str) -> Self {
        let units = utf8.encode_utf16().chain([0]);
        Self {
            utf8,
            utf16: Zeroizing::new(units.flat_map(u16::to_be_bytes).collect()),
        }
    }

    /// The other form of an empty password: no octet, not even the final zero. Some programs write that.
    pub(super) fn without_octets() -> Self {
        Self {
            utf8: "",
            utf16: Zeroizing::default(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.utf8.is_empty()
    }
}

/// Decrypts what an `EncryptedPrivateKeyInfo` (RFC 5958, section 3) holds: a private key in PKCS#8.
pub(super) fn decrypt_key(
    info: &Element<'_>,
    password: &Password<'_>,
    work: &mut Work,
) -> Result<Zeroizing<Vec<u8>>, Fault> {
    const BROKEN: Fault = Fault::Broken("the encrypted private key is broken");
    let mut inside = info.inside();
    let algorithm = inside.take(SEQUENCE).ok_or(BROKEN)?;
    let encrypted = inside.octets().ok_or(BROKEN)?;
    decrypt(&algorithm, &encrypted, password, work)
}

/// Decrypts `encrypted` as an `AlgorithmIdentifier` says. A wrong password shows in the padding, most of the time.
pub(super) fn decrypt(
    algorithm: &Element<'_>,
    encrypted: &[u8],
    password: &Password<'_>,
    work: &mut Work,
) -> Result<Zeroizing<Vec<u8>>, Fault> {
    const BROKEN: Fault = Fault::Broken("its encryption parameters are broken");
    let mut inside = algorithm.inside();
    let scheme = inside.take(OBJECT_IDENTIFIER).ok_or(BROKEN)?.content;
    let parameters = inside.take(SEQUENCE).ok_or(BROKEN)?;
    if scheme == PBES2 {
        return pbes2(&parameters, encrypted, password, work);
    }
    let Some([scheme]) = scheme.strip_prefix(PKCS12_PBE) else {
        return Err(Fault::Unsupported("an encryption other than PBES2"));
    };
    let mut inside = parameters.inside();
    let salt = inside.octets().ok_or(BROKEN)?;
    let count = inside.take(INTEGER).and_then(|count| count.number());
    let count = count.filter(|count| *count > 0).ok_or(BROKEN)?;
    // The longest key takes two blocks of SHA-1, the initialization vector one.
    work.spend(count, 3)?;
    let derive = |purpose, length| {
        let sha1 = &SHA1_FOR_LEGACY_USE_ONLY;
        derive(sha1, purpose, &password.utf16, &salt, count, length)
    };
    let (key, vector) = (Purpose::Key, Purpose::InitializationVector);
    match scheme {
        3 => cbc::<des::TdesEde3>(&derive(key, 24), &derive(vector, 8), encrypted),
        4 => cbc::<des::TdesEde2>(&derive(key, 16), &derive(vector, 8), encrypted),
        5 => cbc::<rc2::Rc2>(&derive(key, 16), &derive(vector, 8), encrypted),
        6 => cbc::<rc2::Rc2>(&derive(key, 5), &derive(vector, 8), encrypted),
        _ => Err(Fault::Unsupported("encryption with RC4")),
    }
}

fn pbes2(
    parameters: &Element<'_>,
    encrypted: &[u8],
    password: &Password<'_>,
    work: &mut Work,
) -> Result<Zeroizing<Vec<u8>>, Fault> {
    const BROKEN: Fault = Fault::Broken("its PBES2 parameters are broken");
    // The count is looked at before the crate sees any of it.
    let mut derivation = parameters.inside().take(SEQUENCE).ok_or(BROKEN)?.inside();
    if derivation.take(OBJECT_IDENTIFIER).ok_or(BROKEN)?.content != PBKDF2 {
        return Err(Fault::Unsupported("a key derivation other than PBKDF2"));
    }
    let mut inside: Reader<'_> = derivation.take(SEQUENCE).ok_or(BROKEN)?.inside();
    inside.octets().ok_or(BROKEN)?;
    let count = inside.take(INTEGER).and_then(|count| count.number());
    // Keys of 32 octets are two blocks of SHA-1.
    work.spend(count.ok_or(BROKEN)?, 2)?;

    let scheme = pkcs5::pbes2::Parameters::from_der(parameters.whole)
        .map_err(|_| Fault::Unsupported("a cipher or digest that PBES2 has only in theory"))?;
    match scheme.decrypt(password.utf8, encrypted) {
        Ok(plain) => Ok(Zeroizing::new(plain)),
        Err(pkcs5::Error::UnsupportedAlgorithm { .. } | pkcs5::Error::NoPbes1CryptSupport) => {
            Err(Fault::Unsupported("a cipher or digest that is not known"))
        }
        Err(_) => Err(Fault::PasswordWrong),
    }
}

fn cbc<C>(key: &[u8], vector: &[u8], encrypted: &[u8]) -> Result<Zeroizing<Vec<u8>>, Fault>
where
    C: KeyInit + BlockCipherDecrypt,
{
    let cipher = cbc::Decryptor::<C>::new_from_slices(key, vector)
        .map_err(|_| Fault::Broken("its encryption parameters are broken"))?;
    let plain = cipher.decrypt_padded_vec::<Pkcs7>(encrypted);
    plain.map(Zeroizing::new).map_err(|_| Fault::PasswordWrong)
}
