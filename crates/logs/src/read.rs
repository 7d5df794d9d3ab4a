//! Reading: the last records, those of a span of time, and those to come.

use std::collections::VecDeque;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use hoy_types::Timestamp;

use crate::compress::compressed;
use crate::encode::Stream;
use crate::segment::Segment;
use crate::watch::Watch;
use crate::write::numbered;
use crate::{Format, LogError};

/// How often the segments are looked at until two looks agree.
const LOOKS: usize = 16;

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub text: Vec<u8>,
    pub stream: Stream,
    pub time: Timestamp,
    /// What was to be said with every record.
    pub attributes: Vec<(String, String)>,
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
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    format: Format,
    query: Query,
    current: Option<Segment>,
    /// Segments older than the current one, oldest first.
    older: VecDeque<Segment>,
}

impl Follower {
    /// Opens all segments at once, so that a rotation meanwhile takes nothing away.
    pub fn open(path: &Path, format: Format, query: Query, tail: Tail) -> Result<Self, LogError> {
        let mut segments = segments(path, format)?;
        if let Tail::Last(count) = tail {
            let mut left = count;
            let mut needed = 0;
            for segment in &mut segments {
                if needed > 0 && left == 0 {
                    break;
                }
                let rewound = segment.rewind(left, |record| query.wants(record));
                left = rewound.map_err(|error| LogError::new("read", path, error))?;
                needed += 1;
            }
            segments.truncate(needed);
        }
        let mut segments = segments.into_iter();
        let current = segments.next();
        let older = segments.rev().collect();
        Ok(Self { path: path.to_owned(), format, query, current, older })
    }

    /// A descriptor to wait on when `next_record` has nothing. Asked for before the log is read
    /// to its end, it misses nothing.
    pub fn watch(&self) -> Result<Watch, LogError> {
        Watch::new(&self.path)
    }

    /// The next record that is wanted, or `None` when there is none for now.
    pub fn next_record(&mut self) -> Result<Option<Record>, LogError> {
        loop {
            match self.step()? {
                Some(record) if !self.query.wants(&record) => {}
                other => return Ok(other),
            }
        }
    }

    fn step(&mut self) -> Result<Option<Record>, LogError> {
        loop {
            let failed = |error| LogError::new("read", &self.path, error);
            if let Some(segment) = self.older.front_mut() {
                match segment.next().map_err(failed)? {
                    Some(record) => return Ok(Some(record)),
                    None => drop(self.older.pop_front()),
                }
                continue;
            }
            if self.current.is_none() {
                self.current = Segment::open(&self.path, self.format)?;
            }
            let Some(segment) = &mut self.current else { return Ok(None) };
            if let Some(record) = segment.next().map_err(failed)? {
                return Ok(Some(record));
            }
            if !self.rotated()? {
                return Ok(None);
            }
        }
    }

    /// Whether the file that we read to its end has been replaced: then what is newer is lined up
    /// behind it. It was written to until the moment of its rotation, so it is read once more.
    fn rotated(&mut self) -> Result<bool, LogError> {
        let Some(current) = &self.current else { return Ok(false) };
        match std::fs::metadata(&self.path) {
            Ok(meta) if meta.ino() != current.inode => {}
            // The same, or between two files: the new one will be seen when it is there.
            _ => return Ok(false),
        }
        let mut newer = segments(&self.path, self.format)?;
        // It may have been compressed meanwhile.
        if let Some(at) = newer.iter().position(|segment| segment.is_same(current)) {
            newer.truncate(at);
        }
        let mut newer = newer.into_iter();
        let Some(fresh) = newer.next() else { return Ok(false) };
        self.older = newer.rev().collect();
        if let Some(read) = self.current.replace(fresh) {
            self.older.push_front(read);
        }
        Ok(true)
    }
}

/// All segments, newest first. A writer may be renaming them one by one: each is taken once, a
/// number that is missing between two is passed over, and two looks must agree.
fn segments(path: &Path, format: Format) -> Result<Vec<Segment>, LogError> {
    let mut seen = look(path, format)?;
    for _ in 0..LOOKS {
        let again = look(path, format)?;
        let inodes = |list: &[Segment]| list.iter().map(|s| s.inode).collect::<Vec<_>>();
        let agree = inodes(&seen) == inodes(&again);
        seen = again;
        if agree {
            break;
        }
    }
    Ok(seen)
}

