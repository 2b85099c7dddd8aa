//! What RFCs say of records behind the handshake, asked of the program: answers that come at once, and the alerts for what is
//! not to be answered.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::crypto::aws_lc_rs as provider;
use rustls::{
    CipherSuite, ClientConfig, ConnectionTrafficSecrets, RootCertStore, SupportedCipherSuite,
};

use crate::common::{Session, World, ask, echo, request, server, session_of};

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;

const WARNING: u8 = 1;
const FATAL: u8 = 2;
const UNEXPECTED_MESSAGE: u8 = 10;
const NO_RENEGOTIATION: u8 = 100;

/// A ClientHello, as far as anybody looks at one that comes behind the handshake.
const HELLO: [u8; 7] = [1, 0, 0, 3, 3, 3, 0];

fn world() -> World {
    World::new(|node| node.servers(&[server(echo)]))
}

/// An open tunnel on this suite, through which nothing has gone.
fn tunnel(world: &World, suite: SupportedCipherSuite) -> Session {
    let mut roots = RootCertStore::empty();
    roots.add(world.pki.ca.certificate().clone()).unwrap();
    let mut own = provider::default_provider();
    own.cipher_suites = vec![suite];
    let device = &world.device;
    let mut config = ClientConfig::builder_with_provider(own.into())
        .with_protocol_versions(&[suite.version()])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(device.chain.clone(), device.key.clone_key())
        .unwrap();
    config.enable_secret_extraction = true;
    let socket = TcpStream::connect(world.gateway.address).unwrap();
    let mut session = session_of(config.into(), socket);
    let head = ask(&mut session, &request("a.test:1")).unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    session
}

/// The same, its records made by hand from here on.
fn raw(world: &World, tls13: bool) -> Raw {
    let suite = match tls13 {
        true => provider::cipher_suite::TLS13_AES_128_GCM_SHA256,
        false => provider::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    };
    let session = tunnel(world, suite);
    let secrets = session.conn.dangerous_extract_secrets().unwrap();
    Raw {
        socket: session.sock,
        sealing: Keys::new(secrets.tx, tls13),
        opening: Keys::new(secrets.rx, tls13),
    }
}

/// One direction of a session with AES-128-GCM.
struct Keys {
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
    tls13: bool,
}

impl Keys {
    fn new((sequence, secrets): (u64, ConnectionTrafficSecrets), tls13: bool) -> Self {
        let ConnectionTrafficSecrets::Aes128Gcm { key, iv } = secrets else {
            panic!(
                "another suite than {:?}",
                CipherSuite::TLS13_AES_128_GCM_SHA256
            );
        };
        Self {
            key: LessSafeKey::new(UnboundKey::new(&AES_128_GCM, key.as_ref()).unwrap()),
            iv: iv.as_ref().try_into().unwrap(),
            sequence,
            tls13,
        }
    }

    /// RFC 8446, section 5.3; RFC 5288, section 3, with `explicit` in the place of the second part.
    fn nonce(&self, explicit: [u8; 8]) -> Nonce {
        let mut nonce = self.iv;
        for (slot, byte) in nonce[4..].iter_mut().zip(explicit) {
            *slot = if self.tls13 { *slot ^ byte } else { byte };
        }
        Nonce::assume_unique_for_key(nonce)
    }

    fn additional(&self, kind: u8, header: [u8; 5], length: usize) -> Vec<u8> {
        if self.tls13 {
            return header.to_vec();
        }
        let length = (length as u16).to_be_bytes();
        [&self.sequence.to_be_bytes()[..], &[kind, 3, 3], &length].concat()
    }

    fn seal(&mut self, kind: u8, content: &[u8]) -> Vec<u8> {
        let (mut body, explicit) = (content.to_vec(), self.sequence.to_be_bytes());
        let (outer, extra) = if self.tls13 {
            body.push(kind);
            (DATA, 16)
        } else {
            (kind, 8 + 16)
        };
        let [a, b] = ((body.len() + extra) as u16).to_be_bytes();
        let header = [outer, 3, 3, a, b];
        let additional = Aad::from(self.additional(kind, header, body.len()));
        let nonce = self.nonce(explicit);
        self.key
            .seal_in_place_append_tag(nonce, additional, &mut body)
            .unwrap();
        self.sequence += 1;
        match self.tls13 {
            true => [&header[..], &body].concat(),
            false => [&header[..], &explicit, &body].concat(),
        }
    }

    /// Type and content of a record.
    fn open(&mut self, header: [u8; 5], mut body: Vec<u8>) -> (u8, Vec<u8>) {
        let mut explicit = self.sequence.to_be_bytes();
        if !self.tls13 {
            explicit.copy_from_slice(&body[..8]);
            body.drain(..8);
        }
        let additional = Aad::from(self.additional(header[0], header, body.len() - 16));
        let nonce = self.nonce(explicit);
        let mut content = self
            .key
            .open_in_place(nonce, additional, &mut body)
            .unwrap()
            .to_vec();
        self.sequence += 1;
        match self.tls13 {
            true => (content.pop().unwrap(), content),
            false => (header[0], content),
        }
    }
}

