//! What an attack is tried on: a daemon of one build, and a canary outside of every container.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hoy_testkit::{Daemon, Output, Run};

/// As in the crate `hoy-weak`, which is not asked: the real programs must not know it.
pub const VARIABLE: &str = concat!("HOY_WITHOUT", "_PROTECTION");

pub struct Side {
    pub daemon: Daemon,
    /// A directory of the host that nobody may touch.
    pub canary: PathBuf,
    before: Vec<String>,
    /// This daemon's own copy of the supervisor's program.
    pub shim: PathBuf,
    pub weakened: bool,
}

impl Side {
    /// A daemon with an image `busybox`, from programs in a directory of its own.
    pub fn new(programs: &Path, without: &str) -> Self {
        let mut daemon = Daemon::prepare(&[]);
        let own = daemon.path("programs");
        std::fs::create_dir(&own).unwrap();
        for name in ["hoyd", "hoy-init"] {
            if std::fs::hard_link(programs.join(name), own.join(name)).is_err() {
                std::fs::copy(programs.join(name), own.join(name)).unwrap();
            }
        }
        let shim = own.join("hoy-shim");
        std::fs::copy(programs.join("hoy-shim"), &shim).unwrap();
        daemon.use_programs(own);
        daemon.set("CANARY_OF_THE_DAEMON", "sings");
        if !without.is_empty() {
            daemon.set(VARIABLE, without);
        }
        daemon.launch();
        let daemon = daemon.with_busybox();
        let canary = daemon.path("canary");
        std::fs::create_dir(&canary).unwrap();
        std::fs::write(canary.join("file"), "untouched").unwrap();
        let before = listing(&canary);
        Self { daemon, canary, before, shim, weakened: !without.is_empty() }
    }

    /// The canary's path as an image would see it if it could climb.
    pub fn climbing(&self) -> String {
        format!("{}{}", "../".repeat(16), self.canary().trim_start_matches('/'))
    }

    pub fn canary(&self) -> String {
        self.canary.display().to_string()
    }

    /// Whether the canary is as it was: names, contents, inodes, owners, modes and times.
    pub fn untouched(&self) -> Result<(), String> {
        let now = listing(&self.canary);
        if now == self.before {
            return Ok(());
        }
        let names = now.iter().map(|line| line.split(' ').next().unwrap_or(""));
        Err(format!("outside there is now: {}", names.collect::<Vec<_>>().join(" ")))
    }

    /// `hoy run --rm ARGS`.
    pub fn run(&self, args: &[&str]) -> Output {
        self.daemon.hoy(&["run", "--rm"]).args(args).run()
    }

    /// A shell line in a container of busybox, which must succeed.
    pub fn sh(&self, options: &[&str], line: &str) -> String {
        let args = [options, &["busybox", "sh", "-c", line]].concat();
        self.run(&args).ok().to_owned()
    }

    /// A container in the background; its id.
    pub fn start(&self, args: &[&str]) -> String {
        self.daemon.hoy(&["run", "-d"]).args(args).run().ok().trim().to_owned()
    }

    /// A directory of the host, to be mounted.
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.daemon.path(name);
        std::fs::create_dir(&path).unwrap();
        path
    }

    pub fn import(&self, name: &str, script: &str, changes: &[&str]) {
        hoy_e2e::import(&self.daemon, name, script, changes);
    }

    /// How long a race lasts.
    pub fn race(&self) -> Duration {
        let seconds = std::env::var("HOY_ATTACK_SECONDS").ok();
        let seconds = seconds.and_then(|text| text.parse().ok()).unwrap_or(4);
        // The control is over when it has succeeded.
        Duration::from_secs(if self.weakened { 40.max(seconds) } else { seconds })
    }
}

/// A refused start and one that ran are both fine; a program that failed inside is not expected.
pub fn ran_or_refused(output: &Output) {
    assert!(output.code == Some(0) || output.code >= Some(125), "{output:?}");
}

/// The host's perl in a container: it can make any system call.
pub const PERL: &[&str] = &["-v", "/usr:/usr:ro", "-v", "/lib:/lib:ro", "-v", "/lib64:/lib64:ro"];

fn listing(directory: &Path) -> Vec<String> {
    let mut out = Vec::new();
    walk(directory, directory, &mut out);
    out.sort();
    out
}

fn walk(base: &Path, path: &Path, out: &mut Vec<String>) {
    let stat = std::fs::symlink_metadata(path).unwrap();
    let name = path.strip_prefix(base).unwrap().display().to_string();
    let text = if stat.is_file() { std::fs::read(path).unwrap_or_default() } else { Vec::new() };
    out.push(format!(
        "./{name} {} {:o} {}:{} {} {} {}.{} {}",
        stat.ino(),
        stat.mode(),
        stat.uid(),
        stat.gid(),
        stat.nlink(),
        stat.rdev(),
        stat.mtime(),
        stat.mtime_nsec(),
        String::from_utf8_lossy(&text)
    ));
    if stat.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            walk(base, &entry.unwrap().path(), out);
        }
    }
}

/// The value of a line of /proc/PID/status.
pub fn status(pid: u32, name: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_default().trim().to_owned()
}

/// A shell line on the host, which must succeed.
pub fn host_sh(line: &str) -> String {
    Run::new("sh").args(["-ec", line]).run().ok().to_owned()
}
