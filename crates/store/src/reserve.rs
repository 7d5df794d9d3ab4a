//! Room kept on the disk for what makes room: on a full disk a removal must still be written, and
//! a daemon must still begin.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

/// More than one removal writes, and little enough for any disk; where there is not as much, less.
const BYTES: [u64; 4] = [256 << 10, 128 << 10, 64 << 10, 32 << 10];
/// Files beside the first, for their inodes: the database makes two files when it is opened.
const MORE: u32 = 2;

/// Files that hold blocks and inodes and nothing else.
pub(crate) struct Reserve {
    path: PathBuf,
    held: bool,
}

impl Reserve {
    /// Beside the database.
    pub fn new(database: &Path) -> Self {
        let mut reserve = Self { path: database.with_extension("reserve"), held: false };
        reserve.hold();
        reserve
    }

    /// Takes the blocks, if they are not held and can be had; without them all works but that.
    pub fn hold(&mut self) {
        if self.held {
            return;
        }
        self.held = File::create(&self.path).is_ok_and(|file| {
            let take = |bytes: &u64| {
                rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, *bytes).is_ok()
            };
            BYTES.iter().any(take)
        });
        if self.held {
            more(&self.path).for_each(|path| drop(File::create(path)));
        } else {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    /// Gives them to whoever comes first; the answer is whether there were any.
    pub fn release(&mut self) -> bool {
        std::mem::take(&mut self.held) && remove(&self.path)
    }

    /// The same for one that an earlier daemon has left beside its database.
    pub fn give_up(database: &Path) -> bool {
        remove(&database.with_extension("reserve"))
    }
}

fn more(path: &Path) -> impl Iterator<Item = PathBuf> {
    (1..=MORE).map(|number| path.with_extension(format!("reserve{number}")))
}

fn remove(path: &Path) -> bool {
    for path in more(path) {
        let _ = std::fs::remove_file(path);
    }
    std::fs::remove_file(path).is_ok()
}
