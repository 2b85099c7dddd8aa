//! One CRL (RFC 5280, section 5), read in place: a list of ten million entries takes no memory
//! beside its own bytes.
//!
//! What comes out has been read to its last byte, and holds nothing that is not understood. Nothing
//! is verified here.

use time::{Date, Month};

use super::Problem;
use crate::asn1::{Reader, tag};
use crate::table::{Holders, Scope};
use crate::tls::fields::{Extension, Signed, boolean, next_extension, whole_octets};

/// Contents of object identifiers below `id-ce` (2.5.29).
mod id_ce {
    pub const ISSUER_ALT_NAME: &[u8] = &[0x55, 0x1d, 18];
    pub const CRL_NUMBER: &[u8] = &[0x55, 0x1d, 20];
    pub const REASON_CODE: &[u8] = &[0x55, 0x1d, 21];
    pub const HOLD_INSTRUCTION: &[u8] = &[0x55, 0x1d, 23];
    pub const INVALIDITY_DATE: &[u8] = &[0x55, 0x1d, 24];
    pub const DELTA_CRL_INDICATOR: &[u8] = &[0x55, 0x1d, 27];
    pub const ISSUING_DISTRIBUTION_POINT: &[u8] = &[0x55, 0x1d, 28];
    pub const CERTIFICATE_ISSUER: &[u8] = &[0x55, 0x1d, 29];
    pub const AUTHORITY_KEY_IDENTIFIER: &[u8] = &[0x55, 0x1d, 35];
    pub const FRESHEST_CRL: &[u8] = &[0x55, 0x1d, 46];
}

/// The reason *removeFromCRL* (RFC 5280, section 5.3.1).
const REMOVE_FROM_CRL: u8 = 8;

/// The number of a CRL: any size, since numbers of 20 octets must be handled (section 5.2.3).
/// Ordered by value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Number {
    // The order of these two fields is that of the values.
    length: usize,
    octets: Box<[u8]>,
}

impl Number {
    fn read(value: &[u8]) -> Option<Self> {
        let mut reader = Reader::der(value);
        let octets = reader.take(tag::INTEGER)?.content;
        let negative = octets.first().is_none_or(|first| *first >= 0x80);
        if negative || !reader.is_empty() {
            return None;
        }
        let zeros = octets.iter().take_while(|octet| **octet == 0).count();
        Some(Number {
            length: octets.len() - zeros,
            octets: octets[zeros..].into(),
        })
    }
}

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let small = self.octets.iter().try_fold(0u64, |value, octet| {
            value
                .checked_mul(256)
                .map(|value| value | u64::from(*octet))
        });
        match small {
            Some(number) => number.fmt(f),
            None => {
                f.write_str("0x")?;
                self.octets
                    .iter()
                    .try_for_each(|octet| write!(f, "{octet:02x}"))
            }
        }
    }
}

/// A CRL whose bytes are elsewhere.
#[derive(Debug)]
pub(super) struct Parsed<'a> {
    /// The signed part and its signature.
    pub signed: Signed<'a>,
    /// The issuer's `Name` in DER.
    pub issuer: &'a [u8],
    /// In unix seconds, as all moments here.
    pub this_update: u64,
    pub next_update: Option<u64>,
    pub number: Option<Number>,
    /// For a delta CRL, the number of the list that it continues.
    pub base: Option<Number>,
    pub scope: Scope,
    pub entries: usize,
    revoked: Reader<'a>,
}

/// One entry of a list.
#[derive(Clone, Copy, Debug)]
pub(super) struct RevokedEntry<'a> {
    pub serial: &'a [u8],
    /// In a delta CRL: the certificate is revoked no more.
    pub removed: bool,
}

impl<'a> Parsed<'a> {
    /// Reads a list.
    ///
    /// # Errors
    /// Where it is broken, of version 1, or has something that must be understood and is not.
    pub fn read(der: &'a [u8]) -> Result<Self, Problem> {
        let mut file = Reader::der(der);
        let mut outer = file.enter(tag::SEQUENCE).ok_or_else(broken)?;
        if !file.is_empty() {
            return Err(("has bytes after its end".into(), FETCH_AGAIN));
        }
        let frame = (
            outer.take(tag::SEQUENCE),
            outer.take(tag::SEQUENCE),
            outer.take(tag::BIT_STRING),
        );
        let (Some(tbs), Some(algorithm), Some(signature), true) =
            (frame.0, frame.1, frame.2, outer.is_empty())
        else {
            return Err(broken());
        };
        let signed = Signed {
            message: tbs.whole,
            algorithm: algorithm.content,
            signature: whole_octets(signature.content).ok_or_else(broken)?,
        };
        let mut list = Reader::der(tbs.content);
        let mut parsed = Self::head(&mut list, signed)?;
        if list.peek() == Some(tag::SEQUENCE) {
            parsed.revoked = list.enter(tag::SEQUENCE).ok_or_else(broken)?;
        }
        if list.peek() == Some(tag::CONTEXT_0) {
            let extensions = list.enter(tag::CONTEXT_0).ok_or_else(broken)?;
            parsed.extensions(extensions)?;
        }
        if !list.is_empty() {
            return Err(broken());
        }
        let mut entries = parsed.revoked;
        while !entries.is_empty() {
            entry(&mut entries)?;
            parsed.entries += 1;
        }
        Ok(parsed)
    }