fn look(path: &Path, format: Format) -> Result<Vec<Segment>, LogError> {
    let mut found: Vec<Segment> = Segment::open(path, format)?.into_iter().collect();
    let mut missing = 0;
    for number in 1..u32::MAX {
        let name = numbered(path, number);
        let plain = Segment::open(&name, format)?;
        let found_one = match plain {
            None => Segment::open_compressed(&compressed(&name), format)?,
            plain => plain,
        };
        match found_one {
            Some(segment) => {
                missing = 0;
                if !found.iter().any(|other| other.is_same(&segment)) {
                    found.push(segment);
                }
            }
            None if missing > 0 => break,
            None => missing += 1,
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Writer;

    const ALL: Query = Query { stdout: true, stderr: true, since: None, until: None };

    fn texts(follower: &mut Follower) -> Vec<String> {
        let mut out = Vec::new();
        while let Some(record) = follower.next_record().unwrap() {
            out.push(String::from_utf8(record.text).unwrap());
        }
        out
    }

    fn write(writer: &mut Writer, stream: Stream, bytes: &[u8]) {
        writer.push(stream, Timestamp::from_parts(1000, 0), bytes).unwrap();
        writer.flush().unwrap();
    }

    fn log() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        (directory, path)
    }

    #[test]
    fn lines_streams_and_tail() {
        let (_directory, path) = log();
        let mut writer = Writer::open(&path, None, 1).unwrap();
        write(&mut writer, Stream::Stdout, b"one\ntw");
        write(&mut writer, Stream::Stderr, b"err\n");
        write(&mut writer, Stream::Stdout, b"o\nlast");
        let mut follower = Follower::open(&path, Format::Json, ALL, Tail::All).unwrap();
        assert_eq!(texts(&mut follower), ["one\n", "err\n", "two\n"]);
        writer.finish(Timestamp::from_parts(1000, 0)).unwrap();
        assert_eq!(texts(&mut follower), ["last"]);
        let mut follower = Follower::open(&path, Format::Json, ALL, Tail::Last(2)).unwrap();
        assert_eq!(texts(&mut follower), ["two\n", "last"]);
        let stderr = Query { stdout: false, ..ALL };
        assert_eq!(
            texts(&mut Follower::open(&path, Format::Json, stderr, Tail::All).unwrap()),
            ["err\n"]
        );
    }

    #[test]
    fn long_lines_are_split() {
        let (_directory, path) = log();
        let mut writer = Writer::open(&path, None, 1).unwrap();
        write(&mut writer, Stream::Stdout, &[b'x'; 40_000]);
        write(&mut writer, Stream::Stdout, b"\n");
        let texts = texts(&mut Follower::open(&path, Format::Json, ALL, Tail::All).unwrap());
        let lengths: Vec<usize> = texts.iter().map(String::len).collect();
        assert_eq!(lengths, [16384, 16384, 40_000 - 2 * 16384 + 1]);
    }

    #[test]
    fn spans_of_time() {
        let (_directory, path) = log();
        let mut writer = Writer::open(&path, None, 1).unwrap();
        for second in 0..10 {
            let line = format!("{second}\n");
            writer.push(Stream::Stdout, Timestamp::from_parts(second, 0), line.as_bytes()).unwrap();
        }
        writer.flush().unwrap();
        let span = Query {
            since: Some(Timestamp::from_parts(3, 0)),
            until: Some(Timestamp::from_parts(6, 0)),
            ..ALL
        };
        let read =
            |tail| texts(&mut Follower::open(&path, Format::Json, span.clone(), tail).unwrap());
        assert_eq!(read(Tail::All), ["3\n", "4\n", "5\n", "6\n"]);
        assert_eq!(read(Tail::Last(2)), ["5\n", "6\n"]);
    }

    #[test]
    fn follows_over_rotation_without_gap() {
        let (directory, path) = log();
        let mut writer = Writer::open(&path, Some(2000), 4).unwrap();
        write(&mut writer, Stream::Stdout, b"0\n");
        let mut follower = Follower::open(&path, Format::Json, ALL, Tail::All).unwrap();
        let mut seen = texts(&mut follower);
        for number in 1..500 {
            write(&mut writer, Stream::Stdout, format!("{number}\n").as_bytes());
            if number % 40 == 0 {
                seen.extend(texts(&mut follower));
            }
        }
        seen.extend(texts(&mut follower));
        let expected: Vec<String> = (0..500).map(|number| format!("{number}\n")).collect();
        assert_eq!(seen, expected);
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 4);
    }

    #[test]
    fn follows_a_writer_that_rotates_meanwhile() {
        let (_directory, path) = log();
        let lines = 20_000;
        let mut writer = Writer::open(&path, Some(100_000), 1000).unwrap();
        let mut follower = Follower::open(&path, Format::Json, ALL, Tail::All).unwrap();
        let watch = follower.watch().unwrap();
        let thread = std::thread::spawn(move || {
            for number in 0..lines {
                write(&mut writer, Stream::Stdout, format!("{number}\n").as_bytes());
            }
        });
        let mut seen = Vec::new();
        while seen.len() < lines {
            let mut fds = [rustix::event::PollFd::new(&watch, rustix::event::PollFlags::IN)];
            let second = rustix::event::Timespec { tv_sec: 5, tv_nsec: 0 };
            assert!(rustix::event::poll(&mut fds, Some(&second)).unwrap() > 0, "{}", seen.len());
            watch.clear().unwrap();
            seen.extend(texts(&mut follower));
        }
        thread.join().unwrap();
        let expected: Vec<String> = (0..lines).map(|number| format!("{number}\n")).collect();
        assert!(seen == expected);
    }

    #[test]
    fn the_last_ones_over_segments_and_then_those_to_come() {
        let (_directory, path) = log();
        let mut writer = Writer::open(&path, Some(2000), 20).unwrap();
        for number in 0..200 {
            write(&mut writer, Stream::Stdout, format!("{number}\n").as_bytes());
        }
        for count in [0, 1, 5, 30, 60, 199, 200, 1000] {
            let mut follower = Follower::open(&path, Format::Json, ALL, Tail::Last(count)).unwrap();
            let first = 200 - count.min(200);
            let expected: Vec<String> = (first..200).map(|number| format!("{number}\n")).collect();
            assert_eq!(texts(&mut follower), expected, "{count}");
        }
        let mut follower = Follower::open(&path, Format::Json, ALL, Tail::Last(0)).unwrap();
        write(&mut writer, Stream::Stdout, b"new\n");
        assert_eq!(texts(&mut follower), ["new\n"]);
    }

    #[test]
    fn half_a_record_of_a_killed_writer_is_passed_over() {
        let (_directory, path) = log();
        let mut writer = Writer::open(&path, None, 1).unwrap();
        write(&mut writer, Stream::Stdout, b"whole\n");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend_from_slice(b"{\"log\":\"ha");
        std::fs::write(&path, bytes).unwrap();
        let mut last = Follower::open(&path, Format::Json, ALL, Tail::Last(1)).unwrap();
        assert_eq!(texts(&mut last), ["whole\n"]);
        let mut writer = Writer::open(&path, None, 1).unwrap();
        write(&mut writer, Stream::Stdout, b"next\n");
        assert_eq!(texts(&mut last), ["next\n"]);
        let mut follower = Follower::open(&path, Format::Json, ALL, Tail::All).unwrap();
        assert_eq!(texts(&mut follower), ["whole\n", "next\n"]);
    }

    #[test]
    fn what_is_no_log_is_passed_over_within_bounds() {
        let (_directory, path) = log();
        let mut writer = Writer::open(&path, None, 1).unwrap();
        write(&mut writer, Stream::Stdout, b"first\n");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend(std::iter::repeat_n(b'x', 1 << 20));
        bytes.push(b'\n');
        bytes.extend(std::iter::repeat_n(b'\n', 1000));
        bytes.extend_from_slice(b"{\"log\":\"\\u12");
        bytes.push(b'\n');
        std::fs::write(&path, bytes).unwrap();
        let mut writer = Writer::open(&path, None, 1).unwrap();
        write(&mut writer, Stream::Stdout, b"second\n");
        for tail in [Tail::All, Tail::Last(2), Tail::Last(10)] {
            let mut follower = Follower::open(&path, Format::Json, ALL, tail).unwrap();
            assert_eq!(texts(&mut follower), ["first\n", "second\n"]);
        }
        let mut last = Follower::open(&path, Format::Json, ALL, Tail::Last(1)).unwrap();
        assert_eq!(texts(&mut last), ["second\n"]);
    }

    #[test]
    fn an_emptied_file_is_read_from_its_start() {
        let (_directory, path) = log();
        let mut writer = Writer::open(&path, None, 1).unwrap();
        write(&mut writer, Stream::Stdout, b"a longer line to begin with\n");
        let mut follower = Follower::open(&path, Format::Json, ALL, Tail::All).unwrap();
        assert_eq!(texts(&mut follower).len(), 1);
        std::fs::File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
        assert_eq!(texts(&mut follower), Vec::<String>::new());
        write(&mut writer, Stream::Stdout, b"new\n");
        assert_eq!(texts(&mut follower), ["new\n"]);
    }

    fn log_of(format: Format, compress: bool) -> (tempfile::TempDir, PathBuf, Writer) {
        let (directory, path) = log();
        let attributes = vec![("a".to_owned(), "b".to_owned())];
        let options =
            crate::LogOptions { format, max_size: Some(2000), max_files: 4, compress, attributes };
        let writer = Writer::with(&path, &options).unwrap();
        (directory, path, writer)
    }

    #[test]
    fn compressed_and_local_ones_read_alike() {
        for (format, compress) in
            [(Format::Local, false), (Format::Local, true), (Format::Json, true)]
        {
            let (directory, path, mut writer) = log_of(format, compress);
            write(&mut writer, Stream::Stderr, b"0\n");
            let mut follower = Follower::open(&path, format, ALL, Tail::All).unwrap();
            let mut seen = texts(&mut follower);
            for number in 1..300 {
                write(&mut writer, Stream::Stdout, format!("{number}\n").as_bytes());
                if number % 7 == 0 {
                    seen.extend(texts(&mut follower));
                }
            }
            seen.extend(texts(&mut follower));
            let all: Vec<String> = (0..300).map(|number| format!("{number}\n")).collect();
            assert_eq!(seen, all, "{format:?} {compress}");
            // The last ones, over files.
            let mut last = Follower::open(&path, format, ALL, Tail::Last(40)).unwrap();
            assert_eq!(texts(&mut last), all[260..], "{format:?} {compress}");
            let names: Vec<String> = std::fs::read_dir(&directory)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            assert_eq!(names.len(), 4, "{names:?}");
            let packed = names.iter().filter(|name| name.ends_with(".gz")).count();
            assert_eq!(packed, if compress { 3 } else { 0 }, "{names:?}");
            writer.push(Stream::Stdout, Timestamp::from_parts(1000, 0), b"end").unwrap();
            writer.finish(Timestamp::from_parts(1000, 0)).unwrap();
            assert_eq!(texts(&mut follower), ["end"]);
        }
    }

    #[test]
    fn half_a_local_record_is_passed_over() {
        let (_directory, path, mut writer) = log_of(Format::Local, false);
        write(&mut writer, Stream::Stdout, b"whole\n");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend_from_slice(&[0, 0, 0, 20, 1, 2]);
        std::fs::write(&path, bytes).unwrap();
        let options = crate::LogOptions { format: Format::Local, ..Default::default() };
        let mut writer = Writer::with(&path, &options).unwrap();
        write(&mut writer, Stream::Stdout, b"next\n");
        for tail in [Tail::All, Tail::Last(2)] {
            let mut follower = Follower::open(&path, Format::Local, ALL, tail).unwrap();
            assert_eq!(texts(&mut follower), ["whole\n", "next\n"]);
        }
    }
}
