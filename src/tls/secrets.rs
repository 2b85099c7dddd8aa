//! The traffic secrets of a TLS 1.3 session, from which a key update makes the next keys (RFC 8446,
//! section 7.2).
//!
//! rustls gives away a session's first keys. The keys that follow it makes itself, in a connection
//! that takes more than a kilobyte, most of it for QUIC and the peer's certificates: too much for a
//! tunnel that idles. The secrets it shows to its key log, while it works on a handshake. The key
//! log here hands them to the handshake that this thread is working on, and keeps nothing.

use std::cell::RefCell;
use std::sync::Arc;

use rustls::KeyLog;
use rustls::crypto::tls13::OkmBlock;

/// One session's secrets; none in TLS 1.2, which has no key update.
#[derive(Default)]
pub struct TrafficSecrets {
    /// Of what the client seals.
    pub client: Option<OkmBlock>,
    /// Of what the server seals.
    pub server: Option<OkmBlock>,
}

thread_local! {
    /// Secrets that were shown since the last call of [`TrafficSecrets::take_shown`] on this
    /// thread.
    static SHOWN: RefCell<TrafficSecrets> = RefCell::default();
}

impl TrafficSecrets {
    /// Takes what rustls has shown of the connection that this thread has just worked on.
    pub fn take_shown(&mut self) {
        let shown = SHOWN.take();
        self.client = shown.client.or(self.client.take());
        self.server = shown.server.or(self.server.take());
    }
}

/// The key log for the configuration of each end whose sessions the record layer takes over.
#[must_use]
pub fn hand_over() -> Arc<dyn KeyLog> {
    Arc::new(HandOver)
}

#[derive(Debug)]
struct HandOver;

const CLIENT: &str = "CLIENT_TRAFFIC_SECRET_0";
const SERVER: &str = "SERVER_TRAFFIC_SECRET_0";

impl KeyLog for HandOver {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        SHOWN.with_borrow_mut(|shown| match label {
            CLIENT => shown.client = Some(OkmBlock::new(secret)),
            SERVER => shown.server = Some(OkmBlock::new(secret)),
            _ => {}
        });
    }

    fn will_log(&self, label: &str) -> bool {
        matches!(label, CLIENT | SERVER)
    }
}
