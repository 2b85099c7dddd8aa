use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

use super::*;

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn complete(bytes: &[u8]) -> (Header, usize) {
    match parse(bytes) {
        Ok(Parsed::Header(header, length)) => (*header, length),
        other => panic!("{other:?} for {bytes:?}"),
    }
}

fn refused(bytes: &[u8], why: &str) {
    match parse(bytes) {
        Err(error) => assert!(error.to_string().contains(why), "{error} for {bytes:?}"),
        other => panic!("{other:?} for {bytes:?}, and not {why:?}"),
    }
}

/// A header of version 2 with this block behind its fixed part.
fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [v2::SIGNATURE, &[command, family], &length, block].concat()
}

/// A header of version 2 for TCP over IPv4 with these values.
fn with_values(values: &[u8]) -> Vec<u8> {
    let addresses = [192, 0, 2, 1, 198, 51, 100, 2, 0xdc, 4, 1, 187];
    v2(0x21, 0x11, &[&addresses, values].concat())
}

#[test]
fn the_documents_own_example_and_what_follows_it() {
    let bytes = b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\nGET / HTTP/1.1\r\n";
    let (header, length) = complete(bytes);
    assert_eq!(
        header,
        Header::of(address("192.168.0.1:56324"), address("192.168.0.11:443"))
    );
    assert_eq!(&bytes[length..], b"GET / HTTP/1.1\r\n");
}

#[test]
fn the_longest_and_shortest_lines() {
    let all = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let longest = format!("PROXY TCP6 {all} {all} 65535 65535\r\n");
    let both = address(&format!("[{all}]:65535"));
    assert_eq!(
        complete(longest.as_bytes()),
        (Header::of(both, both), longest.len())
    );
    let unknown = format!("PROXY UNKNOWN {all} {all} 65535 65535\r\n");
    assert_eq!(unknown.len(), PROXY_V1_MAX);
    for line in ["PROXY UNKNOWN\r\n", "PROXY UNKNOWN \r \n x\r\n", &unknown] {
        let (header, length) = complete(line.as_bytes());
        assert_eq!((header.endpoints, length), (Endpoints::Unknown, line.len()));
    }
    let longer = format!("PROXY UNKNOWN  {all} {all} 65535 65535\r\n");
    refused(longer.as_bytes(), "107");
    refused(&longer.as_bytes()[..PROXY_V1_MAX], "107");
    assert_eq!(
        parse(&longer.as_bytes()[..PROXY_V1_MAX - 1]),
        Ok(Parsed::Incomplete)
    );
}

