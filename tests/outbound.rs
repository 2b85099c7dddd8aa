//! The ways out to servers: TLS, an upstream proxy, source addresses, socket options, the PROXY protocol.

#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use adit::certs::make::Usage;
use adit::certs::{self, IssueRequest, Issued, Validity};
use adit::proxy_protocol::{self, Header, Parsed};
use common::{
    Gateway, Pki, ask, authority, connect, echo, free_port, request, server, tunnel, until,
};
use rustls::crypto::aws_lc_rs;
use rustls::server::WebPkiClientVerifier;
use rustls::{
    RootCertStore, ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion,
};
use socket2::Socket;
use time::OffsetDateTime;

/// A service of one server, with these lines more; every destination in .test leads to it.
fn service(server: &str, more: &str) -> String {
    format!(
        "[[profile.rule]]\nhost = '*.test'\nport = '*'\nservice = 'out'\n[[profile.service]]\nname = 'out'\n\
         servers = ['{server}']\n{more}"
    )
}

struct Node {
    pki: Pki,
    device: Issued,
    gateway: Gateway,
}

impl Node {
    fn start(pki: Pki, engine: &str, service: &str) -> Self {
        let device = pki.client("device", |_| ());
        let gateway = Gateway::start(&pki, engine, "unmanaged = 'allow'", service);
        Self {
            pki,
            device,
            gateway,
        }
    }

    fn tunnel(&self) -> common::Session {
        tunnel(&self.pki, &self.gateway, &self.device, "a.test:1")
    }

    fn answer(&self) -> String {
        let mut session = connect(&self.pki, &self.gateway, Some(&self.device));
        ask(&mut session, &request("a.test:1")).unwrap()
    }
}

/// Sends `bytes` through an open tunnel, says that nothing more comes, and expects them back and the end.
fn round_trip(mut session: common::Session, bytes: &[u8]) {
    // The server echoes all the while, so that both directions move at once.
    let mut back = vec![0; bytes.len()];
    for (out, back) in bytes.chunks(40_000).zip(back.chunks_mut(40_000)) {
        session.write_all(out).unwrap();
        session.read_exact(back).unwrap();
    }
    assert!(back == bytes, "the bytes have changed");
    session.conn.send_close_notify();
    session.flush().unwrap();
    let mut rest = Vec::new();
    session.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty());
}

fn noise(len: usize) -> Vec<u8> {
    (0..len as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}

/// What a TLS server of the tests has.
struct Tls {
    identity: Issued,
    versions: Vec<&'static SupportedProtocolVersion>,
    clients: Option<RootCertStore>,
}

impl Tls {
    fn new(identity: Issued) -> Self {
        Self {
            identity,
            versions: rustls::ALL_VERSIONS.to_vec(),
            clients: None,
        }
    }

    fn config(&self) -> Arc<ServerConfig> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&self.versions)
            .unwrap();
        let builder = match &self.clients {
            None => builder.with_no_client_auth(),
            Some(roots) => builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots.clone()), provider)
                    .build()
                    .unwrap(),
            ),
        };
        let chain = self.identity.chain.clone();
        Arc::new(
            builder
                .with_single_cert(chain, self.identity.key.clone_key())
                .unwrap(),
        )
    }

    /// A server that echoes.
    fn echo(&self) -> SocketAddr {
        let config = self.config();
        server(move |stream| {
            let mut session = session(&config, stream);
            let mut piece = vec![0; 30_000];
            while let Ok(count @ 1..) = session.read(&mut piece) {
                if session.write_all(&piece[..count]).is_err() {
                    return;
                }
            }
            session.conn.send_close_notify();
            let _ = session.flush();
        })
    }
}

fn session(
    config: &Arc<ServerConfig>,
    stream: TcpStream,
) -> StreamOwned<ServerConnection, TcpStream> {
    StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream)
}

/// A certificate for a server at `name`.
fn certificate(pki: &Pki, name: &str, change: impl FnOnce(&mut IssueRequest)) -> Issued {
    let mut request = IssueRequest::new(Usage::Server, name, Validity::days(1).unwrap());
    match name.parse::<IpAddr>() {
        Ok(address) => request.ip = vec![address],
        Err(_) => request.dns = vec![name.to_owned()],
    }
    change(&mut request);
    certs::issue(&pki.ca, &request).unwrap()
}

