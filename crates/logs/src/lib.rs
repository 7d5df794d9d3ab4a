//! Shelves: container log records: format, segments, rotation, reader.
//!
//! The formats are Docker's json-file and local, byte for byte. The shim writes, the daemon reads; they share
//! nothing but the files. A record is one line; a line that a killed writer left half is skipped.

mod compress;
mod encode;
mod local;
mod options;
mod read;
mod scan;
mod segment;
mod stamp;
mod watch;
mod write;

pub use encode::Stream;
pub use options::{Format, LogOptions};
pub use read::{Follower, Query, Record, Tail};
pub use watch::Watch;
pub use write::Writer;

use hoy_types::ErrorKind;

/// Docker splits longer lines into records of this size.
pub const MAX_RECORD: usize = 16 * 1024;

/// A longer line of the file was not written by us: six bytes of JSON for each of the record's,
/// and the rest of it.
pub(crate) const LONGEST_LINE: usize = 8 * MAX_RECORD;

/// What went wrong with which file.
#[derive(Debug, thiserror::Error)]
#[error("{operation} the log {path}: {source}")]
pub struct LogError {
    pub operation: &'static str,
    pub path: String,
    pub source: std::io::Error,
}

impl LogError {
    pub(crate) fn new(
        operation: &'static str,
        path: &std::path::Path,
        source: impl Into<std::io::Error>,
    ) -> Self {
        Self { operation, path: path.display().to_string(), source: source.into() }
    }

    /// A log is never something that a request names: its trouble is the machine's.
    pub const fn kind(&self) -> ErrorKind {
        ErrorKind::System
    }
}
