//! One file of a log, read forwards record by record or backwards line by line.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use crate::compress::expand;
use crate::encode::decode;
use crate::local;
use crate::read::Record;
use crate::scan::newline;
use crate::{Format, LONGEST_LINE, LogError};

/// How much is read at once.
const BLOCK: usize = 64 * 1024;
/// As much of a file's start and end tells it from all others.
const END: usize = 256;

#[derive(Debug)]
pub(crate) struct Segment {
    file: File,
    format: Format,
    /// It was compressed.
    packed: bool,
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
    pub fn open(path: &Path, format: Format) -> Result<Option<Self>, LogError> {
        Self::open_as(path, format, false)
    }

    /// An older one, as it was before it was compressed.
    pub fn open_compressed(path: &Path, format: Format) -> Result<Option<Self>, LogError> {
        Self::open_as(path, format, true)
    }

    fn open_as(path: &Path, format: Format, packed: bool) -> Result<Option<Self>, LogError> {
        match File::open(path) {
            Ok(file) => {
                let meta = file.metadata().map_err(|e| LogError::new("look at", path, e))?;
                let file = if packed { expand(&file) } else { Ok(file) };
                let file = file.map_err(|e| LogError::new("expand", path, e))?;
                Ok(Some(Self {
                    file,
                    format,
                    packed,
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
        match self.format {
            Format::Json => self.next_line(),
            Format::Local => self.next_frame(),
        }
    }

    /// Whether this is what another one holds, too. A file that was compressed has another number
    /// but the same records, whose times are their own.
    pub fn is_same(&self, other: &Self) -> bool {
        let ends = |file: &File| -> io::Result<(u64, Vec<u8>)> {
            let size = file.metadata()?.len();
            let length = END.min(usize::try_from(size).unwrap_or(END));
            let mut bytes = vec![0; 2 * length];
            file.read_exact_at(&mut bytes[..length], 0)?;
            file.read_exact_at(&mut bytes[length..], size - length as u64)?;
            Ok((size, bytes))
        };
        self.inode == other.inode
            || (self.packed || other.packed)
                && matches!((ends(&self.file), ends(&other.file)), (Ok(a), Ok(b)) if a == b)
    }

    fn next_frame(&mut self) -> io::Result<Option<Record>> {
        loop {
            match local::decode(&self.buffer[self.used..]) {
                Ok(Some((record, length))) => {
                    self.used += length;
                    return Ok(Some(record));
                }
                // Nothing behind damage can be told from it.
                Err(()) => {
                    self.offset = self.file.metadata()?.len();
                    self.buffer.clear();
                    self.used = 0;
                }
                Ok(None) => {}
            }
            self.buffer.drain(..self.used);
            self.used = 0;
            if self.fill()? == 0 {
                if self.buffer.is_empty() {
                    self.buffer.shrink_to(0);
                }
                return Ok(None);
            }
        }
    }

    fn next_line(&mut self) -> io::Result<Option<Record>> {
        loop {
            while let Some(at) = newline(&self.buffer[self.scanned..]) {
                let end = self.scanned + at + 1;
                let line = &self.buffer[self.used..end];
                let record = if self.skipping { None } else { decode(line) };
                self.skipping = false;
                (self.used, self.scanned) = (end, end);
                if record.is_some() {
                    return Ok(record);
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
        if self.format == Format::Local {
            return self.rewind_frames(count, wanted);
        }
        let mut lines = Backwards::new(&self.file)?;
        // Half a record at the end may become whole yet: it belongs to what is to come.
        self.offset = lines.end();
        while left > 0
            && let Some(line) = lines.next()?
        {
            self.offset = lines.end();
            if let Some(record) = decode(&line) {
                left -= usize::from(wanted(&record));
            }
        }
        Ok(left)
    }

    fn rewind_frames(
        &mut self,
        count: usize,
        wanted: impl Fn(&Record) -> bool,
    ) -> io::Result<usize> {
        let mut left = count;
        let mut end = whole_frames(&self.file)?;
        while left > 0 && end >= local::AROUND as u64 {
            let mut four = [0; 4];
            self.file.read_exact_at(&mut four, end - 4)?;
            let size = local::length(&four).map(|length| (length + local::AROUND) as u64);
            let Some(begin) = size.and_then(|size| end.checked_sub(size)) else { break };
            let mut frame = vec![0; (end - begin) as usize];
            self.file.read_exact_at(&mut frame, begin)?;
            let Ok(Some((record, _))) = local::decode(&frame) else { break };
            end = begin;
            left -= usize::from(wanted(&record));
        }
        self.offset = end;
        Ok(left)
    }
}

/// Where the last whole record of a file ends: half a one may lie behind it.
pub(crate) fn whole_frames(file: &File) -> io::Result<u64> {
    let size = file.metadata()?.len();
    let ends_whole = || -> io::Result<bool> {
        let mut four = [0; 4];
        if size < local::AROUND as u64 {
            return Ok(size == 0);
        }
        file.read_exact_at(&mut four, size - 4)?;
        let Some(length) = local::length(&four) else { return Ok(false) };
        let Some(begin) = size.checked_sub((length + local::AROUND) as u64) else {
            return Ok(false);
        };
        let mut head = [0; 4];
        file.read_exact_at(&mut head, begin)?;
        Ok(head == four)
    };
    if ends_whole()? {
        return Ok(size);
    }
    // From the start, since only that is certain.
    let mut at = 0;
    let mut buffer = vec![0; 1 << 18];
    loop {
        let read = file.read_at(&mut buffer, at)?;
        let mut used = 0;
        while let Ok(Some((_, length))) = local::decode(&buffer[used..read]) {
            used += length;
        }
        if used == 0 {
            return Ok(at);
        }
        at += used as u64;
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
