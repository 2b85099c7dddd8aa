//! Version 2: a fixed part, the addresses, then values with type and length (section 2.2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::crc32c::checksum;
use super::{
    Addresses, Details, Endpoints, Header, HeaderError, Parsed, TlsDetails, Transport,
    UNIQUE_ID_MAX,
};

/// Begin of the header.
pub(super) const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Bytes in front of the addresses.
const FIXED: usize = SIGNATURE.len() + 4;
/// Bytes of two addresses and two ports, by family; of two Unix paths.
const ADDRESSES_V4: usize = 12;
const ADDRESSES_V6: usize = 36;
const ADDRESSES_UNIX: usize = 216;

const VERSION: u8 = 0x20;
const LOCAL: u8 = 0x0;
const PROXY: u8 = 0x1;

// Family in the high four bits, transport in the low ones.
const UNSPEC: u8 = 0x00;
const TCP4: u8 = 0x11;
const UDP4: u8 = 0x12;
const TCP6: u8 = 0x21;
const UDP6: u8 = 0x22;
const UNIX_STREAM: u8 = 0x31;
const UNIX_DATAGRAM: u8 = 0x32;

// Types of values.
const ALPN: u8 = 0x01;
const AUTHORITY: u8 = 0x02;
const CRC32C: u8 = 0x03;
const UNIQUE_ID: u8 = 0x05;
const TLS: u8 = 0x20;
const TLS_VERSION: u8 = 0x21;
const TLS_COMMON_NAME: u8 = 0x22;
const TLS_CIPHER: u8 = 0x23;
const TLS_CERTIFICATE: u8 = 0x28;
const NAMESPACE: u8 = 0x30;

/// `bytes` begin with the signature.
pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, HeaderError> {
    let Some(&[command, family, a, b]) = bytes
        .get(SIGNATURE.len()..)
        .and_then(<[u8]>::first_chunk::<4>)
    else {
        // The version is the thirteenth byte: what has another one is no header at all.
        return match bytes.get(SIGNATURE.len()) {
            Some(command) => known(*command).map(|_| Parsed::Incomplete),
            None => Ok(Parsed::Incomplete),
        };
    };
    let command = known(command)?;
    let length = FIXED + usize::from(u16::from_be_bytes([a, b]));
    let Some(header) = bytes.get(..length) else {
        return Ok(Parsed::Incomplete);
    };
    let block = &header[FIXED..];
    let (endpoints, values) = match (command, family) {
        // The block is to be discarded, the family in it ignored.
        (LOCAL, _) => (Endpoints::Local, None),
        // What comes with it is to be ignored, and nobody says where values would begin.
        (_, UNSPEC) => (Endpoints::Unknown, None),
        (_, UNIX_STREAM | UNIX_DATAGRAM) => {
            (Endpoints::Unknown, Some(split(block, ADDRESSES_UNIX)?.1))
        }
        (_, TCP4 | UDP4) => {
            let (addresses, values) = split(block, ADDRESSES_V4)?;
            (proxied(addresses, family), Some(values))
        }
        (_, TCP6 | UDP6) => {
            let (addresses, values) = split(block, ADDRESSES_V6)?;
            (proxied(addresses, family), Some(values))
        }
        _ => return Err(HeaderError("the family and transport are not known")),
    };
    let details = match values {
        Some(values) => details(header, values)?,
        None => Details::default(),
    };
    let header = Header { endpoints, details };
    Ok(Parsed::Header(Box::new(header), length))
}

/// The command, if version and command are known.
fn known(byte: u8) -> Result<u8, HeaderError> {
    match (byte & 0xf0, byte & 0x0f) {
        (VERSION, command @ (LOCAL | PROXY)) => Ok(command),
        (VERSION, _) => Err(HeaderError("the command is neither LOCAL nor PROXY")),
        _ => Err(HeaderError("the version is not 2")),
    }
}

fn split(block: &[u8], addresses: usize) -> Result<(&[u8], &[u8]), HeaderError> {
    block
        .split_at_checked(addresses)
        .ok_or(HeaderError("the header is shorter than its addresses"))
}

