//! Handshake messages behind the handshake: in pieces, several at once, and those that ask for an
//! answer.

use rustls::ContentType;

use super::*;
use crate::limits::{TLS_LATE_HELLO_MAX, TLS_RECORD_HEADER};

/// A ClientHello, as far as anybody looks at one that comes behind the handshake.
const HELLO: [u8; 7] = [1, 0, 0, 3, 3, 3, 0];

/// RFC 5746, section 5: a renegotiation is refused by a warning, and the session goes on. Whoever
/// does not read the refusal is given no other one, whatever comes between.
#[test]
fn refusals_of_a_renegotiation_do_not_pile_up() {
    let (mut forger, mut server) = Forger::new(tls12());
    let mut ask = |server: &mut Server| {
        let mut data = forger.record(ContentType::ApplicationData, b"data");
        server.open(&mut data).unwrap();
        server.open(&mut forger.record(ContentType::Handshake, &HELLO))
    };
    for _ in 0..20 {
        assert!(!server.owes_answer());
        ask(&mut server).unwrap();
        assert!(server.owes_answer());
        let refusal = server.before_sealing().unwrap();
        let one = TLS_RECORD_HEADER + 8 + 2 + 16;
        assert_eq!(refusal.len(), one);
    }
    ask(&mut server).unwrap();
    // The socket takes a part of it, which is none of it.
    let refusal = server.before_sealing().unwrap();
    server.not_sent(refusal[9..].to_vec());
    assert_eq!(ask(&mut server), Err(Fault::Unexpected));
    assert_eq!(server.before_sealing().unwrap(), refusal[9..]);
}

/// RFC 8446, section 4.6.3: who has not sent its answer yet answers several requests with one.
#[test]
fn an_answer_that_is_not_sent_answers_all_requests_for_new_keys() {
    let (mut client, mut server) = session(tls13());
    client.refresh_traffic_keys().unwrap();
    open_all(&mut server, &mut written(&mut client)).unwrap();
    let answer = server.before_sealing().unwrap();
    server.not_sent(answer[3..].to_vec());
    for _ in 0..5 {
        client.refresh_traffic_keys().unwrap();
        let mut records = write(&mut client, b"data");
        open_all(&mut server, &mut records).unwrap();
    }
    assert_eq!(server.before_sealing().unwrap(), answer[3..]);
    assert!(!server.owes_answer());
    assert!(read(&mut client, &answer).is_empty());
    let records = seal(&mut server, b"under new keys");
    assert_eq!(read(&mut client, &records), b"under new keys");
}

/// A message of many pieces costs what its bytes cost: 16 384 pieces of one byte are copied once
/// each, which takes milliseconds; copied anew with each piece they were 134 MB.
#[test]
fn a_message_in_pieces_is_held_once_and_within_its_bound() {
    let (mut forger, mut server) = Forger::new(tls12());
    let length = TLS_LATE_HELLO_MAX as u32;
    let mut hello = [&[1][..], &length.to_be_bytes()[1..]].concat();
    hello.resize(4 + TLS_LATE_HELLO_MAX, 7);
    for (at, byte) in hello.iter().enumerate() {
        let mut record = forger.record(ContentType::Handshake, &[*byte]);
        server.open(&mut record).unwrap();
        assert_eq!(server.owes_answer(), at + 1 == hello.len());
    }
    // What is longer is refused by its header, before anything of it is kept.
    for (suite, header, fault) in [
        (tls12(), [1, 0, 0x40, 1], Fault::Decode),
        (tls12(), [0, 0, 0, 0], Fault::Unexpected),
        (tls12(), [11, 0, 0, 1], Fault::Unexpected),
        (tls13(), [24, 0, 0, 2], Fault::Decode),
        (tls13(), [24, 0, 0, 0], Fault::Decode),
        (tls13(), [1, 0, 0, 1], Fault::Unexpected),
        (tls13(), [4, 0, 0, 1], Fault::Unexpected),
    ] {
        let (mut forger, mut server) = Forger::new(suite);
        for byte in &header[..3] {
            let mut record = forger.record(ContentType::Handshake, &[*byte]);
            server.open(&mut record).unwrap();
        }
        let mut record = forger.record(ContentType::Handshake, &header[3..]);
        assert_eq!(server.open(&mut record), Err(fault), "{header:?}");
    }
}

/// Messages and pieces of messages in one record, cut at every byte.
#[test]
fn messages_are_told_apart_wherever_their_records_end() {
    let two = [&HELLO[..], &HELLO].concat();
    for cut in 1..two.len() {
        let (mut forger, mut server) = Forger::new(tls12());
        let mut records = forger.record(ContentType::Handshake, &two[..cut]);
        server.open(&mut records).unwrap();
        let first = server.before_sealing().unwrap();
        assert_eq!(first.is_empty(), cut < HELLO.len(), "{cut}");
        let second = server.open(&mut forger.record(ContentType::Handshake, &two[cut..]));
        // Both at once are one too many.
        assert_eq!(second.is_err(), cut < HELLO.len(), "{cut}");
    }
}

#[test]
fn handshake_messages_may_come_in_pieces_but_not_be_interrupted() {
    let key_update = [24, 0, 0, 1, 0];
    for cut in 1..key_update.len() {
        let (mut forger, mut server) = Forger::new(tls13());
        for piece in [&key_update[..cut], &key_update[cut..]] {
            let mut record = forger.record(ContentType::Handshake, piece);
            let (_, content) = server.open(&mut record).unwrap().unwrap();
            assert_eq!(content, Content::Nothing);
        }
        let (mut forger, mut server) = Forger::new(tls13());
        let mut record = forger.record(ContentType::Handshake, &key_update[..cut]);
        server.open(&mut record).unwrap();
        let mut record = forger.record(ContentType::ApplicationData, b"between");
        assert_eq!(server.open(&mut record), Err(Fault::Unexpected));
    }
}
