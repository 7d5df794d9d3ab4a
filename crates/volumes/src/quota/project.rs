//! Directories as projects, where the file system counts these and holds them to limits.
//!
//! The only record of who has which id are the inodes: a directory takes an id by counting for it
//! first, and whoever is then not the only inode of its project takes another. So an id is never
//! given twice, also not to another daemon's directory on the same file system, and not while its
//! last user is still being deleted.

use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use hoy_sys::quota;
use rustix::fs::{Mode, OFlags};

use super::Usage;
use crate::{Result, VolumeError};

/// Ids of ours: far from what people number by hand.
const FIRST: u32 = 0x6870_0000;
const COUNT: u32 = 1 << 20;

/// Of the file systems that have projects; others may say yes to anything.
const EXT4: i64 = 0xef53;
const XFS: i64 = 0x5846_5342;

pub(super) struct Projects {
    /// Any file of the file system.
    root: OwnedFd,
    /// Where to look for a free id next.
    next: Mutex<u32>,
}

fn open(directory: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(directory, flags, Mode::empty())
        .map_err(VolumeError::errno("open", directory.display()))
}

fn is_ours(id: u32) -> bool {
    (FIRST..FIRST + COUNT).contains(&id)
}

impl Projects {
    pub(super) fn probe(root: &Path) -> Option<Self> {
        let root = open(root).ok()?;
        let kind = rustix::fs::fstatfs(&root).ok()?.f_type;
        if !matches!(kind, EXT4 | XFS) || !quota::holds_projects_to_limits(root.as_fd()) {
            return None;
        }
        let mut start = [0; 4];
        // Two daemons begin at different places.
        rustix::rand::getrandom(&mut start, rustix::rand::GetRandomFlags::empty()).ok()?;
        Some(Self { root, next: Mutex::new(u32::from_ne_bytes(start) % COUNT) })
    }

    pub(super) fn make(
        &self,
        directory: &Path,
        bytes: u64,
        fill: impl FnOnce(BorrowedFd<'_>) -> std::io::Result<()>,
    ) -> Result<()> {
        std::fs::create_dir(directory).map_err(VolumeError::io("create", directory.display()))?;
        let made = open(directory).and_then(|opened| {
            let id = self.claim(opened.as_fd(), directory)?;
            self.limit(id, bytes)?;
            fill(opened.as_fd()).and_then(|()| Ok(rustix::fs::fsync(&opened)?)).map_err(|error| {
                let _ = self.limit(id, 0);
                VolumeError::io("fill", directory.display())(error)
            })
        });
        if made.is_err() {
            let _ = std::fs::remove_dir_all(directory);
        }
        made
    }

    /// Gives an empty directory an id that nothing counts for.
    fn claim(&self, opened: BorrowedFd<'_>, directory: &Path) -> Result<u32> {
        let failed = || VolumeError::io("give a project to", directory.display());
        for _ in 0..COUNT {
            let id = {
                let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
                *next = (*next + 1) % COUNT;
                FIRST + *next
            };
            let known = quota::project(self.root.as_fd(), id).map_err(failed())?;
            if known.bytes != 0 || known.inodes != 0 || known.limit != 0 {
                continue;
            }
            quota::set_project_id(opened, id).map_err(failed())?;
            let known = quota::project(self.root.as_fd(), id).map_err(failed())?;
            if known.inodes == 1 && known.limit == 0 {
                return Ok(id);
            }
        }
        Err(VolumeError::Driver("all ids of projects are in use".to_owned()))
    }

    /// The project of a directory, if it is one of ours.
    pub(super) fn of(&self, directory: &Path) -> Option<u32> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = File::from(rustix::fs::open(directory, flags, Mode::empty()).ok()?);
        quota::project_id(opened.as_fd()).ok().filter(|id| is_ours(*id))
    }

    pub(super) fn limit(&self, id: u32, bytes: u64) -> Result<()> {
        quota::limit_project(self.root.as_fd(), id, bytes)
            .map_err(VolumeError::io("limit the project", id))
    }

    pub(super) fn usage(&self, id: u32) -> Result<Usage> {
        let known = quota::project(self.root.as_fd(), id);
        let known = known.map_err(VolumeError::io("look at the project", id))?;
        Ok(Usage { used: known.bytes, limit: known.limit })
    }

    /// Takes limits away that no inode counts for: a directory gets its limit after its id.
    pub(super) fn settle(&self) {
        let mut id = FIRST;
        while let Ok(Some(known)) = quota::next_project(self.root.as_fd(), id) {
            if !is_ours(known.id) {
                return;
            }
            if known.inodes == 0 && known.limit != 0 {
                let _ = self.limit(known.id, 0);
            }
            id = known.id + 1;
        }
    }
}
