//! The client's records, made by hand: any content type, any content, any padding, under the session's own keys.

use aws_lc_rs::aead::{AES_128_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::kernel::KernelConnection;
use rustls::{ConnectionTrafficSecrets, ProtocolVersion};

const EXPLICIT_NONCE: usize = 8;

/// One direction's keys.
struct Keys {
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
    explicit_nonce: bool,
}

/// The client's end of an established session.
pub struct Wire {
    keys: KernelConnection<ClientConnectionData>,
    sealing: Keys,
    opening: Keys,
    tls13: bool,
}

/// What is put into a record.
pub struct Sealed<'a> {
    /// Content type.
    pub kind: u8,
    /// Content.
    pub content: &'a [u8],
    /// Zeros behind the content type (TLS 1.3 only).
    pub padding: usize,
}

impl Wire {
    /// Takes a client over whose handshake is done, and opens the tickets that came behind it.
    pub fn new(connection: UnbufferedClientConnection, mut tickets: &[u8]) -> Self {
        let (secrets, keys) = connection
            .dangerous_into_kernel_connection()
            .expect("the handshake is done");
        let tls13 = keys.protocol_version() == ProtocolVersion::TLSv1_3;
        let mut wire = Self {
            sealing: Keys::new(secrets.tx, tls13),
            opening: Keys::new(secrets.rx, tls13),
            keys,
            tls13,
        };
        while let Some(record) = next_record(&mut tickets) {
            wire.opening.open(record, tls13);
        }
        wire
    }

    /// Whether the session is of TLS 1.3.
    pub fn is_tls13(&self) -> bool {
        self.tls13
    }

    /// One record, under the next sequence number.
    pub fn seal(&mut self, record: &Sealed<'_>) -> Vec<u8> {
        let mut body = record.content.to_vec();
        let (outer, extra) = if self.tls13 {
            body.push(record.kind);
            body.resize(body.len() + record.padding, 0);
            (23, 16)
        } else if self.sealing.explicit_nonce {
            (record.kind, EXPLICIT_NONCE + 16)
        } else {
            (record.kind, 16)
        };
        let mut bytes = vec![outer, 3, 3];
        // A content that is too long for the field is what the field says it is not; the layer must notice.
        bytes.extend_from_slice(&((body.len() + extra) as u16).to_be_bytes());
        let additional = self
            .sealing
            .additional(&bytes, record.kind, body.len(), self.tls13);
        if self.sealing.explicit_nonce {
            bytes.extend_from_slice(&self.sealing.sequence.to_be_bytes());
        }
        let nonce = self.sealing.nonce(self.sealing.sequence.to_be_bytes());
        self.sealing
            .key
            .seal_in_place_append_tag(nonce, Aad::from(additional), &mut body)
            .expect("the body is short");
        self.sealing.sequence += 1;
        bytes.extend_from_slice(&body);
        bytes
    }

    /// New keys for sealing, as after a KeyUpdate.
    pub fn update(&mut self) {
        let secrets = self.keys.update_tx_secret().expect("TLS 1.3");
        self.sealing = Keys::new(secrets, self.tls13);
    }

    /// Opens everything that the server has sent: content types and contents, in order. Follows its KeyUpdates.
    pub fn open_all(&mut self, mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let mut opened = Vec::new();
        while let Some(record) = next_record(&mut bytes) {
            let (kind, content) = self.opening.open(record, self.tls13);
            if kind == 22 {
                assert_eq!(content, [24, 0, 0, 1, 0], "the server's only message");
                let secrets = self.keys.update_rx_secret().expect("TLS 1.3");
                self.opening = Keys::new(secrets, self.tls13);
            }
            opened.push((kind, content));
        }
        opened
    }
}

/// Takes the record off whose header stands first.
fn next_record<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let [_, _, _, a, b, ..] = **bytes else {
        return None;
    };
    let (record, rest) = bytes.split_at(5 + usize::from(u16::from_be_bytes([a, b])));
    *bytes = rest;
    Some(record)
}

impl Keys {
    fn new((sequence, secrets): (u64, ConnectionTrafficSecrets), tls13: bool) -> Self {
        let (algorithm, key, iv, gcm) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv, true),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => {
                (&CHACHA20_POLY1305, key, iv, false)
            }
            _ => unreachable!("the configurations have these two"),
        };
        Self {
            key: LessSafeKey::new(UnboundKey::new(algorithm, key.as_ref()).expect("its key")),
            iv: iv.as_ref().try_into().expect("12 bytes"),
            sequence,
            explicit_nonce: gcm && !tls13,
        }
    }

    fn nonce(&self, explicit: [u8; EXPLICIT_NONCE]) -> Nonce {
        let mut nonce = self.iv;
        for (slot, byte) in nonce[4..].iter_mut().zip(explicit) {
            *slot = if self.explicit_nonce {
                byte
            } else {
                *slot ^ byte
            };
        }
        Nonce::assume_unique_for_key(nonce)
    }

    fn additional(&self, header: &[u8], kind: u8, length: usize, tls13: bool) -> Vec<u8> {
        if tls13 {
            return header.to_vec();
        }
        let mut additional = self.sequence.to_be_bytes().to_vec();
        additional.extend_from_slice(&[kind, 3, 3]);
        additional.extend_from_slice(&(length as u16).to_be_bytes());
        additional
    }

    fn open(&mut self, record: &[u8], tls13: bool) -> (u8, Vec<u8>) {
        let (header, body) = record.split_at(5);
        let mut explicit = self.sequence.to_be_bytes();
        let mut body = body.to_vec();
        if self.explicit_nonce {
            explicit.copy_from_slice(&body[..EXPLICIT_NONCE]);
            body.drain(..EXPLICIT_NONCE);
        }
        let additional = self.additional(header, header[0], body.len() - 16, tls13);
        let mut content = self
            .key
            .open_in_place(self.nonce(explicit), Aad::from(additional), &mut body)
            .expect("the server's records authenticate")
            .to_vec();
        self.sequence += 1;
        if !tls13 {
            return (header[0], content);
        }
        while content.last() == Some(&0) {
            content.pop();
        }
        (content.pop().expect("a content type"), content)
    }
}
