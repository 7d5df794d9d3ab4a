//! One file of a log, read forwards record by record or backwards line by line.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use crate::encode::decode;
use crate::read::Record;
use crate::scan::newline;
use crate::{LONGEST_LINE, LogError};

/// How much is read at once.
const BLOCK: usize = 64 * 1024;

#[derive(Debug)]
pub(crate) struct Segment {
    file: File,
    pub inode: u64,
    /// Where the next read begins.
    offset: u64,
    buffer: Vec<u8>,
    /// How much of the buffer was given out, and how much holds no newline for certain.
    used: usize,
    scanned: usize,
    /// The rest of a line that is too long to be a record.
    skipping: bool,
}

impl Segment {
    pub fn open(path: &Path) -> Result<Option<Self>, LogError> {
        match File::open(path) {
            Ok(file) => {
                let meta = file.metadata().map_err(|e| LogError::new("look at", path, e))?;
                Ok(Some(Self {
                    file,
                    inode: meta.ino(),
                    offset: 0,
                    buffer: Vec::new(),
                    used: 0,
                    scanned: 0,
                    skipping: false,
                }))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(LogError::new("open", path, error)),
        }
    }

    /// The next whole record; what is none is passed over. `None`: nothing more for now.
    pub fn next(&mut self) -> io::Result<Option<Record>> {
        loop {
            while let Some(at) = newline(&self.buffer[self.scanned..]) {
                let end = self.scanned + at + 1;
                let line = &self.buffer[self.used..end];
                let record = if self.skipping { None } else { decode(line) };
                self.skipping = false;
                (self.used, self.scanned) = (end, end);
                if let Some((text, stream, time)) = record {
                    return Ok(Some(Record { text, stream, time }));
                }
            }
            self.buffer.drain(..self.used);
            self.used = 0;
            if self.buffer.len() > LONGEST_LINE {
                self.skipping = true;
                self.buffer.clear();
            }
            self.scanned = self.buffer.len();
            if self.fill()? == 0 {
                self.buffer.shrink_to(0);
                return Ok(None);
            }
        }
    }

    fn fill(&mut self) -> io::Result<usize> {
        let held = self.buffer.len();
        self.buffer.resize(held + BLOCK, 0);
        let read = self.file.read_at(&mut self.buffer[held..], self.offset);
        self.buffer.truncate(held + read.as_ref().map_or(0, |read| *read));
        let read = read?;
        self.offset += read as u64;
        if read == 0 && self.file.metadata()?.len() < self.offset {
            // Somebody emptied the file under its writer, who goes on at its start.
            self.offset = 0;
            self.buffer.clear();
            self.skipping = false;
            self.scanned = 0;
        }
        Ok(read)
    }

    /// Goes back from the end over `count` wanted records, or to the start. What is left of the
    /// count is returned. `next` goes on from there, with all that has come since.
    pub fn rewind(&mut self, count: usize, wanted: impl Fn(&Record) -> bool) -> io::Result<usize> {
        let mut left = count;
        let mut lines = Backwards::new(&self.file)?;
        // Half a record at the end may become whole yet: it belongs to what is to come.
        self.offset = lines.end();
        while left > 0
            && let Some(line) = lines.next()?
        {
            self.offset = lines.end();
            if let Some((text, stream, time)) = decode(&line) {
                left -= usize::from(wanted(&Record { text, stream, time }));
            }
        }
        Ok(left)
    }
}

/// The whole lines of a file, from its end.
struct Backwards<'a> {
    file: &'a File,
    /// Where `data` begins in the file; it ends behind a newline.
    position: u64,
    data: Vec<u8>,
    /// What was cut off the end of a line that is too long.
    cut: u64,
}

impl<'a> Backwards<'a> {
    fn new(file: &'a File) -> io::Result<Self> {
        let mut lines = Self { file, position: file.metadata()?.len(), data: Vec::new(), cut: 0 };
        while lines.position > 0 && lines.data.is_empty() {
            lines.read_block()?;
            let end = lines.data.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            lines.data.truncate(end);
        }
        Ok(lines)
    }

    /// Where the line that `next` would give ends, and the one that it gave begins.
    fn end(&self) -> u64 {
        self.position + self.data.len() as u64 + self.cut
    }

    /// One that is too long to be a record comes without its end.
    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let inside = &self.data[..self.data.len().saturating_sub(1)];
            if let Some(at) = inside.iter().rposition(|byte| *byte == b'\n') {
                self.cut = 0;
                return Ok(Some(self.data.split_off(at + 1)));
            }
            if self.position == 0 {
                self.cut = 0;
                let line = std::mem::take(&mut self.data);
                return Ok((!line.is_empty()).then_some(line));
            }
            if self.data.len() > LONGEST_LINE {
                self.cut += (self.data.len() - LONGEST_LINE) as u64;
                self.data.truncate(LONGEST_LINE);
            }
            self.read_block()?;
        }
    }

    fn read_block(&mut self) -> io::Result<()> {
        let length = BLOCK.min(usize::try_from(self.position).unwrap_or(BLOCK));
        self.position -= length as u64;
        let mut block = vec![0; length];
        self.file.read_exact_at(&mut block, self.position)?;
        block.append(&mut self.data);
        self.data = block;
        Ok(())
    }
}
