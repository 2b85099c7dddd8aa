//! The two system calls of the loop, made with the registered ring descriptor.
//!
//! The io-uring crate forgets a registered descriptor together with the short-lived submitter that
//! registered it, so the registration and the enter are made here.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use io_uring::IoUring;

const REGISTER_RING_FDS: libc::c_uint = 20;
const ENTER_GETEVENTS: libc::c_uint = 1;
const ENTER_EXT_ARG: libc::c_uint = 1 << 3;
const ENTER_REGISTERED_RING: libc::c_uint = 1 << 4;

/// `struct io_uring_rsrc_update` of the kernel's interface.
#[repr(C)]
struct Update {
    offset: u32,
    reserved: u32,
    data: u64,
}

/// `struct io_uring_getevents_arg`.
#[repr(C)]
struct WaitArgument {
    signal_mask: u64,
    signal_mask_size: u32,
    min_wait_micros: u32,
    timespec: u64,
}

/// `struct __kernel_timespec`.
#[repr(C)]
struct KernelTime {
    seconds: i64,
    nanos: i64,
}

/// Registers the ring's descriptor with this thread: an enter then needs no look-up in the file
/// table.
pub(super) fn register(ring: &IoUring) -> io::Result<u32> {
    let mut update = Update {
        offset: u32::MAX,
        reserved: 0,
        data: ring.as_raw_fd() as u64,
    };
    let fd: RawFd = ring.as_raw_fd();
    // SAFETY: the kernel reads and writes one `Update`, which lives through the call.
    let registered = unsafe {
        libc::syscall(
            libc::SYS_io_uring_register,
            fd,
            REGISTER_RING_FDS,
            &raw mut update,
            1u32,
        )
    };
    if registered == 1 {
        Ok(update.offset)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// `io_uring_enter`: submits `submit` entries, runs deferred work, and waits for `want` completions
/// or for `timeout`.
pub(super) fn enter(
    registered: u32,
    submit: usize,
    want: u32,
    timeout: Option<Duration>,
) -> io::Result<()> {
    let time = timeout.map(|t| KernelTime {
        seconds: t.as_secs() as i64,
        nanos: i64::from(t.subsec_nanos()),
    });
    let timespec = time
        .as_ref()
        .map_or(0, |time| std::ptr::from_ref(time) as u64);
    let argument = WaitArgument {
        signal_mask: 0,
        signal_mask_size: 0,
        min_wait_micros: 0,
        timespec,
    };
    let flags = ENTER_GETEVENTS | ENTER_EXT_ARG | ENTER_REGISTERED_RING;
    // SAFETY: the kernel reads one `WaitArgument` and, if set, the `KernelTime` it points to; both live through the
    // call. Entries in the submission queue were checked when they were pushed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_io_uring_enter,
            registered,
            submit as libc::c_uint,
            want,
            flags,
            &raw const argument,
            size_of::<WaitArgument>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
