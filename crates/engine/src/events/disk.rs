//! Events on the disk: lines of JSON, appended in batches to one file, which becomes the older one
//! of two when it is long. Nothing is synced: a power cut costs the last ones. A line that is not
//! whole is none.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hoy_types::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Happening, KINDS, Numbered};

/// A file is full then; there are two.
const FULL: u64 = 4 << 20;
/// What the next daemon reads of it when it begins.
const TAIL: u64 = 512 << 10;
/// What is read at a time for somebody who asks for history.
const PIECE: usize = 256 << 10;
/// No line is longer; one that would be is written without its attributes, and as much of its
/// action.
const LINE: usize = 64 << 10;
const LABEL: usize = 256;

/// One event as it is written.
#[derive(Serialize, Deserialize)]
struct Line {
    #[serde(rename = "n")]
    number: u64,
    #[serde(rename = "t")]
    at: i64,
    #[serde(rename = "k")]
    kind: String,
    #[serde(rename = "a")]
    action: String,
    #[serde(rename = "i")]
    id: String,
    #[serde(rename = "x")]
    attributes: BTreeMap<String, String>,
    #[serde(rename = "d", default, skip_serializing_if = "Option::is_none")]
    death: Option<i64>,
}

pub(super) fn line(one: &Numbered) -> Vec<u8> {
    let happening = &one.happening;
    let line = Line {
        number: one.number,
        at: happening.at.nanos(),
        kind: happening.kind.to_owned(),
        action: happening.action.clone(),
        id: happening.id.clone(),
        attributes: happening.attributes.clone(),
        death: happening.death.map(Timestamp::nanos),
    };
    let bytes = serde_json::to_vec(&line).unwrap_or_default();
    let mut bytes = match bytes.len() {
        ..LINE => bytes,
        // That it happened is kept, whatever labels somebody has.
        _ => {
            let action = line.action.chars().take(LABEL).collect();
            let line = Line { action, attributes: BTreeMap::new(), ..line };
            serde_json::to_vec(&line).unwrap_or_default()
        }
    };
    bytes.push(b'\n');
    bytes
}

fn parse(bytes: &[u8]) -> Option<Numbered> {
    let line: Line = serde_json::from_slice(bytes).ok()?;
    let kind = KINDS.iter().find(|kind| **kind == line.kind)?;
    let happening = Happening {
        kind,
        action: line.action,
        id: line.id,
        attributes: line.attributes,
        at: Timestamp::from_nanos(line.at),
        death: line.death.map(Timestamp::from_nanos),
    };
    Some(Numbered { number: line.number, happening: Arc::new(happening) })
}

/// The file that grows.
pub(super) struct Writer {
    file: File,
    length: u64,
    failed: bool,
}

pub(super) struct Disk {
    current: PathBuf,
    older: PathBuf,
    writer: Mutex<Writer>,
}

impl Disk {
    pub fn open(directory: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let (current, older) = (directory.join("events.log"), directory.join("events.1.log"));
        let mut file = File::options().read(true).create(true).append(true).open(&current)?;
        let mut length = file.metadata()?.len();
        if length > 0 {
            let mut last = [0];
            file.seek(SeekFrom::Start(length - 1))?;
            file.read_exact(&mut last)?;
            if last != [b'\n'] {
                // A torn line ends here.
                file.write_all(b"\n")?;
                length += 1;
            }
        }
        Ok(Self { current, older, writer: Mutex::new(Writer { file, length, failed: false }) })
    }

    /// The last ones that were written, oldest first.
    pub fn last(&self) -> Vec<Numbered> {
        let current = tail(&self.current).unwrap_or_default();
        // Without a gap between them.
        let older = match current.len() as u64 {
            TAIL.. => Vec::new(),
            _ => tail(&self.older).unwrap_or_default(),
        };
        let lines = |text: &[u8]| -> Vec<Numbered> {
            text.split(|byte| *byte == b'\n').filter_map(parse).collect()
        };
        let mut out = lines(&older);
        out.extend(lines(&current));
        out
    }

    pub fn turn(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the disk does not take is not kept; there is no half line.
    pub fn append(&self, writer: &mut Writer, lines: &[Vec<u8>]) {
        if writer.length >= FULL
            && let Err(error) = self.turn_over(writer)
        {
            tracing::warn!(%error, "turn the file of events over");
            return;
        }
        let batch = lines.concat();
        match writer.file.write_all(&batch) {
            Ok(()) => {
                writer.length += batch.len() as u64;
                writer.failed = false;
            }
            Err(error) => {
                let _ = writer.file.set_len(writer.length);
                // Once: a full disk is told of elsewhere.
                if !std::mem::replace(&mut writer.failed, true) {
                    tracing::warn!(%error, "write events down");
                }
            }
        }
    }

    fn turn_over(&self, writer: &mut Writer) -> io::Result<()> {
        std::fs::rename(&self.current, &self.older)?;
        writer.file = File::options().read(true).create(true).append(true).open(&self.current)?;
        writer.length = 0;
        Ok(())
    }

    /// Those from a moment on, before one of a number. Nothing is opened yet: that may wait.
    pub fn history(&self, since: Timestamp, until: u64) -> History {
        let places = Some((self.current.clone(), self.older.clone()));
        History { places, files: Vec::new(), rest: Vec::new(), since, until }
    }
}

/// The files that may have something since then; the next to be read is the last. They are held:
/// they may be turned over meanwhile.
fn open(current: &Path, older: &Path, since: Timestamp) -> Vec<File> {
    let mut files: Vec<File> = [current, older].iter().filter_map(|p| File::open(p).ok()).collect();
    let same = |a: &File, b: &File| matches!((a.metadata(), b.metadata()), (Ok(a), Ok(b)) if a.ino() == b.ino());
    if let [current, older] = files.as_slice()
        && (same(current, older) || first(current).is_some_and(|first| first.happening.at < since))
    {
        files.pop();
    }
    files
}

fn first(mut file: &File) -> Option<Numbered> {
    let mut bytes = vec![0; LINE];
    let length = file.read(&mut bytes).ok()?;
    file.seek(SeekFrom::Start(0)).ok()?;
    parse(bytes[..length].split(|byte| *byte == b'\n').next()?)
}

fn tail(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut text = Vec::new();
    file.take(TAIL).read_to_end(&mut text)?;
    Ok(text)
}

/// What the files have, piece by piece.
pub struct History {
    /// Until they are opened.
    places: Option<(PathBuf, PathBuf)>,
    /// The next one is the last.
    files: Vec<File>,
    /// The beginning of a line.
    rest: Vec<u8>,
    since: Timestamp,
    until: u64,
}

impl History {
    /// The next ones, which may be none; `None` at the end. Blocks.
    pub fn read(&mut self) -> Option<Vec<Arc<Happening>>> {
        if let Some((current, older)) = self.places.take() {
            self.files = open(&current, &older, self.since);
        }
        let file = self.files.last_mut()?;
        let begun = self.rest.len();
        self.rest.resize(begun + PIECE, 0);
        let length = file.read(&mut self.rest[begun..]).unwrap_or(0);
        self.rest.truncate(begun + length);
        let whole = match length {
            0 => {
                self.files.pop();
                self.rest.len()
            }
            _ => self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1),
        };
        let lines = self.rest[..whole].split(|byte| *byte == b'\n').filter_map(parse);
        let meant = lines.filter(|one| one.number < self.until && one.happening.at >= self.since);
        let found = meant.map(|one| one.happening).collect();
        self.rest.drain(..whole);
        Some(found)
    }
}