#[test]
fn a_line_is_exact() {
    for (line, why) in [
        ("TCP4 192.0.2.1 192.0.2.2 1 2 3", "six fields"),
        ("TCP4 192.0.2.1 192.0.2.2 1", "six fields"),
        ("TCP4  192.0.2.1 192.0.2.2 1 2", "six fields"),
        ("TCP4 192.0.2.1 192.0.2.2 1 2 ", "six fields"),
        ("TCP4 192.0.2.1 192.0.2.2 1\n2", "six fields"),
        ("tcp4 192.0.2.1 192.0.2.2 1 2", "TCP4, TCP6"),
        ("UDP4 192.0.2.1 192.0.2.2 1 2", "TCP4, TCP6"),
        ("UNKNOWNS 192.0.2.1 192.0.2.2 1 2", "TCP4, TCP6"),
        ("TCP4 192.0.2.01 192.0.2.2 1 2", "address"),
        ("TCP4 192.0.2.256 192.0.2.2 1 2", "address"),
        ("TCP4 192.0.2 192.0.2.2 1 2", "address"),
        ("TCP4 ::1 ::1 1 2", "address"),
        ("TCP6 192.0.2.1 192.0.2.2 1 2", "address"),
        ("TCP6 fe80::1%eth0 ::1 1 2", "address"),
        ("TCP6 1::2::3 ::1 1 2", "address"),
        ("TCP6 12345::1 ::1 1 2", "address"),
        ("TCP6 [::1] ::1 1 2", "address"),
        (
            "TCP6 0000:0000:0000:0000:0000:ffff:255.255.255.255 ::1 1 2",
            "address",
        ),
        ("TCP4 192.0.2.1 192.0.2.2 01 2", "port"),
        ("TCP4 192.0.2.1 192.0.2.2 1 65536", "port"),
        ("TCP4 192.0.2.1 192.0.2.2 +1 2", "port"),
        ("TCP4 192.0.2.1 192.0.2.2 -1 2", "port"),
        ("TCP4 192.0.2.1 192.0.2.2 1 2\n", "port"),
        ("TCP4 192.0.2.1 192.0.2.2 1 2\r", "port"),
    ] {
        refused(format!("PROXY {line}\r\n").as_bytes(), why);
    }
    refused(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 \xff\r\n", "ASCII");
    let (header, _) = complete(b"PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n");
    assert_eq!(header.client(), Some(address("0.0.0.0:0")));
    // HAProxy's own form for an IPv4 client of an IPv6 listener.
    let (header, _) = complete(b"PROXY TCP6 ::ffff:192.0.2.1 ::FFFF:c000:202 5 443\r\n");
    assert_eq!(header.client(), Some(address("[::ffff:192.0.2.1]:5")));
}

#[test]
fn other_protocols_are_told_apart_at_their_first_byte_that_differs() {
    for bytes in [
        &b"\x16\x03\x01"[..],
        b"GET / HTTP/1.1",
        b"CONNECT a:1",
        b"PRI * HTTP/2.0",
        b"POST",
        b"PROXYX",
        b"PROXY\t",
        b"proxy ",
        b"\r\n\r\nGET",
        b"\r\n\r\n\0\r\nQUIT\r",
    ] {
        assert_eq!(parse(bytes), Ok(Parsed::Absent), "{bytes:?}");
    }
    for signature in [v1::SIGNATURE, v2::SIGNATURE] {
        for length in 0..=signature.len() {
            assert_eq!(parse(&signature[..length]), Ok(Parsed::Incomplete));
        }
    }
}

#[test]
fn families_and_commands() {
    let v4 = [192, 0, 2, 1, 198, 51, 100, 2, 0xdc, 4, 1, 187];
    let v6 = [[0x20; 16], [0x30; 16]].concat();
    let v6 = [&v6[..], &[0, 0, 255, 255]].concat();
    let (header, length) = complete(&[&v2(0x21, 0x11, &v4)[..], b"behind"].concat());
    let expected = Header::of(address("192.0.2.1:56324"), address("198.51.100.2:443"));
    assert_eq!((header, length), (expected, 16 + v4.len()));
    let (header, _) = complete(&v2(0x21, 0x21, &v6));
    assert_eq!(header.client().unwrap().port(), 0);
    // A client that does not speak TCP is not the other end of this connection.
    let (header, _) = complete(&v2(0x21, 0x12, &v4));
    assert_eq!(header.client(), None);
    assert!(matches!(header.endpoints, Endpoints::Proxied(_)));

    for (family, block) in [(0x31, 216), (0x32, 219), (0x00, 0), (0x00, 7)] {
        let mut block = vec![0; block];
        if let Some(value) = block.get_mut(216) {
            *value = 4;
        }
        let (header, _) = complete(&v2(0x21, family, &block));
        assert_eq!(header.endpoints, Endpoints::Unknown);
    }
    for family in [0x00, 0x11, 0x21, 0x31, 0xff] {
        for length in [0, 5, 12, 300] {
            let (header, _) = complete(&v2(0x20, family, &vec![0xff; length]));
            assert_eq!(header, Header::local());
        }
    }
    for family in [0x01, 0x02, 0x10, 0x13, 0x20, 0x30, 0x33, 0x41, 0xff] {
        refused(&v2(0x21, family, &[0; 300]), "not known");
    }
    for (family, short) in [(0x11, 11), (0x12, 0), (0x21, 35), (0x22, 12), (0x31, 215)] {
        refused(&v2(0x21, family, &vec![0; short]), "shorter");
    }
    for command in [0x22, 0x2f] {
        refused(&v2(command, 0x11, &v4), "command");
        refused(&v2(command, 0x11, &v4)[..13], "command");
    }
    for version in [0x01, 0x11, 0x31, 0xf0] {
        refused(&v2(version, 0x11, &v4), "version");
        refused(&v2(version, 0x11, &v4)[..13], "version");
    }
}

#[test]
fn values_are_bounded_by_the_header() {
    for short in [
        &[1][..],
        &[1, 0],
        &[1, 0, 1],
        &[4, 0, 0, 1, 0],
        &[4, 1, 0, 0],
    ] {
        refused(&with_values(short), "beyond the end");
    }
    for short in [&[0x20, 0, 0][..], &[0x20, 0, 4, 1, 0, 0, 0]] {
        refused(&with_values(short), "TLS is shorter");
    }
    let past = [&[0x20, 0, 9, 1, 0, 0, 0, 0][..], &[0x21, 0, 2, b'x']].concat();
    refused(&with_values(&past), "beyond the end");
    // What is not known is skipped: padding, and types of somebody's own.
    let skipped = [&[4, 0, 2, 9, 9][..], &[4, 0, 0], &[0xe0, 0, 1, 0xff]].concat();
    assert_eq!(
        complete(&with_values(&skipped)).0.details,
        Details::default()
    );
    let id = |length: u8| with_values(&[&[5, 0, length][..], &vec![7; length.into()]].concat());
    assert_eq!(
        complete(&id(128)).0.details.unique_id,
        Some(vec![7; UNIQUE_ID_MAX])
    );
    refused(&id(129), "128");
    refused(&with_values(&[2, 0, 1, 0xff]), "UTF-8");
    refused(&with_values(&[0x30, 0, 2, 0xc3, 0xa4]), "ASCII");
    for twice in [
        &[2, 0, 1, b'a'][..],
        &[5, 0, 0],
        &[0x20, 0, 5, 1, 0, 0, 0, 0],
    ] {
        refused(&with_values(&[twice, twice].concat()), "twice");
    }
}

#[test]
fn a_checksum_is_checked_where_it_is() {
    let mut header = Header::of(address("[2001:db8::1]:1"), address("192.0.2.1:443"));
    header.details.authority = Some("git.example.com".to_owned());
    let good = header.write_v2(true).unwrap();
    assert_eq!(complete(&good).0, header);
    // Without its type it is no checksum any more.
    let kind = good.len() - 7;
    for at in (0..good.len() * 8).filter(|at| at / 8 != kind) {
        let mut bad = good.clone();
        bad[at / 8] ^= 1 << (at % 8);
        let parsed = parse(&bad);
        assert!(
            !matches!(&parsed, Ok(Parsed::Header(read, _)) if **read == header),
            "bit {at}: {parsed:?}"
        );
    }
    refused(&with_values(&[3, 0, 4, 0, 0, 0, 0]), "checksum is wrong");
    refused(&with_values(&[3, 0, 3, 0, 0, 0]), "four bytes");
    refused(&with_values(&[3, 0, 5, 0, 0, 0, 0, 0]), "four bytes");
}

#[test]
fn what_does_not_fit_is_not_written() {
    let mut header = Header::of(address("192.0.2.1:1"), address("192.0.2.2:2"));
    header.details.authority = Some("x".repeat(65_536));
    assert!(header.write_v2(false).is_err());
    header.details.authority = Some("x".repeat(65_500));
    assert_eq!(complete(&header.write_v2(true).unwrap()).0, header);
    header.details.alpn = Some(vec![0; 100]);
    assert!(header.write_v2(false).is_err());
    header.details = Details::default();
    header.details.unique_id = Some(vec![0; UNIQUE_ID_MAX + 1]);
    assert!(header.write_v2(false).is_err());
}

#[test]
fn families_are_mixed_as_ipv6() {
    let header = Header::of(address("192.0.2.1:1"), address("[2001:db8::1]:2"));
    assert_eq!(
        header.write_v1(),
        b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::1 1 2\r\n"
    );
    assert_eq!(complete(&header.write_v1()).0, header);
    assert_eq!(complete(&header.write_v2(false).unwrap()).0, header);
}

fn addresses() -> impl Strategy<Value = Addresses> {
    let transport = prop_oneof![Just(Transport::Stream), Just(Transport::Datagram)];
    let any = (any::<IpAddr>(), any::<u16>(), any::<IpAddr>(), any::<u16>());
    (any, transport).prop_map(|((from, from_port, to, to_port), transport)| {
        let (from, to) = ((from, from_port).into(), (to, to_port).into());
        Addresses::new(from, to, transport)
    })
}

fn tls() -> impl Strategy<Value = TlsDetails> {
    let word = || of("[ -~]{0,12}");
    let certificate = of(vec(any::<u8>(), 0..40));
    (
        any::<u8>(),
        any::<u32>(),
        word(),
        word(),
        of(".{0,9}"),
        certificate,
    )
        .prop_map(
            |(client, verify, version, cipher, common_name, certificate)| TlsDetails {
                client,
                verify,
                version,
                cipher,
                common_name,
                certificate,
            },
        )
}

fn details() -> impl Strategy<Value = Details> {
    let bytes = |most: usize| of(vec(any::<u8>(), 0..most));
    let id = bytes(UNIQUE_ID_MAX + 1);
    (bytes(9), of(".{0,9}"), id, of(tls()), of("[ -~]{0,9}")).prop_map(
        |(alpn, authority, unique_id, tls, namespace)| Details {
            alpn,
            authority,
            unique_id,
            tls,
            namespace,
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read(addresses in addresses(), details in details(), checksum in any::<bool>(), behind in vec(any::<u8>(), 0..20)) {
        let header = Header { endpoints: Endpoints::Proxied(addresses), details };
        let written = header.write_v2(checksum).unwrap();
        let bytes = [&written[..], &behind].concat();
        prop_assert_eq!(parse(&bytes), Ok(Parsed::Header(Box::new(header.clone()), written.len())));
        // At any place the bytes so far are no header, nor are they refused.
        for length in 0..written.len() {
            prop_assert_eq!(parse(&bytes[..length]), Ok(Parsed::Incomplete));
        }

        let line = header.write_v1();
        prop_assert!(line.len() <= PROXY_V1_MAX);
        let endpoints = if addresses.transport() == Transport::Stream { header.endpoints } else { Endpoints::Unknown };
        let first = Header { endpoints, details: Details::default() };
        let bytes = [&line[..], &behind].concat();
        prop_assert_eq!(parse(&bytes), Ok(Parsed::Header(Box::new(first), line.len())));
        for length in 0..line.len() {
            prop_assert_eq!(parse(&bytes[..length]), Ok(Parsed::Incomplete));
        }
    }

    #[test]
    fn what_more_bytes_say_does_not_contradict_fewer(
        start in prop_oneof![Just(v1::SIGNATURE.to_vec()), Just(b"PROXY TCP4 1.2.3.4 5".to_vec()), Just(with_values(&[])[..28].to_vec()), Just(Vec::new())],
        rest in vec(any::<u8>(), 0..120),
    ) {
        let bytes = [start, rest].concat();
        let whole = parse(&bytes);
        for length in 0..bytes.len() {
            let part = parse(&bytes[..length]);
            prop_assert!(part == Ok(Parsed::Incomplete) || part == whole, "{part:?} and then {whole:?}");
        }
    }
}