#[test]
fn bytes_pass_whatever_versions_the_two_ends_speak() {
    for (app, of_server) in [
        ("1.3", "1.3"),
        ("1.2", "1.2"),
        ("1.2", "1.3"),
        ("1.3", "1.2"),
    ] {
        let pki = Pki::new();
        let mut tls = Tls::new(certificate(&pki, "127.0.0.1", |_| ()));
        tls.versions = match of_server {
            "1.2" => vec![&rustls::version::TLS12],
            _ => vec![&rustls::version::TLS13],
        };
        let rest = format!(
            "[profile.tls]\ninbound = {{ protocols = ['{app}'] }}\n{}",
            service(&tls.echo().to_string(), "tls = true\ntls_roots = 'ca.pem'")
        );
        let node = Node::start(pki, "", &rest);
        round_trip(node.tunnel(), b"few");
        round_trip(node.tunnel(), &noise(3_000_000));
        until("the tunnels end in order", || {
            node.gateway.ended("closed") == 2.0
        });
    }
}

#[test]
fn small_records_and_large_ones_in_any_mixture_come_whole_and_in_order() {
    let pki = Pki::new();
    let config = Tls::new(certificate(&pki, "127.0.0.1", |_| ())).config();
    let sent = noise(2_000_000);
    let expected = sent.clone();
    let address = server(move |stream| {
        let mut session = session(&config, stream);
        let sizes = [
            1, 16_384, 16_384, 16_384, 700, 2048, 9000, 16_384, 5000, 16_383, 3,
        ];
        let (mut at, mut turn) = (0, 0);
        while at < sent.len() {
            let size = sizes[turn % sizes.len()].min(sent.len() - at);
            // One record for each write.
            session.write_all(&sent[at..at + size]).unwrap();
            at += size;
            turn += 1;
        }
        session.conn.send_close_notify();
        session.flush().unwrap();
    });
    let node = Node::start(
        pki,
        "",
        &service(&address.to_string(), "tls = true\ntls_roots = 'ca.pem'"),
    );
    let mut got = Vec::new();
    node.tunnel().read_to_end(&mut got).unwrap();
    assert!(got == expected, "{} bytes of {}", got.len(), expected.len());
}

#[test]
fn a_server_is_refused_whose_certificate_does_not_fit() {
    let other = authority("other");
    let past = |request: &mut IssueRequest| {
        let now = OffsetDateTime::now_utc();
        let (from, to) = (
            now - Duration::from_secs(7200),
            now - Duration::from_secs(3600),
        );
        request.validity = Validity::between(from, to).unwrap();
    };
    let cases: [(&str, &str, &str); 5] = [
        (
            "of another CA",
            "tls_roots = 'other.pem'",
            "server-certificate",
        ),
        (
            "for another name",
            "tls_name = 'wiki.internal'\ntls_roots = 'ca.pem'",
            "server-certificate",
        ),
        ("expired", "tls_roots = 'ca.pem'", "server-certificate"),
        ("no TLS", "tls_roots = 'ca.pem'", "server-tls"),
        (
            "of a CA that the system does not know",
            "",
            "server-certificate",
        ),
    ];
    for (what, keys, reason) in cases {
        let pki = Pki::new();
        let elsewhere = tempfile::tempdir().unwrap();
        other.write(elsewhere.path()).unwrap();
        std::fs::copy(elsewhere.path().join("ca.pem"), pki.path("other.pem")).unwrap();
        let identity = certificate(&pki, "127.0.0.1", |request| {
            if what == "expired" {
                past(request);
            }
        });
        let address = match what {
            "no TLS" => server(|mut stream| stream.write_all(b"SSH-2.0-server\r\n").unwrap()),
            _ => Tls::new(identity).echo(),
        };
        let node = Node::start(
            pki,
            "",
            &service(&address.to_string(), &format!("tls = true\n{keys}")),
        );
        let answer = node.answer();
        assert!(answer.starts_with("HTTP/1.1 502 "), "{what}: {answer}");
        let error = match reason {
            "server-tls" => "error=tls_protocol_error",
            _ => "error=tls_certificate_error",
        };
        assert!(answer.contains(error), "{what}: {answer}");
        assert_eq!(node.gateway.ended(reason), 1.0, "{what}");
    }
}

