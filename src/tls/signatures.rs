//! The signatures on certificates, remembered.
//!
//! The signature on a peer's certificate is the same at each of its sessions, full or resumed, and
//! its check the only expensive part of the chain's. Whether a key made a signature over a message
//! is a fact that cannot change, so a check that succeeded is remembered under a digest of all
//! three; nothing else is: validity, usage, path and revocation are asked each time. A signature
//! that fails is checked again each time too, so that nobody can fill the memory with them.
//!
//! Each core remembers for itself.

use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::LazyLock;

use aws_lc_rs::digest;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls_pki_types::{
    AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm, alg_id,
};

use super::fields::{Signed, whole_octets};
use crate::asn1::{Reader, tag};
use crate::limits::SIGNATURES_REMEMBERED;

/// The provider's algorithms; those for the signatures on certificates remember. A signature of the
/// handshake itself is another one each time.
#[must_use]
pub fn remembering() -> WebPkiSupportedAlgorithms {
    static CERTIFICATES: LazyLock<Vec<&'static dyn SignatureVerificationAlgorithm>> =
        LazyLock::new(|| {
            let all = default_provider().signature_verification_algorithms.all;
            all.iter()
                .map(|algorithm| -> &'static dyn SignatureVerificationAlgorithm {
                    Box::leak(Box::new(Remembering(*algorithm)))
                })
                .collect()
        });
    WebPkiSupportedAlgorithms {
        all: &CERTIFICATES,
        ..default_provider().signature_verification_algorithms
    }
}

/// Why a signature counts for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unverified {
    /// It is of an algorithm that is not checked here.
    Algorithm,
    /// The key is of a kind, or too short, for the signatures that are checked here.
    Key,
    /// It was not made over these octets with this key.
    Wrong,
}

/// The least bits of an RSA key, as the algorithms have it.
const RSA_BITS_MIN: usize = 2048;

/// Checks a signature on a certificate or a list with what checks those of chains. Nothing is
/// remembered: a list may be hundreds of megabytes long. `key` is the contents of a
/// `SubjectPublicKeyInfo`.
pub(super) fn verify(signed: &Signed<'_>, key: &[u8]) -> Result<(), Unverified> {
    let mut info = Reader::der(key);
    let kind = info.take(tag::SEQUENCE).map(|kind| kind.content);
    let bits = info.take(tag::BIT_STRING).map(|bits| bits.content);
    let (Some(kind), Some(bits)) = (kind, bits.and_then(whole_octets)) else {
        return Err(Unverified::Key);
    };
    let mut outcome = Err(Unverified::Algorithm);
    for algorithm in default_provider().signature_verification_algorithms.all {
        if algorithm.signature_alg_id().as_ref() != signed.algorithm {
            continue;
        }
        if algorithm.public_key_alg_id().as_ref() != kind {
            outcome = Err(Unverified::Key);
            continue;
        }
        let verified = algorithm.verify_signature(bits, signed.message, signed.signature);
        return verified.map_err(|_| match rsa_bits(kind, bits) {
            Some(..RSA_BITS_MIN) => Unverified::Key,
            _ => Unverified::Wrong,
        });
    }
    outcome
}

/// How long an RSA key is.
fn rsa_bits(kind: &[u8], bits: &[u8]) -> Option<usize> {
    if kind != alg_id::RSA_ENCRYPTION.as_ref() {
        return None;
    }
    let modulus = Reader::der(bits).enter(tag::SEQUENCE)?.take(tag::INTEGER)?;
    let zeros = modulus.content.iter().take_while(|octet| **octet == 0);
    let octets = &modulus.content[zeros.count()..];
    Some(8 * octets.len() - octets.first()?.leading_zeros() as usize)
}

/// A digest of algorithm, key, message and signature.
type Fact = [u8; digest::SHA256_OUTPUT_LEN];

thread_local! {
    static FACTS: RefCell<HashSet<Fact>> = RefCell::default();
}

#[derive(Debug)]
struct Remembering(&'static dyn SignatureVerificationAlgorithm);

impl Remembering {
    fn fact(&self, public_key: &[u8], message: &[u8], signature: &[u8]) -> Fact {
        let (key, kind) = (self.0.public_key_alg_id(), self.0.signature_alg_id());
        let mut digest = digest::Context::new(&digest::SHA256);
        for part in [key.as_ref(), kind.as_ref(), public_key, message, signature] {
            // With its length, so that no two facts are the same bytes.
            digest.update(&(part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        let mut fact = Fact::default();
        fact.copy_from_slice(digest.finish().as_ref());
        fact
    }
}

impl SignatureVerificationAlgorithm for Remembering {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let fact = self.fact(public_key, message, signature);
        if FACTS.with_borrow(|facts| facts.contains(&fact)) {
            return Ok(());
        }
        self.0.verify_signature(public_key, message, signature)?;
        FACTS.with_borrow_mut(|facts| {
            if facts.len() >= SIGNATURES_REMEMBERED {
                facts.clear();
            }
            facts.insert(fact);
        });
        Ok(())
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.0.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.0.signature_alg_id()
    }

    fn fips(&self) -> bool {
        self.0.fips()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Accepts the signature "good" and counts how often it is asked.
    #[derive(Debug)]
    struct Counting(AtomicUsize);

    impl SignatureVerificationAlgorithm for Counting {
        fn verify_signature(
            &self,
            _public_key: &[u8],
            _message: &[u8],
            signature: &[u8],
        ) -> Result<(), InvalidSignature> {
            self.0.fetch_add(1, Ordering::Relaxed);
            (signature == b"good").then_some(()).ok_or(InvalidSignature)
        }

        fn public_key_alg_id(&self) -> AlgorithmIdentifier {
            alg_id::ECDSA_P256
        }

        fn signature_alg_id(&self) -> AlgorithmIdentifier {
            alg_id::ECDSA_SHA256
        }
    }

    fn counting() -> (&'static Counting, Remembering) {
        let counting: &'static Counting = Box::leak(Box::new(Counting(AtomicUsize::new(0))));
        (counting, Remembering(counting))
    }

    #[test]
    fn a_good_signature_is_checked_once_and_a_bad_one_each_time() {
        let (counting, remembering) = counting();
        for _ in 0..3 {
            let good = remembering.verify_signature(b"key", b"message", b"good");
            assert!(good.is_ok());
        }
        assert_eq!(counting.0.load(Ordering::Relaxed), 1);
        for _ in 0..3 {
            let bad = remembering.verify_signature(b"key", b"message", b"bad");
            assert!(bad.is_err());
        }
        assert_eq!(counting.0.load(Ordering::Relaxed), 4);
    }

    #[test]
    fn another_key_or_message_is_another_fact() {
        let (counting, remembering) = counting();
        let facts: [(&[u8], &[u8]); 4] = [
            (b"key", b"message"),
            (b"ke", b"ymessage"),
            (b"keym", b"essage"),
            (b"key", b"messagf"),
        ];
        for (key, message) in facts {
            assert!(remembering.verify_signature(key, message, b"good").is_ok());
        }
        assert_eq!(counting.0.load(Ordering::Relaxed), facts.len());
    }

    #[test]
    fn memory_is_bounded() {
        let (_, remembering) = counting();
        for number in 0..SIGNATURES_REMEMBERED as u64 + 10 {
            let message = number.to_be_bytes();
            assert!(
                remembering
                    .verify_signature(b"key", &message, b"good")
                    .is_ok()
            );
            assert!(FACTS.with_borrow(HashSet::len) <= SIGNATURES_REMEMBERED);
        }
    }
}
