//! What a container has changed of its image: its writable directory beside the image's layers.
//!
//! The tree is the container's to change at any moment unless it is paused: it is walked by
//! descriptors, and nothing is followed. A directory that stands in the writable one only since
//! something in it has changed says no more than that.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::io::{self, Write};
use std::os::fd::OwnedFd;

use hoy_runtime::Written;
use hoy_tree::{Header, Packer, kept_xattrs, names};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use tar::EntryType;

use crate::job::ChangeKind;

/// Deeper trees are refused: each level holds two descriptors.
const DEEPEST: usize = 1000;
const OPAQUE: &str = "trusted.overlay.opaque";
/// Marks of a directory that was renamed, and of a file whose data is elsewhere: where the kernel
/// was told to make such, what lies here is not the whole.
const ELSEWHERE: [&str; 2] = ["trusted.overlay.redirect", "trusted.overlay.metacopy"];

/// One path, as bytes, that is not as in the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// With a slash in front.
    pub path: Vec<u8>,
    pub kind: ChangeKind,
}

impl Found {
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.path).into_owned()
    }
}

struct Comparison {
    /// Everything that lies in the writable directory is a change, whatever its times say.
    all: bool,
    found: Vec<Found>,
}

/// All changes, parents before what lies in them, sorted.
pub(crate) fn compare(written: &Written, all: bool) -> io::Result<Vec<Found>> {
    let mut comparison = Comparison { all, found: Vec::new() };
    comparison.directory(&written.upper, written.lower.as_ref(), false, b"", 0)?;
    Ok(comparison.found)
}

