//! UDP through tunnels: CONNECT-UDP with capsules over HTTP/2.

use crate::common;
use crate::common::http2;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use adit::tunnel::capsule::{CapsuleReader, Event, datagram_header};
use common::{PATIENCE, World, free_port, until};
use h2::client::Builder;
use h2::ext::Protocol;
use http::{Method, Request};
use http2::{Client, Tunnel, client_with, run};

/// A UDP server that sends each datagram back; it stops when the test ends.
struct Echo(SocketAddr, Arc<AtomicBool>);

impl Echo {
    fn start(address: &str) -> Self {
        let socket = UdpSocket::bind(address).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        let (address, stop) = (
            socket.local_addr().unwrap(),
            Arc::new(AtomicBool::new(false)),
        );
        let stopped = stop.clone();
        std::thread::spawn(move || {
            let mut bytes = vec![0; 1 << 16];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((count, peer)) = socket.recv_from(&mut bytes) {
                    let _ = socket.send_to(&bytes[..count], peer);
                }
            }
        });
        Self(address, stop)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.1.store(true, Ordering::Relaxed);
    }
}

fn rules(server: SocketAddr, more: &str) -> String {
    format!(
        "[[profile.service]]\nname = 'dns'\nservers = ['{server}']\n{more}\n\
         [[profile.rule]]\nhost = '*.test'\nport = '*'\nservice = 'dns'\n"
    )
}

fn start(engine: &str, rules: &str) -> World {
    World::new(|node| node.engine(engine).rest(rules))
}

fn udp_request(path: &str) -> Request<()> {
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri(format!("https://localhost:8443{path}"))
        .header("capsule-protocol", "?1")
        .body(())
        .unwrap();
    request
        .extensions_mut()
        .insert(Protocol::from_static("connect-udp"));
    request
}

fn path(host: &str, port: u16) -> String {
    format!("/.well-known/masque/udp/{host}/{port}/")
}

async fn extended(client: &Client) {
    http2::until("extended CONNECT is announced", || {
        client.requests.is_extended_connect_protocol_enabled()
    })
    .await;
}

async fn open(client: &Client, path: &str) -> Tunnel {
    extended(client).await;
    let (response, up) = client.ask(udp_request(path)).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["capsule-protocol"], "?1");
    Tunnel {
        up,
        down: response.into_body(),
    }
}

/// The status, `Proxy-Status` and word of a refusal.
async fn refusal(client: &Client, request: Request<()>) -> (u16, String, String) {
    extended(client).await;
    let (response, _up) = client.ask(request).await.unwrap();
    let status = response.status().as_u16();
    let proxy_status = response.headers()["proxy-status"]
        .to_str()
        .unwrap()
        .to_owned();
    let mut body = response.into_body();
    let mut word = Vec::new();
    while let Some(Ok(bytes)) = body.data().await {
        word.extend_from_slice(&bytes);
    }
    (
        status,
        proxy_status,
        String::from_utf8(word).unwrap().trim().to_owned(),
    )
}

fn capsule(payload: &[u8]) -> Vec<u8> {
    let (header, length) = datagram_header(payload.len());
    [&header[..length], payload].concat()
}

/// The next `count` datagrams that come out of a tunnel.
async fn datagrams(tunnel: &mut Tunnel, reader: &mut CapsuleReader, count: usize) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    while found.len() < count {
        let bytes = tunnel.next().await.expect("the tunnel ended").unwrap();
        let mut rest = &bytes[..];
        while let Some(event) = reader.next(&mut rest).unwrap() {
            let Event::Datagram(payload) = event else {
                panic!("the gateway sends nothing else");
            };
            found.push(payload.to_vec());
        }
    }
    found
}

