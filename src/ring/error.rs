//! Why a runtime could not be made, in words that name the missing feature and the kernel that has
//! it.

use std::io;

/// Errors of [`super::Runtime::new`].
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// The kernel lacks a feature that the runtime cannot do without.
    #[error(
        "this kernel ({kernel}) has no io_uring {feature}, which Linux {since} introduced; run a newer kernel"
    )]
    MissingFeature {
        /// The feature by its kernel name.
        feature: &'static str,
        /// First kernel version that has it.
        since: &'static str,
        /// The running kernel's release.
        kernel: String,
    },
    /// io_uring is switched off for this process.
    #[error(
        "io_uring is not permitted here (kernel.io_uring_disabled, a seccomp filter or a container profile); \
         allow io_uring_setup, io_uring_enter and io_uring_register for this process"
    )]
    NotPermitted,
    /// Locked memory is exhausted.
    #[error("no memory for the io_uring queues; raise RLIMIT_MEMLOCK or lower engine.cores")]
    NoMemory,
    /// The file limit is reached.
    #[error("no file descriptor left for io_uring; raise RLIMIT_NOFILE")]
    NoDescriptor,
    /// Anything else.
    #[error("cannot {action}: {source}")]
    Io {
        /// The action.
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

impl RingError {
    /// Wraps a system error that happened while doing `action`.
    pub(super) fn io(action: &'static str, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::NotPermitted,
            Some(libc::ENOMEM) => Self::NoMemory,
            Some(libc::EMFILE | libc::ENFILE) => Self::NoDescriptor,
            Some(libc::ENOSYS) => Self::missing("system calls", "5.1"),
            _ => Self::Io { action, source },
        }
    }

    /// The kernel lacks `feature`, which it has since version `since`.
    pub(super) fn missing(feature: &'static str, since: &'static str) -> Self {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self::MissingFeature {
            feature,
            since,
            kernel: kernel.trim().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_feature_names_the_feature_the_version_and_the_running_kernel() {
        let text = RingError::missing("IORING_SETUP_DEFER_TASKRUN", "6.1").to_string();
        assert!(
            text.contains("IORING_SETUP_DEFER_TASKRUN") && text.contains("Linux 6.1"),
            "{text}"
        );
        let running = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        assert!(text.contains(running.trim()), "{text}");
    }

    #[test]
    fn permission_and_limits_have_their_own_words() {
        let of = |code| RingError::io("set up", io::Error::from_raw_os_error(code));
        assert!(matches!(of(libc::EPERM), RingError::NotPermitted));
        assert!(matches!(of(libc::ENOMEM), RingError::NoMemory));
        assert!(matches!(of(libc::EMFILE), RingError::NoDescriptor));
        assert!(matches!(of(libc::ENOSYS), RingError::MissingFeature { .. }));
        assert!(matches!(of(libc::EIO), RingError::Io { .. }));
    }
}
