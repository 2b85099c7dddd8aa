//! The guard of an HTTP/2 session, and what a request asks for: a verdict must not depend on where the network splits the
//! frames, and a target that is accepted must be in its one canonical form.

#![no_main]

use std::time::Instant;

use adit::config::HostPort;
use adit::front::http2::guard::FrameGuard;
use adit::front::http2::request;
use adit::front::request::RequestKind;
use adit::observe::Abuse;
use http::Request;
use libfuzzer_sys::fuzz_target;

/// What a client sends before its first frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The verdict on `frames` in pieces of `size` bytes.
fn verdict(frames: &[u8], size: usize, now: Instant) -> Result<(), Abuse> {
    let mut guard = FrameGuard::new(now);
    guard.push(PREFACE, now)?;
    frames
        .chunks(size)
        .try_for_each(|piece| guard.push(piece, now))
}

fuzz_target!(|data: &[u8]| {
    let Some((&size, frames)) = data.split_first() else {
        return;
    };
    let now = Instant::now();
    let whole = verdict(frames, frames.len().max(1), now);
    assert_eq!(whole, verdict(frames, usize::from(size) + 1, now));
    assert_eq!(whole, verdict(frames, 1, now));

    let Ok(authority) = std::str::from_utf8(frames) else {
        return;
    };
    let Ok(request) = Request::connect(authority).body(()) else {
        return;
    };
    let asked = |http: Request<()>| request::request(&http.into_parts().0).map(|read| read.asked);
    if let Ok(RequestKind::Tunnel(target)) = asked(request) {
        let text = target.to_string();
        assert_eq!(text.parse::<HostPort>().as_ref(), Ok(&target));
        let again = Request::connect(&text)
            .body(())
            .expect("a target is an authority");
        assert_eq!(asked(again), Ok(RequestKind::Tunnel(target)));
    }
});
