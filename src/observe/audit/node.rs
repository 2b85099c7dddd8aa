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

/// The identifier of a tunnel of this process, unique among all nodes and their lives: when this
/// process first made one, in microseconds, its process id, both in hexadecimal, and the tunnel's
/// number.
#[must_use]
pub fn unique_id(number: u64) -> String {
    format!("{}-{number}", life())
}

/// The same of a session. Sessions and tunnels are numbered apart.
pub(super) fn session_id(number: u64) -> String {
    format!("{}-s{number}", life())
}

fn life() -> &'static str {
    static LIFE: OnceLock<String> = OnceLock::new();
    LIFE.get_or_init(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.unwrap_or_default().as_micros();
        format!("{now:x}-{:x}", std::process::id())
    })
}
