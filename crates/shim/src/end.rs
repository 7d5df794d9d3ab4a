//! What a supervisor has seen of a container's end beyond its code: for who asks why.
//!
//! Written beside the exit record, at the end alone; nothing of it is needed for anything else.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

const NAME: &str = "end.json";
/// Requests for signals that are remembered.
const ASKED: usize = 8;
/// No record is larger.
const LARGEST: u64 = 64 << 10;

/// A container's end. Times are nanoseconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndRecord {
    /// The same as in the exit record that this belongs to; none while it runs.
    pub finished_at: i64,
    /// What the first process was ended by; `None` for one that has left by itself.
    pub signal: Option<i32>,
    /// Signals that the daemon has asked for, oldest first.
    pub asked: VecDeque<Asked>,
    /// What ran when the kernel was short of memory for it, the largest first.
    pub tasks: Vec<Task>,
    pub memory_peak: Option<u64>,
    /// How often the limit of processes was in the way of a new one.
    pub pids_refused: u64,
    /// What was free in its writable layer.
    pub room: Option<Room>,
}

/// A signal that the daemon was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Asked {
    pub signal: i32,
    /// To every process of it.
    pub all: bool,
    pub at: i64,
}

/// A process, as the machine counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Task {
    pub pid: i32,
    pub name: String,
    /// Bytes in memory.
    pub rss: u64,
    /// The kernel has ended it.
    pub killed: bool,
}

/// What is free on a file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Room {
    pub bytes: u64,
    pub inodes: u64,
    /// All that there are; none where the file system does not count them.
    pub all_inodes: u64,
}

impl Room {
    /// Of the file system that a directory of ours is on.
    pub fn at(directory: &Path) -> Option<Self> {
        let found = rustix::fs::statvfs(directory).ok()?;
        Some(Self {
            bytes: found.f_bavail.saturating_mul(found.f_frsize),
            inodes: found.f_favail,
            all_inodes: found.f_files,
        })
    }
}

impl EndRecord {
    pub(crate) fn ask(&mut self, signal: i32, all: bool, at: i64) {
        if self.asked.len() >= ASKED {
            self.asked.pop_front();
        }
        self.asked.push_back(Asked { signal, all, at });
    }

    /// Writes it whole or not at all.
    pub(crate) fn write(&self, directory: &Path) -> io::Result<()> {
        let fresh = directory.join(".end.new");
        let mut file = File::create(&fresh)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        drop(file);
        std::fs::rename(fresh, directory.join(NAME))
    }

    /// What is known of the end of a container that has ended.
    pub fn read(directory: &Path) -> Option<Self> {
        let mut bytes = Vec::new();
        let file = File::open(directory.join(NAME)).ok()?;
        file.take(LARGEST).read_to_end(&mut bytes).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Forgets the record of an earlier run.
    pub(crate) fn clear(directory: &Path) {
        let _ = std::fs::remove_file(directory.join(NAME));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_requests_are_remembered() {
        let mut end = EndRecord::default();
        (0..20).for_each(|number| end.ask(number, false, 0));
        assert_eq!(end.asked.len(), ASKED);
        assert_eq!(end.asked.back().map(|asked| asked.signal), Some(19));
    }

    #[test]
    fn what_is_not_said_is_not_known() {
        let end: EndRecord = serde_json::from_str("{\"signal\":9,\"later\":1}").unwrap();
        assert_eq!(end, EndRecord { signal: Some(9), ..EndRecord::default() });
    }
}
