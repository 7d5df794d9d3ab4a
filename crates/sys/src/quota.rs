//! Limits of directories: project quotas, loop devices, and ext4 growing while it is mounted.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use crate::check;

/// `struct fsxattr`.
#[repr(C)]
#[derive(Default)]
struct FsXattr {
    xflags: u32,
    extsize: u32,
    nextents: u32,
    projid: u32,
    cowextsize: u32,
    pad: [u8; 8],
}

/// `struct if_dqblk` and, with the id that follows it, `struct if_nextdqblk`.
#[repr(C)]
#[derive(Default)]
struct Dqblk {
    hard_blocks: u64,
    soft_blocks: u64,
    bytes: u64,
    hard_inodes: u64,
    soft_inodes: u64,
    inodes: u64,
    block_time: u64,
    inode_time: u64,
    valid: u32,
    id: u32,
}

/// `struct fs_quota_stat`: 80 bytes, of which the flags are asked for.
#[repr(C)]
struct QuotaStat {
    version: i8,
    flags: u16,
    pad: i8,
    rest: [u64; 9],
}

/// What the kernel counts for a project.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Project {
    pub id: u32,
    pub bytes: u64,
    pub inodes: u64,
    /// None at all is 0.
    pub limit: u64,
}

const PROJECT: u32 = 2;
/// The unit of limits.
const BLOCK: u64 = 1024;

fn quotactl(
    file: BorrowedFd<'_>,
    command: u32,
    id: u32,
    data: *mut libc::c_void,
) -> io::Result<()> {
    const SYS_QUOTACTL_FD: libc::c_long = 443;
    let command = (command << 8) | PROJECT;
    // SAFETY: all callers are below; each gives memory that its command reads or fills, which is
    // as large as the kernel's structure and outlives the call.
    let result = unsafe { libc::syscall(SYS_QUOTACTL_FD, file.as_raw_fd(), command, id, data) };
    check(result).map(drop)
}

/// Whether the file system counts projects and holds them to their limits.
pub fn holds_projects_to_limits(file: BorrowedFd<'_>) -> bool {
    const Q_XGETQSTAT: u32 = 0x5805;
    const ENFORCED: u16 = 1 << 5;
    let mut stat = QuotaStat { version: 1, flags: 0, pad: 0, rest: [0; 9] };
    quotactl(file, Q_XGETQSTAT, 0, (&raw mut stat).cast()).is_ok() && stat.flags & ENFORCED != 0
}

fn project_of(found: &Dqblk, id: u32) -> Project {
    Project {
        id,
        bytes: found.bytes,
        inodes: found.inodes,
        limit: found.hard_blocks.saturating_mul(BLOCK),
    }
}

