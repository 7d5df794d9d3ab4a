//! A tree as an archive: sorted, hard links as links, sockets left out as everywhere.
//!
//! Names are bytes, whatever they are. What vanishes or becomes something else while it is looked
//! at is left out; a file that shrinks is filled up, since its length has been told already.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use tar::{Builder, EntryType};

/// Deeper trees are refused: each level holds a descriptor.
const DEEPEST: usize = 1024;
/// The longest list and value that the kernel has.
const XATTRS: usize = 64 << 10;
/// What a header holds by itself of a name, and of ids in seven octal digits.
const SHORT: usize = 100;
const SMALL: u32 = 0o7_777_777;
/// The latest time of eleven octal digits.
const LATEST: i64 = 0o77_777_777_777;

/// One entry's head.
#[derive(Clone, Debug)]
pub struct Header<'a> {
    pub path: &'a [u8],
    pub link: Option<&'a [u8]>,
    pub kind: EntryType,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: i64,
    pub size: u64,
    pub device: u64,
    pub xattrs: &'a [(String, Vec<u8>)],
}

impl<'a> Header<'a> {
    /// Of something that was looked at.
    pub fn of(path: &'a [u8], kind: EntryType, stat: &Stat) -> Self {
        Self {
            path,
            link: None,
            kind,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: stat.st_mtime,
            size: 0,
            device: 0,
            xattrs: &[],
        }
    }
}

/// A directory that an archive is made of.
#[derive(Clone, Copy, Debug)]
pub struct Tree<'a> {
    pub directory: &'a OwnedFd,
    /// What it is called in the archive; without a name it has no entry of its own.
    pub name: Option<&'a [u8]>,
}

/// An archive in the making.
pub struct Packer<W: Write> {
    out: Builder<W>,
    /// Files with several names: the first one.
    links: HashMap<(u64, u64), Vec<u8>>,
}

impl<W: Write> Packer<W> {
    pub fn new(out: W) -> Self {
        Self { out: Builder::new(out), links: HashMap::new() }
    }

    /// The end of the archive.
    pub fn finish(self) -> io::Result<W> {
        self.out.into_inner()
    }

    /// A head, and as many bytes as it says.
    pub fn append(&mut self, head: &Header<'_>, data: impl Read) -> io::Result<()> {
        let mut long: Vec<(String, Vec<u8>)> = Vec::new();
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(head.kind);
        header.set_mode(head.mode);
        header.set_size(head.size);
        let link = head.link.unwrap_or_default();
        {
            let old = header.as_old_mut();
            for (field, bytes, key) in
                [(&mut old.name, head.path, "path"), (&mut old.linkname, link, "linkpath")]
            {
                let short = bytes.len().min(SHORT);
                field[..short].copy_from_slice(&bytes[..short]);
                if bytes.len() > SHORT {
                    long.push((key.to_owned(), bytes.to_vec()));
                }
            }
        }
        for (id, key) in [(head.uid, "uid"), (head.gid, "gid")] {
            let small = if id <= SMALL { id } else { 0 };
            match key {
                "uid" => header.set_uid(small.into()),
                _ => header.set_gid(small.into()),
            }
            if id > SMALL {
                long.push((key.to_owned(), id.to_string().into_bytes()));
            }
        }
        match u64::try_from(head.mtime) {
            Ok(time) if head.mtime <= LATEST => header.set_mtime(time),
            _ => {
                header.set_mtime(0);
                long.push(("mtime".to_owned(), head.mtime.to_string().into_bytes()));
            }
        }
        if matches!(head.kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(rustix::fs::major(head.device))?;
            header.set_device_minor(rustix::fs::minor(head.device))?;
        }
        for (name, value) in head.xattrs {
            long.push((format!("SCHILY.xattr.{name}"), value.clone()));
        }
        if !long.is_empty() {
            let pairs = long.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
            self.out.append_pax_extensions(pairs)?;
        }
        header.set_cksum();
        let mut exact = data.chain(io::repeat(0)).take(head.size);
        self.out.append(&header, &mut exact)
    }

    /// A directory with all that lies in it.
    pub fn tree(&mut self, tree: Tree<'_>) -> io::Result<()> {
        let stat = rustix::fs::fstat(tree.directory)?;
        if let Some(name) = tree.name {
            self.directory_itself(tree.directory, name, &stat)?;
        }
        self.below(tree.directory, tree.name, 0)
    }

    /// A directory without what lies in it.
    pub fn directory_itself(
        &mut self,
        directory: &OwnedFd,
        name: &[u8],
        stat: &Stat,
    ) -> io::Result<()> {
        let mut name = name.to_vec();
        if !name.ends_with(b"/") {
            name.push(b'/');
        }
        let xattrs = kept_xattrs(directory)?;
        let head = Header { xattrs: &xattrs, ..Header::of(&name, EntryType::Directory, stat) };
        self.append(&head, io::empty())
    }

