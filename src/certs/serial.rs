//! Certificate serial numbers.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};

use super::CertError;

/// The most octets that a serial number may take in its encoding (RFC 5280 section 4.1.2.2).
const MAX_OCTETS: usize = 20;

/// Octets of a random serial number: 126 random bits, where CA/Browser Forum Baseline Requirements section 7.1 asks for 64.
const RANDOM_OCTETS: usize = 16;

/// A positive serial number, big-endian without leading zeros. Its text is hexadecimal with colons, as OpenSSL prints it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Serial(Vec<u8>);

impl Serial {
    /// A fresh random serial number of 16 octets.
    ///
    /// # Errors
    /// [`CertError::Crypto`] where the system has no randomness to give.
    pub fn random() -> Result<Self, CertError> {
        let mut octets = [0u8; RANDOM_OCTETS];
        SystemRandom::new().fill(&mut octets).map_err(|_| {
            CertError::crypto("make a serial number", "the system gave no random bytes")
        })?;
        // Positive (top bit clear) and of constant length (next bit set).
        octets[0] = (octets[0] & 0x7f) | 0x40;
        Ok(Self(octets.to_vec()))
    }

    /// A serial number from its big-endian octets; leading zeros are dropped.
    ///
    /// # Errors
    /// [`CertError::Request`] for zero and for numbers whose encoding exceeds 20 octets.
    pub fn from_octets(octets: &[u8]) -> Result<Self, CertError> {
        let magnitude = strip_zeros(octets);
        // A set top bit costs one more octet in the encoding of a positive INTEGER.
        let encoded =
            magnitude.len() + usize::from(magnitude.first().is_some_and(|first| first & 0x80 != 0));
        if magnitude.is_empty() || encoded > MAX_OCTETS {
            return Err(CertError::request(
                "a serial number must be positive and at most 20 octets (RFC 5280)",
                "give at most 39 hexadecimal digits, not all zero",
            ));
        }
        Ok(Self(magnitude.to_vec()))
    }

    /// The serial number of a certificate or CRL entry that somebody else made, whatever its length: such numbers are
    /// compared and printed, never refused.
    pub(crate) fn of_others(octets: &[u8]) -> Self {
        Self(strip_zeros(octets).to_vec())
    }

    /// The big-endian octets without leading zeros.
    pub fn octets(&self) -> &[u8] {
        &self.0
    }
}

fn strip_zeros(octets: &[u8]) -> &[u8] {
    let first = octets
        .iter()
        .position(|octet| *octet != 0)
        .unwrap_or(octets.len());
    &octets[first..]
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex_with_colons(if self.0.is_empty() {
            &[0]
        } else {
            &self.0
        }))
    }
}

impl FromStr for Serial {
    type Err = CertError;

    /// Reads hexadecimal digits, with or without colons and a leading `0x`.
    fn from_str(text: &str) -> Result<Self, CertError> {
        let not_hex = || {
            CertError::request(
                format!("{text:?} is not a serial number"),
                "write it in hexadecimal, as `adit certs show` prints it",
            )
        };
        let text_digits = text
            .strip_prefix("0x")
            .or_else(|| text.strip_prefix("0X"))
            .unwrap_or(text);
        let mut digits: Vec<u8> = Vec::with_capacity(text_digits.len());
        for character in text_digits.chars().filter(|character| *character != ':') {
            let digit = character
                .to_digit(16)
                .and_then(|digit| u8::try_from(digit).ok());
            digits.push(digit.ok_or_else(not_hex)?);
        }
        if digits.is_empty() {
            return Err(not_hex());
        }
        if digits.len() % 2 == 1 {
            digits.insert(0, 0);
        }
        let octets: Vec<u8> = digits
            .chunks(2)
            .map(|pair| pair[0] << 4 | pair[1])
            .collect();
        Self::from_octets(&octets)
    }
}

/// `0a:ff`, the way fingerprints and serial numbers are written.
pub(crate) fn hex_with_colons(octets: &[u8]) -> String {
    let pairs: Vec<String> = octets.iter().map(|octet| format!("{octet:02x}")).collect();
    pairs.join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_in_every_notation() {
        let serial = Serial::from_octets(&[0, 0, 0x0a, 0xff]).unwrap();
        assert_eq!(serial.to_string(), "0a:ff");
        for text in ["0a:ff", "aff", "0xAFF", "00:0A:FF"] {
            assert_eq!(text.parse::<Serial>().unwrap(), serial, "{text}");
        }
    }

    #[test]
    fn zero_too_long_and_not_hexadecimal_are_refused() {
        for text in [
            "",
            "0",
            "00:00",
            "xyz",
            "0x",
            "é",
            &"80".repeat(20),
            &"7f".repeat(21),
        ] {
            assert!(text.parse::<Serial>().is_err(), "{text}");
        }
        assert!("7f".repeat(20).parse::<Serial>().is_ok());
        assert!("ff".repeat(19).parse::<Serial>().is_ok());
    }

    #[test]
    fn random_serials_are_positive_sixteen_octets_and_differ() {
        let (first, second) = (Serial::random().unwrap(), Serial::random().unwrap());
        assert_ne!(first, second);
        assert_eq!(first.octets().len(), RANDOM_OCTETS);
        assert_eq!(first.octets()[0] & 0xc0, 0x40);
    }
}
