//! Links that are slow, short of room in a packet, or lose packets: a namespace of clients behind a wire with a token bucket at
//! both ends. Every session of every client must come through.
//!
//! Here a sample runs. `ADIT_LINKS=500 tests/run network` runs so many sessions of each client over each link with each chain,
//! and takes hours.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::network::{Namespace, ip, outside_for};
use crate::common::{Gateway, Pki, server};

/// The gateway's end of the wire, and the clients'.
const GATEWAY: &str = "198.51.100.1";
const CLIENTS: [&str; 2] = ["198.51.100.2", "2001:db8:a::2"];

/// Bits in a second, and bytes in a packet.
const RATES: [&str; 3] = ["1mbit", "10mbit", "100mbit"];
const MTUS: [u16; 2] = [1500, 600];

/// How many seconds the sample may take at most on a loaded machine, and the whole matrix.
const SAMPLE_LIMIT: u32 = 200;
const WHOLE_LIMIT: u32 = 12 * 3600;

/// A kind of certificates: its key, how many are presented, and the version of TLS.
#[derive(Clone, Copy, Debug)]
struct Kind {
    key: &'static str,
    chain: usize,
    version: &'static str,
}

const KEYS: [&str; 2] = ["rsa", "p256"];
const VERSIONS: [&str; 2] = ["1.3", "1.2"];

fn kinds() -> Vec<Kind> {
    let mut kinds = Vec::new();
    for key in KEYS {
        for chain in 1..=3 {
            kinds.extend(VERSIONS.map(|version| Kind {
                key,
                chain,
                version,
            }));
        }
    }
    kinds
}

/// A folder with a root, and a server's and a device's certificate under as many intermediate ones as make up the chain.
fn pki(kind: Kind) -> Pki {
    let pki = Pki::new();
    // Without the extensions that the system's configuration would add.
    let nothing = "[req]\ndistinguished_name = dn\n[dn]\n";
    std::fs::write(pki.path("req.cnf"), nothing).unwrap();
    let key: &[&str] = match kind.key {
        "rsa" => &["-newkey", "rsa:2048"],
        _ => &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"],
    };
    let issue = |name: &str, issuer: Option<&str>, extensions: &str| {
        let (certificate, private) = (format!("{name}.one"), format!("{name}.key"));
        let subject = format!("/CN={name}");
        let request = [
            "req", "-x509", "-config", "req.cnf", "-nodes", "-days", "9", "-subj", &subject,
        ];
        let files = ["-keyout", &private, "-out", &certificate];
        let mut arguments = [&request[..], key, &files].concat();
        arguments.extend(extensions.split('|').flat_map(|line| ["-addext", line]));
        let from = issuer.map(|issuer| (format!("{issuer}.one"), format!("{issuer}.key")));
        if let Some((certificate, private)) = &from {
            arguments.extend(["-CA", certificate, "-CAkey", private]);
        }
        pki.openssl(&arguments);
    };
    let authority = "basicConstraints=critical,CA:TRUE|keyUsage=critical,keyCertSign,cRLSign";
    let mut above = vec!["root".to_owned()];
    issue("root", None, authority);
    for number in 1..kind.chain {
        let name = format!("intermediate{number}");
        issue(&name, above.last().map(String::as_str), authority);
        above.push(name);
    }
    let names = format!("subjectAltName=DNS:localhost,IP:{GATEWAY}");
    for (name, usage) in [("server", "serverAuth"), ("device", "clientAuth")] {
        let extensions = format!(
            "basicConstraints=critical,CA:FALSE|keyUsage=critical,digitalSignature|extendedKeyUsage={usage}|{names}"
        );
        issue(name, above.last().map(String::as_str), &extensions);
        let read = |name: &String| std::fs::read_to_string(pki.path(&format!("{name}.one")));
        let chain = above[1..].iter().rev().map(|name| read(name).unwrap());
        let own = read(&name.to_owned()).unwrap();
        let text: String = std::iter::once(own).chain(chain).collect();
        std::fs::write(pki.path(&format!("{name}.pem")), text).unwrap();
    }
    std::fs::copy(pki.path("root.one"), pki.path("ca.pem")).unwrap();
    pki
}

