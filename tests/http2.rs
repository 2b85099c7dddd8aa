//! Many tunnels in one HTTP/2 session.

#![allow(
    clippy::unwrap_used,
    clippy::mem_forget,
    reason = "a test fails by panic, and may forget what must not be reset"
)]

use crate::common;
use crate::common::http2;

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{Pki, World, echo, server, until};
use http2::{client_with, connect_request, run};

const MANAGED: &str = "device_registry = 'devices.csv'\nunmanaged = 'block'";

/// A gateway in front of `serve`, and a device that may use it.
fn world(engine: &str, serve: impl Fn(std::net::TcpStream) + Send + Sync + 'static) -> World {
    let pki = Pki::new();
    std::fs::write(pki.path("devices.csv"), "device,state\ndevice,managed\n").unwrap();
    let to = server(serve);
    World::of(pki, |node| node.engine(engine).auth(MANAGED).servers(&[to]))
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
    let world = world("", echo);
    run(async {
        let client = world.http2().await;
        let mut tunnel = client.tunnel("wiki.test:443").await;
        tunnel.send(&b"hello"[..]).await.unwrap();
        assert_eq!(tunnel.read(5).await, b"hello");
        tunnel.end();
        assert!(tunnel.next().await.is_none());
        // Without a port: 443.
        let mut tunnel = client.tunnel("wiki.test:443").await;
        tunnel.send(&b"again"[..]).await.unwrap();
        assert_eq!(tunnel.read(5).await, b"again");
        drop(tunnel);
        http2::until("both tunnels have ended", || {
            world.gateway.ended("closed") == 1.0 && world.gateway.ended("client-reset") == 1.0
        })
        .await;
    });
    until("the session has ended", || {
        let log = std::fs::read_to_string(world.pki.path("audit.log")).unwrap();
        log.contains("\"event.action\":\"session-end\"") && log.contains("\"adit.requests\":2")
    });
    assert_eq!(world.gateway.metric("adit_http2_sessions_total", ""), 1.0);
}

#[test]
fn every_byte_of_concurrent_tunnels_arrives_in_its_own() {
    let world = world("", echo);
    run(async {
        let client = world.http2().await;
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
    until("all have ended", || world.gateway.ended("closed") == 64.0);
    let expected: usize = (0..64).map(|number| 100_000 + number * 997).sum();
    let carried = world.gateway.metric("adit_bytes_total", "");
    assert_eq!(carried, 2.0 * expected as f64);
}

#[test]
fn an_app_that_has_ended_its_direction_still_gets_the_answer() {
    let world = world("", |mut stream| {
        let mut question = Vec::new();
        stream.read_to_end(&mut question).unwrap();
        stream.write_all(&question).unwrap();
        let _ = stream.shutdown(Shutdown::Write);
    });
    run(async {
        let client = world.http2().await;
        let mut tunnel = client.tunnel("wiki.test:443").await;
        let question = pattern(1, 300_000);
        tunnel.send(question.clone()).await.unwrap();
        tunnel.end();
        assert!(tunnel.read(question.len()).await == question);
        assert!(tunnel.next().await.is_none());
    });
    until("it has ended", || world.gateway.ended("closed") == 1.0);
}

/// What is wrong with one request is that request's end.
#[test]
fn the_corners_of_a_request_end_their_stream_alone() {
    let world = world("", echo);
    run(async {
        let client = world.http2().await;
        let mut open = client.tunnel("wiki.test:443").await;
        let with = |name: &'static str, value: &str| {
            let mut request = connect_request("wiki.test:443");
            let value = http::HeaderValue::from_str(value).unwrap();
            request.headers_mut().insert(name, value);
            request
        };
        let mut crowded = connect_request("wiki.test:443");
        for _ in 0..65 {
            let value = http::HeaderValue::from_static("");
            crowded.headers_mut().append("x", value);
        }
        for (request, status, word) in [
            // RFC 9110, section 9.3.6: host and port.
            (connect_request("wiki.test"), 400, "malformed-request"),
            (connect_request("[2001:db8::1]"), 400, "malformed-request"),
            // RFC 9113, section 8.2.1: no value begins or ends with a blank.
            (with("x", " a"), 400, "malformed-request"),
            (with("x", "a "), 400, "malformed-request"),
            (with("x", "\ta"), 400, "malformed-request"),
            (with("x", "a\t"), 400, "malformed-request"),
            // RFC 6585, section 5.
            (crowded, 431, "header-too-large"),
            (with("x", &"a".repeat(24_000)), 431, "header-too-large"),
            (with("x", &"a".repeat(60_000)), 431, "header-too-large"),
        ] {
            let before = world.gateway.ended(word);
            let (response, _up) = client.ask(request).await.unwrap();
            assert_eq!(response.status(), status, "{word}");
            assert_eq!(world.gateway.ended(word), before + 1.0);
            open.send("still here").await.unwrap();
            assert_eq!(open.read(10).await, b"still here");
        }
        assert_eq!(world.gateway.metric("adit_http2_abuse_total", ""), 0.0);
    });
}

#[test]
fn a_refusal_says_why_and_the_session_goes_on() {
    let world = world("", echo);
    run(async {
        let client = world.http2().await;
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
            assert_eq!(world.gateway.ended(word), 1.0);
        }
        let mut tunnel = client.tunnel("wiki.test:443").await;
        tunnel.send(&b"x"[..]).await.unwrap();
        assert_eq!(tunnel.read(1).await, b"x");
    });
}

