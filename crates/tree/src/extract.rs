//! An archive into a directory, by Docker's rules for `cp`: directories are merged, everything
//! else replaces what has its name, unless that would put a file where a directory is or the other
//! way round and the client does not want that.
//!
//! Names are resolved by the kernel below a root, once for each directory.

use std::io::{self, Read};
use std::os::fd::OwnedFd;

use hoy_rootfd::{Links, RootFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use tar::{Archive, Entry, EntryType};

use crate::entry::{invalid, lexical, link_target, meta, split};
use crate::make::{self, Times};

/// More entries than any honest archive has.
const MAX_ENTRIES: u64 = 5_000_000;
/// Of directories that the archive uses and does not list.
const IMPLIED: u32 = 0o755;

/// Where an archive goes, and how its names are understood.
#[derive(Clone, Copy, Debug)]
pub enum Below<'a> {
    /// At a path of somebody's root: links lead where they lead there.
    Root(&'a RootFd, &'a str),
    /// In a directory of the caller's own: nothing leads out of it.
    Beneath(&'a OwnedFd),
}

/// How an archive is laid out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    /// A directory stays a directory, and what is none stays none.
    pub keep_kinds: bool,
    /// Everything belongs to whoever unpacks it, instead of whom the archive names.
    pub no_owner: bool,
    /// Everything belongs to somebody.
    pub owner: Option<(u32, u32)>,
    /// Device nodes that cannot be made are left out: in a user namespace none can.
    pub leave_out_nodes: bool,
    /// Replaced in names, once in each, one after the other.
    pub renames: &'a [(String, String)],
    /// What messages call the directory.
    pub shown: &'a str,
}

struct Target<'a> {
    below: Below<'a>,
    options: Options<'a>,
    times: Times,
    /// The directory of the entry before: most entries lie in the same one.
    cached: Option<(String, OwnedFd)>,
}

/// Unpacks a plain archive.
pub fn extract(source: impl Read, below: Below<'_>, options: Options<'_>) -> io::Result<()> {
    let mut archive = Archive::new(source);
    let mut target = Target { below, options, times: Times::default(), cached: None };
    let mut entries = 0;
    for entry in archive.entries().map_err(misread)? {
        let entry = entry.map_err(misread)?;
        entries += 1;
        if entries > MAX_ENTRIES {
            return Err(invalid("the archive has too many entries".into()));
        }
        target.entry(entry)?;
    }
    target.finish();
    // Whoever sends it wants to send it to its end.
    io::copy(&mut archive.into_inner(), &mut io::sink())?;
    Ok(())
}