#[test]
fn datagrams_keep_their_ends_both_ways() {
    let echo = Echo::start("127.0.0.1:0");
    let world = start("", &rules(echo.0, "udp = true"));
    run(async {
        let client = world.http2().await;
        let mut tunnel = open(&client, &path("dns.test", 53)).await;
        let mut reader = CapsuleReader::default();
        for size in [1, 0, 62, 63, 1200, 9000, 16_000] {
            let sent = vec![size as u8; size];
            tunnel.send(capsule(&sent)).await.unwrap();
            assert_eq!(datagrams(&mut tunnel, &mut reader, 1).await, [sent]);
        }
        // Several in one frame, and one in many.
        let both = [capsule(b"one"), vec![0x17, 2, 9, 9], capsule(b"two")].concat();
        tunnel.send(both).await.unwrap();
        assert_eq!(
            datagrams(&mut tunnel, &mut reader, 2).await,
            [b"one", b"two"]
        );
        for byte in capsule(b"in pieces") {
            tunnel.send(vec![byte]).await.unwrap();
        }
        assert_eq!(datagrams(&mut tunnel, &mut reader, 1).await, [b"in pieces"]);
        // An unknown context, and more than is passed on.
        tunnel.send(vec![0, 2, 4, 9]).await.unwrap();
        let long = [&[0, 0x80, 0, 0x9c, 0x40, 0][..], &vec![0; 39_999]].concat();
        tunnel.send(long).await.unwrap();
        tunnel.send(capsule(b"after")).await.unwrap();
        assert_eq!(datagrams(&mut tunnel, &mut reader, 1).await, [b"after"]);
        tunnel.end();
        assert!(tunnel.next().await.is_none());
        http2::until("the tunnel ends with its stream", || {
            world.gateway.ended("closed") == 1.0
        })
        .await;
    });
    assert_eq!(world.gateway.metric("adit_udp_tunnels_total", ""), 1.0);
    assert_eq!(world.gateway.metric("adit_udp_dropped_total", ""), 2.0);
    until("recorded", || {
        let log = world.pki.audit();
        let port = format!("\"server.port\":{}", echo.0.port());
        log.contains("tunnel-start") && log.contains(&port)
    });
}

#[test]
fn an_ipv6_literal_is_percent_encoded() {
    let echo = Echo::start("[::1]:0");
    let rules = "[[profile.service]]\nname = '<ANY>'\nudp = true\nallow = ['::1']\n\
                 [[profile.rule]]\nhost = '*'\nport = '*'\nservice = '<ANY>'\n";
    let world = start("", rules);
    run(async {
        let client = world.http2().await;
        let mut tunnel = open(&client, &path("%3A%3A1", echo.0.port())).await;
        tunnel.send(capsule(b"six")).await.unwrap();
        let mut reader = CapsuleReader::default();
        assert_eq!(datagrams(&mut tunnel, &mut reader, 1).await, [b"six"]);
        // The guard is that of every tunnel.
        for host in ["127.0.0.1", "169.254.169.254", "%3A%3Affff%3A127.0.0.1"] {
            let (status, _, word) = refusal(&client, udp_request(&path(host, 53))).await;
            assert_eq!((status, &*word), (403, "destination-forbidden"), "{host}");
        }
    });
}

#[test]
fn refusals_are_those_of_a_tunnel() {
    let echo = Echo::start("127.0.0.1:0");
    let world = start("", &rules(echo.0, ""));
    run(async {
        let client = world.http2().await;
        let (status, proxy_status, word) =
            refusal(&client, udp_request(&path("dns.test", 53))).await;
        assert_eq!((status, &*word), (403, "udp-not-allowed"));
        assert!(
            proxy_status.contains("error=http_request_denied"),
            "{proxy_status}"
        );
        let (status, _, word) = refusal(&client, udp_request(&path("dns.example", 53))).await;
        assert_eq!((status, &*word), (403, "no-rule"));
        for wrong in [
            "/",
            "/.well-known/masque/udp/dns.test/53",
            "/.well-known/masque/udp/dns.test/",
            "/.well-known/masque/udp/dns.test/0/",
            "/.well-known/masque/udp/dns.test/65536/",
            "/.well-known/masque/udp/dns.test/+53/",
            "/.well-known/masque/udp//53/",
            "/.well-known/masque/udp/127.1/53/",
            "/.well-known/masque/udp/[::1]/53/",
            "/.well-known/masque/udp/dns.test/53/?x",
            "/.well-known/masque/udp/a%00b/53/",
            "/.well-known/masque/udp/%ff/53/",
            "/.well-known/masque/udp/a/b/53/",
        ] {
            // What the client's library takes for no URL is not sent.
            if wrong.parse::<http::Uri>().is_ok() {
                let (status, _, word) = refusal(&client, udp_request(wrong)).await;
                assert_eq!((status, &*word), (400, "malformed-request"), "{wrong}");
            }
        }
    });
    assert_eq!(world.gateway.metric("adit_udp_tunnels_total", ""), 0.0);
}

#[test]
fn a_broken_capsule_ends_its_tunnel_and_no_other() {
    let echo = Echo::start("127.0.0.1:0");
    let world = start("", &rules(echo.0, "udp = true"));
    run(async {
        let client = world.http2().await;
        let mut other = open(&client, &path("dns.test", 53)).await;
        for broken in [&[0, 0][..], &[0, 1, 0x40], &[0, 0x80, 1, 0, 0]] {
            let mut tunnel = open(&client, &path("dns.test", 53)).await;
            tunnel.send(broken.to_vec()).await.unwrap();
            let reset = tunnel.down.data().await.unwrap().unwrap_err();
            assert_eq!(reset.reason(), Some(h2::Reason::PROTOCOL_ERROR));
        }
        http2::until("counted", || world.gateway.ended("capsule-protocol") == 3.0).await;
        other.send(capsule(b"still")).await.unwrap();
        let mut reader = CapsuleReader::default();
        assert_eq!(datagrams(&mut other, &mut reader, 1).await, [b"still"]);
    });
}