#[test]
fn the_name_that_is_configured_is_asked_for_and_checked() {
    let pki = Pki::new();
    let config = Tls::new(certificate(&pki, "wiki.internal", |_| ())).config();
    let (told, asked) = mpsc::channel();
    let address = server(move |stream| {
        let mut session = session(&config, stream);
        let mut byte = [0];
        let _ = session.read(&mut byte);
        told.send(session.conn.server_name().map(str::to_owned))
            .unwrap();
        session.write_all(&byte).unwrap();
    });
    let keys = "tls = true\ntls_roots = 'ca.pem'\ntls_name = 'wiki.internal'";
    let node = Node::start(pki, "", &service(&address.to_string(), keys));
    let mut session = node.tunnel();
    session.write_all(b"x").unwrap();
    let mut back = [0];
    session.read_exact(&mut back).unwrap();
    assert_eq!(asked.recv().unwrap().as_deref(), Some("wiki.internal"));
    // The test's server ended without close_notify.
    assert!(
        session.read(&mut back).is_err(),
        "the app must not take it for the whole"
    );
    until("it is told apart", || {
        node.gateway.ended("server-truncated") == 1.0
    });
}

#[test]
fn the_gateways_own_certificate_opens_a_server_that_wants_one() {
    for (version, with) in [("1.2", true), ("1.3", true), ("1.2", false), ("1.3", false)] {
        let pki = Pki::new();
        let mut tls = Tls::new(certificate(&pki, "127.0.0.1", |_| ()));
        let mut roots = RootCertStore::empty();
        roots.add(pki.ca.certificate().clone()).unwrap();
        tls.clients = Some(roots);
        pki.client("gateway", |_| ());
        let own = match with {
            true => "tls_certificate = 'gateway.pem'\ntls_key = 'gateway.key'",
            false => "",
        };
        let rest = format!(
            "[profile.tls]\noutbound = {{ protocols = ['{version}'] }}\n{}",
            service(
                &tls.echo().to_string(),
                &format!("tls = true\ntls_roots = 'ca.pem'\n{own}")
            )
        );
        let node = Node::start(pki, "", &rest);
        match (with, version) {
            (true, _) => round_trip(node.tunnel(), &noise(50_000)),
            (false, "1.2") => {
                let answer = node.answer();
                assert!(answer.contains("error=tls_alert_received"), "{answer}");
                assert_eq!(node.gateway.ended("server-tls-alert"), 1.0);
            }
            // In TLS 1.3 the server's refusal comes behind the handshake (RFC 8446, section 4.4.2.4).
            (false, _) => {
                let mut session = node.tunnel();
                assert!(session.read(&mut [0]).is_err());
                until("it is told", || {
                    node.gateway.ended("server-tls-broken") == 1.0
                });
            }
        }
    }
}

/// `adit certs …` on the node's store: whether it is done, and what it says.
fn on_store(pki: &Pki, arguments: &str) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_adit"))
        .arg("certs")
        .args(arguments.split(' '))
        .current_dir(pki.folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (output.status.success(), said)
}

