//! Bounds of an upgrade: a process in another one's place.

use std::time::Duration;

use super::{ADMIN_STOP, AUDIT_STOP, LIST_ANSWER, MAX_IDENTITY_NAME_BYTES, SESSIONS_END};

/// How long the process that is to take over may read its files and start its cores. Measured on a
/// quiet machine: up to 3.4 s for a registry of five million devices (0016), 1.5 s for a list of
/// five million certificates (0013). A machine that is busy and a slow disk take many times that.
pub const SUCCESSION_PATIENCE: Duration = Duration::from_secs(120);

/// How often the process that has taken over asks the one before whether it is there, where there
/// is nothing else to say.
pub const SUCCESSION_BEAT: Duration = Duration::from_secs(1);

/// How long either process may say nothing before the other gives it up. A process that runs
/// answers at once, whatever it does beside; a machine that is paused (a snapshot, a migration) for
/// less is no reason to cut tunnels.
pub const SUCCESSION_SILENCE: Duration = Duration::from_secs(10);

/// How long the process before may take to activate one change: as long as the new one may take for
/// all of them.
pub const SUCCESSION_APPLY: Duration = SUCCESSION_PATIENCE;

/// How long a process that follows nobody any more lets its tunnels run: nothing tells it whom to
/// block.
pub const SUCCESSION_ORPHANED: Duration = Duration::from_secs(10);

/// When a process that is given up is killed by the one that has taken over: it has ended by itself
/// before, unless it is stopped or stuck.
pub const SUCCESSION_END: Duration = SUCCESSION_SILENCE
    .saturating_add(SUCCESSION_ORPHANED)
    .saturating_add(SESSIONS_END)
    .saturating_add(AUDIT_STOP)
    .saturating_add(ADMIN_STOP);

/// How long the process before may take to answer a question that the admin listener was asked: as
/// long as its own cores may take to list their tunnels, and a little for the way.
pub const SUCCESSION_ANSWER: Duration = LIST_ANSWER.saturating_add(Duration::from_secs(1));

/// Questions to the process before that wait for its control core.
pub const SUCCESSION_QUESTIONS: usize = 8;

/// Upgrades after which the numbers of tunnels begin anew, and tunnels of a core that each process
/// has numbers for: so a number fits into the 53 bits that a JSON number is exact in.
pub const TUNNEL_NUMBERS: (u64, u32) = (32, 40);

const _: () = assert!(TUNNEL_NUMBERS.0 << (TUNNEL_NUMBERS.1 + 8) <= 1 << 53);

/// Bytes of the list of drained servers that are read: a service of 255 bytes and a server of 260
/// each, some thousand times.
pub const DRAINED_FILE_MAX: u64 = 1 << 20;

/// Devices in one message, and bytes of a message. A device's name and user have 255 bytes each at
/// most, which JSON may write with six bytes for one.
pub const SUCCESSION_DEVICES: usize = 1000;
/// Parts of the registry that are compared before the other process hears of it: 80 000 devices of
/// five million, which take some 50 ms.
pub const SUCCESSION_SHARDS: usize = 64;

/// See [`SUCCESSION_DEVICES`].
pub const SUCCESSION_MESSAGE_MAX: usize = 4 << 20;

const _: () = assert!(
    SUCCESSION_DEVICES * (2 * 6 * MAX_IDENTITY_NAME_BYTES + 64) < SUCCESSION_MESSAGE_MAX,
    "a message of devices fits"
);

const _: () = assert!(SUCCESSION_BEAT.as_secs() * 2 < SUCCESSION_SILENCE.as_secs());