    /// Returns what stands before the entries.
    fn head(list: &mut Reader<'a>, signed: Signed<'a>) -> Result<Self, Problem> {
        const VERSION_2: &[u8] = &[1];
        if list.peek() != Some(tag::INTEGER) {
            return Err((
                "is of version 1, which can have no number and no extensions".into(),
                "let the CA sign lists of version 2 (for openssl ca: set crl_extensions, with a crlnumber file)",
            ));
        }
        if list.any().map(|version| version.content) != Some(VERSION_2) {
            return Err(("is of an unknown version".into(), FETCH_AGAIN));
        }
        let inner = list.take(tag::SEQUENCE).ok_or_else(broken)?.content;
        if inner != signed.algorithm {
            return Err((
                "names two different signature algorithms".into(),
                FETCH_AGAIN,
            ));
        }
        let issuer = list.take(tag::SEQUENCE).ok_or_else(broken)?.whole;
        let this_update = moment(list).ok_or_else(broken)?;
        let next_update = match list.peek() {
            Some(tag::UTC_TIME | tag::GENERALIZED_TIME) => Some(moment(list).ok_or_else(broken)?),
            _ => None,
        };
        Ok(Parsed {
            signed,
            issuer,
            this_update,
            next_update,
            number: None,
            base: None,
            scope: Scope::default(),
            entries: 0,
            revoked: Reader::der(&[]),
        })
    }

    fn extensions(&mut self, mut wrapper: Reader<'a>) -> Result<(), Problem> {
        let mut list = wrapper.enter(tag::SEQUENCE).ok_or_else(broken)?;
        if !wrapper.is_empty() {
            return Err(broken());
        }
        let mut seen: Vec<&[u8]> = Vec::new();
        while !list.is_empty() {
            let extension = next_extension(&mut list).ok_or_else(broken)?;
            if seen.contains(&extension.oid) {
                return Err((
                    format!("has the extension {} twice", dotted(extension.oid)),
                    FETCH_AGAIN,
                ));
            }
            seen.push(extension.oid);
            match extension.oid {
                id_ce::CRL_NUMBER => {
                    self.number = Some(Number::read(extension.value).ok_or_else(broken)?);
                }
                id_ce::DELTA_CRL_INDICATOR => {
                    self.base = Some(Number::read(extension.value).ok_or_else(broken)?);
                }
                id_ce::ISSUING_DISTRIBUTION_POINT => {
                    self.scope = scope(extension.value)?;
                }
                id_ce::AUTHORITY_KEY_IDENTIFIER | id_ce::ISSUER_ALT_NAME | id_ce::FRESHEST_CRL => {}
                _ => refuse_critical(&extension, "has")?,
            }
        }
        Ok(())
    }

    /// The entries, which have been read once.
    pub fn entries(&self) -> impl Iterator<Item = RevokedEntry<'a>> + use<'a> {
        let mut rest = self.revoked;
        let is_delta = self.base.is_some();
        std::iter::from_fn(move || entry(&mut rest).ok()).map(move |entry| RevokedEntry {
            // In a full list that reason has no meaning, and what a list names is revoked.
            removed: entry.removed && is_delta,
            ..entry
        })
    }
}

const FETCH_AGAIN: &str = "fetch it again from the CA";

fn broken() -> Problem {
    ("is broken or truncated".into(), FETCH_AGAIN)
}

fn entry<'a>(list: &mut Reader<'a>) -> Result<RevokedEntry<'a>, Problem> {
    let mut entry = list.enter(tag::SEQUENCE).ok_or_else(broken)?;
    let serial = entry.take(tag::INTEGER).ok_or_else(broken)?.content;
    let time = entry.peek();
    if serial.is_empty() || !matches!(time, Some(tag::UTC_TIME | tag::GENERALIZED_TIME)) {
        return Err(broken());
    }
    entry.any().ok_or_else(broken)?;
    let mut removed = false;
    if !entry.is_empty() {
        let mut extensions = entry.enter(tag::SEQUENCE).ok_or_else(broken)?;
        while !extensions.is_empty() {
            let extension = next_extension(&mut extensions).ok_or_else(broken)?;
            match extension.oid {
                id_ce::REASON_CODE => {
                    let reason = Reader::der(extension.value).take(tag::ENUMERATED);
                    removed = reason.ok_or_else(broken)?.content == [REMOVE_FROM_CRL];
                }
                id_ce::INVALIDITY_DATE | id_ce::HOLD_INSTRUCTION => {}
                id_ce::CERTIFICATE_ISSUER => {
                    return Err((
                        "has an entry for the certificate of another issuer (an indirect CRL)"
                            .into(),
                        INDIRECT,
                    ));
                }
                _ => refuse_critical(&extension, "has an entry with")?,
            }
        }
    }
    if !entry.is_empty() {
        return Err(broken());
    }
    Ok(RevokedEntry { serial, removed })
}

