//! The record layer against published vectors, against rustls, and against broken peers.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, ContentType, RootCertStore, ServerConfig,
    SupportedCipherSuite,
};

use super::protection::Protection;
use super::*;
use crate::certs::make::Usage;
use crate::certs::{IssueRequest, KeyType, Validity};
use crate::lab::{self, MakeCa};
use crate::limits::{
    TLS_EMPTY_RECORDS_MAX, TLS_KEY_UPDATES_MAX, TLS_PLAINTEXT_MAX, TLS_RENEGOTIATIONS_MAX,
    TLS_WARNINGS_MAX,
};
use crate::tls::hand_over;
use crate::tls::handshake::Handshake;

mod message;

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
    let ca = lab::make_ca(&MakeCa {
        common_name: "ca".into(),
        days: 2,
        key_type,
    })
    .unwrap();
    let mut request = IssueRequest::new(Usage::Server, "server", Validity::days(1).unwrap());
    request.dns = vec!["server.test".into()];
    request.key_type = key_type;
    let issued = lab::issue(&ca, &request).unwrap();
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
    config.key_log = hand_over();
    let mut roots = RootCertStore::empty();
    roots.add(ca.certificate().clone()).unwrap();
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.enable_secret_extraction = true;
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
    (client, RecordLayer::take_over(server).unwrap())
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

/// Feeds `bytes` to the layer in random portions, as a socket would.
fn open_in_portions(server: &mut Server, bytes: &[u8], random: &mut Random) -> Vec<u8> {
    let (mut input, mut plain, mut fed) = (Vec::new(), Vec::new(), 0);
    while fed < bytes.len() {
        let most = [1, 7, 300, 40_000][random.below(4)];
        let portion = (1 + random.below(most)).min(bytes.len() - fed);
        input.extend_from_slice(&bytes[fed..fed + portion]);
        fed += portion;
        let (opened, closed) = open_all(server, &mut input).unwrap();
        assert!(!closed);
        plain.extend_from_slice(&opened);
    }
    assert!(input.is_empty(), "half a record is left");
    plain
}

/// A message of a length at, below or beyond the bounds of a record.
fn message(random: &mut Random) -> Vec<u8> {
    let length = match random.below(4) {
        0 => 1 + random.below(64),
        1 => TLS_PLAINTEXT_MAX - 1 + random.below(3),
        2 => 2 * TLS_PLAINTEXT_MAX + random.below(TLS_PLAINTEXT_MAX),
        _ => 1 + random.below(TLS_PLAINTEXT_MAX),
    };
    random.bytes(length)
}

#[test]
fn every_suite_carries_random_streams_to_and_from_rustls() {
    for (seed, suite) in suites().into_iter().enumerate() {
        let mut random = Random(seed as u64);
        let (mut client, mut server) = session(suite);
        for _ in 0..24 {
            let up = message(&mut random);
            let records = write(&mut client, &up);
            if random.bytes(1)[0] < 128 {
                server.rest();
            }
            assert!(
                open_in_portions(&mut server, &records, &mut random) == up,
                "{suite:?} up"
            );
            let down = message(&mut random);
            let records = seal(&mut server, &down);
            assert!(read(&mut client, &records) == down, "{suite:?} down");
            let short = random.bytes(100);
            let records = server.seal_message(&short).unwrap();
            assert!(read(&mut client, &records) == short, "{suite:?} message");
        }
        client.send_close_notify();
        let mut last = written(&mut client);
        assert_eq!(
            open_all(&mut server, &mut last).unwrap(),
            (Vec::new(), true)
        );
        let mut last = &server.close_notify().unwrap()[..];
        client.read_tls(&mut last).unwrap();
        assert!(client.process_new_packets().unwrap().peer_has_closed());
    }
}

#[test]
fn every_flipped_bit_is_a_fault() {
    for suite in suites() {
        let (mut client, _) = session(suite);
        let record = write(&mut client, b"sixteen bytes of");
        let (mut other, mut server) = session(suite);
        let mut whole = write(&mut other, b"sixteen bytes of");
        assert_eq!(whole.len(), record.len());
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // Bits of the length can also make the record incomplete, or too long.
            let opened = server.open(&mut flipped);
            let in_length = (24..40).contains(&bit);
            match opened {
                Err(Fault::BadRecordMac) => {}
                // The header's type and version.
                Err(Fault::Decode | Fault::Unexpected) if bit < 24 => {}
                Err(Fault::Overflow) | Ok(None) if in_length => {}
                opened => panic!("{suite:?}, bit {bit}: {opened:?}"),
            }
        }
        // None of them has moved the sequence on.
        let (plain, _) = open_all(&mut server, &mut whole).unwrap();
        assert_eq!(plain, b"sixteen bytes of");
    }
}

fn tls13() -> SupportedCipherSuite {
    aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256
}

