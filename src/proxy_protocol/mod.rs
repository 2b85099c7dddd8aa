//! The PROXY protocol, versions 1 and 2: what a load balancer says of a connection in front of its
//! first byte.
//!
//! It follows HAProxy's `proxy-protocol.txt`; sections in comments are of that document. It does no
//! I/O. [`parse`] takes the bytes that a connection begins with, in any pieces;
//! [`Header::write_v1`] and [`Header::write_v2`] make them.
//!
//! Guaranteed: what the document calls invalid is refused, and so is what could be read in two
//! ways: a value that is there twice. What it lets a receiver skip (types that are not known here,
//! whatever comes with LOCAL, UNKNOWN and UNSPEC) is skipped. A checksum that is there is checked.
//! Who may send a header is not decided here.

mod crc32c;
#[cfg(test)]
mod tests;
mod v1;
mod v2;

use std::net::{IpAddr, SocketAddr};

use crate::limits::PROXY_V1_MAX;

/// A header that must not be accepted, or that cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("PROXY protocol: {0}")]
pub struct HeaderError(&'static str);

/// Result of parsing the first bytes of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// So far they could be a header; more are needed.
    Incomplete,
    /// No header: the connection begins with something else.
    Absent,
    /// A header and its length in bytes. What comes behind it is the connection's own.
    Header(Box<Header>, usize),
}

/// Content of a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whose connection it is.
    pub endpoints: Endpoints,
    /// Further details. Version 1 has nothing of it.
    pub details: Details,
}

/// Whose connection a header speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoints {
    /// The sender's own: a health check. The real addresses count.
    Local,
    /// Of somebody whose addresses cannot be said (UNKNOWN, UNSPEC, Unix sockets). The real
    /// addresses count.
    Unknown,
    /// Of a client of the sender.
    Proxied(Addresses),
}

/// A client, and where it wanted to go. Both are of the same family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    source: SocketAddr,
    destination: SocketAddr,
    transport: Transport,
}

/// How a client speaks to the sender of the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Stream,
    /// UDP.
    Datagram,
}

/// The values of version 2 (section 2.2, types of `pp2_tlv`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// The protocol that was agreed on, as in ALPN (RFC 7301).
    pub alpn: Option<Vec<u8>>,
    /// The name that the client asked for: of TLS, the SNI.
    pub authority: Option<String>,
    /// Identifier of this connection: at most [`UNIQUE_ID_MAX`] bytes.
    pub unique_id: Option<Vec<u8>>,
    /// The client's TLS, if it ended at the sender.
    pub tls: Option<TlsDetails>,
    /// The sender's network namespace.
    pub namespace: Option<String>,
}

/// Details of the TLS that the sender has ended (section 2.2.6).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsDetails {
    /// The bits `CLIENT_*`.
    pub client: u8,
    /// 0 where the client presented a certificate and the sender found it good.
    pub verify: u32,
    /// Version, as in `TLSv1.3`.
    pub version: Option<String>,
    /// Cipher suite, as the sender's library names it.
    pub cipher: Option<String>,
    /// The common name in the client's certificate. A name alone proves nothing.
    pub common_name: Option<String>,
    /// The client's certificate, DER.
    pub certificate: Option<Vec<u8>>,
}

/// In [`TlsDetails::client`]: the client spoke TLS.
pub const CLIENT_TLS: u8 = 0x01;
/// In [`TlsDetails::client`]: the client presented a certificate on this connection.
pub const CLIENT_CERT_CONNECTION: u8 = 0x02;
/// In [`TlsDetails::client`]: the client presented a certificate in this session, which may have
/// been resumed.
pub const CLIENT_CERT_SESSION: u8 = 0x04;

/// Most bytes of a unique id (section 2.2.5).
pub const UNIQUE_ID_MAX: usize = 128;

impl Addresses {
    /// From `source` to `destination`. Where one is IPv4 and the other IPv6, the first is written
    /// as the second (RFC 4291, section 2.5.5.2).
    #[must_use]
    pub fn new(source: SocketAddr, destination: SocketAddr, transport: Transport) -> Self {
        let mapped = |address: SocketAddr| match address.ip() {
            IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
            IpAddr::V6(ip) => SocketAddr::new(ip.into(), address.port()),
        };
        let same = source.is_ipv4() && destination.is_ipv4();
        Self {
            source: if same { source } else { mapped(source) },
            destination: if same {
                destination
            } else {
                mapped(destination)
            },
            transport,
        }
    }

    /// The client, as it was written. Its port may be 0.
    #[must_use]
    pub fn source(&self) -> SocketAddr {
        self.source
    }

    /// Returns where the client connected to.
    #[must_use]
    pub fn destination(&self) -> SocketAddr {
        self.destination
    }

    /// How.
    #[must_use]
    pub fn transport(&self) -> Transport {
        self.transport
    }
}

impl Header {
    /// Of a connection of the sender's own.
    #[must_use]
    pub fn local() -> Self {
        Self {
            endpoints: Endpoints::Local,
            details: Details::default(),
        }
    }

    /// Of a client's connection by TCP.
    #[must_use]
    pub fn of(source: SocketAddr, destination: SocketAddr) -> Self {
        let addresses = Addresses::new(source, destination, Transport::Stream);
        Self {
            endpoints: Endpoints::Proxied(addresses),
            details: Details::default(),
        }
    }

    /// The client of a connection by TCP, if the header names one.
    #[must_use]
    pub fn client(&self) -> Option<SocketAddr> {
        self.tcp().map(|addresses| addresses.source)
    }

    /// Returns where that client connected to.
    #[must_use]
    pub fn destination(&self) -> Option<SocketAddr> {
        self.tcp().map(|addresses| addresses.destination)
    }

    fn tcp(&self) -> Option<Addresses> {
        match self.endpoints {
            Endpoints::Proxied(addresses) if addresses.transport == Transport::Stream => {
                Some(addresses)
            }
            Endpoints::Proxied(_) | Endpoints::Local | Endpoints::Unknown => None,
        }
    }

    /// The line of version 1: at most [`PROXY_V1_MAX`] bytes. It has no place for [`Details`], nor
    /// for anything but TCP over IPv4 or IPv6: that is `UNKNOWN`.
    #[must_use]
    pub fn write_v1(&self) -> Vec<u8> {
        v1::write(self)
    }

    /// The header of version 2. `checksum`: with its CRC32c.
    ///
    /// # Errors
    /// [`HeaderError`], if a value is longer than its field can say.
    pub fn write_v2(&self, checksum: bool) -> Result<Vec<u8>, HeaderError> {
        v2::write(self, checksum)
    }
}

/// Reads the header that a connection may begin with. `bytes` are all that have come so far;
/// nothing of them is kept.
///
/// # Errors
/// [`HeaderError`], as soon as `bytes` begin like a header and cannot become one.
pub fn parse(bytes: &[u8]) -> Result<Parsed, HeaderError> {
    for (signature, version) in [(v2::SIGNATURE, 2), (v1::SIGNATURE, 1)] {
        let shared = bytes.len().min(signature.len());
        if bytes[..shared] != signature[..shared] {
            continue;
        }
        return match (shared == signature.len(), version) {
            (false, _) => Ok(Parsed::Incomplete),
            (true, 2) => v2::parse(bytes),
            (true, _) => v1::parse(&bytes[..bytes.len().min(PROXY_V1_MAX)]),
        };
    }
    Ok(Parsed::Absent)
}
