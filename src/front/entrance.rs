//! Checks before a session: who connects, and on whose behalf.
//!
//! A PROXY protocol header counts when a trusted proxy sends it, and never otherwise: from anybody
//! else it is refused, and not passed on as the first bytes of TLS. The plain listener is for
//! trusted proxies altogether, and for those who may ask for its health page.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::config::{Listener, ListenerKind, ProxyProtocol};
use crate::limits::{BEGINNING_MAX, LINGER};
use crate::proxy_protocol::{self, CLIENT_CERT_CONNECTION, CLIENT_CERT_SESSION, Header, Parsed};
use crate::reason::CloseReason;
use crate::ring::{self, RingBuf, TcpStream};

use super::response::plain_refusal;

/// Listener that has accepted a connection.
#[derive(Clone, Debug)]
pub struct AcceptedBy {
    /// Which listener.
    pub kind: ListenerKind,
    /// Its settings then. One that a reload has closed keeps its own for those that still wait in
    /// its queue.
    pub settings: Arc<Listener>,
}

/// A connection that may become a session.
pub(super) struct Entrance {
    /// The other end of the connection.
    pub peer: IpAddr,
    /// The client: the other end of the connection, or whom a trusted proxy names.
    pub client: SocketAddr,
    /// Address to which the client connected, as a trusted proxy reports.
    pub destination: Option<SocketAddr>,
    /// Data that was received after a PROXY protocol header.
    pub begun: Option<RingBuf>,
    /// The client's certificate as a PROXY protocol header has it, DER.
    pub certificate: Option<Vec<u8>>,
    /// Nothing but the health page is for this client.
    pub health_only: bool,
}

impl Entrance {
    /// Returns whether the other end is a trusted proxy that does not say for whom it speaks: what
    /// it does is not one client's doing.
    pub fn speaks_for_others(&self, listener: &Listener) -> bool {
        self.peer == self.client.ip() && listener.trusts(self.peer)
    }

    /// Of a client that nobody stands in front of.
    pub fn direct(client: SocketAddr) -> Self {
        Self {
            peer: client.ip(),
            client,
            destination: None,
            begun: None,
            certificate: None,
            health_only: false,
        }
    }
}

/// Returns whether anything has to be looked at before a connection is a session.
pub(super) fn is_open(listener: &Listener, by: ListenerKind) -> bool {
    by == ListenerKind::Https && listener.proxy_protocol == ProxyProtocol::Off
}

/// Reads what comes in front of the session. `peer` is the other end of the connection.
///
/// # Errors
/// Why there is to be no session; nothing has been answered.
pub(super) async fn enter(
    stream: &TcpStream,
    by: &AcceptedBy,
    peer: SocketAddr,
) -> Result<Entrance, CloseReason> {
    let listener = &by.settings;
    let trusted = listener.trusts(peer.ip());
    let mut entrance = Entrance::direct(peer);
    if by.kind == ListenerKind::Http && !trusted {
        if !listener.may_check(peer.ip()) {
            return Err(CloseReason::ProxyUntrusted);
        }
        entrance.health_only = true;
        return Ok(entrance);
    }
    match (listener.proxy_protocol, trusted) {
        (ProxyProtocol::Off, _) => return Ok(entrance),
        (ProxyProtocol::Required, false) => return Err(CloseReason::ProxyUntrusted),
        (ProxyProtocol::Required, true) | (ProxyProtocol::Optional, _) => {}
    }
    let (header, begun) = match header(stream).await {
        Err(CloseReason::ProxyMalformed) if !trusted => return Err(CloseReason::ProxyUntrusted),
        read => read?,
    };
    entrance.begun = begun;
    match header {
        Some(_) if !trusted => return Err(CloseReason::ProxyUntrusted),
        None if listener.proxy_protocol == ProxyProtocol::Required => {
            return Err(CloseReason::ProxyMissing);
        }
        None => {}
        Some(header) => {
            if let Some(client) = header.client() {
                entrance.client = SocketAddr::new(client.ip().to_canonical(), client.port());
                entrance.destination = header.destination();
            }
            entrance.certificate = certificate(*header);
        }
    }
    Ok(entrance)
}

/// The header, if the connection begins with one, and what came behind it.
async fn header(stream: &TcpStream) -> Result<(Option<Box<Header>>, Option<RingBuf>), CloseReason> {
    let mut received: Option<RingBuf> = None;
    loop {
        let unused = received.is_none();
        let mut bytes = match stream.recv_more(received, BEGINNING_MAX).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) if unused => return Err(CloseReason::Unused),
            Err(error) if unused && error.kind() == io::ErrorKind::ConnectionReset => {
                return Err(CloseReason::Unused);
            }
            Ok(None) | Err(_) => return Err(CloseReason::HandshakeAborted),
        };
        match proxy_protocol::parse(&bytes) {
            Ok(Parsed::Incomplete) => received = Some(bytes),
            Ok(Parsed::Absent) => return Ok((None, Some(bytes))),
            Ok(Parsed::Header(header, length)) => {
                bytes.consume(length);
                bytes.compact();
                return Ok((Some(header), (!bytes.is_empty()).then_some(bytes)));
            }
            Err(_) => return Err(CloseReason::ProxyMalformed),
        }
    }
}

/// The client's certificate, where the proxy says that the client has proved to have its key, and
/// has found it good itself. A common name alone is no identity.
fn certificate(header: Header) -> Option<Vec<u8>> {
    let tls = header.details.tls?;
    let presented = tls.client & (CLIENT_CERT_CONNECTION | CLIENT_CERT_SESSION) != 0;
    tls.certificate.filter(|_| presented && tls.verify == 0)
}

/// Tells a client that there will be no session, in the way that its listener speaks, and waits a
/// moment for it to be read.
pub(super) async fn refuse(stream: &TcpStream, by: ListenerKind, reason: CloseReason) {
    let answer = match by {
        ListenerKind::Https => reason.alert().map(|alert| {
            // A fatal alert of a session without keys (RFC 8446, sections 5.1 and 6).
            vec![21, 3, 3, 0, 2, 2, alert.into()]
        }),
        ListenerKind::Http => plain_refusal(reason),
    };
    let telling = async {
        if let Some(answer) = answer {
            let _ = stream.send(answer).await;
        }
        stream.linger().await;
    };
    let _ = ring::timeout(LINGER, telling).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy_protocol::{CLIENT_TLS, TlsDetails};

    #[test]
    fn a_certificate_counts_where_the_proxy_has_found_it_good() {
        let with = |client: u8, verify: u32, certificate: Option<Vec<u8>>| {
            let address = "192.0.2.1:1".parse().unwrap();
            let mut header = Header::of(address, address);
            header.details.tls = Some(TlsDetails {
                client,
                verify,
                common_name: Some("device".to_owned()),
                certificate,
                ..TlsDetails::default()
            });
            super::certificate(header)
        };
        let der = Some(vec![0x30, 0]);
        for presented in [CLIENT_CERT_CONNECTION, CLIENT_CERT_SESSION] {
            assert_eq!(with(CLIENT_TLS | presented, 0, der.clone()), der);
            assert_eq!(with(CLIENT_TLS | presented, 1, der.clone()), None);
            assert_eq!(with(CLIENT_TLS | presented, 0, None), None, "a name alone");
        }
        assert_eq!(with(CLIENT_TLS, 0, der), None);
        let address = "192.0.2.1:1".parse().unwrap();
        assert_eq!(super::certificate(Header::of(address, address)), None);
    }
}
