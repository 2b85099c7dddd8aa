//! Each phase of a session cut at every byte, the rest joined with the bytes of the next phase. A client sees nothing of it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use adit::certs::Issued;
use adit::proxy_protocol::{self, Header, Parsed};
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::server::NoServerSessionStorage;
use rustls::{
    ClientConfig, HandshakeKind, RootCertStore, ServerConfig, SupportedProtocolVersion, version,
};

use crate::common::chaos::{Chaos, Cut, Direction, Plan};
use crate::common::frames::{DATA, END_HEADERS, HEADERS, SETTINGS, connect_block, frame};
use crate::common::outbound::{self, Tls, certificate};
use crate::common::plain::{asking, client_cert};
use crate::common::{Pki, Session, World, echo, request, server, session_of};

/// Sessions at once: their waiting costs nothing.
const AT_ONCE: usize = 48;

/// What an app sends right behind its request.
const EARLY: &[u8] = b"early bytes";

/// Runs `one` for each of `cuts`, many at once, and says for which it fails.
fn every(what: &str, cuts: usize, one: impl Fn(usize) -> Result<(), String> + Sync) {
    assert!(cuts > 10, "{what}: {cuts} places to cut at");
    let next = AtomicUsize::new(0);
    let failed: Vec<String> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                scope.spawn(|| {
                    let mut failed = Vec::new();
                    loop {
                        let at = next.fetch_add(1, Relaxed);
                        if at >= cuts {
                            return failed;
                        }
                        if let Err(error) = one(at) {
                            failed.push(format!("at {at}: {error}"));
                        }
                    }
                })
            })
            .collect();
        let done = workers.into_iter().map(|worker| worker.join().unwrap());
        done.flatten().collect()
    });
    assert!(
        failed.is_empty(),
        "{what}: {} of {cuts} fail: {:#?}",
        failed.len(),
        &failed[..failed.len().min(5)]
    );
}

fn session(config: &Arc<ClientConfig>, socket: TcpStream) -> Session {
    session_of(config.clone(), socket)
}

/// A client of one version whose first flight is as short as can be: what is long in it is the same.
fn client(
    pki: &Pki,
    device: &Issued,
    version: &'static SupportedProtocolVersion,
    resumes: bool,
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(pki.ca.certificate().clone()).unwrap();
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
    let mut config = ClientConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(device.chain.clone(), device.key.clone_key())
        .unwrap();
    config.resumption = match resumes {
        true => Resumption::in_memory_sessions(256),
        false => Resumption::disabled(),
    };
    config
}

/// Asks and sends the first bytes as soon as TLS lets it; the early bytes must come back.
fn tunnel(session: &mut Session) -> Result<(), String> {
    let told = |error: std::io::Error| error.to_string();
    let opening = [&request("a.test:1")[..], EARLY].concat();
    session.conn.writer().write_all(&opening).map_err(told)?;
    session.flush().map_err(told)?;
    echoed(session)
}

/// An answer of 200 and the early bytes, from whatever end.
fn echoed(from: &mut impl Read) -> Result<(), String> {
    let (mut seen, mut piece) = (Vec::new(), [0; 1024]);
    loop {
        let count = from.read(&mut piece).map_err(|error| error.to_string());
        let shown = || String::from_utf8_lossy(&seen).into_owned();
        match count.map_err(|error| format!("{error} after {:?}", shown()))? {
            0 => return Err(format!("the end after {:?}", shown())),
            count => seen.extend_from_slice(&piece[..count]),
        }
        if seen.starts_with(b"HTTP/1.1 200 ") && seen.ends_with(EARLY) {
            return Ok(());
        }
    }
}

/// A gateway whose listener has these keys, in front of this service.
fn world(pki: Pki, listener: &str, service: &str) -> World {
    let engine = "handshake_timeout = '20s'\ncores = [0]\nmax_tunnels_per_device = 1000";
    World::of(pki, |node| {
        node.engine(engine).listener(listener).rest(service)
    })
}

