//! Deleting a tree without leaving its mount: what others have mounted below it is theirs.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Deeper trees are emptied by moving what is deep up.
const DEEPEST: usize = 256;

/// Deletes a file, or a directory with everything in it. What is mounted in there stays, and with
/// it the directories that lead to it; that is an error. `pace` is told of every file.
pub(crate) fn delete(path: &Path, pace: &mut dyn FnMut()) -> io::Result<()> {
    pace();
    match rustix::fs::unlinkat(CWD, path, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno.into()),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::open(path, flags, Mode::empty())?;
    while empty(&directory, directory.as_fd(), 0, pace)? {}
    Ok(rustix::fs::unlinkat(CWD, path, AtFlags::REMOVEDIR)?)
}

/// True if some of it was only moved up and has to be gone through again.
fn empty(
    directory: &OwnedFd,
    top: BorrowedFd<'_>,
    depth: usize,
    pace: &mut dyn FnMut(),
) -> io::Result<bool> {
    let mut again = false;
    let mut failed = None;
    for (number, entry) in Dir::read_from(directory)?.enumerate() {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let mut kind = entry.file_type();
        if kind == FileType::Unknown {
            let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
            kind = FileType::from_raw_mode(stat.st_mode);
        }
        if kind != FileType::Directory {
            pace();
            match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => failed = Some(errno),
            }
            continue;
        }
        if depth == DEEPEST {
            let aside = format!(".deep-{}-{number}", rustix::fs::fstat(directory)?.st_ino);
            rustix::fs::renameat(directory, name, top, aside)?;
            again = true;
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
        let below = rustix::fs::openat2(directory, name, flags, Mode::empty(), resolve);
        let emptied = below.map_err(io::Error::from);
        let emptied = emptied.and_then(|below| empty(&below, top, depth + 1, pace));
        match emptied {
            Ok(deep) => again |= deep,
            Err(error) => {
                failed = error.raw_os_error().map(Errno::from_raw_os_error).or(Some(Errno::IO));
                continue;
            }
        }
        match rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => failed = Some(errno),
        }
    }
    match failed {
        Some(errno) => Err(errno.into()),
        None => Ok(again),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deep_and_wide() {
        let room = tempfile::tempdir().unwrap();
        let top = room.path().join("top");
        let mut directory = {
            std::fs::create_dir(&top).unwrap();
            std::fs::File::open(&top).map(OwnedFd::from).unwrap()
        };
        // Deeper than any path can say.
        for number in 0..3000 {
            rustix::fs::mkdirat(&directory, "d", Mode::RWXU).unwrap();
            if number % 100 == 0 {
                rustix::fs::symlinkat("/etc", &directory, "away").unwrap();
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            directory = rustix::fs::openat(&directory, "d", flags, Mode::empty()).unwrap();
        }
        drop(directory);
        delete(&top, &mut || {}).unwrap();
        assert!(!top.exists() && Path::new("/etc").exists());
        std::fs::write(&top, "a file").unwrap();
        delete(&top, &mut || {}).unwrap();
        delete(&top, &mut || {}).unwrap();
    }
}
