//! Paths of a container, as Docker's `cp` understands them: by their text first, then by the
//! kernel below the container's root.

use std::collections::VecDeque;
use std::ffi::CString;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use hoy_rootfd::{Links, RootError, RootFd};
use hoy_tree::{Below, Options, Packer, Tree, extract};
use rustix::fs::{AtFlags, FileType, OFlags, Stat, StatVfsMountFlags, StatxFlags};

use crate::inside::Failed;
use crate::job::{Fault, PathStat};

/// As many links as the kernel follows, and some more.
const MAX_LINKS: usize = 255;

/// A path as Go's `filepath.Join("/", path)` cleans it, with what its end says: that it is a
/// directory, or that its contents are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    /// Absolute, without `.`, `..` and a slash at the end; empty for the root.
    pub clean: String,
    pub contents: bool,
    pub directory: bool,
}

impl Named {
    pub fn of(path: &str) -> Self {
        let mut parts: Vec<&str> = Vec::new();
        for part in path.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        let clean: String = parts.iter().flat_map(|part| ["/", part]).collect();
        let contents = path == "." || path.ends_with("/.");
        Self { contents, directory: contents || path.ends_with('/'), clean }
    }

    fn split(&self) -> (&str, &str) {
        self.clean.rsplit_once('/').unwrap_or(("", ""))
    }

    /// Go's `filepath.Base` of it.
    fn base(&self) -> &str {
        match (self.contents, self.split().1) {
            (true, _) => ".",
            (_, "") => "/",
            (_, name) => name,
        }
    }

    fn shown(&self) -> String {
        let end = match (self.contents, self.directory) {
            (true, _) => "/.",
            (_, true) => "/",
            _ if self.clean.is_empty() => "/",
            _ => "",
        };
        format!("{}{end}", self.clean)
    }
}

/// The words of Go's errors about paths.
fn about(operation: &str, named: &Named, error: RootError) -> Failed {
    let shown = named.shown();
    match error {
        RootError::Io { source, .. } => {
            let fault = match source.kind() {
                std::io::ErrorKind::NotFound => Fault::Missing,
                _ => Fault::Other,
            };
            let text = hoy_runtime::plain_error(&source);
            Failed(fault, format!("{operation} {shown}: {text}"))
        }
        other => Failed(Fault::Other, other.to_string()),
    }
}

/// What Go's `Lstat` says; a name that must be a directory is followed.
fn look(root: &RootFd, named: &Named) -> Result<Stat, Failed> {
    let failed = |error| about("lstat", named, error);
    let plain = |errno: rustix::io::Errno| {
        let path = named.shown();
        failed(RootError::Io { operation: "stat", path, source: errno.into() })
    };
    let (above, name) = named.split();
    if named.directory || name.is_empty() {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let found = root.open(&named.clean, flags, Links::Inside).map_err(failed)?;
        return rustix::fs::fstat(&found).map_err(plain);
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let above = root.open(above, flags, Links::Inside).map_err(failed)?;
    rustix::fs::statat(&above, name, AtFlags::SYMLINK_NOFOLLOW).map_err(plain)
}

/// What lies at a path.
pub(crate) fn stat(root: &RootFd, path: &str) -> Result<PathStat, Failed> {
    let named = Named::of(path);
    let stat = look(root, &named)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let target = match kind {
        FileType::Symlink => destination(root, &named)?,
        _ => String::new(),
    };
    Ok(PathStat {
        name: named.base().to_owned(),
        size: stat.st_size,
        mode: go_mode(stat.st_mode),
        seconds: stat.st_mtime,
        nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
        target,
    })
}

/// The bits of Go's `fs.FileMode`.
fn go_mode(mode: u32) -> u32 {
    let kind = match FileType::from_raw_mode(mode) {
        FileType::Directory => 1 << 31,
        FileType::Symlink => 1 << 27,
        FileType::BlockDevice => 1 << 26,
        FileType::CharacterDevice => 1 << 26 | 1 << 21,
        FileType::Fifo => 1 << 25,
        FileType::Socket => 1 << 24,
        _ => 0,
    };
    let special = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
    let special = special.iter().filter(|(bit, _)| mode & bit != 0).map(|(_, go)| go).sum::<u32>();
    kind | special | (mode & 0o777)
}

/// Where a path leads at last, as text; what is not there stays as it is written.
fn destination(root: &RootFd, named: &Named) -> Result<String, Failed> {
    let mut rest: VecDeque<String> = named.clean.split('/').map(str::to_owned).collect();
    let mut found: Vec<String> = Vec::new();
    let mut links = 0;
    while let Some(part) = rest.pop_front() {
        match part.as_str() {
            "" | "." => continue,
            ".." => {
                found.pop();
                continue;
            }
            _ => {}
        }
        let above = root.handle(&found.join("/"), Links::Inside);
        let target = above
            .ok()
            .and_then(|above| rustix::fs::readlinkat(&above, part.as_str(), Vec::new()).ok())
            .and_then(|target| target.into_string().ok());
        let Some(target) = target else {
            found.push(part);
            continue;
        };
        links += 1;
        if links > MAX_LINKS {
            let shown = named.shown();
            return Err(Failed(Fault::Other, format!("too many links in {shown}")));
        }
        if target.starts_with('/') {
            found.clear();
        }
        for part in target.split('/').rev() {
            rest.push_front(part.to_owned());
        }
    }
    Ok(format!("/{}", found.join("/")))
}

/// An archive of what lies at a path, under the name that the path gives it.
pub(crate) fn pack(root: &RootFd, path: &str, out: impl Write) -> Result<(), Failed> {
    let named = Named::of(path);
    let stat = look(root, &named)?;
    let mut packer = Packer::new(out);
    let (above, name) = named.split();
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        // A name that is a link by now is followed inside of the root, as any other.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK;
        let directory = root.open(&named.clean, flags, Links::Inside);
        let directory = directory.map_err(|error| about("open", &named, error))?;
        let name = match named.base() {
            "/" => "",
            name => name,
        };
        packer.tree(Tree { directory: &directory, name: Some(name.as_bytes()) })?;
    } else {
        let above = root.open(above, OFlags::PATH | OFlags::DIRECTORY, Links::Inside);
        let above = above.map_err(|error| about("open", &named, error))?;
        let text = CString::new(name).map_err(std::io::Error::other)?;
        packer.entry(&above, &text, name.as_bytes())?;
    }
    packer.finish()?.flush()?;
    Ok(())
}

