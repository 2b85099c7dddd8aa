//! A client of HTTP/2 whose frames are written by hand.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "a test's helper: each file uses its part, and fails by panic"
)]

use std::io::{Read, Write};
use std::net::TcpStream;

use adit::certs::Issued;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::common::{Gateway, PATIENCE, Pki, Session, World, client_config};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_HEADERS: u8 = 4;
pub const ACK: u8 = 1;

/// Error codes of RFC 9113, section 7.
pub const PROTOCOL_ERROR: u32 = 1;
pub const SETTINGS_TIMEOUT: u32 = 4;
pub const ENHANCE_YOUR_CALM: u32 = 11;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let stream = stream.to_be_bytes();
    [&length[1..], &[kind, flags], &stream, payload].concat()
}

/// CONNECT, without Huffman's code and the dynamic table (RFC 7541, section 6.2.2; 2 is :method, 1 is :authority).
pub fn connect_block(authority: &str) -> Vec<u8> {
    let length = authority.len() as u8;
    [b"\x02\x07CONNECT\x01", &[length][..], authority.as_bytes()].concat()
}

/// SETTINGS_INITIAL_WINDOW_SIZE of almost 2^31.
pub const WIDE: &[u8] = &[0, 4, 0x7f, 0, 0, 0];

pub struct Raw {
    pub session: Session,
    seen: Vec<u8>,
    /// SETTINGS are acknowledged when they are read.
    pub acknowledges: bool,
}

impl World {
    /// The device's session with these settings, behind its preface.
    pub fn raw(&self, settings: &[u8]) -> Raw {
        Raw::open(&self.pki, &self.gateway, &self.device, settings)
    }
}

impl Raw {
    /// A session with these settings, behind its preface.
    pub fn open(pki: &Pki, gateway: &Gateway, device: &Issued, settings: &[u8]) -> Self {
        let socket = TcpStream::connect(gateway.address).unwrap();
        let limit = Some(PATIENCE);
        socket.set_read_timeout(limit).unwrap();
        socket.set_write_timeout(limit).unwrap();
        let mut config = ClientConfig::clone(&client_config(&pki.path("ca.pem"), Some(device)));
        config.alpn_protocols = vec![b"h2".to_vec()];
        let name = ServerName::try_from("localhost").unwrap();
        let connection = ClientConnection::new(config.into(), name).unwrap();
        let mut raw = Self {
            session: StreamOwned::new(connection, socket),
            seen: Vec::new(),
            acknowledges: true,
        };
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        raw.write(&[&preface[..], &frame(SETTINGS, 0, 0, settings)].concat());
        raw
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.session.write_all(bytes).unwrap();
    }

    /// Lets the gateway send as much as the protocol allows, in all streams. [`WIDE`] does it for each.
    pub fn widen(&mut self) {
        self.write(&frame(
            WINDOW_UPDATE,
            0,
            0,
            &(0x7fff_0000_u32).to_be_bytes(),
        ));
    }

    /// Gives back this much of a stream's window and of the session's.
    pub fn credit(&mut self, stream: u32, bytes: u32) {
        let bytes = bytes.to_be_bytes();
        let updates = [0, stream].map(|stream| frame(WINDOW_UPDATE, 0, stream, &bytes));
        self.write(&updates.concat());
    }

    /// Writes until all is written or the gateway has hung up.
    pub fn flood(&mut self, bytes: &[u8]) {
        let _ = self.session.write_all(bytes);
    }

    /// The next frame: type, flags, stream and payload. `None` at the end.
    pub fn next(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut piece = [0; 4096];
        loop {
            if let Some(&[a, b, c, kind, flags, d, e, f, g]) = self.seen.first_chunk::<9>() {
                let end = 9 + u32::from_be_bytes([0, a, b, c]) as usize;
                if self.seen.len() >= end {
                    let rest = self.seen.split_off(end);
                    let payload = std::mem::replace(&mut self.seen, rest).split_off(9);
                    if (kind, flags & ACK) == (SETTINGS, 0) && self.acknowledges {
                        self.flood(&frame(SETTINGS, ACK, 0, &[]));
                    }
                    return Some((kind, flags, u32::from_be_bytes([d, e, f, g]), payload));
                }
            }
            match self.session.read(&mut piece) {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.seen.extend_from_slice(&piece[..count]),
            }
        }
    }

    /// Waits for a frame of this kind on this stream; its payload.
    pub fn wait_for(&mut self, wanted: u8, on: u32) -> Vec<u8> {
        loop {
            let (kind, _, stream, payload) = self.next().expect("the session ended");
            if (kind, stream) == (wanted, on) {
                return payload;
            }
        }
    }

    /// The code of GOAWAY, which comes before the end.
    pub fn goaway(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some((kind, _, _, payload)) = self.next() {
            if kind == GOAWAY {
                code = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
            }
        }
        code
    }

    /// An open tunnel on this stream.
    pub fn tunnel(&mut self, stream: u32) {
        self.tunnel_to(stream, "wiki.test:443");
    }

    pub fn tunnel_to(&mut self, stream: u32, authority: &str) {
        let block = connect_block(authority);
        self.write(&frame(HEADERS, END_HEADERS, stream, &block));
        // 0x88: ":status: 200", an indexed field.
        assert_eq!(self.wait_for(HEADERS, stream)[0], 0x88);
    }
}
