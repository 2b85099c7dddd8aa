//! The tunnel request: what it is must not depend on where the network splits it, and what is accepted must be in its
//! one canonical form.

#![no_main]

use adit::config::HostPort;
use adit::front::request::{Parsed, RequestError, RequestKind, RequestParser};
use adit::limits::REQUEST_HEADER_MAX;
use libfuzzer_sys::fuzz_target;

type Outcome = Result<Option<Parsed>, RequestError>;

/// Pieces of `size` bytes, the first of which is `first` bytes long.
fn in_pieces(bytes: &[u8], first: usize, size: usize) -> Outcome {
    let mut parser = RequestParser::new();
    let (mut at, mut end) = (0, first.clamp(1, bytes.len().max(1)));
    loop {
        end = end.min(bytes.len());
        match parser.push(&bytes[at..end]) {
            Ok(None) if end < bytes.len() => (at, end) = (end, end + size),
            Ok(Some(mut request)) => {
                request.early.extend_from_slice(&bytes[end..]);
                return Ok(Some(request));
            }
            other => return other,
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&[first, size], bytes)) = data.split_first_chunk::<2>() else {
        return;
    };
    let whole = RequestParser::new().push(bytes);
    assert_eq!(whole, in_pieces(bytes, first.into(), usize::from(size) + 1));
    assert_eq!(whole, in_pieces(bytes, 1, 1));
    let Ok(Some(parsed)) = whole else { return };
    let head = bytes.len() - parsed.early.len();
    assert!(head <= REQUEST_HEADER_MAX);
    assert!(bytes[..head].ends_with(b"\r\n\r\n"));
    assert_eq!(&bytes[head..], parsed.early);
    // A target is read again as itself: two readers cannot take it for two destinations.
    if let RequestKind::Tunnel(target) = parsed.request.asked {
        assert_eq!(target.to_string().parse::<HostPort>().as_ref(), Ok(&target));
    }
});
