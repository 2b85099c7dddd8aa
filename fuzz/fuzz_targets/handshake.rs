//! The handshake on any bytes, in any pieces: an error with its alert or a wish for more, and never more consumed than
//! given. The first byte chooses suite and pieces; then come bytes that are put in the place of the client's own.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&[suite, honest, piece], bytes)) = data.split_first_chunk::<3>() else {
        return;
    };
    let mut server = adit_fuzz::server(suite);
    let mut hello = adit_fuzz::client(suite).take_outgoing();
    // A part of an honest hello, so that what lies behind it is reached too.
    hello.truncate(hello.len() * usize::from(honest) / 255);
    hello.extend_from_slice(bytes);
    let mut input = Vec::new();
    for piece in hello.chunks(usize::from(piece) * 8 + 1) {
        input.extend_from_slice(piece);
        let Ok((used, done)) = server.read(&mut input) else {
            server.take_outgoing();
            return;
        };
        assert!(used <= input.len());
        assert!(!done, "nobody proved the keys");
        input.drain(..used);
    }
});
