//! Header that tells a server about a tunnel, before its bytes: the PROXY protocol.

use std::sync::OnceLock;
use std::time::SystemTime;

use crate::access::Peer;
use crate::config::{HostPort, ProxyVersion};
use crate::observe::TlsVersion;
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
    let presented = match peer.arrival.resumed {
        true => CLIENT_CERT_SESSION,
        false => CLIENT_CERT_SESSION | CLIENT_CERT_CONNECTION,
    };
    let tls = peer.arrival.tls.map(|version| TlsDetails {
        client: CLIENT_TLS | presented,
        version: Some(version_text(version).to_owned()),
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

/// Unique among all nodes and their lives: when this process first made one, in microseconds, its
/// process id, and the tunnel's number as the audit log has it.
fn unique_id(tunnel: u64) -> String {
    static LIFE: OnceLock<String> = OnceLock::new();
    let life = LIFE.get_or_init(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.unwrap_or_default().as_micros();
        format!("{now:x}-{:x}", std::process::id())
    });
    format!("{life}-{tunnel}")
}
