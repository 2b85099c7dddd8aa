//! A node whose profiles are in its store.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "a test's helper: each file uses its part, and fails by panic"
)]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use crate::common::{Pki, TOKEN, free_port, until};

/// A node's folder with an adit.toml that has no profile, and certificates for profiles.
pub struct Node {
    pub pki: Pki,
    pub admin: SocketAddr,
}

impl Node {
    pub fn new() -> Self {
        let pki = Pki::new();
        let admin = free_port();
        let config = format!(
            "state_dir = 'state'\n[engine]\ncores = 1\n[admin]\nlisten = '{admin}'\ntoken_file = 'token'\n\
             [log]\nformat = 'text'\naudit = './audit.log'\n"
        );
        std::fs::write(pki.path("adit.toml"), config).unwrap();
        pki.secret("token", TOKEN);
        Self { pki, admin }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.pki.path(name)
    }

    /// A profile in a file.
    pub fn write(&self, file: &str, name: &str, description: &str) -> PathBuf {
        let path = self.path(file);
        std::fs::write(&path, profile(name, description)).unwrap();
        path
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_adit"));
        command
            .arg("profile")
            .args(args)
            .arg("--config")
            .arg(self.path("adit.toml"))
            .current_dir(self.pki.folder.path())
            .stdin(Stdio::null());
        command
    }

    pub fn output(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// What a command prints that succeeds.
    #[track_caller]
    pub fn done(&self, args: &[&str]) -> String {
        let output = self.output(args);
        assert!(output.status.success(), "{args:?}: {}", errors(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.done(&[args, &["--json"]].concat())).unwrap()
    }

    /// What a command says that fails with this exit code.
    #[track_caller]
    pub fn refused(&self, code: i32, args: &[&str]) -> String {
        let output = self.output(args);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{args:?}: {}",
            errors(&output)
        );
        errors(&output)
    }

    /// Starts the node, and waits until its admin listener answers.
    pub fn run(&self) -> Running {
        let mut command = Command::new(env!("CARGO_BIN_EXE_adit"));
        command
            .args(["run", "--config"])
            .arg(self.path("adit.toml"));
        self.spawn(command)
    }

    pub fn spawn(&self, mut command: Command) -> Running {
        let log = std::fs::File::create(self.path("node.log")).unwrap();
        let child = command
            .current_dir(self.pki.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut running = Running {
            child,
            admin: self.admin,
        };
        // It listens before it serves.
        until("the admin listener answers", || {
            let ended = running.child.try_wait().unwrap();
            assert!(ended.is_none(), "{}", self.log());
            running
                .try_get("/healthz")
                .is_ok_and(|answer| answer.0 == 200)
        });
        running
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("node.log")).unwrap()
    }

    /// A profile that listens on `listen`, whose tunnels lead to `server`.
    pub fn write_listening(&self, file: &str, listen: SocketAddr, server: SocketAddr) {
        let text = profile("corp", "").replace("127.0.0.1:0", &listen.to_string());
        let text = text.replace("127.0.0.1:9", &server.to_string());
        std::fs::write(self.path(file), text).unwrap();
    }

    /// The same, in corp.toml, applied and assigned.
    pub fn assign_listening(&self, listen: SocketAddr, server: SocketAddr) {
        self.write_listening("corp.toml", listen, server);
        self.done(&["apply", "corp.toml"]);
        self.done(&["assign", "corp"]);
    }
}

/// A node that runs; killed when it is dropped.
pub struct Running {
    pub child: Child,
    pub admin: SocketAddr,
}

impl Running {
    /// A request to the admin listener with the token: status and body.
    pub fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
        self.try_ask(method, path, headers, body).unwrap()
    }

    fn try_get(&self, path: &str) -> io::Result<(u16, String)> {
        self.try_ask("GET", path, "", "")
    }

    pub fn try_ask(
        &self,
        method: &str,
        path: &str,
        headers: &str,
        body: &str,
    ) -> io::Result<(u16, String)> {
        let mut stream = TcpStream::connect(self.admin)?;
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nHost: {}\r\nAuthorization: Bearer {TOKEN}\r\n{headers}\
             Content-Length: {length}\r\n\r\n{body}",
            self.admin
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer
            .split_once("\r\n\r\n")
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Ok((status, body.to_owned()))
    }

    pub fn get(&self, path: &str) -> (u16, String) {
        self.ask("GET", path, "", "")
    }

    /// The answer as JSON, which must have this status.
    #[track_caller]
    pub fn json(&self, status: u16, (found, body): (u16, String)) -> Value {
        assert_eq!(found, status, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    pub fn metric(&self, line: &str) -> bool {
        self.get("/metrics").1.lines().any(|found| found == line)
    }

    pub fn ready(&self) -> bool {
        self.get("/readyz").0 == 200
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let kill = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(kill.unwrap().success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn errors(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

pub fn profile(name: &str, description: &str) -> String {
    format!(
        "[profile]\nname = '{name}'\ndescription = '{description}'\nexternal = 'localhost:8443'\n\
         [profile.listener]\nhttps = '127.0.0.1:0'\n\
         [profile.server_certificate]\nprimary = 'server.pem'\nkey = 'server.key'\n\
         [profile.device_auth]\ngroup_certificates = ['ca.pem']\nunmanaged = 'allow'\n\
         [profile.device_auth.crl]\nfiles = ['ca.crl']\n\
         [[profile.service]]\nname = 'wiki'\nservers = ['127.0.0.1:9']\n\
         [[profile.rule]]\nhost = '*.test'\nport = '*'\nservice = 'wiki'\n"
    )
}