const TLS: &str = "https = '127.0.0.1:0'";

fn tls_world() -> World {
    let servers = crate::common::service(&[server(echo)]);
    world(Pki::new(), TLS, &servers)
}

/// Nothing is left of what has gone through, and no session has ended but in order.
fn is_left_clean(world: &World) {
    world.is_left_clean();
    for reason in ["tls-protocol", "malformed-request", "server-tls"] {
        assert_eq!(world.gateway.ended(reason), 0.0, "{reason}");
    }
}

/// All places in turns of these lengths; `skip` of those of the first turn for each that is taken.
fn places(lengths: &[usize], skip: usize) -> Vec<Cut> {
    let turns = lengths.iter().copied().enumerate();
    let places = turns.flat_map(|(turn, length)| {
        let step = if turn == 0 { skip + 1 } else { 1 };
        // Joined with all of the turn but some bytes, by which two signatures can differ.
        (1..length).step_by(step).map(move |at| Cut {
            turn,
            at,
            join: (length - at).saturating_sub(8),
        })
    });
    places.collect()
}

/// The client's turns, cut at every byte, of full handshakes and of resumed ones: its hello, its last flight (joined with its
/// request, and that with the tunnel's first bytes, where the version lets it), and in TLS 1.2 the request.
fn every_byte_of_a_client(version: &'static SupportedProtocolVersion, resumes: bool) {
    let world = tls_world();
    let config = Arc::new(client(&world.pki, &world.device, version, resumes));
    let chaos = Chaos::to(world.gateway.address);
    // The first makes tickets for the second, whose turns are those of the others.
    tunnel(&mut session(&config, chaos.connect(Plan::default()))).unwrap();
    let measured = Chaos::to(world.gateway.address);
    tunnel(&mut session(&config, measured.connect(Plan::default()))).unwrap();
    let turns = measured.lengths(true);
    // A hello with a ticket is long, and read as one without.
    let places = places(&turns, if resumes { 15 } else { 0 });
    let kind = format!("{version:?}, resumes: {resumes}, turns of {turns:?}");
    let resumed = AtomicUsize::new(0);
    every(&kind, places.len(), |number| {
        let cut = places[number];
        let direction = Direction {
            cuts: vec![cut],
            ..Direction::default()
        };
        let mut session = session(&config, chaos.connect(Plan::up(direction)));
        tunnel(&mut session).map_err(|error| format!("{cut:?}: {error}"))?;
        let is_resumed = session.conn.handshake_kind() == Some(HandshakeKind::Resumed);
        resumed.fetch_add(usize::from(is_resumed), Relaxed);
        Ok(())
    });
    // With many at once, some find no ticket left.
    let resumed = resumed.into_inner();
    assert_eq!(resumes, resumed > places.len() / 2, "{kind}: {resumed}");
    is_left_clean(&world);
}

#[test]
fn every_byte_of_a_tls13_client() {
    every_byte_of_a_client(&version::TLS13, false);
}

#[test]
fn every_byte_of_a_tls12_client() {
    every_byte_of_a_client(&version::TLS12, false);
}

#[test]
fn every_byte_of_a_client_that_resumes() {
    every_byte_of_a_client(&version::TLS13, true);
    every_byte_of_a_client(&version::TLS12, true);
}

