//! Where it is measured: namespaces of our own for processes, mounts and networks, so that the
//! kernel itself ends and takes back what the engines made, however the benchmark ends. Outside
//! remain one temporary directory and cgroups, which are removed here.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::signal::unix::{SignalKind, signal};

const WORK: &str = "HOY_BENCH_WORK";
const CGROUP: &str = "HOY_BENCH_CGROUP";
const CGROUPS: &str = "/sys/fs/cgroup";
/// `TMPFS_MAGIC` of linux/magic.h.
const TMPFS: u64 = 0x0102_1994;

/// What the first process inside does. It stays, as the parent of orphans.
///
/// Debian's crun refuses to run where cgroup v2 is mounted beside v1: it is hidden from all alike.
/// Engines write below /etc, /opt, /run, /dev/shm and /var/lib whatever roots they are given:
/// dockerd a key, containerd its plugins' directory, podman its locks, runc its states.
const SCRIPT: &str = r#"
if mountpoint -q /sys/fs/cgroup/unified && [ -e /sys/fs/cgroup/memory ]; then umount /sys/fs/cgroup/unified; fi
mkdir "$HOY_BENCH_WORK/over"
mount -t tmpfs none "$HOY_BENCH_WORK/over"
for d in etc opt var/lib; do
    o="$HOY_BENCH_WORK/over/$d"
    if [ -d "/$d" ]; then
        mkdir -p "$o/upper" "$o/work"
        mount -t overlay none -o "lowerdir=/$d,upperdir=$o/upper,workdir=$o/work" "/$d"
    fi
done
mount -t tmpfs none /run
mount -t tmpfs none /dev/shm
mkdir -p /run/netns /run/lock
"$0" "$@"
exit $?
"#;

/// The place, seen from inside.
#[derive(Debug)]
pub struct Place {
    /// A directory for everything.
    pub work: PathBuf,
    /// The name of a cgroup, at the root of every hierarchy.
    pub cgroup: String,
}

pub fn inside() -> Option<Place> {
    let work = std::env::var_os(WORK)?.into();
    Some(Place { work, cgroup: std::env::var(CGROUP).ok()? })
}

/// Runs this program inside and cleans up after it.
pub fn enter(args: &[String]) -> Result<ExitCode> {
    ensure!(rustix::process::geteuid().is_root(), "the benchmark needs root");
    let work = tempfile::Builder::new().prefix("hoy-bench-").tempdir()?;
    let cgroup = format!("hoybench-{}", std::process::id());
    let before = children(Path::new(CGROUPS));
    // Even where this process has no chance to end it, it ends.
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "unshare"])
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(["--propagation", "private", "sh", "-ec", SCRIPT])
        .arg(std::env::current_exe()?)
        .args(args)
        .env(WORK, work.path())
        .env(CGROUP, &cgroup)
        .stdin(Stdio::null());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let code = runtime.block_on(wait(command));
    take_back(&cgroup, &before);
    work.close().context("remove the temporary directory")?;
    code
}

/// Waits for the end; at a signal, makes it.
async fn wait(mut command: Command) -> Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut child = command.spawn().context("setpriv and unshare (of util-linux)")?;
    loop {
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            _ = hangup.recv() => break,
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
        if let Some(status) = child.try_wait()? {
            let code = status.code().and_then(|code| u8::try_from(code).ok());
            return Ok(ExitCode::from(code.unwrap_or(1)));
        }
    }
    // Its child, the first process of the namespace, dies with it, and with that one all others.
    child.kill()?;
    child.wait()?;
    crate::note("bench: interrupted");
    Ok(ExitCode::from(130))
}

/// Removes the cgroups. The killed processes may still be on their way out.
fn take_back(cgroup: &str, before: &BTreeSet<PathBuf>) {
    for _ in 0..100 {
        let mut left = false;
        for path in children(Path::new(CGROUPS)).into_iter().chain([PathBuf::from(CGROUPS)]) {
            let below = path.join(cgroup);
            if path != Path::new(CGROUPS) && is_tmpfs(&path) {
                // No hierarchy: podman makes plain directories for controllers that are not there.
                let _ = std::fs::remove_dir_all(&below);
                if !before.contains(&path) {
                    let _ = std::fs::remove_dir(&path);
                }
            } else {
                remove(&below);
            }
            left |= below.exists();
        }
        if !left {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    crate::note(&format!("bench: cgroups named {cgroup} are still in use and were left"));
}

fn is_tmpfs(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|found| u64::try_from(found.f_type) == Ok(TMPFS))
}

fn children(path: &Path) -> BTreeSet<PathBuf> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn remove(path: &Path) {
    for child in children(path) {
        remove(&child);
    }
    let _ = std::fs::remove_dir(path);
}
