//! The names of cipher suites and key-exchange groups, and why those that the gateway does not have
//! do not exist here.
//!
//! rustls has suites with authenticated encryption and ephemeral keys only. Who comes from another
//! product has others in the config: they are told what is wrong with each and which suite is the
//! nearest.

use super::error::{Fault, quoted};
use super::reach::{CIPHER_SUITES, KEY_EXCHANGE};
use super::values::word;

/// Reads the IANA name of a suite.
pub(super) fn suite(text: &str) -> Result<&'static str, Fault> {
    let known = CIPHER_SUITES.map(|(name, _)| (name, name));
    if let Some((name, _)) = known.iter().find(|(name, _)| *name == text) {
        return Ok(name);
    }
    let plain = text.trim().to_ascii_uppercase().replace('-', "_");
    let same = known
        .iter()
        .find(|(name, _)| [*name, &openssl(name), &rustls(name)].contains(&plain.as_str()));
    if let Some((name, _)) = same {
        let message = format!("{} is not how IANA writes that suite", quoted(text));
        return Err(Fault::new(message, format!("write {name:?}")));
    }
    let faults = suite_faults(&plain);
    if faults.is_empty() {
        return word(text, &known);
    }
    let message = format!(
        "{} does not exist here: {}",
        quoted(text),
        faults.join("; ")
    );
    let remedy = format!("the nearest is {:?}", nearest_suite(&plain));
    Err(Fault::new(message, remedy))
}

/// OpenSSL's name of a suite, with `_` for `-`. It has IANA's for those of TLS 1.3.
fn openssl(iana: &str) -> String {
    if !iana.contains("_WITH_") {
        return iana.to_owned();
    }
    let name = iana.strip_prefix("TLS_").unwrap_or(iana);
    let name = name.replace("_WITH_", "_").replace("AES_", "AES");
    name.replace("POLY1305_SHA256", "POLY1305")
}

/// rustls's name of a suite of TLS 1.3.
fn rustls(iana: &str) -> String {
    match iana.contains("_WITH_") {
        true => iana.to_owned(),
        false => iana.replacen("TLS_", "TLS13_", 1),
    }
}

/// Returns what is wrong with a suite of another product; nothing for a text that is the name of
/// none.
fn suite_faults(plain: &str) -> Vec<&'static str> {
    let words: Vec<&str> = plain.split('_').collect();
    let has = |any: &[&str]| words.iter().any(|word| any.contains(word));
    let is_suite = words.len() > 1 && has(&[AES, BROKEN, SHORT, FOREIGN].concat());
    if !is_suite {
        return Vec::new();
    }
    let faults = [&cipher_faults(&has)[..], &key_faults(&has, is_tls13(plain))].concat();
    let faults = faults.into_iter().filter(|(is, _)| *is);
    faults.map(|(_, why)| why).collect()
}

const AES: &[&str] = &["AES", "AES128", "AES256", "CHACHA20"];
const BROKEN: &[&str] = &["RC4", "NULL"];
/// With blocks of 64 bits.
const SHORT: &[&str] = &["3DES", "DES", "CBC3", "RC2", "IDEA"];
const FOREIGN: &[&str] = &[
    "CAMELLIA",
    "CAMELLIA128",
    "CAMELLIA256",
    "ARIA",
    "ARIA128",
    "ARIA256",
    "ARIAGCM",
    "SEED",
    "GOST89",
    "SM4",
    "KUZNYECHIK",
];

