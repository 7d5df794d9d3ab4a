//! Shelves: container log records: format, segments, rotation, reader.
//!
//! The format is Docker's json-file, byte for byte. The shim writes, the daemon reads; they share
//! nothing but the files. A record is one line; a line that a killed writer left half is skipped.

mod encode;
mod read;
mod write;

pub use encode::Stream;
pub use read::{Follower, Query, Record, Tail};
pub use write::Writer;

/// Docker splits longer lines into records of this size.
pub const MAX_RECORD: usize = 16 * 1024;

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
}
