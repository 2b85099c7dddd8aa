//! A handshake between two honest ends whose bytes come in any pieces, and what both say as soon as they may: both hear all of
//! it. The first bytes choose suite and record length; each of the others moves a piece of one direction.

#![no_main]

use adit::tls::record::{Content, RecordLayer};
use adit::tls::{Connection, Handshake};
use libfuzzer_sys::fuzz_target;

const WORDS: &[u8] = b"what follows the handshake";

struct End<C: Connection> {
    handshake: Option<Handshake<C>>,
    layer: Option<RecordLayer<C>>,
    input: Vec<u8>,
    output: Vec<u8>,
    heard: Vec<u8>,
}

impl<C: Connection> End<C> {
    fn new(mut handshake: Handshake<C>) -> Self {
        let output = handshake.take_outgoing();
        Self {
            handshake: Some(handshake),
            layer: None,
            input: Vec::new(),
            output,
            heard: Vec::new(),
        }
    }

    fn take(&mut self, piece: &[u8]) {
        self.input.extend_from_slice(piece);
        if let Some(mut handshake) = self.handshake.take() {
            let (used, done) = handshake.read(&mut self.input).expect("an honest peer");
            assert!(used <= self.input.len());
            self.input.drain(..used);
            self.output.extend(handshake.take_outgoing());
            if !done {
                self.handshake = Some(handshake);
                return;
            }
            let mut layer = RecordLayer::take_over(handshake).expect("it is done");
            self.output
                .extend(layer.seal_message(WORDS).expect("new keys"));
            self.layer = Some(layer);
        }
        let Some(layer) = &mut self.layer else {
            return;
        };
        while let Some((length, content)) = layer.open(&mut self.input).expect("an honest peer") {
            if let Content::Data(place) = content {
                self.heard.extend_from_slice(&self.input[place]);
            }
            self.input.drain(..length);
        }
    }
}

/// Moves so many bytes, or all that there are.
fn moved<A: Connection, B: Connection>(from: &mut End<A>, to: &mut End<B>, count: usize) {
    let count = count.min(from.output.len());
    let piece: Vec<u8> = from.output.drain(..count).collect();
    if !piece.is_empty() {
        to.take(&piece);
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&[suite, fragment], moves)) = data.split_first_chunk::<2>() else {
        return;
    };
    let (client, server) = adit_fuzz::ends(suite, fragment);
    let (mut client, mut server) = (End::new(client), End::new(server));
    for step in moves {
        let count = match step >> 1 {
            short @ 0..96 => usize::from(short) + 1,
            long => usize::from(long - 95) * 97,
        };
        match step & 1 {
            0 => moved(&mut client, &mut server, count),
            _ => moved(&mut server, &mut client, count),
        }
    }
    // What is left comes at once.
    while !client.output.is_empty() || !server.output.is_empty() {
        moved(&mut client, &mut server, usize::MAX);
        moved(&mut server, &mut client, usize::MAX);
    }
    assert_eq!((&client.heard[..], &server.heard[..]), (WORDS, WORDS));
});
