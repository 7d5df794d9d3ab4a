//! Labels of the host's security modules: AppArmor's profile, SELinux's contexts.
//!
//! The engine chooses them; here they are handed to the kernel. Files of proc are written through
//! a descriptor of a mount that is known to be proc (R7), and trees are labelled by descriptors,
//! so that no link in them leads elsewhere.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use crate::error::{StartError, text};
use crate::plan::ProcessLabels;
use crate::tree;

/// The inode of the root directory of every proc.
const PROC_ROOT: u64 = 1;
const SELINUX: &str = "security.selinux";

/// As Docker's rule is: what a whole machine shares is not labelled for one container.
const NEVER_RELABELLED: &[&str] = &[
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/etc/passwd",
    "/etc/pki",
    "/etc/shadow",
    "/home",
    "/lib",
    "/lib64",
    "/media",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/var",
    "/var/lib",
    "/var/log",
];

/// Why a process does not get its label, in the words of Docker's runtime.
#[derive(Debug)]
pub(crate) struct Unlabelled {
    pub text: String,
    /// There is no such profile.
    pub missing: bool,
}

impl Unlabelled {
    fn new(doing: &str, error: &io::Error) -> Self {
        let missing = error.kind() == io::ErrorKind::NotFound;
        Self { text: format!("{doing}: {}", text(error)), missing }
    }
}

/// The labels that this process, or one that it makes, has from its next program on. `proc` is a
/// mount of proc in whose process namespace this process has a number.
pub(crate) fn confine(proc: &OwnedFd, labels: &ProcessLabels) -> Result<(), Unlabelled> {
    if labels == &ProcessLabels::default() {
        return Ok(());
    }
    let own = own_directory(proc).map_err(|error| Unlabelled::new("look at /proc/self", &error))?;
    let write = |file: &str, value: &str| tree::write_proc(proc, &format!("{own}/{file}"), value);
    if !labels.selinux.is_empty() {
        for (file, what) in [("attr/keycreate", "keys"), ("attr/exec", "the process")] {
            write(file, &labels.selinux).map_err(|error| {
                let doing = format!("set the label {:?} of {what}", labels.selinux);
                Unlabelled::new(&doing, &error)
            })?;
        }
    }
    if !labels.apparmor.is_empty() {
        let value = format!("exec {}", labels.apparmor);
        // Kernels before 5.8 have no directory of AppArmor's own.
        let mut file = "attr/apparmor/exec";
        if !exists(proc, &format!("{own}/{file}")) {
            file = "attr/exec";
        }
        write(file, &value).map_err(|error| {
            let doing = format!(
                "unable to apply apparmor profile: apparmor failed to apply profile: write \
                 /proc/self/{file}"
            );
            Unlabelled::new(&doing, &error)
        })?;
    }
    Ok(())
}

/// The host's proc, for whoever is still in its namespaces.
pub(crate) fn host_proc() -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, "/proc", flags, Mode::empty())?)
}

/// This process's directory, once the mount is seen to be a whole proc.
fn own_directory(proc: &OwnedFd) -> io::Result<String> {
    let whole = rustix::fs::fstatfs(proc)?.f_type == rustix::fs::PROC_SUPER_MAGIC
        && rustix::fs::fstat(proc)?.st_ino == PROC_ROOT;
    if !whole {
        return Err(io::Error::other("it is not proc"));
    }
    let own = rustix::fs::readlinkat(proc, "self", Vec::new())?;
    let own = own.to_str().unwrap_or_default();
    if own.is_empty() || !own.bytes().all(|c| c.is_ascii_digit()) {
        return Err(io::Error::other("this process has no number there"));
    }
    Ok(own.to_owned())
}

fn exists(proc: &OwnedFd, path: &str) -> bool {
    rustix::fs::statat(proc, path, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

/// Gives a label to a file of the host or to a directory with all that is in it.
pub(crate) fn relabel(path: &Path, label: &str) -> Result<(), StartError> {
    let real = std::fs::canonicalize(path);
    let real = real.unwrap_or_else(|_| path.to_owned());
    let failed = |text: &str| {
        let real = real.display();
        StartError::invalid(format!("error setting label on mount source '{real}': {text}"))
    };
    if !may_be_relabelled(&real) {
        return Err(failed(&format!("SELinux relabeling of {} is not allowed", real.display())));
    }
    label_tree(&real, SELINUX, label.as_bytes()).map_err(|error| failed(&text(&error)))
}

fn may_be_relabelled(real: &Path) -> bool {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    !NEVER_RELABELLED.iter().any(|never| real == Path::new(never)) && home.as_deref() != Some(real)
}

/// An attribute on everything below. Links get it themselves: none is followed.
fn label_tree(top: &Path, name: &str, value: &[u8]) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut open: Vec<OwnedFd> = vec![rustix::fs::openat(CWD, top, flags, Mode::empty())?];
    // Descriptors of directories whose entries are still to be labelled.
    while let Some(file) = open.pop() {
        label_one(&file, name, value)?;
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode);
        if kind == FileType::Directory {
            label_entries(&file, name, value, &mut open)?;
        }
    }
    Ok(())
}

