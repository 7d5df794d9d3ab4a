//! The trash: what was removed is deleted behind the answer, by one worker.
//!
//! The directory itself is the queue: what lies in it is to be deleted, now or by the next daemon.
//! The worker yields to everybody else, and no longer once the disk is short.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use crate::{Result, delete, io_error};

/// What could not be deleted is tried again this often: something was mounted in it, perhaps.
const AGAIN: Duration = Duration::from_secs(3600);
/// Files between two pauses, and how long those are.
const STEP: u32 = 512;
const PAUSE: Duration = Duration::from_millis(2);
/// Below everybody who works for an answer.
const NICE: i32 = 15;

/// The worker's bell.
pub(crate) struct Trash {
    bell: SyncSender<()>,
    hurry: Arc<AtomicBool>,
}

impl Trash {
    /// Starts the worker on whatever lies there.
    pub fn open(directory: PathBuf) -> Result<Self> {
        // One ring says as much as many.
        let (bell, rings) = sync_channel(1);
        let hurry = Arc::new(AtomicBool::new(false));
        let hurries = Arc::clone(&hurry);
        let failed = io_error("start the worker for", &directory);
        std::thread::Builder::new()
            .name("trash".into())
            .spawn(move || serve(&directory, &rings, &hurries))
            .map_err(failed)?;
        let trash = Self { bell, hurry };
        trash.ring();
        Ok(trash)
    }

    /// Something has come.
    pub fn ring(&self) {
        let _ = self.bell.try_send(());
    }

    /// Whether to delete without pauses.
    pub fn hurry(&self, hurry: bool) {
        self.hurry.store(hurry, Ordering::Relaxed);
        if hurry {
            self.ring();
        }
    }
}

fn serve(directory: &Path, rings: &Receiver<()>, hurry: &AtomicBool) {
    // On Linux this is about the thread alone.
    let _ = rustix::process::setpriority_process(None, NICE);
    let mut stuck = HashSet::new();
    loop {
        match rings.recv_timeout(AGAIN) {
            Ok(()) => {}
            Err(RecvTimeoutError::Timeout) => stuck.clear(),
            Err(RecvTimeoutError::Disconnected) => return,
        }
        while drain(directory, hurry, &mut stuck) {}
    }
}

/// Deletes what lies there; true if there was something.
fn drain(directory: &Path, hurry: &AtomicBool, stuck: &mut HashSet<OsString>) -> bool {
    let mut files = 0;
    let mut pace = || {
        files += 1;
        if files % STEP == 0 && !hurry.load(Ordering::Relaxed) {
            std::thread::sleep(PAUSE);
        }
    };
    let mut found = false;
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if stuck.contains(&entry.file_name()) {
            continue;
        }
        found = true;
        let path = entry.path();
        if let Err(error) = delete::delete(&path, &mut pace) {
            tracing::warn!(path = %path.display(), %error, "delete");
            stuck.insert(entry.file_name());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_is_the_queue() {
        let room = tempfile::tempdir().unwrap();
        let empty = || room.path().read_dir().unwrap().next().is_none();
        let wait = || {
            while !empty() {
                std::thread::sleep(PAUSE);
            }
        };
        // From before the worker.
        std::fs::create_dir_all(room.path().join("a/b/c")).unwrap();
        let trash = Trash::open(room.path().to_owned()).unwrap();
        wait();
        for number in 0..2000 {
            std::fs::write(room.path().join(number.to_string()), "x").unwrap();
        }
        trash.hurry(true);
        wait();
    }
}