/// What a project has and may have. One that nothing is known of has and may have nothing.
pub fn project(file: BorrowedFd<'_>, id: u32) -> io::Result<Project> {
    const Q_GETQUOTA: u32 = 0x80_0007;
    let mut found = Dqblk::default();
    match quotactl(file, Q_GETQUOTA, id, (&raw mut found).cast()) {
        Ok(()) => Ok(project_of(&found, id)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(project_of(&found, id)),
        Err(error) => Err(error),
    }
}

/// The first project from `id` on that something is known of.
pub fn next_project(file: BorrowedFd<'_>, id: u32) -> io::Result<Option<Project>> {
    const Q_GETNEXTQUOTA: u32 = 0x80_0009;
    let mut found = Dqblk::default();
    match quotactl(file, Q_GETNEXTQUOTA, id, (&raw mut found).cast()) {
        Ok(()) => Ok(Some(project_of(&found, found.id))),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Limits the bytes of a project; 0 takes the limit away.
pub fn limit_project(file: BorrowedFd<'_>, id: u32, bytes: u64) -> io::Result<()> {
    const Q_SETQUOTA: u32 = 0x80_0008;
    const BLOCK_LIMITS: u32 = 1;
    let hard_blocks = bytes.div_ceil(BLOCK);
    let mut wanted = Dqblk { hard_blocks, soft_blocks: 0, valid: BLOCK_LIMITS, ..Dqblk::default() };
    quotactl(file, Q_SETQUOTA, id, (&raw mut wanted).cast())
}

fn attributes(file: BorrowedFd<'_>) -> io::Result<FsXattr> {
    const FS_IOC_FSGETXATTR: libc::c_ulong = 0x801c_581f;
    let mut found = FsXattr::default();
    // SAFETY: the ioctl fills one `struct fsxattr`, which outlives the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FSGETXATTR as _, &raw mut found) };
    check(result.into())?;
    Ok(found)
}

/// The project that a file or directory counts for; 0 is none.
pub fn project_id(file: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(attributes(file)?.projid)
}

/// Lets a directory, and what will be made in it, count for a project.
pub fn set_project_id(directory: BorrowedFd<'_>, id: u32) -> io::Result<()> {
    const FS_IOC_FSSETXATTR: libc::c_ulong = 0x401c_5820;
    const INHERIT: u32 = 0x200;
    let mut wanted = attributes(directory)?;
    wanted.projid = id;
    wanted.xflags |= INHERIT;
    // SAFETY: the ioctl reads one `struct fsxattr`, which outlives the call.
    let result =
        unsafe { libc::ioctl(directory.as_raw_fd(), FS_IOC_FSSETXATTR as _, &raw const wanted) };
    check(result.into()).map(drop)
}

/// `struct loop_info64`.
#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

impl LoopInfo {
    fn new(flags: u32) -> Self {
        Self {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            size_limit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags,
            file_name: [0; 64],
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        }
    }
}

/// `struct loop_config`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

/// The number of a loop device that nobody used a moment ago. `control` is /dev/loop-control.
pub fn free_loop(control: BorrowedFd<'_>) -> io::Result<u32> {
    const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4c82;
    // SAFETY: the ioctl takes no argument.
    let result = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) };
    Ok(u32::try_from(check(result.into())?).unwrap_or_default())
}

/// Puts a file below a loop device until nobody has the device open; EBUSY where one is.
pub fn configure_loop(
    device: BorrowedFd<'_>,
    file: BorrowedFd<'_>,
    block_size: u32,
) -> io::Result<()> {
    const LOOP_CONFIGURE: libc::c_ulong = 0x4c0a;
    const AUTOCLEAR: u32 = 4;
    let config = LoopConfig {
        fd: u32::try_from(file.as_raw_fd()).unwrap_or(u32::MAX),
        block_size,
        info: LoopInfo::new(AUTOCLEAR),
        reserved: [0; 8],
    };
    // SAFETY: the ioctl reads one `struct loop_config`, which outlives the call.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE as _, &raw const config) };
    check(result.into()).map(drop)
}

/// Device and inode of the file below a loop device; ENXIO where there is none.
pub fn file_of_loop(device: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    const LOOP_GET_STATUS64: libc::c_ulong = 0x4c05;
    let mut info = LoopInfo::new(0);
    // SAFETY: the ioctl fills one `struct loop_info64`, which outlives the call.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_GET_STATUS64 as _, &raw mut info) };
    check(result.into())?;
    Ok((info.device, info.inode))
}

/// Lets a loop device be as large as its file is now.
pub fn resize_loop(device: BorrowedFd<'_>) -> io::Result<()> {
    const LOOP_SET_CAPACITY: libc::c_ulong = 0x4c07;
    // SAFETY: the ioctl takes no argument.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_SET_CAPACITY as _, 0) };
    check(result.into()).map(drop)
}

/// Grows a mounted ext4 to so many of its blocks.
pub fn grow_ext4(directory: impl AsFd, blocks: u64) -> io::Result<()> {
    const EXT4_IOC_RESIZE_FS: libc::c_ulong = 0x4008_6610;
    // SAFETY: the ioctl reads one u64, which outlives the call.
    let result = unsafe {
        libc::ioctl(directory.as_fd().as_raw_fd(), EXT4_IOC_RESIZE_FS as _, &raw const blocks)
    };
    check(result.into()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_large_as_the_kernels() {
        assert_eq!(size_of::<FsXattr>(), 28);
        assert_eq!(size_of::<Dqblk>(), 72);
        assert_eq!(size_of::<QuotaStat>(), 80);
        assert_eq!(size_of::<LoopInfo>(), 232);
        assert_eq!(size_of::<LoopConfig>(), 304);
    }
}
