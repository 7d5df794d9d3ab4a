//! Applying one layer's archive to a directory, by descriptors only. Runs inside the worker.
//!
//! Whiteouts become overlayfs's own; what the archive says of overlayfs itself is dropped. Names
//! are resolved by the kernel below the directory; `..` is refused.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::os::fd::{BorrowedFd, OwnedFd};

use hoy_tree::make::{self, Times, lies_in};
use hoy_tree::{downwards, invalid, link_target, meta, split};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use tar::{Archive, Entry, EntryType};

/// More entries than any honest layer has.
const MAX_ENTRIES: u64 = 5_000_000;
/// Output beyond this is looked at as a multiple of the input.
const RATIO_FROM: u64 = 1 << 30;
const MAX_RATIO: u64 = 1200;
/// Holes of the old GNU format are read as zeros: they take no room, but time.
const MAX_HOLES: u64 = 64 << 30;

/// What came of it.
#[derive(Debug)]
pub(crate) struct Unpacked {
    pub diff_id: [u8; 32],
    /// Bytes of the files.
    pub size: u64,
    /// Directories that the archive uses and does not list.
    pub implied: BTreeSet<String>,
}

struct Hashing<R> {
    inner: R,
    hash: Sha256,
    read: u64,
    limit: u64,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.hash.update(&buffer[..length]);
        self.read += length as u64;
        if self.read > self.limit {
            return Err(invalid("the layer expands far beyond its size: refused as a bomb".into()));
        }
        Ok(length)
    }
}

struct Target<'a> {
    root: BorrowedFd<'a>,
    size: u64,
    holes: u64,
    implied: BTreeSet<String>,
    times: Times,
    /// The directory of the entry before: most entries lie in the same one.
    cached: Option<(String, OwnedFd)>,
}

/// Applies an archive of `compressed` bytes; `opaque` is handed every directory that hides what
/// lies below it.
pub(crate) fn apply(
    source: impl Read,
    compressed: u64,
    root: BorrowedFd<'_>,
    mut opaque: impl FnMut(&OwnedFd) -> io::Result<()>,
) -> io::Result<Unpacked> {
    let (plain, _) = crate::compression::plain(source)?;
    let limit = compressed.saturating_mul(MAX_RATIO).max(RATIO_FROM);
    let mut archive = Archive::new(Hashing { inner: plain, hash: Sha256::new(), read: 0, limit });
    let mut target = Target {
        root,
        size: 0,
        holes: 0,
        implied: BTreeSet::new(),
        times: Times::default(),
        cached: None,
    };
    let mut entries = 0;
    for entry in archive.entries()? {
        entries += 1;
        if entries > MAX_ENTRIES {
            return Err(invalid("the layer has too many entries".into()));
        }
        target.entry(entry?, &mut opaque)?;
    }
    target.finish()?;
    let (size, implied) = (target.size, target.implied);
    let mut rest = archive.into_inner();
    // What follows the end of the archive counts for its digest.
    io::copy(&mut rest, &mut io::sink())?;
    Ok(Unpacked { diff_id: rest.hash.finalize().into(), size, implied })
}

