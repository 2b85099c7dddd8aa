//! The record layer behind a real handshake. The input is a script: records of any type and content under the client's
//! own keys, flipped bits, bytes of the network's own, key updates, and what the server says meanwhile.
//!
//! It must hold: what was sealed comes out, in order, at any split; a flipped bit is a fault; a fault is the end; what the
//! server seals opens under the client's keys.

#![no_main]

use adit::limits::TLS_PLAINTEXT_MAX;
use adit::tls::record::{Content, Fault, RecordLayer};
use adit_fuzz::{Sealed, Wire};
use libfuzzer_sys::fuzz_target;
use rustls::server::UnbufferedServerConnection;

struct Both {
    client: Wire,
    server: RecordLayer<UnbufferedServerConnection>,
    /// Ciphertext that the server has received and not opened.
    input: Vec<u8>,
    /// Plaintext that the server must have opened in the end, if nothing broke.
    expected: Vec<u8>,
    opened: Vec<u8>,
    closed: bool,
}

impl Both {
    /// Gives the server `bytes` in pieces of `piece`.
    fn receive(&mut self, bytes: &[u8], piece: usize) -> Result<(), Fault> {
        for part in bytes.chunks(piece) {
            self.input.extend_from_slice(part);
            while let Some((length, content)) = self.server.open(&mut self.input)? {
                match content {
                    Content::Data(place) => self.opened.extend_from_slice(&self.input[place]),
                    Content::Nothing => {}
                    Content::Closed => self.closed = true,
                }
                self.input.drain(..length);
            }
        }
        Ok(())
    }

    fn send(&mut self, kind: u8, content: &[u8], padding: usize) -> Vec<u8> {
        if kind == 23 {
            self.expected.extend_from_slice(content);
        }
        self.client.seal(&Sealed {
            kind,
            content,
            padding,
        })
    }

    /// What the server sends before its next data, with that data, must open.
    fn answer(&mut self, message: &[u8]) -> Result<(), Fault> {
        let sealed = self.server.seal_message(message)?;
        let opened = self.client.open_all(&sealed);
        let data: Vec<u8> = opened
            .into_iter()
            .filter(|(kind, _)| *kind == 23)
            .flat_map(|(_, data)| data)
            .collect();
        assert_eq!(data, message);
        Ok(())
    }
}

/// Takes bytes off the script.
fn take<'a>(script: &mut &'a [u8], length: usize) -> &'a [u8] {
    let (taken, rest) = script.split_at(length.min(script.len()));
    *script = rest;
    taken
}

fn run(both: &mut Both, mut script: &[u8], piece: usize) -> Result<(), Fault> {
    while let [operation, length, ..] = *script {
        script = &script[2..];
        let length = usize::from(length);
        let kind = [23, 22, 21, 20][usize::from(operation >> 4) & 3];
        match operation & 7 {
            0 | 1 => {
                let content = take(&mut script, length);
                // Long records are made of short scripts.
                let content = content.repeat(if operation & 8 == 0 { 1 } else { 70 });
                let padding = if operation & 0x40 == 0 {
                    0
                } else {
                    length * 70
                };
                let long = content.len() > TLS_PLAINTEXT_MAX
                    || (both.client.is_tls13() && content.len() + padding > TLS_PLAINTEXT_MAX);
                let record = both.send(kind, &content, padding);
                both.receive(&record, piece)?;
                assert!(!long, "a record beyond the limit was taken");
            }
            2 => {
                let content = take(&mut script, length);
                let mut record = both.send(kind, content, 0);
                let bit = take(&mut script, 2)
                    .iter()
                    .fold(0, |bit, byte| bit << 8 | usize::from(*byte));
                // Not in the header: a longer record would only make the server wait.
                let at = 5 + bit / 8 % (record.len() - 5);
                record[at] ^= 1 << (bit % 8);
                let fault = both
                    .receive(&record, piece)
                    .expect_err("a flipped bit was not noticed");
                assert_eq!(fault, Fault::BadRecordMac);
                return Err(fault);
            }
            3 => {
                // The network's bytes: nothing of them may be taken for data.
                let before = both.opened.len();
                let bytes = take(&mut script, length);
                let result = both.receive(bytes, piece);
                assert_eq!(both.opened.len(), before);
                result?;
                if !both.input.is_empty() {
                    // From here on nothing is where the client believes it is.
                    let result = both.receive(script, piece);
                    assert_eq!(both.opened.len(), before);
                    return result.and(Err(Fault::BadRecordMac));
                }
            }
            4 if both.client.is_tls13() => {
                let update = both.send(22, &[24, 0, 0, 1, operation >> 4 & 1], 0);
                both.client.update();
                both.receive(&update, piece)?;
            }
            5 => both.answer(take(&mut script, length))?,
            6 => {
                let close = both.send(21, &[1, 0], 0);
                both.receive(&close, piece)?;
                assert!(both.closed);
                return Ok(());
            }
            _ => {
                // A handshake message that says its own length, in two records.
                let message = take(&mut script, length);
                let cut = usize::from(operation >> 4) % (message.len() + 1);
                for part in [&message[..cut], &message[cut..]] {
                    let record = both.send(22, part, 0);
                    both.receive(&record, piece)?;
                }
            }
        }
    }
    Ok(())
}

fuzz_target!(|data: &[u8]| {
    let Some((&[suite, piece], script)) = data.split_first_chunk::<2>() else {
        return;
    };
    let (client, server) = adit_fuzz::session(suite);
    let mut both = Both {
        client,
        server: RecordLayer::take_over(server).expect("the handshake is done"),
        input: Vec::new(),
        expected: Vec::new(),
        opened: Vec::new(),
        closed: false,
    };
    let result = run(&mut both, script, usize::from(piece) * 16 + 1);
    assert!(
        both.expected.starts_with(&both.opened),
        "data that the client did not send"
    );
    match result {
        Ok(()) => assert!(both.opened == both.expected, "data was lost"),
        Err(fault) => {
            if let Some(alert) = fault.alert()
                && let Ok(last) = both.server.fatal(alert)
            {
                let opened = both.client.open_all(&last);
                assert_eq!(opened.last().map(|(kind, _)| *kind), Some(21));
            }
        }
    }
});