/// `addresses` has the length of its family.
fn proxied(addresses: &[u8], family: u8) -> Endpoints {
    let (ips, ports) = addresses.split_at(addresses.len() - 4);
    let (source, destination) = ips.split_at(ips.len() / 2);
    let ip = |bytes: &[u8]| match *bytes {
        [a, b, c, d] => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
        _ => {
            let mut octets = [0; 16];
            octets.copy_from_slice(bytes);
            IpAddr::V6(Ipv6Addr::from(octets))
        }
    };
    let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
    let transport = match family {
        UDP4 | UDP6 => Transport::Datagram,
        _ => Transport::Stream,
    };
    Endpoints::Proxied(Addresses::new(
        SocketAddr::new(ip(source), port(0)),
        SocketAddr::new(ip(destination), port(2)),
        transport,
    ))
}

/// Values one behind the other; each with its type, its length in two bytes, and so many bytes.
struct Values<'a>(&'a [u8]);

impl<'a> Values<'a> {
    fn next(&mut self) -> Result<Option<(u8, &'a [u8])>, HeaderError> {
        const PAST: HeaderError = HeaderError("a value reaches beyond the end of the header");
        let (kind, length, rest) = match self.0 {
            [] => return Ok(None),
            &[kind, a, b, ref rest @ ..] => (kind, u16::from_be_bytes([a, b]), rest),
            _ => return Err(PAST),
        };
        let (value, rest) = rest.split_at_checked(length.into()).ok_or(PAST)?;
        self.0 = rest;
        Ok(Some((kind, value)))
    }
}

/// `values` is the end of `header`.
fn details(header: &[u8], values: &[u8]) -> Result<Details, HeaderError> {
    let mut details = Details::default();
    let mut checked = None;
    let mut values = Values(values);
    while let Some((kind, value)) = values.next()? {
        match kind {
            ALPN => once(&mut details.alpn, value.to_vec())?,
            AUTHORITY => once(&mut details.authority, text(value)?)?,
            CRC32C => {
                let end = header.len() - values.0.len();
                once(&mut checked, check(header, end - value.len(), value)?)?;
            }
            UNIQUE_ID if value.len() > UNIQUE_ID_MAX => {
                return Err(HeaderError("the unique id is longer than 128 bytes"));
            }
            UNIQUE_ID => once(&mut details.unique_id, value.to_vec())?,
            TLS => once(&mut details.tls, tls(value)?)?,
            NAMESPACE => once(&mut details.namespace, ascii(value)?)?,
            _ => {}
        }
    }
    Ok(details)
}

fn tls(value: &[u8]) -> Result<TlsDetails, HeaderError> {
    let &[client, a, b, c, d, ref values @ ..] = value else {
        return Err(HeaderError("the value of TLS is shorter than its flags"));
    };
    let mut tls = TlsDetails {
        client,
        verify: u32::from_be_bytes([a, b, c, d]),
        ..TlsDetails::default()
    };
    let mut values = Values(values);
    while let Some((kind, value)) = values.next()? {
        match kind {
            TLS_VERSION => once(&mut tls.version, ascii(value)?)?,
            TLS_COMMON_NAME => once(&mut tls.common_name, text(value)?)?,
            TLS_CIPHER => once(&mut tls.cipher, ascii(value)?)?,
            TLS_CERTIFICATE => once(&mut tls.certificate, value.to_vec())?,
            _ => {}
        }
    }
    Ok(tls)
}

/// The checksum is that of the header with zeros in its place, `at` (section 2.2.3).
fn check(header: &[u8], at: usize, value: &[u8]) -> Result<(), HeaderError> {
    let Some(&written) = value.first_chunk::<4>().filter(|_| value.len() == 4) else {
        return Err(HeaderError("the checksum has not four bytes"));
    };
    let sum = checksum(&[&header[..at], &[0; 4], &header[at + 4..]]);
    if sum == u32::from_be_bytes(written) {
        Ok(())
    } else {
        Err(HeaderError("the checksum is wrong"))
    }
}

fn once<T>(place: &mut Option<T>, value: T) -> Result<(), HeaderError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(HeaderError("a value is there twice")),
    }
}

fn text(value: &[u8]) -> Result<String, HeaderError> {
    String::from_utf8(value.to_vec()).map_err(|_| HeaderError("a name is not UTF-8"))
}