#[test]
fn the_gateways_own_certificate_comes_from_the_store_and_a_new_one_takes_its_place() {
    let pki = Pki::new();
    let (first, second) = (pki.client("first", |_| ()), pki.client("second", |_| ()));
    let import = |pki: &Pki, file: &str, kind: &str| {
        let from = format!("{file}.pem --key {file}.key --name gateway --state-dir state");
        on_store(pki, &format!("import {from} --replace --as {kind}"))
    };
    // It is for clients, and comes without its chain.
    let (done, said) = import(&pki, "first", "server");
    assert!(!done && said.contains("not-server"), "{said}");
    let (done, said) = import(&pki, "server", "client");
    assert!(!done && said.contains("not-client"), "{said}");
    let (done, said) = import(&pki, "first", "client");
    assert!(done && said.contains("no-chain"), "{said}");

    let mut tls = Tls::new(certificate(&pki, "127.0.0.1", |_| ()));
    let mut roots = RootCertStore::empty();
    roots.add(pki.ca.certificate().clone()).unwrap();
    tls.clients = Some(roots);
    let config = tls.config();
    let (told, shown) = mpsc::channel();
    let address = server(move |stream| {
        let mut session = session(&config, stream);
        let mut byte = [0];
        let _ = session.read(&mut byte);
        let certificates = session.conn.peer_certificates();
        let certificate = certificates.and_then(<[_]>::first);
        told.send(certificate.map(|der| der.to_vec())).unwrap();
    });
    let keys = "tls = true\ntls_roots = 'ca.pem'\ntls_certificate = 'store:gateway'";
    let node = Node::start(pki, "", &service(&address.to_string(), keys));
    let shows = || {
        node.tunnel().write_all(b"x").unwrap();
        shown.recv().unwrap().unwrap()
    };
    assert_eq!(shows(), first.chain[0].to_vec());
    let (done, said) = on_store(&node.pki, "delete gateway --as client");
    assert!(
        !done && said.contains("the profile default names it"),
        "{said}"
    );
    let (done, said) = import(&node.pki, "second", "client");
    assert!(done, "{said}");
    until("the new one is shown", || {
        shows() == second.chain[0].to_vec()
    });
}

#[test]
fn a_tls_check_makes_the_whole_handshake() {
    let pki = Pki::new();
    let address = Tls::new(certificate(&pki, "127.0.0.1", |_| ())).echo();
    let plain = server(echo);
    let health = "[profile.service.health]\ncheck = 'tls'\ninterval = '50ms'\ntimeout = '5s'\nrise = 1\nfall = 1";
    let rest = service(
        &format!("{address}', '{plain}"),
        &format!("tls = true\ntls_roots = 'ca.pem'\n{health}"),
    );
    let node = Node::start(pki, "", &rest);
    let up = |server: SocketAddr| {
        node.gateway
            .metric("adit_server_up", &format!("\"{server}\""))
    };
    let checks = |server: SocketAddr, result: &str| {
        let labels = format!("server=\"{server}\",result=\"{result}\"");
        node.gateway.metric("adit_server_checks_total", &labels)
    };
    until("both are checked", || {
        checks(address, "passed") > 1.0 && checks(plain, "failed") > 0.0
    });
    assert_eq!((up(address), up(plain)), (1.0, 0.0));
    assert_eq!(checks(address, "failed"), 0.0);
}

/// A proxy that notes each request's head and answers `answer`; with 200 it goes on to the server that is asked for, or
/// to `server`.
fn proxy(answer: &'static str, to: Option<SocketAddr>) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let heads = Arc::<Mutex<Vec<String>>>::default();
    let seen = heads.clone();
    let address = server(move |mut stream| {
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
            head.push(byte[0]);
        }
        seen.lock().unwrap().push(String::from_utf8(head).unwrap());
        let Some(to) = to.filter(|_| answer.contains(" 200 ")) else {
            let _ = stream.write_all(answer.as_bytes());
            return;
        };
        let mut server = TcpStream::connect(to).unwrap();
        // The server speaks first: its greeting comes in one segment with the proxy's header.
        let mut first = vec![0; 100];
        server
            .set_read_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        let count = server.read(&mut first).unwrap_or(0);
        server.set_read_timeout(None).unwrap();
        stream
            .write_all(&[answer.as_bytes(), &first[..count]].concat())
            .unwrap();
        let (mut up_from, mut up_to) = (stream.try_clone().unwrap(), server.try_clone().unwrap());
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut up_from, &mut up_to);
            let _ = up_to.shutdown(Shutdown::Write);
        });
        let _ = std::io::copy(&mut server, &mut stream);
        let _ = stream.shutdown(Shutdown::Write);
    });
    (address, heads)
}

const YES: &str = "HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n";