fn tls12() -> SupportedCipherSuite {
    aws_lc_rs::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
}

/// A record that the client would send, of any type and content.
struct Forger {
    keys: Protection,
}

impl Forger {
    /// A session, and the client's keys from now on.
    fn new(suite: SupportedCipherSuite) -> (Self, Server) {
        let (client, server) = session(suite);
        let secrets = client.dangerous_extract_secrets().unwrap();
        let keys = Protection::new(&secrets.tx, suite, None).unwrap();
        (Self { keys }, server)
    }

    fn record(&mut self, kind: ContentType, content: &[u8]) -> Vec<u8> {
        let (front, back) = (self.keys.front(), self.keys.back());
        let mut record = [&vec![0; front], content, &vec![0; back]].concat();
        self.keys.seal(&mut record, kind).unwrap();
        record
    }

    /// The fault of the first of `count` such records that is one.
    fn fault_after(
        &mut self,
        server: &mut Server,
        kind: ContentType,
        content: &[u8],
    ) -> (usize, Fault) {
        for count in 0..1000 {
            if let Err(fault) = server.open(&mut self.record(kind, content)) {
                return (count, fault);
            }
        }
        panic!("no fault in 1000 records");
    }
}

#[test]
fn new_keys_come_when_the_peer_asks_and_when_it_does_not() {
    let (mut client, mut server) = session(tls13());
    for round in 0..3 {
        // rustls asks for new keys of this end too.
        client.refresh_traffic_keys().unwrap();
        server.rest();
        let mut records = write(&mut client, b"under new keys");
        let (plain, _) = open_all(&mut server, &mut records).unwrap();
        assert_eq!(plain, b"under new keys", "round {round}");
        let first = server.before_sealing().unwrap();
        assert!(!first.is_empty(), "the answer to the request");
        assert!(read(&mut client, &first).is_empty());
        let records = seal(&mut server, b"and so are these");
        assert_eq!(read(&mut client, &records), b"and so are these");
    }
    assert!(server.before_sealing().unwrap().is_empty());
}

#[test]
fn keys_are_renewed_before_they_are_used_up() {
    let (mut client, mut server) = session(tls13());
    let mut updates = 0;
    for number in 0..500_u32 {
        server.set_sealing_limit(200);
        let first = server.before_sealing().unwrap();
        updates += usize::from(!first.is_empty());
        read(&mut client, &first);
        let records = seal(&mut server, &number.to_be_bytes());
        assert_eq!(read(&mut client, &records), number.to_be_bytes());
    }
    assert!((2..=4).contains(&updates), "{updates} updates");
}

#[test]
fn tls12_keys_end_the_session_when_they_are_used_up() {
    let (_, mut server) = session(tls12());
    server.set_sealing_limit(3);
    // The handshake's Finished was the first.
    let sealed: Vec<_> = (0..3)
        .map(|_| server.seal_message(b"one more").err())
        .collect();
    assert_eq!(sealed, [None, None, Some(Fault::Exhausted)]);
}

#[test]
fn floods_of_records_that_carry_nothing_are_faults() {
    for suite in [tls13(), tls12()] {
        let (mut forger, mut server) = Forger::new(suite);
        let flood = forger.fault_after(&mut server, ContentType::ApplicationData, b"");
        assert_eq!(
            flood,
            (usize::from(TLS_EMPTY_RECORDS_MAX), Fault::Unexpected)
        );
    }
    let (mut forger, mut server) = Forger::new(tls13());
    let user_canceled = [1, 90];
    let flood = forger.fault_after(&mut server, ContentType::Alert, &user_canceled);
    assert_eq!(flood, (usize::from(TLS_WARNINGS_MAX), Fault::Unexpected));
    let (mut forger, mut server) = Forger::new(tls12());
    let no_certificate = [1, 41];
    let flood = forger.fault_after(&mut server, ContentType::Alert, &no_certificate);
    assert_eq!(flood, (usize::from(TLS_WARNINGS_MAX), Fault::Unexpected));
    let (mut forger, mut server) = Forger::new(tls12());
    for number in 0..=TLS_RENEGOTIATIONS_MAX {
        let opened = server.open(&mut forger.record(ContentType::Handshake, &[1, 0, 0, 0]));
        let flood = number == TLS_RENEGOTIATIONS_MAX;
        assert_eq!(opened.err(), flood.then_some(Fault::Unexpected));
        server.before_sealing().unwrap();
    }
}

#[test]
fn data_between_empty_records_makes_them_none_of_a_flood() {
    let (mut forger, mut server) = Forger::new(tls13());
    for _ in 0..10 * usize::from(TLS_EMPTY_RECORDS_MAX) {
        for content in [&b""[..], b"data"] {
            let mut record = forger.record(ContentType::ApplicationData, content);
            server.open(&mut record).unwrap().unwrap();
        }
    }
}

