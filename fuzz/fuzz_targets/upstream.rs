//! An upstream proxy's answer to CONNECT: what belongs to its header must not depend on where the network splits it.

#![no_main]

use adit::backend::{Progress, ProxyResponse};
use adit::limits::PROXY_ANSWER_MAX;
use adit::reason::CloseReason;
use libfuzzer_sys::fuzz_target;

/// Where the header ends, with pieces of `size` bytes; `None` while it has no end.
fn in_pieces(bytes: &[u8], size: usize) -> Result<Option<usize>, CloseReason> {
    let mut answer = ProxyResponse::default();
    let mut at = 0;
    for piece in bytes.chunks(size) {
        match answer.push(piece)? {
            Progress::More => at += piece.len(),
            Progress::Open(used) => return Ok(Some(at + used)),
        }
    }
    Ok(None)
}

/// How often a short input comes again: what costs stack or memory for each answer shows.
const AGAIN: usize = 4096;

fuzz_target!(|bytes: &[u8]| {
    if bytes.len() <= 64 {
        let _ = ProxyResponse::default().push(&bytes.repeat(AGAIN));
        let _ = in_pieces(&bytes.repeat(AGAIN), 4099);
    }
    let whole = in_pieces(bytes, bytes.len().max(1));
    if let Ok(Some(length)) = whole {
        assert!(length <= bytes.len());
    }
    // How soon an answer is refused may depend on the pieces, and which refusal comes first where it is too long.
    if bytes.len() <= PROXY_ANSWER_MAX {
        for size in [1, 7] {
            let pieces = in_pieces(bytes, size);
            assert_eq!(pieces.is_ok(), whole.is_ok());
            if let (Ok(pieces), Ok(whole)) = (pieces, whole) {
                assert_eq!(pieces, whole);
            }
        }
    }
});
