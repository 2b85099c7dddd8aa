//! A gateway process: its config, its start, and what its admin listener says.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use crate::common::clock::Clock;
use crate::common::{Pki, TOKEN, free_port, service, until};

/// A running gateway; killed when it is dropped.
pub struct Gateway {
    pub child: Child,
    pub address: SocketAddr,
    /// Of the plain listener, if there is one.
    pub plain: Option<SocketAddr>,
    pub admin: SocketAddr,
    log: Arc<Mutex<String>>,
}

impl Gateway {
    /// A gateway of this folder: all devices may come in, and no destination leads anywhere yet.
    pub fn builder(pki: &Pki) -> Builder<'_> {
        Builder {
            pki,
            file: "adit.toml",
            admin: free_port(),
            token: "",
            engine: String::new(),
            auth: "unmanaged = 'allow'".to_owned(),
            rest: String::new(),
            edits: Vec::new(),
            clock: None,
        }
    }

    /// With the config that is written in adit.toml.
    pub fn run(pki: &Pki, admin: SocketAddr) -> Self {
        Self::spawn(Self::command(pki), admin)
    }

    /// What runs a gateway with the config that is written in adit.toml.
    pub fn command(pki: &Pki) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_adit"));
        command.args(["run", "--config"]).arg(pki.path("adit.toml"));
        command
    }

    pub fn spawn(mut command: Command, admin: SocketAddr) -> Self {
        let mut child = command
            .env("RUST_LOG", "info")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut seen = String::new();
        let (address, plain) = loop {
            let mut line = String::new();
            assert!(
                log.read_line(&mut line).unwrap() > 0,
                "the gateway did not start: {seen}"
            );
            seen.push_str(&line);
            let value = |key| {
                let rest = line.split_once(key)?.1;
                rest.split_whitespace().next()?.parse().ok()
            };
            if let Some(address) = value("address=") {
                break (address, value("plain="));
            }
        };
        // The log goes on; nobody must block on a full pipe.
        let kept = Arc::new(Mutex::new(seen));
        let keeping = kept.clone();
        std::thread::spawn(move || {
            let mut line = Vec::new();
            while log
                .read_until(b'\n', &mut line)
                .is_ok_and(|count| count > 0)
            {
                let text = String::from_utf8_lossy(&line);
                keeping.lock().unwrap().push_str(&text);
                line.clear();
            }
        });
        Self {
            log: kept,
            child,
            address,
            plain,
            admin,
        }
    }

    /// How many lines of the log have these words.
    pub fn said(&self, words: &str) -> usize {
        let log = self.log.lock().unwrap();
        log.lines().filter(|line| line.contains(words)).count()
    }

    /// A GET on the admin listener: status and body.
    pub fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.admin).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n",
            self.admin
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (
            head.split(' ').nth(1).unwrap().parse().unwrap(),
            body.to_owned(),
        )
    }

    /// The sum of the samples whose line begins with `name` and contains `labels`.
    pub fn metric(&self, name: &str, labels: &str) -> f64 {
        let (_, body) = self.get("/metrics");
        let lines = body.lines().filter(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(['{', ' ']))
                && line.contains(labels)
        });
        lines
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
            .sum()
    }

    pub fn ended(&self, reason: &str) -> f64 {
        self.metric("adit_ends_total", &format!("reason=\"{reason}\""))
    }

    /// Waits until this has ended so many sessions, and no other reason any.
    pub fn has_ended(&self, reason: &str, times: f64) {
        until(reason, || self.ended(reason) == times);
        assert_eq!(self.metric("adit_ends_total", ""), times, "{reason} alone");
    }

    /// Waits until a tunnel of this peer is listed.
    pub fn lists_peer(&self, peer: &str) {
        let peer = format!("\"peer\":\"{peer}\"");
        until(&peer, || self.get("/tunnels").1.contains(&peer));
    }

    /// Waits until no tunnel is listed.
    pub fn lists_none(&self) {
        until("no tunnel", || !self.get("/tunnels").1.contains("\"peer\""));
    }

    /// Reloads the config, and waits until it is active.
    pub fn reload(&self) {
        let generation = || self.metric("adit_config_generation", "");
        let before = generation();
        self.signal("HUP");
        until("a new generation", || generation() > before);
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-s", name, &pid])
                .status()
                .unwrap()
                .success()
        );
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A config file, key by key, and the start of a gateway with it.
#[derive(Clone)]
pub struct Builder<'p> {
    pki: &'p Pki,
    file: &'p str,
    admin: SocketAddr,
    token: &'static str,
    engine: String,
    auth: String,
    rest: String,
    edits: Vec<(String, String)>,
    clock: Option<&'p Clock>,
}