/// The PROXY header, joined with the hello behind it, and on the plain listener with the request.
#[test]
fn every_byte_of_a_proxy_header() {
    let header = Header::of(
        "192.0.2.7:9".parse().unwrap(),
        "192.0.2.1:443".parse().unwrap(),
    );
    let headers = [header.write_v1(), header.write_v2(true).unwrap()];
    let servers = crate::common::service(&[server(echo)]);
    let listener = "protocol = 'both'\nhttps = '127.0.0.1:0'\nhttp = '127.0.0.1:0'\nproxy_protocol = 'required'\n\
                    trusted_proxies = ['127.0.0.1']";
    let world = world(Pki::new(), listener, &servers);
    let config = Arc::new(client(&world.pki, &world.device, &version::TLS13, true));
    let by_tls = Chaos::to(world.gateway.address);
    let plainly = Chaos::to(world.gateway.plain.unwrap());
    let asks = asking(&client_cert(&world.device)).into_bytes();
    for header in headers {
        let cut = |at| Plan::up(Direction::cut(0, at, header.len() - at + 1));
        every("in front of TLS", header.len() - 1, |at| {
            let mut socket = by_tls.connect(cut(at + 1));
            socket.write_all(&header).unwrap();
            tunnel(&mut session(&config, socket))
        });
        every("in front of a request", header.len() - 1, |at| {
            let mut socket = plainly.connect(cut(at + 1));
            socket
                .write_all(&[&header[..], &asks, EARLY].concat())
                .unwrap();
            echoed(&mut socket)
        });
    }
    is_left_clean(&world);
}

/// The request on the plain listener, joined with the tunnel's first bytes.
#[test]
fn every_byte_of_a_request() {
    let servers = crate::common::service(&[server(echo)]);
    let world = world(Pki::new(), crate::common::plain::PLAIN, &servers);
    let chaos = Chaos::to(world.gateway.address);
    let asks = asking(&client_cert(&world.device)).into_bytes();
    every("a request", asks.len(), |at| {
        let rest = asks.len() - at - 1 + EARLY.len();
        let mut socket = chaos.connect(Plan::up(Direction::cut(0, at + 1, rest)));
        socket.write_all(&[&asks[..], EARLY].concat()).unwrap();
        echoed(&mut socket)
    });
    is_left_clean(&world);
}

/// The preface of HTTP/2, settings, a request and the tunnel's first bytes, in two records that part at every byte.
#[test]
fn every_byte_of_http2() {
    let world = tls_world();
    let mut config = client(&world.pki, &world.device, &version::TLS13, true);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let config = Arc::new(config);
    let opening = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]),
        frame(HEADERS, END_HEADERS, 1, &connect_block("a.test:1")),
        frame(DATA, 0, 1, EARLY),
    ]
    .concat();
    let chaos = Chaos::to(world.gateway.address);
    every("HTTP/2", opening.len() - 1, |at| {
        let socket = chaos.connect(Plan::default());
        socket.set_nodelay(true).unwrap();
        let mut session = session(&config, socket);
        let (first, rest) = opening.split_at(at + 1);
        let told = |error: std::io::Error| error.to_string();
        session.write_all(first).map_err(told)?;
        session.flush().map_err(told)?;
        std::thread::sleep(Duration::from_millis(10));
        session.write_all(rest).map_err(told)?;
        session.flush().map_err(told)?;
        let (mut seen, mut piece) = (Vec::new(), [0; 1024]);
        while !seen.windows(EARLY.len()).any(|window| window == EARLY) {
            match session.read(&mut piece).map_err(told)? {
                0 => return Err("the end".into()),
                count => seen.extend_from_slice(&piece[..count]),
            }
        }
        Ok(())
    });
    is_left_clean(&world);
}

