//! Directories that a layer uses without listing them look as in the layers below: an overlay
//! would otherwise show the ones that unpacking made up.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags, Timespec, Timestamps, XattrFlags};

/// Copies owner, mode, times and attributes of each implied directory from the topmost layer
/// below that has it. `below` is bottom first.
pub(crate) fn apply(layer: &Path, implied: &[String], below: &[&Path]) -> io::Result<()> {
    // Innermost first: touching what lies inside changes no times here, but order costs nothing.
    for path in implied.iter().rev() {
        for lower in below.iter().rev() {
            match open(lower, path) {
                Ok(found) => {
                    copy(&found, &open(layer, path)?)?;
                    break;
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                    ) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

fn open(root: &Path, path: &str) -> io::Result<OwnedFd> {
    let root = File::open(root)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
    Ok(rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve)?)
}

fn copy(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    let stat = rustix::fs::fstat(from)?;
    let uid = rustix::fs::Uid::from_raw(stat.st_uid);
    let gid = rustix::fs::Gid::from_raw(stat.st_gid);
    rustix::fs::fchown(to, Some(uid), Some(gid))?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    let mut names = vec![0; 64 * 1024];
    let length = rustix::fs::flistxattr(from, &mut names)?;
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let overlay = name.windows(9).any(|window| window == b".overlay.");
        if overlay {
            continue;
        }
        let name = String::from_utf8_lossy(name).into_owned();
        let mut value = vec![0; 64 * 1024];
        let length = rustix::fs::fgetxattr(from, name.as_str(), &mut value)?;
        rustix::fs::fsetxattr(to, name.as_str(), &value[..length], XattrFlags::empty())?;
    }
    let time = |seconds: i64, nanos: u64| Timespec { tv_sec: seconds, tv_nsec: nanos as i64 };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    Ok(rustix::fs::futimens(to, &times)?)
}