fn gateway(pki: &Pki, kind: Kind) -> Gateway {
    let servers = crate::common::service(&[server(answering)]);
    let rest = format!(
        "enabled = false\n[profile.tls]\ninbound = {{ protocols = ['{}'] }}\n{servers}",
        kind.version
    );
    // A low rate divided among many is slow, and no fault.
    let engine = "handshake_timeout = '60s'";
    Gateway::builder(pki)
        .engine(engine)
        .rest(&rest)
        .replace("files = ['ca.crl']", "")
        .listener(&format!("https = '{GATEWAY}:0'"))
        .start()
}

/// Echoes, but for those who ask for a page.
fn answering(mut stream: std::net::TcpStream) {
    use std::io::{Read, Write};
    let mut piece = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut piece) {
        if piece.starts_with(b"GET ") {
            let page = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
            let _ = stream.write_all(page);
            return;
        }
        if stream.write_all(&piece[..count]).is_err() {
            return;
        }
    }
}

/// What the clients are: their script, Go's, the one of HTTP/2, and the Python that has its library.
struct Clients {
    _folder: tempfile::TempDir,
    python: PathBuf,
    script: PathBuf,
    go: PathBuf,
    http2: PathBuf,
}

impl Clients {
    fn new() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = tempfile::tempdir().unwrap();
        let go = folder.path().join("session");
        let built = Command::new("go")
            .args(["build", "-o"])
            .arg(&go)
            .arg(root.join("tests/network/session.go"))
            .env("GOCACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("go"))
            .env("GOTOOLCHAIN", "local")
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&built.stderr);
        assert!(built.status.success(), "go build: {told}");
        Self {
            python: root.join("target/venv/bin/python"),
            script: root.join("tests/network/sessions.py"),
            http2: root.join("tests/interop/http2.py"),
            go,
            _folder: folder,
        }
    }

    /// Runs so many sessions of one client; what failed.
    fn run(
        &self,
        far: &Namespace,
        pki: &Pki,
        gateway: &Gateway,
        client: &str,
        count: usize,
    ) -> Option<String> {
        let output = Command::new("nsenter")
            .args(far.inside())
            .arg(&self.python)
            .arg(&self.script)
            .args([client, GATEWAY, &gateway.address.port().to_string()])
            .arg(count.to_string())
            .args([&self.go, &self.http2])
            .current_dir(pki.folder.path())
            .output()
            .unwrap();
        let told = [output.stdout, output.stderr].concat();
        let told = String::from_utf8_lossy(&told).into_owned();
        (!output.status.success()).then_some(told)
    }
}

/// The wire between gateway and clients at this rate, with packets as long as that.
fn shape(far: &Namespace, rate: &str, mtu: u16) {
    // Packets leave one by one, as from a card that does not divide them itself.
    let link = |dev: &str| format!("link set dev {dev} mtu {mtu} gso_max_segs 1");
    ip(&link("far"));
    far.ip(&link("wire"));
    // Room for one packet: each waits for the one before it, as on a wire.
    let bucket = format!("rate {rate} burst {} latency 1s", mtu + 200);
    tc(&[], &format!("qdisc replace dev far root tbf {bucket}"));
    tc(
        &far.entered(),
        &format!("qdisc replace dev wire root tbf {bucket}"),
    );
}

fn run(words: &[String]) {
    let output = Command::new(&words[0]).args(&words[1..]).output();
    let output = output.unwrap_or_else(|error| panic!("{words:?}: {error}"));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {told}");
}

/// `tc` with these arguments, behind `prefix`.
fn tc(prefix: &[String], arguments: &str) {
    let words = arguments.split(' ').map(str::to_owned);
    let all = prefix.iter().cloned();
    run(&all
        .chain(["tc".to_owned()])
        .chain(words)
        .collect::<Vec<_>>());
}