/// The whole file system, without an entry for its root.
pub(crate) fn export(root: &RootFd, out: impl Write) -> Result<(), Failed> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let directory = root.open("/", flags, Links::None);
    let directory = directory.map_err(|error| about("open", &Named::of("/"), error))?;
    let mut packer = Packer::new(out);
    packer.tree(Tree { directory: &directory, name: None })?;
    packer.finish()?.flush()?;
    Ok(())
}

/// Lays an archive out in a directory.
pub(crate) fn unpack(
    root: &RootFd,
    path: &str,
    source: impl Read,
    keep_kinds: bool,
    owner: Option<(u32, u32)>,
    leave_out_nodes: bool,
) -> Result<(), Failed> {
    let named = Named::of(path);
    let found = root.handle(&named.clean, Links::Inside);
    let found = found.map_err(|error| about("lstat", &named, error))?;
    let kind = rustix::fs::fstat(&found).map_err(std::io::Error::from)?.st_mode;
    if FileType::from_raw_mode(kind) != FileType::Directory {
        let text = "extraction point is not a directory";
        return Err(Failed(Fault::Other, text.to_owned()));
    }
    writable(root, &found)?;
    let (plain, _) = hoy_images::compression::plain(source)?;
    let shown = if named.clean.is_empty() { "/" } else { &named.clean };
    let options = Options { keep_kinds, owner, leave_out_nodes, shown, ..Options::default() };
    Ok(extract(plain, Below::Root(root, &named.clean), options)?)
}

/// Docker's words for what may only be read.
fn writable(root: &RootFd, directory: &OwnedFd) -> Result<(), Failed> {
    let failed = std::io::Error::from;
    let about = rustix::fs::fstatvfs(directory).map_err(failed)?;
    if !about.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Ok(());
    }
    let mount = |of: &dyn std::os::fd::AsFd| {
        let flags = AtFlags::EMPTY_PATH;
        rustix::fs::statx(of.as_fd(), "", flags, StatxFlags::MNT_ID).map(|found| found.stx_mnt_id)
    };
    let own = mount(directory).map_err(failed)? == mount(&root.as_fd()).map_err(failed)?;
    let text = match own {
        true => "container rootfs is marked read-only",
        false => "mounted volume is marked read-only",
    };
    Err(Failed(Fault::Other, text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let of = |path: &str| {
            let named = Named::of(path);
            (named.shown(), named.base().to_owned())
        };
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(of("a/./b"), pair("/a/b", "b"));
        assert_eq!(of("/a/../../b/"), pair("/b/", "b"));
        assert_eq!(of("/etc/."), pair("/etc/.", "."));
        assert_eq!(of("/"), pair("/", "/"));
        assert_eq!(of(""), pair("/", "/"));
        assert_eq!(of("."), pair("/.", "."));
    }

    #[test]
    fn modes() {
        assert_eq!(go_mode(0o040755), 0x8000_01ed);
        assert_eq!(go_mode(0o120777), 0x0800_01ff);
        assert_eq!(go_mode(0o041777), 0x8010_01ff);
        assert_eq!(go_mode(0o104755), 0x0080_01ed);
    }

    #[test]
    fn where_links_lead() {
        use std::os::unix::fs::symlink;
        let room = tempfile::tempdir().unwrap();
        let path = room.path();
        std::fs::create_dir_all(path.join("a/b")).unwrap();
        symlink("../../../x/y", path.join("a/b/out")).unwrap();
        symlink("/a/b", path.join("to")).unwrap();
        symlink("round", path.join("round")).unwrap();
        let root = RootFd::new(std::fs::File::open(path).unwrap().into());
        assert_eq!(stat(&root, "/to").unwrap().target, "/a/b");
        assert_eq!(stat(&root, "to/out").unwrap().target, "/x/y");
        assert_eq!(stat(&root, "to/").unwrap().target, "");
        assert!(stat(&root, "round").is_err());
        let Failed(fault, text) = stat(&root, "/a/none").unwrap_err();
        assert_eq!(
            (fault, text.as_str()),
            (Fault::Missing, "lstat /a/none: no such file or directory")
        );
    }
}
