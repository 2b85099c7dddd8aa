//! A gateway process with a PKI of its own, and clients for it.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "a test's helper: each file uses its part, and fails by panic"
)]

pub mod browser;
pub mod chaos;
pub mod clock;
pub mod frames;
pub mod gateway;
pub mod http2;
pub mod names;
pub mod network;
pub mod outbound;
pub mod pace;
pub mod plain;
pub mod profiles;
pub mod program;
pub mod store;
pub mod world;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use adit::certs::make::Usage;
use adit::certs::{self, IssueRequest, Issued, KeyType, Validity};
use adit::lab::{self, CertificateAuthority, CrlRequest, MakeCa, Reason, serial_of_issued};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned,
    SupportedProtocolVersion,
};
use time::OffsetDateTime;

pub use gateway::Gateway;
pub use program::Program;
pub use world::World;

pub type Session = StreamOwned<ClientConnection, TcpStream>;

/// How long something is waited for that must come. Far more than it takes: a busy machine may stand still for seconds.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What changes through the admin listener carry where the config is that of [`config_with_token`].
pub const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A CA in a folder.
pub struct Pki {
    pub folder: tempfile::TempDir,
    pub ca: CertificateAuthority,
}

impl Pki {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ca = authority("group");
        ca.write(folder.path()).unwrap();
        let mut request = IssueRequest::new(Usage::Server, "localhost", Validity::days(2).unwrap());
        request.dns = vec!["localhost".into()];
        let server = lab::issue(&ca, &request).unwrap();
        server
            .write(
                &folder.path().join("server.pem"),
                &folder.path().join("server.key"),
            )
            .unwrap();
        let pki = Self { folder, ca };
        pki.write_crl(&[]);
        pki
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file that its owner only may read.
    pub fn secret(&self, name: &str, content: &str) {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
    }

    /// Writes the certificate of OF.pem with its key and its authority into the PKCS#12 file `name`.
    pub fn pkcs12(&self, name: &str, of: &str, password: &str, more: &[&str]) {
        let (certificate, key) = (format!("{of}.pem"), format!("{of}.key"));
        let password = format!("pass:{password}");
        let arguments = ["pkcs12", "-export", "-in", &certificate, "-inkey", &key];
        let to = ["-certfile", "ca.pem", "-out", name, "-passout", &password];
        self.openssl(&[&arguments, &to, more].concat());
    }

    /// `openssl` with these arguments in the folder.
    pub fn openssl(&self, arguments: &[&str]) {
        let output = Command::new("openssl")
            .args(arguments)
            .current_dir(self.folder.path())
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl {arguments:?}: {told}");
    }

    /// `adit` with these arguments in the folder.
    pub fn adit(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_adit"));
        command.args(arguments).current_dir(self.folder.path());
        command.output().unwrap()
    }

    /// The audit log. A record may come a moment after what it tells is seen.
    pub fn audit(&self) -> String {
        std::fs::read_to_string(self.path("audit.log")).unwrap_or_default()
    }

    /// A client certificate; also written as NAME.pem and NAME.key.
    pub fn client(&self, name: &str, change: impl FnOnce(&mut IssueRequest)) -> Issued {
        let issued = client_of(&self.ca, name, change);
        issued
            .write(
                &self.path(&format!("{name}.pem")),
                &self.path(&format!("{name}.key")),
            )
            .unwrap();
        issued
    }

    pub fn write_crl(&self, revoked: &[&Issued]) {
        let now = OffsetDateTime::now_utc();
        std::fs::write(
            self.path("ca.crl"),
            crl_of(&self.ca, revoked, now, now + Duration::from_secs(3600)),
        )
        .unwrap();
    }
}

pub fn authority(name: &str) -> CertificateAuthority {
    lab::make_ca(&MakeCa {
        common_name: name.into(),
        days: 10,
        key_type: KeyType::P256,
    })
    .unwrap()
}

/// A validity that begins and ends so many seconds from now; negative is in the past.
pub fn valid(begins: i64, ends: i64) -> Validity {
    let moment = |seconds| OffsetDateTime::now_utc() + time::Duration::seconds(seconds);
    Validity::between(moment(begins), moment(ends)).unwrap()
}