fn stat(directory: &OwnedFd, name: &CStr) -> io::Result<Option<Stat>> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn open(directory: &OwnedFd, name: &CStr, flags: OFlags) -> io::Result<Option<OwnedFd>> {
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::openat(directory, name, flags, Mode::empty()) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn has(file: &OwnedFd, name: &str) -> io::Result<bool> {
    match rustix::fs::fgetxattr(file, name, &mut [0_u8; 0]) {
        Ok(_) | Err(Errno::RANGE) => Ok(true),
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

fn kind_of(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn is_whiteout(stat: &Stat) -> bool {
    kind_of(stat) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// What Docker compares, without the times of directories.
fn differs(upper: &Stat, lower: &Stat) -> bool {
    let about = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_rdev);
    let content = |stat: &Stat| (stat.st_size, stat.st_mtime, stat.st_mtime_nsec);
    let directory = kind_of(upper) == FileType::Directory;
    about(upper) != about(lower) || !directory && content(upper) != content(lower)
}

/// What every start puts into the root file system where the image has nothing: Docker keeps it in
/// a layer of its own that belongs to no image.
fn is_furniture(path: &[u8], stat: &Stat, directory: &OwnedFd, name: &CStr) -> bool {
    let empty_file = || kind_of(stat) == FileType::RegularFile && stat.st_size == 0;
    match path {
        b"/.dockerenv" | b"/etc/hostname" | b"/etc/hosts" | b"/etc/resolv.conf"
        | b"/dev/console" => empty_file(),
        b"/etc/mtab" => {
            let target = rustix::fs::readlinkat(directory, name, Vec::new());
            target.is_ok_and(|target| target.to_bytes() == b"/proc/mounts")
        }
        _ => false,
    }
}

/// Directories of the same kind, if there is nothing in them.
fn is_furnished(path: &[u8]) -> bool {
    matches!(path, b"/dev" | b"/dev/pts" | b"/dev/shm" | b"/proc" | b"/sys" | b"/etc")
}

impl Comparison {
    fn push(&mut self, path: &[u8], kind: ChangeKind) {
        self.found.push(Found { path: path.to_vec(), kind });
    }

    /// `hidden`: nothing of the image's directory is seen through this one.
    fn directory(
        &mut self,
        upper: &OwnedFd,
        lower: Option<&OwnedFd>,
        hidden: bool,
        path: &[u8],
        depth: usize,
    ) -> io::Result<()> {
        if depth > DEEPEST {
            return Err(io::Error::other(format!("directories are nested deeper than {DEEPEST}")));
        }
        if let Some(mark) = ELSEWHERE.into_iter().find(|mark| has(upper, mark).unwrap_or(false)) {
            return Err(io::Error::other(format!(
                "{} has the mark {mark}: overlayfs must not be told to make such",
                String::from_utf8_lossy(path)
            )));
        }
        let hidden = hidden || has(upper, OPAQUE)?;
        let own: BTreeSet<CString> = names(upper)?.into_iter().collect();
        let mut every = own.clone();
        if let (true, Some(lower)) = (hidden, lower) {
            every.extend(names(lower)?);
        }
        for name in every {
            let mut below = path.to_vec();
            below.push(b'/');
            below.extend_from_slice(name.to_bytes());
            if own.contains(&name) {
                self.entry(upper, lower, &name, hidden, &below, depth)?;
            } else {
                self.push(&below, ChangeKind::Deleted);
            }
        }
        Ok(())
    }

    fn entry(
        &mut self,
        upper: &OwnedFd,
        lower: Option<&OwnedFd>,
        name: &CStr,
        hidden: bool,
        path: &[u8],
        depth: usize,
    ) -> io::Result<()> {
        // Gone meanwhile: it is no container's that is paused.
        let Some(now) = stat(upper, name)? else { return Ok(()) };
        let before = lower.map(|lower| stat(lower, name)).transpose()?.flatten();
        if is_whiteout(&now) {
            if before.is_some() {
                self.push(path, ChangeKind::Deleted);
            }
            return Ok(());
        }
        if kind_of(&now) != FileType::Directory {
            match before {
                None if is_furniture(path, &now, upper, name) => {}
                None => self.push(path, ChangeKind::Added),
                Some(before) if self.all || differs(&now, &before) => {
                    self.push(path, ChangeKind::Modified);
                }
                Some(before) => {
                    if capability(upper, name)? != capability_of(lower, name, &before)? {
                        self.push(path, ChangeKind::Modified);
                    }
                }
            }
            return Ok(());
        }
        let Some(opened) = open(upper, name, OFlags::DIRECTORY)? else { return Ok(()) };
        let below = match (&before, lower) {
            (Some(before), Some(lower)) if kind_of(before) == FileType::Directory => {
                open(lower, name, OFlags::DIRECTORY)?
            }
            _ => None,
        };
        // It comes before what lies in it, and is told only if something of it is.
        let at = self.found.len();
        self.directory(&opened, below.as_ref(), hidden, path, depth + 1)?;
        let quiet = self.found.len() == at;
        let kind = match (&before, &below) {
            (None, _) if quiet && is_furnished(path) => return Ok(()),
            (None, _) => ChangeKind::Added,
            (Some(before), below) => {
                let same = quiet && !differs(&now, before);
                let marks = match below {
                    Some(below) if same => kept_xattrs(&opened)? != kept_xattrs(below)?,
                    _ => false,
                };
                if same && !marks {
                    return Ok(());
                }
                ChangeKind::Modified
            }
        };
        self.found.insert(at, Found { path: path.to_vec(), kind });
        Ok(())
    }
}

fn capability(directory: &OwnedFd, name: &CStr) -> io::Result<Vec<(String, Vec<u8>)>> {
    match stat(directory, name)? {
        Some(stat) if kind_of(&stat) == FileType::RegularFile => {
            match open(directory, name, OFlags::NOCTTY)? {
                Some(file) => kept_xattrs(&file),
                None => Ok(Vec::new()),
            }
        }
        _ => Ok(Vec::new()),
    }
}

fn capability_of(
    directory: Option<&OwnedFd>,
    name: &CStr,
    stat: &Stat,
) -> io::Result<Vec<(String, Vec<u8>)>> {
    match directory {
        Some(directory) if kind_of(stat) == FileType::RegularFile => capability(directory, name),
        _ => Ok(Vec::new()),
    }
}

/// The changes as a layer: what is gone is named by whiteouts.
pub(crate) fn pack(written: &Written, found: &[Found], out: &mut impl Write) -> io::Result<()> {
    let mut packer = Packer::new(out);
    // The directories that the path before lay in.
    let mut open_ones: Vec<(Vec<u8>, OwnedFd)> = Vec::new();
    for change in found {
        let at = change.path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        let (above, name) = (&change.path[..at], &change.path[at + 1..]);
        let path = &change.path[1..];
        if change.kind == ChangeKind::Deleted {
            let mut hidden = path[..path.len() - name.len()].to_vec();
            hidden.extend_from_slice(b".wh.");
            hidden.extend_from_slice(name);
            let head = Header {
                path: &hidden,
                link: None,
                kind: EntryType::Regular,
                mode: 0o600,
                uid: 0,
                gid: 0,
                mtime: 0,
                size: 0,
                device: 0,
                xattrs: &[],
            };
            packer.append(&head, io::empty())?;
            continue;
        }
        if name.starts_with(b".wh.") {
            // It would hide something instead of being something.
            continue;
        }
        while open_ones.last().is_some_and(|(known, _)| !lies_in(above, known)) {
            open_ones.pop();
        }
        let Some(directory) = walk(&written.upper, &mut open_ones, above)? else { continue };
        let name = CString::new(name).map_err(io::Error::other)?;
        let Some(stat) = stat(directory, &name)? else { continue };
        if is_whiteout(&stat) {
            continue;
        }
        if kind_of(&stat) == FileType::Directory {
            if let Some(opened) = open(directory, &name, OFlags::DIRECTORY)? {
                packer.directory_itself(&opened, path, &stat)?;
            }
        } else {
            packer.alone(directory, &name, path, &stat)?;
        }
    }
    packer.finish()?;
    Ok(())
}

fn lies_in(path: &[u8], directory: &[u8]) -> bool {
    path == directory || path.starts_with(directory) && path.get(directory.len()) == Some(&b'/')
}

/// The directory of a path below the writable one, each from the one above it.
fn walk<'a>(
    upper: &'a OwnedFd,
    open_ones: &'a mut Vec<(Vec<u8>, OwnedFd)>,
    path: &[u8],
) -> io::Result<Option<&'a OwnedFd>> {
    let mut known = open_ones.last().map_or(0, |(known, _)| known.len());
    while known < path.len() {
        let end = path[known + 1..].iter().position(|byte| *byte == b'/');
        let end = end.map_or(path.len(), |end| known + 1 + end);
        let name = CString::new(&path[known + 1..end]).map_err(io::Error::other)?;
        let above = open_ones.last().map_or(upper, |(_, above)| above);
        match open(above, &name, OFlags::DIRECTORY)? {
            Some(opened) => open_ones.push((path[..end].to_vec(), opened)),
            None => return Ok(None),
        }
        known = end;
    }
    Ok(Some(open_ones.last().map_or(upper, |(_, above)| above)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn open_path(path: &Path) -> OwnedFd {
        std::fs::File::open(path).unwrap().into()
    }

    fn whiteout(path: &Path) {
        let kind = FileType::CharacterDevice;
        rustix::fs::mknodat(rustix::fs::CWD, path, kind, Mode::empty(), 0).unwrap();
    }

    fn shown(found: &[Found]) -> Vec<String> {
        let letter = |kind| match kind {
            ChangeKind::Modified => 'C',
            ChangeKind::Added => 'A',
            ChangeKind::Deleted => 'D',
        };
        found.iter().map(|one| format!("{} {}", letter(one.kind), one.shown())).collect()
    }

    #[test]
    fn changes_and_their_layer() {
        let room = tempfile::tempdir_in("/var/tmp").unwrap();
        let (upper, lower) = (room.path().join("upper"), room.path().join("lower"));
        for path in ["lower/a/b", "lower/gone", "lower/opaque/x", "upper/a/b", "upper/opaque"] {
            std::fs::create_dir_all(room.path().join(path)).unwrap();
        }
        for path in ["upper/etc", "upper/proc", "upper/new/deep", "lower/same", "upper/same"] {
            std::fs::create_dir_all(room.path().join(path)).unwrap();
        }
        std::fs::write(lower.join("a/b/file"), "old").unwrap();
        std::fs::write(upper.join("a/b/file"), "newer").unwrap();
        std::fs::write(upper.join("new/deep/one"), "one").unwrap();
        std::fs::hard_link(upper.join("new/deep/one"), upper.join("new/two")).unwrap();
        std::fs::write(upper.join("etc/hosts"), "").unwrap();
        std::fs::write(lower.join("opaque/y"), "").unwrap();
        std::fs::write(upper.join("opaque/y"), "y").unwrap();
        whiteout(&upper.join("gone"));
        whiteout(&upper.join("never"));
        let opaque = open_path(&upper.join("opaque"));
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::fsetxattr(&opaque, OPAQUE, b"y", flags).unwrap();
        let written = Written { upper: open_path(&upper), lower: Some(open_path(&lower)) };
        let found = compare(&written, false).unwrap();
        assert_eq!(
            shown(&found),
            [
                "C /a",
                "C /a/b",
                "C /a/b/file",
                "D /gone",
                "A /new",
                "A /new/deep",
                "A /new/deep/one",
                "A /new/two",
                "C /opaque",
                "D /opaque/x",
                "C /opaque/y",
            ]
        );
        let mut bytes = Vec::new();
        pack(&written, &found, &mut bytes).unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let list: Vec<String> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let link = entry.link_name().unwrap();
                let link = link.map_or(String::new(), |link| format!(" -> {}", link.display()));
                format!("{}{link}", entry.path().unwrap().display())
            })
            .collect();
        assert_eq!(
            list,
            [
                "a/",
                "a/b/",
                "a/b/file",
                ".wh.gone",
                "new/",
                "new/deep/",
                "new/deep/one",
                "new/two -> new/deep/one",
                "opaque/",
                "opaque/.wh.x",
                "opaque/y",
            ]
        );
        let scratch = Written { upper: open_path(&upper), lower: None };
        assert_eq!(compare(&scratch, false).unwrap().len(), 10);
    }
}
