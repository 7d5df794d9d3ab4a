//! Copying a tree as it is: owners, modes, times, extended attributes, hard links, holes, devices.
//!
//! The source is an image's and the target may be a running container's: every name is one
//! component below an open directory, links are copied and never followed, and nothing that waits
//! or acts when it is opened is opened.

use std::collections::HashMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use hoy_rootfd::{Links, RootFd};
use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid,
    XattrFlags,
};
use rustix::io::Errno;

/// Deeper trees are refused: each level holds two descriptors.
const DEEPEST: usize = 1024;
/// Bytes moved with one call where the kernel cannot copy by itself.
const BUFFER: usize = 256 << 10;
/// The longest list and value that the kernel has.
const XATTRS: usize = 64 << 10;

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    pub entries: u64,
    pub bytes: u64,
}

struct Copier<'a> {
    root: BorrowedFd<'a>,
    /// Names of files with several links, by device and inode.
    links: HashMap<(u64, u64), String>,
    names: Vec<u8>,
    value: Vec<u8>,
    buffer: Vec<u8>,
    copied: Copied,
}

/// Copies everything below one directory into another one, and what is said of the directory
/// itself. What is there already by that name stays and is an error, but for directories.
pub fn copy_tree(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<Copied> {
    let mut copier = Copier::new(to);
    copier.directory(&reopened(from)?, &reopened(to)?, "", 0)?;
    Ok(copier.copied)
}

/// What is said of a directory itself.
pub(crate) fn copy_attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let from = reopened(from)?;
    let stat = rustix::fs::fstat(&from)?;
    Copier::new(to).attributes(&from, &reopened(to)?, &stat)
}

fn reopened(directory: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(directory, ".", flags, Mode::empty())?)
}

impl<'a> Copier<'a> {
    fn new(root: BorrowedFd<'a>) -> Self {
        Self {
            root,
            links: HashMap::new(),
            names: vec![0; XATTRS],
            value: vec![0; XATTRS],
            buffer: Vec::new(),
            copied: Copied::default(),
        }
    }

