//! Sessions that are a tunnel by their name: certificates, protocols, rules, refusals and resumption.

use crate::common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use std::sync::Arc;

use adit::certs::make::Usage;
use adit::certs::{IssueRequest, Issued, Validity};
use adit::lab;
use adit::proxy_protocol::Header;
use common::{
    Gateway, PATIENCE, Pki, Session, World, ask, client_config, echo, free_port, request, server,
    service, until,
};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, StreamOwned, version};

/// The services beside `echo`: one by exact name with a certificate of its own, one by wildcard, one behind which nobody
/// is, and one to which no rule leads.
fn names(git: SocketAddr, wild: SocketAddr) -> String {
    let dead = free_port();
    format!(
        "[[profile.service]]\nname = 'git'\nservers = ['{git}']\nsni = ['git.test']\nsni_certificate = 'git.pem'\n\
         sni_key = 'git.key'\nsni_alpn = ['git/2', 'http/1.1']\n\
         [[profile.service]]\nname = 'wild'\nservers = ['{wild}']\nsni = ['*.wild.test']\n\
         [[profile.service]]\nname = 'dead'\nservers = ['{dead}']\nsni = ['dead.test']\n\
         [[profile.service]]\nname = 'unruled'\nservers = ['{wild}']\nsni = ['unruled.test']\n\
         [[profile.rule]]\napp = 'mail'\nhost = 'git.test'\nport = 8443\nservice = 'git'\n\
         [[profile.rule]]\nhost = '*.wild.test'\nport = 8443\nservice = 'wild'\n\
         [[profile.rule]]\nhost = 'dead.test'\nport = '*'\nservice = 'dead'\n\
         [[profile.rule]]\nhost = 'unruled.test'\nport = 444\nservice = 'unruled'\n{}",
        service(&[server(echo)])
    )
}

/// A server that says who it is, and then echoes.
fn saying(word: &'static str) -> SocketAddr {
    server(move |mut stream| {
        stream.write_all(word.as_bytes()).unwrap();
        echo(stream);
    })
}

fn start(pki: &Pki, listener: &str) -> Gateway {
    let mut own = IssueRequest::new(Usage::Server, "git.test", Validity::days(2).unwrap());
    own.dns = vec!["git.test".into()];
    let own = lab::issue(&pki.ca, &own).unwrap();
    own.write(&pki.path("git.pem"), &pki.path("git.key"))
        .unwrap();
    // The profile's certificate, for the other names too.
    let mut general = IssueRequest::new(Usage::Server, "localhost", Validity::days(2).unwrap());
    general.dns = vec![
        "localhost".into(),
        "*.wild.test".into(),
        "dead.test".into(),
        "unruled.test".into(),
    ];
    let general = lab::issue(&pki.ca, &general).unwrap();
    for name in ["server.pem", "server.key"] {
        std::fs::remove_file(pki.path(name)).unwrap();
    }
    general
        .write(&pki.path("server.pem"), &pki.path("server.key"))
        .unwrap();
    Gateway::builder(pki)
        .listener(listener)
        .rest(&names(saying("git "), saying("wild ")))
        .start()
}

const DIRECT: &str = "https = '127.0.0.1:0'";

