//! CRLs change while the gateway runs: what is revoked is refused soon, and a bad list changes nothing.

#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use adit::certs::Issued;
use common::{Gateway, Pki, ask, connect, crl_of, echo, request, server, service, until};
use time::OffsetDateTime;

const HOST: &str = "a.test:1";

fn is_let_in(pki: &Pki, gateway: &Gateway, device: &Issued) -> bool {
    let answer = ask(&mut connect(pki, gateway, Some(device)), &request(HOST));
    answer.is_ok_and(|head| head.starts_with("HTTP/1.1 200 "))
}

fn list(pki: &Pki, revoked: &[&Issued], age: u64) -> Vec<u8> {
    let made = OffsetDateTime::now_utc() - Duration::from_secs(age);
    crl_of(&pki.ca, revoked, made, made + Duration::from_secs(36_000))
}

#[test]
fn a_changed_file_bites_without_a_reload_and_a_worse_one_does_not() {
    let pki = Pki::new();
    let (kept, lost) = (pki.client("kept", |_| ()), pki.client("lost", |_| ()));
    std::fs::write(pki.path("ca.crl"), list(&pki, &[], 300)).unwrap();
    let gateway = Gateway::start(&pki, "", "unmanaged = 'allow'", &service(&[server(echo)]));
    assert!(is_let_in(&pki, &gateway, &lost));
    std::fs::write(pki.path("ca.crl"), list(&pki, &[&lost], 200)).unwrap();
    until("revoked", || !is_let_in(&pki, &gateway, &lost));
    assert!(is_let_in(&pki, &gateway, &kept));
    assert_eq!(gateway.metric("adit_crl_entries", ""), 1.0);
    assert_eq!(gateway.metric("adit_config_generation", ""), 1.0);

    let good = list(&pki, &[&lost], 100);
    for (what, bytes) in [
        ("older", list(&pki, &[], 300)),
        ("truncated", good[..good.len() - 9].to_vec()),
        ("empty", Vec::new()),
    ] {
        std::fs::write(pki.path("ca.crl"), bytes).unwrap();
        until(what, || {
            gateway.get("/readyz").1.contains(what) || {
                what == "empty" && gateway.get("/readyz").1.contains("holds no CRL")
            }
        });
        assert!(!is_let_in(&pki, &gateway, &lost), "{what}");
        assert!(is_let_in(&pki, &gateway, &kept), "{what}");
        // Nor does a reload bring it into use.
        gateway.signal("HUP");
        std::thread::sleep(Duration::from_millis(300));
        assert!(!is_let_in(&pki, &gateway, &lost), "{what}");
    }
    assert_eq!(gateway.metric("adit_config_reload_failures_total", ""), 0.0);

    std::fs::write(pki.path("ca.crl"), list(&pki, &[], 0)).unwrap();
    until("taken back", || is_let_in(&pki, &gateway, &lost));
    until("no problem", || !gateway.get("/readyz").1.contains("older"));
}

/// A server that gives what `content` holds, and counts.
fn serve(content: Arc<Mutex<(Vec<u8>, usize)>>) -> std::net::SocketAddr {
    server(move |mut stream: TcpStream| {
        let mut header = Vec::new();
        let mut byte = [0];
        while !header.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
            header.push(byte[0]);
        }
        let mut content = content.lock().unwrap();
        content.1 += 1;
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n",
            content.0.len()
        );
        let _ = stream.write_all(head.as_bytes());
        let _ = stream.write_all(&content.0);
    })
}

#[test]
fn a_fetched_list_is_used_and_kept_for_a_start_without_its_server() {
    let pki = Pki::new();
    let (kept, lost) = (pki.client("kept", |_| ()), pki.client("lost", |_| ()));
    let content = Arc::new(Mutex::new((list(&pki, &[&lost], 0), 0)));
    let lists = serve(content.clone());
    let start = |allow: &str| {
        let rest = format!(
            "urls = ['http://{lists}/ca.crl']\n{allow}\n{}",
            service(&[server(echo)])
        );
        std::fs::write(pki.path("ca.crl"), list(&pki, &[], 300)).unwrap();
        Gateway::start(&pki, "", "unmanaged = 'allow'", &rest)
    };

    // Loopback is not asked unless it is listed.
    let gateway = start("");
    until("told", || gateway.get("/readyz").1.contains("crl.allow"));
    assert!(is_let_in(&pki, &gateway, &lost));
    assert_eq!(content.lock().unwrap().1, 0);
    drop(gateway);

    let gateway = start("allow = ['127.0.0.1/32']");
    until("fetched", || !is_let_in(&pki, &gateway, &lost));
    assert!(is_let_in(&pki, &gateway, &kept));
    let page = gateway.get("/readyz").1;
    assert!(
        page.contains("\"state\":\"current\"") && page.contains("/ca.crl"),
        "{page}"
    );
    drop(gateway);

    // The server's answers are of no use any more; what was kept counts from the first handshake on.
    content.lock().unwrap().0 = b"nothing".to_vec();
    let gateway = start("allow = ['127.0.0.1/32']");
    assert!(!is_let_in(&pki, &gateway, &lost));
    until("told", || gateway.get("/readyz").1.contains("holds no CRL"));
    assert!(!is_let_in(&pki, &gateway, &lost) && is_let_in(&pki, &gateway, &kept));
}
