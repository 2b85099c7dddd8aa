//! The name in a client's hello, read before it is decided what the session is for.
//!
//! rustls's own reader is used, so that it and the handshake cannot see two different names. It
//! only looks: the handshake gets the same bytes again, and says what is wrong with them.

use rustls::server::Acceptor;

/// State of a hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// More of it is needed.
    Incomplete,
    /// It is there, with the name that the client wants (RFC 6066, section 3), or it cannot be
    /// read, and has none.
    Complete(Option<String>),
}

/// Reads one hello.
#[derive(Default)]
pub struct HelloReader {
    acceptor: Acceptor,
    seen: usize,
}

impl HelloReader {
    /// Reads on. `bytes` are all that have come so far.
    pub fn read(&mut self, bytes: &[u8]) -> Hello {
        while self.seen < bytes.len() {
            match self.acceptor.read_tls(&mut &bytes[self.seen..]) {
                Ok(count) if count > 0 => self.seen += count,
                // It holds as much as a hello can have.
                _ => return Hello::Complete(None),
            }
            match self.acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let name = accepted.client_hello().server_name().map(str::to_owned);
                    return Hello::Complete(name);
                }
                Err(_) => return Hello::Complete(None),
            }
        }
        Hello::Incomplete
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::crypto::aws_lc_rs;
    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;

    fn hello(name: &str) -> Vec<u8> {
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn the_name_is_read_at_any_split_and_no_sooner() {
        for (name, expected) in [
            ("git.example.com", Some("git.example.com")),
            ("192.0.2.1", None),
        ] {
            let bytes = hello(name);
            let expected = Hello::Complete(expected.map(str::to_owned));
            assert_eq!(HelloReader::default().read(&bytes), expected);
            let behind = [&bytes[..], b"behind"].concat();
            assert_eq!(HelloReader::default().read(&behind), expected);
            for size in [1, 7, 100] {
                let mut reader = HelloReader::default();
                for end in (size..bytes.len()).step_by(size) {
                    assert_eq!(reader.read(&bytes[..end]), Hello::Incomplete, "{end}");
                }
                assert_eq!(reader.read(&bytes), expected);
            }
        }
    }

    #[test]
    fn what_is_no_hello_has_no_name() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            &[0x16, 3, 1, 0xff, 0xff],
            &[0xff; 9],
        ] {
            assert_eq!(HelloReader::default().read(bytes), Hello::Complete(None));
        }
        // A record that never ends is bounded.
        let mut endless = vec![0x16, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff];
        endless.resize(1 << 20, 0);
        assert_eq!(HelloReader::default().read(&endless), Hello::Complete(None));
    }
}