fn named(config: &Arc<ClientConfig>, gateway: &Gateway, name: &str) -> Session {
    let socket = TcpStream::connect(gateway.address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    StreamOwned::new(ClientConnection::new(config.clone(), name).unwrap(), socket)
}

fn hears(session: &mut Session, text: &str) {
    let mut heard = vec![0; text.len()];
    session.read_exact(&mut heard).unwrap();
    assert_eq!(String::from_utf8_lossy(&heard), text);
}

fn identity(pki: &Pki, device: &Issued) -> Arc<ClientConfig> {
    client_config(&pki.path("ca.pem"), Some(device))
}

#[test]
fn a_session_of_that_name_is_the_tunnel() {
    let world = World::around(Pki::new(), |pki| start(pki, DIRECT));
    let config = identity(&world.pki, &world.device);
    for (name, word, service) in [
        ("git.test", "git ", "git"),
        ("GIT.test", "git ", "git"),
        ("x.wild.test", "wild ", "wild"),
    ] {
        let mut session = named(&config, &world.gateway, name);
        // The first bytes may be the server's: nothing is asked.
        hears(&mut session, word);
        session.write_all(b"there and back").unwrap();
        hears(&mut session, "there and back");
        let tunnels = world.gateway.get("/tunnels").1;
        assert!(
            tunnels.contains(&format!("\"service\":\"{service}\"")),
            "{tunnels}"
        );
        assert!(tunnels.contains("\"device\":\"device\""), "{tunnels}");
        session.conn.send_close_notify();
        session.flush().unwrap();
        assert_eq!(session.read(&mut [0]).unwrap(), 0);
        world.gateway.lists_none();
    }
    until("closed", || world.gateway.ended("closed") == 3.0);
    until("recorded", || {
        let named = "\"destination.address\":\"git.test\",\"destination.port\":8443";
        world.pki.audit().contains(named)
    });
    // Other names, and none, are for requests.
    let mut by_request = world.connect();
    let told = ask(&mut by_request, &request("a.test:1")).unwrap();
    assert!(told.starts_with("HTTP/1.1 200 "), "{told}");
}

#[test]
fn protocols_are_those_of_the_service() {
    let world = World::around(Pki::new(), |pki| start(pki, DIRECT));
    for (name, offered, agreed) in [
        ("git.test", &["h2", "http/1.1", "git/2"][..], Some("git/2")),
        ("git.test", &["http/1.1"], Some("http/1.1")),
        ("git.test", &[], None),
        ("x.wild.test", &["h2", "anything"], None),
    ] {
        let mut config = (*identity(&world.pki, &world.device)).clone();
        config.alpn_protocols = offered
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        let mut session = named(&Arc::new(config), &world.gateway, name);
        session.read_exact(&mut [0; 4]).unwrap();
        let agreed = agreed.map(str::as_bytes);
        assert_eq!(session.conn.alpn_protocol(), agreed, "{name} {offered:?}");
    }
    let mut config = (*identity(&world.pki, &world.device)).clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let error = named(&Arc::new(config), &world.gateway, "git.test")
        .read(&mut [0])
        .unwrap_err();
    assert!(
        error.to_string().contains("NoApplicationProtocol"),
        "{error}"
    );
    until("refused", || world.gateway.ended("tls-protocol") == 1.0);
}

#[test]
fn refusals_are_alerts() {
    let pki = Pki::new();
    let other_app = pki.client("other", |r| r.app = Some("chess".into()));
    let revoked = pki.client("revoked", |_| ());
    pki.write_crl(&[&revoked]);
    let world = World::around(pki, |pki| start(pki, DIRECT));
    for (who, name, words, reason) in [
        (&other_app, "git.test", "AccessDenied", "no-rule"),
        (&world.device, "unruled.test", "AccessDenied", "no-rule"),
        (
            &world.device,
            "dead.test",
            "InternalError",
            "server-refused",
        ),
        (
            &revoked,
            "git.test",
            "CertificateRevoked",
            "certificate-revoked",
        ),
    ] {
        let before = world.gateway.ended(reason);
        let mut session = named(&identity(&world.pki, who), &world.gateway, name);
        let error = session.read(&mut [0]).unwrap_err();
        assert!(error.to_string().contains(words), "{name}: {error}");
        until(reason, || world.gateway.ended(reason) == before + 1.0);
    }
    let nobody = client_config(&world.pki.path("ca.pem"), None);
    let error = named(&nobody, &world.gateway, "git.test")
        .read(&mut [0])
        .unwrap_err();
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
}

#[test]
fn a_rule_that_leads_elsewhere_does_not_take_the_session_along() {
    let rest = format!(
        "[[profile.service]]\nname = 'git'\nservers = ['{}']\nsni = ['git.test']\n{}\n\
         [[profile.rule]]\nhost = 'git.test'\nport = '*'\nservice = 'git'",
        saying("git "),
        service(&[saying("echo ")])
    );
    // The rule of `echo` is for *.test, and comes first.
    let world = World::new(|node| node.listener(DIRECT).rest(&rest));
    let mut config = (*identity(&world.pki, &world.device)).clone();
    config
        .dangerous()
        .set_certificate_verifier(Arc::new(AnyName(identity(&world.pki, &world.device))));
    let mut session = named(&Arc::new(config), &world.gateway, "git.test");
    let error = session.read(&mut [0]).unwrap_err();
    assert!(error.to_string().contains("AccessDenied"), "{error}");
    world.gateway.has_ended("no-rule", 1.0);
}

/// Takes any server certificate: the test is about what comes behind it.
#[derive(Debug)]
struct AnyName(Arc<ClientConfig>);

impl rustls::client::danger::ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        _end_entity: &rustls::pki_types::CertificateDer<'_>,
        _intermediates: &[rustls::pki_types::CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &rustls::pki_types::CertificateDer<'_>,
        _signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &rustls::pki_types::CertificateDer<'_>,
        _signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        let provider = self.0.crypto_provider();
        provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[test]
fn a_session_is_resumed_under_its_own_name_alone() {
    let pki = Pki::new();
    pki.client("device", |_| ());
    let gateway = start(&pki, DIRECT);
    let openssl = |version: &str, name: &str, more: &[&str]| {
        let more = [&[version], more].concat();
        let mut child = common::s_client(&pki, &gateway, name, &more);
        let mut stdin = child.stdin.take().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let mut heard = Vec::new();
        let word = if name == "git.test" { "git " } else { "wild " };
        // The server's word comes behind the ticket.
        while !String::from_utf8_lossy(&heard).contains(&format!("{word}told")) {
            if heard.is_empty() {
                stdin.write_all(b"told\n").unwrap();
            }
            let mut piece = [0; 4096];
            match stdout.read(&mut piece).unwrap() {
                0 => break,
                count => heard.extend_from_slice(&piece[..count]),
            }
        }
        drop(stdin);
        stdout.read_to_end(&mut heard).unwrap();
        child.wait().unwrap();
        let heard = String::from_utf8_lossy(&heard).into_owned();
        assert!(heard.contains("Verify return code: 0 (ok)"), "{heard}");
        (heard.contains("\nReused, "), heard)
    };
    for version in ["-tls1_2", "-tls1_3"] {
        let (reused, _) = openssl(version, "git.test", &["-sess_out", "git.sess"]);
        assert!(!reused);
        let (reused, told) = openssl(version, "git.test", &["-sess_in", "git.sess"]);
        assert!(reused, "{version}: {told}");
        let (reused, _) = openssl(version, "git.test", &["-sess_out", "git.sess"]);
        assert!(!reused);
        let (reused, told) = openssl(version, "a.wild.test", &["-sess_in", "git.sess"]);
        assert!(!reused, "{version}: {told}");
        // Nor among the names of one service.
        openssl(version, "b.wild.test", &["-sess_out", "wild.sess"]);
        let (reused, told) = openssl(version, "c.wild.test", &["-sess_in", "wild.sess"]);
        assert!(!reused, "{version}: {told}");
    }
}

#[test]
fn a_ticket_of_a_request_session_opens_no_service_by_name() {
    let world = World::around(Pki::new(), |pki| start(pki, DIRECT));
    for protocol in [&version::TLS12, &version::TLS13] {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let base = identity(&world.pki, &world.device);
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[protocol])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyName(base)))
            .with_client_auth_cert(world.device.chain.clone(), world.device.key.clone_key())
            .unwrap();
        // A store that gives out the last session whatever the name is.
        let mut config = config;
        config.resumption = rustls::client::Resumption::store(Arc::new(AnySession::default()));
        let config = Arc::new(config);
        let mut first = named(&config, &world.gateway, "localhost");
        let told = ask(&mut first, &request("a.test:1")).unwrap();
        assert!(told.starts_with("HTTP/1.1 200 "), "{told}");
        let mut again = named(&config, &world.gateway, "localhost");
        ask(&mut again, &request("a.test:1")).unwrap();
        assert_eq!(again.conn.handshake_kind(), Some(HandshakeKind::Resumed));
        let mut other = named(&config, &world.gateway, "git.test");
        hears(&mut other, "git ");
        assert_eq!(other.conn.handshake_kind(), Some(HandshakeKind::Full));
    }
}

