//! Sessions that are a tunnel by their name (SNI): for apps that only speak TLS, and ask for
//! nothing.
//!
//! The name says which service is wanted. Who may reach it is decided as always: by the
//! certificate, the device's state and the rules, for the name and the port that devices use. The
//! rule that matches must lead to the service that the name belongs to.

use std::rc::Rc;

use rustls::AlertDescription;

use super::request::{Request, RequestKind};
use super::seam::{self, Front, TunnelTerms};
use crate::access::{Core, NamedService, Names, Peer, Snapshot};
use crate::config::{Host, HostPort};
use crate::limits::{BEGINNING_MAX, LINGER};
use crate::reason::{CloseReason, Who};
use crate::ring::{self, RingBuf, TcpStream};
use crate::tls::{Hello, HelloReader, ServerStream};
use crate::tunnel::ReadAhead;

/// Purpose of a hello: the name, and what it leads to.
pub(super) struct SniTarget {
    pub host: Host,
    pub named: NamedService,
}

/// Reads a session's hello and says what its name leads to, with what was received. The handshake
/// gets all of it again, and says what is wrong with it.
pub(super) async fn choose(
    names: &Names,
    stream: &TcpStream,
    mut begun: Option<RingBuf>,
) -> (Option<SniTarget>, Option<RingBuf>) {
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
        Host::Name(name) => names.find(name).cloned(),
        Host::Ip(_) => None,
    };
    (named.map(|named| SniTarget { host, named }), begun)
}

/// The session is the tunnel. `carry`: what came behind the handshake.
pub(super) async fn session(
    core: &Rc<Core>,
    snapshot: &Snapshot,
    tls: ServerStream,
    mut peer: Peer,
    carry: Option<RingBuf>,
    SniTarget { host, named }: SniTarget,
    counted: impl Sized + 'static,
) {
    let target = HostPort {
        host,
        port: snapshot.external_port,
    };
    peer.service = Some(named.service);
    let request = Request {
        asked: RequestKind::Tunnel(target),
        idle: None,
    };
    let session = Session {
        tls,
        carry,
        counted,
    };
    seam::serve(core, snapshot, &peer, request, session).await;
}

/// A session that asks for nothing but by its name.
struct Session<C> {
    tls: ServerStream,
    carry: Option<RingBuf>,
    counted: C,
}

impl<C: 'static> Front for Session<C> {
    type App = ServerStream;
    type Guards = C;

    /// Its first bytes are the server's already.
    async fn accept(self, _agreed: TunnelTerms) -> Option<(ServerStream, ReadAhead, C)> {
        let read_ahead = ReadAhead {
            early: Vec::new(),
            carry: self.carry,
        };
        Some((self.tls, read_ahead, self.counted))
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
