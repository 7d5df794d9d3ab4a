//! How an entry of an archive becomes a file, in a directory that is held: nothing here resolves
//! more than one name, and no link is followed.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use tar::{Entry, EntryType};

use crate::entry::{Meta, invalid};
use crate::pack::names;

/// Deeper trees are refused: each level holds a descriptor.
const DEEPEST: usize = 1024;

/// A directory, which may be there already. Its times are set once all lies in it.
pub fn directory(above: &OwnedFd, name: &str, meta: &Meta) -> io::Result<()> {
    match rustix::fs::mkdirat(above, name, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = rustix::fs::openat(above, name, flags, Mode::empty())?;
    apply_meta(&made, meta)
}

/// A file, new, with what the entry holds; how many bytes that are.
pub fn file<R: Read>(
    directory: &OwnedFd,
    name: &str,
    entry: &mut Entry<'_, R>,
    meta: &Meta,
) -> io::Result<u64> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(meta.mode & 0o777);
    let mut file = File::from(rustix::fs::openat(directory, name, flags, mode)?);
    let size = match &meta.sparse {
        Some(sparse) => sparse.write(entry, &mut file)?,
        None => copy_sparse(entry, &mut file)?,
    };
    let fd = OwnedFd::from(file);
    apply_meta(&fd, meta)?;
    rustix::fs::futimens(&fd, &meta.times)?;
    Ok(size)
}

pub fn symlink(directory: &OwnedFd, name: &str, to: &[u8], meta: &Meta) -> io::Result<()> {
    rustix::fs::symlinkat(to, directory, name)?;
    own(directory, name, meta)?;
    Ok(rustix::fs::utimensat(directory, name, &meta.times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Also of root's: in a directory with the set-group-id bit a new file has the directory's group.
fn own(directory: &OwnedFd, name: &str, meta: &Meta) -> io::Result<()> {
    let Some((uid, gid)) = meta.owner else { return Ok(()) };
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    Ok(rustix::fs::chownat(directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Owner before mode, since a change of owner takes the set-user-id bit away.
pub fn apply_meta(fd: &OwnedFd, meta: &Meta) -> io::Result<()> {
    if let Some((uid, gid)) = meta.owner {
        rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    rustix::fs::fchmod(fd, Mode::from_raw_mode(meta.mode))?;
    for (name, value) in &meta.xattrs {
        if is_own_of_overlay(name) {
            continue;
        }
        match rustix::fs::fsetxattr(fd, name.as_str(), value, XattrFlags::empty()) {
            // What may not be set here (trusted.*), or what this file system does not have.
            Ok(()) | Err(Errno::PERM | Errno::NOTSUP) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

pub fn node<R: Read>(
    directory: &OwnedFd,
    name: &str,
    kind: EntryType,
    entry: &Entry<'_, R>,
    meta: &Meta,
) -> io::Result<()> {
    let header = entry.header();
    let device = || -> io::Result<u64> {
        let major = header.device_major()?.unwrap_or(0);
        let minor = header.device_minor()?.unwrap_or(0);
        Ok(rustix::fs::makedev(major, minor))
    };
    let (file_type, device) = match kind {
        EntryType::Char => (FileType::CharacterDevice, device()?),
        EntryType::Block => (FileType::BlockDevice, device()?),
        _ => (FileType::Fifo, 0),
    };
    if file_type == FileType::CharacterDevice && device == 0 {
        return Err(invalid(format!("{name:?}: a whiteout as a device node")));
    }
    rustix::fs::mknodat(
        directory,
        name,
        file_type,
        Mode::from_raw_mode(meta.mode & 0o777),
        device,
    )?;
    own(directory, name, meta)?;
    rustix::fs::chmodat(directory, name, Mode::from_raw_mode(meta.mode), AtFlags::empty())?;
    Ok(rustix::fs::utimensat(directory, name, &meta.times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Copies, leaving holes where there are only zeros.
fn copy_sparse(source: &mut impl Read, file: &mut File) -> io::Result<u64> {
    let mut buffer = vec![0; 64 * 1024];
    let mut size = 0_u64;
    let mut hole = false;
    loop {
        let length = source.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        size += length as u64;
        let bytes = &buffer[..length];
        hole = length >= 4096 && bytes.iter().all(|byte| *byte == 0);
        if hole {
            file.seek(SeekFrom::Current(length as i64))?;
        } else {
            file.write_all(bytes)?;
        }
    }
    if hole {
        file.set_len(size)?;
    }
    Ok(size)
}

/// Removes a directory with all that lies in it.
pub fn remove_tree(directory: &OwnedFd, name: &str) -> io::Result<()> {
    let name = std::ffi::CString::new(name)?;
    remove_at(directory, &name, 0)
}

fn remove_at(directory: &OwnedFd, name: &CStr, depth: usize) -> io::Result<()> {
    if depth > DEEPEST {
        return Err(io::Error::other(format!("directories are nested deeper than {DEEPEST}")));
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inside = rustix::fs::openat(directory, name, flags, Mode::empty())?;
    for below in names(&inside)? {
        match rustix::fs::unlinkat(inside.as_fd(), &*below, AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::ISDIR) => remove_at(&inside, &below, depth + 1)?,
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR)?)
}

/// Times of directories, to be set last: what is made inside changes them.
#[derive(Debug, Default)]
pub struct Times(Vec<(String, Timestamps)>);

impl Times {
    pub fn note(&mut self, path: &str, meta: &Meta) {
        self.0.push((path.to_owned(), meta.times.clone()));
    }

    /// The directory has gone, with all that lay in it.
    pub fn forget(&mut self, path: &str) {
        self.0.retain(|(known, _)| !lies_in(known, path));
    }

    /// Innermost first.
    pub fn take(&mut self) -> impl Iterator<Item = (String, Timestamps)> + use<> {
        std::mem::take(&mut self.0).into_iter().rev()
    }
}

/// Whether that is the path of a directory, or of something in it.
pub fn lies_in(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Attributes that overlayfs keeps for itself: what an archive says of them would be believed.
pub(crate) fn is_own_of_overlay(name: &str) -> bool {
    name.contains(".overlay.")
}
