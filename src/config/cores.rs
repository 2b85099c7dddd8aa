//! The CPUs that the process may use.

use std::sync::OnceLock;
use std::thread::available_parallelism;

/// No machine has more (`NR_CPUS` of the kernel's largest configurations); keeps a strange range
/// from filling memory.
const CPUS_MAX: usize = 1 << 16;

/// CPUs that the process may use.
#[derive(Debug)]
pub(super) struct Cpus {
    /// Ids of the CPUs in the affinity mask, ascending, at least one.
    pub(super) allowed: Vec<usize>,
    /// How many of them the process's CPU quota keeps busy: from 1 to the length of `allowed`.
    pub(super) usable: usize,
}

/// Returns what the process may use, as found at the first call and kept from then on: workers are
/// pinned later, and a mask that was read on a pinned thread would make a reload with
/// `cores = "all"` shrink to one core. So the first call has to come before anything is pinned.
pub(super) fn cpus() -> &'static Cpus {
    static CPUS: OnceLock<Cpus> = OnceLock::new();
    CPUS.get_or_init(|| {
        let usable = available_parallelism().map_or(1, usize::from);
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let allowed = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
            .and_then(cpu_list)
            // Without /proc the count is the best that is known, and CPUs are nearly always numbered from 0.
            .unwrap_or_else(|| (0..usable).collect());
        let usable = usable.min(allowed.len());
        Cpus { allowed, usable }
    })
}

/// Reads the kernel's list format, such as `0-3,8`. `None` where it is empty or not that.
fn cpu_list(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last >= CPUS_MAX {
            return None;
        }
        cpus.extend(first..=last);
    }
    cpus.sort_unstable();
    cpus.dedup();
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_lists() {
        assert_eq!(cpu_list("\t0-1\n"), Some(vec![0, 1]));
        assert_eq!(cpu_list("0-2,8,10-11"), Some(vec![0, 1, 2, 8, 10, 11]));
        assert_eq!(cpu_list("5"), Some(vec![5]));
        for bad in ["", "a", "3-1", "1,,2", "0-99999999999"] {
            assert_eq!(cpu_list(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn this_process_may_use_at_least_one() {
        let Cpus { allowed, usable } = cpus();
        assert!(allowed.is_sorted());
        assert!((1..=allowed.len()).contains(usable));
    }
}
