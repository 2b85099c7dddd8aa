//! The record layer against published vectors, against rustls, and against broken peers.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::{
    ClientConfig, ClientConnection, ContentType, RootCertStore, ServerConfig, SupportedCipherSuite,
};

use super::protection::Protection;
use super::*;
use crate::certs::make::Usage;
use crate::certs::{self, IssueRequest, KeyType, MakeCa, Validity};
use crate::limits::{TLS_EMPTY_RECORDS_MAX, TLS_PLAINTEXT_MAX};
use crate::tls::handshake::Handshake;

type Server = RecordLayer<UnbufferedServerConnection>;

/// A small generator of test data: the same for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.below(256) as u8).collect()
    }
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn suites() -> Vec<SupportedCipherSuite> {
    aws_lc_rs::ALL_CIPHER_SUITES.to_vec()
}

/// An established session on one suite: rustls's client, and this layer behind rustls's server handshake.
fn session(suite: SupportedCipherSuite) -> (ClientConnection, Server) {
    let ecdsa = !format!("{:?}", suite.suite()).contains("RSA");
    let key_type = if ecdsa {
        KeyType::P256
    } else {
        KeyType::Rsa2048
    };
    let ca = certs::make_ca(&MakeCa {
        common_name: "ca".into(),
        days: 1,
        key_type,
    })
    .unwrap();
    let mut request = IssueRequest::new(Usage::Server, "server", Validity::days(1).unwrap());
    request.dns = vec!["server.test".into()];
    request.key_type = key_type;
    let issued = certs::issue(&ca, &request).unwrap();
    let provider = Arc::new(CryptoProvider {
        cipher_suites: vec![suite],
        ..aws_lc_rs::default_provider()
    });
    let versions = [suite.version()];
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(issued.chain, issued.key)
        .unwrap();
    config.enable_secret_extraction = true;
    let mut roots = RootCertStore::empty();
    roots.add(ca.certificate().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("server.test").unwrap();
    let mut client = ClientConnection::new(client.into(), name).unwrap();
    let mut server = Handshake::new(UnbufferedServerConnection::new(config.into()).unwrap());
    let mut input = Vec::new();
    loop {
        input.extend_from_slice(&written(&mut client));
        let (used, done) = server.read(&mut input).unwrap();
        input.drain(..used);
        read(&mut client, &server.take_outgoing());
        if done {
            assert!(input.is_empty());
            break;
        }
    }
    (
        client,
        RecordLayer::take_over(server.into_connection()).unwrap(),
    )
}

fn written(client: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

fn read(client: &mut ClientConnection, mut bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    while !bytes.is_empty() {
        client.read_tls(&mut bytes).unwrap();
        client.process_new_packets().unwrap();
        let _ = std::io::Read::read_to_end(&mut client.reader(), &mut plain);
    }
    plain
}

fn write(client: &mut ClientConnection, bytes: &[u8]) -> Vec<u8> {
    std::io::Write::write_all(&mut client.writer(), bytes).unwrap();
    written(client)
}

/// Opens all complete records and takes them out of `bytes`.
fn open_all(server: &mut Server, bytes: &mut Vec<u8>) -> Result<(Vec<u8>, bool), Fault> {
    let (mut plain, mut used, mut closed) = (Vec::new(), 0, false);
    while let Some((length, content)) = server.open(&mut bytes[used..])? {
        match content {
            Content::Data(place) => plain.extend_from_slice(&bytes[used..][place]),
            Content::Nothing => {}
            Content::Closed => closed = true,
        }
        used += length;
    }
    bytes.drain(..used);
    Ok((plain, closed))
}

/// Seals `plain` as the relay does: spaced in one buffer.
fn seal(server: &mut Server, plain: &[u8]) -> Vec<u8> {
    let mut sent = server.before_sealing().unwrap();
    let (front, back) = server.around();
    let mut records = Vec::new();
    for piece in plain.chunks(TLS_PLAINTEXT_MAX) {
        records.resize(records.len() + front, 0);
        records.extend_from_slice(piece);
        records.resize(records.len() + back, 0);
    }
    server.seal(&mut records).unwrap();
    sent.extend_from_slice(&records);
    sent
}

/// RFC 8448, section 3: application data and close_notify of both ends, and the session ticket before them.
#[test]
fn the_records_of_rfc_8448_open_and_are_made_again() {
    let fifty: Vec<u8> = (0..50).collect();
    let client = (
        "17422dda596ed5d9acd890e3c63f5051",
        "5b78923dee08579033e523d9",
        [
            "17 03 03 00 43 a2 3f 70 54 b6 2c 94 d0 af fa fe 82 28 ba 55 cb ef ac ea 42 f9 14 aa 66 bc ab 3f 2b 98 19 a8 \
             a5 b4 6b 39 5b d5 4a 9a 20 44 1e 2b 62 97 4e 1f 5a 62 92 a2 97 70 14 bd 1e 3d ea e6 3a ee bb 21 69 49 15 e4",
            "17 03 03 00 13 c9 87 27 60 65 56 66 b7 4d 7f f1 15 3e fd 6d b6 d0 b0 e3",
        ],
        0,
    );
    let server = (
        "9f02283b6c9c07efc26bb9f2ac92e356",
        "cf782b88dd83549aadf1e984",
        [
            "17 03 03 00 43 2e 93 7e 11 ef 4a c7 40 e5 38 ad 36 00 5f c4 a4 69 32 fc 32 25 d0 5f 82 aa 1b 36 e3 0e fa f9 \
             7d 90 e6 df fc 60 2d cb 50 1a 59 a8 fc c4 9c 4b f2 e5 f0 a2 1c 00 47 c2 ab f3 32 54 0d d0 32 e1 67 c2 95 5d",
            "17 03 03 00 13 b5 8f d6 71 66 eb f5 99 d2 47 20 cf be 7e fa 7a 88 64 a9",
        ],
        1,
    );
    for (key, iv, [data, alert], first) in [client, server] {
        let keys = || Protection::aes128_tls13(&hex(key), &hex(iv), first);
        let (mut opening, mut sealing) = (keys(), keys());
        for (record, kind, content) in [
            (data, ContentType::ApplicationData, &fifty[..]),
            (alert, ContentType::Alert, &[1, 0][..]),
        ] {
            let mut bytes = hex(record);
            let (opened, place) = opening.open(&mut bytes).unwrap();
            assert_eq!((opened, &bytes[place]), (kind, content));
            let mut made = [&[0; 5], content, &[0; 17]].concat();
            sealing.seal(&mut made, kind).unwrap();
            assert_eq!(made, hex(record));
        }
    }
}
