//! Handshakes of either end whose peer's bytes come in pieces: cut at every byte, and joined with what the peer sends next.

use std::io::Write;
use std::sync::Arc;

use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::server::{UnbufferedServerConnection, WebPkiClientVerifier};
use rustls::{
    ClientConfig, ClientConnection, Connection as Peer, HandshakeKind, RootCertStore, ServerConfig,
    ServerConnection, version,
};

use crate::certs::make::Usage;
use crate::certs::{IssueRequest, Issued, KeyType, Validity};
use crate::lab::{self, MakeCa};
use crate::tls::hand_over;
use crate::tls::handshake::{Connection, Handshake};
use crate::tls::record::{Content, RecordLayer};

/// Position at which the peer's stream is cut.
#[derive(Clone, Copy, Debug)]
enum Cuts {
    Everywhere,
    At(usize),
}

/// Kind of a session.
#[derive(Clone, Copy, Debug)]
struct Kind {
    tls12: bool,
    resumed: bool,
    /// The longest record of the peer, where it is not TLS's own.
    fragment: Option<usize>,
}

/// Data that each end sends as soon as it may.
const WORDS: &[u8] = b"what follows the handshake";

/// Both ends' configurations. Whoever is under test hands its secrets over.
struct Ends {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Ends {
    fn new(kind: Kind) -> Self {
        let ca = lab::make_ca(&MakeCa {
            common_name: "group".into(),
            days: 2,
            key_type: KeyType::P256,
        })
        .unwrap();
        let issue = |usage| -> Issued {
            let mut request = IssueRequest::new(usage, "name", Validity::days(1).unwrap());
            request.dns = vec!["gateway.test".into()];
            lab::issue(&ca, &request).unwrap()
        };
        let (server, client) = (issue(Usage::Server), issue(Usage::Client));
        let mut roots = RootCertStore::empty();
        roots.add(ca.certificate().clone()).unwrap();
        let mut provider = aws_lc_rs::default_provider();
        // A hello with a post-quantum share is 1200 bytes longer, and not otherwise.
        provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
        let provider = Arc::new(provider);
        let versions = [if kind.tls12 {
            &version::TLS12
        } else {
            &version::TLS13
        }];
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots.clone().into(), provider.clone());
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&versions)
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(server.chain, server.key)
            .unwrap();
        server.enable_secret_extraction = true;
        server.key_log = hand_over();
        server.max_fragment_size = kind.fragment;
        server.ticketer = aws_lc_rs::Ticketer::new().unwrap();
        // In TLS 1.3 a server may speak right behind its flight; then that is what the flight is joined with.
        server.send_half_rtt_data = true;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(client.chain, client.key)
            .unwrap();
        client.enable_secret_extraction = true;
        client.key_log = hand_over();
        if !kind.resumed {
            client.resumption = Resumption::disabled();
        }
        client.max_fragment_size = kind.fragment;
        Self {
            server: server.into(),
            client: client.into(),
        }
    }

    fn client_peer(&self) -> Peer {
        let name = ServerName::try_from("gateway.test").unwrap();
        ClientConnection::new(self.client.clone(), name)
            .unwrap()
            .into()
    }

    fn server_peer(&self) -> Peer {
        ServerConnection::new(self.server.clone()).unwrap().into()
    }

    fn server(&self) -> Handshake<UnbufferedServerConnection> {
        Handshake::new(UnbufferedServerConnection::new(self.server.clone()).unwrap())
    }

    fn client(&self) -> Handshake<UnbufferedClientConnection> {
        let name = ServerName::try_from("gateway.test").unwrap();
        let connection = UnbufferedClientConnection::new(self.client.clone(), name).unwrap();
        let mut handshake = Handshake::new(connection);
        handshake.begin().unwrap();
        handshake
    }
}

fn written(peer: &mut Peer) -> Vec<u8> {
    let mut bytes = Vec::new();
    while peer.wants_write() {
        peer.write_tls(&mut bytes).unwrap();
    }
    bytes
}

fn taken(peer: &mut Peer, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        peer.read_tls(&mut bytes).unwrap();
        peer.process_new_packets().unwrap();
    }
}

/// The end under test: its handshake, then its record layer.
enum End<C: Connection> {
    Handshake(Handshake<C>),
    Layer(RecordLayer<C>),
    Moving,
}

impl<C: Connection> End<C> {
    /// Gives it the bytes that have come and are not done with; what it sends, and what the peer said to it.
    fn read(self, input: &mut Vec<u8>, words: &mut Vec<u8>) -> Result<(Self, Vec<u8>), String> {
        match self {
            Self::Handshake(mut handshake) => {
                let (used, done) = handshake.read(input).map_err(|error| error.to_string())?;
                input.drain(..used);
                let sent = handshake.take_outgoing();
                if !done {
                    return Ok((Self::Handshake(handshake), sent));
                }
                let layer = RecordLayer::take_over(handshake).map_err(|error| error.to_string())?;
                let (end, more) = Self::Layer(layer).read(input, words)?;
                Ok((end, [sent, more].concat()))
            }
            Self::Layer(mut layer) => {
                while let Some((length, content)) =
                    layer.open(input).map_err(|fault| fault.to_string())?
                {
                    if let Content::Data(place) = content {
                        words.extend_from_slice(&input[place]);
                    }
                    input.drain(..length);
                }
                Ok((Self::Layer(layer), Vec::new()))
            }
            Self::Moving => Err("read while it is read".into()),
        }
    }
}

