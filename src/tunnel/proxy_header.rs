//! Header that tells a server about a tunnel, before its bytes: the PROXY protocol.

use crate::access::Peer;
use crate::config::{HostPort, ProxyVersion};
use crate::observe::{TlsVersion, unique_id};
use crate::proxy_protocol::{
    CLIENT_CERT_CONNECTION, CLIENT_CERT_SESSION, CLIENT_TLS, Details, Endpoints, Header, TlsDetails,
};
use crate::reason::CloseReason;
use crate::tls::common_name;

/// The header for the tunnel with this number.
///
/// # Errors
/// A value is longer than the protocol can say.
pub(super) fn proxy_header(
    version: ProxyVersion,
    peer: &Peer,
    target: &HostPort,
    tunnel: u64,
) -> Result<Vec<u8>, CloseReason> {
    let endpoints = match peer.arrival.local {
        Some(local) => Header::of(peer.subject.peer, local).endpoints,
        None => Endpoints::Unknown,
    };
    let tls = peer.arrival.tls.map(|session| TlsDetails {
        client: match session.resumed {
            true => CLIENT_TLS | CLIENT_CERT_SESSION,
            false => CLIENT_TLS | CLIENT_CERT_SESSION | CLIENT_CERT_CONNECTION,
        },
        version: Some(version_text(session.version).to_owned()),
        common_name: peer.chain.first().and_then(|leaf| common_name(leaf)),
        ..TlsDetails::default()
    });
    let details = Details {
        authority: Some(target.host.to_string()),
        unique_id: Some(unique_id(tunnel).into_bytes()),
        tls,
        ..Details::default()
    };
    let header = Header { endpoints, details };
    match version {
        ProxyVersion::V1 => Ok(header.write_v1()),
        ProxyVersion::V2 => header.write_v2(true).map_err(|_| CloseReason::GatewayError),
    }
}

const fn version_text(version: TlsVersion) -> &'static str {
    match version {
        TlsVersion::Tls12 => "TLSv1.2",
        TlsVersion::Tls13 => "TLSv1.3",
    }
}
