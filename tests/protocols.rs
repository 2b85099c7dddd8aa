//! TLS versions, cipher suites and key-exchange groups: what is chosen counts, and what does not exist is told with the reason.

use crate::common;

use std::process::Command;

use common::{Gateway, Pki, echo, free_port, s_client_says, server, service};

fn gateway(pki: &Pki, inbound: &str) -> Gateway {
    let tls = format!(
        "{}\n[profile.tls]\ninbound = {{ {inbound} }}",
        service(&[server(echo)])
    );
    Gateway::builder(pki).rest(&tls).start()
}

#[test]
fn devices_are_met_with_what_is_chosen_alone() {
    let pki = Pki::new();
    pki.client("device", |_| ());
    let chosen = "protocols = ['1.2'], key_exchange = ['secp384r1'], \
                  cipher_suites = ['TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384']";
    let only = gateway(&pki, chosen);
    let told = s_client_says(&pki, &only, "localhost", &[]);
    assert!(
        told.contains("New, TLSv1.2, Cipher is ECDHE-ECDSA-AES256-GCM-SHA384"),
        "{told}"
    );
    assert!(
        told.contains("Server Temp Key: ECDH, secp384r1, 384 bits"),
        "{told}"
    );
    for refused in [
        &["-tls1_3"][..],
        &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"],
        &["-tls1_2", "-groups", "X25519:P-256"],
    ] {
        let told = s_client_says(&pki, &only, "localhost", refused);
        assert!(told.contains("Cipher is (NONE)"), "{refused:?}: {told}");
    }
    drop(only);
    // The defaults have all of it; what is older is not there at all.
    let all = gateway(&pki, "");
    for (taken, line) in [
        (
            &["-tls1_3", "-groups", "P-384"][..],
            "New, TLSv1.3, Cipher is TLS_AES_128_GCM_SHA256",
        ),
        (
            &["-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"],
            "New, TLSv1.2, Cipher is ECDHE-ECDSA-CHACHA20-POLY1305",
        ),
    ] {
        let told = s_client_says(&pki, &all, "localhost", taken);
        assert!(told.contains(line), "{taken:?}: {told}");
    }
    for refused in [
        &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"][..],
        &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA"],
        &["-tls1_3", "-groups", "P-521"],
    ] {
        let told = s_client_says(&pki, &all, "localhost", refused);
        assert!(told.contains("Cipher is (NONE)"), "{refused:?}: {told}");
    }
}

#[test]
fn what_does_not_exist_is_told_at_once_with_the_reason_and_the_nearest() {
    let pki = Pki::new();
    let tls = "[profile.tls]\n\
               inbound = { protocols = ['1.0', '1.3'], cipher_suites = ['AES128-SHA', 'ECDHE-RSA-AES128-GCM-SHA256'] }\n\
               outbound = { protocols = ['SSLv3'], key_exchange = ['ffdhe2048'] }";
    let rest = format!("{}\n{tls}", service(&[free_port()]));
    Gateway::builder(&pki).auth("").rest(&rest).write();
    let mut command = Command::new(env!("CARGO_BIN_EXE_adit"));
    let command = command
        .args(["check", "--config"])
        .arg(pki.path("adit.toml"));
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8(output.stderr).unwrap();
    for (key, parts) in [
        ("inbound.protocols[0]", &["TLS 1.0", "RFC 8996"][..]),
        (
            "inbound.cipher_suites[0]",
            &[
                "RSA key exchange",
                "CBC",
                "the nearest is \"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256\"",
            ],
        ),
        (
            "inbound.cipher_suites[1]",
            &["write \"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256\""],
        ),
        ("outbound.protocols[0]", &["RFC 7568", "\"1.2\""]),
        (
            "outbound.key_exchange[0]",
            &["finite fields", "the nearest is \"secp256r1\""],
        ),
    ] {
        let line = told.lines().find(|line| line.contains(key));
        let line = line.unwrap_or_else(|| panic!("{key}: {told}"));
        for part in parts {
            assert!(line.contains(part), "{key}: {part} is not in {line}");
        }
    }
    assert_eq!(told.matches("remedy: ").count(), 5, "{told}");
}
