//! Programs beside the gateway: other proxies.

#![allow(dead_code, clippy::unwrap_used, reason = "a test's helper")]

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::common::{Pki, until};

/// A program that runs in the folder of `pki`, ended with this; what it says is in `NAME.log`.
pub struct Program(Child);

impl Program {
    pub fn start(pki: &Pki, name: &str, args: &[&str]) -> Self {
        Self::start_at(pki, Path::new(name), name, args)
    }

    pub fn start_at(pki: &Pki, path: &Path, name: &str, args: &[&str]) -> Self {
        let log = std::fs::File::create(pki.path(&format!("{name}.log"))).unwrap();
        let child = Command::new(path)
            .args(args)
            .current_dir(pki.folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        Self(child)
    }

    /// HAProxy with this configuration, when it listens on each of `ports`.
    pub fn haproxy(pki: &Pki, config: &str, ports: &[SocketAddr]) -> Self {
        let head = "global\n  maxconn 100\n  tune.ssl.default-dh-param 2048\ndefaults\n  timeout connect 5s\n  \
                    timeout client 20s\n  timeout server 20s\n";
        std::fs::write(pki.path("haproxy.cfg"), format!("{head}{config}")).unwrap();
        let program = Self::start(pki, "haproxy", &["-db", "-f", "haproxy.cfg"]);
        for port in ports {
            until("HAProxy listens", || TcpStream::connect(port).is_ok());
        }
        program
    }

    /// Envoy with this configuration, from where `tests/run` puts it. It may not listen yet.
    pub fn envoy(pki: &Pki, config: &str) -> Self {
        let venv = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/venv/lib");
        let pythons = std::fs::read_dir(&venv).into_iter().flatten().flatten();
        let envoy = pythons
            .map(|python| python.path().join("site-packages/envoy/_bin/envoy"))
            .find(|path| path.exists())
            .expect("Envoy is in target/venv; tests/run puts it there");
        std::fs::write(pki.path("envoy.yaml"), config).unwrap();
        let args = [
            "-c",
            "envoy.yaml",
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "-l",
            "warn",
        ];
        Self::start_at(pki, &envoy, "envoy", &args)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
