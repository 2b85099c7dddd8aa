//! The record layer with the TLS stacks of others: OpenSSL, GnuTLS and Go's, each suite of both versions that they let one
//! choose, and new keys on the way.

use crate::common;

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use common::{Gateway, Pki, echo, request, server};

/// A client program: what it is told goes through the tunnel, and what comes back is printed among its remarks.
struct Client {
    child: Child,
    output: Arc<Mutex<Vec<u8>>>,
}

impl Client {
    fn start(command: &mut Command, pki: &Pki) -> Self {
        let mut child = command
            .current_dir(pki.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = Arc::new(Mutex::new(Vec::new()));
        collect(child.stdout.take().unwrap(), output.clone());
        collect(child.stderr.take().unwrap(), output.clone());
        Self { child, output }
    }

    fn say(&mut self, bytes: &[u8]) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(bytes).unwrap();
        stdin.flush().unwrap();
    }

    /// Waits until the program has printed `text` so many times.
    fn hears(&self, times: usize, text: &str) {
        let told = || String::from_utf8_lossy(&self.output.lock().unwrap()).into_owned();
        common::until(&format!("hearing {text}"), || {
            told().matches(text).count() >= times
        });
    }

    /// Asks for the tunnel, then sends lines through it and hears each of them. Before each it is told `command`, if any,
    /// and prints `done` when it has obeyed.
    fn talk(&mut self, command: Option<(&[u8], &str)>) {
        self.say(&request("web.test:80"));
        self.hears(1, "HTTP/1.1 200");
        for round in 1..5 {
            if let Some((command, done)) = command {
                self.say(command);
                self.hears(round, done);
            }
            let line = format!("line {round} of the tunnel\n");
            self.say(line.as_bytes());
            self.hears(1, &line);
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let output = self.output.lock().unwrap();
            eprintln!("{}", String::from_utf8_lossy(&output));
        }
    }
}

fn collect(mut from: impl Read + Send + 'static, into: Arc<Mutex<Vec<u8>>>) {
    std::thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut piece) {
            into.lock().unwrap().extend_from_slice(&piece[..count]);
        }
    });
}

fn gateway() -> (Pki, Gateway) {
    let pki = Pki::new();
    pki.client("device", |_| ());
    let gateway = Gateway::builder(&pki).servers(&[server(echo)]).start();
    (pki, gateway)
}

fn openssl(pki: &Pki, gateway: &Gateway, options: &[&str]) -> Client {
    let mut command = Command::new("openssl");
    command
        .args(["s_client", "-CAfile", "ca.pem", "-verify_return_error"])
        .args(["-cert", "device.pem", "-key", "device.key", "-connect"])
        .arg(gateway.address.to_string())
        .args(options);
    Client::start(&mut command, pki)
}

fn gnutls(pki: &Pki, gateway: &Gateway, priority: &str) -> Client {
    let mut command = Command::new("gnutls-cli");
    command
        .args(["--inline-commands", "--x509cafile", "ca.pem"])
        .args([
            "--x509certfile",
            "device.pem",
            "--x509keyfile",
            "device.key",
        ])
        .args(["--priority", priority, "--port"])
        .arg(gateway.address.port().to_string())
        .arg("localhost");
    Client::start(&mut command, pki)
}

#[test]
fn openssl_talks_in_every_suite() {
    let (pki, gateway) = gateway();
    for options in [
        ["-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256"],
        ["-tls1_3", "-ciphersuites", "TLS_AES_256_GCM_SHA384"],
        ["-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"],
        ["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"],
        ["-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"],
        ["-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"],
    ] {
        let mut client = openssl(&pki, &gateway, &options);
        client.talk(None);
        client.hears(1, options[2]);
    }
}

/// OpenSSL puts AES-256 first; the gateway's own order decides.
#[test]
fn the_gateway_chooses_the_suite() {
    let (pki, gateway) = gateway();
    for (version, suite) in [
        ("-tls1_3", "TLS_AES_128_GCM_SHA256"),
        ("-tls1_2", "ECDHE-ECDSA-AES128-GCM-SHA256"),
    ] {
        let mut client = openssl(&pki, &gateway, &[version]);
        client.talk(None);
        client.hears(1, &format!("Cipher is {suite}"));
    }
}