pub fn client_of(
    ca: &CertificateAuthority,
    name: &str,
    change: impl FnOnce(&mut IssueRequest),
) -> Issued {
    let mut request = IssueRequest::new(Usage::Client, name, Validity::days(1).unwrap());
    request.app = Some("mail".into());
    change(&mut request);
    lab::issue(ca, &request).unwrap()
}

pub fn crl_of(
    ca: &CertificateAuthority,
    revoked: &[&Issued],
    from: OffsetDateTime,
    to: OffsetDateTime,
) -> Vec<u8> {
    let serials = revoked
        .iter()
        .map(|issued| serial_of_issued(ca, &issued.chain[0]).unwrap())
        .collect();
    let request = CrlRequest {
        serials,
        reason: Reason::default(),
        this_update: from,
        next_update: to,
    };
    lab::revoke(ca, None, &request).unwrap().der.to_vec()
}

/// A service of these servers that every destination leads to.
pub fn service(servers: &[SocketAddr]) -> String {
    let servers: Vec<String> = servers.iter().map(|server| format!("'{server}'")).collect();
    format!(
        "[[profile.service]]\nname = 'echo'\nservers = [{}]\n[[profile.rule]]\nhost = '*.test'\nport = '*'\nservice = 'echo'",
        servers.join(",")
    )
}

/// Returns whether the next read finds a cut: the stream's end without a farewell, a reset, or the
/// alert that tells why. The test's own patience is none.
pub fn is_cut(stream: &mut impl Read) -> bool {
    let Err(error) = stream.read(&mut [0]) else {
        return false;
    };
    let of_tls = error.get_ref().and_then(|inner| inner.downcast_ref());
    let is_told = matches!(of_tls, Some(rustls::Error::AlertReceived(_)));
    let (end, reset) = (ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset);
    is_told || [end, reset].contains(&error.kind())
}

