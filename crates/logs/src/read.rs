//! Reading: the last records, those of a span of time, and those to come.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use hoy_types::Timestamp;

use crate::LogError;
use crate::encode::{Stream, decode};
use crate::write::numbered;

/// A longer line was not written by us.
const LONGEST_LINE: usize = 1 << 20;

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub text: Vec<u8>,
    pub stream: Stream,
    pub time: Timestamp,
}

/// How many of the last records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    All,
    Last(usize),
}

/// Which records.
#[derive(Clone, Debug)]
pub struct Query {
    pub stdout: bool,
    pub stderr: bool,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
}

impl Query {
    fn wants(&self, record: &Record) -> bool {
        (match record.stream {
            Stream::Stdout => self.stdout,
            Stream::Stderr => self.stderr,
        }) && self.since.is_none_or(|since| record.time >= since)
            && self.until.is_none_or(|until| record.time <= until)
    }
}

/// Reads a log from its oldest segment on, over rotations, without a gap or a repetition.
pub struct Follower {
    path: PathBuf,
    query: Query,
    current: Option<Segment>,
    /// Segments older than the current one, oldest first.
    older: VecDeque<Segment>,
    tail: Option<VecDeque<Record>>,
}

struct Segment {
    reader: BufReader<File>,
    inode: u64,
    /// A line whose end has not been written yet.
    line: Vec<u8>,
}

impl Segment {
    fn open(path: &Path) -> Result<Option<Self>, LogError> {
        match File::open(path) {
            Ok(file) => {
                let meta = file.metadata().map_err(|e| LogError::new("look at", path, e))?;
                Ok(Some(Self { reader: BufReader::new(file), inode: meta.ino(), line: Vec::new() }))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(LogError::new("open", path, error)),
        }
    }

    /// The next whole record; what is none is passed over.
    fn next(&mut self, path: &Path) -> Result<Option<Record>, LogError> {
        loop {
            let read = self.reader.read_until(b'\n', &mut self.line);
            let read = read.map_err(|error| LogError::new("read", path, error))?;
            if read == 0 || self.line.last() != Some(&b'\n') {
                if self.line.len() > LONGEST_LINE {
                    self.line.clear();
                }
                return Ok(None);
            }
            let record = decode(&self.line);
            self.line.clear();
            if let Some((text, stream, time)) = record {
                return Ok(Some(Record { text, stream, time }));
            }
        }
    }
}

impl Follower {
    /// Opens all segments at once, so that a rotation meanwhile takes nothing away.
    pub fn open(path: &Path, query: Query, tail: Tail) -> Result<Self, LogError> {
        let mut follower = Self {
            path: path.to_owned(),
            query,
            current: None,
            older: VecDeque::new(),
            tail: None,
        };
        follower.open_segments()?;
        if let Tail::Last(count) = tail {
            let mut last: VecDeque<Record> = VecDeque::new();
            while let Some(record) = follower.step()? {
                if count > 0 {
                    if last.len() == count {
                        last.pop_front();
                    }
                    last.push_back(record);
                }
            }
            follower.tail = Some(last);
        }
        Ok(follower)
    }

    fn open_segments(&mut self) -> Result<(), LogError> {
        // The current one first: whatever is rotated after that is found under a number too, and
        // recognised by its inode.
        self.current = Segment::open(&self.path)?;
        let known = self.current.as_ref().map(|segment| segment.inode);
        for number in 1..u32::MAX {
            match Segment::open(&numbered(&self.path, number))? {
                Some(segment) if Some(segment.inode) == known => {}
                Some(segment) => self.older.push_front(segment),
                None => break,
            }
        }
        Ok(())
    }

    /// The next record that is wanted, or `None` when there is none for now.
    pub fn next_record(&mut self) -> Result<Option<Record>, LogError> {
        if let Some(tail) = &mut self.tail {
            if let Some(record) = tail.pop_front() {
                return Ok(Some(record));
            }
            self.tail = None;
        }
        self.step()
    }

    fn step(&mut self) -> Result<Option<Record>, LogError> {
        loop {
            let found = if let Some(segment) = self.older.front_mut() {
                let found = segment.next(&self.path)?;
                if found.is_none() {
                    self.older.pop_front();
                    continue;
                }
                found
            } else {
                if self.current.is_none() {
                    self.current = Segment::open(&self.path)?;
                }
                let Some(segment) = &mut self.current else { return Ok(None) };
                match segment.next(&self.path)? {
                    Some(record) => Some(record),
                    None if self.rotated()? => continue,
                    None => return Ok(None),
                }
            };
            match found {
                Some(record) if self.query.wants(&record) => return Ok(Some(record)),
                _ => {}
            }
        }
    }

