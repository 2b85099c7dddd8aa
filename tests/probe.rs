//! `adit check --probe` meets the servers of a config, and says which of them a tunnel could use and why not.

use crate::common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::Arc;

use adit::certs::make::Usage;
use adit::certs::{IssueRequest, Issued, Validity};
use adit::lab::{self, CertificateAuthority};
use adit::proxy_protocol::{self, Parsed};
use common::{Gateway, Pki, Program, authority, echo, free_port, server, until};
use rustls::crypto::aws_lc_rs;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;

fn issued(ca: &CertificateAuthority, days: u32) -> Issued {
    let mut request = IssueRequest::new(Usage::Server, "inner", Validity::days(days).unwrap());
    request.dns = vec!["localhost".into()];
    lab::issue(ca, &request).unwrap()
}

/// TLS of a server in both versions; with `clients` it wants a certificate of theirs.
fn tls(identity: &Issued, clients: Option<&CertificateAuthority>) -> Arc<ServerConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            roots.add(ca.certificate().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let mut config = builder
        .with_single_cert(identity.chain.clone(), identity.key.clone_key())
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

fn serve(config: &Arc<ServerConfig>, stream: TcpStream) {
    let connection = ServerConnection::new(config.clone()).unwrap();
    let mut session = StreamOwned::new(connection, stream);
    let mut byte = [0];
    // Nothing may ever come on a session that only looks.
    match session.read(&mut byte) {
        Ok(count) => assert_eq!(count, 0, "a byte of a probe"),
        Err(_) => {
            let _ = session.flush();
        }
    }
}

fn tls_server(identity: &Issued, clients: Option<&CertificateAuthority>) -> SocketAddr {
    let config = tls(identity, clients);
    server(move |stream| serve(&config, stream))
}

/// A server that wants a PROXY header first.
fn behind_header(identity: &Issued) -> SocketAddr {
    let config = tls(identity, None);
    server(move |mut stream| {
        let mut bytes = Vec::new();
        loop {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            bytes.push(byte[0]);
            if let Parsed::Header { .. } = proxy_protocol::parse(&bytes).unwrap() {
                break;
            }
        }
        serve(&config, stream);
    })
}

/// An HTTP proxy that leads wherever it is asked to, or answers `refusal`.
fn proxy(refusal: Option<&'static str>) -> SocketAddr {
    server(move |mut client| {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            client.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        if let Some(refusal) = refusal {
            write!(client, "HTTP/1.1 {refusal}\r\n\r\n").unwrap();
            return;
        }
        let head = String::from_utf8(head).unwrap();
        let target = head.split(' ').nth(1).unwrap();
        let mut inner = TcpStream::connect(target).unwrap();
        client.write_all(b"HTTP/1.1 200 yes\r\n\r\n").unwrap();
        let (mut from, mut to) = (client.try_clone().unwrap(), inner.try_clone().unwrap());
        std::thread::spawn(move || std::io::copy(&mut from, &mut to));
        let _ = std::io::copy(&mut inner, &mut client);
    })
}

/// A service of one server; with TLS it is under the tests' authority.
fn service(name: &str, server: &str, more: &str) -> String {
    format!("[[profile.service]]\nname = '{name}'\nservers = ['{server}']\n{more}\n")
}

const TLS: &str = "tls = true\ntls_roots = 'ca.pem'\n";
const LOCALHOST: &str = "tls = true\ntls_roots = 'ca.pem'\ntls_name = 'localhost'\n";

fn check(pki: &Pki, services: &str, arguments: &[&str]) -> Output {
    let first = services.split('\'').nth(1).unwrap();
    let rest =
        format!("{services}[[profile.rule]]\nhost = '*.test'\nport = '*'\nservice = '{first}'\n");
    Gateway::builder(pki)
        .engine("connect_timeout = '2s'")
        .auth("")
        .rest(&rest)
        .write();
    Command::new(env!("CARGO_BIN_EXE_adit"))
        .args(["check", "--config"])
        .arg(pki.path("adit.toml"))
        .args(arguments)
        .output()
        .unwrap()
}

/// What is said of each server, by its service.
fn probe(pki: &Pki, services: &str) -> (Option<i32>, impl Fn(&str) -> Value) {
    let output = check(pki, services, &["--probe", "--json"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let report: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}{told}"));
    let servers = report["servers"].as_array().unwrap().clone();
    (output.status.code(), move |service: &str| {
        let mut found = servers.iter().filter(|one| one["service"] == service);
        found.next().unwrap().clone()
    })
}

#[test]
fn servers_that_can_be_used_are_told_with_what_they_speak() {
    let pki = Pki::new();
    let inner = issued(&pki.ca, 5);
    let old = free_port();
    let port = old.port().to_string();
    let arguments = ["s_server", "-tls1_2", "-accept", &port, "-quiet"];
    let files = ["-cert", "server.pem", "-key", "server.key"];
    let _openssl = Program::start(&pki, "openssl", &[&arguments[..], &files].concat());
    until("OpenSSL listens", || TcpStream::connect(old).is_ok());
    let both = tls_server(&inner, None).to_string();
    let plain = server(echo).to_string();
    let header = behind_header(&inner).to_string();
    let way = format!("upstream_proxy = 'http://{}'\n", proxy(None));
    let services = [
        service("plain", &plain, ""),
        service("bound", &plain, "bind = ['127.0.0.1']"),
        service("both", &both, LOCALHOST),
        service("old", &old.to_string(), LOCALHOST),
        service(
            "header",
            &header,
            &format!("{LOCALHOST}proxy_protocol = 'v2'"),
        ),
        service("way", &both, &format!("{LOCALHOST}{way}")),
        "[[profile.service]]\nname = '<ANY>'\n".to_owned(),
    ]
    .concat();
    let (code, of) = probe(&pki, &services);
    for name in ["plain", "bound", "both", "old", "header", "way"] {
        let server = of(name);
        assert_eq!(server["usable"], true, "{server:#}");
        assert!(server["connect_ms"].is_u64());
    }
    assert_eq!(code, Some(0));
    assert!(of("plain")["tls"].is_null());
    for name in ["both", "header", "way"] {
        let found = &of(name)["tls"];
        assert_eq!(found["version"], "1.3", "{found:#}");
        assert_eq!(found["cipher_suite"], "TLS_AES_128_GCM_SHA256");
        assert_eq!(found["key_exchange"], "X25519MLKEM768");
        assert_eq!(found["alpn"], "h2");
        assert_eq!(found["accepts"], serde_json::json!(["1.2", "1.3"]));
        assert_eq!(found["fits_name"], true);
        assert!(found["chain_fault"].is_null());
        assert_eq!(found["certificate"]["subject"], "CN=inner");
        assert_eq!(found["certificate"]["issuer"], "CN=group");
        assert_eq!(found["certificate"]["days_left"], 4);
    }
    let found = &of("old")["tls"];
    assert_eq!(found["version"], "1.2", "{found:#}");
    assert_eq!(found["accepts"], serde_json::json!(["1.2"]));
    let suite = found["cipher_suite"].as_str().unwrap();
    assert!(suite.starts_with("TLS_ECDHE_ECDSA_WITH_"), "{suite}");

    let output = check(&pki, &services, &["--probe"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("adit.toml is right"), "{text}");
    let line = text.lines().find(|line| line.starts_with("both")).unwrap();
    for part in [&both, "ok", "1.3", "X25519MLKEM768", "1.2, 1.3", "h2"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert!(
        text.contains("certificate CN=inner by CN=group, until "),
        "{text}"
    );
}

#[test]
fn servers_that_cannot_be_used_are_told_with_the_reason() {
    let pki = Pki::new();
    let inner = issued(&pki.ca, 5);
    let stranger = authority("stranger");
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = silent.local_addr().map(|at| (at, silent)).unwrap();
    let closed = free_port().to_string();
    let both = tls_server(&inner, None).to_string();
    let strange = tls_server(&issued(&stranger, 5), None).to_string();
    let mutual = tls_server(&inner, Some(&stranger)).to_string();
    let no_tls = server(|mut stream| {
        let _ = stream.write_all(b"220 mail.test ESMTP\r\n");
        let _ = stream.read(&mut [0; 64]);
    });
    let refusing = format!("upstream_proxy = 'http://{}'\n", proxy(Some("403 no")));
    let services = [
        service("closed", &closed, ""),
        service("silent", &silent.0.to_string(), TLS),
        service("name", &both, TLS),
        service("strange", &strange, LOCALHOST),
        service("mutual", &mutual, LOCALHOST),
        service("mail", &no_tls.to_string(), LOCALHOST),
        service("refusing", &both, &format!("{LOCALHOST}{refusing}")),
        service("fine", &both, LOCALHOST),
    ]
    .concat();
    let began = std::time::Instant::now();
    let (code, of) = probe(&pki, &services);
    assert!(began.elapsed().as_secs() < 10, "one waits for another");
    assert_eq!(code, Some(1));
    assert_eq!(of("fine")["usable"], true);
    for (name, part) in [
        ("closed", "server-refused: it refuses the connection"),
        ("silent", "connect-timeout: no answer"),
        ("name", "it is not for the server's name; see tls_name"),
        ("strange", "no trusted authority has issued it"),
        ("mutual", "it refused the session: certificate_required"),
        ("mail", "TLS: "),
        ("refusing", "upstream_proxy refuses this destination"),
    ] {
        let server = of(name);
        assert_eq!(server["usable"], false, "{name}");
        let problem = server["problem"].as_str().unwrap();
        assert!(problem.contains(part), "{name}: {problem}");
    }
    assert_eq!(of("name")["tls"]["fits_name"], false);
    assert!(of("name")["tls"]["chain_fault"].is_null());
    assert_eq!(of("strange")["tls"]["fits_name"], true);
    assert_eq!(of("strange")["tls"]["certificate"]["issuer"], "CN=stranger");
    assert_eq!(
        of("strange")["tls"]["accepts"],
        serde_json::json!(["1.2", "1.3"])
    );
    assert!(of("closed")["connect_ms"].is_null());
    assert!(of("silent")["connect_ms"].is_u64());

    let output = check(&pki, &services, &["--probe"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find(|line| line.starts_with("closed"));
    assert!(line.unwrap().contains("FAILED"), "{text}");
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("7 of 8 servers cannot be used"), "{told}");
}

#[test]
fn the_settings_of_the_service_count() {
    let pki = Pki::new();
    let inner = issued(&pki.ca, 5);
    let both = tls_server(&inner, None).to_string();
    let outbound = "[profile.tls]\noutbound = { protocols = ['1.2'], \
                    cipher_suites = ['TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256'], \
                    key_exchange = ['secp384r1'] }\n";
    let services = format!("{}{outbound}", service("both", &both, LOCALHOST));
    let (code, of) = probe(&pki, &services);
    assert_eq!(code, Some(0));
    let found = &of("both")["tls"];
    assert_eq!(found["version"], "1.2", "{found:#}");
    assert_eq!(
        found["cipher_suite"],
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"
    );
    assert_eq!(found["key_exchange"], "secp384r1");
    assert_eq!(found["accepts"], serde_json::json!(["1.2", "1.3"]));
    // A config that is wrong is told as ever, and nothing is connected to.
    let wrong = services.replace("secp384r1", "ffdhe2048");
    let output = check(&pki, &wrong, &["--probe"]);
    assert_eq!(output.status.code(), Some(2));
    let alone = check(&pki, &services, &["--json"]);
    assert_eq!(alone.status.code(), Some(2), "--json needs --probe");
}