/// Tunnels through a gateway whose server is behind a relay that cuts one direction of its connections, each at another byte.
fn every_byte_behind(what: &str, pki: Pki, server: SocketAddr, keys: &str, up: bool) {
    let left = Arc::new(Mutex::new(Vec::<Cut>::new()));
    let next = left.clone();
    let chaos = Chaos::always(server, move |_| {
        let cuts = next.lock().unwrap().pop().into_iter().collect();
        let direction = Direction {
            cuts,
            ..Direction::default()
        };
        if up {
            Plan::up(direction)
        } else {
            Plan::down(direction)
        }
    });
    let keys = keys.replace("RELAY", &chaos.address.to_string());
    let at = match keys.starts_with("upstream_proxy") {
        true => "wiki.behind.example:443".to_owned(),
        false => chaos.address.to_string(),
    };
    // Without a share that makes the first flights longer, and not otherwise.
    let tls = "[profile.tls]\noutbound = { key_exchange = ['X25519'] }\n";
    let world = world(pki, TLS, &format!("{tls}{}", outbound::service(&at, &keys)));
    let config = Arc::new(client(&world.pki, &world.device, &version::TLS13, true));
    let one = || {
        let socket = TcpStream::connect(world.gateway.address).unwrap();
        tunnel(&mut session(&config, socket))
    };
    one().unwrap();
    let turns = chaos.lengths(up);
    *left.lock().unwrap() = places(&turns, 0);
    let count = left.lock().unwrap().len();
    every(&format!("{what}, turns of {turns:?}"), count, |_| one());
    assert!(left.lock().unwrap().is_empty(), "{what}: some are not cut");
    is_left_clean(&world);
}

/// The answers of an upstream proxy, interim ones too, joined with what the server behind it says first.
#[test]
fn every_byte_of_an_upstream_proxy_s_answer() {
    let answer = b"HTTP/1.1 102 Wait\r\n\r\nHTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n220 first ";
    let proxy = server(move |mut stream| {
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
            head.push(byte[0]);
        }
        if stream.write_all(answer).is_ok() {
            echo(stream);
        }
    });
    let keys = "upstream_proxy = 'http://RELAY'";
    every_byte_behind("an answer", Pki::new(), proxy, keys, false);
}

/// A server that speaks TLS and, where the version lets it, says its first words with its flight.
fn tls_server(pki: &Pki, version: &'static SupportedProtocolVersion, resumes: bool) -> SocketAddr {
    let mut tls = Tls::new(certificate(pki, "127.0.0.1", |_| ()));
    tls.versions = vec![version];
    let mut config = ServerConfig::clone(&tls.config());
    config.send_half_rtt_data = true;
    if !resumes {
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    let config = Arc::new(config);
    server(move |stream| {
        let mut session = outbound::session(&config, stream);
        let _ = session.conn.writer().write_all(b"220 first ");
        let mut piece = [0; 1024];
        while let Ok(count @ 1..) = session.read(&mut piece) {
            if session.write_all(&piece[..count]).is_err() {
                return;
            }
        }
        session.conn.send_close_notify();
        let _ = session.flush();
    })
}

/// A server's flights, of full handshakes and of resumed ones.
fn every_byte_of_a_server(version: &'static SupportedProtocolVersion) {
    for resumes in [false, true] {
        let pki = Pki::new();
        let server = tls_server(&pki, version, resumes);
        let keys = "tls = true\ntls_roots = 'ca.pem'";
        let what = format!("{version:?}, resumes: {resumes}");
        every_byte_behind(&what, pki, server, keys, false);
    }
}

#[test]
fn every_byte_of_a_tls13_server() {
    every_byte_of_a_server(&version::TLS13);
}

#[test]
fn every_byte_of_a_tls12_server() {
    every_byte_of_a_server(&version::TLS12);
}

/// The PROXY header that introduces an app to its server, joined with the app's first bytes.
#[test]
fn every_byte_of_a_proxy_header_to_a_server() {
    for version in ["v1", "v2"] {
        let server = server(|mut stream| {
            let (mut seen, mut piece) = (Vec::new(), [0; 1024]);
            loop {
                match proxy_protocol::parse(&seen) {
                    Ok(Parsed::Incomplete) => match stream.read(&mut piece) {
                        Ok(count @ 1..) => seen.extend_from_slice(&piece[..count]),
                        _ => return,
                    },
                    Ok(Parsed::Header(_, length)) => {
                        if stream.write_all(&seen[length..]).is_ok() {
                            echo(stream);
                        }
                        return;
                    }
                    other => panic!("{other:?}"),
                }
            }
        });
        let keys = format!("proxy_protocol = '{version}'");
        every_byte_behind(version, Pki::new(), server, &keys, true);
    }
}
