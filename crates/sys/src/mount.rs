//! Attributes of mounts by descriptor.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::check;

pub const RDONLY: u64 = 1;
pub const NOSUID: u64 = 2;
pub const NODEV: u64 = 4;
pub const NOEXEC: u64 = 8;

pub const PROPAGATION_PRIVATE: u64 = libc::MS_PRIVATE;
pub const PROPAGATION_SLAVE: u64 = libc::MS_SLAVE;
pub const PROPAGATION_SHARED: u64 = libc::MS_SHARED;

/// `struct mount_attr`.
#[repr(C)]
#[derive(Default)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Sets attributes of the mount that a descriptor refers to, and of all below it.
pub fn set_attributes(
    mount: BorrowedFd<'_>,
    set: u64,
    propagation: u64,
    recursive: bool,
) -> io::Result<()> {
    let attr = MountAttr { attr_set: set, propagation, ..MountAttr::default() };
    let recursive = if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty NUL-terminated string, and `attr` has the size that is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursive,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    check(result).map(drop)
}

/// Drops everything of a file system that is not yet on the disk (FS_IOC_SHUTDOWN without a log
/// flush): a power cut for tests.
pub fn shutdown_file_system(directory: BorrowedFd<'_>) -> io::Result<()> {
    const FS_IOC_SHUTDOWN: libc::c_ulong = 0x8004_587d;
    let without_log_flush: u32 = 2;
    // SAFETY: the ioctl reads one u32, which outlives the call.
    let result = unsafe {
        libc::ioctl(directory.as_raw_fd(), FS_IOC_SHUTDOWN as _, &raw const without_log_flush)
    };
    check(result.into()).map(drop)
}