/// Labels what is no directory at once, so that only directories are kept open.
fn label_entries(
    directory: &OwnedFd,
    name: &str,
    value: &[u8],
    open: &mut Vec<OwnedFd>,
) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let readable = rustix::fs::openat(directory, ".", flags, Mode::empty())?;
    for entry in rustix::fs::Dir::read_from(&readable)? {
        let entry = entry?;
        let file = OsStr::from_bytes(entry.file_name().to_bytes());
        if file == "." || file == ".." {
            continue;
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = match rustix::fs::openat(directory, file, flags, Mode::empty()) {
            Ok(found) => found,
            // Somebody removed it meanwhile.
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(errno.into()),
        };
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode);
        if kind == FileType::Directory {
            open.push(found);
        } else {
            label_one(&found, name, value)?;
        }
    }
    Ok(())
}

/// By the descriptor's own name, which means the file that was opened, be it a link.
fn label_one(file: &OwnedFd, name: &str, value: &[u8]) -> io::Result<()> {
    let path = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    match rustix::fs::setxattr(path, name, value, XattrFlags::empty()) {
        // A file system that keeps no labels has one for all of it.
        Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_a_machine_shares_is_never_relabelled() {
        for path in ["/", "/usr", "/etc", "/var/lib", "/home"] {
            assert!(!may_be_relabelled(Path::new(path)), "{path}");
        }
        assert!(may_be_relabelled(Path::new("/srv/data")));
        // By what it is, not by its name.
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("link");
        symlink("/usr", &link).unwrap();
        let error = relabel(&link, "l").unwrap_err();
        assert_eq!(
            error.message,
            "error setting label on mount source '/usr': SELinux relabeling of /usr is not allowed"
        );
    }

    #[test]
    fn labels_of_a_tree_follow_no_link() {
        // This attribute is kept for whoever has no SELinux, too; others want no privileges.
        let name = "user.test";
        let directory = tempfile::tempdir().unwrap();
        let (inside, outside) = (directory.path().join("in"), directory.path().join("out"));
        std::fs::create_dir_all(inside.join("a/b")).unwrap();
        std::fs::write(inside.join("a/b/file"), "x").unwrap();
        std::fs::write(&outside, "x").unwrap();
        let labelled = |path: &Path| {
            let mut buffer = [0; 16];
            match rustix::fs::lgetxattr(path, name, &mut buffer[..]) {
                Ok(length) => Some(buffer[..length].to_vec()),
                Err(_) => None,
            }
        };
        label_tree(&inside, name, b"value").unwrap();
        for path in ["", "a", "a/b", "a/b/file"] {
            assert_eq!(labelled(&inside.join(path)).unwrap(), b"value", "{path}");
        }
        symlink(&outside, inside.join("a/link")).unwrap();
        // The kernel refuses this kind of attribute on a link: it was the link that was meant.
        assert!(label_tree(&inside, name, b"other").is_err());
        assert_eq!(labelled(&outside), None);
    }

    #[test]
    fn only_a_whole_proc_is_written_to() {
        let own = own_directory(&host_proc().unwrap()).unwrap();
        assert_eq!(own, std::process::id().to_string());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        for path in ["/tmp", "/proc/sys", "/sys"] {
            let other = rustix::fs::open(path, flags, Mode::empty()).unwrap();
            assert!(own_directory(&other).is_err(), "{path}");
        }
    }

    #[test]
    fn a_label_that_nobody_knows_is_an_error() {
        let proc = host_proc().unwrap();
        confine(&proc, &ProcessLabels::default()).unwrap();
        let labels = ProcessLabels { apparmor: "no such profile".into(), ..Default::default() };
        let error = confine(&proc, &labels).unwrap_err();
        assert!(error.text.starts_with("unable to apply apparmor profile: "), "{}", error.text);
        let labels = ProcessLabels { selinux: "no:such:label".into(), ..Default::default() };
        assert!(confine(&proc, &labels).is_err());
    }
}