const INDIRECT: &str = "let each CA sign the list of its own certificates";

fn refuse_critical(extension: &Extension<'_>, has: &str) -> Result<(), Problem> {
    if extension.critical {
        return Err((
            format!(
                "{has} the critical extension {}, which is not understood",
                dotted(extension.oid)
            ),
            "let the CA sign lists without it (RFC 5280, section 5.2: such a list must not be used)",
        ));
    }
    Ok(())
}

/// Returns what the issuing distribution point (section 5.2.5) says of the certificates that the
/// list speaks for.
fn scope(value: &[u8]) -> Result<Scope, Problem> {
    const ONLY_USER_CERTS: u8 = 0x81;
    const ONLY_CA_CERTS: u8 = 0x82;
    const ONLY_SOME_REASONS: u8 = 0x83;
    const INDIRECT_CRL: u8 = 0x84;
    const ONLY_ATTRIBUTE_CERTS: u8 = 0x85;
    let mut outer = Reader::der(value);
    let mut fields = outer.enter(tag::SEQUENCE).ok_or_else(broken)?;
    if !outer.is_empty() {
        return Err(broken());
    }
    let mut scope = Scope::default();
    while let Some(kind) = fields.peek() {
        let contents = fields.any().ok_or_else(broken)?.content;
        let is_set = || boolean(contents).ok_or_else(broken);
        match kind {
            tag::CONTEXT_0 => scope.points = Some(points(contents)?),
            ONLY_USER_CERTS if is_set()? => narrow(&mut scope, Holders::EndEntities)?,
            ONLY_CA_CERTS if is_set()? => narrow(&mut scope, Holders::Authorities)?,
            ONLY_SOME_REASONS => scope.revokes_only = true,
            INDIRECT_CRL if is_set()? => {
                return Err(("is an indirect CRL".into(), INDIRECT));
            }
            ONLY_ATTRIBUTE_CERTS if is_set()? => {
                return Err((
                    "covers attribute certificates only".into(),
                    "name the list of the CA's public key certificates",
                ));
            }
            ONLY_USER_CERTS | ONLY_CA_CERTS | INDIRECT_CRL | ONLY_ATTRIBUTE_CERTS => {}
            _ => return Err(broken()),
        }
    }
    Ok(scope)
}

fn narrow(scope: &mut Scope, holders: Holders) -> Result<(), Problem> {
    if scope.holders != Holders::All {
        return Err((
            "covers end entities only and authorities only, so no certificate".into(),
            FETCH_AGAIN,
        ));
    }
    scope.holders = holders;
    Ok(())
}

/// The names of a distribution point, each in DER.
fn points(name: &[u8]) -> Result<Box<[Box<[u8]>]>, Problem> {
    let mut name = Reader::der(name);
    let Some(mut names) = name.enter(tag::CONTEXT_0) else {
        return Err((
            "names its distribution point relative to its issuer".into(),
            "let the CA write the full name of the distribution point",
        ));
    };
    let mut points = Vec::new();
    while !names.is_empty() {
        points.push(names.any().ok_or_else(broken)?.whole.into());
    }
    if points.is_empty() || !name.is_empty() {
        return Err(broken());
    }
    Ok(points.into())
}

/// A `Time` (section 4.1.2.5) in unix seconds; what lies before 1970 counts as that.
fn moment(reader: &mut Reader<'_>) -> Option<u64> {
    let kind = reader.peek()?;
    let text = reader.any()?.content;
    let digits = text.strip_suffix(b"Z")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let (year, rest) = match kind {
        tag::UTC_TIME if digits.len() == 12 => {
            let (year, rest) = digits.split_at(2);
            let year = number(year);
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        tag::GENERALIZED_TIME if digits.len() == 14 => {
            let (year, rest) = digits.split_at(4);
            (number(year), rest)
        }
        _ => return None,
    };
    let mut parts = rest.chunks_exact(2).map(number);
    let mut part = || parts.next().and_then(|part| u8::try_from(part).ok());
    let month = Month::try_from(part()?).ok()?;
    let date = Date::from_calendar_date(i32::from(year), month, part()?).ok()?;
    let moment = date.with_hms(part()?, part()?, part()?).ok()?;
    Some(u64::try_from(moment.assume_utc().unix_timestamp()).unwrap_or(0))
}

/// At most four digits.
fn number(digits: &[u8]) -> u16 {
    digits
        .iter()
        .fold(0, |value, digit| value * 10 + u16::from(digit - b'0'))
}

/// An object identifier as people write it (X.690, 8.19).
pub(super) fn dotted(oid: &[u8]) -> String {
    let mut arcs: Vec<u64> = Vec::new();
    let mut arc = 0u64;
    for octet in oid {
        arc = arc.wrapping_shl(7) | u64::from(octet & 0x7f);
        if *octet < 0x80 {
            if arcs.is_empty() {
                let first = (arc / 40).min(2);
                arcs.extend([first, arc - 40 * first]);
            } else {
                arcs.push(arc);
            }
            arc = 0;
        }
    }
    let arcs: Vec<String> = arcs.iter().map(u64::to_string).collect();
    arcs.join(".")
}
