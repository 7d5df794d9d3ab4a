//! An ext4 in a sparse file beside the directory that it is mounted on.
//!
//! The file is as much larger than the limit as the ext4 needs for itself: `df` shows the limit.
//! What is deleted in there is punched out of the file again. Flags of mounts that would take
//! devices and set-user-id programs away are not set: those of a container's own mount decide, as
//! they do without a limit.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hoy_sys::quota;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, XattrFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount,
};

use super::Usage;
use super::loops::Loop;
use super::make::{self, BLOCK, first_guess, make_ext4};
use crate::mounts::is_mounted;
use crate::{Result, VolumeError};

/// A directory with a limit has its file system in a file beside it, whose name ends so.
pub const DISK: &str = ".disk";
/// What was asked for last, on the file.
const LIMIT: &str = "trusted.hoy.limit";
/// Rounds until an ext4 has exactly the size: each one's own needs are less than the last one's.
const FIRST_ROUNDS: usize = 4;
const ROUNDS: u64 = 10;
/// How long the kernel may take to let go of a device after its last mount.
const LET_GO: Duration = Duration::from_secs(10);

/// The file of a directory.
pub(super) fn file_of(directory: &Path) -> PathBuf {
    let mut file = directory.as_os_str().to_owned();
    file.push(DISK);
    file.into()
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
        .map_err(VolumeError::io("open", path.display()))
}

pub(super) fn make(
    directory: &Path,
    bytes: u64,
    fill: impl FnOnce(BorrowedFd<'_>) -> io::Result<()>,
) -> Result<()> {
    // Without its file system it is nobody's place to write to.
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(directory)
        .map_err(VolumeError::io("create", directory.display()))?;
    let path = file_of(directory);
    let made = make_file(&path, bytes, fill);
    if made.is_err() {
        let _ = std::fs::remove_file(&path);
        let _ = std::fs::remove_dir(directory);
    }
    made
}

fn make_file(
    path: &Path,
    bytes: u64,
    fill: impl FnOnce(BorrowedFd<'_>) -> io::Result<()>,
) -> Result<()> {
    let failed = || VolumeError::io("make", path.display());
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create_new(true).mode(0o600).open(path);
    let file = file.map_err(failed())?;
    let mut length = first_guess(bytes);
    for _ in 0..FIRST_ROUNDS {
        file.set_len(0).and_then(|()| file.set_len(length)).map_err(failed())?;
        make_ext4(path, bytes)?;
        let made = Superblock::read(&file).map_err(failed())?;
        if made.overhead == 0 || made.blocks - made.overhead.min(made.blocks) >= blocks_of(bytes) {
            break;
        }
        length = (blocks_of(bytes) + made.overhead) * BLOCK;
    }
    let device = Loop::of(&file, path)?;
    let mount = mount(&device, path)?;
    let root = root_of(&mount, path)?;
    let filled = || -> io::Result<()> {
        // Volumes begin empty.
        rustix::fs::unlinkat(&root, "lost+found", AtFlags::REMOVEDIR)?;
        fill(root.as_fd())
    };
    filled().map_err(failed())?;
    rustix::fs::syncfs(&root).map_err(VolumeError::errno("write", path.display()))?;
    note_limit(&file, path, bytes)?;
    drop((root, mount, device));
    file.sync_all().map_err(failed())
}

/// The root directory of a detached mount, which is gone when this is.
fn root_of(mount: &OwnedFd, path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(mount, ".", flags, Mode::empty())
        .map_err(VolumeError::errno("open the file system in", path.display()))
}

/// The file system of a device, detached: it is gone when the descriptor is closed.
fn mount(device: &Loop, path: &Path) -> Result<OwnedFd> {
    let mounted = || -> rustix::io::Result<OwnedFd> {
        let context = fsopen("ext4", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&context, "source", &device.path)?;
        // A disk that is full below it must not make it wrong.
        fsconfig_set_string(&context, "errors", "remount-ro")?;
        fsconfig_set_flag(&context, "discard")?;
        // The file has zeros there already.
        fsconfig_set_flag(&context, "noinit_itable")?;
        fsconfig_create(&context)?;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
    };
    mounted().map_err(VolumeError::errno("mount the file system in", path.display()))
}

pub(super) fn attach(directory: &Path) -> Result<()> {
    let path = file_of(directory);
    let file = open(&path)?;
    let device = Loop::of(&file, &path)?;
    let mount = mount(&device, &path)?;
    move_mount(&mount, "", CWD, directory, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(VolumeError::errno("mount on", directory.display()))
}

/// What an ext4 says of itself.
struct Superblock {
    blocks: u64,
    /// What of these is not for files; 0 where it does not say that.
    overhead: u64,
}

impl Superblock {
    fn read(file: &File) -> io::Result<Self> {
        let mut bytes = [0; 1024];
        file.read_exact_at(&mut bytes, 1024)?;
        let number = |at: usize| {
            let bytes = bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            u64::from(bytes.map_or(0, u32::from_le_bytes))
        };
        Ok(Self { blocks: number(0x4) | (number(0x150) << 32), overhead: number(0x248) })
    }
}

fn blocks_of(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK)
}

fn note_limit(file: &File, path: &Path, bytes: u64) -> Result<()> {
    rustix::fs::fsetxattr(file, LIMIT, bytes.to_string().as_bytes(), XattrFlags::empty())
        .map_err(VolumeError::errno("note the limit of", path.display()))
}

/// Grows until there is room for so many bytes of files. A daemon that is killed in between leaves
/// a larger file with the file system as it was, or as it is to be.
pub(super) fn grow(directory: &Path, bytes: u64) -> Result<()> {
    let path = file_of(directory);
    let file = open(&path)?;
    let in_use = Loop::find(&file, &path)?.is_some();
    for round in 0..ROUNDS {
        let device = Loop::of(&file, &path)?;
        // The same file system as the one that may be mounted already.
        let mount = mount(&device, &path)?;
        let root = root_of(&mount, &path)?;
        let Some(total) = next_size(&device, &root, &path, bytes, round)? else {
            rustix::fs::syncfs(&root).map_err(VolumeError::errno("write", path.display()))?;
            drop((root, mount, device));
            note_limit(&file, &path, bytes)?;
            return file.sync_all().map_err(VolumeError::io("write", path.display()));
        };
        match grow_mounted(&device, root.as_fd(), &file, total) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                drop((root, mount, device));
                if in_use {
                    return Err(VolumeError::Driver(format!(
                        "grow {}: a limit grows in use only for a daemon with the capability \
                         CAP_SYS_RESOURCE; without that it does once nobody uses it",
                        directory.display()
                    )));
                }
                until_let_go(&file, &path)?;
                make::grow_ext4(&path, total)?;
            }
            grown => grown.map_err(VolumeError::io("grow", path.display()))?,
        }
    }
    Err(VolumeError::Driver(format!("{} cannot grow to {bytes} bytes", path.display())))
}

