//! Chromium without a screen, led by the PAC file that `adit devices export` writes, with a client certificate that a
//! policy chooses.

use crate::common;

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Gateway, Pki, until};
use rustls::{ServerConnection, StreamOwned};
use serde_json::Value;

/// The colour of the page, which a style sheet gives it.
const COLOUR: &str = "0a5ad2";

/// How many hosts the page has parts on: each is a tunnel of its own.
const PARTS: usize = 12;

/// So long may the browser run, in seconds; it takes some five.
const LIMIT: &str = "120";

/// A web server for `web.test` and all below it.
fn web(pki: &Pki) -> SocketAddr {
    let config = common::web_tls(pki, &["web.test", "*.web.test"]);
    common::server(move |socket| {
        let connection = ServerConnection::new(config.clone()).unwrap();
        let mut stream = StreamOwned::new(connection, socket);
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            // A browser opens connections that it may not use.
            if !matches!(stream.read(&mut byte), Ok(1)) {
                return;
            }
            head.extend(byte);
        }
        let head = String::from_utf8(head).unwrap();
        let (kind, body) = part(head.split(' ').nth(1).unwrap());
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        stream.conn.send_close_notify();
        stream.flush().unwrap();
    })
}

/// The media type and the body of what is at this path.
fn part(path: &str) -> (&'static str, String) {
    if path == "/" {
        let scripts: String = (0..PARTS)
            .map(|part| format!("<script src='https://h{part}.web.test/{part}.js'></script>\n"))
            .collect();
        let page = format!(
            "<!doctype html><title>Through the tunnel</title><link rel=stylesheet href=/style.css>\n\
             <h1>Through the tunnel</h1><ul id=parts></ul>\n\
             <script>function add(word) {{\n\
               document.getElementById('parts').appendChild(document.createElement('li')).textContent = word;\n\
             }}</script>\n{scripts}\
             <script src='https://ledger.other.test/x.js' onerror='add(\"ledger refused\")'></script>\n"
        );
        ("text/html", page)
    } else if path == "/style.css" {
        let style =
            format!("html {{ background: #{COLOUR}; color: white; font: 16px sans-serif }}");
        ("text/css", style)
    } else if let Some(part) = path.strip_suffix(".js") {
        // The first is larger than any window.
        let filling = if part == "/0" { 3 << 20 } else { 10 };
        let script = format!("/*{}*/add('part {}');", "x".repeat(filling), &part[1..]);
        ("text/javascript", script)
    } else {
        ("text/plain", String::new())
    }
}

/// What `adit devices export` writes for this gateway.
fn pac(pki: &Pki, gateway: &Gateway) -> String {
    let external = format!("localhost:{}", gateway.address.port());
    let text = std::fs::read_to_string(pki.path("adit.toml")).unwrap();
    let text = text.replace("localhost:8443", &external);
    std::fs::write(pki.path("outside.toml"), text).unwrap();
    let output = pki.adit([
        "devices",
        "export",
        "--config",
        "outside.toml",
        "--format",
        "pac",
    ]);
    let pac = String::from_utf8(output.stdout).unwrap();
    assert!(pac.contains(&format!("HTTPS {external}")), "{pac}");
    pac
}

fn run(pki: &Pki, program: &str, arguments: &[&str]) {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(pki.folder.path())
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}; tests/run installs it"));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {told}");
}

/// A home for the browser with these devices' certificates in it, of which the policy chooses `chosen` for the gateway.
fn home(pki: &Pki, gateway: &Gateway, devices: &[&str], chosen: &str) {
    let database = "sql:home/.pki/nssdb";
    std::fs::create_dir_all(pki.path("home/.pki/nssdb")).unwrap();
    run(pki, "certutil", &["-d", database, "-N", "--empty-password"]);
    let trusted = [
        "-d", database, "-A", "-t", "C,,", "-n", "ca", "-i", "ca.pem",
    ];
    run(pki, "certutil", &trusted);
    for name in devices {
        let (certificate, key) = (format!("{name}.pem"), format!("{name}.key"));
        let made = [
            "pkcs12",
            "-export",
            "-in",
            &certificate,
            "-inkey",
            &key,
            "-name",
            name,
            "-passout",
            "pass:",
            "-out",
            "device.p12",
        ];
        run(pki, "openssl", &made);
        run(
            pki,
            "pk12util",
            &["-d", database, "-i", "device.p12", "-W", ""],
        );
    }
    let choice = serde_json::json!({
        "pattern": format!("https://localhost:{}", gateway.address.port()),
        "filter": { "SUBJECT": { "CN": chosen } },
    });
    let policy = serde_json::json!({ "AutoSelectCertificateForUrls": [choice.to_string()] });
    std::fs::create_dir_all(pki.path("etc/policies/managed")).unwrap();
    std::fs::write(
        pki.path("etc/policies/managed/adit.json"),
        policy.to_string(),
    )
    .unwrap();
}

