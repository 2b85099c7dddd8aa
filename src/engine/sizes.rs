//! Tunnels, clients that are not authenticated yet, receive buffers and open files, fitted to each
//! other.

use crate::config::Engine;
use crate::limits::{
    BUFFERS_MAX, BUFFERS_MIN, DESCRIPTORS_OF_CORE, DESCRIPTORS_OF_PROCESS, GUEST_DESCRIPTORS_PART,
};
use crate::ring;

/// Sizes that fit into the limit of open files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Open files of the process.
    pub descriptors: u64,
    /// Those of them that are left for tunnels and for clients that are not authenticated yet.
    pub usable: usize,
    /// Tunnels of the node that these suffice for.
    pub possible: usize,
    /// Tunnels of the node, as the config has them at the start.
    pub tunnels: usize,
    /// Connections of each core whose clients are not authenticated yet, for certain. There may be
    /// more while tunnels leave open files for them.
    pub unauthenticated: usize,
    /// Small receive buffers of each core.
    pub buffers: u16,
}

impl Sizes {
    /// Those of `engine` in this process.
    #[must_use]
    pub fn of(engine: &Engine) -> Self {
        let wanted = (engine.max_tunnels, engine.max_unauthenticated);
        Self::within(engine.cores.len(), wanted, ring::descriptor_limit())
    }

    fn within(
        cores: usize,
        (max_tunnels, max_unauthenticated): (usize, usize),
        descriptors: u64,
    ) -> Self {
        let all = usize::try_from(descriptors).unwrap_or(usize::MAX);
        let own = DESCRIPTORS_OF_PROCESS + cores * DESCRIPTORS_OF_CORE;
        let usable = all - own.min(all / 2);
        let share = usable / GUEST_DESCRIPTORS_PART / cores;
        let unauthenticated = max_unauthenticated.min(share).max(1);
        let possible = (usable.saturating_sub(unauthenticated * cores) / 2).max(1);
        let tunnels = max_tunnels.clamp(1, possible);
        // A buffer for each direction of each tunnel, so that those that hold one never leave others without; some more,
        // because cores do not have the same number exactly.
        let of_core = tunnels.div_ceil(cores);
        let buffers = of_core.saturating_mul(2).saturating_add(of_core / 4);
        Self {
            descriptors,
            usable,
            possible,
            tunnels,
            unauthenticated,
            buffers: buffers.clamp(BUFFERS_MIN.into(), BUFFERS_MAX.into()) as u16,
        }
    }

    /// Says in the log what they are, and where they are less than the config asks for.
    pub fn log(&self, engine: &Engine) {
        let Self {
            descriptors,
            tunnels,
            unauthenticated,
            buffers,
            usable: _,
            possible: _,
        } = *self;
        tracing::info!(
            open_files = descriptors,
            max_tunnels = tunnels,
            unauthenticated_per_core = unauthenticated,
            receive_buffers_per_core = buffers,
            cores = engine.cores.len(),
            "sizes"
        );
        if tunnels < engine.max_tunnels {
            tracing::warn!(
                "{descriptors} open files are allowed, and a tunnel takes two: the limit is {tunnels} \
                    tunnels instead of engine.max_tunnels = {}; raise LimitNOFILE",
                engine.max_tunnels
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_fit_together_whatever_is_allowed() {
        for cores in [1, 2, 8, 64] {
            for descriptors in [0, 10, 60, 1024, 20_000, 524_288, 1 << 30, u64::MAX] {
                let sizes = Sizes::within(cores, (100_000, 16_384), descriptors);
                assert!(sizes.tunnels >= 1 && sizes.unauthenticated >= 1);
                assert!(sizes.tunnels <= 100_000 && sizes.unauthenticated <= 16_384);
                let needed = 2 * sizes.tunnels + cores * sizes.unauthenticated;
                let one_each = 2 + cores;
                assert!(
                    needed as u64 <= descriptors || needed <= one_each,
                    "{cores} {descriptors} {sizes:?}"
                );
            }
        }
    }

    #[test]
    fn each_direction_of_each_tunnel_has_a_buffer() {
        let sizes = Sizes::within(4, (100_000, 16_384), 1 << 20);
        assert_eq!((sizes.tunnels, sizes.unauthenticated), (100_000, 16_384));
        assert!(usize::from(sizes.buffers) >= 2 * 100_000 / 4);
        let small = Sizes::within(4, (10, 16), 1 << 20);
        assert_eq!(small.buffers, BUFFERS_MIN);
    }
}