#[test]
fn a_tunnel_that_nobody_reads_holds_up_no_other() {
    // By its first byte a server knows what it is: one that never reads, one that never stops to write, or an echo.
    let world = world("", |mut stream| {
        let mut role = [0];
        stream.read_exact(&mut role).unwrap();
        match &role {
            b"d" => std::thread::sleep(Duration::from_secs(60)),
            b"w" => while stream.write_all(&[7; 8192]).is_ok() {},
            _ => echo(stream),
        }
    });
    run(async {
        let mut builder = h2::client::Builder::new();
        // Windows of the client's own, so that the writer fills only its own.
        builder
            .initial_window_size(1 << 18)
            .initial_connection_window_size(8 << 20);
        let client = client_with(&builder, &world.pki, &world.gateway, &world.device).await;
        let mut deaf = client.tunnel("deaf.test:1").await;
        deaf.send(&b"d"[..]).await.unwrap();
        let mut sent = 0;
        let piece = Bytes::from(vec![1; 16384]);
        // Until its server's socket, and then its window, are full.
        while tokio::time::timeout(Duration::from_millis(500), deaf.send(piece.clone()))
            .await
            .is_ok()
        {
            sent += piece.len();
        }
        assert!(sent > 65535, "{sent}");
        let mut writer = client.tunnel("writer.test:1").await;
        writer.send(&b"w"[..]).await.unwrap();
        let mut echo = client.tunnel("echo.test:1").await;
        echo.send(&b"e"[..]).await.unwrap();
        for round in 0..40 {
            let bytes = pattern(round, 100_000);
            let http2::Tunnel { up, down } = &mut echo;
            let back = async {
                let mut seen = Vec::new();
                while seen.len() < bytes.len() {
                    seen.extend_from_slice(&http2::next(down).await.unwrap().unwrap());
                }
                seen
            };
            let (sent, back) = tokio::join!(http2::send(up, bytes.clone()), back);
            sent.unwrap();
            assert!(back == bytes, "{round}");
        }
        assert_eq!(world.gateway.metric("adit_tunnels_live", ""), 3.0);
    });
}

