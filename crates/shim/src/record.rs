//! The exit record on disk: what a daemon reads that was not there when the container ended.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use crate::message::ExitRecord;

const NAME: &str = "exit";

impl ExitRecord {
    /// Writes it whole or not at all. Not synced: no container outlives a power cut.
    pub fn write(&self, directory: &Path) -> io::Result<()> {
        let bytes = postcard::to_stdvec(self).map_err(io::Error::other)?;
        let fresh = directory.join(".exit.new");
        let mut file = File::create(&fresh)?;
        file.write_all(&bytes)?;
        drop(file);
        std::fs::rename(fresh, directory.join(NAME))
    }

    /// The record of a finished container, if there is one.
    pub fn read(directory: &Path) -> Option<Self> {
        let bytes = std::fs::read(directory.join(NAME)).ok()?;
        postcard::from_bytes(&bytes).ok()
    }

    /// Forgets the record of an earlier run.
    pub fn clear(directory: &Path) {
        let _ = std::fs::remove_file(directory.join(NAME));
    }
}
