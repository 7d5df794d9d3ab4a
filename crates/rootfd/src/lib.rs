//! Ground: a file system below an untrusted root, by directory descriptor; the type has no path.
//!
//! Every resolution is the kernel's (`openat2`): symbolic links are followed as if the root were
//! `/`, magic links never. Nothing here can name a file outside of the root, whatever the image
//! put there and whoever changes it meanwhile.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use hoy_weak::Protection;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// A directory that is somebody's `/`.
#[derive(Debug)]
pub struct RootFd {
    fd: OwnedFd,
}

/// Why something below a root could not be had.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    #[error("{operation} {path:?} in the container's root: {source}")]
    Io { operation: &'static str, path: String, source: io::Error },
    #[error("{path:?} in the container's root is not {wanted}")]
    Kind { path: String, wanted: &'static str },
    #[error("{path:?} in the container's root is larger than {limit} bytes")]
    TooLarge { path: String, limit: u64 },
}

impl RootError {
    /// Whether the thing is simply not there.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// The kernel's error, if it was the kernel's.
    pub fn io(&self) -> Option<&io::Error> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Kind { .. } | Self::TooLarge { .. } => None,
        }
    }
}

/// Follow links inside of the root, or none at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    Inside,
    None,
}

const ATTEMPTS: usize = 64;

impl RootFd {
    /// Takes a directory's descriptor as a root.
    pub fn new(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// The root itself, for mounting and `fchdir`.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Opens something below the root. Relative or absolute mean the same.
    pub fn open(&self, path: &str, flags: OFlags, links: Links) -> Result<OwnedFd, RootError> {
        self.open_mode(path, flags, Mode::empty(), links)
    }

    fn open_mode(
        &self,
        path: &str,
        flags: OFlags,
        mode: Mode,
        links: Links,
    ) -> Result<OwnedFd, RootError> {
        let mut resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        if links == Links::None {
            resolve |= ResolveFlags::NO_SYMLINKS;
        }
        let path = if path.is_empty() { "/" } else { path };
        for _ in 0..ATTEMPTS {
            // EAGAIN: somebody renamed a directory meanwhile, so that the kernel cannot be sure
            // that `..` stayed inside. Asking again is what it wants.
            match self.resolve(path, flags | OFlags::CLOEXEC, mode, resolve) {
                Ok(fd) => return Ok(fd),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(errno) => return Err(failed("open", path, errno)),
            }
        }
        Err(failed("open", path, Errno::AGAIN))
    }

    fn resolve(
        &self,
        path: &str,
        flags: OFlags,
        mode: Mode,
        resolve: ResolveFlags,
    ) -> Result<OwnedFd, Errno> {
        let inside = || rustix::fs::openat2(&self.fd, path, flags, mode, resolve);
        let by_name = || {
            let name = path.trim_start_matches('/');
            rustix::fs::openat(&self.fd, if name.is_empty() { "." } else { name }, flags, mode)
        };
        if hoy_weak::without(Protection::Paths) {
            return by_name();
        }
        if hoy_weak::without(Protection::Once) {
            return inside().and_then(|_| by_name());
        }
        inside()
    }

    /// A handle for mounting on or for `*at` calls, which opens no device and no FIFO.
    pub fn handle(&self, path: &str, links: Links) -> Result<OwnedFd, RootError> {
        self.open(path, OFlags::PATH, links)
    }

    /// Reads a regular file of bounded size; a FIFO or a device is refused, not waited for.
    pub fn read(&self, path: &str, limit: u64) -> Result<Vec<u8>, RootError> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        if hoy_weak::without(Protection::RegularFiles) {
            let flags = flags.difference(OFlags::NONBLOCK);
            let mut file = File::from(self.open(path, flags, Links::Inside)?).take(limit);
            let mut bytes = Vec::new();
            let _ = file.read_to_end(&mut bytes);
            return Ok(bytes);
        }
        // The handle is looked at before the file is opened, since opening a device can act on it;
        // and what is opened is the handle, since the name can mean another file by then.
        let handle = self.handle(path, Links::Inside)?;
        let stat = rustix::fs::fstat(&handle).map_err(|errno| failed("stat", path, errno))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(RootError::Kind { path: path.to_owned(), wanted: "a regular file" });
        }
        let fd = if hoy_weak::without(Protection::Once) {
            self.open(path, flags, Links::Inside)?
        } else {
            rustix::fs::open(
                format!("/proc/self/fd/{}", handle.as_raw_fd()),
                flags | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .map_err(|errno| failed("open", path, errno))?
        };
        let mut bytes = Vec::new();
        let mut bounded = File::from(fd).take(limit.saturating_add(1));
        bounded.read_to_end(&mut bytes).map_err(|source| RootError::Io {
            operation: "read",
            path: path.to_owned(),
            source,
        })?;
        if bytes.len() as u64 > limit {
            return Err(RootError::TooLarge { path: path.to_owned(), limit });
        }
        Ok(bytes)
    }