/// Keeps the last session of all.
#[derive(Debug, Default)]
struct AnySession(
    std::sync::Mutex<(
        Option<rustls::client::Tls12ClientSessionValue>,
        Vec<rustls::client::Tls13ClientSessionValue>,
    )>,
);

impl rustls::client::ClientSessionStore for AnySession {
    fn set_kx_hint(&self, _name: ServerName<'static>, _group: rustls::NamedGroup) {}

    fn kx_hint(&self, _name: &ServerName<'_>) -> Option<rustls::NamedGroup> {
        None
    }

    fn set_tls12_session(
        &self,
        _name: ServerName<'static>,
        value: rustls::client::Tls12ClientSessionValue,
    ) {
        self.0.lock().unwrap().0 = Some(value);
    }

    fn tls12_session(
        &self,
        _name: &ServerName<'_>,
    ) -> Option<rustls::client::Tls12ClientSessionValue> {
        self.0.lock().unwrap().0.clone()
    }

    fn remove_tls12_session(&self, _name: &ServerName<'static>) {
        self.0.lock().unwrap().0 = None;
    }

    fn insert_tls13_ticket(
        &self,
        _name: ServerName<'static>,
        value: rustls::client::Tls13ClientSessionValue,
    ) {
        self.0.lock().unwrap().1.push(value);
    }

    fn take_tls13_ticket(
        &self,
        _name: &ServerName<'static>,
    ) -> Option<rustls::client::Tls13ClientSessionValue> {
        self.0.lock().unwrap().1.pop()
    }
}

#[test]
fn behind_a_proxy_header_and_by_a_hello_in_pieces() {
    let listener =
        "https = '127.0.0.1:0'\nproxy_protocol = 'required'\ntrusted_proxies = ['127.0.0.1']";
    let world = World::around(Pki::new(), |pki| start(pki, listener));
    let header = Header::of(
        "192.0.2.7:9".parse().unwrap(),
        "192.0.2.1:443".parse().unwrap(),
    );
    for size in [1, 10_000] {
        let mut session = named(
            &identity(&world.pki, &world.device),
            &world.gateway,
            "git.test",
        );
        let mut first = header.write_v2(true).unwrap();
        session.conn.write_tls(&mut first).unwrap();
        session.sock.set_nodelay(true).unwrap();
        for piece in first.chunks(size) {
            session.sock.write_all(piece).unwrap();
        }
        hears(&mut session, "git ");
        world.gateway.lists_peer("192.0.2.7:9");
    }
}

#[test]
fn a_hello_that_never_ends_is_over_in_time_and_a_bare_check_is_counted_alone() {
    let pki = Pki::new();
    let rest = format!(
        "[[profile.service]]\nname = 'git'\nservers = ['{}']\nsni = ['git.test']\n{}",
        free_port(),
        service(&[server(echo)])
    );
    let gateway = Gateway::builder(&pki)
        .engine("handshake_timeout = '500ms'")
        .listener(DIRECT)
        .rest(&rest)
        .start();
    drop(TcpStream::connect(gateway.address).unwrap());
    until("unused", || gateway.ended("unused") == 1.0);
    let mut slow = TcpStream::connect(gateway.address).unwrap();
    slow.write_all(b"\x16\x03\x01\x02\x00\x01").unwrap();
    common::read_all(&slow);
    until("timeout", || gateway.ended("handshake-timeout") == 1.0);
    let mut wrong = TcpStream::connect(gateway.address).unwrap();
    wrong.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let told = common::read_all(&wrong);
    assert_eq!(
        (told.first(), told.last()),
        (Some(&21), Some(&50)),
        "an alert, decode_error"
    );
    until("not TLS", || gateway.ended("not-tls") == 1.0);
}