    /// Whether the file that we read to its end has been replaced: then the segments between it
    /// and the new one are lined up.
    fn rotated(&mut self) -> Result<bool, LogError> {
        let inode = std::fs::metadata(&self.path).map(|meta| meta.ino()).ok();
        let Some(current) = &self.current else { return Ok(false) };
        if inode.is_none() || inode == Some(current.inode) {
            return Ok(false);
        }
        // It was written to until the moment of its rotation: read on once more.
        let read_to_end = current.inode;
        let mut newer = VecDeque::new();
        let fresh = Segment::open(&self.path)?;
        for number in 1..u32::MAX {
            match Segment::open(&numbered(&self.path, number))? {
                Some(segment) if segment.inode == read_to_end => break,
                Some(segment) => newer.push_front(segment),
                None => break,
            }
        }
        if let Some(old) = self.current.take() {
            newer.push_front(old);
        }
        self.older = newer;
        self.current = fresh;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Writer;

    fn directory() -> PathBuf {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("hoy-logs-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    const ALL: Query = Query { stdout: true, stderr: true, since: None, until: None };

    fn texts(follower: &mut Follower) -> Vec<String> {
        let mut out = Vec::new();
        while let Some(record) = follower.next_record().unwrap() {
            out.push(String::from_utf8(record.text).unwrap());
        }
        out
    }

    #[test]
    fn lines_streams_and_tail() {
        let directory = directory();
        let path = directory.join("log");
        let mut writer = Writer::open(&path, None, 1).unwrap();
        writer.write(Stream::Stdout, b"one\ntw").unwrap();
        writer.write(Stream::Stderr, b"err\n").unwrap();
        writer.write(Stream::Stdout, b"o\nlast").unwrap();
        let mut follower = Follower::open(&path, ALL, Tail::All).unwrap();
        assert_eq!(texts(&mut follower), ["one\n", "err\n", "two\n"]);
        writer.finish().unwrap();
        assert_eq!(texts(&mut follower), ["last"]);
        let mut follower = Follower::open(&path, ALL, Tail::Last(2)).unwrap();
        assert_eq!(texts(&mut follower), ["two\n", "last"]);
        let stderr = Query { stdout: false, ..ALL };
        assert_eq!(texts(&mut Follower::open(&path, stderr, Tail::All).unwrap()), ["err\n"]);
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn long_lines_are_split() {
        let directory = directory();
        let path = directory.join("log");
        let mut writer = Writer::open(&path, None, 1).unwrap();
        writer.write(Stream::Stdout, &[b'x'; 40_000]).unwrap();
        writer.write(Stream::Stdout, b"\n").unwrap();
        let texts = texts(&mut Follower::open(&path, ALL, Tail::All).unwrap());
        let lengths: Vec<usize> = texts.iter().map(String::len).collect();
        assert_eq!(lengths, [16384, 16384, 40_000 - 2 * 16384 + 1]);
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn follows_over_rotation_without_gap() {
        let directory = directory();
        let path = directory.join("log");
        let mut writer = Writer::open(&path, Some(2000), 4).unwrap();
        writer.write(Stream::Stdout, b"0\n").unwrap();
        let mut follower = Follower::open(&path, ALL, Tail::All).unwrap();
        let mut seen = texts(&mut follower);
        for number in 1..500 {
            writer.write(Stream::Stdout, format!("{number}\n").as_bytes()).unwrap();
            if number % 40 == 0 {
                seen.extend(texts(&mut follower));
            }
        }
        seen.extend(texts(&mut follower));
        let expected: Vec<String> = (0..500).map(|number| format!("{number}\n")).collect();
        assert_eq!(seen, expected);
        let files = std::fs::read_dir(&directory).unwrap().count();
        assert_eq!(files, 4);
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn half_a_record_of_a_killed_writer_is_passed_over() {
        let directory = directory();
        let path = directory.join("log");
        let mut writer = Writer::open(&path, None, 1).unwrap();
        writer.write(Stream::Stdout, b"whole\n").unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend_from_slice(b"{\"log\":\"ha");
        std::fs::write(&path, bytes).unwrap();
        let mut writer = Writer::open(&path, None, 1).unwrap();
        writer.write(Stream::Stdout, b"next\n").unwrap();
        let mut follower = Follower::open(&path, ALL, Tail::All).unwrap();
        assert_eq!(texts(&mut follower), ["whole\n", "next\n"]);
        std::fs::remove_dir_all(directory).unwrap();
    }
}
