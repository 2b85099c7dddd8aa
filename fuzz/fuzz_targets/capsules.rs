//! Capsules of a UDP tunnel: any bytes are datagrams, something to skip, or a fault, whatever the split; memory stays
//! bounded.

#![no_main]

use adit::limits::UDP_DATAGRAM_MAX;
use adit::tunnel::capsule::{CapsuleFault, CapsuleReader, Event, datagram_header};
use libfuzzer_sys::fuzz_target;

/// What comes out of pieces of `size` bytes; `None` for a datagram that is dropped.
fn read(bytes: &[u8], size: usize) -> Result<Vec<Option<Vec<u8>>>, CapsuleFault> {
    let mut reader = CapsuleReader::default();
    let mut out = Vec::new();
    for mut piece in bytes.chunks(size) {
        while let Some(event) = reader.next(&mut piece)? {
            out.push(match event {
                Event::Datagram(payload) => Some(payload.to_vec()),
                Event::Dropped => None,
            });
        }
        assert!(piece.is_empty());
    }
    Ok(out)
}

fuzz_target!(|data: &[u8]| {
    let Some((&size, bytes)) = data.split_first() else {
        return;
    };
    let whole = read(bytes, bytes.len().max(1));
    assert_eq!(whole, read(bytes, 1));
    assert_eq!(whole, read(bytes, usize::from(size) + 1));
    // What was read is written so that it is read again.
    let payloads: Vec<_> = whole.unwrap_or_default().into_iter().flatten().collect();
    let mut again = Vec::new();
    for payload in &payloads {
        assert!(payload.len() <= UDP_DATAGRAM_MAX);
        let (header, length) = datagram_header(payload.len());
        again.extend_from_slice(&header[..length]);
        again.extend_from_slice(payload);
    }
    let read_again = read(&again, 7).unwrap();
    assert_eq!(
        read_again,
        payloads.into_iter().map(Some).collect::<Vec<_>>()
    );
});
