//! Names and numbers of certificates as text, for logs.

use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

use super::fields::{issuer_and_serial, subject};
use crate::limits::DISTINGUISHED_NAME_MAX;
use crate::table::canonical_serial;

/// A certificate by subject and serial number.
pub(super) fn which(certificate: &[u8]) -> String {
    let (Some(name), Some((_, serial))) = (subject(certificate), issuer_and_serial(certificate))
    else {
        return "a certificate that cannot be read".to_owned();
    };
    format!("{} (serial {})", quoted(name), hexadecimal(serial))
}

/// A `Name` in DER, in quotes.
pub(super) fn quoted(name: &[u8]) -> String {
    format!("\"{}\"", distinguished_name(name))
}

/// A `Name` in DER as text, at most [`DISTINGUISHED_NAME_MAX`] bytes.
#[must_use]
pub fn distinguished_name(name: &[u8]) -> String {
    let Ok((_, name)) = X509Name::from_der(name) else {
        return "?".to_owned();
    };
    bounded(name.to_string(), DISTINGUISHED_NAME_MAX).replace(is_deceptive, "?")
}

/// At most `max` bytes, the last of them "..." where some are left out.
pub(super) fn bounded(mut text: String, max: usize) -> String {
    const MORE: &str = "...";
    if text.len() > max {
        text.truncate(text.floor_char_boundary(max - MORE.len()));
        text.push_str(MORE);
    }
    text
}

/// Characters that let one name look like another, or end a line: controls, the Unicode line and
/// paragraph separators, and the directional formatting characters (UAX #9).
pub(super) fn is_deceptive(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{061c}')
}

/// A serial number in lower-case hexadecimal, two digits an octet, without leading zero octets.
pub(super) fn hexadecimal(serial: &[u8]) -> String {
    use std::fmt::Write as _;
    let serial = canonical_serial(serial);
    let shown = if serial.len() > 1 {
        serial.strip_prefix(&[0]).unwrap_or(serial)
    } else {
        serial
    };
    shown
        .iter()
        .fold(String::with_capacity(2 * shown.len()), |mut text, octet| {
            write!(text, "{octet:02x}").expect("writing to a String does not fail");
            text
        })
}
