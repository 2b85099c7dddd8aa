//! PROXY protocol headers: the same at any split; what was read is written and read again as itself.

#![no_main]

use adit::limits::PROXY_V1_MAX;
use adit::proxy_protocol::{Endpoints, Header, Parsed, parse};
use libfuzzer_sys::fuzz_target;

fn reread(bytes: &[u8]) -> Header {
    match parse(bytes) {
        Ok(Parsed::Header(header, length)) if length == bytes.len() => *header,
        other => panic!("{other:?}"),
    }
}

fuzz_target!(|bytes: &[u8]| {
    let whole = parse(bytes);
    for length in 0..bytes.len().min(300) {
        let part = parse(&bytes[..length]);
        assert!(part == Ok(Parsed::Incomplete) || part == whole);
    }
    let Ok(Parsed::Header(header, length)) = whole else {
        return;
    };
    assert!(length <= bytes.len());
    assert_eq!(parse(&bytes[..length - 1]), Ok(Parsed::Incomplete));
    let line = header.write_v1();
    assert!(line.len() <= PROXY_V1_MAX);
    assert_eq!(reread(&line).client(), header.client());
    if bytes.starts_with(b"PROXY ") {
        assert!(length <= PROXY_V1_MAX);
    }
    // Values of a header without addresses have no place when it is written, and a checksum may not fit.
    if let (Endpoints::Proxied(_), Ok(written)) = (header.endpoints, header.write_v2(true)) {
        assert_eq!(reread(&written), *header);
    }
});