/// Waits until `done`, for [`PATIENCE`] at most.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// An address on which nothing listens yet. It is below those that the system gives to connections and to port 0
/// (`ip_local_port_range`), so that nobody gets it before who has asked for it: each is given once, and other programs of
/// tests that run at the same time, of whatever folder, have other ones.
pub fn free_port() -> SocketAddr {
    /// The ports left of the windows that this process has locked.
    static LEFT: Mutex<(Range<u16>, Vec<File>)> = Mutex::new((0..0, Vec::new()));
    let mut left = LEFT.lock().unwrap();
    loop {
        let Some(port) = left.0.next() else {
            let (ports, lock) = port_window();
            left.0 = ports;
            left.1.push(lock);
            continue;
        };
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// Ports that no other process takes while the file is locked.
fn port_window() -> (Range<u16>, File) {
    const FIRST: u16 = 12_000;
    const PORTS: u16 = 250;
    const WINDOWS: u16 = 80;
    let locked = |number: &u16| {
        let path = std::env::temp_dir().join(format!("adit-test-ports-{number}"));
        let file = File::open(&path).or_else(|_| File::create(&path)).ok()?;
        file.try_lock().ok().map(|()| file)
    };
    let mut windows = (0..WINDOWS).map(|number| (FIRST + number * PORTS, locked(&number)));
    let taken = windows.find_map(|(first, lock)| Some((first..first + PORTS, lock?)));
    taken.expect("some of the windows of ports is free")
}

/// A server that gives each connection to `serve` on a thread of its own.
pub fn server(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = serve.clone();
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

pub fn echo(stream: TcpStream) {
    let (mut from, mut to) = (stream.try_clone().unwrap(), stream);
    if std::io::copy(&mut from, &mut to).is_ok() {
        let _ = to.shutdown(std::net::Shutdown::Write);
    }
}

pub fn client_config(ca: &Path, identity: Option<&Issued>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    certs::read_certificates(ca)
        .unwrap()
        .into_iter()
        .for_each(|ca| roots.add(ca).unwrap());
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    Arc::new(match identity {
        Some(issued) => builder
            .with_client_auth_cert(issued.chain.clone(), issued.key.clone_key())
            .unwrap(),
        None => builder.with_no_client_auth(),
    })
}

/// A client that speaks only this version, and keeps its sessions for the next connection.
pub fn speaking(
    pki: &Pki,
    device: &Issued,
    version: &'static SupportedProtocolVersion,
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(pki.ca.certificate().clone()).unwrap();
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(device.chain.clone(), device.key.clone_key())
        .unwrap()
}

/// A session whose handshake has not begun.
pub fn connect(pki: &Pki, gateway: &Gateway, identity: Option<&Issued>) -> Session {
    let socket = TcpStream::connect(gateway.address).unwrap();
    session_of(client_config(&pki.path("ca.pem"), identity), socket)
}

/// A session whose handshake has not begun, on a connection of one's own.
pub fn session(pki: &Pki, socket: TcpStream, identity: &Issued) -> Session {
    session_of(client_config(&pki.path("ca.pem"), Some(identity)), socket)
}

/// The same of a client of one's own.
pub fn session_of(client: Arc<ClientConfig>, socket: TcpStream) -> Session {
    let wait = Some(PATIENCE);
    socket.set_read_timeout(wait).unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    StreamOwned::new(ClientConnection::new(client, name).unwrap(), socket)
}

/// TLS of a web server with these names.
pub fn web_tls(pki: &Pki, names: &[&str]) -> Arc<ServerConfig> {
    let mut request = IssueRequest::new(Usage::Server, names[0], Validity::days(1).unwrap());
    request.dns = names.iter().map(ToString::to_string).collect();
    let issued = lab::issue(&pki.ca, &request).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(issued.chain, issued.key);
    Arc::new(config.unwrap())
}

/// A connection from this address of the machine.
pub fn connect_from(source: &str, to: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(to),
        socket2::Type::STREAM,
        None,
    )
    .unwrap();
    let source: std::net::IpAddr = source.parse().unwrap();
    socket.bind(&SocketAddr::new(source, 0).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    socket.into()
}

/// Reads all that comes until the end, or a reset.
pub fn read_all(mut stream: &TcpStream) -> Vec<u8> {
    let wait = Some(PATIENCE);
    stream.set_read_timeout(wait).unwrap();
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all);
    all
}

/// Sends `request` and reads one response's head.
pub fn ask(session: &mut Session, request: &[u8]) -> std::io::Result<String> {
    session.write_all(request)?;
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        if session.read(&mut byte)? == 0 {
            break;
        }
        head.push(byte[0]);
    }
    Ok(String::from_utf8(head).unwrap())
}

/// An open tunnel to `host`.
pub fn tunnel(pki: &Pki, gateway: &Gateway, identity: &Issued, host: &str) -> Session {
    let mut session = connect(pki, gateway, Some(identity));
    let head = ask(&mut session, &request(host)).unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    session
}

/// Whether this device gets a tunnel.
pub fn is_let_in(pki: &Pki, gateway: &Gateway, device: &Issued) -> bool {
    let mut session = connect(pki, gateway, Some(device));
    let answer = ask(&mut session, &request("a.test:1"));
    answer.is_ok_and(|head| head.starts_with("HTTP/1.1 200 "))
}

/// Bytes come back in an open tunnel.
#[track_caller]
pub fn echoes(session: &mut Session, bytes: &[u8]) {
    assert_eq!(echoed(session, bytes), bytes);
}

/// What comes back of `bytes` in an open tunnel.
pub fn echoed(session: &mut Session, bytes: &[u8]) -> Vec<u8> {
    session.write_all(bytes).unwrap();
    let mut back = vec![0; bytes.len()];
    session.read_exact(&mut back).unwrap();
    back
}

pub fn request(host: &str) -> Vec<u8> {
    format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes()
}

/// `openssl s_client` as the device whose certificate is written as device.pem, its input and output piped.
pub fn s_client(pki: &Pki, gateway: &Gateway, name: &str, more: &[&str]) -> Child {
    Command::new("openssl")
        .args(["s_client", "-CAfile", "ca.pem"])
        .args(["-cert", "device.pem", "-key", "device.key"])
        .args(["-servername", name])
        .args(["-connect", &gateway.address.to_string()])
        .args(more)
        .current_dir(pki.folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// All that [`s_client`] says of a session that it ends at once.
pub fn s_client_says(pki: &Pki, gateway: &Gateway, name: &str, more: &[&str]) -> String {
    let mut client = s_client(pki, gateway, name, more);
    drop(client.stdin.take());
    let mut text = String::new();
    let mut output = client.stdout.take().unwrap();
    output.read_to_string(&mut text).unwrap();
    client.wait().unwrap();
    text
}
