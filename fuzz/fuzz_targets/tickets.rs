//! The file of ticket keys is keys or a problem with its place; what a client sends as a ticket opens only if it was sealed
//! here.

#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use adit::tls::{Scope, TicketKeys, Tickets};
use libfuzzer_sys::fuzz_target;
use rustls::server::ProducesTickets;

static TICKETS: LazyLock<Tickets> =
    LazyLock::new(|| Tickets::new(Scope::new("fuzz", &[]), 3600, None).expect("random bytes"));

fuzz_target!(|input: &[u8]| {
    if let Ok(text) = std::str::from_utf8(input) {
        match TicketKeys::parse(text, Path::new("tickets.key")) {
            Ok(keys) => assert!(keys.keys().is_sorted_by_key(|key| key.from)),
            Err(error) => assert!(error.to_string().contains("remedy")),
        }
    }
    assert_eq!(TICKETS.decrypt(input), None);
    let ticket = TICKETS.encrypt(input).expect("a ticket");
    assert_eq!(TICKETS.decrypt(&ticket).as_deref(), Some(input));
});
