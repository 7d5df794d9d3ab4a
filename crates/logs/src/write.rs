//! Writing: lines to records, one write per batch, rotation by size. Never synced: a log that
//! survives a power cut is not worth a container that waits for the disk.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use hoy_types::Timestamp;

use crate::compress::{compress, compressed};
use crate::encode::{Stream, attributes, encode};
use crate::local;
use crate::scan::newline;
use crate::segment::whole_frames;
use crate::stamp::Stamps;
use crate::{Format, LogError, LogOptions, MAX_RECORD};

/// A batch that has grown to this is written before more is taken.
const BATCH: usize = 256 * 1024;
/// What is kept of the buffers when there is nothing to write.
const KEPT: usize = 4096;

/// The end of one container's log.
#[derive(Debug)]
pub struct Writer {
    segments: Segments,
    /// What has come of a line that has no end yet, per stream.
    partial: [Vec<u8>; 2],
    format: Format,
    /// What stands in each record.
    between: Vec<u8>,
    batch: Vec<u8>,
    /// What it may hold: less than a file, so that a file is hardly larger than it may be.
    most: usize,
    /// How many records are in the batch.
    records: u64,
    stamps: Stamps,
    /// Records that could not be written and are not marked in the log yet.
    unmarked: u64,
    lost: u64,
}

impl Writer {
    /// Goes on with a file of lines, or begins it.
    pub fn open(path: &Path, max_size: Option<u64>, max_files: u32) -> Result<Self, LogError> {
        Self::with(path, &LogOptions { max_size, max_files, ..LogOptions::default() })
    }

    /// Goes on with the file, or begins it.
    pub fn with(path: &Path, options: &LogOptions) -> Result<Self, LogError> {
        Ok(Self {
            format: options.format,
            between: attributes(&options.attributes),
            most: options.max_size.map_or(BATCH, |max| {
                BATCH.min(usize::try_from(max / 4).unwrap_or(BATCH)).max(KEPT)
            }),
            segments: Segments::open(path, options)?,
            partial: [Vec::new(), Vec::new()],
            batch: Vec::new(),
            records: 0,
            stamps: Stamps::new(),
            unmarked: 0,
            lost: 0,
        })
    }

