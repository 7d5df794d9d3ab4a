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
    set_attr(mount, &MountAttr { attr_set: set, propagation, ..MountAttr::default() }, recursive)
}

/// Shows the files of a detached mount as a user namespace maps their ids: what is 0 on the disk
/// belongs to whom that namespace calls 0. Once in a mount's life. EINVAL where the file system or
/// the kernel cannot.
pub fn map_ids(mount: BorrowedFd<'_>, userns: BorrowedFd<'_>) -> io::Result<()> {
    const IDMAP: u64 = 0x10_0000;
    let userns_fd = u64::try_from(userns.as_raw_fd()).unwrap_or(u64::MAX);
    set_attr(mount, &MountAttr { attr_set: IDMAP, userns_fd, ..MountAttr::default() }, false)
}

fn set_attr(mount: BorrowedFd<'_>, attr: &MountAttr, recursive: bool) -> io::Result<()> {
    let recursive = if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty NUL-terminated string, and `attr` has the size that is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursive,
            std::ptr::from_ref(attr),
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
