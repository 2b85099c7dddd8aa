//! Version 1: one line of text (section 2.1).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::{Addresses, Details, Endpoints, Header, HeaderError, Parsed, Transport};
use crate::limits::PROXY_V1_MAX;

/// Begin of the line. Its space is a part of it: no other protocol's word may go on from here.
pub(super) const SIGNATURE: &[u8] = b"PROXY ";

/// Longest IPv6 address of the form in section 2.1, in characters.
const ADDRESS_MAX: usize = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".len();

/// `bytes` begin with the signature and are not more than a line can have.
pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, HeaderError> {
    let Some(length) = bytes.windows(2).position(|pair| pair == b"\r\n") else {
        return match bytes.len() {
            PROXY_V1_MAX.. => Err(HeaderError("the line is longer than 107 bytes")),
            _ => Ok(Parsed::Incomplete),
        };
    };
    let line = &bytes[SIGNATURE.len()..length];
    let endpoints = match line.strip_prefix(b"UNKNOWN") {
        // Whatever comes behind it is to be ignored.
        Some([] | [b' ', ..]) => Endpoints::Unknown,
        _ => Endpoints::Proxied(addresses(line)?),
    };
    let header = Header {
        endpoints,
        details: Details::default(),
    };
    Ok(Parsed::Header(Box::new(header), length + 2))
}

fn addresses(line: &[u8]) -> Result<Addresses, HeaderError> {
    let line = std::str::from_utf8(line).map_err(|_| HeaderError("the line is not ASCII"))?;
    let fields: Vec<&str> = line.split(' ').collect();
    let &[family, source, destination, source_port, destination_port] = &fields[..] else {
        return Err(HeaderError("the line has not six fields"));
    };
    let ip = |text| match family {
        "TCP4" => address::<Ipv4Addr>(text),
        "TCP6" => address::<Ipv6Addr>(text),
        _ => Err(HeaderError("the protocol is not TCP4, TCP6 or UNKNOWN")),
    };
    let source = SocketAddr::new(ip(source)?, port(source_port)?);
    let destination = SocketAddr::new(ip(destination)?, port(destination_port)?);
    Ok(Addresses::new(source, destination, Transport::Stream))
}

/// Rust's own readers take the canonical forms alone: no leading zeros in IPv4, no zone in IPv6.
/// They also take `::ffff:192.0.2.1`, which the document has not, but HAProxy itself sends for IPv4
/// clients of an IPv6 listener.
fn address<A: FromStr + Into<IpAddr>>(text: &str) -> Result<IpAddr, HeaderError> {
    match text.parse::<A>() {
        Ok(address) if text.len() <= ADDRESS_MAX => Ok(address.into()),
        _ => Err(HeaderError("an address is not one of the line's family")),
    }
}

fn port(text: &str) -> Result<u16, HeaderError> {
    let canonical = text.bytes().all(|byte| byte.is_ascii_digit())
        && (text.len() == 1 || !text.starts_with('0'));
    match text.parse() {
        Ok(port) if canonical => Ok(port),
        _ => Err(HeaderError("a port is not a number from 0 to 65535")),
    }
}

pub(super) fn write(header: &Header) -> Vec<u8> {
    let addresses = match header.endpoints {
        Endpoints::Proxied(addresses) if addresses.transport == Transport::Stream => addresses,
        Endpoints::Proxied(_) | Endpoints::Local | Endpoints::Unknown => {
            return b"PROXY UNKNOWN\r\n".to_vec();
        }
    };
    let (source, destination) = (addresses.source, addresses.destination);
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    format!(
        "PROXY {family} {} {} {} {}\r\n",
        source.ip(),
        destination.ip(),
        source.port(),
        destination.port()
    )
    .into_bytes()
}
