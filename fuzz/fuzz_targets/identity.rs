//! Who a certificate names: nobody, or names that are bounded and that no log line or terminal obeys.

#![no_main]

use adit::config::{Field, IdentityMapping};
use adit::limits::MAX_IDENTITY_NAME_BYTES;
use adit::tls::PeerIdentity;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|certificate: &[u8]| {
    let mapping = IdentityMapping {
        device: vec![Field::SanUri, Field::SanDns, Field::Cn, Field::Serial],
        user: vec![Field::SanUpn, Field::SanEmail],
        app: vec![Field::Ou, Field::Uid],
    };
    let Ok(identity) = PeerIdentity::from_unverified(certificate, &mapping) else {
        return;
    };
    let names = [Some(identity.device()), identity.user(), identity.app()];
    for name in names.into_iter().flatten() {
        assert!((1..=MAX_IDENTITY_NAME_BYTES).contains(&name.len()));
        assert!(!name.contains(char::is_control));
    }
    assert!(!identity.serial().is_empty());
});
