//! What a peer costs: processor time by a cgroup that holds all its processes, memory by what
//! belongs to a process alone.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// One peer's cgroup; whatever is started from inside is counted.
#[derive(Debug)]
pub struct Account {
    directory: PathBuf,
}

fn root() -> PathBuf {
    ["/sys/fs/cgroup/cpuacct", "/sys/fs/cgroup/cpu,cpuacct"]
        .into_iter()
        .map(PathBuf::from)
        .find(|path| path.join("cgroup.procs").exists())
        .unwrap_or_else(|| "/sys/fs/cgroup".into())
}

impl Account {
    pub fn open(name: &str) -> Result<Self> {
        Self::at(&format!("hoybench/{name}"))
    }

    /// One that somebody else has begun.
    pub fn at(path: &str) -> Result<Self> {
        let directory = root().join(path);
        std::fs::create_dir_all(directory.join("cli"))
            .with_context(|| format!("create {}", directory.display()))?;
        Ok(Self { directory })
    }

    /// Moves this process in: its children are counted from now on.
    pub fn enter(&self) -> Result<()> {
        std::fs::write(self.directory.join("cli/cgroup.procs"), "0").context("enter a cgroup")
    }

    /// Milliseconds so far.
    pub fn usage(&self) -> f64 {
        let read = |name: &str| std::fs::read_to_string(self.directory.join(name)).ok();
        if let Some(text) = read("cpuacct.usage") {
            return text.trim().parse::<f64>().unwrap_or(0.0) / 1e6;
        }
        let text = read("cpu.stat").unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
        line.and_then(|usec| usec.parse::<f64>().ok()).unwrap_or(0.0) / 1e3
    }
}

/// Leaves and removes all cgroups of the benchmark, in every hierarchy.
pub fn clean() {
    let _ = std::fs::write(root().join("cgroup.procs"), "0");
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    for path in hierarchies.map(|entry| entry.path()).chain([PathBuf::from("/sys/fs/cgroup")]) {
        remove(&path.join("hoybench"));
        remove(&path.join("peerbench"));
    }
}

fn remove(path: &Path) {
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    let _ = std::fs::remove_dir(path);
}

/// KiB of memory that no other process shares, of each process of one of these names in our
/// network namespace.
pub fn private_memory(names: &[&str]) -> Vec<u64> {
    let own = std::fs::read_link("/proc/self/ns/net").ok();
    let mut out = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let path = entry.path();
        let command = std::fs::read(path.join("cmdline")).unwrap_or_default();
        let program = command.split(|byte| *byte == 0).next().unwrap_or_default();
        let program = String::from_utf8_lossy(program);
        let name = program.rsplit('/').next().unwrap_or_default();
        if !names.contains(&name) || std::fs::read_link(path.join("ns/net")).ok() != own {
            continue;
        }
        let rollup = std::fs::read_to_string(path.join("smaps_rollup")).unwrap_or_default();
        let sum = rollup
            .lines()
            .filter(|line| line.starts_with("Private_Clean:") || line.starts_with("Private_Dirty:"))
            .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
            .sum();
        out.push(sum);
    }
    out
}
