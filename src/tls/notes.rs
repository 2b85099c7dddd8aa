//! Notes of the parts that rustls calls in a handshake, for the record of its end.
//!
//! rustls hands neither a certificate that its verifier rejects nor the name of a hello to the
//! caller of an unbuffered connection. Its callbacks run within the call that works through the
//! records, on the same thread: there they leave a note.

use std::cell::RefCell;

use super::rejected::Rejection;

/// Facts that a handshake has shown of its client.
#[derive(Debug, Default)]
pub struct Notes {
    /// Name that the hello asks for (RFC 6066, section 3).
    pub server_name: Option<Box<str>>,
    /// The certificate that was not accepted.
    pub rejected: Option<Box<Rejection>>,
}

thread_local! {
    static NOTES: RefCell<Option<Notes>> = const { RefCell::new(None) };
}

/// Runs `call` and returns what was noted in it.
pub(super) fn noted<T>(call: impl FnOnce() -> T) -> (T, Notes) {
    NOTES.set(Some(Notes::default()));
    let result = call();
    (result, NOTES.take().unwrap_or_default())
}

/// Notes the name of a hello.
pub(super) fn server_name(name: &str) {
    with(|notes| notes.server_name = Some(name.into()));
}

/// Notes a certificate that is not accepted.
pub(super) fn rejected(rejection: Box<Rejection>) {
    with(|notes| notes.rejected = Some(rejection));
}

/// Nothing is kept where nobody asks.
fn with(write: impl FnOnce(&mut Notes)) {
    NOTES.with_borrow_mut(|notes| notes.as_mut().map(write));
}

impl Notes {
    /// Takes over what is new.
    pub(super) fn add(&mut self, more: Notes) {
        self.server_name = more.server_name.or(self.server_name.take());
        self.rejected = more.rejected.or(self.rejected.take());
    }
}