/// Of the packets that the gateway receives, so many in a hundred are lost.
fn lose(percent: u32) {
    for command in [
        "add table ip loss".to_owned(),
        "add chain ip loss in { type filter hook input priority 0 ; }".to_owned(),
        format!("add rule ip loss in iifname far numgen random mod 100 < {percent} drop"),
    ] {
        run(&["nft".to_owned(), command]);
    }
}

/// Go's TLS before 1.21 has no extended master secret, without which the gateway speaks no TLS 1.2.
fn clients_of(kind: Kind) -> &'static [&'static str] {
    match kind.version {
        "1.2" => &["python", "curl", "openssl", "h2"],
        _ => &["python", "curl", "openssl", "go", "h2"],
    }
}

/// So many sessions of each client; what failed, with its place.
fn sessions(
    far: &Namespace,
    clients: &Clients,
    kind: Kind,
    links: &[(&str, u16)],
    count: &dyn Fn(&str) -> usize,
) -> Vec<String> {
    let pki = pki(kind);
    let gateway = gateway(&pki, kind);
    let mut failed = Vec::new();
    for (rate, mtu) in links {
        shape(far, rate, *mtu);
        for client in clients_of(kind) {
            let count = count(client);
            if let Some(told) = clients.run(far, &pki, &gateway, client, count) {
                failed.push(format!("{client}, {rate}, MTU {mtu}, {kind:?}: {told}"));
            }
        }
        eprintln!(
            "{rate}, MTU {mtu}, {kind:?}: {} failures so far",
            failed.len()
        );
    }
    failed
}

fn far() -> Namespace {
    ip("link set lo up");
    Namespace::new("far", CLIENTS)
}

#[test]
fn slow_links_of_any_rate_and_packet_size_let_every_session_through() {
    const NAME: &str = concat!(
        module_path!(),
        "::slow_links_of_any_rate_and_packet_size_let_every_session_through"
    );
    let whole: Option<usize> = std::env::var("ADIT_LINKS")
        .ok()
        .map(|count| count.parse().expect("ADIT_LINKS is a number"));
    let limit = whole.map_or(SAMPLE_LIMIT, |_| WHOLE_LIMIT);
    if outside_for(NAME, limit) {
        return;
    }
    let (far, clients) = (far(), Clients::new());
    let links: Vec<(&str, u16)> = RATES
        .iter()
        .flat_map(|rate| MTUS.map(|mtu| (*rate, mtu)))
        .collect();
    let mut failed = Vec::new();
    match whole {
        Some(count) => {
            for kind in kinds() {
                failed.extend(sessions(&far, &clients, kind, &links, &|_| count));
            }
        }
        None => {
            // Each link once, and each kind of chains where it is longest and where it was worst.
            let of = |key, chain, version| Kind {
                key,
                chain,
                version,
            };
            for (kind, links) in [
                (of("rsa", 2, "1.3"), &links[2..4]),
                (of("rsa", 3, "1.2"), &links[..2]),
                (of("p256", 3, "1.3"), &links[1..3]),
                (of("p256", 1, "1.3"), &links[4..]),
            ] {
                let count = |client: &str| if client == "python" { 16 } else { 3 };
                failed.extend(sessions(&far, &clients, kind, links, &count));
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn slow_links_that_lose_packets_let_every_session_through() {
    const NAME: &str = concat!(
        module_path!(),
        "::slow_links_that_lose_packets_let_every_session_through"
    );
    if outside_for(NAME, SAMPLE_LIMIT) {
        return;
    }
    let (far, clients) = (far(), Clients::new());
    lose(3);
    let mut failed = Vec::new();
    for version in VERSIONS {
        let kind = Kind {
            key: "rsa",
            chain: 3,
            version,
        };
        let count = |client: &str| if client == "python" { 16 } else { 3 };
        failed.extend(sessions(&far, &clients, kind, &[("10mbit", 1500)], &count));
    }
    assert!(failed.is_empty(), "{failed:#?}");
}
