//! Bounds of the process's life and of what it keeps.

use std::time::Duration;

/// How long a process that is told to stop may take until it begins to drain: one that still starts
/// is ended then. Reading a registry of five million devices takes less.
pub const STOP_HEARD: Duration = Duration::from_secs(5);

/// How long jobs beside the data cores (reading files, asking the file system) may take to end once
/// all sessions have. What hangs with a file system ends with the process.
pub const STOP_JOBS: Duration = Duration::from_secs(3);

/// How often the end of that time is looked for.
pub const STOP_POLL: Duration = Duration::from_millis(20);

/// How long the last line of a process that ends by that may take: the reader of its log may hang
/// too.
pub const STOP_LAST_WORD: Duration = Duration::from_millis(200);

/// How long a node that starts and a command wait for the lock of the state folder while a command
/// has it. A change takes milliseconds.
pub const STATE_LOCK_PATIENCE: Duration = Duration::from_secs(3);

/// How often the lock is looked at meanwhile.
pub const STATE_LOCK_POLL: Duration = Duration::from_millis(20);

/// How often the socket in the state folder is looked for: one that somebody has removed is back
/// before a person has asked why.
pub const STATE_SOCKET_POLL: Duration = Duration::from_secs(2);

/// Bytes of a Unix socket's path: `sun_path` has 108, of which one ends it (`unix(7)`).
pub const SOCKET_PATH_MAX: usize = 107;

/// Most bytes of the first line of the device registry's copy: a path and a few words.
pub const REGISTRY_COPY_HEAD_MAX: u64 = 64 * 1024;

/// How often a node looks for findings: what is amiss is in the log within seconds.
pub const HEALTH_POLL: Duration = Duration::from_secs(2);
