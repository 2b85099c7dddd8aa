//! Many tunnels in one HTTP/2 session.

mod common;
#[path = "common/http2.rs"]
mod http2;

use std::io::{Read, Write};
use std::net::Shutdown;

use bytes::Bytes;
use common::{Gateway, Pki, echo, server, service, until};
use http2::{client, connect_request, run};

const MANAGED: &str = "device_registry = 'devices.csv'\nunmanaged = 'block'";

/// A gateway in front of `serve`, and a device that may use it.
fn gateway(
    engine: &str,
    serve: impl Fn(std::net::TcpStream) + Send + Sync + 'static,
) -> (Pki, adit::certs::Issued, Gateway) {
    let pki = Pki::new();
    let device = pki.client("phone", |_| ());
    std::fs::write(pki.path("devices.csv"), "device,state\nphone,managed\n").unwrap();
    let gateway = Gateway::start(&pki, engine, MANAGED, &service(&[server(serve)]));
    (pki, device, gateway)
}

/// Bytes that tell tunnels and places apart.
fn pattern(seed: usize, length: usize) -> Bytes {
    (0..length)
        .map(|at| ((at * 31 + at / 251 + seed * 7) % 256) as u8)
        .collect::<Vec<u8>>()
        .into()
}

#[test]
fn a_tunnel_carries_bytes_both_ways_and_ends_in_order() {
    let (pki, device, gateway) = gateway("", echo);
    run(async {
        let client = client(&pki, &gateway, &device).await;
        let mut tunnel = client.tunnel("wiki.test:443").await;
        tunnel.send(&b"hello"[..]).await.unwrap();
        assert_eq!(tunnel.read(5).await, b"hello");
        tunnel.end();
        assert!(tunnel.next().await.is_none());
        // Without a port: 443.
        let mut tunnel = client.tunnel("wiki.test").await;
        tunnel.send(&b"again"[..]).await.unwrap();
        assert_eq!(tunnel.read(5).await, b"again");
        drop(tunnel);
        http2::until("both tunnels have ended", || {
            gateway.ended("closed") == 1.0 && gateway.ended("client-reset") == 1.0
        })
        .await;
    });
    until("the session has ended", || {
        let log = std::fs::read_to_string(pki.path("audit.log")).unwrap();
        log.contains("\"event\":\"session-end\"") && log.contains("\"requests\":2")
    });
    assert_eq!(gateway.metric("adit_http2_sessions_total", ""), 1.0);
}

#[test]
fn every_byte_of_concurrent_tunnels_arrives_in_its_own() {
    let (pki, device, gateway) = gateway("", echo);
    run(async {
        let client = client(&pki, &gateway, &device).await;
        let mut tasks = Vec::new();
        for number in 0..64 {
            let tunnel = client.tunnel(&format!("t{number}.test:443")).await;
            tasks.push(tokio::spawn(async move {
                let http2::Tunnel { mut up, mut down } = tunnel;
                let bytes = pattern(number, 100_000 + number * 997);
                let expected = bytes.clone();
                let sending = async move {
                    http2::send(&mut up, bytes).await.unwrap();
                    up.send_data(Bytes::new(), true).unwrap();
                };
                let receiving = async move {
                    let mut seen = Vec::new();
                    while let Some(bytes) = http2::next(&mut down).await {
                        seen.extend_from_slice(&bytes.unwrap());
                    }
                    assert!(seen == expected, "tunnel {number}");
                };
                tokio::join!(sending, receiving);
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
    });
    until("all have ended", || gateway.ended("closed") == 64.0);
    let expected: usize = (0..64).map(|number| 100_000 + number * 997).sum();
    let carried = gateway.metric("adit_bytes_total", "");
    assert_eq!(carried, 2.0 * expected as f64);
}

#[test]
fn an_app_that_has_ended_its_direction_still_gets_the_answer() {
    let (pki, device, gateway) = gateway("", |mut stream| {
        let mut question = Vec::new();
        stream.read_to_end(&mut question).unwrap();
        stream.write_all(&question).unwrap();
        let _ = stream.shutdown(Shutdown::Write);
    });
    run(async {
        let client = client(&pki, &gateway, &device).await;
        let mut tunnel = client.tunnel("wiki.test:443").await;
        let question = pattern(1, 300_000);
        tunnel.send(question.clone()).await.unwrap();
        tunnel.end();
        assert!(tunnel.read(question.len()).await == question);
        assert!(tunnel.next().await.is_none());
    });
    until("it has ended", || gateway.ended("closed") == 1.0);
}

#[test]
fn a_refusal_says_why_and_the_session_goes_on() {
    let (pki, device, gateway) = gateway("", echo);
    run(async {
        let client = client(&pki, &gateway, &device).await;
        let get = http::Request::get("https://wiki.test/").body(()).unwrap();
        let mut with_body = connect_request("wiki.test:443");
        with_body
            .headers_mut()
            .insert("content-length", http::HeaderValue::from_static("3"));
        let mut extended = http::Request::connect("https://wiki.test/x")
            .body(())
            .unwrap();
        extended
            .extensions_mut()
            .insert(h2::ext::Protocol::from_static("websocket"));
        for (request, status, word) in [
            (connect_request("wiki.elsewhere:443"), 403, "no-rule"),
            (get, 405, "not-connect"),
            (with_body, 400, "malformed-request"),
            (extended, 501, "protocol-unsupported"),
        ] {
            let (response, _up) = client.ask(request).await.unwrap();
            assert_eq!(response.status(), status, "{word}");
            let proxy_status = response.headers()["proxy-status"].to_str().unwrap();
            assert!(
                proxy_status.starts_with("adit; error=http_request_"),
                "{proxy_status}"
            );
            let mut content = response.into_body();
            let text = http2::next(&mut content).await.unwrap().unwrap();
            assert_eq!(text, format!("{word}\n"));
            assert_eq!(gateway.ended(word), 1.0);
        }
        let mut tunnel = client.tunnel("wiki.test:443").await;
        tunnel.send(&b"x"[..]).await.unwrap();
        assert_eq!(tunnel.read(1).await, b"x");
    });
}