impl Target<'_> {
    fn find(&self, path: &str) -> io::Result<OwnedFd> {
        match self.below {
            Below::Root(root, at) => {
                let path = format!("{at}/{path}");
                let found = root.open(&path, OFlags::PATH | OFlags::DIRECTORY, Links::Inside);
                found.map_err(plain)
            }
            Below::Beneath(directory) => {
                let path = if path.is_empty() { "." } else { path };
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
                Ok(rustix::fs::openat2(directory, path, flags, Mode::empty(), resolve)?)
            }
        }
    }

    /// The directory of a path, made where it is missing.
    fn directory(&mut self, path: &str) -> io::Result<OwnedFd> {
        if let Some((cached, fd)) = &self.cached
            && cached == path
        {
            return fd.try_clone();
        }
        let found = match self.find(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_empty() => {
                let (above, name) = split(path);
                let above = self.directory(above)?;
                match rustix::fs::mkdirat(&above, name, Mode::from_raw_mode(IMPLIED)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(errno.into()),
                }
                self.find(path)?
            }
            other => other?,
        };
        self.cached = Some((path.to_owned(), found.try_clone()?));
        Ok(found)
    }

    fn entry<R: Read>(&mut self, mut entry: Entry<'_, R>) -> io::Result<()> {
        let kind = entry.header().entry_type();
        if kind == EntryType::XGlobalHeader {
            return Ok(());
        }
        let mut meta = meta(&mut entry)?;
        meta.owner = match self.options.no_owner {
            true => None,
            false => self.options.owner.or(meta.owner),
        };
        let own_name = meta.sparse.as_ref().and_then(|sparse| sparse.name.as_deref());
        let path = match own_name {
            Some(name) => self.renamed(name)?,
            None => self.renamed(&entry.path_bytes())?,
        };
        if path.is_empty() {
            // The directory itself stays as it is.
            return match kind {
                EntryType::Directory => Ok(()),
                _ => Err(invalid("an entry without a name".into())),
            };
        }
        let (above, name) = split(&path);
        let directory = self.directory(above)?;
        self.make_room(&directory, &path, name, kind)?;
        match kind {
            EntryType::Directory => {
                make::directory(&directory, name, &meta)?;
                self.times.note(&path, &meta);
                Ok(())
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                make::file(&directory, name, &mut entry, &meta).map(drop)
            }
            EntryType::Link => {
                let to = self.renamed(&link_target(&entry)?)?;
                let (above, target) = split(&to);
                let from = self.find(above)?;
                Ok(rustix::fs::linkat(from, target, &directory, name, AtFlags::empty())?)
            }
            EntryType::Symlink => make::symlink(&directory, name, &link_target(&entry)?, &meta),
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                match make::node(&directory, name, kind, &entry, &meta) {
                    Err(error)
                        if self.options.leave_out_nodes
                            && error.kind() == io::ErrorKind::PermissionDenied =>
                    {
                        Ok(())
                    }
                    other => other,
                }
            }
            other => Err(invalid(format!("unhandled tar header type {}", other.as_byte()))),
        }
    }

    fn renamed(&self, name: &[u8]) -> io::Result<String> {
        if self.options.renames.is_empty() {
            return lexical(name);
        }
        let mut text = String::from_utf8_lossy(name).into_owned();
        for (old, new) in self.options.renames {
            text = text.replacen(old, new, 1);
        }
        lexical(text.as_bytes())
    }

    fn make_room(
        &mut self,
        directory: &OwnedFd,
        path: &str,
        name: &str,
        kind: EntryType,
    ) -> io::Result<()> {
        let stat = match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        let was = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let is = kind == EntryType::Directory;
        let refused = |old: &str, new: &str| {
            let shown = self.options.shown;
            let full = format!("{}/{path}", shown.trim_end_matches('/'));
            Err(io::Error::other(format!("cannot overwrite {old} {full:?} with {new} {shown:?}")))
        };
        match (was, is) {
            (true, true) => Ok(()),
            (true, false) if self.options.keep_kinds => refused("directory", "non-directory"),
            (false, true) if self.options.keep_kinds => refused("non-directory", "directory"),
            (true, false) => {
                self.cached = None;
                self.times.forget(path);
                make::remove_tree(directory, name)
            }
            (false, _) => {
                self.cached = None;
                Ok(rustix::fs::unlinkat(directory, name, AtFlags::empty())?)
            }
        }
    }

    /// A directory that somebody has put something else for has no times.
    fn finish(&mut self) {
        for (path, times) in self.times.take() {
            let (above, name) = split(&path);
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            if let Ok(above) = self.find(above)
                && let Ok(found) = rustix::fs::openat(above, name, flags, Mode::empty())
            {
                let _ = rustix::fs::futimens(&found, &times);
            }
        }
    }
}

/// What is no archive is told in Docker's words, not in those of the reader.
fn misread(error: io::Error) -> io::Error {
    match (error.raw_os_error(), error.kind()) {
        (None, io::ErrorKind::Other) => {
            invalid("Error processing tar file: archive/tar: invalid tar header".into())
        }
        _ => error,
    }
}