/// s_client sends KeyUpdate for a line that begins with K (and asks for the gateway's new keys too) or k.
#[test]
fn openssl_takes_new_keys_on_the_way() {
    let (pki, gateway) = gateway();
    for update in [b"K\n", b"k\n"] {
        let mut client = openssl(&pki, &gateway, &["-tls1_3"]);
        client.talk(Some((update, "KEYUPDATE")));
    }
}

#[test]
fn gnutls_talks_in_every_suite() {
    let (pki, gateway) = gateway();
    for (version, cipher) in [
        ("1.3", "AES-128-GCM"),
        ("1.3", "AES-256-GCM"),
        ("1.3", "CHACHA20-POLY1305"),
        ("1.2", "AES-128-GCM"),
        ("1.2", "AES-256-GCM"),
        ("1.2", "CHACHA20-POLY1305"),
    ] {
        let only = format!("NORMAL:-VERS-ALL:+VERS-TLS{version}:-CIPHER-ALL:+{cipher}");
        let mut client = gnutls(&pki, &gateway, &only);
        client.talk(None);
        client.hears(1, &format!("(TLS{version}"));
        client.hears(1, cipher);
    }
}

/// `^rekey^` makes GnuTLS take new keys and ask for the gateway's.
#[test]
fn gnutls_takes_new_keys_on_the_way() {
    let (pki, gateway) = gateway();
    let mut client = gnutls(&pki, &gateway, "NORMAL:-VERS-ALL:+VERS-TLS1.3");
    client.talk(Some((b"^rekey^\n", "Rekey was completed")));
}

#[test]
fn go_talks_and_resumes() {
    let (pki, gateway) = gateway();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/client.go");
    let client = pki.path("go-client");
    let built = Command::new("go")
        .args(["build", "-o"])
        .args([client.as_os_str(), source.as_ref()])
        .env("GOCACHE", pki.path("go-cache"))
        .env("GOTOOLCHAIN", "local")
        .output()
        .unwrap();
    assert!(built.status.success(), "{built:?}");
    let run = |version: &str, suite: &str| {
        let output = Command::new(&client)
            .args([&gateway.address.to_string(), version, suite])
            .current_dir(pki.folder.path())
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.success(), told)
    };
    let talks = |version: &str, suite: &str| {
        let (ended_well, told) = run(version, suite);
        assert!(ended_well, "{version} {suite}: {told}");
        for (session, resumed) in [(1, false), (2, true)] {
            let negotiated = format!("{suite} resumed {resumed}\n");
            assert!(told.contains(&negotiated), "{version} {suite}: {told}");
            let ended = format!("session {session} ended with 0 bytes left");
            assert!(told.contains(&ended), "{version} {suite}: {told}");
        }
    };
    talks("1.3", "TLS_AES_128_GCM_SHA256");
    for suite in [
        "AES_128_GCM_SHA256",
        "AES_256_GCM_SHA384",
        "CHACHA20_POLY1305_SHA256",
    ] {
        let suite = format!("TLS_ECDHE_ECDSA_WITH_{suite}");
        if go_has_the_extended_master_secret() {
            talks("1.2", &suite);
        } else {
            let (ended_well, told) = run("1.2", &suite);
            assert!(!ended_well && told.contains("handshake failure"), "{told}");
        }
    }
}

/// Since Go 1.21. What has it not, gets no TLS 1.2 session.
fn go_has_the_extended_master_secret() -> bool {
    let output = Command::new("go")
        .args(["env", "GOVERSION"])
        .output()
        .unwrap();
    let version = String::from_utf8(output.stdout).unwrap();
    let minor = version.trim().strip_prefix("go1.").unwrap();
    minor.split('.').next().unwrap().parse::<u32>().unwrap() >= 21
}
