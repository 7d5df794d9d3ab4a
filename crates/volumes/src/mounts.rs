//! What is mounted on a volume's directory by its options.
//!
//! It is mounted where people see it, as Docker's is, from the first container that runs with it
//! until the last one has ended; it outlives the daemon as they do.

use std::ffi::CString;
use std::net::ToSocketAddrs as _;
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{UnmountFlags, mount, mount_change, unmount};

use crate::options::MountOptions;
use crate::{Result, VolumeError};

/// Mounts it.
pub(crate) fn mount_on(options: &MountOptions, target: &Path) -> Result<()> {
    let data = CString::new(resolved(&options.kind, &options.data)?)
        .map_err(|_| VolumeError::Invalid("an option holds a NUL byte".to_owned()))?;
    let kind = options.kind.as_str();
    mount(options.device.as_str(), target, kind, options.flags, data.as_c_str())
        .map_err(|errno| failed(options, target, errno))?;
    if !options.propagation.is_empty()
        && let Err(errno) = mount_change(target, options.propagation)
    {
        let _ = unmount_from(target);
        return Err(failed(options, target, errno));
    }
    Ok(())
}

/// Takes the topmost mount off a directory; none is fine.
pub(crate) fn unmount_from(target: &Path) -> Result<()> {
    match unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(errno) => Err(VolumeError::errno("unmount", target.display())(errno)),
    }
}

/// Whether something is mounted on a directory.
pub(crate) fn is_mounted(target: &Path) -> bool {
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    let mask = rustix::fs::StatxFlags::BASIC_STATS;
    let Ok(found) = rustix::fs::statx(rustix::fs::CWD, target, flags, mask) else { return false };
    found.stx_attributes.contains(rustix::fs::StatxAttributes::MOUNT_ROOT)
}

/// The kernel's clients of NFS and CIFS take no names of servers.
fn resolved(kind: &str, data: &str) -> Result<String> {
    if !matches!(kind, "nfs" | "nfs4" | "cifs") {
        return Ok(data.to_owned());
    }
    let mut words: Vec<String> = Vec::new();
    for word in data.split(',') {
        let Some(name) = word.strip_prefix("addr=") else {
            words.push(word.to_owned());
            continue;
        };
        let mut found = (name, 0).to_socket_addrs().map_err(|error| {
            VolumeError::Driver(format!(
                "error resolving passed in network volume address: {error}"
            ))
        })?;
        let address = found.next().map_or_else(|| name.to_owned(), |found| found.ip().to_string());
        words.push(format!("addr={address}"));
    }
    Ok(words.join(","))
}

/// Docker's words, with the reason where the kernel has none for people.
fn failed(options: &MountOptions, target: &Path, errno: Errno) -> VolumeError {
    let mut said =
        format!("failed to mount local volume: mount {}:{}, ", options.device, target.display());
    if !options.flags.is_empty() {
        said.push_str(&format!("flags: 0x{:x}", options.flags.bits()));
        said.push_str(if options.data.is_empty() { ": " } else { ", " });
    }
    if !options.data.is_empty() {
        said.push_str(&format!("data: {}: ", options.data));
    }
    let reason = std::io::Error::from(errno).to_string();
    said.push_str(match errno {
        Errno::NOENT => "no such file or directory",
        Errno::INVAL => "invalid argument",
        Errno::NODEV => "no such device",
        _ => &reason,
    });
    if errno == Errno::NODEV {
        said.push_str(&format!(": this kernel has no file system of the type {}", options.kind));
    }
    VolumeError::Driver(said)
}
