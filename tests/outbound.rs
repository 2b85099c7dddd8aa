//! The ways out to servers: an upstream proxy, source addresses, socket options, the PROXY protocol.

use crate::common;
use crate::common::outbound;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use adit::proxy_protocol::{self, Header, Parsed};
use common::{Pki, Program, World, echo, free_port, server, until};
use outbound::{Tls, certificate, noise, round_trip, service};
use socket2::Socket;

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
    pki.secret("proxy.pass", "sesame\n");
    let keys = format!(
        "upstream_proxy = 'http://ann@{proxy}'\nupstream_proxy_password_file = 'proxy.pass'"
    );
    // A name that only the proxy would know.
    let world = World::of(pki, |node| {
        node.rest(&service("wiki.behind.example:443", &keys))
    });
    let mut session = world.tunnel("a.test:1");
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
    let audit = std::fs::read_to_string(world.pki.path("audit.log")).unwrap();
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
    let world = World::of(pki, |node| {
        node.rest(&service("wiki.behind.example:443", &keys))
    });
    round_trip(world.tunnel("a.test:1"), &noise(300_000));
    until("a check", || {
        world
            .gateway
            .metric("adit_server_checks_total", "result=\"passed\"")
            > 0.0
    });
    assert_eq!(
        world
            .gateway
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
        let world = World::new(|node| node.rest(&service("wiki.behind.example:443", &keys)));
        let told = world.answer("a.test:1");
        assert!(told.starts_with("HTTP/1.1 502 "), "{reason}: {told}");
        assert_eq!(world.gateway.ended(reason), 1.0, "{reason}: {told}");
    }
    let keys = format!("upstream_proxy = 'http://{}'", free_port());
    let world = World::new(|node| node.rest(&service("wiki.behind.example:443", &keys)));
    assert!(world.answer("a.test:1").starts_with("HTTP/1.1 502 "));
    assert_eq!(world.gateway.ended("upstream-proxy-unreachable"), 1.0);
}

#[test]
fn tunnels_come_from_the_address_that_is_configured() {
    let (told, seen) = mpsc::channel();
    let address = server(move |stream| {
        told.send(stream.peer_addr().unwrap()).unwrap();
        echo(stream);
    });
    let world =
        World::new(|node| node.rest(&service(&address.to_string(), "bind = ['127.0.0.77']")));
    let open: Vec<_> = (0..3).map(|_| world.tunnel("a.test:1")).collect();
    let peers: Vec<SocketAddr> = (0..3).map(|_| seen.recv().unwrap()).collect();
    assert!(
        peers
            .iter()
            .all(|peer| peer.ip().to_string() == "127.0.0.77"),
        "{peers:?}"
    );
    drop(open);

    // No address of the server's family to come from: it is not dialled from another one.
    let world = World::new(|node| node.rest(&service(&address.to_string(), "bind = ['::1']")));
    assert!(world.answer("a.test:1").starts_with("HTTP/1.1 502 "));
    assert_eq!(world.gateway.ended("server-unreachable"), 1.0);
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
    let world = World::new(|node| {
        node.engine(engine)
            .rest(&service(&address.to_string(), own))
    });
    let session = world.tunnel("a.test:1");
    let process = world.gateway.child.id();
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
        let world = World::new(|node| node.rest(&service(&address.to_string(), &keys)));
        let session = world.tunnel("a.test:1");
        let app = session.sock.local_addr().unwrap();
        round_trip(session, b"behind the header");
        let header = seen.recv().unwrap();
        let proxy_protocol::Endpoints::Proxied(addresses) = header.endpoints else {
            panic!("{header:?}");
        };
        assert_eq!(addresses.source(), app);
        assert_eq!(addresses.destination(), world.gateway.address);
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
        until("recorded", || world.pki.audit().contains(tunnel));
    }
}

/// HAProxy on a port of its own, which echoes through a server behind it and logs what it was told.
fn haproxy(pki: &Pki, bind: &str, to: SocketAddr) -> (Program, SocketAddr) {
    let address = free_port();
    let config = format!(
        "global\n  log stdout format raw local0\nfrontend in\n  bind {address} accept-proxy {bind}\n  log global\n  \
         log-format \"seen %ci:%cp %fi:%fp %[fc_rcvd_proxy] %[fc_pp_authority] %[fc_pp_unique_id]\"\n  \
         default_backend out\nbackend out\n  server echo {to}\n"
    );
    (Program::haproxy(pki, &config, &[address]), address)
}

/// The words of the one line that HAProxy has logged of a connection from `client`.
fn seen(pki: &Pki, client: SocketAddr) -> Vec<String> {
    let begins = format!("seen {client} ");
    let find = || {
        let log = std::fs::read_to_string(pki.path("haproxy.log")).unwrap();
        let line = log
            .lines()
            .find_map(|line| line.find(&begins).map(|at| &line[at..]))?;
        Some(line.split_whitespace().map(str::to_owned).collect())
    };
    until("HAProxy's log", || find().is_some());
    find().unwrap()
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
        let (_haproxy, address) = haproxy(&pki, bind, server(echo));
        let keys = match tls {
            true => {
                "tls = true\ntls_roots = 'ca.pem'\n[profile.service.health]\ncheck = 'tls'\ninterval = '50ms'"
            }
            false => "",
        };
        let keys = format!("proxy_protocol = '{version}'\n{keys}");
        let rest = service(&address.to_string(), &keys);
        let world = World::of(pki, |node| node.rest(&rest));
        let session = world.tunnel("a.test:1");
        let app = session.sock.local_addr().unwrap();
        round_trip(session, &noise(100_000));
        let seen = seen(&world.pki, app);
        assert_eq!(seen[2], world.gateway.address.to_string(), "{seen:?}");
        assert_eq!(seen[3], "1", "{seen:?}");
        if version == "v2" {
            assert_eq!(seen[4], "a.test", "{seen:?}");
            assert!(seen[5].contains('-') && seen[5].len() > 10, "{seen:?}");
        }
        if tls {
            until("checks pass behind the header too", || {
                world
                    .gateway
                    .metric("adit_server_checks_total", "result=\"passed\"")
                    > 0.0
            });
            let failed = world
                .gateway
                .metric("adit_server_checks_total", "result=\"failed\"");
            assert_eq!(failed, 0.0);
        }
    }
}
