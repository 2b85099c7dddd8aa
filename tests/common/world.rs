//! Everything that a story needs: a PKI, a device, a gateway, and links to it that a relay spoils.
//!
//! ```ignore
//! let world = World::new(|node| node.engine("cores = 1").servers(&[server(echo)]));
//! let mut session = world.tunnel("a.test:1");
//! ```
//!
//! A story makes what the gateway is to lead to, or is to find in its folder, before it, and gives the PKI along:
//! `World::of(pki, |node| node.rest(&services).clock(&clock))`.

use std::net::{SocketAddr, TcpStream};

use adit::certs::Issued;

use crate::common::chaos::{Chaos, Plan};
use crate::common::gateway::{Builder, Gateway};
use crate::common::{Pki, Session, ask, connect, is_let_in, request, session, tunnel, until};

pub struct World {
    pub pki: Pki,
    /// A device that its certificate lets in, as device.pem and device.key.
    pub device: Issued,
    pub gateway: Gateway,
    links: Vec<Chaos>,
}

impl World {
    /// With a PKI of its own.
    #[track_caller]
    pub fn new(config: impl FnOnce(Builder<'_>) -> Builder<'_>) -> Self {
        Self::of(Pki::new(), config)
    }

    #[track_caller]
    pub fn of(pki: Pki, config: impl FnOnce(Builder<'_>) -> Builder<'_>) -> Self {
        Self::around(pki, |pki| config(Gateway::builder(pki)).start())
    }

    /// Around a gateway that the story starts itself.
    #[track_caller]
    pub fn around(pki: Pki, start: impl FnOnce(&Pki) -> Gateway) -> Self {
        let device = pki.client("device", |_| ());
        let gateway = start(&pki);
        Self {
            pki,
            device,
            gateway,
            links: Vec::new(),
        }
    }

    /// Keeps a link as long as the world lasts.
    pub fn with(mut self, link: Chaos) -> Self {
        self.links.push(link);
        self
    }

    /// A link to the gateway, on which connection number so and so goes through this.
    pub fn link(&mut self, plan: impl FnMut(usize) -> Plan + Send + 'static) -> SocketAddr {
        let link = Chaos::always(self.gateway.address, plan);
        let address = link.address;
        self.links.push(link);
        address
    }

    /// The device's session, whose handshake has not begun.
    pub fn connect(&self) -> Session {
        connect(&self.pki, &self.gateway, Some(&self.device))
    }

    /// The same over a connection of one's own.
    pub fn session(&self, socket: TcpStream) -> Session {
        session(&self.pki, socket, &self.device)
    }

    /// An open tunnel to `host`.
    #[track_caller]
    pub fn tunnel(&self, host: &str) -> Session {
        tunnel(&self.pki, &self.gateway, &self.device, host)
    }

    /// Whether the device gets a tunnel.
    pub fn lets_in(&self) -> bool {
        is_let_in(&self.pki, &self.gateway, &self.device)
    }

    /// The head of the answer to who asks for `host`.
    #[track_caller]
    pub fn answer(&self, host: &str) -> String {
        ask(&mut self.connect(), &request(host)).unwrap()
    }

    /// Waits until nothing is left of what has gone through.
    pub fn is_left_clean(&self) {
        let gauge = |name: &str| self.gateway.metric(name, "");
        until("nothing is left", || {
            gauge("adit_sessions_live") == 0.0
                && gauge("adit_tunnels_live") == 0.0
                && gauge("adit_runtime_buffers_in_use") == 0.0
        });
    }
}