#[test]
fn a_tunnel_goes_through_an_upstream_proxy_and_loses_no_byte() {
    let greeting = server(|mut stream| {
        stream.write_all(b"220 hello\r\n").unwrap();
        echo(stream);
    });
    let (proxy, heads) = proxy(YES, Some(greeting));
    let pki = Pki::new();
    std::fs::write(pki.path("proxy.pass"), "sesame\n").unwrap();
    let mode = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(pki.path("proxy.pass"), mode).unwrap();
    let keys = format!(
        "upstream_proxy = 'http://ann@{proxy}'\nupstream_proxy_password_file = 'proxy.pass'"
    );
    // A name that only the proxy would know.
    let node = Node::start(pki, "", &service("wiki.behind.example:443", &keys));
    let mut session = node.tunnel();
    let mut hello = [0; 11];
    session.read_exact(&mut hello).unwrap();
    assert_eq!(&hello, b"220 hello\r\n");
    round_trip(session, &noise(300_000));
    let heads = heads.lock().unwrap();
    assert_eq!(
        heads[..],
        [
            "CONNECT wiki.behind.example:443 HTTP/1.1\r\nHost: wiki.behind.example:443\r\n\
          Proxy-Authorization: Basic YW5uOnNlc2FtZQ==\r\n\r\n"
        ]
    );
    let audit = std::fs::read_to_string(node.pki.path("audit.log")).unwrap();
    assert!(
        !audit.contains("sesame") && !audit.contains("YW5u"),
        "{audit}"
    );
}

#[test]
fn tls_to_the_server_and_its_checks_go_through_the_upstream_proxy() {
    let pki = Pki::new();
    let address = Tls::new(certificate(&pki, "wiki.behind.example", |_| ())).echo();
    let (proxy, heads) = proxy(YES, Some(address));
    let keys = format!(
        "upstream_proxy = 'http://{proxy}'\ntls = true\ntls_roots = 'ca.pem'\n[profile.service.health]\n\
         check = 'tls'\ninterval = '50ms'\ntimeout = '5s'"
    );
    let node = Node::start(pki, "", &service("wiki.behind.example:443", &keys));
    round_trip(node.tunnel(), &noise(300_000));
    until("a check", || {
        node.gateway
            .metric("adit_server_checks_total", "result=\"passed\"")
            > 0.0
    });
    assert_eq!(
        node.gateway
            .metric("adit_server_checks_total", "result=\"failed\""),
        0.0
    );
    assert!(
        heads
            .lock()
            .unwrap()
            .iter()
            .all(|head| !head.contains("Authorization"))
    );
}

#[test]
fn what_an_upstream_proxy_refuses_is_told_apart() {
    let cases = [
        (
            "HTTP/1.1 407 no\r\nProxy-Authenticate: Basic realm=x\r\n\r\n",
            "upstream-proxy-authentication",
        ),
        ("HTTP/1.1 403 no\r\n\r\n", "upstream-proxy-refused"),
        ("HTTP/1.1 503 no\r\n\r\n", "upstream-proxy-failed"),
        ("SSH-2.0-x\r\n", "upstream-proxy-protocol"),
        ("", "upstream-proxy-protocol"),
    ];
    for (answer, reason) in cases {
        let (proxy, _) = proxy(answer, None);
        let keys = format!("upstream_proxy = 'http://{proxy}'");
        let node = Node::start(Pki::new(), "", &service("wiki.behind.example:443", &keys));
        let told = node.answer();
        assert!(told.starts_with("HTTP/1.1 502 "), "{reason}: {told}");
        assert_eq!(node.gateway.ended(reason), 1.0, "{reason}: {told}");
    }
    let keys = format!("upstream_proxy = 'http://{}'", free_port());
    let node = Node::start(Pki::new(), "", &service("wiki.behind.example:443", &keys));
    assert!(node.answer().starts_with("HTTP/1.1 502 "));
    assert_eq!(node.gateway.ended("upstream-proxy-unreachable"), 1.0);
}

#[test]
fn tunnels_come_from_the_address_that_is_configured() {
    let (told, seen) = mpsc::channel();
    let address = server(move |stream| {
        told.send(stream.peer_addr().unwrap()).unwrap();
        echo(stream);
    });
    let node = Node::start(
        Pki::new(),
        "",
        &service(&address.to_string(), "bind = ['127.0.0.77']"),
    );
    let open: Vec<_> = (0..3).map(|_| node.tunnel()).collect();
    let peers: Vec<SocketAddr> = (0..3).map(|_| seen.recv().unwrap()).collect();
    assert!(
        peers
            .iter()
            .all(|peer| peer.ip().to_string() == "127.0.0.77"),
        "{peers:?}"
    );
    drop(open);

    // No address of the server's family to come from: it is not dialled from another one.
    let node = Node::start(
        Pki::new(),
        "",
        &service(&address.to_string(), "bind = ['::1']"),
    );
    assert!(node.answer().starts_with("HTTP/1.1 502 "));
    assert_eq!(node.gateway.ended("server-unreachable"), 1.0);
}

