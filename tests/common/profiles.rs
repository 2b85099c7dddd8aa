//! A node whose profiles are in its store.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "a test's helper: each file uses its part, and fails by panic"
)]

use std::net::{SocketAddr, TcpStream};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use super::common::{Pki, free_port, until};

/// What changes through the admin listener carry.
pub const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A node's folder with an adit.toml that has no profile, and certificates for profiles.
struct Node {
    pki: Pki,
}

impl Node {
    fn new() -> Self {
        let pki = Pki::new();
        let config =
            "state_dir = 'state'\n[admin]\nlisten = 'unix:admin.sock'\n[log]\nformat = 'text'\n";
        std::fs::write(pki.path("adit.toml"), config).unwrap();
        Self { pki }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.pki.path(name)
    }

    /// A profile in a file.
    fn write(&self, file: &str, name: &str, description: &str) -> PathBuf {
        let path = self.path(file);
        std::fs::write(&path, profile(name, description)).unwrap();
        path
    }

    fn command(&self, args: &[&str]) -> Command {
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

    fn output(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// What a command prints that succeeds.
    #[track_caller]
    fn done(&self, args: &[&str]) -> String {
        let output = self.output(args);
        assert!(output.status.success(), "{args:?}: {}", errors(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.done(&[args, &["--json"]].concat())).unwrap()
    }

    /// What a command says that fails with this exit code.
    #[track_caller]
    fn refused(&self, code: i32, args: &[&str]) -> String {
        let output = self.output(args);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{args:?}: {}",
            errors(&output)
        );
        errors(&output)
    }
}

fn errors(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn profile(name: &str, description: &str) -> String {
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

