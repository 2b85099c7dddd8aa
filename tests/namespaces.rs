//! Who is a trusted proxy, over real routes: two network namespaces with a proxy in each, and the gateway in a third.
//!
//! ```text
//! front 198.51.100.2, 2001:db8:a::2 --- .1 gateway .1 --- 203.0.113.2, 2001:db8:b::2 stranger
//!                                   192.0.2.1, 2001:db8::1
//! ```

use crate::common;
use crate::common::network;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use adit::certs::Issued;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::{Gateway, PATIENCE, Pki, Program, World, ask, echo, request, server, until};
use network::{Namespace, ip, outside};

const GATEWAY: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

/// Ports of a proxy: to the TLS listener and to the plain one, by IPv4 and by IPv6, and from another's address.
const TLS: u16 = 8001;
const TLS6: u16 = 8002;
const PLAIN: u16 = 8003;
const PLAIN6: u16 = 8004;
const FORGED: u16 = 8005;

impl Namespace {
    /// HAProxy in it, which says in a PROXY header for whom each connection is.
    fn haproxy(&self, pki: &Pki, gateway: &Gateway) -> Program {
        let (tls, plain) = (gateway.address.port(), gateway.plain.unwrap().port());
        let [v4, v6] = GATEWAY;
        let [here, here6] = self.addresses;
        let forged = "source 198.51.100.2";
        let mut config = "defaults\n  mode tcp\n  timeout connect 2s\n  timeout client 20s\n  timeout server 20s\n  retries 0\n".to_owned();
        for (port, at, to, more) in [
            (TLS, here, format!("{v4}:{tls}"), ""),
            (TLS6, here6, format!("[{v6}]:{tls}"), ""),
            (PLAIN, here, format!("{v4}:{plain}"), ""),
            (PLAIN6, here6, format!("[{v6}]:{plain}"), ""),
            (FORGED, here, format!("{v4}:{tls}"), forged),
        ] {
            config.push_str(&format!(
                "listen l{port}\n  bind {at}:{port}\n  server s {to} send-proxy-v2 {more}\n"
            ));
        }
        let (name, file) = (self.name, format!("{}.cfg", self.name));
        std::fs::write(pki.path(&file), config).unwrap();
        let [inside] = self.inside();
        let args = [&inside, "haproxy", "-db", "-f", &file];
        Program::start_at(pki, Path::new("nsenter"), name, &args)
    }

    fn proxy(&self, port: u16) -> SocketAddr {
        let at = if [TLS6, PLAIN6].contains(&port) { 1 } else { 0 };
        SocketAddr::new(self.addresses[at].parse().unwrap(), port)
    }

    /// A connection to its proxy, when that listens.
    fn connect(&self, port: u16) -> TcpStream {
        let (mut stream, proxy) = (None, self.proxy(port));
        until(self.name, || {
            stream = TcpStream::connect_timeout(&proxy, Duration::from_secs(2)).ok();
            stream.is_some()
        });
        stream.unwrap()
    }
}

/// Says over the plain listener for whom it asks; gives the answer's head.
fn plainly(mut stream: TcpStream, device: &Issued) -> String {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let certificate = STANDARD.encode(&device.chain[0]);
    write!(
        stream,
        "CONNECT a.test:1 HTTP/1.1\r\nHost: a.test:1\r\nClient-Cert: :{certificate}:\r\n\r\n"
    )
    .unwrap();
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

#[test]
fn a_trusted_proxy_and_a_stranger_over_real_routes() {
    if outside(concat!(
        module_path!(),
        "::a_trusted_proxy_and_a_stranger_over_real_routes"
    )) {
        return;
    }
    ip("link set lo up");
    ip(&format!("addr add {}/32 dev lo", GATEWAY[0]));
    ip(&format!("addr add {}/128 dev lo nodad", GATEWAY[1]));
    let front = Namespace::new("front", ["198.51.100.2", "2001:db8:a::2"]);
    let stranger = Namespace::new("stranger", ["203.0.113.2", "2001:db8:b::2"]);
    // It claims the other's address too.
    stranger.ip("addr add 198.51.100.2/32 dev lo");

    let listener = "protocol = 'both'\nhttps = '[::]:0'\nhttp = '[::]:0'\nproxy_protocol = 'required'\n\
                    trusted_proxies = ['198.51.100.2', '2001:db8:a::2']";
    let world = World::new(|node| node.listener(listener).servers(&[server(echo)]));
    let _proxies =
        [&front, &stranger].map(|namespace| namespace.haproxy(&world.pki, &world.gateway));

    for port in [TLS, TLS6] {
        let socket = front.connect(port);
        let client = socket.local_addr().unwrap().to_string();
        let mut tunnel = world.session(socket);
        let head = ask(&mut tunnel, &request("a.test:1")).unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{port}: {head}");
        world.gateway.lists_peer(&client);
        drop(tunnel);
        world.gateway.lists_none();
    }
    for port in [PLAIN, PLAIN6] {
        let head = plainly(front.connect(port), &world.device);
        assert!(head.starts_with("HTTP/1.1 200 "), "{port}: {head}");
    }
    assert_eq!(world.gateway.ended("proxy-untrusted"), 0.0);

    for (times, port) in (1..).zip([TLS, TLS6]) {
        let mut tunnel = world.session(stranger.connect(port));
        ask(&mut tunnel, &request("a.test:1")).expect_err("a stranger is let in");
        until("refused", || {
            world.gateway.ended("proxy-untrusted") == f64::from(times)
        });
    }
    for (times, port) in (3..).zip([PLAIN, PLAIN6]) {
        let head = plainly(stranger.connect(port), &world.device);
        assert!(!head.contains(" 200 "), "{port}: {head}");
        until("refused", || {
            world.gateway.ended("proxy-untrusted") == f64::from(times)
        });
    }
    let log = || std::fs::read_to_string(world.pki.path("audit.log")).unwrap();
    for address in stranger.addresses {
        until(address, || {
            let log = log();
            let mut refusals = log.lines().filter(|line| line.contains("proxy-untrusted"));
            refusals.any(|line| line.contains(address))
        });
    }

    // What is sent to a claimed address goes to its owner, so that nothing can come of the claim.
    let before = world.gateway.metric("adit_ends_total", "");
    let mut tunnel = world.session(stranger.connect(FORGED));
    ask(&mut tunnel, &request("a.test:1")).expect_err("a claimed address is let in");
    assert_eq!(world.gateway.metric("adit_ends_total", ""), before);
}