/// A client that makes its records by hand.
struct Raw {
    socket: TcpStream,
    sealing: Keys,
    opening: Keys,
}

impl Raw {
    fn send(&mut self, kind: u8, content: &[u8]) {
        let record = self.sealing.seal(kind, content);
        self.socket.write_all(&record).unwrap();
    }

    /// The next record, which comes although this end says nothing more.
    fn next(&mut self) -> (u8, Vec<u8>) {
        loop {
            let mut header = [0; 5];
            self.socket.read_exact(&mut header).unwrap();
            let mut body = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
            self.socket.read_exact(&mut body).unwrap();
            let (kind, content) = self.opening.open(header, body);
            // Session tickets.
            if kind != HANDSHAKE || content[0] != 4 {
                return (kind, content);
            }
        }
    }
}

/// RFC 8446, section 4.6.3: who is asked for new keys sends its own KeyUpdate "prior to sending its next Application Data
/// record"; an end that waits for it must not wait for data that never comes.
#[test]
fn a_key_update_is_answered_at_once() {
    let world = world();
    let suite = provider::cipher_suite::TLS13_AES_128_GCM_SHA256;
    let mut session = tunnel(&world, suite);
    for round in 0..3 {
        session.conn.refresh_traffic_keys().unwrap();
        session.flush().unwrap();
        // Nothing is said by either end of the tunnel meanwhile: KeyUpdate, its type, and a tag.
        let mut answer = [0; 5 + 5 + 1 + 16];
        session.sock.read_exact(&mut answer).unwrap();
        session.conn.read_tls(&mut &answer[..]).unwrap();
        session.conn.process_new_packets().unwrap();
        let line = format!("round {round}");
        session.write_all(line.as_bytes()).unwrap();
        let mut back = vec![0; line.len()];
        session.read_exact(&mut back).unwrap();
        assert_eq!(back, line.as_bytes());
    }
}

/// RFC 5746, section 5, and RFC 5246, section 7.2.2: a renegotiation is refused by a warning, and the session goes on.
#[test]
fn a_renegotiation_is_refused_at_once() {
    let world = world();
    let mut raw = raw(&world, false);
    for _ in 0..5 {
        raw.send(HANDSHAKE, &HELLO);
        assert_eq!(raw.next(), (ALERT, vec![WARNING, NO_RENEGOTIATION]));
        raw.send(DATA, b"data");
        assert_eq!(raw.next(), (DATA, b"data".to_vec()));
    }
    // Who asks and does nothing else is cut.
    for _ in 0..2 {
        raw.send(HANDSHAKE, &HELLO);
        assert_eq!(raw.next(), (ALERT, vec![WARNING, NO_RENEGOTIATION]));
    }
    raw.send(HANDSHAKE, &HELLO);
    assert_eq!(raw.next(), (ALERT, vec![FATAL, UNEXPECTED_MESSAGE]));
    world.gateway.has_ended("tls-protocol", 1.0);
}

/// RFC 8446, sections 5 and 5.4; RFC 5246, sections 6 and 6.2.1.
#[test]
fn an_empty_alert_and_an_unknown_record_are_unexpected_messages() {
    let world = world();
    for (times, tls13) in (0..).zip([true, false]) {
        let mut hand = raw(&world, tls13);
        hand.send(ALERT, &[]);
        assert_eq!(hand.next(), (ALERT, vec![FATAL, UNEXPECTED_MESSAGE]));
        let mut hand = raw(&world, tls13);
        hand.socket.write_all(&[99, 3, 3, 0, 9]).unwrap();
        assert_eq!(hand.next(), (ALERT, vec![FATAL, UNEXPECTED_MESSAGE]));
        world
            .gateway
            .has_ended("tls-protocol", f64::from(2 * times + 2));
    }
}

/// A client that asks for renegotiations and reads nothing is owed one refusal, and its tunnel ends with the next request.
#[test]
fn refusals_that_nobody_reads_do_not_pile_up() {
    let world = world();
    let mut raw = raw(&world, false);
    let limit = Some(Duration::from_secs(10));
    raw.socket.set_write_timeout(limit).unwrap();
    let mut flood = Vec::new();
    for _ in 0..2000 {
        flood.extend(raw.sealing.seal(DATA, &[7; 8192]));
        flood.extend(raw.sealing.seal(HANDSHAKE, &HELLO));
    }
    let _ = raw.socket.write_all(&flood);
    world.gateway.has_ended("tls-protocol", 1.0);
}
