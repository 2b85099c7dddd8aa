//! Both ends of a session in memory: adit's server side, and rustls's client.

use std::io::Read;
use std::sync::Arc;

use adit::certs::make::Usage;
use adit::certs::{IssueRequest, KeyType, Validity};
use adit::config::Resumption as Resume;
use adit::config::TlsChoice;
use adit::lab::{self, MakeCa};
use adit::table::Published;
use adit::tls::record::RecordLayer;
use adit::tls::{
    DeviceVerifier, Handshake, Resumption as Sessions, RevocationPolicy, Scope, ServerTls,
    StalePolicy, server_config,
};
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

/// The server as a core configures it, and a client whose certificate it accepts.
pub struct Ends {
    pub server: Arc<ServerConfig>,
    pub client: Arc<ClientConfig>,
}

impl Ends {
    /// TLS 1.3, P-256 on both sides, with the revocation status checked.
    pub fn new(resume: bool) -> Self {
        Self::resumed_by(resume, &Resume::default())
    }

    /// The same with a choice of how sessions are resumed.
    pub fn resumed_by(resume: bool, sessions: &Resume) -> Self {
        let ca = lab::make_ca(&MakeCa {
            common_name: "group".into(),
            days: 10,
            key_type: KeyType::P256,
        })
        .expect("a CA");
        let day = Validity::days(1).expect("one day");
        let mut request = IssueRequest::new(Usage::Server, "gateway", day);
        request.dns = vec!["gateway.test".into()];
        let server = lab::issue(&ca, &request).expect("a server certificate");
        let day = Validity::days(1).expect("one day");
        let device = lab::issue(&ca, &IssueRequest::new(Usage::Client, "device-1", day))
            .expect("a client certificate");
        // Soft: the index is asked at each handshake, and has no list of this issuer.
        let policy = RevocationPolicy {
            enabled: true,
            stale: StalePolicy::Soft,
        };
        let index = Arc::new(Published::new(super::revocation(&super::serials(1000))));
        let group = [ca.certificate().clone()];
        let verifier = DeviceVerifier::new(&group, index, policy).expect("a group certificate");
        let sessions = Sessions::new(sessions, Scope::new("bench", &group)).expect("random bytes");
        let server = server_config(ServerTls {
            certificates: Arc::new((server.chain, server.key).into()),
            clock: Arc::new(rustls::time_provider::DefaultTimeProvider),
            verifier: Arc::new(verifier),
            choice: TlsChoice {
                tls12: false,
                tls13: true,
                suites: Vec::new(),
                groups: Vec::new(),
            },
            resumption: Arc::new(sessions),
        })
        .expect("a configuration");
        let mut roots = RootCertStore::empty();
        roots.add(ca.certificate().clone()).expect("an anchor");
        let mut client =
            ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .expect("versions")
                .with_root_certificates(roots)
                .with_client_auth_cert(device.chain, device.key)
                .expect("chain and key");
        if !resume {
            client.resumption = Resumption::disabled();
        }
        Self {
            server: Arc::new(server),
            client: Arc::new(client),
        }
    }

    pub fn client(&self) -> ClientConnection {
        let name = ServerName::try_from("gateway.test").expect("a name");
        ClientConnection::new(self.client.clone(), name).expect("a client")
    }

    /// A whole handshake, both sides of it.
    pub fn shake(&self) -> (ClientConnection, ServerConnection) {
        let mut server = ServerConnection::new(self.server.clone()).expect("a server");
        let mut client = self.client();
        while client.wants_write() || server.wants_write() {
            let bytes = written(&mut client);
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                server.read_tls(&mut rest).expect("memory");
                server.process_new_packets().expect("a good client");
            }
            let mut bytes = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut bytes).expect("memory");
            }
            read(&mut client, &bytes);
        }
        assert!(!server.is_handshaking() && !client.is_handshaking());
        (client, server)
    }

    /// A session whose server side is adit's record layer.
    pub fn session(&self) -> (ClientConnection, RecordLayer<UnbufferedServerConnection>) {
        let server = UnbufferedServerConnection::new(self.server.clone()).expect("a server");
        let mut server = Handshake::new(server);
        let mut client = self.client();
        let mut input = Vec::new();
        let mut done = false;
        while !done {
            input.extend_from_slice(&written(&mut client));
            let used;
            (used, done) = server.read(&mut input).expect("a good client");
            input.drain(..used);
            read(&mut client, &server.take_outgoing());
        }
        let layer = RecordLayer::take_over(server).expect("a finished handshake");
        (client, layer)
    }
}

pub fn written(client: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).expect("memory");
    }
    bytes
}

/// Gives the client records; what they carried.
pub fn read(client: &mut ClientConnection, mut bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    while !bytes.is_empty() {
        client.read_tls(&mut bytes).expect("memory");
        client.process_new_packets().expect("a good server");
        // WouldBlock: all that has come is read.
        let _ = client.reader().read_to_end(&mut plain);
    }
    plain
}