fn plain(error: hoy_rootfd::RootError) -> io::Error {
    match error {
        hoy_rootfd::RootError::Io { source, .. } => source,
        other => io::Error::other(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::{Packer, Tree};
    use std::fs::File;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt, symlink};
    use std::path::Path;

    fn open(path: &Path) -> OwnedFd {
        File::open(path).unwrap().into()
    }

    fn packed(path: &Path, name: Option<&[u8]>) -> Vec<u8> {
        let mut packer = Packer::new(Vec::new());
        packer.tree(Tree { directory: &open(path), name }).unwrap();
        packer.finish().unwrap()
    }

    #[test]
    fn there_and_back() {
        let room = tempfile::tempdir().unwrap();
        let (from, to) = (room.path().join("from"), room.path().join("to"));
        let long = "n".repeat(150);
        std::fs::create_dir_all(from.join("a").join(&long)).unwrap();
        std::fs::create_dir(&to).unwrap();
        std::fs::write(from.join("a").join(&long).join("file"), "text").unwrap();
        std::fs::hard_link(from.join("a").join(&long).join("file"), from.join("link")).unwrap();
        symlink("/etc/passwd", from.join("away")).unwrap();
        std::fs::set_permissions(from.join("a"), PermissionsExt::from_mode(0o1750)).unwrap();
        let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        std::fs::File::open(from.join("a")).unwrap().set_modified(old).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(from.join("socket")).unwrap();

        let bytes = packed(&from, Some(b"."));
        let options = Options { keep_kinds: true, ..Options::default() };
        let target = open(&to);
        extract(bytes.as_slice(), Below::Beneath(&target), options).unwrap();
        let file = to.join("a").join(&long).join("file");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "text");
        let inode = |path: &Path| std::fs::metadata(path).unwrap().ino();
        assert_eq!(inode(&file), inode(&to.join("link")));
        assert_eq!(std::fs::read_link(to.join("away")).unwrap(), Path::new("/etc/passwd"));
        let stat = std::fs::metadata(to.join("a")).unwrap();
        assert_eq!((stat.mode() & 0o7777, stat.modified().unwrap()), (0o1750, old));
        assert!(!to.join("socket").exists());
        // Again: the same comes of it.
        extract(bytes.as_slice(), Below::Beneath(&target), options).unwrap();
    }

    #[test]
    fn kinds_and_ways_out() {
        let room = tempfile::tempdir().unwrap();
        let (from, to) = (room.path().join("from"), room.path().join("to"));
        std::fs::create_dir_all(from.join("x")).unwrap();
        std::fs::create_dir(&to).unwrap();
        std::fs::write(to.join("x"), "a file").unwrap();
        let target = open(&to);
        let keep = Options { keep_kinds: true, shown: "/to", ..Options::default() };
        let bytes = packed(&from, Some(b"."));
        let error = extract(bytes.as_slice(), Below::Beneath(&target), keep).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot overwrite non-directory \"/to/x\" with directory \"/to\""
        );
        extract(bytes.as_slice(), Below::Beneath(&target), Options::default()).unwrap();
        assert!(to.join("x").is_dir());
        // A link that leads out, and a file through it.
        let mut packer = Packer::new(Vec::new());
        let stat = rustix::fs::fstat(&target).unwrap();
        let link = crate::Header {
            link: Some(b"../from"),
            ..crate::Header::of(b"out", EntryType::Symlink, &stat)
        };
        packer.append(&link, io::empty()).unwrap();
        let file = crate::Header {
            size: 1,
            mode: 0o644,
            ..crate::Header::of(b"out/file", EntryType::Regular, &stat)
        };
        packer.append(&file, &b"x"[..]).unwrap();
        let bytes = packer.finish().unwrap();
        extract(bytes.as_slice(), Below::Beneath(&target), keep).unwrap_err();
        assert!(!from.join("file").exists());
        // In a root the same link leads to the root's own.
        std::fs::remove_file(to.join("out")).unwrap();
        let root = RootFd::new(open(&to));
        extract(bytes.as_slice(), Below::Root(&root, ""), keep).unwrap_err();
        std::fs::create_dir(to.join("from")).unwrap();
        extract(bytes.as_slice(), Below::Root(&root, "/"), keep).unwrap();
        assert!(to.join("from/file").exists() && !from.join("file").exists());
        assert!(lexical(b"a/../../b").is_err());
        assert_eq!(lexical(b"/a/./../b/").unwrap(), "b");
    }
}
