//! Real clients: curl, openssl s_client, Python's ssl.

#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

mod common;

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::mpsc;

use adit::load::{self, BackendKind};
use common::{Gateway, Pki, service};

fn gateway(pki: &Pki) -> Gateway {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        load::serve(
            ([127, 0, 0, 1], 0).into(),
            BackendKind::Http,
            move |address| sender.send(address).unwrap(),
        )
    });
    pki.client("device", |_| ());
    Gateway::start(
        pki,
        "",
        "unmanaged = 'allow'",
        &service(&[receiver.recv().unwrap()]),
    )
}

#[test]
fn curl_goes_through() {
    let pki = Pki::new();
    let gateway = gateway(&pki);
    let output = Command::new("curl")
        .args([
            "-sS",
            "--max-time",
            "10",
            "--proxytunnel",
            "--proxy-cacert",
            "ca.pem",
        ])
        .args(["--proxy-cert", "device.pem", "--proxy-key", "device.key"])
        .args([
            "--proxy",
            &format!("https://localhost:{}", gateway.address.port()),
            "http://web.test/hello",
        ])
        .current_dir(pki.folder.path())
        .output()
        .unwrap();
    let (out, error) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(out.contains("GET /hello"), "{out} {error}");
}

#[test]
fn openssl_resumes_its_session_in_both_versions() {
    let pki = Pki::new();
    let gateway = gateway(&pki);
    for (version, label) in [("-tls1_2", "1.2"), ("-tls1_3", "1.3")] {
        for (option, kind) in [("-sess_out", "full"), ("-sess_in", "resumed")] {
            let mut client = Command::new("openssl")
                .args([
                    "s_client",
                    "-quiet",
                    version,
                    option,
                    "session.pem",
                    "-CAfile",
                    "ca.pem",
                ])
                .args([
                    "-cert",
                    "device.pem",
                    "-key",
                    "device.key",
                    "-servername",
                    "localhost",
                ])
                .args(["-connect", &gateway.address.to_string()])
                .current_dir(pki.folder.path())
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let mut input = client.stdin.take().unwrap();
            input.write_all(&common::request("web.test:80")).unwrap();
            input
                .write_all(b"GET /openssl HTTP/1.1\r\nHost: web.test\r\n\r\n")
                .unwrap();
            let mut output = client.stdout.take().unwrap();
            let mut seen = Vec::new();
            while !String::from_utf8_lossy(&seen).contains("GET /openssl") {
                let mut bytes = [0; 1024];
                let count = std::io::Read::read(&mut output, &mut bytes).unwrap();
                assert!(
                    count > 0,
                    "{version} {kind}: {}",
                    String::from_utf8_lossy(&seen)
                );
                seen.extend_from_slice(&bytes[..count]);
            }
            drop(input);
            let _ = client.kill();
            client.wait().unwrap();
            let count = gateway.metric(
                "adit_handshakes_total",
                &format!("version=\"{label}\",kind=\"{kind}\""),
            );
            assert_eq!(count, 1.0, "{version} {kind}");
        }
    }
}

#[test]
fn python_goes_through() {
    let pki = Pki::new();
    let gateway = gateway(&pki);
    let script = format!(
        "import ssl, socket\n\
         c = ssl.create_default_context(cafile='ca.pem')\n\
         c.load_cert_chain('device.pem', 'device.key')\n\
         s = c.wrap_socket(socket.create_connection(('127.0.0.1', {})), server_hostname='localhost')\n\
         s.sendall(b'CONNECT web.test:80 HTTP/1.1\\r\\nHost: web.test\\r\\n\\r\\n')\n\
         assert s.recv(4096).startswith(b'HTTP/1.1 200')\n\
         s.sendall(b'GET /python HTTP/1.1\\r\\nHost: web.test\\r\\n\\r\\n')\n\
         print(s.recv(4096).decode())\n\
         s.unwrap().close()\n",
        gateway.address.port()
    );
    let output = Command::new("python3")
        .args(["-c", &script])
        .current_dir(pki.folder.path())
        .output()
        .unwrap();
    let (out, error) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success() && out.contains("GET /python"),
        "{out} {error}"
    );
    common::until("closed", || gateway.ended("closed") == 1.0);
}