    /// A directory below the root, made with its parents where they are missing.
    pub fn make_directories(&self, path: &str, mode: u32) -> Result<OwnedFd, RootError> {
        let mut current = self.handle("/", Links::None)?;
        let mut walked = String::new();
        for part in parts(path) {
            walked.push('/');
            walked.push_str(part);
            current = match self.handle(&walked, Links::Inside) {
                Ok(next) => next,
                Err(error) if error.is_missing() => {
                    match rustix::fs::mkdirat(&current, part, Mode::from_raw_mode(mode)) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(errno) => return Err(failed("make directory", &walked, errno)),
                    }
                    self.handle(&walked, Links::Inside)?
                }
                Err(error) => return Err(error),
            };
        }
        let stat = rustix::fs::fstat(&current).map_err(|errno| failed("stat", path, errno))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Err(RootError::Kind { path: path.to_owned(), wanted: "a directory" });
        }
        Ok(current)
    }

    /// A symbolic link below the root, unless something is there already. Its target is text: it
    /// leads wherever whoever follows it comes to.
    pub fn link(&self, path: &str, target: &str) -> Result<(), RootError> {
        let names: Vec<&str> = parts(path).collect();
        let Some((name, directory)) = names.split_last() else {
            return Err(RootError::Kind { path: path.to_owned(), wanted: "a link" });
        };
        let directory = self.make_directories(&directory.join("/"), 0o755)?;
        match rustix::fs::symlinkat(target, &directory, *name) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(failed("link", path, errno)),
        }
    }

    /// A file below the root to mount on, made empty with its directories where it is missing.
    pub fn make_file(&self, path: &str) -> Result<OwnedFd, RootError> {
        match self.handle(path, Links::Inside) {
            Ok(found) => return Ok(found),
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(error),
        }
        let names: Vec<&str> = parts(path).collect();
        let Some((name, directory)) = names.split_last() else {
            return Err(RootError::Kind { path: path.to_owned(), wanted: "a file" });
        };
        let directory = self.make_directories(&directory.join("/"), 0o755)?;
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&directory, *name, flags, Mode::from_raw_mode(0o755)) {
            Ok(_) | Err(Errno::EXIST) => self.handle(path, Links::Inside),
            Err(errno) => Err(failed("create", path, errno)),
        }
    }
}

fn parts(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|part| !matches!(*part, "" | "."))
}

fn failed(operation: &'static str, path: &str, errno: Errno) -> RootError {
    RootError::Io { operation, path: path.to_owned(), source: errno.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn root(prepare: impl FnOnce(&std::path::Path)) -> (std::path::PathBuf, RootFd) {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let base = std::env::temp_dir().join(format!("rootfd-{}-{number}", std::process::id()));
        std::fs::create_dir_all(base.join("root")).unwrap();
        std::fs::write(base.join("canary"), "outside").unwrap();
        prepare(&base.join("root"));
        let fd = std::fs::File::open(base.join("root")).unwrap().into();
        (base, RootFd::new(fd))
    }

    #[test]
    fn nothing_leads_outside() {
        let (base, root) = root(|root| {
            symlink("../canary", root.join("relative")).unwrap();
            symlink("/../canary", root.join("absolute")).unwrap();
            symlink("..", root.join("up")).unwrap();
            symlink("/proc/self/root", root.join("magic")).unwrap();
        });
        for path in
            ["relative", "absolute", "up/canary", "../canary", "../../canary", "magic/etc/passwd"]
        {
            assert!(root.read(path, 100).is_err(), "{path}");
        }
        root.make_directories("up/up/made", 0o755).unwrap();
        root.make_file("up/../up/file").unwrap();
        assert!(!base.join("made").exists() && !base.join("file").exists());
        assert!(base.join("root/made").exists() && base.join("root/file").exists());
        assert_eq!(std::fs::read_to_string(base.join("canary")).unwrap(), "outside");
        std::fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn only_regular_files_of_bounded_size_are_read() {
        let (base, root) = root(|root| {
            std::fs::write(root.join("small"), "12345").unwrap();
            std::process::Command::new("mkfifo").arg(root.join("fifo")).status().unwrap();
        });
        assert_eq!(root.read("/small", 5).unwrap(), b"12345");
        assert!(matches!(root.read("small", 4), Err(RootError::TooLarge { .. })));
        assert!(matches!(root.read("fifo", 4), Err(RootError::Kind { .. })));
        assert!(root.read("missing", 4).unwrap_err().is_missing());
        std::fs::remove_dir_all(base).unwrap();
    }
}