/// How many blocks the file system has to have; none where it is large enough.
fn next_size(
    device: &Loop,
    root: &OwnedFd,
    path: &Path,
    bytes: u64,
    round: u64,
) -> Result<Option<u64>> {
    let stat = rustix::fs::fstatfs(root).map_err(VolumeError::errno("grow", path.display()))?;
    let missing = blocks_of(bytes).saturating_sub(stat.f_blocks);
    if missing == 0 {
        return Ok(None);
    }
    // A last group that is too small for anything is not made: then a little more is.
    let more = if round < 4 { 0 } else { 64 << (round - 4) };
    let now = Superblock::read(&device.device).map_err(VolumeError::io("grow", path.display()))?;
    Ok(Some(now.blocks + missing + more))
}

fn grow_mounted(device: &Loop, root: BorrowedFd<'_>, file: &File, blocks: u64) -> io::Result<()> {
    if file.metadata()?.len() < blocks * BLOCK {
        file.set_len(blocks * BLOCK)?;
    }
    quota::resize_loop(device.device.as_fd())?;
    quota::grow_ext4(root, blocks)
}

fn until_let_go(file: &File, path: &Path) -> Result<()> {
    let started = Instant::now();
    while Loop::find(file, path)?.is_some() {
        if started.elapsed() > LET_GO {
            return Err(VolumeError::Conflict(format!("{} is still in use", path.display())));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn limit(file: &File, path: &Path) -> Result<u64> {
    let mut text = [0; 32];
    let length = rustix::fs::fgetxattr(file, LIMIT, &mut text[..])
        .map_err(VolumeError::errno("read the limit of", path.display()))?;
    let text = text.get(..length).and_then(|text| std::str::from_utf8(text).ok());
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| VolumeError::Driver(format!("{} has no limit", path.display())))
}

pub(super) fn usage(directory: &Path) -> Result<Usage> {
    let path = file_of(directory);
    let limit = limit(&open(&path)?, &path)?;
    if !is_mounted(directory) {
        return Ok(Usage { used: on_disk(directory)?, limit });
    }
    let stat = rustix::fs::statfs(directory)
        .map_err(VolumeError::errno("look at", directory.display()))?;
    let used = stat.f_blocks.saturating_sub(stat.f_bfree) * BLOCK;
    Ok(Usage { used, limit })
}

pub(super) fn on_disk(directory: &Path) -> Result<u64> {
    let path = file_of(directory);
    let meta = std::fs::metadata(&path).map_err(VolumeError::io("look at", path.display()))?;
    Ok(meta.blocks() * 512)
}

/// The directories below `root` that file systems of ours are mounted on.
pub(super) fn mounted_below(root: &Path) -> Vec<PathBuf> {
    let Ok(table) = std::fs::read_to_string("/proc/self/mountinfo") else { return Vec::new() };
    let candidates = on_loop_devices(&table, root);
    candidates.into_iter().filter(|directory| is_ours(directory)).collect()
}

/// Somebody may mount something of theirs below the data root.
fn is_ours(directory: &Path) -> bool {
    let path = file_of(directory);
    open(&path).and_then(|file| Loop::find(&file, &path)).is_ok_and(|found| found.is_some())
}

/// Mount points below a directory that have an ext4 of a loop device.
fn on_loop_devices(table: &str, root: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for line in table.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let mut right = right.split(' ');
        let on_loop = right.next() == Some("ext4")
            && right.next().is_some_and(|source| source.starts_with("/dev/loop"));
        let Some(place) = left.split(' ').nth(4) else { continue };
        let place = PathBuf::from(unescaped(place));
        if on_loop && place.starts_with(root) {
            out.push(place);
        }
    }
    out
}

/// Octal numbers stand for what would end a field.
fn unescaped(field: &str) -> String {
    let field = field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n");
    field.replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_mounts_may_be_ours() {
        let table = "29 1 254:0 / / rw - ext4 /dev/vda rw\n\
                     60 29 7:0 / /d/volumes/a\\040b/_data rw - ext4 /dev/loop0 rw\n\
                     61 29 7:1 / /elsewhere rw - ext4 /dev/loop1 rw\n\
                     62 29 7:2 / /d/x rw shared:1 - xfs /dev/loop2 rw\n";
        let found = on_loop_devices(table, Path::new("/d"));
        assert_eq!(found, [PathBuf::from("/d/volumes/a b/_data")]);
    }
}