impl<'p> Builder<'p> {
    /// Where the admin listener is, where that is known before.
    pub fn admin(mut self, address: SocketAddr) -> Self {
        self.admin = address;
        self
    }

    /// Keys of `[engine]`.
    pub fn engine(mut self, keys: &str) -> Self {
        keys.clone_into(&mut self.engine);
        self
    }

    /// Keys of `[profile.device_auth]` beside the group certificates, instead of letting all devices in.
    pub fn auth(mut self, keys: &str) -> Self {
        keys.clone_into(&mut self.auth);
        self
    }

    /// More keys of `[profile.device_auth.crl]`, and all tables behind it.
    pub fn rest(mut self, text: &str) -> Self {
        self.rest.push_str(text);
        self.rest.push('\n');
        self
    }

    /// A [`service`] of these servers, to which every destination in .test leads.
    pub fn servers(self, servers: &[SocketAddr]) -> Self {
        self.rest(&service(servers))
    }

    /// Keys of `[profile.listener]`, instead of TLS on a port that the system chooses.
    pub fn listener(self, keys: &str) -> Self {
        self.replace("https = '127.0.0.1:0'", keys)
    }

    /// Keys of `[profile.server_certificate]`; without any the gateway signs its own.
    pub fn certificate(self, keys: Option<&str>) -> Self {
        match keys {
            Some(keys) => self.replace("primary = 'server.pem'\nkey = 'server.key'", keys),
            None => self.replace(CERTIFICATE, ""),
        }
    }

    /// CRLs are not asked for.
    pub fn without_crls(self) -> Self {
        self.replace("files = ['ca.crl']", "enabled = false")
    }

    /// Changes through the admin listener are allowed with [`TOKEN`], whose file is written.
    pub fn token(mut self) -> Self {
        self.pki.secret("token", TOKEN);
        self.token = "token_file = 'token'";
        self
    }

    /// The text that these keys make has `from`, which becomes `to`.
    pub fn replace(mut self, from: &str, to: &str) -> Self {
        self.edits.push((from.to_owned(), to.to_owned()));
        self
    }

    /// The config is written into a file of another name than adit.toml, and its state is apart: several gateways share a
    /// folder.
    pub fn file(mut self, name: &'p str) -> Self {
        self.file = name;
        let state = format!("state_dir = 'state of {name}'");
        self.replace("state_dir = 'state'", &state)
    }

    /// The gateway goes by this clock.
    pub fn clock(mut self, clock: &'p Clock) -> Self {
        self.clock = Some(clock);
        self
    }

    /// The config file's text.
    #[track_caller]
    pub fn text(&self) -> String {
        let Self {
            admin,
            token,
            engine,
            auth,
            rest,
            ..
        } = self;
        let text = format!(
            "state_dir = 'state'\n[engine]\n{engine}\n[admin]\nlisten = '{admin}'\n{token}\n[log]\nformat = 'text'\n\
             audit = './audit.log'\n[profile]\nexternal = 'localhost:8443'\n[profile.listener]\n\
             https = '127.0.0.1:0'\n{CERTIFICATE}[profile.device_auth]\ngroup_certificates = ['ca.pem']\n{auth}\n\
             [profile.device_auth.crl]\nfiles = ['ca.crl']\n{rest}\n"
        );
        self.edits.iter().fold(text, |text, (from, to)| {
            assert!(text.contains(from), "{from:?} is not in {text}");
            text.replace(from, to)
        })
    }

    /// Puts the file in its place; the admin listener's address.
    #[track_caller]
    pub fn write(&self) -> SocketAddr {
        let new = self.pki.path("new.toml");
        std::fs::write(&new, self.text()).unwrap();
        std::fs::rename(new, self.pki.path(self.file)).unwrap();
        self.admin
    }

    /// What runs the gateway, once its file is written.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_adit"));
        command
            .args(["run", "--config"])
            .arg(self.pki.path(self.file));
        if let Some(clock) = self.clock {
            clock.rule(&mut command);
        }
        command
    }

    /// Writes the file and starts the gateway.
    #[track_caller]
    pub fn start(&self) -> Gateway {
        self.write();
        Gateway::spawn(self.command(), self.admin)
    }
}

/// The server certificate that [`Pki`] makes.
const CERTIFICATE: &str =
    "[profile.server_certificate]\nprimary = 'server.pem'\nkey = 'server.key'\n";