    fn below(&mut self, directory: &OwnedFd, name: Option<&[u8]>, depth: usize) -> io::Result<()> {
        if depth > DEEPEST {
            return Err(io::Error::other(format!("directories are nested deeper than {DEEPEST}")));
        }
        for child in names(directory)? {
            let mut path = Vec::new();
            if let Some(name) = name {
                path.extend_from_slice(name);
                path.push(b'/');
            }
            path.extend_from_slice(child.to_bytes());
            self.entry_at(directory, &child, &path, depth)?;
        }
        Ok(())
    }

    /// Whatever has a name in a directory, with all below it.
    pub fn entry(&mut self, directory: &OwnedFd, name: &CStr, path: &[u8]) -> io::Result<()> {
        self.entry_at(directory, name, path, 0)
    }

    fn entry_at(
        &mut self,
        directory: &OwnedFd,
        name: &CStr,
        path: &[u8],
        depth: usize,
    ) -> io::Result<()> {
        let stat = match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(errno) => return vanished(errno),
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return self.alone(directory, name, path, &stat);
        }
        let opened = match open(directory, name, OFlags::DIRECTORY) {
            Ok(opened) => opened,
            Err(errno) => return vanished(errno),
        };
        let stat = rustix::fs::fstat(&opened)?;
        self.directory_itself(&opened, path, &stat)?;
        self.below(&opened, Some(path), depth + 1)
    }

    /// Anything that is no directory.
    pub fn alone(
        &mut self,
        directory: &OwnedFd,
        name: &CStr,
        path: &[u8],
        stat: &Stat,
    ) -> io::Result<()> {
        let several = stat.st_nlink > 1;
        let key = (stat.st_dev, stat.st_ino);
        if several && let Some(first) = self.links.get(&key).cloned() {
            let head = Header { link: Some(&first), ..Header::of(path, EntryType::Link, stat) };
            return self.append(&head, io::empty());
        }
        let kind = FileType::from_raw_mode(stat.st_mode);
        match kind {
            FileType::RegularFile => {
                let file = match open(directory, name, OFlags::NOCTTY) {
                    Ok(file) => file,
                    Err(errno) => return vanished(errno),
                };
                let now = rustix::fs::fstat(&file)?;
                if FileType::from_raw_mode(now.st_mode) != FileType::RegularFile {
                    return Ok(());
                }
                let xattrs = kept_xattrs(&file)?;
                let head = Header {
                    size: u64::try_from(now.st_size).unwrap_or(0),
                    xattrs: &xattrs,
                    ..Header::of(path, EntryType::Regular, &now)
                };
                self.append(&head, std::fs::File::from(file))?;
            }
            FileType::Symlink => {
                let target = match rustix::fs::readlinkat(directory, name, Vec::new()) {
                    Ok(target) => target,
                    Err(errno) => return vanished(errno),
                };
                let link = Some(target.to_bytes());
                let head = Header { link, ..Header::of(path, EntryType::Symlink, stat) };
                self.append(&head, io::empty())?;
            }
            FileType::CharacterDevice | FileType::BlockDevice | FileType::Fifo => {
                let kind = match kind {
                    FileType::CharacterDevice => EntryType::Char,
                    FileType::BlockDevice => EntryType::Block,
                    _ => EntryType::Fifo,
                };
                let head = Header { device: stat.st_rdev, ..Header::of(path, kind, stat) };
                self.append(&head, io::empty())?;
            }
            // Sockets mean nothing elsewhere.
            _ => return Ok(()),
        }
        if several {
            self.links.insert(key, path.to_vec());
        }
        Ok(())
    }
}

fn open(directory: &OwnedFd, name: &CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::empty())
}

/// It is not there any more, or something else is.
fn vanished(errno: Errno) -> io::Result<()> {
    match errno {
        Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::NXIO | Errno::STALE => Ok(()),
        errno => Err(errno.into()),
    }
}

/// The names in a directory, sorted.
pub fn names(directory: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// The attributes that travel: file capabilities, and people's own.
pub fn kept_xattrs(file: &OwnedFd) -> io::Result<Vec<(String, Vec<u8>)>> {
    // Most files have none: asked for without room first.
    let length = match rustix::fs::flistxattr(file, &mut [0_u8; 0]) {
        Ok(0) | Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Ok(length) => length,
        Err(errno) => return Err(errno.into()),
    };
    let mut list = vec![0; length.max(4096)];
    let length = match rustix::fs::flistxattr(file, &mut list) {
        Ok(length) => length,
        Err(Errno::RANGE) => {
            list.resize(XATTRS, 0);
            rustix::fs::flistxattr(file, &mut list)?
        }
        Err(errno) => return Err(errno.into()),
    };
    let mut out = Vec::new();
    for name in list[..length].split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        let Ok(text) = name.to_str() else { continue };
        let kept = text == "security.capability" || text.starts_with("user.");
        if !kept || crate::make::is_own_of_overlay(text) {
            continue;
        }
        let mut value = vec![0; XATTRS];
        match rustix::fs::fgetxattr(file, name, &mut value) {
            Ok(length) => {
                value.truncate(length);
                out.push((text.to_owned(), value));
            }
            Err(Errno::NODATA | Errno::NOTSUP) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(out)
}
