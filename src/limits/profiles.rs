//! Bounds on the store of profiles.

use std::time::Duration;

/// Longest name of a stored profile, in bytes. It stands in paths, in tables and in metric labels.
pub const PROFILE_NAME_MAX: usize = 64;

/// Largest text of a stored profile, in bytes: room for about 40 000 rules. Every version that is
/// kept takes as much.
pub const PROFILE_TEXT_MAX: usize = 4 << 20;

/// Longest note on a version, in bytes: a line or two that say why.
pub const PROFILE_NOTE_MAX: usize = 1024;

/// Longest name of who makes a version, in bytes.
pub const PROFILE_AUTHOR_MAX: usize = 256;

/// Versions of a profile that are kept; of more, the oldest go. At two changes a day it is seven
/// weeks to look back on.
pub const PROFILE_VERSIONS_KEPT: usize = 100;

/// Profiles in one store. A deployment has one for each gateway name; the list of all is read at
/// each look at it.
pub const PROFILES_MAX: usize = 1000;

/// Bytes of the store that are kept in memory while it is open: the largest text and the pages that
/// lead to it.
pub const PROFILE_STORE_CACHE: usize = 16 << 20;

/// How long the store is waited for while another process has it open. A change takes milliseconds;
/// one that activates a profile takes as long as a reload.
pub const PROFILE_STORE_PATIENCE: Duration = Duration::from_secs(10);

/// How often the store is tried meanwhile.
pub const PROFILE_STORE_POLL: Duration = Duration::from_millis(10);

/// Longest name that a request of the admin listener may give to whoever makes a change, in bytes.
pub const ADMIN_USER_MAX: usize = 64;

const _: () = assert!(ADMIN_USER_MAX < PROFILE_AUTHOR_MAX / 2);