/// The sockets of a process that are connected to this address.
fn sockets_to(process: u32, address: SocketAddr) -> Vec<Socket> {
    let folder = format!("/proc/{process}/fd");
    let numbers = std::fs::read_dir(folder).unwrap().flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    // SAFETY: a system call without pointers; the descriptor that it gives is this function's own.
    let process = unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, process, 0);
        assert!(fd >= 0, "pidfd_open");
        OwnedFd::from_raw_fd(fd as i32)
    };
    let copies = numbers.filter_map(|number| {
        // SAFETY: as above; a number that is no descriptor any more gives an error.
        let copy = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) };
        // SAFETY: the descriptor is this process's own.
        (copy >= 0).then(|| unsafe { Socket::from(OwnedFd::from_raw_fd(copy as i32)) })
    });
    let is_wanted = |socket: &Socket| {
        let peer = socket.peer_addr().ok().and_then(|peer| peer.as_socket());
        peer == Some(address)
    };
    copies.filter(is_wanted).collect()
}

#[test]
fn connections_have_the_options_that_are_configured() {
    let address = server(echo);
    let engine = "user_timeout = '21s'\nkeepalive = { idle = '40s', interval = '7s', count = 3 }";
    let own = "user_timeout = '9s'";
    let node = Node::start(Pki::new(), engine, &service(&address.to_string(), own));
    let session = node.tunnel();
    let process = node.gateway.child.id();
    let app = session.sock.local_addr().unwrap();
    for (peer, user_timeout) in [(address, 9), (app, 21)] {
        let sockets = sockets_to(process, peer);
        assert_eq!(sockets.len(), 1, "{peer}");
        let socket = &sockets[0];
        assert!(socket.keepalive().unwrap());
        assert_eq!(
            socket.tcp_keepalive_time().unwrap(),
            Duration::from_secs(40)
        );
        assert_eq!(
            socket.tcp_keepalive_interval().unwrap(),
            Duration::from_secs(7)
        );
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
        assert_eq!(
            socket.tcp_user_timeout().unwrap(),
            Some(Duration::from_secs(user_timeout))
        );
    }
}

/// A server that reads a header of the PROXY protocol and then echoes.
fn introduced() -> (SocketAddr, mpsc::Receiver<Header>) {
    let (told, seen) = mpsc::channel();
    let address = server(move |mut stream| {
        let mut begun = Vec::new();
        loop {
            let mut byte = [0];
            if stream.read(&mut byte).unwrap() == 0 {
                return;
            }
            begun.push(byte[0]);
            match proxy_protocol::parse(&begun).unwrap() {
                Parsed::Header(header, length) if length == begun.len() => {
                    told.send(*header).unwrap();
                    return echo(stream);
                }
                Parsed::Absent => panic!("no header"),
                _ => {}
            }
        }
    });
    (address, seen)
}

#[test]
fn a_server_is_told_whose_tunnel_it_is() {
    let (address, seen) = introduced();
    for version in ["v1", "v2"] {
        let keys = format!("proxy_protocol = '{version}'");
        let node = Node::start(Pki::new(), "", &service(&address.to_string(), &keys));
        let session = node.tunnel();
        let app = session.sock.local_addr().unwrap();
        round_trip(session, b"behind the header");
        let header = seen.recv().unwrap();
        let proxy_protocol::Endpoints::Proxied(addresses) = header.endpoints else {
            panic!("{header:?}");
        };
        assert_eq!(addresses.source(), app);
        assert_eq!(addresses.destination(), node.gateway.address);
        if version == "v1" {
            continue;
        }
        let details = header.details;
        assert_eq!(details.authority.as_deref(), Some("a.test"));
        let tls = details.tls.unwrap();
        assert_eq!(tls.version.as_deref(), Some("TLSv1.3"));
        assert_eq!(tls.common_name.as_deref(), Some("device"));
        assert_eq!((tls.verify, tls.client & 1), (0, 1));
        let unique = String::from_utf8(details.unique_id.unwrap()).unwrap();
        let tunnel = unique.rsplit('-').next().unwrap();
        let audit = std::fs::read_to_string(node.pki.path("audit.log")).unwrap();
        assert!(audit.contains(tunnel), "{tunnel} in {audit}");
    }
}