    fn directory(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        path: &str,
        depth: usize,
    ) -> io::Result<()> {
        if depth > DEEPEST {
            return Err(io::Error::other(format!("directories are nested deeper than {DEEPEST}")));
        }
        for entry in Dir::read_from(from)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let Ok(name) = name.to_str() else {
                self.entry(from, to, name, None, depth)?;
                continue;
            };
            let path = if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
            self.entry(from, to, entry.file_name(), Some(&path), depth)?;
        }
        self.attributes(from, to, &rustix::fs::fstat(from)?)
    }

    fn entry(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        name: &std::ffi::CStr,
        path: Option<&str>,
        depth: usize,
    ) -> io::Result<()> {
        let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        self.copied.entries += 1;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            match rustix::fs::mkdirat(to, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let below = rustix::fs::openat(from, name, flags, Mode::empty())?;
            let copy = rustix::fs::openat(to, name, flags, Mode::empty())?;
            // A name that is no text has no links to tell of below it.
            return self.directory(&below, &copy, path.unwrap_or("\0"), depth + 1);
        }
        let linked = (stat.st_nlink > 1).then_some((stat.st_dev, stat.st_ino));
        if let Some(first) = linked.and_then(|key| self.links.get(&key)) {
            let first = RootFd::new(self.root.try_clone_to_owned()?)
                .handle(first, Links::None)
                .map_err(io::Error::other)?;
            return Ok(rustix::fs::linkat(&first, "", to, name, AtFlags::EMPTY_PATH)?);
        }
        match kind {
            FileType::RegularFile => self.file(from, to, name, &stat)?,
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(from, name, Vec::new())?;
                rustix::fs::symlinkat(&target, to, name)?;
                own(to, name, &stat)?;
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                rustix::fs::utimensat(to, name, &times(&stat), flags)?;
            }
            kind => {
                let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
                rustix::fs::mknodat(to, name, kind, mode, stat.st_rdev)?;
                own(to, name, &stat)?;
                // The umask had its part.
                rustix::fs::chmodat(to, name, mode, AtFlags::empty())?;
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                rustix::fs::utimensat(to, name, &times(&stat), flags)?;
            }
        }
        if let (Some(key), Some(path)) = (linked, path.filter(|path| !path.contains('\0'))) {
            self.links.insert(key, path.to_owned());
        }
        Ok(())
    }

    fn file(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        name: &std::ffi::CStr,
        stat: &Stat,
    ) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let source = rustix::fs::openat(from, name, flags, Mode::empty())?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let copy = rustix::fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR)?;
        let size = stat.st_size.max(0) as u64;
        // Empty ones, and those with holes, are told by their blocks.
        if (stat.st_blocks.max(0) as u64) * 512 < size {
            self.pieces(&source, &copy, size)?;
        } else {
            self.piece(&source, &copy, 0, size)?;
        }
        self.copied.bytes += size;
        self.attributes(&source, &copy, stat)
    }

    /// Data between holes.
    fn pieces(&mut self, from: &OwnedFd, to: &OwnedFd, size: u64) -> io::Result<()> {
        let mut at = 0;
        loop {
            let data = match rustix::fs::seek(from, SeekFrom::Data(at)) {
                Ok(data) => data,
                Err(Errno::NXIO) => break,
                Err(errno) => return Err(errno.into()),
            };
            let hole = rustix::fs::seek(from, SeekFrom::Hole(data))?;
            self.piece(from, to, data, hole.saturating_sub(data))?;
            at = hole;
        }
        Ok(rustix::fs::ftruncate(to, size)?)
    }

    fn piece(&mut self, from: &OwnedFd, to: &OwnedFd, at: u64, length: u64) -> io::Result<()> {
        let (mut read, mut written) = (at, at);
        let end = at + length;
        while read < end {
            let rest = usize::try_from(end - read).unwrap_or(usize::MAX);
            match rustix::fs::copy_file_range(from, Some(&mut read), to, Some(&mut written), rest) {
                // It became shorter meanwhile.
                Ok(0) => return Ok(()),
                Ok(_) => {}
                // Between file systems of different kinds.
                Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                    return self.by_hand(from, to, read, end);
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    fn by_hand(&mut self, from: &OwnedFd, to: &OwnedFd, at: u64, end: u64) -> io::Result<()> {
        use std::os::unix::fs::FileExt as _;
        self.buffer.resize(BUFFER, 0);
        let from = std::fs::File::from(from.try_clone()?);
        let to = std::fs::File::from(to.try_clone()?);
        let mut at = at;
        while at < end {
            let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(BUFFER);
            let got = from.read_at(&mut self.buffer[..want], at)?;
            if got == 0 {
                return Ok(());
            }
            to.write_all_at(&self.buffer[..got], at)?;
            at += got as u64;
        }
        Ok(())
    }

    /// Owner before mode, since a change of owner takes set-user-id away; times last.
    fn attributes(&mut self, from: &OwnedFd, to: &OwnedFd, stat: &Stat) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        rustix::fs::fchown(to, Some(uid), Some(gid))?;
        rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
        let length = match rustix::fs::flistxattr(from, &mut self.names) {
            Ok(length) => length,
            Err(Errno::NOTSUP) => 0,
            Err(errno) => return Err(errno.into()),
        };
        for name in self.names[..length].split_inclusive(|byte| *byte == 0) {
            let Ok(name) = std::ffi::CStr::from_bytes_with_nul(name) else { continue };
            if name.to_bytes().windows(9).any(|window| window == b".overlay.") {
                continue;
            }
            let length = match rustix::fs::fgetxattr(from, name, &mut self.value) {
                Ok(length) => length,
                Err(Errno::NODATA) => continue,
                Err(errno) => return Err(errno.into()),
            };
            match rustix::fs::fsetxattr(to, name, &self.value[..length], XattrFlags::empty()) {
                // What the target's file system does not have.
                Ok(()) | Err(Errno::NOTSUP) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(rustix::fs::futimens(to, &times(stat))?)
    }
}

fn own(directory: &OwnedFd, name: &std::ffi::CStr, stat: &Stat) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    Ok(rustix::fs::chownat(directory, name, Some(uid), Some(gid), flags)?)
}

fn times(stat: &Stat) -> Timestamps {
    let time = |seconds: i64, nanos: u64| Timespec { tv_sec: seconds, tv_nsec: nanos as i64 };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// Whether there is nothing in a directory.
pub(crate) fn is_empty(directory: BorrowedFd<'_>) -> io::Result<bool> {
    for entry in Dir::read_from(&reopened(directory)?)? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt, symlink};
    use std::path::Path;

    fn open(path: &Path) -> OwnedFd {
        rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap()
    }

    #[test]
    fn a_copy_is_as_the_original() {
        let room = tempfile::tempdir().unwrap();
        let (from, to) = (room.path().join("from"), room.path().join("to"));
        std::fs::create_dir_all(from.join("a/b")).unwrap();
        std::fs::create_dir(&to).unwrap();
        std::fs::write(from.join("a/one"), "one").unwrap();
        std::fs::hard_link(from.join("a/one"), from.join("a/b/again")).unwrap();
        symlink("/etc/passwd", from.join("away")).unwrap();
        let sparse = std::fs::File::create(from.join("sparse")).unwrap();
        sparse.set_len(1 << 20).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"x", 1 << 19).unwrap();
        std::fs::set_permissions(from.join("a"), PermissionsExt::from_mode(0o1750)).unwrap();
        std::fs::set_permissions(&from, PermissionsExt::from_mode(0o711)).unwrap();
        let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        std::fs::File::open(from.join("a")).unwrap().set_modified(old).unwrap();
        let fifo = from.join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::RWXU, 0).unwrap();

        let copied = copy_tree(open(&from).as_fd(), open(&to).as_fd()).unwrap();
        assert_eq!(copied.entries, 7);
        let stat = |name: &str| std::fs::symlink_metadata(to.join(name)).unwrap();
        assert_eq!(std::fs::read_to_string(to.join("a/b/again")).unwrap(), "one");
        assert_eq!(stat("a/one").ino(), stat("a/b/again").ino());
        assert_eq!(stat("a").mode() & 0o7777, 0o1750);
        assert_eq!(stat("").mode() & 0o7777, 0o711);
        assert_eq!(stat("a").modified().unwrap(), old);
        assert_eq!(std::fs::read_link(to.join("away")).unwrap(), Path::new("/etc/passwd"));
        assert_eq!((stat("sparse").len(), stat("sparse").blocks() < 64), (1 << 20, true));
        assert_eq!(FileType::from_raw_mode(stat("fifo").mode()), FileType::Fifo);
        // A second time: nothing is overwritten.
        copy_tree(open(&from).as_fd(), open(&to).as_fd()).unwrap_err();
    }
}
