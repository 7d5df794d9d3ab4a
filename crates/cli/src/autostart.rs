//! Starting the daemon when none answers on the default socket.
//!
//! Only as root, only the `hoyd` that lies beside this program, only in the machine's own mount
//! and network namespaces, and once however many command lines race.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hoy_client::Endpoint;

use crate::failure::{Failure, Result};

const LOCK: &str = "/run/hoy-start.lock";
const LOG: &str = "/var/log/hoyd.log";
/// How long a daemon may take until it answers.
const DEADLINE: Duration = Duration::from_secs(15);

/// Makes sure that somebody listens, or lets the request that follows say that nobody does.
pub fn ensure(endpoint: &Endpoint) -> Result<()> {
    let Endpoint::Unix(socket) = endpoint else { return Ok(()) };
    if listens(socket) || !wanted() {
        return Ok(());
    }
    let Some(program) = beside() else { return Ok(()) };
    let lock =
        OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(LOCK)?;
    wait_for_lock(&lock)?;
    // Whoever held the lock may have started it.
    if listens(socket) {
        return Ok(());
    }
    start(&program, socket)
}

fn listens(socket: &Path) -> bool {
    match UnixStream::connect(socket) {
        Ok(_) => true,
        // Somebody is there, though not for us: the request will say so.
        Err(error) => {
            !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
        }
    }
}

fn wanted() -> bool {
    match std::env::var("HOY_AUTOSTART").as_deref() {
        Ok("0") => false,
        Ok("1") => rustix::process::geteuid().is_root(),
        _ => rustix::process::geteuid().is_root() && on_the_machine_itself(),
    }
}

/// Whether this is no container and no sandbox: a daemon started there would surprise.
fn on_the_machine_itself() -> bool {
    ["mnt", "net"].iter().all(|kind| {
        let of = |who: &str| std::fs::read_link(format!("/proc/{who}/ns/{kind}")).ok();
        match (of("self"), of("1")) {
            (Some(own), Some(first)) => own == first,
            // A first process that not even root may look at: the kernel's own numbers tell.
            (Some(own), None) => is_initial(&own.to_string_lossy()),
            _ => false,
        }
    })
}

/// Whether `net:[4026531833]` is a namespace that the kernel began with: newer kernels number
/// those below all that they make later.
fn is_initial(link: &str) -> bool {
    const FIRST_MADE: u64 = 0xF000_0000;
    let number = link.split(['[', ']']).nth(1).and_then(|text| text.parse::<u64>().ok());
    number.is_some_and(|number| number < FIRST_MADE)
}

fn beside() -> Option<PathBuf> {
    let path = std::env::current_exe().ok()?.parent()?.join("hoyd");
    path.exists().then_some(path)
}

fn wait_for_lock(lock: &File) -> Result<()> {
    let started = Instant::now();
    while rustix::fs::flock(lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
        if started.elapsed() > DEADLINE {
            return Err(Failure::new(format!(
                "another command has been starting hoyd for {} s: see {LOG}",
                DEADLINE.as_secs()
            )));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn start(program: &Path, socket: &Path) -> Result<()> {
    let log = OpenOptions::new().create(true).append(true).mode(0o640).open(LOG)?;
    let old = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    // `setsid` by way of the daemon's own process group: no terminal's signal reaches it.
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("hoy-start")
        .arg(program)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", "/root")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    let child = command.spawn();
    rustix::process::umask(old);
    let mut child =
        child.map_err(|error| Failure::new(format!("start {}: {error}", program.display())))?;
    let started = Instant::now();
    while !listens(socket) {
        if let Some(status) = child.try_wait()? {
            return Err(Failure::new(format!("hoyd ended at its start ({status}): see {LOG}")));
        }
        if started.elapsed() > DEADLINE {
            return Err(Failure::new(format!(
                "hoyd does not answer after {} s: see {LOG}",
                DEADLINE.as_secs()
            )));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// The daemon must not live in the cgroup of a login session.
fn leave_cgroups() {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for line in mounts.lines().filter(|line| line.contains(" - cgroup")) {
        if let Some(root) = line.split(' ').nth(4) {
            // Best effort: a session's limits are a nuisance, no error.
            let _ = std::fs::write(Path::new(root).join("cgroup.procs"), "0");
        }
    }
}

/// The daemon's program: beside this one, else in PATH.
pub fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    beside().or_else(|| {
        std::env::split_paths(&path).map(|folder| folder.join("hoyd")).find(|path| path.is_file())
    })
}

/// A program in a session of its own: what is typed reaches it not.
pub fn become_session(mut words: impl Iterator<Item = std::ffi::OsString>) -> io::Error {
    let Some(program) = words.next() else { return io::ErrorKind::InvalidInput.into() };
    if let Err(error) = rustix::process::setsid() {
        return error.into();
    }
    let error = Command::new(&program).args(words).exec();
    io::Error::new(error.kind(), format!("cannot start {}: {error}", program.display()))
}

/// The step between: a session of its own, then the daemon in this process.
pub fn become_daemon(program: &std::ffi::OsStr) -> io::Error {
    if let Err(error) = rustix::process::setsid() {
        return error.into();
    }
    leave_cgroups();
    Command::new(program).exec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_of_the_beginning() {
        assert!(is_initial("net:[4026531833]"));
        assert!(!is_initial("net:[4026532741]"));
        assert!(!is_initial("net"));
    }
}
