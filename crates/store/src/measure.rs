//! How much of the disk a tree takes: what `du` says, without leaving the tree's own mount.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use rustix::ffi::CString;
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags,
};
use rustix::io::Errno;

/// Directories that are open at once. A tree that needs more, deep and with branches on every
/// level, is counted as far as that goes.
const OPEN: usize = 256;
/// Entries between two questions whether to go on.
const ASK: u32 = 256;
const BLOCK: u64 = 512;

/// Counts trees. A file with several names is counted once in all of them.
pub struct Measure<'a> {
    linked: HashSet<u64>,
    go_on: &'a dyn Fn() -> bool,
    until_asked: u32,
}

impl<'a> Measure<'a> {
    /// `go_on` is asked from time to time; a no ends the count with `TimedOut`.
    pub fn new(go_on: &'a dyn Fn() -> bool) -> Self {
        Self { linked: HashSet::new(), go_on, until_asked: 0 }
    }

    /// What lies in a directory, without the directory itself: an empty one has none. What is
    /// mounted in there is somebody else's. What goes meanwhile is not counted.
    pub fn below(&mut self, path: &Path) -> io::Result<u64> {
        let top = rustix::fs::open(path, DIRECTORY, Mode::empty())?;
        self.tree(top)
    }

    /// The same for a directory in another one, with its own blocks; something mounted there, or
    /// nothing, counts as nothing.
    pub fn inside(&mut self, directory: BorrowedFd<'_>, name: &str) -> io::Result<u64> {
        let Some(found) = open_below(directory, name)? else { return Ok(0) };
        let own = blocks(&found)?;
        Ok(own + self.tree(found)?)
    }

    fn tree(&mut self, top: OwnedFd) -> io::Result<u64> {
        let mut bytes = 0;
        // Depth first; a directory is open for as long as some of its own wait here.
        let mut waiting: Vec<(Rc<OwnedFd>, CString)> = Vec::new();
        bytes += self.entries(Rc::new(top), &mut waiting)?;
        while let Some((parent, name)) = waiting.pop() {
            let found = open_below(parent.as_fd(), &name)?;
            drop(parent);
            let Some(directory) = found else { continue };
            bytes += blocks(&directory)?;
            bytes += self.entries(Rc::new(directory), &mut waiting)?;
        }
        Ok(bytes)
    }

    /// One directory: its files are counted, its directories wait.
    fn entries(
        &mut self,
        directory: Rc<OwnedFd>,
        waiting: &mut Vec<(Rc<OwnedFd>, CString)>,
    ) -> io::Result<u64> {
        self.asked()?;
        let mut bytes = 0;
        let mut held = waiting.len();
        if held > OPEN {
            // Many of one directory share it: how many are open is counted only when it matters.
            let mut distinct: Vec<_> =
                waiting.iter().map(|(parent, _)| Rc::as_ptr(parent)).collect();
            distinct.dedup();
            held = distinct.len();
        }
        for entry in Dir::read_from(&directory)? {
            let Ok(entry) = entry else { break };
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            self.until_asked = self.until_asked.saturating_sub(1);
            if self.until_asked == 0 {
                self.asked()?;
            }
            if entry.file_type() == FileType::Directory {
                if held <= OPEN {
                    waiting.push((Rc::clone(&directory), name.to_owned()));
                }
                continue;
            }
            // What is known is enough: a server that does not answer is not asked.
            let flags =
                AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
            let wanted =
                StatxFlags::TYPE | StatxFlags::BLOCKS | StatxFlags::NLINK | StatxFlags::INO;
            let Ok(stat) = rustix::fs::statx(&directory, name, flags, wanted) else { continue };
            if stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
                continue;
            }
            if FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory {
                // A file system that does not say in its lists what is a directory.
                waiting.push((Rc::clone(&directory), name.to_owned()));
            } else if stat.stx_nlink < 2 || self.linked.insert(stat.stx_ino) {
                bytes += stat.stx_blocks * BLOCK;
            }
        }
        Ok(bytes)
    }

    fn asked(&mut self) -> io::Result<()> {
        self.until_asked = ASK;
        if (self.go_on)() { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
    }
}

/// What one file, or a directory itself, takes.
pub fn blocks(of: impl AsFd) -> io::Result<u64> {
    Ok(u64::try_from(rustix::fs::fstat(of)?.st_blocks).unwrap_or(0) * BLOCK)
}

/// The same by path, without what a last symlink leads to; nothing for what is not there.
pub fn blocks_at(path: &Path) -> u64 {
    let stat = rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW);
    stat.map_or(0, |stat| u64::try_from(stat.st_blocks).unwrap_or(0) * BLOCK)
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

fn open_below(parent: BorrowedFd<'_>, name: impl rustix::path::Arg) -> io::Result<Option<OwnedFd>> {
    let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
    match rustix::fs::openat2(parent, name, DIRECTORY, Mode::empty(), resolve) {
        Ok(found) => Ok(Some(found)),
        // Gone or replaced meanwhile, or somebody else's mount.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_du_says() {
        let room = tempfile::tempdir().unwrap();
        let top = room.path().join("top");
        std::fs::create_dir_all(top.join("a/b")).unwrap();
        let count = || Measure::new(&|| true).below(&top).unwrap();
        let du = || {
            let output = std::process::Command::new("du").args(["-sB1"]).arg(&top).output();
            let text = String::from_utf8(output.unwrap().stdout).unwrap();
            text.split_whitespace().next().unwrap().parse::<u64>().unwrap() - blocks_at(&top)
        };
        assert_eq!(count(), du());
        std::fs::write(top.join("a/file"), vec![1; 70_000]).unwrap();
        std::fs::hard_link(top.join("a/file"), top.join("a/b/same")).unwrap();
        std::os::unix::fs::symlink("/etc", top.join("a/away")).unwrap();
        std::fs::File::create(top.join("holes")).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(count(), du());
        assert!((70_000..200_000).contains(&count()));
        // Branches on every level, deeper than any path, are counted as far as is good.
        let mut directory = OwnedFd::from(std::fs::File::open(&top).unwrap());
        for _ in 0..1000 {
            for name in ["d", "e"] {
                rustix::fs::mkdirat(&directory, name, Mode::RWXU).unwrap();
            }
            directory = rustix::fs::openat(&directory, "d", DIRECTORY, Mode::empty()).unwrap();
        }
        count();
        drop(directory);
        let stopped = Measure::new(&|| false).below(&top).unwrap_err();
        assert_eq!(stopped.kind(), io::ErrorKind::TimedOut);
        crate::delete::delete(&top, &mut || {}).unwrap();
    }
}
