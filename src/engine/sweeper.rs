//! Tells every core that something has changed that open tunnels depend on.

use std::sync::OnceLock;

use super::worker;
use crate::access::Causes;
use crate::ring::Remote;

/// The cores, once they run.
#[derive(Default)]
pub(super) struct Sweeper(OnceLock<Vec<Remote>>);

impl Sweeper {
    /// The cores that are told from now on.
    pub fn start(&self, cores: Vec<Remote>) {
        // Set once, by the node's start.
        let _ = self.0.set(cores);
    }

    /// Lets every core look at its open tunnels again. To be called after what has changed was
    /// published.
    pub fn changed(&self, causes: Causes) {
        for core in self.0.get().into_iter().flatten() {
            core.run(move || worker::sweep(causes));
        }
    }
}
