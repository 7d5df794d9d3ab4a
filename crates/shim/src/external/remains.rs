//! What an external runtime's container leaves in the exec root, and taking it back without its
//! supervisor.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::call::{Runtime, STATE};

/// A runtime that is asked to take everything back.
const DELETE: Duration = Duration::from_secs(10);

fn all(exec_root: &Path) -> PathBuf {
    exec_root.join("runtimes")
}

/// The directory of one container. It is only there while a runtime other than the built-in one
/// has it.
pub fn place(exec_root: &Path, id: &str) -> PathBuf {
    all(exec_root).join(id)
}

/// The containers of which something is there.
pub fn list(exec_root: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(all(exec_root)).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// For the daemon, once a container's supervisor is gone and its processes are ended: the runtime
/// forgets it, and its files are removed.
pub fn take_back(exec_root: &Path, id: &str) {
    take_back_of(&place(exec_root, id), id);
}

pub(super) fn take_back_of(place: &Path, id: &str) {
    if !place.exists() {
        return;
    }
    if let Some(runtime) = Runtime::noted(place)
        && place.join(STATE).join(id).exists()
    {
        let mut command = runtime.command(&["delete", "--force"]);
        let streams = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Ok(mut child) = streams.spawn() {
            let begun = Instant::now();
            while matches!(child.try_wait(), Ok(None)) {
                if begun.elapsed() >= DELETE {
                    let _ = child.kill();
                    let _ = child.wait();
                    break;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
    remove(place);
}

/// Removes the files. Never what is mounted: a directory that is not empty stays.
pub(super) fn remove(place: &Path) {
    let _ = std::fs::remove_dir_all(place.join(STATE));
    for entry in std::fs::read_dir(place.join("mounts")).into_iter().flatten().flatten() {
        shallow(&entry.path());
    }
    for entry in std::fs::read_dir(place).into_iter().flatten().flatten() {
        shallow(&entry.path());
    }
    let _ = std::fs::remove_dir(place);
}

fn shallow(path: &Path) {
    if std::fs::remove_dir(path).is_err() {
        let _ = std::fs::remove_file(path);
    }
}