/// Verdict, and its reason.
type Judgement = (bool, &'static str);

fn cipher_faults(has: &impl Fn(&[&str]) -> bool) -> [Judgement; 7] {
    let export = [
        "EXPORT",
        "EXPORT40",
        "EXPORT56",
        "EXPORT1024",
        "EXP",
        "EXP1024",
    ];
    let aead = has(&["GCM", "CHACHA20", "CCM", "CCM8", "ARIAGCM"]);
    [
        (
            has(&export),
            "its keys were made short enough to be broken (export)",
        ),
        (has(&["NULL"]), "it encrypts nothing (NULL)"),
        (has(&["RC4"]), "RC4 is broken and prohibited (RFC 7465)"),
        (
            has(SHORT),
            "a cipher with blocks of 64 bits gives the text away in long sessions (Sweet32; RFC 9325, section 4.1)",
        ),
        (
            has(FOREIGN),
            "its cipher is not in the TLS library (rustls has AES-GCM and ChaCha20-Poly1305)",
        ),
        (has(&["CCM", "CCM8"]), "CCM is not in the TLS library"),
        (
            !aead && !has(BROKEN),
            "CBC with a MAC behind it has been attacked again and again (Lucky Thirteen; RFC 9325, section 4.2)",
        ),
    ]
}

fn key_faults(has: &impl Fn(&[&str]) -> bool, is_tls13: bool) -> [Judgement; 5] {
    let ephemeral = has(&["ECDHE", "DHE", "EDH", "ADH", "AECDH"]) || is_tls13;
    let others = has(&["PSK", "SRP", "KRB5", "GOST2001", "GOST2012"]);
    [
        (
            has(&["ANON", "ADH", "AECDH"]),
            "it does not authenticate the server (anonymous)",
        ),
        (
            has(&["DHE", "EDH", "DH"]),
            "Diffie-Hellman in finite fields is not in the TLS library: its groups are often weak, and it is slow",
        ),
        (
            has(&["ECDH"]),
            "with a fixed ECDH key who gets the key later reads what was recorded (no forward secrecy)",
        ),
        (
            !ephemeral && !others && !has(&["ECDH", "DH", "ANON"]),
            "with RSA key exchange who gets the server's key later reads what was recorded (no forward secrecy; RFC 9325, section 4.1)",
        ),
        (
            others,
            "it authenticates by something else than certificates",
        ),
    ]
}

fn is_tls13(plain: &str) -> bool {
    let is_iana = plain.starts_with("TLS_") && !plain.contains("_WITH_");
    is_iana || plain.starts_with("TLS13_")
}

/// The suite that does what was wanted as nearly as may be.
fn nearest_suite(plain: &str) -> &'static str {
    let cipher = if plain.contains("CHACHA20") {
        "CHACHA20_POLY1305_SHA256"
    } else if plain.contains("256_GCM")
        || plain.contains("AES256")
        || plain.contains("256_CBC")
        || plain.contains("CAMELLIA256")
        || plain.contains("ARIA256")
    {
        "AES_256_GCM_SHA384"
    } else {
        "AES_128_GCM_SHA256"
    };
    let prefix = match (is_tls13(plain), plain.contains("ECDSA")) {
        (true, _) => "TLS_",
        (false, true) => "TLS_ECDHE_ECDSA_WITH_",
        (false, false) => "TLS_ECDHE_RSA_WITH_",
    };
    let wanted = format!("{prefix}{cipher}");
    let mut known = CIPHER_SUITES.iter().map(|(name, _)| *name);
    known
        .find(|name| *name == wanted)
        .unwrap_or(CIPHER_SUITES[0].0)
}

/// Reads the name of a key-exchange group.
pub(super) fn group(text: &str) -> Result<&'static str, Fault> {
    let known = KEY_EXCHANGE.map(|group| (group.name, group.name));
    if let Some((name, _)) = known.iter().find(|(name, _)| *name == text) {
        return Ok(name);
    }
    let plain = text.trim().to_ascii_lowercase().replace(['-', '_'], "");
    let same = known
        .iter()
        .find(|(name, _)| name.to_ascii_lowercase() == plain);
    let alias = match plain.as_str() {
        "p256" | "prime256v1" | "nistp256" => Some("secp256r1"),
        "p384" | "nistp384" => Some("secp384r1"),
        "curve25519" | "ecdhx25519" => Some("X25519"),
        "p256mlkem768" => Some("secp256r1MLKEM768"),
        _ => same.map(|(name, _)| *name),
    };
    if let Some(name) = alias {
        let message = format!("{} is not how that group is written here", quoted(text));
        return Err(Fault::new(message, format!("write {name:?}")));
    }
    let begins = |any: &[&str]| any.iter().any(|start| plain.starts_with(start));
    let (why, nearest) = if begins(&["ffdhe", "modp", "dh"]) {
        (
            "Diffie-Hellman in finite fields is not in the TLS library: it is slow, and no peer with TLS 1.3 needs it",
            "secp256r1",
        )
    } else if begins(&["x25519kyber", "p256kyber", "kyber"]) {
        (
            "the drafts of Kyber were replaced by ML-KEM (FIPS 203)",
            "X25519MLKEM768",
        )
    } else if begins(&["mlkem512", "p384mlkem", "secp384r1mlkem"]) {
        ("it is not in the TLS library", "X25519MLKEM768")
    } else if begins(&["p521", "nistp521", "secp521", "x448", "curve448"]) {
        (
            "it is not in the TLS library, and no peer has it alone",
            "secp384r1",
        )
    } else if begins(&[
        "secp",
        "sect",
        "brainpool",
        "prime",
        "p192",
        "p224",
        "wapip",
        "c2",
    ]) {
        (
            "such curves were withdrawn from TLS or never in it (RFC 8422, section 5.1.1)",
            "secp256r1",
        )
    } else {
        return word(text, &known);
    };
    let message = format!("{} does not exist here: {why}", quoted(text));
    Err(Fault::new(message, format!("the nearest is {nearest:?}")))
}

#[cfg(test)]
mod tests;
