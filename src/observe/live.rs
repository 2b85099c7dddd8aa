//! Entry of an open tunnel in `/tunnels`.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// One open tunnel at the moment of the question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelInfo {
    /// Unique within the node's life.
    pub id: u64,
    /// The core that relays it.
    pub core: usize,
    /// The client's address.
    pub peer: SocketAddr,
    /// The device, as its identity certificate says.
    pub device: String,
    /// Serial number of the client certificate in hexadecimal.
    pub serial: Option<String>,
    /// The app, where the certificate names one.
    pub app: Option<String>,
    /// The user, where the certificate or the registry names one.
    pub user: Option<String>,
    /// The service that a rule chose.
    pub service: String,
    /// The server that was dialled, as `host:port`.
    pub server: String,
    /// Milliseconds since the tunnel was opened.
    pub age_ms: u64,
    /// Payload bytes from the client to the server.
    pub bytes_up: u64,
    /// Payload bytes from the server to the client.
    pub bytes_down: u64,
}

/// Which tunnels are meant: those that every given value fits. Values are exact.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TunnelFilter {
    /// The tunnel's number.
    pub id: Option<u64>,
    /// The device.
    pub device: Option<String>,
    /// The user.
    pub user: Option<String>,
    /// The app.
    pub app: Option<String>,
    /// Serial number of the client certificate in hexadecimal.
    pub serial: Option<String>,
    /// The service.
    pub service: Option<String>,
}

impl TunnelFilter {
    /// Returns whether every tunnel is meant.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
