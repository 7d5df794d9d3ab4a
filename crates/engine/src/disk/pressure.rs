//! Pressure: that the disk is about to be full is told before it hurts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::engine::{Inner, host_name};

/// Between two looks.
const LOOK: Duration = Duration::from_secs(3);
/// Short is what has less than this part free, and less than this many bytes.
const PART: u64 = 20;
const BYTES: u64 = 1 << 30;

/// What the file system has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Room {
    pub free: u64,
    pub size: u64,
    pub free_files: u64,
    /// None are counted where this is nothing.
    pub files: u64,
}

impl Room {
    /// Once short it stays so until there is a little more.
    fn is_short(self, was: bool) -> bool {
        let enough = |least: u64| if was { least + least / 4 } else { least };
        self.free < enough((self.size / PART).min(BYTES))
            || self.files > 0 && self.free_files < enough(self.files / PART)
    }
}

/// The last look: what there was, if that is short.
#[derive(Default)]
pub(crate) struct Pressure(Mutex<Option<Room>>);

impl Pressure {
    /// What people are told, if anything.
    pub fn warning(&self) -> Option<String> {
        let room = (*self.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        Some(format!(
            "The disk of the data root is nearly full: {} MB of {} MB and {} of {} files are free \
             (`system prune` makes room)",
            room.free / 1_000_000,
            room.size / 1_000_000,
            room.free_files,
            room.files
        ))
    }

    /// Whether that is news.
    fn set(&self, room: Room) -> Option<bool> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let was = last.is_some();
        let short = room.is_short(was);
        *last = short.then_some(room);
        (short != was).then_some(short)
    }
}

pub(crate) async fn watch(inner: Arc<Inner>) {
    loop {
        let path = inner.store.root().to_owned();
        let found = tokio::task::spawn_blocking(move || rustix::fs::statvfs(&path)).await;
        if let Ok(Ok(found)) = found {
            let room = Room {
                free: found.f_bavail * found.f_frsize,
                size: found.f_blocks * found.f_frsize,
                free_files: found.f_favail,
                files: found.f_files,
            };
            if let Some(short) = inner.pressure.set(room) {
                tell(&inner, room, short);
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn tell(inner: &Inner, room: Room, short: bool) {
    inner.store.hurry(short);
    if let Some(warning) = inner.pressure.warning() {
        tracing::warn!("{warning}");
    }
    let attributes = BTreeMap::from([
        ("name".to_owned(), host_name()),
        ("path".to_owned(), inner.store.root().display().to_string()),
        ("pressure".to_owned(), short.to_string()),
        ("free".to_owned(), room.free.to_string()),
        ("size".to_owned(), room.size.to_string()),
        ("free-files".to_owned(), room.free_files.to_string()),
    ]);
    inner.event("daemon", "disk-pressure", &inner.id, attributes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_it_is_short() {
        let room = |free, size, free_files, files| Room { free, size, free_files, files };
        let gib = 1 << 30;
        assert!(!room(gib, 1000 * gib, 5, 0).is_short(false));
        assert!(room(gib - 1, 1000 * gib, 5, 0).is_short(false));
        assert!(room(gib, 1000 * gib, 5, 0).is_short(true));
        assert!(!room(6, 100, 50, 100).is_short(false) && room(4, 100, 50, 100).is_short(false));
        assert!(room(50, 100, 4, 100).is_short(false));
    }
}