impl Target<'_> {
    fn resolve(&self, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let path = if path.is_empty() { "." } else { path };
        if hoy_weak::without(hoy_weak::Protection::Unpack) {
            let flags = flags | OFlags::CLOEXEC;
            return Ok(rustix::fs::openat(self.root, path, flags, Mode::empty())?);
        }
        Ok(rustix::fs::openat2(self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)?)
    }

    /// The directory of a path, made where it is missing.
    fn directory(&mut self, path: &str) -> io::Result<OwnedFd> {
        if let Some((cached, fd)) = &self.cached
            && cached == path
        {
            return fd.try_clone();
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let found = match self.resolve(path, flags) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let (above, name) = split(path);
                let above_fd = self.directory(above)?;
                match rustix::fs::mkdirat(&above_fd, name, Mode::from_raw_mode(0o755)) {
                    Ok(()) => drop(self.implied.insert(path.to_owned())),
                    Err(Errno::EXIST) => {}
                    Err(errno) => return Err(errno.into()),
                }
                self.resolve(path, flags)?
            }
            Err(error) => return Err(error),
        };
        self.cached = Some((path.to_owned(), found.try_clone()?));
        Ok(found)
    }

    fn entry<R: Read>(
        &mut self,
        mut entry: Entry<'_, R>,
        opaque: &mut impl FnMut(&OwnedFd) -> io::Result<()>,
    ) -> io::Result<()> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        let meta = meta(&mut entry)?;
        let own_name = meta.sparse.as_ref().and_then(|sparse| sparse.name.as_deref());
        let path = match own_name {
            Some(name) => downwards(name)?,
            None => downwards(&entry.path_bytes())?,
        };
        if path.is_empty() {
            if kind == EntryType::Directory {
                let root = self.resolve("", OFlags::RDONLY | OFlags::DIRECTORY)?;
                make::apply_meta(&root, &meta)?;
                self.times.note(&path, &meta);
            }
            return Ok(());
        }
        let (above, name) = split(&path);
        if let Some(hidden) = name.strip_prefix(".wh.") {
            return self.whiteout(above, hidden, opaque);
        }
        let directory = self.directory(above)?;
        self.make_room(&directory, &path, name, kind)?;
        match kind {
            EntryType::Directory => {
                make::directory(&directory, name, &meta)?;
                self.implied.remove(&path);
                self.times.note(&path, &meta);
                Ok(())
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.count_holes(&entry)?;
                self.size += make::file(&directory, name, &mut entry, &meta)?;
                Ok(())
            }
            EntryType::Link => self.hard_link(&directory, name, &downwards(&link_target(&entry)?)?),
            EntryType::Symlink => make::symlink(&directory, name, &link_target(&entry)?, &meta),
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                make::node(&directory, name, kind, &entry, &meta)
            }
            other => Err(invalid(format!("{path:?}: an entry of the unknown type {other:?}"))),
        }
    }

    /// A later entry of the same name wins; a directory stays what it is for another directory.
    fn make_room(
        &mut self,
        directory: &OwnedFd,
        path: &str,
        name: &str,
        kind: EntryType,
    ) -> io::Result<()> {
        let Ok(stat) = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) else {
            return Ok(());
        };
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        match (is_directory, kind) {
            (true, EntryType::Directory) => Ok(()),
            (true, _) => {
                self.cached = None;
                self.implied.retain(|known| !lies_in(known, path));
                self.times.forget(path);
                make::remove_tree(directory, name)
            }
            (false, _) => Ok(rustix::fs::unlinkat(directory, name, AtFlags::empty())?),
        }
    }

    fn count_holes<R: Read>(&mut self, entry: &Entry<'_, R>) -> io::Result<()> {
        self.holes += entry.size().saturating_sub(entry.header().entry_size()?).min(MAX_HOLES + 1);
        if self.holes > MAX_HOLES {
            return Err(invalid("the layer has more holes than are worth reading".into()));
        }
        Ok(())
    }

    fn hard_link(&mut self, directory: &OwnedFd, name: &str, to: &str) -> io::Result<()> {
        let (above, target) = split(to);
        let from = self.resolve(above, OFlags::PATH | OFlags::DIRECTORY);
        let linked = from.and_then(|from| {
            Ok(rustix::fs::linkat(from, target, directory, name, AtFlags::empty())?)
        });
        linked.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => invalid(format!(
                "a hard link to {to:?}, which is not in the same layer, is not available yet"
            )),
            _ => error,
        })
    }

    fn whiteout(
        &mut self,
        above: &str,
        hidden: &str,
        opaque: &mut impl FnMut(&OwnedFd) -> io::Result<()>,
    ) -> io::Result<()> {
        if hidden == ".wh..opq" {
            let _ = self.directory(above)?;
            // A descriptor that an attribute can be set on.
            return opaque(&self.resolve(above, OFlags::RDONLY | OFlags::DIRECTORY)?);
        }
        if hidden.starts_with(".wh.") {
            // Bookkeeping of aufs.
            return Ok(());
        }
        if hidden.is_empty() || hidden == "." || hidden == ".." {
            return Err(invalid(format!("invalid whiteout {hidden:?} in {above:?}: breakout")));
        }
        let directory = self.directory(above)?;
        self.make_room(&directory, &join(above, hidden), hidden, EntryType::Char)?;
        Ok(rustix::fs::mknodat(&directory, hidden, FileType::CharacterDevice, Mode::empty(), 0)?)
    }

    fn finish(&mut self) -> io::Result<()> {
        for (path, times) in self.times.take() {
            let directory =
                self.resolve(&path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW);
            match directory {
                Ok(directory) => rustix::fs::futimens(&directory, &times)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn join(above: &str, name: &str) -> String {
    if above.is_empty() { name.to_owned() } else { format!("{above}/{name}") }
}
