//! Sessions that are a tunnel by their name (SNI): for apps that only speak TLS, and ask for nothing.
//!
//! The name says which service is wanted. Who may reach it is decided as always: by the certificate, the device's state and
//! the rules, for the name and the port that devices use. The rule that matches must lead to the service that the name
//! belongs to.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use rustls::{AlertDescription, ServerConfig};

use super::core::{Core, Snapshot};
use super::front::{self, Agreed, Front};
use super::peer::Peer;
use super::relay::Behind;
use super::request::{Asked, Request};
use crate::config::{Host, HostPattern, HostPort};
use crate::limits::{BEGINNING_MAX, LINGER};
use crate::reason::{CloseReason, Who};
use crate::ring::{self, RingBuf, TcpStream};
use crate::tls::{Hello, HelloReader, ServerStream};

/// The names that lead to a service.
#[derive(Default)]
pub struct Names {
    exact: HashMap<String, usize>,
    /// By the name below which they all are.
    below: HashMap<String, usize>,
    entries: Vec<Named>,
}

/// What a name leads to.
#[derive(Clone)]
pub(super) struct Named {
    /// Index of the service.
    pub service: usize,
    /// TLS of its sessions.
    pub tls: Arc<ServerConfig>,
}

/// What a hello was for: the name, and what it leads to.
pub(super) struct Chosen {
    pub host: Host,
    pub named: Named,
}

impl Names {
    /// Lets `names` lead to `service`.
    pub fn add(&mut self, names: &[HostPattern], service: usize, tls: Arc<ServerConfig>) {
        let entry = self.entries.len();
        self.entries.push(Named { service, tls });
        for name in names {
            match name {
                HostPattern::Exact(name) => self.exact.insert(name.clone(), entry),
                HostPattern::Suffix(name) => self.below.insert(name.clone(), entry),
                HostPattern::Any | HostPattern::Net(_) => None,
            };
        }
    }

    /// Whether no name leads anywhere.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What `name` leads to: itself, or else the longest name that it is below of.
    fn find(&self, name: &str) -> Option<&Named> {
        let mut above = name;
        let mut found = self.exact.get(name);
        while found.is_none() {
            above = above.split_once('.')?.1;
            found = self.below.get(above);
        }
        found.map(|entry| &self.entries[*entry])
    }

    /// Reads a session's hello and says what its name leads to, with what was received. The handshake gets all of it again,
    /// and says what is wrong with it.
    pub(super) async fn choose(
        &self,
        stream: &TcpStream,
        mut begun: Option<RingBuf>,
    ) -> (Option<Chosen>, Option<RingBuf>) {
        let mut reader = HelloReader::default();
        let mut hello = begun.as_ref().map(|bytes| reader.read(bytes));
        while hello
            .as_ref()
            .is_none_or(|hello| *hello == Hello::Incomplete)
        {
            match stream.recv_more(begun, BEGINNING_MAX).await {
                Ok(Some(bytes)) => {
                    hello = Some(reader.read(&bytes));
                    begun = Some(bytes);
                }
                // Nothing is lost: the handshake sees the same end.
                Ok(None) | Err(_) => return (None, None),
            }
        }
        let Some(Hello::Complete(Some(name))) = hello else {
            return (None, begun);
        };
        let Ok(host @ Host::Name(_)) = name.parse() else {
            return (None, begun);
        };
        let named = match &host {
            Host::Name(name) => self.find(name).cloned(),
            Host::Ip(_) => None,
        };
        (named.map(|named| Chosen { host, named }), begun)
    }
}

/// The session is the tunnel. `carry`: what came behind the handshake.
pub(super) async fn session(
    core: &Rc<Core>,
    snapshot: &Snapshot,
    tls: ServerStream,
    mut peer: Peer,
    carry: Option<RingBuf>,
    Chosen { host, named }: Chosen,
    counted: impl Sized + 'static,
) {
    let target = HostPort {
        host,
        port: snapshot.external_port,
    };
    peer.service = Some(named.service);
    let request = Request {
        asked: Asked::Tunnel(target),
        idle: None,
    };
    let session = Session {
        tls,
        carry,
        counted,
    };
    front::serve(core, snapshot, &peer, request, session).await;
}

/// A session that asks for nothing but by its name.
struct Session<C> {
    tls: ServerStream,
    carry: Option<RingBuf>,
    counted: C,
}

impl<C: 'static> Front for Session<C> {
    type App = ServerStream;
    type Kept = C;

    /// Its first bytes are the server's already.
    async fn accept(self, _agreed: Agreed) -> Option<(ServerStream, Behind, C)> {
        let behind = Behind {
            early: Vec::new(),
            carry: self.carry,
        };
        Some((self.tls, behind, self.counted))
    }

    /// No name asks for it.
    async fn configure(self, _document: String) {}

    async fn refuse(self, reason: CloseReason) {
        let alert = reason.alert().unwrap_or(match reason.who() {
            Who::Policy => AlertDescription::AccessDenied,
            Who::Client | Who::Server | Who::Gateway => AlertDescription::InternalError,
        });
        let _ = ring::timeout(LINGER, self.tls.alert(alert)).await;
    }
}

#[cfg(test)]
mod tests {
    use rustls::crypto::aws_lc_rs;
    use rustls::server::ResolvesServerCertUsingSni;

    use super::*;

    #[test]
    fn the_name_itself_comes_first_then_the_longest_above_it() {
        let config = ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(ResolvesServerCertUsingSni::new()));
        let config = Arc::new(config);
        let mut names = Names::default();
        assert!(names.is_empty());
        for (service, patterns) in [
            vec!["*.example.com", "git.example.com"],
            vec!["*.eu.example.com"],
            vec!["a.eu.example.com"],
        ]
        .into_iter()
        .enumerate()
        {
            let patterns: Vec<HostPattern> = patterns
                .into_iter()
                .map(|pattern| pattern.parse().unwrap())
                .collect();
            names.add(&patterns, service, config.clone());
        }
        let found = |name: &str| names.find(name).map(|named| named.service);
        for (name, service) in [
            ("git.example.com", Some(0)),
            ("x.example.com", Some(0)),
            ("x.y.example.com", Some(0)),
            ("x.eu.example.com", Some(1)),
            ("a.eu.example.com", Some(2)),
            ("b.a.eu.example.com", Some(1)),
            ("example.com", None),
            ("badexample.com", None),
            ("com", None),
        ] {
            assert_eq!(found(name), service, "{name}");
        }
    }
}
