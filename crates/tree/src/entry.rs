//! What an entry of an archive says, and how it becomes a file.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use tar::{Entry, EntryType};

use crate::pack::names;
use crate::sparse::Sparse;

/// The longest path that the kernel takes.
const MAX_PATH: usize = 4096;
/// Deeper trees are refused: each level holds a descriptor.
const DEEPEST: usize = 1024;

/// Something in the archive is not as it must be.
pub fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// What an entry says of its owner, mode, times and extended attributes.
#[derive(Debug)]
pub struct Meta {
    pub uid: u32,
    pub gid: u32,
    pub mode: u32,
    pub times: Timestamps,
    pub xattrs: Vec<(String, Vec<u8>)>,
    pub sparse: Option<Sparse>,
}

/// `a/b/c` of whatever stands in an archive, by its text alone; what leads out of it is refused.
pub fn lexical(path: &[u8]) -> io::Result<String> {
    let text = std::str::from_utf8(path)
        .map_err(|_| invalid("a name in the archive is not UTF-8".into()))?;
    if text.len() > MAX_PATH || text.contains('\0') {
        return Err(invalid("a name in the archive is too long or contains NUL".into()));
    }
    let mut out: Vec<&str> = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                if out.pop().is_none() {
                    return Err(invalid(format!("invalid tar entry {text:?}: breakout")));
                }
            }
            part => out.push(part),
        }
    }
    Ok(out.join("/"))
}

pub fn meta<R: Read>(entry: &mut Entry<'_, R>) -> io::Result<Meta> {
    let header = entry.header();
    let old = header.as_old();
    let mut uid = or_zero(&old.uid, || header.uid())?;
    let mut gid = or_zero(&old.gid, || header.gid())?;
    let mode = or_zero(&old.mode, || header.mode())? & 0o7777;
    let mut seconds = i64::try_from(or_zero(&old.mtime, || header.mtime())?).unwrap_or(0);
    let mut nanos = 0;
    let mut xattrs = Vec::new();
    let mut sparse: Option<Sparse> = None;
    if let Some(extensions) = entry.pax_extensions()? {
        for extension in extensions {
            let extension = extension?;
            let key = extension.key().map_err(|_| invalid("a PAX key is not UTF-8".into()))?;
            let text = || String::from_utf8_lossy(extension.value_bytes()).into_owned();
            let number =
                || text().parse::<u64>().map_err(|_| invalid(format!("invalid PAX {key}")));
            match key {
                "uid" => uid = number()?,
                "gid" => gid = number()?,
                "mtime" => {
                    let text = text();
                    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
                    seconds = whole
                        .parse()
                        .map_err(|_| invalid(format!("invalid PAX mtime {text:?}")))?;
                    let digits: String =
                        fraction.chars().chain("000000000".chars()).take(9).collect();
                    nanos = digits.parse().unwrap_or(0);
                }
                key => {
                    if let Some(key) = key.strip_prefix("GNU.sparse.") {
                        let sparse = sparse.get_or_insert_with(Sparse::default);
                        sparse.take(key, extension.value_bytes())?;
                    } else if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
                        xattrs.push((name.to_owned(), extension.value_bytes().to_vec()));
                    }
                }
            }
        }
    }
    let id = |value: u64| {
        u32::try_from(value)
            .ok()
            .filter(|value| *value != u32::MAX)
            .ok_or_else(|| invalid(format!("an owner {value} that no system has")))
    };
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(Meta { uid: id(uid)?, gid: id(gid)?, mode, times, xattrs, sparse })
}

/// A number in which nothing is written is zero, as it is to Docker: programs that write archives
/// of their own leave out what they have no value for.
fn or_zero<N: Default>(field: &[u8], read: impl FnOnce() -> io::Result<N>) -> io::Result<N> {
    if field.iter().all(|&byte| byte == 0 || byte == b' ') { Ok(N::default()) } else { read() }
}

pub fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// Also of root's: in a directory with the set-group-id bit a new file has the directory's group.
pub fn own(directory: &OwnedFd, name: &str, meta: &Meta) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
    Ok(rustix::fs::chownat(directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Owner before mode, since a change of owner takes the set-user-id bit away.
pub fn apply_meta(fd: &OwnedFd, meta: &Meta) -> io::Result<()> {
    rustix::fs::fchown(fd, Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)))?;
    rustix::fs::fchmod(fd, Mode::from_raw_mode(meta.mode))?;
    for (name, value) in &meta.xattrs {
        if is_own_of_overlay(name) {
            continue;
        }
        match rustix::fs::fsetxattr(fd, name.as_str(), value, XattrFlags::empty()) {
            // What this worker may not set (trusted.*) or this file system does not have.
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
pub fn copy_sparse(source: &mut impl Read, file: &mut File) -> io::Result<u64> {
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

/// Attributes that overlayfs keeps for itself: what an archive says of them would be believed.
pub fn is_own_of_overlay(name: &str) -> bool {
    name.contains(".overlay.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_written_is_zero() {
        let mut header = tar::Header::new_ustar();
        header.set_size(0);
        let mut archive = tar::Builder::new(Vec::new());
        archive.append_data(&mut header, "given", &b""[..]).expect("an archive");
        let bytes = archive.into_inner().expect("its bytes");
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut entry = archive.entries().expect("entries").next().expect("one").expect("read");
        let meta = meta(&mut entry).expect("zeros");
        assert_eq!((meta.uid, meta.gid, meta.mode), (0, 0, 0));
        assert_eq!(meta.times.last_modification.tv_sec, 0);

        let wrong = or_zero(b"12x\0", || tar::Header::new_ustar().uid());
        assert!(wrong.is_err(), "something that is no number is still refused: {wrong:?}");
    }
}
