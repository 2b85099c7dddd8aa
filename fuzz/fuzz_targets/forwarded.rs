//! What front ends say about a client's certificate: certificates or a refusal, from the one place that counts.

#![no_main]

use adit::config::ClientIdentity;
use adit::front::forwarded::{ForwardedError, certificates};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&first, head)) = data.split_first() else {
        return;
    };
    let (place, name) = match first % 3 {
        0 => (ClientIdentity::ClientCert, "client-cert"),
        1 => (ClientIdentity::Xfcc, "x-forwarded-client-cert"),
        _ => (ClientIdentity::ProxyV2, ""),
    };
    let by_proxy = (first >= 128).then_some(&b"\x30\x00"[..]);
    match certificates(head, by_proxy, place) {
        Ok(chain) => {
            assert!(!chain.is_empty());
            assert_eq!(by_proxy.is_some(), place == ClientIdentity::ProxyV2);
            assert!(chain.iter().map(|der| der.len()).sum::<usize>() <= head.len() + 2);
            let lower = head.to_ascii_lowercase();
            assert!(
                lower
                    .windows(name.len().max(1))
                    .any(|part| part == name.as_bytes())
                    || name.is_empty()
            );
        }
        Err(ForwardedError::Missing | ForwardedError::Conflict | ForwardedError::Malformed(_)) => {}
    }
});
