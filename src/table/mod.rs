//! Tables that all cores share and read without a lock: what is published to them, what is revoked,
//! which devices are managed, and the TLS sessions that may be resumed.
//!
//! But for the sessions, writers work off the data cores, build a whole new table and swap it in
//! with [`Published`]; a reader sees either the old table or the new one, never a mixture, and
//! never waits, allocates or frees. Nothing here does I/O or knows TLS: a table gets its contents
//! from the rooms below it.

mod atomic;
mod devices;
mod load;
mod names;
mod published;
mod revocation;
mod serials;
mod sessions;
#[cfg(test)]
mod tests;

pub use devices::{
    DeviceChanges, DeviceCollector, DeviceEntry, DeviceFault, DeviceFormat, DeviceReader,
    DeviceRegistry, DeviceState, RegistryError, RegistryFull, RegistryProblem,
};
pub use load::CoreLoad;
pub use names::same_name;
pub use published::Published;
pub use revocation::{
    Holders, RevocationIndex, RevocationIndexBuilder, RevocationList, Scope, Status, Subject,
    canonical_serial,
};
pub use serials::SerialSet;
pub use sessions::SessionCache;