    /// Takes output as it comes, heard at `at`. Complete lines are written by the next `flush`,
    /// or now if they are many.
    pub fn push(
        &mut self,
        stream: Stream,
        at: Timestamp,
        mut bytes: &[u8],
    ) -> Result<(), LogError> {
        while !bytes.is_empty() {
            let partial = &mut self.partial[index(stream)];
            let window = &bytes[..bytes.len().min(MAX_RECORD - partial.len())];
            let end = newline(window).map(|at| at + 1);
            let (piece, rest) = bytes.split_at(end.unwrap_or(window.len()));
            bytes = rest;
            if end.is_none() && partial.len() + piece.len() < MAX_RECORD {
                partial.extend_from_slice(piece);
                break;
            }
            if partial.is_empty() {
                self.add(piece, stream, at);
            } else {
                let mut whole = std::mem::take(partial);
                whole.extend_from_slice(piece);
                self.add(&whole, stream, at);
                whole.clear();
                whole.shrink_to(KEPT);
                self.partial[index(stream)] = whole;
            }
            if self.batch.len() >= self.most {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn add(&mut self, text: &[u8], stream: Stream, at: Timestamp) {
        match self.format {
            Format::Json => {
                let stamp = self.stamps.next(at);
                encode(&mut self.batch, text, stream, &self.between, stamp);
            }
            Format::Local => local::encode(&mut self.batch, text, stream, at),
        }
        self.records += 1;
    }

    /// Writes what there is. What cannot be written is counted, and marked in the log by the next
    /// write that succeeds.
    pub fn flush(&mut self) -> Result<(), LogError> {
        if self.batch.is_empty() { Ok(()) } else { self.write_batch() }
    }

    fn write_batch(&mut self) -> Result<(), LogError> {
        if self.unmarked > 0 {
            let batch = std::mem::take(&mut self.batch);
            self.batch = self.mark(&batch);
        }
        let result = self.segments.append(&self.batch);
        if result.is_ok() {
            self.unmarked = 0;
        } else {
            self.unmarked += self.records;
            self.lost += self.records;
        }
        self.records = 0;
        self.batch.clear();
        // An idle container keeps no large buffer.
        self.batch.shrink_to(KEPT);
        result
    }

    /// A record that says how many are missing before the given ones.
    fn mark(&mut self, before: &[u8]) -> Vec<u8> {
        let text = format!("hoy: {} log records were lost here\n", self.unmarked);
        let now = Timestamp::from_system(SystemTime::now());
        let records = self.records;
        self.batch = Vec::with_capacity(before.len() + 256);
        self.add(text.as_bytes(), Stream::Stderr, now);
        self.records = records;
        self.batch.extend_from_slice(before);
        std::mem::take(&mut self.batch)
    }

    /// The last line needs no newline to be logged.
    pub fn finish(&mut self, at: Timestamp) -> Result<(), LogError> {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let text = std::mem::take(&mut self.partial[index(stream)]);
            if !text.is_empty() {
                self.add(&text, stream, at);
            }
        }
        if self.batch.is_empty() && self.unmarked == 0 { Ok(()) } else { self.write_batch() }
    }

    /// Whether a line has begun that has no end yet.
    pub fn in_line(&self) -> bool {
        self.partial.iter().any(|text| !text.is_empty())
    }

    /// Has the log say that records are missing here which never came to this writer.
    pub const fn missing(&mut self, records: u64) {
        self.unmarked += records;
    }

    /// How many records this writer could not write.
    pub const fn lost(&self) -> u64 {
        self.lost
    }
}

const fn index(stream: Stream) -> usize {
    match stream {
        Stream::Stdout => 0,
        Stream::Stderr => 1,
    }
}

/// The file, and the older ones beside it.
#[derive(Debug)]
struct Segments {
    path: PathBuf,
    file: File,
    size: u64,
    max_size: Option<u64>,
    max_files: u32,
    compress: bool,
    format: Format,
    /// The file may end in half a record.
    torn: bool,
}

impl Segments {
    fn open(path: &Path, options: &LogOptions) -> Result<Self, LogError> {
        let LogOptions { format, max_size, max_files, compress, .. } = *options;
        let file = create(path)?;
        if format == Format::Local {
            whole(&file, path)?;
        }
        let size = file.metadata().map_err(|e| LogError::new("look at", path, e))?.len();
        // A killed writer may have left half a record.
        let torn = format == Format::Json && size > 0 && !ends_with_newline(path);
        let (path, max_files) = (path.to_owned(), max_files.max(1));
        Ok(Self { path, file, size, max_size, max_files, compress, format, torn })
    }

    fn append(&mut self, batch: &[u8]) -> Result<(), LogError> {
        let length = batch.len() as u64;
        if self.max_size.is_some_and(|max| self.size > 0 && self.size + length > max) {
            self.rotate()?;
        }
        let failed = |error| LogError::new("write", &self.path, error);
        if self.torn {
            match self.format {
                // The next record begins on a line of its own.
                Format::Json => self.file.write_all(b"\n").map_err(failed)?,
                Format::Local => whole(&self.file, &self.path)?,
            }
            self.torn = false;
        }
        self.file.write_all(batch).inspect_err(|_| self.torn = true).map_err(failed)?;
        self.size += length;
        Ok(())
    }

    fn rotate(&mut self) -> Result<(), LogError> {
        let failed = |error| LogError::new("rotate", &self.path, error);
        // After a rotation that ended before its new file was made there is nothing to move, and
        // moving the older ones again would push them out one by one.
        if self.path.try_exists().map_err(failed)? {
            if self.max_files == 1 {
                std::fs::remove_file(&self.path).map_err(failed)?;
            } else {
                for number in (1..self.max_files - 1).rev() {
                    let (from, to) =
                        (numbered(&self.path, number), numbered(&self.path, number + 1));
                    // A container may be started with other options than before.
                    let packed = rename(&compressed(&from), &compressed(&to));
                    if packed.map_err(failed)? {
                        let _ = std::fs::remove_file(&to);
                    }
                    if rename(&from, &to).map_err(failed)? {
                        let _ = std::fs::remove_file(compressed(&to));
                    }
                }
                let first = numbered(&self.path, 1);
                std::fs::rename(&self.path, &first).map_err(failed)?;
                let _ = std::fs::remove_file(compressed(&first));
                if self.compress {
                    // One that cannot be, for want of room, stays as it is.
                    let _ = compress(&first);
                }
            }
        }
        self.file = create(&self.path)?;
        self.size = 0;
        self.torn = false;
        Ok(())
    }
}

/// False where there is nothing to rename.
fn rename(from: &Path, to: &Path) -> std::io::Result<bool> {
    match std::fs::rename(from, to) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Takes half a record at the end away.
fn whole(file: &File, path: &Path) -> Result<(), LogError> {
    let failed = |error| LogError::new("mend", path, error);
    let read = File::open(path).map_err(failed)?;
    let end = whole_frames(&read).map_err(failed)?;
    if read.metadata().map_err(failed)?.len() > end {
        file.set_len(end).map_err(failed)?;
    }
    Ok(())
}

/// The name of an older segment.
pub(crate) fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

fn create(path: &Path) -> Result<File, LogError> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o640)
        .open(path)
        .map_err(|error| LogError::new("open", path, error))
}

fn ends_with_newline(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return true };
    let Ok(size) = file.metadata().map(|meta| meta.len()) else { return true };
    let mut last = [0];
    file.read_exact_at(&mut last, size.saturating_sub(1)).is_err() || last[0] == b'\n'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_full_disk_took_is_counted_and_marked() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut writer = Writer::open(&path, None, 1).unwrap();
        let at = Timestamp::from_parts(1, 0);
        writer.push(Stream::Stdout, at, b"before\n").unwrap();
        writer.flush().unwrap();
        // A descriptor that refuses every write with ENOSPC.
        let full = OpenOptions::new().append(true).open("/dev/full").unwrap();
        let good = std::mem::replace(&mut writer.segments.file, full);
        writer.push(Stream::Stdout, at, b"lost\nlost\n").unwrap();
        assert_eq!(writer.flush().unwrap_err().source.kind(), ErrorKind::StorageFull);
        writer.segments.file = good;
        writer.missing(3);
        writer.push(Stream::Stdout, at, b"after\n").unwrap();
        writer.flush().unwrap();
        assert_eq!(writer.lost(), 2);
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].contains("before"));
        // The write that failed may have left half a record: the line after it is whole again.
        assert_eq!(lines[1], "");
        assert!(lines[2].contains("5 log records were lost"));
        assert!(lines[3].contains("after"));
    }

    #[test]
    fn a_rotation_without_its_new_file_pushes_nothing_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut writer = Writer::open(&path, Some(60), 3).unwrap();
        for number in 0..3 {
            let line = format!("{number}\n");
            writer.push(Stream::Stdout, Timestamp::from_parts(1, 0), line.as_bytes()).unwrap();
            writer.flush().unwrap();
        }
        std::fs::remove_file(&path).unwrap();
        writer.push(Stream::Stdout, Timestamp::from_parts(1, 0), b"3\n").unwrap();
        writer.flush().unwrap();
        let read = |name: &Path| std::fs::read_to_string(name).unwrap();
        assert!(read(&path).contains("\"3\\n\""));
        assert!(read(&numbered(&path, 1)).contains("\"1\\n\""));
        assert!(read(&numbered(&path, 2)).contains("\"0\\n\""));
    }
}