fn ascii(value: &[u8]) -> Result<String, HeaderError> {
    match text(value)? {
        text if text.is_ascii() => Ok(text),
        _ => Err(HeaderError("a word is not ASCII")),
    }
}

pub(super) fn write(header: &Header, with_checksum: bool) -> Result<Vec<u8>, HeaderError> {
    let mut bytes = SIGNATURE.to_vec();
    let (command, family) = match header.endpoints {
        Endpoints::Local => (LOCAL, UNSPEC),
        Endpoints::Unknown => (PROXY, UNSPEC),
        Endpoints::Proxied(addresses) => {
            let v4 = addresses.source.is_ipv4();
            let family = match (v4, addresses.transport) {
                (true, Transport::Stream) => TCP4,
                (true, Transport::Datagram) => UDP4,
                (false, Transport::Stream) => TCP6,
                (false, Transport::Datagram) => UDP6,
            };
            (PROXY, family)
        }
    };
    bytes.extend([VERSION | command, family, 0, 0]);
    // A receiver skips what comes with LOCAL and UNSPEC.
    if let Endpoints::Proxied(addresses) = header.endpoints {
        write_addresses(&mut bytes, &addresses);
        write_details(&mut bytes, &header.details)?;
        if with_checksum {
            write_value(&mut bytes, CRC32C, &[0; 4])?;
        }
    }
    let length = length_of(bytes.len() - FIXED)?;
    bytes[FIXED - 2..FIXED].copy_from_slice(&length);
    if with_checksum && matches!(header.endpoints, Endpoints::Proxied(_)) {
        let sum = checksum(&[&bytes]).to_be_bytes();
        let at = bytes.len() - sum.len();
        bytes[at..].copy_from_slice(&sum);
    }
    Ok(bytes)
}

fn write_addresses(bytes: &mut Vec<u8>, addresses: &Addresses) {
    let both = [addresses.source, addresses.destination];
    for address in both {
        match address.ip() {
            IpAddr::V4(ip) => bytes.extend(ip.octets()),
            IpAddr::V6(ip) => bytes.extend(ip.octets()),
        }
    }
    for address in both {
        bytes.extend(address.port().to_be_bytes());
    }
}

fn write_details(bytes: &mut Vec<u8>, details: &Details) -> Result<(), HeaderError> {
    let Details {
        alpn,
        authority,
        unique_id,
        tls,
        namespace,
    } = details;
    if unique_id
        .as_ref()
        .is_some_and(|id| id.len() > UNIQUE_ID_MAX)
    {
        return Err(HeaderError("the unique id is longer than 128 bytes"));
    }
    let values = [
        (ALPN, alpn.as_deref()),
        (AUTHORITY, authority.as_deref().map(str::as_bytes)),
        (UNIQUE_ID, unique_id.as_deref()),
        (NAMESPACE, namespace.as_deref().map(str::as_bytes)),
    ];
    for (kind, value) in values {
        if let Some(value) = value {
            write_value(bytes, kind, value)?;
        }
    }
    let Some(tls) = tls else { return Ok(()) };
    let mut inner = vec![tls.client];
    inner.extend(tls.verify.to_be_bytes());
    let values = [
        (TLS_VERSION, tls.version.as_deref().map(str::as_bytes)),
        (
            TLS_COMMON_NAME,
            tls.common_name.as_deref().map(str::as_bytes),
        ),
        (TLS_CIPHER, tls.cipher.as_deref().map(str::as_bytes)),
        (TLS_CERTIFICATE, tls.certificate.as_deref()),
    ];
    for (kind, value) in values {
        if let Some(value) = value {
            write_value(&mut inner, kind, value)?;
        }
    }
    write_value(bytes, TLS, &inner)
}

fn write_value(bytes: &mut Vec<u8>, kind: u8, value: &[u8]) -> Result<(), HeaderError> {
    bytes.push(kind);
    bytes.extend(length_of(value.len())?);
    bytes.extend_from_slice(value);
    Ok(())
}

fn length_of(length: usize) -> Result<[u8; 2], HeaderError> {
    match u16::try_from(length) {
        Ok(length) => Ok(length.to_be_bytes()),
        Err(_) => Err(HeaderError("a value is longer than its field can say")),
    }
}
