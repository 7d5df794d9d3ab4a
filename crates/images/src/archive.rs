//! The outer archive of `load`: copied to the disk once, then read by position.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};

use hoy_store::{BlobWriter, Store};
use tar::{Archive as Tar, EntryType};

use crate::{ImageError, Result};

const MAX_ENTRIES: usize = 100_000;

enum Found {
    File {
        offset: u64,
        size: u64,
    },
    /// Older archives point from one image's layer to another's.
    Link(String),
}

/// An archive on the disk, with its table of contents. Gone when dropped.
pub(crate) struct Archive {
    file: File,
    entries: HashMap<String, Found>,
    // Deletes the copy.
    _copy: BlobWriter,
}

impl Archive {
    pub fn receive(store: &Store, source: impl Read) -> Result<Self> {
        let failed = ImageError::io("receive the archive");
        let (mut plain, _) = crate::compression::plain(source).map_err(invalid)?;
        let mut copy = store.new_blob()?;
        io::copy(&mut plain, &mut copy).map_err(failed)?;
        copy.flush().map_err(ImageError::io("receive the archive"))?;
        let file = File::open(copy.path()).map_err(ImageError::io("open the archive"))?;
        let entries = contents(&file).map_err(invalid)?;
        Ok(Self { file, entries, _copy: copy })
    }

    pub fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    fn find(&self, name: &str) -> Result<(u64, u64)> {
        let mut name = name.to_owned();
        for _ in 0..8 {
            match self.entries.get(&name) {
                Some(Found::File { offset, size }) => return Ok((*offset, *size)),
                Some(Found::Link(to)) => name.clone_from(to),
                None => break,
            }
        }
        Err(ImageError::Invalid(format!("invalid archive: {name} is missing from it")))
    }

    /// A document of bounded size.
    pub fn document(&self, name: &str) -> Result<Vec<u8>> {
        let (offset, size) = self.find(name)?;
        let bounded = !hoy_weak::without(hoy_weak::Protection::DocumentSize);
        if bounded && size > hoy_oci::MAX_DOCUMENT {
            return Err(ImageError::Invalid(format!("invalid archive: {name} is too large")));
        }
        let mut bytes = Vec::new();
        self.at(offset, size)?
            .read_to_end(&mut bytes)
            .map_err(ImageError::io("read the archive"))?;
        Ok(bytes)
    }

    /// A file's bytes.
    pub fn open(&self, name: &str) -> Result<impl Read> {
        let (offset, size) = self.find(name)?;
        self.at(offset, size)
    }

    fn at(&self, offset: u64, size: u64) -> Result<io::Take<File>> {
        use std::os::fd::AsRawFd as _;
        // A description of its own: positions are not shared between readers.
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let mut file = File::open(path).map_err(ImageError::io("open the archive"))?;
        file.seek(SeekFrom::Start(offset)).map_err(ImageError::io("read the archive"))?;
        Ok(file.take(size))
    }
}

fn invalid(error: io::Error) -> ImageError {
    match error.raw_os_error() {
        Some(_) => ImageError::io("read the archive")(error),
        None => ImageError::Invalid(format!("invalid archive: {error}")),
    }
}

fn contents(file: &File) -> io::Result<HashMap<String, Found>> {
    let mut entries = HashMap::new();
    for entry in Tar::new(file).entries_with_seek()? {
        let entry = entry?;
        if entries.len() >= MAX_ENTRIES {
            return Err(io::Error::other("too many entries"));
        }
        let name = tidy(&String::from_utf8_lossy(&entry.path_bytes()), "");
        let size = entry.size();
        match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous => {
                let offset = entry.raw_file_position();
                entries.insert(name, Found::File { offset, size });
            }
            EntryType::Symlink | EntryType::Link => {
                let to = entry.link_name_bytes().unwrap_or_default();
                let hard = entry.header().entry_type() == EntryType::Link;
                let base = name.rsplit_once('/').map_or("", |(above, _)| above);
                let to = tidy(&String::from_utf8_lossy(&to), if hard { "" } else { base });
                entries.insert(name, Found::Link(to));
            }
            _ => {}
        }
    }
    // A shorter file than the headers promise.
    let length = file.metadata()?.len();
    let whole = entries.values().all(|found| match found {
        Found::File { offset, size } => offset.saturating_add(*size) <= length,
        Found::Link(_) => true,
    });
    if whole { Ok(entries) } else { Err(io::Error::new(io::ErrorKind::UnexpectedEof, "truncated")) }
}

/// Names are only keys here: no file of this name is ever opened.
fn tidy(name: &str, base: &str) -> String {
    let mut out: Vec<&str> = base.split('/').filter(|part| !part.is_empty()).collect();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(out.pop()),
            part => out.push(part),
        }
    }
    out.join("/")
}