#[test]
fn resets_pass_in_both_directions() {
    let (told, heard) = std::sync::mpsc::channel();
    let told = std::sync::Mutex::new(told);
    let world = world("", move |mut stream| {
        let mut role = [0];
        if stream.read_exact(&mut role).is_err() || stream.write_all(b"k").is_err() {
            return;
        }
        if &role == b"r" {
            let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            return;
        }
        let mut rest = Vec::new();
        let end = stream.read_to_end(&mut rest).map_err(|error| error.kind());
        if &role == b"h" {
            // The client has ended its direction, and gives up while it is to get an answer.
            assert_eq!(end, Ok(0));
            let end = loop {
                if let Err(error) = stream.write_all(&[0; 1000]) {
                    break Err(error.kind());
                }
                std::thread::sleep(Duration::from_millis(20));
            };
            told.lock().unwrap().send((role[0], end)).unwrap();
        } else {
            told.lock()
                .unwrap()
                .send((role[0], end.map(|_| ())))
                .unwrap();
        }
    });
    run(async {
        let client = world.http2().await;
        let mut reset = client.tunnel("a.test:1").await;
        reset.send(&b"r"[..]).await.unwrap();
        assert_eq!(reset.read(1).await, b"k");
        let error = reset.next().await.unwrap().unwrap_err();
        assert_eq!(error.reason(), Some(h2::Reason::CONNECT_ERROR));
        http2::until("counted", || world.gateway.ended("server-reset") == 1.0).await;

        let mut left = client.tunnel("b.test:1").await;
        left.send(&b"l"[..]).await.unwrap();
        assert_eq!(left.read(1).await, b"k");
        left.up.send_reset(h2::Reason::CANCEL);
        http2::until("the server has heard", || {
            heard.try_recv() == Ok((b'l', Err(ErrorKind::ConnectionReset)))
        })
        .await;

        let mut half = client.tunnel("c.test:1").await;
        half.send(&b"h"[..]).await.unwrap();
        half.end();
        assert!(half.next().await.unwrap().is_ok());
        half.up.send_reset(h2::Reason::CANCEL);
        http2::until("the server has heard", || {
            matches!(heard.try_recv(), Ok((b'h', Err(_))))
        })
        .await;
        http2::until("counted", || world.gateway.ended("client-reset") == 2.0).await;
        // The session has not suffered.
        let mut next = client.tunnel("d.test:1").await;
        next.send(&b"l"[..]).await.unwrap();
    });
}

#[test]
fn a_client_that_is_gone_takes_all_its_tunnels_with_it() {
    let world = world("", echo);
    run(async {
        let client = world.http2().await;
        for number in 0..5 {
            let mut tunnel = client.tunnel(&format!("t{number}.test:1")).await;
            tunnel.send(&b"x"[..]).await.unwrap();
            assert_eq!(tunnel.read(1).await, b"x");
            // Forgotten, not dropped: that would reset it.
            std::mem::forget(tunnel);
        }
        client.driver.abort();
        http2::until("all have ended", || {
            let ended =
                world.gateway.ended("client-truncated") + world.gateway.ended("client-reset");
            ended == 5.0 && world.gateway.metric("adit_sessions_live", "") == 0.0
        })
        .await;
    });
}

