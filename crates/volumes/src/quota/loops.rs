//! Loop devices over files of ours. Each goes by itself when the last one closes it.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use hoy_sys::quota;
use rustix::io::Errno;

use crate::{Result, VolumeError};

/// That of the file systems in them. The files are written through the page cache: around it a new
/// file is some times slower, as each piece of it that was a hole is entered by itself.
const BLOCK_SIZE: u32 = 4096;
/// How often somebody else may be faster with a free device.
const TRIES: usize = 64;

/// A device that has a file of ours, for as long as this or a mount of it exists.
pub(super) struct Loop {
    pub(super) device: File,
    pub(super) path: PathBuf,
}

impl Loop {
    /// The device that a file has, or a new one. Two for one file would destroy it.
    pub(super) fn of(file: &File, path: &Path) -> Result<Self> {
        if let Some(found) = Self::find(file, path)? {
            return Ok(found);
        }
        let failed = VolumeError::io("get a loop device for", path.display());
        Self::configure(file).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => {
                VolumeError::Driver(format!(
                    "to limit the size of a directory on this file system loop devices are \
                     needed, and there are none here: {error}"
                ))
            }
            _ => failed(error),
        })
    }

    fn configure(file: &File) -> io::Result<Self> {
        let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control")?;
        let mut last = io::Error::from(Errno::BUSY);
        for _ in 0..TRIES {
            let number = quota::free_loop(control.as_fd())?;
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let device = OpenOptions::new().read(true).write(true).open(&path)?;
            match quota::configure_loop(device.as_fd(), file.as_fd(), BLOCK_SIZE) {
                Ok(()) => return Ok(Self { device, path }),
                Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {
                    last = error;
                }
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// The device that has this file already: of what is in use, or was until a moment ago.
    pub(super) fn find(file: &File, path: &Path) -> Result<Option<Self>> {
        let failed = || VolumeError::io("look for the loop device of", path.display());
        let meta = file.metadata().map_err(failed())?;
        let Ok(entries) = std::fs::read_dir("/sys/block") else { return Ok(None) };
        for entry in entries.flatten() {
            let name = entry.file_name();
            if !name.as_bytes().starts_with(b"loop") {
                continue;
            }
            let Ok(below) = std::fs::read(entry.path().join("loop/backing_file")) else { continue };
            // Others' devices are not even opened.
            if !has_name(&below, path.file_name().unwrap_or_default()) {
                continue;
            }
            let path = Path::new("/dev").join(&name);
            let Ok(device) = OpenOptions::new().read(true).write(true).open(&path) else {
                continue;
            };
            match quota::file_of_loop(device.as_fd()) {
                Ok(found) if found == (meta.dev(), meta.ino()) => {
                    return Ok(Some(Self { device, path }));
                }
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => {}
                Err(error) => return Err(failed()(error)),
            }
        }
        Ok(None)
    }
}

/// The kernel says where the file lies, and whether it is deleted.
fn has_name(below: &[u8], name: &OsStr) -> bool {
    let below = below.strip_suffix(b"\n").unwrap_or(below);
    let below = below.strip_suffix(b" (deleted)").unwrap_or(below);
    below.rsplit(|byte| *byte == b'/').next() == Some(name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_below() {
        let name = OsStr::new("_data.disk");
        assert!(has_name(b"/x/volumes/a/_data.disk\n", name));
        assert!(has_name(b"/x/trash/1/_data.disk (deleted)\n", name));
        assert!(!has_name(b"/x/other_data.disk\n", name));
    }
}