/// What the browser makes of the page at `url`, and what it says itself. Its screenshot is `screen.png`.
fn browse(pki: &Pki, pac: &str, url: &str) -> (String, String) {
    // A web server on this machine has it; the newest browsers read no PAC file from a disk.
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/x-ns-proxy-autoconfig\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{pac}",
        pac.len()
    );
    let pac_server = common::server(move |mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(answer.as_bytes());
    });
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let at = |name: &str| pki.path(name).to_str().unwrap().to_owned();
    // Into files: a child of the browser that outlived it would keep a pipe open.
    let (page, log) = (pki.path("page.html"), pki.path("chromium.log"));
    let status = Command::new("timeout")
        .args(["-s", "KILL", LIMIT])
        .arg(root.join("tests/interop/chromium.sh"))
        .arg(pki.folder.path())
        .arg(format!("--user-data-dir={}", at("home/profile")))
        .arg(format!(
            "--proxy-pac-url=http://localhost:{}/proxy.pac",
            pac_server.port()
        ))
        .args(["--dump-dom", "--window-size=800,600"])
        .arg(format!("--screenshot={}", at("screen.png")))
        .arg(url)
        .stdin(Stdio::null())
        .stdout(File::create(&page).unwrap())
        .stderr(File::create(&log).unwrap())
        .status()
        .unwrap();
    let log = String::from_utf8_lossy(&std::fs::read(log).unwrap()).into_owned();
    assert!(status.success(), "{status}: {log}");
    (std::fs::read_to_string(page).unwrap(), log)
}

/// The picture's width and height, and the share of it that has the page's colour.
fn look(picture: &Path) -> (u32, u32, f64) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/colour.py");
    let output = Command::new("python3")
        .arg(script)
        .arg(picture)
        .arg(COLOUR)
        .output()
        .unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    let mut words = told.split_whitespace();
    let mut next = || words.next().expect("width, height and share");
    (
        next().parse().unwrap(),
        next().parse().unwrap(),
        next().parse().unwrap(),
    )
}

/// Kept for whoever wants to see it.
fn keep(picture: &Path, name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/artifacts");
    std::fs::create_dir_all(&folder).unwrap();
    let kept = folder.join(name);
    std::fs::copy(picture, &kept).unwrap();
    kept
}

fn gateway(pki: &Pki) -> Gateway {
    let rest = format!(
        "[[profile.service]]\nname = 'web'\nservers = ['{}']\n\
         [[profile.rule]]\nhost = 'web.test'\nport = 443\nservice = 'web'\n\
         [[profile.rule]]\nhost = '*.web.test'\nport = 443\nservice = 'web'\n\
         [[profile.rule]]\napp = 'ledger'\nhost = 'ledger.other.test'\nport = 443\nservice = 'web'\n",
        web(pki)
    );
    Gateway::builder(pki).rest(&rest).start()
}

#[test]
fn slow_a_page_comes_through_the_tunnel() {
    let pki = Pki::new();
    let devices = ["tablet", "phone", "laptop"];
    for device in devices {
        pki.client(device, |_| ());
    }
    let gateway = gateway(&pki);
    home(&pki, &gateway, &devices, "phone");
    let (page, log) = browse(&pki, &pac(&pki, &gateway), "https://web.test/");
    for part in 0..PARTS {
        let item = format!("<li>part {part}</li>");
        assert!(page.contains(&item), "{part}: {page:.3000} {log}");
    }
    // What the app of its certificate may not reach it does not get, although the PAC file leads there.
    assert!(page.contains("<li>ledger refused</li>"), "{page:.3000}");
    assert!(gateway.ended("no-rule") >= 1.0);

    let kept = keep(&pki.path("screen.png"), "chromium.png");
    let (width, height, share) = look(&kept);
    assert!(
        (width, height) == (800, 600) && share > 0.8,
        "{width}x{height} {share}"
    );

    // All of it in sessions of many tunnels, and with the certificate that the policy names. A browser that has only
    // just met the gateway may begin with two.
    let audit = std::fs::read_to_string(pki.path("audit.log")).unwrap();
    let starts = audit
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut sessions = HashMap::<String, usize>::new();
    for start in starts.filter(|line| line["event.action"] == "tunnel-start") {
        assert_eq!(start["device.id"], "phone");
        *sessions
            .entry(start["adit.session.id"].to_string())
            .or_default() += 1;
    }
    let of_many = gateway.metric("adit_http2_sessions_total", "") as usize;
    assert!(
        of_many <= 2 && sessions.len() <= of_many,
        "{of_many} {sessions:?}"
    );
    assert!(sessions.values().sum::<usize>() > PARTS, "{sessions:?}");
    until("all have ended", || {
        gateway.get("/tunnels").1.contains("[]")
    });
}

/// The browser may go directly where the PAC file's gateway does not let it in; here that leads nowhere.
#[test]
fn slow_no_page_comes_with_a_revoked_certificate() {
    let pki = Pki::new();
    let phone = pki.client("phone", |_| ());
    pki.write_crl(&[&phone]);
    let gateway = gateway(&pki);
    home(&pki, &gateway, &["phone"], "phone");
    let (page, log) = browse(&pki, &pac(&pki, &gateway), "https://web.test/");
    assert!(!page.contains("Through the tunnel"), "{page:.3000} {log}");
    assert!(gateway.ended("certificate-revoked") >= 1.0, "{log}");
    assert_eq!(gateway.metric("adit_tunnels_opened_total", ""), 0.0);
}

/// Browsers ask a proxy for the pages of `http:` by GET, in the clear, and not by a tunnel.
#[test]
fn slow_a_page_without_tls_is_refused() {
    let pki = Pki::new();
    pki.client("phone", |_| ());
    let gateway = gateway(&pki);
    home(&pki, &gateway, &["phone"], "phone");
    let (page, log) = browse(&pki, &pac(&pki, &gateway), "http://web.test:443/");
    assert!(page.contains("not-connect"), "{page:.3000} {log}");
    assert!(gateway.ended("not-connect") >= 1.0, "{log}");
}
