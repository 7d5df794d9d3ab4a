//! Room kept on the disk for what makes room: on a full disk a removal must still be written.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

/// More than one removal writes, and little enough for any disk.
const BYTES: u64 = 256 << 10;

/// A file that holds blocks and nothing else.
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
            rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, BYTES).is_ok()
        });
        if !self.held {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    /// Gives them to whoever comes first; the answer is whether there were any.
    pub fn release(&mut self) -> bool {
        std::mem::take(&mut self.held) && std::fs::remove_file(&self.path).is_ok()
    }
}
