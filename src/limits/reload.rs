//! Bounds on how a running node changes.

use std::time::Duration;

/// How long a listener that a reload closes is still accepted from after the last connection that
/// came. Handshakes that had begun end within a round trip, which is below this around the world.
pub const LISTENER_LINGER: Duration = Duration::from_millis(500);

/// How often the config and the files that it names are looked at for a change, which counts when
/// two looks have seen the same: a file that is still written changes meanwhile. A look asks the
/// system once a file.
pub const FILES_POLL: Duration = Duration::from_secs(1);
