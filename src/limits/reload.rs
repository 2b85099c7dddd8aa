//! Bounds on how a running node changes.

use std::time::Duration;

/// How long a listener that a reload closes is still accepted from after the last connection that came. Handshakes that
/// had begun end within a round trip, which is below this around the world.
pub const LISTENER_LINGER: Duration = Duration::from_millis(500);
