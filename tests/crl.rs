//! CRLs change while the gateway runs: what is revoked is refused soon, and a bad list changes nothing.

use crate::common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use adit::certs::{self, Issued};
use common::{Gateway, Pki, crl_of, echo, is_let_in, server, service, until};
use rustls::crypto::aws_lc_rs;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use time::OffsetDateTime;

fn list(pki: &Pki, revoked: &[&Issued], age: u64) -> Vec<u8> {
    let made = OffsetDateTime::now_utc() - Duration::from_secs(age);
    crl_of(&pki.ca, revoked, made, made + Duration::from_secs(36_000))
}

#[test]
fn a_changed_file_bites_without_a_reload_and_a_worse_one_does_not() {
    let pki = Pki::new();
    let (kept, lost) = (pki.client("kept", |_| ()), pki.client("lost", |_| ()));
    std::fs::write(pki.path("ca.crl"), list(&pki, &[], 300)).unwrap();
    let gateway = Gateway::builder(&pki).servers(&[server(echo)]).start();
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
fn serve(content: Arc<Mutex<(Vec<u8>, usize)>>) -> SocketAddr {
    server(move |stream: TcpStream| give(stream, &content))
}

fn give(mut stream: impl Read + Write, content: &Mutex<(Vec<u8>, usize)>) {
    let mut header = Vec::new();
    let mut byte = [0];
    while !header.ends_with(b"\r\n\r\n") {
        if stream.read_exact(&mut byte).is_err() {
            return;
        }
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
}

/// The same over TLS, as `localhost`.
fn serve_tls(pki: &Pki, content: Arc<Mutex<(Vec<u8>, usize)>>) -> SocketAddr {
    let chain = certs::read_certificates(&pki.path("server.pem")).unwrap();
    let key = certs::read_private_key(&pki.path("server.key")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let config = Arc::new(config);
    server(move |stream: TcpStream| {
        let session = ServerConnection::new(config.clone()).unwrap();
        let mut tls = StreamOwned::new(session, stream);
        give(&mut tls, &content);
        tls.conn.send_close_notify();
        let _ = tls.flush();
    })
}

/// A gateway that trusts the authority of `pki` for https, if it is to.
fn fetching(pki: &Pki, crl: &str, trusting: bool) -> Gateway {
    let node = Gateway::builder(pki).rest(crl).servers(&[server(echo)]);
    let admin = node.write();
    std::fs::write(pki.path("ca.crl"), list(pki, &[], 300)).unwrap();
    let roots = if trusting { "ca.pem" } else { "none.pem" };
    let mut command = node.command();
    command
        .env("SSL_CERT_FILE", pki.path(roots))
        .env_remove("SSL_CERT_DIR");
    Gateway::spawn(command, admin)
}

#[test]
fn https_is_fetched_from_whom_the_system_trusts_only() {
    let pki = Pki::new();
    let lost = pki.client("lost", |_| ());
    let content = Arc::new(Mutex::new((list(&pki, &[&lost], 0), 0)));
    let port = serve_tls(&pki, content.clone()).port();
    let other = common::authority("other");
    std::fs::create_dir(pki.path("other")).unwrap();
    other.write(&pki.path("other")).unwrap();
    std::fs::copy(pki.path("other/ca.pem"), pki.path("none.pem")).unwrap();
    let crl =
        format!("urls = ['https://localhost:{port}/ca.crl']\nallow = ['127.0.0.0/8', '::1/128']");

    let gateway = fetching(&pki, &crl, false);
    until("told", || {
        gateway
            .get("/readyz")
            .1
            .contains("no trusted authority has issued it")
    });
    assert!(is_let_in(&pki, &gateway, &lost));
    assert_eq!(content.lock().unwrap().1, 0);
    drop(gateway);

    let gateway = fetching(&pki, &crl, true);
    until("fetched", || !is_let_in(&pki, &gateway, &lost));
}

#[test]
fn the_places_that_certificates_name_are_asked_if_their_hosts_are_allowed() {
    let pki = Pki::new();
    let content = Arc::new(Mutex::new((Vec::new(), 0)));
    let lists = serve(content.clone());
    let lost = pki.client("lost", |request| {
        request.crl_urls = vec![format!("http://{lists}/ca.crl")];
    });
    content.lock().unwrap().0 = list(&pki, &[&lost], 0);

    let open = "urls = ['cdp']\nallow = ['127.0.0.1/32']\nallowed_hosts = ['127.0.0.1']";
    let elsewhere = "urls = ['cdp']\nallow = ['127.0.0.1/32']\nallowed_hosts = ['crl.example.com']";
    let gateway = fetching(&pki, elsewhere, true);
    assert!(is_let_in(&pki, &gateway, &lost));
    std::thread::sleep(Duration::from_millis(2500));
    assert!(
        is_let_in(&pki, &gateway, &lost),
        "its list was not asked for"
    );
    assert_eq!(content.lock().unwrap().1, 0);
    drop(gateway);

    let gateway = fetching(&pki, open, true);
    until("fetched", || !is_let_in(&pki, &gateway, &lost));
    assert!(gateway.get("/readyz").1.contains("/ca.crl"));
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
        Gateway::builder(&pki).rest(&rest).start()
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
    // It counts before it is kept.
    until("kept", || {
        std::fs::read_dir(pki.path("state/crls")).is_ok_and(|files| {
            files
                .flatten()
                .any(|file| file.path().extension().is_some_and(|kind| kind == "crl"))
        })
    });
    drop(gateway);

    // The server's answers are of no use any more; what was kept counts from the first handshake on.
    content.lock().unwrap().0 = b"nothing".to_vec();
    let gateway = start("allow = ['127.0.0.1/32']");
    assert!(!is_let_in(&pki, &gateway, &lost));
    until("told", || gateway.get("/readyz").1.contains("holds no CRL"));
    assert!(!is_let_in(&pki, &gateway, &lost) && is_let_in(&pki, &gateway, &kept));
}
