//! Networks of a test's own.

#![allow(dead_code, reason = "a test's helper: each file uses its part")]

use std::process::{Child, Command, Stdio};

use crate::common::until;

/// `ip` with these arguments, in the namespace of the test.
pub fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.expect("tests/run installs iproute2");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {told}");
}

/// Runs this test once more where it may make networks: in namespaces of its own, as their root. False in there. `test` is
/// its whole path, `concat!(module_path!(), "::name")`.
pub fn outside(test: &str) -> bool {
    outside_for(test, 90)
}

/// The same with another limit, in seconds.
pub fn outside_for(test: &str, limit: u32) -> bool {
    if std::env::var_os("ADIT_IN_NAMESPACES").is_some() {
        return false;
    }
    let (_, name) = test
        .split_once("::")
        .expect("a test's path begins with its program");
    let output = Command::new("timeout")
        .args([
            "-s",
            "KILL",
            &limit.to_string(),
            "unshare",
            "--user",
            "--map-root-user",
            "--net",
        ])
        .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env("ADIT_IN_NAMESPACES", "yes")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (out, told) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success() && out.contains("1 passed"),
        "{out}{told}"
    );
    true
}

/// A network namespace, which lives as long as a process in it does: nothing is left of it, however the test ends.
pub struct Namespace {
    holder: Child,
    pub name: &'static str,
    /// Its own addresses; the gateway's on the same wire end in 1.
    pub addresses: [&'static str; 2],
}

impl Namespace {
    pub fn new(name: &'static str, addresses: [&'static str; 2]) -> Self {
        let holder = Command::new("unshare")
            .args(["--net", "sleep", "infinity"])
            .spawn()
            .unwrap();
        let path = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/net"));
        let own = path(std::process::id()).unwrap();
        until("a namespace", || {
            path(holder.id()).is_ok_and(|other| other != own)
        });
        let namespace = Self {
            holder,
            name,
            addresses,
        };
        let pid = namespace.holder.id();
        ip(&format!(
            "link add {name} type veth peer name wire netns {pid}"
        ));
        ip(&format!("link set {name} up"));
        for link in ["lo", "wire"] {
            namespace.ip(&format!("link set {link} up"));
        }
        for address in addresses {
            let near = address.strip_suffix('2').unwrap();
            ip(&format!(
                "addr add {near}1{} dev {name}",
                Self::mask(address)
            ));
            namespace.ip(&format!(
                "addr add {address}{} dev wire",
                Self::mask(address)
            ));
            let family = if address.contains(':') { "-6" } else { "-4" };
            namespace.ip(&format!("{family} route add default via {near}1"));
        }
        namespace
    }

    /// Without duplicate address detection there is nothing to wait for.
    fn mask(address: &str) -> &'static str {
        if address.contains(':') {
            "/64 nodad"
        } else {
            "/24"
        }
    }

    pub fn inside(&self) -> [String; 1] {
        [format!("--net=/proc/{}/ns/net", self.holder.id())]
    }

    /// What runs a command in it.
    pub fn entered(&self) -> Vec<String> {
        [&["nsenter".to_owned()][..], &self.inside()].concat()
    }

    pub fn ip(&self, arguments: &str) {
        let output = Command::new("nsenter")
            .args(self.inside())
            .arg("ip")
            .args(arguments.split(' '))
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{}: ip {arguments}: {told}",
            self.name
        );
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
