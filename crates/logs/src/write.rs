//! Writing: lines to records, one write per batch, rotation by size.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use hoy_types::Timestamp;

use crate::encode::{Stream, encode};
use crate::{LogError, MAX_RECORD};

/// The end of one container's log.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    file: File,
    size: u64,
    max_size: Option<u64>,
    max_files: u32,
    /// What has come of a line that has no end yet, per stream.
    partial: [Vec<u8>; 2],
    batch: Vec<u8>,
}

impl Writer {
    /// Goes on with the file, or begins it.
    pub fn open(path: &Path, max_size: Option<u64>, max_files: u32) -> Result<Self, LogError> {
        let mut file = open(path)?;
        let size = file.metadata().map_err(|e| LogError::new("look at", path, e))?.len();
        if size > 0 && !ends_with_newline(path) {
            // A killed writer left half a record: end the line, so that the next one is whole.
            file.write_all(b"\n").map_err(|e| LogError::new("write", path, e))?;
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            size,
            max_size,
            max_files: max_files.max(1),
            partial: [Vec::new(), Vec::new()],
            batch: Vec::new(),
        })
    }

    /// Takes output as it comes. Complete lines are on their way to the file when this returns.
    pub fn write(&mut self, stream: Stream, mut bytes: &[u8]) -> Result<(), LogError> {
        let time = now();
        let index = usize::from(stream == Stream::Stderr);
        while !bytes.is_empty() {
            let room = MAX_RECORD - self.partial[index].len();
            let window = &bytes[..bytes.len().min(room)];
            let end = window.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
            let take = end.unwrap_or(window.len());
            let (piece, rest) = bytes.split_at(take);
            bytes = rest;
            let full = self.partial[index].len() + piece.len() == MAX_RECORD;
            if end.is_none() && !full {
                self.partial[index].extend_from_slice(piece);
                break;
            }
            if self.partial[index].is_empty() {
                encode(&mut self.batch, piece, stream, &time);
            } else {
                self.partial[index].extend_from_slice(piece);
                encode(&mut self.batch, &self.partial[index], stream, &time);
                self.partial[index].clear();
            }
        }
        self.flush()
    }

    /// The last line needs no newline to be logged.
    pub fn finish(&mut self) -> Result<(), LogError> {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let index = usize::from(stream == Stream::Stderr);
            if !self.partial[index].is_empty() {
                let text = std::mem::take(&mut self.partial[index]);
                encode(&mut self.batch, &text, stream, &now());
            }
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<(), LogError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let mut batch = std::mem::take(&mut self.batch);
        let result = self.append(&batch);
        batch.clear();
        // An idle container keeps no large buffer.
        batch.shrink_to(4096);
        self.batch = batch;
        result
    }

    fn append(&mut self, batch: &[u8]) -> Result<(), LogError> {
        if let Some(max) = self.max_size
            && self.size > 0
            && self.size + batch.len() as u64 > max
        {
            self.rotate()?;
        }
        self.file.write_all(batch).map_err(|e| LogError::new("write", &self.path, e))?;
        self.size += batch.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> Result<(), LogError> {
        let numbered = |number: u32| numbered(&self.path, number);
        let failed = |error| LogError::new("rotate", &self.path, error);
        if self.max_files == 1 {
            std::fs::remove_file(&self.path).map_err(failed)?;
        } else {
            for number in (1..self.max_files - 1).rev() {
                match std::fs::rename(numbered(number), numbered(number + 1)) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(failed(error));
                    }
                    _ => {}
                }
            }
            std::fs::rename(&self.path, numbered(1)).map_err(failed)?;
        }
        self.file = open(&self.path)?;
        self.size = 0;
        Ok(())
    }
}

/// The name of an older segment.
pub(crate) fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

fn open(path: &Path) -> Result<File, LogError> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o640)
        .open(path)
        .map_err(|error| LogError::new("open", path, error))
}

fn ends_with_newline(path: &Path) -> bool {
    use std::os::unix::fs::FileExt as _;
    let Ok(file) = File::open(path) else { return true };
    let Ok(size) = file.metadata().map(|meta| meta.len()) else { return true };
    let mut last = [0];
    file.read_exact_at(&mut last, size.saturating_sub(1)).is_err() || last[0] == b'\n'
}

fn now() -> String {
    Timestamp::from_system(SystemTime::now()).to_string()
}
