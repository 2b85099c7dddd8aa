//! Names of suites and groups as other products have them.

use super::*;

fn told(result: Result<&'static str, Fault>) -> String {
    result.map_or_else(
        |fault| {
            fault
                .at(&crate::config::error::Location::default())
                .to_string()
        },
        |name| format!("right: {name}"),
    )
}

#[test]
fn each_suite_is_known_by_its_iana_name_alone_and_told_from_its_others() {
    for (name, _) in CIPHER_SUITES {
        assert_eq!(suite(name), Ok(name));
        for other in [
            openssl(name).replace('_', "-"),
            rustls(name),
            name.to_lowercase(),
        ] {
            if other != name {
                let told = told(suite(&other));
                assert!(told.ends_with(&format!("write {name:?}")), "{told}");
            }
        }
    }
    let told = told(suite("ECDHE-RSA-AES128-GCM-SHA256"));
    assert!(told.contains("IANA") && told.contains("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"));
}

const RSA128: &str = "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256";
const RSA256: &str = "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384";
const CHACHA: &str = "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256";

/// Names that others use for a suite, their fault, and the nearest suite here.
const SUITES: &[(&str, &[&str], &str)] = &[
    (
        "TLS_RSA_WITH_AES_128_CBC_SHA",
        &["CBC", "RSA key exchange"],
        RSA128,
    ),
    ("AES256-SHA", &["CBC", "RSA key exchange"], RSA256),
    ("AES128-GCM-SHA256", &["RSA key exchange"], RSA128),
    (
        "TLS_RSA_WITH_AES_256_GCM_SHA384",
        &["RSA key exchange"],
        RSA256,
    ),
    ("ECDHE-RSA-AES256-SHA384", &["CBC"], RSA256),
    (
        "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA384",
        &["CBC"],
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    ),
    (
        "TLS_DHE_RSA_WITH_AES_256_GCM_SHA384",
        &["finite fields"],
        RSA256,
    ),
    ("DHE-RSA-CHACHA20-POLY1305", &["finite fields"], CHACHA),
    ("TLS_ECDHE_RSA_WITH_RC4_128_SHA", &["RFC 7465"], RSA128),
    ("RC4-MD5", &["RFC 7465", "RSA key exchange"], RSA128),
    (
        "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
        &["Sweet32", "CBC", "RSA key exchange"],
        RSA128,
    ),
    ("DES-CBC3-SHA", &["Sweet32"], RSA128),
    ("TLS_RSA_WITH_NULL_SHA256", &["encrypts nothing"], RSA128),
    (
        "TLS_RSA_EXPORT_WITH_RC4_40_MD5",
        &["export", "RFC 7465"],
        RSA128,
    ),
    ("EXP-RC4-MD5", &["export"], RSA128),
    (
        "TLS_DH_anon_WITH_AES_128_GCM_SHA256",
        &["anonymous"],
        RSA128,
    ),
    ("ADH-AES128-SHA", &["anonymous", "CBC"], RSA128),
    (
        "TLS_ECDH_RSA_WITH_AES_128_GCM_SHA256",
        &["fixed ECDH key"],
        RSA128,
    ),
    ("TLS_AES_128_CCM_SHA256", &["CCM"], "TLS_AES_128_GCM_SHA256"),
    (
        "ECDHE-ECDSA-CAMELLIA256-SHA384",
        &["not in the TLS library"],
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    ),
    ("TLS_PSK_WITH_AES_128_GCM_SHA256", &["certificates"], RSA128),
];

#[test]
fn a_suite_that_is_not_here_is_told_why_and_what_is_near() {
    for (name, parts, nearest) in SUITES {
        let told = told(suite(name));
        assert!(told.contains("does not exist here"), "{name}: {told}");
        for part in *parts {
            assert!(told.contains(part), "{name}: {part} is not in {told}");
        }
        assert!(
            told.ends_with(&format!("the nearest is {nearest:?}")),
            "{name}: {told}"
        );
    }
    // No fault is told of a suite that has none, and none of what is no suite.
    assert!(!told(suite("AES128-GCM-SHA256")).contains("CBC"));
    assert!(!told(suite("ECDHE-RSA-AES256-SHA384")).contains("RSA key exchange"));
    for odd in ["TLS_AES_128_GCM_SHA255", "HIGH", "", "AES", "_", "-"] {
        let told = told(suite(odd));
        assert!(told.contains("is not known here"), "{odd}: {told}");
    }
}

#[test]
fn groups_have_one_name_each() {
    for known in KEY_EXCHANGE {
        assert_eq!(group(known.name), Ok(known.name));
    }
    for (name, part) in [
        ("x25519", "write \"X25519\""),
        ("P-256", "write \"secp256r1\""),
        ("prime256v1", "write \"secp256r1\""),
        ("SECP384R1", "write \"secp384r1\""),
        ("SecP256r1MLKEM768", "write \"secp256r1MLKEM768\""),
        ("X25519Kyber768Draft00", "the nearest is \"X25519MLKEM768\""),
        ("ffdhe2048", "the nearest is \"secp256r1\""),
        ("secp521r1", "the nearest is \"secp384r1\""),
        ("X448", "the nearest is \"secp384r1\""),
        ("secp256k1", "RFC 8422"),
        ("brainpoolP256r1", "RFC 8422"),
        ("X25518", "did you mean \"X25519\"?"),
        ("", "is not known here"),
    ] {
        let told = told(group(name));
        assert!(told.contains(part), "{name}: {told}");
    }
}