#[test]
fn datagrams_come_from_the_address_that_is_configured() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let address = server.local_addr().unwrap();
    let source = std::thread::spawn(move || server.recv_from(&mut [0; 64]).unwrap().1.ip());
    let more = "udp = true\nbind = ['127.0.0.77']";
    let world = start("", &rules(address, more));
    run(async {
        let client = world.http2().await;
        let mut tunnel = open(&client, &path("dns.test", 53)).await;
        tunnel.send(capsule(b"from where?")).await.unwrap();
        let arrived = || source.is_finished();
        http2::until("the datagram is there", arrived).await;
    });
    assert_eq!(source.join().unwrap().to_string(), "127.0.0.77");
    let more = "udp = true\nbind = ['::1']";
    let world = start("", &rules(address, more));
    run(async {
        let client = world.http2().await;
        let (status, _, word) = refusal(&client, udp_request(&path("dns.test", 53))).await;
        assert_eq!((status, &*word), (502, "server-unreachable"));
    });
}

#[test]
fn idle_and_unreachable_tunnels_end() {
    let nobody = UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let world = start("idle_timeout = '400ms'", &rules(nobody, "udp = true"));
    run(async {
        let client = world.http2().await;
        let _silent = open(&client, &path("dns.test", 53)).await;
        http2::until("idle", || world.gateway.ended("idle-timeout") == 1.0).await;
        let mut tunnel = open(&client, &path("dns.test", 53)).await;
        tunnel.send(capsule(b"anybody?")).await.unwrap();
        // The network says that nobody is there.
        http2::until("unreachable", || world.gateway.ended("server-reset") == 1.0).await;
    });
}

#[test]
fn what_an_app_does_not_read_is_dropped_and_counted() {
    const SENT: usize = 3000;
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let world = start("", &rules(address, "udp = true"));
    run(async {
        let mut builder = Builder::new();
        builder.initial_window_size(16_384);
        let client = client_with(&builder, &world.pki, &world.gateway, &world.device).await;
        let mut tunnel = open(&client, &path("dns.test", 53)).await;
        tunnel.send(capsule(b"go")).await.unwrap();
        let flood = tokio::task::spawn_blocking(move || {
            let mut bytes = [0; 100];
            let (_, peer) = socket.recv_from(&mut bytes).unwrap();
            for number in 0..SENT as u32 {
                let payload = [&number.to_be_bytes()[..], &[7; 996]].concat();
                socket.send_to(&payload, peer).unwrap();
            }
            socket
        });
        let _socket = flood.await.unwrap();
        // Then the app reads: what was kept comes in order, from the first on, and far less than all.
        let (mut reader, mut numbers) = (CapsuleReader::default(), Vec::new());
        while let Ok(bytes) = tokio::time::timeout(Duration::from_millis(500), tunnel.next()).await
        {
            let bytes = bytes.expect("the tunnel ended").unwrap();
            let mut rest = &bytes[..];
            while let Some(Event::Datagram(payload)) = reader.next(&mut rest).unwrap() {
                numbers.push(u32::from_be_bytes(payload[..4].try_into().unwrap()));
            }
        }
        assert!(numbers.is_sorted() && numbers[0] == 0);
        assert!(numbers.len() < SENT / 2, "{} were kept", numbers.len());
        tunnel.end();
        http2::until("the tunnel ends", || {
            world.gateway.metric("adit_tunnels_closed_total", "") == 1.0
        })
        .await;
        let full = || world.gateway.metric("adit_udp_queue_full_total", "");
        http2::until("counted", || full() == (SENT - numbers.len()) as f64).await;
    });
}

#[test]
fn a_reload_that_takes_udp_away_ends_the_tunnels() {
    // A port that is free for both.
    let listener = std::net::TcpListener::bind(free_port()).unwrap();
    let echo = Echo::start(&listener.local_addr().unwrap().to_string());
    let world = start("", &rules(echo.0, "udp = true"));
    run(async {
        let client = world.http2().await;
        let mut stream = client.tunnel("dns.test:53").await;
        let _udp = open(&client, &path("dns.test", 53)).await;
        let text = std::fs::read_to_string(world.pki.path("adit.toml")).unwrap();
        std::fs::write(
            world.pki.path("adit.toml"),
            text.replace("udp = true", "udp = false"),
        )
        .unwrap();
        world.gateway.signal("HUP");
        http2::until("cut", || world.gateway.ended("cut-no-rule") == 1.0).await;
        // The other tunnel to the service is none of its business.
        assert!(stream.send(&b"x"[..]).await.is_ok());
        drop(listener);
    });
}