#[test]
fn a_drain_says_so_at_once_and_lets_tunnels_finish() {
    let mut world = world("drain_timeout = '20s'", echo);
    run(async {
        let client = world.http2().await;
        let mut tunnel = client.tunnel("a.test:1").await;
        tunnel.send(&b"before"[..]).await.unwrap();
        assert_eq!(tunnel.read(6).await, b"before");
        world.gateway.signal("TERM");
        // A request after GOAWAY never leaves the client.
        let refused = |answer: Result<_, h2::Error>| match answer {
            Ok((response, _)) => http::Response::status(&response) == 503,
            Err(error) => error.is_go_away() || error.is_remote(),
        };
        let mut asked = 0;
        while !refused(client.ask(connect_request("b.test:1")).await) {
            asked += 1;
            assert!(asked < 500, "no GOAWAY");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tunnel.send(&b"behind"[..]).await.unwrap();
        assert_eq!(tunnel.read(6).await, b"behind");
        tunnel.end();
        assert!(tunnel.next().await.is_none());
        drop(tunnel);
        http2::until("the process has ended", || {
            world.gateway.child.try_wait().unwrap().is_some()
        })
        .await;
    });
    assert!(world.gateway.child.wait().unwrap().success());
}

#[test]
fn a_device_that_is_blocked_loses_its_tunnels_and_gets_no_more() {
    let world = world("", echo);
    run(async {
        let client = world.http2().await;
        let mut tunnels = Vec::new();
        for number in 0..10 {
            let mut tunnel = client.tunnel(&format!("t{number}.test:1")).await;
            tunnel.send(&b"x"[..]).await.unwrap();
            assert_eq!(tunnel.read(1).await, b"x");
            tunnels.push(tunnel);
        }
        let blocked = "device,state\ndevice,blocked\n";
        std::fs::write(world.pki.path("devices.csv"), blocked).unwrap();
        world.gateway.signal("HUP");
        for tunnel in &mut tunnels {
            let error = tunnel.next().await.unwrap().unwrap_err();
            assert_eq!(error.reason(), Some(h2::Reason::CANCEL));
        }
        http2::until("counted", || {
            world.gateway.ended("cut-device-blocked") == 10.0
        })
        .await;
        let (response, _) = client.ask(connect_request("a.test:1")).await.unwrap();
        assert_eq!(response.status(), 403);
        assert_eq!(world.gateway.ended("device-blocked"), 1.0);
    });
}

#[test]
fn a_revoked_certificate_ends_the_tunnels_and_the_session() {
    let world = world("", echo);
    run(async {
        let client = world.http2().await;
        let mut tunnel = client.tunnel("a.test:1").await;
        tunnel.send(&b"x"[..]).await.unwrap();
        assert_eq!(tunnel.read(1).await, b"x");
        world.pki.write_crl(&[&world.device]);
        let error = tunnel.next().await.unwrap().unwrap_err();
        assert_eq!(error.reason(), Some(h2::Reason::CANCEL));
        http2::until("counted", || {
            world.gateway.ended("cut-certificate-revoked") == 1.0
        })
        .await;
        // The session is still there; what it asks for is not answered, and ends it.
        let error = client.ask(connect_request("b.test:1")).await.err().unwrap();
        assert!(error.is_remote() || error.is_io(), "{error}");
        http2::until("the session has ended", || {
            world.gateway.metric("adit_sessions_live", "") == 0.0
        })
        .await;
    });
}

#[test]
fn what_is_idle_is_closed() {
    let world = world("idle_timeout = '2s'", echo);
    run(async {
        let client = world.http2().await;
        // Before the first tunnel is open: its two seconds begin there.
        let start = Instant::now();
        let mut idle = client.tunnel("idle.test:1").await;
        let mut busy = client.tunnel("busy.test:1").await;
        let error = loop {
            busy.send(&b"x"[..]).await.unwrap();
            assert_eq!(busy.read(1).await, b"x");
            let pause = Duration::from_millis(50);
            if let Ok(ended) = tokio::time::timeout(pause, idle.next()).await {
                break ended.unwrap().unwrap_err();
            }
        };
        assert_eq!(error.reason(), Some(h2::Reason::CANCEL));
        assert_eq!(world.gateway.ended("idle-timeout"), 1.0);
        busy.end();
        assert!(busy.next().await.is_none());
        // Without a tunnel: GOAWAY without an error, and the end.
        client.driver.await.unwrap().unwrap();
        assert!(start.elapsed() > Duration::from_secs(4));
    });
    until("recorded", || {
        let log = std::fs::read_to_string(world.pki.path("audit.log")).unwrap();
        log.lines().any(|line| {
            line.contains("\"event.action\":\"session-end\"")
                && line.contains("\"event.reason\":\"idle-timeout\"")
        })
    });
}

#[test]
fn a_session_without_a_request_is_an_outcome_of_its_own() {
    let world = world("", echo);
    run(async {
        let client = world.http2().await;
        drop(client.requests);
        client.driver.await.unwrap().unwrap();
        // A reset where it has left before it has read all.
        http2::until("counted", || {
            world.gateway.ended("closed") + world.gateway.ended("client-reset") == 1.0
        })
        .await;
    });
}

#[test]
fn tunnels_of_a_session_count_against_the_limits() {
    let world = world("max_tunnels_per_device = 2", echo);
    run(async {
        let client = world.http2().await;
        let (one, _two) = (
            client.tunnel("a.test:1").await,
            client.tunnel("b.test:1").await,
        );
        let (response, _) = client.ask(connect_request("c.test:1")).await.unwrap();
        assert_eq!(response.status(), 503);
        assert!(
            response.headers()["proxy-status"]
                .to_str()
                .unwrap()
                .contains("connection_limit_reached")
        );
        drop(one);
        http2::until("it has ended", || {
            world.gateway.metric("adit_tunnels_live", "") == 1.0
        })
        .await;
        client.tunnel("d.test:1").await;
    });
}

#[test]
fn no_more_tunnels_are_open_at_once_than_the_session_may_have() {
    let world = world("max_tunnels_per_device = 10000", echo);
    run(async {
        let client = world.http2().await;
        let mut tunnels = Vec::new();
        for number in 0..256 {
            tunnels.push(client.tunnel(&format!("t{number}.test:1")).await);
        }
        // The next one waits in the client, as SETTINGS_MAX_CONCURRENT_STREAMS tells it.
        let next = client.tunnel("next.test:1");
        tokio::pin!(next);
        let waiting = tokio::time::timeout(Duration::from_millis(300), &mut next).await;
        assert!(waiting.is_err());
        tunnels.pop();
        let mut next = next.await;
        next.send(&b"x"[..]).await.unwrap();
        assert_eq!(next.read(1).await, b"x");
    });
}
