//! The node in records: its name, and what tells its sessions and tunnels from all others.

use std::fs;
use std::sync::OnceLock;
use std::time::SystemTime;

/// The node that writes records.
#[derive(Clone, Debug)]
pub(in crate::observe) struct NodeName {
    /// Name of the machine (`gethostname(2)`).
    pub name: Box<str>,
}

impl NodeName {
    /// This machine and this process.
    pub fn here() -> Self {
        let name = fs::read_to_string("/proc/sys/kernel/hostname");
        Self {
            name: name.unwrap_or_default().trim().into(),
        }
    }
}

/// The identifier of a session or a tunnel of this process, unique among all nodes and their
/// lives: when this process first made one, in microseconds, its process id, both in hexadecimal,
/// and the number of the session or the tunnel.
#[must_use]
pub fn unique_id(number: u64) -> String {
    static LIFE: OnceLock<String> = OnceLock::new();
    let life = LIFE.get_or_init(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.unwrap_or_default().as_micros();
        format!("{now:x}-{:x}", std::process::id())
    });
    format!("{life}-{number}")
}
