//! Settings of the process and its threads that a runtime needs: CPU, priority, number of
//! descriptors.

use std::io;

/// Keeps this thread on one CPU.
///
/// # Errors
/// The system's: the CPU does not exist or is not allowed to this process.
pub fn pin_to_cpu(cpu: usize) -> io::Result<()> {
    // SAFETY: a zeroed cpu_set_t is an empty set; CPU_SET checks its index against the set's size; the kernel reads
    // `size_of` bytes of a set that lives through the call.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Lets every other thread of the machine go first (nice 19, of this thread alone: sched(7)). For
/// long work beside the data cores. Where the system refuses, the work is done all the same.
pub fn yield_to_others() {
    const LOWEST: libc::c_int = 19;
    const THIS_THREAD: libc::id_t = 0;
    // SAFETY: takes no pointer.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, THIS_THREAD, LOWEST) };
}

/// The limit of open descriptors. All that there can be where the system does not say.
#[must_use]
pub fn descriptor_limit() -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: u64::MAX,
        rlim_max: u64::MAX,
    };
    // SAFETY: the call is given one rlimit that lives through it; where it fails, it leaves it as it is.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    limit.rlim_cur
}

/// Raises the limit of open descriptors to the most that is allowed, and returns it.
///
/// # Errors
/// The system's.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls are given one rlimit that lives through them.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) != 0 {
            return Err(io::Error::last_os_error());
        }
        if limit.rlim_cur < limit.rlim_max {
            limit.rlim_cur = limit.rlim_max;
            if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) != 0 {
                return Err(io::Error::last_os_error());
            }
        }
    }
    Ok(limit.rlim_cur)
}