#[test]
fn key_updates_without_data_are_a_flood() {
    let (mut client, mut server) = session(tls13());
    let mut faults = Vec::new();
    for _ in 0..=TLS_KEY_UPDATES_MAX {
        client.refresh_traffic_keys().unwrap();
        faults.extend(open_all(&mut server, &mut written(&mut client)).err());
    }
    assert_eq!(faults, [Fault::Unexpected]);
}

#[test]
fn what_does_not_belong_in_a_session_is_a_fault() {
    use ContentType as Type;
    let long = vec![0; TLS_PLAINTEXT_MAX + 1];
    let refused = Fault::PeerAlert(AlertDescription::HandshakeFailure);
    let cases: [(SupportedCipherSuite, Type, &[u8], Fault); 14] = [
        (tls13(), Type::Alert, &[2, 40], refused),
        (tls12(), Type::Alert, &[2, 40], refused),
        // Half an alert, and two in one record.
        (tls13(), Type::Alert, &[2], Fault::Decode),
        // An alert without content (RFC 8446, section 5.4; RFC 5246, section 6.2.1).
        (tls13(), Type::Alert, &[], Fault::Unexpected),
        (tls12(), Type::Alert, &[], Fault::Unexpected),
        (tls13(), Type::Alert, &[1, 0, 1, 0], Fault::Decode),
        // No message, a ticket from a client, a message beyond every bound.
        (tls13(), Type::Handshake, &[], Fault::Unexpected),
        (
            tls13(),
            Type::Handshake,
            &[4, 0, 0, 1, 0],
            Fault::Unexpected,
        ),
        (tls13(), Type::Handshake, &[20, 2, 0, 0], Fault::Unexpected),
        // KeyUpdate with more behind it, with a request that is none, and in TLS 1.2.
        (
            tls13(),
            Type::Handshake,
            &[24, 0, 0, 1, 0, 24],
            Fault::Unexpected,
        ),
        (
            tls13(),
            Type::Handshake,
            &[24, 0, 0, 1, 2],
            Fault::IllegalParameter,
        ),
        (
            tls12(),
            Type::Handshake,
            &[24, 0, 0, 1, 0],
            Fault::Unexpected,
        ),
        (tls12(), Type::ChangeCipherSpec, &[1], Fault::Unexpected),
        (tls13(), Type::ApplicationData, &long, Fault::Overflow),
    ];
    for (number, (suite, kind, content, fault)) in cases.into_iter().enumerate() {
        let (mut forger, mut server) = Forger::new(suite);
        let mut record = forger.record(kind, content);
        assert_eq!(server.open(&mut record), Err(fault), "case {number}");
    }
}

#[test]
fn padding_is_taken_off_and_nothing_but_padding_is_a_fault() {
    let (mut forger, mut server) = Forger::new(tls13());
    // A content of "padded", its type, and zeros, of which the sealing takes the last for the type.
    let mut record = forger.record(ContentType::from(0), b"padded\x17\0\0\0");
    let (_, content) = server.open(&mut record).unwrap().unwrap();
    assert_eq!(content, Content::Data(5..11));
    let mut record = forger.record(ContentType::from(0), &[0; 100]);
    assert_eq!(server.open(&mut record), Err(Fault::Unexpected));
}

#[test]
fn a_header_that_begins_no_record_is_told_before_its_body_comes() {
    let (_, mut server) = session(tls13());
    for (header, fault) in [
        // A type that TLS does not know (RFC 8446, section 5).
        (*b"GET /", Fault::Unexpected),
        ([19, 3, 3, 0, 30], Fault::Unexpected),
        ([24, 3, 3, 0, 30], Fault::Unexpected),
        ([99, 3, 3, 0, 30], Fault::Unexpected),
        ([23, 2, 0, 0, 30], Fault::Decode),
        ([23, 3, 3, 0xff, 0xff], Fault::Overflow),
        ([23, 3, 3, 0x41, 0x01], Fault::Overflow),
    ] {
        assert_eq!(server.open(&mut header.clone()), Err(fault), "{header:?}");
    }
    assert_eq!(server.open(&mut [23, 3, 3, 0x41, 0x00]), Ok(None));
    assert_eq!(server.open(&mut [23, 3, 3, 0]), Ok(None));
}

#[test]
fn a_refusal_is_read_by_rustls_as_the_alert_it_is() {
    for suite in [tls13(), tls12()] {
        let (mut client, mut server) = session(suite);
        let alert = server.fatal(AlertDescription::AccessDenied).unwrap();
        client.read_tls(&mut &alert[..]).unwrap();
        assert_eq!(
            client.process_new_packets().unwrap_err(),
            rustls::Error::AlertReceived(AlertDescription::AccessDenied)
        );
    }
}
