//! Real clients: curl, openssl s_client, Python's ssl.

use crate::common;

use std::io::{Read, Write};
use std::process::Command;
use std::sync::mpsc;

use adit::load::{self, BackendKind};
use common::{Gateway, Pki};
use rustls::{ServerConnection, StreamOwned};

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
    Gateway::builder(pki)
        .servers(&[receiver.recv().unwrap()])
        .start()
}

/// What curl prints when it asks for `url` through the tunnel.
fn curl(pki: &Pki, gateway: &Gateway, url: &str) -> String {
    let output = Command::new("curl")
        .args(["-sS", "--max-time", "10", "--proxytunnel"])
        .args(["--cacert", "ca.pem", "--proxy-cacert", "ca.pem"])
        .args(["--proxy-cert", "device.pem", "--proxy-key", "device.key"])
        .arg("--proxy")
        .arg(format!("https://localhost:{}", gateway.address.port()))
        .arg(url)
        .current_dir(pki.folder.path())
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{url}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn curl_goes_through_to_a_plain_server() {
    let pki = Pki::new();
    let gateway = gateway(&pki);
    let answer = curl(&pki, &gateway, "http://web.test/hello");
    assert!(answer.contains("GET /hello"), "{answer}");
}

/// TLS inside TLS: the gateway moves the inner session's bytes and has no part in it.
#[test]
fn curl_goes_through_to_a_tls_server() {
    let pki = Pki::new();
    let config = common::web_tls(&pki, &["web.test"]);
    let web = common::server(move |socket| {
        let connection = ServerConnection::new(config.clone()).unwrap();
        let mut stream = StreamOwned::new(connection, socket);
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        // Larger than a record, a buffer and a socket's window.
        let body = [&head[..], &vec![b'x'; 3 << 20]].concat();
        write!(
            stream,
            "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
        .unwrap();
        stream.write_all(&body).unwrap();
        stream.conn.send_close_notify();
        stream.flush().unwrap();
    });
    pki.client("device", |_| ());
    let gateway = Gateway::builder(&pki).servers(&[web]).start();
    let answer = curl(&pki, &gateway, "https://web.test/secret");
    assert!(answer.starts_with("GET /secret "), "{:.200}", answer);
    assert!(answer.ends_with(&"x".repeat(3 << 20)), "{}", answer.len());
    common::until("closed", || {
        gateway.metric("adit_tunnels_closed_total", "") == 1.0
    });
}

#[test]
fn openssl_resumes_its_session_in_both_versions() {
    let pki = Pki::new();
    let gateway = gateway(&pki);
    for (version, label) in [("-tls1_2", "1.2"), ("-tls1_3", "1.3")] {
        for (option, kind) in [("-sess_out", "full"), ("-sess_in", "resumed")] {
            let more = ["-quiet", version, option, "session.pem"];
            let mut client = common::s_client(&pki, &gateway, "localhost", &more);
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
