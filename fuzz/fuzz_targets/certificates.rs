//! The readers of certificates, keys and CRLs, and their description, on any file.

#![no_main]

use std::cell::RefCell;

use adit::certs;
use adit_fuzz::Scratch;
use libfuzzer_sys::fuzz_target;

thread_local!(static SCRATCH: RefCell<Scratch> = RefCell::default());

fuzz_target!(|data: &[u8]| {
    SCRATCH.with_borrow_mut(|scratch| {
        let path = scratch.with(data);
        if let Ok(found) = certs::read_certificates(path) {
            assert!(!found.is_empty());
        }
        if let Ok(found) = certs::read_crls(path) {
            assert!(!found.is_empty());
        }
        let _ = certs::read_private_key(path);
        // The seeds' password. Few inputs get past a MAC; those without one and those whose MAC is whole do.
        if let Ok((chain, _)) = certs::read_identity(path, None, Some("pw")) {
            assert!(!chain.is_empty());
        }
        if let Ok(found) = certs::describe_with(path, Some("pw")) {
            for item in found {
                std::hint::black_box(item.to_string());
            }
        }
    });
});