/// HAProxy on a port of its own, which echoes through a server behind it and logs what it was told.
struct HaProxy {
    child: Child,
    address: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
}

impl HaProxy {
    fn start(pki: &Pki, bind: &str, to: SocketAddr) -> Self {
        let address = free_port();
        let config = format!(
            "global\n  log stdout format raw local0\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 30s\n  \
             timeout server 30s\nfrontend in\n  bind {address} accept-proxy {bind}\n  log global\n  \
             log-format \"seen %ci:%cp %fi:%fp %[fc_rcvd_proxy] %[fc_pp_authority] %[fc_pp_unique_id]\"\n  \
             default_backend out\nbackend out\n  server echo {to}\n"
        );
        std::fs::write(pki.path("haproxy.cfg"), config).unwrap();
        let mut child = Command::new("haproxy")
            .args(["-db", "-f", "haproxy.cfg"])
            .current_dir(pki.folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let log = Arc::<Mutex<Vec<String>>>::default();
        let (out, lines) = (child.stdout.take().unwrap(), log.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                lines.lock().unwrap().push(line);
            }
        });
        let haproxy = Self {
            child,
            address,
            log,
        };
        until("HAProxy listens", || TcpStream::connect(address).is_ok());
        haproxy
    }

    /// The words of the one line that HAProxy has logged of a connection from `client`.
    fn seen(&self, client: SocketAddr) -> Vec<String> {
        let begins = format!("seen {client} ");
        let find = || {
            let log = self.log.lock().unwrap();
            log.iter().find(|line| line.contains(&begins)).cloned()
        };
        until("HAProxy's log", || find().is_some());
        let line = find().unwrap();
        line[line.find(&begins).unwrap()..]
            .split_whitespace()
            .map(str::to_owned)
            .collect()
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn haproxy_behind_reads_what_it_is_told() {
    for (version, tls) in [("v1", false), ("v2", false), ("v2", true)] {
        let pki = Pki::new();
        let identity = certificate(&pki, "127.0.0.1", |_| ());
        let (chain, key) = (pki.path("haproxy.crt"), pki.path("haproxy.key"));
        identity.write(&chain, &key).unwrap();
        let pem = [std::fs::read(chain).unwrap(), std::fs::read(key).unwrap()].concat();
        std::fs::write(pki.path("haproxy.pem"), pem).unwrap();
        let bind = if tls { "ssl crt haproxy.pem" } else { "" };
        let haproxy = HaProxy::start(&pki, bind, server(echo));
        let keys = match tls {
            true => {
                "tls = true\ntls_roots = 'ca.pem'\n[profile.service.health]\ncheck = 'tls'\ninterval = '50ms'"
            }
            false => "",
        };
        let keys = format!("proxy_protocol = '{version}'\n{keys}");
        let rest = service(&haproxy.address.to_string(), &keys);
        let node = Node::start(pki, "", &rest);
        let session = node.tunnel();
        let app = session.sock.local_addr().unwrap();
        round_trip(session, &noise(100_000));
        let seen = haproxy.seen(app);
        assert_eq!(seen[2], node.gateway.address.to_string(), "{seen:?}");
        assert_eq!(seen[3], "1", "{seen:?}");
        if version == "v2" {
            assert_eq!(seen[4], "a.test", "{seen:?}");
            assert!(seen[5].contains('-') && seen[5].len() > 10, "{seen:?}");
        }
        if tls {
            until("checks pass behind the header too", || {
                node.gateway
                    .metric("adit_server_checks_total", "result=\"passed\"")
                    > 0.0
            });
            let failed = node
                .gateway
                .metric("adit_server_checks_total", "result=\"failed\"");
            assert_eq!(failed, 0.0);
        }
    }
}
