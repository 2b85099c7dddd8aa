//! Revocation lists. A changed list has no valid signature and would end there, so the fuzzer's input is what is signed:
//! the harness signs it with the CA's key. An input whose first byte is odd is a file as it is.

#![no_main]

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::SystemTime;

use adit::certs;
use adit::table::{Status, same_name};
use adit::tls::load_crls;
use adit_fuzz::{CA, Scratch};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use libfuzzer_sys::fuzz_target;

/// SEQUENCE of the object identifier ecdsa-with-SHA256 (RFC 5758, section 3.2).
const ECDSA_SHA256: [u8; 12] = [0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];

static KEY: LazyLock<EcdsaKeyPair> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    CA.write(folder.path()).expect("it can be written to");
    let key = certs::read_private_key(&folder.path().join("ca.key")).expect("the CA's key");
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, key.secret_der())
        .expect("a P-256 key")
});

/// One DER value. Any length fits into four bytes; the shortest form is what a strict reader wants.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let octets = (content.len() as u32).to_be_bytes();
    let zeros = octets
        .iter()
        .take_while(|octet| **octet == 0)
        .count()
        .min(3);
    let mut bytes = vec![tag];
    if content.len() >= 0x80 {
        bytes.push(0x80 + 4 - zeros as u8);
    }
    bytes.extend_from_slice(&octets[zeros..]);
    bytes.extend_from_slice(content);
    bytes
}

fn signed(list: &[u8]) -> Vec<u8> {
    let signature = KEY.sign(&SystemRandom::new(), list).expect("the key signs");
    let bits = [&[0], signature.as_ref()].concat();
    der(0x30, &[list, &ECDSA_SHA256, &der(3, &bits)].concat())
}

thread_local!(static SCRATCH: RefCell<Scratch> = RefCell::default());

fuzz_target!(|data: &[u8]| {
    let Some((first, rest)) = data.split_first() else {
        return;
    };
    let (one, other) = rest.split_at(rest.len() / 2);
    assert_eq!(same_name(one, other), same_name(other, one));
    assert!(same_name(rest, rest));
    let file = if first % 2 == 1 {
        rest.to_vec()
    } else {
        signed(rest)
    };
    SCRATCH.with_borrow_mut(|scratch| {
        let files: [PathBuf; 1] = [scratch.with(&file).to_owned()];
        let group = [CA.certificate().clone()];
        let Ok((index, reports)) = load_crls(&files, &group, SystemTime::now()) else {
            return;
        };
        assert!(!reports.is_empty() && index.issuers() <= reports.len());
        assert!(index.len() <= reports.iter().map(|report| report.entries).sum());
        assert_ne!(
            index.status(b"nobody", b"nobody's", &[1], 0),
            Status::Revoked
        );
    });
});