/// A session in which the peer's stream is cut there. How many bytes the peer sent.
fn session<C: Connection>(
    handshake: Handshake<C>,
    peer: &mut Peer,
    cuts: Cuts,
) -> Result<usize, String> {
    let mut end = End::Handshake(handshake);
    if let End::Handshake(handshake) = &mut end {
        taken(peer, &handshake.take_outgoing());
    }
    peer.writer().write_all(WORDS).unwrap();
    let (mut input, mut words, mut offset) = (Vec::new(), Vec::new(), 0);
    loop {
        let flight = written(peer);
        if flight.is_empty() {
            break;
        }
        for (at, byte) in flight.iter().enumerate() {
            input.push(*byte);
            offset += 1;
            let cut = match cuts {
                Cuts::Everywhere => true,
                Cuts::At(place) => offset == place,
            };
            if !cut && at + 1 < flight.len() {
                continue;
            }
            let (next, sent) =
                std::mem::replace(&mut end, End::Moving).read(&mut input, &mut words)?;
            end = next;
            taken(peer, &sent);
        }
    }
    if !input.is_empty() || words != WORDS {
        return Err(format!(
            "{} bytes are left, {words:?} was said",
            input.len()
        ));
    }
    Ok(offset)
}

/// How many bytes the peer sent, and the peer; or what went wrong.
type Ran = Result<(usize, Peer), String>;

fn as_server(ends: &Ends, cuts: Cuts) -> Ran {
    let mut peer = ends.client_peer();
    let length = session(ends.server(), &mut peer, cuts)?;
    Ok((length, peer))
}

fn as_client(ends: &Ends, cuts: Cuts) -> Ran {
    let mut peer = ends.server_peer();
    let length = session(ends.client(), &mut peer, cuts)?;
    Ok((length, peer))
}

/// A session of one end for each byte at which its peer's stream can be cut, and one whose bytes come one by one.
fn every_cut(kind: Kind, run: fn(&Ends, Cuts) -> Ran) {
    let ends = Ends::new(kind);
    let run = |cuts| {
        let (length, peer) = run(&ends, cuts).unwrap_or_else(|error| {
            panic!("{kind:?}, {cuts:?}: {error}");
        });
        (length, peer.handshake_kind())
    };
    // The first is what the others resume, where they do.
    run(Cuts::Everywhere);
    let (mut length, mut cut) = (usize::MAX, 0);
    while cut < length {
        cut += 1;
        let (sent, made) = run(Cuts::At(cut));
        length = sent;
        assert_eq!(
            made == Some(HandshakeKind::Resumed),
            kind.resumed,
            "{kind:?}"
        );
    }
    run(Cuts::Everywhere);
}

/// In records of the usual length, and in those of a peer that sends short ones: of 64 bytes, so that no message of a
/// certificate is in one.
fn kinds(tls12: bool) -> impl Iterator<Item = Kind> {
    let kind = move |resumed, fragment| Kind {
        tls12,
        resumed,
        fragment,
    };
    [
        kind(false, None),
        kind(true, None),
        kind(false, Some(64)),
        kind(true, Some(64)),
    ]
    .into_iter()
}

#[test]
fn a_tls13_server_reads_its_client_wherever_the_stream_is_cut() {
    kinds(false).for_each(|kind| every_cut(kind, as_server));
}

#[test]
fn a_tls12_server_reads_its_client_wherever_the_stream_is_cut() {
    kinds(true).for_each(|kind| every_cut(kind, as_server));
}

#[test]
fn a_tls13_client_reads_its_server_wherever_the_stream_is_cut() {
    kinds(false).for_each(|kind| every_cut(kind, as_client));
}

#[test]
fn a_tls12_client_reads_its_server_wherever_the_stream_is_cut() {
    kinds(true).for_each(|kind| every_cut(kind, as_client));
}

/// Bytes that begin no record are refused as soon as its header is there (RFC 8446, section 5.1),
/// however it came.
#[test]
fn a_header_that_begins_no_record_is_refused_before_its_body_comes() {
    let ends = Ends::new(kinds(false).next().unwrap());
    for header in [*b"GET /", [22, 2, 0, 0, 9], [22, 3, 1, 0xff, 0xff]] {
        let mut server = ends.server();
        let refused =
            (1..=header.len()).any(|end| server.read(&mut header[..end].to_vec()).is_err());
        assert!(refused && !server.take_outgoing().is_empty(), "{header:?}");
    }
}
